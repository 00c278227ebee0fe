//! Virtio: queues, what a device is, and the transports.
//!
//! A device type implements [`VirtioDevice`] and knows nothing of transports. A
//! [`Core`] holds what all transports share: feature negotiation, status, queue
//! set-up, interrupt status and their saved state. [`mmio`] is the memory-mapped
//! transport, [`pci`] the PCI one. Queues touch RAM
//! only and never call a device, so a device may use them with its lock held.
//! Not here: the devices themselves (crate `hw-virtio`), vhost.
//! Source: Virtual I/O Device (VIRTIO) Version 1.3; section numbers are its.

mod chain;
mod core;
mod irq;
mod kick;
mod mem;
pub mod mmio;
mod packed;
pub mod pci;
mod props;
mod queue;
mod split;

use std::sync::Arc;

use device::BoxFuture;

pub use crate::core::{Core, Interface, Port};
pub use chain::{Chain, pieces};
pub use irq::Wires;
pub use kick::Kick;
pub use props::{Common, OnOffAuto};
pub use queue::{MAX_SIZE, NO_VECTOR, Queue, QueueState};

/// Feature bits that belong to no device type (section 6, and 6.3 for legacy).
pub mod feature {
    /// Legacy: interrupt when the driver ran out of buffers.
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// Legacy: buffers may be laid out in any way.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Event index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not legacy.
    pub const VERSION_1: u64 = 1 << 32;
    /// The platform limits or translates accesses.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Packed rings.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
    /// One queue can be reset.
    pub const RING_RESET: u64 = 1 << 40;
}

/// Device type number (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioId(pub u16);

/// A virtio device, whatever carries it.
///
/// Calls come without any lock of the transport held, from vCPU threads, from the main loop and
/// from whoever resets the machine; [`VirtioDevice::notify`] for different queues (and for one)
/// comes from several threads at once. A device that serves a queue on a thread of its own hands
/// the notification over itself ([`Kick`]).
///
/// **Stopping.** Before `stop` and `stop_queue` the queues concerned are closed: what the device
/// still takes is nothing, what it gives back is forgotten. When these functions return, the
/// device uses no guest memory of chains taken before: it cancels its work or waits for it
/// ([`Queue::wait_idle`]). They may block, and run on any thread, so that work must be able to
/// end without the calling thread.
pub trait VirtioDevice: Send + Sync + 'static {
    /// Its type.
    fn id(&self) -> VirtioId;
    /// Features it offers, with those of its properties (`Common::features`).
    fn features(&self) -> u64;
    /// Features of it that only legacy drivers see.
    fn legacy_only(&self) -> u64 {
        0
    }
    /// Most entries of each queue.
    fn queue_sizes(&self) -> Vec<u16>;
    /// The transport it was plugged into.
    fn attach(&self, port: Port);
    /// The configuration space as it is now; its length never changes.
    fn config(&self) -> Vec<u8>;
    /// The driver wrote to the configuration space.
    fn config_write(&self, at: usize, data: &[u8]) {
        _ = (at, data);
    }
    /// The driver is ready, having accepted these features; also after state was loaded.
    fn start(&self, negotiated: u64) {
        _ = negotiated;
    }
    /// The driver or the machine resets the device; all queues are closed.
    fn stop(&self) {}
    /// The driver resets one queue (2.6.1), which is closed.
    fn stop_queue(&self, index: u16) {
        _ = index;
    }
    /// There may be chains in a queue.
    fn notify(&self, index: u16);
    /// The machine stops: queues give no chains until [`VirtioDevice::resume`]. Ends when every
    /// chain was given back, put back ([`Queue::unpop`]) or is one that [`VirtioDevice::restored`]
    /// can begin again.
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Undoes [`VirtioDevice::pause`]; a notification of every queue follows.
    fn resume(&self) {}
    /// Chains that were with the device when the state that was loaded was saved: their work is
    /// begun again. Comes between `resume` and the notifications. Devices that keep no chains
    /// while the machine stops give them back.
    fn restored(&self, index: u16, chains: Vec<Chain>) {
        _ = index;
        for chain in chains {
            chain.give_back();
        }
    }
}

/// How a record offers its device to a transport.
pub type Offer = Arc<dyn VirtioDevice>;
