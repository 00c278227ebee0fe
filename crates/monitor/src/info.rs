//! `info`: the subcommands of the human monitor that show something.

use std::fmt::Write as _;
use std::sync::Arc;

use qapi::Value;
use vmm::{RunState, Vm};

use crate::{hmp::split_line, network, objects, qtree};

struct Info {
    name: &'static str,
    args: &'static str,
    help: &'static str,
    run: fn(&Arc<Vm>, &str) -> String,
}

macro_rules! info {
    ($name:literal, $args:literal, $help:literal, $run:expr) => {
        Info { name: $name, args: $args, help: $help, run: $run }
    };
}

static INFOS: &[Info] = &[
    info!("balloon", "", "show balloon information", |vm, _| objects::info_balloon(vm)),
    info!(
        "block",
        "[-n] [-v] [device]",
        "show info of one block device or all block devices (-n: show named nodes; -v: show details)",
        crate::block::info_block
    ),
    info!("block-jobs", "", "show progress of ongoing block device operations", |vm, _| {
        crate::block::info_jobs(vm)
    }),
    info!("blockstats", "", "show block device statistics", |vm, _| {
        crate::block::info_blockstats(vm)
    }),
    info!("chardev", "", "show the character devices", |vm, _| chardev(vm)),
    info!("cpus", "", "show infos for each CPU", |vm, _| cpus(vm)),
    info!("history", "", "show the command line history", |_, _| String::new()),
    info!("iothreads", "", "show iothreads", |vm, _| iothreads(vm)),
    info!("jit", "", "show dynamic compiler info", |vm, _| jit(vm)),
    info!("kvm", "", "show KVM information", |vm, _| kvm(vm)),
    info!("memdev", "", "show memory backends", |vm, _| memdev(vm)),
    info!("memory-devices", "", "show memory devices", |vm, _| memory_devices(vm)),
    info!(
        "memory_size_summary",
        "",
        "show the amount of initially allocated and present hotpluggable (if enabled) memory in bytes.",
        |vm, _| memory_size(vm)
    ),
    info!("mtree", "[-f]", "show memory tree (-f: dump flat view for address spaces)", mtree),
    info!("name", "", "show the current VM name", |vm, _| name(vm)),
    info!("network", "", "show the network state", |vm, _| network::info(vm)),
    info!("numa", "", "show NUMA information", |vm, _| numa(vm)),
    info!("pci", "", "show PCI info", |vm, _| pci(vm)),
    info!("qom-tree", "[path]", "show QOM composition tree", objects::qom_tree),
    info!("qtree", "", "show device tree", |vm, _| qtree::text(vm)),
    info!(
        "registers",
        "[-a]", "show the cpu registers (-a: show register info for all cpus)", registers
    ),
    info!("roms", "", "show roms", |vm, _| roms(vm)),
    info!("snapshots", "", "show the currently saved VM snapshots", |vm, _| {
        crate::snapshots::info(vm)
    }),
    info!("status", "", "show the current VM status (running|paused)", |vm, _| status(vm)),
    info!("usernet", "", "show user network stack connection states", |vm, _| {
        network::usernet(vm)
    }),
    info!("uuid", "", "show the current VM UUID", |vm, _| uuid(vm)),
    info!("version", "", "show the version of QEMU", |_, _| version()),
];

fn help_line(info: &Info) -> String {
    format!("info {} {} -- {}\n", info.name, info.args, info.help)
}

/// Names of all subcommands.
pub(crate) fn names() -> Vec<&'static str> {
    INFOS.iter().map(|info| info.name).collect()
}

fn list(vm: &Vm, command: &str) -> Vec<Value> {
    let reply = vmm::commands::execute(vm, command, Value::empty());
    reply.ok().and_then(|reply| reply.as_list().map(<[Value]>::to_vec)).unwrap_or_default()
}

fn word(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::Str(text)) => text.clone(),
        Some(Value::Bool(truth)) => truth.to_string(),
        Some(other) => qapi::json::to_string(other),
        None => String::new(),
    }
}

fn iothreads(vm: &Vm) -> String {
    let names = ["thread-id", "poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"];
    let mut text = String::new();
    for thread in list(vm, "query-iothreads") {
        _ = writeln!(text, "{}:", word(&thread, "id"));
        for name in names {
            let shown = if name == "thread-id" { "thread_id" } else { name };
            _ = writeln!(text, "  {shown}={}", word(&thread, name));
        }
    }
    text
}

fn memdev(vm: &Vm) -> String {
    let mut text = String::new();
    for device in list(vm, "query-memdev") {
        _ = writeln!(text, "memory backend: {}", word(&device, "id"));
        for name in ["size", "merge", "dump", "prealloc", "share", "reserve", "policy"] {
            _ = writeln!(text, "  {name}:  {}", word(&device, name));
        }
        _ = writeln!(text, "  host nodes: ");
    }
    text.push('\n');
    text
}

fn memory_devices(vm: &Vm) -> String {
    let mut text = String::new();
    for (id, m) in vmm::commands::modules(vm) {
        _ = writeln!(text, "Memory device [dimm]: \"{}\"", id.unwrap_or_default());
        _ = writeln!(text, "  addr: {:#x}\n  slot: {}\n  node: {}", m.addr, m.slot, m.node);
        _ = writeln!(text, "  size: {}\n  memdev: {}", m.size, m.memdev);
        _ = writeln!(text, "  hotplugged: {}\n  hotpluggable: true", m.hotplugged);
    }
    text
}

fn numa(vm: &Vm) -> String {
    const MIB: u64 = 1 << 20;
    let Some(machine) = vm.machine() else { return "0 nodes\n".into() };
    let mut text = format!("{} nodes\n", machine.nodes.len());
    let modules = vmm::commands::modules(vm);
    for (id, node) in (0u16..).zip(&machine.nodes) {
        let plugged = modules.iter().filter(|(_, m)| m.node == u32::from(id));
        let plugged: u64 = plugged.map(|(_, m)| m.size).sum();
        let cpus = machine.places.iter().enumerate().filter(|(_, p)| p.node == Some(id));
        let cpus: String = cpus.map(|(index, _)| format!(" {index}")).collect();
        _ = writeln!(text, "node {id} cpus:{cpus}");
        _ = writeln!(text, "node {id} size: {} MB", (node.mem + plugged) / MIB);
        _ = writeln!(text, "node {id} plugged: {} MB", plugged / MIB);
    }
    text
}

fn memory_size(vm: &Vm) -> String {
    let size = vm.machine().map_or(0, |machine| machine.ram_size);
    let plugged: u64 = vmm::commands::modules(vm).iter().map(|(_, m)| m.size).sum();
    format!("base memory: {size}\nplugged memory: {plugged}\n")
}

fn pci(vm: &Vm) -> String {
    let Some(buses) = vmm::commands::pci_buses(vm) else {
        return "PCI devices not supported\n".into();
    };
    let mut text = String::new();
    for (number, functions) in buses {
        pci_functions(&mut text, number, &functions);
    }
    text
}

fn pci_functions(text: &mut String, bus: u8, functions: &[vmm::commands::FunctionInfo]) {
    for f in functions {
        _ = writeln!(text, "  Bus {bus:2}, device {:3}, function {}:", f.slot, f.function);
        match vmm::commands::pci_class_name(f.class) {
            Some(name) => _ = write!(text, "    {name}"),
            None => _ = write!(text, "    Class {:04}", f.class),
        }
        _ = writeln!(text, ": PCI device {:04x}:{:04x}", f.id.0, f.id.1);
        if f.bridge.is_none() {
            _ = writeln!(text, "      PCI subsystem {:04x}:{:04x}", f.subsystem.0, f.subsystem.1);
        }
        if let (line, pin @ 1..=4) = f.irq {
            _ = writeln!(text, "      IRQ {line}, pin {}", char::from(b'A' + pin - 1));
        }
        if let Some(bridge) = &f.bridge {
            let [primary, secondary, last] = bridge.numbers;
            let [io, memory, prefetch] = bridge.windows;
            _ = writeln!(text, "      BUS {primary}.");
            _ = writeln!(text, "      secondary bus {secondary}.");
            _ = writeln!(text, "      subordinate bus {last}.");
            _ = writeln!(text, "      IO range [{:#06x}, {:#06x}]", io.0, io.1);
            _ = writeln!(text, "      memory range [{:#010x}, {:#010x}]", memory.0, memory.1);
            let (first, last) = prefetch;
            _ = writeln!(text, "      prefetchable memory range [{first:#010x}, {last:#010x}]");
        }
        for r in &f.regions {
            let kind = match (r.io, r.wide, r.prefetch) {
                (true, ..) => "I/O",
                (_, true, true) => "64 bit prefetchable memory",
                (_, true, false) => "64 bit memory",
                (_, false, true) => "32 bit prefetchable memory",
                (_, false, false) => "32 bit memory",
            };
            let place = match (r.address, r.io) {
                (Some(at), true) => format!("at {at:#06x} [{:#06x}]", at + r.size - 1),
                (Some(at), false) => format!("at {at:#010x} [{:#010x}]", at + r.size - 1),
                (None, _) => "(not mapped)".into(),
            };
            _ = writeln!(text, "      BAR{}: {kind} {place}", r.bar);
        }
        _ = writeln!(text, "      id \"{}\"", f.name);
        if let Some(bridge) = &f.bridge {
            pci_functions(text, bridge.numbers[1], &bridge.functions);
        }
    }
}

fn jit(vm: &Vm) -> String {
    vm.execution().accel().map(|accel| accel.info()).unwrap_or_default()
}

fn roms(vm: &Vm) -> String {
    let Some(machine) = vm.machine() else { return String::new() };
    let line = |(address, size, name): &(u64, u64, String)| {
        format!("addr={address:016x} size={size:#08x} mem=ram name=\"{name}\"\n")
    };
    machine.roms.iter().map(line).collect()
}

/// Help on all subcommands.
pub(crate) fn help_all() -> String {
    INFOS.iter().map(help_line).collect()
}

/// Help on one subcommand.
pub(crate) fn help(name: &str) -> String {
    match INFOS.iter().find(|info| info.name == name.trim()) {
        Some(info) => help_line(info),
        None => format!("unknown command: 'info {name}'\n"),
    }
}

/// Runs `info …`.
pub(crate) fn run(vm: &Arc<Vm>, line: &str) -> String {
    let (word, rest) = split_line(line);
    if word.is_empty() {
        return help_all();
    }
    let Some(info) = INFOS.iter().find(|info| info.name == word) else {
        return format!("unknown command: 'info {word}'\n");
    };
    if info.args.is_empty() && !rest.is_empty() {
        return format!(
            "info {word}: extraneous characters at the end of line\n\
             Try \"help info {word}\" for more information\n"
        );
    }
    (info.run)(vm, rest)
}

fn status(vm: &Vm) -> String {
    let state = vm.state();
    match state {
        RunState::Running => "VM status: running\n".into(),
        RunState::Paused => "VM status: paused\n".into(),
        other => format!("VM status: paused ({})\n", other.name()),
    }
}

fn version() -> String {
    format!("10.0.2Tinamou {}\n", env!("CARGO_PKG_VERSION"))
}

fn name(vm: &Vm) -> String {
    vm.config.name.as_ref().map(|name| format!("{name}\n")).unwrap_or_default()
}

fn uuid(vm: &Vm) -> String {
    format!("{}\n", vmm::uuid_text(vm.config.uuid.unwrap_or_default()))
}

fn kvm(vm: &Vm) -> String {
    let text = match (vm.config.accel.as_str(), vm.listing.accels.contains(&"kvm")) {
        ("kvm", _) => "enabled",
        (_, true) => "disabled",
        (_, false) => "not compiled",
    };
    format!("kvm support: {text}\n")
}

fn chardev(vm: &Vm) -> String {
    let line = |info: chardev::ChardevInfo| format!("{}: filename={}\n", info.label, info.filename);
    vm.chardevs.list().into_iter().map(line).collect()
}

fn cpus(vm: &Vm) -> String {
    let mut text = String::new();
    for cpu in vm.execution().cpus() {
        let mark = if cpu.index == 0 { '*' } else { ' ' };
        _ = writeln!(text, "{mark} CPU #{}: thread_id={}", cpu.index, cpu.thread_id);
    }
    text
}

fn mtree(vm: &Arc<Vm>, args: &str) -> String {
    let Some(machine) = vm.machine() else { return String::new() };
    match args.trim() {
        "" => memory::mtree(&machine.spaces),
        "-f" => memory::mtree_flat(&machine.spaces),
        other => format!("info mtree: unsupported option {other}\n"),
    }
}

fn registers(vm: &Arc<Vm>, args: &str) -> String {
    let execution = vm.execution();
    let running = vm.state() == RunState::Running;
    if running {
        execution.stop();
    }
    let mut text = String::new();
    for cpu in execution.cpus() {
        if cpu.index > 0 && args.trim() != "-a" {
            break;
        }
        if let Some(registers) = execution.registers(cpu.index) {
            _ = write!(text, "\nCPU#{}\n{registers}", cpu.index);
        }
    }
    if running {
        execution.start();
    }
    if text.is_empty() { "No CPU available\n".into() } else { text }
}
