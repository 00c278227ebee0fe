//! From queues to the transport's interrupts.

use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

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
        let vector = *self.config_vector.lock();
        self.raise(ISR_CONFIG, vector);
    }

    pub(crate) fn needs_reset(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.config();
        }
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
