//! From queues to the transport's interrupts.

use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

/// 4.2.2, InterruptStatus and 4.1.4.5: a queue was used; the configuration changed.
pub(crate) const ISR_QUEUE: u8 = 1;
pub(crate) const ISR_CONFIG: u8 = 2;

/// What a transport does for interrupts.
pub trait Wires: Send + Sync {
    /// Sends a message; `false` when messages are off and the line is to be used.
    fn message(&self, vector: u16) -> bool {
        _ = vector;
        false
    }
    /// Drives the line. Called with the interrupt status locked.
    fn line(&self, level: bool);
}

/// Interrupt status and the way out.
#[derive(Default)]
pub(crate) struct Irq {
    isr: Mutex<u8>,
    config_vector: Mutex<u16>,
    broken: AtomicBool,
    /// The driver has not been told of it.
    untold: AtomicBool,
    /// The driver said DRIVER_OK: before that, queues give nothing (3.1.1).
    live: AtomicBool,
    /// VERSION_1 was negotiated: only then the driver hears that a reset is needed.
    modern: AtomicBool,
    /// Counts changes of the configuration (2.5.1).
    generation: AtomicU8,
    wires: OnceLock<Weak<dyn Wires>>,
}

impl Irq {
    pub(crate) fn connect(&self, wires: Weak<dyn Wires>) {
        _ = self.wires.set(wires);
    }

    fn raise(&self, bit: u8, vector: u16) {
        let Some(wires) = self.wires.get().and_then(Weak::upgrade) else { return };
        // Without locks: the guest decides where a message goes.
        let sent = wires.message(vector);
        let mut isr = self.isr.lock();
        *isr |= bit;
        if !sent {
            wires.line(true);
        }
    }

    pub(crate) fn queue(&self, vector: u16) {
        self.raise(ISR_QUEUE, vector);
    }

    pub(crate) fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let vector = *self.config_vector.lock();
        // As at the peer, the pin says both.
        self.raise(ISR_QUEUE | ISR_CONFIG, vector);
    }

    /// The driver broke a rule; queues take nothing until a reset. The interrupt is sent later
    /// ([`Irq::tell_broken`]): a queue is locked now.
    pub(crate) fn needs_reset(&self, why: &str) {
        trace::guest_error!("virtio: {why}");
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.untold.store(true, Ordering::Release);
        }
    }

    /// Sends the interrupt that a break owes, with no queue locked.
    pub(crate) fn tell_broken(&self) {
        if self.untold.load(Ordering::Acquire)
            && self.untold.swap(false, Ordering::AcqRel)
            && self.modern.load(Ordering::Acquire)
        {
            self.config();
        }
    }

    /// Whether queues may be used at all.
    pub(crate) fn is_usable(&self) -> bool {
        self.live.load(Ordering::Acquire) && !self.is_broken()
    }

    pub(crate) fn set_live(&self, on: bool) {
        self.live.store(on, Ordering::Release);
    }

    pub(crate) fn set_modern(&self, on: bool) {
        self.modern.store(on, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn set_generation(&self, value: u8) {
        self.generation.store(value, Ordering::Release);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(crate) fn isr(&self) -> u8 {
        *self.isr.lock()
    }

    pub(crate) fn config_vector(&self) -> u16 {
        *self.config_vector.lock()
    }

    pub(crate) fn set_config_vector(&self, vector: u16) {
        *self.config_vector.lock() = vector;
    }

    /// Sets the status and drives the line from it.
    pub(crate) fn set_isr(&self, f: impl FnOnce(u8) -> u8) -> u8 {
        let mut isr = self.isr.lock();
        let before = *isr;
        *isr = f(before);
        if let Some(wires) = self.wires.get().and_then(Weak::upgrade)
            && *isr == 0
        {
            wires.line(false);
        }
        before
    }

    /// Drives the line from the status, as after loading.
    pub(crate) fn settle(&self) {
        let isr = self.isr.lock();
        if let Some(wires) = self.wires.get().and_then(Weak::upgrade) {
            wires.line(*isr != 0);
        }
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }
}
