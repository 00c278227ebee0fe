//! Arm Generic Interrupt Controller, version 2 (Arm IHI 0048B).
//!
//! Distributor and CPU interfaces for up to eight CPUs, both interrupt groups,
//! two security states on request, and the virtualization extensions (GICH and
//! GICV). Five priority bits, as in Arm's GIC-400. An access belongs to the CPU
//! that `TxAttrs::requester` numbers. Not modelled: `GICD_NSACR`, power-down
//! bypass. One lock serves the whole controller: there are few CPUs.

mod cpuif;
mod dist;
mod vif;

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, Device, DeviceClass, DeviceType, IrqController, IrqSink,
    Migration, Region, Reset, Size, cpu_input,
};
use parking_lot::Mutex;

use crate::MAINTENANCE;
use crate::virt::Virt;
use crate::word::{Word, bits};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Gicv2>();

/// Properties of `arm_gic`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Number of CPUs
    #[qapi(name = "num-cpu", default = "1")]
    pub num_cpu: u32,
    /// Number of interrupts, including the 32 private ones
    #[qapi(name = "num-irq", default = "32")]
    pub num_irq: u32,
    /// Two security states
    #[qapi(name = "has-security-extensions", default = "off")]
    pub security: bool,
    /// Interrupts belong to the non-secure world after a reset, for a kernel without firmware
    #[qapi(name = "irq-reset-nonsecure", default = "off")]
    pub reset_nonsecure: bool,
    /// GICH and GICV register banks
    #[qapi(name = "has-virtualization-extensions", default = "off")]
    pub virtualization: bool,
}

const MAX_CPUS: u32 = 8;

/// A pending interrupt, ordered as the hardware chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u8,
    intid: u32,
    /// Group 1.
    group1: bool,
}

/// One CPU's private interrupts and interface.
#[derive(Clone, Default, VmState)]
#[vmstate(name = "gicv2-cpu", version = 1)]
struct CpuRegs {
    local: Word,
    /// Pending SGIs by source CPU.
    sources: [u8; 16],
    ctlr: u32,
    pmr: u8,
    bpr: [u8; 2],
    /// Active priorities of group 0 and group 1.
    apr: [u32; 2],
    virt: Virt,
}

impl CpuRegs {
    fn reset(&mut self) {
        let level = self.local.level;
        *self = CpuRegs::default();
        self.local.level = level;
        self.local.edge = 0xffff;
        self.local.enabled = 0xffff;
        self.bpr = cpuif::MIN_BPR;
    }
}

#[derive(VmState)]
#[vmstate(name = "gicv2", version = 1)]
struct Regs {
    ctlr: u32,
    /// Word 0 is unused: private interrupts are with their CPUs.
    #[vmstate(max = 32)]
    words: Vec<Word>,
    /// GICD_ITARGETSR of shared interrupts.
    #[vmstate(max = 1024)]
    targets: Vec<u8>,
    #[vmstate(max = 8)]
    cpus: Vec<CpuRegs>,
}

impl Regs {
    /// The most important pending interrupt for a CPU, of enabled groups.
    fn best(&self, index: usize) -> Option<Candidate> {
        let cpu = self.cpus.get(index)?;
        let enabled = |c: &Candidate| {
            let bit = if c.group1 { 2 } else { 1 };
            self.ctlr & bit != 0 && cpu.ctlr & bit != 0
        };
        let mut best: Option<Candidate> = None;
        for (n, word) in self.words.iter().enumerate() {
            let word = if n == 0 { &cpu.local } else { word };
            for bit in bits(word.candidates()) {
                let at = n * 32 + bit as usize;
                let mine = n == 0 || self.targets.get(at).is_some_and(|t| t >> index & 1 != 0);
                let found = Candidate {
                    priority: word.priority(bit) & cpuif::PRIORITY_MASK,
                    intid: u32::try_from(at).unwrap_or(0),
                    group1: word.group & (1 << bit) != 0,
                };
                if mine && enabled(&found) && best.is_none_or(|b| found < b) {
                    best = Some(found);
                }
            }
        }
        best
    }

    fn word(&mut self, cpu: usize, intid: u32) -> Option<&mut Word> {
        match intid / 32 {
            0 => self.cpus.get_mut(cpu).map(|c| &mut c.local),
            n => self.words.get_mut(n as usize),
        }
    }
}

struct Outputs {
    sink: OnceLock<Arc<dyn IrqSink>>,
    lines: Mutex<[bool; 4]>,
}

/// The controller.
pub struct Gicv2 {
    weak: Weak<Gicv2>,
    security: bool,
    reset_nonsecure: bool,
    regs: Mutex<Regs>,
    outputs: Box<[Outputs]>,
}

impl Gicv2 {
    /// Drives all CPUs' inputs; called with the registers locked.
    fn update(&self, regs: &mut Regs) {
        for index in 0..self.outputs.len() {
            let Some(cpu) = regs.cpus.get_mut(index) else { return };
            cpu.local.drive(MAINTENANCE, cpu.virt.maintenance());
            let best = regs.best(index);
            let Some(cpu) = regs.cpus.get(index) else { return };
            let signalled = best.filter(|c| cpu.preempts(c));
            let fiq = signalled.is_some_and(|c| !c.group1 && cpu.ctlr & cpuif::CTLR_FIQEN != 0);
            let (virq, vfiq) = cpu.virt.lines();
            let now = [signalled.is_some() && !fiq, fiq, virq, vfiq];
            let Some(out) = self.outputs.get(index) else { return };
            let mut lines = out.lines.lock();
            let before = std::mem::replace(&mut *lines, now);
            let inputs = [cpu_input::IRQ, cpu_input::FIQ, cpu_input::VIRQ, cpu_input::VFIQ];
            for ((input, old), new) in inputs.iter().zip(before).zip(now) {
                if let Some(sink) = out.sink.get().filter(|_| old != new) {
                    sink.set(*input, new);
                }
            }
        }
    }

    /// The CPU an access comes from.
    fn cpu_of(&self, at: Access) -> usize {
        usize::from(at.attrs.requester).min(self.outputs.len().saturating_sub(1))
    }

    /// Whether an access sees only group 1.
    fn is_non_secure(&self, at: Access) -> bool {
        self.security && !at.attrs.secure
    }

    fn drive(&self, cpu: usize, intid: u32, level: bool) {
        let mut regs = self.regs.lock();
        if regs.word(cpu, intid).is_some_and(|w| w.drive(intid & 31, level)) {
            self.update(&mut regs);
        }
    }
}

struct Shared(Arc<Gicv2>);

impl IrqSink for Shared {
    fn set(&self, input: u32, level: bool) {
        self.0.drive(0, input.saturating_add(32), level);
    }

    fn pulse(&self, input: u32) {
        // In one piece: messages of several threads overlap, and each is an edge.
        let (mut regs, intid) = (self.0.regs.lock(), input.saturating_add(32));
        if let Some(word) = regs.word(0, intid) {
            word.pulse(intid & 31);
            self.0.update(&mut regs);
        }
    }
}

struct Private(Arc<Gicv2>, usize);

impl IrqSink for Private {
    fn set(&self, input: u32, level: bool) {
        if input < 32 {
            self.0.drive(self.1, input, level);
        }
    }
}

impl IrqController for Gicv2 {
    fn shared_count(&self) -> u32 {
        let words = self.regs.lock().words.len().saturating_sub(1);
        u32::try_from(words * 32).unwrap_or(0)
    }

    fn shared(&self) -> Arc<dyn IrqSink> {
        match self.weak.upgrade() {
            Some(gic) => Arc::new(Shared(gic)),
            None => unreachable!("a method of a living device"),
        }
    }

    fn private(&self, cpu: u32) -> Option<Arc<dyn IrqSink>> {
        let index = usize::try_from(cpu).ok()?;
        self.outputs.get(index)?;
        Some(Arc::new(Private(self.weak.upgrade()?, index)))
    }

    fn connect_cpu(&self, cpu: u32, sink: Arc<dyn IrqSink>) {
        if let Some(out) = self.outputs.get(cpu as usize) {
            let _ = out.sink.set(sink);
        }
    }
}

impl DeviceType for Gicv2 {
    const NAME: &'static str = "arm_gic";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Arm Generic Interrupt Controller v2";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if props.num_cpu == 0 || props.num_cpu > MAX_CPUS {
            return Err(qapi::Error::generic(format!(
                "num-cpu must be between 1 and {MAX_CPUS}, not {}",
                props.num_cpu
            )));
        }
        if props.num_irq < 32 || props.num_irq > 1020 || !props.num_irq.is_multiple_of(32) {
            return Err(qapi::Error::generic(format!(
                "num-irq must be a multiple of 32 between 32 and 992, not {}",
                props.num_irq
            )));
        }
        let (cpus, irqs) = (props.num_cpu as usize, props.num_irq as usize);
        let output = |_| Outputs { sink: OnceLock::new(), lines: Mutex::default() };
        let gic = Arc::new_cyclic(|weak| Gicv2 {
            weak: weak.clone(),
            security: props.security,
            reset_nonsecure: props.security && props.reset_nonsecure,
            regs: Mutex::new(Regs {
                ctlr: 0,
                words: vec![Word::default(); irqs / 32],
                targets: vec![0; irqs],
                cpus: vec![CpuRegs::default(); cpus],
            }),
            outputs: (0..cpus).map(output).collect(),
        });
        let rules = |low| AccessRules {
            valid: (Size::B1, Size::B4),
            handled: (low, Size::B4),
            unaligned: false,
            big_endian: false,
        };
        let banks = (
            Arc::new(dist::Frame(gic.clone())),
            Arc::new(cpuif::Frame(gic.clone())),
            Arc::new(vif::Control(gic.clone())),
            Arc::new(vif::Frame(gic.clone())),
        );
        at.mmio(Region::mmio("gic_dist", 0x1000, rules(Size::B1), &banks.0));
        at.mmio(Region::mmio("gic_cpu", 0x2000, rules(Size::B4), &banks.1));
        if props.virtualization {
            at.mmio(Region::mmio("gic_viface", 0x1000, rules(Size::B4), &banks.2));
            at.mmio(Region::mmio("gic_vcpu", 0x2000, rules(Size::B4), &banks.3));
        }
        // Regions keep only weak references; the banks live as long as the record.
        at.offer(banks);
        at.irq_in("spi", props.num_irq - 32, Arc::new(Shared(gic.clone())));
        at.offer::<Arc<dyn IrqController>>(gic.clone());
        gic.reset(Reset::Cold);
        Ok(gic)
    }
}

impl Device for Gicv2 {
    fn reset(&self, _: Reset) {
        let mut regs = self.regs.lock();
        regs.ctlr = 0;
        regs.words.iter_mut().for_each(Word::reset);
        regs.cpus.iter_mut().for_each(CpuRegs::reset);
        // With one CPU all interrupts go there and the registers are RAZ/WI.
        let target = u8::from(self.outputs.len() == 1);
        regs.targets.fill(target);
        if self.reset_nonsecure {
            regs.words.iter_mut().for_each(|word| word.group = u32::MAX);
            for cpu in &mut regs.cpus {
                cpu.local.group = u32::MAX;
                // The lowest mask that the non-secure world may change.
                cpu.pmr = 0x80;
            }
        }
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        self.update(&mut self.regs.lock());
    }
}
