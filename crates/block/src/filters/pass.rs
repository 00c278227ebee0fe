//! What filters share: a filter has one node below and passes requests on to it.
//!
//! A filter says in [`Filter::pass`] what happens around a request and calls the rest of it, as a
//! whole or in pieces; everything that it does not care for goes on unchanged ([`Passing`]).
//! Not here: what a filter does.
//! Source: the block graph's rules (`driver.rs`).

use std::io;
use std::sync::Arc;

use crate::driver::{BlockDriver, Breakpoint, Extent, Preallocation};
use crate::node::Node;

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
}

/// The rest of a request, for a piece of its range.
pub(crate) type Rest<'a> = dyn FnMut(u64, u64) -> io::Result<()> + 'a;

/// What a filter does.
pub(crate) trait Filter: Send + Sync {
    /// The node below.
    fn below(&self) -> Arc<Node>;
    /// Carries out a request: `rest` does it for pieces of the range.
    fn pass(&self, access: Access, at: u64, len: u64, rest: &mut Rest<'_>) -> io::Result<()>;
    /// What a range is: by default all of the chain below.
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        let (found, _) = self.below().extent_of_chain(at, len)?;
        Ok(Extent { allocated: true, ..found })
    }
    /// Something happens in the format above.
    fn event(&self, name: &str) {
        _ = name;
    }
    /// Requests stop at an event or go on.
    fn breakpoint(&self, what: &Breakpoint<'_>) -> io::Result<()> {
        _ = what;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A filter as a driver.
pub(crate) struct Passing<F>(pub(crate) F);

/// The part of a buffer for a piece of a range that begins at `start`.
fn part(start: u64, at: u64, len: u64) -> std::ops::Range<usize> {
    let from = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
    from..from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
}

impl<F: Filter> BlockDriver for Passing<F> {
    fn len(&self) -> u64 {
        self.0.below().len()
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let (below, len) = (self.0.below(), into.len() as u64);
        self.0.pass(Access::Read, at, len, &mut |pos, n| {
            let piece = into.get_mut(part(at, pos, n)).ok_or(io::ErrorKind::InvalidInput)?;
            below.driver().read(pos, piece)
        })
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let below = self.0.below();
        self.0.pass(Access::Write, at, data.len() as u64, &mut |pos, n| {
            let piece = data.get(part(at, pos, n)).ok_or(io::ErrorKind::InvalidInput)?;
            below.driver().write(pos, piece)
        })
    }
    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let below = self.0.below();
        let mut rest = |pos, n| below.driver().write_zeroes(pos, n, unmap);
        self.0.pass(Access::WriteZeroes, at, len, &mut rest)
    }
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        let below = self.0.below();
        self.0.pass(Access::Discard, at, len, &mut |pos, n| below.driver().discard(pos, n))
    }
    fn flush(&self) -> io::Result<()> {
        let below = self.0.below();
        self.0.pass(Access::Flush, 0, 0, &mut |_, _| below.driver().flush())
    }
    fn truncate(&self, len: u64, how: Preallocation) -> io::Result<()> {
        self.0.below().driver().truncate(len, how)
    }
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        self.0.extent(at, len)
    }
    fn holds(&self, at: u64, len: u64) -> io::Result<(bool, u64)> {
        self.0.below().driver().holds(at, len)
    }
    fn allocated_size(&self) -> Option<u64> {
        self.0.below().driver().allocated_size()
    }
    fn event(&self, name: &str) {
        self.0.event(name);
    }
    fn breakpoint(&self, what: &Breakpoint<'_>) -> io::Result<()> {
        self.0.breakpoint(what)
    }
}
