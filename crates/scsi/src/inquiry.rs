//! INQUIRY: what a unit is (SPC-5, 6.7), with its pages of vital product data (7.7).
//!
//! Pages 00, 80, 83, and for disks B0 (limits), B1 (characteristics), B2 (provisioning). Values
//! are those of QEMU's disks, so that a guest keeps its settings. Not here: pages of other types.

use crate::cdb::number;
use crate::disk::Disk;
use crate::{Sense, Task};

/// A text with blanks behind it.
fn padded(text: &str, len: usize) -> Vec<u8> {
    let mut out: Vec<u8> = text.bytes().take(len).collect();
    out.resize(len, b' ');
    out
}

fn standard(disk: &Disk) -> Vec<u8> {
    let about = &disk.about;
    let removable = if about.removable { 0x80 } else { 0 };
    // Response format 2; command queueing.
    let mut out = vec![disk.kind(), removable, about.version, 0x12, 31, 0, 0, 2];
    out.extend(padded(&about.vendor, 8));
    out.extend(padded(&about.product, 16));
    out.extend(padded(&about.revision, 4));
    out
}

fn identification(disk: &Disk) -> Vec<u8> {
    let about = &disk.about;
    let mut out = Vec::new();
    let mut add = |set: u8, kind: u8, data: &[u8]| {
        let len = data.len().min(255);
        out.extend([set, kind, 0, u8::try_from(len).unwrap_or(255)]);
        out.extend(data.get(..len).unwrap_or_default());
    };
    if !about.device_id.is_empty() {
        let id: Vec<u8> = about.device_id.bytes().take(255 - 8).collect();
        // ASCII, vendor specific.
        add(2, 0, &id);
    }
    if about.wwn != 0 {
        // Binary, NAA.
        add(1, 3, &about.wwn.to_be_bytes());
    }
    if about.port_wwn != 0 {
        add(0x61, 0x93, &about.port_wwn.to_be_bytes());
    }
    if about.port_index != 0 {
        let [high, low] = about.port_index.to_be_bytes();
        add(0x61, 0x94, &[0, 0, high, low]);
    }
    out
}

fn limits(disk: &Disk) -> Vec<u8> {
    let (conf, about) = (&disk.conf, &disk.about);
    let block = disk.block();
    let mut out = vec![0; 60];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = out.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    let blocks = |bytes: u64| u32::try_from(bytes / block).unwrap_or(u32::MAX);
    // WSNZ: no count of zero in WRITE SAME.
    put(0, &[1]);
    let least = u16::try_from(conf.min_io_size.0 / block).unwrap_or(u16::MAX);
    put(2, &least.to_be_bytes());
    put(4, &blocks(about.max_io_size).to_be_bytes());
    put(8, &blocks(conf.opt_io_size.0).to_be_bytes());
    put(16, &blocks(about.max_unmap_size).to_be_bytes());
    put(20, &255u32.to_be_bytes());
    put(24, &blocks(disk.discard_unit()).max(1).to_be_bytes());
    put(32, &u64::from(blocks(about.max_io_size)).to_be_bytes());
    out
}

fn page(disk: &Disk, code: u8) -> Option<Vec<u8>> {
    let is_disk = !disk.about.cd;
    Some(match code {
        0 => {
            let mut all = vec![0];
            if !disk.about.serial.is_empty() {
                all.push(0x80);
            }
            all.push(0x83);
            if is_disk {
                all.extend([0xb0, 0xb1, 0xb2]);
            }
            all
        }
        0x80 if !disk.about.serial.is_empty() => disk.about.serial.bytes().take(36).collect(),
        0x83 => identification(disk),
        0xb0 if is_disk => limits(disk),
        0xb1 if is_disk => {
            let mut out = disk.about.rotation.to_be_bytes().to_vec();
            out.resize(60, 0);
            out
        }
        // Unmap, write same (16) and (10) with unmap; thin.
        0xb2 if is_disk => vec![0, 0xe0, if disk.discard_unit() > 0 { 2 } else { 1 }, 0],
        _ => return None,
    })
}

pub(crate) fn inquiry(disk: &Disk, task: Task) {
    let allowed = usize::try_from(number(&task.cdb, 3, 2)).unwrap_or(0);
    let (vital, code) = (task.byte(1) & 1 != 0, task.byte(2));
    let known = task.lun == disk.lun();
    if !vital {
        if code != 0 {
            return disk.fail(task, Sense::INVALID_FIELD);
        }
        let mut data = standard(disk);
        if !known && let Some(first) = data.first_mut() {
            // No unit is there, and none could be.
            *first = 0x7f;
        }
        return task.give(&data, allowed);
    }
    let Some(data) = page(disk, code) else { return disk.fail(task, Sense::INVALID_FIELD) };
    let [high, low] = u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = vec![disk.kind(), code, high, low];
    out.extend(data);
    task.give(&out, allowed);
}
