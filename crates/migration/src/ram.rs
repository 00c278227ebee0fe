//! RAM blocks in a stream: runs of pages that are not all zero.
//!
//! Format (little-endian): for each run the number of its first page as `u64`, its pages as `u32`, and
//! their bytes; runs go upwards and do not touch the one before; a run of no pages ends the block.

use std::io;
use std::sync::Arc;

use guest_ram::{PAGE_SIZE, RamBlock};

use crate::seal::{Reader, Writer};
use crate::section::{self, Kind};
use crate::{Result, StreamError};

/// Pages that are looked at together.
const MANY: usize = 256;

fn page_size() -> usize {
    usize::try_from(PAGE_SIZE).unwrap_or(4096)
}

fn is_zero(page: &[u8]) -> bool {
    // In words, which the compiler makes wide ones of.
    let (words, rest) = page.as_chunks::<8>();
    words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
        && rest.iter().all(|byte| *byte == 0)
}

/// Writes a block; the guest does not run.
///
/// # Errors
/// What storing says.
pub fn save(w: &mut Writer<'_>, block: &RamBlock) -> io::Result<()> {
    section::write(w, Kind::Ram, block.name(), &block.len().to_le_bytes())?;
    let page = page_size();
    let mut bytes = vec![0; page * MANY];
    let mut at = 0;
    while at < block.len() {
        let n = usize::try_from(block.len() - at).unwrap_or(usize::MAX).min(bytes.len());
        let piece = bytes.get_mut(..n).unwrap_or_default();
        block.read(at, piece).map_err(|_| io::ErrorKind::InvalidInput)?;
        let first = at / PAGE_SIZE;
        let mut begin = None;
        let full: Vec<bool> = piece.chunks(page).map(|page| !is_zero(page)).collect();
        for (n, full) in full.iter().copied().chain([false]).enumerate() {
            match (begin, full) {
                (None, true) => begin = Some(n),
                (Some(from), false) => {
                    w.write(&(first + from as u64).to_le_bytes())?;
                    w.write(&u32::try_from(n - from).unwrap_or(0).to_le_bytes())?;
                    let end = (n * page).min(piece.len());
                    w.write(piece.get(from * page..end).unwrap_or_default())?;
                    begin = None;
                }
                _ => {}
            }
        }
        at += n as u64;
    }
    w.write(&[0; 12])
}

/// Whether what is read goes into the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is only checked.
    Check,
    /// It does.
    Apply,
}

/// Makes a range of a block zero and gives its memory back where that can be.
fn clear(block: &RamBlock, first: u64, end: u64) {
    let from = first * PAGE_SIZE;
    let len = (end * PAGE_SIZE).min(block.len()).saturating_sub(from);
    if len > 0 && block.discard(from, len).is_err() {
        _ = block.fill(from, len, 0);
    }
}

/// Reads the pages of a block whose section was read.
///
/// # Errors
/// The stream is damaged or of a block of another length.
pub fn load(r: &mut Reader<'_>, block: &Arc<RamBlock>, body: &[u8], mode: Mode) -> Result<()> {
    if body != block.len().to_le_bytes() {
        let found = body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (name, len) = (block.name(), block.len());
        return Err(StreamError::Mismatch(format!(
            "Size mismatch: {name}: {found:#x} != {len:#x}"
        )));
    }
    let pages = block.len().div_ceil(PAGE_SIZE);
    let page = page_size();
    let mut bytes = vec![0; page * MANY];
    let mut next = 0;
    loop {
        let mut head = [0; 12];
        r.read(&mut head)?;
        let first = head.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let count = head.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if count == 0 {
            break;
        }
        let end = first.checked_add(count.into()).filter(|end| *end <= pages && first >= next);
        let end = end.ok_or(StreamError::Damaged("pages that the block does not have"))?;
        if mode == Mode::Apply {
            clear(block, next, first);
        }
        let mut at = first * PAGE_SIZE;
        let stop = (end * PAGE_SIZE).min(block.len());
        while at < stop {
            let n = usize::try_from(stop - at).unwrap_or(usize::MAX).min(bytes.len());
            let piece = bytes.get_mut(..n).unwrap_or_default();
            r.read(piece)?;
            if mode == Mode::Apply {
                _ = block.write(at, piece);
            }
            at += n as u64;
        }
        next = end;
    }
    if mode == Mode::Apply {
        clear(block, next, pages);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use guest_ram::RamOptions;

    use super::*;

    fn stream(block: &RamBlock) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |_: u64, bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        let mut w = Writer::new(&mut put).unwrap();
        save(&mut w, block).unwrap();
        w.finish().unwrap();
        out
    }

    fn back(bytes: &[u8], block: &Arc<RamBlock>, mode: Mode) -> Result<()> {
        let mut get = |at: u64, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            into.copy_from_slice(&bytes[at..at + into.len()]);
            Ok(())
        };
        let mut r = Reader::new(&mut get, bytes.len() as u64)?;
        let found = section::read(&mut r)?;
        assert_eq!((found.kind, found.name.as_str()), (Kind::Ram, "ram"));
        load(&mut r, block, &found.body, mode)?;
        r.finish()
    }

    #[test]
    fn blocks_come_back_and_old_bytes_go() {
        // Not a whole number of looks, and not one of pages.
        let len = (3 << 20) + 8192 + 512;
        let one = RamBlock::new("ram", len, RamOptions::default()).unwrap();
        for (at, byte) in [(0, 1), (4096 * 255, 2), (4096 * 256, 3), (1 << 21, 4), (len - 1, 5)] {
            one.write(at, &[byte]).unwrap();
        }
        let saved = stream(&one);
        assert!(saved.len() < 6 * 4096 + 500, "zero pages are left out: {}", saved.len());
        let two = RamBlock::new("ram", len, RamOptions::default()).unwrap();
        two.fill(0, len, 0xee).unwrap();
        back(&saved, &two, Mode::Check).unwrap();
        assert_eq!(two.load(0, 1).unwrap(), 0xee, "a check changes nothing");
        back(&saved, &two, Mode::Apply).unwrap();
        let all = |block: &RamBlock| {
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            block.read(0, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(all(&one), all(&two));
        let other = RamBlock::new("ram", len + 4096, RamOptions::default()).unwrap();
        assert!(matches!(back(&saved, &other, Mode::Check), Err(StreamError::Mismatch(_))));
    }

    #[test]
    fn runs_that_lie_are_refused() {
        let block = RamBlock::new("ram", 1 << 20, RamOptions::default()).unwrap();
        let run = |first: u64, count: u32| {
            let mut out = Vec::new();
            let mut put = |_: u64, bytes: &[u8]| {
                out.extend_from_slice(bytes);
                Ok(())
            };
            let mut w = Writer::new(&mut put).unwrap();
            section::write(&mut w, Kind::Ram, "ram", &(1u64 << 20).to_le_bytes()).unwrap();
            w.write(&4u64.to_le_bytes()).unwrap();
            w.write(&1u32.to_le_bytes()).unwrap();
            w.write(&[1; 4096]).unwrap();
            w.write(&first.to_le_bytes()).unwrap();
            w.write(&count.to_le_bytes()).unwrap();
            w.finish().unwrap();
            back(&out, &block, Mode::Check)
        };
        for (first, count) in
            [(256, 1), (255, 2), (u64::MAX, 1), (u64::MAX, u32::MAX), (4, 1), (0, 1)]
        {
            assert!(run(first, count).is_err(), "{first} {count}");
        }
    }
}
