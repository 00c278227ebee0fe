//! Properties of the card; names and defaults are the peer's.

use derive::Qapi;

/// Properties.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// ID of a netdev to use as a backend
    pub netdev: Option<String>,
    /// Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56
    pub mac: Option<String>,
    /// Place in the order of boot devices
    pub bootindex: Option<i32>,
    /// Do not use virtio headers, perform SW offloads emulation instead
    #[qapi(name = "disable_vnet_hdr", default = 0)]
    pub disable_vnet_hdr: u8,
    /// PCI device Subsystem Vendor ID
    #[qapi(name = "subsys_ven", default = 32902)]
    pub subsys_ven: u16,
    /// PCI device Subsystem ID
    #[qapi(default = 0)]
    pub subsys: u16,
    /// Set the register of the VLAN type at first
    #[qapi(name = "init-vet", default = true)]
    pub init_vet: bool,
    /// Form of migration streams of the peer; without effect
    #[qapi(name = "migrate-timadj", default = true)]
    pub migrate_timadj: bool,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub pci: pci::Common,
}
