//! The catalog in the form that commands and help texts read.

use catalog::Guest;
use vmm::{CpuListing, Listing, MachineListing, OptionGroup, OptionParameter};

use crate::board;

/// Everything that can be chosen for a guest.
pub(crate) fn listing(guest: &Guest) -> Listing {
    let cpu = |model: &accel::CpuModel| CpuListing {
        name: model.name.into(),
        props: <() as qapi::Qapi>::type_info,
    };
    let mut machines = board::machines();
    machines.push(MachineListing {
        name: "none".into(),
        alias: None,
        summary: "empty machine".into(),
        max_cpus: 1,
        default_cpu: None,
        props: <() as qapi::Qapi>::type_info,
    });
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    Listing {
        target: guest.arch.name(),
        machines,
        cpus: guest.arch.models().iter().map(cpu).collect(),
        accels: usable_accels(guest).map(|accel| accel.name()).collect(),
        devices: catalog::DEVICES.to_vec(),
        options: option_groups(),
    }
}

/// Accelerators that can run this guest here.
pub(crate) fn usable_accels(guest: &Guest) -> impl Iterator<Item = &'static dyn accel::Accel> {
    let arch = guest.arch;
    catalog::ACCELS.iter().copied().filter(move |accel| accel.usable(arch).is_ok())
}

fn option_groups() -> Vec<OptionGroup> {
    let group = |name, parameters: &[(&'static str, &'static str)]| OptionGroup {
        name,
        parameters: parameters
            .iter()
            .map(|(name, kind)| OptionParameter { name, kind, help: "" })
            .collect(),
    };
    let string = "string";
    vec![
        group("machine", &[("type", string), ("accel", string)]),
        group("memory", &[("size", "size")]),
        group(
            "smp-opts",
            &[
                ("cpus", "number"),
                ("sockets", "number"),
                ("clusters", "number"),
                ("cores", "number"),
                ("threads", "number"),
                ("maxcpus", "number"),
            ],
        ),
        group("accel", &[("accel", string)]),
        group("name", &[("guest", string)]),
        group("mon", &[("mode", string), ("chardev", string), ("pretty", "boolean")]),
        group("chardev", &[("backend", string), ("id", string), ("mux", "boolean")]),
        group("device", &[]),
    ]
}
