//! The machine and its CPUs, as this crate needs them.

use std::sync::Arc;

use accel::{AccelVm, CpuHandle};
use device::{Devices, FirmwareConfig, LateFiles, LateTables, Reset, ResetTree, World};
use memory::AddressSpace;
use qapi::Value;

/// A node of memory and CPUs (`-numa`).
#[derive(Clone, Debug)]
pub struct MemoryNode {
    /// Bytes of memory at start.
    pub mem: u64,
}

/// Where a CPU is.
#[derive(Clone, Copy, Debug)]
pub struct CpuPlace {
    /// Socket, cluster in it, core in that, thread of that.
    pub ids: [u32; 4],
    /// Its node, if there are nodes.
    pub node: Option<u16>,
}

/// A created machine.
pub struct Machine {
    /// Name of its class.
    pub name: String,
    /// Its properties after defaults were filled in.
    pub props: Value,
    /// CPU model.
    pub cpu_model: String,
    /// RAM in bytes at start.
    pub ram_size: u64,
    /// Nodes of memory and CPUs.
    pub nodes: Vec<MemoryNode>,
    /// Place of each CPU.
    pub places: Vec<CpuPlace>,
    /// Devices in order of creation.
    pub devices: Devices,
    /// Where firmware finds files.
    pub firmware: Option<Arc<dyn FirmwareConfig>>,
    /// Firmware is to try nothing but devices with a boot index.
    pub strict_boot: bool,
    /// What the devices share.
    pub world: Option<World>,
    /// Images that a reset puts into memory: address, length, name.
    pub roms: Vec<(u64, u64, String)>,
    /// Address spaces, for `info mtree`.
    pub spaces: Vec<AddressSpace>,
    /// What a reset resets, in order.
    pub reset: ResetTree,
    /// Presses the power button.
    pub powerdown: Option<Box<dyn Fn() + Send + Sync>>,
    /// Puts back what a reset needs besides devices (kernel, initrd and device tree in RAM).
    pub reload: Option<Box<dyn Fn() + Send + Sync>>,
    /// The device tree that the guest is given.
    pub dtb: Option<Vec<u8>>,
}

impl Machine {
    /// Tells firmware in which order to try devices.
    pub fn tell_boot_order(&self) {
        let (Some(firmware), Some(world)) = (&self.firmware, &self.world) else { return };
        let mut names = self.devices.boot_order(&world.memory.view());
        if self.strict_boot {
            names.push("HALT".into());
        }
        let mut text = names.join("\n").into_bytes();
        if !text.is_empty() {
            text.push(0);
        }
        // The file is there since the board was made; it only changes.
        _ = firmware.set_file("bootorder", text);
    }

    /// Makes the files for firmware that name devices.
    ///
    /// # Errors
    /// A device that is named does not exist.
    pub fn tell_devices(&self) -> qapi::Result<()> {
        let Some(world) = &self.world else { return Ok(()) };
        if let Some(LateTables(make)) = world.services.find() {
            make();
        }
        let Some(LateFiles(tell)) = world.services.find() else { return Ok(()) };
        tell(&|id| {
            let function: Arc<pci::Function> = self.devices.find(id)?.ability()?;
            function.address()
        })
    }

    /// A machine without anything (`-M none`).
    pub fn none() -> Self {
        Self {
            name: "none".into(),
            props: Value::empty(),
            cpu_model: String::new(),
            ram_size: 0,
            nodes: Vec::new(),
            places: Vec::new(),
            devices: Devices::default(),
            firmware: None,
            strict_boot: false,
            world: None,
            roms: Vec::new(),
            spaces: Vec::new(),
            reset: ResetTree::default(),
            powerdown: None,
            reload: None,
            dtb: None,
        }
    }
}

/// A CPU of the machine.
#[derive(Clone, Debug)]
pub struct CpuSlot {
    /// Index.
    pub index: u32,
    /// Host thread that runs it.
    pub thread_id: i64,
}

/// The CPUs and their threads. All calls come from the main loop.
pub trait Execution: Send + Sync {
    /// Lets all CPUs run.
    fn start(&self);

    /// Lets each CPU do as the plan says, by index; those beyond its end run.
    fn start_as(&self, plan: &[accel::RunAs]) {
        let _ = plan;
        self.start();
    }

    /// Stops all CPUs; returns when none runs guest code any more.
    fn stop(&self);

    /// Resets all CPUs while they are stopped.
    fn reset(&self, kind: Reset);

    /// The CPUs.
    fn cpus(&self) -> Vec<CpuSlot>;

    /// The accelerator's side, if there are CPUs.
    fn accel(&self) -> Option<Arc<dyn AccelVm>> {
        None
    }

    /// The registers of a stopped CPU as text.
    fn registers(&self, index: u32) -> Option<String>;

    /// Ends all threads.
    fn shut_down(&self) {}
}

/// No CPUs: `-M none` and qtest.
pub struct NoExecution;

impl Execution for NoExecution {
    fn start(&self) {}
    fn stop(&self) {}
    fn reset(&self, _: Reset) {}
    fn cpus(&self) -> Vec<CpuSlot> {
        Vec::new()
    }
    fn registers(&self, _: u32) -> Option<String> {
        None
    }
}

/// CPUs of an accelerator.
pub struct AccelExecution {
    /// The accelerator's side.
    pub vm: Arc<dyn AccelVm>,
    /// The boards' side, in CPU order.
    pub cpus: Vec<Arc<dyn CpuHandle>>,
}

impl Execution for AccelExecution {
    fn start(&self) {
        self.vm.resume();
    }
    fn stop(&self) {
        self.vm.pause();
    }
    fn reset(&self, _: Reset) {
        for cpu in &self.cpus {
            cpu.reset();
        }
    }
    fn cpus(&self) -> Vec<CpuSlot> {
        let ids = self.vm.thread_ids();
        let slot = |index: u32| {
            let id = usize::try_from(index).ok().and_then(|at| ids.get(at).copied());
            CpuSlot { index, thread_id: id.unwrap_or_else(|| i64::from(std::process::id())) }
        };
        (0..).take(self.cpus.len()).map(slot).collect()
    }
    fn accel(&self) -> Option<Arc<dyn AccelVm>> {
        Some(self.vm.clone())
    }
    fn registers(&self, index: u32) -> Option<String> {
        let mut text = String::new();
        let known = self.vm.with_cpu(usize::try_from(index).ok()?, &mut |cpu| {
            text = cpu.register_text();
        });
        known.then_some(text)
    }
    fn start_as(&self, plan: &[accel::RunAs]) {
        self.vm.resume_as(plan);
    }
    fn shut_down(&self) {
        self.vm.shutdown();
    }
}
