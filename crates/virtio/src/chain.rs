//! A chain of descriptors: what the driver makes available at once.
//!
//! Descriptors are read once, checked and turned into pieces of RAM when the chain is
//! taken, so that what the driver changes later changes nothing and devices can hand the
//! pieces to the host's vectored calls without copying ([`Chain::readable`]).

use std::sync::Arc;

use device::DmaView;
use memory::RamSlice;

use crate::mem::{self, Bad};
use crate::queue::Queue;

/// Most descriptors in one chain, as the peer has it.
pub(crate) const MAX_DESCRIPTORS: usize = 1024;

// 2.7.5 and 2.8.6: flags of descriptors.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A descriptor as both ring formats have it.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    /// Next descriptor (split) or buffer id (packed).
    pub(crate) extra: u16,
}

impl Descriptor {
    /// Split: address, length, flags, next.
    pub(crate) fn split(view: &mut DmaView, at: u64) -> Result<Descriptor, Bad> {
        let mut bytes = [0; 16];
        mem::read(view, at, &mut bytes)?;
        let [low, high] = bytes.as_chunks::<8>().0 else { return Err(Bad("a short descriptor")) };
        let [a, b, c, d, e, f, g, h] = *high;
        Ok(Descriptor {
            addr: u64::from_le_bytes(*low),
            len: u32::from_le_bytes([a, b, c, d]),
            flags: u16::from_le_bytes([e, f]),
            extra: u16::from_le_bytes([g, h]),
        })
    }

    /// Packed: address, length, id, flags.
    pub(crate) fn packed(view: &mut DmaView, at: u64) -> Result<Descriptor, Bad> {
        let d = Descriptor::split(view, at)?;
        Ok(Descriptor { flags: d.extra, extra: d.flags, ..d })
    }
}

/// The buffers of a chain while its descriptors are read.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Head of the chain (split) or buffer id (packed).
    pub(crate) id: u16,
    /// Ring entries it takes (packed).
    pub(crate) entries: u16,
    descriptors: usize,
    readable: Vec<RamSlice>,
    writable: Vec<RamSlice>,
    total: u64,
    /// Address, length and direction of each, for saving the chain.
    pub(crate) listed: Vec<(u64, u32, bool)>,
}

impl Buffers {
    pub(crate) fn of(id: u16) -> Buffers {
        Buffers { id, entries: 1, ..Buffers::default() }
    }

    /// A chain from its saved form.
    pub(crate) fn listed(
        view: &mut DmaView,
        (id, entries): (u16, u16),
        list: &[(u64, u32, bool)],
    ) -> Result<Buffers, Bad> {
        let mut buffers = Buffers { entries, ..Buffers::of(id) };
        for (addr, len, write) in list {
            let flags = if *write { WRITE } else { 0 };
            buffers.add(view, Descriptor { addr: *addr, len: *len, flags, extra: 0 })?;
        }
        Ok(buffers)
    }

    pub(crate) fn add(&mut self, view: &mut DmaView, d: Descriptor) -> Result<(), Bad> {
        self.descriptors += 1;
        if self.descriptors > MAX_DESCRIPTORS {
            return Err(Bad("a descriptor chain is too long or loops"));
        }
        if d.len == 0 {
            return Err(Bad("zero sized buffers are not allowed"));
        }
        // 2.7.4, 2.8.5: no more than 2^32 bytes in a chain, or `used.len` could not say it.
        self.total += u64::from(d.len);
        if self.total > 1 << 32 {
            return Err(Bad("a descriptor chain has more than 4 GiB"));
        }
        let write = d.flags & WRITE != 0;
        if !write && !self.writable.is_empty() {
            return Err(Bad("incorrect order for descriptors"));
        }
        let list = if write { &mut self.writable } else { &mut self.readable };
        let mapped = view.map(d.addr, d.len.into(), write, list);
        self.listed.push((d.addr, d.len, write));
        mapped.map_err(|_| Bad("a buffer is not RAM"))
    }

    /// Adds the descriptors of an indirect table (2.7.5.3, 2.8.7).
    pub(crate) fn add_indirect(
        &mut self,
        view: &mut DmaView,
        table: Descriptor,
        packed: bool,
    ) -> Result<(), Bad> {
        let count = u64::from(table.len) / 16;
        if count == 0 || !u64::from(table.len).is_multiple_of(16) {
            return Err(Bad("invalid size for indirect buffer table"));
        }
        let mut index = 0;
        // `add` ends it at the latest.
        loop {
            let at = table.addr.checked_add(index * 16).ok_or(Bad("an indirect table wraps"))?;
            let d =
                if packed { Descriptor::packed(view, at)? } else { Descriptor::split(view, at)? };
            if d.flags & INDIRECT != 0 {
                return Err(Bad("an indirect table in an indirect table"));
            }
            self.add(view, d)?;
            index = if packed {
                index + 1
            } else if d.flags & NEXT == 0 {
                return Ok(());
            } else if u64::from(d.extra) < count {
                d.extra.into()
            } else {
                return Err(Bad("an indirect table's next is beyond its end"));
            };
            if index >= count {
                return Ok(());
            }
        }
    }
}

fn total(slices: &[RamSlice]) -> usize {
    // At most 4 GiB, checked in `add`.
    slices.iter().map(RamSlice::len).sum()
}

/// Buffers the driver made available together; given back with `Queue::push`.
///
/// A chain that is dropped is never given back: devices do that when they are stopped.
pub struct Chain {
    buffers: Buffers,
    queue: Arc<Queue>,
    pub(crate) epoch: u64,
    pub(crate) ticket: u64,
    settled: bool,
}

impl Chain {
    pub(crate) fn new(buffers: Buffers, queue: Arc<Queue>, epoch: u64, ticket: u64) -> Chain {
        Chain { buffers, queue, epoch, ticket, settled: false }
    }

    pub(crate) fn settle(&mut self) {
        self.settled = true;
    }

    pub(crate) fn entries(&self) -> u16 {
        self.buffers.entries
    }

    /// Head index or buffer id, for logs.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.buffers.id
    }

    /// The pieces of RAM the device may read, in order.
    #[must_use]
    pub fn readable(&self) -> &[RamSlice] {
        &self.buffers.readable
    }

    /// The pieces of RAM the device may write, in order.
    #[must_use]
    pub fn writable(&self) -> &[RamSlice] {
        &self.buffers.writable
    }

    /// Bytes the device may read.
    #[must_use]
    pub fn readable_len(&self) -> usize {
        total(&self.buffers.readable)
    }

    /// Bytes the device may write.
    #[must_use]
    pub fn writable_len(&self) -> usize {
        total(&self.buffers.writable)
    }

    /// Copies from the readable part, `skip` bytes in; how many were copied.
    pub fn read(&self, skip: usize, out: &mut [u8]) -> usize {
        let mut done: usize = 0;
        for piece in pieces(&self.buffers.readable, skip, out.len()) {
            let Some(rest) = out.get_mut(done..) else { break };
            done += piece.read(rest);
        }
        done
    }

    /// Copies into the writable part, `skip` bytes in; how many were copied.
    pub fn write(&self, skip: usize, data: &[u8]) -> usize {
        let mut done: usize = 0;
        for piece in pieces(&self.buffers.writable, skip, data.len()) {
            let Some(rest) = data.get(done..) else { break };
            done += piece.write(rest);
        }
        done
    }

    /// Gives it back with nothing written, and interrupts.
    pub fn give_back(self) {
        let queue = self.queue.clone();
        queue.push(self, 0);
        queue.signal();
    }

    /// The first bytes of the readable part; fewer when it is shorter.
    #[must_use]
    pub fn read_up_to(&self, limit: usize) -> Vec<u8> {
        let mut out = vec![0; self.readable_len().min(limit)];
        let n = self.read(0, &mut out);
        out.truncate(n);
        out
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if !self.settled {
            self.queue.forget(self.epoch, self.ticket);
        }
    }
}

/// The bytes `skip..skip + len` of a list of pieces, for instance data behind a header.
#[must_use]
pub fn pieces(slices: &[RamSlice], mut skip: usize, mut len: usize) -> Vec<RamSlice> {
    let mut out = Vec::new();
    for slice in slices {
        if len == 0 {
            break;
        }
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let part = slice.part(skip, len);
        skip = 0;
        len -= part.len();
        out.push(part);
    }
    out
}
