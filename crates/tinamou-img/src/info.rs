//! `info` and `snapshot`.

use std::sync::Arc;

use block::{Flags, Node, Snapshot, SnapshotChange};
use qapi::Value;

use crate::options::{Given, graph, human, open};
use crate::{Done, Fail, fail, say};

fn number(n: u64) -> Value {
    i64::try_from(n).map_or(Value::Uint(n), Value::Int)
}

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

fn list(snapshots: &[Snapshot]) -> String {
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

fn snapshot_json(s: &Snapshot) -> Value {
    let mut out = Value::empty();
    if s.icount != u64::MAX {
        out.set("icount", number(s.icount));
    }
    out.set("vm-clock-nsec", number(s.clock % 1_000_000_000));
    out.set("name", Value::from(s.name.as_str()));
    out.set("date-sec", number(s.seconds.into()));
    out.set("date-nsec", number(s.nanoseconds.into()));
    out.set("vm-clock-sec", number(s.clock / 1_000_000_000));
    out.set("id", Value::from(s.id.as_str()));
    out.set("vm-state-size", number(s.vm_state));
    out
}

fn allocated(node: &Node) -> Option<u64> {
    let own = node.driver().allocated_size();
    own.or_else(|| node.child("file").and_then(|file| file.driver().allocated_size()))
}

fn full_name(node: &Node, backing: &str) -> String {
    let image = node.filename();
    match image.rfind('/') {
        Some(end) if !backing.starts_with('/') => {
            format!("{}{backing}", image.get(..=end).unwrap_or(""))
        }
        _ => backing.to_owned(),
    }
}

fn json(node: &Node, name: &str) -> Value {
    let about = node.driver().format_info();
    let mut children = Vec::new();
    if let Some(file) = node.child("file") {
        children.push(Value::map([
            ("name", Value::from("file")),
            ("info", json(&file, file.filename())),
        ]));
    }
    let mut out = Value::map([("children", Value::List(children))]);
    if !about.snapshots.is_empty() {
        out.set("snapshots", Value::List(about.snapshots.iter().map(snapshot_json).collect()));
    }
    if let Some(format) = &about.backing_format {
        out.set("backing-filename-format", Value::from(format.as_str()));
    }
    out.set("virtual-size", number(node.len()));
    out.set("filename", Value::from(name));
    if let Some(size) = about.cluster_size {
        out.set("cluster-size", number(size));
    }
    out.set("format", Value::from(node.class().name));
    if let Some(size) = allocated(node) {
        out.set("actual-size", number(size));
    }
    let specific = about.specific.or_else(|| (node.class().name == "file").then(Value::empty));
    if let Some(data) = specific {
        out.set(
            "format-specific",
            Value::map([("type", Value::from(node.class().name)), ("data", data)]),
        );
    }
    if let Some(backing) = &about.backing_file {
        out.set("full-backing-filename", Value::from(full_name(node, backing).as_str()));
        out.set("backing-filename", Value::from(backing.as_str()));
    }
    out.set("dirty-flag", Value::Bool(about.dirty));
    out
}

fn text(node: &Node, name: &str) -> String {
    let about = node.driver().format_info();
    let len = node.len();
    let mut out = format!(
        "image: {name}\nfile format: {}\nvirtual size: {} ({len} bytes)\n",
        node.class().name,
        human(len)
    );
    if let Some(size) = allocated(node) {
        out += &format!("disk size: {}\n", human(size));
    }
    if about.dirty {
        out += "cleanly shut down: no\n";
    }
    if let Some(size) = about.cluster_size {
        out += &format!("cluster_size: {size}\n");
    }
    if let Some(backing) = &about.backing_file {
        let full = full_name(node, backing);
        let actual =
            if full == *backing { String::new() } else { format!(" (actual path: {full})") };
        out += &format!("backing file: {backing}{actual}\n");
    }
    if let Some(format) = &about.backing_format {
        out += &format!("backing file format: {format}\n");
    }
    if !about.snapshots.is_empty() {
        out += &list(&about.snapshots);
    }
    if let Some(specific) = &about.specific {
        out += "Format specific information:\n";
        for (key, value) in specific.as_map().unwrap_or(&[]) {
            let value = value.as_str().map_or_else(|| qapi::json::to_string(value), str::to_owned);
            out += &format!("    {}: {value}\n", key.replace('-', " "));
        }
    }
    if let Some(file) = node.child("file") {
        out += &format!(
            "Child node '/file':\n    filename: {}\n    protocol type: {}\n",
            file.filename(),
            file.class().name
        );
        out += &format!("    file length: {} ({} bytes)\n", human(file.len()), file.len());
        if let Some(size) = allocated(&file) {
            out += &format!("    disk size: {}\n", human(size));
        }
    }
    out
}

pub(crate) fn run(args: &[String]) -> Done {
    let given = Given::of(args, "f:J:BUh")?;
    let (name, is_json) = (given.name()?, given.is_json()?);
    let chain = given.has('B');
    let flags = Flags {
        read_only: true,
        no_backing: !chain,
        force_share: given.has('U'),
        ..Flags::default()
    };
    let top = open(&graph(), name, given.value('f'), flags)?;
    let mut all: Vec<(Arc<Node>, String)> = vec![(top, name.to_owned())];
    while let Some(below) = all.last().and_then(|(node, _)| node.child("backing")).filter(|_| chain)
    {
        let name = below.filename().to_owned();
        all.push((below, name));
    }
    if !is_json {
        let texts: Vec<String> = all.iter().map(|(node, name)| text(node, name)).collect();
        say(&texts.join("\n"));
        return Ok(0);
    }
    let mut values: Vec<Value> = all.iter().map(|(node, name)| json(node, name)).collect();
    let value = if chain { Value::List(values) } else { values.remove(0) };
    say(&format!("{}\n", qapi::json::to_string_pretty(&value)));
    Ok(0)
}

pub(crate) fn snapshot(args: &[String]) -> Done {
    let given = Given::of(args, "la:c:d:qUh")?;
    let name = given.name()?;
    let flags = Flags {
        read_only: !(given.has('a') || given.has('c') || given.has('d')),
        no_backing: true,
        force_share: given.has('U'),
        ..Flags::default()
    };
    let node = open(&graph(), name, None, flags)?;
    let now = host::realtime_ns();
    let seconds = u32::try_from(now / 1_000_000_000).unwrap_or(0);
    let rest = u32::try_from(now % 1_000_000_000).unwrap_or(0);
    let (change, what, tag) = if let Some(tag) = given.value('c') {
        (SnapshotChange::Create(tag.into(), seconds, rest), "create", tag)
    } else if let Some(tag) = given.value('a') {
        (SnapshotChange::Apply(tag.into()), "apply", tag)
    } else if let Some(tag) = given.value('d') {
        (SnapshotChange::Delete(tag.into()), "delete", tag)
    } else {
        let snapshots = node.driver().format_info().snapshots;
        if !snapshots.is_empty() {
            say(&list(&snapshots));
        }
        return Ok(0);
    };
    match node.driver().change_snapshot(&change) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Fail(format!("Could not {what} snapshot '{tag}': snapshot not found"), 1))
        }
        Err(error) => fail(&format!("Could not {what} snapshot '{tag}'"), &error),
    }
}
