//! `copy-on-read`: what is read through the top layer of a chain is written to it.
//!
//! After a read the range is in the top layer, so the backing file is asked once only. Copying
//! excludes writes, so that nothing new is overwritten by something old.
//! Not here: `bottom`, reads that only prefetch.
//! Source: QEMU's manual, `copy-on-read`.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use qapi::Result;

use crate::driver::{BlockClass, BlockDriver, Extent, Preallocation};
use crate::node::Child;
use crate::opening::Opening;

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

struct CopyOnRead {
    file: Child,
    /// Shared by writes, exclusive for copying.
    gate: RwLock<()>,
}

impl CopyOnRead {
    fn below(&self) -> Arc<dyn BlockDriver> {
        self.file.node().driver().clone()
    }

    /// Copies what of a range the top layer does not hold.
    fn copy(&self, at: u64, len: u64) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let pos = at + done;
            let found = self.below().extent(pos, (len - done).min(PIECE))?;
            let n = found.len.clamp(1, len - done);
            if !found.allocated {
                let _all = self.gate.write();
                // Looked at again: a write may have come in between.
                let now = self.below().extent(pos, n)?;
                let n = now.len.clamp(1, n);
                if !now.allocated {
                    let mut data = vec![0; usize::try_from(n).unwrap_or(0)];
                    self.below().read(pos, &mut data)?;
                    self.below().write(pos, &data)?;
                }
                done += n;
            } else {
                done += n;
            }
        }
        Ok(())
    }
}

impl BlockDriver for CopyOnRead {
    fn len(&self) -> u64 {
        self.below().len()
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.copy(at, into.len() as u64)?;
        self.below().read(at, into)
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let _shared = self.gate.read();
        self.below().write(at, data)
    }
    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let _shared = self.gate.read();
        self.below().write_zeroes(at, len, unmap)
    }
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        let _shared = self.gate.read();
        self.below().discard(at, len)
    }
    fn flush(&self) -> io::Result<()> {
        self.below().flush()
    }
    fn truncate(&self, len: u64, how: Preallocation) -> io::Result<()> {
        self.below().truncate(len, how)
    }
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        let (found, _) = self.file.node().extent_of_chain(at, len)?;
        Ok(Extent { allocated: true, ..found })
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let file = at.writable_child("file")?;
    at.filename = file.node().filename().to_owned();
    Ok(Arc::new(CopyOnRead { file, gate: RwLock::new(()) }))
}

pub(crate) const CLASS: BlockClass = BlockClass {
    name: "copy-on-read",
    protocol: false,
    probe: |_| 0,
    open,
    create: None,
    create_options: &[],
    describe: |_| String::new(),
    has_backing: false,
};
