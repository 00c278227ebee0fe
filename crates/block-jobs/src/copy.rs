//! Copying between layers: what a part of a chain holds, one piece at a time.
//!
//! Pieces are at most [`PIECE`] bytes; zeroes are written as zeroes. Requests go through
//! [`block::Node`], so that lengths and permissions are checked.
//! Not here: holding off writers (`filter.rs`).
//! Source: the design is our own; the size of pieces is QEMU's.

use std::io;
use std::sync::Arc;

use block::Node;

use crate::job::{Failure, Job, JobError};

/// Bytes copied at once.
pub(crate) const PIECE: u64 = 512 << 10;
/// Between two tries of a piece.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(10);
/// Bytes looked at at once.
const LOOK: u64 = 1 << 30;

/// What the layers between two nodes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Nothing.
    Nothing,
    /// Zeroes.
    Zero,
    /// Bytes.
    Data,
}

/// What the layers from `top` down to `base` (not looked at) hold at a place, and for how long.
pub(crate) fn held(
    top: Option<Arc<Node>>,
    base: Option<&Arc<Node>>,
    at: u64,
    len: u64,
) -> io::Result<(Held, u64)> {
    let (mut node, mut len) = (top.map(|top| top.skip_filters()), len.min(LOOK));
    while let Some(layer) = node {
        if base.is_some_and(|base| Arc::ptr_eq(base, &layer)) {
            return Ok((Held::Nothing, len));
        }
        if at >= layer.len() {
            return Ok((Held::Zero, len));
        }
        len = len.min(layer.len() - at);
        let found = layer.extent(at, len)?;
        len = found.len;
        if found.allocated {
            return Ok((if found.zero { Held::Zero } else { Held::Data }, len));
        }
        node = layer.child("backing").map(|below| below.skip_filters());
    }
    Ok((Held::Nothing, len))
}

/// An error and whether a write made it.
pub(crate) type Told = (bool, io::Error);

/// Marks errors of reads.
pub(crate) fn reading(error: io::Error) -> Told {
    (false, error)
}

/// Marks errors of writes.
pub(crate) fn writing(error: io::Error) -> Told {
    (true, error)
}

/// Copies a piece of at most [`PIECE`] bytes that is all alike.
pub(crate) fn copy(from: &Node, to: &Node, what: Held, at: u64, len: u64) -> Result<(), Told> {
    match what {
        Held::Nothing => Ok(()),
        Held::Zero => to.write_zeroes(at, len, true).map_err(writing),
        Held::Data => {
            let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
            from.read(at, &mut data).map_err(reading)?;
            to.write(at, &data).map_err(writing)
        }
    }
}

/// What becomes of a piece whose error is ignored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ignored {
    /// It is tried again.
    Again,
    /// It is left out; at the end the job fails after all.
    Skip,
}

/// Goes through `len` bytes in pieces. `piece` copies one at a place and tells how many bytes it
/// went on and how many of them were copied; errors go by the job's policy.
pub(crate) fn walk(
    job: &Job,
    steps: &block::Steps,
    len: u64,
    ignored: Ignored,
    mut piece: impl FnMut(u64) -> Result<(u64, u64), Told>,
) -> Result<(), Failure> {
    let (mut at, mut copied) = (0, 0);
    let mut first = None;
    while at < len {
        if job.breathe(copied) == crate::Pace::Cancelled {
            return Err(Failure::Cancelled);
        }
        copied = 0;
        let step = steps.enter();
        let done = piece(at);
        drop(step);
        let went = match done {
            Ok((went, bytes)) => {
                copied = bytes;
                went
            }
            Err((write, error)) => match job.decide(write, &error) {
                JobError::Report => return Err(error.into()),
                JobError::Ignore if ignored == Ignored::Skip => {
                    first = first.or(Some(error));
                    PIECE.min(len - at)
                }
                JobError::Ignore => {
                    job.idle(AGAIN);
                    0
                }
                JobError::Stop => 0,
            },
        };
        at += went;
        job.add_progress(went);
    }
    // Cancelled in the last step: it did not end well.
    if job.breathe(0) == crate::Pace::Cancelled {
        return Err(Failure::Cancelled);
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}
