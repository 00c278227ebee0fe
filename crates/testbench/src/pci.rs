//! A slot for one PCI device, with windows that the test reaches BARs through.

use std::sync::Arc;

use device::{IrqOut, Region};
use pci::{Function, Host, PciBus};

use crate::{Bench, Lines};

/// Where the memory window is: PCI address 0.
pub const PCI_MMIO: u64 = 1 << 41;
/// Where the I/O window is: port 0.
pub const PCI_IO: u64 = 1 << 42;
const SLOT: u8 = 4 << 3;

/// The device under test in slot 4 of a bus.
pub struct PciSlot {
    bus: Arc<PciBus>,
    lines: Arc<Lines>,
}

impl PciSlot {
    /// Plugs the bench's device in.
    ///
    /// # Panics
    /// When it is no PCI device.
    #[must_use]
    pub fn of(bench: &Bench) -> PciSlot {
        let mmio = Region::container("pci-mmio", 1 << 40);
        let io = Region::container("pci-io", 0x1_0000);
        let memory = bench.world().memory.clone();
        memory.root().map(PCI_MMIO, &mmio, 0);
        memory.root().map(PCI_IO, &io, 0);
        let lines = Arc::new(Lines::default());
        let outs = (0..4u32).map(|index| {
            let out = IrqOut::new();
            out.connect(lines.clone(), index);
            out
        });
        let bus = PciBus::new("pcie.0", Host { mmio, io, memory }, outs.collect());
        let Some(function) = bench.record.ability::<Arc<Function>>() else {
            panic!("{} is no PCI device", bench.record.class.name)
        };
        bus.add(SLOT, &function);
        PciSlot { bus, lines }
    }

    /// Reads configuration space.
    #[must_use]
    pub fn config(&self, at: u64, size: usize) -> u32 {
        self.bus.ecam_read(u64::from(SLOT) << 12 | at, size)
    }

    /// Writes configuration space.
    pub fn set_config(&self, at: u64, size: usize, value: u32) {
        self.bus.ecam_write(u64::from(SLOT) << 12 | at, size, value);
    }

    /// Puts the regions in place: region n at `n << 24` of the memory window or at port
    /// `n << 12`, and switches everything on.
    pub fn enable(&self) {
        for index in 0..6u32 {
            let at = 0x10 + 4 * u64::from(index);
            let is_io = self.config(at, 4) & 1 != 0;
            self.set_config(at, 4, if is_io { index << 12 } else { index << 24 });
        }
        self.set_config(0x14 + 0x10, 4, 0);
        self.set_config(4, 2, 7);
    }

    /// Address of a memory region after [`PciSlot::enable`].
    #[must_use]
    pub fn mmio(index: u64) -> u64 {
        PCI_MMIO + (index << 24)
    }

    /// Address of an I/O region after [`PciSlot::enable`].
    #[must_use]
    pub fn io(index: u64) -> u64 {
        PCI_IO + (index << 12)
    }

    /// The level of the slot's interrupt pin.
    #[must_use]
    pub fn pin(&self) -> bool {
        // Slot 4, pin A: line 0.
        self.lines.level(0)
    }
}
