//! Generic PCI Express host with ECAM (PCI Express Base, 7.2.2; the device tree
//! binding `pci-host-ecam-generic`).
//!
//! Banks, in order: ECAM, memory window, I/O window. Nothing answers in the
//! windows outside of base address regions: reads give ones. Not modelled: more
//! than one bus, the bridge's own extended capabilities.

use std::sync::Arc;

use derive::Qapi;
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, Migration, Mmio,
    Region, Reset, Size,
};
use pci::{Common, Function, Host, Identity, PciBus};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Gpex>();

/// Properties of `gpex-pcihost`.
#[derive(Clone, Debug, Default, Qapi)]
pub struct Props {}

/// Bytes of configuration space of 256 buses.
const ECAM: u64 = 256 << 20;

/// The device.
pub struct Gpex {
    bus: Arc<PciBus>,
    root: Arc<Function>,
    _hole: Arc<Hole>,
}

/// Answers where nobody else does.
struct Hole;

impl Mmio for Hole {
    fn read(&self, _: Access) -> Result<u64, BusFault> {
        Ok(u64::MAX)
    }
    fn write(&self, _: Access, _: u64) -> Result<(), BusFault> {
        Ok(())
    }
}

impl DeviceType for Gpex {
    const NAME: &'static str = "gpex-pcihost";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "generic PCI Express host";
    type Props = Props;

    fn create(_: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let hole = Arc::new(Hole);
        let mmio = Region::root("gpex_mmio_window");
        mmio.map(0, &Region::mmio("gpex_hole", u64::MAX, AccessRules::ANY, &hole), -1);
        let io = Region::container("gpex_ioport_window", 0x1_0000);
        io.map(0, &Region::mmio("gpex_io_hole", 0x1_0000, AccessRules::ANY, &hole), -1);
        let outs = (0..4).map(|_| at.irq_out()).collect();
        let host = Host { mmio: mmio.clone(), io: io.clone(), memory: at.world().memory.clone() };
        let bus = PciBus::new("pcie.0", host, outs);
        let identity = Identity {
            id: (0x1b36, 0x0008),
            revision: 0,
            class: (6, 0, 0),
            subsystem: (0x1af4, 0x1100),
            pin: 0,
        };
        let common = Common::of_board();
        let root = Arc::new(Function::new(&identity, &common, Vec::new(), &[], None));
        bus.add(0, &root);
        at.offer::<Arc<PciBus>>(bus.clone());
        let device = Arc::new(Gpex { bus: bus.clone(), root, _hole: hole });
        let rules = AccessRules {
            valid: (Size::B1, Size::B8),
            handled: (Size::B1, Size::B4),
            ..AccessRules::ANY
        };
        at.mmio(Region::mmio("pcie-mmcfg-mmio", ECAM, rules, &device));
        at.mmio(mmio);
        at.mmio(io);
        at.bus(bus);
        Ok(device)
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.bytes()).unwrap_or(4)
}

impl Mmio for Gpex {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        Ok(self.bus.ecam_read(at.offset, bytes(at.size)).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        self.bus.ecam_write(at.offset, bytes(at.size), value);
        Ok(())
    }
}

impl Device for Gpex {
    fn reset(&self, _: Reset) {
        self.root.reset();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&*self.root)
    }

    fn settle(&self) {
        self.root.settle();
    }
}
