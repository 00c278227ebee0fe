//! PCI Express expander bridge (`pxb-pcie`): a further root bus of the host bridge.
//!
//! Its bus has a number of its own (`bus_nr`) and takes bridges only, whose buses have the numbers
//! behind it. Windows and interrupt lines are the host bridge's; fw_cfg and ACPI tell of the bus.
//! Source: QEMU's documentation, "PCI EXPANDER BRIDGE"; values of QEMU 10.0.

use std::sync::Arc;

use derive::Qapi;
use device::{Build, Bus, Device, DeviceClass, DeviceType, Migration, NodeCount, Reset};
use pci::{Function, Identity, PciBus, RootTraits};
use qapi::{Error, Result};

use crate::port::bus_name;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Expander>();

/// Properties of `pxb-pcie`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Number of the bus
    #[qapi(name = "bus_nr", default = 0)]
    pub bus: u8,
    /// Node of memory; 128 for none
    #[qapi(name = "numa_node", default = 128)]
    pub node: u16,
    /// Devices go around the IOMMU
    #[qapi(name = "bypass_iommu", default = false)]
    pub bypass: bool,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub pci: pci::Common,
}

const NO_NODE: u16 = 128;

/// The device.
pub struct Expander {
    function: Arc<Function>,
    _bus: Arc<PciBus>,
}

impl DeviceType for Expander {
    const NAME: &'static str = "pxb-pcie";
    const BUS: Bus = Bus::Pci;
    const SUMMARY: &'static str = "PCI Express Expander Bridge";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> Result<Arc<Self>> {
        props.pci.refuse_rom(Self::NAME)?;
        props.pci.check(Self::NAME)?;
        let node = (props.node != NO_NODE).then_some(props.node);
        let nodes = at.service::<NodeCount>().map_or(0, |NodeCount(count)| count);
        if node.is_some_and(|node| u32::from(node) >= nodes) {
            return Err(Error::generic(format!("Illegal numa node {}", props.node)));
        }
        let parent = PciBus::of(at);
        if parent.expanders().iter().any(|bus| bus.number() == props.bus) {
            let text = format!("pxb-pcie: bus_nr {} is already in use", props.bus);
            return Err(Error::generic(text));
        }
        let identity = Identity {
            id: (0x1b36, 0x000b),
            revision: 0,
            class: (6, 0, 0),
            subsystem: (0x1af4, 0x1100),
            pin: 0,
        };
        let traits = RootTraits { node, bypass: props.bypass };
        let function = Arc::new(Function::new(&identity, &props.pci, Vec::new(), &[], None));
        function.set_status_bits(0xa0);
        let bus = parent.expander(&bus_name(at, "pxb-pcie-bus"), (props.bus, traits));
        function.leads_to(&bus);
        at.offer::<Arc<Function>>(function.clone());
        at.bus(bus.clone());
        Ok(Arc::new(Expander { function, _bus: bus }))
    }
}

impl Device for Expander {
    fn reset(&self, _: Reset) {
        self.function.reset();
    }
    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&*self.function)
    }
    fn settle(&self) {
        self.function.settle();
    }
}
