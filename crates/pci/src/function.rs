//! One PCI function: configuration space, base address regions, interrupts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use derive::VmState;
use device::{AccessRules, Dma, Front, Region, Size, TxAttrs};
use parking_lot::Mutex;
use vmstate::{LoadError, Saved, StateReader, StateSchema, StateWriter, VmState};

use crate::bridge::Bridge;
use crate::bus::{Host, PciBus, Pin, Requester};
use crate::config::{BARS, COMMAND, Config, HEADER_TYPE, INTERRUPT_PIN, STATUS, SUBSYSTEM, put};
use crate::iommu::{Iommu, Stream};
use crate::msix::{self, Msix};

const COMMAND_IO: u16 = 1;
const COMMAND_MEMORY: u16 = 2;
const COMMAND_MASTER: u16 = 4;
const COMMAND_NO_INTX: u16 = 1 << 10;
/// 6.2.3: an interrupt is asserted.
const STATUS_INTX: u8 = 1 << 3;
/// PCI Express Base, 7.5.3.3: the function can be reset alone.
const FLR: u32 = 1 << 28;
const CAP_MSI: u8 = 0x05;
const CAP_MSIX: u8 = 0x11;
// 6.8.1, with 64-bit addresses: control, address, data behind the capability's start.
const MSI_CONTROL: usize = 2;
const MSI_ADDRESS: usize = 4;
const MSI_DATA: usize = 12;
const MSI_MASK_BITS: usize = 14;
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

/// Who looks at each change of a function's configuration space, such as a bridge.
pub(crate) trait Watch: Send + Sync {
    /// Something may have changed; called with no lock held.
    fn changed(&self);
    /// The guest wrote these bytes.
    fn written(&self, at: usize, size: usize, value: u32);
    /// The function was reset.
    fn reset(&self);
}

type OnReset = Box<dyn Fn() + Send + Sync>;

/// Behaviour behind four bytes of configuration space, such as a window to elsewhere.
pub trait ConfigHook: Send + Sync {
    /// The bytes are about to be read: what they say; `None`: what was written last.
    fn read(&self) -> Option<u32>;
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
    /// Where each region is mapped now, that of the ROM last. Taken before the map's own locks.
    mapped: Mutex<Vec<Option<u64>>>,
    /// The expansion ROM: all of it, and as it is mapped.
    pub(crate) rom: OnceLock<(Region, Region)>,
    /// MSI-X and where its capability is.
    msix: OnceLock<(Arc<Msix>, usize)>,
    /// Where the MSI capability is.
    msi: OnceLock<usize>,
    hook: OnceLock<(usize, Weak<dyn ConfigHook>)>,
    watch: OnceLock<Weak<dyn Watch>>,
    alone: OnceLock<OnReset>,
    /// What makes it a bridge.
    pub(crate) behind: OnceLock<Weak<Bridge>>,
    /// It is a bridge of the root complex to a bus of its own number.
    pub(crate) expander: OnceLock<Weak<PciBus>>,
    /// Class and id of the device, for messages.
    names: OnceLock<(&'static str, String)>,
    place: Mutex<Option<Arc<Place>>>,
    master: Arc<AtomicBool>,
    /// The IOMMU of the bus it is on.
    front: Front,
    /// Its slot's power is on.
    powered: AtomicBool,
    /// The guest was asked to let it go; by the guest's clock, until when it has time. 0: it was not.
    pub(crate) leaving: AtomicU64,
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
        let mut c = Config::new();
        let (base, sub, interface) = identity.class;
        c.set(0, &identity.id.0.to_le_bytes());
        c.set(2, &identity.id.1.to_le_bytes());
        c.set(8, &[identity.revision, interface, sub, base]);
        c.set(HEADER_TYPE, &[if common.multifunction { 0x80 } else { 0 }]);
        c.set(SUBSYSTEM, &identity.subsystem.0.to_le_bytes());
        c.set(SUBSYSTEM + 2, &identity.subsystem.1.to_le_bytes());
        c.set(INTERRUPT_PIN, &[identity.pin]);
        c.allow(COMMAND, &0x0507u16.to_le_bytes());
        c.allow(0x0c, &[0xff]);
        c.allow(0x3c, &[0xff]);
        for (index, bar) in bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let at = BARS + 4 * index;
            let flags =
                if bar.io { 1 } else { u8::from(bar.prefetch) << 3 | u8::from(bar.wide) << 2 };
            c.set(at, &[flags]);
            let mask = !bar.region.len().wrapping_sub(1) & if bar.io { !3 } else { !15 };
            let len = if bar.wide { 8 } else { 4 };
            c.allow(at, mask.to_le_bytes().get(..len).unwrap_or(&[]));
        }
        for (id, body) in capabilities {
            c.capability(*id, None, body);
        }
        let function = Function {
            addr: common.addr.0,
            multifunction: common.multifunction,
            config: Mutex::new(c),
            mapped: Mutex::new(vec![None; bars.len() + 1]),
            bars,
            msix: OnceLock::new(),
            msi: OnceLock::new(),
            hook: OnceLock::new(),
            watch: OnceLock::new(),
            alone: OnceLock::new(),
            behind: OnceLock::new(),
            expander: OnceLock::new(),
            names: OnceLock::new(),
            place: Mutex::default(),
            master: Arc::default(),
            front: Front::default(),
            rom: OnceLock::new(),
            powered: AtomicBool::new(true),
            leaving: AtomicU64::new(0),
        };
        if let Some((msix, bar)) = msix {
            function.add_msix(msix, bar, None);
        }
        function
    }

    /// Adds the MSI-X capability; before the function is on a bus.
    pub fn add_msix(&self, msix: Arc<Msix>, bar: u8, place: Option<u8>) {
        let mut body = msix.vectors().wrapping_sub(1).to_le_bytes().to_vec();
        body.extend((msix.table_offset() | u32::from(bar)).to_le_bytes());
        body.extend(((msix.table_offset() + msix.pending_offset()) | u32::from(bar)).to_le_bytes());
        let mut c = self.config.lock();
        let at = c.capability(CAP_MSIX, place, &body);
        c.allow(at + 3, &[0xc0]);
        _ = self.msix.set((msix, at));
    }

    pub(crate) fn change_config<R>(&self, f: impl FnOnce(&mut Config) -> R) -> R {
        f(&mut self.config.lock())
    }

    /// Adds a capability at a place or behind the others; where it is.
    pub fn add_capability(&self, id: u8, place: Option<u8>, body: &[u8]) -> usize {
        self.config.lock().capability(id, place, body)
    }

    /// Bytes of configuration space as they are made, and after a reset.
    pub fn set_config(&self, at: usize, value: &[u8]) {
        self.config.lock().set(at, value);
    }

    /// More bits of the status register's lower half that are always set.
    pub fn set_status_bits(&self, bits: u8) {
        self.change_config(|c| {
            let status = c.get8(STATUS) | bits;
            c.set(STATUS, &[status]);
        });
    }

    /// Notes that it stands for a further root bus.
    pub fn leads_to(&self, bus: &Arc<PciBus>) {
        _ = self.expander.set(Arc::downgrade(bus));
    }

    /// What resets the function alone.
    pub fn on_reset(&self, reset: impl Fn() + Send + Sync + 'static) {
        _ = self.alone.set(Box::new(reset));
    }

    pub(crate) fn watched_by(&self, watch: Weak<dyn Watch>) {
        _ = self.watch.set(watch);
    }

    fn watcher(&self) -> Option<Arc<dyn Watch>> {
        self.watch.get()?.upgrade()
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
        self.direct_dma(space).behind(self.front.clone())
    }

    /// The same around an IOMMU.
    #[must_use]
    pub fn direct_dma(&self, space: &device::AddressSpace) -> Dma {
        Dma::new(space.clone(), TxAttrs::default(), self.master.clone())
    }

    /// Where a message that is written to `addr` goes; `None` if an IOMMU refuses it.
    pub(crate) fn message_address(front: &Front, addr: u64) -> Option<u64> {
        match front.get() {
            None => Some(addr),
            Some(iommu) => iommu.translate(addr, true).map(|to| to.addr),
        }
    }

    pub(crate) fn connect(
        &self,
        host: &Host,
        pin: Pin,
        requester: Requester,
        iommu: Option<Arc<dyn Iommu>>,
    ) {
        if let Some(iommu) = iommu {
            _ = self.front.set(Arc::new(Stream { iommu, requester: requester.clone() }));
        }
        if let Some((msix, _)) = self.msix.get() {
            _ = msix.front.set(self.front.clone());
            _ = msix.requester.set(requester);
            _ = msix.space.set(host.memory.clone());
        }
        *self.place.lock() = Some(Arc::new(Place { host: host.clone(), pin }));
    }

    /// Takes it out of the maps and lets its pin go.
    pub(crate) fn disconnect(&self) {
        self.set_power(false);
        *self.place.lock() = None;
    }

    /// Bus number, and device and function number, once it is on a bus.
    #[must_use]
    pub fn address(&self) -> Option<(u8, u8)> {
        let [devfn, bus] = self.place()?.pin.requester().id().to_le_bytes();
        Some((bus, devfn))
    }

    /// The bus behind a bridge.
    pub(crate) fn bus_behind(&self) -> Option<Arc<PciBus>> {
        self.behind.get()?.upgrade()?.bus()
    }

    /// The windows of the bus that it is on.
    pub(crate) fn host(&self) -> Option<Host> {
        self.place().map(|place| place.host.clone())
    }

    fn place(&self) -> Option<Arc<Place>> {
        self.place.lock().clone()
    }

    /// Switches the slot's power: without it nothing answers.
    pub(crate) fn set_power(&self, on: bool) {
        if self.powered.swap(on, Ordering::AcqRel) != on {
            self.update();
        }
    }

    pub(crate) fn is_powered(&self) -> bool {
        self.powered.load(Ordering::Acquire)
    }

    /// Adds an MSI capability with one vector and 64-bit addresses; before anything is mapped.
    pub fn add_msi(&self) {
        self.add_msi_at(None, false);
    }

    /// The same at a place, with a mask bit or without.
    pub fn add_msi_at(&self, place: Option<u8>, maskable: bool) {
        let mut body = vec![0; if maskable { 22 } else { 12 }];
        let control: [u8; 2] = [MSI_64, u8::from(maskable)];
        put(&mut body, 0, &control);
        let mut config = self.config.lock();
        let at = config.capability(CAP_MSI, place, &body);
        config.allow(at + MSI_CONTROL, &[1, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        config.allow(at + MSI_DATA, &[0xff; 2]);
        if maskable {
            config.allow(at + MSI_MASK_BITS + 2, &[1]);
        }
        _ = self.msi.set(at);
    }

    /// Whether the guest switched MSI on.
    #[must_use]
    pub fn is_msi_enabled(&self) -> bool {
        let config = self.config.lock();
        self.msi.get().is_some_and(|at| config.get16(at + MSI_CONTROL) & MSI_ENABLE != 0)
    }

    /// Raises or lowers the one interrupt of a function that has MSI-X, MSI or a pin; messages are
    /// sent when it rises. Call it without locks.
    pub(crate) fn interrupt(&self, on: bool, rises: bool) {
        match self.msix.get() {
            Some((msix, _)) if msix.is_enabled() => {
                if rises {
                    msix.send(0);
                }
            }
            _ if self.is_msi_enabled() => {
                if rises {
                    self.send_msi();
                }
            }
            _ => self.set_pin(on),
        }
    }

    /// Sends the MSI message, if it is switched on. Call it without locks.
    pub fn send_msi(&self) {
        let Some(at) = self.msi.get().filter(|_| self.is_msi_enabled()) else { return };
        let (addr, data) = {
            let config = self.config.lock();
            let high = u64::from(config.get32(at + MSI_ADDRESS + 4)) << 32;
            (high | u64::from(config.get32(at + MSI_ADDRESS)), config.get16(at + MSI_DATA))
        };
        if let Some(place) = self.place().filter(|_| self.master.load(Ordering::Acquire)) {
            let requester = place.pin.requester().id();
            let attrs = TxAttrs { requester, ..TxAttrs::default() };
            let Some(addr) = Function::message_address(&self.front, addr & !3) else { return };
            _ = place.host.memory.write_uint(addr, Size::B4, data.into(), attrs);
        }
    }

    /// Puts behaviour behind four bytes of configuration space at `at`.
    pub fn hook(&self, at: usize, hook: Weak<dyn ConfigHook>) {
        self.config.lock().allow(at, &[0xff; 4]);
        _ = self.hook.set((at, hook));
    }

    /// Makes bytes of configuration space writable that no rule above does.
    pub fn allow_writes(&self, at: usize, mask: &[u8]) {
        self.config.lock().allow(at, mask);
    }

    /// Makes bits of configuration space that writing ones clears.
    pub fn allow_clear(&self, at: usize, mask: &[u8]) {
        self.config.lock().allow_clear(at, mask);
    }

    /// A little-endian word of configuration space.
    #[must_use]
    pub fn config32(&self, at: usize) -> u32 {
        self.config.lock().get32(at)
    }

    /// Where the first capability of an id is that `f` likes.
    #[must_use]
    pub fn capability(&self, id: u8, f: impl Fn(&[u8]) -> bool) -> Option<usize> {
        self.config.lock().find(id, f)
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
        if !self.is_powered() {
            return u32::MAX;
        }
        if let Some((place, hook)) = self.hooked(at, size)
            && let Some(value) = hook.read()
        {
            put(&mut self.config.lock().bytes, place, &value.to_le_bytes());
        }
        self.config.lock().read(at, size)
    }

    /// Writes configuration space.
    pub fn write(&self, at: usize, size: usize, value: u32) {
        if !self.is_powered() {
            return;
        }
        self.config.lock().write(at, size, value);
        if let Some((place, hook)) = self.hooked(at, size) {
            hook.written(self.config32(place));
        }
        self.update();
        if let Some(watch) = self.watcher() {
            watch.written(at, size, value);
        }
        if self.starts_reset(at, size, value) {
            self.reset_alone();
        }
    }

    /// Whether a write asks for a function level reset.
    fn starts_reset(&self, at: usize, size: usize, value: u32) -> bool {
        let Some(start) = self.express_at().filter(|start| self.config32(start + 4) & FLR != 0)
        else {
            return false;
        };
        // The upper byte of device control.
        let place = start + 9;
        let written = at <= place && place < at.saturating_add(size);
        written && u64::from(value) >> (8 * (place - at)) & 0x80 != 0
    }

    /// Resets this function and nothing else.
    pub(crate) fn reset_alone(&self) {
        match self.alone.get() {
            Some(reset) => reset(),
            None => self.reset(),
        }
    }

    /// Derives mappings and interrupts from configuration space.
    fn update(&self) {
        let (command, control) = {
            let config = self.config.lock();
            let at = self.msix.get().map_or(0, |(_, at)| at + 2);
            (config.get16(COMMAND), config.get16(at))
        };
        let powered = self.is_powered();
        self.master.store(powered && command & COMMAND_MASTER != 0, Ordering::Release);
        self.map_bars(if powered { command } else { 0 });
        self.drive();
        if let Some((msix, _)) = self.msix.get() {
            msix.control(control & 0x8000 != 0, control & 0x4000 != 0);
        }
        if let Some(watch) = self.watcher() {
            watch.changed();
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
        let Some(place) = self.place() else { return };
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
        let wanted = self.rom_wanted(command & COMMAND_MEMORY != 0);
        if let (Some(region), Some(now)) = (self.rom_region(), mapped.last_mut())
            && *now != wanted
        {
            if now.is_some() {
                place.host.mmio.unmap(region);
            }
            if let Some(base) = wanted {
                place.host.mmio.map(base, region, 1);
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
        if let Some(place) = self.place() {
            place.pin.set(on && self.is_powered());
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
            config.reset();
            config.level = false;
        }
        if let Some((msix, _)) = self.msix.get() {
            msix.reset();
        }
        if let Some(watch) = self.watcher() {
            watch.reset();
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
        let msix = self.msix.get().map(|(m, _)| m.state.lock().clone());
        Snapshot { config: config.bytes.clone(), level: config.level, msix }.save(w);
    }

    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError> {
        let Snapshot { config, level, msix } = Snapshot::load(r, version)?;
        let mut now = self.config.lock();
        if !now.could_be(&config) {
            return Err(LoadError::Invalid("the configuration space is another function's"));
        }
        match (self.msix.get(), msix) {
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
