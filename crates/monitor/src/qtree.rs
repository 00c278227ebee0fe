//! `info qtree`: the devices, from what they told when they were created.

use std::fmt::Write as _;
use std::sync::Arc;

use device::Record;
use qapi::{Value, json};
use vmm::Vm;

/// The tree as text, in QEMU's form.
pub(crate) fn text(vm: &Vm) -> String {
    let mut text = String::from("bus: main-system-bus\n  type System\n");
    let Some(machine) = vm.machine() else { return text };
    let all = machine.devices.all();
    children(&mut text, vm, &all, (None, 2));
    text
}

fn children(text: &mut String, vm: &Vm, all: &[Arc<Record>], at: (Option<&str>, usize)) {
    let (parent, indent) = at;
    let pad = " ".repeat(indent);
    for record in all.iter().rev().filter(|record| record.parent.as_deref() == parent) {
        let mut own = String::new();
        device(&mut own, vm, record);
        let shift = " ".repeat(indent.saturating_sub(2));
        text.extend(own.lines().map(|line| format!("{shift}{line}\n")));
        for bus in &record.buses {
            let kind = bus.kind().type_name();
            _ = writeln!(text, "{pad}  bus: {}\n{pad}    type {kind}", bus.name());
            children(text, vm, all, (Some(bus.name()), indent + 4));
        }
    }
}

fn device(text: &mut String, vm: &Vm, record: &Record) {
    _ = writeln!(text, "  dev: {}, id \"{}\"", record.class.name, record.id);
    for input in &record.irq_ins {
        _ = writeln!(text, "    gpio-in \"{}\" {}", input.name, input.count);
    }
    if !record.irq_outs.is_empty() {
        _ = writeln!(text, "    gpio-out \"sysbus-irq\" {}", record.irq_outs.len());
    }
    for (name, value) in record.props.as_map().unwrap_or(&[]) {
        let value = match value {
            Value::Int(number) => format!("{number} ({number:#x})"),
            other => json::to_string(other),
        };
        _ = writeln!(text, "    {name} = {value}");
    }
    for region in &record.regions {
        let base = base_of(vm, region.name());
        let base = base.map_or_else(|| "ffffffffffffffff".into(), |base| format!("{base:016x}"));
        _ = writeln!(text, "    mmio {base}/{:016x}", region.len());
    }
}

fn base_of(vm: &Vm, name: &str) -> Option<u64> {
    let space = vm.machine()?.spaces.first()?;
    let view = space.view();
    let range = view.ranges().iter().find(|range| range.region.name() == name)?;
    Some(range.start)
}
