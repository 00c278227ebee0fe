//! Virtio over MMIO (virtio 1.3, section 4.2), one device per transport.
//!
//! `force-legacy` (the peer's default) shows version 1 with page-numbered queues
//! (4.2.4); else version 2. An empty transport answers with device type 0. Not
//! modelled: shared memory regions (their length reads as all ones: none).

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, BoxFuture, Build, Bus, BusFault, Device, DeviceClass, DeviceType, Dma,
    IrqOut, Migration, Mmio, PlugBus, Record, Region, Reset, Saved, Size,
};
use parking_lot::Mutex;

use crate::irq::Wires;
use crate::{Core, Interface, MAX_SIZE, Offer};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioMmio>();

/// Properties of `virtio-mmio`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Put the device's path into the names of its parts; without effect
    #[qapi(name = "format_transport_address", default = true)]
    pub format_transport_address: bool,
    /// Show the legacy interface
    #[qapi(name = "force-legacy", default = true)]
    pub force_legacy: bool,
    /// Handle notifications outside of the CPU's thread; without effect
    #[qapi(default = true)]
    pub ioeventfd: bool,
}

// 4.2.2 and 4.2.4: register offsets.
const MAGIC: u64 = 0x00;
const VERSION: u64 = 0x04;
const DEVICE_ID: u64 = 0x08;
const VENDOR_ID: u64 = 0x0c;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SEL: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const GUEST_PAGE_SIZE: u64 = 0x28;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM_MAX: u64 = 0x34;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_ALIGN: u64 = 0x3c;
const QUEUE_PFN: u64 = 0x40;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_DRIVER: u64 = 0x90;
const QUEUE_DEVICE: u64 = 0xa0;
const SHM_LEN_LOW: u64 = 0xb0;
const SHM_BASE_HIGH: u64 = 0xbc;
const QUEUE_RESET: u64 = 0xc0;
const CONFIG_GENERATION: u64 = 0xfc;
const CONFIG: u64 = 0x100;

const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"QEMU");

#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "virtio-mmio", version = 1)]
struct Regs {
    device_sel: u32,
    driver_sel: u32,
    queue_sel: u16,
    page_shift: u32,
    align: u32,
}

/// The transport.
pub struct VirtioMmio {
    legacy: bool,
    bus: String,
    irq: Arc<IrqOut>,
    dma: Dma,
    core: OnceLock<Arc<Core>>,
    regs: Mutex<Regs>,
    this: Weak<VirtioMmio>,
}

impl DeviceType for VirtioMmio {
    const NAME: &'static str = "virtio-mmio";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "virtio over MMIO";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let bus = at.world().numbered("virtio-mmio-bus");
        let irq = at.irq_out();
        let dma = at.dma();
        let device = Arc::new_cyclic(|this| VirtioMmio {
            legacy: props.force_legacy,
            bus,
            irq,
            dma,
            core: OnceLock::new(),
            regs: Mutex::default(),
            this: this.clone(),
        });
        let rules = AccessRules {
            valid: (Size::B1, Size::B4),
            handled: (Size::B1, Size::B4),
            unaligned: false,
            big_endian: false,
        };
        at.mmio(Region::mmio("virtio-mmio", 0x200, rules, &device));
        at.bus(device.clone());
        Ok(device)
    }
}

impl PlugBus for VirtioMmio {
    fn name(&self) -> &str {
        &self.bus
    }

    fn kind(&self) -> Bus {
        Bus::Virtio
    }

    fn is_full(&self) -> bool {
        self.core.get().is_some()
    }

    fn plug(&self, record: &Record) -> qapi::Result<()> {
        let offer: Option<Offer> = record.ability();
        let offer = offer.ok_or_else(|| qapi::Error::generic("this is no virtio device"))?;
        let wires: Weak<VirtioMmio> = self.this.clone();
        let interface = if self.legacy { Interface::Legacy } else { Interface::Modern };
        let core = Core::new(offer, &self.dma, interface, wires);
        let full = |_| qapi::Error::generic(format!("Bus '{}' is full", self.bus));
        self.core.set(core).map_err(full)
    }

    fn root_node(&self, address: u64) -> String {
        format!("/virtio-mmio@{address:016x}")
    }

    fn is_hotpluggable(&self) -> bool {
        false
    }

    fn unplug(&self, _: &Record) -> qapi::Result<device::Unplug> {
        Err(qapi::Error::generic(format!("Bus '{}' does not support hotplugging", self.bus)))
    }
}

impl Wires for VirtioMmio {
    fn line(&self, level: bool) {
        self.irq.set(level);
    }
}

impl VirtioMmio {
    fn register(&self, core: &Core, offset: u64) -> u32 {
        let regs = self.regs.lock().clone();
        let queue = core.queue(regs.queue_sel);
        let state = || queue.map(|q| q.state()).unwrap_or_default();
        let bad = |what| {
            trace::guest_error!("virtio-mmio: read of {what} register {offset:#x}");
            0
        };
        match offset {
            DEVICE_ID => core.id().into(),
            // 4.2.4: a legacy driver has 32 features; the peer shows no others.
            DEVICE_FEATURES if self.legacy => match regs.device_sel {
                0 => core.legacy_features(),
                _ => 0,
            },
            DEVICE_FEATURES => match regs.device_sel {
                0 => low(core.features()),
                1 => low(core.features() >> 32),
                _ => 0,
            },
            // The peer's answer for every queue; a driver may give it as many entries.
            QUEUE_NUM_MAX => queue.map_or(0, |_| MAX_SIZE.into()),
            QUEUE_PFN if self.legacy => low(state().desc.checked_shr(regs.page_shift).unwrap_or(0)),
            QUEUE_READY if !self.legacy => state().enabled.into(),
            INTERRUPT_STATUS => core.isr().into(),
            STATUS => core.status().into(),
            SHM_LEN_LOW..=SHM_BASE_HIGH => u32::MAX,
            QUEUE_RESET if !self.legacy => 0,
            CONFIG_GENERATION if !self.legacy => core.generation().into(),
            QUEUE_PFN | QUEUE_READY => bad("another version's"),
            _ => bad("a write-only or unknown"),
        }
    }

    fn set_register(&self, core: &Core, offset: u64, value: u32) {
        let mut regs = self.regs.lock();
        let queue = regs.queue_sel;
        let half = u16::try_from(value).unwrap_or(u16::MAX);
        match offset {
            DEVICE_FEATURES_SEL => regs.device_sel = value,
            DRIVER_FEATURES_SEL => regs.driver_sel = value,
            QUEUE_SEL => regs.queue_sel = half,
            GUEST_PAGE_SIZE if self.legacy => {
                regs.page_shift = if value.is_power_of_two() { value.trailing_zeros() } else { 0 };
            }
            QUEUE_ALIGN if self.legacy => regs.align = value,
            DRIVER_FEATURES => {
                let sel = regs.driver_sel;
                drop(regs);
                match sel {
                    0 if self.legacy => core.accept_legacy(value),
                    _ if self.legacy => {}
                    0 => core.accept(false, value),
                    1 => core.accept(true, value),
                    _ => {}
                }
            }
            QUEUE_NUM => core.set_size(queue, half),
            QUEUE_PFN if self.legacy => {
                let copy = regs.clone();
                drop(regs);
                if value == 0 { self.set_status(core, 0) } else { set_pfn(core, &copy, value) }
            }
            QUEUE_READY if !self.legacy => {
                drop(regs);
                if value == 1 { core.enable(queue) } else { core.reset_queue(queue) }
            }
            QUEUE_NOTIFY => {
                drop(regs);
                core.notify(half);
            }
            INTERRUPT_ACK => {
                core.acknowledge(value.to_le_bytes()[0]);
            }
            STATUS => {
                drop(regs);
                self.set_status(core, value.to_le_bytes()[0]);
            }
            QUEUE_RESET if !self.legacy && value == 1 => core.reset_queue(queue),
            QUEUE_DESC..=0xa4 if !self.legacy => set_area(core, queue, offset, value),
            _ => trace::guest_error!("virtio-mmio: write to bad register {offset:#x}"),
        }
    }

    fn set_status(&self, core: &Core, value: u8) {
        if value == 0 {
            let mut regs = self.regs.lock();
            // Legacy drivers say their page size once, before they reset the device.
            *regs = Regs { page_shift: regs.page_shift, ..Regs::default() };
        }
        core.set_status(value);
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

/// 2.7.2: the legacy layout of a queue behind its page number.
fn set_pfn(core: &Core, regs: &Regs, pfn: u32) {
    let align = u64::from(regs.align).max(1);
    core.set_up(regs.queue_sel, |s| {
        legacy_layout(s, u64::from(pfn).wrapping_shl(regs.page_shift), align);
    });
    core.enable(regs.queue_sel);
}

/// Places the three areas as legacy drivers do.
pub(crate) fn legacy_layout(s: &mut crate::QueueState, base: u64, align: u64) {
    let size = u64::from(s.size);
    s.desc = base;
    s.driver = base.wrapping_add(16 * size);
    let end = s.driver.wrapping_add(6 + 2 * size);
    s.device = end.checked_next_multiple_of(align).unwrap_or(0);
}

fn set_area(core: &Core, queue: u16, offset: u64, value: u32) {
    let high = offset & 4 != 0;
    let put = |area: &mut u64| {
        *area = if high {
            (*area & 0xffff_ffff) | u64::from(value) << 32
        } else {
            (*area & !0xffff_ffff) | u64::from(value)
        };
    };
    core.set_up(queue, |s| match offset & !7 {
        QUEUE_DESC => put(&mut s.desc),
        QUEUE_DRIVER => put(&mut s.driver),
        QUEUE_DEVICE => put(&mut s.device),
        _ => {}
    });
}

impl Mmio for VirtioMmio {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let core = self.core.get();
        if at.offset >= CONFIG {
            return Ok(core.map_or(0, |c| c.config_read(at.offset - CONFIG, at.size.bytes())));
        }
        if at.size != Size::B4 {
            trace::guest_error!("virtio-mmio: register read of {} bytes", at.size.bytes());
            return Ok(0);
        }
        let value = match (at.offset, core) {
            (MAGIC, _) => MAGIC_VALUE,
            (VERSION, _) => {
                if self.legacy {
                    1
                } else {
                    2
                }
            }
            (VENDOR_ID, _) => VENDOR,
            (_, None) => 0,
            (offset, Some(core)) => self.register(core, offset),
        };
        trace::point!("virtio_mmio_read", "addr {:#x} value {value:#x}", at.offset);
        Ok(value.into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        trace::point!("virtio_mmio_write", "addr {:#x} value {value:#x}", at.offset);
        let Some(core) = self.core.get() else { return Ok(()) };
        if at.offset >= CONFIG {
            core.config_write(at.offset - CONFIG, at.size.bytes(), value);
        } else if at.size == Size::B4 {
            self.set_register(core, at.offset, low(value));
        } else {
            trace::guest_error!("virtio-mmio: register write of {} bytes", at.size.bytes());
        }
        Ok(())
    }
}

impl Device for VirtioMmio {
    fn reset(&self, _: Reset) {
        *self.regs.lock() = Regs::default();
        if let Some(core) = self.core.get() {
            core.reset();
        }
    }

    fn migration(&self) -> Migration<'_> {
        let mut parts: Vec<(&'static str, &dyn Saved)> = vec![("regs", &self.regs)];
        if let Some(core) = self.core.get() {
            parts.push(("virtio", &**core));
        }
        Migration::Parts(parts)
    }

    fn settle(&self) {
        if let Some(core) = self.core.get() {
            core.settle();
        }
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(core) = self.core.get() {
                core.pause().await;
            }
        })
    }

    fn resume(&self) {
        if let Some(core) = self.core.get() {
            core.resume();
        }
    }
}
