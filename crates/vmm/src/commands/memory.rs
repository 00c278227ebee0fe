//! Commands about the guest's memory.

use std::io::Write as _;

use derive::Qapi;
use device::TxAttrs;
use qapi::{Error, Result, Value};

use super::QmpCommand;
use crate::Vm;

/// Bytes copied at once.
const CHUNK: usize = 1 << 16;

/// How much memory there is.
#[derive(Qapi)]
pub(super) struct MemoryInfo {
    /// Bytes the machine was started with.
    base_memory: u64,
    /// Bytes of hot-plugged modules.
    plugged_memory: Option<u64>,
}

/// Tell how much memory the guest has.
#[derive(Qapi)]
pub(super) struct QueryMemorySizeSummary;

impl QmpCommand for QueryMemorySizeSummary {
    const NAME: &'static str = "query-memory-size-summary";
    type Returns = MemoryInfo;
    fn run(self, vm: &Vm) -> Result<MemoryInfo> {
        let base_memory = vm.machine().map_or(0, |machine| machine.ram_size);
        let plugged = modules(vm).iter().map(|(_, m)| m.size).sum();
        Ok(MemoryInfo { base_memory, plugged_memory: Some(plugged) })
    }
}

/// How memory is placed on the host's nodes.
#[derive(Clone, Copy, PartialEq, Qapi)]
#[qapi(name = "HostMemPolicy")]
pub(super) enum HostMemPolicy {
    /// As the host does by itself.
    Default,
    /// Rather on these nodes.
    Preferred,
    /// Only on these nodes.
    Bind,
    /// Spread over these nodes.
    Interleave,
}

/// A memory back end.
#[derive(Qapi)]
#[qapi(name = "Memdev")]
pub(super) struct Memdev {
    /// Its id.
    id: Option<String>,
    /// Bytes.
    size: u64,
    /// The host may share equal pages.
    merge: bool,
    /// It is part of a core dump.
    dump: bool,
    /// All of it is touched at start.
    prealloc: bool,
    /// Other processes see it.
    share: bool,
    /// Swap space is reserved for it.
    reserve: Option<bool>,
    /// Nodes of the host.
    host_nodes: Vec<u16>,
    /// How it is placed on them.
    policy: HostMemPolicy,
}

/// List the memory back ends.
#[derive(Qapi)]
pub(super) struct QueryMemdev;

impl QmpCommand for QueryMemdev {
    const NAME: &'static str = "query-memdev";
    type Returns = Vec<Memdev>;
    fn run(self, vm: &Vm) -> Result<Vec<Memdev>> {
        let objects = vm.objects.all();
        let backends = objects.iter().filter(|o| o.class.name.starts_with("memory-backend-"));
        let mut list: Vec<Memdev> = backends.map(|o| memdev(&o.id, &o.props)).collect();
        let own = |machine: &&crate::Machine| {
            machine.ram_size > 0 && machine.props.get("memory-backend").is_none()
        };
        if let Some(machine) = vm.machine().filter(own) {
            let size = i64::try_from(machine.ram_size).unwrap_or(i64::MAX);
            let props = Value::map([("size", Value::Int(size))]);
            let name = if machine.name.starts_with("virt") { "mach-virt.ram" } else { "ram" };
            list.push(memdev(name, &props));
        }
        Ok(list)
    }
}

fn memdev(id: &str, props: &Value) -> Memdev {
    let flag =
        |name: &str, default: bool| props.get(name).and_then(Value::as_bool).unwrap_or(default);
    Memdev {
        id: Some(id.to_owned()),
        size: props.get("size").and_then(Value::as_u64).unwrap_or(0),
        merge: flag("merge", true),
        dump: flag("dump", true),
        prealloc: flag("prealloc", false),
        share: flag("share", false),
        reserve: Some(flag("reserve", true)),
        host_nodes: props
            .get("host-nodes")
            .and_then(Value::as_list)
            .map(|list| list.iter().filter_map(|n| u16::try_from(n.as_u64()?).ok()).collect())
            .unwrap_or_default(),
        policy: match props.get("policy").and_then(Value::as_str) {
            Some("preferred") => HostMemPolicy::Preferred,
            Some("bind") => HostMemPolicy::Bind,
            Some("interleave") => HostMemPolicy::Interleave,
            _ => HostMemPolicy::Default,
        },
    }
}

/// Memory modules with their ids, by address.
pub fn modules(vm: &Vm) -> Vec<(Option<String>, device::MemoryDeviceState)> {
    let Some(machine) = vm.machine() else { return Vec::new() };
    let module = |record: &std::sync::Arc<device::Record>| {
        let device: std::sync::Arc<dyn device::MemoryDevice> = record.ability()?;
        let id = Some(record.id.clone()).filter(|id| !id.contains('['));
        Some((id, device.state()?))
    };
    let mut all: Vec<_> = machine.devices.all().iter().filter_map(module).collect();
    all.sort_by_key(|(_, state)| state.addr);
    all
}

/// Kinds of memory devices.
#[derive(Qapi)]
pub(super) enum MemoryDeviceInfoKind {
    /// A memory module.
    Dimm,
}

/// A memory module.
#[derive(Qapi)]
#[qapi(name = "PCDIMMDeviceInfo")]
pub(super) struct PcDimmDeviceInfo {
    /// Its id.
    id: Option<String>,
    /// First address.
    addr: i64,
    /// Bytes.
    size: i64,
    /// Slot.
    slot: i64,
    /// Node of the memory.
    node: i64,
    /// Path of the object with the memory.
    memdev: String,
    /// It came while the machine ran.
    hotplugged: bool,
    /// It may come while the machine runs.
    hotpluggable: bool,
}

/// A memory device.
#[derive(Qapi)]
pub(super) struct MemoryDeviceInfo {
    /// Its kind.
    r#type: MemoryDeviceInfoKind,
    /// What is known of it.
    data: PcDimmDeviceInfo,
}

/// How the guest's last event of a slot went.
#[derive(Qapi)]
#[qapi(name = "ACPIOSTInfo")]
pub(super) struct AcpiOstInfo {
    /// Id of the device in it.
    device: Option<String>,
    /// Number of the slot.
    slot: String,
    /// Kind of the slot.
    slot_type: AcpiSlotType,
    /// The event.
    #[qapi(name = "source")]
    event: i64,
    /// How it went.
    status: i64,
}

/// Kinds of slots.
#[derive(Qapi)]
#[qapi(name = "ACPISlotType")]
pub(super) enum AcpiSlotType {
    /// For a memory module.
    #[qapi(name = "DIMM")]
    Dimm,
    /// For a CPU.
    #[qapi(name = "CPU")]
    Cpu,
}

/// Data of `ACPI_DEVICE_OST`.
#[derive(Qapi)]
pub(crate) struct AcpiDeviceOst {
    /// The event and how it went.
    info: AcpiOstInfo,
}

/// Tell how the guest's last events of slots went.
#[derive(Qapi)]
pub(super) struct QueryAcpiOspmStatus;

impl QmpCommand for QueryAcpiOspmStatus {
    const NAME: &'static str = "query-acpi-ospm-status";
    type Returns = Vec<AcpiOstInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<AcpiOstInfo>> {
        let records = vm.machine().map(|machine| machine.devices.all()).unwrap_or_default();
        let slots =
            records.iter().find_map(|r| r.ability::<std::sync::Arc<dyn device::MemorySlots>>());
        let slots =
            slots.ok_or_else(|| Error::generic("command is not supported, missing ACPI device"))?;
        let info = |s: device::SlotStatus| AcpiOstInfo {
            device: s.device,
            slot: s.slot.to_string(),
            slot_type: AcpiSlotType::Dimm,
            event: s.source.into(),
            status: s.status.into(),
        };
        Ok(slots.ospm_status().into_iter().map(info).collect())
    }
}

/// List the memory modules.
#[derive(Qapi)]
pub(super) struct QueryMemoryDevices;

impl QmpCommand for QueryMemoryDevices {
    const NAME: &'static str = "query-memory-devices";
    type Returns = Vec<MemoryDeviceInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<MemoryDeviceInfo>> {
        let number = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
        let info = |(id, m): (Option<String>, device::MemoryDeviceState)| MemoryDeviceInfo {
            r#type: MemoryDeviceInfoKind::Dimm,
            data: PcDimmDeviceInfo {
                id,
                addr: number(m.addr),
                size: number(m.size),
                slot: m.slot.into(),
                node: m.node.into(),
                memdev: m.memdev,
                hotplugged: m.hotplugged,
                hotpluggable: true,
            },
        };
        Ok(modules(vm).into_iter().map(info).collect())
    }
}

/// Write memory as a CPU sees it into a file.
#[derive(Qapi)]
pub(super) struct Memsave {
    /// First virtual address.
    val: u64,
    /// Bytes.
    size: u64,
    /// The file.
    filename: String,
    /// The CPU.
    cpu_index: Option<u32>,
}

impl QmpCommand for Memsave {
    const NAME: &'static str = "memsave";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let cpu = self.cpu_index.unwrap_or(0);
        let execution = vm.execution();
        let known = execution.cpus().iter().any(|slot| slot.index == cpu);
        let accel = execution.accel().filter(|_| known);
        let accel = accel.ok_or_else(|| Error::expects("cpu-index", "a CPU number"))?;
        let Self { val, size, filename, .. } = self;
        vm.while_stopped(|| {
            save(&filename, size, |done, part| {
                let at = val.wrapping_add(done);
                let cpu = usize::try_from(cpu).unwrap_or(0);
                let read = accel.read_virtual(cpu, at, part);
                let text =
                    || Error::generic(format!("Invalid addr 0x{at:016x}/size {size} specified"));
                if read { Ok(()) } else { Err(text()) }
            })
        })
    }
}

/// Fills a file with `size` bytes that `read` gives for offsets.
fn save(filename: &str, size: u64, read: impl Fn(u64, &mut [u8]) -> Result<()>) -> Result<()> {
    let fail = |error: std::io::Error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default().to_owned();
        Error::generic(format!("Could not open '{filename}': {text}"))
    };
    let mut file = std::fs::File::create(filename).map_err(fail)?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        let n = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
        let Some(part) = buffer.get_mut(..n) else { break };
        read(done, part)?;
        file.write_all(part).map_err(fail)?;
        done += n as u64;
    }
    Ok(())
}

/// Write physical memory into a file.
#[derive(Qapi)]
pub(super) struct Pmemsave {
    /// First address.
    val: u64,
    /// Bytes.
    size: u64,
    /// The file.
    filename: String,
}

impl QmpCommand for Pmemsave {
    const NAME: &'static str = "pmemsave";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let world = vm.machine().and_then(|machine| machine.world.as_ref());
        let world = world.ok_or_else(|| Error::generic("this machine has no memory"))?;
        save(&self.filename, self.size, |done, part| {
            let at = self.val.wrapping_add(done);
            if world.memory.read(at, part, TxAttrs::default()).is_err() {
                // What is not there reads as zero, as it does for the peer.
                part.fill(0);
            }
            Ok(())
        })
    }
}
