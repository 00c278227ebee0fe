//! Creates the machine and gives its CPUs to the accelerator.

use std::sync::Arc;

use accel::{CpuHandle, CpuSet, VmConfig};
use device::{AddressSpace, FirmwareConfig, Record, World};
use machine::{BootFiles, Host, MachineClass, MachineConfig, Topology};
use qapi::{Source, Value};
use vmm::{AccelExecution, Execution, Machine, NoExecution, Vm};

use crate::{
    fail::{At as _, Step, Stop},
    rtc,
    settings::{Named, Placed, Settings},
};

/// Properties that every machine has.
const COMMON: &[&str] = &["kernel", "initrd", "dtb", "firmware", "dumpdtb", "append", "hmat"];

/// Creates the machine of this name; with the serial ports' and the flash banks' back ends.
pub(crate) fn create(
    program: &str,
    vm: &Arc<Vm>,
    settings: &Settings,
    name: &str,
    ports: (Vec<Option<String>>, [Option<String>; 2]),
) -> Step<()> {
    let class = class_of(name)?;
    let host = Host {
        clock: vm.clock.clone(),
        wall: rtc::wall_clock(settings.rtc, &vm.clock),
        run: vm.run_control(),
        chardevs: vm.chardevs.clone(),
        objects: vm.objects.clone(),
        services: vm.services.clone(),
    };
    let props = properties(class, settings)?;
    let mut config = config(settings, ports);
    ram_object(vm, settings, class, &mut config)?;
    let mut common = props.clone();
    config.take_common(&mut common, Source::KeyVal)?;
    crate::numa_option::add(program, &settings.numa, class, &mut config)?;
    let created = class.create(props, Source::KeyVal, config, host, &catalog::CATALOG)?;
    if created.dumped {
        return Err(Stop::Done);
    }
    let machine::Machine {
        world,
        records,
        spaces,
        secure,
        reset,
        cpus,
        handles,
        blobs,
        dtb,
        powerdown,
        props,
        cpu_model,
        ram_size,
        numa,
        topology,
        held,
        ..
    } = created;
    let firmware = records.iter().find_map(Record::ability::<Arc<dyn FirmwareConfig>>);
    let execution: Arc<dyn Execution> = match cpus {
        None => Arc::new(NoExecution),
        Some(set) => run_by(vm, settings, (set, handles), (&world, secure.as_ref()))?,
    };
    let blob = |(at, data): &(u64, Vec<u8>)| (*at, data.len() as u64, String::from("blob"));
    let roms = blobs.iter().map(blob).collect();
    let memory = secure.unwrap_or_else(|| world.memory.clone());
    let reload = move || {
        let _ = &held; // lives as long as the machine
        for (address, data) in &blobs {
            // The machine checked at creation that all of it lies in RAM.
            _ = memory.load_rom(*address, data);
        }
    };
    let machine = Machine {
        name: class.name.into(),
        props,
        cpu_model,
        ram_size,
        nodes: numa.nodes.iter().map(|node| vmm::MemoryNode { mem: node.mem }).collect(),
        places: execution
            .cpus()
            .iter()
            .map(|cpu| vmm::CpuPlace {
                ids: machine::numa::place(topology, cpu.index),
                node: numa.node_of(cpu.index, topology),
            })
            .collect(),
        devices: device::Devices::new(records),
        firmware,
        strict_boot: settings.boot_options.strict,
        world: Some(world),
        roms,
        spaces,
        reset,
        powerdown,
        reload: Some(Box::new(reload)),
        dtb,
    };
    vm.set_machine(machine, execution);
    vm.reset_devices(device::Reset::Cold);
    Ok(())
}

/// `-mem-path` and `-mem-prealloc`: the machine's RAM is an object, as `-object` would make it.
fn ram_object(
    vm: &Arc<Vm>,
    settings: &Settings,
    class: &MachineClass,
    config: &mut MachineConfig,
) -> Step<()> {
    /// The peer's name of the RAM of machines that have some.
    const ID: &str = "mach-virt.ram";
    let by_object = settings.machine_props.iter().any(|(name, _)| name == "memory-backend");
    let in_nodes = settings.numa.iter().any(|option| option.value.contains("memdev="));
    if class.default_ram == 0 || by_object || in_nodes {
        return Ok(());
    }
    if settings.mem_path.is_none() && !settings.mem_prealloc {
        return Ok(());
    }
    let size = if config.ram_size == 0 { class.default_ram } else { config.ram_size };
    let mut props = Value::map([("size", Value::from(size))]);
    props.set("prealloc", Value::from(settings.mem_prealloc));
    let mut kind = "memory-backend-ram";
    let mut place = "-mem-prealloc";
    if let Some(path) = &settings.mem_path {
        kind = "memory-backend-file";
        place = &path.place;
        props.set("mem-path", Value::from(path.value.as_str()));
    }
    vmm::commands::add_object(vm, kind, ID, props, Source::Json).at(place)?;
    config.memory_backend = Some(ID.into());
    Ok(())
}

/// Gives the CPUs to the accelerator.
fn run_by(
    vm: &Arc<Vm>,
    settings: &Settings,
    (set, cpus): (CpuSet, Vec<Arc<dyn CpuHandle>>),
    (world, secure): (&World, Option<&AddressSpace>),
) -> Step<Arc<dyn Execution>> {
    let accel = catalog::ACCELS.iter().find(|accel| accel.name() == vm.config.accel);
    let missing = "this machine needs an accelerator; -accel help lists them";
    let accel = accel.ok_or_else(|| Stop::new(missing))?;
    let icount =
        |shift| accel::Icount { shift, sleep: settings.icount.sleep, clock: world.clock.clone() };
    let config = VmConfig {
        icount: settings.icount.shift.map(icount),
        memory: world.memory.clone(),
        secure_memory: secure.cloned(),
        options: accel_options(settings, &vm.config.accel),
        cpus: set.units.into_iter().map(|unit| unit.cpu).collect(),
        translator: Some(set.translator),
        run: vm.run_control(),
    };
    let vm = match chosen_accel(settings, &vm.config.accel) {
        Some(chosen) => accel.new_vm(config).at(&chosen.place)?,
        None => accel.new_vm(config)?,
    };
    Ok(Arc::new(AccelExecution { vm, cpus }))
}

fn class_of(name: &str) -> Step<&'static MachineClass> {
    let class = catalog::CATALOG.machine(name);
    class.ok_or_else(|| Stop::new(format!("unsupported machine type: \"{name}\"")))
}

fn properties(class: &MachineClass, settings: &Settings) -> Step<Value> {
    let mut props = Value::empty();
    for (name, value) in &settings.machine_props {
        if !COMMON.contains(&name.as_str()) && !(class.props)().has_member(name) {
            let known = (class.props)().members();
            let mut known: Vec<&str> = known.iter().map(|member| member.name).collect();
            known.extend(COMMON);
            let text = format!("Property '{}-machine.{name}' not found", class.name);
            return Err(Stop::new(text).hint(format!("Properties: {}", known.join(", "))));
        }
        props.set(name, Value::from(value.as_str()));
    }
    Ok(props)
}

fn config(
    settings: &Settings,
    (serials, flash): (Vec<Option<String>>, [Option<String>; 2]),
) -> MachineConfig {
    let path = |placed: &Option<Placed>| placed.as_ref().map(|placed| placed.value.clone().into());
    MachineConfig {
        ram_size: settings.memory.size,
        cpus: settings.smp.map_or(0, |smp| smp.cpus),
        topology: settings.smp.map(|smp| Topology {
            sockets: smp.sockets,
            clusters: smp.clusters,
            cores: smp.cores,
            threads: smp.threads,
        }),
        clusters_given: settings.smp.is_some_and(|smp| smp.clusters_given),
        cpu_model: settings.cpu.as_ref().map(|cpu| cpu.name.clone()),
        cpu_props: settings.cpu.as_ref().map(|cpu| cpu.props.clone()).unwrap_or_default(),
        boot: BootFiles {
            kernel: path(&settings.kernel),
            initrd: path(&settings.initrd),
            append: settings.append.as_ref().map(|append| append.value.clone()),
            dtb: path(&settings.dtb),
            firmware: path(&settings.bios),
            ..BootFiles::default()
        },
        serials,
        max_cpus: settings.smp.map_or(0, |smp| smp.max),
        ram_slots: settings.memory.slots,
        max_ram: settings.memory.max,
        boot_options: settings.boot_options.clone(),
        smbios: settings.smbios.clone(),
        uuid: settings.uuid,
        firmware_files: settings.firmware_files.clone(),
        flash,
        loaders: settings.loaders.clone(),
        ..MachineConfig::default()
    }
}

fn chosen_accel<'a>(settings: &'a Settings, name: &str) -> Option<&'a Named> {
    settings.accels.iter().find(|accel| accel.name == name)
}

fn accel_options(settings: &Settings, name: &str) -> Vec<(String, String)> {
    let props = chosen_accel(settings, name).map(|accel| accel.props.clone());
    let mut props = props.unwrap_or_default();
    for (on, option) in [(settings.perfmap, "x-perfmap"), (settings.jitdump, "x-jitdump")] {
        if on && name == "tcg" {
            props.push((option.into(), "on".into()));
        }
    }
    props
}
