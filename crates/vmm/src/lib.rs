//! The virtual machine as its operators see it.
//!
//! [`Vm`] holds the run state, the objects with ids (character back ends, devices) and the
//! subscribers of events; [`commands`] holds one struct per QMP command, whose fields are the
//! arguments and whose documentation is the help. The command line, QMP and the human monitor all
//! go through these commands.
//!
//! Everything that runs here runs on the main loop. Other threads talk to it through
//! [`Requests`], which implements [`device::RunControl`].
//!
//! Not here: the wire protocols (crate `monitor`), how a machine is built (crate `machine`), how
//! CPUs run (crates `accel` and `accel-*`): they meet this crate as [`Machine`] and [`Execution`].
//!
//! Sources: QEMU's manual (QMP reference), and the observable behaviour of QEMU 10.0.2 for the
//! order of events and replies and for the states between them.

mod actions;
pub mod commands;
mod event;
mod event_rate;
mod fds;
mod listing;
mod machine;
pub mod qom;
mod requests;
mod saved;
pub mod snapshot;
mod state;
mod text;
mod vm;

pub use actions::{Actions, PanicAction, RebootAction, ShutdownAction, WatchdogAction};
pub use event::{EVENTS, Event, EventSink};
pub use fds::Fds;
pub use listing::{CpuListing, Listing, MachineListing, OptionGroup, OptionParameter};
pub use machine::{AccelExecution, CpuPlace, CpuSlot, Execution, Machine, MemoryNode, NoExecution};
pub use requests::Requests;
pub use state::RunState;
pub use text::{parse_uuid, uuid_text};
pub use vm::{Config, Exit, Vm};
