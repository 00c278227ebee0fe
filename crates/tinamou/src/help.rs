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
        let line = |class: &&'static device::DeviceClass| {
            format!("name \"{}\", bus {:?}, desc \"{}\"\n", class.name, class.bus, class.summary)
        };
        let pluggable = listing.devices.iter().filter(|class| class.bus != Bus::System);
        let boards = listing.devices.iter().filter(|class| class.bus == Bus::System);
        let mut text: String = pluggable.map(line).collect();
        text.push_str("Devices of boards (not for -device; 'NAME,help' shows properties):\n");
        text.extend(boards.map(line));
        return Ok(Some(text));
    };
    match listing.device(driver) {
        Some(class) => Ok(Some(qapi::member_lines(driver, (class.props)()))),
        None => Err(Stop::at(place, format!("Device '{driver}' not found"))
            .hint("Use -device help to list the devices.")),
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
