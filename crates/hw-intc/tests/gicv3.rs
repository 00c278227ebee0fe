//! GICv3 on the bench, from IHI 0069.

use std::sync::Arc;

use cpu::{SysRegCx, SystemRegisters, encoding};
use device::{IrqController, Size, TxAttrs};
use hw_intc::gicv3::CLASS;
use testbench::{BANK, Bench, Lines};

const PMR: u16 = encoding(3, 0, 4, 6, 0);
const IAR0: u16 = encoding(3, 0, 12, 8, 0);
const EOIR0: u16 = encoding(3, 0, 12, 8, 1);
const IAR1: u16 = encoding(3, 0, 12, 12, 0);
const EOIR1: u16 = encoding(3, 0, 12, 12, 1);
const HPPIR1: u16 = encoding(3, 0, 12, 12, 2);
const BPR1: u16 = encoding(3, 0, 12, 12, 3);
const CTLR: u16 = encoding(3, 0, 12, 12, 4);
const SRE: u16 = encoding(3, 0, 12, 12, 5);
const IGRPEN0: u16 = encoding(3, 0, 12, 12, 6);
const IGRPEN1: u16 = encoding(3, 0, 12, 12, 7);
const DIR: u16 = encoding(3, 0, 12, 11, 1);
const RPR: u16 = encoding(3, 0, 12, 11, 3);
const SGI1R: u16 = encoding(3, 0, 12, 11, 5);
const ICH_HCR: u16 = encoding(3, 4, 12, 11, 0);
const ICH_VTR: u16 = encoding(3, 4, 12, 11, 1);
const ICH_VMCR: u16 = encoding(3, 4, 12, 11, 7);
const ICH_LR0: u16 = encoding(3, 4, 12, 12, 0);
const ICH_ELRSR: u16 = encoding(3, 4, 12, 11, 5);
const ICH_MISR: u16 = encoding(3, 4, 12, 11, 2);

const ISENABLER: u64 = 0x100;
const SGI: u64 = BANK + 0x1_0000;

struct Gic {
    b: Bench,
    regs: Arc<dyn SystemRegisters>,
    ctl: Arc<dyn IrqController>,
    lines: Vec<Arc<Lines>>,
}

fn cx(cpu: usize, el: u8, hcr_el2: u64) -> SysRegCx {
    SysRegCx { cpu, el, secure: false, hcr_el2, scr_el3: 0, has_el2: true, has_el3: false }
}

impl Gic {
    fn bare(props: &str, cpus: u32) -> Gic {
        let b = Bench::of(&CLASS, &format!("num-irq=96,num-cpu={cpus}{props}"));
        let ctl: Arc<dyn IrqController> = b.record.ability().unwrap();
        let regs: Arc<dyn SystemRegisters> = b.record.ability().unwrap();
        let lines: Vec<Arc<Lines>> = (0..cpus).map(|_| Arc::default()).collect();
        for (n, l) in (0..).zip(&lines) {
            ctl.connect_cpu(n, l.clone());
        }
        Gic { b, regs, ctl, lines }
    }

    /// Two CPUs, everything in group 1, all enabled, priority 0xa0.
    fn ready() -> Gic {
        let g = Gic::bare("", 2);
        g.b.write32(0, 0x13);
        for cpu in 0..2 {
            let sgi = SGI + cpu * 0x2_0000;
            g.b.write32(sgi + 0x80, u32::MAX);
            g.b.write32(sgi + ISENABLER, u32::MAX);
            (0..8).for_each(|i| g.b.write32(sgi + 0x400 + 4 * i, 0xa0a0_a0a0));
            let c = usize::try_from(cpu).unwrap();
            g.set(c, PMR, 0xf0);
            g.set(c, IGRPEN1, 1);
        }
        for w in 1..3 {
            g.b.write32(0x80 + 4 * w, u32::MAX);
            g.b.write32(ISENABLER + 4 * w, u32::MAX);
            (0..8).for_each(|i| g.b.write32(0x400 + 32 * w + 4 * i, 0xa0a0_a0a0));
        }
        g
    }

    fn get(&self, cpu: usize, reg: u16) -> u64 {
        self.regs.read(&cx(cpu, 1, 0), reg).unwrap()
    }
    fn set(&self, cpu: usize, reg: u16, value: u64) {
        assert!(self.regs.write(&cx(cpu, 1, 0), reg, value));
    }
    fn irq(&self, cpu: usize) -> bool {
        self.lines[cpu].level(0)
    }
}

#[test]
fn identification_matches_the_peer() {
    let g = Gic::bare("", 2);
    assert_eq!(g.b.read32(0), 0x50);
    assert_eq!(g.b.read32(4), 0x0378_0002);
    assert_eq!(g.b.read32(8), 0x43b);
    assert_eq!(g.b.read32(0xffe8), 0x3b);
    assert_eq!(g.b.read32(0xffd0), 0x44);
    assert_eq!(g.b.read64(BANK + 8), 0);
    assert_eq!(g.b.read64(BANK + 0x2_0008), 0x1_0000_0110);
    assert_eq!(g.b.read32(BANK + 0x14), 6);
    g.b.write32(BANK + 0x14, 0);
    assert_eq!(g.b.read32(BANK + 0x14), 0);
    assert_eq!(g.b.read32(SGI + 0xc00), 0xaaaa_aaaa);
    assert_eq!(g.get(0, CTLR), 0x8400);
    assert_eq!(g.get(0, SRE), 7);
    assert_eq!(g.get(0, RPR), 0xff);
}

#[test]
fn level_spi_is_signalled_acknowledged_and_ended() {
    let g = Gic::ready();
    g.b.drive("spi", 1, true);
    assert!(g.irq(0) && !g.irq(1));
    assert_eq!(g.get(0, HPPIR1), 33);
    assert_eq!(g.get(0, IAR1), 33);
    assert!(!g.irq(0));
    assert_eq!(g.get(0, RPR), 0xa0);
    assert_eq!(g.get(0, IAR1), 1023);
    g.set(0, EOIR1, 33);
    assert!(g.irq(0), "the level is still high");
    assert_eq!(g.get(0, IAR1), 33);
    g.b.drive("spi", 1, false);
    g.set(0, EOIR1, 33);
    assert!(!g.irq(0));
    assert_eq!(g.get(0, RPR), 0xff);
}

#[test]
fn edge_spi_is_latched_once() {
    let g = Gic::ready();
    g.b.write32(0xc08, 2 << 4);
    g.b.drive("spi", 2, true);
    g.b.drive("spi", 2, false);
    assert_eq!(g.get(0, IAR1), 34);
    g.b.drive("spi", 2, true);
    g.set(0, EOIR1, 34);
    assert_eq!(g.get(0, IAR1), 34, "an edge while active pends again");
    g.set(0, EOIR1, 34);
    assert_eq!(g.get(0, IAR1), 1023);
}

#[test]
fn routing_sends_an_spi_to_the_named_cpu() {
    let g = Gic::ready();
    g.b.drive("spi", 3, true);
    g.b.write64(0x6000 + 8 * 35, 1);
    assert!(!g.irq(0) && g.irq(1));
    g.b.write64(0x6000 + 8 * 35, 0xff);
    assert!(!g.irq(0) && !g.irq(1));
    assert_eq!(g.b.read64(0x6000 + 8 * 35), 0xff);
}

#[test]
fn sgi_reaches_listed_cpus_or_all_others() {
    let g = Gic::ready();
    g.set(0, SGI1R, 5 << 24 | 0b11);
    assert!(g.irq(0) && g.irq(1));
    assert_eq!(g.get(0, IAR1), 5);
    assert_eq!(g.get(1, IAR1), 5);
    g.set(0, EOIR1, 5);
    g.set(1, EOIR1, 5);
    g.set(0, SGI1R, 1 << 40 | 7 << 24);
    assert!(!g.irq(0) && g.irq(1));
}

#[test]
fn priorities_mask_and_preempt() {
    let g = Gic::ready();
    g.b.write8(0x400 + 40, 0x50);
    g.b.drive("spi", 1, true);
    assert_eq!(g.get(0, IAR1), 33);
    g.b.drive("spi", 8, true);
    assert!(g.irq(0), "0x50 preempts 0xa0");
    assert_eq!(g.get(0, IAR1), 40);
    g.set(0, EOIR1, 40);
    g.b.drive("spi", 8, false);
    assert_eq!(g.get(0, RPR), 0xa0);
    g.set(0, EOIR1, 33);
    g.set(0, PMR, 0xa0);
    assert!(!g.irq(0), "equal to the mask is masked");
    g.set(0, PMR, 0xa8);
    assert!(g.irq(0));
    g.set(0, BPR1, 0);
    assert_eq!(g.get(0, BPR1), 3);
}

#[test]
fn private_level_interrupt_stays_with_its_cpu() {
    let g = Gic::ready();
    let ppi = g.ctl.private(1).unwrap();
    ppi.set(27, true);
    assert!(!g.irq(0) && g.irq(1));
    assert_eq!(g.get(1, IAR1), 27);
    ppi.set(27, false);
    g.set(1, EOIR1, 27);
    assert!(!g.irq(1));
    assert!(g.ctl.private(2).is_none());
}

#[test]
fn split_end_of_interrupt_needs_dir() {
    let g = Gic::ready();
    g.set(0, CTLR, 2);
    g.b.drive("spi", 1, true);
    assert_eq!(g.get(0, IAR1), 33);
    g.set(0, EOIR1, 33);
    assert_eq!(g.get(0, RPR), 0xff);
    assert!(!g.irq(0), "still active");
    g.set(0, DIR, 33);
    assert!(g.irq(0));
}

#[test]
fn group_zero_is_fiq() {
    let g = Gic::ready();
    g.b.write32(0x84, 0);
    g.set(0, IGRPEN0, 1);
    g.b.drive("spi", 1, true);
    assert!(!g.irq(0) && g.lines[0].level(1));
    assert_eq!(g.get(0, IAR1), 1023);
    assert_eq!(g.get(0, IAR0), 33);
    g.set(0, EOIR0, 33);
}

#[test]
fn non_secure_view_hides_secure_interrupts() {
    let mut g = Gic::bare(",has-security-extensions=on", 1);
    let secure = TxAttrs { secure: true, ..TxAttrs::default() };
    assert_eq!(g.b.read32(0), 0x10);
    g.b.write32(0x400 + 32, 0xffff_ffff);
    assert_eq!(g.b.read32(0x400 + 32), 0);
    g.b.set_attrs(secure);
    assert_eq!(g.b.read32(0), 0x30);
    g.b.write32(0x84, 1);
    g.b.write32(0x400 + 32, 0x8080_80c0);
    g.b.set_attrs(TxAttrs::default());
    assert_eq!(g.b.read32(0x400 + 32), 0x80);
    g.b.write8(0x400 + 32, 0x20);
    g.b.set_attrs(secure);
    assert_eq!(g.b.read8(0x400 + 32), 0x90);
}

#[test]
fn virtual_interrupt_goes_through_a_list_register() {
    let g = Gic::ready();
    let (el2, el1) = (cx(0, 2, 0), cx(0, 1, 0x18));
    assert!(g.regs.read(&cx(0, 1, 0), ICH_VTR).is_none());
    assert_eq!(g.regs.read(&el2, ICH_VTR).unwrap() & 0x1f, 3);
    assert!(g.regs.write(&el2, ICH_VMCR, 0xf8 << 24 | 2));
    assert!(g.regs.write(&el2, ICH_HCR, 1));
    // Hardware interrupt 33 as virtual 40, group 1, priority 0x80, pending.
    g.b.drive("spi", 1, true);
    assert_eq!(g.get(0, IAR1), 33);
    g.b.drive("spi", 1, false);
    let lr = 1 << 62 | 1 << 61 | 1 << 60 | 0x80 << 48 | 33 << 32 | 40;
    assert!(g.regs.write(&el2, ICH_LR0, lr));
    assert!(g.lines[0].level(2));
    assert_eq!(g.regs.read(&el1, IAR1), Some(40));
    assert!(!g.lines[0].level(2));
    assert_eq!(g.regs.read(&el1, RPR), Some(0x80));
    assert!(g.regs.write(&el1, EOIR1, 40));
    assert_eq!(g.regs.read(&el2, ICH_ELRSR), Some(0xf));
    assert_eq!(g.b.read32(0x304) & 2, 0, "the physical interrupt is inactive");
    // Underflow maintenance.
    assert!(g.regs.write(&el2, ICH_HCR, 3));
    assert_eq!(g.regs.read(&el2, ICH_MISR), Some(2));
    g.set(0, EOIR1, 33);
    assert_eq!(g.get(0, IAR1), 25);
}

#[test]
fn state_survives_save_and_load() {
    let g = Gic::ready();
    g.b.drive("spi", 1, true);
    g.set(1, SGI1R, 3 << 24 | 1);
    let state = g.b.save();
    let h = Gic::bare("", 2);
    h.b.load(&state).unwrap();
    assert_eq!(h.b.save(), state);
    assert!(h.irq(0));
    assert_eq!(h.get(0, IAR1), 3);
    h.b.reset();
    assert!(!h.irq(0));
    assert!(h.b.load(&state[..40]).is_err());
}

#[test]
fn bad_properties_and_random_accesses_do_no_harm() {
    assert!(Bench::try_of(&CLASS, "num-cpu=0").is_err());
    assert!(Bench::try_of(&CLASS, "num-irq=33").is_err());
    let g = Gic::ready();
    let mut seed = 1u64;
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let r = seed >> 20;
        let base = if r & 1 == 0 { 0 } else { BANK };
        let at = base + ((r >> 3) & 0x3_ffff & if base == 0 { 0xffff } else { u64::MAX });
        let size = [Size::B1, Size::B2, Size::B4, Size::B8][usize::try_from(r >> 1 & 3).unwrap()];
        let at = at & !(size.bytes() - 1);
        let _ = g.b.try_write(at, size, seed);
        let _ = g.b.try_read(at, size);
        let reg = encoding(3, [0, 4, 6][usize::try_from(r % 3).unwrap()], 12, 8, 0)
            + u16::try_from(r >> 30 & 0x2f).unwrap();
        let who = cx(usize::try_from(r >> 9 & 1).unwrap(), 2, seed);
        let _ = g.regs.write(&who, reg, seed);
        let _ = g.regs.read(&who, reg);
    }
}
