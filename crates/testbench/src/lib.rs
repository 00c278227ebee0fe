//! An in-process bench for one device.
//!
//! [`Bench::of`] creates a device from its class and key=value properties, maps
//! its register banks, records its interrupt lines and gives it a clock that
//! moves only when the test says so, RAM to do DMA into, and character streams
//! the test holds the other end of. No threads, no sleeping, microseconds per
//! test. A development dependency of device crates only.
//! Source: the design pages (architecture, section 3.4).

mod chars;
mod lines;
mod pci;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use device::{Clock, DeviceClass, Record, Request, Reset, RunControl, TxAttrs, World};
use guest_ram::{RamBlock, RamOptions};
use memory::{AddressSpace, BusFault, Region, Size};
use parking_lot::Mutex;
use qapi::{Source, Value};

pub use chars::FakeChar;
pub use lines::Lines;
pub use pci::{PCI_IO, PCI_MMIO, PciSlot};

/// Address distance between the register banks of the device.
pub const BANK: u64 = 1 << 32;
/// Where [`Bench`] puts RAM for DMA, beyond all banks.
pub const RAM_BASE: u64 = 1 << 40;
/// Bytes of that RAM.
pub const RAM_SIZE: u64 = 1 << 20;

#[derive(Default)]
struct Run(Mutex<Vec<Request>>);

impl RunControl for Run {
    fn request(&self, request: Request) {
        self.0.lock().push(request);
    }
}

/// A device under test and everything around it.
pub struct Bench {
    /// The device's record.
    pub record: Record,
    world: World,
    chars: Arc<chars::FakeChars>,
    lines: Arc<Lines>,
    run: Arc<Run>,
    wall: Arc<AtomicI64>,
    attrs: TxAttrs,
}

static DISKS: &[&block::BlockClass] = &[&block::NULL_CO];

/// Block devices cannot be without a disk: they get one of 1 GiB that keeps nothing.
fn offer_disk(
    class: &'static DeviceClass,
    props: &mut Value,
    services: &device::Services,
) -> qapi::Result<()> {
    // What these are not made without.
    for (kind, name, value) in [("nvme", "serial", "n"), ("pci-bridge", "chassis_nr", "1")] {
        if class.name == kind && props.get(name).is_none() {
            props.set(name, Value::from(value));
        }
    }
    let has_disk = ["virtio-blk", "scsi-", "nvme"].iter().any(|kind| class.name.starts_with(kind));
    if !has_disk || props.get("drive").is_some() {
        return Ok(());
    }
    let graph = block::Graph::new(DISKS);
    let node = [("driver", Value::from("null-co")), ("node-name", Value::from("null0"))];
    graph.add(Value::map(node), Source::Json)?;
    services.add(graph);
    props.set("drive", Value::from("null0"));
    Ok(())
}

impl Bench {
    /// Creates the device; `props` is key=value text as after `-device name,`.
    ///
    /// # Panics
    /// When the device cannot be created: the test is wrong then.
    #[must_use]
    pub fn of(class: &'static DeviceClass, props: &str) -> Bench {
        match Bench::try_of(class, props) {
            Ok(bench) => bench,
            Err(e) => panic!("{}: {}", class.name, e.desc),
        }
    }

    /// As [`Bench::of`], for tests of what is refused.
    pub fn try_of(class: &'static DeviceClass, props: &str) -> qapi::Result<Bench> {
        let parsed = qapi::keyval::Dialect::structured(None).parse(props)?;
        Bench::create(class, parsed.value, Source::KeyVal)
    }

    /// As [`Bench::try_of`], with what the host side offers.
    pub fn with_services(
        class: &'static DeviceClass,
        props: &str,
        services: device::Services,
    ) -> qapi::Result<Bench> {
        let parsed = qapi::keyval::Dialect::structured(None).parse(props)?;
        Bench::build(class, parsed.value, Source::KeyVal, services)
    }

    /// Creates the device from properties as a value.
    pub fn create(
        class: &'static DeviceClass,
        props: Value,
        source: Source,
    ) -> qapi::Result<Bench> {
        Bench::build(class, props, source, device::Services::default())
    }

    fn build(
        class: &'static DeviceClass,
        props: Value,
        source: Source,
        services: device::Services,
    ) -> qapi::Result<Bench> {
        let mut props = props;
        offer_disk(class, &mut props, &services)?;
        let root = Region::root("system");
        let ram = RamBlock::new("ram", RAM_SIZE, RamOptions::default())
            .map_err(|e| qapi::Error::generic(e.to_string()))?;
        root.map(RAM_BASE, &Region::ram("ram", ram), 0);
        let chars = Arc::new(chars::FakeChars::default());
        let run = Arc::new(Run::default());
        let wall = Arc::new(AtomicI64::new(0));
        let clock = Clock::manual();
        services.add(device::RamSize(RAM_SIZE));
        let (base, ticking) = (wall.clone(), clock.clone());
        let world = World {
            memory: AddressSpace::new("memory", &root),
            clock,
            wall: Arc::new(move || {
                base.load(Ordering::SeqCst).saturating_add_unsigned(ticking.now_ns())
            }),
            run: run.clone(),
            chardevs: chars.clone(),
            objects: Arc::default(),
            services,
            numbers: device::Numbers::default(),
        };
        let mut record = class.build("dut", props, source, &world)?;
        if let Some(function) = record.ability::<Arc<::pci::Function>>() {
            // What a PCI function has is a bank here, too, wherever the guest would put it.
            record.regions.extend(function.regions());
        }
        for (bank, region) in (0u64..).zip(&record.regions) {
            root.map(bank * BANK, region, 0);
        }
        let lines = Arc::new(Lines::default());
        for (index, (_, out)) in (0u32..).zip(&record.irq_outs) {
            out.connect(lines.clone(), index);
        }
        record.device.settle();
        let attrs = TxAttrs::default();
        Ok(Bench { record, world, chars, lines, run, wall, attrs })
    }

    /// What the device shares with the machine.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Makes further accesses with these attributes (secure, requester).
    pub fn set_attrs(&mut self, attrs: TxAttrs) {
        self.attrs = attrs;
    }

    /// Reads, or says what fault the guest would see.
    pub fn try_read(&self, at: u64, size: Size) -> Result<u64, BusFault> {
        self.world.memory.read_uint(at, size, self.attrs)
    }

    /// Writes, or says what fault the guest would see.
    pub fn try_write(&self, at: u64, size: Size, value: u64) -> Result<(), BusFault> {
        self.world.memory.write_uint(at, size, value, self.attrs)
    }

    fn read(&self, at: u64, size: Size) -> u64 {
        match self.try_read(at, size) {
            Ok(value) => value,
            Err(e) => panic!("read of {at:#x}: {e}"),
        }
    }

    fn write(&self, at: u64, size: Size, value: u64) {
        if let Err(e) = self.try_write(at, size, value) {
            panic!("write to {at:#x}: {e}");
        }
    }

    /// Reads a byte; like all of these, panics on a fault.
    #[must_use]
    pub fn read8(&self, at: u64) -> u8 {
        self.read(at, Size::B1).to_le_bytes()[0]
    }

    /// Reads 16 bits.
    #[must_use]
    pub fn read16(&self, at: u64) -> u16 {
        u16::try_from(self.read(at, Size::B2)).unwrap_or(u16::MAX)
    }

    /// Reads 32 bits.
    #[must_use]
    pub fn read32(&self, at: u64) -> u32 {
        u32::try_from(self.read(at, Size::B4)).unwrap_or(u32::MAX)
    }

    /// Reads 64 bits.
    #[must_use]
    pub fn read64(&self, at: u64) -> u64 {
        self.read(at, Size::B8)
    }

    /// Writes a byte.
    pub fn write8(&self, at: u64, value: u8) {
        self.write(at, Size::B1, value.into());
    }

    /// Writes 16 bits.
    pub fn write16(&self, at: u64, value: u16) {
        self.write(at, Size::B2, value.into());
    }

    /// Writes 32 bits.
    pub fn write32(&self, at: u64, value: u32) {
        self.write(at, Size::B4, value.into());
    }

    /// Writes 64 bits.
    pub fn write64(&self, at: u64, value: u64) {
        self.write(at, Size::B8, value);
    }

    /// Level of the device's n-th interrupt output.
    #[must_use]
    pub fn irq(&self, index: u32) -> bool {
        self.lines.level(index)
    }

    /// Level of an interrupt output by name.
    #[must_use]
    pub fn irq_named(&self, name: &str) -> bool {
        self.record.irq_out(name).is_some_and(|out| out.level())
    }

    /// The recorder of all interrupt outputs.
    #[must_use]
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Drives an interrupt input of the device.
    ///
    /// # Panics
    /// When the device has no inputs of this name.
    pub fn drive(&self, name: &str, input: u32, level: bool) {
        match self.record.irq_in(name) {
            Some(port) => port.sink.set(input, level),
            None => panic!("the device has no inputs named {name}"),
        }
    }

    /// The test's end of a character stream.
    #[must_use]
    pub fn chardev(&self, id: &str) -> Arc<FakeChar> {
        self.chars.get(id)
    }

    /// Moves the guest's clock, firing timers on the way.
    pub fn advance(&self, ns: u64) {
        self.world.clock.advance(ns);
    }

    /// Sets the wall clock's time at clock zero, in seconds since 1970.
    pub fn set_wall(&self, seconds: i64) {
        self.wall.store(seconds.saturating_mul(1_000_000_000), Ordering::SeqCst);
    }

    /// Takes what the device asked of the run state.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.run.0.lock())
    }

    /// Resets the device as a system reset does.
    pub fn reset(&self) {
        self.record.device.reset(Reset::Cold);
        self.record.device.settle();
    }

    /// Saves the device's state.
    ///
    /// # Panics
    /// When the device says that it cannot be saved.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut w = vmstate::StateWriter::new();
        if let Err(why) = self.record.device.migration().write(&mut w) {
            panic!("cannot be saved: {why}");
        }
        w.into_bytes()
    }

    /// Loads state into the device.
    pub fn load(&self, bytes: &[u8]) -> Result<(), vmstate::LoadError> {
        let mut r = vmstate::StateReader::new(bytes);
        self.record.device.migration().read(&mut r)?;
        self.record.device.settle();
        Ok(())
    }

    /// Writes into the RAM at [`RAM_BASE`].
    pub fn put_ram(&self, offset: u64, data: &[u8]) {
        let done = self.world.memory.write(RAM_BASE + offset, data, TxAttrs::default());
        assert!(done.is_ok(), "offset {offset:#x} is outside the bench's RAM");
    }

    /// Reads from the RAM at [`RAM_BASE`].
    #[must_use]
    pub fn get_ram(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let done = self.world.memory.read(RAM_BASE + offset, &mut out, TxAttrs::default());
        assert!(done.is_ok(), "offset {offset:#x} is outside the bench's RAM");
        out
    }
}
