//! The container: pieces that each prove themselves and all before them.
//!
//! Format (little-endian): the stream is cut into pieces of [`PIECE`] bytes, the last one shorter. A
//! piece is the length of its data as `u32` (bit 31 set on the last one), 32 bytes of digest, the
//! data. The digest is SHA-256 over the digest of the piece before (zeroes before the first one),
//! the length word and the data. The data begins with [`MAGIC`].
//! Source: FIPS 180-4 for SHA-256; the rest is this program's own.

use std::io;

use sha2::{Digest as _, Sha256};

use crate::{Result, StreamError};

/// Bytes of a whole piece.
pub const PIECE: usize = 1 << 20;
/// What the data begins with; the last digit is the version of the whole format.
pub const MAGIC: &[u8; 16] = b"Tinamou state 1\n";

const HEAD: usize = 4 + 32;
const LAST: u32 = 1 << 31;

fn digest(before: &[u8; 32], word: u32, data: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(word.to_le_bytes());
    hash.update(data);
    hash.finalize().into()
}

/// Seals what is written to it and hands whole pieces on.
pub struct Writer<'a> {
    put: &'a mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    /// The piece at work, with room for its head.
    piece: Vec<u8>,
    before: [u8; 32],
    at: u64,
}

impl<'a> Writer<'a> {
    /// Begins a stream; `put` stores bytes at an offset and is called in order.
    ///
    /// # Errors
    /// What `put` says.
    pub fn new(put: &'a mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<Writer<'a>> {
        let mut piece = Vec::with_capacity(PIECE);
        piece.resize(HEAD, 0);
        let mut writer = Writer { put, piece, before: [0; 32], at: 0 };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// What storing says.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.piece.len() == PIECE {
                self.seal(0)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn seal(&mut self, flag: u32) -> io::Result<()> {
        let (head, data) = self.piece.split_at_mut(HEAD);
        let word = u32::try_from(data.len()).unwrap_or(0) | flag;
        self.before = digest(&self.before, word, data);
        let (length, sum) = head.split_at_mut(4);
        length.copy_from_slice(&word.to_le_bytes());
        sum.copy_from_slice(&self.before);
        (self.put)(self.at, &self.piece)?;
        self.at += self.piece.len() as u64;
        self.piece.truncate(HEAD);
        Ok(())
    }

    /// Ends the stream; its length in bytes.
    ///
    /// # Errors
    /// What storing says.
    pub fn finish(mut self) -> io::Result<u64> {
        self.seal(LAST)?;
        Ok(self.at)
    }
}

/// Reads a stream of known length and believes no byte before its piece is proved.
pub struct Reader<'a> {
    get: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    total: u64,
    at: u64,
    data: Vec<u8>,
    /// How much of `data` was read.
    used: usize,
    before: [u8; 32],
    last: bool,
}

impl<'a> Reader<'a> {
    /// Begins to read a stream of `total` bytes; `get` fills a buffer from an offset.
    ///
    /// # Errors
    /// It is no such stream.
    pub fn new(
        get: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
        total: u64,
    ) -> Result<Reader<'a>> {
        let (data, before) = (Vec::new(), [0; 32]);
        let mut reader = Reader { get, total, at: 0, data, used: 0, before, last: false };
        let mut magic = [0; MAGIC.len()];
        reader.read(&mut magic)?;
        if magic != *MAGIC {
            return Err(StreamError::Damaged("it is not one of this program"));
        }
        Ok(reader)
    }

    fn next_piece(&mut self) -> Result<()> {
        if self.last {
            return Err(StreamError::Damaged("it ends too early"));
        }
        let left = usize::try_from(self.total - self.at).unwrap_or(usize::MAX).min(PIECE);
        if left < HEAD {
            return Err(StreamError::Damaged("it ends too early"));
        }
        self.data.resize(left, 0);
        (self.get)(self.at, &mut self.data)?;
        let Some((head, data)) = self.data.split_at_checked(HEAD) else {
            return Err(StreamError::Damaged("it ends too early"));
        };
        let word = head.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let len = usize::try_from(word & !LAST).unwrap_or(usize::MAX);
        let is_last = self.at + left as u64 == self.total;
        if len != data.len() || (word & LAST != 0) != is_last {
            return Err(StreamError::Damaged("a piece has another length"));
        }
        self.before = digest(&self.before, word, data);
        if head.get(4..) != Some(self.before.as_slice()) {
            return Err(StreamError::Damaged("a piece has another checksum"));
        }
        self.at += left as u64;
        self.used = HEAD;
        self.last = is_last;
        Ok(())
    }

    /// Fills a buffer.
    ///
    /// # Errors
    /// The stream is damaged or ends.
    pub fn read(&mut self, mut into: &mut [u8]) -> Result<()> {
        while !into.is_empty() {
            if self.used >= self.data.len() {
                self.next_piece()?;
                continue;
            }
            let there = self.data.get(self.used..).unwrap_or_default();
            let n = there.len().min(into.len());
            let (now, later) = into.split_at_mut(n);
            now.copy_from_slice(there.get(..n).unwrap_or_default());
            self.used += n;
            into = later;
        }
        Ok(())
    }

    /// Ends the reading; bytes that are left are damage.
    ///
    /// # Errors
    /// There are.
    pub fn finish(self) -> Result<()> {
        if self.last && self.used == self.data.len() {
            return Ok(());
        }
        Err(StreamError::Damaged("there is more than belongs to it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |at: u64, bytes: &[u8]| {
            assert_eq!(at, out.len() as u64);
            out.extend_from_slice(bytes);
            Ok(())
        };
        let mut writer = Writer::new(&mut put).unwrap();
        for part in data.chunks(100_003) {
            writer.write(part).unwrap();
        }
        let total = writer.finish().unwrap();
        assert_eq!(total, out.len() as u64);
        out
    }

    fn opened(stream: &[u8], len: usize) -> Result<Vec<u8>> {
        let mut get = |at: u64, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            let from = stream.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(from);
            Ok(())
        };
        let mut reader = Reader::new(&mut get, stream.len() as u64)?;
        let mut data = vec![0; len];
        reader.read(&mut data)?;
        reader.finish()?;
        Ok(data)
    }

    #[test]
    fn streams_of_all_lengths_come_back() {
        for len in [0, 1, PIECE - HEAD - 17, PIECE - HEAD - 16, PIECE - HEAD - 15, 3 * PIECE + 5] {
            let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let stream = sealed(&data);
            assert_eq!(opened(&stream, len).unwrap(), data);
            assert!(opened(&stream, len + 1).is_err(), "one more");
            assert!(len == 0 || opened(&stream, len - 1).is_err(), "one less");
        }
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let data: Vec<u8> = (0..2 * PIECE).map(|n| (n % 241) as u8).collect();
        let good = sealed(&data);
        let mut seed = 7u64;
        for _ in 0..300 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut bad = good.clone();
            let at = usize::try_from(seed >> 24).unwrap() % bad.len();
            bad[at] ^= 1 << (seed >> 20 & 7);
            assert!(opened(&bad, data.len()).is_err(), "byte {at}");
        }
        // Heads, cut ends, swapped pieces.
        for at in (0..HEAD).chain(PIECE..PIECE + HEAD) {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            assert!(opened(&bad, data.len()).is_err(), "byte {at}");
        }
        for cut in [0, 1, HEAD, PIECE, PIECE + HEAD, good.len() - 1] {
            assert!(opened(&good[..cut], data.len()).is_err(), "cut at {cut}");
        }
        let mut swapped = good[PIECE..2 * PIECE].to_vec();
        swapped.extend(&good[..PIECE]);
        swapped.extend(&good[2 * PIECE..]);
        assert!(opened(&swapped, data.len()).is_err());
    }
}
