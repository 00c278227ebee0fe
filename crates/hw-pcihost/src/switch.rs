//! The ports of a PCI Express switch as Texas Instruments' XIO3130 has them: `x3130-upstream` and
//! `xio3130-downstream`.
//!
//! A downstream port has a slot with hot plug, whose events are told by MSI. Not modelled: the
//! chip's own registers, general purpose pins and power management.
//! Sources: XIO3130 data sheet (SLLS693), chapter 4; values of QEMU 10.0.

use std::sync::Arc;

use device::Build;
use pci::{Bridge, Express, Function, Header, Identity, PciBus, Role, Site};
use qapi::Result;

use crate::port::{Port, PortProps, bus_name, slot_of};

const VENDOR: u16 = 0x104c;
// Where the capabilities are.
const MSI: u8 = 0x70;
const SUBSYSTEM_IDS: (u8, u8) = (0x0d, 0x80);
const EXPRESS: u8 = 0x90;

fn function(props: &PortProps, id: u16, revision: u8) -> Function {
    let identity =
        Identity { id: (VENDOR, id), revision, class: (6, 4, 0), subsystem: (0, 0), pin: 0 };
    let function = Function::new(&identity, &props.bridge.pci, Vec::new(), &[], None);
    function.add_msi_at(Some(MSI), false);
    let (id, at) = SUBSYSTEM_IDS;
    function.add_capability(id, Some(at), &[0; 6]);
    function
}

fn express(props: &PortProps, role: Role) -> Express {
    Express {
        role,
        at: Some(EXPRESS),
        port: props.port,
        link: None,
        flr: true,
        errors: true,
        link_control: false,
    }
}

const HEADER: Header = Header { conventional: false, closed: false };

/// The upper end.
pub mod upstream {
    use super::*;
    use crate::port::port;

    fn create(props: &PortProps, at: &mut Build<'_>) -> Result<Port> {
        props.check("x3130-upstream")?;
        let function = Arc::new(function(props, 0x8232, 2));
        function.add_express(&express(props, Role::Upstream), None);
        function.add_errors(false, true);
        let name = bus_name(at, "pcie");
        let parent = PciBus::of(at);
        let bridge = Bridge::new(function.clone(), (&name, Site::Switch), &parent, HEADER, None);
        Ok(Port::offer(function, bridge, None, at))
    }

    port!(
        Upstream,
        PortProps,
        "x3130-upstream",
        "TI X3130 Upstream Port of PCI Express Switch",
        create
    );
}

/// A lower end.
pub mod downstream {
    use super::*;
    use crate::port::{SlotProps, port};
    use derive::Qapi;

    /// Properties of `xio3130-downstream`.
    #[derive(Clone, Debug, Qapi)]
    #[expect(missing_docs, reason = "documented as types")]
    pub struct Props {
        #[qapi(flatten)]
        pub slot: SlotProps,
        #[qapi(flatten)]
        pub port: PortProps,
    }

    fn create(props: &Props, at: &mut Build<'_>) -> Result<Port> {
        props.port.check("xio3130-downstream")?;
        let (seat, traits) = props.slot.take(at)?;
        let function = Arc::new(function(&props.port, 0x8233, 1));
        function.add_express(&express(&props.port, Role::Downstream), Some(&traits));
        function.add_errors(false, true);
        let name = bus_name(at, "pcie");
        let (parent, slot) = (PciBus::of(at), Some(slot_of(traits, at)));
        let bridge = Bridge::new(function.clone(), (&name, Site::Link), &parent, HEADER, slot);
        Ok(Port::offer(function, bridge, Some(seat), at))
    }

    port!(
        Downstream,
        Props,
        "xio3130-downstream",
        "TI X3130 Downstream Port of PCI Express Switch",
        create
    );
}
