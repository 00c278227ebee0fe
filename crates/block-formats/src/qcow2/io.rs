//! Guest requests: reading, writing, zeroing, giving up.
//!
//! The tables' lock is held while a range is looked up or given a place, never while data moves.
//! Guest clusters that are being given a place are in a set; who meets one waits. A cluster gets
//! its place in the tables when its data is in the file.
//! With extended entries a new cluster is filled by sub-clusters; one that has a place already
//! gets the rest of its sub-clusters there. Encrypted data is enciphered by host place.
//! Source: qcow2 specification, "Data clusters", "Extended L2 entries".

use std::io;
use std::sync::Arc;

use block::invalid;

use super::Qcow2;
use super::packing::unpack;
use super::tables::{ALL_DATA, ALL_ZERO, COMPRESSED, COPIED, Mapped, Meta, ZERO};

/// Most clusters given a place at once.
const BATCH: u64 = 256;

fn part(data: &mut [u8], at: usize, len: u64) -> io::Result<&mut [u8]> {
    let end = usize::try_from(len).ok().and_then(|len| at.checked_add(len));
    end.and_then(|end| data.get_mut(at..end)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Clusters that are being given a place; dropping it lets the others go on.
struct Busy<'a>(&'a Qcow2, std::ops::Range<u64>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // With the tables' lock, so that nobody looks between the set and the wait.
        let _meta = self.0.meta.lock();
        let mut busy = self.0.busy.lock();
        for cluster in self.1.clone() {
            busy.remove(&cluster);
        }
        drop(busy);
        self.0.done.notify_all();
    }
}

impl Qcow2 {
    fn read_backing(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let Some(backing) = self.backing.node() else {
            into.fill(0);
            return Ok(());
        };
        let len = backing.len().saturating_sub(at).min(into.len() as u64);
        let (there, behind) = into.split_at_mut(usize::try_from(len).unwrap_or(0));
        behind.fill(0);
        self.file.node().driver().event("read_backing_aio");
        if there.is_empty() { Ok(()) } else { backing.driver().read(at, there) }
    }

    fn unpacked(&self, entry: u64, place: u64, len: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some((_, data)) = self.unpacked.lock().as_ref().filter(|(kept, _)| *kept == entry) {
            return Ok(data.clone());
        }
        // At most two clusters and a sector, from the entry's width.
        let mut packed = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.node().driver().event("read_compressed");
        self.file.node().driver().read(place, &mut packed)?;
        let size = usize::try_from(self.cluster_size()).unwrap_or(0);
        let data = Arc::new(unpack(&packed, size, self.zstd)?);
        *self.unpacked.lock() = Some((entry, data.clone()));
        Ok(data)
    }

    /// Reads; the gate is held.
    pub(super) fn read_range(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let pos = at + done as u64;
            let (found, len, packed) = {
                let mut meta = self.meta.lock();
                let (found, _, len) = meta.map(pos, (into.len() - done) as u64)?;
                let packed =
                    if let Mapped::Packed(entry) = found { meta.packed(entry) } else { (0, 0) };
                (found, len, packed)
            };
            let piece = part(into, done, len)?;
            let within = pos & (self.cluster_size() - 1);
            match found {
                Mapped::Nothing => self.read_backing(pos, piece)?,
                Mapped::Zero | Mapped::ZeroAt(_) => piece.fill(0),
                Mapped::Data(place) => self.data_read(place + within, pos, piece)?,
                Mapped::Packed(entry) => {
                    let data = self.unpacked(entry, packed.0, packed.1)?;
                    let from = usize::try_from(within).unwrap_or(0);
                    let from =
                        data.get(from..from + piece.len()).ok_or_else(|| invalid("short"))?;
                    piece.copy_from_slice(from);
                }
            }
            done += piece.len();
        }
        Ok(())
    }

    /// Writes; the gate is held.
    pub(super) fn write_range(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let n = self.write_some(at + done as u64, rest)?;
            done += n;
        }
        Ok(())
    }

    /// Where data clusters lie.
    fn data(&self) -> Arc<block::Node> {
        self.data_file.as_ref().unwrap_or(&self.file).node()
    }

    /// Where sectors are counted from for the cipher, seen from a place: the file's begin, or with
    /// the old AES the disk's.
    fn zero(&self, place: u64, guest: u64) -> u64 {
        if self.method == 1 { place.wrapping_sub(guest) } else { 0 }
    }

    /// Reads data of a place, deciphered; it is at `guest` on the disk.
    pub(super) fn data_read(&self, place: u64, guest: u64, into: &mut [u8]) -> io::Result<()> {
        self.data().driver().event("read_aio");
        let Some(cipher) = &self.cipher else { return self.data().driver().read(place, into) };
        let zero = self.zero(place, guest);
        crate::luks::read_sectors(&**self.data().driver(), cipher, place, zero, into)
    }

    /// Writes data to a place, enciphered.
    fn data_write(&self, place: u64, guest: u64, data: &[u8]) -> io::Result<()> {
        self.data().driver().event("write_aio");
        let Some(cipher) = &self.cipher else { return self.data().driver().write(place, data) };
        let zero = self.zero(place, guest);
        crate::luks::write_sectors(&**self.data().driver(), cipher, place, zero, data)
    }

    /// The place that may be written for the cluster at `at` though it has no data there yet.
    fn kept_place(meta: &mut Meta, at: u64) -> io::Result<Option<u64>> {
        let (word, _) = meta.entry(at)?;
        let kept = meta.has_place(word) && word & COPIED != 0;
        if kept { meta.data_place(word).map(Some) } else { Ok(None) }
    }

    /// How many of the clusters from `at` on get new places together, and whether all of each must
    /// be written because what they hold now lies elsewhere.
    fn fresh(meta: &mut Meta, at: u64, most: u64) -> io::Result<(u64, bool)> {
        if !meta.header.is_extended() {
            return Ok((most, true));
        }
        let mut whole = None;
        for n in 0..most {
            let place = (at & !(meta.cluster() - 1)) + (n << meta.bits());
            let (word, map) = meta.entry(place)?;
            let moved = word & COMPRESSED != 0 || map & ALL_DATA != 0;
            let kept = meta.has_place(word) && word & COPIED != 0;
            if kept || whole.is_some_and(|whole| whole != moved) {
                return Ok((n.max(1), whole.unwrap_or(moved)));
            }
            whole = Some(moved);
        }
        Ok((most, whole.unwrap_or(true)))
    }

    /// Writes what lies in a row; how much that was.
    fn write_some(&self, at: u64, data: &[u8]) -> io::Result<usize> {
        let cluster = self.cluster_size();
        let within = at & (cluster - 1);
        let first = at >> self.cluster_bits;
        let mut meta = self.meta.lock();
        meta.about_to_change()?;
        let (count, place, new, whole) = loop {
            let (found, copied, len) = meta.map(at, data.len() as u64)?;
            if let (Mapped::Data(place), true) = (found, copied) {
                meta.guard(place + within, len)?;
                meta.mark_written(at, len);
                drop(meta);
                let n = usize::try_from(len).unwrap_or(0);
                self.data_write(place + within, at, data.get(..n).unwrap_or_default())?;
                return Ok(n);
            }
            let count = (within + len).div_ceil(cluster).min(BATCH);
            let clear = {
                let busy = self.busy.lock();
                (first..first + count).take_while(|c| !busy.contains(c)).count() as u64
            };
            if clear > 0 {
                if let Some(place) = Self::kept_place(&mut meta, at)? {
                    meta.guard(place, cluster)?;
                    let whole = !meta.header.is_extended();
                    break (1, place, false, whole);
                }
                // The table comes before what it names, so that long writes lie in a row.
                let (index, _) = meta.split(at);
                meta.own_l2(index)?;
                let (count, whole) = Self::fresh(&mut meta, at, clear)?;
                break (count, meta.take_data(at, count)?, true, whole);
            }
            self.done.wait(&mut meta);
        };
        self.busy.lock().extend(first..first + count);
        drop(meta);
        let busy = Busy(self, first..first + count);
        let len = (count * cluster - within).min(data.len() as u64);
        let piece = data.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
        let written = self.fill_clusters(at, piece, place, whole);
        let mut meta = self.meta.lock();
        let unit = if whole { self.cluster_bits } else { meta.unit_bits() };
        if let Err(error) = written {
            for n in (0..count).filter(|_| new) {
                meta.free_data(place + n * cluster);
            }
            return Err(error);
        }
        for n in 0..count {
            let (start, host) = ((first + n) << self.cluster_bits, place + n * cluster);
            let (from, to) = (at.max(start), (at + len).min(start + cluster));
            let (low, high) = ((from - start) >> unit, (to - start).div_ceil(1 << unit));
            let (word, map) = meta.entry(start)?;
            let map = if whole {
                ALL_DATA
            } else {
                let subs = ((1u64 << (high - low)) - 1) << low;
                map & !(subs << 32) | subs
            };
            let keep = !new || word == host | COPIED;
            meta.set_entry_map(start, host | COPIED, map, keep)?;
        }
        meta.mark_written(at, len);
        drop(meta);
        drop(busy);
        usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    /// Writes new clusters, or new sub-clusters: the data, and around it what was read there
    /// before.
    fn fill_clusters(&self, at: u64, data: &[u8], place: u64, whole: bool) -> io::Result<()> {
        let unit = if whole { self.cluster_size() } else { self.cluster_size() / 32 };
        let cluster_start = at & !(self.cluster_size() - 1);
        let start = at & !(unit - 1);
        let place = place + (start - cluster_start);
        let (within, end) = (at - start, at - start + data.len() as u64);
        let all = end.next_multiple_of(unit);
        if within == 0 && end == all {
            return self.data_write(place, start, data);
        }
        let (head, tail) =
            (usize::try_from(within).unwrap_or(0), usize::try_from(all - end).unwrap_or(0));
        let mut filled = vec![0; head + data.len() + tail];
        self.data().driver().event("cow_read");
        self.read_range(start, part(&mut filled, 0, within)?)?;
        part(&mut filled, head, data.len() as u64)?.copy_from_slice(data);
        self.read_range(start + end, part(&mut filled, head + data.len(), all - end)?)?;
        self.data().driver().event("cow_write");
        self.data_write(place, start, &filled)
    }

    /// Splits a range into what lies before, in and behind whole units.
    fn whole(&self, at: u64, len: u64, unit: u64) -> (u64, u64) {
        let size = self.meta.lock().header.size;
        let first = at.next_multiple_of(unit);
        let end = at + len;
        // The last cluster of the disk may be a short one.
        let last = if end == size { end.next_multiple_of(unit) } else { end & !(unit - 1) };
        (first, last.max(first))
    }

    /// Makes a range zero; the gate is held alone.
    pub(super) fn zero_range(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let end = at + len;
        let (unit, raw_data) = {
            let mut meta = self.meta.lock();
            meta.about_to_change()?;
            meta.mark_written(at, len);
            (1 << meta.unit_bits(), meta.is_raw_data())
        };
        if raw_data {
            // Who reads the data file alone sees the zeroes as well.
            self.data().driver().write_zeroes(at, len, unmap)?;
        }
        let (first, last) = self.whole(at, len, unit);
        if first >= end || first >= last {
            return self.zero_part(at, len);
        }
        if first > at {
            self.zero_part(at, first - at)?;
        }
        let mut pos = first;
        while pos < last {
            pos += self.zero_some(pos, last, end, unmap && !raw_data)?;
        }
        if last < end { self.zero_part(last, end - last) } else { Ok(()) }
    }

    /// Makes whole units from `pos` on zero; how many bytes that was.
    fn zero_some(&self, pos: u64, last: u64, end: u64, unmap: bool) -> io::Result<u64> {
        let mut meta = self.meta.lock();
        let (found, copied, run) = meta.map(pos, last - pos)?;
        let run = run.next_multiple_of(1 << meta.unit_bits());
        // Version 2 has no mark for it; where nothing lies behind it is zero already.
        let clear = self.version < 3 && self.backing.node().is_none() && found == Mapped::Nothing;
        if clear || found == Mapped::Zero {
            return Ok(run);
        }
        if self.version < 3 && (self.backing.is_some() || !unmap) {
            drop(meta);
            self.zero_part(pos, run.min(end - pos))?;
            return Ok(run);
        }
        if meta.header.is_extended() {
            drop(meta);
            return self.zero_subs(pos, last, end, unmap);
        }
        for at in (pos..pos + run).step_by(1 << self.cluster_bits) {
            let back = at - pos;
            match found {
                _ if self.version < 3 => meta.set_entry(at, 0, false)?,
                Mapped::Data(place) | Mapped::ZeroAt(place) if !unmap && copied => {
                    meta.set_entry(at, (place + back) | COPIED | ZERO, true)?;
                }
                _ => meta.set_entry(at, ZERO, false)?,
            }
        }
        Ok(run)
    }

    /// Makes whole sub-clusters of one cluster zero.
    fn zero_subs(&self, pos: u64, last: u64, end: u64, unmap: bool) -> io::Result<u64> {
        let mut meta = self.meta.lock();
        let cluster = self.cluster_size();
        let start = pos & !(cluster - 1);
        let stop = last.min(start + cluster);
        let (word, map) = meta.entry(start)?;
        if stop - pos == cluster {
            if meta.has_place(word) && word & COPIED != 0 && !unmap {
                meta.set_entry_map(start, word, ALL_ZERO, true)?;
            } else {
                meta.set_entry_map(start, 0, ALL_ZERO, false)?;
            }
            return Ok(cluster);
        }
        if word & COMPRESSED != 0 {
            drop(meta);
            self.zero_part(pos, stop.min(end) - pos)?;
            return Ok(stop - pos);
        }
        let unit = meta.unit_bits();
        let (low, high) = ((pos - start) >> unit, (stop - start) >> unit);
        let subs = ((1u64 << (high - low)) - 1) << low;
        meta.set_entry_map(start, word, map & !subs | subs << 32, true)?;
        Ok(stop - pos)
    }

    /// Writes zeroes where something else is read.
    fn zero_part(&self, at: u64, len: u64) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let n = (len - done).min(1 << 20);
            let mut old = vec![0; usize::try_from(n).unwrap_or(0)];
            self.read_range(at + done, &mut old)?;
            if old.iter().any(|byte| *byte != 0) {
                old.fill(0);
                self.write_range(at + done, &old)?;
            }
            done += n;
        }
        Ok(())
    }

    /// Gives whole clusters up; the gate is held alone.
    pub(super) fn discard_range(&self, at: u64, len: u64) -> io::Result<()> {
        let (first, last) = self.whole(at, len, self.cluster_size());
        let mut meta = self.meta.lock();
        meta.about_to_change()?;
        if meta.is_raw_data() {
            drop(meta);
            return self.zero_range(at, len, true);
        }
        meta.mark_written(at, len);
        let mut pos = first;
        while pos < last {
            let (found, _, run) = meta.map(pos, last - pos)?;
            let start = pos & !(self.cluster_size() - 1);
            let stop = (pos + run).next_multiple_of(self.cluster_size());
            let keep = match found {
                // With sub-clusters the rest of the cluster may be something else.
                Mapped::Zero => !meta.header.is_extended(),
                Mapped::Nothing => {
                    (self.backing.is_none() || self.version < 3) && !meta.header.is_extended()
                }
                // Version 2 cannot say that it is zero while something lies behind.
                _ => self.version < 3 && self.backing.is_some(),
            };
            if !keep {
                let entry = if self.version > 2 { ZERO } else { 0 };
                for at in (start..stop).step_by(1 << self.cluster_bits) {
                    if let (Mapped::Data(place), true) = (found, self.data_file.is_some()) {
                        self.data().driver().discard(place, self.cluster_size())?;
                    }
                    if meta.entry(at)? != (0, 0) || self.backing.is_some() {
                        meta.set_entry(at, entry, false)?;
                    }
                }
            }
            pos = stop;
        }
        Ok(())
    }
}
