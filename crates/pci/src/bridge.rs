//! Bridges between buses: numbers and windows as the guest writes them, and the slot of a port.
//!
//! What the bus below maps is seen through three windows of the bus above: I/O, memory and
//! prefetchable memory (PCI-to-PCI Bridge Architecture 1.2, 3.2.5), each open while its base is not
//! above its limit and the bridge decodes that space. A reset of the bus below resets what is on it.
//! Not modelled: VGA and ISA modes, error forwarding, subtractive decoding.

use std::sync::{Arc, OnceLock, Weak};

use device::{Clock, Departure, Region, Unplug};
use parking_lot::Mutex;

use crate::bus::{Host, PciBus, Site};
use crate::config::{COMMAND, HEADER_TYPE, STATUS, SUBSYSTEM};
use crate::function::Watch;
use crate::shpc::Shpc;
use crate::slot::Slot;
use crate::{Function, SlotTraits};

// The header of a bridge (3.2).
const NUMBERS: usize = 0x18;
const IO: usize = 0x1c;
const SECONDARY_STATUS: usize = 0x1e;
const MEMORY: usize = 0x20;
const PREFETCH: usize = 0x24;
const PREFETCH_HIGH: usize = 0x28;
const IO_HIGH: usize = 0x30;
const CONTROL: usize = 0x3e;
const RESET: u16 = 1 << 6;

/// First and last address of a window.
type Range = (u64, u64);

/// The windows of a bridge as its registers say: I/O, memory, prefetchable memory.
#[must_use]
pub(crate) fn ranges(function: &Function) -> [Range; 3] {
    let io = function.config32(IO);
    let (mem, pref) = (function.config32(MEMORY), function.config32(PREFETCH));
    let high = |at| u64::from(function.config32(at)) << 32;
    let io_high = function.config32(IO_HIGH);
    let wide = |half: u32| if io & 0xf == 1 { u64::from(half & 0xffff) << 16 } else { 0 };
    let io = (
        u64::from(io & 0xf0) << 8 | wide(io_high),
        u64::from(io & 0xf000) | 0xfff | wide(io_high >> 16),
    );
    let memory =
        |word: u32| (u64::from(word & 0xfff0) << 16, u64::from(word & 0xfff0_0000) | 0xf_ffff);
    let (mem, mut prefetch) = (memory(mem), memory(pref));
    if pref & 0xf == 1 {
        prefetch.0 |= high(PREFETCH_HIGH);
        prefetch.1 |= high(PREFETCH_HIGH + 4);
    }
    [io, mem, prefetch]
}

/// How a bridge's header looks besides what all have.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Both sides are conventional: speeds, and more of the control register.
    pub conventional: bool,
    /// The windows are closed after reset, and wide.
    pub closed: bool,
}

/// What a slot is made of.
pub struct SlotParts {
    /// What it is like.
    pub traits: SlotTraits,
    /// The guest's clock.
    pub clock: Clock,
    /// Who lets devices end.
    pub departure: Option<Arc<dyn Departure>>,
}

/// What is mapped now, where, and through which alias.
type Window = Option<(Range, Region)>;

/// A bridge.
pub struct Bridge {
    function: Arc<Function>,
    bus: OnceLock<Arc<PciBus>>,
    inside: Host,
    windows: Mutex<[Window; 3]>,
    in_reset: Mutex<bool>,
    slot: Option<Slot>,
    shpc: OnceLock<Arc<Shpc>>,
}

impl Bridge {
    /// Makes a function a bridge with a bus on `parent`; `slot` is that of a port.
    pub fn new(
        function: Arc<Function>,
        (name, site): (&str, Site),
        parent: &PciBus,
        header: Header,
        slot: Option<SlotParts>,
    ) -> Arc<Bridge> {
        lay_out(&function, header);
        let inside = Host {
            mmio: Region::root("pci_bridge_pci"),
            io: Region::container("pci_bridge_io", 0x1_0000_0000),
            memory: parent.host().memory.clone(),
        };
        let bus = parent.below(name, site, inside.clone());
        let slot = slot.map(Slot::new);
        let bridge = Arc::new(Bridge {
            function: function.clone(),
            bus: OnceLock::new(),
            inside,
            windows: Mutex::default(),
            in_reset: Mutex::default(),
            slot,
            shpc: OnceLock::new(),
        });
        _ = function.behind.set(Arc::downgrade(&bridge));
        _ = bus.bridge.set(Arc::downgrade(&bridge));
        _ = bridge.bus.set(bus);
        let watch: Weak<Bridge> = Arc::downgrade(&bridge);
        function.watched_by(watch);
        bridge
    }

    /// The bus behind it.
    #[must_use]
    pub fn bus(&self) -> Option<Arc<PciBus>> {
        self.bus.get().cloned()
    }

    pub(crate) fn function(&self) -> &Arc<Function> {
        &self.function
    }

    pub(crate) fn is_hotpluggable(&self) -> bool {
        self.shpc.get().is_some() || self.slot.as_ref().is_some_and(Slot::is_hotpluggable)
    }

    /// Gives it a standard hot plug controller.
    pub fn has_shpc(self: &Arc<Self>, shpc: Arc<Shpc>) {
        shpc.belongs_to(self);
        _ = self.shpc.set(shpc);
    }

    /// Whether a device may be at this number.
    pub(crate) fn check(&self, devfn: u8) -> qapi::Result<()> {
        if self.shpc.get().is_some() { Shpc::check(devfn) } else { Ok(()) }
    }

    /// Device numbers of what is on the bus behind it.
    pub(crate) fn devices(&self) -> Vec<u8> {
        let all = self.bus.get().map(|bus| bus.all()).unwrap_or_default();
        all.into_iter().map(|(devfn, _)| devfn >> 3).collect()
    }

    /// The functions of a device on the bus behind it.
    pub(crate) fn functions_of(&self, device: u8) -> Vec<Arc<Function>> {
        let all = self.bus.get().map(|bus| bus.all()).unwrap_or_default();
        all.into_iter().filter(|(devfn, _)| devfn >> 3 == device).map(|(_, f)| f).collect()
    }

    pub(crate) fn plugged(&self, function: &Arc<Function>, devfn: u8, hot: bool) {
        if let Some(slot) = &self.slot {
            slot.plugged(self, function, devfn, hot);
        }
        if let Some(shpc) = self.shpc.get() {
            shpc.plugged(devfn, hot);
        }
    }

    pub(crate) fn taken(&self) {
        if let (Some(slot), Some(bus)) = (&self.slot, self.bus.get())
            && bus.is_empty()
        {
            slot.emptied(self);
        }
        if let Some(shpc) = self.shpc.get() {
            shpc.taken(self);
        }
    }

    pub(crate) fn ask(&self, function: &Arc<Function>) -> qapi::Result<Unplug> {
        match (&self.slot, self.shpc.get()) {
            (Some(slot), _) => slot.ask(self, function),
            (None, Some(shpc)) => {
                let all = self.bus.get().map(|bus| bus.all()).unwrap_or_default();
                let place = all.iter().find(|(_, f)| Arc::ptr_eq(f, function));
                let devfn = place.map_or(0, |(devfn, _)| *devfn);
                shpc.ask(devfn)
            }
            (None, None) => Ok(Unplug::Done),
        }
    }

    /// The functions behind it.
    pub(crate) fn functions(&self) -> Vec<Arc<Function>> {
        let all = self.bus.get().map(|bus| bus.all()).unwrap_or_default();
        all.into_iter().map(|(_, function)| function).collect()
    }

    fn map(&self) {
        let Some(host) = self.function.host() else { return };
        let command = self.function.config32(COMMAND);
        let powered = self.function.is_powered();
        let parents = [&host.io, &host.mmio, &host.mmio];
        let children = [&self.inside.io, &self.inside.mmio, &self.inside.mmio];
        let mut windows = self.windows.lock();
        let all = windows.iter_mut().zip(ranges(&self.function)).zip(parents.iter().zip(children));
        for (number, ((now, (first, last)), (parent, child))) in all.enumerate() {
            let decodes = powered && command & if number == 0 { 1 } else { 2 } != 0;
            let wanted = (decodes && first <= last).then_some((first, last));
            if now.as_ref().map(|(range, _)| *range) == wanted {
                continue;
            }
            if let Some((_, region)) = now.take() {
                parent.unmap(&region);
            }
            if let Some((first, last)) = wanted {
                let len = (last - first).saturating_add(1);
                let region = Region::alias("pci_bridge_window", child, first, len);
                parent.map(first, &region, 1);
                *now = Some(((first, last), region));
            }
        }
    }
}

/// The registers that bridges have in place of others.
fn lay_out(function: &Function, header: Header) {
    function.change_config(|c| {
        let kind = c.get8(HEADER_TYPE) | 1;
        c.set(HEADER_TYPE, &[kind]);
        c.set(SUBSYSTEM, &[0; 4]);
        c.allow(NUMBERS, &[0xff, 0xff, 0xff, if header.conventional { 0xff } else { 0 }]);
        c.allow(IO, &[0xf0, 0xf0]);
        c.allow(MEMORY, &[0xf0, 0xff, 0xf0, 0xff]);
        c.allow(PREFETCH, &[0xf0, 0xff, 0xf0, 0xff]);
        c.allow(PREFETCH_HIGH, &[0xff; 8]);
        c.set(PREFETCH, &[1, 0, 1, 0]);
        // 3.2.5.6: errors seen.
        c.allow_clear(SECONDARY_STATUS, &[0, 0xf9]);
        if header.conventional {
            // 66 MHz and fast back-to-back transfers, on both sides.
            let status = c.get8(STATUS) | 0xa0;
            c.set(STATUS, &[status]);
            c.set(SECONDARY_STATUS, &[0xa0]);
            c.allow(CONTROL, &[0xff, 0x0b]);
        } else {
            c.allow(CONTROL, &[0x5f, 0]);
        }
        if header.closed {
            c.set(IO, &[0xf0, 0]);
            c.set(MEMORY, &[0xf0, 0xff, 0, 0]);
            c.set(PREFETCH, &[0xf1, 0xff, 1, 0]);
        }
    });
}

impl Watch for Bridge {
    fn changed(&self) {
        if let Some(bus) = self.bus.get() {
            let [_, secondary, ..] = self.function.config32(NUMBERS).to_le_bytes();
            bus.set_number(secondary);
        }
        self.map();
    }

    fn written(&self, at: usize, size: usize, value: u32) {
        let control = self.function.config32(CONTROL - 2) >> 16;
        let reset = control & u32::from(RESET) != 0;
        let before = std::mem::replace(&mut *self.in_reset.lock(), reset);
        if reset && !before {
            for function in self.functions() {
                function.reset_alone();
                function.reset();
            }
        }
        if let Some(slot) = &self.slot {
            slot.written(self, (at, size, value));
        }
    }

    fn reset(&self) {
        *self.in_reset.lock() = false;
        if let Some(slot) = &self.slot {
            slot.reset(self);
        }
        if let Some(shpc) = self.shpc.get() {
            shpc.reset(self);
        }
    }
}
