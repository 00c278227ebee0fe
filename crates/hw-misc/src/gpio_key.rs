//! A push button on a GPIO line, as boards use for powering down.
//!
//! Whoever presses it raises the input (and need not release it): the output
//! stays high for 100 ms of guest time, as the peer's does, then falls. Not
//! modelled: bouncing, holding the button. There are no registers; the guest
//! sees only the line, through the GPIO controller the board wires it to.
//! Source: the `gpio-keys` device tree binding, QEMU 10.0's behaviour.

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Build, Bus, Device, DeviceClass, DeviceType, IrqOut, IrqSink, Migration, Reset, Timer,
};
use parking_lot::Mutex;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<GpioKey>();

/// Properties of `gpio-key`.
#[derive(Clone, Debug, Default, Qapi)]
pub struct Props {}

/// How long a press lasts.
const PRESS_NS: u64 = 100_000_000;

#[derive(Default, VmState)]
#[vmstate(name = "gpio-key", version = 1)]
struct State {
    /// When the button is released, in guest time.
    until: Option<u64>,
}

/// The device.
pub struct GpioKey {
    out: Arc<IrqOut>,
    timer: OnceLock<Timer>,
    state: Mutex<State>,
}

impl GpioKey {
    fn expired(&self) {
        let mut state = self.state.lock();
        state.until = None;
        self.out.set(false);
    }
}

impl DeviceType for GpioKey {
    const NAME: &'static str = "gpio-key";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "push button on a GPIO line";
    type Props = Props;

    fn create(_: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let out = at.irq_out();
        let device = Arc::new(GpioKey { out, timer: OnceLock::new(), state: Mutex::default() });
        let weak: Weak<GpioKey> = Arc::downgrade(&device);
        _ = device.timer.set(at.timer(move || {
            if let Some(key) = weak.upgrade() {
                key.expired();
            }
        }));
        let press = Arc::new(Press { key: Arc::downgrade(&device), clock: at.clock() });
        at.irq_in("key", 1, press);
        Ok(device)
    }
}

/// The input; apart, so that it can have the clock.
struct Press {
    key: Weak<GpioKey>,
    clock: device::Clock,
}

impl IrqSink for Press {
    fn set(&self, _: u32, level: bool) {
        let Some(key) = self.key.upgrade().filter(|_| level) else { return };
        let until = self.clock.now_ns().saturating_add(PRESS_NS);
        let mut state = key.state.lock();
        state.until = Some(until);
        key.out.set(true);
        if let Some(timer) = key.timer.get() {
            timer.arm_at(until);
        }
    }
}

impl Device for GpioKey {
    fn reset(&self, _: Reset) {
        self.state.lock().until = None;
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.state)
    }

    fn settle(&self) {
        let state = self.state.lock();
        self.out.set(state.until.is_some());
        if let Some(timer) = self.timer.get() {
            match state.until {
                Some(until) => timer.arm_at(until),
                None => timer.cancel(),
            }
        }
    }
}
