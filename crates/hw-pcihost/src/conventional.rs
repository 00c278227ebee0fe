//! Bridges to conventional buses: `pci-bridge` from a conventional one, `pcie-pci-bridge` from
//! express.
//!
//! Functions behind them are conventional; messages seem to come from the bridge. A standard hot plug
//! controller lets devices come and go.
//! Sources: PCI-to-PCI Bridge Architecture 1.2; PCI Express to PCI/PCI-X Bridge 1.0; QEMU 10.0.

use std::sync::Arc;

use derive::Qapi;
use device::Build;
use pci::{Bar, Bridge, Express, Function, Header, Identity, PciBus, Role, Shpc, Site};
use qapi::{Error, Result};

use crate::port::{BridgeProps, Port, bus_name};

/// Yes, no, or as it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum OnOffAuto {
    /// On
    On,
    /// Off
    Off,
    /// On
    Auto,
}

/// The register of the controller's region.
fn bar(shpc: &Arc<Shpc>) -> Option<Bar> {
    Some(Bar { region: shpc.region(), io: false, wide: true, prefetch: false })
}

const HEADER: Header = Header { conventional: true, closed: false };

/// From a conventional bus.
pub mod pci_bridge {
    use super::*;
    use crate::port::{Reserve, port};

    /// Properties of `pci-bridge`.
    #[derive(Clone, Debug, Qapi)]
    pub struct Props {
        /// Number of the chassis, not 0
        #[qapi(name = "chassis_nr", default = 0)]
        pub chassis: u8,
        /// Tell of events by messages
        #[qapi(default = "auto")]
        pub msi: OnOffAuto,
        /// Standard hot plug controller
        #[qapi(default = true)]
        pub shpc: bool,
        #[qapi(flatten)]
        #[expect(missing_docs, reason = "documented as a type")]
        pub reserve: Reserve,
        #[qapi(flatten)]
        #[expect(missing_docs, reason = "documented as a type")]
        pub bridge: BridgeProps,
    }

    const SLOTS: u8 = 4;
    /// 3.2.6.1: expansion slots: this is the first of its chassis.
    const FIRST: u8 = 0x20;

    fn create(props: &Props, at: &mut Build<'_>) -> Result<Port> {
        props.bridge.pci.refuse_rom("pci-bridge")?;
        props.bridge.pci.check("pci-bridge")?;
        if props.chassis == 0 {
            return Err(Error::generic(
                "Bridge chassis not specified. Each bridge is required to be assigned a unique \
                 chassis id > 0.",
            ));
        }
        let pin = if props.shpc { 1 } else { 0 };
        let identity = Identity {
            id: (0x1b36, 0x0001),
            revision: 0,
            class: (6, 4, 0),
            subsystem: (0, 0),
            pin,
        };
        let shpc = props.shpc.then(|| Shpc::new(at.service()));
        let bars = shpc.iter().map(bar).collect();
        let function = Function::new(&identity, &props.bridge.pci, bars, &[], None);
        if let Some(shpc) = &shpc {
            shpc.show(&function);
        }
        // Behind the controller's, if that is there.
        let place = props.shpc.then_some(0x48);
        let slots = function.add_capability(SLOTS, place, &[FIRST, props.chassis]);
        function.allow_writes(slots + 3, &[0xff]);
        if props.shpc && props.msi != OnOffAuto::Off {
            function.add_msi_at(Some(0x4c), true);
        }
        props.reserve.tell(&function)?;
        let function = Arc::new(function);
        let name = bus_name(at, "pci");
        let parent = PciBus::of(at);
        let place = (name.as_str(), Site::Conventional);
        let bridge = Bridge::new(function.clone(), place, &parent, HEADER, None);
        if let Some(shpc) = &shpc {
            bridge.has_shpc(shpc.clone());
        }
        Ok(Port::offer(function, bridge, None, at).with(shpc))
    }

    port!(PciBridge, Props, "pci-bridge", "Standard PCI Bridge", create);
}

/// From express.
pub mod pcie_pci {
    use super::*;
    use crate::port::port;

    /// Properties of `pcie-pci-bridge`.
    #[derive(Clone, Debug, Qapi)]
    pub struct Props {
        /// Tell of events by messages
        #[qapi(default = "auto")]
        pub msi: OnOffAuto,
        #[qapi(flatten)]
        #[expect(missing_docs, reason = "documented as a type")]
        pub bridge: BridgeProps,
    }

    const POWER: u8 = 1;
    const AT_EXPRESS: u8 = 0x48;
    const AT_POWER: u8 = 0x84;
    const AT_MSI: u8 = 0x8c;

    fn create(props: &Props, at: &mut Build<'_>) -> Result<Port> {
        props.bridge.pci.refuse_rom("pcie-pci-bridge")?;
        props.bridge.pci.check("pcie-pci-bridge")?;
        let identity = Identity {
            id: (0x1b36, 0x000e),
            revision: 0,
            class: (6, 4, 0),
            subsystem: (0, 0),
            pin: 1,
        };
        let shpc = Shpc::new(at.service());
        let bars = vec![bar(&shpc)];
        let function = Function::new(&identity, &props.bridge.pci, bars, &[], None);
        shpc.show(&function);
        let express = Express {
            role: Role::Bridge,
            at: Some(AT_EXPRESS),
            port: 0,
            link: None,
            flr: false,
            errors: true,
            link_control: false,
        };
        function.add_express(&express, None);
        function.add_capability(POWER, Some(AT_POWER), &[3, 0, 0, 0, 0, 0]);
        if props.msi != OnOffAuto::Off {
            function.add_msi_at(Some(AT_MSI), true);
        }
        function.add_errors(false, false);
        let function = Arc::new(function);
        let name = bus_name(at, "pci");
        let parent = PciBus::of(at);
        let place = (name.as_str(), Site::Conventional);
        let bridge = Bridge::new(function.clone(), place, &parent, HEADER, None);
        bridge.has_shpc(shpc.clone());
        Ok(Port::offer(function, bridge, None, at).with(Some(shpc)))
    }

    port!(PciePciBridge, Props, "pcie-pci-bridge", "PCI Express to PCI bridge", create);
}
