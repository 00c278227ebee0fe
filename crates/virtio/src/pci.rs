//! Virtio over PCI (virtio 1.3, section 4.1), the modern interface.
//!
//! The layout is the peer's: MSI-X in region 1; region 4 holds the common, ISR,
//! device and notification structures, 4 KiB each. Not modelled: the legacy
//! interface (so devices have the modern ids, as with `disable-legacy=on`), the
//! configuration access capability's window (4.1.4.9 reads zeroes), ATS, AER.

use std::sync::{Arc, OnceLock, Weak};

use derive::VmState;
use device::{Access, AccessRules, AddressSpace, Build, BusFault, Mmio, Region, Saved, Size};
use parking_lot::Mutex;
use pci::{Bar, Function, Identity, Msix};
use vmstate::Migration;

use crate::irq::Wires;
use crate::{Core, NO_VECTOR, VirtioDevice};

/// What the properties of a virtio device on PCI say about the transport.
#[derive(Clone, Debug)]
pub struct Common {
    /// Number of MSI-X vectors; `u32::MAX` for one more than there are queues.
    pub vectors: u32,
    /// What they say about PCI.
    pub pci: pci::Common,
}

/// Most MSI-X vectors that fit into region 1.
const MAX_VECTORS: u32 = 128;

// Offsets in region 4.
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const WINDOW: u32 = 0x1000;
const LEN: u64 = 0x4000;
/// Bytes between the notification addresses of queues.
const NOTIFY_STEP: u32 = 4;

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
    regs: Mutex<Regs>,
}

/// A capability that points at a structure (4.1.4), without its id and link.
fn pointer(kind: u8, offset: u64, extra: Option<u32>) -> (u8, Vec<u8>) {
    const VENDOR_SPECIFIC: u8 = 9;
    let len = if extra.is_some() { 20 } else { 16 };
    let bar = 4;
    let mut body = vec![len, kind, bar, 0, 0, 0];
    body.extend(u32::try_from(offset).unwrap_or(0).to_le_bytes());
    body.extend(WINDOW.to_le_bytes());
    body.extend(extra.iter().flat_map(|word| word.to_le_bytes()));
    (VENDOR_SPECIFIC, body)
}

impl VirtioPci {
    /// Puts a device on PCI; `class` is its PCI class.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        common: &Common,
        class: (u8, u8, u8),
        at: &mut Build<'_>,
    ) -> qapi::Result<Arc<VirtioPci>> {
        let queues = u32::try_from(device.queue_sizes().len()).unwrap_or(u32::MAX);
        let vectors = match common.vectors {
            u32::MAX => queues.saturating_add(1).min(MAX_VECTORS),
            given => given,
        };
        if vectors > MAX_VECTORS {
            let range = format!("a number from 0 to {MAX_VECTORS}");
            return Err(qapi::Error::expects("vectors", &range));
        }
        let count = u16::try_from(vectors).ok().filter(|n| *n > 0);
        let msix = count.map(Msix::new);
        let id = device.id().0;
        let space = at.world().memory.clone();
        let transport = Arc::new_cyclic(|this: &Weak<VirtioPci>| {
            let function = Arc::new(function(this, common, (id, class), msix.as_ref()));
            VirtioPci { core: OnceLock::new(), function, msix, regs: Mutex::default() }
        });
        transport.start(device, &space);
        at.offer::<Arc<Function>>(transport.function.clone());
        Ok(transport)
    }

    fn start(self: &Arc<Self>, device: Arc<dyn VirtioDevice>, space: &AddressSpace) {
        let wires: Weak<VirtioPci> = Arc::downgrade(self);
        let dma = self.function.dma(space);
        _ = self.core.set(Core::new(device, &dma, crate::Interface::Modern, wires));
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

    fn vector(&self, value: u16) -> u16 {
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
            GENERATION | QUEUE_RESET => 0,
            QUEUE_SELECT => regs.queue_sel.into(),
            QUEUE_SIZE => state().size.into(),
            QUEUE_VECTOR => queue.map_or(NO_VECTOR, |q| q.state().vector).into(),
            QUEUE_ENABLE => state().enabled.into(),
            QUEUE_NOTIFY_OFF => regs.queue_sel.into(),
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
            STATUS => {
                if value == 0 {
                    *self.regs.lock() = Regs::default();
                }
                core.set_status(value.to_le_bytes()[0]);
            }
            QUEUE_SELECT => self.regs.lock().queue_sel = half,
            QUEUE_SIZE => core.set_up(queue, |s| s.size = half),
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

fn function(
    this: &Weak<VirtioPci>,
    common: &Common,
    (id, class): (u16, (u8, u8, u8)),
    msix: Option<&Arc<Msix>>,
) -> Function {
    const FIRST_MODERN: u16 = 0x1040;
    const VENDOR: u16 = 0x1af4;
    let rules = AccessRules {
        valid: (Size::B1, Size::B8),
        handled: (Size::B1, Size::B4),
        unaligned: false,
        big_endian: false,
    };
    let region = Region::weak_mmio("virtio-pci", LEN, rules, this.clone());
    let mut bars: Vec<Option<Bar>> = (0..6).map(|_| None).collect();
    if let (Some(bar), Some(msix)) = (bars.get_mut(1), msix) {
        let region = Function::msix_region(msix);
        *bar = Some(Bar { region, io: false, wide: false, prefetch: false });
    }
    if let Some(bar) = bars.get_mut(4) {
        *bar = Some(Bar { region, io: false, wide: true, prefetch: true });
    }
    let identity = Identity {
        id: (VENDOR, FIRST_MODERN.wrapping_add(id)),
        revision: 1,
        class,
        subsystem: (VENDOR, 0x1100),
        pin: 1,
    };
    let capabilities = [
        pointer(1, 0, None),
        pointer(3, ISR, None),
        pointer(4, DEVICE, None),
        pointer(2, NOTIFY, Some(NOTIFY_STEP)),
    ];
    let msix = msix.map(|m| (m.clone(), 1));
    Function::new(&identity, &common.pci, bars, &capabilities, msix)
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
                let queue = (at.offset - NOTIFY) / u64::from(NOTIFY_STEP);
                core.notify(u16::try_from(queue).unwrap_or(u16::MAX));
            }
            _ => {}
        }
        Ok(())
    }
}
