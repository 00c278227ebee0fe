//! The object tree that `qom-list`, `qom-get` and `info qom-tree` show.
//!
//! It is built when somebody asks, from what is there: the machine's class and
//! properties, the record of each device, user-made objects, character back ends.
//! Paths are QEMU's: `/machine/peripheral/ID` for devices with an id,
//! `/machine/peripheral-anon/device[n]` for those without,
//! `/machine/unattached/device[n]` for what the board made, CPUs first.
//! Not here: interrupt pins (`irq` objects) and the back-end child of virtio-pci
//! devices. Source: the observable behaviour of QEMU 10.0.2.

use device::Record;
use qapi::{Class, Error, Kind, Result, TypeInfo, Value};

use crate::Vm;

/// A property of a node.
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its type, `child<…>` and `link<…>` included.
    pub kind: String,
    /// Its value.
    pub value: Value,
}

/// An object.
pub struct Node {
    /// Last part of its path.
    pub name: String,
    /// Type of the object.
    pub kind: String,
    /// Properties besides `type` and children.
    pub properties: Vec<Property>,
    /// Its children.
    pub children: Vec<Node>,
}

impl Node {
    fn new(name: &str, kind: &str) -> Node {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        Node { name, kind, properties: Vec::new(), children: Vec::new() }
    }

    fn container(name: &str, children: Vec<Node>) -> Node {
        Node { children, ..Node::new(name, "container") }
    }

    /// All properties: `type`, its own, then one per child.
    pub fn all_properties(&self) -> Vec<(&str, String)> {
        let mut all = vec![("type", "string".to_owned())];
        all.extend(self.properties.iter().map(|p| (p.name.as_str(), p.kind.clone())));
        all.extend(self.children.iter().map(|c| (c.name.as_str(), format!("child<{}>", c.kind))));
        all
    }
}

/// A property's type as `qom-list` names it; the machine and objects say `string`.
pub(crate) fn kind_name(info: &TypeInfo, class_property: bool) -> String {
    match info.kind {
        Kind::Str if class_property => "string".into(),
        _ => info.name.to_owned(),
    }
}

fn properties(info: &TypeInfo, values: &Value, class_property: bool) -> Vec<Property> {
    let one = |member: &&'static qapi::Member| {
        let ty = (member.ty)();
        let value = values.get(member.name).cloned().unwrap_or_else(|| match ty.kind {
            Kind::Bool => Value::Bool(member.default == Some("on")),
            Kind::Int | Kind::Size | Kind::Number => Value::Int(0),
            _ => Value::from(member.default.unwrap_or_default()),
        });
        Property { name: member.name.into(), kind: kind_name(ty, class_property), value }
    };
    info.members().iter().map(one).collect()
}

fn plain(name: &str, kind: &str, value: Value) -> Property {
    Property { name: name.into(), kind: kind.into(), value }
}

/// The whole tree.
pub fn tree(vm: &Vm) -> Node {
    let objects = vm.objects.all();
    let objects = objects.iter().map(|object| {
        let mut properties = properties((object.class.props)(), &object.props, true);
        if let Some(device::Getter(get)) = object.ability() {
            for property in &mut properties {
                if let Some(value) = get(&property.name) {
                    property.value = value;
                }
            }
        }
        Node { properties, ..Node::new(&object.id, object.class.name) }
    });
    let chardevs = vm.chardevs.list();
    let chardevs = chardevs.iter().map(|c| {
        let kind = vm.chardevs.kind(&c.label).unwrap_or_default();
        Node::new(&c.label, &format!("chardev-{kind}"))
    });
    let mut children = vec![Node::container("backend", Vec::new())];
    children.extend(machine(vm));
    children.push(Node::container("objects", objects.collect()));
    children.push(Node::container("chardevs", chardevs.collect()));
    Node::container("", children)
}

fn machine(vm: &Vm) -> Option<Node> {
    let machine = vm.machine()?;
    let listing = vm.listing.machine(&machine.name);
    let mut node = Node::new("machine", &format!("{}-machine", machine.name));
    if let Some(listing) = listing {
        node.properties = properties((listing.props)(), &machine.props, true);
    }
    let all = machine.devices.all();
    let plugged = || all.iter().filter(|r| r.parent.is_some());
    let board = all.iter().filter(|r| r.parent.is_none());
    let suffix = vm.listing.cpu_suffix();
    let mut unattached: Vec<Node> = Vec::new();
    for cpu in vm.execution().cpus() {
        let kind = format!("{}-{suffix}-cpu", machine.cpu_model);
        unattached.push(Node::new(&format!("device[{}]", cpu.index), &kind));
    }
    for record in board {
        if let Some(name) = own_name(record) {
            node.children.push(device(name, record));
        } else {
            let name = format!("device[{}]", unattached.len());
            unattached.push(device(&name, record));
        }
    }
    let named = plugged().filter(|r| !r.id.contains('[')).map(|r| device(&r.id, r)).collect();
    let anonymous = plugged().filter(|r| r.id.contains('[')).enumerate();
    let anonymous = anonymous.map(|(at, r)| device(&format!("device[{at}]"), r)).collect();
    node.children.push(Node::container("peripheral", named));
    node.children.push(Node::container("peripheral-anon", anonymous));
    node.children.push(Node::container("unattached", unattached));
    link_buses(&mut node);
    Some(node)
}

/// Board devices that are children of the machine itself.
fn own_name(record: &Record) -> Option<&str> {
    match record.class.name {
        "fw_cfg_mem" => Some("fw_cfg"),
        "cfi.pflash01" => Some(&record.id),
        _ => None,
    }
}

fn device(name: &str, record: &Record) -> Node {
    let mut node = Node::new(name, record.class.name);
    let bus = record.parent.clone().unwrap_or_default();
    node.properties.push(plain("parent_bus", "link<bus>", Value::Str(bus)));
    node.properties.push(plain("realized", "bool", Value::Bool(true)));
    node.properties.push(plain("hotplugged", "bool", Value::Bool(false)));
    node.properties.push(plain("hotpluggable", "bool", Value::Bool(record.parent.is_some())));
    node.properties.extend(properties((record.class.props)(), &record.props, false));
    for bus in &record.buses {
        node.children.push(Node::new(bus.name(), bus.kind().type_name()));
    }
    for region in &record.regions {
        let same =
            |c: &&Node| c.name.strip_suffix(']').is_some_and(|n| n.starts_with(region.name()));
        let number = node.children.iter().filter(same).count();
        let name = format!("{}[{number}]", region.name());
        node.children.push(Node::new(&name, "memory-region"));
    }
    node
}

/// Gives `parent_bus` the path of the bus in place of its name.
fn link_buses(machine: &mut Node) {
    let mut buses = Vec::new();
    for (at, parent) in [("/machine", &*machine)]
        .into_iter()
        .chain(machine.children.iter().filter(|c| c.kind == "container").map(|c| ("", c)))
    {
        for device in &parent.children {
            let path = match at {
                "" => format!("/machine/{}/{}", parent.name, device.name),
                at => format!("{at}/{}", device.name),
            };
            let inner = device.children.iter().filter(|c| c.kind != "memory-region");
            buses.extend(inner.map(|bus| (bus.name.clone(), format!("{path}/{}", bus.name))));
        }
    }
    let set = |device: &mut Node| {
        for property in device.properties.iter_mut().filter(|p| p.name == "parent_bus") {
            let name = property.value.as_str().unwrap_or_default();
            if let Some((_, path)) = buses.iter().find(|(bus, _)| bus == name) {
                property.value = Value::from(path.as_str());
            }
        }
    };
    machine.children.iter_mut().flat_map(|c| &mut c.children).for_each(set);
}

/// Finds a node by absolute path, or by an unambiguous end of one.
///
/// # Errors
/// No such object; or several.
pub fn find(root: Node, path: &str) -> Result<Node> {
    let missing = || Error::new(Class::DeviceNotFound, format!("Device '{path}' not found"));
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if path.starts_with('/') {
        return descend(root, &parts).ok_or_else(missing);
    }
    let mut found = Vec::new();
    if !parts.is_empty() {
        collect(root, &parts, &mut found);
    }
    if found.len() > 1 {
        return Err(Error::generic(format!("Path '{path}' is ambiguous")));
    }
    found.pop().ok_or_else(missing)
}

fn descend(node: Node, parts: &[&str]) -> Option<Node> {
    let Some((first, rest)) = parts.split_first() else { return Some(node) };
    let child = node.children.into_iter().find(|c| c.name == *first)?;
    descend(child, rest)
}

fn collect(node: Node, parts: &[&str], found: &mut Vec<Node>) {
    if holds(&node, parts)
        && let Some(hit) = {
            let copy = shallow(&node);
            descend(copy, parts)
        }
    {
        found.push(hit);
    }
    for child in node.children {
        collect(child, parts, found);
    }
}

fn holds(node: &Node, parts: &[&str]) -> bool {
    let Some((first, rest)) = parts.split_first() else { return true };
    node.children.iter().find(|c| c.name == *first).is_some_and(|c| holds(c, rest))
}

fn shallow(node: &Node) -> Node {
    let property = |p: &Property| plain(&p.name, &p.kind, p.value.clone());
    Node {
        name: node.name.clone(),
        kind: node.kind.clone(),
        properties: node.properties.iter().map(property).collect(),
        children: node.children.iter().map(shallow).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Node {
        let leaf = |name| Node::new(name, "leaf");
        Node::container(
            "",
            vec![
                Node::container("a", vec![leaf("x"), leaf("y")]),
                Node::container("b", vec![leaf("x")]),
            ],
        )
    }

    #[test]
    fn paths_are_absolute_or_unambiguous_ends() {
        let name = |path| find(sample(), path).map(|n| n.name).map_err(|e| e.desc);
        assert_eq!(name("/a/y"), Ok("y".into()));
        assert_eq!(name("y"), Ok("y".into()));
        assert_eq!(name("b/x"), Ok("x".into()));
        assert_eq!(name("/"), Ok(String::new()));
        assert_eq!(name("x"), Err("Path 'x' is ambiguous".into()));
        assert_eq!(name("/a/z"), Err("Device '/a/z' not found".into()));
        assert_eq!(name(""), Err("Device '' not found".into()));
    }
}
