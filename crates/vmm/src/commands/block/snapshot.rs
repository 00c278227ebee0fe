//! `blockdev-snapshot`, `blockdev-snapshot-sync`, `transaction`.
//!
//! All are one mechanism: each action is prepared, then all are carried out while nothing is under
//! way, and undone from the last to the first if one fails. Files that were made stay, as at the
//! peer. `transaction` knows the two kinds of snapshots
//! by layers, internal ones and `abort`.

use std::sync::Arc;

use block::{Creation, Graph, Node, Redirect};
use derive::Qapi;
use qapi::{Error, Result, Source, Value};

use super::super::QmpCommand;
use super::internal::BlockdevSnapshotInternalSync;
use super::{graph, node};
use crate::Vm;

/// Whether the snapshot's file is made.
#[derive(Clone, Copy, Default, PartialEq, Eq, Qapi)]
pub(crate) enum NewImageMode {
    /// It is there.
    Existing,
    /// It is made.
    #[default]
    AbsolutePaths,
}

/// Put a new image over a node.
#[derive(Clone, Qapi)]
pub(crate) struct BlockdevSnapshotSync {
    /// The drive.
    device: Option<String>,
    /// Or the node.
    node_name: Option<String>,
    /// The new image.
    snapshot_file: String,
    /// Its node's name.
    snapshot_node_name: Option<String>,
    /// Its format.
    format: Option<String>,
    /// Whether it is made.
    mode: Option<NewImageMode>,
}

/// Put a node over another one.
#[derive(Clone, Qapi)]
pub(crate) struct BlockdevSnapshot {
    /// The node.
    node: String,
    /// The one over it.
    overlay: String,
}

/// End a transaction with an error, for tests.
#[derive(Clone, Qapi)]
pub(crate) struct Abort {}

/// An action of a transaction.
#[derive(Clone, Qapi)]
#[qapi(tag = "type", content = "data")]
pub(crate) enum TransactionAction {
    /// End it with an error.
    Abort(Abort),
    /// Put a node over another one.
    BlockdevSnapshot(BlockdevSnapshot),
    /// Take an internal snapshot of a disk.
    BlockdevSnapshotInternalSync(BlockdevSnapshotInternalSync),
    /// Put a new image over a node.
    BlockdevSnapshotSync(BlockdevSnapshotSync),
}

impl BlockdevSnapshot {
    fn begin(&self, vm: &Vm, graph: &Graph) -> Result<Redirect> {
        let below = node(vm, Some(&self.node), Some(&self.node))?;
        block::check_free(graph, &below)?;
        let above = node(vm, Some(&self.overlay), Some(&self.overlay))?;
        graph.begin_snapshot(&below, &above)
    }
}

impl BlockdevSnapshotSync {
    fn begin(&self, vm: &Vm, graph: &Graph) -> Result<Redirect> {
        let below = node(vm, self.device.as_deref(), self.node_name.as_deref())?;
        block::check_free(graph, &below)?;
        let mode = self.mode.unwrap_or_default();
        if self.node_name.is_some() && self.snapshot_node_name.is_none() {
            return Err(Error::generic("New overlay node-name missing"));
        }
        if self.snapshot_node_name.as_ref().is_some_and(|name| graph.find(name).is_some()) {
            return Err(Error::generic("New overlay node-name already in use"));
        }
        let format = self.format.as_deref().unwrap_or("qcow2");
        let class = graph.class(format)?;
        if mode == NewImageMode::AbsolutePaths {
            self.create(&below, class)?;
        }
        let above = self.open(graph, format, below.flags())?;
        graph.begin_snapshot(&below, &above)
    }

    fn create(&self, below: &Arc<Node>, class: &'static block::BlockClass) -> Result<()> {
        let filename = self.snapshot_file.clone();
        let mut options = vec![("backing_file".to_owned(), below.filename())];
        options.push(("backing_fmt".to_owned(), below.class().name.to_owned()));
        if !class.has_backing {
            return Err(Error::generic("The overlay does not support backing images"));
        }
        let create = class.create.ok_or_else(|| {
            Error::generic(format!(
                "Format driver '{}' does not support image creation",
                class.name
            ))
        })?;
        let new = Creation { filename, size: below.len(), options, ..Creation::default() };
        // The program tells of it where its output goes, as the image tool does.
        let line = format!(
            "Formatting '{}', fmt={}{}\n",
            new.filename,
            class.name,
            (class.describe)(&new)
        );
        _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
        create(&new)
    }

    /// The layer caches and discards as the node below it does.
    fn open(&self, graph: &Graph, format: &str, like: block::Flags) -> Result<Arc<Node>> {
        let file = block::filename_options(&self.snapshot_file)?;
        let mut options =
            Value::map([("driver", Value::from(format)), ("file", file), ("backing", Value::Null)]);
        if let Some(name) = &self.snapshot_node_name {
            options.set("node-name", Value::from(name.as_str()));
        }
        let block::Flags { direct, no_flush, unmap, .. } = like;
        let flags = block::Flags { direct, no_flush, unmap, ..block::Flags::default() };
        graph.open(options, Source::Json, flags)
    }
}

/// What was done and can be undone.
enum Step {
    Layer(Redirect),
    Internal(Arc<Node>, String),
}

impl Step {
    fn undo(&self, graph: &Graph) {
        match self {
            Step::Layer(redirect) => redirect.undo(graph),
            Step::Internal(node, id) => {
                _ = node.driver().change_snapshot(&block::SnapshotChange::Delete(id.clone()));
            }
        }
    }
}

fn carry_out(vm: &Vm, graph: &Graph, action: &TransactionAction) -> Result<Step> {
    let redirect = match action {
        TransactionAction::Abort(_) => {
            return Err(Error::generic("Transaction aborted using Abort action"));
        }
        TransactionAction::BlockdevSnapshotInternalSync(snapshot) => {
            return snapshot.take(vm).map(|(node, id)| Step::Internal(node, id));
        }
        TransactionAction::BlockdevSnapshot(snapshot) => snapshot.begin(vm, graph)?,
        TransactionAction::BlockdevSnapshotSync(snapshot) => snapshot.begin(vm, graph)?,
    };
    redirect.apply(graph)?;
    Ok(Step::Layer(redirect))
}

/// Carries out actions together.
fn transact(vm: &Vm, actions: &[TransactionAction]) -> Result<()> {
    let graph = graph(vm)?;
    let _still = graph.drain();
    let mut done: Vec<Step> = Vec::new();
    for action in actions {
        match carry_out(vm, &graph, action) {
            Ok(step) => done.push(step),
            Err(error) => {
                done.iter().rev().for_each(|step| step.undo(&graph));
                return Err(error);
            }
        }
    }
    Ok(())
}

impl QmpCommand for BlockdevSnapshot {
    const NAME: &'static str = "blockdev-snapshot";
    const FEATURES: &'static [&'static str] = &["allow-write-only-overlay"];
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        transact(vm, &[TransactionAction::BlockdevSnapshot(self)])
    }
}

impl QmpCommand for BlockdevSnapshotSync {
    const NAME: &'static str = "blockdev-snapshot-sync";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        transact(vm, &[TransactionAction::BlockdevSnapshotSync(self)])
    }
}

/// Carry out several actions together, or none.
#[derive(Qapi)]
pub(crate) struct Transaction {
    /// The actions.
    actions: Vec<TransactionAction>,
}

impl QmpCommand for Transaction {
    const NAME: &'static str = "transaction";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        transact(vm, &self.actions)
    }
}
