//! Every registered machine: created with its defaults, so that a wrong device name in a map fails
//! here and not at a user's desk.

use std::sync::Arc;

use device::{CharPort, CharSource, Clock, Request, Reset, RunControl};
use machine::{Host, MachineConfig};
use qapi::{Source, Value};

struct NoRequests;

impl RunControl for NoRequests {
    fn request(&self, _: Request) {}
}

struct NoChars;

impl CharSource for NoChars {
    fn port(&self, _: &str) -> qapi::Result<CharPort> {
        Ok(CharPort::unconnected())
    }
}

fn host() -> Host {
    Host {
        clock: Clock::manual(),
        wall: Arc::new(|| 0),
        run: Arc::new(NoRequests),
        chardevs: Arc::new(NoChars),
        objects: Arc::default(),
        services: device::Services::default(),
    }
}

fn config(cpus: u32) -> MachineConfig {
    let serials = vec![Some("serial0".into())];
    MachineConfig { ram_size: 64 << 20, cpus, serials, ..MachineConfig::default() }
}

#[test]
fn every_machine_is_created_reset_and_saved() {
    for class in catalog::MACHINES {
        let cpus = class.max_cpus.min(2);
        let made =
            class.create(Value::empty(), Source::KeyVal, config(cpus), host(), &catalog::CATALOG);
        let machine = made.unwrap_or_else(|error| panic!("{}: {}", class.name, error.desc));
        machine.reset.reset(Reset::Cold);
        machine.reset.settle();
        machine.reload().unwrap_or_else(|error| panic!("{}: {}", class.name, error.desc));
        for record in &machine.records {
            let mut w = vmstate::StateWriter::new();
            assert!(record.device.migration().write(&mut w).is_ok(), "{}", record.id);
        }
        assert_eq!(!machine.handles.is_empty(), class.arch.is_some(), "{}", class.name);
    }
}

#[test]
fn names_are_unique_and_documented() {
    for class in catalog::MACHINES {
        let names = catalog::MACHINES.iter().flat_map(|c| [Some(c.name), c.alias]);
        assert_eq!(names.filter(|name| *name == Some(class.name)).count(), 1, "{}", class.name);
        assert!(!class.summary.is_empty(), "{}", class.name);
        for member in (class.props)().members() {
            assert!(!member.doc.is_empty(), "{}.{}", class.name, member.name);
        }
    }
}

#[test]
fn too_many_cpus_are_refused() {
    for class in catalog::MACHINES.iter().filter(|class| class.arch.is_some()) {
        let config = config(class.max_cpus + 1);
        let made = class.create(Value::empty(), Source::KeyVal, config, host(), &catalog::CATALOG);
        assert!(made.is_err_and(|error| error.desc.contains("max CPUs")), "{}", class.name);
    }
}
