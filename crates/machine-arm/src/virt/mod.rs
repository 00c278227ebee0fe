//! Machine `virt`: the generic Arm board that exists only in emulators.
//!
//! Addresses, interrupts and device tree are QEMU 10.0's. Absent until they are
//! built: flash, PCI, ITS, GICv2m, the PMU node and
//! everything that `secure=on` adds besides EL3; the test against the peer's
//! device tree lists the differences by name.

mod map;
mod pci;
mod tree;

use std::path::Path;
use std::sync::Arc;

use accel::{Boot, FirmwareCalls};
use cpu::SystemRegisters;
use derive::Qapi;
use device::{FirmwareConfig, IrqController};
use firmware::{Fdt, Kernel, arm64};
use machine::{Board, MachineClass, MachineType};
use qapi::Value;

/// The class for the catalog.
pub static CLASS: MachineClass = MachineClass::of::<Virt>();

/// Properties of `virt`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Set GIC version. Valid values are 2, 3 and max
    #[qapi(name = "gic-version", default = "2")]
    pub gic_version: String,
    /// Set on/off to enable/disable the ARM Security Extensions (TrustZone)
    #[qapi(default = "off")]
    pub secure: bool,
    /// Set on/off to enable/disable emulating a guest CPU which implements the ARM Virtualization Extensions
    #[qapi(default = "off")]
    pub virtualization: bool,
    /// Set off to disable passing random or non-deterministic dtb nodes to guest
    #[qapi(name = "dtb-randomness", default = "on")]
    pub dtb_randomness: bool,
    /// Deprecated synonym of dtb-randomness
    #[qapi(name = "dtb-kaslr-seed")]
    pub dtb_kaslr_seed: Option<bool>,
    /// Set on/off to enable/disable using physical address space above 32 bits
    #[qapi(default = "on")]
    pub highmem: bool,
    /// Set on/off to enable/disable ITS instantiation
    #[qapi(default = "on")]
    pub its: bool,
    /// Enable ACPI
    #[qapi(default = "auto")]
    pub acpi: String,
    /// Set the IOMMU type. Valid values are none
    #[qapi(default = "none")]
    pub iommu: String,
    /// Set on/off to enable/disable usb
    #[qapi(default = "off")]
    pub usb: bool,
    /// Enable/disable memory merge support
    #[qapi(name = "mem-merge", default = "on")]
    pub mem_merge: bool,
    /// Include guest memory in a core dump
    #[qapi(name = "dump-guest-core", default = "on")]
    pub dump_guest_core: bool,
    /// Overrides the "compatible" property of the dt root node
    #[qapi(name = "dt-compatible")]
    pub dt_compatible: Option<String>,
}

/// Which interrupt controller the board has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gic {
    V2,
    V3,
}

/// What the steps of creation share.
pub(super) struct Plan {
    props: Props,
    gic: Gic,
    ids: Vec<u64>,
    calls: FirmwareCalls,
}

struct Virt;

impl MachineType for Virt {
    const NAME: &'static str = "virt-10.0";
    const ALIAS: Option<&'static str> = Some("virt");
    const SUMMARY: &'static str = "QEMU 10.0 ARM Virtual Machine";
    const ARCH: Option<&'static str> = Some("aarch64");
    const DEFAULT_CPU: Option<&'static str> = Some("cortex-a57");
    const MAX_CPUS: u32 = 512;
    type Props = Props;

    fn create(props: Props, board: &mut Board<'_>) -> qapi::Result<()> {
        let plan = Plan::new(props, board)?;
        board.create_cpus(
            plan.ids.clone(),
            plan.props.virtualization,
            plan.props.secure,
            plan.calls,
        )?;
        board.ram("mach-virt.ram", map::RAM, board.config.ram_size)?;
        let irqs = create_gic(&plan, board)?;
        for slot in map::SLOTS {
            if board.knows(slot.class) {
                let props = slot_props(slot.name, board);
                board.place(slot, props, &*irqs)?;
            }
        }
        pci::create(&plan, board, &*irqs)?;
        power_key(board)?;
        virtio(board, &*irqs)?;
        fill_fw_cfg(board);
        prepare_boot(&plan, board)
    }
}

impl Plan {
    fn new(props: Props, board: &Board<'_>) -> qapi::Result<Plan> {
        let cpus = board.config.cpus;
        let gic = match props.gic_version.as_str() {
            "2" => Gic::V2,
            "3" | "max" => Gic::V3,
            other => {
                return Err(qapi::Error::generic(format!("Invalid gic-version value '{other}'"))
                    .with_hint("Valid values are 2, 3 and max."));
            }
        };
        let (limit, cluster) = match gic {
            Gic::V2 => (8, 8),
            Gic::V3 => (map::GIC_REDIST_SIZE / map::GIC_REDIST_STRIDE, 16),
        };
        if u64::from(cpus) > limit {
            return Err(qapi::Error::generic(format!(
                "Number of SMP CPUs requested ({cpus}) exceeds max CPUs supported by machine \
                 'mach-virt' ({limit})"
            )));
        }
        for (name, wrong, right) in [
            ("iommu", props.iommu != "none", "none"),
            ("usb", props.usb, "off"),
            ("acpi", props.acpi == "on", "off or auto"),
        ] {
            if wrong {
                return Err(qapi::Error::generic(format!(
                    "virt: only {name}={right} is supported yet"
                )));
            }
        }
        let calls = match (props.secure, props.virtualization) {
            (true, _) if board.config.boot.kernel.is_none() => FirmwareCalls::None,
            (_, true) => FirmwareCalls::Smc,
            _ => FirmwareCalls::Hvc,
        };
        let id = |i: u64| (i / cluster) << 8 | (i % cluster);
        let ids = (0..u64::from(cpus)).map(id).collect();
        Ok(Plan { props, gic, ids, calls })
    }

    /// Whether there is something that takes MSIs: the ITS or a GICv2m frame.
    fn has_msi(&self) -> bool {
        self.gic == Gic::V2 || self.props.its
    }

    fn randomness(&self) -> bool {
        self.props.dtb_kaslr_seed.unwrap_or(self.props.dtb_randomness)
    }
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
            ("arm_gic", &[map::GIC_DIST, map::GIC_CPU, map::GIC_VIFACE, map::GIC_VCPU][..])
        }
        Gic::V3 => {
            let ids = plan.ids.iter().map(|id| Value::from(*id)).collect();
            props.push(("mpidr", Value::List(ids)));
            ("arm-gicv3", &[map::GIC_DIST, map::GIC_REDIST][..])
        }
    };
    let record = board.device(class, "gic", Value::map(props))?;
    let irqs: Arc<dyn IrqController> = record
        .ability()
        .ok_or_else(|| qapi::Error::generic(format!("'{class}' is no interrupt controller")))?;
    let registers: Option<Arc<dyn SystemRegisters>> = record.ability();
    board.map_banks("gic", banks)?;
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

fn fill_fw_cfg(board: &Board<'_>) {
    let record = board.record(map::FW_CFG.name);
    let Some(fw_cfg) = record.and_then(|r| r.ability::<Arc<dyn FirmwareConfig>>()) else {
        return;
    };
    const NB_CPUS: u16 = 0x05;
    let cpus = u16::try_from(board.config.cpus).unwrap_or(u16::MAX);
    fw_cfg.set_item(NB_CPUS, cpus.to_le_bytes().to_vec());
}

fn read(what: &str, path: &Path) -> qapi::Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        qapi::Error::generic(format!("could not load {what} '{}': {e}", path.display()))
    })
}

fn prepare_boot(plan: &Plan, board: &mut Board<'_>) -> qapi::Result<()> {
    let files = &board.config.boot;
    if files.firmware.is_some() {
        return Err(qapi::Error::generic(
            "firmware images need flash, which this machine does not have yet; use -kernel",
        ));
    }
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
