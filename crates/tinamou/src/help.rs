//! Help texts, all printed from tables.

use std::{fmt::Write as _, io::Write as _};

use accel::GuestArch;
use device::Bus;
use qapi::{Value, keyval::Dialect};
use vmm::Listing;

use crate::{
    fail::{Step, Stop},
    listing::usable_accels,
    options::Given,
    settings::Settings,
    table::{OptionState, TABLE},
};

/// Prints to standard output, which may be gone already (`-help | head`).
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// `-version`.
pub(crate) fn version() -> String {
    format!("QEMU emulator version 10.0.2 (Tinamou {})\n", env!("CARGO_PKG_VERSION"))
}

/// `-help`.
pub(crate) fn usage(program: &str) -> String {
    let mut text = version();
    _ = writeln!(text, "usage: {program} [options]");
    let mut group = "";
    for opt in TABLE.iter().filter(|opt| opt.state == OptionState::Built) {
        if opt.group != group {
            group = opt.group;
            _ = writeln!(text, "\n{group}:");
        }
        let head = format!("-{} {}", opt.name, opt.form);
        if head.len() < 16 {
            _ = writeln!(text, "{head:<16}{}", opt.help);
        } else {
            _ = writeln!(text, "{head}\n{:16}{}", "", opt.help);
        }
    }
    let absent = TABLE.iter().filter(|opt| opt.state == OptionState::NotBuilt).count();
    _ = writeln!(text, "\n{absent} more options of QEMU are known but not built yet.");
    text
}

/// Prints what an option's `help` argument asks for, if any does.
pub(crate) fn answer(
    program: &str,
    given: &[Given],
    settings: &Settings,
    guest: &'static dyn GuestArch,
    listing: &Listing,
) -> Step<()> {
    for option in given {
        let text = match (option.opt.name, option.value.as_str()) {
            ("h" | "help", _) => usage(program),
            ("version", _) => version(),
            ("cpu", "help" | "?") => cpus(listing),
            ("d", "help" | "?") => trace::help(),
            ("device", value) => match device(listing, &option.place, value)? {
                Some(text) => text,
                None => continue,
            },
            ("object", value) => match object(listing, &option.place, value)? {
                Some(text) => text,
                None => continue,
            },
            ("netdev", value) => match crate::network::help(value) {
                Some(text) => text,
                None => continue,
            },
            ("chardev", value) => match chardev(value) {
                Some(text) => text,
                None => continue,
            },
            _ => continue,
        };
        say(&text);
        return Err(Stop::Done);
    }
    if settings.accels.iter().any(|accel| matches!(accel.name.as_str(), "help" | "?")) {
        say(&format!("Accelerators supported in QEMU binary:\n{}", accels(guest)));
        return Err(Stop::Done);
    }
    if let Some(machine) = &settings.machine {
        if matches!(machine.value.as_str(), "help" | "?") {
            say(&machines(listing));
            return Err(Stop::Done);
        }
        if let Some(name) = machine.value.strip_suffix(",help")
            && let Some(found) = listing.machine(name)
        {
            let name = format!("{}-machine", found.name);
            say(&qapi::member_lines(&name, (found.props)()));
            return Err(Stop::Done);
        }
    }
    Ok(())
}

fn accels(guest: &'static dyn GuestArch) -> String {
    usable_accels(guest).map(|accel| format!("{}\n", accel.name())).collect()
}

fn cpus(listing: &Listing) -> String {
    let names = listing.cpus.iter().map(|cpu| format!("  {}\n", cpu.name));
    format!("Available CPUs:\n{}", names.collect::<String>())
}

fn machines(listing: &Listing) -> String {
    let mut text = String::from("Supported machines are:\n");
    for machine in &listing.machines {
        if let Some(alias) = &machine.alias {
            _ = writeln!(text, "{alias:<20} {} (alias of {})", machine.summary, machine.name);
        }
        _ = writeln!(text, "{:<20} {}", machine.name, machine.summary);
    }
    text
}

fn device(listing: &Listing, place: &str, value: &str) -> Step<Option<String>> {
    if value.starts_with('{') {
        return Ok(None);
    }
    let Ok(parsed) = Dialect::flat(Some("driver")).parse(value) else { return Ok(None) };
    if !parsed.help {
        return Ok(None);
    }
    let Some(driver) = parsed.value.get("driver").and_then(Value::as_str) else {
        return Ok(Some(devices(listing)));
    };
    match listing.device(driver) {
        Some(class) => Ok(Some(qapi::member_lines(driver, (class.props)()))),
        None => Err(Stop::at(place, format!("Device '{driver}' not found"))
            .hint("Use -device help to list the devices.")),
    }
}

/// QEMU's headings, in its order, with the ends of names of devices that go under each; a device
/// that is under none is "Misc".
const CATEGORIES: &[(&str, &[&str])] = &[
    ("Controller/Bridge/Hub", &["-bridge", "-root-port", "-upstream", "-downstream"]),
    ("USB", &["-xhci", "-ehci", "usb-storage"]),
    (
        "Storage",
        &["-blk-pci", "-blk-device", "-scsi-pci", "-scsi-device", "scsi-hd", "scsi-cd", "nvme"],
    ),
    ("Network", &["-net-pci", "-net-device", "e1000", "e1000e"]),
    ("Input", &["-serial-pci", "-serial-device", "virtconsole", "virtserialport"]),
    ("Display", &["-gpu-pci", "ramfb"]),
    ("Misc", &[]),
];

fn category(class: &device::DeviceClass) -> &'static str {
    let variants = ["-non-transitional", "-transitional"];
    let name = variants.iter().find_map(|v| class.name.strip_suffix(v)).unwrap_or(class.name);
    let ends = |(_, ends): &&(&str, &[&str])| ends.iter().any(|end| name.ends_with(end));
    CATEGORIES.iter().find(ends).map_or("Misc", |(title, _)| title)
}

/// `-device help`: what can be plugged, under QEMU's headings.
fn devices(listing: &Listing) -> String {
    let mut text = String::new();
    for (title, _) in CATEGORIES {
        let mut classes: Vec<_> = listing
            .devices
            .iter()
            .filter(|class| class.bus != Bus::System && category(class) == *title)
            .collect();
        if classes.is_empty() {
            continue;
        }
        classes.sort_by_key(|class| class.name);
        let gap = if text.is_empty() { "" } else { "\n" };
        _ = writeln!(text, "{gap}{title} devices:");
        for class in classes {
            let (name, bus) = (class.name, class.bus.type_name());
            _ = writeln!(text, "name \"{name}\", bus {bus}{}", described(class.summary));
        }
    }
    text
}

fn described(summary: &str) -> String {
    if summary.is_empty() { String::new() } else { format!(", desc \"{summary}\"") }
}

fn object(listing: &Listing, place: &str, value: &str) -> Step<Option<String>> {
    let Ok(parsed) = Dialect::structured(Some("qom-type")).parse(value) else { return Ok(None) };
    if !parsed.help {
        return Ok(None);
    }
    let Some(name) = parsed.value.get("qom-type").and_then(Value::as_str) else {
        let names = listing.objects.iter().map(|class| format!("  {}\n", class.name));
        let names: String = names.collect();
        return Ok(Some(format!("List of user creatable objects:\n{names}")));
    };
    match listing.object(name) {
        Some(class) => Ok(Some(qapi::member_lines(name, (class.props)()))),
        None => {
            Err(Stop::at(place, format!("Parameter 'qom-type' does not accept value '{name}'"))
                .hint("Use -object help to list the types."))
        }
    }
}

fn chardev(value: &str) -> Option<String> {
    let parsed = Dialect::flat(Some("backend")).parse(value).ok()?;
    if !parsed.help {
        return None;
    }
    let class = parsed.value.get("backend").and_then(Value::as_str);
    let class = class.and_then(|name| catalog::CHARDEVS.iter().find(|class| class.name == name));
    Some(match class {
        Some(class) => qapi::member_lines(class.name, (class.args)()),
        None => {
            let names = catalog::CHARDEVS.iter().map(|class| format!("  {}\n", class.name));
            format!("Available chardev backend types:\n{}", names.collect::<String>())
        }
    })
}
