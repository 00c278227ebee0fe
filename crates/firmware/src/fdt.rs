//! Flattened device trees: a thin layer over `dtoolkit`.

use dtoolkit::fdt::Fdt as Flat;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node as _, Property as _};

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prop {
    /// Present without a value.
    Empty,
    /// 32-bit cells.
    Cells(Vec<u32>),
    /// One 64-bit number as two cells.
    U64(u64),
    /// One string.
    Str(String),
    /// A list of strings.
    Strs(Vec<String>),
    /// Bytes as they are.
    Bytes(Vec<u8>),
}

impl Prop {
    /// One cell.
    #[must_use]
    pub fn cell(value: u32) -> Prop {
        Prop::Cells(vec![value])
    }

    /// 64-bit numbers as two cells each: addresses and sizes of `reg`.
    #[must_use]
    pub fn reg(values: &[u64]) -> Prop {
        Prop::Bytes(values.iter().flat_map(|v| v.to_be_bytes()).collect())
    }

    /// One string.
    #[must_use]
    pub fn str(value: &str) -> Prop {
        Prop::Str(value.to_owned())
    }

    /// A list of strings.
    #[must_use]
    pub fn strs(values: &[&str]) -> Prop {
        Prop::Strs(values.iter().map(|v| (*v).to_owned()).collect())
    }

    fn bytes(&self) -> Vec<u8> {
        let terminated = |s: &String| s.bytes().chain([0]).collect::<Vec<u8>>();
        match self {
            Prop::Empty => Vec::new(),
            Prop::Cells(cells) => cells.iter().flat_map(|c| c.to_be_bytes()).collect(),
            Prop::U64(value) => value.to_be_bytes().to_vec(),
            Prop::Str(s) => terminated(s),
            Prop::Strs(list) => list.iter().flat_map(terminated).collect(),
            Prop::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// Why a device tree could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a device tree: {0}")]
pub struct FdtError(String);

/// A device tree in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fdt {
    tree: DeviceTree,
}

impl Default for Fdt {
    fn default() -> Fdt {
        Fdt::new()
    }
}

impl Fdt {
    /// A tree with an empty root.
    #[must_use]
    pub fn new() -> Fdt {
        Fdt { tree: DeviceTree::new() }
    }

    /// Reads a flattened tree; bytes beyond its stated size are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Fdt, FdtError> {
        let flat = Flat::new(bytes).map_err(|e| FdtError(e.to_string()))?;
        Ok(Fdt { tree: DeviceTree::from_fdt(&flat) })
    }

    /// The flattened form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.tree.to_dtb()
    }

    /// Makes sure that a node and its parents exist.
    pub fn node(&mut self, path: &str) {
        self.at(path);
    }

    fn at(&mut self, path: &str) -> &mut DeviceTreeNode {
        let mut node = &mut self.tree.root;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            if node.child(name).is_none() {
                node.add_child(DeviceTreeNode::new_unchecked(name));
            }
            // It is there now; the detour is for the borrow checker.
            node = match node.child_mut(name) {
                Some(child) => child,
                None => unreachable!("the child was just added"),
            };
        }
        node
    }

    /// Sets a property, making nodes on the way.
    #[expect(clippy::needless_pass_by_value, reason = "built for the call")]
    pub fn set(&mut self, path: &str, name: &str, value: Prop) {
        let node = self.at(path);
        let bytes = value.bytes();
        match node.property_mut(name) {
            Some(old) => old.set_value(bytes),
            None => node.add_property(DeviceTreeProperty::new_unchecked(name, bytes)),
        }
    }

    /// A property's bytes.
    #[must_use]
    pub fn get(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let node = self.tree.find_node(path)?;
        Some(node.property(name)?.value().to_vec())
    }

    /// Whether a node exists.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.tree.find_node(path).is_some()
    }

    /// Every node's path and its properties, in the tree's order.
    #[must_use]
    pub fn entries(&self) -> Entries {
        let mut out = Vec::new();
        collect(&self.tree.root, String::new(), &mut out);
        out
    }
}

/// Paths with the properties of their nodes.
pub type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;

fn collect(node: &DeviceTreeNode, path: String, out: &mut Entries) {
    let properties = node.properties().map(|p| (p.name().to_owned(), p.value().to_vec())).collect();
    let prefix = path.clone();
    out.push((if path.is_empty() { "/".to_owned() } else { path }, properties));
    for child in node.children() {
        collect(child, format!("{prefix}/{}", child.name()), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_survives_flattening() {
        let mut t = Fdt::new();
        t.set("/", "#address-cells", Prop::cell(2));
        t.set("/memory@40000000", "reg", Prop::reg(&[0x4000_0000, 0x1000]));
        t.set("/chosen", "bootargs", Prop::str("console=ttyAMA0"));
        t.set("/chosen", "compatible", Prop::strs(&["a", "b"]));
        t.set("/chosen", "seed", Prop::U64(7));
        t.set("/chosen", "bootargs", Prop::str("x"));
        t.set("/chosen", "on", Prop::Empty);
        let back = Fdt::parse(&t.to_bytes()).unwrap();
        assert_eq!(back.entries(), t.entries());
        assert_eq!(back.get("/chosen", "bootargs").unwrap(), b"x\0");
        assert_eq!(back.get("/chosen", "compatible").unwrap(), b"a\0b\0");
        assert!(back.has("/memory@40000000") && !back.has("/cpus"));
    }

    #[test]
    fn broken_trees_are_refused() {
        let good = Fdt::new().to_bytes();
        assert!(Fdt::parse(b"").is_err());
        assert!(Fdt::parse(b"\xd0\x0d\xfe\xed").is_err());
        for len in 0..good.len() {
            let _ = Fdt::parse(&good[..len]);
        }
        let mut t = Fdt::new();
        t.set("/a/b/c", "reg", Prop::reg(&[1, 2]));
        let good = t.to_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            if let Ok(t) = Fdt::parse(&bad) {
                let _ = t.entries();
            }
        }
    }
}
