//! PCI Express root port with a hot plug slot (`pcie-root-port`).
//!
//! One MSI-X vector tells of the slot's events; error reporting and access control are registers
//! only. `io-reserve` and its like are told to firmware in a capability of the vendor's. Who hides
//! that devices may come and go asks for 4 KiB of I/O ports, as the peer.
//! Sources: PCI Express Base 5.0; values and order of capabilities of QEMU 10.0.

use std::sync::Arc;

use derive::Qapi;
use device::Build;
use pci::{Bar, Bridge, Express, Function, Header, Identity, Link, Msix, PciBus, Role, Site};
use qapi::Result;

use crate::port::{Port, PortProps, Reserve, SlotProps, bus_name, port, slot_of};

/// Speed of a link, in GT/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "PCIELinkSpeed")]
pub enum Speed {
    /// 2.5
    #[qapi(name = "2_5")]
    S2_5,
    /// 5
    #[qapi(name = "5")]
    S5,
    /// 8
    #[qapi(name = "8")]
    S8,
    /// 16
    #[qapi(name = "16")]
    S16,
    /// 32
    #[qapi(name = "32")]
    S32,
    /// 64
    #[qapi(name = "64")]
    S64,
}

/// Lanes of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "PCIELinkWidth")]
pub enum Width {
    /// 1
    #[qapi(name = "1")]
    W1,
    /// 2
    #[qapi(name = "2")]
    W2,
    /// 4
    #[qapi(name = "4")]
    W4,
    /// 8
    #[qapi(name = "8")]
    W8,
    /// 12
    #[qapi(name = "12")]
    W12,
    /// 16
    #[qapi(name = "16")]
    W16,
    /// 32
    #[qapi(name = "32")]
    W32,
}

impl Width {
    fn lanes(self) -> u8 {
        match self {
            Width::W1 => 1,
            Width::W2 => 2,
            Width::W4 => 4,
            Width::W8 => 8,
            Width::W12 => 12,
            Width::W16 => 16,
            Width::W32 => 32,
        }
    }
}

/// Properties of `pcie-root-port`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// No access control services
    #[qapi(name = "disable-acs", default = false)]
    pub disable_acs: bool,
    /// Save the vectors' state, as old machines of the peer did not; always done here
    #[qapi(name = "x-migrate-msix", default = true)]
    pub migrate_msix: bool,
    /// 2_5/5/8/16/32/64
    #[qapi(name = "x-speed", default = "16")]
    pub speed: Speed,
    /// 1/2/4/8/12/16/32
    #[qapi(name = "x-width", default = "32")]
    pub width: Width,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub slot: SlotProps,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub reserve: Reserve,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub port: PortProps,
}

const SUBSYSTEM_IDS: u8 = 0x0d;
/// What is asked for when hot plug is not told.
const HIDDEN_IO: u64 = 4096;
const ACCESS_CONTROL: usize = 0x148;

fn create(props: &Props, at: &mut Build<'_>) -> Result<Port> {
    const NAME: &str = "pcie-root-port";
    props.port.check(NAME)?;
    let (seat, traits) = props.slot.take(at)?;
    let identity =
        Identity { id: (0x1b36, 0x000c), revision: 0, class: (6, 4, 0), subsystem: (0, 0), pin: 1 };
    let msix = Msix::new(1);
    let region = Function::msix_region(&msix);
    let bars = vec![Some(Bar { region, io: false, wide: false, prefetch: false })];
    let function = Function::new(&identity, &props.port.bridge.pci, bars, &[], None);
    function.add_capability(SUBSYSTEM_IDS, None, &[0, 0, 0x36, 0x1b, 0, 0]);
    function.add_msix(msix, 0, None);
    let link = Link { speed: props.speed as u8 + 1, width: props.width.lanes() };
    let express = Express {
        role: Role::RootPort,
        at: None,
        port: props.port.port,
        link: Some(link),
        flr: false,
        errors: true,
        link_control: false,
    };
    function.add_express(&express, Some(&traits));
    let mut reserve = props.reserve.clone();
    if props.slot.hidden && props.slot.hotplug && reserve.io.0 == u64::MAX {
        reserve.io = qapi::Size(HIDDEN_IO);
    }
    reserve.tell(&function)?;
    function.add_errors(true, true);
    if !props.disable_acs {
        function.add_access_control(ACCESS_CONTROL);
    }
    let header = Header { conventional: false, closed: true };
    let function = Arc::new(function);
    let name = bus_name(at, "pcie");
    let parent = PciBus::of(at);
    let slot = Some(slot_of(traits, at));
    let bridge = Bridge::new(function.clone(), (&name, Site::Link), &parent, header, slot);
    Ok(Port::offer(function, bridge, Some(seat), at))
}

port!(RootPort, Props, "pcie-root-port", "PCI Express Root Port", create);
