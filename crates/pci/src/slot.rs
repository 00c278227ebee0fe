//! The slot of an express port, with native hot plug (PCI Express Base 5.0, 6.7).
//!
//! A device that comes is told as a change of presence and a pressed button; the guest switches
//! power on before anything answers. To let one go the button is pressed; when the guest has
//! switched power and power indicator off, all functions of the slot leave. Each change of the
//! control register completes at once. Values and messages are the peer's. Not modelled: sensors of
//! latches, power faults, changes of the link's state as events.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use device::{Clock, Departure, Unplug};
use parking_lot::Mutex;
use qapi::Error;

use crate::bridge::Bridge;
use crate::express::{LINK_STATUS, SLOT_CONTROL, SLOT_STATUS};
use crate::{Function, SlotParts, SlotTraits};

// Slot control (7.5.3.10).
const INTERRUPTS: u16 = 1 << 5;
const POWER_INDICATOR: u16 = 3 << 8;
const INDICATOR_BLINKS: u16 = 2 << 8;
const INDICATORS_OFF: u16 = 0x3c0;
const POWER_OFF: u16 = 1 << 10;
const INTERLOCK: u16 = 1 << 11;
// Slot status (7.5.3.11); events have the places of their enables.
const BUTTON: u16 = 1;
const PRESENCE_CHANGED: u16 = 1 << 3;
const COMPLETED: u16 = 1 << 4;
const EVENTS: u16 = BUTTON | PRESENCE_CHANGED | COMPLETED;
const PRESENT: u16 = 1 << 6;
const INTERLOCKED: u16 = 1 << 7;
/// Link status: the data link layer is active.
const LINK_ACTIVE: u16 = 1 << 13;
/// How long a guest has before it may be asked once more.
const PATIENCE_NS: u64 = 5_000_000_000;

/// The control register of an empty slot.
pub(crate) fn at_first(power: bool) -> u16 {
    INDICATORS_OFF | if power { POWER_OFF } else { 0 }
}

#[derive(Default)]
struct Seen {
    control: u16,
    status: u16,
    /// An enabled event was told.
    told: bool,
}

/// A slot.
pub(crate) struct Slot {
    traits: SlotTraits,
    clock: Clock,
    departure: Option<Arc<dyn Departure>>,
    seen: Mutex<Seen>,
}

fn half(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

impl Slot {
    pub(crate) fn new(parts: SlotParts) -> Slot {
        let SlotParts { traits, clock, departure } = parts;
        Slot { traits, clock, departure, seen: Mutex::default() }
    }

    pub(crate) fn is_hotpluggable(&self) -> bool {
        self.traits.hotplug
    }

    fn registers(bridge: &Bridge) -> (usize, u16, u16) {
        let at = bridge.function().express_at().unwrap_or(0);
        let word = bridge.function().config32(at + SLOT_CONTROL);
        (at, half(word), half(word >> 16))
    }

    fn set_status(bridge: &Bridge, at: usize, status: u16) {
        bridge.function().change_config(|c| {
            crate::config::put(&mut c.bytes, at + SLOT_STATUS, &status.to_le_bytes());
        });
    }

    fn set_control(bridge: &Bridge, at: usize, control: u16) {
        bridge.function().change_config(|c| {
            crate::config::put(&mut c.bytes, at + SLOT_CONTROL, &control.to_le_bytes());
        });
    }

    fn set_link(bridge: &Bridge, at: usize, link: u16) {
        bridge.function().change_config(|c| {
            crate::config::put(&mut c.bytes, at + LINK_STATUS, &link.to_le_bytes());
        });
    }

    fn is_on(&self, control: u16) -> bool {
        !(self.traits.power && control & POWER_OFF != 0)
    }

    /// A function came.
    pub(crate) fn plugged(&self, bridge: &Bridge, function: &Arc<Function>, devfn: u8, hot: bool) {
        let (at, control, status) = Slot::registers(bridge);
        if hot {
            function.set_power(self.is_on(control));
        } else {
            Slot::set_control(bridge, at, control & !POWER_OFF);
        }
        if devfn & 7 != 0 {
            // The others are seen when function 0 is there.
            return;
        }
        let link = function.link_now().unwrap_or_else(|| bridge.function().own_link());
        Slot::set_link(bridge, at, link | LINK_ACTIVE);
        let events = if hot { PRESENCE_CHANGED | BUTTON } else { 0 };
        Slot::set_status(bridge, at, status | PRESENT | events);
        self.tell(bridge);
    }

    /// The last function is gone.
    pub(crate) fn emptied(&self, bridge: &Bridge) {
        let (at, _, status) = Slot::registers(bridge);
        if status & PRESENT != 0 {
            self.vacate(bridge, at, status);
        }
    }

    fn vacate(&self, bridge: &Bridge, at: usize, status: u16) {
        Slot::set_link(bridge, at, bridge.function().own_link());
        Slot::set_status(bridge, at, (status & !PRESENT) | PRESENCE_CHANGED);
        self.tell(bridge);
    }

    /// All functions leave.
    fn dismiss(&self, bridge: &Bridge) {
        for function in bridge.functions() {
            function.set_power(false);
            function.leaving.store(u64::MAX, Ordering::Release);
            if let Some(departure) = &self.departure {
                departure.leave(function.id());
            }
        }
    }

    /// A device is to go.
    pub(crate) fn ask(&self, bridge: &Bridge, function: &Arc<Function>) -> qapi::Result<Unplug> {
        let (at, control, status) = Slot::registers(bridge);
        let now = self.clock.now_ns();
        if function.leaving.load(Ordering::Acquire) > now {
            let text = format!("Device {} is already in the process of unplug", function.id());
            return Err(Error::generic(text));
        }
        if control & POWER_INDICATOR == INDICATOR_BLINKS {
            return Err(Error::generic(
                "Hot-unplug failed: guest is busy (power indicator blinking)",
            ));
        }
        if control & POWER_INDICATOR == POWER_INDICATOR && control & POWER_OFF != 0 {
            self.dismiss(bridge);
            self.vacate(bridge, at, status & !BUTTON);
            return Ok(Unplug::Asked);
        }
        function.leaving.store(now.saturating_add(PATIENCE_NS), Ordering::Release);
        Slot::set_status(bridge, at, status | BUTTON);
        self.tell(bridge);
        Ok(Unplug::Asked)
    }

    /// The guest wrote to the port's configuration space.
    pub(crate) fn written(&self, bridge: &Bridge, (at, size, value): (usize, usize, u32)) {
        let (start, control, mut status) = Slot::registers(bridge);
        let (old, old_status) = {
            let seen = self.seen.lock();
            (seen.control, seen.status)
        };
        let end = at.saturating_add(size);
        let (control_at, status_at) = (start + SLOT_CONTROL, start + SLOT_STATUS);
        let touches = |place: usize| at < place + 2 && place < end;
        let bits = |place: usize| match place.checked_sub(at) {
            Some(skip) => half(u32::try_from(u64::from(value) >> (8 * skip)).unwrap_or(0)),
            None => half(value << 8),
        };
        if touches(status_at) && bits(status_at) & EVENTS & !old_status != 0 {
            // Who clears all while it starts would lose an event that it has not seen.
            status |= old_status & EVENTS;
            Slot::set_status(bridge, start, status);
        }
        if touches(control_at) {
            if bits(control_at) & INTERLOCK != 0 {
                status ^= INTERLOCKED;
            }
            Slot::set_status(bridge, start, status | COMPLETED);
            let off = POWER_OFF | POWER_INDICATOR;
            let goes = self.traits.hotplug && control & off == off && old & off != off;
            if goes && status & PRESENT != 0 {
                self.dismiss(bridge);
                self.vacate(bridge, start, status | COMPLETED);
            } else {
                for function in bridge.functions() {
                    let leaves = function.leaving.load(Ordering::Acquire) == u64::MAX;
                    function.set_power(self.is_on(control) && !leaves);
                }
            }
        }
        self.tell(bridge);
    }

    /// Interrupts the guest when an enabled event is new.
    fn tell(&self, bridge: &Bridge) {
        let (_, control, status) = Slot::registers(bridge);
        let due = control & INTERRUPTS != 0 && control & status & EVENTS != 0;
        let rises = {
            let mut seen = self.seen.lock();
            let rises = due && !seen.told;
            *seen = Seen { control, status, told: due };
            rises
        };
        bridge.function().interrupt(due, rises);
    }

    pub(crate) fn reset(&self, bridge: &Bridge) {
        let at = bridge.function().express_at().unwrap_or(0);
        let functions = bridge.functions();
        let control =
            if functions.is_empty() { at_first(self.traits.power) } else { INDICATORS_OFF };
        let present = if functions.is_empty() { 0 } else { PRESENT };
        Slot::set_control(bridge, at, control);
        Slot::set_status(bridge, at, present);
        *self.seen.lock() = Seen { control, status: present, told: false };
        for function in functions {
            let leaves = function.leaving.load(Ordering::Acquire) == u64::MAX;
            function.set_power(!leaves);
        }
    }
}
