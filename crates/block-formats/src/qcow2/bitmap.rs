//! Persistent dirty bitmaps: reading, recording, storing.
//!
//! Bitmaps are read when something is about to change; those that record are then marked as in use
//! in the image, so that a crash leaves them marked and nobody trusts them. Writes set their bits in
//! memory. When the image is closed all are stored anew and the old clusters are given up; when
//! that fails, what was stored stays marked as in use. A bitmap found in use is inconsistent: it can only be removed.
//! Source: qcow2 specification, "Bitmaps".

use std::io;

use block::{Bitmap, BitmapChange, invalid};
use qapi::{Error, Result};

use super::header::{BITMAPS, be32, be64, feature};
use super::tables::{Meta, PLACE};

const IN_USE: u32 = 1;
const AUTO: u32 = 2;
/// Most bytes of a bitmap, as at the peer.
const MOST: u64 = 512 << 20;
/// Most bytes of all bitmaps of an image together.
const MOST_OF_ALL: u64 = 1 << 30;
/// Most bytes of the directory.
const DIRECTORY: u64 = 64 << 20;

/// Where a stored bitmap's clusters are.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) table: u64,
    pub(super) table_len: u32,
    flags: u32,
    /// Place of the flags in the directory.
    flags_at: u64,
    bits: u8,
    name: String,
}

/// Bitmaps while the image is written.
#[derive(Default)]
pub(super) struct Recording {
    pub(super) all: Vec<Bitmap>,
    changed: bool,
}

/// Place and length of the directory, and the number of bitmaps.
pub(super) fn directory(meta: &Meta) -> Option<(u64, u64, u32)> {
    let data = meta.header.extension(BITMAPS)?;
    if meta.header.autoclear & feature::BITMAPS == 0 || data.len() < 24 {
        return None;
    }
    Some((be64(data, 16), be64(data, 8), be32(data, 0)))
}

/// The entries of the directory.
pub(super) fn entries(meta: &Meta) -> io::Result<Vec<Entry>> {
    let Some((at, size, count)) = directory(meta) else { return Ok(Vec::new()) };
    if size > DIRECTORY || count > 65535 || at & (meta.cluster() - 1) != 0 {
        return Err(invalid("bitmap directory is too large or misplaced"));
    }
    if at.saturating_add(size) > meta.file.len() {
        return Err(invalid("bitmap directory lies behind the end of the file"));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    meta.file.driver().read(at, &mut bytes)?;
    let mut pos = 0;
    let mut all = Vec::new();
    for _ in 0..count {
        let entry = bytes.get(pos..).filter(|e| e.len() >= 24);
        let entry = entry.ok_or_else(|| invalid("bitmap directory is damaged"))?;
        let (kind, bits) = (entry.get(16).copied(), entry.get(17).copied().unwrap_or(0));
        let (name_len, extra) = ((be32(entry, 16) & 0xffff) as usize, be32(entry, 20) as usize);
        let len = extra.saturating_add(24 + name_len);
        let name = entry.get(extra.saturating_add(24)..len);
        let name = name.filter(|_| kind == Some(1) && (9..=31).contains(&bits));
        let name = name.ok_or_else(|| invalid("bitmap directory entry is damaged"))?;
        let flags_at = at + pos as u64 + 12;
        all.push(Entry {
            table: be64(entry, 0),
            table_len: be32(entry, 8),
            flags: be32(entry, 12),
            flags_at,
            bits,
            name: String::from_utf8_lossy(name).into_owned(),
        });
        pos += len.next_multiple_of(8);
    }
    Ok(all)
}

/// The table of a bitmap.
pub(super) fn table(meta: &Meta, entry: &Entry) -> io::Result<Vec<u64>> {
    if entry.table_len > 1 << 20 || entry.table & (meta.cluster() - 1) != 0 {
        return Err(invalid("bitmap table is too large or misplaced"));
    }
    let mut bytes = vec![0; entry.table_len as usize * 8];
    meta.file.driver().read(entry.table, &mut bytes)?;
    Ok((0..entry.table_len as usize).map(|at| be64(&bytes, at * 8)).collect())
}

fn words(size: u64, granularity: u64) -> u64 {
    size.div_ceil(granularity).div_ceil(64)
}

fn read(meta: &Meta, entry: &Entry) -> io::Result<Bitmap> {
    let mut bitmap = unread(entry);
    let count = words(meta.header.size, bitmap.granularity);
    if bitmap.inconsistent {
        return Ok(bitmap);
    }
    if count * 8 > MOST {
        return Err(invalid("a bitmap is too large"));
    }
    bitmap.bits = vec![0; usize::try_from(count).unwrap_or(0)];
    let per_cluster = usize::try_from(meta.cluster() / 8).unwrap_or(1);
    let table = table(meta, entry)?;
    for (slot, chunk) in table.iter().zip(bitmap.bits.chunks_mut(per_cluster)) {
        if slot & PLACE == 0 {
            chunk.fill(if slot & 1 == 1 { u64::MAX } else { 0 });
            continue;
        }
        let mut bytes = vec![0; chunk.len() * 8];
        meta.file.driver().read(slot & PLACE, &mut bytes)?;
        for (word, bytes) in chunk.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
    trim(&mut bitmap, meta.header.size);
    Ok(bitmap)
}

/// Clears bits behind the end of the disk.
fn trim(bitmap: &mut Bitmap, size: u64) {
    let count = size.div_ceil(bitmap.granularity.max(1));
    bitmap.bits.resize(usize::try_from(count.div_ceil(64)).unwrap_or(0), 0);
    if let (Some(last), true) = (bitmap.bits.last_mut(), !count.is_multiple_of(64)) {
        *last &= (1 << (count % 64)) - 1;
    }
}

/// All bitmaps as they are now.
pub(super) fn list(meta: &Meta) -> io::Result<Vec<Bitmap>> {
    match &meta.recording {
        Some(recording) => Ok(recording.all.clone()),
        None => read_all(meta, &entries(meta)?).into_iter().collect(),
    }
}

/// Reads bitmaps, as long as all together are not too large.
fn read_all(meta: &Meta, entries: &[Entry]) -> Vec<io::Result<Bitmap>> {
    let mut left = MOST_OF_ALL;
    let mut one = |entry: &Entry| {
        let bytes = words(meta.header.size, 1 << entry.bits) * 8;
        left = left.checked_sub(bytes).ok_or_else(|| invalid("the bitmaps are too large"))?;
        read(meta, entry)
    };
    entries.iter().map(&mut one).collect()
}

/// All bitmaps as they are now, without their bits.
pub(super) fn names(meta: &Meta) -> io::Result<Vec<Bitmap>> {
    let bare = |bitmap: &Bitmap| Bitmap {
        name: bitmap.name.clone(),
        bits: Vec::new(),
        granularity: bitmap.granularity,
        enabled: bitmap.enabled,
        inconsistent: bitmap.inconsistent,
    };
    match &meta.recording {
        Some(recording) => Ok(recording.all.iter().map(bare).collect()),
        None => Ok(entries(meta)?.iter().map(unread).collect()),
    }
}

/// What the directory tells of a bitmap.
fn unread(entry: &Entry) -> Bitmap {
    Bitmap {
        name: entry.name.clone(),
        granularity: 1 << entry.bits,
        enabled: entry.flags & AUTO != 0,
        inconsistent: entry.flags & IN_USE != 0,
        bits: Vec::new(),
    }
}

/// Reads the bitmaps and marks those that record as in use; the image is about to change.
pub(super) fn begin(meta: &mut Meta) -> io::Result<()> {
    if meta.recording.is_some() {
        return Ok(());
    }
    let entries = entries(meta).unwrap_or_default();
    let mut all = Vec::new();
    for (entry, found) in entries.iter().zip(read_all(meta, &entries)) {
        let mut bitmap = found.unwrap_or_else(|_| Bitmap { inconsistent: true, ..unread(entry) });
        bitmap.enabled &= entry.flags & AUTO != 0;
        if bitmap.enabled && !bitmap.inconsistent {
            let flags = (entry.flags | IN_USE).to_be_bytes();
            meta.file.driver().write(entry.flags_at, &flags)?;
        }
        all.push(bitmap);
    }
    if !all.is_empty() {
        meta.file.driver().flush()?;
    }
    meta.recording = Some(Recording { all, changed: false });
    Ok(())
}

/// A range was written.
pub(super) fn record(meta: &mut Meta, at: u64, len: u64) {
    let Some(recording) = &mut meta.recording else { return };
    for bitmap in recording.all.iter_mut().filter(|b| b.enabled && !b.inconsistent) {
        bitmap.set(at, len);
        recording.changed = true;
    }
}

/// Stores the bitmaps where something was recorded or marked; the reason when they are lost.
pub(super) fn end(meta: &mut Meta) -> std::result::Result<(), String> {
    let Some(recording) = meta.recording.take() else { return Ok(()) };
    let marked = recording.all.iter().any(|b| b.enabled && !b.inconsistent);
    if !recording.changed && !marked {
        return Ok(());
    }
    let done = store(meta, &recording.all);
    if done.is_err() {
        meta.recording = Some(recording);
    }
    done
}

/// The clusters of what is stored now.
fn clusters(meta: &Meta) -> io::Result<Vec<u64>> {
    let mut all = Vec::new();
    let cluster = meta.cluster();
    let mut add = |at: u64, len: u64| all.extend((at..at + len).step_by(1 << meta.bits()));
    for entry in entries(meta)? {
        for slot in table(meta, &entry)? {
            if slot & PLACE != 0 {
                add(slot & PLACE, cluster);
            }
        }
        add(entry.table, u64::from(entry.table_len) * 8);
    }
    if let Some((at, size, _)) = directory(meta) {
        add(at, size);
    }
    Ok(all)
}

/// Clusters in a row for something new; `taken` gets them.
fn take(meta: &mut Meta, count: u64, taken: &mut Vec<u64>) -> io::Result<u64> {
    let place = meta.take(count)?;
    taken.extend((0..count).map(|n| place + n * meta.cluster()));
    Ok(place)
}

/// Writes a bitmap's clusters and its table; the table's place and length come back.
fn write(meta: &mut Meta, bitmap: &Bitmap, taken: &mut Vec<u64>) -> io::Result<(u64, u32)> {
    let per_cluster = usize::try_from(meta.cluster() / 8).unwrap_or(1);
    let mut table = Vec::new();
    for chunk in bitmap.bits.chunks(per_cluster) {
        if chunk.iter().all(|word| *word == 0) {
            table.push(0u64);
            continue;
        }
        let place = take(meta, 1, taken)?;
        let mut bytes: Vec<u8> = chunk.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(per_cluster * 8, 0);
        meta.file.driver().write(place, &bytes)?;
        table.push(place);
    }
    let bytes: Vec<u8> = table.iter().flat_map(|slot| slot.to_be_bytes()).collect();
    if bytes.is_empty() {
        return Ok((0, 0));
    }
    let place = take(meta, (bytes.len() as u64).div_ceil(meta.cluster()), taken)?;
    meta.file.driver().write(place, &bytes)?;
    Ok((place, u32::try_from(table.len()).unwrap_or(0)))
}

/// Stores all bitmaps anew; the reason when it cannot be done, and what is stored is as it was.
fn store(meta: &mut Meta, all: &[Bitmap]) -> std::result::Result<(), String> {
    let old = clusters(meta).unwrap_or_default();
    let mut taken = Vec::new();
    let done = store_new(meta, all, &mut taken).and_then(|()| {
        for place in old {
            meta.free(place);
        }
        taken.clear();
        meta.commit(false).map_err(|error| host::reason(&error))
    });
    for place in taken {
        meta.free(place);
    }
    done
}

fn store_new(
    meta: &mut Meta,
    all: &[Bitmap],
    taken: &mut Vec<u64>,
) -> std::result::Result<(), String> {
    let mut directory = Vec::new();
    for bitmap in all {
        let (place, len) = write(meta, bitmap, taken).map_err(|error| {
            let why = host::reason(&error);
            format!("Failed to write bitmap '{}' to file: {why}", bitmap.name)
        })?;
        let flags = if bitmap.enabled { AUTO } else { 0 };
        let flags = if bitmap.inconsistent { flags | IN_USE } else { flags };
        directory.extend(place.to_be_bytes());
        directory.extend(len.to_be_bytes());
        directory.extend(flags.to_be_bytes());
        let bits = u8::try_from(bitmap.granularity.max(512).trailing_zeros()).unwrap_or(16);
        directory.extend([1, bits]);
        directory.extend(u16::try_from(bitmap.name.len()).unwrap_or(0).to_be_bytes());
        directory.extend(0u32.to_be_bytes());
        directory.extend(bitmap.name.as_bytes());
        directory.resize(directory.len().next_multiple_of(8), 0);
    }
    let failed =
        |error: io::Error| format!("Failed to update bitmap extension: {}", host::reason(&error));
    update(meta, all, &directory, taken).map_err(failed)
}

/// Writes the directory and makes the header name it.
fn update(
    meta: &mut Meta,
    all: &[Bitmap],
    directory: &[u8],
    taken: &mut Vec<u64>,
) -> io::Result<()> {
    let extension = if all.is_empty() {
        None
    } else {
        let len = directory.len() as u64;
        let place = take(meta, len.div_ceil(meta.cluster()), taken)?;
        meta.file.driver().write(place, directory)?;
        let mut data = u32::try_from(all.len()).unwrap_or(0).to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend(len.to_be_bytes());
        data.extend(place.to_be_bytes());
        Some(data)
    };
    meta.commit(false)?;
    meta.file.driver().flush()?;
    let has = extension.is_some();
    meta.header.set_extension(BITMAPS, extension)?;
    meta.header.autoclear &= !feature::BITMAPS;
    meta.header.autoclear |= if has { feature::BITMAPS } else { 0 };
    let file = meta.file.clone();
    meta.header.write_whole(&file)
}

fn find<'a>(all: &'a mut [Bitmap], name: &str) -> Result<&'a mut Bitmap> {
    let found = all.iter_mut().find(|bitmap| bitmap.name == name);
    found.ok_or_else(|| Error::generic(format!("Dirty bitmap '{name}' not found")))
}

fn usable<'a>(all: &'a mut [Bitmap], name: &str) -> Result<&'a mut Bitmap> {
    let found = find(all, name)?;
    if found.inconsistent {
        let text = format!("Bitmap '{name}' is inconsistent and cannot be used");
        let hint = "Try block-dirty-bitmap-remove to delete this bitmap from disk";
        return Err(Error::generic(text).with_hint(hint));
    }
    Ok(found)
}

fn add(
    meta: &Meta,
    all: &mut Vec<Bitmap>,
    name: &str,
    granularity: Option<u64>,
    enabled: bool,
) -> Result<()> {
    let granularity = granularity.unwrap_or(meta.cluster().clamp(4096, 65536));
    if !granularity.is_power_of_two() || granularity < 512 {
        return Err(Error::generic("Granularity must be power of 2 and at least 512"));
    }
    if granularity > 1 << 31 {
        return Err(Error::generic("Granularity must not exceed 2147483648"));
    }
    if all.iter().any(|bitmap| bitmap.name == name) {
        return Err(Error::generic(format!("Bitmap already exists: {name}")));
    }
    if meta.header.version < 3 {
        let text = "Cannot store dirty bitmaps in qcow2 v2 files";
        return Err(Error::generic(text));
    }
    if name.len() > 1023 {
        return Err(Error::generic("Bitmap name too long"));
    }
    if words(meta.header.size, granularity) * 8 > MOST || all.len() >= 65535 {
        return Err(Error::generic(
            "Too much space will be occupied by the bitmap. Use larger granularity",
        ));
    }
    let mut bitmap = Bitmap { name: name.to_owned(), granularity, enabled, ..Bitmap::default() };
    trim(&mut bitmap, meta.header.size);
    all.push(bitmap);
    Ok(())
}

fn merge(into: &mut Bitmap, from: &Bitmap, size: u64) {
    if from.granularity == into.granularity {
        for (word, other) in into.bits.iter_mut().zip(&from.bits) {
            *word |= other;
        }
        return;
    }
    for bit in 0..from.bits.len() as u64 * 64 {
        let at = bit * from.granularity;
        if from.is_set(bit) && at < size {
            into.set(at, from.granularity.min(size - at));
        }
    }
}

/// Carries out a change; it is stored when the image is closed.
pub(super) fn change(meta: &mut Meta, name: &str, change: &BitmapChange) -> Result<()> {
    let failed = |error: io::Error| Error::generic(host::reason(&error));
    list(meta).map_err(failed)?;
    meta.about_to_change().map_err(failed)?;
    let mut all = list(meta).map_err(failed)?;
    match change {
        BitmapChange::Add(granularity, enabled) => {
            add(meta, &mut all, name, *granularity, *enabled)?;
        }
        BitmapChange::Remove => {
            find(&mut all, name)?;
            all.retain(|bitmap| bitmap.name != name);
        }
        BitmapChange::Clear => usable(&mut all, name)?.bits.fill(0),
        BitmapChange::Enable(on) => usable(&mut all, name)?.enabled = *on,
        BitmapChange::Merge(from) => merge(usable(&mut all, name)?, from, meta.header.size),
    }
    if let Some(recording) = &mut meta.recording {
        recording.all = all;
        recording.changed = true;
    }
    Ok(())
}

/// The disk has another length.
pub(super) fn resize(meta: &mut Meta, size: u64) {
    if let Some(recording) = &mut meta.recording {
        for bitmap in recording.all.iter_mut().filter(|b| !b.inconsistent) {
            trim(bitmap, size);
            recording.changed = true;
        }
    }
}
