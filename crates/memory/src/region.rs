//! The graph of regions.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use guest_ram::RamBlock;
use parking_lot::Mutex;

use crate::mmio::{AccessRules, Counters, Mmio};
use crate::space::SpaceInner;

/// A piece of the memory map; a cheap handle.
#[derive(Clone)]
pub struct Region(pub(crate) Arc<RegionInner>);

pub(crate) struct RegionInner {
    pub(crate) name: String,
    /// Length minus one, so that the whole 64-bit space can be said.
    pub(crate) last: u64,
    pub(crate) body: Body,
    pub(crate) enabled: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) children: Mutex<Vec<Child>>,
    /// Containers this is mapped in and aliases of it: where changes spread to.
    parents: Mutex<Vec<Weak<RegionInner>>>,
    /// Address spaces this is the root of.
    pub(crate) spaces: Mutex<Vec<Weak<SpaceInner>>>,
    /// Counts changes of `children`; newer wins among equals.
    order: AtomicU64,
}

pub(crate) enum Body {
    Container,
    Mmio { ops: Weak<dyn Mmio>, rules: AccessRules },
    Ram { block: Arc<RamBlock>, readonly: bool },
    RomDevice { block: Arc<RamBlock>, ops: Weak<dyn Mmio>, rules: AccessRules },
    Alias { target: Region, offset: u64 },
}

#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) at: u64,
    pub(crate) region: Region,
    pub(crate) priority: i32,
    order: u64,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({}, last {:#x})", self.0.name, self.0.last)
    }
}

impl PartialEq for Region {
    fn eq(&self, other: &Region) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Region {
    fn new(name: &str, len: u64, body: Body) -> Region {
        Region(Arc::new(RegionInner {
            name: name.to_owned(),
            last: len.saturating_sub(1),
            body,
            enabled: AtomicBool::new(len > 0),
            counters: Counters::default(),
            children: Mutex::default(),
            parents: Mutex::default(),
            spaces: Mutex::default(),
            order: AtomicU64::new(0),
        }))
    }

    /// Device registers. Keeps only a weak reference to the device: once it is
    /// gone, accesses fault.
    #[must_use]
    pub fn mmio<T: Mmio>(name: &str, len: u64, rules: AccessRules, ops: &Arc<T>) -> Region {
        let weak: Weak<T> = Arc::downgrade(ops);
        Region::weak_mmio(name, len, rules, weak)
    }

    /// As [`Region::mmio`], from a weak reference (for `Arc::new_cyclic`).
    #[must_use]
    pub fn weak_mmio(name: &str, len: u64, rules: AccessRules, ops: Weak<dyn Mmio>) -> Region {
        Region::new(name, len, Body::Mmio { ops, rules })
    }

    /// RAM; the whole block.
    #[must_use]
    pub fn ram(name: &str, block: Arc<RamBlock>) -> Region {
        Region::new(name, block.len(), Body::Ram { block, readonly: false })
    }

    /// ROM: guest writes are ignored.
    #[must_use]
    pub fn rom(name: &str, block: Arc<RamBlock>) -> Region {
        Region::new(name, block.len(), Body::Ram { block, readonly: true })
    }

    /// A ROM device: reads come from the block at RAM's speed, writes go to the device. Keeps
    /// only a weak reference to it, as [`Region::mmio`] does.
    #[must_use]
    pub fn weak_rom_device(
        name: &str,
        block: Arc<RamBlock>,
        rules: AccessRules,
        ops: Weak<dyn Mmio>,
    ) -> Region {
        Region::new(name, block.len(), Body::RomDevice { block, ops, rules })
    }

    /// A window of `len` bytes onto another region from `offset` on.
    #[must_use]
    pub fn alias(name: &str, target: &Region, offset: u64, len: u64) -> Region {
        let body = Body::Alias { target: target.clone(), offset };
        let alias = Region::new(name, len, body);
        target.0.parents.lock().push(Arc::downgrade(&alias.0));
        alias
    }

    /// An empty container of `len` bytes.
    #[must_use]
    pub fn container(name: &str, len: u64) -> Region {
        Region::new(name, len, Body::Container)
    }

    /// A container of the whole 64-bit space.
    #[must_use]
    pub fn root(name: &str) -> Region {
        let mut region = Region::new(name, 1, Body::Container);
        if let Some(inner) = Arc::get_mut(&mut region.0) {
            inner.last = u64::MAX;
        }
        region
    }

    /// The name given at creation.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The last offset in the region.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.last
    }

    /// Length in bytes (saturating for the whole 64-bit space).
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.0.last.saturating_add(1)
    }

    /// The RAM block behind a RAM or ROM region.
    #[must_use]
    pub fn ram_block(&self) -> Option<&Arc<RamBlock>> {
        match &self.0.body {
            Body::Ram { block, .. } | Body::RomDevice { block, .. } => Some(block),
            _ => None,
        }
    }

    /// The RAM blocks in this region and everything mapped in it, shown or not, each once and in the
    /// order of finding.
    #[must_use]
    pub fn ram_blocks(&self) -> Vec<Arc<RamBlock>> {
        let mut todo = vec![self.clone()];
        let mut seen: Vec<Region> = Vec::new();
        let mut blocks: Vec<Arc<RamBlock>> = Vec::new();
        while let Some(region) = todo.pop() {
            if seen.contains(&region) {
                continue;
            }
            if let Some(block) = region.ram_block()
                && !blocks.iter().any(|known| Arc::ptr_eq(known, block))
            {
                blocks.push(block.clone());
            }
            if let Body::Alias { target, .. } = &region.0.body {
                todo.push(target.clone());
            }
            todo.extend(region.children().into_iter().map(|child| child.region));
            seen.push(region);
        }
        blocks
    }

    /// Access counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Maps `child` at offset `at`. Where children overlap, the higher priority
    /// wins, and among equals the one mapped last.
    pub fn map(&self, at: u64, child: &Region, priority: i32) {
        child.0.parents.lock().push(Arc::downgrade(&self.0));
        let order = self.0.order.fetch_add(1, Ordering::Relaxed);
        {
            let mut children = self.0.children.lock();
            children.push(Child { at, region: child.clone(), priority, order });
            children.sort_by_key(|c| (std::cmp::Reverse(c.priority), std::cmp::Reverse(c.order)));
        }
        self.changed();
    }

    /// Takes `child` out again.
    pub fn unmap(&self, child: &Region) {
        self.0.children.lock().retain(|c| c.region != *child);
        child.0.parents.lock().retain(|p| !std::ptr::eq(p.as_ptr(), Arc::as_ptr(&self.0)));
        self.changed();
    }

    /// Moves a mapped child to another offset.
    pub fn move_child(&self, child: &Region, at: u64) {
        for c in self.0.children.lock().iter_mut().filter(|c| c.region == *child) {
            c.at = at;
        }
        self.changed();
    }

    /// Shows or hides the region wherever it is mapped.
    pub fn set_enabled(&self, on: bool) {
        if self.0.enabled.swap(on, Ordering::AcqRel) != on {
            self.changed();
        }
    }

    /// Whether the region is shown.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.enabled.load(Ordering::Acquire)
    }

    pub(crate) fn children(&self) -> Vec<Child> {
        self.0.children.lock().clone()
    }

    /// Rebuilds the views of every address space that can see this region.
    fn changed(&self) {
        let mut todo = vec![self.clone()];
        let mut seen: Vec<*const RegionInner> = Vec::new();
        let mut spaces: Vec<Arc<SpaceInner>> = Vec::new();
        while let Some(region) = todo.pop() {
            if seen.contains(&Arc::as_ptr(&region.0)) {
                continue;
            }
            seen.push(Arc::as_ptr(&region.0));
            for space in region.0.spaces.lock().iter().filter_map(Weak::upgrade) {
                if !spaces.iter().any(|s| Arc::ptr_eq(s, &space)) {
                    spaces.push(space);
                }
            }
            todo.extend(region.0.parents.lock().iter().filter_map(Weak::upgrade).map(Region));
        }
        for space in spaces {
            space.rebuild();
        }
    }
}
