//! Slots for memory that comes and goes, with the registers that ACPI methods drive.
//!
//! A [`Slots`] is a bus for `pc-dimm`: it gives a module a slot and an address, maps its memory, and
//! tells the guest by the event device. To let one go it asks the guest, which ejects it by a
//! register. Sources: QEMU's manual, "ACPI memory hotplug interface"; limits, messages and events
//! are the peer's. Not here: devices without slots (`virtio-mem`), NVDIMMs.

use std::any::Any;
use std::sync::{Arc, Weak};

use derive::VmState;
use device::{
    Access, Bus, BusFault, Departure, GuestEvents, MemorySlots, Mmio, PlugBus, Record, Region,
    SlotStatus, Unplug,
};
use parking_lot::Mutex;
use qapi::{Error, Result, Value};

use crate::pc_dimm::Dimm;

/// Memory is mapped at multiples of this, and is a multiple of it (what the peer asks for ordinary
/// memory of a host with 4 KiB pages).
const ALIGN: u64 = 2 << 20;

// Bits of the flags.
const ENABLED: u32 = 1;
const INSERTED: u32 = 2;
const REMOVING: u32 = 4;
const EJECT: u32 = 8;

/// What the guest and we know of a slot.
#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "memory-slot", version = 1)]
struct Slot {
    enabled: bool,
    inserted: bool,
    removing: bool,
    /// Event and status of `_OST`.
    event: u32,
    status: u32,
}

/// The registers.
#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "memory-hotplug", version = 1)]
pub(crate) struct Regs {
    selector: u32,
    #[vmstate(max = 256)]
    slots: Vec<Slot>,
}

/// A module in its slot.
struct Seat {
    id: String,
    dimm: Arc<Dimm>,
    region: Region,
    base: u64,
    len: u64,
}

/// Called after an event was noted.
type Notify = Box<dyn Fn() + Send + Sync>;

/// What slots need of the machine.
pub(crate) struct Host {
    /// First address and bytes for all modules.
    pub(crate) place: (u64, u64),
    /// Where they are mapped.
    pub(crate) system: Region,
    /// Bytes that all modules together may have.
    pub(crate) most: u64,
    /// Nodes of memory.
    pub(crate) nodes: u32,
    /// Tells the guest.
    pub(crate) notify: Notify,
    /// Who lets devices end.
    pub(crate) departure: Option<Arc<dyn Departure>>,
    /// Who tells monitors.
    pub(crate) events: Option<Arc<dyn GuestEvents>>,
}

/// The slots.
pub(crate) struct Slots {
    host: Host,
    pub(crate) regs: Mutex<Regs>,
    /// Taken before `regs`.
    seats: Mutex<Vec<Option<Seat>>>,
    this: Weak<Slots>,
}

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

impl Slots {
    pub(crate) fn new(count: u32, host: Host) -> Arc<Slots> {
        let count = usize::try_from(count).unwrap_or(0);
        let regs = Regs { selector: 0, slots: vec![Slot::default(); count] };
        let mut seats = Vec::new();
        seats.resize_with(count, || None);
        Arc::new_cyclic(|this| Slots {
            host,
            regs: Mutex::new(regs),
            seats: Mutex::new(seats),
            this: this.clone(),
        })
    }

    /// Whether there is a slot at all.
    fn is_on(&self) -> bool {
        !self.seats.lock().is_empty()
    }

    fn choose_slot(seats: &[Option<Seat>], wanted: i32) -> Result<usize> {
        if seats.is_empty() {
            return error("no slots where allocated, please specify the 'slots' option");
        }
        if wanted == -1 {
            let free = seats.iter().position(Option::is_none);
            return free.ok_or_else(|| Error::generic("no free slots available"));
        }
        match usize::try_from(wanted).ok().and_then(|at| Some((at, seats.get(at)?))) {
            None => error(format!(
                "invalid slot number {wanted}, valid range is [0-{}]",
                seats.len() - 1
            )),
            Some((_, Some(_))) => error(format!("slot {wanted} is busy")),
            Some((at, None)) => Ok(at),
        }
    }

    fn choose_address(&self, seats: &[Option<Seat>], wanted: u64, len: u64) -> Result<u64> {
        let (base, room) = self.host.place;
        let used: u64 = seats.iter().flatten().map(|seat| seat.len).sum();
        if used.saturating_add(len) > self.host.most {
            return error(format!(
                "not enough space, currently {used:#x} in use of total space for memory devices \
                 {:#x}",
                self.host.most
            ));
        }
        if !len.is_multiple_of(ALIGN) {
            return error(format!("backend memory size must be multiple of {ALIGN:#x}"));
        }
        let mut taken: Vec<&Seat> = seats.iter().flatten().collect();
        taken.sort_by_key(|seat| seat.base);
        if wanted != 0 {
            if !wanted.is_multiple_of(ALIGN) {
                return error(format!("address must be aligned to {ALIGN:#x} bytes"));
            }
            let end = wanted.checked_add(len);
            if wanted < base || end.is_none_or(|end| end > base.saturating_add(room)) {
                return error(format!(
                    "can't add memory device [{wanted:#x}:{len:#x}], usable range for memory \
                     devices [{base:#x}:{room:#x}]"
                ));
            }
            let meets = |s: &&&Seat| wanted < s.base + s.len && s.base < wanted + len;
            if let Some(other) = taken.iter().find(meets) {
                let name = if other.id.contains('[') { "(unnamed)" } else { &other.id };
                return error(format!("address range conflicts with memory device id='{name}'"));
            }
            return Ok(wanted);
        }
        let mut at = base;
        for seat in taken {
            if seat.base.saturating_sub(at) >= len {
                break;
            }
            at = at.max(seat.base + seat.len).next_multiple_of(ALIGN);
        }
        if at.saturating_add(len) > base.saturating_add(room) {
            return error(
                "could not find position in guest address space for memory device - \
                          memory fragmented due to alignments",
            );
        }
        Ok(at)
    }

    fn place(&self, record: &Record, hot: bool) -> Result<()> {
        let dimm: Option<Arc<Dimm>> = record.ability();
        let dimm = dimm.ok_or_else(|| Error::generic("this is no memory device"))?;
        let mut seats = self.seats.lock();
        let slot = Slots::choose_slot(&seats, dimm.wanted_slot())?;
        let block = dimm.block()?;
        let len = block.len();
        let base = self.choose_address(&seats, dimm.wanted_address(), len)?;
        if dimm.node() >= self.host.nodes {
            return error(format!(
                "'DIMM property node has value {}' which exceeds the number of numa nodes: {}",
                dimm.node(),
                self.host.nodes
            ));
        }
        let region = Region::ram(dimm.memdev(), block);
        self.host.system.map(base, &region, 0);
        dimm.placed(slot, base, hot);
        if let Some(seat) = seats.get_mut(slot) {
            *seat = Some(Seat { id: record.id.clone(), dimm, region, base, len });
        }
        if let Some(state) = self.regs.lock().slots.get_mut(slot) {
            *state = Slot { enabled: true, inserted: hot, ..Slot::default() };
        }
        drop(seats);
        if hot {
            (self.host.notify)();
        }
        Ok(())
    }

    fn slot_of(&self, id: &str) -> Option<usize> {
        self.seats.lock().iter().position(|s| s.as_ref().is_some_and(|s| s.id == id))
    }

    /// A register; nothing of a slot that is not there, as in the peer.
    fn register(&self, offset: u64) -> u32 {
        let seats = self.seats.lock();
        let regs = self.regs.lock();
        let Ok(at) = usize::try_from(regs.selector) else { return 0 };
        let Some(state) = regs.slots.get(at) else { return 0 };
        let seat = seats.get(at).and_then(Option::as_ref);
        let half = |v: u64, high: bool| u32::try_from(v >> (32 * u32::from(high)) & 0xffff_ffff);
        let value = |v: Option<u64>, high| half(v.unwrap_or(0), high).unwrap_or(0);
        match offset {
            0 => value(seat.map(|s| s.base), false),
            4 => value(seat.map(|s| s.base), true),
            8 => value(seat.map(|s| s.len), false),
            12 => value(seat.map(|s| s.len), true),
            16 => seat.map_or(0, |s| s.dimm.node()),
            20 => {
                let bit = |on: bool, bit: u32| if on { bit } else { 0 };
                bit(state.enabled, ENABLED)
                    | bit(state.inserted, INSERTED)
                    | bit(state.removing, REMOVING)
            }
            _ => u32::MAX,
        }
    }

    fn status(slot: usize, state: &Slot, seat: Option<&Seat>) -> SlotStatus {
        SlotStatus {
            device: seat.map(|s| s.id.clone()).filter(|id| !id.contains('[')),
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            source: state.event,
            status: state.status,
        }
    }

    /// The guest said how an event went.
    fn tell_status(&self, at: usize) {
        let Some(events) = &self.host.events else { return };
        let told = {
            let seats = self.seats.lock();
            let regs = self.regs.lock();
            let Some(state) = regs.slots.get(at) else { return };
            Slots::status(at, state, seats.get(at).and_then(Option::as_ref))
        };
        events.event("ACPI_DEVICE_OST", Value::map([("info", told.to_value())]));
    }

    fn write_flags(&self, at: usize, value: u32) {
        let leaving = {
            let seats = self.seats.lock();
            let mut regs = self.regs.lock();
            let Some(state) = regs.slots.get_mut(at) else { return };
            if value & INSERTED != 0 {
                state.inserted = false;
            }
            if value & REMOVING != 0 {
                state.removing = false;
            }
            let leaves = value & EJECT != 0 && state.enabled;
            if leaves {
                // The guest looks at once whether it is gone.
                state.enabled = false;
            }
            seats.get(at).and_then(Option::as_ref).filter(|_| leaves).map(|s| s.id.clone())
        };
        if let (Some(id), Some(departure)) = (leaving, &self.host.departure) {
            departure.leave(&id);
        }
    }
}

/// The registers, on the bus of the machine.
pub(crate) struct Bank(pub(crate) Arc<Slots>);

impl Mmio for Bank {
    fn read(&self, at: Access) -> std::result::Result<u64, BusFault> {
        let mask = u64::MAX >> (64 - 8 * at.size.bytes());
        Ok(u64::from(self.0.register(at.offset)) & mask)
    }

    fn write(&self, at: Access, value: u64) -> std::result::Result<(), BusFault> {
        let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let slot = {
            let mut regs = self.0.regs.lock();
            if at.offset == 0 {
                regs.selector = value;
                return Ok(());
            }
            let slot = usize::try_from(regs.selector).unwrap_or(usize::MAX);
            let Some(state) = regs.slots.get_mut(slot) else { return Ok(()) };
            match at.offset {
                4 => state.event = value,
                8 => state.status = value,
                _ => {}
            }
            slot
        };
        match at.offset {
            8 => self.0.tell_status(slot),
            20 => self.0.write_flags(slot, value),
            _ => {}
        }
        Ok(())
    }
}

impl MemorySlots for Slots {
    fn ospm_status(&self) -> Vec<SlotStatus> {
        let seats = self.seats.lock();
        let regs = self.regs.lock();
        let all = regs.slots.iter().zip(seats.iter()).enumerate();
        all.map(|(at, (state, seat))| Slots::status(at, state, seat.as_ref())).collect()
    }
}

impl PlugBus for Slots {
    fn name(&self) -> &str {
        "memory-slots"
    }

    fn kind(&self) -> Bus {
        Bus::Memory
    }

    fn is_hotpluggable(&self) -> bool {
        true
    }

    fn plug(&self, record: &Record) -> Result<()> {
        self.place(record, false)
    }

    fn hot_plug(&self, record: &Record) -> Result<()> {
        self.place(record, true)
    }

    fn itself(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.this.upgrade()?)
    }

    fn removed(&self, record: &Record) {
        let Some(at) = self.slot_of(&record.id) else { return };
        let seat = self.seats.lock().get_mut(at).and_then(Option::take);
        if let Some(seat) = seat {
            self.host.system.unmap(&seat.region);
        }
        if let Some(state) = self.regs.lock().slots.get_mut(at) {
            // The guest still tells how the eject went.
            *state = Slot { event: state.event, status: state.status, ..Slot::default() };
        }
    }

    fn unplug(&self, record: &Record) -> Result<Unplug> {
        if !self.is_on() {
            return error("memory hotplug is not enabled: missing acpi-ged device");
        }
        let at = self.slot_of(&record.id).unwrap_or(usize::MAX);
        if let Some(state) = self.regs.lock().slots.get_mut(at) {
            state.removing = true;
        }
        (self.host.notify)();
        Ok(Unplug::Asked)
    }
}
