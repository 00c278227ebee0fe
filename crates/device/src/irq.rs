//! Interrupt lines.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

/// Takes levels of numbered interrupt inputs; controllers and CPUs implement it.
pub trait IrqSink: Send + Sync {
    /// Sets the level of an input. Must not call back into the device that drives it.
    fn set(&self, input: u32, level: bool);

    /// One edge of an input that is low. Calls of several threads at once are as many edges: an
    /// interrupt controller counts one that comes while another is being delivered.
    fn pulse(&self, input: u32) {
        self.set(input, true);
        self.set(input, false);
    }
}

/// Input numbers of a CPU's [`IrqSink`].
pub mod cpu_input {
    /// Physical interrupt.
    pub const IRQ: u32 = 0;
    /// Physical fast interrupt.
    pub const FIQ: u32 = 1;
    /// Virtual interrupt.
    pub const VIRQ: u32 = 2;
    /// Virtual fast interrupt.
    pub const VFIQ: u32 = 3;
    /// Non-maskable interrupt.
    pub const NMI: u32 = 4;
}

/// An interrupt output; remembers its level, so an unchanged one costs one atomic.
#[derive(Default)]
pub struct IrqOut {
    to: OnceLock<(Arc<dyn IrqSink>, u32)>,
    /// Bit 0: the level. Bit 1 ([`FORGOTTEN`]): the other end may believe another one.
    level: AtomicU8,
}

const FORGOTTEN: u8 = 2;

impl IrqOut {
    /// An unconnected, low output.
    #[must_use]
    pub fn new() -> Arc<IrqOut> {
        Arc::new(IrqOut::default())
    }

    /// Drives the line. Call it with the lock held that decided the level, or two
    /// threads may deliver their levels in the wrong order.
    pub fn set(&self, level: bool) {
        // The lock of the device orders calls, so a plain look is enough to see no change.
        let level_bit = u8::from(level);
        if self.level.load(Ordering::Acquire) != level_bit
            && self.level.swap(level_bit, Ordering::AcqRel) != level_bit
            && let Some((sink, input)) = self.to.get()
        {
            sink.set(*input, level);
        }
    }

    /// An edge, as a message makes one: any thread may send it at any time, and none is lost in
    /// another. Nothing happens on a line that is high.
    pub fn pulse(&self) {
        if let Some((sink, input)) = self.to.get().filter(|_| !self.level()) {
            sink.pulse(*input);
        }
    }

    /// The level it drives.
    #[must_use]
    pub fn level(&self) -> bool {
        self.level.load(Ordering::Acquire) & 1 != 0
    }

    /// The state of the other end is about to be replaced: the next level is told whatever it is.
    pub fn forget(&self) {
        self.level.fetch_or(FORGOTTEN, Ordering::AcqRel);
    }

    /// Whether it has been connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.to.get().is_some()
    }

    /// Connects the line to an input; the first connection stays.
    pub fn connect(&self, sink: Arc<dyn IrqSink>, input: u32) {
        if self.to.set((sink, input)).is_ok()
            && self.level()
            && let Some((sink, input)) = self.to.get()
        {
            sink.set(*input, true);
        }
    }
}

/// What boards need from an interrupt controller, whatever its type.
pub trait IrqController: Send + Sync {
    /// Number of shared inputs.
    fn shared_count(&self) -> u32;
    /// The shared inputs: input `n` is shared interrupt `n` (an SPI on Arm).
    fn shared(&self) -> Arc<dyn IrqSink>;
    /// The private inputs of a CPU, numbered as the controller numbers them
    /// (INTIDs 16 to 31 on Arm); `None` when there is no such CPU.
    fn private(&self, cpu: u32) -> Option<Arc<dyn IrqSink>>;
    /// Connects the controller's outputs for a CPU; inputs as in [`cpu_input`].
    fn connect_cpu(&self, cpu: u32, sink: Arc<dyn IrqSink>);
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn after_the_other_end_was_replaced_the_level_is_told_again() {
        let (out, log) = (IrqOut::new(), Arc::new(Log::default()));
        out.connect(log.clone(), 3);
        out.set(true);
        out.set(true);
        out.forget();
        assert!(out.level());
        out.set(true);
        out.set(true);
        out.forget();
        out.set(false);
        assert_eq!(*log.0.lock(), [(3, true), (3, true), (3, false)]);
    }

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool)>>);
    impl IrqSink for Log {
        fn set(&self, input: u32, level: bool) {
            self.0.lock().push((input, level));
        }
    }

    #[test]
    fn only_changes_reach_the_sink_and_connect_forwards_a_high_level() {
        let out = IrqOut::new();
        out.set(true);
        let log = Arc::new(Log::default());
        out.connect(log.clone(), 5);
        out.set(true);
        out.set(false);
        out.pulse();
        assert_eq!(*log.0.lock(), [(5, true), (5, false), (5, true), (5, false)]);
        assert!(!out.level() && out.is_connected());
    }

    /// Takes an edge only when two are there.
    struct Pair(Mutex<u32>, parking_lot::Condvar);
    impl IrqSink for Pair {
        fn set(&self, _: u32, _: bool) {}
        fn pulse(&self, _: u32) {
            let mut count = self.0.lock();
            *count += 1;
            self.1.notify_all();
            let limit = std::time::Duration::from_secs(20);
            while *count < 2 && !self.1.wait_for(&mut count, limit).timed_out() {}
        }
    }

    #[test]
    fn an_edge_is_not_lost_in_another() {
        let out = IrqOut::new();
        let pair = Arc::new(Pair(Mutex::new(0), parking_lot::Condvar::new()));
        out.connect(pair.clone(), 0);
        std::thread::scope(|s| {
            s.spawn(|| out.pulse());
            s.spawn(|| out.pulse());
        });
        assert_eq!(*pair.0.lock(), 2);
    }
}
