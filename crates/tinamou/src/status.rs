//! `docs/status.md` is true: its rows are what the tables hold.

use std::collections::BTreeSet;

use crate::table::{OptionState, TABLE};

const STATUS: &str = include_str!("../../../docs/status.md");

/// Names in the first column of a section's table.
fn rows(section: &str) -> BTreeSet<String> {
    let head = format!("\n## {section}\n");
    let (_, text) = STATUS.split_once(&head).unwrap_or_else(|| panic!("no section {section}"));
    let text = text.split("\n## ").next().unwrap_or_default();
    let name = |line: &str| {
        let (name, _) = line.strip_prefix("| `")?.split_once('`')?;
        Some(name.to_owned())
    };
    text.lines().filter_map(name).collect()
}

fn check<'a>(section: &str, names: impl Iterator<Item = &'a str>) {
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    let rows = rows(section);
    let missing: Vec<_> = names.difference(&rows).collect();
    let stale: Vec<_> = rows.difference(&names).collect();
    assert!(missing.is_empty(), "docs/status.md, {section}: no row for {missing:?}");
    assert!(stale.is_empty(), "docs/status.md, {section}: rows for what is not there: {stale:?}");
}

fn options(state: OptionState) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(move |opt| opt.state == state).map(|opt| opt.name)
}

#[test]
fn every_row_is_built_and_everything_built_has_a_row() {
    check("Options that work", options(OptionState::Built));
    check("Options that are refused", options(OptionState::NotBuilt));
    check("Machines", catalog::MACHINES.iter().map(|class| class.name));
    check(
        "CPU models",
        catalog::GUESTS.iter().flat_map(|guest| guest.models()).map(|model| model.name),
    );
    check("Devices", catalog::DEVICES.iter().map(|class| class.name));
    check("User-made objects", catalog::OBJECTS.iter().map(|class| class.name));
    check("Accelerators", catalog::ACCELS.iter().map(|accel| accel.name()));
    check("Character back ends", catalog::CHARDEVS.iter().map(|class| class.name));
    check("Network back ends", catalog::NETDEVS.iter().map(|class| class.name));
    check("QMP commands", vmm::commands::COMMANDS.iter().map(|command| command.name));
    check(
        "Human monitor commands",
        monitor::COMMANDS.iter().filter_map(|command| command.name.split('|').next()),
    );
}
