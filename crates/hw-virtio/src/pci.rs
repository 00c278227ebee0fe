//! Virtio devices on PCI: one class per device, all alike.
//!
//! Each joins the properties of the device with those of the transport, makes both
//! and passes reset and saved state on. Nothing of a device's behaviour is here, and
//! nothing of the transport's. Absent: the ones whose parts need a bus of their own.
//! Source: virtio 1.3, section 4.1.

use std::sync::Arc;

use derive::Qapi;
use device::{Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset};
use virtio::pci::VirtioPci;

use crate::rng::{self, VirtioRng};

/// The class of `virtio-rng-pci`.
pub static RNG: DeviceClass = DeviceClass::of::<RngPci>();

/// Properties of `virtio-rng-pci`.
#[derive(Clone, Debug, Qapi)]
pub struct RngProps {
    /// Slot and optional function number, example: 06.0 or 06
    pub addr: Option<String>,
    /// Whether the device has other functions
    #[qapi(default = false)]
    pub multifunction: bool,
    /// Number of MSI-X vectors; by default one more than there are queues
    #[qapi(default = 4294967295)]
    pub vectors: u32,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub device: rng::Props,
}

/// The device.
pub struct RngPci {
    device: Arc<VirtioRng>,
    transport: Arc<VirtioPci>,
}

impl DeviceType for RngPci {
    const NAME: &'static str = "virtio-rng-pci";
    const BUS: Bus = Bus::Pci;
    const SUMMARY: &'static str = "virtio entropy source on PCI";
    type Props = RngProps;

    fn create(props: RngProps, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let device = <VirtioRng as DeviceType>::create(props.device, at)?;
        const OTHER: (u8, u8, u8) = (0, 0xff, 0);
        let pci = ::pci::Common { addr: props.addr, multifunction: props.multifunction };
        let common = virtio::pci::Common { vectors: props.vectors, pci };
        let transport = VirtioPci::new(device.clone(), &common, OTHER, at)?;
        Ok(Arc::new(RngPci { device, transport }))
    }
}

impl Device for RngPci {
    fn reset(&self, kind: Reset) {
        self.device.reset(kind);
        self.transport.reset();
    }

    fn migration(&self) -> Migration<'_> {
        self.transport.migration(self.device.state())
    }

    fn settle(&self) {
        self.transport.settle();
        self.device.settle();
    }
}
