//! One PCI function: configuration space, base address regions, interrupts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use derive::VmState;
use device::{AccessRules, Dma, Region, Size, TxAttrs};
use parking_lot::Mutex;
use vmstate::{LoadError, Saved, StateReader, StateSchema, StateWriter, VmState};

use crate::bus::{Host, Pin};
use crate::msix::{self, Msix};

/// Bytes of configuration space of a conventional function.
const SPACE: usize = 256;

// PCI 3.0, 6.1: the header.
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_PIN: usize = 0x3d;
const COMMAND_IO: u16 = 1;
const COMMAND_MEMORY: u16 = 2;
const COMMAND_MASTER: u16 = 4;
const COMMAND_NO_INTX: u16 = 1 << 10;
/// 6.2.3: an interrupt is asserted; there are capabilities.
const STATUS_INTX: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const CAP_MSI: u8 = 0x05;
const CAP_MSIX: u8 = 0x11;
// 6.8.1, with 64-bit addresses: control, address, data behind the capability's start.
const MSI_CONTROL: usize = 2;
const MSI_ADDRESS: usize = 4;
const MSI_DATA: usize = 12;
const MSI_ENABLE: u16 = 1;
const MSI_64: u8 = 1 << 7;

/// Who a function says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor and device.
    pub id: (u16, u16),
    /// Revision.
    pub revision: u8,
    /// Class code: base class, subclass, interface.
    pub class: (u8, u8, u8),
    /// Subsystem vendor and device.
    pub subsystem: (u16, u16),
    /// Interrupt pin: 0 none, 1 is A.
    pub pin: u8,
}

/// A base address region.
pub struct Bar {
    /// What answers there; its length is a power of two.
    pub region: Region,
    /// I/O space.
    pub io: bool,
    /// 64-bit memory: takes the next register, too.
    pub wide: bool,
    /// Prefetchable memory.
    pub prefetch: bool,
}

struct Config {
    bytes: Vec<u8>,
    mask: Vec<u8>,
    /// Where the next capability goes.
    free: u8,
    /// The pin is driven by the function.
    level: bool,
}

#[derive(VmState)]
#[vmstate(name = "pci", version = 1)]
struct Snapshot {
    #[vmstate(max = 4096)]
    config: Vec<u8>,
    level: bool,
    msix: Option<msix::State>,
}

struct Place {
    host: Host,
    pin: Pin,
}

/// Behaviour behind four bytes of configuration space, such as a window to elsewhere.
pub trait ConfigHook: Send + Sync {
    /// The bytes are about to be read: what they say.
    fn read(&self) -> u32;
    /// The bytes were written.
    fn written(&self, value: u32);
}

/// A PCI function.
pub struct Function {
    /// Device and function number the user asked for.
    pub addr: Option<u8>,
    /// `multifunction=`.
    pub multifunction: bool,
    config: Mutex<Config>,
    bars: Vec<Option<Bar>>,
    /// Where each region is mapped now. Taken before the map's own locks.
    mapped: Mutex<Vec<Option<u64>>>,
    msix: Option<(Arc<Msix>, usize)>,
    /// Where the MSI capability is.
    msi: OnceLock<usize>,
    hook: OnceLock<(usize, Weak<dyn ConfigHook>)>,
    /// Class and id of the device, for messages.
    names: OnceLock<(&'static str, String)>,
    place: OnceLock<Place>,
    master: Arc<AtomicBool>,
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

impl Config {
    fn get16(&self, at: usize) -> u16 {
        let byte = |i| self.bytes.get(i).copied().unwrap_or(0);
        u16::from_le_bytes([byte(at), byte(at + 1)])
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }

    fn capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = usize::from(self.free);
        let next = self.bytes.get(CAPABILITIES).copied().unwrap_or(0);
        put(&mut self.bytes, at, &[id, next]);
        put(&mut self.bytes, at + 2, body);
        put(&mut self.mask, at, &vec![0; body.len() + 2]);
        put(&mut self.bytes, CAPABILITIES, &[self.free]);
        put(&mut self.bytes, STATUS, &[STATUS_CAPABILITIES]);
        let end = (at + 2 + body.len()).next_multiple_of(4);
        self.free = u8::try_from(end).unwrap_or(u8::MAX);
        at
    }
}

impl Function {
    /// A function; `bars` by register number, `capabilities` are ids with their bodies, and
    /// MSI-X has its table at the start of the given region.
    #[must_use]
    pub fn new(
        identity: &Identity,
        common: &crate::Common,
        bars: Vec<Option<Bar>>,
        capabilities: &[(u8, Vec<u8>)],
        msix: Option<(Arc<Msix>, u8)>,
    ) -> Function {
        let mut c =
            Config { bytes: vec![0; SPACE], mask: vec![0; SPACE], free: 0x40, level: false };
        let (base, sub, interface) = identity.class;
        put(&mut c.bytes, 0, &identity.id.0.to_le_bytes());
        put(&mut c.bytes, 2, &identity.id.1.to_le_bytes());
        put(&mut c.bytes, 8, &[identity.revision, interface, sub, base]);
        let header = if common.multifunction { 0x80 } else { 0 };
        put(&mut c.bytes, 0x0e, &[header]);
        put(&mut c.bytes, 0x2c, &identity.subsystem.0.to_le_bytes());
        put(&mut c.bytes, 0x2e, &identity.subsystem.1.to_le_bytes());
        put(&mut c.bytes, INTERRUPT_PIN, &[identity.pin]);
        put(&mut c.mask, COMMAND, &0x0507u16.to_le_bytes());
        put(&mut c.mask, 0x0c, &[0xff]);
        put(&mut c.mask, 0x3c, &[0xff]);
        // What belongs to no capability can be written, as at the peer.
        c.mask.iter_mut().skip(0x40).for_each(|mask| *mask = 0xff);
        for (index, bar) in bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let at = BARS + 4 * index;
            let flags =
                if bar.io { 1 } else { u8::from(bar.prefetch) << 3 | u8::from(bar.wide) << 2 };
            put(&mut c.bytes, at, &[flags]);
            let mask = !bar.region.len().wrapping_sub(1) & if bar.io { !3 } else { !15 };
            let len = if bar.wide { 8 } else { 4 };
            put(&mut c.mask, at, mask.to_le_bytes().get(..len).unwrap_or(&[]));
        }
        for (id, body) in capabilities {
            c.capability(*id, body);
        }
        let msix = msix.map(|(msix, bar)| {
            let mut body = msix.vectors().wrapping_sub(1).to_le_bytes().to_vec();
            body.extend(u32::from(bar).to_le_bytes());
            body.extend((msix.pending_offset() | u32::from(bar)).to_le_bytes());
            let at = c.capability(CAP_MSIX, &body);
            put(&mut c.mask, at + 3, &[0xc0]);
            (msix, at)
        });
        Function {
            addr: common.addr.0,
            multifunction: common.multifunction,
            config: Mutex::new(c),
            mapped: Mutex::new(vec![None; bars.len()]),
            bars,
            msix,
            msi: OnceLock::new(),
            hook: OnceLock::new(),
            names: OnceLock::new(),
            place: OnceLock::new(),
            master: Arc::default(),
        }
    }

    /// A region for the MSI-X table and pending bits.
    #[must_use]
    pub fn msix_region(msix: &Arc<Msix>) -> Region {
        Region::mmio("msix", msix.region_len(), AccessRules::WORD32, msix)
    }

    /// What its base address registers show, in order.
    #[must_use]
    pub fn regions(&self) -> Vec<Region> {
        self.bars.iter().flatten().map(|bar| bar.region.clone()).collect()
    }

    /// Access to guest memory, as far as the guest lets the function be bus master.
    #[must_use]
    pub fn dma(&self, space: &device::AddressSpace) -> Dma {
        Dma::new(space.clone(), TxAttrs::default(), self.master.clone())
    }

    /// `requester` is the bus, device and function number that messages carry.
    pub(crate) fn connect(&self, host: &Host, pin: Pin, requester: u16) {
        if let Some((msix, _)) = &self.msix {
            _ = msix.requester.set(requester);
            _ = msix.space.set(host.memory.clone());
        }
        _ = self.place.set(Place { host: host.clone(), pin });
    }

    /// Adds an MSI capability with one vector and 64-bit addresses; before anything is mapped.
    pub fn add_msi(&self) {
        let mut config = self.config.lock();
        let at = config.capability(CAP_MSI, &[MSI_64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let address = [0xff; 7];
        put(&mut config.mask, at + MSI_CONTROL, &[1, 0, 0xfc]);
        put(&mut config.mask, at + MSI_ADDRESS + 1, &address);
        put(&mut config.mask, at + MSI_DATA, &[0xff; 2]);
        _ = self.msi.set(at);
    }

    /// Whether the guest switched MSI on.
    #[must_use]
    pub fn is_msi_enabled(&self) -> bool {
        let config = self.config.lock();
        self.msi.get().is_some_and(|at| config.get16(at + MSI_CONTROL) & MSI_ENABLE != 0)
    }

    /// Sends the MSI message, if it is switched on. Call it without locks.
    pub fn send_msi(&self) {
        let Some(at) = self.msi.get().filter(|_| self.is_msi_enabled()) else { return };
        let (addr, data) = {
            let config = self.config.lock();
            let high = u64::from(config.get32(at + MSI_ADDRESS + 4)) << 32;
            (high | u64::from(config.get32(at + MSI_ADDRESS)), config.get16(at + MSI_DATA))
        };
        if let Some(place) = self.place.get().filter(|_| self.master.load(Ordering::Acquire)) {
            let memory = &place.host.memory;
            _ = memory.write_uint(addr & !3, Size::B4, data.into(), TxAttrs::default());
        }
    }

    /// Puts behaviour behind four bytes of configuration space at `at`.
    pub fn hook(&self, at: usize, hook: Weak<dyn ConfigHook>) {
        put(&mut self.config.lock().mask, at, &[0xff; 4]);
        _ = self.hook.set((at, hook));
    }

    /// Makes bytes of configuration space writable that no rule above does.
    pub fn allow_writes(&self, at: usize, mask: &[u8]) {
        put(&mut self.config.lock().mask, at, mask);
    }

    /// A little-endian word of configuration space.
    #[must_use]
    pub fn config32(&self, at: usize) -> u32 {
        self.config.lock().get32(at)
    }

    /// Where the first capability of an id is that `f` likes.
    #[must_use]
    pub fn capability(&self, id: u8, f: impl Fn(&[u8]) -> bool) -> Option<usize> {
        let config = self.config.lock();
        let mut at = usize::from(*config.bytes.get(CAPABILITIES)?);
        for _ in 0..48 {
            let bytes = config.bytes.get(at..).filter(|_| at != 0)?;
            if bytes.first() == Some(&id) && f(bytes) {
                return Some(at);
            }
            at = usize::from(*bytes.get(1)?);
        }
        None
    }

    /// Lets the function be bus master, as old drivers forget to.
    pub fn force_master(&self) {
        if let Some(byte) = self.config.lock().bytes.get_mut(COMMAND) {
            *byte |= 4;
        }
        self.update();
    }

    pub(crate) fn name_it(&self, class: &'static str, id: &str) {
        _ = self.names.set((class, id.to_owned()));
    }

    /// The generic name of the function (PCI Bus Binding to IEEE 1275, 2.5).
    pub(crate) fn firmware_name(&self) -> String {
        let config = self.config.lock();
        let byte = |at: usize| config.bytes.get(at).copied().unwrap_or(0);
        let word = |at| u16::from_le_bytes([byte(at), byte(at + 1)]);
        match (byte(0x0b), byte(0x0a)) {
            (1, 0) => "scsi".into(),
            (1, 1) => "ide".into(),
            (2, 0) => "ethernet".into(),
            (3, 0) => "display".into(),
            (6, 0) => "host".into(),
            (6, 4) => "pci-bridge".into(),
            (0x0c, 3) => "usb".into(),
            _ => format!("pci{:04x},{:04x}", word(0), word(2)),
        }
    }

    pub(crate) fn bars(&self) -> &[Option<Bar>] {
        &self.bars
    }

    /// The id that the user gave, empty if none.
    pub(crate) fn user_id(&self) -> String {
        let id = self.names.get().map_or("", |names| &names.1);
        if id.contains('[') { String::new() } else { id.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        self.names.get().map_or("the host bridge", |names| names.0)
    }

    pub(crate) fn id(&self) -> &str {
        self.names.get().map_or("(null)", |names| &names.1)
    }

    fn hooked(&self, at: usize, size: usize) -> Option<(usize, Arc<dyn ConfigHook>)> {
        let (place, hook) = self.hook.get()?;
        let touches = at < place + 4 && *place < at.saturating_add(size);
        if touches { Some((*place, hook.upgrade()?)) } else { None }
    }

    pub(crate) fn pin(&self) -> u8 {
        self.config.lock().bytes.get(INTERRUPT_PIN).copied().unwrap_or(0)
    }

    /// Reads configuration space.
    #[must_use]
    pub fn read(&self, at: usize, size: usize) -> u32 {
        if let Some((place, hook)) = self.hooked(at, size) {
            let value = hook.read();
            put(&mut self.config.lock().bytes, place, &value.to_le_bytes());
        }
        let config = self.config.lock();
        let byte = |at: usize| config.bytes.get(at).copied().unwrap_or(0xff);
        (0..size.min(4)).rev().fold(0, |value, i| value << 8 | u32::from(byte(at + i)))
    }

    /// Writes configuration space.
    pub fn write(&self, at: usize, size: usize, value: u32) {
        {
            let mut config = self.config.lock();
            let Config { bytes, mask, .. } = &mut *config;
            let cells = bytes.iter_mut().zip(mask.iter()).skip(at).take(size.min(4));
            for ((byte, mask), new) in cells.zip(value.to_le_bytes()) {
                *byte = (*byte & !mask) | (new & mask);
            }
        }
        if let Some((place, hook)) = self.hooked(at, size) {
            hook.written(self.config32(place));
        }
        self.update();
    }

    /// Derives mappings and interrupts from configuration space.
    fn update(&self) {
        let (command, control) = {
            let config = self.config.lock();
            let at = self.msix.as_ref().map_or(0, |(_, at)| at + 2);
            (config.get16(COMMAND), config.get16(at))
        };
        self.master.store(command & COMMAND_MASTER != 0, Ordering::Release);
        self.map_bars(command);
        self.drive();
        if let Some((msix, _)) = &self.msix {
            msix.control(control & 0x8000 != 0, control & 0x4000 != 0);
        }
    }

    fn wanted(&self, index: usize, bar: &Bar, command: u16) -> Option<u64> {
        let config = self.config.lock();
        let at = BARS + 4 * index;
        let low = u64::from(config.get32(at));
        if bar.io {
            let base = low & !3;
            // Address 0 is one like others on this host (`allow 0 address` of the peer).
            let fits = base.saturating_add(bar.region.len()) <= 0x1_0000;
            return Some(base).filter(|_| fits && command & COMMAND_IO != 0);
        }
        let high = if bar.wide { u64::from(config.get32(at + 4)) << 32 } else { 0 };
        let base = (low & !15) | high;
        let limit = if bar.wide { u64::MAX } else { u32::MAX.into() };
        let last = base.checked_add(bar.region.len() - 1);
        let fits = last.is_some_and(|last| last < limit);
        Some(base).filter(|_| fits && command & COMMAND_MEMORY != 0)
    }

    fn map_bars(&self, command: u16) {
        let Some(place) = self.place.get() else { return };
        let mut mapped = self.mapped.lock();
        for (index, (bar, now)) in self.bars.iter().zip(mapped.iter_mut()).enumerate() {
            let Some(bar) = bar else { continue };
            let wanted = self.wanted(index, bar, command);
            if *now == wanted {
                continue;
            }
            let window = if bar.io { &place.host.io } else { &place.host.mmio };
            if now.is_some() {
                window.unmap(&bar.region);
            }
            if let Some(base) = wanted {
                window.map(base, &bar.region, 1);
            }
            *now = wanted;
        }
    }

    /// Drives the interrupt pin from the function's wish, the command and MSI-X.
    fn drive(&self) {
        let mut config = self.config.lock();
        let level = config.level;
        if let Some(status) = config.bytes.get_mut(STATUS) {
            *status = if level { *status | STATUS_INTX } else { *status & !STATUS_INTX };
        }
        let on = level && config.get16(COMMAND) & COMMAND_NO_INTX == 0;
        if let Some(place) = self.place.get() {
            place.pin.set(on);
        }
    }

    /// Asserts or releases the interrupt pin.
    pub fn set_pin(&self, level: bool) {
        self.config.lock().level = level;
        self.drive();
    }

    /// Brings configuration space to its reset state.
    pub fn reset(&self) {
        {
            let mut config = self.config.lock();
            let Config { bytes, mask, level, .. } = &mut *config;
            for (byte, mask) in bytes.iter_mut().zip(mask.iter()) {
                *byte &= !mask;
            }
            *level = false;
        }
        if let Some((msix, _)) = &self.msix {
            msix.reset();
        }
        self.update();
    }

    /// Derives everything from the state, after loading.
    pub fn settle(&self) {
        self.update();
    }
}

impl Saved for Function {
    fn schema(&self) -> &'static StateSchema {
        Snapshot::schema()
    }

    fn save(&self, w: &mut StateWriter) {
        let config = self.config.lock();
        let msix = self.msix.as_ref().map(|(m, _)| m.state.lock().clone());
        Snapshot { config: config.bytes.clone(), level: config.level, msix }.save(w);
    }

    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError> {
        let Snapshot { config, level, msix } = Snapshot::load(r, version)?;
        let mut now = self.config.lock();
        let same = now
            .bytes
            .iter()
            .zip(&config)
            .zip(&now.mask)
            .enumerate()
            .all(|(at, ((old, new), mask))| (old ^ new) & !mask == 0 || at == STATUS);
        if config.len() != SPACE || !same {
            return Err(LoadError::Invalid("the configuration space is another function's"));
        }
        match (&self.msix, msix) {
            (None, None) => {}
            (Some((own, _)), Some(state))
                if state.table.len() == usize::from(own.vectors())
                    && state.pending.len() == state.table.len() =>
            {
                *own.state.lock() = state;
            }
            _ => return Err(LoadError::Invalid("the number of MSI-X vectors differs")),
        }
        now.bytes = config;
        now.level = level;
        Ok(())
    }
}
