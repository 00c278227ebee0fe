//! A node while it is opened: its options, and its children by role.
//!
//! Drivers take their options and children from an [`Opening`]; what nobody took is a mistake. The
//! backing file comes from the option, or from the image's own words, of which options may say
//! some anew.
//! Source: QEMU's manual, `-blockdev`.

use std::fs::File;
use std::io;
use std::sync::Arc;

use qapi::{Error, Result, Source, Value};

use crate::driver::{BlockClass, Keys};
use crate::graph::{Flags, Graph, relative_to};
use crate::names::is_whole;
use crate::node::{Child, Link, Node, Threshold, Use};

/// A node while it is opened.
pub struct Opening<'a> {
    pub(crate) graph: &'a Graph,
    /// The class.
    pub class: &'static BlockClass,
    /// Options nobody took yet.
    pub options: Value,
    /// Where they come from.
    pub source: Source,
    /// Set to the file that the node comes from.
    pub filename: String,
    pub(crate) opened_backing: Option<(String, String)>,
    pub(crate) flags: Flags,
    pub(crate) depth: usize,
    /// No writes.
    pub read_only: bool,
    pub(crate) auto_read_only: bool,
    pub(crate) force_share: bool,
    pub(crate) no_flush: bool,
    pub(crate) direct: bool,
    pub(crate) children: Vec<(&'static str, Arc<Link>)>,
    pub(crate) threshold: Arc<Threshold>,
    pub(crate) name: String,
    /// Its place in lists, once the file below is open.
    pub(crate) born: Option<u64>,
}

impl Opening<'_> {
    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens or finds the child of a role; the format writes to it if the node is writable.
    ///
    /// # Errors
    /// It is missing, or cannot be opened or used.
    pub fn child(&mut self, role: &'static str) -> Result<Child> {
        let given = self.options.take(role).ok_or_else(|| {
            Error::generic(format!("A block device must be specified for \"{role}\""))
        })?;
        let node = self.open_child(given, self.flags_of_file())?;
        // A node below that could be opened for reading only makes this one so.
        self.read_only |= node.is_read_only() && self.auto_read_only;
        let how = Use { writes: !self.read_only, shares_write: self.force_share };
        self.keep(role, &node, how)
    }

    /// Another node of the graph.
    pub(crate) fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.graph.find(name)
    }

    fn flags_of_file(&self) -> Flags {
        Flags { read_only: self.read_only, ..self.flags }
    }

    fn keep(&mut self, role: &'static str, node: &Arc<Node>, how: Use) -> Result<Child> {
        let user = used_by(&self.name, node, role);
        let child = if self.class.passes_on() {
            node.hold_unchecked(&user, how)
        } else {
            node.hold(&user, how)?
        };
        self.children.push((role, child.link()));
        Ok(child)
    }

    fn open_child(&self, given: Value, flags: Flags) -> Result<Arc<Node>> {
        match given {
            Value::Str(name) => self.graph.find(&name).ok_or_else(|| not_found(&name)),
            value => self.graph.open_at(value, self.source, flags, self.depth + 1),
        }
    }

    /// Opens the backing file: from the option, else from the image's own words.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn backing(&mut self, named: Option<(String, Option<String>)>) -> Result<Option<Child>> {
        let given = self.options.take("backing");
        self.born = Some(self.graph.number());
        let flags = Flags { read_only: true, unmap: false, ..self.flags };
        let node = match given {
            Some(Value::Null) => return Ok(None),
            Some(Value::Str(name)) if name.is_empty() => return Ok(None),
            // Nobody takes them where no backing files are opened.
            Some(more @ Value::Map(_)) if self.flags.no_backing && self.flags.header_only => {
                let mut names = Vec::new();
                crate::called::flat("backing", &more, &mut names);
                let name = names.first().map_or("backing", |(name, _)| name.as_str());
                self.options.set(name, Value::Null);
                return Ok(None);
            }
            Some(Value::Map(_)) if self.flags.no_backing => return Ok(None),
            Some(value) if is_whole(&value) => {
                let prefix =
                    if value.as_map().is_some() { "Could not open backing file: " } else { "" };
                self.open_child(value, flags).map_err(|error| error.prefixed(prefix))?
            }
            None if self.flags.no_backing => return Ok(None),
            // Some options of the file that the image names.
            more => {
                let Some((file, format)) = named else {
                    let text = "Could not open backing file: Must specify either driver or file";
                    return if more.is_some() { Err(Error::generic(text)) } else { Ok(None) };
                };
                let path = relative_to(&self.filename, &file);
                let failed = |e: Error| e.prefixed("Could not open backing file: ");
                let is_own = more.is_none();
                let source = if is_own { Source::Json } else { self.source };
                let options = self.graph.image_options(&path, format.as_deref(), flags);
                let node = options
                    .map(|options| crate::names::with(options, more.unwrap_or_else(Value::empty)))
                    .and_then(|o| self.graph.open_at(o, source, flags, self.depth + 1))
                    .map_err(failed)?;
                if is_own {
                    self.opened_backing = Some((file, node.filename()));
                }
                node
            }
        };
        let how = Use { writes: false, shares_write: self.force_share };
        self.keep("backing", &node, how).map(Some)
    }

    /// Opens or finds a child that is written though this node itself may be read-only.
    ///
    /// # Errors
    /// It cannot be opened, used or written.
    pub fn writable_child(&mut self, role: &'static str) -> Result<Child> {
        let was = std::mem::replace(&mut self.read_only, false);
        self.flags.read_only = false;
        let child = self.child(role);
        self.read_only = was;
        child
    }

    /// Opens or finds a child that may be missing.
    ///
    /// # Errors
    /// It cannot be opened or used.
    pub fn child_if_given(&mut self, role: &'static str) -> Result<Option<Child>> {
        if self.options.get(role).is_some() { self.child(role).map(Some) } else { Ok(None) }
    }

    /// The objects that options name.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.graph.keys()
    }

    /// A group of limits by its name, and the object that it is.
    pub(crate) fn io_group(&self, name: &str) -> Option<crate::io_limits::Found> {
        self.graph.io_group(name)
    }

    /// Whether damage is no reason to refuse.
    #[must_use]
    pub fn is_check(&self) -> bool {
        self.flags.check
    }

    /// Whether a machine uses the images, and not a tool.
    #[must_use]
    pub fn is_for_machine(&self) -> bool {
        self.graph.for_machine.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether unknown and missing options are told in a schema's words.
    #[must_use]
    pub fn has_schema(&self) -> bool {
        self.flags.schema
    }

    /// Whether the node may become read-only when it cannot be written.
    #[must_use]
    pub fn may_be_read_only(&self) -> bool {
        self.auto_read_only
    }

    /// Whether only headers are looked at.
    #[must_use]
    pub fn is_header_only(&self) -> bool {
        self.flags.header_only
    }

    /// Whether discards are passed on.
    #[must_use]
    pub fn is_unmap(&self) -> bool {
        self.flags.unmap
    }

    pub(crate) fn descriptor(&self, path: &str) -> Option<Result<File>> {
        if !path.starts_with("/dev/fdset/") {
            return None;
        }
        let failed =
            |e: io::Error| Error::generic(format!("Could not open '{path}': {}", host::reason(&e)));
        let find = self.graph.descriptors.lock();
        let found = find.as_ref()?(path, !self.read_only)?;
        Some(found.map(File::from).map_err(failed))
    }
}

/// A node's use of another one, for messages.
pub(crate) fn used_by(name: &str, below: &Node, role: &str) -> String {
    format!("node '{name}' (uses node '{}' as '{role}' child)", below.name)
}

fn not_found(name: &str) -> Error {
    Error::generic(format!("Cannot find device='{name}' nor node-name='{name}'"))
}
