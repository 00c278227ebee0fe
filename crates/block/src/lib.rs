//! The block layer: named nodes, who may use them and how, and the drivers that need no format.
//!
//! A [`Graph`] holds [`Node`]s by name. A node is a [`BlockDriver`] opened with options, with
//! children (`file`, `backing`) that are nodes as well. Users take a [`Hold`] on a node, which says
//! whether they write and what they allow others; what it holds can be another node later. A device
//! has a [`Backend`], a slot that counts, drains and parks its requests; they go through a [`Lane`]
//! to the host's file by themselves ([`BlockDriver::resolve`]) or to drivers' blocking calls on the
//! [`Pool`]. Here are `file`, `host_device`, `raw`, `null-co`, `null-aio` and filters; formats are
//! the crate `block-formats`. Images are locked against other programs as QEMU locks them.
//!
//! Not here: jobs (crate `block-jobs`), draining of single nodes.
//! Sources: QEMU's manual (block drivers, `-blockdev`, locking) and its observable behaviour.

mod backend;
mod called;
mod conf;
pub mod describe;
mod driver;
mod engine;
mod file;
mod filters;
mod flash;
mod flights;
mod graph;
mod io_limits;
mod lock;
mod names;
mod node;
mod null;
mod opening;
mod options;
mod pool;
mod raw;
mod redirect;
mod reopen;
mod reopen_options;
mod steps;
mod timed;

pub use backend::{
    Account, Accounts, Backend, Drained, OnError, Slotted, SlottedDevice, Trouble, User, Verdict,
};
pub use conf::{BlockdevOnError, DiskProps, OnOffAuto};
pub use driver::{
    Bitmap, BitmapChange, BlockClass, BlockDriver, Breakpoint, CheckReport, CreateOption, Creation,
    Extent, Fix, FormatInfo, Keys, Preallocation, Resolved, Snapshot, SnapshotChange, invalid,
    is_lost, lost, unsupported,
};
pub use engine::{Done, Lane, Op, Request};
pub use filters::throttle::{Limit, Limits, Rules, ThrottleGroup};
pub use flights::{Flight, Flights};
pub use graph::{Flags, Graph, Still, filename_options, relative_to};
pub use io_limits::IoGroup;
pub use names::tree;
pub use node::{Child, Detect, Hold, Node, Slot, Stats, Threshold, Use, fill_zeroes};
pub use opening::Opening;
pub use options::{flag, take};
pub use pool::Pool;
pub use redirect::{Blocker, Redirect, check_free};
pub use steps::{Held, Step, Steps};
pub use timed::{Interval, Times};

/// The classes of this crate, for the catalog.
pub static FILE: BlockClass = file::FILE;
/// See [`FILE`].
pub static HOST_DEVICE: BlockClass = file::HOST_DEVICE;
/// See [`FILE`].
pub static HOST_CDROM: BlockClass = file::HOST_CDROM;
/// See [`FILE`].
pub static NULL_CO: BlockClass = null::CO;
/// See [`FILE`].
pub static NULL_AIO: BlockClass = null::AIO;
/// See [`FILE`].
pub static RAW: BlockClass = raw::RAW;
/// See [`FILE`].
pub static BLKDEBUG: BlockClass = filters::blkdebug::CLASS;
/// See [`FILE`].
pub static COPY_ON_READ: BlockClass = filters::copy_on_read::CLASS;
/// See [`FILE`].
pub static THROTTLE: BlockClass = filters::throttle::CLASS;
