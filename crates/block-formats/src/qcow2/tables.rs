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
    pub(super) entries: Vec<u64>,
    pub(super) dirty: bool,
    used: u64,
}

/// Tables of an image.
pub(super) struct Meta {
    pub(super) header: Header,
    pub(super) file: Arc<Node>,
    pub(super) l1: Vec<u64>,
    l1_dirty: bool,
    /// L2 tables by their place in the file.
    cache: HashMap<u64, L2>,
    tick: u64,
    pub(super) refcounts: Refcounts,
    pub(super) snapshots: Vec<Stored>,
    /// Host clusters whose counts go down with the next commit.
    frees: Vec<u64>,
    /// Where the next compressed cluster may go.
    packed_at: Option<u64>,
}

impl Meta {
    pub(super) fn read(header: Header, file: Arc<Node>) -> io::Result<Meta> {
        let mut bytes = vec![0; header.l1_size as usize * 8];
        file.driver().read(header.l1_offset, &mut bytes)?;
        let l1 = (0..header.l1_size as usize).map(|at| be64(&bytes, at * 8)).collect();
        let refcounts = Refcounts::read(&header, file.clone())?;
        let snapshots = super::snapshot::read(&header, &file)?;
        Ok(Meta {
            header,
            file,
            l1,
            l1_dirty: false,
            cache: HashMap::new(),
            tick: 0,
            refcounts,
            snapshots,
            frees: Vec::new(),
            packed_at: None,
        })
    }

    pub(super) fn bits(&self) -> u32 {
        self.header.cluster_bits
    }
    pub(super) fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }
    fn l2_bits(&self) -> u32 {
        self.header.cluster_bits - 3
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
        if self.l1_dirty {
            self.file.driver().flush()?;
            let bytes: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.file.driver().write(self.header.l1_offset, &bytes)?;
            self.l1_dirty = false;
        }
        if self.frees.is_empty() {
            return Ok(());
        }
        self.file.driver().flush()?;
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

    /// What an entry says.
    pub(super) fn decode(&self, entry: u64) -> io::Result<Mapped> {
        if entry & COMPRESSED != 0 {
            return Ok(Mapped::Packed(entry));
        }
        let zero = entry & ZERO != 0 && self.header.version > 2;
        Ok(match (entry & PLACE != 0, zero) {
            (false, false) => Mapped::Nothing,
            (false, true) => Mapped::Zero,
            (true, true) => Mapped::ZeroAt(self.place(entry)?),
            (true, false) => Mapped::Data(self.place(entry)?),
        })
    }

    /// Whether [`Meta::map`] needs no table from the file.
    pub(super) fn is_cached(&self, at: u64) -> bool {
        let (index, _) = self.split(at);
        let entry = self.l1.get(index).copied().unwrap_or(0);
        entry & PLACE == 0 || self.cache.contains_key(&(entry & PLACE))
    }

    /// What the cluster at `at` is, whether it may be written in place, and how many bytes from
    /// `at` on (at most `len`) are alike and in a row.
    pub(super) fn map(&mut self, at: u64, len: u64) -> io::Result<(Mapped, bool, u64)> {
        let (index, first) = self.split(at);
        let (cluster, per_table) = (self.cluster(), 1usize << self.l2_bits());
        let within = at & (cluster - 1);
        let entry = self.l1.get(index).copied().unwrap_or(0);
        if entry & PLACE == 0 {
            let table = (per_table - first) as u64 * cluster - within;
            return Ok((Mapped::Nothing, false, len.min(table)));
        }
        let place = self.place(entry)?;
        let most = usize::try_from((within + len).div_ceil(cluster)).unwrap_or(usize::MAX);
        let last = first.saturating_add(most).min(per_table);
        let entries: Vec<u64> = {
            let l2 = self.l2(place)?;
            l2.entries.get(first..last).unwrap_or_default().to_vec()
        };
        let Some(&head) = entries.first() else { return Err(invalid("no entry")) };
        let mapped = self.decode(head)?;
        let mut count: u64 = 1;
        for &entry in entries.get(1..).unwrap_or_default() {
            let next = match mapped {
                Mapped::Packed(_) => break,
                Mapped::Data(place) => Mapped::Data(place + count * cluster),
                Mapped::ZeroAt(place) => Mapped::ZeroAt(place + count * cluster),
                same => same,
            };
            // Damage further on is the affair of the request that meets it.
            if (entry ^ head) & COPIED != 0 || self.decode(entry).ok() != Some(next) {
                break;
            }
            count += 1;
        }
        Ok((mapped, head & COPIED != 0, len.min(count * cluster - within)))
    }

    /// Refuses places where the image's own tables are.
    pub(super) fn guard(&self, place: u64, len: u64) -> io::Result<()> {
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
        let place = self.refcounts.take(clusters)? << self.bits();
        self.guard(place, clusters << self.bits())?;
        Ok(place)
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
        } else if entry & PLACE != 0 {
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
            vec![0; 1 << self.l2_bits()]
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
        self.l1_dirty = true;
        Ok(place)
    }

    /// Replaces the entry of the cluster at `at`; what it named is given up unless `keep`.
    pub(super) fn set_entry(&mut self, at: u64, entry: u64, keep: bool) -> io::Result<()> {
        if self.header.autoclear != 0 {
            // Bitmaps know nothing of this change: they are out of date.
            self.header.autoclear = 0;
            let file = self.file.clone();
            self.header.write(&file)?;
        }
        let (index, within) = self.split(at);
        let place = self.own_l2(index)?;
        let l2 = self.l2(place)?;
        let slot = l2.entries.get_mut(within).ok_or_else(|| invalid("no entry"))?;
        let old = std::mem::replace(slot, entry);
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
            let (mapped, _, _) = self.map(at, 1)?;
            if mapped != Mapped::Nothing {
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
        self.file.driver().write(place, &bytes)?;
        self.file.driver().flush()?;
        self.header.l1_offset = place;
        self.header.l1_size = u32::try_from(need).unwrap_or(0);
        let file = self.file.clone();
        self.header.write(&file)?;
        self.l1_dirty = true;
        if old.0 != 0 {
            for n in 0..old.1 {
                self.free(old.0 + (n << self.bits()));
            }
        }
        Ok(())
    }

    /// Replaces the active L1 table, as going back to a snapshot does.
    pub(super) fn set_l1(&mut self, l1: Vec<u64>) {
        self.l1 = l1;
        self.l1_dirty = true;
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
        while at < to {
            let (mapped, _, len) = self.map(at, to - at)?;
            if mapped != Mapped::Nothing {
                at += len.next_multiple_of(cluster);
                continue;
            }
            let count = len.div_ceil(cluster).min(1 << 12);
            let place = self.take(count)?;
            for n in 0..count {
                self.set_entry(at + n * cluster, (place + n * cluster) | COPIED, false)?;
            }
            let end = place + count * cluster;
            match how {
                Preallocation::Full => {
                    self.file.driver().write_zeroes(place, end - place, false)?;
                }
                _ if self.file.len() < end => {
                    let below =
                        if how == Preallocation::Metadata { Preallocation::Off } else { how };
                    self.file.driver().truncate(end, below)?;
                }
                _ => {}
            }
            at += count * cluster;
        }
        Ok(())
    }

    /// Every bit of damage that is known of is gone.
    pub(super) fn set_clean(&mut self) -> io::Result<()> {
        self.set_flags(feature::DIRTY | feature::CORRUPT)
    }
}
