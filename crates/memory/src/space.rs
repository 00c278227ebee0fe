//! Address spaces: a root region and its published flat view.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::flat::{FlatRange, FlatView, RamRange};
use crate::mmio::{BusFault, Size, TxAttrs};
use crate::region::Region;

/// Told about every change of an address space, after it is visible.
pub trait Listener: Send + Sync {
    /// `added` and `removed` are the ranges that differ; `view` is the new view.
    fn changed(&self, view: &Arc<FlatView>, added: &[FlatRange], removed: &[FlatRange]);
}

/// A guest physical (or I/O) address space; a cheap handle.
#[derive(Clone)]
pub struct AddressSpace {
    inner: Arc<SpaceInner>,
    name: Arc<str>,
}

pub(crate) struct SpaceInner {
    root: Region,
    view: ArcSwap<FlatView>,
    generation: AtomicU64,
    /// Serialises rebuilding; taken before any region's own locks.
    writer: Mutex<()>,
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
}

impl SpaceInner {
    pub(crate) fn rebuild(&self) {
        let (old, new) = {
            let _writer = self.writer.lock();
            let generation = self.generation.load(Ordering::Relaxed) + 1;
            let new = Arc::new(FlatView::of(&self.root, generation));
            let old = self.view.swap(new.clone());
            // After the view: who sees the new number also finds the new view.
            self.generation.store(generation, Ordering::Release);
            (old, new)
        };
        let listeners: Vec<_> = self.listeners.lock().iter().filter_map(Weak::upgrade).collect();
        if listeners.is_empty() {
            return;
        }
        let added: Vec<_> = new.missing_in(&old).cloned().collect();
        let removed: Vec<_> = old.missing_in(&new).cloned().collect();
        for listener in listeners {
            listener.changed(&new, &added, &removed);
        }
    }
}

impl AddressSpace {
    /// Creates an address space that shows `root`.
    #[must_use]
    pub fn new(name: &str, root: &Region) -> AddressSpace {
        let inner = Arc::new(SpaceInner {
            root: root.clone(),
            view: ArcSwap::from_pointee(FlatView::of(root, 0)),
            generation: AtomicU64::new(0),
            writer: Mutex::new(()),
            listeners: Mutex::default(),
        });
        root.0.spaces.lock().push(Arc::downgrade(&inner));
        inner.rebuild();
        AddressSpace { inner, name: name.into() }
    }

    /// The same space under another name, for monitors: views and listeners are shared, so a change
    /// of the map is worked out once however many names there are.
    #[must_use]
    pub fn named(&self, name: &str) -> AddressSpace {
        AddressSpace { inner: self.inner.clone(), name: name.into() }
    }

    /// The name monitors show.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root region.
    #[must_use]
    pub fn root(&self) -> &Region {
        &self.inner.root
    }

    /// The current view.
    #[must_use]
    pub fn view(&self) -> Arc<FlatView> {
        self.inner.view.load_full()
    }

    /// Generation number of the current view; one load.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// A handle that keeps the view until it changes; one per vCPU or queue.
    #[must_use]
    pub fn cached(&self) -> CachedView {
        CachedView { space: self.clone(), view: self.view() }
    }

    /// Adds a listener and tells it about everything that is there.
    pub fn listen(&self, listener: &Arc<dyn Listener>) {
        let view = {
            let _writer = self.inner.writer.lock();
            self.inner.listeners.lock().push(Arc::downgrade(listener));
            self.view()
        };
        listener.changed(&view, view.ranges(), &[]);
    }

    /// Direct access to RAM at `addr`.
    #[must_use]
    pub fn ram_at(&self, addr: u64) -> Option<RamRange> {
        self.view().ram_at(addr)
    }

    /// Reads one little-endian value.
    pub fn read_uint(&self, addr: u64, size: Size, attrs: TxAttrs) -> Result<u64, BusFault> {
        self.inner.view.load().read(addr, size, attrs)
    }

    /// Writes one little-endian value.
    pub fn write_uint(
        &self,
        addr: u64,
        size: Size,
        value: u64,
        attrs: TxAttrs,
    ) -> Result<(), BusFault> {
        self.view().write(addr, size, value, attrs)
    }

    /// Reads bytes.
    pub fn read(&self, addr: u64, out: &mut [u8], attrs: TxAttrs) -> Result<(), BusFault> {
        self.view().read_bytes(addr, out, attrs)
    }

    /// Writes bytes.
    pub fn write(&self, addr: u64, data: &[u8], attrs: TxAttrs) -> Result<(), BusFault> {
        self.view().write_bytes(addr, data, attrs, false)
    }

    /// Writes bytes into RAM and ROM alike, as firmware loading does.
    pub fn load_rom(&self, addr: u64, data: &[u8]) -> Result<(), BusFault> {
        self.view().write_bytes(addr, data, TxAttrs::default(), true)
    }
}

/// A view kept by one user, renewed when the address space changed.
pub struct CachedView {
    space: AddressSpace,
    view: Arc<FlatView>,
}

impl CachedView {
    /// The current view: one atomic load when nothing changed.
    #[inline]
    pub fn get(&mut self) -> &Arc<FlatView> {
        if self.space.generation() != self.view.generation() {
            self.view = self.space.view();
        }
        &self.view
    }

    /// Whether [`CachedView::get`] would return another view than last time.
    #[inline]
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.space.generation() != self.view.generation()
    }

    /// The address space.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }
}
