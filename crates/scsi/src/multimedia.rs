//! Commands of CD drives (MMC-6): what medium is in, and whether it was changed.
//!
//! A medium is one data track. Not here: audio, writing, keys of DVDs, READ CD of raw sectors.

use crate::cdb::number;
use crate::disk::Disk;
use crate::{Sense, Task};

/// Whether a command is one of these.
pub(crate) fn knows(opcode: u8) -> bool {
    matches!(opcode, 0x43 | 0x46 | 0x4a | 0x51 | 0xbd)
}

pub(crate) fn execute(disk: &Disk, task: Task) {
    let allowed = usize::try_from(match task.byte(0) {
        0xbd => number(&task.cdb, 8, 2),
        _ => number(&task.cdb, 7, 2),
    });
    let allowed = allowed.unwrap_or(0);
    match task.byte(0) {
        0x43 => toc(disk, task, allowed),
        0x46 => task.give(&configuration(disk), allowed),
        0x4a => event_status(disk, task, allowed),
        0x51 if disk.has_medium() => {
            // Complete, one session, one track.
            let mut out = vec![0, 32, 0x0e, 1, 1, 1, 1, 0x20];
            out.resize(34, 0);
            task.give(&out, allowed);
        }
        0x51 => disk.fail(task, Sense::NO_MEDIUM),
        // MECHANISM STATUS: one slot.
        _ => task.give(&[0, 0, 0, 0, 0, 1, 0, 0], allowed),
    }
}

/// An address as minutes, seconds and frames, or as it is.
fn place(block: u64, msf: bool) -> [u8; 4] {
    let block = u32::try_from(block).unwrap_or(u32::MAX);
    if !msf {
        return block.to_be_bytes();
    }
    let frames = block.saturating_add(150);
    let byte = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    [0, byte(frames / 4500), byte(frames / 75 % 60), byte(frames % 75)]
}

fn toc(disk: &Disk, task: Task, allowed: usize) {
    if !disk.has_medium() {
        return disk.fail(task, Sense::NO_MEDIUM);
    }
    let msf = task.byte(1) & 2 != 0;
    let (format, start) = (task.byte(2) & 0xf, task.byte(6));
    let format = if format == 0 { task.byte(9) >> 6 } else { format };
    let mut out = vec![0, 0, 1, 1];
    match format {
        0 => {
            if start > 1 && start != 0xaa {
                return disk.fail(task, Sense::INVALID_FIELD);
            }
            if start <= 1 {
                out.extend([0, 0x14, 1, 0]);
                out.extend(place(0, msf));
            }
            out.extend([0, 0x16, 0xaa, 0]);
            out.extend(place(disk.blocks(), msf));
        }
        1 => {
            out.extend([0, 0x14, 1, 0]);
            out.extend(place(0, msf));
        }
        _ => return disk.fail(task, Sense::INVALID_FIELD),
    }
    let len = u16::try_from(out.len() - 2).unwrap_or(0).to_be_bytes();
    out.splice(0..2, len);
    task.give(&out, allowed);
}

fn configuration(disk: &Disk) -> Vec<u8> {
    // Up to 80 minutes it is a CD, else a DVD.
    let is_cd = disk.blocks() <= 80 * 60 * 75;
    let current = |on: bool| u8::from(on && disk.has_medium());
    let profile: u8 = match (disk.has_medium(), is_cd) {
        (false, _) => 0,
        (true, true) => 8,
        (true, false) => 0x10,
    };
    let mut out = vec![0, 0, 0, 0, 0, 0, 0, profile];
    out.extend([0, 0, 3, 8, 0, 0x10, current(!is_cd), 0, 0, 8, current(is_cd), 0]);
    // Core: SCSI; removable medium: tray, eject, lock.
    out.extend([0, 1, 0x0b, 8, 0, 0, 0, 1, 1, 0, 0, 0]);
    out.extend([0, 3, 7, 4, 0x39, 0, 0, 0]);
    let len = u32::try_from(out.len() - 4).unwrap_or(0).to_be_bytes();
    out.splice(0..4, len);
    out
}

fn event_status(disk: &Disk, task: Task, allowed: usize) {
    if task.byte(1) & 1 == 0 {
        // Only polling.
        return disk.fail(task, Sense::INVALID_FIELD);
    }
    if task.byte(4) & 0x10 == 0 {
        return task.give(&[0, 2, 0x80, 0x10], allowed);
    }
    let status = u8::from(disk.is_open()) | u8::from(disk.has_medium()) << 1;
    // The peer counts what follows the header; MMC-6, 6.7.2.2 counts its rest as well.
    task.give(&[0, 4, 4, 0x10, disk.take_event(), status, 0, 0], allowed);
}
