//! QEMU's PCI test device (QEMU's documentation, "pci-testdev"): counts accesses by kind.
//!
//! Region 0 is memory, region 1 I/O space; each has three tests. Writing a number to byte 0
//! selects a test; the header that is read then says where and what to write, and how often that
//! reached the device. Two tests of each region are for event descriptors at the peer: what
//! matches those is swallowed and not counted, here as there. With `membar` region 2 is as long
//! as it says and empty. Not modelled: event descriptors themselves.

use std::sync::Arc;

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, Migration, Mmio,
    Region, Reset, Saved, Size,
};
use parking_lot::Mutex;
use pci::{Bar, Function, Identity};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<PciTestdev>();

/// Properties of `pci-testdev`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Length of region 2, a power of two; 0: there is none
    #[qapi(default = 0)]
    pub membar: qapi::Size,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub pci: pci::Common,
}

/// What an event descriptor would take.
struct Event {
    /// Only writes of one byte.
    bytes: bool,
    /// Only the test's datum.
    datum: bool,
}

struct Test {
    name: &'static str,
    offset: u32,
    datum: u8,
    event: Option<Event>,
}

const DATUM: u8 = 0xfa;
const WILD: u8 = 0xce;
const TESTS: [Test; 6] = [
    Test { name: "mmio-no-eventfd", offset: 0x800, datum: DATUM, event: None },
    Test {
        name: "mmio-wildcard-eventfd",
        offset: 0x801,
        datum: WILD,
        event: Some(Event { bytes: false, datum: false }),
    },
    Test {
        name: "mmio-datamatch-eventfd",
        offset: 0x802,
        datum: DATUM,
        event: Some(Event { bytes: true, datum: true }),
    },
    Test { name: "portio-no-eventfd", offset: 0x83, datum: DATUM, event: None },
    Test {
        name: "portio-wildcard-eventfd",
        offset: 0x84,
        datum: WILD,
        event: Some(Event { bytes: true, datum: false }),
    },
    Test {
        name: "portio-datamatch-eventfd",
        offset: 0x85,
        datum: DATUM,
        event: Some(Event { bytes: false, datum: true }),
    },
];
/// Tests of one region.
const PER_REGION: u64 = 3;
/// Width of accesses that the header asks for.
const WIDTH: u8 = 1;

#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "pci-testdev", version = 1)]
struct State {
    /// Selected test.
    test: Option<u8>,
    count: u32,
}

impl State {
    fn test(&self) -> Option<&'static Test> {
        TESTS.get(usize::from(self.test?))
    }

    fn header(&self) -> Vec<u8> {
        let (Some(number), Some(test)) = (self.test, self.test()) else { return Vec::new() };
        let mut bytes = vec![number, WIDTH, 0, 0];
        bytes.extend(test.offset.to_le_bytes());
        bytes.extend(u32::from(test.datum).to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.extend(test.name.as_bytes());
        bytes
    }
}

/// One of the two regions.
struct Window {
    first: u8,
    state: Arc<Mutex<State>>,
}

/// The device.
pub struct PciTestdev {
    function: Arc<Function>,
    _windows: [Arc<Window>; 2],
    state: Arc<Mutex<State>>,
}

impl DeviceType for PciTestdev {
    const NAME: &'static str = "pci-testdev";
    const BUS: Bus = Bus::Pci;
    const SUMMARY: &'static str = "PCI Test Device";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        props.pci.check(Self::NAME)?;
        let membar = props.membar.0;
        if membar != 0 && !(membar.is_power_of_two() && membar >= 16) {
            return Err(qapi::Error::expects("membar", "a power of two of at least 16"));
        }
        let state = Arc::new(Mutex::new(State::default()));
        let windows = [0, 3].map(|first| Arc::new(Window { first, state: state.clone() }));
        let rules = AccessRules {
            valid: (Size::B1, Size::B8),
            handled: (Size::B1, Size::B4),
            ..AccessRules::ANY
        };
        let [mmio, portio] = &windows;
        let bar = |region, io, wide| Bar { region, io, wide, prefetch: wide };
        let memory =
            (membar > 0).then(|| bar(Region::container("pci-testdev-membar", membar), false, true));
        let bars = vec![
            Some(bar(Region::mmio("pci-testdev-mmio", 0x1000, rules, mmio), false, false)),
            Some(bar(Region::mmio("pci-testdev-portio", 0x100, rules, portio), true, false)),
            memory,
            None,
            None,
            None,
        ];
        let identity = Identity {
            id: (0x1b36, 0x0005),
            revision: 0,
            class: (0, 0xff, 0),
            subsystem: (0x1af4, 0x1100),
            pin: 0,
        };
        let function = Arc::new(Function::new(&identity, &props.pci, bars, &[], None));
        function.add_rom(&props.pci, None)?;
        at.offer::<Arc<Function>>(function.clone());
        Ok(Arc::new(PciTestdev { function, _windows: windows, state }))
    }
}

impl Mmio for Window {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let header = {
            let state = self.state.lock();
            // A test of the other region shows nothing here.
            let own = self.first..self.first.saturating_add(3);
            if state.test.is_some_and(|t| own.contains(&t)) { state.header() } else { Vec::new() }
        };
        let start = usize::try_from(at.offset).unwrap_or(usize::MAX);
        let size = usize::try_from(at.size.bytes()).unwrap_or(8);
        let bytes = header.iter().skip(start).take(size).enumerate();
        Ok(bytes.fold(0, |value, (i, byte)| value | u64::from(*byte) << (8 * i)))
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let mut state = self.state.lock();
        if at.offset == 0 {
            let test = u8::try_from(value).ok().filter(|n| u64::from(*n) < PER_REGION);
            *state = State { test: test.map(|n| self.first + n), count: 0 };
            return Ok(());
        }
        let Some(test) = state.test().filter(|t| u64::from(t.offset) == at.offset) else {
            return Ok(());
        };
        let is_datum = value & 0xff == u64::from(test.datum);
        let swallowed = test.event.as_ref().is_some_and(|event| {
            (!event.bytes || at.size == Size::B1) && (!event.datum || is_datum)
        });
        if is_datum && !swallowed {
            state.count = state.count.wrapping_add(1);
        }
        Ok(())
    }
}

impl Device for PciTestdev {
    fn reset(&self, _: Reset) {
        self.function.reset();
        *self.state.lock() = State::default();
    }

    fn migration(&self) -> Migration<'_> {
        let parts: Vec<(&'static str, &dyn Saved)> =
            vec![("pci", &*self.function), ("state", &*self.state)];
        Migration::Parts(parts)
    }

    fn settle(&self) {
        self.function.settle();
    }
}
