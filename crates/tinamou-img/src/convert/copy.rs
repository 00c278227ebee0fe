//! The copying of `convert`: several threads look, read and write.
//!
//! The source is cut into pieces that are alike; each thread takes the next piece, reads it, leaves
//! out what is zero (and compresses the rest, where asked), and writes it when the pieces before it
//! are written, or at once with `-W`. So reading and compressing happen side by side while the new
//! image is laid out as by one thread.
//! Source: QEMU's manual, `qemu-img convert`, options -c, -m, -S, -W, --salvage.

use std::io;
use std::sync::Arc;

use block::Node;
use parking_lot::{Condvar, Mutex};

use crate::progress::Progress;
use crate::{Fail, fail};

/// Bytes moved at once.
const PIECE: u64 = 2 << 20;

/// What is copied to where, and how.
pub(super) struct Copy<'a> {
    /// Sources, one behind the other.
    pub(super) from: &'a [Arc<Node>],
    pub(super) to: &'a Node,
    pub(super) progress: Progress,
    /// Runs of zeroes of at least so many bytes are left out; 0: nothing is.
    pub(super) sparse: u64,
    /// The target reads as zeroes where nothing is written.
    pub(super) is_zero: bool,
    /// The target has a backing file, so that zeroes must be written.
    pub(super) has_backing: bool,
    /// What the source's top layer does not hold is in the target's backing file, as the user says.
    pub(super) shares: bool,
    /// Bytes of a cluster, when they are compressed.
    pub(super) compress: Option<u64>,
    pub(super) salvage: bool,
    pub(super) threads: usize,
    pub(super) in_order: bool,
    /// The system copies where both sides are files.
    pub(super) offload: bool,
    /// Keeps writing slow.
    pub(super) rate: Option<Arc<block::IoGroup>>,
}

/// A range that is alike.
#[derive(Clone, Copy)]
struct Piece {
    turn: u64,
    at: u64,
    len: u64,
    zero: bool,
}

/// Where the looking is.
#[derive(Default)]
struct Scan {
    at: u64,
    turn: u64,
    /// What the last look found, up to where.
    seen: Option<(u64, Kind)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Data,
    Zero,
    /// The backing file shows it already.
    Below,
}

#[derive(Default)]
struct Shared {
    scan: Mutex<Scan>,
    turn: Mutex<u64>,
    moved: Condvar,
    wrong: Mutex<Option<Fail>>,
}

pub(super) fn is_zero(data: &[u8]) -> bool {
    // The ends tell most data from zeroes at once.
    if data.first().is_some_and(|b| *b != 0) || data.last().is_some_and(|b| *b != 0) {
        return false;
    }
    let (chunks, rest) = data.as_chunks::<64>();
    chunks.iter().all(|c| {
        let (words, _) = c.as_chunks::<16>();
        words.iter().fold(0, |all, word| all | u128::from_ne_bytes(*word)) == 0
    }) && rest.iter().all(|b| *b == 0)
}

/// A thread that ends by a fault of the program must not leave the others waiting for its turn.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            Copy::stop_all(self.0, Fail("a copying thread ended".into(), 1));
        }
    }
}

impl Copy<'_> {
    pub(super) fn len(&self) -> u64 {
        self.from.iter().map(|node| node.len().next_multiple_of(512)).sum()
    }

    /// The source at a place: its node, the place in it, and how much is left in it.
    fn source(&self, at: u64) -> Option<(&Node, u64, u64)> {
        let mut start = 0;
        for node in self.from {
            let len = node.len();
            if at < start + len {
                return Some((node, at - start, start + len - at));
            }
            start += len.next_multiple_of(512);
        }
        None
    }

    fn look(&self, at: u64) -> io::Result<(u64, Kind)> {
        let Some((node, within, left)) = self.source(at) else { return Ok((512, Kind::Zero)) };
        let mut left = left;
        let (extent, depth) = loop {
            match node.extent_of_chain(within, left) {
                // What is around a place that cannot be looked at may be told.
                Err(_) if self.salvage && left > 512 => {
                    left = (left / 4).next_multiple_of(512);
                }
                Err(error) if self.salvage => {
                    let why = host::reason(&error);
                    eprintln!(
                        "qemu-img: warning: error while reading block status at offset {at}: {why}"
                    );
                    return Ok((left, Kind::Data));
                }
                found => break found?,
            }
        };
        if self.sparse == 0 {
            // Everything is to be there as bytes.
            return Ok((extent.len, Kind::Data));
        }
        let above = depth == 0 && extent.allocated;
        // Without a backing file of its own, nothing below the source can be below the target.
        let below = self.shares && !above && node.child("backing").is_some();
        let kind = match (below, extent.zero) {
            (true, _) => Kind::Below,
            (_, true) => Kind::Zero,
            _ => Kind::Data,
        };
        Ok((extent.len, kind))
    }

    /// Bytes that are going to be copied, which progress is told of.
    pub(super) fn data(&self) -> io::Result<u64> {
        let (mut at, mut sum, end) = (0, 0u64, self.len());
        while at < end {
            let (len, kind) = self.look(at)?;
            let len = len.min(end - at).max(1);
            sum += if kind == Kind::Data { len } else { 0 };
            at += len;
        }
        Ok(sum)
    }

    /// The next piece; zeroes and what lies below may be long ones.
    fn next(&self, scan: &mut Scan) -> io::Result<Option<Piece>> {
        let end = self.len();
        loop {
            let at = scan.at;
            if at >= end {
                return Ok(None);
            }
            let (until, kind) = match scan.seen {
                Some((until, kind)) if until > at => (until, kind),
                _ => {
                    let (len, kind) = self.look(at)?;
                    (at.saturating_add(len).min(end), kind)
                }
            };
            scan.seen = Some((until, kind));
            let (stop, kind) = self.stop(at, until, kind, end);
            scan.at = stop;
            let leave =
                kind == Kind::Below || kind == Kind::Zero && self.is_zero && !self.has_backing;
            let whole = self.compress.is_none_or(|cluster| {
                at.is_multiple_of(cluster) && (stop.is_multiple_of(cluster) || stop == end)
            });
            if leave && whole && stop > at {
                continue;
            }
            let turn = scan.turn;
            scan.turn += 1;
            return Ok(Some(Piece { turn, at, len: stop - at, zero: kind == Kind::Zero && whole }));
        }
    }

    /// Where a piece ends and what it is: compressed ones are whole clusters, and a cluster that
    /// is not of one kind is data.
    fn stop(&self, at: u64, until: u64, kind: Kind, end: u64) -> (u64, Kind) {
        let Some(cluster) = self.compress else {
            let stop = if kind == Kind::Data { until.min(at + PIECE) } else { until };
            return (stop, kind);
        };
        if kind == Kind::Data {
            let stop = until.min(at + cluster.max(1 << 18)).next_multiple_of(cluster);
            return (stop.min(end), kind);
        }
        let whole = until & !(cluster - 1);
        if until == end {
            (end, kind)
        } else if whole > at {
            (whole, kind)
        } else {
            ((at + cluster).min(end), Kind::Data)
        }
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<(), Fail> {
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let pos = at + done as u64;
            let Some((node, within, left)) = self.source(pos) else {
                rest.fill(0);
                return Ok(());
            };
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let part = rest.get_mut(..n).unwrap_or_default();
            if let Err(error) = node.read(within, part) {
                if !self.salvage {
                    return fail(&format!("error while reading at byte {pos}"), &error);
                }
                self.rescue(node, within, pos, part);
            }
            done += n;
            if left < 512 && n as u64 == left {
                // The rest of the last sector.
                let pad = (512 - (pos + left) % 512) % 512;
                let pad = usize::try_from(pad).unwrap_or(0);
                if let Some(rest) = data.get_mut(done..) {
                    let pad = pad.min(rest.len());
                    rest.get_mut(..pad).unwrap_or_default().fill(0);
                    done += pad;
                }
            }
        }
        Ok(())
    }

    /// Reads sector by sector; what cannot be read is zero.
    fn rescue(&self, node: &Node, within: u64, pos: u64, part: &mut [u8]) {
        for (n, sector) in (0u64..).zip(part.chunks_mut(512)) {
            if let Err(error) = node.read(within + n * 512, sector) {
                let why = host::reason(&error);
                eprintln!("qemu-img: warning: error while reading offset {}: {why}", pos + n * 512);
                sector.fill(0);
            }
        }
    }

    pub(super) fn run(&self) -> Result<(), Fail> {
        let shared = Shared::default();
        if self.threads <= 1 {
            self.work(&shared);
        } else {
            std::thread::scope(|scope| {
                for _ in 0..self.threads {
                    scope.spawn(|| self.work(&shared));
                }
            });
        }
        shared.wrong.into_inner().map_or(Ok(()), Err)
    }

    fn work(&self, shared: &Shared) {
        let _end = Ending(shared);
        let mut data = Vec::new();
        loop {
            if shared.wrong.lock().is_some() {
                return;
            }
            let piece = match self.next(&mut shared.scan.lock()) {
                Ok(None) => return,
                Ok(Some(piece)) => piece,
                Err(error) => {
                    let why = host::reason(&error);
                    let text = format!("error while reading block status: {why}");
                    return Self::stop_all(shared, Fail(text, 1));
                }
            };
            if let Err(fail) = self.one(shared, piece, &mut data) {
                return Self::stop_all(shared, fail);
            }
            if !piece.zero {
                self.progress.add(piece.len);
            }
        }
    }

    fn stop_all(shared: &Shared, fail: Fail) {
        shared.wrong.lock().get_or_insert(fail);
        // Under the lock of those that wait, so that none misses it.
        let _turn = shared.turn.lock();
        shared.moved.notify_all();
    }

    /// Waits until the pieces before are written; `false`: the copying ended.
    fn wait(&self, shared: &Shared, turn: u64) -> bool {
        if !self.in_order || self.threads <= 1 {
            return true;
        }
        let mut now = shared.turn.lock();
        while *now != turn {
            if shared.wrong.lock().is_some() {
                return false;
            }
            shared.moved.wait(&mut now);
        }
        true
    }

    fn one(&self, shared: &Shared, piece: Piece, data: &mut Vec<u8>) -> Result<(), Fail> {
        let size = usize::try_from(piece.len).unwrap_or(0);
        if self.offload && !piece.zero {
            if !self.wait(shared, piece.turn) {
                return Ok(());
            }
            if self.copy_range(piece.at, size).or_else(|error| {
                fail(&format!("error while copying at byte {}", piece.at), &error)
            })? {
                self.written(shared, piece);
                return Ok(());
            }
        }
        let mut packed = Vec::new();
        if !piece.zero {
            if data.len() < size {
                data.resize(size, 0);
            }
            self.read(piece.at, data.get_mut(..size).unwrap_or_default())?;
            if let Some(cluster) = self.compress {
                packed = self.pack(data.get(..size).unwrap_or_default(), cluster).or_else(|e| {
                    fail(&format!("error while compressing at byte {}", piece.at), &e)
                })?;
            }
        }
        if !self.wait(shared, piece.turn) {
            return Ok(());
        }
        let data = data.get(..size).unwrap_or_default();
        let done = match (piece.zero, self.compress) {
            (true, _) => self.write_zero(piece.at, piece.len),
            (_, Some(cluster)) => self.write_packed(piece.at, data, packed, cluster),
            _ => self.write(piece.at, data),
        };
        self.written(shared, piece);
        done.or_else(|error| fail(&format!("error while writing at byte {}", piece.at), &error))
    }

    /// A piece is done: the next one's turn, not before the rate allows it.
    fn written(&self, shared: &Shared, piece: Piece) {
        if let Some(rate) = self.rate.as_ref().filter(|_| !piece.zero) {
            rate.wait(true, piece.len);
        }
        if self.in_order {
            *shared.turn.lock() = piece.turn + 1;
            shared.moved.notify_all();
        }
    }

    /// Lets the system copy; `false`: it cannot, or the bytes do not lie in files as they are.
    fn copy_range(&self, at: u64, size: usize) -> io::Result<bool> {
        let Some((node, within, left)) = self.source(at) else { return Ok(false) };
        let len = size as u64;
        if left < len {
            return Ok(false);
        }
        let from = node.driver().resolve(within, len, false);
        let to = self.to.driver().resolve(at, len, true);
        let (Some(from), Some(to)) = (from, to) else { return Ok(false) };
        if from.align > 1 || to.align > 1 {
            return Ok(false);
        }
        let mut done = 0;
        while done < size {
            let back = done as u64;
            let (a, b) = (from.at + back, to.at + back);
            match host::copy_range(&*from.file, a, &*to.file, b, size - done) {
                // The end of the source, or a system that cannot: the other way begins anew.
                Ok(0) => return Ok(false),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.raw_os_error(), Some(18 | 22 | 38 | 95)) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn write_zero(&self, at: u64, len: u64) -> io::Result<()> {
        let driver = self.to.driver();
        if self.sparse > 0 {
            return driver.write_zeroes(at, len, true);
        }
        let zeroes = vec![0; usize::try_from(len.min(PIECE)).unwrap_or(0)];
        let mut done = 0;
        while done < len {
            let n = usize::try_from(len - done).unwrap_or(usize::MAX).min(zeroes.len());
            driver.write(at + done, zeroes.get(..n).unwrap_or_default())?;
            done += n as u64;
        }
        Ok(())
    }

    /// Writes what is not zero.
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let driver = self.to.driver();
        if self.sparse == 0 {
            return driver.write(at, data);
        }
        let step = usize::try_from(self.sparse).unwrap_or(4096).max(512);
        let put = |zero: bool, from: usize, to: usize| {
            let place = at + from as u64;
            match zero {
                true if self.is_zero && !self.has_backing => Ok(()),
                true => driver.write_zeroes(place, (to - from) as u64, true),
                false => driver.write(place, data.get(from..to).unwrap_or_default()),
            }
        };
        let mut run: Option<(bool, usize)> = None;
        for (n, chunk) in data.chunks(step).enumerate() {
            let zero = is_zero(chunk);
            match run {
                Some((before, _)) if before == zero => {}
                Some((before, from)) => {
                    put(before, from, n * step)?;
                    run = Some((zero, n * step));
                }
                None => run = Some((zero, 0)),
            }
        }
        run.map_or(Ok(()), |(zero, from)| put(zero, from, data.len()))
    }

    /// Clusters of a piece, compressed; `None`: it does not get smaller.
    fn pack(&self, data: &[u8], cluster: u64) -> io::Result<Vec<Option<Vec<u8>>>> {
        let one = |chunk: &[u8]| {
            if self.sparse > 0 && is_zero(chunk) {
                Ok(Some(Vec::new()))
            } else {
                self.to.driver().pack(chunk)
            }
        };
        data.chunks(usize::try_from(cluster).unwrap_or(65536)).map(one).collect()
    }

    fn write_packed(
        &self,
        at: u64,
        data: &[u8],
        packed: Vec<Option<Vec<u8>>>,
        cluster: u64,
    ) -> io::Result<()> {
        let chunks = data.chunks(usize::try_from(cluster).unwrap_or(65536));
        let mut place = at;
        for (chunk, packed) in chunks.zip(packed) {
            match packed {
                Some(packed) if packed.is_empty() => {
                    if !self.is_zero || self.has_backing {
                        self.to.driver().write_zeroes(place, chunk.len() as u64, true)?;
                    }
                }
                Some(packed) => self.to.driver().write_packed(place, &packed)?,
                None => self.to.driver().write(place, chunk)?,
            }
            place += chunk.len() as u64;
        }
        Ok(())
    }
}
