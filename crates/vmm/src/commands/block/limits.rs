//! `block_set_io_throttle`, `block-set-write-threshold`.
//!
//! Limits are those of a group of slots; a slot's own group has the slot's name.

use block::{Limit, Rules};
use derive::Qapi;
use qapi::{Class, Error, Qapi as _, Result};

use super::super::QmpCommand;
use super::{graph, slot};
use crate::Vm;

/// Limits of requests; `query-block` shows them as `block_set_io_throttle` takes them.
#[derive(Qapi)]
#[qapi(rename_all = "snake_case")]
pub(crate) struct IoLimits {
    /// Bytes per second.
    pub(super) bps: i64,
    /// Of reads.
    pub(super) bps_rd: i64,
    /// Of writes.
    pub(super) bps_wr: i64,
    /// Requests per second.
    pub(super) iops: i64,
    /// Of reads.
    pub(super) iops_rd: i64,
    /// Of writes.
    pub(super) iops_wr: i64,
    /// Burst of bytes per second.
    pub(super) bps_max: Option<i64>,
    /// Of reads.
    pub(super) bps_rd_max: Option<i64>,
    /// Of writes.
    pub(super) bps_wr_max: Option<i64>,
    /// Burst of requests per second.
    pub(super) iops_max: Option<i64>,
    /// Of reads.
    pub(super) iops_rd_max: Option<i64>,
    /// Of writes.
    pub(super) iops_wr_max: Option<i64>,
    /// Seconds of the burst.
    pub(super) bps_max_length: Option<i64>,
    /// Of reads.
    pub(super) bps_rd_max_length: Option<i64>,
    /// Of writes.
    pub(super) bps_wr_max_length: Option<i64>,
    /// Seconds of the burst of requests.
    pub(super) iops_max_length: Option<i64>,
    /// Of reads.
    pub(super) iops_rd_max_length: Option<i64>,
    /// Of writes.
    pub(super) iops_wr_max_length: Option<i64>,
    /// Bytes that count as one request.
    pub(super) iops_size: Option<i64>,
}

impl IoLimits {
    /// As they are shown.
    pub(super) fn of(rules: &Rules, op_size: u64) -> IoLimits {
        let [a, b, c, d, e, f] = rules.map(shown);
        IoLimits {
            bps: a.0,
            bps_rd: b.0,
            bps_wr: c.0,
            iops: d.0,
            iops_rd: e.0,
            iops_wr: f.0,
            bps_max: a.1,
            bps_rd_max: b.1,
            bps_wr_max: c.1,
            iops_max: d.1,
            iops_rd_max: e.1,
            iops_wr_max: f.1,
            bps_max_length: a.2,
            bps_rd_max_length: b.2,
            bps_wr_max_length: c.2,
            iops_max_length: d.2,
            iops_rd_max_length: e.2,
            iops_wr_max_length: f.2,
            iops_size: (op_size > 0).then(|| i64::try_from(op_size).unwrap_or(i64::MAX)),
        }
    }

    fn rules(&self) -> Rules {
        [
            limit(self.bps, self.bps_max, self.bps_max_length),
            limit(self.bps_rd, self.bps_rd_max, self.bps_rd_max_length),
            limit(self.bps_wr, self.bps_wr_max, self.bps_wr_max_length),
            limit(self.iops, self.iops_max, self.iops_max_length),
            limit(self.iops_rd, self.iops_rd_max, self.iops_rd_max_length),
            limit(self.iops_wr, self.iops_wr_max, self.iops_wr_max_length),
        ]
    }
}

/// Average, burst and its seconds.
fn shown(limit: Limit) -> (i64, Option<i64>, Option<i64>) {
    #[expect(clippy::cast_possible_truncation, reason = "rates are whole and bounded")]
    let whole = |n: f64| n as i64;
    let burst = |n| (limit.max > 0.0).then(|| whole(n));
    (whole(limit.average), burst(limit.max), burst(limit.length))
}

/// Limit a disk's requests.
#[derive(Qapi)]
#[qapi(rename_all = "snake_case")]
pub(crate) struct BlockSetIoThrottle {
    /// The drive.
    device: Option<String>,
    /// Or the device.
    id: Option<String>,
    #[qapi(flatten)]
    limits: IoLimits,
    /// The group.
    group: Option<String>,
}

fn limit(average: i64, max: Option<i64>, length: Option<i64>) -> Limit {
    #[expect(clippy::cast_precision_loss, reason = "rates")]
    let float = |n: i64| n as f64;
    let (max, length) = (float(max.unwrap_or(0)), float(length.unwrap_or(1)));
    Limit { average: float(average), max, length }
}

impl QmpCommand for BlockSetIoThrottle {
    const NAME: &'static str = "block_set_io_throttle";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let (device, id) = (self.device.as_deref(), self.id.as_deref());
        let (backend, _) = slot(vm, device, id)?;
        if backend.node().is_none() {
            return Err(Error::generic("Device has no medium"));
        }
        let rules = self.limits.rules();
        let group = self.group.clone().or_else(|| self.device.clone()).or_else(|| self.id.clone());
        let size = u64::try_from(self.limits.iops_size.unwrap_or(0)).unwrap_or(0);
        graph(vm)?.limit(&backend, &group.unwrap_or_default(), &rules, size)
    }
}

/// What `BLOCK_WRITE_THRESHOLD` says.
#[derive(Qapi)]
pub(crate) struct BlockWriteThreshold {
    /// The node.
    node_name: String,
    /// By how much a write went beyond.
    amount_exceeded: u64,
    /// The place.
    write_threshold: u64,
}

/// Tell once when a write goes beyond a place in a node.
#[derive(Qapi)]
pub(crate) struct BlockSetWriteThreshold {
    /// The node.
    node_name: String,
    /// The place; 0: nowhere.
    write_threshold: u64,
}

impl QmpCommand for BlockSetWriteThreshold {
    const NAME: &'static str = "block-set-write-threshold";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let name = &self.node_name;
        let node = graph(vm)?
            .find(name)
            .ok_or_else(|| Error::new(Class::GenericError, format!("Device '{name}' not found")))?;
        let (weak, handle) = (vm.weak(), vm.handle.clone());
        node.threshold().set(
            self.write_threshold,
            move |name, amount_exceeded, write_threshold| {
                let (weak, node_name) = (weak.clone(), name.to_owned());
                handle.call(Box::new(move || {
                    let Some(vm) = weak.upgrade() else { return };
                    let data = BlockWriteThreshold { node_name, amount_exceeded, write_threshold };
                    vm.emit("BLOCK_WRITE_THRESHOLD", Some(data.to_value()));
                }));
            },
        );
        Ok(())
    }
}
