//! The immutable flattened view of an address space.

use std::sync::{Arc, Weak};

use guest_ram::RamBlock;

use crate::mmio::{AccessRules, BusFault, Mmio, Size, Target, TxAttrs};
use crate::region::{Body, Region};

/// Aliases nested deeper than this are taken for a cycle and cut.
const MAX_DEPTH: u32 = 32;

/// What answers in a range.
#[derive(Clone)]
pub enum Kind {
    /// RAM or ROM.
    Ram {
        /// The block.
        block: Arc<RamBlock>,
        /// Guest writes are ignored.
        readonly: bool,
    },
    /// ROM whose writes go to a device.
    RomDevice {
        /// What is read.
        block: Arc<RamBlock>,
        /// What takes writes.
        ops: Weak<dyn Mmio>,
        /// The region's rules.
        rules: AccessRules,
    },
    /// Device registers.
    Mmio {
        /// The device.
        ops: Weak<dyn Mmio>,
        /// The region's rules.
        rules: AccessRules,
    },
}

/// One range of a flat view.
#[derive(Clone)]
pub struct FlatRange {
    /// First address.
    pub start: u64,
    /// Last address.
    pub last: u64,
    /// The region that answers.
    pub region: Region,
    /// Offset in the region (and RAM block) of `start`.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
}

/// RAM at an address, for code that reads and writes it directly.
#[derive(Clone, Debug)]
pub struct RamRange {
    /// Host address of the byte that was asked for.
    pub host: *mut u8,
    /// Bytes from there to the end of the range.
    pub len: u64,
    /// Guest address of the range's first byte.
    pub pa_base: u64,
    /// Guest writes are to be ignored.
    pub readonly: bool,
    /// The block, to be kept while `host` is used, and marked dirty on writes.
    pub block: Arc<RamBlock>,
    /// Offset in the block of the byte that was asked for.
    pub offset: u64,
}

// `host` is an address inside `block`, which is Send and Sync; using it is
// unsafe anyway, so the struct stays !Send only by the raw pointer.

impl FlatRange {
    /// Whether the range is RAM or ROM.
    #[must_use]
    pub fn is_ram(&self) -> bool {
        self.memory().is_some()
    }

    /// The RAM that guests may write: its block and the range's offset in it.
    #[must_use]
    pub fn writable_block(&self) -> Option<(&Arc<RamBlock>, u64)> {
        self.memory().filter(|(_, readonly)| !readonly).map(|(block, _)| (block, self.offset))
    }

    /// The block that is read, and whether writes do not reach it.
    fn memory(&self) -> Option<(&Arc<RamBlock>, bool)> {
        match &self.kind {
            Kind::Ram { block, readonly } => Some((block, *readonly)),
            Kind::RomDevice { block, .. } => Some((block, true)),
            Kind::Mmio { .. } => None,
        }
    }

    /// Bytes from `addr`, which must be in the range, to its end, saturating.
    #[must_use]
    pub fn len_from(&self, addr: u64) -> u64 {
        (self.last - addr.clamp(self.start, self.last)).saturating_add(1)
    }

    /// The offset in the region of an address in the range.
    #[must_use]
    pub fn offset_of(&self, addr: u64) -> u64 {
        self.offset.wrapping_add(addr.wrapping_sub(self.start))
    }

    /// Direct access to RAM at `addr`; `None` for device registers.
    #[must_use]
    pub fn ram_at(&self, addr: u64) -> Option<RamRange> {
        let (block, readonly) = self.memory()?;
        if addr < self.start || addr > self.last {
            return None;
        }
        let offset = self.offset_of(addr);
        let index = usize::try_from(offset).ok()?;
        Some(RamRange {
            host: block.host_ptr().wrapping_add(index),
            len: self.len_from(addr),
            pa_base: self.start,
            readonly,
            block: block.clone(),
            offset,
        })
    }

    /// Reads at an address in the range, RAM or device; little-endian.
    pub fn read(&self, addr: u64, size: Size, attrs: TxAttrs) -> Result<u64, BusFault> {
        let offset = self.offset_of(addr);
        match &self.kind {
            Kind::Ram { block, .. } | Kind::RomDevice { block, .. } => {
                block.load(offset, size as u32).map_err(|_| BusFault::Decode)
            }
            Kind::Mmio { ops, rules } => {
                let ops = ops.upgrade().ok_or(BusFault::Decode)?;
                let target = Target { ops: &*ops, rules, counters: self.region.counters() };
                target.read(offset, size, attrs)
            }
        }
    }

    /// Writes at an address in the range, RAM or device; little-endian.
    pub fn write(&self, addr: u64, size: Size, value: u64, attrs: TxAttrs) -> Result<(), BusFault> {
        let offset = self.offset_of(addr);
        match &self.kind {
            Kind::Ram { readonly: true, .. } => Ok(()),
            Kind::Ram { block, .. } => {
                block.store(offset, size as u32, value).map_err(|_| BusFault::Decode)
            }
            Kind::Mmio { ops, rules } | Kind::RomDevice { ops, rules, .. } => {
                let ops = ops.upgrade().ok_or(BusFault::Decode)?;
                let target = Target { ops: &*ops, rules, counters: self.region.counters() };
                target.write(offset, size, value, attrs)
            }
        }
    }

    fn same_as(&self, other: &FlatRange) -> bool {
        self.start == other.start
            && self.last == other.last
            && self.region == other.region
            && self.offset == other.offset
    }
}

/// The ranges of an address space, sorted, without overlap.
pub struct FlatView {
    ranges: Box<[FlatRange]>,
    generation: u64,
}

impl FlatView {
    /// Flattens the graph under `root`.
    #[must_use]
    pub fn of(root: &Region, generation: u64) -> FlatView {
        let mut render = Render { out: Vec::new() };
        render.region(root, 0, (0, u128::from(root.last())), 0);
        render.out.sort_by_key(|r| r.start);
        FlatView { ranges: render.out.into(), generation }
    }

    /// All ranges in address order.
    #[must_use]
    pub fn ranges(&self) -> &[FlatRange] {
        &self.ranges
    }

    /// Grows with every change of the address space.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The range an address is in.
    #[must_use]
    pub fn lookup(&self, addr: u64) -> Option<&FlatRange> {
        let index = self.ranges.partition_point(|r| r.start <= addr);
        let range = self.ranges.get(index.checked_sub(1)?)?;
        (addr <= range.last).then_some(range)
    }

    /// Direct access to RAM at `addr`.
    #[must_use]
    pub fn ram_at(&self, addr: u64) -> Option<RamRange> {
        self.lookup(addr)?.ram_at(addr)
    }

    /// Ranges of `self` that are not the same in `other`.
    pub fn missing_in<'a>(
        &'a self,
        other: &'a FlatView,
    ) -> impl Iterator<Item = &'a FlatRange> + 'a {
        self.ranges.iter().filter(|r| !other.lookup(r.start).is_some_and(|o| o.same_as(r)))
    }

    /// Reads one value that lies in one range.
    pub fn read(&self, addr: u64, size: Size, attrs: TxAttrs) -> Result<u64, BusFault> {
        let range = self.lookup(addr).ok_or(BusFault::Decode)?;
        if range.len_from(addr) >= size.bytes() {
            return range.read(addr, size, attrs);
        }
        let mut value = 0;
        for i in 0..size.bytes() {
            value |= self.read(addr.wrapping_add(i), Size::B1, attrs)? << (8 * i);
        }
        Ok(value)
    }

    /// Writes one value, which may reach over the end of a range.
    pub fn write(&self, addr: u64, size: Size, value: u64, attrs: TxAttrs) -> Result<(), BusFault> {
        let range = self.lookup(addr).ok_or(BusFault::Decode)?;
        if range.len_from(addr) >= size.bytes() {
            return range.write(addr, size, value, attrs);
        }
        for i in 0..size.bytes() {
            let byte = (value >> (8 * i)) & 0xff;
            self.write(addr.wrapping_add(i), Size::B1, byte, attrs)?;
        }
        Ok(())
    }

    /// Reads any number of bytes, RAM in bulk, registers piecewise.
    pub fn read_bytes(&self, addr: u64, out: &mut [u8], attrs: TxAttrs) -> Result<(), BusFault> {
        let (mut addr, mut rest) = (addr, out);
        while !rest.is_empty() {
            let range = self.lookup(addr).ok_or(BusFault::Decode)?;
            let room = range.len_from(addr).min(rest.len() as u64);
            let n = if range.is_ram() { room } else { Size::largest_at(addr, room).bytes() };
            let (part, tail) = rest.split_at_mut(usize::try_from(n).unwrap_or(usize::MAX));
            if let Some((block, _)) = range.memory() {
                block.read(range.offset_of(addr), part).map_err(|_| BusFault::Decode)?;
            } else {
                let size = Size::from_bytes(n).unwrap_or(Size::B1);
                let value = range.read(addr, size, attrs)?.to_le_bytes();
                part.iter_mut().zip(value).for_each(|(p, v)| *p = v);
            }
            addr = addr.wrapping_add(n);
            rest = tail;
        }
        Ok(())
    }

    /// Writes any number of bytes. With `force`, ROM is written too (loaders).
    pub fn write_bytes(
        &self,
        addr: u64,
        data: &[u8],
        attrs: TxAttrs,
        force: bool,
    ) -> Result<(), BusFault> {
        let (mut addr, mut rest) = (addr, data);
        while !rest.is_empty() {
            let range = self.lookup(addr).ok_or(BusFault::Decode)?;
            let room = range.len_from(addr).min(rest.len() as u64);
            let whole = match range.kind {
                Kind::Ram { .. } => true,
                Kind::RomDevice { .. } => force,
                Kind::Mmio { .. } => false,
            };
            let n = if whole { room } else { Size::largest_at(addr, room).bytes() };
            let (part, tail) = rest.split_at(usize::try_from(n).unwrap_or(usize::MAX));
            match &range.kind {
                Kind::Ram { readonly: true, .. } if !force => {}
                Kind::RomDevice { block, .. } if force => {
                    block.write(range.offset_of(addr), part).map_err(|_| BusFault::Decode)?;
                }
                Kind::Ram { block, .. } => {
                    block.write(range.offset_of(addr), part).map_err(|_| BusFault::Decode)?;
                }
                Kind::Mmio { .. } | Kind::RomDevice { .. } => {
                    let mut value = [0; 8];
                    value.iter_mut().zip(part).for_each(|(v, p)| *v = *p);
                    let size = Size::from_bytes(n).unwrap_or(Size::B1);
                    range.write(addr, size, u64::from_le_bytes(value), attrs)?;
                }
            }
            addr = addr.wrapping_add(n);
            rest = tail;
        }
        Ok(())
    }
}

/// Flattening: regions are visited from the most to the least important, and
/// each takes what is still free of its clip.
struct Render {
    out: Vec<FlatRange>,
}

impl Render {
    /// Places `region` with its offset 0 at `base` (may be negative for an alias
    /// into the middle), visible only inside `clip` (inclusive).
    fn region(&mut self, region: &Region, base: i128, clip: (u128, u128), depth: u32) {
        if depth > MAX_DEPTH || !region.is_enabled() {
            return;
        }
        let (Ok(clip_first), Ok(clip_last)) = (i128::try_from(clip.0), i128::try_from(clip.1))
        else {
            return;
        };
        let first = base.max(clip_first);
        let last = (base + i128::from(region.last())).min(clip_last);
        if first > last {
            return;
        }
        let clip = (first.unsigned_abs(), last.unsigned_abs());
        if let Body::Alias { target, offset } = &region.0.body {
            self.region(target, base - i128::from(*offset), clip, depth + 1);
            return;
        }
        for child in region.children() {
            self.region(&child.region, base + i128::from(child.at), clip, depth + 1);
        }
        let kind = match &region.0.body {
            Body::RomDevice { block, ops, rules } => {
                Kind::RomDevice { block: block.clone(), ops: ops.clone(), rules: *rules }
            }
            Body::Mmio { ops, rules } => Kind::Mmio { ops: ops.clone(), rules: *rules },
            Body::Ram { block, readonly } => {
                Kind::Ram { block: block.clone(), readonly: *readonly }
            }
            Body::Container | Body::Alias { .. } => return,
        };
        self.fill(region, base, clip, &kind);
    }

    /// Adds the parts of `clip` that nothing more important took.
    fn fill(&mut self, region: &Region, base: i128, clip: (u128, u128), kind: &Kind) {
        let mut taken: Vec<(u128, u128)> =
            self.out.iter().map(|r| (u128::from(r.start), u128::from(r.last))).collect();
        taken.sort_unstable();
        let mut from = clip.0;
        for (start, last) in taken {
            if last < from || start > clip.1 {
                continue;
            }
            if start > from {
                self.push(region, base, (from, start - 1), kind);
            }
            from = last + 1;
        }
        if from <= clip.1 {
            self.push(region, base, (from, clip.1), kind);
        }
    }

    fn push(&mut self, region: &Region, base: i128, at: (u128, u128), kind: &Kind) {
        let (Ok(start), Ok(last), Ok(first)) =
            (u64::try_from(at.0), u64::try_from(at.1), i128::try_from(at.0))
        else {
            return;
        };
        let Ok(offset) = u64::try_from(first - base) else { return };
        self.out.push(FlatRange {
            start,
            last,
            region: region.clone(),
            offset,
            kind: kind.clone(),
        });
    }
}
