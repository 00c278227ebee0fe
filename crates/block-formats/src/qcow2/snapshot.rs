//! Internal snapshots: taking, removing, going back.
//!
//! A snapshot is a copy of the L1 table; everything it names is counted once more, and entries of
//! the active tables lose the mark that lets them be written in place. The list of snapshots is
//! written anew at each change, and the header is changed last.
//! Source: qcow2 specification, "Snapshots".

use std::io;
use std::sync::Arc;

use block::{Node, Snapshot, SnapshotChange, invalid};

use super::header::{Header, MAX_L1, be32, be64};
use super::tables::{COMPRESSED, COPIED, Meta, PLACE};

/// A snapshot and where its L1 table is.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    pub(super) about: Snapshot,
    /// Extra data behind what is known.
    extra: Vec<u8>,
    /// Bytes in the list.
    pub(super) listed: u64,
}

/// Reads the list.
pub(super) fn read(header: &Header, file: &Arc<Node>) -> io::Result<Vec<Stored>> {
    let mut at = header.snapshots_offset;
    let mut all = Vec::new();
    for _ in 0..header.snapshots {
        let mut fixed = vec![0; 40];
        file.driver().read(at, &mut fixed)?;
        let (id_len, name_len) = (be32(&fixed, 12) >> 16, be32(&fixed, 12) & 0xffff);
        let extra_len = be32(&fixed, 36);
        let l1_size = be32(&fixed, 8);
        if extra_len > 1024 || u64::from(l1_size) * 8 > MAX_L1 || at > 1 << 56 {
            return Err(invalid("Snapshot table entry is invalid"));
        }
        let mut rest = vec![0; (extra_len + id_len + name_len) as usize];
        file.driver().read(at + 40, &mut rest)?;
        let extra = rest.get(..extra_len as usize).unwrap_or_default().to_vec();
        let text = |from: u32, len: u32| {
            let bytes = rest.get(from as usize..(from + len) as usize).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let about = Snapshot {
            id: text(extra_len, id_len),
            name: text(extra_len + id_len, name_len),
            seconds: be32(&fixed, 16),
            nanoseconds: be32(&fixed, 20),
            clock: be64(&fixed, 24),
            vm_state: if extra_len >= 8 { be64(&extra, 0) } else { be32(&fixed, 32).into() },
            disk_size: if extra_len >= 16 { be64(&extra, 8) } else { header.size },
            icount: if extra_len >= 24 { be64(&extra, 16) } else { u64::MAX },
        };
        let listed = u64::from(40 + extra_len + id_len + name_len).next_multiple_of(8);
        at += listed;
        let extra = extra.get(24..).unwrap_or_default().to_vec();
        all.push(Stored { l1_offset: be64(&fixed, 0), l1_size, about, extra, listed });
    }
    Ok(all)
}

fn encode(stored: &Stored) -> Vec<u8> {
    let Stored { l1_offset, l1_size, about, extra, .. } = stored;
    let mut out = l1_offset.to_be_bytes().to_vec();
    out.extend(l1_size.to_be_bytes());
    for text in [&about.id, &about.name] {
        out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    }
    out.extend(about.seconds.to_be_bytes());
    out.extend(about.nanoseconds.to_be_bytes());
    out.extend(about.clock.to_be_bytes());
    out.extend(u32::try_from(about.vm_state).unwrap_or(0).to_be_bytes());
    out.extend(u32::try_from(24 + extra.len()).unwrap_or(24).to_be_bytes());
    for word in [about.vm_state, about.disk_size, about.icount] {
        out.extend(word.to_be_bytes());
    }
    out.extend(extra);
    out.extend(about.id.as_bytes());
    out.extend(about.name.as_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// Writes the list anew and lets the header name it.
fn write_list(meta: &mut Meta, list: Vec<Stored>) -> io::Result<()> {
    let bits = meta.bits();
    let old = (meta.header.snapshots_offset, meta.snapshots.iter().map(|s| s.listed).sum::<u64>());
    let mut bytes = Vec::new();
    let mut list = list;
    for stored in &mut list {
        let entry = encode(stored);
        stored.listed = entry.len() as u64;
        bytes.extend(entry);
    }
    let place = if bytes.is_empty() {
        0
    } else {
        meta.take((bytes.len() as u64).div_ceil(meta.cluster()))?
    };
    meta.commit(false)?;
    if place != 0 {
        meta.file.driver().write(place, &bytes)?;
    }
    meta.file.driver().flush()?;
    meta.header.snapshots_offset = place;
    meta.header.snapshots = u32::try_from(list.len()).unwrap_or(0);
    let file = meta.file.clone();
    meta.header.write(&file)?;
    meta.snapshots = list;
    if old.0 != 0 && old.1 != 0 {
        for n in 0..old.1.div_ceil(1 << bits) {
            meta.free(old.0 + (n << bits));
        }
    }
    Ok(())
}

pub(super) fn read_l1(meta: &Meta, stored: &Stored) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; stored.l1_size as usize * 8];
    meta.file.driver().read(stored.l1_offset, &mut bytes)?;
    Ok((0..stored.l1_size as usize).map(|at| be64(&bytes, at * 8)).collect())
}

/// Does something with each cluster that an L1 table names, as often as it names it.
fn each(
    meta: &mut Meta,
    l1: &[u64],
    step: &mut dyn FnMut(&mut Meta, u64) -> io::Result<()>,
) -> io::Result<()> {
    for entry in l1.iter().filter(|entry| *entry & PLACE != 0) {
        let place = meta.place(*entry)?;
        let bits = meta.bits();
        step(meta, place >> bits)?;
        let stride = meta.stride();
        for entry in meta.l2(place)?.entries.clone().into_iter().step_by(stride) {
            if entry & COMPRESSED != 0 {
                let (at, len) = meta.packed(entry);
                for cluster in at >> bits..=(at + len - 1) >> bits {
                    step(meta, cluster)?;
                }
            } else if entry & PLACE != 0 {
                let place = meta.place(entry)?;
                step(meta, place >> bits)?;
            }
        }
    }
    Ok(())
}

/// Counts all that an L1 table names once more, or nothing of it.
fn reference(meta: &mut Meta, l1: &[u64]) -> io::Result<()> {
    let mut added = 0u64;
    let done = each(meta, l1, &mut |meta, cluster| {
        meta.refcounts.add(cluster, 1)?;
        added += 1;
        Ok(())
    });
    if done.is_err() {
        // In the same order, as far as it came; the walk ends where it ended.
        _ = each(meta, l1, &mut |meta, cluster| {
            added = added.checked_sub(1).ok_or(io::ErrorKind::Interrupted)?;
            meta.refcounts.add(cluster, -1).map(|_| ())
        });
    }
    done
}

/// Gives up all that an L1 table names, with the next commit.
fn release(meta: &mut Meta, l1: &[u64]) -> io::Result<()> {
    for entry in l1.iter().filter(|entry| *entry & PLACE != 0) {
        let place = meta.place(*entry)?;
        let stride = meta.stride();
        for entry in meta.l2(place)?.entries.clone().into_iter().step_by(stride) {
            meta.free_entry(entry)?;
        }
        meta.free(place);
    }
    Ok(())
}

/// Sets the mark of every entry of the active tables as the counts are.
pub(super) fn mark(meta: &mut Meta) -> io::Result<()> {
    let mut l1 = meta.l1.clone();
    for entry in l1.iter_mut().filter(|entry| **entry & PLACE != 0) {
        let place = meta.place(*entry)?;
        let single = meta.refcounts.count(place >> meta.bits())? == 1;
        *entry = if single { place | COPIED } else { place };
        let old = meta.l2(place)?.entries.clone();
        let mut new = old.clone();
        let stride = meta.stride();
        let words = new.iter_mut().step_by(stride);
        for entry in words.filter(|e| **e & COMPRESSED == 0 && **e & PLACE != 0) {
            if meta.data.is_some() {
                continue;
            }
            let single = meta.refcounts.count((*entry & PLACE) >> meta.bits())? == 1;
            *entry = if single { *entry | COPIED } else { *entry & !COPIED };
        }
        if new != old {
            let l2 = meta.l2(place)?;
            l2.entries = new;
            l2.dirty = true;
        }
    }
    meta.set_l1(l1);
    Ok(())
}

/// A snapshot by its id or name.
pub(super) fn stored<'a>(meta: &'a Meta, word: &str) -> io::Result<&'a Stored> {
    meta.snapshots.get(find(meta, word)?).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn find(meta: &Meta, word: &str) -> io::Result<usize> {
    let by_id = meta.snapshots.iter().position(|s| s.about.id == word);
    let by_name = || meta.snapshots.iter().position(|s| s.about.name == word);
    by_id.or_else(by_name).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Shows the disk of a snapshot; nothing is written.
pub(super) fn show(meta: &mut Meta, word: &str) -> io::Result<()> {
    let at = find(meta, word)?;
    let stored = meta.snapshots.get(at).cloned().unwrap_or_default();
    let l1 = read_l1(meta, &stored)?;
    meta.header.size = stored.about.disk_size.min(1 << 62);
    meta.l1 = l1;
    Ok(())
}

/// Carries out a change.
pub(super) fn change(meta: &mut Meta, change: &SnapshotChange) -> io::Result<()> {
    match change {
        SnapshotChange::Create(about) => {
            create(meta, about)?;
            super::vm_state::forget(meta)
        }
        SnapshotChange::Delete(word) => {
            let at = find(meta, word)?;
            let mut list = meta.snapshots.clone();
            let gone = list.remove(at);
            let l1 = read_l1(meta, &gone)?;
            write_list(meta, list)?;
            let told = |error: io::Error| {
                let why = host::reason(&error);
                trace::write(format_args!("qcow2_free_clusters failed: {why}\n"));
                io::Error::other(format!("Failed to free the cluster and L1 table: {why}"))
            };
            release(meta, &l1).map_err(told)?;
            for n in 0..(u64::from(gone.l1_size) * 8).div_ceil(meta.cluster()) {
                meta.free(gone.l1_offset + (n << meta.bits()));
            }
            meta.commit(false).map_err(told)?;
            mark(meta)
        }
        SnapshotChange::Apply(word) => {
            let at = find(meta, word)?;
            let stored = meta.snapshots.get(at).cloned().unwrap_or_default();
            let mut l1 = read_l1(meta, &stored)?;
            reference(meta, &l1)?;
            let size = stored.about.disk_size;
            let covered = (l1.len() as u64) << (meta.bits() + meta.header.l2_bits());
            meta.grow_l1(size.max(covered))?;
            if size != meta.header.size {
                meta.header.size = size;
                let file = meta.file.clone();
                meta.header.write(&file)?;
            }
            l1.resize(meta.l1.len(), 0);
            let old = std::mem::take(&mut meta.l1);
            let l1 = l1.iter().map(|entry| entry & !COPIED).collect();
            meta.set_l1(l1);
            release(meta, &old)?;
            meta.commit(false)?;
            // The active tables name the state of the machine now, as the snapshot does.
            mark(meta)
        }
    }
}

fn create(meta: &mut Meta, about: &Snapshot) -> io::Result<()> {
    if meta.snapshots.len() >= 65536 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    // One for the disk, one for each snapshot, one for the new one.
    if meta.refcounts.max() < meta.snapshots.len() as u64 + 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let ids = meta.snapshots.iter().filter_map(|s| s.about.id.parse::<u64>().ok());
    let id = (ids.max().unwrap_or(0) + 1).to_string();
    let l1 = meta.l1.clone();
    let place = meta.take((l1.len() as u64 * 8).div_ceil(meta.cluster()).max(1))?;
    if let Err(error) = reference(meta, &l1) {
        for n in 0..(l1.len() as u64 * 8).div_ceil(meta.cluster()).max(1) {
            meta.free(place + (n << meta.bits()));
        }
        return Err(error);
    }
    mark(meta)?;
    let bytes: Vec<u8> = meta.l1.iter().flat_map(|entry| (entry & !COPIED).to_be_bytes()).collect();
    meta.file.driver().write(place, &bytes)?;
    let about = Snapshot { id, disk_size: meta.header.size, ..about.clone() };
    let l1_size = u32::try_from(l1.len()).unwrap_or(0);
    let mut list = meta.snapshots.clone();
    list.push(Stored { l1_offset: place, l1_size, about, ..Stored::default() });
    write_list(meta, list)
}
