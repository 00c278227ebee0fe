//! The catalog in the form that commands and help texts read.

use accel::GuestArch;
use vmm::{CpuListing, Listing, MachineListing, OptionGroup, OptionParameter};

/// Everything that can be chosen for a guest.
pub(crate) fn listing(guest: &'static dyn GuestArch) -> Listing {
    let cpu = |model: &accel::CpuModel| CpuListing {
        name: model.name.into(),
        props: <() as qapi::Qapi>::type_info,
    };
    let machine = |class: &&'static machine::MachineClass| MachineListing {
        name: class.name.into(),
        alias: class.alias.map(str::to_owned),
        summary: class.summary.into(),
        max_cpus: class.max_cpus,
        default_cpu: class.default_cpu.map(str::to_owned),
        props: class.props,
    };
    let runs = |class: &&&machine::MachineClass| class.arch.is_none_or(|arch| arch == guest.name());
    let machines = catalog::MACHINES.iter().filter(runs).map(machine).collect();
    Listing {
        target: guest.name(),
        guest: Some(guest),
        machines,
        cpus: guest.models().iter().map(cpu).collect(),
        accels: usable_accels(guest).map(|accel| accel.name()).collect(),
        devices: catalog::DEVICES.to_vec(),
        objects: catalog::OBJECTS.to_vec(),
        options: option_groups(),
    }
}

/// Accelerators that can run this guest here.
pub(crate) fn usable_accels(
    guest: &'static dyn GuestArch,
) -> impl Iterator<Item = &'static dyn accel::Accel> {
    catalog::ACCELS.iter().copied().filter(move |accel| accel.usable(guest).is_ok())
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
