//! What an IOMMU is for a host bridge: requests with their requester's identifier are translated.
//!
//! A root bus that bypasses it has none. Not here: IOMMUs themselves (crate `hw-iommu`), address
//! translation services. Source: PCI Express Base 5.0, 2.2.6.2 (requester identifiers).

use std::sync::Arc;

use device::{Translate, Translated};

use crate::bus::Requester;

/// Translates requests of the functions behind a host bridge.
pub trait Iommu: Send + Sync {
    /// Where an address of a requester leads; `None`: refused.
    fn translate(&self, requester: u16, addr: u64, write: bool) -> Option<Translated>;
}

/// An IOMMU as one function sees it.
pub(crate) struct Stream {
    pub(crate) iommu: Arc<dyn Iommu>,
    pub(crate) requester: Requester,
}

impl Translate for Stream {
    fn translate(&self, addr: u64, write: bool) -> Option<Translated> {
        self.iommu.translate(self.requester.id(), addr, write)
    }
}
