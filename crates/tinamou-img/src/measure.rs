//! `measure`: how long a new image would be.
//!
//! For `qcow2` the tables and counts are added up from the length and from what of the source has
//! data; with a backing file nothing need be there at first. Bitmaps of the source are counted
//! apart. For `luks` the header is added.
//! Source: QEMU's manual, `qemu-img measure`; qcow2 specification.

use block::Node;
use qapi::Value;

use crate::create::{asks_for_help, checked, class, help};
use crate::map::entries;
use crate::options::{Given, Opt, pairs, size};
use crate::{Done, Fail, say};

const OPTIONS: &[Opt] = &[
    ('O', "target-format", "FMT"),
    ('o', "target-options", "OPTIONS"),
    ('s', "size", "SIZE"),
    ('f', "format", "FMT"),
    ('l', "snapshot", "SNAPSHOT"),
    ('\0', "output", "human|json"),
];

/// The shape of the qcow2 image.
struct Shape {
    cluster: u64,
    refcount_bits: u64,
    /// Bytes of an L2 entry.
    entry: u64,
    /// Header of an encrypted image.
    crypt: u64,
    /// Space is taken at once.
    full: bool,
}

/// Bytes of a qcow2 image for a disk, with so many bytes of whole clusters in use.
fn qcow2(disk: u64, used: u64, shape: &Shape) -> Result<u64, Fail> {
    let Shape { cluster, refcount_bits, entry, crypt, .. } = *shape;
    let clusters = disk.div_ceil(cluster);
    let tables = clusters.div_ceil(cluster / entry);
    // The longest level 1 table.
    if tables * 8 > 32 << 20 {
        let text = "The image size is too large (try using a larger cluster size)";
        return Err(Fail(text.into(), 1));
    }
    let l1 = (tables * 8).div_ceil(cluster);
    let fixed = 1 + l1 + tables + used / cluster + crypt.div_ceil(cluster);
    // Counts count themselves: grow until it fits.
    let (mut blocks, mut table) = (0, 0);
    loop {
        let per_block = cluster * 8 / refcount_bits;
        let need = (fixed + blocks + table).div_ceil(per_block);
        let need_table = (need * 8).div_ceil(cluster);
        if (need, need_table) == (blocks, table) {
            return Ok((fixed + blocks + table) * cluster);
        }
        (blocks, table) = (need, need_table);
    }
}

/// Bytes that bitmaps take in a qcow2 image.
fn bitmap_bytes(node: &Node, cluster: u64) -> u64 {
    let (mut bytes, mut directory) = (0, 0);
    let about = node.driver().format_info().specific;
    let all = about.as_ref().and_then(|about| about.get("bitmaps")?.as_list());
    for bitmap in all.unwrap_or_default() {
        let flags = bitmap.get("flags").and_then(Value::as_list).unwrap_or_default();
        if flags.iter().any(|flag| flag.as_str() == Some("in-use")) {
            continue;
        }
        let granularity = bitmap.get("granularity").and_then(Value::as_i64).unwrap_or(0);
        let bits = node.len().div_ceil(u64::try_from(granularity).unwrap_or(0).max(512));
        let clusters = bits.div_ceil(8).div_ceil(cluster);
        bytes += (clusters + (clusters * 8).div_ceil(cluster)) * cluster;
        let name = bitmap.get("name").and_then(Value::as_str).unwrap_or_default();
        directory += (24 + name.len() as u64).next_multiple_of(8);
    }
    bytes + directory.next_multiple_of(cluster)
}

fn shape(options: &[(String, String)]) -> Result<Shape, Fail> {
    let mut shape = Shape { cluster: 65536, refcount_bits: 16, entry: 8, crypt: 0, full: false };
    for (key, value) in options {
        match (key.as_str(), value.as_str()) {
            ("cluster_size", text) => shape.cluster = size(text)?,
            ("refcount_bits", text) => shape.refcount_bits = text.parse().unwrap_or(0),
            ("extended_l2", "on") => shape.entry = 16,
            ("encrypt.format", "luks") => shape.crypt = 2_068_480,
            ("preallocation", "falloc" | "full") => shape.full = true,
            _ => {}
        }
    }
    if !shape.cluster.is_power_of_two() || !(512..=2 << 20).contains(&shape.cluster) {
        return Err(Fail("Cluster size must be a power of two between 512 and 2048k".into(), 1));
    }
    if shape.entry == 16 && shape.cluster < 16384 {
        let text =
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes";
        return Err(Fail(text.into(), 1));
    }
    if !shape.refcount_bits.is_power_of_two() || shape.refcount_bits > 64 {
        let text = "Refcount width must be a power of two and may not exceed 64 bits";
        return Err(Fail(text.into(), 1));
    }
    Ok(shape)
}

/// The disk's length, the bytes in whole clusters that have data, and those of bitmaps.
fn look(given: &Given, shape: &Shape, name: &str) -> Result<(u64, u64, Option<u64>), Fail> {
    let graph = given.graph()?;
    let node = given.open(&graph, name, given.value("format"), given.flags(true))?;
    if let Some(word) = given.value("snapshot") {
        let shown = node.driver().show_snapshot(&crate::convert::snapshot_word(word)?);
        if shown.is_err() {
            return Err(Fail("Failed to load snapshot: Can't find snapshot".into(), 1));
        }
    }
    let (mut used, mut end) = (0, 0);
    for entry in entries(&node, 0, node.len())?.iter().filter(|e| e.extent.data && !e.extent.zero) {
        let first = (entry.at & !(shape.cluster - 1)).max(end);
        end = (entry.at + entry.extent.len).next_multiple_of(shape.cluster);
        used += end.saturating_sub(first);
    }
    let bitmaps = (node.class().name == "qcow2").then(|| bitmap_bytes(&node, shape.cluster));
    Ok((node.len(), used, bitmaps))
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("measure", args, OPTIONS)? else { return Ok(0) };
    let is_json = given.is_json()?;
    let target = given.value("target-format").unwrap_or("raw");
    let name = match (given.value("size"), given.names.as_slice()) {
        (Some(_), [_, ..]) => {
            let text = "--size N cannot be used together with a filename.";
            return Err(Fail(text.into(), 1));
        }
        (None, []) => {
            return Err(Fail("Either --size N or one filename must be specified.".into(), 1));
        }
        (None, [name]) => Some(name),
        (None, _) => return Err(Fail("At most one filename argument is allowed.".into(), 1)),
        (Some(_), []) => None,
    };
    let graph = given.graph()?;
    let class = class(&graph, target)?;
    if given.values("target-options").any(asks_for_help) {
        say(&help(class));
        return Ok(0);
    }
    let mut options = Vec::new();
    for text in given.values("target-options") {
        options.extend(pairs(text)?);
    }
    checked(class, &options)?;
    let shape = shape(&options)?;
    let (disk, mut used, bitmaps) = match (given.value("size"), name) {
        (Some(text), _) => (size(text)?, 0, None),
        (_, Some(name)) => look(&given, &shape, name)?,
        _ => (0, 0, None),
    };
    if shape.full {
        used = disk.next_multiple_of(shape.cluster);
    }
    let padded = disk.next_multiple_of(512);
    let (required, full) = match target {
        "qcow2" => {
            let has_backing = options.iter().any(|(key, _)| key == "backing_file");
            let used = if has_backing && !shape.full { 0 } else { used };
            let whole = disk.next_multiple_of(shape.cluster);
            let full = qcow2(disk, whole, &shape)?;
            // As at the peer: tables are counted for the whole disk.
            (full - whole + used, full)
        }
        "luks" => (padded + 2_068_480, padded + 2_068_480),
        _ => (padded, padded),
    };
    // Version 2 has none.
    let old = options.iter().any(|(k, v)| k == "compat" && (v == "0.10" || v == "v2"));
    report(is_json, required, full, bitmaps.filter(|_| target == "qcow2" && !old));
    Ok(0)
}

fn report(is_json: bool, required: u64, full: u64, bitmaps: Option<u64>) {
    if is_json {
        let mut out = Value::empty();
        let bitmaps = bitmaps.map(|bytes| ("bitmaps", bytes));
        let sizes = [("required", required), ("fully-allocated", full)];
        for (name, n) in bitmaps.into_iter().chain(sizes) {
            out.set(name, Value::Int(i64::try_from(n).unwrap_or(i64::MAX)));
        }
        say(&format!("{}\n", qapi::json::to_string_pretty(&out)));
        return;
    }
    say(&format!("required size: {required}\nfully allocated size: {full}\n"));
    if let Some(bytes) = bitmaps {
        say(&format!("bitmaps size: {bytes}\n"));
    }
}
