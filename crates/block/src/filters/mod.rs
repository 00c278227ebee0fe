//! Filters: drivers that stand above one node and change how its requests are done.
//!
//! Each passes requests to its child, whose bytes it shows unchanged: `copy-on-read` keeps what was
//! read through, `throttle` makes requests wait, `blkdebug` makes them fail. One file each.
//! Not here: filters that jobs put in (mirror, commit, backup), `preallocate`, `compress`.
//! Source: QEMU's manual, "filter drivers".

pub(crate) mod blkdebug;
mod breaks;
pub(crate) mod copy_on_read;
mod pass;
pub(crate) mod throttle;
