//! IOMMUs: devices in front of memory that translate other devices' requests.
//!
//! A device offers `Arc<dyn pci::Iommu>`, which a board puts in front of a host bridge's functions.
//! Sources: named in each file.

pub mod smmuv3;
