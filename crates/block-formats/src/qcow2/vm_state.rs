//! The machine's state that snapshots hold: guest clusters behind the end of the disk.
//!
//! It begins where the first L2 table lies that no byte of the disk needs. The active tables name it
//! while it is written; the snapshot then keeps it and the active tables let go of it.
//! Source: qcow2 specification, "Snapshots" (VM state).

use std::io;

use block::invalid;

use super::Qcow2;
use super::header::Header;
use super::tables::{Mapped, Meta};

/// Where the state of a disk of this length begins.
pub(super) fn begin(header: &Header, disk: u64) -> io::Result<u64> {
    let tables = header.l1_entries_for(disk).ok_or(io::ErrorKind::FileTooLarge)?;
    Ok(tables << (header.cluster_bits + header.l2_bits()))
}

/// The active tables let go of it.
pub(super) fn forget(meta: &mut Meta) -> io::Result<()> {
    let from = begin(&meta.header, meta.header.size)?;
    let end = (meta.l1.len() as u64) << (meta.header.cluster_bits + meta.header.l2_bits());
    meta.unmap_all(from, end)
}

impl Qcow2 {
    pub(super) fn write_vm_state(&self, at: u64, data: &[u8]) -> io::Result<()> {
        if self.data_file.is_some() {
            return Err(block::unsupported(
                "snapshots are not possible with an external data file",
            ));
        }
        self.relieve()?;
        let from = {
            let _all = self.alone();
            let mut meta = self.meta.lock();
            let from = begin(&meta.header, meta.header.size)?;
            let end = at.checked_add(data.len() as u64).and_then(|end| end.checked_add(from));
            let end = end.ok_or(io::ErrorKind::FileTooLarge)?;
            meta.about_to_change()?;
            let need = meta.header.l1_entries_for(end).ok_or(io::ErrorKind::FileTooLarge)?;
            if need > meta.l1.len() as u64 {
                // More than is needed now, so that small tables do not grow with each call.
                let ahead = end.saturating_add(at / 2);
                if meta.grow_l1(ahead).is_err() {
                    meta.grow_l1(end)?;
                }
            }
            from
        };
        let _shared = self.gate.read();
        self.write_range(from + at, data)
    }

    pub(super) fn read_vm_state(&self, word: &str, at: u64, into: &mut [u8]) -> io::Result<()> {
        let _shared = self.gate.read();
        let (from, l1) = {
            let meta = self.meta.lock();
            let stored = super::snapshot::stored(&meta, word)?;
            let end = at.checked_add(into.len() as u64);
            if end.is_none_or(|end| end > stored.about.vm_state) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let from = begin(&meta.header, stored.about.disk_size)?;
            (from, super::snapshot::read_l1(&meta, stored)?)
        };
        let mut done = 0;
        while done < into.len() {
            let pos = from + at + done as u64;
            let (found, unit) = {
                let mut meta = self.meta.lock();
                (meta.lookup(&l1, pos)?, 1u64 << meta.unit_bits())
            };
            let len = (unit - (pos & (unit - 1))).min((into.len() - done) as u64);
            let end = done + usize::try_from(len).unwrap_or(0);
            let piece = into.get_mut(done..end).ok_or(io::ErrorKind::InvalidInput)?;
            match found {
                Mapped::Data(place) => {
                    self.data_read(place + (pos & (self.cluster_size() - 1)), pos, piece)?;
                }
                Mapped::Packed(_) => return Err(invalid("the machine's state is compressed")),
                Mapped::Nothing | Mapped::Zero | Mapped::ZeroAt(_) => piece.fill(0),
            }
            done = end;
        }
        Ok(())
    }
}
