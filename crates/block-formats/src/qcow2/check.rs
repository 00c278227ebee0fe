//! Looking for damage, and mending it.
//!
//! Everything that names host clusters is walked and counted; the counts are compared with those
//! of the image. A count that is too high is a leak, one that is too low is corruption; so are
//! entries that name no cluster. Mending writes the counts as they are found, anew elsewhere where
//! a cluster in use counts as free, and sets the marks of the active tables. An L2 table is looked
//! at once however often it is named, so that time is bounded by the file. Memory: four bytes for
//! each cluster of the file. Of entries that name no cluster those of zeroes and of blocks of counts
//! are mended, the others told only.
//! Source: qcow2 specification; QEMU's `qemu-img check` for messages and verdicts.

use std::collections::{BTreeMap, HashSet};
use std::io;

use block::{CheckReport, Fix, unsupported};

use super::bitmap;
use super::header::{CRYPT_HEADER, be64};
use super::snapshot::read_l1;
use super::tables::{ALL_DATA, COMPRESSED, COPIED, Mapped, Meta, PLACE, ZERO};

/// Most clusters of a file that is looked at.
const MOST: u64 = 1 << 28;
/// Most messages.
const MESSAGES: usize = 1000;
/// Clusters behind the end of the file that may be counted.
const SLACK: usize = 1 << 16;
/// Most wrong counts that are mended at once.
const WRONG: usize = 1 << 24;
/// Most bytes of all snapshots' L1 tables.
const MOST_L1: u64 = 1 << 30;

struct Walk {
    counts: Vec<u32>,
    bits: u32,
    /// L2 tables: how often each is named, and whether by the active L1 table.
    tables: BTreeMap<u64, (u32, bool)>,
    report: CheckReport,
}

impl Walk {
    fn new(meta: &Meta) -> Walk {
        let clusters = meta.file.len().div_ceil(meta.cluster()).min(MOST);
        let counts = vec![0; usize::try_from(clusters).unwrap_or(0)];
        let report = CheckReport {
            total: meta.header.size.div_ceil(meta.cluster()),
            ..CheckReport::default()
        };
        Walk { counts, bits: meta.bits(), tables: BTreeMap::new(), report }
    }

    fn say(&mut self, text: String) {
        if self.report.messages.len() < MESSAGES {
            self.report.messages.push(text);
        }
    }

    fn broken(&mut self, text: String) {
        self.report.corruptions += 1;
        self.say(format!("ERROR {text}"));
    }

    fn outside(&mut self, place: u64, len: u64) {
        self.report.corruptions += 1;
        self.say(format!("ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset 0x{place:x} size 0x{len:x}"));
    }

    /// A corruption that is mended or is not.
    fn verdict(&mut self, mended: bool, text: String) {
        self.report.corruptions += u64::from(!mended);
        self.report.corruptions_fixed += u64::from(mended);
        self.say(text);
    }

    /// Whether other things lie in a range that was counted once.
    fn is_shared(&self, (place, len): (u64, u64)) -> bool {
        let at = |byte: u64| usize::try_from(byte >> self.bits).unwrap_or(usize::MAX);
        let range = at(place)..at(place.saturating_add(len.saturating_sub(1))).saturating_add(1);
        let counts = self.counts.get(range.start..range.end.min(self.counts.len()));
        len > 0 && counts.unwrap_or_default().iter().any(|count| *count > 1)
    }

    /// Counts the clusters of a range, each so many times.
    fn count(&mut self, place: u64, len: u64, times: u32) {
        if len == 0 {
            return;
        }
        let last = place.saturating_add(len - 1) >> self.bits;
        let need = usize::try_from(last + 1).unwrap_or(usize::MAX);
        // One step behind the file is what an unfinished write leaves; more is damage.
        if last >= MOST || need > self.counts.len() + SLACK {
            self.outside(place, len);
            return;
        }
        if self.counts.len() < need {
            self.counts.resize(need, 0);
        }
        let first = usize::try_from(place >> self.bits).unwrap_or(usize::MAX);
        for count in self.counts.get_mut(first..need).unwrap_or_default() {
            *count = count.saturating_add(times);
        }
    }
}

/// Notes the tables that an L1 table names; each is looked at once, however often it is named.
fn walk_l1(meta: &Meta, walk: &mut Walk, l1: &[u64], active: bool) {
    for entry in l1.iter().filter(|entry| **entry & PLACE != 0) {
        let Ok(place) = meta.place(*entry) else {
            walk.broken(format!(
                "l2_offset={:x}: Table is not cluster aligned; L1 entry corrupted",
                entry & PLACE
            ));
            continue;
        };
        walk.count(place, meta.cluster(), 1);
        if place < meta.file.len() {
            let seen = walk.tables.entry(place).or_insert((0, false));
            seen.0 = seen.0.saturating_add(1);
            seen.1 |= active;
        }
    }
}

/// Counts what an L2 table names, as often as the table is named.
fn walk_l2(
    meta: &mut Meta,
    walk: &mut Walk,
    (place, times, active): (u64, u32, bool),
    fix: Fix,
) -> io::Result<()> {
    let stride = meta.stride();
    let mut next = 0;
    let mut entries = read_l2(meta, place)?;
    let own = !walk.is_shared((place, meta.cluster()));
    if own && mend_zeroes(meta, walk, &mut entries, fix) {
        let l2 = meta.l2(place)?;
        (l2.entries, l2.dirty) = (entries.clone(), true);
    }
    for words in entries.chunks(stride) {
        let entry = words.first().copied().unwrap_or(0);
        let map = words.get(1).copied().unwrap_or(0);
        if entry & COMPRESSED == 0 && map & (map >> 32) & ALL_DATA != 0 {
            walk.broken(format!(
                "offset={:x}: a sub-cluster is marked as data and as zero; L2 entry corrupted.",
                entry & PLACE
            ));
        }
        // What the cluster's place is used for counts, not what its sub-clusters are.
        let as_data = if meta.has_place(entry) { ALL_DATA } else { 0 };
        match meta.decode(entry, as_data, 0) {
            Err(_) => walk.broken(format!(
                "offset={:x}: Data cluster is not properly aligned; L2 entry corrupted.",
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
                walk.count(at, len, times);
                if active {
                    walk.report.allocated += 1;
                    walk.report.compressed += 1;
                    // As the peer counts: a compressed cluster is always out of line.
                    walk.report.fragmented += 1;
                }
            }
            Ok(Mapped::Data(at) | Mapped::ZeroAt(at)) => {
                if active {
                    walk.report.allocated += 1;
                    walk.report.fragmented += u64::from(next != 0 && next != at);
                    next = at + meta.cluster();
                }
                if meta.data.is_none() {
                    walk.count(at, meta.cluster(), times);
                }
            }
        }
    }
    Ok(())
}

/// Lets zero clusters go of a place that is none; whether something was changed.
fn mend_zeroes(meta: &Meta, walk: &mut Walk, entries: &mut [u64], fix: Fix) -> bool {
    if fix != Fix::All || meta.header.is_extended() || meta.header.version < 3 {
        return false;
    }
    let is_wrong = |entry: u64| {
        entry & COMPRESSED == 0 && entry & ZERO != 0 && entry & PLACE & (meta.cluster() - 1) != 0
    };
    let mut changed = false;
    for entry in entries.iter_mut().filter(|entry| is_wrong(**entry)) {
        let at = *entry & PLACE;
        let what = "Preallocated cluster is not properly aligned; L2 entry corrupted.";
        walk.verdict(true, format!("Repairing offset={at:x}: {what}"));
        *entry = ZERO;
        changed = true;
    }
    changed
}

/// An L2 table as it is now, past the cache: tables of snapshots are needed once only.
fn read_l2(meta: &mut Meta, place: u64) -> io::Result<Vec<u64>> {
    Ok(meta.l2(place)?.entries.clone())
}

/// Compares the marks of the active tables with the counts.
fn check_marks(meta: &mut Meta, walk: &mut Walk, fix: Fix) -> io::Result<()> {
    // A mark that is missing costs a copy only: setting it is as harmless as giving up a leak.
    let mends = |count: u64| fix == Fix::All || fix == Fix::Leaks && count == 1;
    let kind = |count: u64| if mends(count) { "Repairing" } else { "ERROR" };
    let (stride, bits) = (meta.stride(), meta.bits());
    let mut seen = HashSet::new();
    let mut new_l1 = meta.l1.clone();
    for (index, slot) in new_l1.iter_mut().enumerate() {
        let entry = *slot;
        let Ok(place) = meta.place(entry) else { continue };
        if place >= meta.file.len() {
            continue;
        }
        // A block that cannot be read was told of before.
        let Ok(count) = meta.refcounts.count(place >> bits) else { continue };
        if (count == 1) != (entry & COPIED != 0) {
            let kind = kind(count);
            walk.verdict(
                mends(count),
                format!(
                    "{kind} OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}"
                ),
            );
            if mends(count) {
                *slot = if count == 1 { entry | COPIED } else { entry & !COPIED };
            }
        }
        if !seen.insert(place) || meta.data.is_some() {
            continue;
        }
        let mut entries = read_l2(meta, place)?;
        let mut changed = false;
        for slot in entries.iter_mut().step_by(stride) {
            let entry = *slot;
            let at = entry & PLACE;
            if entry & COMPRESSED != 0 || at == 0 || at & (meta.cluster() - 1) != 0 {
                continue;
            }
            let Ok(count) = meta.refcounts.count(at >> bits) else { continue };
            if (count == 1) != (entry & COPIED != 0) {
                let kind = kind(count);
                walk.verdict(
                    mends(count),
                    format!(
                        "{kind} OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}"
                    ),
                );
                if mends(count) {
                    *slot = if count == 1 { entry | COPIED } else { entry & !COPIED };
                    changed = true;
                }
            }
        }
        if changed {
            let l2 = meta.l2(place)?;
            (l2.entries, l2.dirty) = (entries, true);
        }
    }
    if new_l1 != meta.l1 {
        meta.set_l1(new_l1);
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
    walk.count(at, size, 1);
    for entry in entries {
        walk.count(entry.table, u64::from(entry.table_len) * 8, 1);
        let Ok(table) = bitmap::table(meta, &entry) else {
            walk.broken("bitmap table is too large or misplaced".into());
            continue;
        };
        for place in table.iter().map(|slot| slot & PLACE).filter(|place| *place != 0) {
            walk.count(place, meta.cluster(), 1);
        }
    }
    Ok(())
}

/// The header of an encrypted image.
fn walk_crypt(meta: &Meta, walk: &mut Walk) {
    if let Some(data) = meta.header.extension(CRYPT_HEADER) {
        walk.count(be64(data, 0), be64(data, 8), 1);
    }
}

fn walk_all(meta: &mut Meta, walk: &mut Walk, fix: Fix) -> io::Result<()> {
    let cluster = meta.cluster();
    walk.count(0, cluster, 1);
    walk.count(meta.header.l1_offset, meta.l1.len() as u64 * 8, 1);
    walk_l1(meta, walk, &meta.l1, true);
    let all: u64 = meta.snapshots.iter().map(|s| u64::from(s.l1_size) * 8).sum();
    if all > MOST_L1 {
        return Err(unsupported("the snapshots' L1 tables are too long to be checked"));
    }
    for stored in meta.snapshots.clone() {
        if stored.l1_offset & (cluster - 1) != 0 {
            let text = format!(
                "snapshot {} ({}) l1_offset=0x{:x}: L1 table is not cluster aligned; snapshot table entry corrupted",
                stored.about.id, stored.about.name, stored.l1_offset
            );
            walk.broken(text);
            continue;
        }
        walk.count(stored.l1_offset, u64::from(stored.l1_size) * 8, 1);
        let l1 = read_l1(meta, &stored)?;
        walk_l1(meta, walk, &l1, false);
    }
    for (place, (times, active)) in std::mem::take(&mut walk.tables) {
        walk_l2(meta, walk, (place, times, active), fix)?;
    }
    let listed: u64 = meta.snapshots.iter().map(|stored| stored.listed).sum();
    walk.count(meta.header.snapshots_offset, listed, 1);
    walk_crypt(meta, walk);
    walk_bitmaps(meta, walk)?;
    walk.count(meta.refcounts.table_offset, meta.refcounts.table.len() as u64 * 8, 1);
    for (index, entry) in meta.refcounts.table.clone().into_iter().enumerate() {
        if entry == 0 {
            continue;
        }
        if entry & (cluster - 1) != 0 {
            let mends = fix == Fix::All;
            walk.verdict(mends, format!(
                "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
            ));
            if mends {
                meta.refcounts.drop_block(index);
            }
        } else if entry >= meta.file.len() {
            let mends = fix == Fix::All;
            let kind = if mends { "Repairing" } else { "ERROR" };
            walk.verdict(mends, format!("{kind} refcount block {index} is outside image"));
            if mends {
                // What it would count is found again and counted elsewhere.
                meta.refcounts.drop_block(index);
            }
        } else {
            walk.count(entry, cluster, 1);
        }
    }
    Ok(())
}

/// What a comparison of counts found.
#[derive(Default)]
struct Wrong {
    /// Clusters and what their counts should be.
    clusters: Vec<(u64, u64)>,
    /// A cluster in use counts as free: the counts cannot be trusted to find free ones.
    rebuild: bool,
    /// Clusters that are named more often than a count can tell: nothing can be done about them.
    overflows: u64,
}

/// Compares the counts.
fn compare(meta: &mut Meta, walk: &mut Walk, mend: Fix) -> io::Result<Wrong> {
    let mut wrong = Wrong::default();
    let mut end = 0;
    // Counts of clusters behind the end of the file that nothing names say nothing.
    let per_block = meta.refcounts.per_block();
    let most = walk.counts.len() as u64;
    let mut next = 0;
    while next < most {
        let cluster = next;
        let block = usize::try_from(cluster / per_block).unwrap_or(usize::MAX);
        let stop = (cluster / per_block + 1) * per_block;
        if cluster % per_block == 0 && meta.refcounts.table.get(block).is_none_or(|e| *e == 0) {
            let range = usize::try_from(cluster).unwrap_or(usize::MAX)
                ..usize::try_from(stop).unwrap_or(usize::MAX).min(walk.counts.len());
            if walk.counts.get(range).unwrap_or_default().iter().all(|count| *count == 0) {
                next = stop;
                continue;
            }
        }
        next += 1;
        let want = usize::try_from(cluster).ok().and_then(|at| walk.counts.get(at)).copied();
        let want = u64::from(want.unwrap_or(0));
        let Ok(have) = meta.refcounts.count(cluster) else { continue };
        if want > 0 || have > 0 {
            end = cluster + 1;
        }
        if want > meta.refcounts.max() {
            let offset = cluster << meta.bits();
            walk.say(format!(
                "ERROR: overflow cluster offset={offset:#x}\nUse qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the image cannot be opened for writing"
            ));
            walk.report.corruptions += 1;
            wrong.overflows += 1;
            continue;
        }
        if want == have {
            continue;
        }
        let leak = have > want;
        wrong.rebuild |= have == 0;
        let mends = mend == Fix::All || leak && mend == Fix::Leaks;
        let kind = match (mends, leak) {
            (true, _) => "Repairing",
            (false, true) => "Leaked",
            (false, false) => "ERROR",
        };
        walk.say(format!("{kind} cluster {cluster} refcount={have} reference={want}"));
        match (mends, leak) {
            (true, true) => walk.report.leaks_fixed += 1,
            (true, false) => walk.report.corruptions_fixed += 1,
            (false, true) => walk.report.leaks += 1,
            (false, false) => walk.report.corruptions += 1,
        }
        if wrong.clusters.len() < WRONG {
            wrong.clusters.push((cluster, want));
        }
    }
    walk.report.image_end = end << meta.bits();
    Ok(wrong)
}

fn store(meta: &mut Meta, wrong: &Wrong) -> io::Result<()> {
    for (cluster, want) in &wrong.clusters {
        meta.refcounts.set(*cluster, *want)?;
    }
    Ok(())
}

/// Writes the counts anew elsewhere; the old tables are given up. So many of the corruptions are
/// not of counts and stay.
fn rebuild(meta: &mut Meta, walk: &mut Walk, staying: u64) -> io::Result<()> {
    walk.say("Rebuilding refcount structure".into());
    let (header, refcounts) = (&mut meta.header, &mut meta.refcounts);
    refcounts.rebuild(header, &walk.counts)?;
    let found = std::mem::replace(&mut walk.report.corruptions, staying);
    walk.report.corruptions_fixed += found.saturating_sub(staying);
    walk.report.leaks_fixed += std::mem::take(&mut walk.report.leaks);
    // The old table and its blocks are counted and not used any more.
    let mut again = Walk::new(meta);
    walk_all(meta, &mut again, Fix::None)?;
    again.report.messages.clear();
    let wrong = compare(meta, &mut again, Fix::All)?;
    store(meta, &wrong)?;
    for line in again.report.messages {
        walk.say(line);
    }
    walk.report.image_end = again.report.image_end;
    Ok(())
}

pub(super) fn check(meta: &mut Meta, fix: Fix) -> io::Result<CheckReport> {
    if meta.file.len().div_ceil(meta.cluster()) > MOST {
        return Err(unsupported("the image file is too long to be checked"));
    }
    let mut walk = Walk::new(meta);
    walk_all(meta, &mut walk, fix)?;
    let (staying, mended) = (walk.report.corruptions, walk.report.corruptions_fixed);
    let wrong = compare(meta, &mut walk, Fix::None)?;
    if wrong.rebuild && fix == Fix::Leaks {
        // Clusters in use count as free: giving others up is not safe.
        return Err(io::Error::from_raw_os_error(5));
    }
    // A table that lies over something else is not written where it is.
    let rebuild_all = wrong.rebuild || walk.is_shared(meta.refcounts.place());
    if rebuild_all && fix == Fix::All {
        rebuild(meta, &mut walk, staying + wrong.overflows)?;
    } else if fix != Fix::None && !wrong.clusters.is_empty() {
        let (leaks, corruptions) = (walk.report.leaks, walk.report.corruptions);
        let wrong = compare(meta, &mut walk, fix)?;
        let fixable: Vec<_> = wrong.clusters;
        // What was told before and is mended now is no finding any more.
        walk.report.leaks = leaks - walk.report.leaks_fixed.min(leaks);
        let fixed = walk.report.corruptions_fixed - mended;
        walk.report.corruptions = corruptions - fixed.min(corruptions);
        let mends = |have: u64, want: u64| fix == Fix::All || have > want;
        for (cluster, want) in fixable {
            if mends(meta.refcounts.count(cluster)?, want) {
                meta.refcounts.set(cluster, want)?;
            }
        }
    }
    check_marks(meta, &mut walk, fix)?;
    if fix != Fix::None {
        if walk.report.corruptions == 0 && fix == Fix::All {
            meta.set_clean()?;
        }
        meta.commit(false)?;
        meta.file.driver().flush()?;
        meta.forget();
    }
    Ok(walk.report)
}
