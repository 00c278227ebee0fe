//! What is there without being asked for: serial port and monitor.

use crate::settings::{MonitorKind, Placed, Settings};

/// Adds the default serial port and monitor, by QEMU's rules.
pub(crate) fn add(settings: &mut Settings) {
    if settings.nodefaults {
        return;
    }
    let by =
        |option: &str, value: &str| Placed { place: option.to_owned(), value: value.to_owned() };
    let serial = settings.serials.is_empty();
    let muxed = settings.serials.iter().any(|serial| serial.value.starts_with("mon:"));
    let monitor = settings.monitors.is_empty() && settings.mons.is_empty() && !muxed;
    let human = |value| (by("-nographic", value), MonitorKind::Human);
    match (settings.nographic, serial, monitor) {
        (true, true, true) => settings.serials.push(by("-nographic", "mon:stdio")),
        (true, true, false) => settings.serials.push(by("-nographic", "stdio")),
        (true, false, true) => settings.monitors.push(human("stdio")),
        // QEMU shows these two in its window; there is none.
        (false, true, _) => settings.serials.push(by("-serial", "null")),
        _ => {}
    }
}
