//! Buses: functions by number, windows, joined interrupt pins, and the way of a configuration cycle.
//!
//! A cycle goes from a root bus down through the bridges whose numbers, as the guest wrote them,
//! hold the bus that it names. Behind an expander bridge is another root bus with a number of its
//! own. An express link has one device; its bridge's slot says whether devices may come and go.
//! Not modelled: alternative routing IDs, the bridges' bus master bit for those below.
//! Sources: PCI-to-PCI Bridge Architecture 1.2, chapters 3 and 4; PCI Express Base 5.0, 7.2.2.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use device::{AddressSpace, Build, Bus, IrqOut, PlugBus, Record, Region, Unplug};
use parking_lot::Mutex;
use qapi::Error;

use crate::bridge::Bridge;
use crate::{Function, Iommu};

/// What a host bridge gives its bus.
#[derive(Clone)]
pub struct Host {
    /// Memory window, by PCI address.
    pub mmio: Region,
    /// I/O window, by port.
    pub io: Region,
    /// Where messages and DMA go.
    pub memory: AddressSpace,
}

/// Four interrupt lines, each driven by any number of functions.
struct Lines {
    outs: Vec<Arc<IrqOut>>,
    counts: Mutex<[u32; 4]>,
}

/// Who a function's messages say they are from.
#[derive(Clone)]
pub(crate) struct Requester {
    bus: Arc<AtomicU8>,
    devfn: u8,
}

impl Requester {
    /// Bus, device and function number.
    pub(crate) fn id(&self) -> u16 {
        u16::from(self.bus.load(Ordering::Acquire)) << 8 | u16::from(self.devfn)
    }
}

/// A function's pin on its line.
pub(crate) struct Pin {
    lines: Arc<Lines>,
    line: usize,
    level: Mutex<bool>,
    requester: Requester,
}

impl Pin {
    pub(crate) fn requester(&self) -> &Requester {
        &self.requester
    }

    pub(crate) fn set(&self, on: bool) {
        let mut level = self.level.lock();
        if *level == on {
            return;
        }
        *level = on;
        let mut counts = self.lines.counts.lock();
        let (Some(count), Some(out)) = (counts.get_mut(self.line), self.lines.outs.get(self.line))
        else {
            return;
        };
        *count = if on { count.saturating_add(1) } else { count.saturating_sub(1) };
        out.set(*count > 0);
    }
}

/// What kind of bus a device goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// A root bus; express devices are integrated there.
    Root,
    /// Only bridges: the root bus behind an expander.
    Expander,
    /// A link of an express port: one device.
    Link,
    /// The bus within a switch.
    Switch,
    /// A conventional bus.
    Conventional,
}

impl Site {
    /// Whether express devices show that they are.
    #[must_use]
    pub fn is_express(self) -> bool {
        self != Site::Conventional
    }

    /// Whether it is a root bus.
    #[must_use]
    pub fn is_root(self) -> bool {
        matches!(self, Site::Root | Site::Expander)
    }
}

/// What is particular to a root bus.
#[derive(Clone, Copy, Debug, Default)]
pub struct RootTraits {
    /// Its node of memory.
    pub node: Option<u16>,
    /// Devices there go around the IOMMU.
    pub bypass: bool,
}

/// A bus.
pub struct PciBus {
    name: String,
    site: Site,
    host: Host,
    lines: Arc<Lines>,
    /// The number that the guest gave it, or its own.
    number: Arc<AtomicU8>,
    /// What is added to device numbers for interrupt lines: those of the bridges above.
    swizzle: OnceLock<usize>,
    /// Whose messages those of all functions seem to be: a bridge's to a conventional bus.
    requester: OnceLock<Requester>,
    functions: Mutex<BTreeMap<u8, Arc<Function>>>,
    /// Root buses behind expanders, on the first root bus.
    expanders: Mutex<Vec<Weak<PciBus>>>,
    root: RootTraits,
    /// Of the whole complex.
    iommu: Arc<OnceLock<Arc<dyn Iommu>>>,
    /// Of this root bus and those below: they go around it.
    bypass: Arc<AtomicBool>,
    pub(crate) bridge: OnceLock<Weak<Bridge>>,
    this: Weak<PciBus>,
}

impl PciBus {
    /// An empty root bus with four interrupt lines.
    #[must_use]
    pub fn new(name: &str, host: Host, outs: Vec<Arc<IrqOut>>) -> Arc<PciBus> {
        let lines = Arc::new(Lines { outs, counts: Mutex::default() });
        let kind = (Site::Root, RootTraits::default());
        let bus = PciBus::empty(name, kind, host, lines, (Arc::default(), Arc::default()));
        _ = bus.swizzle.set(0);
        bus
    }

    fn empty(
        name: &str,
        (site, root): (Site, RootTraits),
        host: Host,
        lines: Arc<Lines>,
        (iommu, bypass): (Arc<OnceLock<Arc<dyn Iommu>>>, Arc<AtomicBool>),
    ) -> Arc<PciBus> {
        Arc::new_cyclic(|this| PciBus {
            this: this.clone(),
            name: name.to_owned(),
            site,
            host,
            lines,
            number: Arc::default(),
            swizzle: OnceLock::new(),
            requester: OnceLock::new(),
            functions: Mutex::default(),
            expanders: Mutex::default(),
            root,
            iommu,
            bypass,
            bridge: OnceLock::new(),
        })
    }

    /// The bus that a device under creation goes on; one that leads nowhere if there is none.
    #[must_use]
    pub fn of(at: &Build<'_>) -> Arc<PciBus> {
        at.parent_bus().unwrap_or_else(|| {
            let host = Host {
                mmio: Region::root("pci-none"),
                io: Region::container("pci-none-io", 1 << 32),
                memory: at.world().memory.clone(),
            };
            PciBus::new("", host, Vec::new())
        })
    }

    /// The bus behind a bridge on this bus.
    pub(crate) fn below(&self, name: &str, site: Site, host: Host) -> Arc<PciBus> {
        let way = (self.iommu.clone(), self.bypass.clone());
        PciBus::empty(name, (site, self.root), host, self.lines.clone(), way)
    }

    /// A root bus behind an expander bridge on this bus, with the same windows.
    pub fn expander(self: &Arc<Self>, name: &str, (number, root): (u8, RootTraits)) -> Arc<PciBus> {
        let kind = (Site::Expander, root);
        let way = (self.iommu.clone(), Arc::new(AtomicBool::new(root.bypass)));
        let bus = PciBus::empty(name, kind, self.host.clone(), self.lines.clone(), way);
        bus.number.store(number, Ordering::Release);
        _ = bus.swizzle.set(0);
        self.expanders.lock().push(Arc::downgrade(&bus));
        bus
    }

    /// Puts an IOMMU in front of memory for all that is plugged in from now on; with `bypass` not
    /// for what is on this root bus.
    pub fn set_iommu(&self, iommu: Arc<dyn Iommu>, bypass: bool) {
        self.bypass.store(bypass, Ordering::Release);
        _ = self.iommu.set(iommu);
    }

    /// Root buses behind expanders, by number.
    #[must_use]
    pub fn expanders(&self) -> Vec<Arc<PciBus>> {
        let mut all: Vec<_> = self.expanders.lock().iter().filter_map(Weak::upgrade).collect();
        all.sort_by_key(|bus| bus.number());
        all
    }

    /// The same, the newest first: the order in which the peer tells of them.
    #[must_use]
    pub fn newest_expanders(&self) -> Vec<Arc<PciBus>> {
        self.expanders.lock().iter().rev().filter_map(Weak::upgrade).collect()
    }

    /// What is particular to the root bus that it is, or is below.
    #[must_use]
    pub fn expander_traits(&self) -> RootTraits {
        self.root
    }

    /// What kind of bus it is.
    #[must_use]
    pub fn site(&self) -> Site {
        self.site
    }

    /// Its windows.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its number, as far as the guest gave it one.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number.load(Ordering::Acquire)
    }

    pub(crate) fn set_number(&self, number: u8) {
        self.number.store(number, Ordering::Release);
    }

    /// Called when the bridge gets its place; interrupts of those below depend on it.
    pub(crate) fn hang_below(&self, parent: &PciBus, devfn: u8) {
        let above = parent.swizzle.get().copied().unwrap_or(0);
        _ = self.swizzle.set(above + usize::from(devfn >> 3));
        if self.site == Site::Conventional {
            let requester = match parent.site {
                // A bridge from express takes the place of device 0 of its bus.
                site if site.is_express() => Requester { bus: self.number.clone(), devfn: 0 },
                _ => parent.requester(devfn),
            };
            _ = self.requester.set(requester);
        }
    }

    fn requester(&self, devfn: u8) -> Requester {
        let own = || Requester { bus: self.number.clone(), devfn };
        self.requester.get().cloned().unwrap_or_else(own)
    }

    /// Puts a function at a device and function number.
    pub fn add(&self, devfn: u8, function: &Arc<Function>) {
        // Pin A of device 0 is line 0, and so on around; each bridge above shifts it.
        let pin = usize::from(function.pin().saturating_sub(1));
        let above = self.swizzle.get().copied().unwrap_or(0);
        let line = (usize::from(devfn >> 3) + pin + above) % 4;
        let requester = self.requester(devfn);
        let (lines, level) = (self.lines.clone(), Mutex::default());
        if let Some(behind) = function.bus_behind() {
            behind.hang_below(self, devfn);
        }
        let pin = Pin { lines, line, level, requester: requester.clone() };
        let bypass = self.bypass.load(Ordering::Acquire);
        let iommu = self.iommu.get().filter(|_| !bypass).cloned();
        function.connect(&self.host, pin, requester, iommu);
        self.functions.lock().insert(devfn, function.clone());
    }

    pub(crate) fn all(&self) -> Vec<(u8, Arc<Function>)> {
        self.functions.lock().iter().map(|(devfn, f)| (*devfn, f.clone())).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.functions.lock().is_empty()
    }

    fn find(&self, devfn: u8) -> Option<Arc<Function>> {
        self.functions.lock().get(&devfn).cloned()
    }

    /// The function at a bus, device and function number.
    fn route(&self, number: u8, devfn: u8) -> Option<Arc<Function>> {
        if number == self.number() {
            return self.find(devfn);
        }
        for (_, function) in self.all() {
            let Some(behind) = function.bus_behind() else { continue };
            let [_, first, last, _] = function.config32(0x18).to_le_bytes();
            if function.is_powered() && first != 0 && (first..=last).contains(&number) {
                return behind.route(number, devfn);
            }
        }
        let others = self.expanders();
        // The last one that starts at or below the number has it.
        others.iter().rev().find(|bus| bus.number() <= number)?.route(number, devfn)
    }

    fn ecam(&self, offset: u64) -> Option<(Arc<Function>, usize)> {
        let part = |shift: u32| u8::try_from(offset >> shift & 0xff).unwrap_or(0);
        let at = usize::try_from(offset & 0xfff).ok()?;
        Some((self.route(part(20), part(12))?, at))
    }

    /// Reads configuration space through a 256 MiB ECAM window.
    #[must_use]
    pub fn ecam_read(&self, offset: u64, size: usize) -> u32 {
        self.ecam(offset).map_or(u32::MAX, |(f, at)| f.read(at, size))
    }

    /// Writes configuration space through ECAM.
    pub fn ecam_write(&self, offset: u64, size: usize, value: u32) {
        if let Some((function, at)) = self.ecam(offset) {
            function.write(at, size, value);
        }
    }

    fn choose(&self, function: &Function) -> qapi::Result<u8> {
        let functions = self.functions.lock();
        let Some(devfn) = function.addr else {
            let free = (0..32u8)
                .map(|slot| slot << 3)
                .find(|devfn| !functions.keys().any(|used| used >> 3 == devfn >> 3));
            return free.ok_or_else(|| {
                Error::generic("PCI: no slot/function available, all in use or reserved")
            });
        };
        let (slot, number) = (devfn >> 3, devfn & 7);
        if let Some(other) = functions.get(&devfn) {
            return Err(Error::generic(format!(
                "PCI: slot {slot} function {number} not available for {}, in use by {},id={}",
                function.name(),
                other.name(),
                other.id()
            )));
        }
        if number > 0 && functions.get(&(slot << 3)).is_some_and(|first| !first.multifunction) {
            return Err(Error::generic(format!(
                "PCI: single function device can't be populated in function {slot:x}.{number}"
            )));
        }
        let other = (1..8).find(|n| functions.contains_key(&(slot << 3 | n)));
        if let (0, false, Some(other)) = (number, function.multifunction, other) {
            return Err(Error::generic(format!(
                "PCI: {slot:x}.0 indicates single function, but {slot:x}.{other:x} is already \
                 populated."
            )));
        }
        Ok(devfn)
    }

    fn place(&self, record: &Record, hot: bool) -> qapi::Result<()> {
        let function: Option<Arc<Function>> = record.ability();
        let function = function.ok_or_else(|| Error::generic("this is no PCI device"))?;
        function.name_it(record.class.name, &record.id);
        if self.site == Site::Expander && function.behind.get().is_none() {
            return Err(Error::generic("PCI: Only PCI/PCIe bridges can be plugged into pxb-pcie"));
        }
        if function.expander.get().is_some() && self.site != Site::Root {
            return Err(Error::generic("PXB devices can be attached only to root bus"));
        }
        let devfn = match function.addr {
            Some(devfn) => devfn,
            None => self.choose(&function)?,
        };
        let first = if self.site == Site::Link { 0 } else { devfn & !7 };
        if hot
            && devfn != first
            && let Some(other) = self.find(first)
        {
            return Err(Error::generic(format!(
                "PCI: slot {} function 0 already occupied by {}, new func {} cannot be exposed to \
                 guest.",
                first >> 3,
                other.name(),
                function.name()
            )));
        }
        let devfn = self.choose(&function)?;
        if let Some(bridge) = self.bridge() {
            bridge.check(devfn)?;
        }
        if self.site == Site::Link && devfn >> 3 != 0 {
            trace::warning!(
                "PCI: slot {} is not valid for {}, parent device only allows plugging into slot 0.",
                devfn >> 3,
                function.name()
            );
        }
        self.add(devfn, &function);
        if let Some(bridge) = self.bridge() {
            bridge.plugged(&function, devfn, hot);
        }
        Ok(())
    }

    fn bridge(&self) -> Option<Arc<Bridge>> {
        self.bridge.get()?.upgrade()
    }

    /// Takes a function off; its maps and its pin go with it.
    fn take(&self, function: &Arc<Function>) {
        function.disconnect();
        self.functions.lock().retain(|_, known| !Arc::ptr_eq(known, function));
        if let Some(bridge) = self.bridge() {
            bridge.taken();
        }
    }
}

impl PlugBus for PciBus {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Bus {
        Bus::Pci
    }

    fn is_outermost(&self) -> bool {
        self.site == Site::Expander
    }

    fn itself(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.this.upgrade()?)
    }

    fn plug(&self, record: &Record) -> qapi::Result<()> {
        self.place(record, false)
    }

    fn hot_plug(&self, record: &Record) -> qapi::Result<()> {
        self.place(record, true)
    }

    fn root_node(&self, _: u64) -> String {
        // The bridge's banks are mapped by aliases, so it has no address of its own.
        format!("/pci@{:016x}", u64::MAX)
    }

    fn node(&self, record: &Record) -> String {
        let Some(function) = record.ability::<Arc<Function>>() else { return String::new() };
        let found =
            self.functions.lock().iter().find(|(_, f)| Arc::ptr_eq(f, &function)).map(|f| *f.0);
        let Some(devfn) = found else { return String::new() };
        let mut node = format!("/{}@{:x}", function.firmware_name(), devfn >> 3);
        if devfn & 7 != 0 {
            node += &format!(",{:x}", devfn & 7);
        }
        node
    }

    fn is_hotpluggable(&self) -> bool {
        self.bridge().is_some_and(|bridge| bridge.is_hotpluggable())
    }

    fn unplug(&self, record: &Record) -> qapi::Result<Unplug> {
        let function: Option<Arc<Function>> = record.ability();
        match (self.bridge(), function) {
            (Some(bridge), Some(function)) if bridge.is_hotpluggable() => bridge.ask(&function),
            _ => Err(Error::generic(format!("Bus '{}' does not support hotplugging", self.name))),
        }
    }

    fn removed(&self, record: &Record) {
        if let Some(function) = record.ability::<Arc<Function>>() {
            self.take(&function);
        }
    }
}
