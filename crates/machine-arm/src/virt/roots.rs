//! PCI root buses as ACPI and firmware are told of them: numbers, and what devices there were given.

use std::sync::Arc;

use machine::Board;
use pci::{FunctionInfo, PciBus};

/// First and last address.
pub(super) type Range = (u64, u64);

/// A root bus.
#[derive(Clone, Debug, Default)]
pub(super) struct Root {
    /// Its number.
    pub(super) number: u8,
    /// The last number behind it.
    pub(super) last: u8,
    /// Its node of memory.
    pub(super) node: Option<u16>,
    /// Devices there go around the IOMMU.
    pub(super) bypass: bool,
    /// Ports of devices there.
    pub(super) io: Vec<Range>,
    /// Memory below 4 GiB.
    pub(super) memory: Vec<Range>,
    /// Memory beyond.
    pub(super) wide: Vec<Range>,
}

/// All root buses.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots {
    /// The host bridge's own.
    pub(super) own: Root,
    /// Those behind expanders, the newest first.
    pub(super) others: Vec<Root>,
}

/// The host bridge's bus, if there is one.
pub(super) fn bus(board: &Board<'_>) -> Option<Arc<PciBus>> {
    board.record("gpex")?.ability()
}

/// Ranges in order, those that touch joined.
fn joined(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

impl Root {
    fn of(bus: &PciBus) -> Root {
        let number = bus.number();
        let expander = bus.expander_traits();
        let mut root = Root {
            number,
            last: number,
            node: expander.node,
            bypass: expander.bypass,
            ..Root::default()
        };
        for function in bus.list() {
            root.add(&function);
        }
        root.io = joined(std::mem::take(&mut root.io));
        root.memory = joined(std::mem::take(&mut root.memory));
        root.wide = joined(std::mem::take(&mut root.wide));
        root
    }

    fn add_memory(&mut self, range: Range) {
        let low = range.1 <= u64::from(u32::MAX);
        if low { self.memory.push(range) } else { self.wide.push(range) }
    }

    fn add(&mut self, function: &FunctionInfo) {
        for region in &function.regions {
            let Some(first) = region.address else { continue };
            let last = first.saturating_add(region.size.saturating_sub(1));
            if region.io { self.io.push((first, last)) } else { self.add_memory((first, last)) }
        }
        let Some(bridge) = &function.bridge else { return };
        let [_, _, last] = bridge.numbers;
        self.last = self.last.max(last);
        let [io, memory, prefetch] = bridge.windows;
        let is_open = |(first, last): Range| first != 0 && first <= last;
        if is_open(io) {
            self.io.push(io);
        }
        for window in [memory, prefetch].into_iter().filter(|w| is_open(*w)) {
            self.add_memory(window);
        }
    }
}

impl Roots {
    /// As the guest arranged them until now.
    pub(super) fn of(bus: Option<&Arc<PciBus>>) -> Roots {
        let Some(bus) = bus else { return Roots::default() };
        let others = bus.newest_expanders().iter().map(|bus| Root::of(bus)).collect();
        Roots { own: Root::of(bus), others }
    }

    /// What of a window the buses behind expanders leave.
    pub(super) fn free(&self, window: Range, of: fn(&Root) -> &[Range]) -> Vec<Range> {
        let mut taken: Vec<Range> =
            self.others.iter().flat_map(|root| of(root).iter().copied()).collect();
        taken = joined(taken);
        let (mut at, end) = window;
        let mut out = Vec::new();
        for (first, last) in taken.into_iter().filter(|r| r.1 >= window.0 && r.0 <= window.1) {
            if first > at {
                out.push((at, first - 1));
            }
            at = at.max(last.saturating_add(1));
        }
        if at <= end {
            out.push((at, end));
        }
        out
    }

    /// Ranges of requester identifiers that an IOMMU sees: first and last.
    pub(super) fn translated(&self, own_bypasses: bool) -> Vec<(u32, u32)> {
        let ids = |root: &Root| (u32::from(root.number) << 8, u32::from(root.last) << 8 | 0xff);
        let own = (!own_bypasses).then(|| ids(&self.own));
        let others = self.others.iter().filter(|root| !root.bypass).map(ids);
        let mut all: Vec<_> = own.into_iter().chain(others).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_bus_has_what_is_left() {
        let memory = vec![(0x1020, 0x103f), (0x1044, 0x1044), (0x1045, 0x1046)];
        let other = Root { memory: joined(memory), ..Root::default() };
        assert_eq!(other.memory, [(0x1020, 0x103f), (0x1044, 0x1046)]);
        let roots = Roots { others: vec![other], ..Roots::default() };
        let free = roots.free((0x1000, 0x2000), |r| &r.memory);
        assert_eq!(free, [(0x1000, 0x101f), (0x1040, 0x1043), (0x1047, 0x2000)]);
    }
}
