//! The device tree of `virt`, from the plan and what was created.

use accel::FirmwareCalls;
use firmware::{Fdt, Prop};
use machine::{Board, Slot};

use super::{Gic, Plan, map};

// Cells of an interrupt specifier (arm,gic.yaml).
pub(super) const SPI: u32 = 0;
const PPI: u32 = 1;
pub(super) const EDGE_RISING: u32 = 1;
pub(super) const LEVEL_HIGH: u32 = 4;

/// First phandle; later ones count up.
const CLOCK: u32 = 0x8000;

fn address(base: u64, name: &str) -> String {
    format!("/{name}@{base:x}")
}

fn spi(irq: u32) -> Prop {
    Prop::Cells(vec![SPI, irq, LEVEL_HIGH])
}

/// Builds the tree but for what booting adds.
pub(super) fn build(plan: &Plan, board: &Board<'_>) -> Fdt {
    let mut t = Fdt::new();
    let cpus = if plan.version.topology { plan.ids.len() } else { 0 };
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let gic = CLOCK.wrapping_add(cpus).wrapping_add(1);
    let msi = plan.has_msi().then(|| gic.wrapping_add(1));
    let iommu = plan.has_iommu().then(|| msi.unwrap_or(gic).wrapping_add(1));
    let gpio = iommu.or(msi).unwrap_or(gic).wrapping_add(1);
    root(&mut t, gic);
    clock(&mut t);
    timer(&mut t, plan);
    cpu_nodes(&mut t, plan, board);
    if plan.version.pmu && board.cpu_handles().iter().any(|cpu| cpu.output("pmu").is_some()) {
        pmu(&mut t, plan);
    }
    interrupt_controller(&mut t, plan, gic);
    if board.record(map::UART.name).is_some() {
        uart(&mut t, &map::UART);
    }
    if !plan.props.secure && board.record(map::UART2.name).is_some() {
        let node = primecell(&mut t, &map::UART2, "pl011", &["uartclk", "apb_pclk"]);
        t.set("/aliases", "serial1", Prop::str(&node));
    }
    if board.record(map::RTC.name).is_some() {
        rtc(&mut t, &map::RTC);
    }
    if board.record(map::GPIO.name).is_some() {
        pl061(&mut t, &map::GPIO, gpio);
    }
    if let Some(v2m) = msi.filter(|_| board.record("v2m").is_some()) {
        super::pci::frame_node(&mut t, v2m);
    }
    if let Some(its) = msi.filter(|_| plan.has_its()) {
        super::pci::its_node(&mut t, its);
    }
    if board.record("gpex").is_some() {
        super::pci::node(&mut t, plan, gic, (msi, iommu));
    }
    if let Some(iommu) = iommu {
        super::pci::iommu_node(&mut t, iommu);
    }
    super::flash::nodes(&mut t, plan);
    if plan.props.secure {
        super::secure::nodes(&mut t, board, gpio.wrapping_add(1));
    }
    platform_bus(&mut t, gic);
    if board.record("virtio-mmio.0").is_some() {
        virtio(&mut t);
    }
    if board.record(map::FW_CFG.name).is_some() {
        fw_cfg(&mut t, &map::FW_CFG);
    }
    t
}

fn root(t: &mut Fdt, gic: u32) {
    t.set("/", "interrupt-parent", Prop::cell(gic));
    t.set("/", "dma-coherent", Prop::Empty);
    t.set("/", "model", Prop::str("linux,dummy-virt"));
    t.set("/", "#size-cells", Prop::cell(2));
    t.set("/", "#address-cells", Prop::cell(2));
    // `dt-compatible` is accepted and, as in the peer, changes nothing on this board.
    t.set("/", "compatible", Prop::str("linux,dummy-virt"));
}

fn platform_bus(t: &mut Fdt, gic: u32) {
    let (base, size) = map::PLATFORM;
    let node = address(base, "platform-bus");
    let half = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
    t.set(&node, "compatible", Prop::strs(&["qemu,platform", "simple-bus"]));
    t.set(&node, "#size-cells", Prop::cell(1));
    t.set(&node, "#address-cells", Prop::cell(1));
    t.set(&node, "ranges", Prop::Cells(vec![0, 0, half(base), half(size)]));
    t.set(&node, "interrupt-parent", Prop::cell(gic));
}

fn clock(t: &mut Fdt) {
    let node = "/apb-pclk";
    t.set(node, "compatible", Prop::str("fixed-clock"));
    t.set(node, "#clock-cells", Prop::cell(0));
    t.set(node, "clock-frequency", Prop::cell(24_000_000));
    t.set(node, "clock-output-names", Prop::str("clk24mhz"));
    t.set(node, "phandle", Prop::cell(CLOCK));
}

/// Flags of a private interrupt; GICv2 specifiers name the CPUs in bits 8 to 15.
fn private_flags(plan: &Plan) -> u32 {
    private_trigger(plan, LEVEL_HIGH)
}

fn private_trigger(plan: &Plan, trigger: u32) -> u32 {
    match plan.gic {
        Gic::V2 => trigger | ((1u32 << plan.ids.len().min(8)) - 1) << 8,
        Gic::V3 => trigger,
    }
}

fn pmu(t: &mut Fdt, plan: &Plan) {
    let cells = vec![PPI, map::PMU - 16, private_flags(plan)];
    t.set("/pmu", "interrupts", Prop::Cells(cells));
    t.set("/pmu", "compatible", Prop::str("arm,armv8-pmuv3"));
}

fn timer(t: &mut Fdt, plan: &Plan) {
    let trigger = if plan.version.timer_level { LEVEL_HIGH } else { EDGE_RISING };
    let flags = private_trigger(plan, trigger);
    // Secure and non-secure physical, virtual, hypervisor; 16 is the first PPI.
    let cells = ["cntps", "cntp", "cntv", "cnthp"].iter().flat_map(|name| {
        let intid = map::TIMERS.iter().find(|(n, _)| n == name).map_or(16, |(_, i)| *i);
        [PPI, intid - 16, flags]
    });
    t.set("/timer", "interrupts", Prop::Cells(cells.collect()));
    t.set("/timer", "always-on", Prop::Empty);
    t.set("/timer", "compatible", Prop::strs(&["arm,armv8-timer", "arm,armv7-timer"]));
}

fn cpu_nodes(t: &mut Fdt, plan: &Plan, board: &Board<'_>) {
    t.set("/cpus", "#address-cells", Prop::cell(1));
    t.set("/cpus", "#size-cells", Prop::cell(0));
    let handles = board.cpu_handles();
    let phandle = |index: usize| {
        let left = plan.ids.len().saturating_sub(index);
        CLOCK.wrapping_add(u32::try_from(left).unwrap_or(0))
    };
    for (index, id) in plan.ids.iter().enumerate() {
        let node = format!("/cpus/cpu@{index}");
        let compatible = handles.get(index).map_or("arm,armv8", |h| h.model().compatible);
        t.set(&node, "device_type", Prop::str("cpu"));
        t.set(&node, "compatible", Prop::str(compatible));
        if plan.calls != FirmwareCalls::None && plan.ids.len() > 1 {
            t.set(&node, "enable-method", Prop::str("psci"));
        }
        t.set(&node, "reg", Prop::cell(u32::try_from(*id).unwrap_or(0)));
        if let Some(id) = super::nodes::of_cpu(board, index) {
            t.set(&node, "numa-node-id", Prop::cell(id));
        }
        if plan.version.topology {
            t.set(&node, "phandle", Prop::cell(phandle(index)));
        }
    }
    if !plan.version.topology {
        return;
    }
    let shape = board.config.topology();
    for index in 0..plan.ids.len() {
        let i = u32::try_from(index).unwrap_or(0);
        let thread = i % shape.threads;
        let core = i / shape.threads % shape.cores;
        let cluster = i / shape.threads / shape.cores % shape.clusters;
        let socket = i / shape.threads / shape.cores / shape.clusters;
        let mut node = format!("/cpus/cpu-map/socket{socket}/cluster{cluster}/core{core}");
        if shape.threads > 1 {
            node = format!("{node}/thread{thread}");
        }
        t.set(&node, "cpu", Prop::cell(phandle(index)));
    }
}

fn interrupt_controller(t: &mut Fdt, plan: &Plan, phandle: u32) {
    let node = address(map::GIC_DIST, "intc");
    t.set(&node, "phandle", Prop::cell(phandle));
    t.set(&node, "#interrupt-cells", Prop::cell(3));
    t.set(&node, "interrupt-controller", Prop::Empty);
    t.set(&node, "#address-cells", Prop::cell(2));
    t.set(&node, "#size-cells", Prop::cell(2));
    t.set(&node, "ranges", Prop::Empty);
    if plan.props.virtualization {
        let cells = vec![PPI, map::MAINTENANCE - 16, LEVEL_HIGH];
        t.set(&node, "interrupts", Prop::Cells(cells));
    }
    match plan.gic {
        Gic::V2 => {
            t.set(&node, "compatible", Prop::str("arm,cortex-a15-gic"));
            let mut frames = vec![map::GIC_DIST, map::GIC_CPU];
            if plan.props.virtualization {
                frames.extend([map::GIC_VIFACE, map::GIC_VCPU]);
            }
            let reg: Vec<u64> = frames.iter().flat_map(|f| [*f, map::GIC_FRAME]).collect();
            t.set(&node, "reg", Prop::reg(&reg));
        }
        Gic::V3 => {
            t.set(&node, "compatible", Prop::str("arm,gic-v3"));
            let regions = if plan.redist_regions() > 1 { 2 } else { 1 };
            t.set(&node, "#redistributor-regions", Prop::cell(regions));
            let mut reg = vec![map::GIC_DIST, map::GIC_FRAME];
            reg.extend([map::GIC_REDIST, map::GIC_REDIST_SIZE]);
            if let Some((base, len)) = plan.high.redists.filter(|_| regions > 1) {
                reg.extend([base, len]);
            }
            t.set(&node, "reg", Prop::reg(&reg));
        }
    }
}

pub(super) fn primecell(t: &mut Fdt, slot: &Slot, kind: &str, clocks: &[&str]) -> String {
    let node = address(slot.base, kind);
    let compatible = format!("arm,{kind}");
    t.set(&node, "compatible", Prop::strs(&[&compatible, "arm,primecell"]));
    t.set(&node, "reg", Prop::reg(&[slot.base, slot.size]));
    if let Some(irq) = slot.irq {
        t.set(&node, "interrupts", spi(irq));
    }
    t.set(&node, "clocks", Prop::Cells(vec![CLOCK; clocks.len()]));
    t.set(&node, "clock-names", Prop::strs(clocks));
    node
}

fn uart(t: &mut Fdt, slot: &Slot) {
    let node = primecell(t, slot, "pl011", &["uartclk", "apb_pclk"]);
    t.set("/aliases", "serial0", Prop::str(&node));
    t.set("/chosen", "stdout-path", Prop::str(&node));
}

fn rtc(t: &mut Fdt, slot: &Slot) {
    primecell(t, slot, "pl031", &["apb_pclk"]);
}

fn pl061(t: &mut Fdt, slot: &Slot, phandle: u32) {
    const KEY_POWER: u32 = 116;
    let node = primecell(t, slot, "pl061", &["apb_pclk"]);
    t.set(&node, "#gpio-cells", Prop::cell(2));
    t.set(&node, "gpio-controller", Prop::Empty);
    t.set(&node, "phandle", Prop::cell(phandle));
    t.set("/gpio-keys", "compatible", Prop::str("gpio-keys"));
    let key = "/gpio-keys/poweroff";
    t.set(key, "label", Prop::str("GPIO Key Poweroff"));
    t.set(key, "linux,code", Prop::cell(KEY_POWER));
    t.set(key, "gpios", Prop::Cells(vec![phandle, map::POWER_LINE, 0]));
}

fn virtio(t: &mut Fdt) {
    for number in 0..map::VIRTIO_COUNT {
        let base = map::VIRTIO + u64::from(number) * map::VIRTIO_SIZE;
        let node = address(base, "virtio_mmio");
        t.set(&node, "compatible", Prop::str("virtio,mmio"));
        t.set(&node, "reg", Prop::reg(&[base, map::VIRTIO_SIZE]));
        let interrupt = vec![SPI, map::VIRTIO_IRQ + number, EDGE_RISING];
        t.set(&node, "interrupts", Prop::Cells(interrupt));
        t.set(&node, "dma-coherent", Prop::Empty);
    }
}

fn fw_cfg(t: &mut Fdt, slot: &Slot) {
    let node = address(slot.base, "fw-cfg");
    t.set(&node, "compatible", Prop::str("qemu,fw-cfg-mmio"));
    t.set(&node, "reg", Prop::reg(&[slot.base, slot.size]));
    t.set(&node, "dma-coherent", Prop::Empty);
}

fn psci(t: &mut Fdt, plan: &Plan) {
    let method = match plan.calls {
        FirmwareCalls::None => return,
        FirmwareCalls::Hvc => "hvc",
        FirmwareCalls::Smc => "smc",
    };
    let node = "/psci";
    t.set(node, "compatible", Prop::strs(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]));
    t.set(node, "method", Prop::str(method));
    // Function ids for guests that know only PSCI 0.1.
    t.set(node, "cpu_suspend", Prop::cell(0xc400_0001));
    t.set(node, "cpu_off", Prop::cell(0x8400_0002));
    t.set(node, "cpu_on", Prop::cell(0xc400_0003));
    t.set(node, "migrate", Prop::cell(0xc400_0005));
}

/// Adds what depends on this boot, to our tree or to one the user gave.
pub(super) fn add_boot(
    t: &mut Fdt,
    plan: &Plan,
    board: &Board<'_>,
    initrd: Option<(u64, u64)>,
) -> qapi::Result<()> {
    let mut ranges = super::nodes::ranges(board);
    let in_nodes = !ranges.is_empty();
    if !in_nodes {
        ranges.push((0, map::RAM, board.config.ram_size));
    }
    for (id, base, len) in ranges {
        let memory = address(base, "memory");
        t.set(&memory, "device_type", Prop::str("memory"));
        t.set(&memory, "reg", Prop::reg(&[base, len]));
        if in_nodes {
            t.set(&memory, "numa-node-id", Prop::cell(id.into()));
        }
    }
    super::nodes::distance_map(t, board);
    psci(t, plan);
    t.node("/chosen");
    if let Some(append) = &board.config.boot.append {
        t.set("/chosen", "bootargs", Prop::str(append));
    }
    if let Some((start, end)) = initrd {
        t.set("/chosen", "linux,initrd-start", Prop::U64(start));
        t.set("/chosen", "linux,initrd-end", Prop::U64(end));
    }
    if plan.randomness() {
        for (name, len) in [("kaslr-seed", 8), ("rng-seed", 32)] {
            for node in ["/chosen", "/secure-chosen"] {
                if node == "/secure-chosen" && !plan.props.secure {
                    continue;
                }
                let mut seed = vec![0; len];
                host::fill_random(&mut seed)
                    .map_err(|e| qapi::Error::generic(format!("no random bytes: {e}")))?;
                t.set(node, name, Prop::Bytes(seed));
            }
        }
    }
    Ok(())
}
