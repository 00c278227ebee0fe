//! The MSI frame of a GICv2 on the bench (Server Base System Architecture, appendix E).

use hw_intc::gicv2m::CLASS;
use testbench::Bench;

const TYPER: u64 = 0x008;
const SETSPI: u64 = 0x040;
const IIDR: u64 = 0xfcc;

#[test]
fn a_message_pulses_its_interrupt() {
    let b = Bench::of(&CLASS, "base-spi=48,num-spi=4");
    assert_eq!([b.read32(TYPER), b.read32(SETSPI)], [80 << 16 | 4, 0]);
    assert_eq!(b.read32(IIDR), 0x0510_0000);
    b.write32(SETSPI, 80);
    b.write32(SETSPI, 83);
    assert_eq!(b.lines().take_log(), [(0, true), (0, false), (3, true), (3, false)]);
    // 48 is an SPI, not an interrupt number; the others are another frame's.
    for other in [48, 79, 84, u32::MAX] {
        b.write32(SETSPI, other);
    }
    b.write32(0x44, 80);
    assert!(b.lines().take_log().is_empty());
}

#[test]
fn more_interrupts_than_a_gic_has_are_refused() {
    assert!(Bench::try_of(&CLASS, "base-spi=900,num-spi=100").is_err());
}
