//! Commands about the machine and its CPUs.

use derive::Qapi;
use qapi::{Error, Qapi as _, Result, Source, Value};

use super::{QmpCommand, facts};
use crate::Vm;

/// A machine that can be chosen.
#[derive(Qapi)]
pub(super) struct MachineInfo {
    /// The name.
    name: String,
    /// Another name.
    alias: Option<String>,
    /// Whether it is what `-M` unset means.
    is_default: Option<bool>,
    /// Most CPUs.
    cpu_max: u32,
    /// CPUs can come and go.
    hotpluggable_cpus: bool,
    /// NUMA nodes may be given by size.
    numa_mem_supported: bool,
    /// Going away.
    deprecated: bool,
    /// CPU type when none is chosen.
    default_cpu_type: Option<String>,
    /// Id of the RAM back end.
    default_ram_id: Option<String>,
    /// Has ACPI tables.
    acpi: bool,
    /// Properties that this version of the machine changes.
    #[qapi(features = "unstable")]
    compat_props: Option<Vec<CompatProperty>>,
}

/// A property that a version of a machine changes.
#[derive(Qapi)]
pub(super) struct CompatProperty {
    /// Type of the object.
    qom_type: String,
    /// The property.
    property: String,
    /// Its value.
    value: String,
}

/// List the machines.
#[derive(Qapi)]
pub(super) struct QueryMachines {
    /// Also list the properties that a version of a machine changes.
    #[qapi(features = "unstable")]
    compat_props: Option<bool>,
}

impl QmpCommand for QueryMachines {
    const NAME: &'static str = "query-machines";
    type Returns = Vec<MachineInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<MachineInfo>> {
        let suffix = vm.listing.cpu_suffix();
        let info = |machine: &crate::MachineListing| MachineInfo {
            name: machine.name.clone(),
            alias: machine.alias.clone(),
            is_default: None,
            cpu_max: machine.max_cpus,
            hotpluggable_cpus: false,
            numa_mem_supported: false,
            deprecated: false,
            default_cpu_type: machine.default_cpu.as_ref().map(|cpu| format!("{cpu}-{suffix}-cpu")),
            default_ram_id: machine.name.starts_with("virt").then(|| "mach-virt.ram".to_owned()),
            acpi: false,
            compat_props: (self.compat_props == Some(true)).then(Vec::new),
        };
        Ok(vm.listing.machines.iter().map(info).collect())
    }
}

/// A CPU model that can be chosen.
#[derive(Qapi)]
pub(super) struct CpuDefinitionInfo {
    /// The name.
    name: String,
    /// The type behind it.
    typename: String,
    /// The model never changes between versions.
    r#static: bool,
    /// Going away.
    deprecated: bool,
}

/// List the CPU models.
#[derive(Qapi)]
pub(super) struct QueryCpuDefinitions;

impl QmpCommand for QueryCpuDefinitions {
    const NAME: &'static str = "query-cpu-definitions";
    type Returns = Vec<CpuDefinitionInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<CpuDefinitionInfo>> {
        let suffix = vm.listing.cpu_suffix();
        let info = |cpu: &crate::CpuListing| CpuDefinitionInfo {
            name: cpu.name.clone(),
            typename: format!("{}-{suffix}-cpu", cpu.name),
            r#static: false,
            deprecated: false,
        };
        Ok(vm.listing.cpus.iter().map(info).collect())
    }
}

/// A guest architecture.
#[derive(Clone, Copy, PartialEq, Qapi)]
#[qapi(name = "SysEmuTarget", rename_all = "snake_case")]
pub(super) enum Target {
    /// 64-bit Arm.
    Aarch64,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit x86.
    #[qapi(name = "x86_64")]
    X86,
}

fn target(vm: &Vm) -> Result<Target> {
    Target::from_value(Value::from(vm.listing.target), Source::Json)
}

/// A CPU of the machine.
#[derive(Qapi)]
pub(super) struct CpuInfoFast {
    /// Index.
    cpu_index: u32,
    /// Path in the object tree.
    qom_path: String,
    /// Host thread.
    thread_id: i64,
    /// Where it is.
    props: Option<facts::CpuInstanceProperties>,
    /// Guest architecture.
    target: Target,
}

/// List the CPUs without disturbing them.
#[derive(Qapi)]
pub(super) struct QueryCpusFast;

impl QmpCommand for QueryCpusFast {
    const NAME: &'static str = "query-cpus-fast";
    type Returns = Vec<CpuInfoFast>;
    fn run(self, vm: &Vm) -> Result<Vec<CpuInfoFast>> {
        let target = target(vm)?;
        let places = vm.machine().map(|m| m.places.as_slice()).unwrap_or_default();
        let place = |index: u32| {
            let place = usize::try_from(index).ok().and_then(|at| places.get(at))?;
            Some(facts::CpuInstanceProperties::of(place))
        };
        let info = |cpu: crate::CpuSlot| CpuInfoFast {
            cpu_index: cpu.index,
            qom_path: format!("/machine/unattached/device[{}]", cpu.index),
            thread_id: cpu.thread_id,
            props: place(cpu.index),
            target,
        };
        Ok(vm.execution().cpus().into_iter().map(info).collect())
    }
}

/// State of KVM.
#[derive(Qapi)]
pub(super) struct KvmInfo {
    /// In use.
    enabled: bool,
    /// Compiled in.
    present: bool,
}

/// Tell whether KVM is there and in use.
#[derive(Qapi)]
pub(super) struct QueryKvm;

impl QmpCommand for QueryKvm {
    const NAME: &'static str = "query-kvm";
    type Returns = KvmInfo;
    fn run(self, vm: &Vm) -> Result<KvmInfo> {
        let present = vm.listing.accels.contains(&"kvm");
        Ok(KvmInfo { enabled: vm.config.accel == "kvm", present })
    }
}

/// The guest architecture.
#[derive(Qapi)]
pub(super) struct TargetInfo {
    /// The name.
    arch: Target,
}

/// Tell the guest architecture.
#[derive(Qapi)]
pub(super) struct QueryTarget;

impl QmpCommand for QueryTarget {
    const NAME: &'static str = "query-target";
    type Returns = TargetInfo;
    fn run(self, vm: &Vm) -> Result<TargetInfo> {
        Ok(TargetInfo { arch: target(vm)? })
    }
}

/// Write the guest's device tree into a file.
#[derive(Qapi)]
pub(super) struct Dumpdtb {
    /// Path of the file.
    filename: String,
}

impl QmpCommand for Dumpdtb {
    const NAME: &'static str = "dumpdtb";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let dtb = vm.machine().and_then(|machine| machine.dtb.as_ref());
        let dtb = dtb.ok_or_else(|| Error::generic("This machine doesn't have an FDT"))?;
        std::fs::write(&self.filename, dtb).map_err(|error| {
            Error::generic(format!("Error saving FDT to file {}: {error}", self.filename))
        })
    }
}
