//! What bridges and ports have in common: properties, chassis numbers, reset and saved state.
//!
//! Names, defaults and messages are QEMU 10.0's. Each device file says who it is and what it shows;
//! the crate `pci` routes and holds the slot. Not modelled: the log of errors (`aer_log_max`).
//! Sources: PCI Express Base 5.0, 7.5; PCI-to-PCI Bridge Architecture 1.2.

use std::collections::HashSet;
use std::sync::Arc;

use derive::Qapi;
use device::{Build, Departure, Migration, Saved};
use parking_lot::Mutex;
use pci::{Bridge, Function, Shpc, SlotParts, SlotTraits};
use qapi::{Error, Result};

/// Properties of every bridge.
#[derive(Clone, Debug, Qapi)]
pub struct BridgeProps {
    /// For old guests of the peer; without effect here
    #[qapi(name = "x-pci-express-writeable-slt-bug", default = false)]
    pub writable_slot: bool,
    #[qapi(flatten)]
    pub pci: pci::Common,
}

/// Properties of ports with slots.
#[derive(Clone, Debug, Qapi)]
pub struct SlotProps {
    /// Number of the chassis; with the slot's number it is used once
    #[qapi(default = 0)]
    pub chassis: u8,
    /// Number of the slot
    #[qapi(default = 0)]
    pub slot: u16,
    /// Devices may come and go
    #[qapi(default = true)]
    pub hotplug: bool,
    /// The slot switches power
    #[qapi(name = "power_controller_present", default = true)]
    pub power: bool,
    /// Devices may come and go, and the port does not say so
    #[qapi(name = "x-do-not-expose-native-hotplug-cap", default = false)]
    pub hidden: bool,
}

/// Properties of express ports.
#[derive(Clone, Debug, Qapi)]
pub struct PortProps {
    /// Number of the port
    #[qapi(default = 0)]
    pub port: u8,
    /// Most entries of the log of errors; nothing is logged
    #[qapi(name = "aer_log_max", default = 8)]
    pub log: u16,
    #[qapi(flatten)]
    pub bridge: BridgeProps,
}

impl PortProps {
    pub(crate) fn check(&self, class: &str) -> Result<()> {
        const MOST: u16 = 128;
        if self.log > MOST {
            return Err(Error::generic(format!(
                "Invalid aer_log_max {}. The max number of aer log is {MOST}",
                self.log
            )));
        }
        self.bridge.pci.refuse_rom(class)?;
        self.bridge.pci.check(class)
    }
}

/// What firmware is asked to keep free behind a bridge.
#[derive(Clone, Debug, Qapi)]
pub struct Reserve {
    /// Buses
    #[qapi(name = "bus-reserve", default = 4294967295)]
    pub bus: u32,
    /// I/O ports
    #[qapi(name = "io-reserve", default = 18446744073709551615)]
    pub io: qapi::Size,
    /// Memory
    #[qapi(name = "mem-reserve", default = 18446744073709551615)]
    pub mem: qapi::Size,
    /// Prefetchable memory below 4 GiB
    #[qapi(name = "pref32-reserve", default = 18446744073709551615)]
    pub pref32: qapi::Size,
    /// Prefetchable memory anywhere
    #[qapi(name = "pref64-reserve", default = 18446744073709551615)]
    pub pref64: qapi::Size,
}

impl Reserve {
    /// Adds the vendor's capability that tells firmware, if anything is asked for.
    pub(crate) fn tell(&self, function: &Function) -> Result<()> {
        const NONE: u64 = u64::MAX;
        const VENDOR_SPECIFIC: u8 = 9;
        const LEN: u8 = 32;
        const RESERVE: u8 = 1;
        let [io, mem, pref32, pref64] = [self.io.0, self.mem.0, self.pref32.0, self.pref64.0];
        if pref32 != NONE && pref64 != NONE {
            return Err(Error::generic("PCI resource reserve cap: PREF32 and PREF64 conflict"));
        }
        if mem != NONE && u32::try_from(mem).is_err() {
            return Err(Error::generic(
                "PCI resource reserve cap: mem-reserve must be less than 4G",
            ));
        }
        if pref32 != NONE && u32::try_from(pref32).is_err() {
            return Err(Error::generic(
                "PCI resource reserve cap: pref32-reserve must be less than 4G",
            ));
        }
        if self.bus == u32::MAX && [io, mem, pref32, pref64].iter().all(|size| *size == NONE) {
            return Ok(());
        }
        let word = |size: u64| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
        let mut body = vec![LEN, RESERVE, 0, 0];
        body.truncate(2);
        body.extend(self.bus.to_le_bytes());
        body.extend(io.to_le_bytes());
        body.extend(word(mem));
        body.extend(word(pref32));
        body.extend(pref64.to_le_bytes());
        function.add_capability(VENDOR_SPECIFIC, None, &body);
        Ok(())
    }
}

/// Slots that are taken, by chassis and number.
#[derive(Clone, Default)]
struct Chassis(Arc<Mutex<HashSet<(u8, u16)>>>);

/// A slot's place in its chassis; given back when it is dropped.
pub(crate) struct Seat {
    chassis: Chassis,
    place: (u8, u16),
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.chassis.0.lock().remove(&self.place);
    }
}

impl SlotProps {
    /// Takes the place, and what the slot is like.
    pub(crate) fn take(&self, at: &Build<'_>) -> Result<(Seat, SlotTraits)> {
        let known = at.service::<Chassis>();
        let chassis = known.unwrap_or_else(|| {
            let chassis = Chassis::default();
            at.world().services.add(chassis.clone());
            chassis
        });
        let place = (self.chassis, self.slot);
        if !chassis.0.lock().insert(place) {
            return Err(Error::generic("Can't add chassis slot, error -16"));
        }
        let traits = SlotTraits {
            number: self.slot & 0x1fff,
            hotplug: self.hotplug,
            told: !self.hidden,
            power: self.power,
        };
        Ok((Seat { chassis, place }, traits))
    }
}

/// A slot with what it needs of the machine.
pub(crate) fn slot_of(traits: SlotTraits, at: &Build<'_>) -> SlotParts {
    let departure = at.service::<Arc<dyn Departure>>();
    SlotParts { traits, clock: at.clock(), departure }
}

/// The bus of a bridge is named as the device, or by its kind and a number.
pub(crate) fn bus_name(at: &Build<'_>, kind: &str) -> String {
    if !at.id().contains('[') {
        return at.id().to_owned();
    }
    let name = at.world().numbered(kind);
    // The peer's first one has the root bus's name, so nobody can say it.
    if name == "pcie.0" { "pcie.0'".into() } else { name }
}

/// A bridge device.
pub(crate) struct Port {
    pub(crate) function: Arc<Function>,
    _bridge: Arc<Bridge>,
    _seat: Option<Seat>,
    shpc: Option<Arc<Shpc>>,
}

impl Port {
    /// Offers the function and the bus behind it.
    pub(crate) fn offer(
        function: Arc<Function>,
        bridge: Arc<Bridge>,
        seat: Option<Seat>,
        at: &mut Build<'_>,
    ) -> Port {
        at.offer::<Arc<Function>>(function.clone());
        if let Some(bus) = bridge.bus() {
            at.bus(bus);
        }
        Port { function, _bridge: bridge, _seat: seat, shpc: None }
    }

    /// The same with a standard hot plug controller.
    pub(crate) fn with(self, shpc: Option<Arc<Shpc>>) -> Port {
        Port { shpc, ..self }
    }

    pub(crate) fn migration(&self) -> Migration<'_> {
        let function: &dyn Saved = &*self.function;
        match &self.shpc {
            None => Migration::Saved(function),
            Some(shpc) => Migration::Parts(vec![("pci", function), ("shpc", shpc.saved())]),
        }
    }
}

/// Declares a bridge device: all of them reset and save the same.
macro_rules! port {
    ($type:ident, $props:ty, $name:literal, $summary:literal, $create:expr) => {
        /// The class for the catalog.
        pub static CLASS: device::DeviceClass = device::DeviceClass::of::<$type>();

        /// The device.
        pub struct $type(crate::port::Port);

        impl device::DeviceType for $type {
            const NAME: &'static str = $name;
            const BUS: device::Bus = device::Bus::Pci;
            const SUMMARY: &'static str = $summary;
            type Props = $props;

            fn create(
                props: $props,
                at: &mut device::Build<'_>,
            ) -> qapi::Result<std::sync::Arc<Self>> {
                let make: fn(&$props, &mut device::Build<'_>) -> qapi::Result<crate::port::Port> =
                    $create;
                Ok(std::sync::Arc::new($type(make(&props, at)?)))
            }
        }

        impl device::Device for $type {
            fn reset(&self, _: device::Reset) {
                self.0.function.reset();
            }
            fn migration(&self) -> device::Migration<'_> {
                self.0.migration()
            }
            fn settle(&self) {
                self.0.function.settle();
            }
        }
    };
}
pub(crate) use port;
