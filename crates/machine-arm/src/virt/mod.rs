//! Machine `virt`: the generic Arm board that exists only in emulators.
//!
//! Addresses, interrupts, options and device tree are QEMU 10.0's, and so are the
//! older versions' differences that a guest sees. Not built: GICv4, the SMMU, CPU hotplug, NVDIMMs, devices on the platform bus; the tests
//! against the peer's help and device trees list what differs by name.

mod acpi;
mod boot;
mod dsdt;
mod dsdt_memory;
mod dsdt_pci;
mod flash;
mod layout;
mod loader;
mod map;
mod nodes;
mod pci;
mod props;
mod roots;
mod secure;
mod tree;
mod versions;

use std::sync::Arc;

use cpu::SystemRegisters;
use device::IrqController;
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
        let replaced = slot.name == map::GPIO.name && acpi::has_events(&plan, board);
        if board.knows(slot.class) && !replaced {
            let props = slot_props(slot.name, board);
            board.place(slot, props, &*irqs)?;
        }
    }
    if plan.props.secure {
        secure::create(&plan, board, &*irqs)?;
    } else if let Some(Some(id)) = board.config.serials.get(1).cloned()
        && board.knows(map::UART2.class)
    {
        board.place(&map::UART2, Value::map([("chardev", Value::from(id))]), &*irqs)?;
    }
    pci::create(&plan, board, &*irqs)?;
    acpi::create_events(&plan, board, &*irqs)?;
    power_key(board)?;
    virtio(board, &*irqs)?;
    boot::fill_fw_cfg(&plan, board)?;
    boot::prepare(&plan, board)?;
    loader::load(board)
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
        ("irq-reset-nonsecure", Value::from(boot::is_direct(plan, board))),
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
