//! `snapshot`: lists internal snapshots, takes, applies and deletes them.
//!
//! Without an option the list is shown; the options exclude one another. A snapshot is named by its
//! id or its name. Times are shown in the host's time zone.
//! Source: QEMU's manual, `qemu-img snapshot`.

use block::{Flags, Snapshot, SnapshotChange};

use crate::options::{Given, Opt};
use crate::{Done, Fail, fail, say};

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('l', "list", ""),
    ('a', "apply", "SNAPSHOT"),
    ('c', "create", "SNAPSHOT"),
    ('d', "delete", "SNAPSHOT"),
];

pub(crate) fn list(snapshots: &[Snapshot]) -> String {
    format!("Snapshot list:\n{}", block::describe::snapshot_table(snapshots, true))
}

/// What is to be done: the words for messages, and the change.
fn change(given: &Given) -> Result<Option<(&'static str, String, SnapshotChange)>, Fail> {
    let asked: Vec<_> = given
        .ordered()
        .filter(|(name, _)| ["list", "apply", "create", "delete"].contains(name))
        .collect();
    if asked.len() > 1 {
        return Err(given.usage("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let now = host::realtime_ns();
    let seconds = u32::try_from(now / 1_000_000_000).unwrap_or(0);
    let rest = u32::try_from(now % 1_000_000_000).unwrap_or(0);
    Ok(match asked.first() {
        Some(("create", name)) => {
            let about = Snapshot {
                name: (*name).to_owned(),
                seconds,
                nanoseconds: rest,
                icount: u64::MAX,
                ..Snapshot::default()
            };
            let change = SnapshotChange::Create(about);
            Some(("create", (*name).to_owned(), change))
        }
        Some(("apply", name)) => {
            Some(("apply", (*name).to_owned(), SnapshotChange::Apply((*name).to_owned())))
        }
        Some(("delete", name)) => {
            Some(("delete", (*name).to_owned(), SnapshotChange::Delete((*name).to_owned())))
        }
        _ => None,
    })
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("snapshot", args, OPTIONS)? else { return Ok(0) };
    let name = given.name()?;
    let change = change(&given)?;
    let flags = Flags { no_backing: true, ..given.flags(change.is_none()) };
    let node = given.open(&*given.graph()?, name, given.value("format"), flags)?;
    let Some((what, word, change)) = change else {
        let all = node.driver().format_info().snapshots;
        if !all.is_empty() {
            say(&list(&all));
        }
        return Ok(0);
    };
    match node.driver().change_snapshot(&change) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Fail(format!("Could not {what} snapshot '{word}': snapshot not found"), 1))
        }
        Err(error) => fail(&format!("Could not {what} snapshot '{word}'"), &error),
    }
}
