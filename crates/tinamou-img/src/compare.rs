//! `compare`: whether two disks have the same contents.
//!
//! What reads as zeroes in both is not read. A longer disk is the same when the rest of it is zero;
//! `-s` asks for the same length and the same places with data. Exit status 1: they differ; 2: an
//! image could not be opened; 3 and 4: it could not be looked at or read.
//! Source: QEMU's manual, `qemu-img compare`.

use block::Node;

use crate::options::{Given, Opt, cache};
use crate::progress::Progress;
use crate::{Done, Fail, say};

/// Bytes compared at once.
const PIECE: u64 = 1 << 20;

const OPTIONS: &[Opt] = &[
    ('f', "a-format", "FMT"),
    ('F', "b-format", "FMT"),
    ('p', "progress", ""),
    ('s', "strict", ""),
    ('T', "cache", "CACHE"),
];

/// The first byte of a range in which two disks differ.
fn difference(nodes: [&Node; 2], at: u64, len: u64) -> Result<Option<u64>, Fail> {
    let size = usize::try_from(len).unwrap_or(0);
    let mut data = [vec![0; size], vec![0; size]];
    for (node, data) in nodes.iter().zip(&mut data) {
        let there = node.len().saturating_sub(at).min(len);
        let part = data.get_mut(..usize::try_from(there).unwrap_or(0)).unwrap_or_default();
        node.read(at, part).map_err(|error| {
            Fail(
                format!(
                    "Error while reading offset {at} of {}: {}",
                    node.filename(),
                    host::reason(&error)
                ),
                4,
            )
        })?;
    }
    let [a, b] = &data;
    if a == b {
        return Ok(None);
    }
    let first = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0);
    Ok(Some(at + first as u64))
}

/// What a range is in both: whether it is zero in each and allocated in each.
fn look(nodes: [&Node; 2], at: u64, len: u64) -> Result<([bool; 2], [bool; 2], u64), Fail> {
    let (mut zero, mut there, mut len) = ([true; 2], [false; 2], len);
    for ((node, zero), there) in nodes.iter().zip(&mut zero).zip(&mut there) {
        if at < node.len() {
            let found = node.extent_of_chain(at, len.min(node.len() - at));
            let (extent, _) = found.map_err(|_| {
                Fail(format!("Sector allocation test failed for {}", node.filename()), 3)
            })?;
            (*zero, *there) = (extent.zero, extent.allocated);
            len = extent.len;
        }
    }
    Ok((zero, there, len))
}

/// Told at the end, also behind an error, as what the peer prints is kept until then.
struct Warning<'a> {
    tell: &'a dyn Fn(&str),
    due: bool,
}

impl Drop for Warning<'_> {
    fn drop(&mut self) {
        if self.due {
            (self.tell)("Warning: Image size mismatch!\n");
        }
    }
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("compare", args, OPTIONS)? else { return Ok(0) };
    let [one, two] = given.names.as_slice() else {
        let Fail(text, _) = given.usage("Expecting two image file names");
        return Err(Fail(text, 1));
    };
    let status = |Fail(text, _)| Fail(text, 2);
    let mode = cache(given.value("cache"), "source ").map_err(status)?;
    let flags = mode.flags(given.flags(true));
    let graph = given.graph().map_err(status)?;
    let open = |name: &str, format| given.open(&graph, name, format, flags).map_err(status);
    let (a, b) = (open(one, given.value("a-format"))?, open(two, given.value("b-format"))?);
    let progress =
        Progress::new(given.has("progress") && !given.has("quiet"), a.len().max(b.len()));
    let tell = |text: &str| {
        if !given.has("quiet") {
            say(text);
        }
    };
    let strict = given.has("strict");
    if strict && a.len() != b.len() {
        tell("Strict mode: Image size mismatch!\n");
        return Ok(1);
    }
    // Said at once: the warning comes behind it.
    let said = |Fail(text, status): Fail| {
        eprintln!("qemu-img: {text}");
        Fail(String::new(), status)
    };
    let mut warning = Warning { tell: &tell, due: false };
    let (common, end, mut at) = (a.len().min(b.len()), a.len().max(b.len()), 0);
    while at < end {
        warning.due |= at >= common;
        let stop = if at < common { common } else { end };
        let (zero, there, mut len) = look([&a, &b], at, stop - at).map_err(said)?;
        if strict && there.first() != there.last() {
            tell(&format!("Strict mode: Offset {at} block status mismatch!\n"));
            return Ok(1);
        }
        if zero != [true; 2] {
            len = len.min(PIECE);
            if let Some(at) = difference([&a, &b], at, len).map_err(said)? {
                tell(&format!("Content mismatch at offset {at}!\n"));
                return Ok(1);
            }
        }
        at += len;
        progress.add(len);
    }
    drop(warning);
    tell("Images are identical.\n");
    Ok(0)
}
