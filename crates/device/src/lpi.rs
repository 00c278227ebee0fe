//! Interrupts that are memory writes, between a controller and what translates them.
//!
//! An Arm GICv3 keeps such interrupts (LPIs) in tables in guest memory, one pair of
//! tables per CPU; an interrupt translation service turns a device's message into
//! a CPU and a number. The board connects the two ([`LpiSource::connect`]).
//! Calls take only the controller's own locks. Source: Arm IHI 0069, chapter 5.

use std::sync::Arc;

/// LPIs of a controller. Unknown CPUs and numbers are ignored.
pub trait Lpis: Send + Sync {
    /// Number of CPUs.
    fn cpus(&self) -> u32;
    /// Makes an interrupt of a CPU pending, or not.
    fn set(&self, cpu: u32, intid: u32, pending: bool);
    /// The tables of a CPU changed: what was kept of them is stale until [`Lpis::refresh`].
    fn invalidate(&self, cpu: u32);
    /// Moves one pending interrupt to another CPU.
    fn move_one(&self, from: u32, to: u32, intid: u32);
    /// Moves all pending interrupts to another CPU.
    fn move_all(&self, from: u32, to: u32);
    /// Looks again at all that is stale.
    fn refresh(&self);
}

/// What turns messages into LPIs.
pub trait LpiSource: Send + Sync {
    /// Says where they go; the first connection stays.
    fn connect(&self, lpis: Arc<dyn Lpis>);
}
