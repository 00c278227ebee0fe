//! The guest's memory map.
//!
//! [`Region`]s form a graph of RAM, ROM, device registers, containers and
//! aliases with priorities. An [`AddressSpace`] flattens the graph under one root
//! into an immutable [`FlatView`], published without locks: readers keep an `Arc`
//! and compare a generation number ([`CachedView`]). The dispatcher splits,
//! widens and byte-swaps accesses by [`AccessRules`] once, so devices see only
//! what they declared; it counts every access and refuses same-thread re-entry
//! into a device. [`Dma`] is a device's way to guest memory, through an IOMMU
//! if there is one in front of it. Not here: IOMMUs themselves, caching of lookups inside a JIT (its own matter).
//! Sources: QEMU 10.0's observable `info mtree` output (text form and overlap
//! rules); the design pages.

mod dma;
mod flat;
mod mmio;
mod mtree;
mod region;
mod space;

pub use dma::{Dma, DmaFault, DmaView, Front, Plain, Translate, Translated};
pub use flat::{FlatRange, FlatView, Kind, RamRange};
pub use guest_ram::{RamSlice, read_from, write_to};
pub use mmio::{Access, AccessRules, BusFault, Counters, Mmio, Size, TxAttrs};
pub use mtree::{mtree, mtree_flat};
pub use region::Region;
pub use space::{AddressSpace, CachedView, Listener};

#[cfg(test)]
mod tests;
