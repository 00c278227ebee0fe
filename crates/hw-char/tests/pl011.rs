//! PL011 on the bench, from DDI 0183G.

use device::CharEvent;
use hw_char::pl011::CLASS;
use testbench::Bench;

const DR: u64 = 0;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;

fn bench() -> Bench {
    let b = Bench::of(&CLASS, "chardev=c0");
    b.write32(CR, 0x301);
    b
}

#[test]
fn reset_values_are_those_of_the_manual() {
    let b = Bench::of(&CLASS, "");
    for (at, value) in [(FR, 0x90), (CR, 0x300), (0x34, 0x12), (RIS, 0), (LCR_H, 0), (0x999, 0)] {
        assert_eq!(b.read32(at & !3), value, "{at:#x}");
    }
    let id: Vec<u8> = (0..8).map(|i| b.read8(0xfe0 + 4 * i)).collect();
    assert_eq!(id, [0x11, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn written_byte_is_sent_and_raises_the_transmit_interrupt() {
    let b = bench();
    b.write32(IMSC, 1 << 5);
    b.write8(DR, b'x');
    assert_eq!(b.chardev("c0").sent(), b"x");
    assert!(b.irq(0) && b.irq(2) && !b.irq(1));
    assert_eq!(b.read32(MIS), 1 << 5);
    b.write32(ICR, 1 << 5);
    assert!(!b.irq(0));
}

#[test]
fn without_fifo_one_byte_is_taken_at_a_time() {
    let b = bench();
    b.write32(IMSC, 1 << 4);
    b.chardev("c0").type_in(b"ab");
    assert_eq!(b.chardev("c0").waiting(), 1);
    assert_eq!(b.read32(FR) & 0x50, 0x40);
    assert!(b.irq(0) && b.irq(1));
    assert_eq!(b.read32(DR), u32::from(b'a'));
    assert!(b.irq(0), "the second byte is there at once");
    assert_eq!(b.read32(DR), u32::from(b'b'));
    assert!(!b.irq(0));
    assert_eq!(b.read32(FR) & 0x50, 0x10);
}

#[test]
fn fifo_takes_sixteen_bytes_and_is_flushed_by_a_mode_change() {
    let b = bench();
    b.write32(LCR_H, 0x70);
    b.chardev("c0").type_in(&[7; 20]);
    assert_eq!(b.chardev("c0").waiting(), 4);
    assert_eq!(b.read32(FR) & 0x50, 0x40);
    b.write32(LCR_H, 0x60);
    assert_eq!(b.chardev("c0").waiting(), 3);
}

#[test]
fn break_shows_in_data_and_status() {
    let b = bench();
    b.chardev("c0").event(CharEvent::Break);
    assert_eq!(b.read32(RIS) & 0x210, 0x210);
    assert_eq!(b.read32(DR), 0x400);
    assert_eq!(b.read32(4), 4);
    b.write32(4, 0);
    assert_eq!(b.read32(4), 0);
}

#[test]
fn loopback_returns_data_and_modem_lines() {
    let b = bench();
    b.write32(CR, 0x381 | 1 << 11);
    b.write32(DR, u32::from(b'q'));
    assert!(b.chardev("c0").sent().is_empty());
    assert_eq!(b.read32(FR) & 0x11, 1);
    assert_eq!(b.read32(RIS) & 2, 2);
    assert_eq!(b.read32(DR), u32::from(b'q'));
}

#[test]
fn state_survives_save_and_load_with_its_interrupt() {
    let b = bench();
    b.write32(IMSC, 1 << 4);
    b.write32(LCR_H, 0x70);
    b.chardev("c0").type_in(b"hey");
    let state = b.save();
    let c = Bench::of(&CLASS, "chardev=c0");
    c.load(&state).unwrap();
    assert_eq!(c.save(), state);
    assert!(c.irq(0));
    assert_eq!(c.read32(DR), u32::from(b'h'));
    b.reset();
    assert!(!b.irq(0));
    assert!(c.load(&state[..state.len() / 2]).is_err());
}
