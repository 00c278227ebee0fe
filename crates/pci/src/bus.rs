//! A root bus: functions by number, windows and joined interrupt pins.

use std::collections::BTreeMap;
use std::sync::Arc;

use device::{AddressSpace, Bus, IrqOut, PlugBus, Record, Region};
use parking_lot::Mutex;

use crate::Function;

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

/// A function's pin on its line.
pub(crate) struct Pin {
    lines: Arc<Lines>,
    line: usize,
    level: Mutex<bool>,
}

impl Pin {
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

/// A root bus.
pub struct PciBus {
    name: String,
    host: Host,
    lines: Arc<Lines>,
    functions: Mutex<BTreeMap<u8, Arc<Function>>>,
}

impl PciBus {
    /// An empty bus with four interrupt lines.
    #[must_use]
    pub fn new(name: &str, host: Host, outs: Vec<Arc<IrqOut>>) -> Arc<PciBus> {
        let lines = Arc::new(Lines { outs, counts: Mutex::default() });
        Arc::new(PciBus { name: name.to_owned(), host, lines, functions: Mutex::default() })
    }

    /// Puts a function at a device and function number.
    pub fn add(&self, devfn: u8, function: &Arc<Function>) {
        // Pin A of device 0 is line 0, and so on around.
        let pin = function.pin().saturating_sub(1);
        let line = usize::from((devfn >> 3).wrapping_add(pin) % 4);
        let pin = Pin { lines: self.lines.clone(), line, level: Mutex::default() };
        function.connect(&self.host, pin, devfn.into());
        self.functions.lock().insert(devfn, function.clone());
    }

    pub(crate) fn all(&self) -> Vec<(u8, Arc<Function>)> {
        self.functions.lock().iter().map(|(devfn, f)| (*devfn, f.clone())).collect()
    }

    fn find(&self, devfn: u8) -> Option<Arc<Function>> {
        self.functions.lock().get(&devfn).cloned()
    }

    /// Reads configuration space through a 256 MiB ECAM window.
    #[must_use]
    pub fn ecam_read(&self, offset: u64, size: usize) -> u32 {
        let function = ecam(offset).and_then(|(devfn, at)| Some((self.find(devfn)?, at)));
        function.map_or(u32::MAX, |(f, at)| f.read(at, size))
    }

    /// Writes configuration space through ECAM.
    pub fn ecam_write(&self, offset: u64, size: usize, value: u32) {
        if let Some((function, at)) =
            ecam(offset).and_then(|(devfn, at)| Some((self.find(devfn)?, at)))
        {
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
                qapi::Error::generic("PCI: no slot/function available, all in use or reserved")
            });
        };
        let (slot, number) = (devfn >> 3, devfn & 7);
        if let Some(other) = functions.get(&devfn) {
            return Err(qapi::Error::generic(format!(
                "PCI: slot {slot} function {number} not available for {}, in use by {},id={}",
                function.name(),
                other.name(),
                other.id()
            )));
        }
        if number > 0 && functions.get(&(slot << 3)).is_some_and(|first| !first.multifunction) {
            return Err(qapi::Error::generic(format!(
                "PCI: single function device can't be populated in function {slot:x}.{number}"
            )));
        }
        let other = (1..8).find(|n| functions.contains_key(&(slot << 3 | n)));
        if let (0, false, Some(other)) = (number, function.multifunction, other) {
            return Err(qapi::Error::generic(format!(
                "PCI: {slot:x}.0 indicates single function, but {slot:x}.{other:x} is already \
                 populated."
            )));
        }
        Ok(devfn)
    }
}

/// Device and function number, and register; only bus 0 exists.
fn ecam(offset: u64) -> Option<(u8, usize)> {
    if offset >> 20 != 0 {
        return None;
    }
    let devfn = u8::try_from(offset >> 12 & 0xff).ok()?;
    Some((devfn, usize::try_from(offset & 0xfff).ok()?))
}

impl PlugBus for PciBus {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Bus {
        Bus::Pci
    }

    fn plug(&self, record: &Record) -> qapi::Result<()> {
        let function: Option<Arc<Function>> = record.ability();
        let function = function.ok_or_else(|| qapi::Error::generic("this is no PCI device"))?;
        function.name_it(record.class.name, &record.id);
        let devfn = self.choose(&function)?;
        self.add(devfn, &function);
        Ok(())
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
        false
    }

    fn unplug(&self, _: &Record) -> qapi::Result<device::Unplug> {
        Err(qapi::Error::generic(format!("Bus '{}' does not support hotplugging", self.name)))
    }
}
