//! What a card hands over to a program that serves its queues.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use host::EventFd;

/// RAM that the program maps.
pub struct VhostRegion {
    /// Guest address.
    pub guest: u64,
    /// Bytes.
    pub len: u64,
    /// What is mapped.
    pub fd: OwnedFd,
    /// Where in it.
    pub offset: u64,
}

/// A queue: where its parts are in guest memory, and how both sides tell each other.
#[derive(Clone)]
pub struct VhostQueue {
    /// Entries.
    pub size: u16,
    /// Descriptor, driver and device area.
    pub areas: [u64; 3],
    /// Where the program begins.
    pub position: u16,
    /// Where it would begin when the one before ended without a word.
    pub lost: Arc<dyn Fn() -> u16 + Send + Sync>,
    /// The driver filled it.
    pub kick: Arc<EventFd>,
    /// The driver is to be interrupted.
    pub call: Arc<EventFd>,
}

/// Everything that is handed over.
pub struct VhostRun {
    /// Features that the driver accepted.
    pub features: u64,
    /// Guest memory.
    pub memory: Vec<VhostRegion>,
    /// The queues with their numbers.
    pub queues: Vec<(u32, VhostQueue)>,
}

/// A back end that serves queues instead of frames.
pub trait Vhost: Send + Sync {
    /// Features that it has.
    fn features(&self) -> u64;
    /// Hands the queues over.
    fn start(&self, run: VhostRun);
    /// Takes them back: where each of them is; `None` when the program is gone.
    fn stop(&self) -> Vec<(u32, Option<u16>)>;
}
