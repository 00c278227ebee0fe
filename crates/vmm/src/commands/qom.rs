//! Commands about the object tree and user-made objects.

use derive::Qapi;
use qapi::{Class, Error, Kind, Result, Source, TypeInfo, Value};

use super::QmpCommand;
use crate::{Vm, qom};

/// A property of an object.
#[derive(Qapi)]
pub(super) struct ObjectPropertyInfo {
    /// The name.
    pub(super) name: String,
    /// The type.
    pub(super) r#type: String,
    /// What it is for.
    pub(super) description: Option<String>,
    /// The default.
    pub(super) default_value: Option<Value>,
}

/// List the properties of an object of the tree.
#[derive(Qapi)]
pub(super) struct QomList {
    /// Its path.
    path: String,
}

impl QmpCommand for QomList {
    const NAME: &'static str = "qom-list";
    type Returns = Vec<ObjectPropertyInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<ObjectPropertyInfo>> {
        let node = qom::find(qom::tree(vm), &self.path)?;
        let info = |(name, kind): (&str, String)| ObjectPropertyInfo {
            name: name.into(),
            r#type: kind,
            description: None,
            default_value: None,
        };
        Ok(node.all_properties().into_iter().map(info).collect())
    }
}

fn no_property(node: &qom::Node, name: &str) -> Error {
    Error::generic(format!("Property '{}.{name}' not found", node.kind))
}

/// Read a property of an object.
#[derive(Qapi)]
pub(super) struct QomGet {
    /// Path of the object.
    path: String,
    /// The property.
    property: String,
}

impl QmpCommand for QomGet {
    const NAME: &'static str = "qom-get";
    type Returns = Value;
    fn run(self, vm: &Vm) -> Result<Value> {
        let node = qom::find(qom::tree(vm), &self.path)?;
        if self.property == "type" {
            return Ok(Value::from(node.kind.as_str()));
        }
        if node.children.iter().any(|c| c.name == self.property) {
            let path = self.path.trim_end_matches('/');
            return Ok(Value::Str(format!("{path}/{}", self.property)));
        }
        let found = node.properties.iter().find(|p| p.name == self.property);
        found.map(|p| p.value.clone()).ok_or_else(|| no_property(&node, &self.property))
    }
}

/// Change a property of an object.
#[derive(Qapi)]
pub(super) struct QomSet {
    /// Path of the object.
    path: String,
    /// The property.
    property: String,
    /// The new value.
    value: Value,
}

impl QmpCommand for QomSet {
    const NAME: &'static str = "qom-set";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let node = qom::find(qom::tree(vm), &self.path)?;
        let name = &self.property;
        if !node.all_properties().iter().any(|(known, _)| known == name) {
            return Err(no_property(&node, name));
        }
        // A path may be the end of one.
        let end = (!self.path.starts_with('/')).then_some(node.name.as_str());
        let object = self.path.strip_prefix("/objects/").or(end);
        let setter = object.and_then(|id| vm.objects.find(id)?.ability::<device::Setter>());
        if let Some(device::Setter(set)) = setter
            && set(name, &self.value)?
        {
            return Ok(());
        }
        let device = node.properties.iter().any(|p| p.name == "realized");
        let own = !matches!(name.as_str(), "type" | "hotplugged" | "hotpluggable" | "parent_bus");
        let own = own && node.properties.iter().any(|p| p.name == *name);
        Err(Error::generic(if device && own {
            format!(
                "Attempt to set property '{name}' on device '{}' (type '{}') after it was realized",
                node.name, node.kind
            )
        } else {
            "Insufficient permission to perform this operation".into()
        }))
    }
}

/// List the properties of a type.
#[derive(Qapi)]
pub(super) struct QomListProperties {
    /// The type.
    typename: String,
}

/// The properties of a type, and whether they are those of a class (machines, objects).
fn type_properties(vm: &Vm, name: &str) -> Option<(&'static TypeInfo, bool)> {
    if let Some(class) = vm.listing.device(name) {
        return Some(((class.props)(), false));
    }
    if let Some(class) = vm.listing.object(name) {
        return Some(((class.props)(), true));
    }
    if let Some(machine) = name.strip_suffix("-machine").and_then(|m| vm.listing.machine(m)) {
        return Some(((machine.props)(), true));
    }
    let suffix = format!("-{}-cpu", vm.listing.cpu_suffix());
    let cpu = name.strip_suffix(&suffix)?;
    let cpu = vm.listing.cpus.iter().find(|known| known.name == cpu)?;
    Some(((cpu.props)(), false))
}

impl QmpCommand for QomListProperties {
    const NAME: &'static str = "qom-list-properties";
    type Returns = Vec<ObjectPropertyInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<ObjectPropertyInfo>> {
        let Some((info, class_property)) = type_properties(vm, &self.typename) else {
            let text = format!("Class '{}' not found", self.typename);
            return Err(Error::new(Class::DeviceNotFound, text));
        };
        let mut list = vec![ObjectPropertyInfo {
            name: "type".into(),
            r#type: "string".into(),
            description: None,
            default_value: None,
        }];
        for member in info.members() {
            list.push(ObjectPropertyInfo {
                name: member.name.into(),
                r#type: qom::kind_name((member.ty)(), class_property),
                description: Some(member.doc.trim_end_matches('.').to_owned())
                    .filter(|doc| !doc.is_empty()),
                default_value: None,
            });
        }
        Ok(list)
    }
}

/// Make an object: its type, its id, and the properties of the type beside them.
pub(super) struct ObjectAdd {
    qom_type: String,
    id: String,
    props: Value,
}

impl qapi::Qapi for ObjectAdd {
    fn type_info() -> &'static TypeInfo {
        static ID: [qapi::Member; 1] = [qapi::Member {
            name: "id",
            doc: "Its id.",
            ty: <String as qapi::Qapi>::type_info,
            default: None,
            optional: false,
            flatten: false,
            features: &[],
        }];
        static INFO: TypeInfo = TypeInfo {
            name: "ObjectOptions",
            doc: "Make an object.",
            kind: Kind::OpenUnion { tag: "qom-type", base: &ID, family: "object" },
        };
        &INFO
    }

    fn from_value(mut value: Value, source: Source) -> Result<Self> {
        let mut word = |name: &str| match value.take(name) {
            Some(word) => {
                <String as qapi::Qapi>::from_value(word, source).map_err(|e| e.within(name))
            }
            None => Err(Error::missing(name)),
        };
        let (qom_type, id) = (word("qom-type")?, word("id")?);
        Ok(Self { qom_type, id, props: value })
    }

    fn to_value(&self) -> Value {
        let mut value = self.props.clone();
        value.set("qom-type", Value::from(self.qom_type.as_str()));
        value.set("id", Value::from(self.id.as_str()));
        value
    }
}

/// Makes an object from its type, id and properties.
///
/// # Errors
/// What the command `object-add` says.
pub fn add_object(vm: &Vm, kind: &str, id: &str, props: Value, source: Source) -> Result<()> {
    let Some(class) = vm.listing.object(kind) else {
        let names = vm.listing.objects.iter().map(|class| class.name);
        return Err(Error::not_accepted("qom-type", kind, names));
    };
    if !qapi::keyval::is_identifier(id) {
        return Err(Error::expects("id", "an identifier"));
    }
    for (name, _) in props.as_map().unwrap_or(&[]) {
        if !(class.props)().has_member(name) {
            return Err(Error::unexpected(name));
        }
    }
    vm.objects.add(class, id, props, source)
}

impl QmpCommand for ObjectAdd {
    const NAME: &'static str = "object-add";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        add_object(vm, &self.qom_type, &self.id, self.props, Source::Json)
    }
}

/// Delete an object that nothing uses.
#[derive(Qapi)]
pub(super) struct ObjectDel {
    /// Its id.
    id: String,
}

impl QmpCommand for ObjectDel {
    const NAME: &'static str = "object-del";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.objects.remove(&self.id)
    }
}

/// A type.
#[derive(Qapi)]
pub(super) struct ObjectTypeInfo {
    /// The name.
    name: String,
    /// Cannot be created itself.
    r#abstract: Option<bool>,
    /// The type it builds on.
    parent: Option<String>,
}

/// List the types that exist: devices, machines, CPU models, objects.
#[derive(Qapi)]
pub(super) struct QomListTypes {
    /// Only types that build on this one.
    implements: Option<String>,
    /// Also types that cannot be created themselves.
    r#abstract: Option<bool>,
}

/// Types that cannot be created, with the one each builds on.
const ABSTRACT: &[(&str, &str)] = &[
    ("accel", "object"),
    ("cpu", "device"),
    ("device", "object"),
    ("machine", "object"),
    ("pci-device", "device"),
    ("sys-bus-device", "device"),
    ("user-creatable", "interface"),
    ("virtio-device", "device"),
    ("virtio-serial-port", "device"),
    ("memory-backend", "object"),
    ("rng-backend", "object"),
    ("secret_common", "object"),
    ("event-loop-base", "object"),
];

fn object_parent(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("rng-") => "rng-backend",
        _ if name.starts_with("memory-backend-") => "memory-backend",
        _ if name.starts_with("secret") => "secret_common",
        "iothread" | "main-loop" => "event-loop-base",
        _ => "object",
    }
}

/// Every type with its parents, nearest first.
fn types(vm: &Vm) -> Vec<(String, Vec<&'static str>)> {
    let mut types: Vec<(String, Vec<&'static str>)> = Vec::new();
    for class in &vm.listing.devices {
        types.push((class.name.into(), vec![super::devices::bus_type(class), "device"]));
    }
    for machine in &vm.listing.machines {
        types.push((format!("{}-machine", machine.name), vec!["machine"]));
    }
    let suffix = vm.listing.cpu_suffix();
    for cpu in &vm.listing.cpus {
        let own = if suffix == "arm" { "arm-cpu" } else { "riscv-cpu" };
        types.push((format!("{}-{suffix}-cpu", cpu.name), vec![own, "cpu", "device"]));
    }
    for accel in &vm.listing.accels {
        types.push((format!("{accel}-accel"), vec!["accel"]));
    }
    for class in &vm.listing.objects {
        types.push((class.name.into(), vec![object_parent(class.name), "user-creatable"]));
    }
    types
}

/// Whether there is a type of this name at all.
pub(super) fn is_type(vm: &Vm, name: &str) -> bool {
    name == "container"
        || ABSTRACT.iter().any(|(known, _)| *known == name)
        || types(vm).iter().any(|(known, _)| known == name)
}

impl QmpCommand for QomListTypes {
    const NAME: &'static str = "qom-list-types";
    type Returns = Vec<ObjectTypeInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<ObjectTypeInfo>> {
        let wanted = |name: &str, parents: &[&str]| {
            self.implements.as_ref().is_none_or(|wanted| {
                wanted == "object" || wanted == name || parents.contains(&wanted.as_str())
            })
        };
        let mut list: Vec<ObjectTypeInfo> = types(vm)
            .into_iter()
            .filter(|(name, parents)| wanted(name, parents))
            .map(|(name, parents)| ObjectTypeInfo {
                name,
                r#abstract: None,
                parent: parents.first().map(|parent| (*parent).to_owned()),
            })
            .collect();
        if self.r#abstract == Some(true) {
            let hidden = ABSTRACT.iter().filter(|(name, parent)| wanted(name, &[parent]));
            list.extend(hidden.map(|(name, parent)| ObjectTypeInfo {
                name: (*name).into(),
                r#abstract: Some(true),
                parent: Some((*parent).into()),
            }));
        }
        Ok(list)
    }
}

/// The default of a property as a value of its type.
pub(super) fn default_value(kind: &Kind, text: &str) -> Value {
    let number = match kind {
        Kind::Bool => return Value::Bool(text == "on"),
        Kind::Int => qapi::parse_int(text),
        Kind::Size => qapi::parse_size(text, 1).map(i128::from),
        _ => None,
    };
    match number {
        Some(number) => match i64::try_from(number) {
            Ok(number) => Value::Int(number),
            Err(_) => u64::try_from(number).map_or(Value::Null, Value::Uint),
        },
        None => Value::from(text),
    }
}
