//! Changing options of an image that exists.
//!
//! The version goes up and down (down: zero clusters become data or nothing), lazy counts are
//! switched, the width of reference counts, the data file's name and whether it is raw, the disk's
//! size, key slots. A backing file is the affair of `rebase`. Not here: progress of other changes than the version.
//! Source: QEMU's manual, `qemu-img amend`; qcow2 specification, "Header".

use std::collections::BTreeMap;
use std::io;

use block::{BlockDriver, CreateOption, Creation, Preallocation};
use qapi::{Error, Result};

use super::create::option;
use super::header::{DATA_FILE_NAME, Header, feature};
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

/// Most clusters of a file whose counts are written anew.
const MOST_CLUSTERS: u64 = 1 << 28;

fn failed(error: &io::Error) -> Error {
    Error::generic(host::reason(error))
}

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

/// The places of L2 tables in the order of level 1 tables, of snapshots too; `None`: there is none.
fn all_tables(meta: &Meta) -> io::Result<Vec<Option<u64>>> {
    let mut all = Vec::new();
    let mut note = |l1: &[u64]| -> io::Result<()> {
        for word in l1 {
            all.push(if *word & PLACE == 0 { None } else { Some(meta.place(*word)?) });
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
fn expand_zeroes(meta: &mut Meta, steps: &dyn Fn(u64, u64)) -> io::Result<()> {
    let has_backing = meta.header.backing.is_some();
    let tables = all_tables(meta)?;
    // How often each is named.
    let mut left: BTreeMap<u64, u32> = BTreeMap::new();
    for table in tables.iter().flatten() {
        *left.entry(*table).or_insert(0) += 1;
    }
    for (done, table) in (0u64..).zip(&tables) {
        if done > 0 {
            steps(done, tables.len() as u64);
        }
        // One that comes again is done.
        let Some((table, times)) = table.and_then(|table| left.remove_entry(&table)) else {
            continue;
        };
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

fn downgrade(meta: &mut Meta, steps: &dyn Fn(u64, u64)) -> Result<()> {
    let header = &meta.header;
    if header.refcount_order != 4 {
        return refuse("compat=0.10 requires refcount_bits=16");
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
    expand_zeroes(meta, steps)
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

fn set_version(meta: &mut Meta, wanted: &str, steps: &dyn Fn(u64, u64)) -> Result<()> {
    match (create::version(wanted)?, meta.header.version) {
        (3, 2) => {
            (meta.header.version, meta.header.length) = (3, 112);
            write(meta)
        }
        (2, 3) => downgrade(meta, steps),
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

fn old_backing(meta: &Meta) -> &str {
    meta.header.backing.as_deref().unwrap_or_default()
}

/// The name of the data file, and whether it is kept as a raw image.
fn data_file(meta: &mut Meta, change: &Creation) -> Result<()> {
    let raw = change.option("data_file_raw").map(|word| create::switch("data_file_raw", word));
    let raw = raw.transpose()?.filter(|on| *on != meta.is_raw_data());
    if raw == Some(true) {
        return refuse("data-file-raw cannot be set on existing images");
    }
    let name = change.option("data_file");
    if name.is_some() && meta.data.is_none() {
        return refuse("data-file can only be set for images that use an external data file");
    }
    if let Some(name) = name {
        let bytes = Some(name.as_bytes().to_vec()).filter(|bytes| !bytes.is_empty());
        meta.header.set_extension(DATA_FILE_NAME, bytes).map_err(|e| failed(&e))?;
    }
    if raw == Some(false) {
        meta.header.autoclear &= !feature::RAW_DATA;
    }
    if name.is_some() || raw.is_some() { write(meta) } else { Ok(()) }
}

/// Reference counts of another width: they are written anew, and the old ones given up.
fn set_width(meta: &mut Meta, bits: u64, version: u32) -> Result<()> {
    if version < 3 && bits != 16 {
        return refuse(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
        );
    }
    let most = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let per_block = meta.refcounts.per_block();
    let (mut counts, mut old) = (Vec::new(), Vec::new());
    let table = meta.refcounts.table.clone();
    for (index, block) in (0u64..).zip(&table) {
        if *block == 0 {
            continue;
        }
        old.push(*block >> meta.bits());
        for cluster in index * per_block..(index + 1) * per_block {
            let count = meta.refcounts.count(cluster).map_err(|e| failed(&e))?;
            if count == 0 {
                continue;
            }
            if count > most {
                let offset = cluster << meta.bits();
                return refuse(format!(
                    "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {offset:#x} has a refcount of {count}"
                ));
            }
            // No file has so many clusters that this list could not be kept.
            let at = usize::try_from(cluster).unwrap_or(usize::MAX);
            if cluster > MOST_CLUSTERS {
                return refuse(
                    "The image file is too long for its reference counts to be rewritten",
                );
            }
            counts.resize(counts.len().max(at + 1), 0);
            if let Some(slot) = counts.get_mut(at) {
                *slot = u32::try_from(count).unwrap_or(u32::MAX);
            }
        }
    }
    let first = meta.refcounts.table_offset >> meta.bits();
    old.extend(first..first + u64::from(meta.header.table_clusters));
    let before = meta.header.refcount_order;
    meta.header.refcount_order = bits.trailing_zeros();
    meta.refcounts.set_order(bits.trailing_zeros());
    let (header, refcounts) = (&mut meta.header, &mut meta.refcounts);
    if let Err(error) = refcounts.rebuild(header, &counts) {
        meta.header.refcount_order = before;
        meta.refcounts.set_order(before);
        return Err(failed(&error));
    }
    for cluster in old {
        meta.refcounts.set(cluster, 0).map_err(|e| failed(&e))?;
    }
    meta.commit(false).map_err(|e| failed(&e))
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
pub(super) fn run(
    image: &Qcow2,
    change: &Creation,
    force: bool,
    steps: &dyn Fn(u64, u64),
) -> Result<()> {
    let all = image.gate.write();
    let mut meta = image.meta.lock();
    meta.commit(false).map_err(|e| failed(&e))?;
    let bits = 1u64 << meta.header.refcount_order;
    let width = match change.option("refcount_bits").map(str::parse::<u64>) {
        Some(Ok(n)) if n.is_power_of_two() && n <= 64 => Some(n).filter(|n| *n != bits),
        Some(_) => {
            return refuse("Refcount width must be a power of two and may not exceed 64 bits");
        }
        None => None,
    };
    if change.option("backing_file").is_some_and(|new| new != old_backing(&meta)) {
        let hint = "You can use 'qemu-img rebase' instead.";
        return Err(Error::generic("Cannot amend the backing file").with_hint(hint));
    }
    data_file(&mut meta, change)?;
    let encrypt: Vec<_> =
        change.options.iter().filter(|(k, _)| k.starts_with("encrypt.")).collect();
    if !encrypt.is_empty() {
        crypt(image, change, force)?;
    }
    let version = match change.option("compat") {
        Some(word) => Some(
            create::version(word)
                .map_err(|_| Error::generic(format!("Unknown compatibility level {word}")))?,
        ),
        None => None,
    };
    if let Some(compat) = change.option("compat").filter(|_| version == Some(3)) {
        set_version(&mut meta, compat, steps)?;
    }
    if let Some(word) = change.option("lazy_refcounts") {
        let on = create::switch("lazy_refcounts", word)?;
        let version = version.unwrap_or(meta.header.version);
        set_lazy(&mut meta, on, version)?;
    }
    if let Some(bits) = width {
        let version = version.unwrap_or(meta.header.version);
        set_width(&mut meta, bits, version)?;
    }
    if let Some(format) = change.option("backing_fmt") {
        let file = meta.header.backing.clone();
        let set = meta.header.set_backing(file.as_deref(), Some(format));
        set.map_err(|e| failed(&e))?;
        write(&mut meta)?;
    }
    drop(meta);
    drop(all);
    if let Some(text) = change.option("size") {
        let size = qapi::parse_size(text, 1).ok_or_else(|| Error::expects("size", "a size"))?;
        image.truncate(size, Preallocation::Off).map_err(|e| failed(&e))?;
    }
    // The disk has its new length before the version goes down: snapshots must be as long.
    if let Some(compat) = change.option("compat").filter(|_| version == Some(2)) {
        let _all = image.gate.write();
        set_version(&mut image.meta.lock(), compat, steps)?;
    }
    Ok(())
}
