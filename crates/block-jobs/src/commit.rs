//! `commit` of layers below the active one: a base takes over what the layers above it hold.
//!
//! A filter (`commit_top`) marks the place. Nobody writes to these layers but the job, and what
//! it changes in the base is hidden by the layers above, so that readers see no difference. At
//! the end those that had the highest of the layers as their backing have the base.
//! Not modelled: names of layers with protocols are not masked.
//! Source: QEMU's QMP reference, block-commit.

use std::sync::Arc;

use block::{Blocker, Graph, Node, Preallocation};
use qapi::{Error, Result};

use crate::copy::{Held, Ignored, PIECE, copy, held, reading, walk};
use crate::filter::{COMMIT, Placed, Shared};
use crate::job::{Failure, Job, Work};
use crate::stream::as_backing;

/// What is committed.
pub struct Committing {
    /// The disk's root, which no other job may have.
    pub root: Arc<Node>,
    /// The highest layer that is merged.
    pub top: Arc<Node>,
    /// Where to.
    pub base: Arc<Node>,
    /// The name of the base that images above get, if not the base's own.
    pub backing_name: Option<String>,
    /// Name of the filter.
    pub filter_name: Option<String>,
}

struct Commit {
    graph: Arc<Graph>,
    what: Committing,
    filter: Placed,
    base_was_read_only: bool,
    blocker: Option<Blocker>,
}

/// Nodes from a layer down to a base, with filters.
#[must_use]
pub fn between(root: &Arc<Node>, base: &Arc<Node>) -> Vec<Arc<Node>> {
    let (mut all, mut next) = (Vec::new(), Some(root.clone()));
    while let Some(node) = next {
        let last = Arc::ptr_eq(&node, base);
        next = node
            .child("backing")
            .or_else(|| node.class().is_filter().then(|| node.child("file")).flatten());
        all.push(node);
        if last {
            break;
        }
    }
    all
}

pub(crate) fn failed(error: std::io::Error) -> Error {
    Error::generic(host::reason(&error))
}

/// Makes a base as long as the layer that goes into it.
pub(crate) fn lengthen(base: &Node, len: u64) -> Result<()> {
    if base.len() < len {
        base.driver().truncate(len, Preallocation::Off).map_err(failed)?;
    }
    Ok(())
}

/// Prepares filter and base; the job is started with the work that comes back.
///
/// # Errors
/// The base cannot be written, or the filter's name is taken.
pub fn prepare(graph: &Arc<Graph>, what: Committing) -> Result<Box<dyn Work>> {
    let base_was_read_only = what.base.is_read_only();
    let _still = graph.drain();
    graph.set_read_only(&what.base, false)?;
    let name = what.filter_name.as_deref();
    let placed = Placed::over(graph, &COMMIT, name, ("backing", &what.top), Shared::default());
    let filter = placed.inspect_err(|_| {
        if base_was_read_only {
            _ = graph.set_read_only(&what.base, true);
        }
    })?;
    let mut nodes = between(&what.top, &what.base);
    nodes.push(what.root.clone());
    let blocker = Some(graph.block(&nodes, "block device is in use by block job: commit"));
    Ok(Box::new(Commit { graph: graph.clone(), what, filter, base_was_read_only, blocker }))
}

impl Commit {
    fn end(&mut self) {
        if self.base_was_read_only {
            _ = self.graph.set_read_only(&self.what.base, true);
        }
        self.blocker = None;
    }

    /// Lets a layer above stand on the base.
    fn rebase(&self, over: &Arc<Node>) -> Result<()> {
        let base = &self.what.base;
        let was_read_only = over.is_read_only();
        self.graph.set_read_only(over, false)?;
        let name = self.what.backing_name.clone().unwrap_or_else(|| base.filename());
        let format = base.class().name;
        let named = over.change_backing(Some(&name), Some(format)).map_err(failed);
        if was_read_only {
            _ = self.graph.set_read_only(over, true);
        }
        named?;
        over.set_backing(Some(as_backing(base, over)))
    }
}

impl Work for Commit {
    fn total(&self) -> u64 {
        self.what.top.len()
    }

    fn run(&mut self, job: &Job) -> std::result::Result<(), Failure> {
        let (top, base) = (&self.what.top, &self.what.base);
        let len = top.len();
        {
            let _step = self.graph.steps.enter();
            lengthen(base, len).map_err(Failure::Failed)?;
        }
        walk(job, &self.graph.steps, len, Ignored::Again, |at| {
            let (what, run) = held(Some(top.clone()), Some(base), at, len - at).map_err(reading)?;
            let run = if what == Held::Nothing { run } else { run.min(PIECE) };
            copy(top, base, what, at, run)?;
            Ok((run, if what == Held::Data { run } else { 0 }))
        })?;
        let _step = self.graph.steps.enter();
        Ok(base.flush()?)
    }

    fn finish(&mut self, _: &Job) -> Result<()> {
        let graph = self.graph.clone();
        let _still = graph.drain();
        let filter = &self.filter.filter;
        let above = graph.nodes().into_iter();
        let above = above.filter(|n| n.child("backing").is_some_and(|b| Arc::ptr_eq(&b, filter)));
        for over in above.collect::<Vec<_>>() {
            self.rebase(&over)?;
        }
        // Users that are no layers, such as a disk, see the base as well.
        filter.replace_by(&self.what.base, &[filter]);
        self.end();
        Ok(())
    }

    fn abort(&mut self) {
        let graph = self.graph.clone();
        let _still = graph.drain();
        self.filter.remove();
        self.end();
    }
}
