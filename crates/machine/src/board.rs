//! A machine under construction, and the finished machine.

use std::sync::Arc;

use accel::{Boot, CpuConfig, CpuHandle, CpuSet, FirmwareCalls};
use device::{Held, IrqController, Record, Reset, ResetTree, World};
use guest_ram::{RamBlock, RamOptions};
use memory::{AddressSpace, Region};
use qapi::{Source, Value};

use crate::class::{Catalog, MachineClass};
use crate::config::{Host, MachineConfig};

/// A place in a machine's map: a device by type name, its address and interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Name of the place; becomes the device's id.
    pub name: &'static str,
    /// Device type.
    pub class: &'static str,
    /// Address of its first bank.
    pub base: u64,
    /// Bytes of address space that belong to it.
    pub size: u64,
    /// Shared interrupt of its first output.
    pub irq: Option<u32>,
    /// Offsets of its banks; those beyond the list follow each other.
    pub banks: &'static [u64],
}

impl Slot {
    /// The slot with its banks at these offsets.
    #[must_use]
    pub const fn with_banks(self, banks: &'static [u64]) -> Slot {
        Slot { banks, ..self }
    }
}

/// A slot, for tables.
#[must_use]
pub const fn slot(
    name: &'static str,
    class: &'static str,
    base: u64,
    size: u64,
    irq: Option<u32>,
) -> Slot {
    Slot { name, class, base, size, irq, banks: &[0] }
}

/// Presses a power button.
pub type PowerButton = Box<dyn Fn() + Send + Sync>;

/// A machine under construction.
pub struct Board<'a> {
    /// Its class.
    pub class: &'static MachineClass,
    /// What the command line says.
    pub config: &'a MachineConfig,
    /// What all its devices share.
    pub world: World,
    /// Root of the physical address space.
    pub system: Region,
    /// What the secure world sees besides.
    secure: Option<Region>,
    catalog: &'a Catalog,
    records: Vec<Record>,
    cpus: Option<CpuSet>,
    boot: Vec<Boot>,
    blobs: Vec<(u64, Vec<u8>)>,
    dtb: Option<Vec<u8>>,
    powerdown: Option<PowerButton>,
    props: Value,
    held: Vec<Held<Arc<RamBlock>>>,
}

fn allocate(name: &str, size: u64) -> qapi::Result<Arc<RamBlock>> {
    let options = RamOptions { huge: true, ..RamOptions::default() };
    RamBlock::new(name, size, options)
        .map_err(|e| qapi::Error::generic(format!("cannot set up guest memory '{name}': {e}")))
}

impl<'a> Board<'a> {
    pub(crate) fn new(
        class: &'static MachineClass,
        config: &'a MachineConfig,
        host: Host,
        catalog: &'a Catalog,
    ) -> Board<'a> {
        let system = Region::root("system");
        let Host { clock, wall, run, chardevs, objects, services } = host;
        let memory = AddressSpace::new("memory", &system);
        let numbers = device::Numbers::default();
        let world = World { memory, clock, wall, run, chardevs, objects, services, numbers };
        Board {
            class,
            config,
            world,
            system,
            secure: None,
            catalog,
            records: Vec::new(),
            cpus: None,
            boot: Vec::new(),
            blobs: Vec::new(),
            dtb: None,
            powerdown: None,
            props: Value::empty(),
            held: Vec::new(),
        }
    }

    pub(crate) fn note_props(&mut self, props: Value) {
        self.props = props;
    }

    /// Creates RAM and maps it.
    pub fn ram(&mut self, name: &str, base: u64, size: u64) -> qapi::Result<()> {
        let nodes = u32::try_from(self.config.numa.nodes.len()).unwrap_or(u32::MAX);
        self.world.services.add(device::NodeCount(nodes));
        if self.config.numa.nodes.iter().any(|node| node.memdev.is_some()) {
            self.node_ram(base)?;
            self.world.services.add(device::RamSize(size));
            return Ok(());
        }
        let block = match self.config.memory_backend.as_deref() {
            None => allocate(name, size)?,
            Some(id) => {
                let held = self.world.objects.hold::<Arc<RamBlock>>(
                    "memory-backend",
                    id,
                    "memory-backend",
                )?;
                let block = Arc::clone(&held);
                self.held.push(held);
                block
            }
        };
        self.system.map(base, &Region::ram(name, block), 0);
        if self.world.services.find::<device::RamSize>().is_none() {
            self.world.services.add(device::RamSize(size));
        }
        Ok(())
    }

    /// Maps the memory of the nodes, one behind the other.
    fn node_ram(&mut self, base: u64) -> qapi::Result<()> {
        let mut at = base;
        for node in &self.config.numa.nodes {
            let Some(id) = node.memdev.as_deref() else { continue };
            let held = self.world.objects.hold::<Arc<RamBlock>>("memdev", id, "memory-backend")?;
            let block = Arc::clone(&held);
            self.held.push(held);
            self.system.map(at, &Region::ram(id, block), 0);
            at = at.saturating_add(node.mem);
        }
        Ok(())
    }

    /// Makes an address space of the secure world: all that others see, and more.
    pub fn add_secure_space(&mut self) {
        let root = Region::root("secure-memory");
        root.map(0, &self.system, -1);
        self.secure = Some(root);
    }

    /// Where devices of the secure world are mapped.
    #[must_use]
    pub fn secure_root(&self) -> &Region {
        self.secure.as_ref().unwrap_or(&self.system)
    }

    /// Creates RAM of the secure world.
    pub fn secure_ram(&mut self, name: &str, base: u64, size: u64) -> qapi::Result<()> {
        let block = allocate(name, size)?;
        self.secure_root().map(base, &Region::ram(name, block), 0);
        Ok(())
    }

    /// As [`Board::place`], for the secure world.
    pub fn place_secure(
        &mut self,
        slot: &Slot,
        props: Value,
        irqs: &dyn IrqController,
    ) -> qapi::Result<()> {
        let root = self.secure_root().clone();
        self.place_in(&root, slot, props, irqs)
    }

    /// Whether a device type exists.
    #[must_use]
    pub fn knows(&self, class: &str) -> bool {
        self.catalog.device(class).is_some()
    }

    /// Creates a device by type name; it is not mapped or wired.
    pub fn device(&mut self, class: &str, id: &str, props: Value) -> qapi::Result<&Record> {
        self.create_device(class, id, props, Source::Json)
    }

    /// As [`Board::device`], with properties as a user typed them.
    pub fn user_device(&mut self, class: &str, id: &str, props: Value) -> qapi::Result<&Record> {
        self.create_device(class, id, props, Source::KeyVal)
    }

    fn create_device(
        &mut self,
        class: &str,
        id: &str,
        props: Value,
        source: Source,
    ) -> qapi::Result<&Record> {
        let class = self.catalog.device(class).ok_or_else(|| {
            qapi::Error::generic(format!("'{class}' is not a valid device model name"))
        })?;
        let record = class.build(id, props, source, &self.world)?;
        self.records.push(record);
        self.records.last().ok_or_else(|| qapi::Error::generic("no device"))
    }

    /// The device of an id.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.records.iter().find(|r| r.id == id)
    }

    /// Creates a slot's device, maps its banks at the slot's address, and wires its first output.
    pub fn place(
        &mut self,
        slot: &Slot,
        props: Value,
        irqs: &dyn IrqController,
    ) -> qapi::Result<()> {
        let root = self.system.clone();
        self.place_in(&root, slot, props, irqs)
    }

    fn place_in(
        &mut self,
        root: &Region,
        slot: &Slot,
        props: Value,
        irqs: &dyn IrqController,
    ) -> qapi::Result<()> {
        self.device(slot.class, slot.name, props)?;
        let bases: Vec<u64> = slot.banks.iter().map(|b| slot.base + b).collect();
        self.map_banks_in(root, slot.name, &bases)?;
        let out = self.record(slot.name).and_then(|r| r.irq_outs.first());
        if let (Some(irq), Some((_, out))) = (slot.irq, out) {
            out.connect(irqs.shared(), irq);
        }
        Ok(())
    }

    /// Maps a device's banks; banks beyond the last address follow each other.
    pub fn map_banks(&self, id: &str, bases: &[u64]) -> qapi::Result<()> {
        self.map_banks_in(&self.system, id, bases)
    }

    fn map_banks_in(&self, root: &Region, id: &str, bases: &[u64]) -> qapi::Result<()> {
        let record =
            self.record(id).ok_or_else(|| qapi::Error::generic(format!("no device '{id}'")))?;
        let mut next = 0;
        for (i, region) in record.regions.iter().enumerate() {
            let base = bases.get(i).copied().unwrap_or(next);
            root.map(base, region, 0);
            next = base.saturating_add(region.len());
        }
        Ok(())
    }

    /// Creates the CPUs, in the order of `ids`.
    pub fn create_cpus(
        &mut self,
        ids: Vec<u64>,
        virtualization: bool,
        secure: bool,
        firmware_calls: FirmwareCalls,
    ) -> qapi::Result<()> {
        let name = self.class.arch.unwrap_or_default();
        let arch = self.catalog.guest(name).ok_or_else(|| {
            qapi::Error::generic(format!("guest architecture '{name}' is not built in"))
        })?;
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        self.world.services.add(device::CpuCount(count));
        let model = self.config.cpu_model.as_deref().or(self.class.default_cpu);
        let config = CpuConfig {
            model: model.unwrap_or_default().to_owned(),
            props: self.config.cpu_props.clone(),
            ids,
            virtualization,
            secure,
            firmware_calls,
            clock: self.world.clock.clone(),
            run: self.world.run.clone(),
        };
        self.cpus = Some(arch.new_cpus(&config)?);
        Ok(())
    }

    /// The CPUs' handles in order; empty before [`Board::create_cpus`].
    #[must_use]
    pub fn cpu_handles(&self) -> Vec<Arc<dyn CpuHandle>> {
        let units = self.cpus.as_ref().map_or(&[][..], |set| set.units.as_slice());
        units.iter().map(|u| u.handle.clone()).collect()
    }

    /// Sets where each CPU starts at reset.
    pub fn set_boot(&mut self, boot: Vec<Boot>) {
        self.boot = boot;
    }

    /// Changes where one CPU starts.
    pub fn set_boot_pc(&mut self, cpu: u32, pc: u64) {
        let boot = usize::try_from(cpu).ok().and_then(|at| self.boot.get_mut(at));
        if let Some(boot) = boot {
            boot.pc = pc;
        }
    }

    /// Puts bytes into memory at every reset.
    pub fn load(&mut self, address: u64, data: Vec<u8>) {
        self.blobs.push((address, data));
    }

    /// Notes the device tree, for `dumpdtb`.
    pub fn set_dtb(&mut self, dtb: Vec<u8>) {
        self.dtb = Some(dtb);
    }

    /// Sets what `system_powerdown` does.
    pub fn set_powerdown(&mut self, press: PowerButton) {
        self.powerdown = Some(press);
    }

    pub(crate) fn finish(self) -> qapi::Result<Machine> {
        let Board {
            class,
            config,
            world,
            secure,
            records,
            cpus,
            boot,
            blobs,
            dtb,
            powerdown,
            props,
            held,
            ..
        } = self;
        let reset = ResetTree::default();
        records.iter().for_each(|r| reset.add(&r.device));
        let handles: Vec<_> =
            cpus.iter().flat_map(|c| &c.units).map(|u| u.handle.clone()).collect();
        for (cpu, boot) in handles.iter().zip(boot) {
            cpu.set_boot(boot);
        }
        let mut spaces = vec![world.memory.clone()];
        for i in 0..handles.len() {
            spaces.push(world.memory.named(&format!("cpu-memory-{i}")));
        }
        let secure = secure.map(|root| {
            let space = AddressSpace::new("cpu-secure-memory-0", &root);
            let name = |i| space.named(&format!("cpu-secure-memory-{i}"));
            spaces.extend((0..handles.len()).map(name));
            space
        });
        let dumped = config.boot.dumpdtb.is_some();
        if let (Some(path), Some(dtb)) = (&config.boot.dumpdtb, &dtb) {
            std::fs::write(path, dtb).map_err(|e| {
                qapi::Error::generic(format!(
                    "Error dumping FDT to '{}': {e}; is the directory writable?",
                    path.display()
                ))
            })?;
        }
        let model = config.cpu_model.as_deref().or(class.default_cpu).unwrap_or_default();
        let machine = Machine {
            class,
            props,
            cpu_model: model.to_owned(),
            ram_size: config.ram_size,
            numa: config.numa.clone(),
            topology: config.topology(),
            world,
            records,
            spaces,
            secure,
            reset,
            cpus,
            handles,
            blobs,
            dtb,
            dumped,
            powerdown,
            held,
        };
        machine.reset.reset(Reset::Cold);
        machine.reload()?;
        Ok(machine)
    }
}

/// A created machine.
pub struct Machine {
    /// Its class.
    pub class: &'static MachineClass,
    /// Its properties after defaults were filled in.
    pub props: Value,
    /// CPU model.
    pub cpu_model: String,
    /// RAM in bytes.
    pub ram_size: u64,
    /// Nodes of memory and CPUs.
    pub numa: crate::numa::Numa,
    /// Arrangement of the CPUs.
    pub topology: crate::Topology,
    /// What its devices share.
    pub world: World,
    /// Devices in order of creation.
    pub records: Vec<Record>,
    /// Address spaces, for `info mtree`.
    pub spaces: Vec<AddressSpace>,
    /// Physical memory as the secure world sees it, if that differs.
    pub secure: Option<AddressSpace>,
    /// What a reset resets, in order.
    pub reset: ResetTree,
    /// The CPUs, to be given to an accelerator.
    pub cpus: Option<CpuSet>,
    /// The CPUs' handles in order.
    pub handles: Vec<Arc<dyn CpuHandle>>,
    /// Boot images: address and bytes.
    pub blobs: Vec<(u64, Vec<u8>)>,
    /// The device tree the guest is given.
    pub dtb: Option<Vec<u8>>,
    /// The device tree was written to a file: the machine is not to be run.
    pub dumped: bool,
    /// Presses the power button.
    pub powerdown: Option<PowerButton>,
    /// Objects that cannot be deleted while the machine exists.
    pub held: Vec<Held<Arc<RamBlock>>>,
}

impl Machine {
    /// Puts the boot images back into memory.
    pub fn reload(&self) -> qapi::Result<()> {
        for (address, data) in &self.blobs {
            self.secure.as_ref().unwrap_or(&self.world.memory).load_rom(*address, data).map_err(
                |_| {
                    qapi::Error::generic(format!(
                        "{} bytes at {address:#x} do not lie in the guest's RAM or ROM",
                        data.len()
                    ))
                },
            )?;
        }
        Ok(())
    }
}
