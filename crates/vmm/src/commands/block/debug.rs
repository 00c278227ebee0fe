//! `x-debug-query-block-graph`: nodes, who uses them, and what each user needs and lets others do.
//!
//! Permissions are made of the two that are kept here (a user writes; others may write): a format
//! that writes its file also changes the length of it, a backing file may be changed by others, and
//! what nobody uses needs nothing of its backing file. Not here: jobs as nodes.
//! Source: replies of QEMU 10.0.

use std::sync::Arc;

use block::{Graph, Node, Use};
use derive::Qapi;
use qapi::Result;

use super::super::QmpCommand;
use super::graph;
use crate::Vm;

/// A node of the graph, or a slot above it.
#[derive(Qapi)]
pub(crate) struct XDbgBlockGraphNode {
    /// A number.
    id: u64,
    /// "block-driver" or "block-backend".
    r#type: String,
    /// Its name.
    name: String,
}

/// A use of a node.
#[derive(Qapi)]
pub(crate) struct XDbgBlockGraphEdge {
    /// The number of who uses it.
    parent: u64,
    /// The number of what is used.
    child: u64,
    /// The role.
    name: String,
    /// What is needed.
    perm: Vec<String>,
    /// What others may do.
    shared_perm: Vec<String>,
}

/// All of it.
#[derive(Qapi)]
pub(crate) struct XDbgBlockGraph {
    /// Nodes and slots.
    nodes: Vec<XDbgBlockGraphNode>,
    /// Uses.
    edges: Vec<XDbgBlockGraphEdge>,
}

/// Shows the block graph.
#[derive(Qapi)]
pub(crate) struct XDebugQueryBlockGraph;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn shared(how: Use) -> Vec<String> {
    if how.shares_write {
        words(&["resize", "write-unchanged", "write", "consistent-read"])
    } else {
        words(&["write-unchanged", "consistent-read"])
    }
}

/// Which nodes somebody reads or writes: those of slots in use, and what is below them.
fn needed(graph: &Graph) -> Vec<Arc<Node>> {
    let slots = graph.backends().into_iter();
    let mut found: Vec<Arc<Node>> =
        slots.filter(|slot| slot.user().is_some()).filter_map(|slot| slot.node()).collect();
    // A format looks at its file whoever uses it.
    for node in graph.nodes() {
        let uses = node.uses().into_iter();
        found.extend(uses.filter(|(role, ..)| *role != "backing").map(|(_, child, _)| child));
    }
    found.iter().flat_map(Node::below).collect()
}

fn edge(
    (node, is_needed): (&Arc<Node>, bool),
    role: &str,
    how: Use,
    (parent, child): (u64, u64),
) -> XDbgBlockGraphEdge {
    let is_backing = role == "backing" && node.class().has_backing;
    let how = Use { shares_write: how.shares_write || is_backing && !is_needed, ..how };
    let perm: &[&str] = match (how.writes, is_backing) {
        (_, true) if !is_needed => &[],
        (true, _) if node.class().passes_on() => &["write", "consistent-read"],
        (false, _) if node.class().passes_on() && !is_needed => &[],
        (true, _) => &["resize", "write", "consistent-read"],
        (false, _) => &["consistent-read"],
    };
    let name = role.to_owned();
    XDbgBlockGraphEdge { parent, child, name, perm: words(perm), shared_perm: shared(how) }
}

impl QmpCommand for XDebugQueryBlockGraph {
    const NAME: &'static str = "x-debug-query-block-graph";
    type Returns = XDbgBlockGraph;
    fn run(self, vm: &Vm) -> Result<XDbgBlockGraph> {
        let graph = graph(vm)?;
        let (slots, all, needed) = (graph.backends(), graph.nodes(), needed(&graph));
        let count = slots.len() as u64;
        let id = |node: &Arc<Node>| {
            let at = all.iter().position(|other| Arc::ptr_eq(other, node));
            at.map(|at| count + at as u64 + 1)
        };
        let (mut nodes, mut edges) = (Vec::new(), Vec::new());
        for (at, node) in all.iter().enumerate().rev() {
            let number = count + at as u64 + 1;
            let is_needed = needed.iter().any(|other| Arc::ptr_eq(other, node));
            let (name, kind) = (node.name().to_owned(), "block-driver".to_owned());
            nodes.push(XDbgBlockGraphNode { id: number, r#type: kind, name });
            for (role, child, how) in node.uses() {
                edges.extend(
                    id(&child).map(|child| edge((node, is_needed), role, how, (number, child))),
                );
            }
        }
        for (at, slot) in slots.iter().enumerate().rev() {
            let number = at as u64 + 1;
            let (name, kind) = (slot.name().to_owned(), "block-backend".to_owned());
            nodes.push(XDbgBlockGraphNode { id: number, r#type: kind, name });
            let user = slot.user();
            let how = Use {
                writes: user.as_ref().is_some_and(|user| user.writes),
                shares_write: user.as_ref().is_none_or(|user| user.shares_write),
            };
            if let Some(child) = slot.node().and_then(|node| id(&node)) {
                let perm: &[&str] = match (&user, how.writes) {
                    (None, _) => &[],
                    (_, true) => &["write", "consistent-read"],
                    (_, false) => &["consistent-read"],
                };
                let (name, perm) = ("root".to_owned(), words(perm));
                let mut shared_perm = shared(how);
                if user.is_some() && !how.shares_write {
                    shared_perm.insert(0, "resize".into());
                }
                edges.push(XDbgBlockGraphEdge { parent: number, child, name, perm, shared_perm });
            }
        }
        Ok(XDbgBlockGraph { nodes, edges })
    }
}
