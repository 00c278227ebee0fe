//! ACPI Generic Event Device (ACPI 6.5, 5.6.9) with QEMU's event selector.
//!
//! An event sets its bit in the selector and pulses the interrupt; the guest's `_EVT` method reads the
//! selector, which clears it, and notifies the device concerned. Pressing the power button is an event,
//! and so is that memory comes or is to go; its slots have the second register bank. Source: QEMU's
//! DSDT and behaviour. Not modelled: CPU hotplug, error and NVDIMM events, and the
//! sleep and reset registers, which the Arm machine does not map.

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, IrqOut, IrqSink,
    MemorySlots, Migration, Mmio, Region, Reset, Size,
};
use parking_lot::Mutex;
use vmstate::Saved;

use crate::memory_slots::{Bank, Host, Slots};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Ged>();

/// Properties of `acpi-ged`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Events that the machine has, as bits of the selector
    #[qapi(name = "ged-event", default = "0")]
    pub ged_event: u32,
    /// Slots for memory modules
    #[qapi(name = "memory-slots", default = "0")]
    pub slots: u32,
    /// First address of memory modules
    #[qapi(name = "memory-base", default = "0")]
    pub base: u64,
    /// Bytes of addresses for memory modules
    #[qapi(name = "memory-room", default = "0")]
    pub room: u64,
    /// Bytes that memory modules may have
    #[qapi(name = "memory-most", default = "0")]
    pub most: u64,
    /// Nodes of memory
    #[qapi(name = "memory-nodes", default = "1")]
    pub nodes: u32,
}

/// Selector bit of memory modules.
const MEMORY: u32 = 1;
/// Bytes of the registers of memory modules.
const MEMORY_LEN: u64 = 0x18;
/// Most slots, as in the peer.
const MOST_SLOTS: u32 = 256;

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
    slots: OnceLock<Arc<Slots>>,
    bank: OnceLock<Arc<Bank>>,
}

impl Ged {
    /// Notes an event and interrupts the guest.
    fn raise(&self, event: u32) {
        if self.events & event == 0 {
            return;
        }
        let mut regs = self.regs.lock();
        regs.selector |= event;
        self.out.set(true);
        self.out.set(false);
    }

    fn add_slots(self: &Arc<Self>, props: &Props, at: &mut Build<'_>) -> qapi::Result<()> {
        if props.slots > MOST_SLOTS {
            let text = format!("unsupported number of memory slots: {}", props.slots);
            return Err(qapi::Error::generic(text));
        }
        let ged = Arc::downgrade(self);
        let slots = Slots::new(
            props.slots,
            Host {
                place: (props.base, props.room),
                system: at.world().memory.root().clone(),
                most: props.most,
                nodes: props.nodes,
                notify: Box::new(move || {
                    if let Some(ged) = ged.upgrade() {
                        ged.raise(MEMORY);
                    }
                }),
                departure: at.service(),
                events: at.service(),
            },
        );
        if props.slots > 0 {
            let bank = Arc::new(Bank(slots.clone()));
            let rules = AccessRules {
                valid: (Size::B1, Size::B4),
                handled: (Size::B1, Size::B4),
                ..AccessRules::ANY
            };
            at.mmio(Region::mmio("acpi-mem-hotplug", MEMORY_LEN, rules, &bank));
            _ = self.bank.set(bank);
        }
        at.bus(slots.clone());
        at.offer::<Arc<dyn MemorySlots>>(slots.clone());
        _ = self.slots.set(slots);
        Ok(())
    }
}

impl DeviceType for Ged {
    const NAME: &'static str = "acpi-ged";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "ACPI Generic Event Device";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let out = at.irq_out();
        let ged = Arc::new(Ged {
            events: props.ged_event,
            out,
            regs: Mutex::default(),
            slots: OnceLock::new(),
            bank: OnceLock::new(),
        });
        let rules = AccessRules {
            valid: (Size::B1, Size::B4),
            handled: (Size::B4, Size::B4),
            ..AccessRules::ANY
        };
        let weak: Weak<dyn Mmio> = Arc::downgrade(&(Arc::clone(&ged) as Arc<dyn Mmio>));
        at.mmio(Region::weak_mmio("acpi-ged", 4, rules, weak));
        ged.add_slots(&props, at)?;
        at.irq_in("powerdown", 1, Arc::new(Button(Arc::downgrade(&ged))));
        Ok(ged)
    }
}

struct Button(Weak<Ged>);

impl IrqSink for Button {
    fn set(&self, _: u32, level: bool) {
        if let Some(ged) = self.0.upgrade().filter(|_| level) {
            ged.raise(POWER_DOWN);
        }
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
        let mut parts: Vec<(&'static str, &dyn Saved)> = vec![("ged", &self.regs)];
        if let Some(slots) = self.slots.get() {
            parts.push(("memory", &slots.regs));
        }
        Migration::Parts(parts)
    }

    fn settle(&self) {
        self.out.set(false);
    }
}
