//! `block-stream`, `block-commit`: which nodes are meant, and what they refuse.
//!
//! Layers are named by their files or by their nodes. Commands' order of checks and their words
//! are the peer's. `backing-mask-protocol` is accepted: names of files are stored as they are.

use std::sync::Arc;

use block::{BlockdevOnError, Graph, Node};
use block_jobs::commit::Committing;
use block_jobs::stream::Streaming;
use block_jobs::{JobType, OnJobError, Spec};
use derive::Qapi;
use qapi::{Class, Error, Result};

use super::super::QmpCommand;
use super::jobs::jobs;
use super::{graph, node};
use crate::Vm;

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

fn policy(word: Option<BlockdevOnError>) -> OnJobError {
    match word {
        Some(BlockdevOnError::Ignore) => OnJobError::Ignore,
        Some(BlockdevOnError::Enospc) => OnJobError::Enospc,
        Some(BlockdevOnError::Stop) => OnJobError::Stop,
        _ => OnJobError::Report,
    }
}

/// The node of exactly this name.
fn named(graph: &Graph, name: &str) -> Result<Arc<Node>> {
    graph
        .find(name)
        .ok_or_else(|| Error::generic(format!("Cannot find device='' nor node-name='{name}'")))
}

/// The layer below the first of a chain that a file's name means: as it was opened, as the image
/// above stores it, or another name of the same file.
fn layer_of_file(chain: &[Arc<Node>], name: &str) -> Option<Arc<Node>> {
    let same = |a: &str| same_file(a, name);
    let mut pairs = chain.iter().zip(chain.iter().skip(1));
    pairs
        .find(|(over, layer)| {
            same(&layer.filename())
                || over.driver().format_info().backing_file.is_some_and(|stored| {
                    let path = block::relative_to(over.path(), &stored);
                    stored == name && same_file(&path, layer.path())
                })
        })
        .map(|(_, layer)| layer.clone())
}

fn same_file(a: &str, b: &str) -> bool {
    let path = |name: &str| std::fs::canonicalize(name).ok();
    a == b || path(a).is_some_and(|a| Some(a) == path(b))
}

fn check_blocked(graph: &Graph, nodes: &[Arc<Node>]) -> Result<()> {
    for node in nodes {
        if let Some(why) = graph.why_blocked(node) {
            let name = graph.name_of(node);
            return refuse(format!("Node '{name}' is busy: {why}"));
        }
    }
    Ok(())
}

/// The nodes of a disk by which its jobs are found when its device goes.
fn disk(root: &Arc<Node>) -> Vec<std::sync::Weak<Node>> {
    [root.clone(), root.skip_filters()].iter().map(Arc::downgrade).collect()
}

/// The id of the drive that a node is the root of, below filters that jobs put in.
fn drive_of(graph: &Graph, node: &Arc<Node>) -> String {
    let all = graph.drives();
    let mut found = all.iter().filter(|(_, root)| {
        root.as_ref().is_some_and(|root| {
            Arc::ptr_eq(root, node) || Arc::ptr_eq(&root.skip_implicit(), &node.skip_implicit())
        })
    });
    found.next().map(|(id, _)| id.clone()).unwrap_or_default()
}

/// Copy what lies below a layer into it.
#[derive(Qapi)]
pub(crate) struct BlockStream {
    /// The job's id; that of the drive without it.
    job_id: Option<String>,
    /// The drive or node.
    device: String,
    /// The file of the layer that stays below.
    base: Option<String>,
    /// Or its node.
    base_node: Option<String>,
    /// The name of the base that the image gets.
    backing_file: Option<String>,
    /// Store the base's format in place of a protocol.
    backing_mask_protocol: Option<bool>,
    /// Or the lowest layer that is copied.
    bottom: Option<String>,
    /// Bytes per second.
    speed: Option<i64>,
    /// What is done about errors.
    on_error: Option<BlockdevOnError>,
    /// The filter's name.
    filter_node_name: Option<String>,
    /// Put the result in place without being asked.
    auto_finalize: Option<bool>,
    /// Forget the job at its end.
    auto_dismiss: Option<bool>,
}

impl BlockStream {
    /// Whether another layer than the lowest stays, and the lowest layer that is copied.
    fn bottom(&self, graph: &Graph, chain: &[Arc<Node>]) -> Result<(bool, Arc<Node>)> {
        let place = |node: &Arc<Node>| {
            let image = node.skip_filters();
            chain.iter().position(|layer| Arc::ptr_eq(layer, &image))
        };
        let last = || chain.last().cloned().ok_or_else(|| Error::generic("there is no layer"));
        let above = |base: &Arc<Node>| {
            let at = place(base).filter(|at| *at > 0);
            at.and_then(|at| chain.get(at - 1)).cloned()
        };
        if let Some(name) = &self.base {
            let found = layer_of_file(chain, name);
            let found = found.and_then(|base| above(&base));
            let found = found.ok_or_else(|| {
                Error::generic(format!("Can't find '{name}' in the backing chain"))
            })?;
            return Ok((true, found));
        }
        if let Some(name) = &self.base_node {
            let base = named(graph, name)?;
            let found = above(&base).ok_or_else(|| {
                let device = &self.device;
                Error::generic(format!("Node '{name}' is not a backing image of '{device}'"))
            })?;
            return Ok((true, found));
        }
        if let Some(name) = &self.bottom {
            let bottom = named(graph, name)?;
            if bottom.class().is_filter() {
                let text = format!("Node '{name}' is a filter, use a non-filter node as 'bottom'");
                return refuse(text);
            }
            if place(&bottom).is_none() {
                let device = &self.device;
                return refuse(format!("Node '{name}' is not in a chain starting from '{device}'"));
            }
            return Ok((bottom.child("backing").is_some(), bottom));
        }
        Ok((false, last()?))
    }
}

impl QmpCommand for BlockStream {
    const NAME: &'static str = "block-stream";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        _ = self.backing_mask_protocol;
        for (one, other, names) in [
            (self.base.is_some(), self.base_node.is_some(), "'base' and 'base-node'"),
            (self.base.is_some(), self.bottom.is_some(), "'base' and 'bottom'"),
            (self.bottom.is_some(), self.base_node.is_some(), "'bottom' and 'base-node'"),
        ] {
            if one && other {
                return refuse(format!("{names} cannot be specified at the same time"));
            }
        }
        let graph = graph(vm)?;
        let root = node(vm, Some(&self.device), Some(&self.device))?;
        let chain = root.chain();
        let (stays, bottom) = self.bottom(&graph, &chain)?;
        check_blocked(&graph, &block_jobs::commit::between(&root, &bottom))?;
        if let Some(below) = bottom.child("backing").filter(|b| b.class().name == "commit_top")
            && self.base_node.as_ref().is_none_or(|name| *name != below.name())
        {
            return refuse(format!("Cannot freeze 'backing' link to '{}'", below.name()));
        }
        if self.backing_file.is_some() && !stays {
            return refuse("backing file specified, but streaming the entire chain");
        }
        let top = root.skip_filters();
        let spec = Spec {
            id: self.job_id.unwrap_or_else(|| drive_of(&graph, &root)),
            kind: JobType::Stream,
            speed: self.speed.unwrap_or(0),
            on_error: policy(self.on_error),
            auto_finalize: self.auto_finalize.unwrap_or(true),
            auto_dismiss: self.auto_dismiss.unwrap_or(true),
            nodes: disk(&root),
        };
        let jobs = jobs(vm)?;
        jobs.check(&spec)?;
        if spec.speed < 0 {
            return jobs.start(spec, || Err(Error::generic("no speed")));
        }
        let what = Streaming {
            top,
            bottom,
            backing_name: self.backing_file,
            filter_name: self.filter_node_name,
        };
        let work = block_jobs::stream::prepare(&graph, what)?;
        jobs.start(spec, || Ok(work))
    }
}

/// Change the backing file's name that an image stores, and nothing else.
#[derive(Qapi)]
pub(crate) struct ChangeBackingFile {
    /// The drive or root node.
    device: String,
    /// The image's node.
    image_node_name: String,
    /// The name.
    backing_file: String,
}

impl QmpCommand for ChangeBackingFile {
    const NAME: &'static str = "change-backing-file";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let graph = graph(vm)?;
        let device = &self.device;
        let root = root_of(&graph, device).unwrap_or_else(|| {
            Err(Error::new(Class::DeviceNotFound, format!("Device '{device}' not found")))
        })?;
        let image = named(&graph, &self.image_node_name)?;
        let Some(below) = image.child("backing") else {
            return refuse("not allowing backing file change on an image without a backing file");
        };
        if !root.chain().iter().any(|layer| Arc::ptr_eq(layer, &image)) {
            return refuse(format!("'{device}' and image file are not in the same chain"));
        }
        check_blocked(&graph, std::slice::from_ref(&image))?;
        let _still = graph.drain();
        let was_read_only = image.is_read_only();
        graph.set_read_only(&image, false)?;
        let format = below.skip_filters().class().name;
        let done = image.change_backing(Some(&self.backing_file), Some(format));
        if was_read_only {
            _ = graph.set_read_only(&image, true);
        }
        done.map_err(|error| {
            let why = host::reason(&error);
            let file = &self.backing_file;
            Error::generic(format!("Could not change backing file to '{file}': {why}"))
        })
    }
}

/// Copy layers into one below.
#[derive(Qapi)]
pub(crate) struct BlockCommit {
    /// The job's id; that of the drive without it.
    job_id: Option<String>,
    /// The drive or root node.
    device: String,
    /// The node that is written.
    base_node: Option<String>,
    /// Or its file; the lowest without it.
    base: Option<String>,
    /// The highest node that is copied.
    top_node: Option<String>,
    /// Or its file; the active layer without it.
    top: Option<String>,
    /// The name of the base that the image above gets.
    backing_file: Option<String>,
    /// Store the base's format in place of a protocol.
    backing_mask_protocol: Option<bool>,
    /// Bytes per second.
    speed: Option<i64>,
    /// What is done about errors.
    on_error: Option<BlockdevOnError>,
    /// The filter's name.
    filter_node_name: Option<String>,
    /// Put the result in place without being asked.
    auto_finalize: Option<bool>,
    /// Forget the job at its end.
    auto_dismiss: Option<bool>,
}

/// The root node that a name means.
pub(super) fn root_of(graph: &Graph, name: &str) -> Option<Result<Arc<Node>>> {
    let drive = graph.drive(name).and_then(|drive| drive.node());
    let found = drive.or_else(|| graph.find(name))?.skip_implicit();
    let below = |over: &Arc<Node>| over.children().iter().any(|(_, c)| Arc::ptr_eq(c, &found));
    if graph.nodes().iter().any(below) {
        return Some(refuse("Need a root block node"));
    }
    Some(Ok(found))
}

impl BlockCommit {
    /// The layers that are meant: top and base.
    fn layers(&self, graph: &Graph, chain: &[Arc<Node>]) -> Result<(Arc<Node>, Arc<Node>)> {
        let inside = |chain: &[Arc<Node>], name: &str| {
            let found = named(graph, name)?;
            let image = found.skip_filters();
            if chain.iter().any(|layer| Arc::ptr_eq(layer, &image)) {
                Ok(image)
            } else {
                refuse(format!("'{name}' is not in this backing file chain"))
            }
        };
        let active = || chain.first().cloned().ok_or_else(|| Error::generic("there is no layer"));
        let top = match (&self.top_node, &self.top) {
            (Some(name), _) => inside(chain, name)?,
            (None, Some(file)) if active()?.filename() == *file => active()?,
            (None, Some(file)) => layer_of_file(chain, file)
                .ok_or_else(|| Error::generic(format!("Top image file {file} not found")))?,
            (None, None) => active()?,
        };
        let at = chain.iter().position(|layer| Arc::ptr_eq(layer, &top)).unwrap_or(0);
        let below = chain.get(at..).unwrap_or_default();
        let base = match (&self.base_node, &self.base) {
            (Some(name), _) => inside(below, name)?,
            (None, Some(file)) => layer_of_file(below, file).ok_or_else(|| {
                Error::generic(format!("Can't find '{file}' in the backing chain"))
            })?,
            (None, None) => below.last().cloned().unwrap_or_else(|| top.clone()),
        };
        Ok((top, base))
    }
}

impl QmpCommand for BlockCommit {
    const NAME: &'static str = "block-commit";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        _ = self.backing_mask_protocol;
        if self.top_node.is_some() && self.top.is_some() {
            return refuse("'top-node' and 'top' are mutually exclusive");
        }
        if self.base_node.is_some() && self.base.is_some() {
            return refuse("'base-node' and 'base' are mutually exclusive");
        }
        let graph = graph(vm)?;
        let device = &self.device;
        let root = root_of(&graph, device).unwrap_or_else(|| {
            Err(Error::new(Class::DeviceNotFound, format!("Device '{device}' not found")))
        })?;
        let chain = root.chain();
        let (top, base) = self.layers(&graph, &chain)?;
        // Of what lies above only the image that names the highest of the layers, and the root.
        let all = block_jobs::commit::between(&root, &base);
        let from = all.iter().position(|node| Arc::ptr_eq(node, &top)).unwrap_or(0);
        let (above, below) = all.split_at(from);
        // A filter over the highest of the layers is passed on the way.
        let start = above.iter().rposition(|node| !node.class().is_filter()).map_or(0, |n| n + 1);
        let mut meant: Vec<_> = above.get(start..).unwrap_or_default().to_vec();
        meant.extend_from_slice(below);
        meant.extend(start.checked_sub(1).and_then(|over| above.get(over)).cloned());
        meant.push(root.clone());
        check_blocked(&graph, &meant)?;
        if Arc::ptr_eq(&top, &base) {
            return refuse("cannot commit an image into itself");
        }
        let place = |node: &Arc<Node>| chain.iter().position(|layer| Arc::ptr_eq(layer, node));
        if place(&base) < place(&top) {
            return refuse("cannot commit an image into itself");
        }
        let active = Arc::ptr_eq(&top, &root.skip_filters());
        if active && self.backing_file.is_some() {
            return refuse("'backing-file' specified, but 'top' is the active layer");
        }
        let spec = Spec {
            id: self.job_id.unwrap_or_else(|| drive_of(&graph, &root)),
            kind: JobType::Commit,
            speed: self.speed.unwrap_or(0),
            on_error: policy(self.on_error),
            auto_finalize: self.auto_finalize.unwrap_or(true),
            auto_dismiss: self.auto_dismiss.unwrap_or(true),
            nodes: disk(&root),
        };
        let what = Committing {
            root,
            top,
            base,
            backing_name: self.backing_file,
            filter_name: self.filter_node_name,
        };
        let jobs = jobs(vm)?;
        if !active {
            return jobs.start(spec, || block_jobs::commit::prepare(&graph, what));
        }
        jobs.check(&spec)?;
        if spec.speed < 0 {
            return jobs.start(spec, || Err(Error::generic("no speed")));
        }
        let work = block_jobs::active::prepare(&graph, what)?;
        jobs.start(spec, || Ok(work))
    }
}
