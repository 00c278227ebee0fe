//! `query-pci`.

use std::sync::Arc;

use derive::Qapi;
use pci::{FunctionInfo, PciBus, RegionInfo};
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
    /// Its regions.
    regions: Vec<PciMemoryRegion>,
}

/// A bus.
#[derive(Qapi)]
pub(super) struct PciInfo {
    /// Its number.
    bus: i64,
    /// Its functions.
    devices: Vec<PciDeviceInfo>,
}

/// The functions of the machine's root bus, if it has one.
pub fn pci_functions(vm: &Vm) -> Option<Vec<FunctionInfo>> {
    let all = vm.machine()?.devices.all();
    let bus = all.iter().find_map(|record| record.ability::<Arc<PciBus>>())?;
    Some(bus.list())
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

fn device(info: FunctionInfo) -> PciDeviceInfo {
    let desc = pci_class_name(info.class).map(str::to_owned);
    PciDeviceInfo {
        bus: 0,
        slot: info.slot.into(),
        function: info.function.into(),
        class_info: PciDeviceClass { desc, class: info.class.into() },
        id: PciDeviceId {
            device: info.id.1.into(),
            vendor: info.id.0.into(),
            subsystem: Some(info.subsystem.1.into()),
            subsystem_vendor: Some(info.subsystem.0.into()),
        },
        irq: (info.irq.1 > 0).then_some(info.irq.0.into()),
        irq_pin: info.irq.1.into(),
        qdev_id: info.name,
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
        let bus = |functions: Vec<FunctionInfo>| PciInfo {
            bus: 0,
            devices: functions.into_iter().map(device).collect(),
        };
        Ok(pci_functions(vm).map(bus).into_iter().collect())
    }
}
