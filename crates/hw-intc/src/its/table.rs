//! The tables: entries of devices, events and collections in guest memory.
//!
//! Their format is this model's own (IHI 0069, 5.2: implementation defined). An entry
//! that cannot be read, or that names what does not exist, counts as absent.

use super::{Its, PAGE, Regs, VALID};

/// Entries of the device and collection tables.
const ENTRY: u64 = 8;
/// Bytes of an event's entry: number and collection.
const EVENT_ENTRY: u64 = 12;
/// GITS_BASER.Indirect.
const INDIRECT: u64 = 1 << 62;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Indices into `Regs::baser`.
const DEVICES: usize = 0;
const COLLECTIONS: usize = 1;
/// First LPI, and one past the last.
const LPIS: std::ops::Range<u32> = 8192..65536;

/// A device: where its events' table is and how many bits an event number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceEntry {
    pub(super) events: u64,
    pub(super) bits: u32,
}

/// An event: its interrupt and collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventEntry {
    pub(super) intid: u32,
    pub(super) collection: u16,
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

impl Its {
    pub(super) fn load(&self, at: u64, size: u32) -> Option<u64> {
        let ram = self.memory.ram_at(at).filter(|ram| ram.len >= u64::from(size))?;
        ram.block.load(ram.offset, size).ok()
    }

    fn store(&self, at: u64, size: u32, value: u64) -> Option<()> {
        let ram = self.memory.ram_at(at).filter(|r| r.len >= u64::from(size) && !r.readonly)?;
        ram.block.store(ram.offset, size, value).ok()
    }

    /// The address of an entry of the device or collection table.
    fn entry(&self, regs: &Regs, table: usize, index: u32) -> Option<u64> {
        let baser = regs.baser.get(table).copied().filter(|b| b & VALID != 0)?;
        let page = match baser >> 8 & 3 {
            0 => PAGE,
            1 => 4 * PAGE,
            _ => 16 * PAGE,
        };
        // 64 KiB pages keep address bits 51 to 48 in bits 15 to 12.
        let base = match page {
            p if p == 16 * PAGE => (baser & ADDRESS & !0xffff) | (baser >> 12 & 15) << 48,
            _ => baser & ADDRESS,
        };
        let len = ((baser & 0xff) + 1) * page;
        let offset = u64::from(index) * ENTRY;
        if baser & INDIRECT == 0 {
            return (offset < len).then(|| base.checked_add(offset))?;
        }
        let first = offset / page * 8;
        if first >= len {
            return None;
        }
        let next = self.load(base.checked_add(first)?, 8).filter(|next| next & VALID != 0)?;
        (next & 0x000f_ffff_ffff_f000 & !(page - 1)).checked_add(offset % page)
    }

    pub(super) fn device(&self, regs: &Regs, device: u32) -> Option<DeviceEntry> {
        let raw = self.load(self.entry(regs, DEVICES, device)?, 8)?;
        if raw & VALID == 0 {
            return None;
        }
        let bits = low32(raw & 31) + 1;
        Some(DeviceEntry { events: raw & 0x000f_ffff_ffff_ff00, bits: bits.min(16) })
    }

    pub(super) fn set_device(
        &self,
        regs: &Regs,
        device: u32,
        new: Option<DeviceEntry>,
    ) -> Option<()> {
        let raw = new.map_or(0, |d| VALID | d.events | u64::from(d.bits - 1));
        self.store(self.entry(regs, DEVICES, device)?, 8, raw)
    }

    pub(super) fn collection(&self, regs: &Regs, collection: u16) -> Option<u32> {
        let raw = self.load(self.entry(regs, COLLECTIONS, collection.into())?, 8)?;
        let cpu = low32(raw & 0xffff);
        let known = self.lpis.get().is_some_and(|lpis| cpu < lpis.cpus());
        (raw & VALID != 0 && known).then_some(cpu)
    }

    pub(super) fn set_collection(
        &self,
        regs: &Regs,
        collection: u16,
        cpu: Option<u16>,
    ) -> Option<()> {
        let raw = cpu.map_or(0, |cpu| VALID | u64::from(cpu));
        self.store(self.entry(regs, COLLECTIONS, collection.into())?, 8, raw)
    }

    fn event_at(device: DeviceEntry, event: u32) -> Option<u64> {
        if u64::from(event) >= 1 << device.bits {
            return None;
        }
        device.events.checked_add(u64::from(event) * EVENT_ENTRY)
    }

    pub(super) fn event(&self, device: DeviceEntry, event: u32) -> Option<EventEntry> {
        let at = Its::event_at(device, event)?;
        let intid = self.load(at, 4)?;
        let collection = self.load(at + 8, 4)?;
        // Bit 31 says that the entry is there.
        let found = EventEntry {
            intid: low32(intid) & !(1 << 31),
            collection: u16::try_from(collection & 0xffff).ok()?,
        };
        (intid >> 31 & 1 == 1 && LPIS.contains(&found.intid)).then_some(found)
    }

    pub(super) fn set_event(
        &self,
        device: DeviceEntry,
        event: u32,
        new: Option<EventEntry>,
    ) -> Option<()> {
        let at = Its::event_at(device, event)?;
        if new.is_some_and(|new| !LPIS.contains(&new.intid)) {
            return None;
        }
        let (intid, collection) =
            new.map_or((0, 0), |n| (u64::from(n.intid) | 1 << 31, u64::from(n.collection)));
        self.store(at + 8, 4, collection)?;
        self.store(at, 4, intid)
    }

    /// The CPU and number that a device's event is.
    pub(super) fn translate(&self, regs: &Regs, device: u32, event: u32) -> Option<(u32, u32)> {
        let entry = self.event(self.device(regs, device)?, event)?;
        Some((self.collection(regs, entry.collection)?, entry.intid))
    }
}
