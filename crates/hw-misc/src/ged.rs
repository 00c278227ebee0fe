//! ACPI Generic Event Device (ACPI 6.5, 5.6.9) with QEMU's event selector.
//!
//! An event sets its bit in the selector and pulses the interrupt; the guest's `_EVT` method reads the
//! selector, which clears it, and notifies the device concerned. Pressing the power button is the only
//! event here. Source: QEMU's DSDT and behaviour.
//! Not modelled: memory and CPU hotplug (the second register bank), error and NVDIMM events, and the
//! sleep and reset registers, which the Arm machine does not map.

use std::sync::{Arc, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, IrqOut, IrqSink,
    Migration, Mmio, Region, Reset, Size,
};
use parking_lot::Mutex;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Ged>();

/// Properties of `acpi-ged`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Events that the machine has, as bits of the selector
    #[qapi(name = "ged-event", default = "0")]
    pub ged_event: u32,
}

/// Selector bit of the power button.
const POWER_DOWN: u32 = 2;

#[derive(Default, VmState)]
#[vmstate(name = "acpi-ged", version = 1)]
struct Regs {
    /// Events that the guest has not read yet.
    selector: u32,
}

/// The device.
pub struct Ged {
    events: u32,
    out: Arc<IrqOut>,
    regs: Mutex<Regs>,
}

impl DeviceType for Ged {
    const NAME: &'static str = "acpi-ged";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "ACPI Generic Event Device";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let out = at.irq_out();
        let ged = Arc::new(Ged { events: props.ged_event, out, regs: Mutex::default() });
        let rules = AccessRules {
            valid: (Size::B1, Size::B4),
            handled: (Size::B4, Size::B4),
            ..AccessRules::ANY
        };
        let weak: Weak<dyn Mmio> = Arc::downgrade(&(Arc::clone(&ged) as Arc<dyn Mmio>));
        at.mmio(Region::weak_mmio("acpi-ged", 4, rules, weak));
        at.irq_in("powerdown", 1, Arc::new(Button(Arc::downgrade(&ged))));
        Ok(ged)
    }
}

struct Button(Weak<Ged>);

impl IrqSink for Button {
    fn set(&self, _: u32, level: bool) {
        let Some(ged) = self.0.upgrade().filter(|g| level && g.events & POWER_DOWN != 0) else {
            return;
        };
        let mut regs = ged.regs.lock();
        regs.selector |= POWER_DOWN;
        ged.out.set(true);
        ged.out.set(false);
    }
}

impl Mmio for Ged {
    fn read(&self, _: Access) -> Result<u64, BusFault> {
        Ok(u64::from(std::mem::take(&mut self.regs.lock().selector)))
    }

    fn write(&self, _: Access, _: u64) -> Result<(), BusFault> {
        // Read-only.
        Ok(())
    }
}

impl Device for Ged {
    fn reset(&self, _: Reset) {
        *self.regs.lock() = Regs::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        self.out.set(false);
    }
}
