//! Arm Generic Interrupt Controller, version 3 (Arm IHI 0069H).
//!
//! The distributor, one redistributor per CPU, and the CPU interface, which CPUs
//! reach by system registers ([`cpu::SystemRegisters`]). Affinity routing is
//! always on (no legacy operation); LPIs are optional. Not modelled: message-based
//! SPIs, virtual LPIs, 1-of-N delivery (announced as absent in `GICD_TYPER`), `GICD_NSACR`.
//!
//! Locks: the distributor, then a CPU; never two CPUs. The best SPI for each CPU
//! and group is kept in atomics, so private interrupts, priority masks and
//! acknowledging "nothing" never touch the distributor.

mod cpuif;
mod dist;
mod lpi;
mod redist;
mod registers;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use cpu::SystemRegisters;
use derive::Qapi;
use device::{
    AccessRules, AddressSpace, Build, Bus, Device, DeviceClass, DeviceType, IrqController, IrqSink,
    Lpis, Migration, Region, Reset, Size, cpu_input,
};
use parking_lot::Mutex;

use crate::MAINTENANCE;
use crate::word::{Word, bits};
use cpuif::CpuRegs;
use dist::DistRegs;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Gicv3>();

/// Properties of `arm-gicv3`.
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
    /// LPIs, which an ITS needs
    #[qapi(name = "has-lpi", default = "off")]
    pub has_lpi: bool,
    /// CPUs in each region of redistributors; by default all are in one
    #[qapi(name = "redist-region-count")]
    pub redist_region_count: Option<Vec<u32>>,
    /// Affinity of each CPU as Aff3.Aff2.Aff1.Aff0 in 32 bits; by default four
    /// levels are counted in clusters of 16
    pub mpidr: Option<Vec<u32>>,
}

/// Most CPUs one controller serves.
const MAX_CPUS: u32 = 512;
/// Interrupt groups as indices.
pub(crate) const G0: usize = 0;
/// Secure group 1.
pub(crate) const G1S: usize = 1;
/// Non-secure group 1, and group 1 when there is one security state.
pub(crate) const G1NS: usize = 2;

/// A pending interrupt. Ordered as the hardware chooses: priority, then number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    pub(crate) priority: u8,
    pub(crate) intid: u32,
    pub(crate) group: usize,
}

const NONE: u64 = u64::MAX;

impl Candidate {
    /// Whether it is in the CPU's own part: private or an LPI.
    fn is_local(&self) -> bool {
        self.intid < 32 || self.intid >= lpi::FIRST
    }

    fn pack(self) -> u64 {
        u64::from(self.priority) << 16 | u64::from(self.intid)
    }

    fn unpack(packed: u64, group: usize) -> Option<Candidate> {
        let [i0, i1, priority, ..] = packed.to_le_bytes();
        let intid = u16::from_le_bytes([i0, i1]).into();
        (packed != NONE).then_some(Candidate { priority, intid, group })
    }
}

/// One CPU's part of the controller.
pub(crate) struct CpuPart {
    /// Aff3.Aff2.Aff1.Aff0.
    pub(crate) affinity: u32,
    pub(crate) regs: Mutex<CpuRegs>,
    /// Best pending SPI per group; written with the distributor locked.
    best_spi: [AtomicU64; 3],
    sink: OnceLock<Arc<dyn IrqSink>>,
    /// Levels last given to the sink, one bit per input; changed with `regs` locked.
    lines: AtomicU8,
}

impl CpuPart {
    fn set_line(&self, input: u32, level: bool) {
        let bit = 1u8 << input;
        let before = self.lines.load(Ordering::Relaxed);
        let after = if level { before | bit } else { before & !bit };
        if before != after {
            self.lines.store(after, Ordering::Relaxed);
            if let Some(sink) = self.sink.get() {
                sink.set(input, level);
            }
        }
    }
}

/// The controller.
pub struct Gicv3 {
    weak: Weak<Gicv3>,
    security: bool,
    reset_nonsecure: bool,
    has_lpi: bool,
    /// Guest memory, for the tables of LPIs; only its RAM is used.
    memory: AddressSpace,
    /// CPUs that are the last of their region of redistributors.
    lasts: Vec<usize>,
    dist: Mutex<DistRegs>,
    pub(crate) cpus: Box<[CpuPart]>,
    /// GICD_CTLR group enables, one bit per group index.
    groups: AtomicU8,
    /// GICD_CTLR.DS: one security state.
    ds: AtomicBool,
}

impl Gicv3 {
    pub(crate) fn ds(&self) -> bool {
        self.ds.load(Ordering::Relaxed)
    }

    fn group_on(&self, group: usize) -> bool {
        self.groups.load(Ordering::Relaxed) & (1 << group) != 0
    }

    /// The group of an interrupt.
    fn group_of(&self, word: &Word, bit: u32) -> usize {
        let mask = 1u32 << (bit & 31);
        if word.group & mask != 0 {
            G1NS
        } else if !self.ds() && word.modifier & mask != 0 {
            G1S
        } else {
            G0
        }
    }

    /// Finds each CPU's best SPI again, and tells CPUs for which it changed.
    /// Called with the distributor locked and no CPU locked.
    fn route(&self, dist: &mut DistRegs) {
        let mut best = std::mem::take(&mut dist.scratch);
        best.clear();
        best.resize(self.cpus.len(), [NONE; 3]);
        for (index, word) in dist.words.iter().enumerate().skip(1) {
            let base = u32::try_from(index * 32).unwrap_or(0);
            for bit in bits(word.candidates()) {
                let group = self.group_of(word, bit);
                if !self.group_on(group) {
                    continue;
                }
                let target = dist.target(index * 32 + bit as usize, self);
                let Some(slot) = target.and_then(|t| best.get_mut(t)?.get_mut(group)) else {
                    continue;
                };
                let found = Candidate { priority: word.priority(bit), intid: base + bit, group };
                *slot = (*slot).min(found.pack());
            }
        }
        for (cpu, best) in self.cpus.iter().zip(&best) {
            let mut changed = false;
            for (slot, new) in cpu.best_spi.iter().zip(best) {
                changed |= slot.swap(*new, Ordering::AcqRel) != *new;
            }
            if changed {
                self.update(cpu, &mut cpu.regs.lock());
            }
        }
        dist.scratch = best;
    }

    /// The CPU's most important pending interrupt of a group that its interface
    /// has enabled, whatever its mask and running priority.
    pub(crate) fn pending(&self, cpu: &CpuPart, regs: &CpuRegs) -> Option<Candidate> {
        let local = bits(regs.local.candidates()).map(|bit| Candidate {
            priority: regs.local.priority(bit),
            intid: bit,
            group: self.group_of(&regs.local, bit),
        });
        let local = local.filter(|c| self.group_on(c.group));
        let spis = cpu.best_spi.iter().enumerate();
        let spis = spis.filter_map(|(g, b)| Candidate::unpack(b.load(Ordering::Acquire), g));
        let lpi = regs.lpi.best.filter(|c| self.group_on(c.group));
        local.chain(spis).chain(lpi).filter(|c| regs.group_enabled(c.group)).min()
    }

    /// Drives the CPU's inputs from its state; called with it locked.
    pub(crate) fn update(&self, cpu: &CpuPart, regs: &mut CpuRegs) {
        let maintenance = regs.virt.maintenance();
        regs.local.drive(MAINTENANCE, maintenance);
        let signalled = self.pending(cpu, regs).filter(|c| regs.preempts(c, self.ds()));
        let fiq = signalled.is_some_and(|c| self.is_fiq(c.group, regs));
        cpu.set_line(cpu_input::IRQ, signalled.is_some() && !fiq);
        cpu.set_line(cpu_input::FIQ, fiq);
        let (virq, vfiq) = regs.virt.lines();
        cpu.set_line(cpu_input::VIRQ, virq);
        cpu.set_line(cpu_input::VFIQ, vfiq);
    }

    /// 4.6.2: group 0 is FIQ; with two security states so is group 1 of the
    /// other one.
    fn is_fiq(&self, group: usize, regs: &CpuRegs) -> bool {
        match group {
            G0 => true,
            G1S => !regs.secure || regs.el3,
            _ => !self.ds() && (regs.secure || regs.el3),
        }
    }

    /// Updates every CPU, as after a change of the group enables.
    fn update_all(&self, dist: &mut DistRegs) {
        self.route(dist);
        for cpu in &self.cpus {
            self.update(cpu, &mut cpu.regs.lock());
        }
    }

    fn drive_spi(&self, input: u32, level: bool) {
        let mut dist = self.dist.lock();
        let intid = input.saturating_add(32) as usize;
        let Some(word) = dist.words.get_mut(intid / 32) else { return };
        if word.drive(input & 31, level) {
            self.route(&mut dist);
        }
    }

    fn drive_private(&self, cpu: usize, input: u32, level: bool) {
        let Some(cpu) = self.cpus.get(cpu) else { return };
        let mut regs = cpu.regs.lock();
        if input < 32 && regs.local.drive(input, level) {
            self.update(cpu, &mut regs);
        }
    }
}

/// Shared inputs.
struct Shared(Arc<Gicv3>);

impl IrqSink for Shared {
    fn set(&self, input: u32, level: bool) {
        self.0.drive_spi(input, level);
    }

    fn pulse(&self, input: u32) {
        // In one piece: messages of several threads overlap, and each is an edge.
        let (mut dist, intid) = (self.0.dist.lock(), input.saturating_add(32));
        if let Some(word) = dist.words.get_mut(intid as usize / 32) {
            word.pulse(input & 31);
            self.0.route(&mut dist);
        }
    }
}

/// Private inputs of one CPU.
struct Private(Arc<Gicv3>, usize);

impl IrqSink for Private {
    fn set(&self, input: u32, level: bool) {
        self.0.drive_private(self.1, input, level);
    }
}

impl IrqController for Gicv3 {
    fn shared_count(&self) -> u32 {
        let words = self.dist.lock().words.len().saturating_sub(1);
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
        self.cpus.get(index)?;
        Some(Arc::new(Private(self.weak.upgrade()?, index)))
    }

    fn connect_cpu(&self, cpu: u32, sink: Arc<dyn IrqSink>) {
        if let Some(part) = self.cpus.get(cpu as usize) {
            let _ = part.sink.set(sink);
        }
    }
}

fn last_cpus(counts: &[u32]) -> Vec<usize> {
    let mut end = 0usize;
    let ends = counts.iter().map(|count| {
        end += *count as usize;
        end.saturating_sub(1)
    });
    ends.collect()
}

fn affinity_of(index: u32) -> u32 {
    (index / 16) << 8 | (index % 16)
}

impl DeviceType for Gicv3 {
    const NAME: &'static str = "arm-gicv3";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Arm Generic Interrupt Controller v3";
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
        let counts = props.redist_region_count.unwrap_or_else(|| vec![props.num_cpu]);
        if counts.iter().map(|c| u64::from(*c)).sum::<u64>() != u64::from(props.num_cpu)
            || counts.contains(&0)
        {
            return Err(qapi::Error::generic(format!(
                "Capacity of the redist regions(sum) does not match the number of vcpus({})",
                props.num_cpu
            )));
        }
        let mpidr = props.mpidr.unwrap_or_default();
        let part = |index: u32| CpuPart {
            affinity: mpidr.get(index as usize).copied().unwrap_or(affinity_of(index)),
            regs: Mutex::new(CpuRegs::default()),
            best_spi: [const { AtomicU64::new(NONE) }; 3],
            sink: OnceLock::new(),
            lines: AtomicU8::new(0),
        };
        let gic = Arc::new_cyclic(|weak| Gicv3 {
            weak: weak.clone(),
            security: props.security,
            reset_nonsecure: props.security && props.reset_nonsecure,
            has_lpi: props.has_lpi,
            memory: at.world().memory.clone(),
            lasts: last_cpus(&counts),
            dist: Mutex::new(DistRegs::new(props.num_irq as usize / 32)),
            cpus: (0..props.num_cpu).map(part).collect(),
            groups: AtomicU8::new(0),
            ds: AtomicBool::new(!props.security),
        });
        let rules = AccessRules {
            valid: (Size::B1, Size::B8),
            handled: (Size::B1, Size::B4),
            unaligned: false,
            big_endian: false,
        };
        let distributor = Arc::new(dist::Frame(gic.clone()));
        at.mmio(Region::mmio("gicv3_dist", 0x1_0000, rules, &distributor));
        let mut frames = Vec::new();
        let mut first = 0;
        for (number, count) in counts.iter().enumerate() {
            let frame = Arc::new(redist::Frame::new(&gic, first));
            let len = u64::from(*count) * redist::STRIDE;
            let name = format!("gicv3_redist_region[{number}]");
            at.mmio(Region::mmio(&name, len, rules, &frame));
            frames.push(frame);
            first += *count as usize;
        }
        // Regions keep only weak references; the frames live as long as the record.
        at.offer((distributor, Arc::new(frames)));
        if props.has_lpi {
            at.offer::<Arc<dyn Lpis>>(gic.clone());
        }
        at.irq_in("spi", props.num_irq - 32, Arc::new(Shared(gic.clone())));
        at.offer::<Arc<dyn IrqController>>(gic.clone());
        at.offer::<Arc<dyn SystemRegisters>>(gic.clone());
        gic.reset(Reset::Cold);
        Ok(gic)
    }
}

impl Device for Gicv3 {
    fn reset(&self, _: Reset) {
        let mut dist = self.dist.lock();
        dist.reset();
        self.ds.store(!self.security, Ordering::Relaxed);
        self.groups.store(0, Ordering::Relaxed);
        for cpu in &self.cpus {
            let mut regs = cpu.regs.lock();
            regs.reset();
            if self.reset_nonsecure {
                regs.local.group = u32::MAX;
            }
        }
        if self.reset_nonsecure {
            dist.words.iter_mut().for_each(|word| word.group = u32::MAX);
        }
    }

    fn migration(&self) -> Migration<'_> {
        let mut parts: Vec<(&'static str, &dyn device::Saved)> = vec![("dist", &self.dist)];
        parts.extend(self.cpus.iter().map(|c| ("cpu", &c.regs as &dyn device::Saved)));
        Migration::Parts(parts)
    }

    fn settle(&self) {
        let mut dist = self.dist.lock();
        self.groups.store(dist.groups(), Ordering::Relaxed);
        self.ds.store(!self.security || dist.ds, Ordering::Relaxed);
        for cpu in &self.cpus {
            self.load_lpis(&mut cpu.regs.lock().lpi);
        }
        self.update_all(&mut dist);
    }
}
