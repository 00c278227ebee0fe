//! What the command line says about a machine, whatever its type.

use std::path::PathBuf;
use std::sync::Arc;

use device::{CharSource, Clock, Objects, RunControl, Services, WallClock};
use guest_ram::RamBlock;
use qapi::{Qapi, Source, Value};

use crate::class::MachineClass;
use crate::numa::Numa;

/// What the host side gives a machine.
#[derive(Clone)]
pub struct Host {
    /// The guest's clock.
    pub clock: Clock,
    /// The wall clock.
    pub wall: WallClock,
    /// The run state.
    pub run: Arc<dyn RunControl>,
    /// Character back ends.
    pub chardevs: Arc<dyn CharSource>,
    /// Objects that users made.
    pub objects: Arc<Objects>,
    /// Storage, networks and the like, by type.
    pub services: Services,
}

/// How CPUs are arranged (`-smp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Clusters in a socket.
    pub clusters: u32,
    /// Cores in a cluster.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

impl Topology {
    /// CPUs in total.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.sockets
            .saturating_mul(self.clusters)
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
    }
}

/// Files the machine starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootFiles {
    /// `-kernel`.
    pub kernel: Option<PathBuf>,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-append`.
    pub append: Option<String>,
    /// `-dtb`.
    pub dtb: Option<PathBuf>,
    /// `-bios`.
    pub firmware: Option<PathBuf>,
    /// Write the device tree here; the machine is not to be run then.
    pub dumpdtb: Option<PathBuf>,
}

/// What `-boot` tells firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootOptions {
    /// Offer a menu.
    pub menu: bool,
    /// Try nothing that has no boot index.
    pub strict: bool,
    /// Milliseconds until a reboot when nothing boots.
    pub reboot_timeout: Option<u16>,
    /// Milliseconds that the menu or the picture is shown.
    pub splash_time: Option<u16>,
    /// Name in fw_cfg and bytes of the picture.
    pub splash: Option<(&'static str, Vec<u8>)>,
}

/// The configuration of a machine.
#[derive(Clone, Debug, Default)]
pub struct MachineConfig {
    /// RAM in bytes; 0 means the machine's default.
    pub ram_size: u64,
    /// Number of CPUs; 0 means one.
    pub cpus: u32,
    /// Arrangement of the CPUs; by default all are cores of one cluster.
    pub topology: Option<Topology>,
    /// Clusters were asked for, so that the guest is told of them.
    pub clusters_given: bool,
    /// CPU model; by default the machine's.
    pub cpu_model: Option<String>,
    /// CPU properties as given.
    pub cpu_props: Vec<(String, String)>,
    /// What it boots.
    pub boot: BootFiles,
    /// Most CPUs the topology has room for; 0 means as many as there are.
    pub max_cpus: u32,
    /// Slots for memory that is plugged in.
    pub ram_slots: u32,
    /// RAM in bytes with all of it; 0 means what there is at the start.
    pub max_ram: u64,
    /// Object whose memory the machine's RAM is.
    pub memory_backend: Option<String>,
    /// `-numa`.
    pub numa: Numa,
    /// Memory that differs is told (`hmat`).
    pub hmat: bool,
    /// Storage ids of `-drive if=pflash`, by unit.
    pub flash: [Option<String>; 2],
    /// `-device loader`: the option as typed, and its properties.
    pub loaders: Vec<(String, Value)>,
    /// `-boot`.
    pub boot_options: BootOptions,
    /// `-smbios`.
    pub smbios: firmware::smbios::Options,
    /// `-uuid`.
    pub uuid: Option<[u8; 16]>,
    /// Named files for firmware (`-fw_cfg`).
    pub firmware_files: Vec<(String, Vec<u8>)>,
    /// Chardev ids of `-serial`, in order; `None` for a port without back end.
    pub serials: Vec<Option<String>>,
}

impl MachineConfig {
    /// Moves the properties that all machines have out of `props`.
    pub fn take_common(&mut self, props: &mut Value, source: Source) -> qapi::Result<()> {
        let mut take = |name: &str| -> qapi::Result<Option<String>> {
            let value = props.take(name);
            value.map(|v| String::from_value(v, source).map_err(|e| e.within(name))).transpose()
        };
        let paths = [
            ("kernel", &mut self.boot.kernel),
            ("initrd", &mut self.boot.initrd),
            ("dtb", &mut self.boot.dtb),
            ("firmware", &mut self.boot.firmware),
            ("dumpdtb", &mut self.boot.dumpdtb),
        ];
        for (name, slot) in paths {
            if let Some(text) = take(name)? {
                *slot = Some(text.into());
            }
        }
        if let Some(text) = take("append")? {
            self.boot.append = Some(text);
        }
        if let Some(value) = props.take("hmat") {
            self.hmat = bool::from_value(value, source).map_err(|e| e.within("hmat"))?;
        }
        // Also the machine's own property, so that its help lists it.
        let backend = props.get("memory-backend").and_then(Value::as_str);
        self.memory_backend = backend.map(str::to_owned).or(self.memory_backend.take());
        Ok(())
    }

    /// Fills in defaults and checks limits.
    pub(crate) fn complete(&mut self, class: &MachineClass, host: &Host) -> qapi::Result<()> {
        self.complete_memory(class, host)?;
        self.complete_nodes(class, host)?;
        if self.cpus == 0 {
            self.cpus = self.topology.map_or(1, |t| t.cpus()).min(class.max_cpus.max(1));
        }
        self.max_cpus = self.max_cpus.max(self.cpus);
        if self.max_cpus > class.max_cpus.max(1) {
            return Err(qapi::Error::generic(format!(
                "Invalid SMP CPUs {}. The max CPUs supported by machine '{}' is {}",
                self.max_cpus, class.name, class.max_cpus
            )));
        }
        self.numa.warn(self.topology(), self.cpus);
        let boot = &self.boot;
        if boot.kernel.is_none() && boot.append.is_some() {
            return Err(qapi::Error::generic("-append only allowed with -kernel option"));
        }
        if boot.kernel.is_none() && boot.initrd.is_some() {
            return Err(qapi::Error::generic("-initrd only allowed with -kernel option"));
        }
        Ok(())
    }

    fn complete_memory(&mut self, class: &MachineClass, host: &Host) -> qapi::Result<()> {
        if let Some(id) = &self.memory_backend {
            let missing = || qapi::Error::generic(format!("Memory backend '{id}' not found"));
            let len = host.objects.find(id).ok_or_else(missing)?;
            let len = len.ability::<Arc<RamBlock>>().ok_or_else(missing)?.len();
            if self.ram_size != 0 && self.ram_size != len {
                return Err(qapi::Error::generic(
                    "Machine memory size does not match the size of the memory backend",
                ));
            }
            self.ram_size = len;
        }
        if self.ram_size == 0 {
            self.ram_size = class.default_ram;
        }
        // What the registers of slots can choose.
        if self.ram_slots > 256 {
            let text = format!("unsupported number of memory slots: {}", self.ram_slots);
            return Err(qapi::Error::generic(text));
        }
        if self.ram_slots > 0 && self.max_ram == self.ram_size {
            return Err(qapi::Error::generic(format!(
                "invalid value of maxmem: memory slots were specified but maximum memory size \
                 ({:#x}) is equal to the initial memory size ({:#x})",
                self.max_ram, self.ram_size
            )));
        }
        if self.ram_slots > 0 && self.max_ram == 0 {
            return Err(qapi::Error::generic("slots specified but no max-size"));
        }
        if self.max_ram == 0 {
            self.max_ram = self.ram_size;
        }
        if self.max_ram < self.ram_size {
            return Err(qapi::Error::generic(format!(
                "invalid value of maxmem: maximum memory size ({:#x}) must be at least the \
                 initial memory size ({:#x})",
                self.max_ram, self.ram_size
            )));
        }
        Ok(())
    }

    /// Sizes of the nodes, and a node where plugged memory needs one.
    fn complete_nodes(&mut self, class: &MachineClass, host: &Host) -> qapi::Result<()> {
        if !self.numa.is_on() {
            if class.takes_nodes && self.max_ram > self.ram_size {
                self.numa.single(self.ram_size);
            }
            return Ok(());
        }
        if !class.takes_nodes {
            return Err(qapi::Error::generic("NUMA is not supported by this machine-type"));
        }
        let mut seen: Vec<&str> = Vec::new();
        for node in &mut self.numa.nodes {
            let Some(id) = node.memdev.as_deref() else { continue };
            // The peer's word for an object that is not there.
            let missing = || qapi::Error::generic(format!("memdev={id} is ambiguous"));
            let len = host.objects.find(id).and_then(|o| o.ability::<Arc<RamBlock>>());
            node.mem = len.ok_or_else(missing)?.len();
            if self.memory_backend.is_some() {
                return Err(qapi::Error::generic(
                    "'-machine memory-backend' and '-numa memdev' properties are mutually exclusive",
                ));
            }
            if seen.contains(&id) {
                let text = format!("memory backend {id} can't be used multiple times.");
                return Err(qapi::Error::generic(text));
            }
            seen.push(id);
        }
        self.numa.complete(self.ram_size)
    }

    /// The arrangement of the CPUs, with room for all that there may be.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let all = self.max_cpus.max(self.cpus);
        let flat = Topology { sockets: 1, clusters: 1, cores: all, threads: 1 };
        self.topology.filter(|t| t.cpus() == all).unwrap_or(flat)
    }
}
