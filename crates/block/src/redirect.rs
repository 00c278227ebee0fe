//! Snapshots by redirection: a new layer takes a node's place, and the node becomes its backing.
//!
//! [`Graph::begin_snapshot`] checks everything and opens nothing; [`Redirect::apply`] puts the layer
//! in, [`Redirect::undo`] takes it out again, so that several can be one transaction. The caller
//! drains all slots meanwhile. The layer below is read-only then.
//! Not here: merging layers (jobs).
//! Source: QEMU's manual (`blockdev-snapshot`), messages of QEMU 10.0.

use std::sync::Arc;

use qapi::{Error, Result};

use crate::graph::Graph;
use crate::node::{Node, Use};
use crate::opening::used_by;

/// A layer that is going to be put over a node, or was.
pub struct Redirect {
    below: Arc<Node>,
    above: Arc<Node>,
}

/// Whose backing a node is.
fn overlay_of(graph: &Graph, node: &Arc<Node>) -> Option<Arc<Node>> {
    let mut all = graph.nodes().into_iter();
    all.find(|other| other.child("backing").is_some_and(|below| Arc::ptr_eq(&below, node)))
}

/// Whether somebody reads a node: a device, or what lies over it. Layers and filters that nobody
/// reads do not count.
fn is_read(graph: &Graph, node: &Arc<Node>) -> bool {
    let is_it = |other: Arc<Node>| Arc::ptr_eq(&other, node);
    if graph.backends().iter().any(|b| b.user().is_some() && b.node().is_some_and(is_it)) {
        return true;
    }
    graph.nodes().iter().any(|over| {
        let roles = over.children().into_iter().filter(|(_, child)| Arc::ptr_eq(child, node));
        let mut roles = roles.map(|(role, _)| role == "backing" || over.class().passes_on());
        roles.any(|passes| !passes || is_read(graph, over))
    })
}

/// Whether a node is another one or stands on it.
fn stands_on(node: &Arc<Node>, other: &Arc<Node>) -> bool {
    Arc::ptr_eq(node, other) || node.children().iter().any(|(_, child)| stands_on(child, other))
}

/// Keeps commands off nodes while it lives.
pub struct Blocker(#[expect(dead_code, reason = "it lives")] Arc<str>);

/// Refuses what other layers already depend on, or what a job works on.
///
/// # Errors
/// The node is the backing of another one, or blocked.
pub fn check_free(graph: &Graph, node: &Arc<Node>) -> Result<()> {
    let busy =
        |why: &str| Err(Error::generic(format!("Node '{}' is busy: {why}", graph.name_of(node))));
    if let Some(over) = overlay_of(graph, node) {
        let name = graph.name_of(&over);
        return busy(&format!("node is used as backing hd of '{name}'"));
    }
    graph.why_blocked(node).map_or(Ok(()), |why| busy(&why))
}

impl Graph {
    /// What a node is called for people: the drive whose root it is, else its own name.
    #[must_use]
    pub fn name_of(&self, node: &Arc<Node>) -> String {
        let all = self.drives();
        let drive =
            all.iter().find(|(_, root)| root.as_ref().is_some_and(|r| Arc::ptr_eq(r, node)));
        drive.map_or_else(|| node.name().to_owned(), |(id, _)| id.clone())
    }

    /// Keeps commands off some nodes, with this reason.
    #[must_use]
    pub fn block(&self, nodes: &[Arc<Node>], why: &str) -> Blocker {
        let why: Arc<str> = why.into();
        let mut all = self.blockers.lock();
        all.extend(nodes.iter().map(|node| (Arc::downgrade(node), Arc::downgrade(&why))));
        Blocker(why)
    }

    /// Why a node may not be changed.
    #[must_use]
    pub fn why_blocked(&self, node: &Arc<Node>) -> Option<String> {
        let mut all = self.blockers.lock();
        all.retain(|(node, why)| node.strong_count() > 0 && why.strong_count() > 0);
        let mut found = all.iter().filter(|(n, _)| n.as_ptr() == Arc::as_ptr(node));
        found.find_map(|(_, why)| why.upgrade()).map(|why| why.to_string())
    }

    /// Whose backing a node is.
    #[must_use]
    pub fn overlay_of(&self, node: &Arc<Node>) -> Option<Arc<Node>> {
        overlay_of(self, node)
    }

    /// Prepares to put the node `above` over `below`.
    ///
    /// # Errors
    /// One of them is used in a way that does not allow it, or `above` can have no backing.
    pub fn begin_snapshot(&self, below: &Arc<Node>, above: &Arc<Node>) -> Result<Redirect> {
        check_free(self, below)?;
        if is_read(self, above) {
            return Err(Error::generic("The overlay is already in use"));
        }
        if !above.class().has_backing {
            return Err(Error::generic("The overlay does not support backing images"));
        }
        if above.child("backing").is_some() {
            return Err(Error::generic("The overlay already has a backing image"));
        }
        if stands_on(below, above) {
            let (below, above) = (below.name(), above.name());
            let text =
                format!("Making '{below}' a backing child of '{above}' would create a cycle");
            return Err(Error::generic(text));
        }
        if above.is_read_only() && below.users().iter().any(|(_, how)| how.writes) {
            return Err(Error::generic(format!("Block node '{}' is read-only", above.name())));
        }
        Ok(Redirect { below: below.clone(), above: above.clone() })
    }
}

impl Redirect {
    /// Puts the layer in; nothing is under way.
    ///
    /// # Errors
    /// The node cannot be the layer's backing; nothing is changed then.
    pub fn apply(&self, graph: &Graph) -> Result<()> {
        // What was written goes to the disk before nobody writes there any more.
        self.below.flush().map_err(|error| Error::generic(host::reason(&error)))?;
        self.below.replace_by(&self.above, &[&self.above]);
        let how = Use { writes: false, shares_write: false };
        let attached = self.below.hold(&used_by(self.above.name(), &self.below, "backing"), how);
        let done = attached.and_then(|hold| self.above.set_backing(Some(hold)));
        if done.is_err() {
            self.above.replace_by(&self.below, &[&self.above]);
        } else {
            // Nobody writes there any more; where it cannot be closed for writing it stays open.
            _ = graph.set_read_only(&self.below, true);
        }
        done
    }

    /// Takes the layer out again; nothing is under way.
    pub fn undo(&self, graph: &Graph) {
        if !self.above.is_read_only() {
            _ = graph.set_read_only(&self.below, false);
        }
        _ = self.above.set_backing(None);
        self.above.replace_by(&self.below, &[&self.above]);
    }
}

impl Node {
    /// Replaces or removes the backing node; nothing is under way.
    ///
    /// # Errors
    /// The format has none.
    pub fn set_backing(&self, backing: Option<crate::node::Child>) -> Result<()> {
        let link = backing.as_ref().map(crate::node::Hold::link);
        if !self.driver().set_backing(backing) {
            return Err(Error::generic("The overlay does not support backing images"));
        }
        let mut children = self.children.lock();
        children.retain(|(role, _)| *role != "backing");
        children.extend(link.map(|link| ("backing", link)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockClass, Flags};
    use qapi::{Source, Value};

    static CLASSES: &[&BlockClass] = &[&crate::FILE, &crate::RAW, &crate::NULL_CO];

    #[test]
    fn what_has_no_backing_is_no_layer() {
        let graph = Graph::new(CLASSES);
        let null = || {
            let options = Value::map([("driver", Value::from("null-co"))]);
            graph.open(options, Source::Json, Flags::default()).unwrap()
        };
        let (below, above) = (null(), null());
        let error = graph.begin_snapshot(&below, &above).err().unwrap();
        assert_eq!(error.desc, "The overlay does not support backing images");
        _ = graph.add_drive("disk", Some(above.clone())).unwrap();
        let user = crate::User { writes: true, ..crate::User::default() };
        _ = graph.claim(Some("disk"), user).unwrap().unwrap();
        let error = graph.begin_snapshot(&below, &above).err().unwrap();
        assert_eq!(error.desc, "The overlay is already in use");
    }
}
