//! Properties that every virtio device has.

use derive::Qapi;

use crate::feature;

/// On, off, or as the circumstances say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum OnOffAuto {
    /// On.
    On,
    /// Off.
    Off,
    /// As the circumstances say.
    Auto,
}

/// Properties that every virtio device has; names and defaults are the peer's.
#[derive(Clone, Debug, Qapi)]
pub struct Common {
    /// Offer indirect descriptors
    #[qapi(name = "indirect_desc", default = true)]
    pub indirect_desc: bool,
    /// Offer the event index
    #[qapi(name = "event_idx", default = true)]
    pub event_idx: bool,
    /// Offer legacy drivers an interrupt when they run out of buffers
    #[qapi(name = "notify_on_empty", default = true)]
    pub notify_on_empty: bool,
    /// Offer legacy drivers any layout of buffers
    #[qapi(name = "any_layout", default = true)]
    pub any_layout: bool,
    /// Tell the driver that the platform limits its accesses
    #[qapi(name = "iommu_platform", default = false)]
    pub iommu_platform: bool,
    /// Offer packed rings
    #[qapi(default = false)]
    pub packed: bool,
    /// Offer to reset one queue
    #[qapi(name = "queue_reset", default = true)]
    pub queue_reset: bool,
    /// Offer use of buffers in order
    #[qapi(name = "in_order", default = false)]
    pub in_order: bool,
    /// Compatibility switch of the peer; without effect
    #[qapi(name = "use-started", default = true)]
    pub use_started: bool,
    /// Compatibility switch of the peer; without effect
    #[qapi(name = "use-disabled-flag", default = true)]
    pub use_disabled_flag: bool,
    /// Compatibility switch of the peer; without effect
    #[qapi(name = "x-disable-legacy-check", default = false)]
    pub x_disable_legacy_check: bool,
}

impl Common {
    /// The features these properties offer.
    #[must_use]
    pub fn features(&self) -> u64 {
        [
            (self.indirect_desc, feature::INDIRECT_DESC),
            (self.event_idx, feature::EVENT_IDX),
            (self.notify_on_empty, feature::NOTIFY_ON_EMPTY),
            (self.any_layout, feature::ANY_LAYOUT),
            (self.iommu_platform, feature::ACCESS_PLATFORM),
            (self.packed, feature::RING_PACKED),
            (self.queue_reset, feature::RING_RESET),
            (self.in_order, feature::IN_ORDER),
        ]
        .into_iter()
        .fold(0, |all, (on, bit)| if on { all | bit } else { all })
    }
}
