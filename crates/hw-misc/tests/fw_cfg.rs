//! fw_cfg on the bench, from its specification.

use std::sync::Arc;

use device::FirmwareConfig;
use hw_misc::fw_cfg::CLASS;
use testbench::{BANK, Bench, RAM_BASE, RAM_SIZE};

const CTL: u64 = 0;
const DATA: u64 = BANK;
const DMA: u64 = 2 * BANK;

fn bench() -> Bench {
    let b = Bench::of(&CLASS, "");
    let f: Arc<dyn FirmwareConfig> = b.record.ability().unwrap();
    f.set_item(5, vec![2, 0]);
    f.set_file("opt/b", b"bytes".to_vec()).unwrap();
    f.set_file("opt/a", vec![7; 10_000]).unwrap();
    b
}

/// The selector is big-endian; the bench is a little-endian guest.
fn select(b: &Bench, key: u16) {
    b.write16(CTL, key.swap_bytes());
}

/// Runs a DMA and returns the control word afterwards.
fn dma(b: &Bench, control: u32, length: u32, address: u64) -> u32 {
    let mut d = control.to_be_bytes().to_vec();
    d.extend(length.to_be_bytes());
    d.extend(address.to_be_bytes());
    b.put_ram(0x100, &d);
    b.write64(DMA, (RAM_BASE + 0x100).swap_bytes());
    u32::from_be_bytes(b.get_ram(0x100, 4).try_into().unwrap())
}

#[test]
fn items_read_byte_by_byte_and_end_in_zeroes() {
    let b = bench();
    select(&b, 0);
    assert_eq!([(); 4].map(|()| b.read8(DATA)), *b"QEMU");
    assert_eq!(b.read8(DATA), 0);
    select(&b, 1);
    assert_eq!(b.read32(DATA), 3);
    select(&b, 5);
    assert_eq!(b.read16(DATA), 2);
    select(&b, 0x7777);
    assert_eq!(b.read64(DATA), 0);
}

#[test]
fn directory_lists_files_by_name() {
    let b = bench();
    select(&b, 0x19);
    assert_eq!(b.read32(DATA).swap_bytes(), 2);
    assert_eq!(b.read32(DATA).swap_bytes(), 10_000);
    assert_eq!(b.read16(DATA).swap_bytes(), 0x20);
    assert_eq!(b.read16(DATA), 0);
    let name: Vec<u8> = (0..56).map(|_| b.read8(DATA)).collect();
    assert_eq!(&name[..6], b"opt/a\0");
    assert_eq!(b.read32(DATA).swap_bytes(), 5);
    select(&b, 0x21);
    assert_eq!([(); 5].map(|()| b.read8(DATA)), *b"bytes");
}

#[test]
fn dma_selects_skips_and_reads_across_chunks() {
    let b = bench();
    assert_eq!(b.read64(DMA).swap_bytes(), 0x5145_4d55_2043_4647);
    assert_eq!(dma(&b, 0x21 << 16 | 8 | 4, 2, 0), 0);
    assert_eq!(dma(&b, 2, 4, RAM_BASE + 0x1000), 0);
    assert_eq!(b.get_ram(0x1000, 4), b"tes\0");
    assert_eq!(dma(&b, 0x20 << 16 | 8 | 2, 9_999, RAM_BASE + 0x1001), 0);
    assert_eq!(b.get_ram(0x1001, 9_999), vec![7; 9_999]);
    // Two 32-bit writes do as well as one of 64.
    b.put_ram(0x100, &[0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let at = RAM_BASE + 0x100;
    b.write32(DMA, u32::try_from(at >> 32).unwrap().swap_bytes());
    b.write32(DMA + 4, u32::try_from(at & 0xffff_ffff).unwrap().swap_bytes());
    assert_eq!(b.get_ram(0x100, 4), [0; 4]);
}

#[test]
fn broken_dma_reports_errors_and_does_no_harm() {
    let b = bench();
    assert_eq!(dma(&b, 0x20 << 16 | 8 | 2, u32::MAX, RAM_BASE + RAM_SIZE - 8), 1);
    assert_eq!(dma(&b, 2, 16, u64::MAX - 3), 1);
    assert_eq!(dma(&b, 16, 4, RAM_BASE), 1, "items are read-only");
    assert_eq!(dma(&b, 2, 8, DATA), 0, "into the data register: ignored");
    assert_eq!(dma(&b, 2, 8, DMA), 1, "into itself: refused");
    assert_eq!(dma(&b, 4, u32::MAX, 0), 0);
    assert_eq!(dma(&b, 4, u32::MAX, 0), 0);
    assert_eq!(b.read64(DATA), 0);
    for at in [0, 1, u64::MAX, RAM_BASE + RAM_SIZE - 3, DATA, DMA] {
        b.write64(DMA, at.swap_bytes());
    }
}

#[test]
fn files_have_limits() {
    assert!(Bench::try_of(&CLASS, "x-file-slots=3").is_err());
    let b = Bench::of(&CLASS, "x-file-slots=16,dma_enabled=off");
    let f: Arc<dyn FirmwareConfig> = b.record.ability().unwrap();
    assert!(f.set_file("", vec![]).is_err());
    assert!(f.set_file(&"x".repeat(56), vec![]).is_err());
    for i in 0..16 {
        f.set_file(&format!("f{i}"), vec![]).unwrap();
    }
    assert!(f.set_file("one more", vec![]).is_err());
    select(&b, 1);
    assert_eq!(b.read32(DATA), 1);
    assert_eq!(b.record.regions.len(), 2);
}

#[test]
fn position_survives_save_and_load() {
    let b = bench();
    select(&b, 0);
    let _ = b.read16(DATA);
    let state = b.save();
    b.reset();
    b.load(&state).unwrap();
    assert_eq!(b.read8(DATA), b'M');
}
