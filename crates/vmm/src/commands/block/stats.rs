//! `query-blockstats`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{Backend, Node};
use derive::Qapi;
use qapi::{Result, Value};

use super::super::QmpCommand;
use super::{graph, slotted};
use crate::Vm;

/// Counters.
#[derive(Default, Qapi)]
#[qapi(rename_all = "snake_case")]
pub(crate) struct BlockDeviceStats {
    rd_bytes: u64,
    wr_bytes: u64,
    zone_append_bytes: u64,
    unmap_bytes: u64,
    rd_operations: u64,
    wr_operations: u64,
    zone_append_operations: u64,
    flush_operations: u64,
    unmap_operations: u64,
    rd_total_time_ns: u64,
    wr_total_time_ns: u64,
    zone_append_total_time_ns: u64,
    flush_total_time_ns: u64,
    unmap_total_time_ns: u64,
    wr_highest_offset: u64,
    rd_merged: u64,
    wr_merged: u64,
    zone_append_merged: u64,
    unmap_merged: u64,
    idle_time_ns: Option<u64>,
    failed_rd_operations: u64,
    failed_wr_operations: u64,
    failed_zone_append_operations: u64,
    failed_flush_operations: u64,
    failed_unmap_operations: u64,
    invalid_rd_operations: u64,
    invalid_wr_operations: u64,
    invalid_zone_append_operations: u64,
    invalid_flush_operations: u64,
    invalid_unmap_operations: u64,
    account_invalid: bool,
    account_failed: bool,
    timed_stats: Vec<BlockDeviceTimedStats>,
}

/// Statistics of the last seconds.
#[derive(Default, Qapi)]
#[qapi(rename_all = "snake_case")]
pub(crate) struct BlockDeviceTimedStats {
    interval_length: u64,
    min_rd_latency_ns: u64,
    max_rd_latency_ns: u64,
    avg_rd_latency_ns: u64,
    min_wr_latency_ns: u64,
    max_wr_latency_ns: u64,
    avg_wr_latency_ns: u64,
    min_zone_append_latency_ns: u64,
    max_zone_append_latency_ns: u64,
    avg_zone_append_latency_ns: u64,
    min_flush_latency_ns: u64,
    max_flush_latency_ns: u64,
    avg_flush_latency_ns: u64,
    avg_rd_queue_depth: f64,
    avg_wr_queue_depth: f64,
    avg_zone_append_queue_depth: f64,
}

fn timed(interval: &mut block::Interval, now: u64) -> BlockDeviceTimedStats {
    let [reads, writes, flushes] = [0, 1, 2].map(|kind| interval.times(kind, now));
    BlockDeviceTimedStats {
        interval_length: interval.seconds(),
        min_rd_latency_ns: reads.least,
        max_rd_latency_ns: reads.most,
        avg_rd_latency_ns: reads.mean,
        min_wr_latency_ns: writes.least,
        max_wr_latency_ns: writes.most,
        avg_wr_latency_ns: writes.mean,
        min_flush_latency_ns: flushes.least,
        max_flush_latency_ns: flushes.most,
        avg_flush_latency_ns: flushes.mean,
        avg_rd_queue_depth: reads.depth,
        avg_wr_queue_depth: writes.depth,
        ..BlockDeviceTimedStats::default()
    }
}

/// Counters of a slot or node, and of what lies below it.
#[derive(Qapi)]
pub(crate) struct BlockStats {
    /// The drive's id.
    device: Option<String>,
    /// The device that has it.
    qdev: Option<String>,
    /// The node.
    node_name: Option<String>,
    /// The counters.
    stats: BlockDeviceStats,
    /// What belongs to one driver only.
    driver_specific: Option<Value>,
    /// The file below.
    parent: Option<Value>,
    /// The backing file.
    backing: Option<Value>,
}

fn load(n: &AtomicU64) -> u64 {
    n.load(Ordering::Relaxed)
}

fn of_backend(backend: &Backend) -> BlockDeviceStats {
    let a = &backend.accounts;
    let last = load(&a.last_ns);
    let now = host::monotonic_ns();
    let idle = now.saturating_sub(last);
    BlockDeviceStats {
        rd_bytes: load(&a.read.bytes),
        wr_bytes: load(&a.write.bytes),
        unmap_bytes: load(&a.unmap.bytes),
        rd_operations: load(&a.read.operations),
        wr_operations: load(&a.write.operations),
        flush_operations: load(&a.flush.operations),
        unmap_operations: load(&a.unmap.operations),
        rd_total_time_ns: load(&a.read.time_ns),
        wr_total_time_ns: load(&a.write.time_ns),
        flush_total_time_ns: load(&a.flush.time_ns),
        unmap_total_time_ns: load(&a.unmap.time_ns),
        rd_merged: load(&a.read.merged),
        wr_merged: load(&a.write.merged),
        failed_rd_operations: load(&a.read.failed),
        failed_wr_operations: load(&a.write.failed),
        failed_flush_operations: load(&a.flush.failed),
        failed_unmap_operations: load(&a.unmap.failed),
        invalid_rd_operations: load(&a.read.invalid),
        invalid_wr_operations: load(&a.write.invalid),
        idle_time_ns: (last > 0).then_some(idle),
        account_invalid: a.with_invalid.load(Ordering::Relaxed),
        account_failed: a.with_failed.load(Ordering::Relaxed),
        timed_stats: a.timed.lock().iter_mut().map(|i| timed(i, now)).collect(),
        ..BlockDeviceStats::default()
    }
}

fn of_node(node: &Arc<Node>, own: Option<BlockDeviceStats>, deep: bool) -> BlockStats {
    use qapi::Qapi as _;
    let mut stats = own.unwrap_or_default();
    stats.wr_highest_offset = load(&node.stats.wr_highest_offset);
    let below = |role| node.child(role).filter(|_| deep).map(|child| child.skip_implicit());
    let name = node.class().name;
    let specific = ["file", "host_device"].contains(&name).then(|| {
        let zero = |key: &'static str| (key, Value::Int(0));
        Value::map([
            zero("discard-bytes-ok"),
            zero("discard-nb-ok"),
            ("driver", Value::from(name)),
            zero("discard-nb-failed"),
        ])
    });
    BlockStats {
        device: None,
        qdev: None,
        node_name: Some(node.name().to_owned()),
        stats,
        driver_specific: specific,
        parent: below("file").map(|file| of_node(&file, None, deep).to_value()),
        backing: below("backing").map(|back| of_node(&back, None, deep).to_value()),
    }
}

/// Tell the counters of drives, disks and nodes.
#[derive(Qapi)]
pub(crate) struct QueryBlockstats {
    /// Of all nodes, and not of drives and disks.
    query_nodes: Option<bool>,
}

impl QmpCommand for QueryBlockstats {
    const NAME: &'static str = "query-blockstats";
    type Returns = Vec<BlockStats>;
    fn run(self, vm: &Vm) -> Result<Vec<BlockStats>> {
        let graph = graph(vm)?;
        if self.query_nodes.unwrap_or(false) {
            return Ok(graph.nodes().iter().map(|n| of_node(n, None, true)).collect());
        }
        let devices = slotted(vm);
        let mut all = Vec::new();
        for backend in graph.backends() {
            let device = devices.iter().find(|(_, slot)| Arc::ptr_eq(slot.backend(), &backend));
            if backend.name().is_empty() && device.is_none() {
                continue;
            }
            let own = of_backend(&backend);
            let mut stats = match backend.node() {
                Some(node) => of_node(&node.skip_implicit(), Some(own), true),
                None => BlockStats {
                    device: None,
                    qdev: None,
                    node_name: None,
                    stats: own,
                    driver_specific: None,
                    parent: None,
                    backing: None,
                },
            };
            stats.device = Some(backend.name().to_owned());
            stats.qdev = device.map(|(name, _)| name.clone());
            all.push(stats);
        }
        Ok(all)
    }
}
