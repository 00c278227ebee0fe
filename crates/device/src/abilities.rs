//! What user-made objects and devices can do for each other, found by type.
//!
//! An object or device offers one of these (`Build::offer`, `ObjectBuild::offer`), and who needs
//! it asks by type, knowing no crate that implements it: a generator of random bytes as
//! `Arc<dyn Entropy>`, a password as [`SecretBytes`], a memory balloon as `Arc<dyn Balloon>`.
//! RAM is offered as `Arc<guest_ram::RamBlock>`, an I/O thread as `evloop::Handle`.
//! Source: the design pages; names of statistics as in QMP's `guest-stats`.

use std::io;
use std::sync::Arc;

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Fills the start of `out` with what is there and says how much; never blocks.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; else the source is broken.
    fn fill(&self, out: &mut [u8]) -> io::Result<usize>;

    /// Calls `f` once there is something again, on any thread.
    fn when_ready(&self, f: Box<dyn FnOnce() + Send>) {
        f();
    }
}

/// A password or key, as the object `secret` holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(pub Arc<[u8]>);

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

/// What a guest says about its memory, by QMP's names; `u64::MAX` for what it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalloonStats {
    /// Seconds since 1970 when it was said; 0: never.
    pub last_update: i64,
    /// Names (`stat-swap-in` and so on) and values, in QMP's order.
    pub stats: Vec<(&'static str, u64)>,
}

/// Bytes of memory the machine was made with (`-m`); a service (`World::services`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamSize(pub u64);

/// Nodes of memory and CPUs (`-numa`); a service (`World::services`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCount(pub u32);

/// CPUs the machine was made with (`-smp`); a service (`World::services`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuCount(pub u32);

/// What is known of a memory module in its slot (QMP's `PCDIMMDeviceInfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryDeviceState {
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// Slot.
    pub slot: u32,
    /// Node of the memory.
    pub node: u32,
    /// Path of the object with the memory.
    pub memdev: String,
    /// It came while the machine ran.
    pub hotplugged: bool,
}

/// A memory module, for the monitor.
pub trait MemoryDevice: Send + Sync {
    /// What is known of it; `None` before it has a slot.
    fn state(&self) -> Option<MemoryDeviceState>;
}

/// How the guest's last event of a memory slot went (ACPI 6.5, 6.3.5: `_OST`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// Id of the device in it.
    pub device: Option<String>,
    /// Number of the slot.
    pub slot: u32,
    /// The event.
    pub source: u32,
    /// How it went.
    pub status: u32,
}

impl SlotStatus {
    /// QMP's `ACPIOSTInfo`.
    #[must_use]
    pub fn to_value(&self) -> qapi::Value {
        let mut value = qapi::Value::empty();
        if let Some(id) = &self.device {
            value.set("device", qapi::Value::from(id.as_str()));
        }
        value.set("slot", qapi::Value::from(self.slot.to_string().as_str()));
        value.set("slot-type", qapi::Value::from("DIMM"));
        value.set("source", qapi::Value::Int(self.source.into()));
        value.set("status", qapi::Value::Int(self.status.into()));
        value
    }
}

/// Slots for memory modules, for the monitor.
pub trait MemorySlots: Send + Sync {
    /// How the guest's last events went, by slot.
    fn ospm_status(&self) -> Vec<SlotStatus>;
}

/// Sends events of devices to monitors. The service is `Arc<dyn GuestEvents>`.
pub trait GuestEvents: Send + Sync {
    /// Something happened; sent soon, from the main loop. The name is one of QMP's schema.
    fn event(&self, name: &'static str, data: qapi::Value);
}

/// A memory balloon, for the monitor.
pub trait Balloon: Send + Sync {
    /// Asks the guest to keep this many bytes of its memory and give the rest.
    fn set_target(&self, bytes: u64);
    /// Bytes of memory that the guest has now.
    fn actual(&self) -> u64;
    /// What the guest said last.
    fn stats(&self) -> BalloonStats;
    /// How often the guest is asked, in seconds; 0: never.
    fn polling_interval(&self) -> i64;
    /// Sets how often the guest is asked.
    ///
    /// # Errors
    /// The number is negative or too big.
    fn set_polling_interval(&self, seconds: i64) -> qapi::Result<()>;
    /// Sets who hears that [`Balloon::actual`] changed (the event BALLOON_CHANGE).
    fn on_change(&self, f: Arc<dyn Fn(u64) + Send + Sync>);
}
