//! `info`: the subcommands of the human monitor that show something.

use std::fmt::Write as _;
use std::sync::Arc;

use vmm::{RunState, Vm};

use crate::{hmp::split_line, qtree};

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
    info!("chardev", "", "show the character devices", |vm, _| chardev(vm)),
    info!("cpus", "", "show infos for each CPU", |vm, _| cpus(vm)),
    info!("kvm", "", "show KVM information", |vm, _| kvm(vm)),
    info!("mtree", "[-f]", "show memory tree (-f: dump flat view for address spaces)", mtree),
    info!("name", "", "show the current VM name", |vm, _| name(vm)),
    info!("qtree", "", "show device tree", |vm, _| qtree::text(vm)),
    info!(
        "registers",
        "[-a]", "show the cpu registers (-a: show register info for all cpus)", registers
    ),
    info!("status", "", "show the current VM status (running|paused)", |vm, _| status(vm)),
    info!("uuid", "", "show the current VM UUID", |vm, _| uuid(vm)),
    info!("version", "", "show the version of QEMU", |_, _| version()),
];

fn help_line(info: &Info) -> String {
    format!("info {} {} -- {}\n", info.name, info.args, info.help)
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
