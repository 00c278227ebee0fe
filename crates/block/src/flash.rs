//! Nodes as flash banks see them: whole sectors, and every write reaches the disk.
//!
//! A bank finds its node by the id of a drive or by the node's name.
//! Not here: what the flash does with its bytes (`hw-storage`).
//! Source: QEMU's manual, `-drive if=pflash`.

use std::io;
use std::sync::Arc;

use qapi::{Error, Result};

use crate::graph::Graph;
use crate::node::{Hold, Use};

impl device::StorageSource for Graph {
    fn storage(&self, id: &str, writable: bool) -> Result<Arc<dyn device::Storage>> {
        let node = self.backend(id).ok_or_else(|| {
            Error::generic(format!("Property 'cfi.pflash01.drive' can't find value '{id}'"))
        })?;
        let writes = writable && !node.is_read_only();
        let hold = node.hold("a flash bank", Use { writes, shares_write: false })?;
        Ok(Arc::new(Flash(hold)))
    }
}

/// A node as seen by flash: whole sectors, and every write reaches the disk.
struct Flash(Hold);

impl device::Storage for Flash {
    fn len(&self) -> u64 {
        self.0.node().len().next_multiple_of(512)
    }
    fn is_read_only(&self) -> bool {
        self.0.node().is_read_only()
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let len = usize::try_from(self.0.node().len().saturating_sub(at)).unwrap_or(usize::MAX);
        let (disk, rest) = into.split_at_mut(len.min(into.len()));
        rest.fill(0);
        self.0.node().read(at, disk)
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let len = usize::try_from(self.0.node().len().saturating_sub(at)).unwrap_or(usize::MAX);
        self.0.node().write(at, data.get(..len.min(data.len())).unwrap_or(data))
    }
}
