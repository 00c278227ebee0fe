//! Jobs of the block layer: work in the background that users watch, pause, cancel and end.
//!
//! A [`Job`] has a state ([`Status`]) that only the main loop changes, and a thread that does the
//! [`Work`] in short steps ([`block::Steps`]), so that the graph may change between two. At its end
//! the work changes the graph on the main loop while nothing is under way. [`Jobs`] has all jobs
//! and carries out what users ask; it tells events in QEMU's order.
//! Here are the jobs `stream` ([`stream`]), `commit` of layers below the active one ([`commit`]) and
//! of the active one ([`active`]), and `create` ([`create`]).
//!
//! Not here: mirror, backup, transactions of jobs, write-blocking copies, jobs that survive a
//! restart. A drained section makes jobs wait without telling `paused` and `running`.
//! Source: QEMU's QMP reference (job.json, block-core.json); states and events of QEMU 10.0.

pub mod active;
pub mod commit;
mod copy;
pub mod create;
mod filter;
mod job;
mod list;
pub mod stream;

pub use job::{Failure, Job, JobError, JobType, OnJobError, Pace, Status, Work};
pub use list::{About, Jobs, Spec, Told};
