//! PCI of `virt`: the host bridge with its windows, and the MSI frame of a GICv2.

use std::sync::Arc;

use device::{IrqController, LpiSource, Lpis, Region};
use firmware::{Fdt, Prop};
use machine::Board;
use pci::{Iommu, PciBus};
use qapi::Value;

use super::tree::{EDGE_RISING, LEVEL_HIGH, SPI};
use super::{Gic, Plan, map};

/// Creates what is known to the catalog.
pub(super) fn create(
    plan: &Plan,
    board: &mut Board<'_>,
    irqs: &dyn IrqController,
) -> qapi::Result<()> {
    const FRAME: &str = "arm-gicv2m";
    const HOST: &str = "gpex-pcihost";
    if plan.gic == Gic::V2 && board.knows(FRAME) {
        let props = Value::map([
            ("base-spi", Value::from(u64::from(map::V2M_SPI))),
            ("num-spi", Value::from(u64::from(map::V2M_COUNT))),
        ]);
        let frame = board.device(FRAME, "v2m", props)?;
        for (number, (_, out)) in (map::V2M_SPI..).zip(&frame.irq_outs) {
            out.connect(irqs.shared(), number);
        }
        board.map_banks("v2m", &[map::V2M])?;
    }
    if plan.has_its() {
        its(board)?;
    }
    if !board.knows(HOST) {
        return Ok(());
    }
    let host = board.device(HOST, "gpex", Value::empty())?;
    for (number, (_, out)) in (map::PCI_IRQ..).zip(&host.irq_outs) {
        out.connect(irqs.shared(), number);
    }
    let bus: Option<Arc<PciBus>> = host.ability();
    let [ecam, mmio, io] = host.regions.as_slice() else {
        return Err(qapi::Error::generic(format!("'{HOST}' has not the banks of a PCI host")));
    };
    let window =
        |name, region: &Region, (at, len): (u64, u64)| (at, Region::alias(name, region, at, len));
    let (at, len) = plan.ecam();
    let mut maps = vec![(at, Region::alias("pcie-ecam", ecam, 0, len))];
    maps.push(window("pcie-mmio", mmio, map::PCI_MMIO));
    if let Some(place) = plan.high.mmio {
        maps.push(window("pcie-mmio-high", mmio, place));
    }
    maps.push((map::PCI_PIO.0, io.clone()));
    for (at, region) in maps {
        board.system.map(at, &region, 0);
    }
    match bus.filter(|_| plan.has_iommu()) {
        Some(bus) => iommu(plan, board, irqs, &bus),
        None => Ok(()),
    }
}

/// The SMMU in front of memory.
fn iommu(
    plan: &Plan,
    board: &mut Board<'_>,
    irqs: &dyn IrqController,
    bus: &PciBus,
) -> qapi::Result<()> {
    const CLASS: &str = "arm-smmuv3";
    let both = Value::map([("stage", Value::from("nested"))]);
    let props = if plan.version.nested_iommu { both } else { Value::empty() };
    let smmu = board.device(CLASS, "smmuv3", props)?;
    for (number, (_, out)) in (map::SMMU.2..).zip(&smmu.irq_outs) {
        out.connect(irqs.shared(), number);
    }
    let iommu: Option<Arc<dyn Iommu>> = smmu.ability();
    board.map_banks("smmuv3", &[map::SMMU.0])?;
    if let Some(iommu) = iommu {
        bus.set_iommu(iommu, plan.props.default_bus_bypass_iommu);
    }
    Ok(())
}

/// The SMMU's node.
pub(super) fn iommu_node(t: &mut Fdt, phandle: u32) {
    let (base, len, irq) = map::SMMU;
    let node = format!("/smmuv3@{base:x}");
    t.set(&node, "compatible", Prop::str("arm,smmu-v3"));
    t.set(&node, "reg", Prop::reg(&[base, len]));
    let interrupts = (irq..irq + 4).flat_map(|irq| [SPI, irq, EDGE_RISING]);
    t.set(&node, "interrupts", Prop::Cells(interrupts.collect()));
    t.set(&node, "interrupt-names", Prop::strs(&["eventq", "priq", "cmdq-sync", "gerror"]));
    t.set(&node, "dma-coherent", Prop::Empty);
    t.set(&node, "#iommu-cells", Prop::cell(1));
    t.set(&node, "phandle", Prop::cell(phandle));
}

/// The translation service of a GICv3.
fn its(board: &mut Board<'_>) -> qapi::Result<()> {
    const CLASS: &str = "arm-gicv3-its";
    if !board.knows(CLASS) {
        return Ok(());
    }
    let lpis = board.record("gic").and_then(|gic| gic.ability::<Arc<dyn Lpis>>());
    let service = board.device(CLASS, "its", Value::empty())?;
    if let (Some(lpis), Some(source)) = (lpis, service.ability::<Arc<dyn LpiSource>>()) {
        source.connect(lpis);
    }
    board.map_banks("its", &[map::ITS.0])
}

/// The node of the GICv3's translation service.
pub(super) fn its_node(t: &mut Fdt, phandle: u32) {
    let node = format!("/intc@{:x}/its@{:x}", map::GIC_DIST, map::ITS.0);
    t.set(&node, "compatible", Prop::str("arm,gic-v3-its"));
    t.set(&node, "msi-controller", Prop::Empty);
    t.set(&node, "#msi-cells", Prop::cell(1));
    t.set(&node, "reg", Prop::reg(&[map::ITS.0, map::ITS.1]));
    t.set(&node, "phandle", Prop::cell(phandle));
}

/// The MSI frame's node.
pub(super) fn frame_node(t: &mut Fdt, phandle: u32) {
    let node = format!("/intc@{:x}/v2m@{:x}", map::GIC_DIST, map::V2M);
    t.set(&node, "compatible", Prop::str("arm,gic-v2m-frame"));
    t.set(&node, "msi-controller", Prop::Empty);
    t.set(&node, "reg", Prop::reg(&[map::V2M, map::V2M_SIZE]));
    t.set(&node, "phandle", Prop::cell(phandle));
}

fn cells(value: u64) -> [u32; 2] {
    let half = |v: u64| u32::try_from(v & 0xffff_ffff).unwrap_or(0);
    [half(value >> 32), half(value)]
}

/// The host bridge's node.
pub(super) fn node(t: &mut Fdt, plan: &Plan, gic: u32, (msi, iommu): (Option<u32>, Option<u32>)) {
    let node = format!("/pcie@{:x}", map::PCI_MMIO.0);
    let (ecam, len) = plan.ecam();
    let last_bus = u32::try_from((len >> 20) - 1).unwrap_or(0);
    t.set(&node, "compatible", Prop::str("pci-host-ecam-generic"));
    t.set(&node, "device_type", Prop::str("pci"));
    t.set(&node, "#address-cells", Prop::cell(3));
    t.set(&node, "#size-cells", Prop::cell(2));
    t.set(&node, "linux,pci-domain", Prop::cell(0));
    t.set(&node, "bus-range", Prop::Cells(vec![0, last_bus]));
    t.set(&node, "dma-coherent", Prop::Empty);
    if let Some(msi) = msi {
        t.set(&node, "msi-map", Prop::Cells(vec![0, msi, 0, 0x1_0000]));
    }
    if let Some(iommu) = iommu {
        t.set(&node, "iommu-map", Prop::Cells(vec![0, iommu, 0, 0x1_0000]));
    }
    t.set(&node, "reg", Prop::reg(&[ecam, len]));
    t.set(&node, "ranges", Prop::Cells(ranges(plan)));
    t.set(&node, "#interrupt-cells", Prop::cell(1));
    t.set(&node, "interrupt-map", Prop::Cells(interrupt_map(gic)));
    // Two bits of the device number and the pin decide.
    t.set(&node, "interrupt-map-mask", Prop::Cells(vec![0x1800, 0, 0, 7]));
}

fn ranges(plan: &Plan) -> Vec<u32> {
    // Space codes of the PCI bus binding.
    const IO: u32 = 0x0100_0000;
    const MEM32: u32 = 0x0200_0000;
    const MEM64: u32 = 0x0300_0000;
    let mut out = Vec::new();
    let mut range = |code: u32, pci: u64, (at, len): (u64, u64)| {
        out.push(code);
        out.extend([pci, at, len].into_iter().flat_map(cells));
    };
    range(IO, 0, map::PCI_PIO);
    range(MEM32, map::PCI_MMIO.0, map::PCI_MMIO);
    if let Some(place) = plan.high.mmio {
        range(MEM64, place.0, place);
    }
    out
}

fn interrupt_map(gic: u32) -> Vec<u32> {
    let mut out = Vec::new();
    for slot in 0..4u32 {
        for pin in 0..4u32 {
            let irq = map::PCI_IRQ + (slot + pin) % 4;
            out.extend([slot << 11, 0, 0, pin + 1, gic, 0, 0, SPI, irq, LEVEL_HIGH]);
        }
    }
    out
}
