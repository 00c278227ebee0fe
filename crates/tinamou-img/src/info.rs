//! `info`: describes an image, or a whole chain of them.
//!
//! The JSON form has the members of QMP's `ImageInfo`; the human form shows the same, with what a
//! format knows of itself as a tree. The file below an image is shown as its child.
//! Source: QEMU's manual, `qemu-img info`; QMP reference, `ImageInfo`.

use std::sync::Arc;

use block::{Flags, Node, Snapshot};
use qapi::Value;

use crate::options::{Given, Opt, human};
use crate::snapshot::list;
use crate::{Done, Fail, say};

const OPTIONS: &[Opt] =
    &[('f', "format", "FMT"), ('b', "backing-chain", ""), ('\0', "output", "human|json")];

fn number(n: u64) -> Value {
    i64::try_from(n).map_or(Value::Uint(n), Value::Int)
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

/// The backing file's name as seen from here.
fn full_name(node: &Node, backing: &str) -> String {
    block::relative_to(node.path(), backing)
}

/// Children that are shown: files below, not what lies behind.
fn shown(node: &Node) -> impl Iterator<Item = (&'static str, Arc<Node>)> {
    node.children().into_iter().filter(|(role, _)| *role != "backing")
}

fn json(node: &Node, name: &str) -> Value {
    let about = node.driver().format_info();
    let mut children = Vec::new();
    for (role, child) in shown(node) {
        let info = json(&child, &child.filename());
        children.push(Value::map([("name", Value::from(role)), ("info", info)]));
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
    let encrypted = is_encrypted(node, about.specific.as_ref());
    if encrypted {
        out.set("encrypted", Value::Bool(true));
    }
    let specific = about.specific.or_else(|| (node.class().name == "file").then(Value::empty));
    if let Some(data) = specific {
        let members = [("type", Value::from(node.class().name)), ("data", data)];
        out.set("format-specific", Value::map(members));
    }
    if let Some(backing) = &about.backing_file {
        out.set("full-backing-filename", Value::from(full_name(node, backing).as_str()));
        out.set("backing-filename", Value::from(backing.as_str()));
    }
    out.set("dirty-flag", Value::Bool(about.dirty));
    out
}

fn is_encrypted(node: &Node, specific: Option<&Value>) -> bool {
    node.class().name == "luks" || specific.is_some_and(|data| data.get("encrypt").is_some())
}

/// A value as a tree of lines.
fn tree(value: &Value, depth: usize, out: &mut String) {
    let mut line = |label: String, value: &Value| {
        out.push_str(&"    ".repeat(depth));
        match value {
            Value::Map(_) | Value::List(_) => {
                out.push_str(&format!("{label}:\n"));
                tree(value, depth + 1, out);
            }
            Value::Str(text) => out.push_str(&format!("{label}: {text}\n")),
            other => out.push_str(&format!("{label}: {}\n", qapi::json::to_string(other))),
        }
    };
    match value {
        Value::Map(members) => {
            for (key, value) in members {
                line(key.replace('-', " "), value);
            }
        }
        Value::List(all) => {
            for (n, value) in all.iter().enumerate() {
                line(format!("[{n}]"), value);
            }
        }
        _ => {}
    }
}

fn indented(text: &str, depth: usize) -> String {
    let space = "    ".repeat(depth);
    text.lines().map(|line| format!("{space}{line}\n")).collect()
}

fn text(node: &Node, name: &str) -> String {
    let about = node.driver().format_info();
    let len = node.len();
    let mut out = format!(
        "image: {name}\nfile format: {}\nvirtual size: {} ({len} bytes)\ndisk size: {}\n",
        node.class().name,
        human(len),
        allocated(node).map_or_else(|| "unavailable".to_owned(), human)
    );
    if is_encrypted(node, about.specific.as_ref()) {
        out += "encrypted: yes\n";
    }
    if let Some(size) = about.cluster_size {
        out += &format!("cluster_size: {size}\n");
    }
    if about.dirty {
        out += "cleanly shut down: no\n";
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
        tree(specific, 1, &mut out);
    }
    children(node, "", 0, &mut out);
    out
}

/// The files below, each in its turn.
fn children(node: &Node, path: &str, depth: usize, out: &mut String) {
    for (role, child) in shown(node) {
        let path = format!("{path}/{role}");
        *out += &indented(&format!("Child node '{path}':"), depth);
        let mut about = format!(
            "filename: {}\nprotocol type: {}\nfile length: {} ({} bytes)\n",
            child.filename(),
            child.class().name,
            human(child.len()),
            child.len()
        );
        if let Some(size) = allocated(&child) {
            about += &format!("disk size: {}\n", human(size));
        } else {
            about += "disk size: unavailable\n";
        }
        *out += &indented(&about, depth + 1);
        children(&child, &path, depth + 1, out);
    }
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("info", args, OPTIONS)? else { return Ok(0) };
    let is_json = given.is_json()?;
    let name = given.name()?;
    let chain = given.has("backing-chain");
    let flags = Flags { no_backing: true, header_only: true, ..given.flags(true) };
    let graph = given.graph()?;
    let top = given.open(&graph, name, given.value("format"), flags)?;
    let mut all: Vec<(Arc<Node>, String)> = vec![(top.clone(), top.filename())];
    while let Some((node, _)) = all.last().filter(|_| chain) {
        let about = node.driver().format_info();
        let Some(backing) = about.backing_file else { break };
        let full = full_name(node, &backing);
        if all.iter().any(|(node, _)| node.path() == full) {
            return Err(Fail("Backing file '%' creates an infinite loop.".replace('%', &full), 1));
        }
        let below = crate::options::open(&graph, &full, about.backing_format.as_deref(), flags)?;
        all.push((below, full));
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
