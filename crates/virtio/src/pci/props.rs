//! Properties of the PCI transport, with the peer's names and defaults.

use derive::Qapi;
use qapi::{Error, Result};

use crate::OnOffAuto;

/// Which interfaces are shown; absent from devices that say it by their names.
#[derive(Clone, Copy, Debug, Qapi)]
pub struct Modes {
    /// Do not show the legacy interface; auto: show it on the root bus
    #[qapi(name = "disable-legacy", default = "auto")]
    pub disable_legacy: OnOffAuto,
    /// Do not show the interface of version 1.0 and later
    #[qapi(name = "disable-modern", default = false)]
    pub disable_modern: bool,
}

impl Modes {
    /// Both interfaces.
    pub const TRANSITIONAL: Modes = Modes { disable_legacy: OnOffAuto::Off, disable_modern: false };
    /// Only that of version 1.0 and later.
    pub const MODERN: Modes = Modes { disable_legacy: OnOffAuto::On, disable_modern: false };
}

/// Everything else.
#[derive(Clone, Debug, Qapi)]
pub struct Transport {
    /// Express devices only: report errors
    #[qapi(default = false)]
    pub aer: bool,
    /// Express devices only: translate addresses in the device
    #[qapi(default = false)]
    pub ats: bool,
    /// Handle notifications outside of the CPU's thread; without a visible effect
    #[qapi(default = true)]
    pub ioeventfd: bool,
    /// Form of migration streams of the peer; without effect
    #[qapi(name = "migrate-extra", default = true)]
    pub migrate_extra: bool,
    /// Take notifications in I/O space, too
    #[qapi(name = "modern-pio-notify", default = false)]
    pub pio_notify: bool,
    /// Give each queue's notifications a page of their own
    #[qapi(name = "page-per-vq", default = false)]
    pub page_per_vq: bool,
    /// Form of migration streams of the peer; without effect
    #[qapi(name = "virtio-pci-bus-master-bug-migration", default = false)]
    pub bus_master_bug: bool,
    /// Express devices only: translations are of whole pages
    #[qapi(name = "x-ats-page-aligned", default = true)]
    pub ats_page_aligned: bool,
    /// Stay a conventional function on express buses; on the root bus it is one
    #[qapi(name = "x-disable-pcie", default = false)]
    pub disable_pcie: bool,
    /// For back ends outside of the process; there are none
    #[qapi(name = "x-ignore-backend-features", default = false)]
    pub ignore_backend: bool,
    /// Express devices only: error reporting of the device
    #[qapi(name = "x-pcie-deverr-init", default = true)]
    pub deverr: bool,
    /// Express devices only: reset of one function
    #[qapi(name = "x-pcie-flr-init", default = true)]
    pub flr: bool,
    /// Express devices only: link control
    #[qapi(name = "x-pcie-lnkctl-init", default = true)]
    pub lnkctl: bool,
    /// Express devices only: power management
    #[qapi(name = "x-pcie-pm-init", default = true)]
    pub pm: bool,
    /// Express devices only: power states keep the device's state
    #[qapi(name = "x-pcie-pm-no-soft-reset", default = false)]
    pub pm_no_soft_reset: bool,
}

impl Transport {
    /// Refuses what would not be honoured.
    ///
    /// # Errors
    /// The first such property.
    pub fn check(&self) -> Result<()> {
        if self.ignore_backend {
            return Err(Error::generic("x-ignore-backend-features: there are no such back ends"));
        }
        Ok(())
    }
}
