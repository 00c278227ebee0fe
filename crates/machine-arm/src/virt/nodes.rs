//! What ACPI and the device tree say of nodes of memory and CPUs.

use firmware::acpi::fixed;
use firmware::{Fdt, Prop};
use machine::Board;
use machine::numa::{Associativity, Cache, Table, WritePolicy};

use super::{Plan, map};

/// Ranges of RAM with their nodes: node, first address, length.
pub(super) fn ranges(board: &Board<'_>) -> Vec<(u16, u64, u64)> {
    let mut at = map::RAM;
    let mut out = Vec::new();
    for (id, node) in (0u16..).zip(&board.config.numa.nodes) {
        if node.mem > 0 {
            out.push((id, at, node.mem));
        }
        at = at.saturating_add(node.mem);
    }
    out
}

/// The node of a CPU, if there are nodes.
pub(super) fn of_cpu(board: &Board<'_>, index: usize) -> Option<u32> {
    let index = u32::try_from(index).ok()?;
    board.config.numa.node_of(index, board.config.topology()).map(u32::from)
}

/// SRAT, SLIT and HMAT.
pub(super) fn tables(plan: &Plan, board: &Board<'_>) -> Vec<(&'static [u8; 4], u8, Vec<u8>)> {
    let numa = &board.config.numa;
    let mut out: Vec<(&'static [u8; 4], u8, Vec<u8>)> = Vec::new();
    if !numa.is_on() {
        return out;
    }
    let cpus: Vec<u32> =
        (0..plan.ids.len()).map(|index| of_cpu(board, index).unwrap_or(0)).collect();
    let mut memory: Vec<_> = ranges(board)
        .into_iter()
        .map(|(node, base, len)| fixed::MemoryAffinity {
            node: node.into(),
            base,
            len,
            hotplug: false,
        })
        .collect();
    if let Some((base, len)) = plan.plugged {
        let node = u32::try_from(numa.nodes.len().saturating_sub(1)).unwrap_or(0);
        memory.push(fixed::MemoryAffinity { node, base, len, hotplug: true });
    }
    out.push((b"SRAT", 3, fixed::srat(&cpus, &memory)));
    let ids = || 0..u16::try_from(numa.nodes.len()).unwrap_or(u16::MAX);
    if numa.has_distances() {
        let all: Vec<u8> =
            ids().flat_map(|from| ids().map(move |to| numa.distance(from, to))).collect();
        out.push((b"SLIT", 1, fixed::slit(numa.nodes.len() as u64, &all)));
    }
    if board.config.hmat {
        out.push((b"HMAT", 2, hmat(board)));
    }
    out
}

fn hmat(board: &Board<'_>) -> Vec<u8> {
    let numa = &board.config.numa;
    let near: Vec<_> = (0u32..)
        .zip(&numa.nodes)
        .filter(|(_, node)| node.mem > 0)
        .map(|(id, node)| {
            let own = numa.initiators().iter().any(|i| u32::from(*i) == id).then_some(id);
            (id, node.initiator.map(u32::from).or(own))
        })
        .collect();
    let tables: Vec<_> = numa.tables.iter().map(|table| locality(board, table)).collect();
    let caches: Vec<_> = numa.caches.iter().map(|cache| side_cache(cache, &numa.caches)).collect();
    fixed::hmat(&near, &tables, &caches)
}

fn locality(board: &Board<'_>, table: &Table) -> fixed::Locality {
    /// Latencies are told in picoseconds.
    const PER_NS: u64 = 1000;
    let numa = &board.config.numa;
    let initiators = numa.initiators();
    let targets = 0..u16::try_from(numa.nodes.len()).unwrap_or(u16::MAX);
    let base = table.base();
    let value = |from: u16, to: u16| {
        let found = table.values.iter().find(|(f, t, _)| (*f, *t) == (from, to));
        u16::try_from(found.map_or(0, |(.., v)| v / base)).unwrap_or(u16::MAX)
    };
    let entries = initiators.iter().flat_map(|from| targets.clone().map(|to| value(*from, to)));
    fixed::Locality {
        kind: (table.hierarchy as u8, table.data as u8),
        base: if table.data.is_latency() { base.saturating_mul(PER_NS) } else { base },
        entries: entries.collect(),
        initiators: initiators.iter().map(|i| u32::from(*i)).collect(),
        targets: targets.clone().map(u32::from).collect(),
    }
}

fn side_cache(cache: &Cache, all: &[Cache]) -> fixed::SideCache {
    let levels = all.iter().filter(|c| c.node == cache.node).count();
    let levels = u32::try_from(levels).unwrap_or(0) & 0xf;
    let associativity = match cache.associativity {
        Associativity::None => 0,
        Associativity::Direct => 1,
        Associativity::Complex => 2,
    };
    let policy = match cache.policy {
        WritePolicy::None => 0,
        WritePolicy::WriteBack => 1,
        WritePolicy::WriteThrough => 2,
    };
    let level = u32::from(cache.level) << 4;
    let attributes =
        levels | level | associativity << 8 | policy << 12 | u32::from(cache.line) << 16;
    fixed::SideCache { node: cache.node.into(), size: cache.size, attributes }
}

/// The distances (Linux's binding `numa-distance-map-v1`).
pub(super) fn distance_map(t: &mut Fdt, board: &Board<'_>) {
    let numa = &board.config.numa;
    if !numa.has_distances() {
        return;
    }
    let ids = || 0..u16::try_from(numa.nodes.len()).unwrap_or(u16::MAX);
    let cells = ids().flat_map(|from| {
        ids().flat_map(move |to| [from.into(), to.into(), numa.distance(from, to).into()])
    });
    t.set("/distance-map", "distance-matrix", Prop::Cells(cells.collect()));
    t.set("/distance-map", "compatible", Prop::str("numa-distance-map-v1"));
}
