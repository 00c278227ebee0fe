//! L1 and L2 tables in memory, what they map, and writing everything back in order.
//!
//! [`Meta`] is all that the lock of an image guards. Changed L2 tables stay in memory until a
//! commit or until room is needed; reference counts always go first. Clusters that are given up
//! wait in a list until the tables that named them are on the disk.
//! Source: qcow2 specification, "Cluster mapping".

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use block::{Node, Preallocation, invalid};

use super::header::{Header, be64, feature};
use super::refcount::Refcounts;
use super::snapshot::Stored;

/// Bytes of L2 tables kept in memory, as QEMU's default.
const L2_CACHE: usize = 32 << 20;
/// Clusters given up before they are worth a commit of their own.
const CROWD: usize = 1 << 16;

pub(super) const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
pub(super) const ZERO: u64 = 1;
pub(super) const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
/// Sub-clusters of a cluster with extended entries.
pub(super) const SUBS: u64 = 32;
/// The map of an extended entry whose sub-clusters all have data, or are all zero.
pub(super) const ALL_DATA: u64 = 0xffff_ffff;
pub(super) const ALL_ZERO: u64 = ALL_DATA << 32;

/// What a guest cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// The backing file decides.
    Nothing,
    Zero,
    /// Zero, with a host cluster kept for it.
    ZeroAt(u64),
    Data(u64),
    /// Compressed; the entry says where.
    Packed(u64),
}

pub(super) struct L2 {
    /// Words of the table: one for each cluster, two with extended entries.
    pub(super) entries: Vec<u64>,
    pub(super) dirty: bool,
    used: u64,
}

/// Tables of an image.
pub(super) struct Meta {
    pub(super) header: Header,
    pub(super) file: Arc<Node>,
    /// The external data file; guest clusters lie in it where they are on the disk.
    pub(super) data: Option<Arc<Node>>,
    pub(super) l1: Vec<u64>,
    /// Entries of the L1 table that are not in the file yet.
    l1_dirty: std::ops::Range<usize>,
    /// L2 tables by their place in the file.
    cache: HashMap<u64, L2>,
    tick: u64,
    pub(super) refcounts: Refcounts,
    pub(super) snapshots: Vec<Stored>,
    /// Host clusters whose counts go down with the next commit.
    frees: Vec<u64>,
    /// Where the next compressed cluster may go.
    packed_at: Option<u64>,
    /// Entries that are looked at.
    scratch: Vec<u64>,
    /// Bitmaps, once something changed.
    pub(super) recording: Option<super::bitmap::Recording>,
    /// What is done once before the first change was done.
    changing: bool,
}

impl Meta {
    pub(super) fn read(
        header: Header,
        file: Arc<Node>,
        data: Option<Arc<Node>>,
    ) -> io::Result<Meta> {
        let mut bytes = vec![0; header.l1_size as usize * 8];
        file.driver().read(header.l1_offset, &mut bytes)?;
        let l1 = (0..header.l1_size as usize).map(|at| be64(&bytes, at * 8)).collect();
        let refcounts = Refcounts::read(&header, file.clone())?;
        let snapshots = super::snapshot::read(&header, &file)?;
        Ok(Meta {
            header,
            file,
            data,
            l1,
            l1_dirty: 0..0,
            cache: HashMap::new(),
            tick: 0,
            refcounts,
            snapshots,
            frees: Vec::new(),
            packed_at: None,
            scratch: Vec::new(),
            recording: None,
            changing: false,
        })
    }

    pub(super) fn bits(&self) -> u32 {
        self.header.cluster_bits
    }
    pub(super) fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }
    fn l2_bits(&self) -> u32 {
        self.header.l2_bits()
    }
    /// Words of an entry.
    pub(super) fn stride(&self) -> usize {
        if self.header.is_extended() { 2 } else { 1 }
    }
    /// Bits of the unit that tables tell apart.
    pub(super) fn unit_bits(&self) -> u32 {
        if self.header.is_extended() { self.bits() - 5 } else { self.bits() }
    }
    pub(super) fn has_frees(&self) -> bool {
        !self.frees.is_empty()
    }
    pub(super) fn is_crowded(&self) -> bool {
        self.frees.len() > CROWD
    }

    /// L1 index and index in the L2 table.
    pub(super) fn split(&self, at: u64) -> (usize, usize) {
        let cluster = at >> self.bits();
        let l1 = usize::try_from(cluster >> self.l2_bits()).unwrap_or(usize::MAX);
        (l1, usize::try_from(cluster & ((1 << self.l2_bits()) - 1)).unwrap_or(0))
    }

    /// Checks that a place can be a cluster of its own.
    pub(super) fn place(&self, entry: u64) -> io::Result<u64> {
        let place = entry & PLACE;
        if place == 0 || place & (self.cluster() - 1) != 0 {
            return Err(invalid("a table entry does not name a cluster"));
        }
        Ok(place)
    }

    fn make_room(&mut self) -> io::Result<()> {
        let most = (L2_CACHE >> self.bits()).max(16);
        while self.cache.len() >= most {
            let Some((&oldest, l2)) = self.cache.iter().min_by_key(|(_, l2)| l2.used) else {
                break;
            };
            if l2.dirty {
                self.write_counts()?;
                self.write_l2(oldest)?;
            }
            self.cache.remove(&oldest);
        }
        Ok(())
    }

    /// The L2 table at a place in the file.
    pub(super) fn l2(&mut self, place: u64) -> io::Result<&mut L2> {
        self.tick += 1;
        if !self.cache.contains_key(&place) {
            self.make_room()?;
            let mut bytes = vec![0; 1 << self.bits()];
            self.file.driver().event("l2_load");
            self.file.driver().read(place, &mut bytes)?;
            let entries = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b)).collect();
            self.cache.insert(place, L2 { entries, dirty: false, used: 0 });
        }
        let found = self.cache.get_mut(&place).ok_or_else(|| invalid("no table"))?;
        found.used = self.tick;
        Ok(found)
    }

    fn write_l2(&mut self, place: u64) -> io::Result<()> {
        if let Some(l2) = self.cache.get_mut(&place) {
            let bytes: Vec<u8> = l2.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.file.driver().event("l2_update");
            self.file.driver().write(place, &bytes)?;
            l2.dirty = false;
        }
        Ok(())
    }

    fn write_counts(&mut self) -> io::Result<()> {
        if self.refcounts.is_dirty() {
            let gone = self.refcounts.write(&mut self.header)?;
            self.frees.extend(gone);
            self.file.driver().flush()?;
        }
        Ok(())
    }

    /// Writes everything back, in an order that survives a crash.
    pub(super) fn commit(&mut self, unmap: bool) -> io::Result<()> {
        self.write_counts()?;
        let mut dirty: Vec<u64> =
            self.cache.iter().filter(|(_, l2)| l2.dirty).map(|(at, _)| *at).collect();
        dirty.sort_unstable();
        for place in &dirty {
            self.write_l2(*place)?;
        }
        if !self.l1_dirty.is_empty() {
            self.file.driver().flush()?;
            // In whole sectors, as the table lies in the file.
            let (from, end) = (self.l1_dirty.start & !63, self.l1_dirty.end.next_multiple_of(64));
            let part = self.l1.get(from..end.min(self.l1.len())).unwrap_or_default();
            let bytes: Vec<u8> = part.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.file.driver().event("l1_update");
            self.file.driver().write(self.header.l1_offset + from as u64 * 8, &bytes)?;
            self.l1_dirty = 0..0;
        }
        if self.frees.is_empty() {
            return Ok(());
        }
        self.file.driver().flush()?;
        self.file.driver().event("cluster_free");
        for cluster in std::mem::take(&mut self.frees) {
            // A count that is zero already is damage that check finds; nothing is made worse.
            if self.refcounts.count(cluster)? == 0 {
                continue;
            }
            if self.refcounts.add(cluster, -1)? == 0 {
                self.cache.remove(&(cluster << self.bits()));
                if self.packed_at.is_some_and(|at| at >> self.bits() == cluster) {
                    self.packed_at = None;
                }
                if unmap {
                    self.file.driver().discard(cluster << self.bits(), self.cluster())?;
                }
            }
        }
        self.write_counts()
    }

    /// Whether an entry names a place (in a data file the first byte is one).
    pub(super) fn has_place(&self, entry: u64) -> bool {
        entry & COMPRESSED == 0
            && (entry & PLACE != 0 || self.data.is_some() && entry & COPIED != 0)
    }

    /// The place that an entry names for a cluster's data.
    pub(super) fn data_place(&self, entry: u64) -> io::Result<u64> {
        match &self.data {
            Some(_) if entry & PLACE & (self.cluster() - 1) == 0 => Ok(entry & PLACE),
            _ => self.place(entry),
        }
    }

    /// What a unit of an entry is; `map` counts with extended entries only.
    pub(super) fn decode(&self, entry: u64, map: u64, sub: u64) -> io::Result<Mapped> {
        if entry & COMPRESSED != 0 {
            return Ok(Mapped::Packed(entry));
        }
        let has = self.has_place(entry);
        let (zero, data) = if self.header.is_extended() {
            (map >> (sub + SUBS) & 1 == 1, map >> sub & 1 == 1)
        } else {
            (entry & ZERO != 0 && self.header.version > 2, has)
        };
        Ok(match (zero, data, has) {
            (true, true, _) if self.header.is_extended() => {
                return Err(invalid("a sub-cluster is marked as data and as zero"));
            }
            (true, _, true) => Mapped::ZeroAt(self.data_place(entry)?),
            (true, _, false) => Mapped::Zero,
            (false, true, true) => Mapped::Data(self.data_place(entry)?),
            (false, true, false) => return Err(invalid("a sub-cluster's data has no place")),
            (false, false, _) => Mapped::Nothing,
        })
    }

    /// Whether [`Meta::map`] needs no table from the file.
    pub(super) fn is_cached(&self, at: u64) -> bool {
        let (index, _) = self.split(at);
        let entry = self.l1.get(index).copied().unwrap_or(0);
        entry & PLACE == 0 || self.cache.contains_key(&(entry & PLACE))
    }

    /// The entry of the cluster at `at`: its word and its map.
    pub(super) fn entry(&mut self, at: u64) -> io::Result<(u64, u64)> {
        let (index, first) = self.split(at);
        let word = self.l1.get(index).copied().unwrap_or(0);
        if word & PLACE == 0 {
            return Ok((0, 0));
        }
        let (place, stride) = (self.place(word)?, self.stride());
        let l2 = self.l2(place)?;
        let word = |at: usize| l2.entries.get(at).copied().unwrap_or(0);
        let map = if stride == 2 { word(first * 2 + 1) } else { 0 };
        Ok((word(first * stride), map))
    }

    /// What the unit at `at` is by another L1 table.
    pub(super) fn lookup(&mut self, l1: &[u64], at: u64) -> io::Result<Mapped> {
        let (index, first) = self.split(at);
        let word = l1.get(index).copied().unwrap_or(0);
        if word & PLACE == 0 {
            return Ok(Mapped::Nothing);
        }
        let (place, stride) = (self.place(word)?, self.stride());
        let sub = (at & (self.cluster() - 1)) >> self.unit_bits();
        let l2 = self.l2(place)?;
        let word = |at: usize| l2.entries.get(at).copied().unwrap_or(0);
        let (entry, map) =
            (word(first * stride), if stride == 2 { word(first * 2 + 1) } else { 0 });
        self.decode(entry, map, sub)
    }

    /// What the unit at `at` is, whether its cluster may be written in place, and how many bytes
    /// from `at` on (at most `len`) are alike and in a row.
    pub(super) fn map(&mut self, at: u64, len: u64) -> io::Result<(Mapped, bool, u64)> {
        let (index, first) = self.split(at);
        let (cluster, per_table) = (self.cluster(), 1usize << self.l2_bits());
        let within = at & (cluster - 1);
        let word = self.l1.get(index).copied().unwrap_or(0);
        if word & PLACE == 0 {
            let table = (per_table - first) as u64 * cluster - within;
            return Ok((Mapped::Nothing, false, len.min(table)));
        }
        let (place, stride, unit) = (self.place(word)?, self.stride(), self.unit_bits());
        let most = usize::try_from((within + len).div_ceil(cluster)).unwrap_or(usize::MAX);
        let last = first.saturating_add(most).min(per_table);
        let mut entries = std::mem::take(&mut self.scratch);
        entries.clear();
        let found = self.l2(place)?.entries.get(first * stride..last * stride);
        entries.extend_from_slice(found.unwrap_or_default());
        let subs = 1u64 << (self.bits() - unit);
        let begin = within >> unit;
        let (head, head_map) =
            (entries.first().copied().unwrap_or(0), entries.get(1).copied().unwrap_or(0));
        let mapped = self.decode(head, head_map, begin)?;
        let mut units = 0;
        'all: for (n, entry) in (0u64..).zip(entries.chunks(stride)) {
            let (word, map) =
                (entry.first().copied().unwrap_or(0), entry.get(1).copied().unwrap_or(0));
            let next = match mapped {
                Mapped::Packed(_) if n > 0 => break,
                Mapped::Data(place) => Mapped::Data(place + n * cluster),
                Mapped::ZeroAt(place) => Mapped::ZeroAt(place + n * cluster),
                same => same,
            };
            if mapped != Mapped::Nothing && (word ^ head) & COPIED != 0 {
                break;
            }
            for sub in if n == 0 { begin } else { 0 }..subs {
                // Damage further on is the affair of the request that meets it.
                if self.decode(word, map, sub).ok() != Some(next) {
                    break 'all;
                }
                units += 1;
            }
        }
        self.scratch = entries;
        let run = (units << unit) - (at & ((1 << unit) - 1));
        Ok((mapped, head & COPIED != 0, len.min(run)))
    }

    /// Refuses places where the image's own tables are.
    pub(super) fn guard(&self, place: u64, len: u64) -> io::Result<()> {
        if self.data.is_some() {
            return Ok(());
        }
        let header = &self.header;
        let table = (self.refcounts.table.len() * 8) as u64;
        let ranges = [
            (0, self.cluster()),
            (header.l1_offset, u64::from(header.l1_size) * 8),
            (self.refcounts.table_offset, table),
        ];
        let end = place.saturating_add(len);
        if ranges.iter().any(|(at, size)| place < at.saturating_add(*size) && *at < end) {
            return Err(invalid("qcow2: a data cluster overlaps the image's tables"));
        }
        Ok(())
    }

    /// Takes host clusters in a row; the first one's place.
    pub(super) fn take(&mut self, clusters: u64) -> io::Result<u64> {
        self.file.driver().event("cluster_alloc");
        let place = self.refcounts.take(clusters)? << self.bits();
        self.guard(place, clusters << self.bits())?;
        Ok(place)
    }

    /// Takes host clusters in a row for the data of guest clusters from `at` on.
    pub(super) fn take_data(&mut self, at: u64, clusters: u64) -> io::Result<u64> {
        if self.data.is_some() {
            return Ok(at & !(self.cluster() - 1));
        }
        self.take(clusters)
    }

    /// Gives up clusters that [`Meta::take_data`] gave.
    pub(super) fn free_data(&mut self, place: u64) {
        if self.data.is_none() {
            self.free(place);
        }
    }

    /// Gives up one host cluster with the next commit.
    pub(super) fn free(&mut self, place: u64) {
        self.frees.push(place >> self.bits());
    }

    /// Gives up what an entry named.
    pub(super) fn free_entry(&mut self, entry: u64) -> io::Result<()> {
        if entry & COMPRESSED != 0 {
            let (place, len) = self.packed(entry);
            let (first, last) = (place >> self.bits(), (place + len - 1) >> self.bits());
            self.frees.extend(first..=last);
        } else if self.has_place(entry) && self.data.is_none() {
            let place = self.place(entry)?;
            self.free(place);
        }
        Ok(())
    }

    /// Place and length of a compressed cluster.
    pub(super) fn packed(&self, entry: u64) -> (u64, u64) {
        let shift = 62 - (self.bits() - 8);
        let place = entry & ((1 << shift) - 1);
        let sectors = (entry >> shift & ((1 << (self.bits() - 8)) - 1)) + 1;
        (place, sectors * 512 - (place & 511))
    }

    /// The place of an L2 table that may be changed; it is made or copied if need be.
    pub(super) fn own_l2(&mut self, index: usize) -> io::Result<u64> {
        let entry = self.l1.get(index).copied().ok_or_else(|| invalid("beyond the L1 table"))?;
        if entry & COPIED != 0 {
            return self.place(entry);
        }
        let entries = if entry & PLACE == 0 {
            vec![0; self.stride() << self.l2_bits()]
        } else {
            let old = self.place(entry)?;
            let entries = self.l2(old)?.entries.clone();
            self.free(old);
            entries
        };
        let place = self.take(1)?;
        self.make_room()?;
        self.tick += 1;
        self.cache.insert(place, L2 { entries, dirty: true, used: self.tick });
        if let Some(slot) = self.l1.get_mut(index) {
            *slot = place | COPIED;
        }
        let dirty = &mut self.l1_dirty;
        *dirty = if dirty.start >= dirty.end {
            index..index + 1
        } else {
            dirty.start.min(index)..dirty.end.max(index + 1)
        };
        Ok(place)
    }

    /// Replaces the entry of the cluster at `at`; what it named is given up unless `keep`. With
    /// extended entries all sub-clusters become what the entry says.
    pub(super) fn set_entry(&mut self, at: u64, entry: u64, keep: bool) -> io::Result<()> {
        if !self.header.is_extended() {
            return self.set_entry_map(at, entry, 0, keep);
        }
        let map = match (entry & COMPRESSED != 0, entry & ZERO != 0, self.has_place(entry)) {
            (true, ..) | (_, false, false) => 0,
            (_, true, _) => ALL_ZERO,
            _ => ALL_DATA,
        };
        let word = if entry & COMPRESSED != 0 { entry } else { entry & !ZERO };
        self.set_entry_map(at, word, map, keep)
    }

    /// Replaces both words of the entry of the cluster at `at`.
    pub(super) fn set_entry_map(
        &mut self,
        at: u64,
        entry: u64,
        map: u64,
        keep: bool,
    ) -> io::Result<()> {
        let (index, within) = self.split(at);
        let place = self.own_l2(index)?;
        let stride = self.stride();
        let l2 = self.l2(place)?;
        let slots = l2.entries.get_mut(within * stride..(within + 1) * stride);
        let slots = slots.ok_or_else(|| invalid("no entry"))?;
        let mut old = 0;
        for (slot, new) in slots.iter_mut().zip([entry, map]).rev() {
            old = std::mem::replace(slot, new);
        }
        l2.dirty = true;
        if keep { Ok(()) } else { self.free_entry(old) }
    }

    /// Stores a compressed cluster.
    pub(super) fn place_packed(&mut self, at: u64, packed: &[u8]) -> io::Result<()> {
        let (len, cluster) = (packed.len() as u64, self.cluster());
        if len == 0 || len >= cluster {
            return Err(invalid("a compressed cluster that is not smaller"));
        }
        let place = self.packed_room(len)?;
        let shift = 62 - (self.bits() - 8);
        let sectors = ((place & 511) + len).div_ceil(512) - 1;
        // The last sector is there as a whole, so that others can read it.
        let end = (place + len).next_multiple_of(512) - place;
        let mut bytes = packed.to_vec();
        bytes.resize(usize::try_from(end).unwrap_or(packed.len()), 0);
        self.file.driver().event("write_compressed");
        self.file.driver().write(place, &bytes)?;
        let next = place + len;
        self.packed_at = (next & (cluster - 1) != 0).then_some(next);
        self.set_entry(at, COMPRESSED | sectors << shift | place, false)
    }

    /// Room for a compressed cluster; its host clusters are counted once more.
    fn packed_room(&mut self, len: u64) -> io::Result<u64> {
        let (bits, cluster) = (self.bits(), self.cluster());
        if let Some(at) = self.packed_at {
            let host = at >> bits;
            let left = cluster - (at & (cluster - 1));
            let full = self.refcounts.count(host)? >= self.refcounts.max();
            let next = len > left;
            if !full && (!next || self.refcounts.count(host + 1)? == 0) {
                if next {
                    self.refcounts.set(host + 1, 1)?;
                    // Making a block of counts may have taken that very cluster.
                    if self.refcounts.table.contains(&((host + 1) << bits)) {
                        self.refcounts.set(host + 1, 1)?;
                        return self.take(1);
                    }
                }
                self.refcounts.add(host, 1)?;
                return Ok(at);
            }
        }
        self.take(1)
    }

    /// Gives up everything from `from` (rounded up to a cluster) to `to`.
    pub(super) fn unmap_all(&mut self, from: u64, to: u64) -> io::Result<()> {
        let mut at = from.next_multiple_of(self.cluster());
        while at < to {
            let (index, within) = self.split(at);
            let table = ((1u64 << self.l2_bits()) - within as u64) << self.bits();
            if self.l1.get(index).is_none_or(|entry| entry & PLACE == 0) {
                at = at.saturating_add(table);
                continue;
            }
            if self.entry(at)? != (0, 0) {
                self.set_entry(at, 0, false)?;
            }
            at += self.cluster();
        }
        Ok(())
    }

    /// Makes the L1 table long enough for a disk of this length.
    pub(super) fn grow_l1(&mut self, size: u64) -> io::Result<()> {
        let need = self.header.l1_entries_for(size).ok_or(io::ErrorKind::FileTooLarge)?;
        if need <= self.l1.len() as u64 {
            return Ok(());
        }
        let old = (self.header.l1_offset, (self.l1.len() as u64 * 8).div_ceil(self.cluster()));
        let place = self.take((need * 8).div_ceil(self.cluster()))?;
        self.l1.resize(usize::try_from(need).unwrap_or(0), 0);
        self.write_counts()?;
        let bytes: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.driver().event("l1_grow_write_table");
        self.file.driver().write(place, &bytes)?;
        self.file.driver().flush()?;
        self.file.driver().event("l1_grow_activate_table");
        self.header.l1_offset = place;
        self.header.l1_size = u32::try_from(need).unwrap_or(0);
        let file = self.file.clone();
        self.header.write(&file)?;
        self.l1_dirty = 0..self.l1.len();
        if old.0 != 0 {
            for n in 0..old.1 {
                self.free(old.0 + (n << self.bits()));
            }
        }
        Ok(())
    }

    /// Replaces the active L1 table, as going back to a snapshot does.
    pub(super) fn set_l1(&mut self, l1: Vec<u64>) {
        self.l1_dirty = 0..l1.len();
        self.l1 = l1;
    }

    /// Marks the image as damaged or whole, as clean or not.
    pub(super) fn set_flags(&mut self, clear: u64) -> io::Result<()> {
        if self.header.incompatible & clear != 0 {
            self.header.incompatible &= !clear;
            let file = self.file.clone();
            self.header.write(&file)?;
        }
        Ok(())
    }

    /// Forgets tables in memory: what is on the disk was changed.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
        self.packed_at = None;
    }

    /// Gives all clusters of a range a place.
    pub(super) fn preallocate(&mut self, from: u64, to: u64, how: Preallocation) -> io::Result<()> {
        let cluster = self.cluster();
        let mut at = from & !(cluster - 1);
        if let Some(data) = self.data.as_ref().filter(|_| from == 0 && how == Preallocation::Falloc)
        {
            // A new data file is as long as the disk already; what grows is given its space.
            data.driver().truncate(0, Preallocation::Off)?;
        }
        while at < to {
            let (mapped, _, len) = self.map(at, to - at)?;
            if mapped != Mapped::Nothing {
                let real = matches!(how, Preallocation::Falloc | Preallocation::Full);
                if let (Mapped::Data(place), true) = (mapped, real && at < from) {
                    // The rest of the cluster in which the disk ended was never written.
                    let node = self.data.clone().unwrap_or_else(|| self.file.clone());
                    if self.header.crypt == 0 && node.len() >= place + cluster {
                        block::fill_zeroes(&node, place + (from - at), cluster - (from - at))?;
                    }
                }
                at += len.next_multiple_of(cluster);
                continue;
            }
            let count = len.div_ceil(cluster).min(1 << 12);
            let place = self.take_data(at, count)?;
            for n in 0..count {
                let (at, word) = (at + n * cluster, (place + n * cluster) | COPIED);
                // Sub-clusters get their data when they are written: a backing file shows through.
                let map = if self.has_backing() { 0 } else { ALL_DATA };
                self.set_entry_map(at, word, map, false)?;
            }
            let end = place + count * cluster;
            let node = self.data.clone().unwrap_or_else(|| self.file.clone());
            match how {
                Preallocation::Full => {
                    block::fill_zeroes(&node, place, end - place)?;
                }
                _ if node.len() < end => {
                    let below =
                        if how == Preallocation::Metadata { Preallocation::Off } else { how };
                    node.driver().truncate(end, below)?;
                }
                _ => {}
            }
            at += count * cluster;
        }
        Ok(())
    }

    /// Whether the data file alone is a raw image of the disk.
    pub(super) fn is_raw_data(&self) -> bool {
        self.data.is_some() && self.header.autoclear & feature::RAW_DATA != 0
    }

    /// Features that this program does not know and that any writer clears, if there are some.
    pub(super) fn clear_unknown(&mut self) -> io::Result<()> {
        let known = feature::BITMAPS | feature::RAW_DATA;
        if self.header.autoclear & !known == 0 {
            return Ok(());
        }
        self.header.autoclear &= known;
        let file = self.file.clone();
        self.header.write(&file)?;
        file.driver().flush()
    }

    /// Before anything changes: features that know nothing of the change are cleared, late counts
    /// are told of, bitmaps begin to record.
    pub(super) fn about_to_change(&mut self) -> io::Result<()> {
        if self.changing {
            return Ok(());
        }
        self.changing = true;
        super::bitmap::begin(self)?;
        let known = feature::BITMAPS | feature::RAW_DATA;
        let lazy = self.header.version > 2 && self.header.compatible & feature::LAZY_REFCOUNTS != 0;
        let dirty = lazy && self.header.incompatible & feature::DIRTY == 0;
        if self.header.autoclear & !known != 0 || dirty {
            self.header.autoclear &= known;
            self.header.incompatible |= if lazy { feature::DIRTY } else { 0 };
            let file = self.file.clone();
            self.header.write(&file)?;
            self.file.driver().flush()?;
        }
        Ok(())
    }

    /// Whether writes are known to change nothing but the bytes they write.
    pub(super) fn is_unrecorded(&self) -> bool {
        self.changing && self.recording.as_ref().is_none_or(|recording| recording.all.is_empty())
    }

    /// A range was written.
    pub(super) fn mark_written(&mut self, at: u64, len: u64) {
        super::bitmap::record(self, at, len);
    }

    /// The image is closed: everything is stored and it is clean. What could not be done is told
    /// in the peer's words; bitmaps that are lost keep nothing else from being stored.
    pub(super) fn close(&mut self, unmap: bool, name: &str) -> Result<(), String> {
        let tables = |error: io::Error| {
            format!("Failed to flush the L2 block cache: {}", host::reason(&error))
        };
        self.commit(unmap).map_err(tables)?;
        let bitmaps = super::bitmap::end(self).map_err(|why| {
            format!("Lost persistent bitmaps during inactivation of node '{name}': {why}")
        });
        self.commit(unmap).map_err(tables)?;
        if self.changing && self.header.incompatible & feature::DIRTY != 0 {
            self.file.driver().flush().map_err(tables)?;
            self.set_flags(feature::DIRTY).map_err(tables)?;
        }
        self.changing = bitmaps.is_err();
        bitmaps
    }

    /// Whether the image names a backing file.
    fn has_backing(&self) -> bool {
        self.header.backing.is_some()
    }

    /// Every bit of damage that is known of is gone.
    pub(super) fn set_clean(&mut self) -> io::Result<()> {
        self.set_flags(feature::DIRTY | feature::CORRUPT)
    }
}
