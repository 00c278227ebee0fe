//! PL031 on the bench, from DDI 0224C.

use hw_timer::pl031::CLASS;
use testbench::Bench;

const SECOND: u64 = 1_000_000_000;

fn bench() -> Bench {
    let b = Bench::of(&CLASS, "");
    b.set_wall(1_700_000_000);
    b
}

#[test]
fn counts_wall_seconds_and_can_be_loaded() {
    let b = bench();
    assert_eq!(b.read32(0), 1_700_000_000);
    b.advance(5 * SECOND);
    assert_eq!(b.read32(0), 1_700_000_005);
    b.write32(8, 1000);
    assert_eq!((b.read32(0), b.read32(8)), (1000, 1000));
    b.advance(2 * SECOND);
    assert_eq!(b.read32(0), 1002);
    assert_eq!(b.read32(0xc), 1);
    let id: Vec<u8> = (0..8).map(|i| b.read8(0xfe0 + 4 * i)).collect();
    assert_eq!(id, [0x31, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn match_interrupts_when_unmasked() {
    let b = bench();
    b.write32(4, 1_700_000_003);
    b.write32(0x10, 1);
    b.advance(2 * SECOND);
    assert!(!b.irq(0));
    b.advance(SECOND);
    assert!(b.irq(0));
    assert_eq!((b.read32(0x14), b.read32(0x18)), (1, 1));
    b.write32(0x1c, 1);
    assert!(!b.irq(0));
    b.advance(SECOND);
    assert!(!b.irq(0));
}

#[test]
fn alarm_survives_save_and_load() {
    let b = bench();
    b.write32(0x10, 1);
    b.write32(4, 1_700_000_010);
    let state = b.save();
    let c = bench();
    c.load(&state).unwrap();
    assert_eq!(c.save(), state);
    c.advance(10 * SECOND);
    assert!(c.irq(0));
    c.reset();
    assert!(!c.irq(0));
    assert!(c.load(&state[1..]).is_err());
}
