//! Power-off and reset by GPIO lines.
//!
//! Two inputs, `reset` and `shutdown`: a rising level asks the machine to do it.
//! Secure firmware drives them through the secure world's GPIO controller. No
//! registers, no state. Source: the `gpio-poweroff` and `gpio-restart` device tree
//! bindings, QEMU 10.0's behaviour. Not modelled: nothing is left out.

use std::sync::Arc;

use derive::Qapi;
use device::{
    Build, Bus, Cause, Device, DeviceClass, DeviceType, IrqSink, Migration, Request, Reset,
    RunControl,
};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<GpioPwr>();

/// Properties of `gpio-pwr`.
#[derive(Clone, Debug, Default, Qapi)]
pub struct Props {}

/// The device.
pub struct GpioPwr;

struct Line(Arc<dyn RunControl>, Request);

impl IrqSink for Line {
    fn set(&self, _: u32, level: bool) {
        if level {
            self.0.request(self.1);
        }
    }
}

impl DeviceType for GpioPwr {
    const NAME: &'static str = "gpio-pwr";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "power-off and reset by GPIO lines";
    type Props = Props;

    fn create(_: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        for (name, request) in [
            ("reset", Request::Reset(Cause::GuestReset)),
            ("shutdown", Request::Shutdown(Cause::GuestShutdown)),
        ] {
            let line = Arc::new(Line(at.run_control(), request));
            at.irq_in(name, 1, line);
        }
        Ok(Arc::new(GpioPwr))
    }
}

impl Device for GpioPwr {
    fn reset(&self, _: Reset) {}

    fn migration(&self) -> Migration<'_> {
        Migration::Stateless
    }
}
