//! The legacy interface in I/O region 0 (virtio 1.3, 4.1.4.10), and notifications in I/O space.

use std::sync::Weak;

use device::{Access, BusFault, Mmio};

use super::VirtioPci;
use crate::Core;
use crate::mmio::legacy_layout;

const HOST_FEATURES: u64 = 0;
const GUEST_FEATURES: u64 = 4;
const QUEUE_PFN: u64 = 8;
const QUEUE_SIZE: u64 = 12;
const QUEUE_SELECT: u64 = 14;
const QUEUE_NOTIFY: u64 = 16;
const STATUS: u64 = 18;
const ISR: u64 = 19;
// With MSI-X switched on; the device's configuration follows, else it begins here.
const CONFIG_VECTOR: u64 = 20;
const QUEUE_VECTOR: u64 = 22;
const CONFIG: u64 = 20;
const CONFIG_MSIX: u64 = 24;

/// log2 and bytes of the page that queues are numbered and aligned by.
const PAGE_SHIFT: u32 = 12;
const ALIGN: u64 = 4096;
const ACKNOWLEDGE_DRIVER: u8 = 3;
/// A bit that drivers must not accept: who does knows nothing of features.
const BAD_FEATURE: u32 = 1 << 30;

/// Length of the region.
pub(super) fn len(config: usize, msix: bool) -> u64 {
    let header = if msix { CONFIG_MSIX } else { CONFIG };
    (header + config as u64).next_power_of_two()
}

/// What answers in region 0.
pub struct Legacy(Weak<VirtioPci>);

impl Legacy {
    pub(super) fn new(transport: Weak<VirtioPci>) -> Legacy {
        Legacy(transport)
    }
}

fn half(value: u64) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

fn word(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn register(t: &VirtioPci, core: &Core, offset: u64) -> Option<u64> {
    let queue = core.queue(t.queue_sel());
    let state = || queue.map(|q| q.state());
    Some(match offset {
        HOST_FEATURES => (core.legacy_features() | BAD_FEATURE).into(),
        GUEST_FEATURES => word(core.accepted()).into(),
        QUEUE_PFN => state().map_or(0, |s| word(s.desc >> PAGE_SHIFT).into()),
        QUEUE_SIZE => state().map_or(0, |s| s.size.into()),
        QUEUE_SELECT => t.queue_sel().into(),
        STATUS => core.status().into(),
        ISR => core.acknowledge(0xff).into(),
        CONFIG_VECTOR => core.config_vector().into(),
        QUEUE_VECTOR => state().map_or(0, |s| s.vector.into()),
        _ => return None,
    })
}

fn set_register(t: &VirtioPci, core: &Core, offset: u64, value: u64) {
    match offset {
        GUEST_FEATURES => {
            let value = word(value);
            core.accept_legacy(if value & BAD_FEATURE == 0 { value } else { 0 });
        }
        // The peer resets the device when any queue is taken away.
        QUEUE_PFN if word(value) == 0 => t.set_status(core, 0),
        QUEUE_PFN => {
            let base = u64::from(word(value)) << PAGE_SHIFT;
            core.set_up(t.queue_sel(), |s| legacy_layout(s, base, ALIGN));
            core.enable(t.queue_sel());
        }
        QUEUE_SELECT => t.select(half(value)),
        QUEUE_NOTIFY => core.notify(half(value)),
        STATUS => {
            let value = value.to_le_bytes()[0];
            t.set_status(core, value);
            if value == ACKNOWLEDGE_DRIVER {
                t.master();
            }
        }
        CONFIG_VECTOR => core.set_config_vector(t.vector(half(value))),
        QUEUE_VECTOR => {
            let vector = t.vector(half(value));
            if let Some(queue) = core.queue(t.queue_sel()) {
                queue.change(|s| s.vector = vector);
            }
        }
        _ => trace::guest_error!("virtio-pci: write to legacy register {offset:#x}"),
    }
}

fn config(t: &VirtioPci) -> u64 {
    if t.has_messages() { CONFIG_MSIX } else { CONFIG }
}

impl Mmio for Legacy {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let Some(t) = self.0.upgrade() else { return Ok(u64::MAX) };
        let Some(core) = t.core() else { return Ok(u64::MAX) };
        match at.offset.checked_sub(config(&t)) {
            Some(offset) => Ok(core.config_read(offset, at.size.bytes())),
            None => Ok(register(&t, core, at.offset).unwrap_or(u64::MAX)),
        }
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let Some(t) = self.0.upgrade() else { return Ok(()) };
        let Some(core) = t.core() else { return Ok(()) };
        match at.offset.checked_sub(config(&t)) {
            Some(offset) => core.config_write(offset, at.size.bytes(), value),
            None => set_register(&t, core, at.offset, value),
        }
        Ok(())
    }
}

/// Notifications in I/O region 2: the value is the queue.
pub struct PioNotify(Weak<VirtioPci>);

impl PioNotify {
    pub(super) fn new(transport: Weak<VirtioPci>) -> PioNotify {
        PioNotify(transport)
    }
}

impl Mmio for PioNotify {
    fn read(&self, _: Access) -> Result<u64, BusFault> {
        Ok(0)
    }

    fn write(&self, _: Access, value: u64) -> Result<(), BusFault> {
        if let Some(t) = self.0.upgrade()
            && let Some(core) = t.core()
        {
            core.notify(half(value));
        }
        Ok(())
    }
}
