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

use super::pass::{Access, Filter, Passing, Rest};
use crate::driver::{BlockClass, BlockDriver};
use crate::node::{Child, Node};
use crate::opening::Opening;

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

struct CopyOnRead {
    file: Child,
    /// Shared by writes, exclusive for copying.
    gate: RwLock<()>,
}

impl CopyOnRead {
    /// Copies what of a range the top layer does not hold.
    fn copy(&self, at: u64, len: u64) -> io::Result<()> {
        let (mut done, node) = (0, self.file.node());
        let below = node.driver();
        while done < len {
            let pos = at + done;
            let found = below.extent(pos, (len - done).min(PIECE))?;
            let n = found.len.clamp(1, len - done);
            if !found.allocated {
                let _all = self.gate.write();
                // Looked at again: a write may have come in between.
                let now = below.extent(pos, n)?;
                let n = now.len.clamp(1, n);
                if !now.allocated {
                    let mut data = vec![0; usize::try_from(n).unwrap_or(0)];
                    below.read(pos, &mut data)?;
                    below.write(pos, &data)?;
                }
                done += n;
            } else {
                done += n;
            }
        }
        Ok(())
    }
}

impl Filter for CopyOnRead {
    fn below(&self) -> Arc<Node> {
        self.file.node()
    }
    fn pass(&self, access: Access, at: u64, len: u64, rest: &mut Rest<'_>) -> io::Result<()> {
        let _shared = match access {
            Access::Read => {
                self.copy(at, len)?;
                None
            }
            Access::Flush => None,
            _ => Some(self.gate.read()),
        };
        rest(at, len)
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let file = at.writable_child("file")?;
    at.filename = file.node().path().to_owned();
    Ok(Arc::new(Passing(CopyOnRead { file, gate: RwLock::new(()) })))
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
