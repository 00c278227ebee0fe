//! `map` and `measure`.

use block::{Extent, Flags, Node};
use qapi::Value;

use crate::options::{Given, graph, open, pairs, size};
use crate::{Done, Fail, say};

/// A range, the layer that decides and its file.
#[derive(Clone, PartialEq)]
struct Entry {
    at: u64,
    extent: Extent,
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
    let present = extent.allocated;
    if let (Some(offset), Some(file), true) = (extent.offset, layer.child("file"), extent.data)
        && layer.class().name != "raw"
        && offset < file.len()
    {
        let below = file.extent(offset, extent.len.min(file.len() - offset))?;
        extent.len = below.len;
        extent.zero |= below.zero;
    }
    let file = layer
        .child("file")
        .map_or_else(|| layer.filename().to_owned(), |f| f.filename().to_owned());
    Ok(Entry { at, extent, depth, present: present && (extent.allocated || !extent.zero), file })
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

fn entries(node: &Node, from: u64, to: u64) -> Result<Vec<Entry>, Fail> {
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
    let offset = extent.offset.map(|at| format!(", \"offset\": {at}")).unwrap_or_default();
    format!(
        "{{ \"start\": {at}, \"length\": {}, \"depth\": {depth}, \"present\": {present}, \"zero\": {}, \"data\": {}, \"compressed\": {}{offset}}}",
        extent.len, extent.zero, extent.data, extent.compressed
    )
}

pub(crate) fn run(args: &[String]) -> Done {
    let given = Given::of(args, "f:J:s:L:Uh")?;
    let is_json = given.is_json()?;
    let flags = Flags { read_only: true, force_share: given.has('U'), ..Flags::default() };
    let node = open(&graph(), given.name()?, given.value('f'), flags)?;
    let from = given.value('s').map_or(Ok(0), size)?.min(node.len());
    let to = given.value('L').map_or(Ok(u64::MAX), size)?.saturating_add(from).min(node.len());
    let all = entries(&node, from, to)?;
    if is_json {
        let lines: Vec<String> = all.iter().map(json).collect();
        say(&format!("[{}]\n", lines.join(",\n")));
        return Ok(0);
    }
    say(&format!("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File"));
    for entry in all.iter().filter(|e| e.extent.data && !e.extent.zero) {
        let Some(offset) = entry.extent.offset else {
            return Err(Fail(
                "File contains external, encrypted or compressed clusters.".into(),
                1,
            ));
        };
        let hex = |n: u64| if n == 0 { "0".to_owned() } else { format!("{n:#x}") };
        say(&format!(
            "{:<16}{:<16}{:<16}{}\n",
            hex(entry.at),
            hex(entry.extent.len),
            hex(offset),
            entry.file
        ));
    }
    Ok(0)
}

/// Bytes of a qcow2 image for a disk, with so many bytes of whole clusters in use.
fn qcow2(disk: u64, used: u64, cluster: u64, refcount_bits: u64) -> u64 {
    let clusters = disk.div_ceil(cluster);
    let tables = clusters.div_ceil(cluster / 8);
    let l1 = (tables * 8).div_ceil(cluster);
    let fixed = 1 + l1 + tables + used / cluster;
    // Counts count themselves: grow until it fits.
    let (mut blocks, mut table) = (0, 0);
    loop {
        let per_block = cluster * 8 / refcount_bits;
        let need = (fixed + blocks + table).div_ceil(per_block);
        let need_table = (need * 8).div_ceil(cluster);
        if (need, need_table) == (blocks, table) {
            return (fixed + blocks + table) * cluster;
        }
        (blocks, table) = (need, need_table);
    }
}

pub(crate) fn measure(args: &[String]) -> Done {
    let given = Given::of(args, "f:O:o:J:z:Uhl:I")?;
    let is_json = given.is_json()?;
    let target = given.value('O').unwrap_or("raw");
    let mut cluster = 65536;
    let mut bits = 16;
    for text in given.values('o') {
        for (key, value) in pairs(text)? {
            match key.as_str() {
                "cluster_size" => cluster = size(&value)?,
                "refcount_bits" => bits = value.parse().unwrap_or(16),
                _ => {}
            }
        }
    }
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) || bits == 0 || bits > 64 {
        return Err(Fail("Cluster size must be a power of two between 512 and 2048k".into(), 1));
    }
    let (disk, used) = match given.value('z') {
        Some(text) => (size(text)?, 0),
        None => {
            let flags = Flags { read_only: true, force_share: given.has('U'), ..Flags::default() };
            let node = open(&graph(), given.name()?, given.value('f'), flags)?;
            let (mut used, mut end) = (0, 0);
            for entry in
                entries(&node, 0, node.len())?.iter().filter(|e| e.extent.data && !e.extent.zero)
            {
                let first = (entry.at & !(cluster - 1)).max(end);
                end = (entry.at + entry.extent.len).next_multiple_of(cluster);
                used += end.saturating_sub(first);
            }
            (node.len(), used)
        }
    };
    let (required, full) = match target {
        "qcow2" => (
            qcow2(disk, used, cluster, bits),
            qcow2(disk, disk.next_multiple_of(cluster), cluster, bits),
        ),
        "raw" => (disk.next_multiple_of(512), disk.next_multiple_of(512)),
        other => return Err(Fail(format!("Unknown file format '{other}'"), 1)),
    };
    if is_json {
        let mut out = Value::empty();
        let bitmaps = (target == "qcow2" && !given.has('z')).then_some(("bitmaps", 0));
        for (name, n) in
            bitmaps.into_iter().chain([("required", required), ("fully-allocated", full)])
        {
            out.set(name, Value::Int(i64::try_from(n).unwrap_or(i64::MAX)));
        }
        say(&format!("{}\n", qapi::json::to_string_pretty(&out)));
    } else {
        say(&format!("required size: {required}\nfully allocated size: {full}\n"));
        if target == "qcow2" && !given.has('z') {
            say("bitmaps size: 0\n");
        }
    }
    Ok(0)
}
