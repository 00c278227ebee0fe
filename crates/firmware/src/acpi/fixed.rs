//! Bodies (behind the common header) of tables that are lists of numbers.

/// A body being written.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }
    fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn zeroes(&mut self, n: usize) -> &mut Self {
        self.0.resize(self.0.len() + n, 0);
        self
    }
    /// A generic address in memory (ACPI 6.5, 5.2.3.2) of 32-bit registers.
    fn address32(&mut self, v: u64) -> &mut Self {
        self.u8(0).u8(32).u8(0).u8(3).u64(v)
    }
}

/// How the guest calls firmware on an Arm machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Psci {
    /// It does not.
    None,
    /// By SMC.
    Smc,
    /// By HVC.
    Hvc,
}

/// Offset in the FADT's body of the DSDT's address.
pub const FADT_DSDT: u32 = 140 - 36;

/// FADT of a hardware-reduced Arm machine (5.2.9, revision 6.3).
#[must_use]
pub fn fadt(psci: Psci, dsdt: u32) -> Vec<u8> {
    const HW_REDUCED_ACPI: u32 = 1 << 20;
    let mut out = Out::default();
    out.zeroes(112 - 36).u32(HW_REDUCED_ACPI).zeroes(129 - 116);
    out.u16(match psci {
        Psci::None => 0,
        Psci::Smc => 1,
        Psci::Hvc => 3,
    });
    out.u8(3).u64(0).u64(dsdt.into()).zeroes(268 - 148);
    out.0.extend(b"QEMU\0\0\0\0");
    out.0
}

/// Interrupt controllers of an Arm machine.
#[derive(Clone, Debug, Default)]
pub struct Madt {
    /// Distributor's address and architecture version.
    pub distributor: (u64, u8),
    /// Addresses of a GICv2's CPU, virtual CPU and hypervisor interfaces.
    pub interfaces: (u64, u64, u64),
    /// MPIDR of each CPU.
    pub cpus: Vec<u64>,
    /// Interrupt of the performance monitors, 0 = none.
    pub pmu: u32,
    /// Maintenance interrupt, 0 = none.
    pub maintenance: u32,
    /// Redistributor regions: address and length.
    pub redistributors: Vec<(u64, u32)>,
    /// Address of the translation service.
    pub its: Option<u64>,
    /// MSI frame: address, number of interrupts, first.
    pub frame: Option<(u64, u16, u16)>,
}

/// MADT (5.2.12, revision 4).
#[must_use]
pub fn madt(m: &Madt) -> Vec<u8> {
    let mut out = Out::default();
    out.u32(0).u32(0);
    out.u8(0x0c).u8(24).u16(0).u32(0).u64(m.distributor.0).u32(0).u8(m.distributor.1).zeroes(3);
    for (uid, mpidr) in (0u32..).zip(&m.cpus) {
        let (cpu, virtual_cpu, hypervisor) = m.interfaces;
        out.u8(0x0b).u8(80).u16(0).u32(uid).u32(uid).u32(1).u32(0).u32(m.pmu).u64(0);
        out.u64(cpu).u64(virtual_cpu).u64(hypervisor).u32(m.maintenance).u64(0).u64(*mpidr);
        out.zeroes(4);
    }
    for (base, len) in &m.redistributors {
        out.u8(0x0e).u8(16).u16(0).u64(*base).u32(*len);
    }
    if let Some(base) = m.its {
        out.u8(0x0f).u8(20).u16(0).u32(0).u64(base).u32(0);
    }
    if let Some((base, count, first)) = m.frame {
        out.u8(0x0d).u8(24).u16(0).u32(0).u64(base).u32(1).u16(count).u16(first);
    }
    out.0
}

/// GTDT (5.2.25, revision 3): interrupts of the secure, non-secure, virtual, hypervisor and virtual
/// hypervisor timers (the last 0 = none) and whether they are edge-triggered.
#[must_use]
pub fn gtdt(timers: [u32; 5], edge: bool) -> Vec<u8> {
    const ALWAYS_ON: u32 = 4;
    let mode = u32::from(edge);
    let [secure, plain, virt, hyp, hyp_virt] = timers;
    let mut out = Out::default();
    out.u64(u64::MAX).u32(0).u32(secure).u32(mode).u32(plain).u32(mode | ALWAYS_ON);
    out.u32(virt).u32(mode).u32(hyp).u32(mode).u64(u64::MAX).u32(0).u32(0);
    out.u32(hyp_virt).u32(if hyp_virt == 0 { 0 } else { mode });
    out.0
}

/// MCFG (PCI Firmware Specification 3.3, 4.1.2) of one segment.
#[must_use]
pub fn mcfg(base: u64, last_bus: u8) -> Vec<u8> {
    let mut out = Out::default();
    out.u64(0).u64(base).u16(0).u8(0).u8(last_bus).u32(0);
    out.0
}

/// SPCR revision 2 for a PL011 with a GIC interrupt.
#[must_use]
pub fn spcr(uart: u64, interrupt: u32) -> Vec<u8> {
    let mut out = Out::default();
    // Interface PL011; interrupt by GSIV; 9600 baud, no parity, one stop bit, RTS/CTS, VT100.
    out.u8(3).zeroes(3).address32(uart).u8(8).u8(0).u32(interrupt);
    out.u8(3).u8(0).u8(1).u8(2).u8(0).u8(0);
    // No PCI device.
    out.u16(0xffff).u16(0xffff).zeroes(3).u32(0).u8(0).u32(0);
    out.0
}

/// DBG2 for a PL011 of this address and length, by its name in the DSDT.
#[must_use]
pub fn dbg2(uart: u64, len: u32, name: &str) -> Vec<u8> {
    let name_len = u16::try_from(name.len() + 1).unwrap_or(u16::MAX);
    let mut out = Out::default();
    out.u32(0x2c).u32(1);
    out.u8(0).u16(0x26 + name_len).u8(1).u16(name_len).u16(0x26).u16(0).u16(0);
    out.u16(0x8000).u16(3).u16(0).u16(0x16).u16(0x22).address32(uart).u32(len);
    out.0.extend(name.bytes());
    out.u8(0);
    out.0
}

/// A range of memory of a node.
#[derive(Clone, Copy, Debug)]
pub struct MemoryAffinity {
    /// The node.
    pub node: u32,
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// Memory may come there.
    pub hotplug: bool,
}

/// SRAT (5.2.16, revision 3): the node of each CPU, and ranges of memory.
#[must_use]
pub fn srat(cpus: &[u32], memory: &[MemoryAffinity]) -> Vec<u8> {
    const ENABLED: u32 = 1;
    const HOT_PLUGGABLE: u32 = 2;
    let mut out = Out::default();
    out.u32(1).u64(0);
    for (uid, node) in (0u32..).zip(cpus) {
        out.u8(3).u8(18).u32(*node).u32(uid).u32(ENABLED).u32(0);
    }
    for m in memory {
        let flags = ENABLED | if m.hotplug { HOT_PLUGGABLE } else { 0 };
        out.u8(1).u8(40).u32(m.node).u16(0).u64(m.base).u64(m.len).u32(0).u32(flags).u64(0);
    }
    out.0
}

/// SLIT (5.2.17): distances, row by row.
#[must_use]
pub fn slit(nodes: u64, distances: &[u8]) -> Vec<u8> {
    let mut out = Out::default();
    out.u64(nodes);
    out.0.extend(distances);
    out.0
}

/// Latencies or bandwidths between nodes (5.2.28.4).
#[derive(Clone, Debug)]
pub struct Locality {
    /// Place in the hierarchy, and what the values are of.
    pub kind: (u8, u8),
    /// What the values are multiples of.
    pub base: u64,
    /// Nodes that ask.
    pub initiators: Vec<u32>,
    /// Nodes that are asked.
    pub targets: Vec<u32>,
    /// Row by row.
    pub entries: Vec<u16>,
}

/// A cache in front of memory (5.2.28.5).
#[derive(Clone, Copy, Debug)]
pub struct SideCache {
    /// The node.
    pub node: u32,
    /// Bytes.
    pub size: u64,
    /// Attributes.
    pub attributes: u32,
}

/// HMAT (5.2.28, revision 2). `near` are memory and the node with its nearest CPUs, if known.
#[must_use]
pub fn hmat(near: &[(u32, Option<u32>)], tables: &[Locality], caches: &[SideCache]) -> Vec<u8> {
    /// What QEMU says for an unknown node.
    const NO_NODE: u32 = 128;
    let mut out = Out::default();
    out.u32(0);
    for (memory, initiator) in near {
        out.u16(0).u16(0).u32(40).u16(u16::from(initiator.is_some())).u16(0);
        out.u32(initiator.unwrap_or(NO_NODE)).u32(*memory).u32(0).u64(0).u64(0);
    }
    for t in tables {
        let numbers = t.initiators.len() + t.targets.len();
        let len = 32 + 4 * numbers + 2 * t.entries.len();
        let count = |list: &[u32]| u32::try_from(list.len()).unwrap_or(u32::MAX);
        out.u16(1).u16(0).u32(u32::try_from(len).unwrap_or(u32::MAX));
        out.u8(t.kind.0).u8(t.kind.1).u16(0);
        out.u32(count(&t.initiators)).u32(count(&t.targets)).u32(0).u64(t.base);
        t.initiators.iter().chain(&t.targets).for_each(|node| _ = out.u32(*node));
        t.entries.iter().for_each(|entry| _ = out.u16(*entry));
    }
    for c in caches {
        out.u16(2).u16(0).u32(32).u32(c.node).u32(0).u64(c.size).u32(c.attributes).u16(0).u16(0);
    }
    out.0
}

/// An SMMUv3 in the IORT.
#[derive(Clone, Debug)]
pub struct SmmuNode {
    /// Its registers.
    pub base: u64,
    /// Its event interrupt; page requests, commands and errors follow.
    pub first_interrupt: u32,
    /// Requester identifiers that it sees, in order: first and last.
    pub streams: Vec<(u32, u32)>,
}

/// IORT revision 3: one ITS group and one root complex whose identifiers go to it unchanged, some of
/// them through an SMMU.
#[must_use]
pub fn iort(smmu: Option<&SmmuNode>) -> Vec<u8> {
    const GROUP_AT: u32 = 0x30;
    const SMMU_AT: u32 = 0x48;
    const LAST: u32 = 0xffff;
    let mut out = Out::default();
    out.u32(if smmu.is_some() { 3 } else { 2 }).u32(GROUP_AT).u32(0);
    out.u8(0).u16(0x18).u8(1).u32(0).u32(0).u32(0).u32(1).u32(0);
    let map = |out: &mut Out, (first, last): (u32, u32), to: u32| {
        out.u32(first).u32(last - first).u32(first).u32(to).u32(0);
    };
    let mut maps = Vec::new();
    let mut next = 0;
    if let Some(smmu) = smmu {
        // Coherent; interrupts of events, page requests, errors, commands; one mapping.
        out.u8(4).u16(0x58).u8(4).u32(1).u32(1).u32(0x44).u64(smmu.base).u32(1).u32(0).u64(0);
        let irq = smmu.first_interrupt;
        out.u32(0).u32(irq).u32(irq + 1).u32(irq + 3).u32(irq + 2).u32(0).u32(0);
        map(&mut out, (0, LAST), GROUP_AT);
        let mut around = Vec::new();
        for (first, last) in &smmu.streams {
            maps.push(((*first, *last), SMMU_AT));
            if *first > next {
                around.push(((next, first - 1), GROUP_AT));
            }
            next = next.max(last + 1);
        }
        maps.extend(around);
    }
    if next <= LAST {
        maps.push(((next, LAST), GROUP_AT));
    }
    let count = u32::try_from(maps.len()).unwrap_or(1);
    let len = u16::try_from(0x24 + 20 * count).unwrap_or(u16::MAX);
    // Coherent accesses; 64 address bits.
    out.u8(2).u16(len).u8(3).u32(if smmu.is_some() { 2 } else { 1 }).u32(count).u32(0x24);
    out.u32(1).u8(0).u16(0).u8(3).u32(0).u32(0).u8(64).zeroes(3);
    for (range, to) in maps {
        map(&mut out, range, to);
    }
    out.0
}

/// The arrangement of CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Packages.
    pub sockets: u32,
    /// Clusters of a package; `None`: not told.
    pub clusters: Option<u32>,
    /// Cores of a cluster (or package).
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// PPTT revision 2 (5.2.30) of the first `cpus` CPUs of this arrangement.
#[must_use]
pub fn pptt(shape: Shape, cpus: u32) -> Vec<u8> {
    const PHYSICAL_PACKAGE: u32 = 1;
    const ID_VALID: u32 = 2;
    const IS_THREAD: u32 = 4;
    const LEAF: u32 = 8;
    let mut out = Out::default();
    let node = |out: &mut Out, flags: u32, parent: u32, id: u32| {
        let at = 36 + u32::try_from(out.0.len()).unwrap_or(0);
        out.u8(0).u8(20).u16(0).u32(flags).u32(parent).u32(id).u32(0);
        at
    };
    let mut uid = 0;
    for socket in 0..shape.sockets {
        if uid >= cpus {
            break;
        }
        let package = node(&mut out, PHYSICAL_PACKAGE, 0, socket);
        for cluster in 0..shape.clusters.unwrap_or(1) {
            if uid >= cpus {
                break;
            }
            let above = match shape.clusters {
                Some(_) => node(&mut out, 0, package, cluster),
                None => package,
            };
            for core in 0..shape.cores {
                if uid >= cpus {
                    break;
                }
                if shape.threads == 1 {
                    node(&mut out, ID_VALID | LEAF, above, uid);
                    uid += 1;
                    continue;
                }
                let above = node(&mut out, 0, above, core);
                for _ in 0..shape.threads.min(cpus - uid) {
                    node(&mut out, ID_VALID | IS_THREAD | LEAF, above, uid);
                    uid += 1;
                }
            }
        }
    }
    out.0
}
