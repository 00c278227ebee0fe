//! PL061 and the key on it, from the bench.

use hw_misc::{gpio_key, pl061};
use testbench::Bench;

const DIR: u64 = 0x400;
const IS: u64 = 0x404;
const IBE: u64 = 0x408;
const IEV: u64 = 0x40c;
const IE: u64 = 0x410;
const RIS: u64 = 0x414;
const MIS: u64 = 0x418;
const IC: u64 = 0x41c;

fn bench() -> Bench {
    Bench::of(&pl061::CLASS, "pullups=0,pulldowns=255")
}

#[test]
fn data_accesses_are_masked_by_the_address() {
    let b = bench();
    b.write32(DIR, 0xf0);
    b.write32(0x3fc, 0xff);
    assert_eq!(b.read32(0x3fc), 0xf0, "only outputs take the value");
    b.write32(0x10 << 2, 0);
    assert_eq!(b.read32(0x3fc), 0xe0, "only the masked line changed");
    assert_eq!(b.read32(0x40 << 2), 0x40);
    assert!(b.irq_named("gpio7") && !b.irq_named("gpio4"));
}

#[test]
fn edges_latch_until_cleared() {
    let b = bench();
    b.write32(IEV, 1 << 3);
    b.write32(IE, 1 << 3);
    b.drive("gpio", 3, true);
    assert!(b.irq(0) && b.read32(MIS) == 8 && b.read32(0x3fc) == 8);
    b.drive("gpio", 3, false);
    assert!(b.irq(0), "the other edge does not clear it");
    b.write32(IC, 8);
    assert!(!b.irq(0));
    b.drive("gpio", 3, true);
    b.write32(IC, 8);
    b.write32(IBE, 8);
    b.drive("gpio", 3, false);
    assert_eq!(b.read32(RIS), 8, "both edges count");
}

#[test]
fn levels_follow_the_line_and_outputs_do_not_interrupt() {
    let b = bench();
    b.write32(IS, 2);
    b.write32(IEV, 2);
    b.write32(IE, 2);
    b.drive("gpio", 1, true);
    assert!(b.irq(0));
    b.write32(IC, 2);
    assert!(b.irq(0), "a level cannot be cleared");
    b.drive("gpio", 1, false);
    assert!(!b.irq(0));
    b.drive("gpio", 1, true);
    b.write32(DIR, 2);
    assert!(!b.irq(0));
}

#[test]
fn identification_and_pulls() {
    let b = Bench::of(&pl061::CLASS, "");
    assert_eq!(b.read32(0x3fc), 0xff);
    assert_eq!([0xfe0, 0xfe4, 0xfe8, 0xff0].map(|at| b.read32(at)), [0x61, 0x10, 4, 0x0d]);
    assert!(Bench::try_of(&pl061::CLASS, "pullups=1,pulldowns=1").is_err());
    assert!(Bench::try_of(&pl061::CLASS, "pullups=256").is_err());
}

#[test]
fn a_press_lasts_a_tenth_of_a_second() {
    let b = Bench::of(&gpio_key::CLASS, "");
    b.drive("key", 0, true);
    assert!(b.irq(0));
    b.advance(99_999_999);
    assert!(b.irq(0));
    b.advance(1);
    assert!(!b.irq(0));
}
