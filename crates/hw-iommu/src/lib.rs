//! IOMMUs: devices in front of memory that translate other devices' requests.
//!
//! One folder per device. It offers `Arc<dyn pci::Iommu>`, which a board puts in front of the functions
//! behind a host bridge; the bus tells it who asks. Requests come while devices hold their locks, so an
//! IOMMU reads and writes RAM only and sets nothing but interrupt lines. Not here: IOMMUs that guests
//! drive by virtio, and the way from a function to its IOMMU (crate `pci`).
//! Sources: named in each file.

pub mod smmuv3;
