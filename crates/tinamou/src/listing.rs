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
    let (string, number, boolean) = ("string", "number", "boolean");
    let mut groups = vec![
        group("memory", &[("size", "size"), ("slots", number), ("maxmem", "size")]),
        group(
            "smp-opts",
            &[
                ("cpus", number),
                ("drawers", number),
                ("books", number),
                ("sockets", number),
                ("dies", number),
                ("clusters", number),
                ("modules", number),
                ("cores", number),
                ("threads", number),
                ("maxcpus", number),
            ],
        ),
        group("accel", &[]),
        group("action", &["reboot", "shutdown", "panic", "watchdog"].map(|name| (name, string))),
        group("add-fd", &[("fd", number), ("set", number), ("opaque", string)]),
        group("fw_cfg", &["name", "file", "string", "gen_id"].map(|name| (name, string))),
        group("global", &["driver", "property", "value"].map(|name| (name, string))),
        group("name", &[("guest", string), ("process", string), ("debug-threads", boolean)]),
        group("mon", &[("mode", string), ("chardev", string), ("pretty", boolean)]),
        group("msg", &[("timestamp", boolean)]),
        group("rtc", &["base", "clock", "driftfix"].map(|name| (name, string))),
        group("device", &[]),
        group("netdev", &[]),
        group("nic", &[]),
        group("net", &[]),
        group("object", &[]),
    ];
    // What the machines and character back ends take is in their types.
    let mut machine = vec![OptionParameter { name: "type", kind: string, help: "" }];
    let types = catalog::MACHINES.iter().map(|class| class.props);
    machine.extend(parameters(types));
    groups.push(OptionGroup { name: "machine", parameters: machine });
    let mut chardev: Vec<_> = [("backend", string), ("id", string), ("mux", boolean)]
        .map(|(name, kind)| OptionParameter { name, kind, help: "" })
        .into();
    chardev.extend(parameters(catalog::CHARDEVS.iter().map(|class| class.args)));
    groups.push(OptionGroup { name: "chardev", parameters: chardev });
    groups
}

/// The members of some types, each name once.
fn parameters(types: impl Iterator<Item = qapi::TypeRef>) -> Vec<OptionParameter> {
    let mut all: Vec<OptionParameter> = Vec::new();
    for member in types.flat_map(|ty| ty().members()) {
        if all.iter().any(|known| known.name == member.name) {
            continue;
        }
        let kind = match (member.ty)().kind {
            qapi::Kind::Bool => "boolean",
            qapi::Kind::Int | qapi::Kind::Number => "number",
            qapi::Kind::Size => "size",
            _ => "string",
        };
        all.push(OptionParameter { name: member.name, kind, help: "" });
    }
    all
}
