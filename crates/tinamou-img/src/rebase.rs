//! `rebase`: gives an image another backing file.
//!
//! The safe way reads what the image shows through the old backing file, and where the new one
//! shows something else it is written to the image; the disk stays what it was. `-u` changes the
//! name only.
//! Source: QEMU's manual, `qemu-img rebase`.

use std::sync::Arc;

use block::{Flags, Graph, Node};

use crate::options::{Given, Opt, cache};
use crate::progress::Progress;
use crate::{Done, Fail, fail};

/// Bytes compared at once.
const PIECE: u64 = 2 << 20;

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('t', "cache", "CACHE"),
    ('b', "backing", "BACKING_FILENAME"),
    ('F', "backing-format", "BACKING_FMT"),
    ('T', "backing-cache", "CACHE"),
    ('u', "backing-unsafe", ""),
    ('p', "progress", ""),
    ('c', "compress", ""),
];

/// Reads a range of a backing file; what lies behind its end is zero.
fn read(node: Option<&Arc<Node>>, at: u64, into: &mut [u8], what: &str) -> Result<(), Fail> {
    into.fill(0);
    let Some(node) = node else { return Ok(()) };
    let there = node.len().saturating_sub(at).min(into.len() as u64);
    let part = into.get_mut(..usize::try_from(there).unwrap_or(0)).unwrap_or_default();
    if part.is_empty() {
        return Ok(());
    }
    node.read(at, part)
        .or_else(|error| fail(&format!("error while reading from {what} backing file"), &error))
}

struct Rebase<'a> {
    image: &'a Node,
    old: Option<Arc<Node>>,
    new: Option<Arc<Node>>,
    compress: bool,
    /// Zeroes must be written as bytes.
    plain: bool,
    /// Bytes that are compared and written together.
    unit: u64,
}

impl Rebase<'_> {
    fn run(&self, progress: &Progress) -> Result<(), Fail> {
        let (mut at, end) = (0, self.image.len());
        while at < end {
            let found = self.image.extent(at, (end - at).min(PIECE));
            let extent = match found {
                Ok(extent) => extent,
                Err(error) => return fail("error while reading image metadata", &error),
            };
            if !extent.allocated {
                self.piece(at, extent.len)?;
            }
            at += extent.len;
            progress.add(extent.len);
        }
        Ok(())
    }

    /// Looks at a range that shows the backing file; writes units that would change.
    fn piece(&self, at: u64, len: u64) -> Result<(), Fail> {
        let size = usize::try_from(len).unwrap_or(0);
        let (mut old, mut new) = (vec![0; size], vec![0; size]);
        read(self.old.as_ref(), at, &mut old, "old")?;
        read(self.new.as_ref(), at, &mut new, "new")?;
        let mut done = 0;
        while done < len {
            let stop = ((at + done) / self.unit + 1) * self.unit - at;
            let stop = stop.min(len);
            let range = usize::try_from(done).unwrap_or(0)..usize::try_from(stop).unwrap_or(0);
            let (a, b) = (old.get(range.clone()), new.get(range));
            if let (Some(a), Some(b)) = (a, b)
                && a != b
            {
                self.write(at + done, a)?;
            }
            done = stop;
        }
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Fail> {
        let driver = self.image.driver();
        let whole = at.is_multiple_of(self.unit);
        if !self.plain && data.iter().all(|byte| *byte == 0) {
            let done = driver.write_zeroes(at, data.len() as u64, true);
            return done.or_else(|e| fail("error while writing to COW image", &e));
        }
        if self.compress && whole && driver.write_compressed(at, data).unwrap_or(false) {
            return Ok(());
        }
        driver.write(at, data).or_else(|e| fail("error while writing to COW image", &e))
    }
}

/// Opens the new backing file as seen from the image.
fn new_backing(
    graph: &Graph,
    image: &Node,
    name: &str,
    format: Option<&str>,
    flags: Flags,
) -> Result<Option<Arc<Node>>, Fail> {
    if name.is_empty() {
        return Ok(None);
    }
    let path = block::relative_to(image.path(), name);
    let node = graph.open_image(&path, format, flags).map_err(|error| {
        let Fail(text, _) = error.into();
        Fail(format!("Could not open new backing file '{path}': {text}"), 1)
    })?;
    Ok(Some(node))
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("rebase", args, OPTIONS)? else { return Ok(0) };
    let name = given.name()?;
    let name_only = given.has("backing-unsafe");
    let backing = given.value("backing");
    if !name_only && backing.is_none() {
        return Err(given.usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let mode = cache(given.value("cache"), "")?;
    cache(given.value("backing-cache"), "source ")?;
    let graph = given.graph()?;
    // An image that is written is shared with nobody, whatever is asked for.
    let own = Flags { no_backing: name_only, force_share: false, ..given.flags(false) };
    let flags = mode.flags(own);
    let image = given.open(&graph, name, given.value("format"), flags)?;
    let backing_format = given.value("backing-format");
    if let Some(format) = backing_format
        && graph.class(format).is_err()
    {
        return Err(Fail(format!("Invalid format name: '{format}'"), 1));
    }
    if given.has("compress") && image.class().name != "qcow2" {
        return Err(Fail("Compression not supported for this file format".into(), 1));
    }
    if !image.class().has_backing {
        return Err(Fail(
            format!(
                "Could not change the backing file to '{}': Operation not supported",
                backing.unwrap_or("")
            ),
            1,
        ));
    }
    let cluster = image.driver().format_info().cluster_size.unwrap_or(65536);
    let compress = given.has("compress");
    let show = given.has("progress") && !given.has("quiet");
    if !name_only {
        let old = image.child("backing");
        let flags = Flags { no_backing: false, read_only: true, ..flags };
        let new = new_backing(&graph, &image, backing.unwrap_or(""), backing_format, flags)?;
        let progress = Progress::new(show, image.len());
        let specific = image.driver().format_info().specific;
        let compat = specific.as_ref().and_then(|data| data.get("compat"));
        let plain = compat.and_then(qapi::Value::as_str) == Some("0.10");
        Rebase { image: &image, old, new, compress, plain, unit: cluster }.run(&progress)?;
    } else if show {
        drop(Progress::new(true, 1));
    }
    if let Err(error) = image.flush() {
        return fail("Could not flush the image", &error);
    }
    let name = backing.filter(|name| !name.is_empty());
    if name.is_some() && backing_format.is_none() {
        let text = "Could not change the backing file to '%': backing format must be specified";
        return Err(Fail(text.replace('%', name.unwrap_or("")), 1));
    }
    match image.change_backing(name, backing_format) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            let text = "Could not change the backing file to '%': No space left in the file header";
            return Err(Fail(text.replace('%', name.unwrap_or("")), 1));
        }
        Err(error) => {
            let text = format!("Could not change the backing file to '{}'", name.unwrap_or(""));
            return fail(&text, &error);
        }
    }
    // A shorter new chain is completed: what the old one showed behind its end was written above.
    match image.flush() {
        Ok(()) => Ok(0),
        Err(error) => fail("Could not flush the image", &error),
    }
}
