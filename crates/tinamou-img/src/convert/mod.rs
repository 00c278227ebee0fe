//! `convert`: copies one or several images to a new one.
//!
//! Here options are read and images opened and made; `copy.rs` moves the bytes. What reads as
//! zeroes is not written to a new image. `-C` lets the system copy between files and falls back to
//! copying where it cannot.
//! Source: QEMU's manual, `qemu-img convert`.

mod copy;

use std::sync::Arc;

use block::{BitmapChange, BlockClass, Creation, Flags, Graph, Node, Preallocation};

use crate::create::{asks_for_help, checked, class, help, make};
use crate::options::{Given, Opt, cache, open, open_described, pairs, size};
use crate::progress::Progress;
use crate::{Done, Fail, fail, say};
use copy::Copy;

const OPTIONS: &[Opt] = &[
    ('f', "source-format", "FMT"),
    ('\0', "source-image-opts", ""),
    ('l', "source-snapshot", "SNAPSHOT_PARAMS"),
    ('T', "source-cache", "CACHE"),
    ('O', "target-format", "FMT"),
    ('\0', "target-image-opts", ""),
    ('o', "target-options", "OPTIONS"),
    ('c', "compress", ""),
    ('t', "target-cache", "CACHE"),
    ('B', "backing", "BACKING_FILENAME"),
    ('F', "backing-format", "FMT"),
    ('n', "no-create", ""),
    ('\0', "target-is-zero", ""),
    ('S', "sparse-size", "SIZE"),
    ('\0', "bitmaps", ""),
    ('\0', "skip-broken-bitmaps", ""),
    ('r', "rate", "RATE"),
    ('m', "parallel", "NUM"),
    ('C', "copy-range-offloading", ""),
    ('\0', "salvage", ""),
    ('W', "oob-writes", ""),
    ('p', "progress", ""),
];

/// What is not allowed together, in QEMU's order of asking.
fn conflicts(given: &Given) -> Result<(), Fail> {
    let is = |name: &str| given.has(name);
    let wrong = [
        (
            is("compress") && is("copy-range-offloading"),
            "Cannot enable copy offloading when -c is used",
        ),
        (
            is("sparse-size") && is("copy-range-offloading"),
            "Cannot enable copy offloading when -S is used",
        ),
        (
            is("salvage") && is("copy-range-offloading"),
            "Cannot use copy offloading in salvaging mode",
        ),
        (
            is("target-image-opts") && !is("no-create"),
            "--target-image-opts requires use of -n flag",
        ),
        (is("target-is-zero") && !is("no-create"), "--target-is-zero requires use of -n flag"),
        (
            is("skip-broken-bitmaps") && !is("bitmaps"),
            "Use of --skip-broken-bitmaps requires --bitmaps",
        ),
        (
            is("source-format") && (is("image-opts") || is("source-image-opts")),
            "--image-opts and --format are mutually exclusive",
        ),
        (
            is("target-format") && is("target-image-opts"),
            "-O and --target-image-opts are mutually exclusive",
        ),
    ];
    let found = wrong.into_iter().find(|(is, _)| *is);
    found.map_or(Ok(()), |(_, text)| Err(Fail(text.into(), 1)))
}

fn sparse(given: &Given) -> Result<u64, Fail> {
    let Some(text) = given.value("sparse-size") else { return Ok(4096) };
    let Ok(bytes) = size(text) else {
        return Err(Fail(format!("Invalid buffer size for sparse output specified: '{text}'."), 1));
    };
    if bytes % 512 != 0 || bytes > 16 << 20 {
        let text = "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to 16777216. Select 0 to disable sparse detection (fully allocates output).";
        return Err(Fail(text.into(), 1));
    }
    Ok(bytes)
}

fn parallel(given: &Given) -> Result<usize, Fail> {
    let Some(text) = given.value("parallel") else { return Ok(8) };
    let found = text.parse::<usize>().ok().filter(|n| (1..=16).contains(n));
    let text = "Invalid number of coroutines specified. Must be between 1 and 16.";
    found.ok_or_else(|| Fail(text.into(), 1))
}

/// The limit of `-r`, in bytes per second.
fn rate(given: &Given) -> Result<Option<Arc<block::IoGroup>>, Fail> {
    let Some(text) = given.value("rate") else { return Ok(None) };
    if text.starts_with('-') {
        let text = "Invalid rate limit specified. Must be between 0 and 9223372036854775807.";
        return Err(Fail(text.into(), 1));
    }
    let bytes =
        size(text).map_err(|_| Fail(format!("Invalid rate limit specified: '{text}'."), 1))?;
    if bytes == 0 {
        return Ok(None);
    }
    let mut rules = block::Rules::default();
    #[expect(clippy::cast_precision_loss, reason = "bytes per second")]
    let average = bytes as f64;
    if let Some(writes) = rules.get_mut(2) {
        writes.average = average;
    }
    Ok(Some(block::IoGroup::new("", &rules, 0)?))
}

/// The word of `-l`: `snapshot.id=`, `snapshot.name=` or either.
pub(crate) fn snapshot_word(text: &str) -> Result<String, Fail> {
    if !text.starts_with("snapshot.") {
        return Ok(text.to_owned());
    }
    let found =
        pairs(text)?.into_iter().find(|(key, _)| key == "snapshot.name" || key == "snapshot.id");
    found
        .map(|(_, value)| value)
        .ok_or_else(|| Fail(format!("Failed in parsing snapshot param '{text}'"), 1))
}

fn sources(given: &Given, graph: &Graph, names: &[String]) -> Result<Vec<Arc<Node>>, Fail> {
    let mode = cache(given.value("source-cache"), "source ")?;
    let flags = mode.flags(given.flags(true));
    let mut all = Vec::new();
    for name in names {
        let node = if given.has("source-image-opts") {
            open_described(graph, name, flags)?
        } else {
            given.open(graph, name, given.value("source-format"), flags)?
        };
        if let Some(word) = given.value("source-snapshot") {
            if names.len() > 1 {
                let text = "No support for concatenating multiple snapshot";
                return Err(Fail(text.into(), 1));
            }
            let shown = node.driver().show_snapshot(&snapshot_word(word)?);
            if shown.is_err() {
                return Err(Fail("Failed to load snapshot: Can't find snapshot".into(), 1));
            }
        }
        all.push(node);
    }
    Ok(all)
}

/// Options of the new image: those given, and the backing file.
fn target_options(given: &Given, class: &BlockClass) -> Result<Vec<(String, String)>, Fail> {
    let mut options = Vec::new();
    for text in given.values("target-options") {
        options.extend(pairs(text)?);
    }
    checked(class, &options)?;
    for (name, key) in [("backing", "backing_file"), ("backing-format", "backing_fmt")] {
        if let Some(value) = given.value(name) {
            if !class.has_backing {
                let what = if name == "backing" { "file" } else { "format" };
                let text = format!("Backing {what} not supported for file format '{}'", class.name);
                return Err(Fail(text, 1));
            }
            options.push((key.into(), value.into()));
        }
    }
    let has = |key: &str| options.iter().any(|(name, _)| name == key);
    if has("backing_file") && !has("backing_fmt") {
        return Err(Fail("Use of backing file requires explicit backing format".into(), 1));
    }
    Ok(options)
}

/// Bitmaps that the target will get.
fn bitmaps(given: &Given, from: &[Arc<Node>]) -> Result<Vec<block::Bitmap>, Fail> {
    if !given.has("bitmaps") {
        return Ok(Vec::new());
    }
    let [only] = from else {
        return Err(Fail("Copying bitmaps only possible with single source".into(), 1));
    };
    let mut all = match only.driver().bitmaps() {
        Ok(all) => all,
        Err(error) => return fail("Failed to read bitmaps", &error),
    };
    if only.class().name != "qcow2" {
        return Err(Fail("Format lacks bitmap support".into(), 1));
    }
    // The peer goes through them from the last one to the first.
    all.reverse();
    if let Some(broken) = all.iter().find(|b| b.inconsistent)
        && !given.has("skip-broken-bitmaps")
    {
        let text = format!(
            "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
            broken.name
        );
        return Err(Fail(text, 1));
    }
    for bitmap in all.iter().filter(|b| b.inconsistent) {
        eprintln!("qemu-img: warning: Skipping inconsistent bitmap '{}'", bitmap.name);
    }
    all.retain(|bitmap| !bitmap.inconsistent);
    all.reverse();
    Ok(all)
}

fn store_bitmaps(to: &Node, all: Vec<block::Bitmap>) -> Result<(), Fail> {
    if to.class().name != "qcow2" && !all.is_empty() {
        return Err(Fail(
            format!("Format driver '{}' does not support bitmaps", to.class().name),
            1,
        ));
    }
    for bitmap in all {
        let (name, enabled) = (bitmap.name.clone(), bitmap.enabled);
        let changes = [
            BitmapChange::Add(Some(bitmap.granularity), false),
            BitmapChange::Merge(bitmap),
            BitmapChange::Enable(enabled),
        ];
        for change in changes {
            to.driver().change_bitmap(&name, &change).map_err(|error| {
                let Fail(text, status) = error.into();
                Fail(format!("Failed to populate bitmap {name}: {text}"), status)
            })?;
        }
    }
    Ok(())
}

/// The image that is written, and whether it has a backing file.
fn target(
    given: &Given,
    graph: &Graph,
    name: &str,
    format: &str,
    size: u64,
) -> Result<Arc<Node>, Fail> {
    // Nothing is lost when the copying ends early: it is begun anew then.
    let mode = cache(given.value("target-cache").or(Some("unsafe")), "")?;
    let flags = mode.flags(Flags { unmap: true, ..Flags::default() });
    if given.has("target-image-opts") {
        return open_described(graph, name, flags);
    }
    if !given.has("no-create") {
        let class = class(graph, format)?;
        let options = target_options(given, class)?;
        let new = Creation { filename: name.to_owned(), size, options, keys: graph.keys() };
        make(class, &new).map_err(|Fail(text, status)| {
            let text = text.strip_prefix(&format!("{name}: ")).unwrap_or(&text).to_owned();
            Fail(format!("{name}: error while converting {format}: {text}"), status)
        })?;
        let secret = new.option("encrypt.key-secret").or(new.option("key-secret"));
        return crate::create::open_new(graph, &new, format, secret, flags);
    }
    open(graph, name, Some(format), flags)
}

/// Whether the target reads as zeroes where nothing was written. Behind a cipher nothing does that
/// has a place.
fn reads_zero(given: &Given, to: &Node) -> bool {
    if given.has("no-create") {
        return given.has("target-is-zero");
    }
    let encrypted = given.values("target-options").any(|text| text.contains("encrypt"));
    let placed = given.values("target-options").any(|text| text.contains("preallocation="));
    to.class().name != "luks" && !(encrypted && placed)
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("convert", args, OPTIONS)? else { return Ok(0) };
    let graph = given.graph()?;
    let format = given.value("target-format").unwrap_or("raw");
    if given.values("target-options").any(asks_for_help) {
        say(&help(class(&graph, format)?));
        return Ok(0);
    }
    let (sparse, threads) = (sparse(&given)?, parallel(&given)?);
    conflicts(&given)?;
    let rate = rate(&given)?;
    cache(given.value("target-cache"), "")?;
    let Some((target_name, names)) =
        given.names.split_last().filter(|(_, names)| !names.is_empty())
    else {
        return Err(Fail("Must specify image file name".into(), 1));
    };
    if given.has("no-create") && given.has("target-options") {
        return Err(Fail("-o has no effect when skipping image creation".into(), 1));
    }
    let from = sources(&given, &graph, names)?;
    let backed = given.has("backing")
        || given.values("target-options").any(|text| text.contains("backing_file="));
    if from.len() > 1 && backed {
        let text = "Having a backing file for the target makes no sense when concatenating multiple input images";
        return Err(Fail(text.into(), 1));
    }
    if !given.has("target-image-opts") && !given.has("no-create") {
        let class = class(&graph, format)?;
        if given.has("compress") && class.name != "qcow2" {
            return Err(Fail("Compression not supported for this file format".into(), 1));
        }
        target_options(&given, class)?;
    }
    let bitmaps = bitmaps(&given, &from)?;
    let len = from.iter().map(|node| node.len().next_multiple_of(512)).sum();
    let to = target(&given, &graph, target_name, format, len)?;
    if to.len() < len {
        if to.class().name != "raw" || given.has("no-create") {
            return Err(Fail("output file is smaller than input file".into(), 1));
        }
        if let Err(error) = to.driver().truncate(len, Preallocation::Off) {
            _ = error;
            return Err(Fail("output file is smaller than input file".into(), 1));
        }
    }
    let about = to.driver().format_info();
    let has_backing = to.child("backing").is_some() || about.backing_file.is_some();
    let compress = given.has("compress");
    if compress && about.cluster_size.is_none() {
        return Err(Fail("Compression not supported for this file format".into(), 1));
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut copy = Copy {
        from: &from,
        to: &to,
        progress: Progress::new(false, 0),
        sparse,
        is_zero: reads_zero(&given, &to),
        has_backing,
        shares: backed,
        compress: about.cluster_size.filter(|_| compress),
        salvage: given.has("salvage"),
        // Compressing is all work; copying waits for the disk.
        threads: threads.min(if compress { cpus * 2 } else { cpus + 1 }),
        in_order: !given.has("oob-writes"),
        offload: given.has("copy-range-offloading"),
        rate,
    };
    let shown = given.has("progress") && !given.has("quiet");
    if shown || copy.salvage {
        match copy.data() {
            Ok(total) => copy.progress = Progress::new(shown, total),
            Err(error) => return fail("error while reading block status", &error),
        }
    }
    copy.run()?;
    store_bitmaps(&to, bitmaps)?;
    if let Err(error) = to.flush() {
        return fail("error while flushing", &error);
    }
    Ok(0)
}
