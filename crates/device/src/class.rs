//! Device types and their erased classes.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use qapi::{Qapi, Source, TypeRef, Value};
use vmstate::Migration;

use crate::build::{Build, Record, World};
use crate::global::Globals;
use crate::plug::PlugBus;

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What kind of reset it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Power-on or system reset.
    Cold,
    /// A reset that keeps what survives a warm reset.
    Warm,
    /// Before saved state is loaded.
    SnapshotLoad,
}

/// The bus a device is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Wired by the board.
    System,
    /// PCI.
    Pci,
    /// Virtio.
    Virtio,
    /// ISA.
    Isa,
    /// USB.
    Usb,
    /// SCSI.
    Scsi,
    /// I2C.
    I2c,
    /// Namespaces of an NVMe controller.
    Nvme,
    /// Ports of a virtio serial device.
    VirtioSerial,
    /// Slots for memory modules.
    Memory,
}

impl Bus {
    /// The name of the bus's type.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Bus::System => "System",
            Bus::Pci => "PCI",
            Bus::Virtio => "virtio-bus",
            Bus::Isa => "ISA",
            Bus::Usb => "usb-bus",
            Bus::Scsi => "SCSI",
            Bus::I2c => "i2c-bus",
            Bus::Nvme => "nvme-bus",
            Bus::VirtioSerial => "virtio-serial-bus",
            Bus::Memory => "memory-slots",
        }
    }
}

/// The erased face of every device.
pub trait Device: Any + Send + Sync {
    /// Brings the state to its reset value; drives nothing.
    fn reset(&self, kind: Reset);
    /// How its state is saved.
    fn migration(&self) -> Migration<'_>;
    /// Derives outputs and timers from the state (after reset or load).
    fn settle(&self) {}
    /// Finishes or parks its own asynchronous work.
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Undoes [`Device::pause`].
    fn resume(&self) {}
}

/// A device type: what its file says about it.
pub trait DeviceType: Device + Sized {
    /// The name on the command line.
    const NAME: &'static str;
    /// Where it plugs in.
    const BUS: Bus;
    /// One line for help texts.
    const SUMMARY: &'static str;
    /// Its properties: what `-device` accepts and prints.
    type Props: Qapi;
    /// Creates the device and tells `at` about its ports.
    fn create(props: Self::Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>>;
}

/// A device type as catalogs list it.
pub struct DeviceClass {
    /// The name on the command line.
    pub name: &'static str,
    /// Where it plugs in.
    pub bus: Bus,
    /// One line for help texts.
    pub summary: &'static str,
    /// Type of the properties.
    pub props: TypeRef,
    /// Creates a device from untyped properties.
    pub create: fn(Value, Source, &mut Build<'_>) -> qapi::Result<Arc<dyn Device>>,
}

impl DeviceClass {
    /// The class of a type.
    #[must_use]
    pub const fn of<D: DeviceType>() -> DeviceClass {
        DeviceClass {
            name: D::NAME,
            bus: D::BUS,
            summary: D::SUMMARY,
            props: <D::Props as Qapi>::type_info,
            create: |value, source, at| {
                let props = <D::Props as Qapi>::from_value(value, source)?;
                at.note_props(props.to_value());
                Ok(D::create(props, at)?)
            },
        }
    }

    /// Creates a device with its record. It is in its reset state, but nothing is
    /// mapped or wired yet.
    pub fn build(
        &'static self,
        id: &str,
        props: Value,
        source: Source,
        world: &World,
    ) -> qapi::Result<Record> {
        self.build_on(id, props, source, (world, None))
    }

    /// The same for a device that goes on this bus.
    pub fn build_on(
        &'static self,
        id: &str,
        props: Value,
        source: Source,
        (world, bus): (&World, Option<Arc<dyn PlugBus>>),
    ) -> qapi::Result<Record> {
        let mut props = props;
        if let Some(globals) = Globals::of(&world.services) {
            globals.apply(self, &mut props)?;
        }
        let mut at = Build::new(id, world).on(bus);
        let device = (self.create)(props, source, &mut at)?;
        Ok(at.finish(self, device))
    }
}
