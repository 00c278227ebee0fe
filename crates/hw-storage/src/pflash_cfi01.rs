//! Parallel flash with the Intel command set (JEDEC CFI, command set 1).
//!
//! A bank of one or more equal chips side by side. In read-array mode the bank is
//! memory that the guest reads and executes directly; the first write of a command
//! turns it into registers until the guest asks for the array again. What is
//! programmed or erased is in the storage behind it before the status says ready;
//! a failing write is the program or erase error of the status register.
//! Sources: JESD68.01, Intel's "Scalable Command Set", and what QEMU 10.0 answers:
//! programming replaces bytes (it does not only clear bits), block locks are
//! accepted and do nothing. Not modelled: time (all is done at once), suspend,
//! protection registers, chips of another width than the bus lanes they sit on.

use std::sync::Arc;

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, Migration, Mmio,
    Region, Reset, Size, Storage,
};
use guest_ram::{RamBlock, RamOptions};
use parking_lot::Mutex;

use crate::cfi::{self, Chip};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Flash>();

/// Properties of `cfi.pflash01`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Node name or ID of a block device to use as a backend
    pub drive: Option<String>,
    /// Number of erase blocks; 0 is taken as 16
    #[qapi(name = "num-blocks", default = "0")]
    pub num_blocks: u32,
    /// Bytes of an erase block of the whole bank; 0 is taken as 4096
    #[qapi(name = "sector-length", default = "0")]
    pub sector_length: u64,
    /// Bytes of the bank's bus; 0 is taken as 4
    #[qapi(default = "0")]
    pub width: u8,
    /// Bytes of each chip's bus; 0 means one chip
    #[qapi(name = "device-width", default = "0")]
    pub device_width: u8,
    /// Only secure accesses change anything
    #[qapi(default = "off")]
    pub secure: bool,
    /// Manufacturer
    #[qapi(default = "0")]
    pub id0: u16,
    /// Chip
    #[qapi(default = "0")]
    pub id1: u16,
    /// Name of the memory region
    pub name: Option<String>,
}

// Commands.
const PROGRAM_ALT: u8 = 0x10;
const ERASE: u8 = 0x20;
const PROGRAM: u8 = 0x40;
const CLEAR_STATUS: u8 = 0x50;
const LOCK: u8 = 0x60;
const READ_STATUS: u8 = 0x70;
const READ_ID: u8 = 0x90;
const QUERY: u8 = 0x98;
const CONFIRM: u8 = 0xd0;
const BUFFER: u8 = 0xe8;
const READ_ARRAY: u8 = 0xff;

// Status register.
const READY: u8 = 0x80;
const ERASE_ERROR: u8 = 0x20;
const PROGRAM_ERROR: u8 = 0x10;

/// Bytes of a chip's write buffer.
const CHIP_BUFFER: u64 = 2048;
/// Largest bank.
const MAX_LEN: u64 = 1 << 30;

/// What the next write means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "pflash-step", version = 1)]
struct Step {
    /// The command that waits for more, 0 if none.
    command: u8,
    /// Bus cycles of it so far.
    cycle: u8,
}

#[derive(Clone, Debug, VmState)]
#[vmstate(name = "cfi.pflash01", version = 1)]
struct Regs {
    /// What reads show: the array, or what this command selects.
    shown: u8,
    step: Step,
    status: u8,
    /// Writes that the buffer still takes.
    count: u32,
    /// Start of the buffered range in the bank.
    buffer_at: u64,
    #[vmstate(max = 65536)]
    buffer: Vec<u8>,
    /// Which bytes of the buffer were written.
    #[vmstate(max = 65536)]
    filled: Vec<bool>,
}

impl Default for Regs {
    fn default() -> Regs {
        Regs {
            shown: READ_ARRAY,
            step: Step::default(),
            status: READY,
            count: 0,
            buffer_at: 0,
            buffer: Vec::new(),
            filled: Vec::new(),
        }
    }
}

/// A flash bank.
pub struct Flash {
    /// Holds the map's locks inside: switching modes changes the memory map.
    regs: Mutex<Regs>,
    block: Arc<RamBlock>,
    storage: Option<Arc<dyn Storage>>,
    /// Shown in read-array mode, over the registers.
    array: Region,
    table: Vec<u8>,
    width: u64,
    lane: u64,
    sector: u64,
    buffer_len: u64,
    ids: [u16; 2],
    secure: bool,
}

impl Flash {
    /// Repeats a chip's answer on every lane of the bus.
    fn lanes(&self, value: u16) -> u64 {
        let one = u64::from(value) & (u64::MAX >> (64 - 8 * self.lane));
        (0..self.width / self.lane).fold(0, |v, n| v | one << (8 * self.lane * n))
    }

    fn answer(&self, regs: &Regs, at: Access) -> u64 {
        let index = at.offset / self.width;
        let value = match regs.shown {
            QUERY => {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                self.table.get(index).copied().unwrap_or(0).into()
            }
            READ_ID => match index & 0xff {
                0 => self.ids[0],
                1 => self.ids[1],
                // 2: the block is not locked.
                _ => 0,
            },
            _ => regs.status.into(),
        };
        self.lanes(value) >> (8 * (at.offset % self.width))
    }

    fn show(&self, regs: &mut Regs, what: u8) {
        regs.shown = what;
        self.array.set_enabled(what == READ_ARRAY);
    }

    fn idle(&self, regs: &mut Regs) {
        regs.step = Step::default();
        self.show(regs, READ_ARRAY);
    }

    /// Puts bytes into the storage, then into the array.
    fn put(&self, at: u64, data: &[u8]) -> bool {
        if let Some(storage) = &self.storage {
            if storage.is_read_only() {
                return false;
            }
            if let Err(error) = storage.write(at, data) {
                trace::guest_error!("pflash: {} bytes at {at:#x}: {error}", data.len());
                return false;
            }
        }
        self.block.write(at, data).is_ok()
    }

    fn program(&self, regs: &mut Regs, at: u64, data: &[u8]) {
        if !self.put(at, data) {
            regs.status |= PROGRAM_ERROR;
        }
        regs.status |= READY;
        regs.step = Step::default();
    }

    fn erase(&self, regs: &mut Regs, at: u64) {
        let start = at - at % self.sector;
        let blank = vec![0xff; usize::try_from(self.sector).unwrap_or(0)];
        if !self.put(start, &blank) {
            regs.status |= ERASE_ERROR;
        }
        regs.status |= READY;
        regs.step = Step::default();
    }

    fn command(&self, regs: &mut Regs, command: u8) {
        let pending = Step { command, cycle: 1 };
        match command {
            PROGRAM | PROGRAM_ALT | LOCK => {
                self.show(regs, READ_STATUS);
                regs.step = pending;
            }
            BUFFER | ERASE => {
                regs.status |= READY;
                self.show(regs, READ_STATUS);
                regs.step = pending;
            }
            READ_STATUS | READ_ID | QUERY => self.show(regs, command),
            CLEAR_STATUS => {
                regs.status = 0;
                self.idle(regs);
            }
            READ_ARRAY | 0 => self.idle(regs),
            _ => {
                trace::guest_error!("pflash: unknown command {command:#x}");
                self.idle(regs);
            }
        }
    }

    /// Takes one write of data into the buffer.
    fn fill(&self, regs: &mut Regs, at: Access, value: u64) {
        let first = regs.filled.iter().all(|f| !f);
        if first {
            regs.buffer_at = at.offset - at.offset % self.buffer_len;
        }
        let read_only = self.storage.as_ref().is_some_and(|s| s.is_read_only());
        let inside = at.offset - at.offset % self.buffer_len == regs.buffer_at;
        if read_only || !inside {
            regs.status |= PROGRAM_ERROR;
            regs.step = Step::default();
            return;
        }
        let start = usize::try_from(at.offset - regs.buffer_at).unwrap_or(usize::MAX);
        let bytes = value.to_le_bytes();
        let cells = regs.buffer.iter_mut().zip(regs.filled.iter_mut()).skip(start);
        for ((slot, filled), byte) in cells.zip(bytes).take(at.size as usize) {
            (*slot, *filled) = (byte, true);
        }
        match regs.count.checked_sub(1) {
            Some(left) => regs.count = left,
            None => regs.step.cycle = 3,
        }
    }

    /// Programs the runs of bytes that the buffer was given.
    fn flush(&self, regs: &mut Regs) {
        let mut at = 0;
        let mut ok = true;
        while let Some(skipped) = regs.filled.get(at..).and_then(|f| f.iter().position(|f| *f)) {
            let start = at + skipped;
            let run = regs.filled.get(start..).unwrap_or_default().iter().take_while(|f| **f);
            let end = start + run.count();
            let data = regs.buffer.get(start..end).unwrap_or_default();
            ok &= self.put(regs.buffer_at.saturating_add(start as u64), data);
            at = end;
        }
        if !ok {
            regs.status |= PROGRAM_ERROR;
        }
        regs.status |= READY;
        regs.step = Step::default();
    }

    /// The second and later writes of a command.
    fn proceed(&self, regs: &mut Regs, at: Access, value: u64) {
        let [low, ..] = value.to_le_bytes();
        match (regs.step.command, regs.step.cycle) {
            (PROGRAM | PROGRAM_ALT, _) => {
                let bytes = value.to_le_bytes();
                let data = bytes.get(..at.size as usize).unwrap_or_default();
                self.program(regs, at.offset, data);
            }
            (ERASE, _) if low == CONFIRM => self.erase(regs, at.offset),
            (LOCK, _) if low == CONFIRM || low == 0x01 => {
                regs.status |= READY;
                regs.step = Step::default();
            }
            (BUFFER, 1) => {
                // One less than the number of writes to come.
                let count = if self.lane == 1 { value & 0xff } else { value & 0xffff };
                let len = usize::try_from(self.buffer_len).unwrap_or(0);
                if count >= self.buffer_len {
                    regs.status |= PROGRAM_ERROR;
                    regs.step = Step::default();
                    return;
                }
                regs.count = u32::try_from(count).unwrap_or(0);
                regs.buffer = vec![0; len];
                regs.filled = vec![false; len];
                regs.step.cycle = 2;
            }
            (BUFFER, 2) => self.fill(regs, at, value),
            (BUFFER, _) if low == CONFIRM => self.flush(regs),
            _ => self.idle(regs),
        }
    }
}

impl Mmio for Flash {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let regs = self.regs.lock();
        if regs.shown == READ_ARRAY {
            return self.block.load(at.offset, at.size as u32).map_err(|_| BusFault::Decode);
        }
        Ok(self.answer(&regs, at))
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        if self.secure && !at.attrs.secure {
            trace::guest_error!("pflash: non-secure write to {:#x} ignored", at.offset);
            return Ok(());
        }
        let mut regs = self.regs.lock();
        if regs.step.command == 0 {
            let [low, ..] = value.to_le_bytes();
            self.command(&mut regs, low);
        } else {
            self.proceed(&mut regs, at, value);
        }
        Ok(())
    }
}

/// Boards say what they have; the conformance tests create a small bank.
fn complete(props: &mut Props) {
    fn fill<T: Default + PartialEq>(slot: &mut T, value: T) {
        if *slot == T::default() {
            *slot = value;
        }
    }
    fill(&mut props.num_blocks, 16);
    fill(&mut props.sector_length, 4096);
    fill(&mut props.width, 4);
}

fn check(props: &Props) -> qapi::Result<u64> {
    let wrong = |text: String| Err(qapi::Error::generic(text));
    let lane = if props.device_width == 0 { props.width } else { props.device_width };
    let known = |w: u8| matches!(w, 1 | 2 | 4);
    if !known(props.width) || !known(lane) || lane > props.width {
        return wrong(format!("width must be 1, 2 or 4 and not below device-width, not {lane}"));
    }
    let len = props.sector_length.checked_mul(props.num_blocks.into());
    match len.filter(|len| *len <= MAX_LEN && len.is_multiple_of(4096)) {
        Some(len) if props.sector_length.is_multiple_of(4096) => Ok(len),
        _ => wrong("sectors must be whole pages, and a bank at most 1 GiB".into()),
    }
}

impl DeviceType for Flash {
    const NAME: &'static str = "cfi.pflash01";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Parallel flash with the Intel command set";
    type Props = Props;

    fn create(mut props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        complete(&mut props);
        let len = check(&props)?;
        let name = props.name.clone().unwrap_or_else(|| "pflash".into());
        let block = RamBlock::new(&name, len, RamOptions::default())
            .map_err(|e| qapi::Error::generic(format!("cannot set up flash '{name}': {e}")))?;
        let storage = match &props.drive {
            None => None,
            Some(drive) => {
                let storage = at.storage(drive, true)?;
                fill(&block, &*storage, &name, drive)?;
                Some(storage)
            }
        };
        let width = u64::from(props.width);
        let lane = if props.device_width == 0 { width } else { u64::from(props.device_width) };
        let chips = width / lane;
        let chip = Chip {
            len: len / chips,
            blocks: props.num_blocks,
            block_len: props.sector_length / chips,
            buffer: CHIP_BUFFER,
        };
        let rules = AccessRules {
            valid: (Size::B1, Size::B8),
            handled: (Size::B1, Size::B4),
            unaligned: true,
            big_endian: false,
        };
        let bank = Region::container(&name, len);
        let device = Arc::new_cyclic(|weak: &std::sync::Weak<Flash>| {
            let array = Region::weak_rom_device(&name, block.clone(), rules, weak.clone());
            bank.map(0, &Region::weak_mmio(&name, len, rules, weak.clone()), 0);
            bank.map(0, &array, 1);
            Flash {
                regs: Mutex::default(),
                block,
                storage,
                array,
                table: cfi::table(&chip),
                width,
                lane,
                sector: props.sector_length,
                buffer_len: CHIP_BUFFER * chips,
                ids: [props.id0, props.id1],
                secure: props.secure,
            }
        });
        at.mmio(bank);
        Ok(device)
    }
}

fn fill(block: &RamBlock, storage: &dyn Storage, name: &str, drive: &str) -> qapi::Result<()> {
    if storage.len() != block.len() {
        return Err(qapi::Error::generic(format!(
            "cfi.pflash01 device '/machine/{name}' requires {} bytes, {drive} block backend \
             provides {} bytes",
            block.len(),
            storage.len()
        )));
    }
    const CHUNK: u64 = 1 << 20;
    let mut data = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
    let mut at = 0;
    while at < block.len() {
        let n = usize::try_from((block.len() - at).min(CHUNK)).unwrap_or(0);
        let part = data.get_mut(..n).unwrap_or_default();
        let failed =
            |e| qapi::Error::generic(format!("failed to read the initial flash content: {e}"));
        storage.read(at, part).map_err(failed)?;
        // Blank pages of a fresh mapping need not be touched.
        if part.iter().any(|b| *b != 0) {
            let _ = block.write(at, part);
        }
        at += CHUNK;
    }
    Ok(())
}

impl Device for Flash {
    fn reset(&self, _: Reset) {
        *self.regs.lock() = Regs::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        let regs = self.regs.lock();
        self.array.set_enabled(regs.shown == READ_ARRAY);
    }
}
