//! Commands about devices and types.

use derive::Qapi;
use device::{Bus, DeviceClass, Record, Unplug};
use qapi::{Class, Error, Kind, Member, Result, Source, Value};

use super::QmpCommand;
use super::qom::{self, ObjectPropertyInfo, default_value};
use crate::Vm;

/// List the properties of a device type.
#[derive(Qapi)]
pub(super) struct DeviceListProperties {
    /// The type.
    typename: String,
}

impl QmpCommand for DeviceListProperties {
    const NAME: &'static str = "device-list-properties";
    type Returns = Vec<ObjectPropertyInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<ObjectPropertyInfo>> {
        let Some(class) = vm.listing.device(&self.typename) else {
            return Err(if qom::is_type(vm, &self.typename) {
                Error::expects("typename", "a non-abstract device type")
            } else {
                Error::device_not_found(&self.typename)
            });
        };
        Ok((class.props)().members().into_iter().map(property).collect())
    }
}

fn property(member: &Member) -> ObjectPropertyInfo {
    let info = (member.ty)();
    let default_value = member.default.map(|text| default_value(&info.kind, text));
    let description = match (member.doc, &info.kind) {
        ("", Kind::Bool) => Some("on/off".to_owned()),
        ("", Kind::Enum(_)) => Some(info.words().join("/")),
        ("", _) => None,
        (doc, _) => Some(doc.trim_end_matches('.').to_owned()),
    };
    ObjectPropertyInfo {
        name: member.name.into(),
        r#type: info.name.into(),
        description,
        default_value,
    }
}

pub(super) fn bus_type(class: &DeviceClass) -> &'static str {
    match class.bus {
        Bus::System => "sys-bus-device",
        Bus::Pci => "pci-device",
        Bus::Virtio => "virtio-device",
        Bus::Isa => "isa-device",
        Bus::Usb => "usb-device",
        Bus::Scsi => "scsi-device",
        Bus::I2c => "i2c-slave",
        Bus::Nvme | Bus::Memory => "device",
        Bus::VirtioSerial => "virtio-serial-port",
    }
}

/// Add a device.
#[derive(Qapi)]
pub(super) struct DeviceAdd {
    /// The type.
    driver: String,
    /// The bus to plug it into.
    bus: Option<String>,
    /// Its id.
    id: Option<String>,
    #[qapi(rest)]
    props: Value,
}

impl QmpCommand for DeviceAdd {
    const NAME: &'static str = "device_add";
    const FEATURES: &'static [&'static str] = &["json-cli", "json-cli-hotplug"];
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let Some(class) = vm.listing.device(&self.driver) else {
            let desc = format!("'{}' is not a valid device model name", self.driver);
            return Err(Error::generic(desc));
        };
        if let Some(id) = &self.id
            && !qapi::keyval::is_identifier(id)
        {
            return Err(Error::not_an_identifier());
        }
        if class.bus == Bus::System {
            return Err(Error::expects("driver", "a pluggable device type"));
        }
        for (name, _) in self.props.as_map().unwrap_or(&[]) {
            if !(class.props)().has_member(name) {
                return Err(Error::property_not_found(class.name, name));
            }
        }
        let Some((machine, world)) = vm.machine().and_then(|m| Some((m, m.world.as_ref()?))) else {
            let kind = class.bus.type_name();
            let desc = format!("No '{kind}' bus found for device '{}'", class.name);
            return Err(Error::generic(desc));
        };
        machine.devices.plug(
            (world, &machine.reset),
            class,
            (self.id.as_deref(), self.bus.as_deref()),
            self.props,
            (Source::KeyVal, vm.is_ready()),
        )
    }
}

/// Take a device away, or ask the guest to let it go.
#[derive(Qapi)]
pub(super) struct DeviceDel {
    /// Its id or path.
    id: String,
}

/// What `DEVICE_DELETED` says.
#[derive(Qapi)]
pub(crate) struct DeviceDeleted {
    /// Its id, if it had one.
    device: Option<String>,
    /// Its path in the object tree.
    path: String,
}

impl QmpCommand for DeviceDel {
    const NAME: &'static str = "device_del";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let id = self.id.strip_prefix("/machine/peripheral/").unwrap_or(&self.id);
        let machine = vm.machine();
        let found = machine.and_then(|m| Some((m, m.devices.find(id)?)));
        let (machine, record) = found.ok_or_else(|| {
            Error::new(Class::DeviceNotFound, format!("Device '{}' not found", self.id))
        })?;
        if machine.devices.unplug(&record)? == Unplug::Done {
            vm.device_left(id);
        }
        Ok(())
    }
}

/// Tells that a device ended. The one behind a virtio transport is told first.
pub(crate) fn tell_deleted(vm: &Vm, record: &Record) {
    let anonymous = record.id.contains('[');
    let place = if anonymous { "peripheral-anon" } else { "peripheral" };
    let path = format!("/machine/{place}/{}", record.id);
    let tell = |device: Option<String>, path: String| {
        let data = DeviceDeleted { device, path };
        vm.emit("DEVICE_DELETED", Some(qapi::Qapi::to_value(&data)));
    };
    if (record.class.props)().has_member("virtio-backend") {
        tell(None, format!("{path}/virtio-backend"));
    }
    tell((!anonymous).then(|| record.id.clone()), path);
}
