//! `query-pci`.

use std::sync::Arc;

use derive::Qapi;
use pci::{BridgeInfo, FunctionInfo, PciBus, RegionInfo};
use qapi::Result;

use super::QmpCommand;
use crate::Vm;

/// A region of a function.
#[derive(Qapi)]
pub(super) struct PciMemoryRegion {
    /// Number of its base address register.
    bar: i64,
    /// `io` or `memory`.
    r#type: String,
    /// Where it is; -1 when it is not mapped.
    address: i64,
    /// Bytes.
    size: i64,
    /// Prefetchable memory.
    prefetch: Option<bool>,
    /// 64-bit memory.
    #[qapi(name = "mem_type_64")]
    wide: Option<bool>,
}

/// The kind of a function.
#[derive(Qapi)]
pub(super) struct PciDeviceClass {
    /// In words, where there are some.
    desc: Option<String>,
    /// Base class and subclass.
    class: i64,
}

/// Who a function says it is.
#[derive(Qapi)]
pub(super) struct PciDeviceId {
    /// Device.
    device: i64,
    /// Vendor.
    vendor: i64,
    /// Subsystem device.
    subsystem: Option<i64>,
    /// Subsystem vendor.
    subsystem_vendor: Option<i64>,
}

/// A function.
#[derive(Qapi)]
pub(super) struct PciDeviceInfo {
    /// Number of its bus.
    bus: i64,
    /// Device number.
    slot: i64,
    /// Function number.
    function: i64,
    /// Its kind.
    #[qapi(name = "class_info")]
    class_info: PciDeviceClass,
    /// Who it is.
    id: PciDeviceId,
    /// Interrupt line that the guest noted.
    irq: Option<i64>,
    /// Interrupt pin; 0: none.
    #[qapi(name = "irq_pin")]
    irq_pin: i64,
    /// Id of the device.
    #[qapi(name = "qdev_id")]
    qdev_id: String,
    /// What is behind a bridge.
    #[qapi(name = "pci_bridge")]
    pci_bridge: Option<PciBridgeInfo>,
    /// Its regions.
    regions: Vec<PciMemoryRegion>,
}

/// First and last address of a window.
#[derive(Qapi)]
pub(super) struct PciMemoryRange {
    /// First.
    base: i64,
    /// Last.
    limit: i64,
}

/// The bus behind a bridge.
#[derive(Qapi)]
pub(super) struct PciBusInfo {
    /// Number of the bridge's own bus.
    number: i64,
    /// Number of the bus behind it.
    secondary: i64,
    /// Last number behind it.
    subordinate: i64,
    /// I/O window.
    #[qapi(name = "io_range")]
    io_range: PciMemoryRange,
    /// Memory window.
    #[qapi(name = "memory_range")]
    memory_range: PciMemoryRange,
    /// Window of prefetchable memory.
    #[qapi(name = "prefetchable_range")]
    prefetchable_range: PciMemoryRange,
}

/// A bridge.
#[derive(Qapi)]
pub(super) struct PciBridgeInfo {
    /// Its bus.
    bus: PciBusInfo,
    /// The functions there.
    devices: Option<Vec<PciDeviceInfo>>,
}

/// A bus.
#[derive(Qapi)]
pub(super) struct PciInfo {
    /// Its number.
    bus: i64,
    /// Its functions.
    devices: Vec<PciDeviceInfo>,
}

/// The root buses with their functions, the newest first; if there are any.
pub fn pci_buses(vm: &Vm) -> Option<Vec<(u8, Vec<FunctionInfo>)>> {
    let all = vm.machine()?.devices.all();
    let bus = all.iter().find_map(|record| record.ability::<Arc<PciBus>>())?;
    let mut buses: Vec<_> = bus.expanders().iter().map(|b| (b.number(), b.list())).collect();
    buses.push((0, bus.list()));
    Some(buses)
}

/// The words for a class that has some.
pub fn pci_class_name(class: u16) -> Option<&'static str> {
    Some(match class {
        0x0100 => "SCSI controller",
        0x0200 => "Ethernet controller",
        0x0600 => "Host bridge",
        0x0604 => "PCI bridge",
        0x0c03 => "USB controller",
        _ => return None,
    })
}

fn region(info: RegionInfo) -> PciMemoryRegion {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    PciMemoryRegion {
        bar: info.bar.into(),
        r#type: if info.io { "io" } else { "memory" }.to_owned(),
        address: info.address.map_or(-1, number),
        size: number(info.size),
        prefetch: (!info.io).then_some(info.prefetch),
        wide: (!info.io).then_some(info.wide),
    }
}

fn range((base, limit): (u64, u64)) -> PciMemoryRange {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    PciMemoryRange { base: number(base), limit: number(limit) }
}

fn bridge(info: BridgeInfo) -> PciBridgeInfo {
    let [primary, secondary, last] = info.numbers;
    let [io, memory, prefetch] = info.windows;
    let inner = |f| device(secondary, f);
    let devices = info.functions.into_iter().map(inner).collect();
    PciBridgeInfo {
        bus: PciBusInfo {
            number: primary.into(),
            secondary: secondary.into(),
            subordinate: last.into(),
            io_range: range(io),
            memory_range: range(memory),
            prefetchable_range: range(prefetch),
        },
        devices: (secondary != 0).then_some(devices),
    }
}

fn device(bus: u8, info: FunctionInfo) -> PciDeviceInfo {
    let desc = pci_class_name(info.class).map(str::to_owned);
    PciDeviceInfo {
        bus: bus.into(),
        slot: info.slot.into(),
        function: info.function.into(),
        class_info: PciDeviceClass { desc, class: info.class.into() },
        id: PciDeviceId {
            device: info.id.1.into(),
            vendor: info.id.0.into(),
            // Bridges have something else there.
            subsystem: info.bridge.is_none().then_some(info.subsystem.1.into()),
            subsystem_vendor: info.bridge.is_none().then_some(info.subsystem.0.into()),
        },
        irq: (info.irq.1 > 0).then_some(info.irq.0.into()),
        irq_pin: info.irq.1.into(),
        qdev_id: info.name,
        pci_bridge: info.bridge.map(bridge),
        regions: info.regions.into_iter().map(region).collect(),
    }
}

/// List the functions on PCI buses.
#[derive(Qapi)]
pub(super) struct QueryPci;

impl QmpCommand for QueryPci {
    const NAME: &'static str = "query-pci";
    type Returns = Vec<PciInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<PciInfo>> {
        let bus = |(number, functions): (u8, Vec<FunctionInfo>)| PciInfo {
            bus: number.into(),
            devices: functions.into_iter().map(|f| device(number, f)).collect(),
        };
        Ok(pci_buses(vm).unwrap_or_default().into_iter().map(bus).collect())
    }
}
