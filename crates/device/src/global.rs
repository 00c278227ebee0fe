//! Defaults that users set for all devices of a type (`-global`).
//!
//! A default counts where a device was not given the property itself, for what the
//! board makes as well as for `-device`. Types are named exactly, or by the kind of
//! bus their devices sit on (`pci-device`, `virtio-device`). Not here: defaults of
//! CPUs, which `-cpu` sets. Source: QEMU's manual, option `-global`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qapi::{Error, Kind, Result, TypeInfo, Value};

use crate::class::{Bus, DeviceClass};

/// A default.
#[derive(Debug, Default)]
pub struct Global {
    /// Type of device.
    pub driver: String,
    /// The property.
    pub property: String,
    /// Its value as a person wrote it.
    pub value: String,
    /// Some device took it.
    used: AtomicBool,
}

impl Global {
    /// A default that nobody took yet.
    #[must_use]
    pub fn new(driver: &str, property: &str, value: &str) -> Global {
        let (driver, property) = (driver.to_owned(), property.to_owned());
        Global { driver, property, value: value.to_owned(), used: AtomicBool::new(false) }
    }

    /// Whether some device took it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

/// All defaults; the last one of a property wins. The service is `Arc<Globals>`.
#[derive(Debug, Default)]
pub struct Globals(pub Vec<Global>);

/// The abstract type that all devices of a bus build on.
fn parent(bus: Bus) -> &'static str {
    match bus {
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

impl Globals {
    /// The defaults of the service, if there are any.
    #[must_use]
    pub fn of(services: &crate::services::Services) -> Option<Arc<Globals>> {
        services.find()
    }

    /// Puts the defaults of a type into properties that lack them.
    ///
    /// # Errors
    /// The type has no such property; the value is none of its type.
    pub fn apply(&self, class: &DeviceClass, props: &mut Value) -> Result<()> {
        for global in self.0.iter().rev() {
            if global.driver != class.name && global.driver != parent(class.bus) {
                continue;
            }
            global.used.store(true, Ordering::Relaxed);
            let (driver, name, text) = (&global.driver, &global.property, &global.value);
            let fail = |why: String| {
                Error::generic(format!("can't apply global {driver}.{name}={text}: {why}"))
            };
            let Some(member) = (class.props)().member(name) else {
                return Err(fail(format!("Property '{}.{name}' not found", class.name)));
            };
            if props.get(name).is_none() {
                let value = typed((member.ty)(), text).map_err(|e| fail(e.within(name).desc))?;
                props.set(name, value);
            }
        }
        Ok(())
    }
}

/// Text as a value of a type, so that it fits beside values that were never text.
fn typed(info: &TypeInfo, text: &str) -> Result<Value> {
    let int = |number: Option<i128>, what: &str| {
        let number = number.ok_or_else(|| Error::expects("", what))?;
        let wide = || u64::try_from(number).map(Value::Uint);
        i64::try_from(number)
            .map(Value::Int)
            .or_else(|_| wide())
            .map_err(|_| Error::expects("", what))
    };
    match info.kind {
        Kind::Bool => match text {
            "on" | "yes" | "true" | "y" => Ok(Value::Bool(true)),
            "off" | "no" | "false" | "n" => Ok(Value::Bool(false)),
            _ => Err(Error::expects("", "'on' or 'off'")),
        },
        Kind::Int => int(qapi::parse_int(text), "an integer"),
        Kind::Size => int(qapi::parse_size(text, 1).map(i128::from), "a size"),
        _ => Ok(Value::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Build, Device, DeviceType, Reset};
    use vmstate::Migration;

    struct Thing;
    impl Device for Thing {
        fn reset(&self, _: Reset) {}
        fn migration(&self) -> Migration<'_> {
            Migration::Stateless
        }
    }
    #[derive(derive::Qapi)]
    struct Props {
        /// Speed
        #[qapi(default = 1)]
        speed: u32,
        /// Loud
        #[qapi(default = false)]
        loud: bool,
    }
    impl DeviceType for Thing {
        const NAME: &'static str = "thing";
        const BUS: Bus = Bus::Pci;
        const SUMMARY: &'static str = "a thing";
        type Props = Props;
        fn create(props: Props, _: &mut Build<'_>) -> Result<Arc<Thing>> {
            assert!(props.speed > 0 || !props.loud);
            Ok(Arc::new(Thing))
        }
    }
    static THING: DeviceClass = DeviceClass::of::<Thing>();

    fn apply(driver: &str, property: &str, value: &str) -> std::result::Result<String, String> {
        let globals = Globals(vec![Global::new(driver, property, value)]);
        let mut props = Value::map([("loud", Value::Bool(true))]);
        globals.apply(&THING, &mut props).map_err(|e| e.desc)?;
        Ok(qapi::json::to_string(&props))
    }

    #[test]
    fn defaults_fill_what_was_not_given() {
        assert_eq!(apply("thing", "speed", "7"), Ok(r#"{"loud": true, "speed": 7}"#.into()));
        assert_eq!(apply("pci-device", "loud", "off"), Ok(r#"{"loud": true}"#.into()));
        assert_eq!(apply("other", "x", "y"), Ok(r#"{"loud": true}"#.into()));
        let error = "can't apply global thing.x=y: Property 'thing.x' not found";
        assert_eq!(apply("thing", "x", "y"), Err(error.into()));
        let error = "can't apply global thing.speed=z: Parameter 'speed' expects an integer";
        assert_eq!(apply("thing", "speed", "z"), Err(error.into()));
    }
}
