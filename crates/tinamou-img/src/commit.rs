//! `commit`: writes what an image changed to its backing file, or to one further below.
//!
//! What the layers above the base hold is written to the base, which grows if need be. Unless told
//! otherwise (`-d`, or `-b` with a base further below) the image is emptied then.
//! Source: QEMU's manual, `qemu-img commit`.

use std::sync::Arc;

use block::{Flags, Graph, Node, Preallocation};
use qapi::Value;

use crate::options::{Given, Opt, cache};
use crate::progress::Progress;
use crate::{Done, Fail, fail, say};

/// Bytes moved at once.
const PIECE: u64 = 2 << 20;

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('t', "cache", "CACHE_MODE"),
    ('b', "base", "BASE_IMG"),
    ('d', "drop", ""),
    ('r', "rate", "RATE"),
    ('p', "progress", ""),
];

/// The layers above the base, the top one first, and the base as it was found in the chain.
fn layers(
    top: &Arc<Node>,
    base: Option<&str>,
    name: &str,
) -> Result<(Vec<Arc<Node>>, Arc<Node>), Fail> {
    let mut above = vec![top.clone()];
    let mut node = top.clone();
    let same = |a: &str, b: &str| {
        a == b
            || matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
    };
    loop {
        let stored = node.driver().format_info().backing_file;
        let Some(below) = node.child("backing") else {
            return Err(match base {
                Some(base) => {
                    Fail(format!("Did not find '{base}' in the backing chain of '{name}'"), 1)
                }
                None => Fail("Image does not have a backing file".into(), 1),
            });
        };
        let found = base.is_none_or(|base| {
            // Names are meant as the top image's own backing file's is.
            stored.as_deref() == Some(base) || same(below.path(), &block::relative_to(name, base))
        });
        if found {
            return Ok((above, below));
        }
        above.push(below.clone());
        node = below;
    }
}

/// Copies what the layers above the base decide.
fn copy(above: &[Arc<Node>], base: &Node, progress: &Progress) -> Result<(), Fail> {
    let Some(top) = above.first() else { return Ok(()) };
    let (mut at, end) = (0, top.len());
    while at < end {
        let found = top.extent_of_chain(at, (end - at).min(PIECE));
        let (extent, depth) = match found {
            Ok(found) => found,
            Err(error) => return fail("error while reading block status", &error),
        };
        if depth < above.len() && extent.allocated {
            let done = if extent.zero {
                base.write_zeroes(at, extent.len, true)
            } else {
                let mut data = vec![0; usize::try_from(extent.len).unwrap_or(0)];
                top.read(at, &mut data).and_then(|()| base.write(at, &data))
            };
            if let Err(error) = done {
                return fail("Block job failed", &error);
            }
        }
        at += extent.len;
        progress.add(extent.len);
    }
    Ok(())
}

/// Where the base is.
enum At {
    Options(Value),
    Name(String, &'static str),
}

/// How the base is opened again: by the options of the chain, else by the name that the layer above
/// has for it.
fn description(
    given: &Given,
    graph: &Graph,
    above: &[Arc<Node>],
    below: &Node,
    name: &str,
) -> Result<At, Fail> {
    if given.has("image-opts") {
        let flags = given.flags(true);
        let mut value = qapi::keyval::Dialect::flat(None).parse(name)?.value;
        value = graph.complete(value, flags)?;
        let found = (0..above.len()).try_fold(value, |mut value, _| value.take("backing"));
        if let Some(value @ Value::Map(_)) = found {
            return Ok(At::Options(value));
        }
    }
    let direct = above.last().map(|layer| (layer, layer.driver().format_info().backing_file));
    let path = match direct {
        Some((layer, Some(stored))) => block::relative_to(layer.path(), &stored),
        _ => below.path().to_owned(),
    };
    Ok(At::Name(path, below.class().name))
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("commit", args, OPTIONS)? else { return Ok(0) };
    let name = given.name()?;
    let mode = cache(given.value("cache"), "")?;
    let flags = mode.flags(given.flags(false));
    let graph = given.graph()?;
    let (format, base_name) = (given.value("format"), given.value("base"));
    // The chain is looked at first; the base is then opened anew, to be written. The image is opened
    // for writing from the start, as at the peer: that is the lock of which is told.
    let chain = given.open(&graph, name, format, flags)?;
    let (above, below) = layers(&chain, base_name, name)?;
    let count = above.len();
    let base_at = description(&given, &graph, &above, &below, name)?;
    let size = chain.len();
    drop((above, below, chain));
    let share = Flags { force_share: true, read_only: true, ..flags };
    // Zeroes give space up, as at the peer.
    let base_flags = Flags { read_only: false, unmap: true, ..flags };
    let base = match base_at {
        At::Options(value) => graph.open(value, qapi::Source::KeyVal, base_flags)?,
        At::Name(path, format) => crate::options::open(&graph, &path, Some(format), base_flags)?,
    };
    let chain = given.open(&graph, name, format, share)?;
    if base.len() < size
        && let Err(error) = base.driver().truncate(size, Preallocation::Off)
    {
        return fail("Failed to resize the base", &error);
    }
    let (above, _) = layers(&chain, base_name, name)?;
    let progress = Progress::new(given.has("progress") && !given.has("quiet"), size);
    copy(above.get(..count).unwrap_or(&above), &base, &progress)?;
    if let Err(error) = base.flush() {
        return fail("Failed to flush the base", &error);
    }
    drop((above, chain));
    // Nobody writes to it any more: a failure is told now, and again when it is closed.
    _ = base.driver().close();
    if !given.has("drop") && !given.has("base") {
        let flags = Flags { no_backing: true, ..flags };
        let top = given.open(&graph, name, format, flags)?;
        let done = top.driver().make_empty().and_then(|()| top.flush());
        match done {
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => {
                return fail(&format!("Failed to empty {name}"), &error);
            }
            _ => {}
        }
    }
    drop(progress);
    if let Some(status) = crate::close(&graph) {
        return Ok(status);
    }
    if !given.has("quiet") {
        say("Image committed.\n");
    }
    Ok(0)
}
