//! `bitmap`: makes, removes and changes persistent dirty bitmaps.
//!
//! Several changes may be asked for at once; they are made in the order given. `--merge` takes its
//! source from the same image or from the one of `-b`.
//! Source: QEMU's manual, `qemu-img bitmap`.

use block::{BitmapChange, Flags, Node};

use crate::options::{Given, Opt, size};
use crate::{Done, Fail, fail};

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('b', "source-file", "SRC_FILENAME"),
    ('F', "source-format", "SRC_FMT"),
    ('g', "granularity", "SIZE"),
    ('\0', "add", ""),
    ('\0', "remove", ""),
    ('\0', "clear", ""),
    ('\0', "enable", ""),
    ('\0', "disable", ""),
    ('\0', "merge", "BITMAP"),
];

fn merge(from: &Node, word: &str) -> qapi::Result<BitmapChange> {
    let all = from.driver().bitmaps().map_err(|e| qapi::Error::generic(host::reason(&e)))?;
    let found = all.into_iter().find(|bitmap| bitmap.name == word);
    let found =
        found.ok_or_else(|| qapi::Error::generic(format!("Dirty bitmap '{word}' not found")))?;
    if found.inconsistent {
        let text = format!("Bitmap '{word}' is inconsistent and cannot be used");
        let hint = "Try block-dirty-bitmap-remove to delete this bitmap from disk";
        return Err(qapi::Error::generic(text).with_hint(hint));
    }
    Ok(BitmapChange::Merge(found))
}

/// Changes asked for, with the word that names each in messages.
fn changes(given: &Given) -> Vec<(&'static str, String)> {
    let is_change =
        |name: &&str| ["add", "remove", "clear", "enable", "disable", "merge"].contains(name);
    let all = given.ordered().filter(|(name, _)| is_change(name));
    all.map(|(name, value)| (name, value.to_owned())).collect()
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("bitmap", args, OPTIONS)? else { return Ok(0) };
    let granularity = match given.value("granularity") {
        None => None,
        Some(text) => {
            Some(size(text).map_err(|_| Fail("Invalid granularity specified".into(), 1))?)
        }
    };
    let all = changes(&given);
    if all.is_empty() {
        let text = "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge";
        return Err(Fail(text.into(), 1));
    }
    let has_add = given.has("add");
    if granularity.is_some() && !has_add {
        return Err(Fail("granularity only supported with --add".into(), 1));
    }
    if given.has("source-format") && !given.has("source-file") {
        return Err(Fail("-F only supported with -b".into(), 1));
    }
    if given.has("source-file") && !given.has("merge") {
        return Err(Fail("Merge bitmap source file only supported with --merge".into(), 1));
    }
    let [name, bitmap] = given.names.as_slice() else {
        return Err(given.usage("Expecting filename and bitmap name"));
    };
    let graph = given.graph()?;
    let flags = Flags { no_backing: true, ..given.flags(false) };
    let node = given.open(&graph, name, given.value("format"), flags)?;
    let other = match given.value("source-file") {
        None => None,
        Some(source) => {
            let flags = Flags { no_backing: true, ..given.flags(true) };
            Some(crate::options::open(&graph, source, given.value("source-format"), flags)?)
        }
    };
    for (what, value) in all {
        let change = match what {
            "add" => Ok(BitmapChange::Add(granularity, true)),
            "remove" => Ok(BitmapChange::Remove),
            "clear" => Ok(BitmapChange::Clear),
            "enable" => Ok(BitmapChange::Enable(true)),
            "disable" => Ok(BitmapChange::Enable(false)),
            _ => merge(other.as_deref().unwrap_or(&node), &value),
        };
        let done = change.and_then(|change| node.driver().change_bitmap(bitmap, &change));
        done.map_err(|error| {
            let Fail(text, status) = error.into();
            Fail(format!("Operation {what} on bitmap {bitmap} failed: {text}"), status)
        })?;
    }
    match node.flush() {
        Ok(()) => Ok(crate::close(&graph).unwrap_or(0)),
        Err(error) => fail("Failed to flush the image", &error),
    }
}
