//! Commands about the interface itself and about names.

use derive::Qapi;
use qapi::{Error, Qapi as _, Result, Value, schema::Schema};

use super::{COMMANDS, QmpCommand};
use crate::{EVENTS, OptionGroup, Vm, uuid_text};

/// An optional ability of the protocol.
#[derive(Clone, Copy, PartialEq, Qapi)]
#[qapi(name = "QMPCapability")]
pub(super) enum Capability {
    /// Out-of-band commands.
    Oob,
}

/// Leave capabilities negotiation and enter command mode.
#[derive(Qapi)]
pub(super) struct QmpCapabilities {
    /// Abilities to switch on.
    enable: Option<Vec<Capability>>,
}

impl QmpCommand for QmpCapabilities {
    const NAME: &'static str = "qmp_capabilities";
    type Returns = ();
    fn run(self, _: &Vm) -> Result<()> {
        // What it means is the session's matter.
        _ = self.enable;
        Ok(())
    }
}

/// A version in three numbers.
#[derive(Qapi)]
pub struct Version {
    /// Third number.
    micro: i64,
    /// Second number.
    minor: i64,
    /// First number.
    major: i64,
}

/// The version of the emulator.
#[derive(Qapi)]
pub struct VersionInfo {
    /// The version of QEMU whose interface this is.
    qemu: Version,
    /// What this program is.
    package: String,
}

/// The version that is announced.
pub fn version() -> VersionInfo {
    VersionInfo {
        qemu: Version { micro: 2, minor: 0, major: 10 },
        package: format!("Tinamou {}", env!("CARGO_PKG_VERSION")),
    }
}

/// Tell the version.
#[derive(Qapi)]
pub(super) struct QueryVersion;

impl QmpCommand for QueryVersion {
    const NAME: &'static str = "query-version";
    type Returns = VersionInfo;
    fn run(self, _: &Vm) -> Result<VersionInfo> {
        Ok(version())
    }
}

/// A command's name.
#[derive(Qapi)]
pub(super) struct CommandInfo {
    /// The name.
    name: String,
}

/// List the commands.
#[derive(Qapi)]
pub(super) struct QueryCommands;

impl QmpCommand for QueryCommands {
    const NAME: &'static str = "query-commands";
    type Returns = Vec<CommandInfo>;
    fn run(self, _: &Vm) -> Result<Vec<CommandInfo>> {
        Ok(COMMANDS.iter().map(|command| CommandInfo { name: command.name.into() }).collect())
    }
}

/// The kind of a schema entry.
#[derive(Qapi)]
#[qapi(name = "SchemaMetaType")]
pub(super) enum MetaType {
    /// A built-in type.
    Builtin,
    /// One of several words.
    Enum,
    /// A list.
    Array,
    /// An object.
    Object,
    /// One of several types.
    Alternate,
    /// A command.
    Command,
    /// An event.
    Event,
}

/// An entry of the schema; its members depend on `meta-type`.
#[derive(Qapi)]
pub(super) struct SchemaInfo {
    /// The name; a number for types that are not built in.
    name: String,
    /// The kind of entry.
    meta_type: MetaType,
    #[qapi(rest)]
    rest: Value,
}

/// Describe all commands, events and their types.
#[derive(Qapi)]
pub(super) struct QueryQmpSchema;

impl QmpCommand for QueryQmpSchema {
    const NAME: &'static str = "query-qmp-schema";
    type Returns = Vec<SchemaInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<SchemaInfo>> {
        let backends = chardev::CLASSES.iter().map(|class| (class.name, class.args)).collect();
        let objects = vm.listing.objects.iter().map(|class| (class.name, class.props)).collect();
        let mut schema = Schema::new([("chardev", backends), ("object", objects)].into());
        for command in COMMANDS {
            let types = (command.args, command.returns);
            schema.command(command.name, types, command.oob, command.features);
        }
        for (name, data) in EVENTS {
            schema.event(name, *data);
        }
        Vec::from_value(schema.finish(), qapi::Source::Json)
    }
}

/// The name of the guest.
#[derive(Qapi)]
pub(super) struct NameInfo {
    /// The name, if it has one.
    name: Option<String>,
}

/// Tell the name of the guest.
#[derive(Qapi)]
pub(super) struct QueryName;

impl QmpCommand for QueryName {
    const NAME: &'static str = "query-name";
    type Returns = NameInfo;
    fn run(self, vm: &Vm) -> Result<NameInfo> {
        Ok(NameInfo { name: vm.config.name.clone() })
    }
}

/// The UUID of the guest.
#[derive(Qapi)]
pub(super) struct UuidInfo {
    /// The UUID; all zeros if it has none.
    #[qapi(name = "UUID")]
    uuid: String,
}

/// Tell the UUID of the guest.
#[derive(Qapi)]
pub(super) struct QueryUuid;

impl QmpCommand for QueryUuid {
    const NAME: &'static str = "query-uuid";
    type Returns = UuidInfo;
    fn run(self, vm: &Vm) -> Result<UuidInfo> {
        Ok(UuidInfo { uuid: uuid_text(vm.config.uuid.unwrap_or_default()) })
    }
}

/// Run a line of the human monitor and return its output.
#[derive(Qapi)]
pub(super) struct HumanMonitorCommand {
    /// The line.
    command_line: String,
    /// CPU that commands about CPUs mean.
    cpu_index: Option<i64>,
}

impl QmpCommand for HumanMonitorCommand {
    const NAME: &'static str = "human-monitor-command";
    type Returns = String;
    fn run(self, vm: &Vm) -> Result<String> {
        if let Some(index) = self.cpu_index
            && !vm.execution().cpus().iter().any(|cpu| i64::from(cpu.index) == index)
        {
            return Err(Error::expects("cpu-index", "a CPU number"));
        }
        vm.human(&self.command_line)
    }
}

/// The type of a command line parameter.
#[derive(Clone, Copy, PartialEq, Qapi)]
#[qapi(name = "CommandLineParameterType")]
pub(super) enum ParameterType {
    /// Text.
    String,
    /// On or off.
    Boolean,
    /// A number.
    Number,
    /// A number of bytes.
    Size,
}

/// A parameter of a command line option.
#[derive(Qapi)]
pub(super) struct CommandLineParameterInfo {
    /// The name.
    name: String,
    /// One line about it.
    help: Option<String>,
    /// The type.
    r#type: ParameterType,
}

/// A command line option.
#[derive(Qapi)]
pub(super) struct CommandLineOptionInfo {
    /// Its parameters.
    parameters: Vec<CommandLineParameterInfo>,
    /// The option without its dash.
    option: String,
}

/// List command line options with their parameters.
#[derive(Qapi)]
pub(super) struct QueryCommandLineOptions {
    /// Only this option.
    option: Option<String>,
}

impl QmpCommand for QueryCommandLineOptions {
    const NAME: &'static str = "query-command-line-options";
    type Returns = Vec<CommandLineOptionInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<CommandLineOptionInfo>> {
        let wanted = |group: &&OptionGroup| self.option.as_ref().is_none_or(|o| o == group.name);
        let found: Vec<_> = vm.listing.options.iter().filter(wanted).map(option_info).collect();
        match self.option {
            Some(option) if found.is_empty() => {
                Err(Error::generic(format!("invalid option name: {option}")))
            }
            _ => Ok(found),
        }
    }
}

fn option_info(group: &OptionGroup) -> CommandLineOptionInfo {
    let parameters = group.parameters.iter().map(|parameter| CommandLineParameterInfo {
        name: parameter.name.into(),
        help: Some(parameter.help.into()).filter(|help: &String| !help.is_empty()),
        r#type: match parameter.kind {
            "boolean" => ParameterType::Boolean,
            "number" => ParameterType::Number,
            "size" => ParameterType::Size,
            _ => ParameterType::String,
        },
    });
    CommandLineOptionInfo { parameters: parameters.collect(), option: group.name.into() }
}
