//! Buses, and the devices of a machine that can still grow.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use qapi::{Error, Result, Source, Value};

use crate::build::{Record, World};
use crate::class::{Bus, DeviceClass, Reset};
use crate::reset::ResetTree;

/// A bus that devices are plugged into; offered with `Build::bus`.
pub trait PlugBus: Send + Sync {
    /// Its name, as `bus=` takes it.
    fn name(&self) -> &str;
    /// What fits.
    fn kind(&self) -> Bus;
    /// Whether nothing more fits.
    fn is_full(&self) -> bool {
        false
    }
    /// Whether devices may come and go while the machine runs.
    fn is_hotpluggable(&self) -> bool;
    /// Connects a created device.
    fn plug(&self, record: &Record) -> Result<()>;
    /// Connects a created device while the machine runs.
    fn hot_plug(&self, record: &Record) -> Result<()> {
        self.plug(record)
    }
    /// The bus as its own type, for devices that must know what they go on.
    fn itself(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
    /// Whether devices without `bus=` go here rather than on the board's buses.
    fn is_outermost(&self) -> bool {
        false
    }
    /// Disconnects a device that left, without asking anybody.
    fn removed(&self, _: &Record) {}
    /// The name of a plugged device in firmware's paths, from `/`; empty if the bus adds nothing.
    fn node(&self, _: &Record) -> String {
        String::new()
    }
    /// The start of firmware's paths if the bus is one of the board's own device at `address`.
    fn root_node(&self, _address: u64) -> String {
        String::new()
    }
    /// Disconnects a device, or asks the guest to let it go.
    fn unplug(&self, record: &Record) -> Result<Unplug>;
}

/// Carries out that devices leave whom the guest lets go. The service is `Arc<dyn Departure>`.
pub trait Departure: Send + Sync {
    /// The device of this id leaves its bus and ends, soon and on the main loop.
    fn leave(&self, id: &str);
}

/// How far an unplug went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplug {
    /// The device is off the bus.
    Done,
    /// The guest was asked; the bus finishes it with [`Devices::remove`].
    Asked,
}

/// Counts things of one kind, for names such as `virtio-mmio-bus.7`.
#[derive(Clone, Default)]
pub struct Numbers(Arc<Mutex<HashMap<String, u32>>>);

impl Numbers {
    /// The next name of a kind.
    #[must_use]
    pub fn next(&self, kind: &str) -> String {
        let mut counts = self.0.lock();
        let count = counts.entry(kind.to_owned()).or_default();
        let name = format!("{kind}.{count}");
        *count += 1;
        name
    }
}

/// The devices of a machine, in order of creation.
#[derive(Default)]
pub struct Devices(Mutex<Vec<Arc<Record>>>);

impl Devices {
    /// The devices that the board made.
    #[must_use]
    pub fn new(records: Vec<Record>) -> Devices {
        Devices(Mutex::new(records.into_iter().map(Arc::new).collect()))
    }

    /// All devices.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Record>> {
        self.0.lock().clone()
    }

    /// Creates a device and plugs it into the named bus, or into the one that a
    /// walk from the newest device finds first. With `hotplug` set the bus must allow it
    /// while the machine runs.
    pub fn plug(
        &self,
        (world, reset): (&World, &ResetTree),
        class: &'static DeviceClass,
        (id, bus): (Option<&str>, Option<&str>),
        props: Value,
        (source, hotplug): (Source, bool),
    ) -> Result<()> {
        let all = self.all();
        if let Some(id) = id
            && all.iter().any(|r| r.parent.is_some() && r.id == id)
        {
            return Err(Error::generic(format!("Duplicate ID '{id}' for device")));
        }
        let bus = find(&all, class, bus)?;
        if hotplug && !bus.is_hotpluggable() {
            return Err(Error::generic(format!(
                "Bus '{}' does not support hotplugging",
                bus.name()
            )));
        }
        let id = id.map_or_else(|| format!("device[{}]", all.len()), str::to_owned);
        let mut record = class.build_on(&id, props, source, (world, Some(bus.clone())))?;
        if hotplug {
            bus.hot_plug(&record)?;
        } else {
            bus.plug(&record)?;
        }
        record.parent = Some(bus.name().to_owned());
        let device = record.device.clone();
        self.0.lock().push(Arc::new(record));
        reset.add(&device);
        device.reset(Reset::Cold);
        device.settle();
        Ok(())
    }

    /// The device of this id that was plugged in.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Record>> {
        self.0.lock().iter().find(|r| r.parent.is_some() && r.id == id).cloned()
    }

    /// Takes a device off its bus, or asks the guest to; [`Unplug::Done`] when it is gone.
    pub fn unplug(&self, record: &Arc<Record>) -> Result<Unplug> {
        let all = self.all();
        let mut found = Vec::new();
        buses(&all, None, &mut found);
        let bus = found.into_iter().find(|bus| Some(bus.name()) == record.parent.as_deref());
        let Some(bus) = bus.filter(|bus| bus.is_hotpluggable()) else {
            let bus = record.parent.as_deref().unwrap_or_default();
            return Err(Error::generic(format!("Bus '{bus}' does not support hotplugging")));
        };
        bus.unplug(record)
    }

    /// Forgets a device that is off its bus, and before it those on its buses; which these were.
    /// They end when the last users let go.
    pub fn remove(&self, record: &Arc<Record>) -> Vec<Arc<Record>> {
        let mut gone = Vec::new();
        for bus in &record.buses {
            let on_it = |r: &&Arc<Record>| r.parent.as_deref() == Some(bus.name());
            for child in self.all().iter().filter(on_it) {
                bus.removed(child);
                gone.extend(self.remove(child));
            }
        }
        let all = self.all();
        let mut found = Vec::new();
        buses(&all, None, &mut found);
        if let Some(bus) = found.iter().find(|bus| Some(bus.name()) == record.parent.as_deref()) {
            bus.removed(record);
        }
        self.0.lock().retain(|known| !Arc::ptr_eq(known, record));
        gone.push(record.clone());
        gone
    }
}

/// Buses as a walk from the newest device meets them.
fn buses(all: &[Arc<Record>], parent: Option<&str>, out: &mut Vec<Arc<dyn PlugBus>>) {
    for record in all.iter().rev().filter(|r| r.parent.as_deref() == parent) {
        for bus in &record.buses {
            out.push(bus.clone());
            buses(all, Some(bus.name()), out);
        }
    }
}

fn find(all: &[Arc<Record>], class: &DeviceClass, name: Option<&str>) -> Result<Arc<dyn PlugBus>> {
    let mut found = Vec::new();
    buses(all, None, &mut found);
    found.sort_by_key(|bus| !bus.is_outermost());
    let Some(name) = name else {
        let free = |bus: &Arc<dyn PlugBus>| bus.kind() == class.bus && !bus.is_full();
        return found.into_iter().find(free).ok_or_else(|| {
            let kind = class.bus.type_name();
            if class.bus == Bus::Memory {
                return Error::generic("memory hotplug is not enabled: missing acpi-ged device");
            }
            Error::generic(format!("No '{kind}' bus found for device '{}'", class.name))
        });
    };
    let bus = found.into_iter().find(|bus| bus.name() == name);
    let bus = bus.ok_or_else(|| Error::generic(format!("Bus '{name}' not found")))?;
    if bus.kind() != class.bus {
        let kind = bus.kind().type_name();
        return Err(Error::generic(format!("Device '{}' can't go on {kind} bus", class.name)));
    }
    if bus.is_full() {
        return Err(Error::generic(format!("Bus '{name}' is full")));
    }
    Ok(bus)
}
