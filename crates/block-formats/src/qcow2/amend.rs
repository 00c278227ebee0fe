//! Changing options of an image that exists.
//!
//! The version goes up and down (down: zero clusters become data or nothing), lazy counts are
//! switched, the backing file is renamed, the disk resized, key slots changed. Not here: other
//! widths of reference counts, adding or taking away a data file; they are refused by name.
//! Source: QEMU's manual, `qemu-img amend`; qcow2 specification, "Header".

use std::collections::BTreeMap;
use std::io;

use block::{BlockDriver, CreateOption, Creation, Preallocation};
use qapi::{Error, Result};

use super::create::option;
use super::header::{Header, feature};
use super::tables::{COMPRESSED, COPIED, Meta, PLACE, ZERO};
use super::{Qcow2, create, snapshot};
use crate::luks;

pub(super) const OPTIONS: &[CreateOption] = &[
    option("backing_file", "str", "File name of a base image"),
    option("backing_fmt", "str", "Image format of the base image"),
    option("compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"),
    option("data_file", "str", "File name of an external data file"),
    option(
        "data_file_raw",
        "bool (on/off)",
        "The external data file must stay valid as a raw image",
    ),
    option("encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"),
    option("encrypt.keyslot", "num", "Select a single keyslot to modify explicitly"),
    option(
        "encrypt.new-secret",
        "str",
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    option("encrypt.old-secret", "str", "Select all keyslots that match this password"),
    option("encrypt.state", "str", "Select new state of affected keyslots (active/inactive)"),
    option("lazy_refcounts", "bool (on/off)", "Postpone refcount updates"),
    option("refcount_bits", "num", "Width of a reference count entry in bits"),
    option("size", "size", "Virtual disk size"),
];

fn failed(error: &io::Error) -> Error {
    Error::generic(host::reason(error))
}

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

/// All L2 tables, of snapshots too, and how often each is named.
fn all_tables(meta: &Meta) -> io::Result<BTreeMap<u64, u32>> {
    let mut all = BTreeMap::new();
    let mut note = |l1: &[u64]| -> io::Result<()> {
        for word in l1.iter().filter(|word| **word & PLACE != 0) {
            *all.entry(meta.place(*word)?).or_insert(0) += 1;
        }
        Ok(())
    };
    note(&meta.l1)?;
    for stored in &meta.snapshots {
        note(&snapshot::read_l1(meta, stored)?)?;
    }
    Ok(all)
}

/// Version 2 knows no zero clusters: they become data, or nothing where nothing lies behind. What a
/// table names is counted as often as the table.
fn expand_zeroes(meta: &mut Meta) -> io::Result<()> {
    let has_backing = meta.header.backing.is_some();
    for (table, times) in all_tables(meta)? {
        let mut entries = meta.l2(table)?.entries.clone();
        let old = entries.clone();
        for entry in entries.iter_mut().filter(|e| **e & COMPRESSED == 0 && **e & ZERO != 0) {
            if meta.has_place(*entry) {
                let place = meta.place(*entry)?;
                for _ in 0..times {
                    meta.free(place);
                }
            }
            *entry = 0;
            if has_backing {
                let new = meta.take(1)?;
                meta.file.driver().write_zeroes(new, meta.cluster(), false)?;
                meta.refcounts.set(new >> meta.bits(), times.into())?;
                *entry = if times == 1 { new | COPIED } else { new };
            }
        }
        if entries != old {
            let l2 = meta.l2(table)?;
            (l2.entries, l2.dirty) = (entries, true);
        }
    }
    meta.commit(false)
}

fn downgrade(meta: &mut Meta) -> Result<()> {
    let header = &meta.header;
    if header.refcount_order != 4 {
        return refuse(format!(
            "compat=0.10 requires refcount_bits=16, but this image has refcount_bits={}",
            1 << header.refcount_order
        ));
    }
    if header.incompatible & feature::DATA_FILE != 0 {
        return refuse("Cannot downgrade an image with a data file");
    }
    if header.incompatible & !feature::DIRTY != 0 {
        return refuse(format!(
            "Cannot downgrade an image with incompatible features 0x{:x} set",
            header.incompatible
        ));
    }
    if meta.snapshots.iter().any(|s| s.about.disk_size != header.size) {
        return refuse("Internal snapshots prevent downgrade of image");
    }
    expand_zeroes(meta)
        .map_err(|e| failed(&e).prefixed("Failed to turn zero into data clusters: "))?;
    let header = &mut meta.header;
    (header.incompatible, header.compatible, header.autoclear) = (0, 0, 0);
    (header.version, header.length) = (2, 72);
    write(meta)
}

fn write(meta: &mut Meta) -> Result<()> {
    let file = meta.file.clone();
    let done = meta.header.rebuild().and_then(|()| meta.header.write_whole(&file));
    done.and_then(|()| file.driver().flush()).map_err(|e| failed(&e))
}

fn set_version(meta: &mut Meta, wanted: &str) -> Result<()> {
    match (create::version(wanted)?, meta.header.version) {
        (3, 2) => {
            (meta.header.version, meta.header.length) = (3, 112);
            write(meta)
        }
        (2, 3) => downgrade(meta),
        _ => Ok(()),
    }
}

fn set_lazy(meta: &mut Meta, on: bool, version: u32) -> Result<()> {
    let header: &mut Header = &mut meta.header;
    let is_on = header.compatible & feature::LAZY_REFCOUNTS != 0;
    if on == is_on {
        return Ok(());
    }
    if on && version < 3 {
        return refuse(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
        );
    }
    header.compatible ^= feature::LAZY_REFCOUNTS;
    write(meta)
}

fn crypt(image: &Qcow2, change: &Creation, force: bool) -> Result<()> {
    let Some(crypt) = &image.crypt else {
        return refuse("Can't amend encryption options - encryption not present");
    };
    let Some(key) = &crypt.key else { return refuse("the image is not unlocked") };
    let file = image.file.node().driver().clone();
    let mut header = crypt.header.lock();
    luks::amend(&mut header, &*file, crypt.at, key, (change, "encrypt.", force))
}

/// Carries out all changes.
pub(super) fn run(image: &Qcow2, change: &Creation, force: bool) -> Result<()> {
    let all = image.gate.write();
    let mut meta = image.meta.lock();
    meta.commit(false).map_err(|e| failed(&e))?;
    let bits = 1u64 << meta.header.refcount_order;
    if let Some(text) = change.option("refcount_bits")
        && text.parse() != Ok(bits)
    {
        if !text.parse::<u64>().is_ok_and(|n| n.is_power_of_two() && n <= 64) {
            return refuse("Refcount width must be a power of two and may not exceed 64 bits");
        }
        return refuse("changing the width of reference counts is not built yet in Tinamou");
    }
    let has_data = meta.data.is_some();
    if change.option("data_file").is_some() && !has_data {
        return refuse("data-file can only be set for images that use an external data file");
    }
    if change.option("data_file_raw") == Some("on") && !meta.is_raw_data() {
        return refuse("data-file-raw cannot be set on existing images");
    }
    let encrypt: Vec<_> =
        change.options.iter().filter(|(k, _)| k.starts_with("encrypt.")).collect();
    if !encrypt.is_empty() {
        crypt(image, change, force)?;
    }
    let version = change.option("compat").map(create::version).transpose()?;
    if let Some(compat) = change.option("compat").filter(|_| version == Some(3)) {
        set_version(&mut meta, compat)?;
    }
    if let Some(word) = change.option("lazy_refcounts") {
        let on = create::switch("lazy_refcounts", word)?;
        let version = version.unwrap_or(meta.header.version);
        set_lazy(&mut meta, on, version)?;
    }
    let (file, format) = (change.option("backing_file"), change.option("backing_fmt"));
    if file.is_some() || format.is_some() {
        let old = (meta.header.backing.clone(), meta.header.backing_format.clone());
        let file = file.map(str::to_owned).or(old.0).filter(|name| !name.is_empty());
        let format = format.map(str::to_owned).or(old.1);
        let set = meta.header.set_backing(file.as_deref(), format.as_deref());
        set.map_err(|e| failed(&e))?;
        write(&mut meta)?;
    }
    if let Some(compat) = change.option("compat").filter(|_| version == Some(2)) {
        set_version(&mut meta, compat)?;
    }
    drop(meta);
    drop(all);
    if let Some(text) = change.option("size") {
        let size = qapi::parse_size(text, 1).ok_or_else(|| Error::expects("size", "a size"))?;
        image.truncate(size, Preallocation::Off).map_err(|e| failed(&e))?;
    }
    Ok(())
}
