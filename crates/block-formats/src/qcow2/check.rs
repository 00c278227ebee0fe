//! Looking for damage, and mending it.
//!
//! Everything that names host clusters is walked and counted; the counts are compared with those
//! of the image. A count that is too high is a leak, one that is too low is corruption; so are
//! entries that name no cluster. Mending writes the counts as they are found and sets the marks of
//! the active tables. Memory: four bytes for each cluster of the file.
//! Source: qcow2 specification; QEMU's `qemu-img check` for messages and verdicts.

use std::io;

use block::{CheckReport, Fix, unsupported};

use super::bitmap;
use super::header::{CRYPT_HEADER, be64};
use super::snapshot::{mark, read_l1};
use super::tables::{ALL_DATA, COMPRESSED, COPIED, Mapped, Meta, PLACE};

/// Most clusters of a file that is looked at.
const MOST: u64 = 1 << 28;
/// Most messages.
const MESSAGES: usize = 1000;

struct Walk {
    counts: Vec<u32>,
    bits: u32,
    report: CheckReport,
}

impl Walk {
    fn say(&mut self, text: String) {
        if self.report.messages.len() < MESSAGES {
            self.report.messages.push(text);
        }
    }

    fn broken(&mut self, text: String) {
        self.report.corruptions += 1;
        self.say(format!("ERROR {text}"));
    }

    /// Counts the clusters of a range.
    fn count(&mut self, place: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = place.saturating_add(len - 1) >> self.bits;
        if last >= MOST {
            self.broken(format!("counting reference for region exceeding the end of the file by one cluster or more: offset 0x{place:x} size 0x{len:x}"));
            return;
        }
        let need = usize::try_from(last + 1).unwrap_or(0);
        if self.counts.len() < need {
            // One step behind the file is what an unfinished write leaves; more is damage.
            if need > self.counts.len() + (1 << 20) {
                self.broken(format!("counting reference for region exceeding the end of the file by one cluster or more: offset 0x{place:x} size 0x{len:x}"));
                return;
            }
            self.counts.resize(need, 0);
        }
        for cluster in place >> self.bits..=last {
            if let Some(count) =
                usize::try_from(cluster).ok().and_then(|at| self.counts.get_mut(at))
            {
                *count = count.saturating_add(1);
            }
        }
    }
}

/// Walks the tables below an L1 table; `active`: with statistics and marks.
fn walk_l1(meta: &mut Meta, walk: &mut Walk, l1: &[u64], active: bool) -> io::Result<()> {
    let mut next = 0;
    for (index, entry) in l1.iter().enumerate() {
        if entry & PLACE == 0 {
            continue;
        }
        let Ok(place) = meta.place(*entry) else {
            walk.broken(format!(
                "l2_offset={:x}: Table is not cluster aligned; L1 entry corrupted",
                entry & PLACE
            ));
            continue;
        };
        walk.count(place, meta.cluster());
        if place >= meta.file.len() {
            continue;
        }
        if active {
            check_mark(meta, walk, *entry, &format!("l2_offset={place:x}"), index)?;
        }
        // Past the cache: an image may name one table many times, and none of it is kept.
        let entries = meta.l2(place)?.entries.clone();
        for words in entries.chunks(meta.stride()) {
            let entry = words.first().copied().unwrap_or(0);
            let map = words.get(1).copied().unwrap_or(0);
            if entry & COMPRESSED == 0 && map & (map >> 32) & ALL_DATA != 0 {
                walk.broken(format!("offset={:x}: a sub-cluster is marked as data and as zero; L2 entry corrupted.", entry & PLACE));
            }
            // What the cluster's place is used for counts, not what its sub-clusters are.
            let as_data = if meta.has_place(entry) { ALL_DATA } else { 0 };
            match meta.decode(entry, as_data, 0) {
                Err(_) => walk.broken(format!(
                    "offset={:x}: Cluster is not properly aligned; L2 entry corrupted.",
                    entry & PLACE
                )),
                Ok(Mapped::Nothing | Mapped::Zero) => {}
                Ok(Mapped::Packed(_)) => {
                    if entry & COPIED != 0 {
                        walk.broken(format!(
                            "coffset=0x{:x}: copied flag must never be set for compressed clusters",
                            entry & PLACE
                        ));
                    }
                    let (at, len) = meta.packed(entry);
                    walk.count(at, len);
                    if active {
                        walk.report.allocated += 1;
                        walk.report.compressed += 1;
                        // As the peer counts: a compressed cluster is always out of line.
                        walk.report.fragmented += 1;
                    }
                }
                Ok(Mapped::Data(at) | Mapped::ZeroAt(at)) => {
                    if meta.data.is_some() {
                        walk.report.allocated += u64::from(active);
                        continue;
                    }
                    walk.count(at, meta.cluster());
                    if active {
                        walk.report.allocated += 1;
                        walk.report.fragmented += u64::from(next != 0 && next != at);
                        next = at + meta.cluster();
                        check_mark(meta, walk, entry, &format!("offset={at:x}"), index)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn check_mark(
    meta: &mut Meta,
    walk: &mut Walk,
    entry: u64,
    what: &str,
    _: usize,
) -> io::Result<()> {
    let count = meta.refcounts.count((entry & PLACE) >> meta.bits())?;
    if (count == 1) != (entry & COPIED != 0) {
        let kind = if what.starts_with("l2") {
            "OFLAG_COPIED L2 cluster"
        } else {
            "OFLAG_COPIED data cluster"
        };
        let name = if what.starts_with("l2") { "l1_entry" } else { "l2_entry" };
        walk.broken(format!("{kind}: {name}={entry:x} refcount={count}"));
    }
    Ok(())
}

/// Bitmaps: their directory, tables and data.
fn walk_bitmaps(meta: &Meta, walk: &mut Walk) -> io::Result<()> {
    let Some((at, size, _)) = bitmap::directory(meta) else { return Ok(()) };
    let entries = match bitmap::entries(meta) {
        Ok(entries) => entries,
        Err(error) => {
            walk.broken(format!("bitmaps: {}", host::reason(&error)));
            return Ok(());
        }
    };
    walk.count(at, size);
    for entry in entries {
        walk.count(entry.table, u64::from(entry.table_len) * 8);
        let Ok(table) = bitmap::table(meta, &entry) else {
            walk.broken("bitmap table is too large or misplaced".into());
            continue;
        };
        for place in table.iter().map(|slot| slot & PLACE).filter(|place| *place != 0) {
            walk.count(place, meta.cluster());
        }
    }
    Ok(())
}

/// The header of an encrypted image.
fn walk_crypt(meta: &Meta, walk: &mut Walk) {
    if let Some(data) = meta.header.extension(CRYPT_HEADER) {
        walk.count(be64(data, 0), be64(data, 8));
    }
}

fn walk_all(meta: &mut Meta, walk: &mut Walk) -> io::Result<()> {
    let cluster = meta.cluster();
    walk.count(0, cluster);
    let l1 = meta.l1.clone();
    walk.count(meta.header.l1_offset, l1.len() as u64 * 8);
    walk_l1(meta, walk, &l1, true)?;
    for stored in meta.snapshots.clone() {
        if stored.l1_offset & (cluster - 1) != 0 {
            let text = format!(
                "snapshot {} ({}) l1_offset=0x{:x}: L1 table is not cluster aligned; snapshot table entry corrupted",
                stored.about.id, stored.about.name, stored.l1_offset
            );
            walk.broken(text);
            continue;
        }
        walk.count(stored.l1_offset, u64::from(stored.l1_size) * 8);
        let l1 = read_l1(meta, &stored)?;
        walk_l1(meta, walk, &l1, false)?;
    }
    let listed: u64 = meta.snapshots.iter().map(|stored| stored.listed).sum();
    walk.count(meta.header.snapshots_offset, listed);
    walk_crypt(meta, walk);
    walk_bitmaps(meta, walk)?;
    walk.count(meta.refcounts.table_offset, meta.refcounts.table.len() as u64 * 8);
    for (index, entry) in meta.refcounts.table.clone().into_iter().enumerate() {
        if entry == 0 {
            continue;
        }
        if entry & (cluster - 1) != 0 {
            walk.broken(format!(
                "refcount block {index} is not cluster aligned; refcount table entry corrupted"
            ));
        } else if entry >= meta.file.len() {
            walk.broken(format!("refcount block {index} is outside image"));
        } else {
            walk.count(entry, cluster);
        }
    }
    Ok(())
}

/// Compares the counts; gives those that are wrong with what they should be.
fn compare(meta: &mut Meta, walk: &mut Walk, fix: Fix) -> io::Result<Vec<(u64, u64)>> {
    let mut wrong = Vec::new();
    let mut end = 0;
    // Clusters that are counted may lie behind the file's end.
    let per_block = meta.refcounts.per_block();
    let blocks = meta.refcounts.table.iter().rposition(|entry| *entry != 0);
    let counted = blocks.map_or(0, |index| (index as u64 + 1) * per_block).min(MOST);
    let most = counted.max(walk.counts.len() as u64);
    let mut next = 0;
    while next < most {
        let cluster = next;
        let block = usize::try_from(cluster / per_block).unwrap_or(usize::MAX);
        if cluster >= walk.counts.len() as u64 && meta.refcounts.table.get(block) == Some(&0) {
            next = (cluster / per_block + 1) * per_block;
            continue;
        }
        next += 1;
        let want = usize::try_from(cluster).ok().and_then(|at| walk.counts.get(at)).copied();
        let want = u64::from(want.unwrap_or(0));
        let have = match meta.refcounts.count(cluster) {
            Ok(have) => have,
            Err(_) => continue,
        };
        if want > 0 || have > 0 {
            end = cluster + 1;
        }
        if want == have {
            continue;
        }
        let leak = have > want;
        let mend = fix == Fix::All || leak && fix == Fix::Leaks;
        let kind = if mend {
            "Repairing"
        } else if leak {
            "Leaked"
        } else {
            "ERROR"
        };
        walk.say(format!("{kind} cluster {cluster} refcount={have} reference={want}"));
        match (mend, leak) {
            (true, true) => walk.report.leaks_fixed += 1,
            (true, false) => walk.report.corruptions_fixed += 1,
            (false, true) => walk.report.leaks += 1,
            (false, false) => walk.report.corruptions += 1,
        }
        if mend {
            wrong.push((cluster, want));
        }
    }
    walk.report.image_end = end << meta.bits();
    Ok(wrong)
}

pub(super) fn check(meta: &mut Meta, fix: Fix) -> io::Result<CheckReport> {
    let clusters = meta.file.len().div_ceil(meta.cluster());
    if clusters > MOST {
        return Err(unsupported("the image file is too long to be checked"));
    }
    let counts = vec![0; usize::try_from(clusters).unwrap_or(0)];
    let mut walk = Walk { counts, bits: meta.bits(), report: CheckReport::default() };
    walk.report.total = meta.header.size.div_ceil(meta.cluster());
    walk_all(meta, &mut walk)?;
    let marks = walk.report.corruptions;
    let wrong = compare(meta, &mut walk, fix)?;
    if fix != Fix::None {
        for (cluster, want) in wrong {
            meta.refcounts.set(cluster, want)?;
        }
        if fix == Fix::All {
            if marks > 0 && mark(meta).is_ok() {
                let fixed =
                    walk.report.messages.iter().filter(|m| m.contains("OFLAG_COPIED")).count()
                        as u64;
                walk.report.corruptions = walk.report.corruptions.saturating_sub(fixed);
                walk.report.corruptions_fixed += fixed;
            }
            if walk.report.corruptions == 0 {
                meta.set_clean()?;
            }
        }
        meta.commit(false)?;
        meta.file.driver().flush()?;
        meta.forget();
    }
    Ok(walk.report)
}
