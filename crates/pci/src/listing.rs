//! What a bus tells a monitor about its functions: read from configuration space, as a guest would.
//!
//! Addresses are those that the guest gave; a region that is not mapped has none.
//! Source: PCI Local Bus Specification 3.0, section 6.2.5.

use crate::bus::PciBus;
use crate::function::{Bar, Function};

/// A region of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Number of its base address register.
    pub bar: u8,
    /// Bytes.
    pub size: u64,
    /// Where the guest put it, if it decodes.
    pub address: Option<u64>,
    /// I/O space.
    pub io: bool,
    /// 64-bit memory.
    pub wide: bool,
    /// Prefetchable memory.
    pub prefetch: bool,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Device number.
    pub slot: u8,
    /// Function number.
    pub function: u8,
    /// Base class and subclass.
    pub class: u16,
    /// Vendor and device.
    pub id: (u16, u16),
    /// Subsystem vendor and device.
    pub subsystem: (u16, u16),
    /// Interrupt line that the guest noted, and pin; pin 0: none.
    pub irq: (u8, u8),
    /// Id of the device, empty if it has none.
    pub name: String,
    /// Its regions.
    pub regions: Vec<RegionInfo>,
    /// Of a bridge, what is behind it.
    pub bridge: Option<BridgeInfo>,
}

/// What is behind a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeInfo {
    /// Primary, secondary and last bus number, as the guest wrote them.
    pub numbers: [u8; 3],
    /// First and last address of its windows: I/O, memory, prefetchable memory.
    pub windows: [(u64, u64); 3],
    /// The functions of the bus behind it.
    pub functions: Vec<FunctionInfo>,
}

fn low(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

fn byte(value: u32) -> u8 {
    u8::try_from(value & 0xff).unwrap_or(0)
}

impl Function {
    fn region(&self, number: u8, bar: &Bar, command: u32) -> RegionInfo {
        let at = 0x10 + 4 * usize::from(number);
        let mut base = u64::from(self.config32(at) & if bar.io { !3 } else { !15 });
        if bar.wide {
            base |= u64::from(self.config32(at + 4)) << 32;
        }
        let decodes = command & if bar.io { 1 } else { 2 } != 0;
        RegionInfo {
            bar: number,
            size: bar.region.len(),
            address: (decodes && base != 0).then_some(base),
            io: bar.io,
            wide: bar.wide,
            prefetch: bar.prefetch,
        }
    }

    fn info(&self, devfn: u8) -> FunctionInfo {
        let (id, command, interrupt) = (self.config32(0), self.config32(4), self.config32(0x3c));
        let subsystem = self.config32(0x2c);
        let numbered = (0u8..).zip(self.bars());
        let regions = numbered.filter_map(|(n, bar)| Some(self.region(n, bar.as_ref()?, command)));
        let rom = self.rom_region().map(|region| RegionInfo {
            bar: crate::rom::NUMBER,
            size: region.len(),
            address: self.rom_wanted(command & 2 != 0),
            io: false,
            wide: false,
            prefetch: false,
        });
        let regions = regions.chain(rom);
        FunctionInfo {
            slot: devfn >> 3,
            function: devfn & 7,
            class: low(self.config32(8) >> 16),
            id: (low(id), low(id >> 16)),
            subsystem: (low(subsystem), low(subsystem >> 16)),
            irq: (byte(interrupt), byte(interrupt >> 8)),
            name: self.user_id(),
            regions: regions.collect(),
            bridge: self.bus_behind().map(|bus| {
                let [primary, secondary, last, _] = self.config32(0x18).to_le_bytes();
                BridgeInfo {
                    numbers: [primary, secondary, last],
                    windows: crate::bridge::ranges(self),
                    // Before it has a number nobody can see them.
                    functions: if secondary == 0 { Vec::new() } else { bus.list() },
                }
            }),
        }
    }
}

impl PciBus {
    /// All functions, by number.
    #[must_use]
    pub fn list(&self) -> Vec<FunctionInfo> {
        self.all().iter().map(|(devfn, function)| function.info(*devfn)).collect()
    }
}
