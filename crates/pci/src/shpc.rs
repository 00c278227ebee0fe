//! The standard hot plug controller of bridges to conventional buses (SHPC 1.0).
//!
//! A slot for each device number but 0. A device that comes is told as a change of presence, a closed
//! latch and a pressed button; it answers at once. To let one go the button is pressed; when the guest
//! has switched slot and power indicator off, all functions of the device leave. Commands complete at
//! once. Registers are reached by a memory region, or by a pair of configuration registers. Values,
//! order and messages are QEMU 10.0's. Not modelled: speeds beyond 33 MHz, system errors.
//! Source: PCI Standard Hot-Plug Controller and Subsystem Specification 1.0, 4.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use derive::VmState;
use device::{Access, AccessRules, BusFault, Departure, Mmio, Region, Size, Unplug};
use parking_lot::Mutex;
use qapi::Error;

use crate::bridge::Bridge;
use crate::function::{ConfigHook, Function};

/// Bytes of the region.
const LEN: u64 = 0x100;
const CAPABILITY: u8 = 0x0c;
/// Where the capability is.
const AT: u8 = 0x40;
const SLOTS: usize = 31;

// Registers (4.6), as numbers of double words.
const SLOTS_AVAILABLE: usize = 1;
const SLOT_CONFIG: usize = 3;
const BUS_CONFIG: usize = 4;
const COMMAND: usize = 5;
const INTERRUPT_LOCATOR: usize = 6;
const ENABLE: usize = 8;
const FIRST_SLOT: usize = 9;

/// Interrupts are masked: all of them, those of completed commands.
const MASK_ALL: u32 = 1;
const MASK_COMMAND: u32 = 1 << 2;
/// A command completed.
const COMPLETED: u32 = 1 << 16;

// Slot status (4.6.14).
const STATE: u16 = 3;
const POWER_ONLY: u16 = 1;
const ENABLED: u16 = 2;
const DISABLED: u16 = 3;
const POWER_LED: u16 = 3 << 2;
const LED_ON: u16 = 1 << 2;
const LED_BLINKS: u16 = 2 << 2;
const LED_OFF: u16 = 3 << 2;
const ATTENTION_LED: u16 = 3 << 4;
const LATCH_OPEN: u16 = 1 << 8;
const ABSENT: u16 = 3 << 10;
const EMPTY: u16 = DISABLED | LED_OFF | ATTENTION_LED | LATCH_OPEN | ABSENT;

// Events of a slot (4.6.15).
const PRESENCE: u8 = 1;
const BUTTON: u8 = 1 << 2;
const LATCH: u8 = 1 << 3;
const EVENTS: u8 = 0x1f;

// What the status of a command says (4.6.8).
const INVALID: u32 = 1 << 18;
const INVALID_SPEED: u32 = 1 << 19;

#[derive(Clone, Copy, Debug, VmState)]
#[vmstate(name = "shpc-slot", version = 1)]
struct Slot {
    status: u16,
    events: u8,
    mask: u8,
}

/// The registers.
#[derive(Clone, Debug, VmState)]
#[vmstate(name = "shpc", version = 1)]
pub(crate) struct Regs {
    command: u32,
    enable: u32,
    #[vmstate(max = 31)]
    slots: Vec<Slot>,
    /// The interrupt was raised.
    raised: bool,
}

impl Default for Regs {
    fn default() -> Regs {
        let slot = Slot { status: EMPTY, events: 0, mask: 0x7f };
        Regs { command: 0, enable: 0xf, slots: vec![slot; SLOTS], raised: false }
    }
}

impl Regs {
    fn locator(&self) -> u32 {
        let command = self.enable & COMPLETED != 0 && self.enable & MASK_COMMAND == 0;
        let slots = (1u32..).zip(&self.slots);
        slots.fold(u32::from(command), |bits, (number, slot)| {
            let told = slot.events & EVENTS & !slot.mask != 0;
            bits | u32::from(told).checked_shl(number).unwrap_or(0)
        })
    }

    fn word(&self, number: usize) -> u32 {
        match number {
            SLOTS_AVAILABLE => 31,
            // 31 slots, the first is device 1 and number 1, numbers go up; latches and buttons.
            SLOT_CONFIG => 0xe001_011f,
            BUS_CONFIG => 0x0100_0000,
            COMMAND => self.command,
            INTERRUPT_LOCATOR => self.locator(),
            ENABLE => self.enable,
            FIRST_SLOT.. => self.slots.get(number - FIRST_SLOT).map_or(u32::MAX, |slot| {
                u32::from(slot.status) | u32::from(slot.events) << 16 | u32::from(slot.mask) << 24
            }),
            _ => 0,
        }
    }

    fn slot(&mut self, device: u8) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(device).checked_sub(1)?)
    }

    /// A byte that the guest writes.
    fn put(&mut self, at: usize, value: u8) {
        let shift = 8 * (at % 4);
        let set = |word: u32| word & !(0xff << shift) | u32::from(value) << shift;
        match (at / 4, at % 4) {
            // The target has five bits.
            (COMMAND, 0 | 1) => self.command = set(self.command) & 0x1fff,
            (ENABLE, 0) => self.enable = self.enable & !0xf | u32::from(value & 0xf),
            (ENABLE, 2) => self.enable &= !(u32::from(value & 3) << 16),
            (number @ FIRST_SLOT.., byte) => {
                let Some(slot) = self.slots.get_mut(number - FIRST_SLOT) else { return };
                match byte {
                    2 => slot.events &= !(value & EVENTS),
                    3 => slot.mask = value & 0x7f,
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// The controller.
pub struct Shpc {
    pub(crate) regs: Mutex<Regs>,
    function: OnceLock<Weak<Function>>,
    bridge: OnceLock<Weak<Bridge>>,
    departure: Option<Arc<dyn Departure>>,
    this: Weak<Shpc>,
}

impl Shpc {
    /// A controller without devices.
    #[must_use]
    pub fn new(departure: Option<Arc<dyn Departure>>) -> Arc<Shpc> {
        Arc::new_cyclic(|this| Shpc {
            regs: Mutex::default(),
            function: OnceLock::new(),
            bridge: OnceLock::new(),
            departure,
            this: this.clone(),
        })
    }

    /// Its region, for the first base address register.
    #[must_use]
    pub fn region(self: &Arc<Self>) -> Region {
        let rules = AccessRules {
            valid: (Size::B1, Size::B4),
            handled: (Size::B1, Size::B4),
            ..AccessRules::ANY
        };
        Region::mmio("shpc-mmio", LEN, rules, self)
    }

    /// Adds its capability to the bridge's function.
    pub fn show(&self, function: &Function) {
        let at = function.add_capability(CAPABILITY, Some(AT), &[0; 6]);
        function.allow_writes(at + 2, &[0xff]);
        function.hook(at + 4, self.this.clone());
    }

    /// What saved state is made of.
    #[must_use]
    pub fn saved(&self) -> &dyn vmstate::Saved {
        &self.regs
    }

    pub(crate) fn belongs_to(&self, bridge: &Arc<Bridge>) {
        _ = self.function.set(Arc::downgrade(bridge.function()));
        _ = self.bridge.set(Arc::downgrade(bridge));
    }

    /// Whether a device number has a slot.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn check(devfn: u8) -> qapi::Result<()> {
        if devfn >> 3 == 0 {
            return Err(Error::generic(
                "Unsupported PCI slot 0 for standard hotplug controller. Valid slots are between \
                 1 and 31.",
            ));
        }
        Ok(())
    }

    /// A function came.
    pub(crate) fn plugged(&self, devfn: u8, hot: bool) {
        if devfn & 7 != 0 {
            return;
        }
        if let Some(slot) = self.regs.lock().slot(devfn >> 3) {
            slot.status &= !(LATCH_OPEN | ABSENT);
            if hot {
                slot.events |= PRESENCE | BUTTON | LATCH;
            } else {
                slot.status = slot.status & !(STATE | POWER_LED) | ENABLED | LED_ON;
            }
        }
        self.tell();
    }

    /// A function is gone: its slot may be empty.
    pub(crate) fn taken(&self, bridge: &Bridge) {
        let devices: Vec<u8> = bridge.devices();
        {
            let mut regs = self.regs.lock();
            for (device, slot) in (1u8..).zip(&mut regs.slots) {
                if slot.status & LATCH_OPEN == 0 && !devices.contains(&device) {
                    vacate(slot);
                }
            }
        }
        self.tell();
    }

    fn functions(&self, device: u8) -> Vec<Arc<Function>> {
        let bridge = self.bridge.get().and_then(Weak::upgrade);
        bridge.map(|bridge| bridge.functions_of(device)).unwrap_or_default()
    }

    /// All functions of a device leave.
    fn dismiss(&self, device: u8) {
        for function in self.functions(device) {
            function.set_power(false);
            function.leaving.store(u64::MAX, Ordering::Release);
            if let Some(departure) = &self.departure {
                departure.leave(function.id());
            }
        }
    }

    /// A device is to go.
    pub(crate) fn ask(&self, devfn: u8) -> qapi::Result<Unplug> {
        let goes = {
            let mut regs = self.regs.lock();
            let Some(slot) = regs.slot(devfn >> 3) else { return Ok(Unplug::Done) };
            if slot.status & POWER_LED == LED_BLINKS {
                return Err(Error::generic(
                    "Hot-unplug failed: guest is busy (power indicator blinking)",
                ));
            }
            let off = is_off(slot.status);
            if off {
                vacate(slot);
            } else {
                slot.events |= BUTTON;
            }
            off
        };
        if goes {
            self.dismiss(devfn >> 3);
        }
        self.tell();
        Ok(Unplug::Asked)
    }

    /// Carries out what was written to the command register.
    fn execute(&self) {
        let gone = {
            let mut regs = self.regs.lock();
            let [code, device, ..] = regs.command.to_le_bytes();
            let (status, gone) = command(&mut regs, code, device);
            regs.command = regs.command & 0xffff | status;
            regs.enable |= COMPLETED;
            gone
        };
        if let Some(device) = gone {
            self.dismiss(device);
        }
    }

    /// Interrupts the guest when something enabled is new.
    fn tell(&self) {
        let (due, rises) = {
            let mut regs = self.regs.lock();
            let due = regs.locator() != 0 && regs.enable & MASK_ALL == 0;
            let rises = due && !regs.raised;
            regs.raised = due;
            (due, rises)
        };
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            function.interrupt(due, rises);
        }
    }

    pub(crate) fn reset(&self, bridge: &Bridge) {
        let mut regs = Regs::default();
        for device in bridge.devices() {
            if let Some(slot) = regs.slot(device) {
                slot.status = ENABLED | LED_ON | ATTENTION_LED;
            }
        }
        *self.regs.lock() = regs;
    }

    fn write_bytes(&self, at: usize, bytes: &[u8]) {
        {
            let mut regs = self.regs.lock();
            (at..).zip(bytes).for_each(|(at, byte)| regs.put(at, *byte));
        }
        let end = at.saturating_add(bytes.len());
        if at < 4 * COMMAND + 2 && 4 * COMMAND < end {
            self.execute();
        }
        self.tell();
    }
}

fn is_off(status: u16) -> bool {
    status & STATE == DISABLED && status & POWER_LED == LED_OFF
}

fn vacate(slot: &mut Slot) {
    slot.status |= LATCH_OPEN | ABSENT;
    slot.events |= PRESENCE | LATCH;
}

/// One command: what its status says, and the device that leaves.
fn command(regs: &mut Regs, code: u8, device: u8) -> (u32, Option<u8>) {
    match code {
        0..=0x3f => {
            let Some(slot) = regs.slot(device) else { return (INVALID, None) };
            let (state, old) = (u16::from(code & 3), slot.status);
            if state == POWER_ONLY && old & STATE == ENABLED {
                return (INVALID, None);
            }
            for mask in [STATE, POWER_LED, ATTENTION_LED] {
                let wanted = u16::from(code) & mask;
                if wanted != 0 {
                    slot.status = slot.status & !mask | wanted;
                }
            }
            if is_off(slot.status) && !is_off(old) {
                let present = slot.status & LATCH_OPEN == 0;
                vacate(slot);
                return (0, present.then_some(device));
            }
            (0, None)
        }
        // Speeds of the bus: 33 MHz.
        0x40 => (0, None),
        0x41..=0x47 => (INVALID_SPEED, None),
        0x48 if regs.slots.iter().any(|s| s.status & STATE == ENABLED) => (INVALID, None),
        0x48 | 0x49 => {
            let state = if code == 0x48 { POWER_ONLY } else { ENABLED };
            for slot in regs.slots.iter_mut().filter(|s| s.status & LATCH_OPEN == 0) {
                slot.status = slot.status & !(STATE | POWER_LED) | state | LED_ON;
            }
            (0, None)
        }
        _ => (INVALID, None),
    }
}

impl Mmio for Shpc {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let offset = usize::try_from(at.offset).unwrap_or(usize::MAX);
        let word = u64::from(self.regs.lock().word(offset / 4)) >> (8 * (offset % 4));
        Ok(word & (u64::MAX >> (64 - 8 * at.size.bytes())))
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let offset = usize::try_from(at.offset).unwrap_or(usize::MAX);
        let len = usize::try_from(at.size.bytes()).unwrap_or(0);
        self.write_bytes(offset, value.to_le_bytes().get(..len).unwrap_or_default());
        Ok(())
    }
}

/// The register that the capability's select byte chooses.
impl ConfigHook for Shpc {
    fn read(&self) -> Option<u32> {
        let number = self.selected()?;
        Some(self.regs.lock().word(number))
    }

    fn written(&self, value: u32) {
        if let Some(number) = self.selected() {
            self.write_bytes(4 * number, &value.to_le_bytes());
        }
    }
}

impl Shpc {
    fn selected(&self) -> Option<usize> {
        let function = self.function.get()?.upgrade()?;
        let [_, _, select, _] = function.config32(AT.into()).to_le_bytes();
        Some(select.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_move_slots_between_states() {
        let mut regs = Regs::default();
        let mut run = |code, device| command(&mut regs, code, device).0;
        assert_eq!([run(2, 0), run(5, 0)], [INVALID; 2]);
        assert_eq!([run(2, 7), run(1, 7), run(4, 7), run(3, 7)], [0, INVALID, 0, 0]);
        assert_eq!([run(0x40, 0), run(0x41, 0), run(0x4a, 0)], [0, INVALID_SPEED, INVALID]);
        assert_eq!(run(0x0c, 7), 0);
        let slot = regs.slots[6];
        assert_eq!((slot.status, slot.events), (0xd3f, PRESENCE | LATCH));
    }

    #[test]
    fn what_is_masked_is_not_located() {
        let mut regs = Regs::default();
        regs.slots[2].events = BUTTON;
        assert_eq!(regs.locator(), 0);
        regs.put(4 * (FIRST_SLOT + 2) + 3, 0);
        assert_eq!(regs.locator(), 1 << 3);
        regs.put(4 * (FIRST_SLOT + 2) + 2, 0xff);
        assert_eq!(regs.locator(), 0);
        for at in 0..0x200 {
            regs.put(at, 0xff);
            _ = regs.word(at);
        }
    }
}
