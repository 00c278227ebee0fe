//! Filters that jobs put over a node: they pass requests on and keep the job's copying apart.
//!
//! `Gate` lets writes of others run together and a piece that is copied alone, so that nothing new
//! is overwritten by something old. `Tracked` notes what is written, after it is written: what is
//! noted is copied again. Writes of `Tracked` do not go to the host's file by themselves.
//! Not here: options; users cannot make these filters.
//! Source: the design is our own; the names are those of QEMU's filters.

use std::io;
use std::sync::Arc;

use block::{
    BlockClass, BlockDriver, Child, Extent, Graph, Node, Preallocation, Resolved, unsupported,
};
use parking_lot::{Mutex, RwLock};
use qapi::{Error, Result};

use crate::copy::PIECE;

const fn class(name: &'static str) -> BlockClass {
    BlockClass {
        name,
        protocol: false,
        probe: |_| 0,
        open: |_| Err(Error::generic("this filter is made by jobs only")),
        create: None,
        create_options: &[],
        describe: |_| String::new(),
        has_backing: false,
    }
}

pub(crate) static STREAM: BlockClass = class("copy-on-read");
pub(crate) static COMMIT: BlockClass = class("commit_top");
pub(crate) static MIRROR: BlockClass = class("mirror_top");

/// Which parts of a disk must be copied, one bit for [`GRAIN`] bytes.
#[derive(Default)]
pub(crate) struct Dirty {
    words: Vec<u64>,
    count: u64,
}

/// Bytes of a bit.
pub(crate) const GRAIN: u64 = 64 << 10;

impl Dirty {
    /// Notes a range; how many bytes are newly noted.
    pub(crate) fn set(&mut self, at: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let mut new = 0;
        for bit in at / GRAIN..=at.saturating_add(len - 1) / GRAIN {
            let Ok(word) = usize::try_from(bit / 64) else { return new * GRAIN };
            if word >= self.words.len() {
                self.words.resize(word + 1, 0);
            }
            if let Some(word) = self.words.get_mut(word)
                && *word >> (bit % 64) & 1 == 0
            {
                *word |= 1 << (bit % 64);
                new += 1;
            }
        }
        self.count += new;
        new * GRAIN
    }

    /// Takes the first range that is noted from `from` on, at most a piece long; it begins anew
    /// at the end.
    pub(crate) fn take(&mut self, from: u64) -> Option<(u64, u64)> {
        if self.count == 0 {
            return None;
        }
        let bits = self.words.len() as u64 * 64;
        let start = (from / GRAIN).min(bits);
        let first = self.find(start, bits).or_else(|| self.find(0, start))?;
        let mut end = first;
        while end < bits && (end - first) * GRAIN < PIECE && self.clear(end) {
            end += 1;
        }
        Some((first * GRAIN, (end - first) * GRAIN))
    }

    fn find(&self, from: u64, to: u64) -> Option<u64> {
        let mut bit = from;
        while bit < to {
            let word = usize::try_from(bit / 64).ok().and_then(|word| self.words.get(word))?;
            let left = word >> (bit % 64);
            if left == 0 {
                bit = (bit / 64 + 1) * 64;
            } else {
                let found = bit + u64::from(left.trailing_zeros());
                return (found < to).then_some(found);
            }
        }
        None
    }

    fn clear(&mut self, bit: u64) -> bool {
        let word = usize::try_from(bit / 64).ok().and_then(|word| self.words.get_mut(word));
        let Some(word) = word.filter(|word| **word >> (bit % 64) & 1 == 1) else { return false };
        *word &= !(1 << (bit % 64));
        self.count -= 1;
        true
    }

    /// Bytes that are noted.
    pub(crate) fn bytes(&self) -> u64 {
        self.count * GRAIN
    }
}

/// What a filter has beside the node below.
#[derive(Default)]
pub(crate) struct Shared {
    /// Shared by writes, exclusive for copying.
    pub(crate) gate: RwLock<()>,
    /// What was written; `None`: nobody wants to know.
    pub(crate) dirty: Option<Mutex<Dirty>>,
    /// Bytes newly noted since it was asked last.
    pub(crate) more: std::sync::atomic::AtomicU64,
}

impl Shared {
    fn wrote(&self, at: u64, len: u64) {
        if let Some(dirty) = &self.dirty {
            let more = dirty.lock().set(at, len);
            self.more.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

struct Filter {
    below: Child,
    shared: Arc<Shared>,
    /// It stands within a chain: what lies below shines through.
    transparent: bool,
}

impl BlockDriver for Filter {
    fn len(&self) -> u64 {
        self.below.node().len()
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.below.node().read(at, into)
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let _shared = self.shared.gate.read();
        let done = self.below.node().write(at, data);
        self.shared.wrote(at, data.len() as u64);
        done
    }
    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let _shared = self.shared.gate.read();
        let done = self.below.node().write_zeroes(at, len, unmap);
        self.shared.wrote(at, len);
        done
    }
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        let _shared = self.shared.gate.read();
        let done = self.below.node().discard(at, len);
        self.shared.wrote(at, len);
        done
    }
    fn flush(&self) -> io::Result<()> {
        self.below.node().flush()
    }
    fn truncate(&self, _: u64, _: Preallocation) -> io::Result<()> {
        Err(unsupported("a job works on this disk"))
    }
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        if self.transparent {
            return Ok(Extent { len, ..Extent::default() });
        }
        let (found, _) = self.below.node().extent_of_chain(at, len)?;
        Ok(Extent { allocated: true, ..found })
    }
    fn resolve(&self, at: u64, len: u64, write: bool) -> Option<Resolved> {
        // What is written in place is not copied by `stream`; `active` must see every write.
        if write && self.shared.dirty.is_some() {
            return None;
        }
        self.below.node().resolve(at, len, write)
    }
    fn reopen(&self, _: &block::Flags) -> Result<()> {
        Ok(())
    }
}

/// A filter in its place.
pub(crate) struct Placed {
    pub(crate) filter: Arc<Node>,
    pub(crate) below: Arc<Node>,
    pub(crate) shared: Arc<Shared>,
}

impl Placed {
    /// Puts a filter over a node; the caller drains.
    pub(crate) fn over(
        graph: &Graph,
        class: &'static BlockClass,
        name: Option<&str>,
        (role, below): (&'static str, &Arc<Node>),
        shared: Shared,
    ) -> Result<Placed> {
        let shared = Arc::new(shared);
        let inner = shared.clone();
        let filter = graph.filter(class, name, (role, below), move |below| {
            Arc::new(Filter { below, shared: inner, transparent: role == "backing" })
        })?;
        below.replace_by(&filter, &[&filter]);
        Ok(Placed { filter, below: below.clone(), shared })
    }

    /// Takes it out again; the caller drains.
    pub(crate) fn remove(&self) {
        self.filter.replace_by(&self.below, &[&self.filter]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_taken_once_and_in_turns() {
        let mut dirty = Dirty::default();
        assert_eq!(dirty.set(0, 1), GRAIN);
        assert_eq!(dirty.set(100, 10), 0);
        assert_eq!(dirty.set(10 * GRAIN - 1, 2), 2 * GRAIN);
        assert_eq!(dirty.bytes(), 3 * GRAIN);
        assert_eq!(dirty.take(GRAIN), Some((9 * GRAIN, 2 * GRAIN)));
        assert_eq!(dirty.take(11 * GRAIN), Some((0, GRAIN)));
        assert_eq!(dirty.take(0), None);
        dirty.set(0, 10 * PIECE);
        assert_eq!(dirty.take(u64::MAX), Some((0, PIECE)));
    }
}
