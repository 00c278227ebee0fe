//! A chain of descriptors: what the driver makes available at once.

use device::Dma;

use crate::mem::{self, Bad};

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
    pub(crate) fn split(dma: &Dma, at: u64) -> Result<Descriptor, Bad> {
        let (addr, word) = Descriptor::words(dma, at)?;
        let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
        let flags = u16::from_le_bytes([e, f]);
        let extra = u16::from_le_bytes([g, h]);
        Ok(Descriptor { addr, len: u32::from_le_bytes([a, b, c, d]), flags, extra })
    }

    /// Packed: address, length, id, flags.
    pub(crate) fn packed(dma: &Dma, at: u64) -> Result<Descriptor, Bad> {
        let d = Descriptor::split(dma, at)?;
        Ok(Descriptor { flags: d.extra, extra: d.flags, ..d })
    }

    fn words(dma: &Dma, at: u64) -> Result<(u64, u64), Bad> {
        let mut bytes = [0; 16];
        mem::read(dma, at, &mut bytes)?;
        let [low, high] = bytes.as_chunks::<8>().0 else { return Err(Bad("a short descriptor")) };
        Ok((u64::from_le_bytes(*low), u64::from_le_bytes(*high)))
    }
}

#[derive(Clone, Copy, Debug)]
struct Span {
    addr: u64,
    len: u32,
}

/// Buffers the driver made available together; given back with `Queue::push`.
pub struct Chain {
    /// Head of the chain (split) or buffer id (packed).
    pub(crate) id: u16,
    /// Ring entries it takes (packed).
    pub(crate) entries: u16,
    dma: Dma,
    readable: Vec<Span>,
    writable: Vec<Span>,
}

impl Chain {
    pub(crate) fn new(dma: &Dma, id: u16) -> Chain {
        let dma = dma.clone();
        Chain { id, entries: 1, dma, readable: Vec::new(), writable: Vec::new() }
    }

    pub(crate) fn add(&mut self, d: Descriptor) -> Result<(), Bad> {
        if self.readable.len() + self.writable.len() >= MAX_DESCRIPTORS {
            return Err(Bad("a chain is too long or loops"));
        }
        let span = Span { addr: d.addr, len: d.len };
        if d.flags & WRITE != 0 {
            self.writable.push(span);
        } else if self.writable.is_empty() {
            self.readable.push(span);
        } else {
            return Err(Bad("a readable buffer follows a writable one"));
        }
        Ok(())
    }

    fn total(spans: &[Span]) -> usize {
        // At most 1024 lengths of 32 bits.
        spans.iter().map(|s| s.len as usize).sum()
    }

    /// Head index or buffer id, for saved state.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Bytes the device may read.
    #[must_use]
    pub fn readable_len(&self) -> usize {
        Chain::total(&self.readable)
    }

    /// Bytes the device may write.
    #[must_use]
    pub fn writable_len(&self) -> usize {
        Chain::total(&self.writable)
    }

    /// Copies from the readable part, `skip` bytes in; how many were copied.
    pub fn read(&self, skip: usize, out: &mut [u8]) -> usize {
        let mut done: usize = 0;
        for (addr, n) in pieces(&self.readable, skip, out.len()) {
            let Some(part) = out.get_mut(done..done + n) else { break };
            if mem::read(&self.dma, addr, part).is_err() {
                trace::guest_error!("virtio: a buffer at {addr:#x} is not RAM");
                break;
            }
            done += n;
        }
        done
    }

    /// Copies into the writable part, `skip` bytes in; how many were copied.
    pub fn write(&self, skip: usize, data: &[u8]) -> usize {
        let mut done: usize = 0;
        for (addr, n) in pieces(&self.writable, skip, data.len()) {
            let Some(part) = data.get(done..done + n) else { break };
            if mem::write(&self.dma, addr, part).is_err() {
                trace::guest_error!("virtio: a buffer at {addr:#x} is not RAM");
                break;
            }
            done += n;
        }
        done
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

/// Addresses and lengths of the bytes `skip..skip+len` of the spans.
fn pieces(spans: &[Span], mut skip: usize, mut len: usize) -> Vec<(u64, usize)> {
    let mut out = Vec::new();
    for span in spans {
        let size = span.len as usize;
        if skip >= size {
            skip -= size;
            continue;
        }
        let n = (size - skip).min(len);
        if n == 0 {
            break;
        }
        out.push((span.addr.wrapping_add(skip as u64), n));
        skip = 0;
        len -= n;
    }
    out
}
