//! MODE SENSE and MODE SELECT (SPC-5, 6.14 and 6.11): pages of settings.
//!
//! Caching (08), error recovery (01), rigid and flexible geometry (04, 05) and for CD drives capabilities (2A) and
//! audio (0E). Only the write cache can be set. Not here: saved pages, sub-pages.

use std::sync::atomic::Ordering;

use crate::cdb::number;
use crate::disk::Disk;
use crate::{Sense, Task};

/// Cylinders of 16 heads with 63 sectors.
fn cylinders(disk: &Disk) -> u64 {
    (disk.backend.len() / (disk.block() * 16 * 63)).clamp(2, 16383)
}

fn page(disk: &Disk, code: u8, changeable: bool) -> Option<Vec<u8>> {
    let cached = disk.backend.write_cache.load(Ordering::Relaxed);
    let mut out = match code {
        1 => {
            let mut out = vec![0; 10];
            out[0] = 0x80;
            if disk.about.cd {
                out[1] = 0x20;
            }
            out
        }
        4 if !disk.about.cd => {
            let cylinders = cylinders(disk);
            let [.., a, b, c] = cylinders.to_be_bytes();
            let mut out = vec![a, b, c, 16, a, b, c, a, b, c, 0, 200, 0xff, 0xff, 0xff, 0, 0, 0];
            // Revolutions per minute.
            out.extend([0x15, 0x18, 0, 0]);
            out
        }
        5 if !disk.about.cd => {
            let [.., b, c] = cylinders(disk).to_be_bytes();
            let [.., d, e] = disk.block().to_be_bytes();
            // Transfer rate, heads, sectors, bytes of a sector; cylinders, also those from where on
            // writing differs; steps and motor times; at the end turns per minute.
            let mut out = vec![0x13, 0x88, 16, 63, d, e, b, c, b, c, b, c, 0, 1, 1, 0, 1, 1, 1];
            out.extend([0, 0, 0, 0, 0, 0, 0, 0x15, 0x18, 0, 0]);
            out
        }
        8 => {
            let mut out = vec![0; 18];
            // WCE is bit 2.
            out[0] = if cached || changeable { 4 } else { 0 };
            return Some(header(code, if changeable { only_cache(out) } else { out }));
        }
        0x0e if disk.about.cd => vec![4, 0, 0, 0, 0, 0, 1, 0xff, 2, 0xff, 0, 0, 0, 0],
        0x2a if disk.about.cd => {
            let locked = if disk.is_locked() { 2 } else { 0 };
            vec![
                0x3b,
                0,
                0x7f,
                0xff,
                0x2d | locked,
                0,
                0x10,
                0x90,
                0,
                2,
                8,
                0,
                0x10,
                0x90,
                0,
                0,
                0x10,
                0x90,
                0,
                0,
                0,
                0,
            ]
        }
        _ => return None,
    };
    if changeable {
        out.fill(0);
    }
    Some(header(code, out))
}

fn only_cache(mut page: Vec<u8>) -> Vec<u8> {
    for byte in page.iter_mut().skip(1) {
        *byte = 0;
    }
    page
}

fn header(code: u8, data: Vec<u8>) -> Vec<u8> {
    let mut out = vec![code, u8::try_from(data.len()).unwrap_or(u8::MAX)];
    out.extend(data);
    out
}

pub(crate) fn sense(disk: &Disk, task: Task) {
    let long = task.byte(0) == 0x5a;
    let (code, control) = (task.byte(2) & 0x3f, task.byte(2) >> 6);
    let descriptors = task.byte(1) & 8 == 0 && !disk.about.cd;
    let allowed =
        usize::try_from(if long { number(&task.cdb, 7, 2) } else { number(&task.cdb, 4, 1) });
    if control == 3 {
        return disk.fail(task, Sense(5, 0x39, 0));
    }
    let mut pages = Vec::new();
    let wanted: &[u8] = if code == 0x3f { &[1, 4, 5, 8, 0x0e, 0x2a] } else { &[code] };
    for code in wanted {
        pages.extend(page(disk, *code, control == 1).unwrap_or_default());
    }
    if pages.is_empty() && code != 0 {
        return disk.fail(task, Sense::INVALID_FIELD);
    }
    let mut specific = if disk.about.cd { 0 } else { u8::from(disk.about.dpofua) << 4 };
    if !disk.about.cd && disk.is_read_only() {
        specific |= 0x80;
    }
    let mut descriptor = Vec::new();
    if descriptors && disk.has_medium() {
        let blocks = disk.blocks();
        let count = if blocks > 0xff_ffff { 0 } else { blocks };
        let [.., a, b, c] = count.to_be_bytes();
        let [.., d, e, f] = disk.block().to_be_bytes();
        descriptor = vec![0, a, b, c, 0, d, e, f];
    }
    let lengths = u8::try_from(descriptor.len()).unwrap_or(0);
    let mut out = if long {
        let [high, low] =
            u16::try_from(6 + descriptor.len() + pages.len()).unwrap_or(u16::MAX).to_be_bytes();
        vec![high, low, 0, specific, 0, 0, 0, lengths]
    } else {
        let len = u8::try_from(3 + descriptor.len() + pages.len()).unwrap_or(u8::MAX);
        vec![len, 0, specific, lengths]
    };
    out.extend(descriptor);
    out.extend(pages);
    task.give(&out, allowed.unwrap_or(0));
}

pub(crate) fn select(disk: &Disk, task: Task) {
    let long = task.byte(0) == 0x55;
    let data = task.sent(4096);
    if task.byte(1) & 0x11 != 0x10 {
        return disk.fail(task, Sense::INVALID_FIELD);
    }
    let skip = if long { 8 + number(&data, 6, 2) } else { 4 + number(&data, 3, 1) };
    let mut at = usize::try_from(skip).unwrap_or(usize::MAX);
    let mut cache = None;
    while let Some(head) = data.get(at..at.saturating_add(2)) {
        let &[code, len] = head else { break };
        let end = at + 2 + usize::from(len);
        let Some(given) = data.get(at + 2..end) else {
            return disk.fail(task, Sense::PARAMETER_LENGTH);
        };
        let (Some(now), Some(mask)) =
            (page(disk, code & 0x3f, false), page(disk, code & 0x3f, true))
        else {
            return disk.fail(task, Sense::INVALID_PARAMETER);
        };
        let differs = |at: usize| {
            let of = |page: &[u8]| page.get(at + 2).copied().unwrap_or(0);
            let new = given.get(at).copied().unwrap_or(0);
            (new ^ of(&now)) & !of(&mask) != 0
        };
        if now.len() != given.len() + 2 || (0..given.len()).any(differs) {
            return disk.fail(task, Sense::INVALID_PARAMETER);
        }
        if code & 0x3f == 8 {
            cache = given.first().map(|byte| byte & 4 != 0);
        }
        at = end;
    }
    if let Some(on) = cache {
        disk.backend.write_cache.store(on, Ordering::Relaxed);
    }
    task.finish(crate::Outcome::good(data.len() as u64));
}
