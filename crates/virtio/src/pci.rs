//! Virtio over PCI (virtio 1.3, section 4.1): modern, legacy and both at once.
//!
//! The layout is the peer's: the legacy interface in I/O region 0, MSI-X in region 1, with
//! `modern-pio-notify` notifications in I/O region 2; region 4 holds the common, ISR, device and
//! notification structures. On root and conventional buses functions are conventional and
//! `disable-legacy=auto` means transitional; behind express ports they are express devices with the
//! modern interface, as at the peer. Not modelled: shared memory, `ats` and `aer` (refused there).

mod legacy;
mod props;

use std::sync::{Arc, OnceLock, Weak};

use derive::VmState;
use device::{Access, AccessRules, AddressSpace, Build, BusFault, Mmio, Region, Saved, Size};
use parking_lot::Mutex;
use pci::{Bar, ConfigHook, Express, Function, Identity, Msix, PciBus, Role};
use vmstate::Migration;

use crate::irq::Wires;
use crate::{Core, Interface, NO_VECTOR, OnOffAuto, VirtioDevice};

pub use legacy::{Legacy, PioNotify};
pub use props::{Modes, Transport};

/// What the properties of a virtio device on PCI say about the transport.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Name of the device, for messages.
    pub name: &'static str,
    /// PCI class.
    pub class: (u8, u8, u8),
    /// Number of MSI-X vectors; `u32::MAX` for one more than there are queues.
    pub vectors: u32,
    /// What they say about PCI.
    pub pci: pci::Common,
    /// What they say about the transport.
    pub transport: Transport,
    /// Which interfaces are shown.
    pub modes: Modes,
}

/// Most MSI-X vectors (PCI 3.0, 6.8.2.3).
const MAX_VECTORS: u32 = 2048;

// Offsets in region 4.
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const WINDOW: u32 = 0x1000;
const LEN: u64 = 0x4000;
/// Bytes between the notification addresses of queues.
const NOTIFY_STEP: u32 = 4;
/// The same with a page for each of 1024 queues, and the length of the region then.
const PAGE: u32 = 0x1000;
const LEN_PAGES: u64 = 0x80_0000;
const VENDOR_SPECIFIC: u8 = 9;
const MODERN_BAR: u8 = 4;
const PIO_BAR: u8 = 2;
/// 4.1.4: kinds of structures.
const CFG_ACCESS: u8 = 5;

// 4.1.4.3: the common structure.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_AREAS: u64 = 0x20;
const QUEUE_AREAS_LAST: u64 = 0x37;
const QUEUE_RESET: u64 = 0x3a;

#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "virtio-pci", version = 1)]
struct Regs {
    device_sel: u32,
    driver_sel: u32,
    queue_sel: u16,
}

/// The transport of one device.
pub struct VirtioPci {
    core: OnceLock<Arc<Core>>,
    function: Arc<Function>,
    msix: Option<Arc<Msix>>,
    modes: (bool, bool),
    step: u32,
    /// Where the capability for access through configuration space is.
    window: OnceLock<usize>,
    _legacy: Option<Arc<Legacy>>,
    _pio: Option<Arc<PioNotify>>,
    regs: Mutex<Regs>,
}

/// A capability that points at a structure (4.1.4), without its id and link.
fn pointer(kind: u8, bar: u8, offset: u64, len: u32, extra: Option<u32>) -> (u8, Vec<u8>) {
    let size = if extra.is_some() { 20 } else { 16 };
    let mut body = vec![size, kind, bar, 0, 0, 0];
    body.extend(u32::try_from(offset).unwrap_or(0).to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(extra.iter().flat_map(|word| word.to_le_bytes()));
    (VENDOR_SPECIFIC, body)
}

impl Setup {
    /// Legacy and modern interface.
    fn modes(&self, on_link: bool) -> qapi::Result<(bool, bool)> {
        let legacy = match self.modes.disable_legacy {
            OnOffAuto::On => false,
            OnOffAuto::Off => true,
            // Express devices have no room for I/O ports.
            OnOffAuto::Auto => !on_link,
        };
        let modern = !self.modes.disable_modern;
        if !legacy && !modern {
            return Err(qapi::Error::generic(
                "device cannot work as neither modern nor legacy mode is enabled",
            )
            .with_hint("Set either disable-modern or disable-legacy to off"));
        }
        Ok((legacy, modern))
    }

    fn vectors(&self, queues: usize) -> u32 {
        match self.vectors {
            u32::MAX => u32::try_from(queues).unwrap_or(MAX_VECTORS).saturating_add(1),
            given => given,
        }
    }
}

impl VirtioPci {
    /// Puts a device on PCI.
    ///
    /// # Errors
    /// What the properties say does not go together.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        setup: &Setup,
        at: &mut Build<'_>,
    ) -> qapi::Result<Arc<VirtioPci>> {
        setup.pci.check(setup.name)?;
        setup.transport.check()?;
        let site = at.parent_bus::<PciBus>().map(|bus| bus.site());
        let on_link = site.is_some_and(|site| site.is_express() && !site.is_root());
        let modes = setup.modes(on_link)?;
        let express = on_link && modes.1 && !setup.transport.disable_pcie;
        if modes.0 && device.features() & crate::feature::ACCESS_PLATFORM != 0 {
            return Err(qapi::Error::generic(
                "VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device",
            ));
        }
        if express && (setup.transport.ats || setup.transport.aer) {
            return Err(qapi::Error::generic("ats and aer are not supported"));
        }
        let id = device.id().0;
        if modes.0 && legacy_id(id).is_none() {
            return Err(qapi::Error::generic("device is modern-only, use disable-legacy=on"));
        }
        let count = setup.vectors(device.queue_sizes().len());
        let count = u16::try_from(count).ok().filter(|n| (1..=MAX_VECTORS).contains(&(*n).into()));
        if setup.vectors != 0 && count.is_none() {
            // The peer goes on without MSI-X.
            trace::guest_error!("{}: unable to init msix vectors to {}", setup.name, setup.vectors);
        }
        let msix = count.map(Msix::new);
        let space = at.world().memory.clone();
        let transport = Arc::new_cyclic(|this: &Weak<VirtioPci>| {
            let legacy = modes.0.then(|| Arc::new(Legacy::new(this.clone())));
            let pio = setup.transport.pio_notify && modes.1;
            let pio = pio.then(|| Arc::new(PioNotify::new(this.clone())));
            let parts = Parts { this, setup, msix: &msix, legacy: &legacy, pio: &pio };
            VirtioPci {
                core: OnceLock::new(),
                function: Arc::new(parts.function(&*device, modes, express)),
                msix: msix.clone(),
                modes,
                step: parts.step(),
                window: OnceLock::new(),
                _legacy: legacy,
                _pio: pio,
                regs: Mutex::default(),
            }
        });
        let own = setup.name.starts_with("virtio-net-pci").then_some("efi-virtio.rom");
        transport.function.add_rom(&setup.pci, own)?;
        transport.start(device, &space);
        at.offer::<Arc<Function>>(transport.function.clone());
        Ok(transport)
    }

    fn start(self: &Arc<Self>, device: Arc<dyn VirtioDevice>, space: &AddressSpace) {
        let wires: Weak<VirtioPci> = Arc::downgrade(self);
        // A device that does not say that the platform limits it goes around an IOMMU.
        let behind = device.features() & crate::feature::ACCESS_PLATFORM != 0;
        let dma = self.function.dma(space);
        let dma = if behind { dma } else { self.function.direct_dma(space) };
        let interface = match self.modes {
            (true, false) => Interface::Legacy,
            (true, true) => Interface::Transitional,
            _ => Interface::Modern,
        };
        _ = self.core.set(Core::new(device, &dma, interface, wires));
        let is_window = |bytes: &[u8]| bytes.get(3) == Some(&CFG_ACCESS);
        if let Some(at) = self.function.capability(VENDOR_SPECIFIC, is_window) {
            _ = self.window.set(at);
            self.function.allow_writes(at + 4, &[0xff]);
            self.function.allow_writes(at + 8, &[0xff; 12]);
            let hook: Weak<VirtioPci> = Arc::downgrade(self);
            self.function.hook(at + 16, hook);
        }
    }

    pub(crate) fn core(&self) -> Option<&Arc<Core>> {
        self.core.get()
    }

    pub(crate) fn has_messages(&self) -> bool {
        self.msix.as_ref().is_some_and(|m| m.is_enabled())
    }

    pub(crate) fn queue_sel(&self) -> u16 {
        self.regs.lock().queue_sel
    }

    pub(crate) fn select(&self, queue: u16) {
        self.regs.lock().queue_sel = queue;
    }

    /// The driver writes the status; zero resets the transport's registers, too.
    pub(crate) fn set_status(&self, core: &Core, value: u8) {
        if value == 0 {
            *self.regs.lock() = Regs::default();
        }
        core.set_status(value);
    }

    /// Old Linux drives legacy devices without making them bus masters.
    pub(crate) fn master(&self) {
        self.function.force_master();
    }

    /// What the capability of 4.1.4.9 points at: offset in region 4, and size.
    fn aim(&self) -> Option<Access> {
        let at = *self.window.get()?;
        let bar = self.function.config32(at + 4).to_le_bytes()[0];
        let offset = u64::from(self.function.config32(at + 8));
        let size = Size::from_bytes(self.function.config32(at + 12).into())?;
        let fits = offset.is_multiple_of(size.bytes()) && offset < LEN_PAGES;
        let fits = fits && size <= Size::B4 && bar == MODERN_BAR;
        fits.then(|| Access { offset, size, attrs: device::TxAttrs::default() })
    }

    /// Finishes or parks what is under way.
    pub async fn pause(&self) {
        if let Some(core) = self.core.get() {
            core.pause().await;
        }
    }

    /// Undoes [`VirtioPci::pause`].
    pub fn resume(&self) {
        if let Some(core) = self.core.get() {
            core.resume();
        }
    }

    /// Resets transport and device.
    pub fn reset(&self) {
        *self.regs.lock() = Regs::default();
        self.function.reset();
        if let Some(core) = self.core.get() {
            core.reset();
        }
    }

    /// Derives everything from the state.
    pub fn settle(&self) {
        self.function.settle();
        if let Some(core) = self.core.get() {
            core.settle();
        }
    }

    /// How the state is saved, with the device's own.
    pub fn migration<'a>(&'a self, device: &'a dyn Saved) -> Migration<'a> {
        let mut parts: Vec<(&'static str, &dyn Saved)> =
            vec![("pci", &*self.function), ("regs", &self.regs), ("device", device)];
        if let Some(core) = self.core.get() {
            parts.push(("virtio", &**core));
        }
        Migration::Parts(parts)
    }

    pub(crate) fn vector(&self, value: u16) -> u16 {
        let exists = self.msix.as_ref().is_some_and(|m| value < m.vectors());
        if exists { value } else { NO_VECTOR }
    }

    fn common_read(&self, core: &Core, at: u64) -> u32 {
        let regs = self.regs.lock().clone();
        let queue = core.queue(regs.queue_sel);
        let state = || queue.map(|q| q.state()).unwrap_or_default();
        let half = |value: u64, sel: u32| match sel {
            0 => low(value),
            1 => low(value >> 32),
            _ => 0,
        };
        match at {
            DEVICE_FEATURE_SELECT => regs.device_sel,
            DEVICE_FEATURE => half(core.features(), regs.device_sel),
            DRIVER_FEATURE_SELECT => regs.driver_sel,
            DRIVER_FEATURE => half(core.accepted(), regs.driver_sel),
            CONFIG_VECTOR => core.config_vector().into(),
            NUM_QUEUES => u32::try_from(core.queue_count()).unwrap_or(0),
            STATUS => core.status().into(),
            GENERATION => core.generation().into(),
            QUEUE_RESET => 0,
            QUEUE_SELECT => regs.queue_sel.into(),
            QUEUE_SIZE => state().size.into(),
            QUEUE_VECTOR => queue.map_or(0, |q| q.state().vector).into(),
            QUEUE_ENABLE => state().enabled.into(),
            QUEUE_NOTIFY_OFF => queue.map_or(0, |_| regs.queue_sel.into()),
            QUEUE_AREAS..=QUEUE_AREAS_LAST => {
                let s = state();
                let area = match at & !7 {
                    0x20 => s.desc,
                    0x28 => s.driver,
                    _ => s.device,
                };
                half(area, u32::from(at & 4 != 0))
            }
            _ => 0,
        }
    }

    fn common_write(&self, core: &Core, at: u64, value: u32) {
        let half = u16::try_from(value & 0xffff).unwrap_or(0);
        let queue = self.regs.lock().queue_sel;
        match at {
            DEVICE_FEATURE_SELECT => self.regs.lock().device_sel = value,
            DRIVER_FEATURE_SELECT => self.regs.lock().driver_sel = value,
            DRIVER_FEATURE => {
                let sel = self.regs.lock().driver_sel;
                if sel < 2 {
                    core.accept(sel == 1, value);
                }
            }
            CONFIG_VECTOR => core.set_config_vector(self.vector(half)),
            STATUS => self.set_status(core, value.to_le_bytes()[0]),
            QUEUE_SELECT => self.regs.lock().queue_sel = half,
            QUEUE_SIZE => core.set_size(queue, half),
            QUEUE_VECTOR => {
                let vector = self.vector(half);
                if let Some(queue) = core.queue(queue) {
                    queue.change(|s| s.vector = vector);
                }
            }
            QUEUE_ENABLE if value == 1 => core.enable(queue),
            QUEUE_AREAS..=QUEUE_AREAS_LAST => core.set_up(queue, |s| {
                let area = match at & !7 {
                    0x20 => &mut s.desc,
                    0x28 => &mut s.driver,
                    _ => &mut s.device,
                };
                let shift = if at & 4 != 0 { 32 } else { 0 };
                *area = (*area & !(0xffff_ffff << shift)) | u64::from(value) << shift;
            }),
            QUEUE_RESET if value == 1 => core.reset_queue(queue),
            _ => trace::guest_error!("virtio-pci: write to common register {at:#x}"),
        }
    }
}

/// The device id of section 4.1.2.1 that legacy drivers know a type by.
fn legacy_id(id: u16) -> Option<u16> {
    Some(match id {
        1 => 0x1000,
        2 => 0x1001,
        3 => 0x1003,
        4 => 0x1005,
        5 => 0x1002,
        8 => 0x1004,
        9 => 0x1009,
        _ => return None,
    })
}

/// What a function is made of.
struct Parts<'a> {
    this: &'a Weak<VirtioPci>,
    setup: &'a Setup,
    msix: &'a Option<Arc<Msix>>,
    legacy: &'a Option<Arc<Legacy>>,
    pio: &'a Option<Arc<PioNotify>>,
}

impl Parts<'_> {
    fn step(&self) -> u32 {
        if self.setup.transport.page_per_vq { PAGE } else { NOTIFY_STEP }
    }

    fn bars(&self, config_len: usize, modern: bool) -> Vec<Option<Bar>> {
        let rules = AccessRules {
            valid: (Size::B1, Size::B8),
            handled: (Size::B1, Size::B4),
            unaligned: false,
            big_endian: false,
        };
        let io = |region| Bar { region, io: true, wide: false, prefetch: false };
        let mut bars: Vec<Option<Bar>> = (0..6).map(|_| None).collect();
        let mut put = |index: u8, bar: Option<Bar>| {
            if let Some(place) = bars.get_mut(usize::from(index)) {
                *place = bar;
            }
        };
        put(
            0,
            self.legacy.as_ref().map(|l| {
                let len = legacy::len(config_len, self.msix.is_some());
                io(Region::mmio("virtio-pci", len, rules, l))
            }),
        );
        put(
            1,
            self.msix.as_ref().map(|msix| {
                let region = Function::msix_region(msix);
                Bar { region, io: false, wide: false, prefetch: false }
            }),
        );
        let pio = self.pio.as_ref().map(|p| io(Region::mmio("virtio-pci-notify-pio", 4, rules, p)));
        put(PIO_BAR, pio);
        let len = if self.setup.transport.page_per_vq { LEN_PAGES } else { LEN };
        put(
            MODERN_BAR,
            modern.then(|| {
                let region = Region::weak_mmio("virtio-pci", len, rules, self.this.clone());
                Bar { region, io: false, wide: true, prefetch: true }
            }),
        );
        bars
    }

    /// What an express device shows first: the link, and power management that does nothing.
    fn add_express(&self, function: &Function) {
        const POWER: u8 = 1;
        let t = &self.setup.transport;
        let express = Express {
            role: Role::Endpoint,
            at: None,
            port: 0,
            link: None,
            flr: t.flr,
            errors: t.deverr,
            link_control: t.lnkctl,
        };
        function.add_express(&express, None);
        // 1.2; a state that is left resets nothing only if that is said.
        let keeps = if t.pm_no_soft_reset { 8 } else { 0 };
        let at = function.add_capability(POWER, None, &[3, 0, keeps, 0, 0, 0]);
        if t.pm {
            function.allow_writes(at + 4, &[3]);
        }
        let this = self.this.clone();
        function.on_reset(move || {
            if let Some(this) = this.upgrade() {
                this.reset();
                this.settle();
            }
        });
    }

    fn function(
        &self,
        device: &dyn VirtioDevice,
        (legacy, modern): (bool, bool),
        express: bool,
    ) -> Function {
        const FIRST_MODERN: u16 = 0x1040;
        const VENDOR: u16 = 0x1af4;
        let id = device.id().0;
        let identity = match legacy_id(id).filter(|_| legacy) {
            // 4.1.2.1: the subsystem is the type, the revision 0.
            Some(old) => Identity {
                id: (VENDOR, old),
                revision: 0,
                class: self.setup.class,
                subsystem: (VENDOR, id),
                pin: 1,
            },
            None => Identity {
                id: (VENDOR, FIRST_MODERN.wrapping_add(id)),
                revision: 1,
                class: self.setup.class,
                subsystem: (VENDOR, 0x1100),
                pin: 1,
            },
        };
        let step = self.step();
        let notify = if step == PAGE { PAGE * u32::from(crate::MAX_SIZE) } else { WINDOW };
        let mut capabilities = Vec::new();
        if modern {
            capabilities.extend([
                pointer(1, MODERN_BAR, 0, WINDOW, None),
                pointer(3, MODERN_BAR, ISR, WINDOW, None),
                pointer(4, MODERN_BAR, DEVICE, WINDOW, None),
                pointer(2, MODERN_BAR, NOTIFY, notify, Some(step)),
            ]);
            if self.pio.is_some() {
                capabilities.push(pointer(2, PIO_BAR, 0, 4, Some(0)));
            }
            capabilities.push(pointer(CFG_ACCESS, 0, 0, 0, Some(0)));
        }
        let bars = self.bars(device.config().len(), modern);
        let function = Function::new(&identity, &self.setup.pci, bars, &[], None);
        if express {
            self.add_express(&function);
        }
        for (id, body) in &capabilities {
            function.add_capability(*id, None, body);
        }
        if let Some(msix) = self.msix {
            function.add_msix(msix.clone(), 1, None);
        }
        function
    }
}

impl ConfigHook for VirtioPci {
    fn read(&self) -> Option<u32> {
        self.aim().and_then(|at| Mmio::read(self, at).ok()).map(low)
    }

    fn written(&self, value: u32) {
        if let Some(at) = self.aim() {
            _ = Mmio::write(self, at, u64::from(value) & at.size.mask());
        }
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

impl Wires for VirtioPci {
    fn message(&self, vector: u16) -> bool {
        let Some(msix) = self.msix.as_ref().filter(|m| m.is_enabled()) else { return false };
        if vector != NO_VECTOR {
            msix.send(vector);
        }
        true
    }

    fn line(&self, level: bool) {
        self.function.set_pin(level);
    }
}

impl Mmio for VirtioPci {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let Some(core) = self.core.get() else { return Ok(0) };
        Ok(match at.offset {
            ..ISR => self.common_read(core, at.offset).into(),
            // 4.1.4.5: reading clears it.
            ISR => core.acknowledge(0xff).into(),
            DEVICE..NOTIFY => core.config_read(at.offset - DEVICE, at.size.bytes()),
            _ => 0,
        })
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let Some(core) = self.core.get() else { return Ok(()) };
        match at.offset {
            ..ISR => self.common_write(core, at.offset, low(value)),
            DEVICE..NOTIFY => core.config_write(at.offset - DEVICE, at.size.bytes(), value),
            NOTIFY.. => {
                let queue = (at.offset - NOTIFY) / u64::from(self.step);
                core.notify(u16::try_from(queue).unwrap_or(u16::MAX));
            }
            _ => {}
        }
        Ok(())
    }
}
