//! `query-block`, `query-named-block-nodes`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{Backend, Node};
use derive::Qapi;
use qapi::{Result, Value};

use super::super::QmpCommand;
use super::{graph, slotted};
use crate::Vm;

/// How a node is cached.
#[derive(Qapi)]
pub(crate) struct BlockdevCacheInfo {
    /// Writes may stay in caches until a flush.
    writeback: bool,
    /// Past the host's page cache.
    direct: bool,
    /// Flushes do nothing.
    no_flush: bool,
}

/// What belongs to one format only.
#[derive(Qapi)]
pub(crate) struct ImageInfoSpecific {
    /// The format.
    r#type: String,
    /// Its data.
    data: Value,
}

/// An internal snapshot.
#[derive(Qapi)]
pub(crate) struct SnapshotInfo {
    /// Its number.
    id: String,
    /// Its name.
    name: String,
    /// Bytes of the machine's saved state.
    vm_state_size: u64,
    /// Seconds since 1970.
    date_sec: i64,
    /// And nanoseconds.
    date_nsec: i64,
    /// Guest time, seconds.
    vm_clock_sec: i64,
    /// And nanoseconds.
    vm_clock_nsec: i64,
    /// Instructions executed.
    icount: Option<i64>,
}

/// An image.
#[derive(Qapi)]
pub(crate) struct ImageInfo {
    /// Its name.
    filename: String,
    /// Its format.
    format: String,
    /// It was not closed properly.
    dirty_flag: Option<bool>,
    /// Bytes it takes on the host.
    actual_size: Option<u64>,
    /// Bytes of the disk.
    virtual_size: u64,
    /// Bytes of a cluster.
    cluster_size: Option<u64>,
    /// The backing file's name as stored.
    backing_filename: Option<String>,
    /// And as found.
    full_backing_filename: Option<String>,
    /// Its format as stored.
    backing_filename_format: Option<String>,
    /// Internal snapshots.
    snapshots: Option<Vec<SnapshotInfo>>,
    /// The backing image.
    backing_image: Option<Value>,
    /// What belongs to one format only.
    format_specific: Option<ImageInfoSpecific>,
}

/// A node.
#[derive(Qapi)]
#[qapi(rename_all = "snake_case")]
pub(crate) struct BlockDeviceInfo {
    /// The name of its file.
    file: String,
    /// Its name.
    #[qapi(name = "node-name")]
    node_name: Option<String>,
    /// Writes are refused.
    ro: bool,
    /// Its driver.
    drv: String,
    /// Its backing file.
    backing_file: Option<String>,
    /// Layers below it.
    backing_file_depth: i64,
    /// It is encrypted.
    encrypted: bool,
    /// What is done with zeroes that are written.
    detect_zeroes: String,
    #[qapi(flatten)]
    limits: super::limits::IoLimits,
    /// The group whose limits these are.
    group: Option<String>,
    /// The image.
    image: ImageInfo,
    /// How it is cached.
    cache: BlockdevCacheInfo,
    /// Where writes give an event; 0: nowhere.
    write_threshold: i64,
    /// It takes requests.
    active: bool,
}

/// A slot for a disk.
#[derive(Qapi)]
pub(crate) struct BlockInfo {
    /// The drive's id.
    device: String,
    /// The device that has it.
    qdev: Option<String>,
    /// Always "unknown".
    r#type: String,
    /// Media can be taken out.
    removable: bool,
    /// The guest locked the tray.
    locked: bool,
    /// What is in it.
    inserted: Option<BlockDeviceInfo>,
    /// The tray is open.
    #[qapi(name = "tray_open")]
    tray_open: Option<bool>,
    /// How the last requests went.
    io_status: Option<String>,
}

fn allocated(node: &Node) -> Option<u64> {
    if node.class().is_filter() {
        let below = node.child("file").or_else(|| node.child("backing"));
        return below.and_then(|below| allocated(&below));
    }
    let own = node.driver().allocated_size();
    own.or_else(|| node.child("file").and_then(|file| allocated(&file)))
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn snapshot(s: &block::Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: s.id.clone(),
        name: s.name.clone(),
        vm_state_size: s.vm_state,
        date_sec: s.seconds.into(),
        date_nsec: s.nanoseconds.into(),
        vm_clock_sec: signed(s.clock / 1_000_000_000),
        vm_clock_nsec: signed(s.clock % 1_000_000_000),
        icount: (s.icount != u64::MAX).then(|| signed(s.icount)),
    }
}

/// Whether a node, or what is below a filter, knows what its format is like: disks that keep nothing
/// and those of servers do not.
fn has_format_info(node: &Arc<Node>) -> bool {
    let passes = node.class().is_filter() || ["raw", "blkdebug"].contains(&node.class().name);
    let below = ["file", "image"].iter().find_map(|name| node.child(name));
    match below {
        Some(below) if passes => has_format_info(&below),
        _ => !["null-co", "null-aio", "nbd"].contains(&node.class().name),
    }
}

fn image(node: &Arc<Node>, deep: bool) -> ImageInfo {
    use qapi::Qapi as _;
    let about = node.driver().format_info();
    let file_like = ["file", "host_device"].contains(&node.class().name);
    let specific = about.specific.or_else(|| file_like.then(Value::empty));
    let name = node.class().name;
    let is_filter = node.class().is_filter();
    let backing = node.child("backing").filter(|_| !is_filter).map(|below| below.skip_implicit());
    let seen = if is_filter { node.children().into_iter().next().map(|c| c.1) } else { None };
    let below = if deep { backing.as_ref().or(seen.as_ref()) } else { None };
    let shots = about.snapshots;
    ImageInfo {
        filename: node.filename(),
        format: name.to_owned(),
        dirty_flag: has_format_info(node).then_some(about.dirty),
        actual_size: allocated(node),
        virtual_size: node.len(),
        cluster_size: match about.cluster_size {
            None if is_filter => node.skip_filters().driver().format_info().cluster_size,
            own => own,
        },
        full_backing_filename: about
            .backing_file
            .as_ref()
            .map(|file| block::relative_to(node.path(), file)),
        backing_filename: about.backing_file,
        backing_filename_format: about.backing_format,
        snapshots: (!shots.is_empty()).then(|| shots.iter().map(snapshot).collect()),
        backing_image: below.map(|below| image(below, deep).to_value()),
        format_specific: specific.map(|data| ImageInfoSpecific { r#type: name.into(), data }),
    }
}

/// How many images are shown below a node: the children of filters, and backing files.
fn layers_below(node: &Arc<Node>) -> i64 {
    let (mut node, mut count) = (node.skip_implicit(), 0);
    loop {
        let below = if node.class().is_filter() {
            node.children().into_iter().next().map(|(_, child)| child)
        } else {
            node.child("backing")
        };
        let Some(below) = below else { return count };
        (node, count) = (below.skip_implicit(), count + 1);
    }
}

/// What is known of a node; `writeback` is its user's.
pub(crate) fn device_info(
    node: &Arc<Node>,
    writeback: bool,
    deep: bool,
    group: Option<&block::IoGroup>,
) -> BlockDeviceInfo {
    let (rules, op_size) = group.map(block::IoGroup::rules).unwrap_or_default();
    let flags = node.flags();
    let is_filter = node.class().is_filter();
    let backing = node.child("backing").filter(|_| !is_filter).map(|below| below.skip_implicit());
    let depth = if deep { layers_below(node) } else { 0 };
    BlockDeviceInfo {
        file: node.filename(),
        node_name: Some(node.name().to_owned()),
        ro: node.is_read_only(),
        drv: node.class().name.to_owned(),
        backing_file: backing.map(|below| below.filename()),
        backing_file_depth: depth,
        encrypted: false,
        detect_zeroes: node.detect_zeroes().word().to_owned(),
        limits: super::limits::IoLimits::of(&rules, op_size),
        group: group.map(|group| group.name().to_owned()),
        image: image(node, deep),
        cache: BlockdevCacheInfo { writeback, direct: flags.direct, no_flush: flags.no_flush },
        write_threshold: signed(node.threshold().place()),
        active: true,
    }
}

/// What is known of a slot.
pub(crate) fn block_info(
    backend: &Arc<Backend>,
    devices: &[(String, block::Slotted)],
) -> Option<BlockInfo> {
    let device = devices.iter().find(|(_, slot)| Arc::ptr_eq(slot.backend(), backend));
    if backend.name().is_empty() && device.is_none() {
        return None;
    }
    let user = backend.user();
    let node = backend.node();
    let tray = device.and_then(|(_, slot)| slot.tray_open());
    let status = match backend.status.load(Ordering::Relaxed) {
        0 => "ok",
        2 => "nospace",
        _ => "failed",
    };
    let removable = user.as_ref().is_none_or(|user| user.removable);
    let writeback = backend.write_cache.load(Ordering::Relaxed);
    Some(BlockInfo {
        device: backend.name().to_owned(),
        qdev: device.map(|(name, _)| name.clone()),
        r#type: "unknown".into(),
        removable,
        locked: device.is_some_and(|(_, slot)| slot.is_locked()),
        inserted: node.map(|node| {
            let group = backend.io_group();
            device_info(&node.skip_implicit(), writeback, true, group.as_deref())
        }),
        tray_open: tray,
        io_status: backend.may_stop().then(|| status.to_owned()),
    })
}

/// List the drives and disks.
#[derive(Qapi)]
pub(crate) struct QueryBlock;

impl QmpCommand for QueryBlock {
    const NAME: &'static str = "query-block";
    type Returns = Vec<BlockInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<BlockInfo>> {
        let devices = slotted(vm);
        Ok(graph(vm)?.backends().iter().filter_map(|b| block_info(b, &devices)).collect())
    }
}

/// List the nodes of the block graph.
#[derive(Qapi)]
pub(crate) struct QueryNamedBlockNodes {
    /// Leave out the backing images of each.
    flat: Option<bool>,
}

impl QmpCommand for QueryNamedBlockNodes {
    const NAME: &'static str = "query-named-block-nodes";
    type Returns = Vec<BlockDeviceInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<BlockDeviceInfo>> {
        let deep = !self.flat.unwrap_or(false);
        let nodes = graph(vm)?.nodes();
        Ok(nodes.iter().rev().map(|node| device_info(node, true, deep, None)).collect())
    }
}
