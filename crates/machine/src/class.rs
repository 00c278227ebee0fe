//! Machine types, their erased classes, and the catalog they create from.

use accel::GuestArch;
use device::DeviceClass;
use qapi::{Qapi, Source, TypeRef, Value};

use crate::board::{Board, Machine};
use crate::config::{Host, MachineConfig};

/// Everything that can be created by name.
#[derive(Clone, Copy)]
pub struct Catalog {
    /// Device classes.
    pub devices: &'static [&'static DeviceClass],
    /// Machine classes.
    pub machines: &'static [&'static MachineClass],
    /// Guest architectures.
    pub guests: &'static [&'static dyn GuestArch],
}

impl Catalog {
    /// A device class by name.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<&'static DeviceClass> {
        self.devices.iter().find(|c| c.name == name).copied()
    }

    /// A machine class by name or alias.
    #[must_use]
    pub fn machine(&self, name: &str) -> Option<&'static MachineClass> {
        self.machines.iter().find(|c| c.name == name || c.alias == Some(name)).copied()
    }

    /// A guest architecture by name.
    #[must_use]
    pub fn guest(&self, name: &str) -> Option<&'static dyn GuestArch> {
        self.guests.iter().find(|g| g.name() == name).copied()
    }
}

/// A machine type: what its file says about it.
pub trait MachineType: 'static {
    /// The name on the command line.
    const NAME: &'static str;
    /// Another name, such as the unversioned one.
    const ALIAS: Option<&'static str> = None;
    /// One line for help texts.
    const SUMMARY: &'static str;
    /// Guest architecture of its CPUs; `None` when it has none.
    const ARCH: Option<&'static str>;
    /// CPU model when none is named.
    const DEFAULT_CPU: Option<&'static str>;
    /// Most CPUs.
    const MAX_CPUS: u32;
    /// RAM when none is asked for, in bytes.
    const DEFAULT_RAM: u64 = 128 << 20;
    /// Its memory and CPUs can be in nodes.
    const TAKES_NODES: bool = false;
    /// Nodes may be given by size alone.
    const NODES_BY_SIZE: bool = false;
    /// Its properties.
    type Props: Qapi;
    /// Builds the machine on the board.
    fn create(props: Self::Props, board: &mut Board<'_>) -> qapi::Result<()>;
}

/// A machine type as catalogs list it.
pub struct MachineClass {
    /// The name on the command line.
    pub name: &'static str,
    /// Another name.
    pub alias: Option<&'static str>,
    /// One line for help texts.
    pub summary: &'static str,
    /// Guest architecture of its CPUs.
    pub arch: Option<&'static str>,
    /// CPU model when none is named.
    pub default_cpu: Option<&'static str>,
    /// Most CPUs.
    pub max_cpus: u32,
    /// RAM when none is asked for, in bytes.
    pub default_ram: u64,
    /// Its memory and CPUs can be in nodes.
    pub takes_nodes: bool,
    /// Nodes may be given by size alone.
    pub nodes_by_size: bool,
    /// Type of the properties.
    pub props: TypeRef,
    build: fn(Value, Source, &mut Board<'_>) -> qapi::Result<()>,
}

impl MachineClass {
    /// The class of a type.
    #[must_use]
    pub const fn of<M: MachineType>() -> MachineClass {
        MachineClass {
            name: M::NAME,
            alias: M::ALIAS,
            summary: M::SUMMARY,
            arch: M::ARCH,
            default_cpu: M::DEFAULT_CPU,
            max_cpus: M::MAX_CPUS,
            default_ram: M::DEFAULT_RAM,
            takes_nodes: M::TAKES_NODES,
            nodes_by_size: M::NODES_BY_SIZE,
            props: <M::Props as Qapi>::type_info,
            build: |value, source, board| {
                let props = <M::Props as Qapi>::from_value(value, source)?;
                board.note_props(props.to_value());
                M::create(props, board)
            },
        }
    }

    /// Creates the machine, reset and with its boot images in RAM. Properties
    /// that all machines have (`kernel`, `append`, `dumpdtb`…) are moved from
    /// `props` to the configuration.
    pub fn create(
        &'static self,
        mut props: Value,
        source: Source,
        mut config: MachineConfig,
        host: Host,
        catalog: &Catalog,
    ) -> qapi::Result<Machine> {
        config.take_common(&mut props, source)?;
        config.complete(self, &host)?;
        let mut board = Board::new(self, &config, host, catalog);
        (self.build)(props, source, &mut board)?;
        board.finish()
    }
}
