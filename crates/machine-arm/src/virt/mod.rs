//! Machine `virt`: the generic Arm board that exists only in emulators.
//!
//! Addresses, interrupts, options and device tree are QEMU 10.0's, and so are the
//! older versions' differences that a guest sees. Not built: GICv4, the SMMU, ACPI
//! tables, memory and CPU hotplug, NVDIMMs, devices on the platform bus; the tests
//! against the peer's help and device trees list what differs by name.

mod flash;
mod layout;
mod map;
mod pci;
mod props;
mod secure;
mod tree;
mod versions;

use std::path::Path;
use std::sync::Arc;

use accel::{Boot, FirmwareCalls};
use cpu::SystemRegisters;
use device::{FirmwareConfig, IrqController};
use firmware::{Fdt, Kernel, arm64};
use machine::{Board, MachineClass};
use qapi::Value;

use layout::{Gic, Plan};
use versions::Version;

pub use props::{OnOffAuto, Props};
pub use versions::CLASSES;

/// The class of the newest version.
pub static CLASS: &MachineClass = &CLASSES[0];

/// Creates a version of the machine.
fn create(version: Version, props: Props, board: &mut Board<'_>) -> qapi::Result<()> {
    let mut plan = Plan::new(version, props, board)?;
    board.create_cpus(
        plan.ids.clone(),
        plan.props.virtualization,
        plan.props.secure,
        plan.calls,
    )?;
    let bits = board.cpu_handles().first().map_or(40, |cpu| cpu.address_bits());
    plan.place_high(board, bits)?;
    if plan.props.secure {
        board.add_secure_space();
    }
    board.ram("mach-virt.ram", map::RAM, board.config.ram_size)?;
    flash::create(&plan, board)?;
    let irqs = create_gic(&plan, board)?;
    for slot in map::SLOTS {
        if board.knows(slot.class) {
            let props = slot_props(slot.name, board);
            board.place(slot, props, &*irqs)?;
        }
    }
    if plan.props.secure {
        secure::create(&plan, board, &*irqs)?;
    }
    pci::create(&plan, board, &*irqs)?;
    power_key(board)?;
    virtio(board, &*irqs)?;
    fill_fw_cfg(board)?;
    prepare_boot(&plan, board)
}

fn slot_props(name: &str, board: &Board<'_>) -> Value {
    let serial = board.config.serials.first().cloned().flatten();
    if name == map::GPIO.name {
        return Value::map([("pullups", Value::from(0u64)), ("pulldowns", Value::from(0xffu64))]);
    }
    match serial {
        Some(id) if name == map::UART.name => Value::map([("chardev", Value::from(id))]),
        _ => Value::empty(),
    }
}

fn create_gic(plan: &Plan, board: &mut Board<'_>) -> qapi::Result<Arc<dyn IrqController>> {
    let count = Value::from(u64::from(map::SHARED_IRQS + 32));
    let mut props = vec![
        ("num-cpu", Value::from(plan.ids.len() as u64)),
        ("num-irq", count),
        ("has-security-extensions", Value::from(plan.props.secure)),
    ];
    let (class, banks) = match plan.gic {
        Gic::V2 => {
            props.push(("has-virtualization-extensions", plan.props.virtualization.into()));
            ("arm_gic", vec![map::GIC_DIST, map::GIC_CPU, map::GIC_VIFACE, map::GIC_VCPU])
        }
        Gic::V3 => {
            let ids = plan.ids.iter().map(|id| Value::from(*id)).collect();
            props.push(("mpidr", Value::List(ids)));
            props.push(("has-lpi", Value::from(plan.has_its())));
            let first = map::GIC_REDIST_SIZE / map::GIC_REDIST_STRIDE;
            let cpus = plan.ids.len() as u64;
            let mut counts = vec![Value::from(cpus.min(first))];
            let mut banks = vec![map::GIC_DIST, map::GIC_REDIST];
            if let Some((base, _)) = plan.high.redists.filter(|_| cpus > first) {
                counts.push(Value::from(cpus - first));
                banks.push(base);
            }
            props.push(("redist-region-count", Value::List(counts)));
            ("arm-gicv3", banks)
        }
    };
    let record = board.device(class, "gic", Value::map(props))?;
    let irqs: Arc<dyn IrqController> = record
        .ability()
        .ok_or_else(|| qapi::Error::generic(format!("'{class}' is no interrupt controller")))?;
    let registers: Option<Arc<dyn SystemRegisters>> = record.ability();
    board.map_banks("gic", &banks)?;
    for (index, cpu) in (0u32..).zip(board.cpu_handles()) {
        irqs.connect_cpu(index, cpu.input());
        if let Some(registers) = &registers {
            cpu.attach_system_registers(registers.clone());
        }
        let Some(private) = irqs.private(index) else { continue };
        for (name, intid) in map::TIMERS {
            if let Some(out) = cpu.output(name) {
                out.connect(private.clone(), *intid);
            }
        }
    }
    Ok(irqs)
}

/// The virtio transports; the last one made is the first that `-device` fills.
fn virtio(board: &mut Board<'_>, irqs: &dyn IrqController) -> qapi::Result<()> {
    const CLASS: &str = "virtio-mmio";
    if !board.knows(CLASS) {
        return Ok(());
    }
    for number in 0..map::VIRTIO_COUNT {
        let id = format!("{CLASS}.{number}");
        let record = board.device(CLASS, &id, Value::empty())?;
        if let Some(out) = record.irq_out("irq0") {
            out.connect(irqs.shared(), map::VIRTIO_IRQ + number);
        }
        board.map_banks(&id, &[map::VIRTIO + u64::from(number) * map::VIRTIO_SIZE])?;
    }
    Ok(())
}

/// Puts the power key on its GPIO line.
fn power_key(board: &mut Board<'_>) -> qapi::Result<()> {
    const KEY: &str = "gpio-key";
    let Some(line) = board.record(map::GPIO.name).and_then(|r| r.irq_in("gpio")).cloned() else {
        return Ok(());
    };
    if !board.knows(KEY) {
        return Ok(());
    }
    let key = board.device(KEY, KEY, Value::empty())?;
    if let Some(out) = key.irq_out("irq0") {
        out.connect(line.sink, map::POWER_LINE);
    }
    if let Some(button) = key.irq_in("key").cloned() {
        board.set_powerdown(Box::new(move || button.sink.set(0, true)));
    }
    Ok(())
}

fn fw_cfg(board: &Board<'_>) -> Option<Arc<dyn FirmwareConfig>> {
    board.record(map::FW_CFG.name)?.ability()
}

fn fill_fw_cfg(board: &Board<'_>) -> qapi::Result<()> {
    let Some(fw_cfg) = fw_cfg(board) else { return Ok(()) };
    const NB_CPUS: u16 = 0x05;
    let cpus = u16::try_from(board.config.cpus).unwrap_or(u16::MAX);
    fw_cfg.set_item(NB_CPUS, cpus.to_le_bytes().to_vec());
    for (name, data) in &board.config.firmware_files {
        fw_cfg.set_file(name, data.clone())?;
    }
    Ok(())
}

fn read(what: &str, path: &Path) -> qapi::Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        qapi::Error::generic(format!("could not load {what} '{}': {e}", path.display()))
    })
}

fn prepare_boot(plan: &Plan, board: &mut Board<'_>) -> qapi::Result<()> {
    let files = &board.config.boot;
    let layout = match &files.kernel {
        None => arm64::without_kernel(map::RAM),
        Some(path) => {
            let shown = path.display();
            let wrong = |e| qapi::Error::generic(format!("could not load kernel '{shown}': {e}"));
            let kernel = Kernel::parse(read("kernel", path)?).map_err(wrong)?;
            let initrd = files.initrd.as_deref().map(|p| read("initrd", p)).transpose()?;
            let misfit = |e| match &files.initrd {
                None => wrong(e),
                Some(initrd) => qapi::Error::generic(format!(
                    "could not load kernel '{shown}' with initrd '{}': {e}",
                    initrd.display()
                )),
            };
            arm64::plan(kernel, initrd, map::RAM, board.config.ram_size).map_err(misfit)?
        }
    };
    let mut fdt = match &files.dtb {
        Some(path) => Fdt::parse(&read("dtb", path)?).map_err(|e| {
            qapi::Error::generic(format!("Couldn't open dtb file {}: {e}", path.display()))
        })?,
        None => tree::build(plan, board),
    };
    tree::add_boot(&mut fdt, plan, board, layout.initrd)?;
    let dtb = fdt.to_bytes();
    if dtb.len() as u64 > arm64::FDT_SIZE {
        return Err(qapi::Error::generic("the device tree is larger than 1 MiB"));
    }
    let as_kernel = board.config.boot.kernel.is_some();
    if let Some(at) = layout.fdt {
        board.load(at, dtb.clone());
    }
    for blob in layout.blobs {
        board.load(blob.address, blob.data);
    }
    board.set_dtb(dtb);
    let first = Boot { pc: layout.entry, arg: 0, as_kernel, powered_off: false };
    let others = Boot { powered_off: plan.calls != FirmwareCalls::None, ..first };
    let boot = (0..board.config.cpus).map(|i| if i == 0 { first } else { others });
    board.set_boot(boot.collect());
    Ok(())
}
