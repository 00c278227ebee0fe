//! `snapshot`: lists internal snapshots, takes, applies and deletes them.
//!
//! Without an option the list is shown; the options exclude one another. A snapshot is named by its
//! id or its name. Times are shown in the host's time zone.
//! Source: QEMU's manual, `qemu-img snapshot`.

use block::{Flags, Snapshot, Snapshot, SnapshotChange};

use crate::options::{Given, Opt, human};
use crate::{Done, Fail, fail, say};

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('l', "list", ""),
    ('a', "apply", "SNAPSHOT"),
    ('c', "create", "SNAPSHOT"),
    ('d', "delete", "SNAPSHOT"),
];

/// `hh:mm:ss` of a day and the day, of seconds since 1970 in UTC moved by the host's zone.
fn date(seconds: u32) -> String {
    let local = i64::from(seconds) + host::local_offset_seconds();
    let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    // Days since 0000-03-01 in eras of 400 years.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}")
}

pub(crate) fn list(snapshots: &[Snapshot]) -> String {
    let mut out = String::from("Snapshot list:\n");
    out += "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n";
    for s in snapshots {
        let (ms, sec) = (s.clock / 1_000_000 % 1000, s.clock / 1_000_000_000);
        let clock = format!("{:04}:{:02}:{:02}.{ms:03}", sec / 3600, sec / 60 % 60, sec % 60);
        let icount = if s.icount == u64::MAX { "--".to_owned() } else { s.icount.to_string() };
        out += &format!(
            "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n",
            s.id,
            s.name,
            human(s.vm_state),
            date(s.seconds),
            clock,
            icount
        );
    }
    out
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
