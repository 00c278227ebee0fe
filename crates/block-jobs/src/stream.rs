//! `stream`: a layer takes over what the layers between it and a base hold.
//!
//! A filter (`copy-on-read`) is put over the layer; for each piece that the layer does not hold
//! the job keeps writes off, looks again and copies. At the end the base becomes the layer's
//! backing, and the image names it. Layers between are let go of.
//! Not modelled: reads of the guest do not copy; names of layers with protocols are not masked.
//! Source: QEMU's QMP reference, block-stream.

use std::sync::Arc;

use block::{Blocker, Child, Graph, Node, Use};
use qapi::{Error, Result};

use crate::copy::{Held, Ignored, PIECE, copy, held, reading, walk};
use crate::filter::{Placed, STREAM, Shared};
use crate::job::{Failure, Job, Work};

/// What is streamed.
pub struct Streaming {
    /// The layer.
    pub top: Arc<Node>,
    /// The layer above the base; what lies below it stays.
    pub bottom: Arc<Node>,
    /// The name of the base that the image gets, if not the base's own.
    pub backing_name: Option<String>,
    /// Name of the filter.
    pub filter_name: Option<String>,
}

struct Stream {
    graph: Arc<Graph>,
    what: Streaming,
    /// The first layer that stays, or none.
    base: Option<Arc<Node>>,
    filter: Placed,
    was_read_only: bool,
    blocker: Option<Blocker>,
}

/// Prepares the filter; the job is started with the work that comes back.
///
/// # Errors
/// The layer cannot be written, or the filter's name is taken.
pub fn prepare(graph: &Arc<Graph>, what: Streaming) -> Result<Box<dyn Work>> {
    let was_read_only = what.top.is_read_only();
    let base = what.bottom.child("backing");
    let _still = graph.drain();
    graph.set_read_only(&what.top, false)?;
    let name = what.filter_name.as_deref();
    let placed = Placed::over(graph, &STREAM, name, ("file", &what.top), Shared::default());
    let placed = placed.map_err(|error| error.prefixed("Could not create node: "));
    let filter = placed.inspect_err(|_| {
        if was_read_only {
            _ = graph.set_read_only(&what.top, true);
        }
    })?;
    let blocked = crate::commit::between(&filter.filter, &what.bottom);
    let blocker = Some(graph.block(&blocked, "block device is in use by block job: stream"));
    Ok(Box::new(Stream { graph: graph.clone(), what, base, filter, was_read_only, blocker }))
}

impl Stream {
    fn piece(&self, at: u64, len: u64) -> std::result::Result<(u64, u64), crate::copy::Told> {
        let top = &self.what.top;
        let base = self.base.as_ref().map(Node::skip_filters);
        let own = top.extent(at, len - at).map_err(reading)?;
        if own.allocated {
            return Ok((own.len, 0));
        }
        let len = own.len.min(PIECE);
        let below = || top.child("backing");
        if held(below(), base.as_ref(), at, len).map_err(reading)?.0 == Held::Nothing {
            let (_, len) = held(below(), base.as_ref(), at, own.len).map_err(reading)?;
            return Ok((len, 0));
        }
        // Nobody writes meanwhile, so what is looked at now stays so.
        let _alone = self.filter.shared.gate.write();
        let own = top.extent(at, len).map_err(reading)?;
        if own.allocated {
            return Ok((own.len, 0));
        }
        let (what, len) = held(below(), base.as_ref(), at, own.len).map_err(reading)?;
        copy(top, top, what, at, len)?;
        Ok((len, if what == Held::Data { len } else { 0 }))
    }

    fn end(&mut self) {
        self.filter.remove();
        if self.was_read_only {
            _ = self.graph.set_read_only(&self.what.top, true);
        }
        self.blocker = None;
    }
}

/// A hold of `node` as the backing of `over`.
pub(crate) fn as_backing(node: &Arc<Node>, over: &Node) -> Child {
    let user = format!("node '{}' (uses node '{}' as 'backing' child)", over.name(), node.name());
    node.hold_unchecked(&user, Use { writes: false, shares_write: false })
}

impl Work for Stream {
    fn total(&self) -> u64 {
        if self.what.top.child("backing").is_some() { self.what.top.len() } else { 0 }
    }

    fn run(&mut self, job: &Job) -> std::result::Result<(), Failure> {
        // What has nothing below it is done.
        if self.what.top.child("backing").is_none() {
            return Ok(());
        }
        let len = self.what.top.len();
        let steps = self.graph.steps.clone();
        walk(job, &steps, len, Ignored::Skip, |at| self.piece(at, len))
    }

    fn finish(&mut self, _: &Job) -> Result<()> {
        let graph = self.graph.clone();
        let _still = graph.drain();
        let top = self.what.top.clone();
        if top.child("backing").is_some() {
            let base = self.what.bottom.child("backing");
            let image = base.as_ref().map(Node::skip_filters);
            let name = self.what.backing_name.clone();
            let name = name.or_else(|| image.as_ref().map(|node| node.filename()));
            let format = image.as_ref().map(|node| node.class().name);
            let failed = |error: std::io::Error| Error::generic(host::reason(&error));
            let named = name.as_deref().filter(|_| image.is_some());
            top.flush().map_err(failed)?;
            top.change_backing(named, format).map_err(failed)?;
            top.set_backing(base.map(|base| as_backing(&base, &top)))?;
        }
        self.end();
        Ok(())
    }

    fn abort(&mut self) {
        let graph = self.graph.clone();
        let _still = graph.drain();
        self.end();
    }
}
