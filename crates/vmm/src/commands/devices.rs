//! Commands about devices and types.

use derive::Qapi;
use device::{Bus, DeviceClass};
use qapi::{Error, Kind, Member, Result, Source, Value};

use super::QmpCommand;
use crate::Vm;

/// A property of a device type.
#[derive(Qapi)]
pub(super) struct ObjectPropertyInfo {
    /// The name.
    name: String,
    /// The type.
    r#type: String,
    /// What it is for.
    description: Option<String>,
    /// The default.
    default_value: Option<Value>,
}

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
        let class = vm.listing.device(&self.typename);
        let class = class.ok_or_else(|| Error::device_not_found(&self.typename))?;
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

fn default_value(kind: &Kind, text: &str) -> Value {
    let number = match kind {
        Kind::Bool => return Value::Bool(text == "on"),
        Kind::Int => qapi::parse_int(text),
        Kind::Size => qapi::parse_size(text, 1).map(i128::from),
        _ => None,
    };
    match number {
        Some(number) => match i64::try_from(number) {
            Ok(number) => Value::Int(number),
            Err(_) => u64::try_from(number).map_or(Value::Null, Value::Uint),
        },
        None => Value::from(text),
    }
}

/// A type.
#[derive(Qapi)]
pub(super) struct ObjectTypeInfo {
    /// The name.
    name: String,
    /// Cannot be created itself.
    r#abstract: Option<bool>,
    /// The type it builds on.
    parent: Option<String>,
}

/// List the types that exist: devices, machines and CPU models.
#[derive(Qapi)]
pub(super) struct QomListTypes {
    /// Only types that build on this one.
    implements: Option<String>,
    /// Also types that cannot be created themselves.
    r#abstract: Option<bool>,
}

impl QmpCommand for QomListTypes {
    const NAME: &'static str = "qom-list-types";
    type Returns = Vec<ObjectTypeInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<ObjectTypeInfo>> {
        let suffix = if vm.listing.target == "aarch64" { "arm" } else { vm.listing.target };
        let mut types: Vec<(String, Vec<String>)> = Vec::new();
        for class in &vm.listing.devices {
            types.push((class.name.into(), vec![bus_type(class).into(), "device".into()]));
        }
        for machine in &vm.listing.machines {
            types.push((format!("{}-machine", machine.name), vec!["machine".into()]));
        }
        for cpu in &vm.listing.cpus {
            let parents = vec![format!("{suffix}-cpu"), "cpu".into(), "device".into()];
            types.push((format!("{}-{suffix}-cpu", cpu.name), parents));
        }
        for accel in &vm.listing.accels {
            types.push((format!("{accel}-accel"), vec!["accel".into()]));
        }
        let wanted = |(name, parents): &(String, Vec<String>)| {
            self.implements.as_ref().is_none_or(|wanted| {
                wanted == "object" || wanted == name || parents.contains(wanted)
            })
        };
        types.retain(wanted);
        let info = |(name, parents): (String, Vec<String>)| ObjectTypeInfo {
            name,
            r#abstract: None,
            parent: parents.into_iter().next(),
        };
        Ok(types.into_iter().map(info).collect())
    }
}

fn bus_type(class: &DeviceClass) -> &'static str {
    match class.bus {
        Bus::System => "sys-bus-device",
        Bus::Pci => "pci-device",
        Bus::Virtio => "virtio-device",
        Bus::Isa => "isa-device",
        Bus::Usb => "usb-device",
        Bus::Scsi => "scsi-device",
        Bus::I2c => "i2c-slave",
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
            Source::KeyVal,
        )
    }
}
