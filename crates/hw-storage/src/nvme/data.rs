//! Where a command's data is: physical region pages and scatter gather lists.
//!
//! Both become pieces of guest RAM of exactly the transfer's length. Lists are read piece by piece
//! and bounded by the length, so a loop of segments ends. Not modelled: data in the controller's
//! buffers, bit buckets, metadata, descriptors with keys.
//! Source: NVM Express Base 2.0, sections 4.1.1 and 4.1.2.

use device::DmaView;
use guest_ram::RamSlice;

use super::Command;
use super::status::{self, Status};

/// Most descriptors that are looked at for one command.
const MOST: usize = 1 << 16;

fn word(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + 8).and_then(|b| b.first_chunk());
    part.map_or(0, |b| u64::from_le_bytes(*b))
}

fn load(view: &mut DmaView, at: u64, len: usize) -> Result<Vec<u8>, Status> {
    let mut slices = Vec::new();
    view.map(at, len as u64, false, &mut slices).map_err(|_| status::TRANSFER)?;
    let mut out = vec![0; len];
    let mut done = 0;
    for slice in &slices {
        done += out.get_mut(done..).map_or(0, |rest| slice.read(rest));
    }
    Ok(out)
}

/// The pieces of a command's transfer; `write` if the guest's memory is written.
pub(super) fn pieces(
    view: &mut DmaView,
    command: &Command,
    (len, page, write): (u64, u64, bool),
) -> Result<Vec<RamSlice>, Status> {
    let mut out = Vec::new();
    match command.flags >> 6 {
        0 => regions(view, command, (len, page, write), &mut out)?,
        1 | 2 if command.queue == 0 => return Err(status::FIELD),
        1 | 2 => list(view, command, (len, write), &mut out)?,
        _ => return Err(status::FIELD),
    }
    Ok(out)
}

/// 4.1.1: two entries, or one and a list of whole pages.
fn regions(
    view: &mut DmaView,
    command: &Command,
    (len, page, write): (u64, u64, bool),
    out: &mut Vec<RamSlice>,
) -> Result<(), Status> {
    let (first, second) = (command.prp1, command.prp2);
    let mut map = |view: &mut DmaView, at: u64, n: u64| {
        view.map(at, n, write, out).map_err(|_| status::TRANSFER)
    };
    let head = (page - first % page).min(len);
    map(view, first, head)?;
    let mut rest = len - head;
    if rest == 0 {
        return Ok(());
    }
    if rest <= page {
        if !second.is_multiple_of(page) {
            return Err(status::OFFSET);
        }
        return map(view, second, rest);
    }
    if !second.is_multiple_of(8) {
        return Err(status::OFFSET);
    }
    let mut place = second;
    while rest > 0 {
        // As many entries as fit into the list's page; the last one leads on if more are needed.
        let room = (page - place % page) / 8;
        let needed = rest.div_ceil(page);
        let entries = load(view, place, usize::try_from(room.min(needed) * 8).unwrap_or(0))?;
        let whole = if needed > room { room - 1 } else { needed };
        for index in 0..whole {
            let at = word(&entries, usize::try_from(index * 8).unwrap_or(0));
            if !at.is_multiple_of(page) {
                return Err(status::OFFSET);
            }
            let n = rest.min(page);
            map(view, at, n)?;
            rest -= n;
        }
        if rest > 0 {
            let next = word(&entries, usize::try_from(whole * 8).unwrap_or(0));
            if !next.is_multiple_of(page) {
                return Err(status::OFFSET);
            }
            place = next;
        }
    }
    Ok(())
}

// 4.1.2.1: types of descriptors.
const DATA: u8 = 0;
const SEGMENT: u8 = 2;
const LAST_SEGMENT: u8 = 3;

struct Descriptor {
    at: u64,
    len: u64,
    kind: u8,
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    let [.., kind] = word(bytes, 8).to_le_bytes();
    Descriptor { at: word(bytes, 0), len: word(bytes, 8) & 0xffff_ffff, kind }
}

fn list(
    view: &mut DmaView,
    command: &Command,
    (len, write): (u64, bool),
    out: &mut Vec<RamSlice>,
) -> Result<(), Status> {
    let mut rest = len;
    let mut first = command.prp1.to_le_bytes().to_vec();
    first.extend(command.prp2.to_le_bytes());
    let mut seen = 0;
    let mut segment = vec![first];
    loop {
        let count = segment.len();
        let mut next = None;
        for (index, bytes) in segment.iter().enumerate() {
            let d = descriptor(bytes);
            seen += 1;
            match d.kind >> 4 {
                _ if seen > MOST => return Err(status::SGL_COUNT),
                DATA if d.kind & 15 == 0 => {
                    let n = d.len.min(rest);
                    if n > 0 {
                        view.map(d.at, n, write, out).map_err(|_| status::TRANSFER)?;
                    }
                    rest -= n;
                }
                SEGMENT | LAST_SEGMENT if index + 1 == count => next = Some(d),
                SEGMENT | LAST_SEGMENT => return Err(status::SGL_SEGMENT),
                _ => return Err(status::SGL_TYPE),
            }
        }
        let Some(d) = next.filter(|_| rest > 0) else { break };
        if d.len == 0 || !d.len.is_multiple_of(16) || d.len > MOST as u64 * 16 {
            return Err(status::SGL_SEGMENT);
        }
        let bytes = load(view, d.at, usize::try_from(d.len).unwrap_or(0))?;
        segment = bytes.chunks(16).map(<[u8]>::to_vec).collect();
    }
    if rest > 0 { Err(status::SGL_LENGTH) } else { Ok(()) }
}
