//! Guest requests: reading, writing, zeroing, giving up.
//!
//! The tables' lock is held while a range is looked up or given a place, never while data moves.
//! Guest clusters that are being given a place are in a set; who meets one waits. A cluster gets
//! its place in the tables when its data is in the file.
//! Source: qcow2 specification, "Compressed clusters": raw deflate, window of 4 KiB.

use std::io;
use std::sync::Arc;

use block::invalid;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Qcow2;
use super::tables::{COPIED, Mapped, ZERO};

/// Most clusters given a place at once.
const BATCH: u64 = 256;

/// Compresses a cluster; `None` when it does not get smaller. Short data is filled with zeroes.
pub(super) fn pack(data: &[u8], cluster: u64) -> io::Result<Option<Vec<u8>>> {
    let size = usize::try_from(cluster).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut whole;
    let data = if data.len() < size {
        whole = data.to_vec();
        whole.resize(size, 0);
        &whole[..]
    } else {
        data
    };
    if data.len() != size {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut packer = Compress::new_with_window_bits(Compression::default(), false, 12);
    let mut out = vec![0; size - 1];
    let status = packer.compress(data, &mut out, FlushCompress::Finish);
    if !matches!(status, Ok(Status::StreamEnd)) {
        return Ok(None);
    }
    out.truncate(usize::try_from(packer.total_out()).unwrap_or(0));
    Ok(Some(out))
}

fn unpack(packed: &[u8], cluster: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; cluster];
    let mut unpacker = Decompress::new_with_window_bits(false, 12);
    // Bytes behind the end of the stream belong to the next cluster.
    let done = unpacker.decompress(packed, &mut out, FlushDecompress::Finish);
    if done.is_err() || unpacker.total_out() != cluster as u64 {
        return Err(invalid("qcow2: a compressed cluster is damaged"));
    }
    Ok(out)
}

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
        if there.is_empty() { Ok(()) } else { backing.driver().read(at, there) }
    }

    fn unpacked(&self, entry: u64, place: u64, len: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some((_, data)) = self.unpacked.lock().as_ref().filter(|(kept, _)| *kept == entry) {
            return Ok(data.clone());
        }
        // At most two clusters and a sector, from the entry's width.
        let mut packed = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.node().driver().read(place, &mut packed)?;
        let size = usize::try_from(self.cluster_size()).unwrap_or(0);
        let data = Arc::new(unpack(&packed, size)?);
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
                Mapped::Data(place) => self.file.node().driver().read(place + within, piece)?,
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

    /// Writes what lies in a row; how much that was.
    fn write_some(&self, at: u64, data: &[u8]) -> io::Result<usize> {
        let cluster = self.cluster_size();
        let within = at & (cluster - 1);
        let mut meta = self.meta.lock();
        let (count, place) = loop {
            let (found, copied, len) = meta.map(at, data.len() as u64)?;
            if let (Mapped::Data(place), true) = (found, copied) {
                meta.guard(place + within, len)?;
                drop(meta);
                let n = usize::try_from(len).unwrap_or(0);
                let piece = data.get(..n).unwrap_or_default();
                self.file.node().driver().write(place + within, piece)?;
                return Ok(n);
            }
            let count = (within + len).div_ceil(cluster).min(BATCH);
            let first = at >> self.cluster_bits;
            let clear = {
                let busy = self.busy.lock();
                (first..first + count).take_while(|c| !busy.contains(c)).count() as u64
            };
            if clear > 0 {
                break (clear, meta.take(clear)?);
            }
            self.done.wait(&mut meta);
        };
        let first = at >> self.cluster_bits;
        self.busy.lock().extend(first..first + count);
        drop(meta);
        let busy = Busy(self, first..first + count);
        let len = (count * cluster - within).min(data.len() as u64);
        let written = self.fill_clusters(
            at,
            data.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default(),
            place,
            count,
        );
        let mut meta = self.meta.lock();
        match written {
            Ok(()) => {
                for n in 0..count {
                    meta.set_entry(
                        (first + n) << self.cluster_bits,
                        (place + n * cluster) | COPIED,
                        false,
                    )?;
                }
            }
            Err(error) => {
                for n in 0..count {
                    meta.free(place + n * cluster);
                }
                return Err(error);
            }
        }
        drop(meta);
        drop(busy);
        usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    /// Writes new clusters: the data, and around it what was read there before.
    fn fill_clusters(&self, at: u64, data: &[u8], place: u64, count: u64) -> io::Result<()> {
        let cluster = self.cluster_size();
        let within = at & (cluster - 1);
        let end = within + data.len() as u64;
        let all = count * cluster;
        if within == 0 && end == all {
            return self.file.node().driver().write(place, data);
        }
        let start = at - within;
        let (head, tail) =
            (usize::try_from(within).unwrap_or(0), usize::try_from(all - end).unwrap_or(0));
        let mut whole = vec![0; head + data.len() + tail];
        self.read_range(start, part(&mut whole, 0, within)?)?;
        part(&mut whole, head, data.len() as u64)?.copy_from_slice(data);
        self.read_range(start + end, part(&mut whole, head + data.len(), all - end)?)?;
        self.file.node().driver().write(place, &whole)
    }

    /// Splits a range into what lies before, in and behind whole clusters.
    fn whole(&self, at: u64, len: u64) -> (u64, u64) {
        let cluster = self.cluster_size();
        let size = self.meta.lock().header.size;
        let first = at.next_multiple_of(cluster);
        let end = at + len;
        // The last cluster of the disk may be a short one.
        let last = if end == size { end.next_multiple_of(cluster) } else { end & !(cluster - 1) };
        (first, last.max(first))
    }

    /// Makes a range zero; the gate is held alone.
    pub(super) fn zero_range(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let end = at + len;
        let (first, last) = self.whole(at, len);
        if first >= end || first >= last {
            return self.zero_part(at, len);
        }
        if first > at {
            self.zero_part(at, first - at)?;
        }
        let mut meta = self.meta.lock();
        let mut pos = first;
        while pos < last {
            let (found, copied, run) = meta.map(pos, last - pos)?;
            let run = run.next_multiple_of(self.cluster_size());
            let clear = self.backing.is_none() && found == Mapped::Nothing;
            if clear || matches!(found, Mapped::Zero) {
                pos += run;
                continue;
            }
            if self.version < 3 && (self.backing.is_some() || !unmap) {
                drop(meta);
                self.zero_part(pos, run.min(end - pos))?;
                meta = self.meta.lock();
            } else {
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
            }
            pos += run;
        }
        drop(meta);
        if last < end { self.zero_part(last, end - last) } else { Ok(()) }
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
        let (first, last) = self.whole(at, len);
        let mut meta = self.meta.lock();
        let mut pos = first;
        while pos < last {
            let (found, _, run) = meta.map(pos, last - pos)?;
            let run = run.next_multiple_of(self.cluster_size());
            let keep = match found {
                Mapped::Zero => true,
                Mapped::Nothing => self.backing.is_none() || self.version < 3,
                // Version 2 cannot say that it is zero while something lies behind.
                _ => self.version < 3 && self.backing.is_some(),
            };
            if !keep {
                let entry = if self.version > 2 { ZERO } else { 0 };
                for at in (pos..pos + run).step_by(1 << self.cluster_bits) {
                    meta.set_entry(at, entry, false)?;
                }
            }
            pos += run;
        }
        Ok(())
    }
}
