//! What the command line says about a machine, whatever its type.

use std::path::PathBuf;
use std::sync::Arc;

use device::{CharSource, Clock, Objects, RunControl, Services, WallClock};
use qapi::{Qapi, Source, Value};

use crate::class::MachineClass;

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

/// The configuration of a machine.
#[derive(Clone, Debug, Default)]
pub struct MachineConfig {
    /// RAM in bytes; 0 means the machine's default.
    pub ram_size: u64,
    /// Number of CPUs; 0 means one.
    pub cpus: u32,
    /// Arrangement of the CPUs; by default all are cores of one cluster.
    pub topology: Option<Topology>,
    /// CPU model; by default the machine's.
    pub cpu_model: Option<String>,
    /// CPU properties as given.
    pub cpu_props: Vec<(String, String)>,
    /// What it boots.
    pub boot: BootFiles,
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
        Ok(())
    }

    /// Fills in defaults and checks limits.
    pub(crate) fn complete(&mut self, class: &MachineClass) -> qapi::Result<()> {
        if self.ram_size == 0 {
            self.ram_size = class.default_ram;
        }
        if self.cpus == 0 {
            self.cpus = self.topology.map_or(1, |t| t.cpus()).min(class.max_cpus.max(1));
        }
        if self.cpus > class.max_cpus.max(1) {
            return Err(qapi::Error::generic(format!(
                "Invalid SMP CPUs {}. The max CPUs supported by machine '{}' is {}",
                self.cpus, class.name, class.max_cpus
            )));
        }
        let boot = &self.boot;
        if boot.kernel.is_none() && boot.append.is_some() {
            return Err(qapi::Error::generic("-append only allowed with -kernel option"));
        }
        if boot.kernel.is_none() && boot.initrd.is_some() {
            return Err(qapi::Error::generic("-initrd only allowed with -kernel option"));
        }
        Ok(())
    }

    /// The arrangement of the CPUs.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let flat = Topology { sockets: 1, clusters: 1, cores: self.cpus, threads: 1 };
        self.topology.filter(|t| t.cpus() == self.cpus).unwrap_or(flat)
    }
}
