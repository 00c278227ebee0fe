//! An Ethernet frame on its way, with the work that is left for whoever can do it best.

use memory::RamSlice;

/// The checksum is not there yet: fill it in from `csum_start` on (virtio 1.3, 5.1.6).
pub const NEEDS_CSUM: u8 = 1;
/// The checksum was checked.
pub const DATA_VALID: u8 = 2;

/// Kinds of segmentation that is left to do.
pub mod gso {
    /// None.
    pub const NONE: u8 = 0;
    /// TCP over IPv4.
    pub const TCPV4: u8 = 1;
    /// UDP fragmentation.
    pub const UDP: u8 = 3;
    /// TCP over IPv6.
    pub const TCPV6: u8 = 4;
    /// UDP segmentation.
    pub const UDP_L4: u8 = 5;
    /// The segment has ECN set.
    pub const ECN: u8 = 0x80;
}

/// What is left to do with a frame; the fields are those of the virtio network header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// One of [`gso`].
    pub gso: u8,
    /// Bytes of headers.
    pub header_len: u16,
    /// Bytes of payload per segment.
    pub segment: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where it is stored, from there.
    pub csum_offset: u16,
}

impl Offload {
    /// Bytes of the header without the number of buffers.
    pub const LEN: usize = 10;

    /// The header as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Offload::LEN] {
        let words = [self.header_len, self.segment, self.csum_start, self.csum_offset];
        let mut out = [0; Offload::LEN];
        let fields =
            [self.flags, self.gso].into_iter().chain(words.into_iter().flat_map(u16::to_le_bytes));
        for (to, from) in out.iter_mut().zip(fields) {
            *to = from;
        }
        out
    }

    /// Reads the header.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Offload::LEN]) -> Offload {
        let [flags, gso, a, b, c, d, e, f, g, h] = bytes;
        let word = |low, high| u16::from_le_bytes([low, high]);
        Offload {
            flags,
            gso,
            header_len: word(a, b),
            segment: word(c, d),
            csum_start: word(e, f),
            csum_offset: word(g, h),
        }
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.gso & !gso::ECN == gso::NONE && self.flags & NEEDS_CSUM == 0
    }
}

/// Where the bytes are.
#[derive(Clone, Copy)]
pub enum Bytes<'a> {
    /// In guest memory, which may change at any time: look at each byte once.
    Ram(&'a [RamSlice]),
    /// In memory of this process.
    Host(&'a [&'a [u8]]),
}

/// A frame: Ethernet header and payload, without checksum.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// What is left to do.
    pub offload: Offload,
    /// The bytes.
    pub bytes: Bytes<'a>,
}

impl<'a> Frame<'a> {
    /// A frame with nothing left to do.
    #[must_use]
    pub fn plain(parts: &'a [&'a [u8]]) -> Frame<'a> {
        Frame { offload: Offload::default(), bytes: Bytes::Host(parts) }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.bytes {
            Bytes::Ram(parts) => parts.iter().map(RamSlice::len).sum(),
            Bytes::Host(parts) => parts.iter().map(|part| part.len()).sum(),
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies from byte `skip` on; how many were copied.
    pub fn copy(&self, mut skip: usize, out: &mut [u8]) -> usize {
        let mut done: usize = 0;
        let mut next = |len: usize, take: &mut dyn FnMut(usize, &mut [u8]) -> usize| {
            if skip >= len {
                skip -= len;
                return;
            }
            if let Some(rest) = out.get_mut(done..) {
                done += take(skip, rest);
            }
            skip = 0;
        };
        match self.bytes {
            Bytes::Ram(parts) => {
                for part in parts {
                    next(part.len(), &mut |skip, out| part.part(skip, out.len()).read(out));
                }
            }
            Bytes::Host(parts) => {
                for part in parts {
                    next(part.len(), &mut |skip, out| {
                        let from = part.get(skip..).unwrap_or_default();
                        let n = from.len().min(out.len());
                        if let (Some(to), Some(from)) = (out.get_mut(..n), from.get(..n)) {
                            to.copy_from_slice(from);
                        }
                        n
                    });
                }
            }
        }
        done
    }

    /// All bytes, at most `limit`.
    #[must_use]
    pub fn to_vec(&self, limit: usize) -> Vec<u8> {
        let mut out = vec![0; self.len().min(limit)];
        let n = self.copy(0, &mut out);
        out.truncate(n);
        out
    }
}

/// Adds bytes to an Internet checksum (RFC 1071), beginning at an even place.
#[must_use]
pub fn sum(mut total: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_be_bytes(*word);
        total += (word >> 32) + (word & 0xffff_ffff);
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let word = u64::from_be_bytes(last);
    total + (word >> 32) + (word & 0xffff_ffff)
}

/// Folds a sum to 16 bits.
#[must_use]
pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    u16::try_from(total).unwrap_or(0xffff)
}

/// Fills in the checksum that `offload` says is left to do; nothing when it lies outside.
pub fn finish_checksum(offload: &mut Offload, frame: &mut [u8]) {
    if offload.flags & NEEDS_CSUM == 0 {
        return;
    }
    offload.flags &= !NEEDS_CSUM;
    let start = usize::from(offload.csum_start);
    let place = start + usize::from(offload.csum_offset);
    let Some(covered) = frame.get(start..) else { return };
    let value = match !fold(sum(0, covered)) {
        // UDP has no zero (RFC 768); for others the two zeros are one.
        0 => 0xffff,
        value => value,
    };
    if let Some(slot) = frame.get_mut(place..place + 2) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(0, &bytes)), 0xddf2);
        let odd = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0x12];
        assert_eq!(fold(sum(0, &odd)), fold(0xddf2 + 0x1200));
    }

    #[test]
    fn a_missing_checksum_is_filled_in_and_a_wild_place_is_left_alone() {
        let mut frame = [1, 2, 3, 4, 0, 0, 5, 6];
        let mut offload =
            Offload { flags: NEEDS_CSUM, csum_start: 2, csum_offset: 2, ..Offload::default() };
        finish_checksum(&mut offload, &mut frame);
        assert_eq!(fold(sum(0, &frame[2..])), 0xffff);
        assert!(offload.is_plain());
        for (start, offset) in [(7, 0), (9, 0), (0, 7), (u16::MAX, u16::MAX)] {
            let mut offload = Offload {
                flags: NEEDS_CSUM,
                csum_start: start,
                csum_offset: offset,
                ..Offload::default()
            };
            finish_checksum(&mut offload, &mut frame);
        }
    }

    #[test]
    fn copies_begin_and_end_anywhere() {
        let parts: [&[u8]; 3] = [&[0, 1], &[], &[2, 3, 4]];
        let frame = Frame::plain(&parts);
        assert_eq!(frame.to_vec(9), [0, 1, 2, 3, 4]);
        let mut out = [9; 3];
        assert_eq!(frame.copy(1, &mut out), 3);
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(frame.copy(4, &mut out), 1);
        assert_eq!(frame.copy(5, &mut out), 0);
    }

    #[test]
    fn headers_survive_the_way() {
        let offload = Offload {
            flags: 1,
            gso: gso::TCPV4,
            header_len: 54,
            segment: 1460,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(Offload::from_bytes(offload.to_bytes()), offload);
    }
}
