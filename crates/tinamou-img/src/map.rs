//! `map`: shows what of a disk is where.
//!
//! The human form lists what has data and where it lies; the JSON form lists everything: the layer,
//! whether it reads as zeroes, whether there is data, and its place.
//! Source: QEMU's manual, `qemu-img map`.

use block::{Extent, Node};

use crate::options::{Given, Opt, size};
use crate::{Done, Fail, say};

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('\0', "output", "human|json"),
    ('s', "start-offset", "OFFSET"),
    ('l', "max-length", "LENGTH"),
];

/// A range, the layer that decides and its file.
#[derive(Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) extent: Extent,
    depth: usize,
    present: bool,
    file: String,
}

/// What a range is; below a format that has holes in its file, the file is asked too.
fn look(node: &Node, at: u64, len: u64) -> std::io::Result<Entry> {
    let (mut extent, mut depth) = node.extent_of_chain(at, len)?;
    let mut below: Option<std::sync::Arc<Node>> = None;
    let mut last = 0;
    for _ in 0..depth {
        let Some(next) = below.as_deref().unwrap_or(node).child("backing") else { break };
        (below, last) = (Some(next), last + 1);
    }
    let layer = below.as_deref().unwrap_or(node);
    depth = depth.max(last);
    // Where nothing is told of the bytes nothing is there.
    let present = extent.allocated && (extent.data || extent.zero || extent.compressed);
    if let (Some(offset), Some(file), true) =
        (extent.offset, layer.child("data-file").or_else(|| layer.child("file")), extent.data)
        && layer.class().name != "raw"
        && is_preallocated(&file)
        && offset < file.len()
    {
        let below = file.extent(offset, extent.len.min(file.len() - offset))?;
        extent.len = below.len;
        extent.zero |= below.zero;
    }
    // A filter over an image is not seen.
    let mut under: Option<std::sync::Arc<Node>> = None;
    while let Some(next) = under.as_deref().unwrap_or(layer).filtered() {
        under = Some(next);
    }
    let layer = under.as_deref().unwrap_or(layer);
    let file = layer.child("data-file").or_else(|| layer.child("file"));
    let file = file.as_deref().unwrap_or(layer).filename();
    Ok(Entry { at, extent, depth, present: present && (extent.allocated || !extent.zero), file })
}

/// Whether a file has so many holes that tables must name places where nothing is yet.
fn is_preallocated(file: &Node) -> bool {
    let there = file.driver().allocated_size().unwrap_or(u64::MAX);
    there < file.len() / 10 * 9 && file.len() - there > 1 << 20
}

fn joins(a: &Entry, b: &Entry) -> bool {
    let same = |e: &Entry| {
        (
            e.extent.data,
            e.extent.zero,
            e.extent.compressed,
            e.extent.allocated,
            e.depth,
            e.present,
            e.file.clone(),
            e.extent.offset.is_some(),
        )
    };
    same(a) == same(b)
        && a.extent.offset.is_none_or(|at| b.extent.offset == Some(at + a.extent.len))
}

pub(crate) fn entries(node: &Node, from: u64, to: u64) -> Result<Vec<Entry>, Fail> {
    let mut all: Vec<Entry> = Vec::new();
    let mut at = from;
    while at < to {
        let entry = look(node, at, to - at)
            .map_err(|e| Fail(format!("Failed to read image metadata: {}", host::reason(&e)), 1))?;
        at += entry.extent.len;
        match all.last_mut().filter(|last| joins(last, &entry)) {
            Some(last) => last.extent.len += entry.extent.len,
            None => all.push(entry),
        }
    }
    Ok(all)
}

fn json(entry: &Entry) -> String {
    let Entry { at, extent, depth, present, .. } = entry;
    let offset = extent
        .offset
        .filter(|_| *present)
        .map(|at| format!(", \"offset\": {at}"))
        .unwrap_or_default();
    format!(
        "{{ \"start\": {at}, \"length\": {}, \"depth\": {depth}, \"present\": {present}, \"zero\": {}, \"data\": {}, \"compressed\": {}{offset}}}",
        extent.len, extent.zero, extent.data, extent.compressed
    )
}

fn limit(given: &Given, name: &str, what: &str, other: u64) -> Result<u64, Fail> {
    match given.value(name) {
        None => Ok(other),
        Some(text) => size(text).map_err(|_| Fail(format!("Invalid {what} specified"), 1)),
    }
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("map", args, OPTIONS)? else { return Ok(0) };
    let is_json = given.is_json()?;
    let name = given.name()?;
    let from = limit(&given, "start-offset", "start offset", 0)?;
    let most = limit(&given, "max-length", "max length", u64::MAX)?;
    let node = given.open(&*given.graph()?, name, given.value("format"), given.flags(true))?;
    let from = from.min(node.len());
    let to = most.saturating_add(from).min(node.len());
    let all = entries(&node, from, to)?;
    if is_json {
        let lines: Vec<String> = all.iter().map(json).collect();
        say(&format!("[{}]\n", lines.join(",\n")));
        return Ok(0);
    }
    human(&all)
}

fn human(all: &[Entry]) -> Done {
    say(&format!("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File"));
    for entry in all.iter().filter(|e| e.extent.data && !e.extent.zero) {
        let Some(offset) = entry.extent.offset else {
            let text = "File contains external, encrypted or compressed clusters.";
            return Err(Fail(text.into(), 1));
        };
        let hex = |n: u64| if n == 0 { "0".to_owned() } else { format!("{n:#x}") };
        let columns = (hex(entry.at), hex(entry.extent.len), hex(offset));
        say(&format!("{:<16}{:<16}{:<16}{}\n", columns.0, columns.1, columns.2, entry.file));
    }
    Ok(0)
}
