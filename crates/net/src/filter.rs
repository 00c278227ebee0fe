//! What can stand on a link between card and back end.

use crate::frame::Frame;
use crate::link::Link;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the card to the back end.
    FromGuest,
    /// From the back end to the card.
    ToGuest,
}

/// What a filter did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It was kept, sent elsewhere or dropped.
    Taken,
}

/// A filter on a link.
pub trait Filter: Send + Sync {
    /// Looks at a frame.
    fn pass(&self, link: &Link, direction: Direction, frame: &Frame<'_>) -> Verdict;
}
