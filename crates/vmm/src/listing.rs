//! What this program could run: filled from the catalog, read by `query-*` and `help`.

use device::{DeviceClass, ObjectClass};
use qapi::TypeRef;

/// Everything that can be chosen.
#[derive(Default)]
pub struct Listing {
    /// The guest architecture (`aarch64`).
    pub target: &'static str,
    /// The guest architecture itself.
    pub guest: Option<&'static dyn accel::GuestArch>,
    /// Machines.
    pub machines: Vec<MachineListing>,
    /// CPU models.
    pub cpus: Vec<CpuListing>,
    /// Accelerators.
    pub accels: Vec<&'static str>,
    /// Device classes.
    pub devices: Vec<&'static DeviceClass>,
    /// Types of user-made objects.
    pub objects: Vec<&'static ObjectClass>,
    /// Option groups of the command line.
    pub options: Vec<OptionGroup>,
}

impl Listing {
    /// The device class of this name.
    pub fn device(&self, name: &str) -> Option<&'static DeviceClass> {
        let named = |name: &str| self.devices.iter().copied().find(|class| class.name == name);
        // `virtio-blk` and its like are short for the device on PCI.
        let short = || name.starts_with("virtio-").then(|| named(&format!("{name}-pci"))).flatten();
        named(name).or_else(short)
    }

    /// The type of user-made objects of this name.
    pub fn object(&self, name: &str) -> Option<&'static ObjectClass> {
        self.objects.iter().copied().find(|class| class.name == name)
    }

    /// The part of a CPU type's name that stands for the architecture.
    pub fn cpu_suffix(&self) -> &'static str {
        if self.target == "aarch64" { "arm" } else { self.target }
    }

    /// The machine of this name or alias.
    pub fn machine(&self, name: &str) -> Option<&MachineListing> {
        self.machines.iter().find(|m| m.name == name || m.alias.as_deref() == Some(name))
    }
}

/// A machine.
#[derive(Clone, Debug)]
pub struct MachineListing {
    /// Name.
    pub name: String,
    /// Other name.
    pub alias: Option<String>,
    /// One line.
    pub summary: String,
    /// Most CPUs.
    pub max_cpus: u32,
    /// CPU model when none is chosen.
    pub default_cpu: Option<String>,
    /// Type of the properties.
    pub props: TypeRef,
}

/// A CPU model.
#[derive(Clone, Debug)]
pub struct CpuListing {
    /// Name.
    pub name: String,
    /// Type of the properties.
    pub props: TypeRef,
}

/// A group of command line parameters, for `query-command-line-options`.
#[derive(Clone, Debug)]
pub struct OptionGroup {
    /// Option without its dash.
    pub name: &'static str,
    /// Its parameters.
    pub parameters: Vec<OptionParameter>,
}

/// A parameter of an option.
#[derive(Clone, Debug)]
pub struct OptionParameter {
    /// Name.
    pub name: &'static str,
    /// `string`, `boolean`, `number` or `size`.
    pub kind: &'static str,
    /// One line.
    pub help: &'static str,
}
