//! The generic PCI Express host on the bench: configuration space, base address regions,
//! interrupts and messages of a function with one region and two MSI-X vectors.

use std::sync::Arc;

use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, Migration, Mmio,
    Region, Reset,
};
use hw_pcihost::gpex::CLASS;
use parking_lot::Mutex;
use pci::{Bar, Common, Function, Identity, Msix};
use testbench::{BANK, Bench};

/// The second bank: PCI memory by PCI address.
const WINDOW: u64 = BANK;
/// Where the doorbell of the test is, as PCI devices see memory.
const DOORBELL: u64 = 1 << 50;

/// A function whose registers are their own address.
struct Probe {
    function: Arc<Function>,
    msix: Arc<Msix>,
    _echo: Arc<Echo>,
}

#[derive(derive::Qapi)]
struct Props {
    /// Those of every PCI device
    #[qapi(flatten)]
    pci: Common,
}

struct Echo;
impl Mmio for Echo {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        Ok(at.offset)
    }
    fn write(&self, _: Access, _: u64) -> Result<(), BusFault> {
        Ok(())
    }
}

impl DeviceType for Probe {
    const NAME: &'static str = "probe";
    const BUS: Bus = Bus::Pci;
    const SUMMARY: &'static str = "test";
    type Props = Props;
    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let echo = Arc::new(Echo);
        let region = Region::mmio("echo", 0x1000, AccessRules::ANY, &echo);
        let msix = Msix::new(2);
        let bar = |region| Some(Bar { region, io: false, wide: false, prefetch: false });
        let bars = vec![bar(region), bar(Function::msix_region(&msix))];
        let identity = Identity {
            id: (0x1234, 0x5678),
            revision: 3,
            class: (0xff, 1, 2),
            subsystem: (0x1af4, 0x1100),
            pin: 1,
        };
        let function = Function::new(&identity, &props.pci, bars, &[], Some((msix.clone(), 1)));
        let function = Arc::new(function);
        at.offer::<Arc<Function>>(function.clone());
        Ok(Arc::new(Probe { function, msix, _echo: echo }))
    }
}

impl Device for Probe {
    fn reset(&self, _: Reset) {
        self.function.reset();
    }
    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&*self.function)
    }
}

static PROBE: DeviceClass = DeviceClass::of::<Probe>();

fn plug(b: &Bench, props: &str) -> qapi::Result<Arc<Probe>> {
    let props = qapi::keyval::Dialect::structured(None).parse(props)?.value;
    let record = PROBE.build("probe", props, qapi::Source::KeyVal, b.world())?;
    b.record.buses[0].plug(&record)?;
    Ok(record.downcast::<Probe>().unwrap())
}

fn config(devfn: u64) -> u64 {
    devfn << 12
}

#[test]
fn identity_and_absence() {
    let b = Bench::of(&CLASS, "");
    assert_eq!(b.read32(0), 0x0008_1b36);
    assert_eq!(b.read32(8) >> 8, 0x06_0000);
    assert_eq!(b.read32(0x2c), 0x1100_1af4);
    // Nothing in slot 1, as another function, or on other buses.
    for at in [config(8), config(1), 1 << 20, 255 << 20] {
        assert_eq!(b.read32(at), u32::MAX, "{at:#x}");
        b.write32(at, 0);
    }
    assert_eq!(b.read8(1 << 20), 0xff);
    let _probe = plug(&b, "addr=1.0").unwrap();
    assert_eq!(b.read32(config(8)), 0x5678_1234);
    assert_eq!(b.read16(config(8) + 2), 0x5678);
    assert_eq!(b.read8(config(8) + 0x3d), 1);
    b.write32(config(8), 0);
    assert_eq!(b.read32(config(8)), 0x5678_1234, "read only");
}

#[test]
fn slots_are_checked() {
    let b = Bench::of(&CLASS, "");
    plug(&b, "addr=2.0").unwrap();
    let fails = |props: &str| plug(&b, props).err().map(|e| e.desc).unwrap_or_default();
    assert!(fails("addr=2.0").contains("not available for probe, in use by probe"));
    assert!(fails("addr=2.1").contains("single function device can't be populated"));
    assert!(fails("addr=20.0").contains("slot and function"));
    for _ in 0..30 {
        plug(&b, "").unwrap();
    }
    assert!(fails("").contains("no slot/function available"));
}

#[test]
fn regions_are_sized_mapped_and_unmapped() {
    let b = Bench::of(&CLASS, "");
    let _probe = plug(&b, "addr=1.0").unwrap();
    let at = config(8);
    b.write32(at + 0x10, u32::MAX);
    assert_eq!(b.read32(at + 0x10), 0xffff_f000);
    b.write32(at + 0x10, 0x1000_0000);
    let register = WINDOW + 0x1000_0040;
    assert_eq!(b.read32(register), u32::MAX, "memory is off: nobody answers");
    b.write16(at + 4, 2);
    assert_eq!(b.read32(register), 0x40);
    b.write32(at + 0x10, 0x2000_0000);
    assert_eq!([b.read32(register), b.read32(WINDOW + 0x2000_0040)], [u32::MAX, 0x40]);
    b.write16(at + 4, 0);
    assert_eq!(b.read32(WINDOW + 0x2000_0040), u32::MAX);
}

#[test]
fn pins_are_swizzled_joined_and_masked() {
    let b = Bench::of(&CLASS, "");
    let (one, five, two) =
        (plug(&b, "addr=1").unwrap(), plug(&b, "addr=5").unwrap(), plug(&b, "addr=2").unwrap());
    one.function.set_pin(true);
    five.function.set_pin(true);
    assert!(b.irq(1) && !b.irq(2), "pin A of slots 1 and 5 is line 1");
    assert_eq!(b.read16(config(8) + 6) >> 3 & 1, 1);
    one.function.set_pin(false);
    assert!(b.irq(1), "the other one still drives it");
    b.write16(config(5 << 3) + 4, 1 << 10);
    assert!(!b.irq(1), "masked");
    two.function.set_pin(true);
    assert!(b.irq(2));
}

/// Notes what is written to it, and by whom.
#[derive(Default)]
struct Bell(Mutex<Vec<(u16, u64)>>);
impl Mmio for Bell {
    fn read(&self, _: Access) -> Result<u64, BusFault> {
        Ok(0)
    }
    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        self.0.lock().push((at.attrs.requester, value));
        Ok(())
    }
}

#[test]
fn messages_carry_their_sender() {
    let b = Bench::of(&CLASS, "");
    let bell = Arc::new(Bell::default());
    b.world().memory.root().map(DOORBELL, &Region::mmio("bell", 16, AccessRules::ANY, &bell), 0);
    let probe = plug(&b, "addr=3.0").unwrap();
    let at = config(3 << 3);
    b.write32(at + 0x14, 0x3000_0000);
    b.write16(at + 4, 6);
    let entry = WINDOW + 0x3000_0010;
    b.write32(entry, 0);
    b.write32(entry + 4, 1 << 18);
    b.write32(entry + 8, 77);
    let capability = at + u64::from(b.read8(at + 0x34));
    assert_eq!(b.read8(capability), 0x11);
    assert_eq!(b.read16(capability + 2), 1, "two vectors");
    b.write16(capability + 2, 0x8000);
    probe.msix.send(1);
    assert!(bell.0.lock().is_empty(), "masked since reset");
    assert_eq!(b.read32(WINDOW + 0x3000_0800), 2, "pending");
    b.write32(entry + 12, 0);
    assert_eq!(*bell.0.lock(), [(3 << 3, 77)]);
    probe.msix.send(1);
    probe.msix.send(9);
    assert_eq!(bell.0.lock().len(), 2);
    assert_eq!(b.read32(WINDOW + 0x3000_0800), 0);
}
