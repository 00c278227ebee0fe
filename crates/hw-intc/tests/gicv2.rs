//! GICv2 on the bench, from IHI 0048B.

use std::sync::Arc;

use device::{IrqController, Size, TxAttrs};
use hw_intc::gicv2::CLASS;
use testbench::{BANK, Bench, Lines};

const CPU: u64 = BANK;
const GICH: u64 = 2 * BANK;
const GICV: u64 = 3 * BANK;
const IAR: u64 = CPU + 0xc;
const EOIR: u64 = CPU + 0x10;
const RPR: u64 = CPU + 0x14;

struct Gic {
    b: Bench,
    ctl: Arc<dyn IrqController>,
    lines: Vec<Arc<Lines>>,
}

impl Gic {
    fn bare(props: &str, cpus: u32) -> Gic {
        let b = Bench::of(&CLASS, &format!("num-irq=96,num-cpu={cpus}{props}"));
        let ctl: Arc<dyn IrqController> = b.record.ability().unwrap();
        let lines: Vec<Arc<Lines>> = (0..cpus).map(|_| Arc::default()).collect();
        for (n, l) in (0..).zip(&lines) {
            ctl.connect_cpu(n, l.clone());
        }
        Gic { b, ctl, lines }
    }

    /// Two CPUs, group 0, all enabled, priority 0xa0, SPIs to CPU 0.
    fn ready(props: &str) -> Gic {
        let mut g = Gic::bare(props, 2);
        g.b.write32(0, 1);
        for cpu in 0..2 {
            g.on(cpu);
            g.b.write32(0x100, u32::MAX);
            (0..8).for_each(|i| g.b.write32(0x400 + 4 * i, 0xa0a0_a0a0));
            g.b.write32(CPU, 1);
            g.b.write32(CPU + 4, 0xf0);
        }
        g.on(0);
        for w in 1..3 {
            g.b.write32(0x100 + 4 * w, u32::MAX);
            for i in 0..8 {
                g.b.write32(0x400 + 32 * w + 4 * i, 0xa0a0_a0a0);
                g.b.write32(0x800 + 32 * w + 4 * i, 0x0101_0101);
            }
        }
        g
    }

    fn on(&mut self, cpu: u16) {
        self.b.set_attrs(TxAttrs { requester: cpu, ..TxAttrs::default() });
    }

    fn irq(&self, cpu: usize) -> bool {
        self.lines[cpu].level(0)
    }
}

#[test]
fn identification() {
    let mut g = Gic::bare("", 2);
    assert_eq!(g.b.read32(4), 0x22);
    assert_eq!(g.b.read32(0xfe8), 0x2b);
    assert_eq!(g.b.read32(CPU + 0xfc), 0x0002_043b);
    assert_eq!(g.b.read32(0xc00), 0xaaaa_aaaa);
    g.b.write32(0x180, u32::MAX);
    assert_eq!(g.b.read32(0x100), 0xffff, "SGIs are always enabled");
    assert_eq!(g.b.read32(0x800), 0x0101_0101);
    g.on(1);
    assert_eq!(g.b.read32(0x800), 0x0202_0202);
    assert_eq!(g.b.read32(RPR), 0xff);
    assert_eq!(g.b.read32(IAR), 1023);
}

#[test]
fn level_spi_follows_its_target_and_ends() {
    let mut g = Gic::ready("");
    g.b.drive("spi", 1, true);
    assert!(g.irq(0) && !g.irq(1));
    g.b.write8(0x800 + 33, 2);
    assert!(!g.irq(0) && g.irq(1));
    g.on(1);
    assert_eq!(g.b.read32(IAR), 33);
    assert_eq!(g.b.read32(RPR), 0xa0);
    assert!(!g.irq(1));
    g.b.drive("spi", 1, false);
    g.b.write32(EOIR, 33);
    assert!(!g.irq(1));
    assert_eq!(g.b.read32(RPR), 0xff);
}

#[test]
fn sgi_names_its_source_and_queues_others() {
    let mut g = Gic::ready("");
    g.b.write32(0xf00, 1 << 24 | 5);
    assert!(!g.irq(0) && g.irq(1));
    g.on(1);
    g.b.write32(0xf00, 2 << 24 | 5);
    assert_eq!(g.b.read32(0xf10 + 4), 0x0300);
    assert_eq!(g.b.read32(IAR), 5);
    g.b.write32(EOIR, 5);
    assert_eq!(g.b.read32(IAR), 1 << 10 | 5);
    g.b.write32(EOIR, 1 << 10 | 5);
    assert!(!g.irq(1));
    g.b.write32(0xf00, 1 << 16 | 3);
    g.on(0);
    assert_eq!(g.b.read32(IAR), 1 << 10 | 3);
}

#[test]
fn priority_preempts_and_masks() {
    let g = Gic::ready("");
    g.b.write8(0x400 + 40, 0x50);
    g.b.drive("spi", 1, true);
    assert_eq!(g.b.read32(IAR), 33);
    g.b.drive("spi", 8, true);
    assert!(g.irq(0));
    assert_eq!(g.b.read32(IAR), 40);
    g.b.drive("spi", 8, false);
    g.b.write32(EOIR, 40);
    g.b.write32(EOIR, 33);
    assert!(g.irq(0));
    g.b.write32(CPU + 4, 0xa0);
    assert!(!g.irq(0));
}

#[test]
fn group_zero_can_be_fiq_and_group_one_needs_ackctl() {
    let g = Gic::ready("");
    g.b.write32(0, 3);
    g.b.write32(CPU, 0xb);
    g.b.drive("spi", 1, true);
    assert!(!g.irq(0) && g.lines[0].level(1));
    g.b.write32(0x84, 2);
    assert!(g.irq(0) && !g.lines[0].level(1));
    assert_eq!(g.b.read32(IAR), 1022);
    assert_eq!(g.b.read32(CPU + 0x20), 33);
    g.b.write32(CPU + 0x24, 33);
    g.b.write32(CPU, 0xf);
    assert_eq!(g.b.read32(IAR), 33);
}

#[test]
fn non_secure_view_is_group_one() {
    let mut g = Gic::bare(",has-security-extensions=on", 1);
    g.b.write32(0x420, u32::MAX);
    assert_eq!(g.b.read32(0x420), 0);
    let secure = TxAttrs { secure: true, ..TxAttrs::default() };
    g.b.set_attrs(secure);
    assert_eq!(g.b.read32(4) >> 10 & 1, 1);
    g.b.write32(0x84, 1);
    g.b.write8(0x420, 0xc0);
    g.b.set_attrs(TxAttrs::default());
    assert_eq!(g.b.read32(0x420), 0x80);
    g.b.write32(0, 1);
    g.b.set_attrs(secure);
    assert_eq!(g.b.read32(0), 2);
}

#[test]
fn private_interrupts_are_banked() {
    let mut g = Gic::ready("");
    g.ctl.private(1).unwrap().set(27, true);
    assert!(!g.irq(0) && g.irq(1));
    assert_eq!(g.b.read32(0x200), 0);
    g.on(1);
    assert_eq!(g.b.read32(0x200), 1 << 27);
}

#[test]
fn virtual_interrupt_and_its_physical_one() {
    let g = Gic::ready(",has-virtualization-extensions=on");
    g.b.write32(GICH + 8, 0x1f << 27 | 1);
    g.b.write32(GICH, 1);
    assert_eq!(g.b.read32(GICH + 4) & 0x3f, 3);
    g.b.write32(CPU, 1 | 1 << 9);
    g.b.drive("spi", 1, true);
    assert_eq!(g.b.read32(IAR), 33);
    g.b.drive("spi", 1, false);
    g.b.write32(EOIR, 33);
    assert_eq!(g.b.read32(0x304), 2);
    g.b.write32(GICH + 0x100, 1 << 31 | 1 << 28 | 0x10 << 23 | 33 << 10 | 40);
    assert!(g.lines[0].level(2));
    assert_eq!(g.b.read32(GICV + 0xc), 40);
    assert!(!g.lines[0].level(2));
    assert_eq!(g.b.read32(GICH + 0x100) >> 28 & 3, 2);
    g.b.write32(GICV + 0x10, 40);
    assert_eq!(g.b.read32(0x304), 0, "the physical interrupt is inactive");
    assert_eq!(g.b.read32(GICH + 0x30), 0xf);
    // A virtual SGI from CPU 1, with maintenance at its end.
    g.b.write32(GICH + 0x100, 1 << 28 | 1 << 19 | 1 << 10 | 7);
    assert_eq!(g.b.read32(GICV + 0xc), 1 << 10 | 7);
    g.b.write32(GICV + 0x10, 1 << 10 | 7);
    assert_eq!(g.b.read32(GICH + 0x20), 1);
    assert!(g.irq(0), "maintenance");
    assert_eq!(g.b.read32(IAR), 25);
}

#[test]
fn state_survives_save_and_load_and_reset_clears_it() {
    let g = Gic::ready("");
    g.b.drive("spi", 1, true);
    g.b.write32(0xf00, 2 << 24 | 4);
    let state = g.b.save();
    let h = Gic::bare("", 2);
    h.b.load(&state).unwrap();
    assert_eq!(h.b.save(), state);
    assert!(h.irq(0));
    h.b.reset();
    assert!(!h.irq(0));
    assert!(h.b.load(&state[..state.len() / 2]).is_err());
}

#[test]
fn bad_properties_and_random_accesses_do_no_harm() {
    assert!(Bench::try_of(&CLASS, "num-cpu=9").is_err());
    let mut g = Gic::ready(",has-virtualization-extensions=on");
    let mut seed = 1u64;
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let r = seed >> 20;
        g.on(u16::try_from(r & 3).unwrap());
        let size = [Size::B1, Size::B2, Size::B4, Size::B8][usize::try_from(r >> 2 & 3).unwrap()];
        let at = ((r >> 4 & 3) * BANK + (r >> 6 & 0x1fff)) & !(size.bytes() - 1);
        let _ = g.b.try_write(at, size, seed);
        let _ = g.b.try_read(at, size);
    }
}
