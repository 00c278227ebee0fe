//! `block_set_io_throttle`, `block-set-write-threshold`.
//!
//! Limits are those of a group of slots; a slot's own group has the slot's name.

use block::{Limit, Rules};
use derive::Qapi;
use qapi::{Class, Error, Qapi as _, Result};

use super::super::QmpCommand;
use super::{graph, slot};
use crate::Vm;

/// Limit a disk's requests.
#[derive(Qapi)]
#[qapi(rename_all = "snake_case")]
pub(crate) struct BlockSetIoThrottle {
    /// The drive.
    device: Option<String>,
    /// Or the device.
    id: Option<String>,
    /// Bytes per second.
    bps: i64,
    /// Of reads.
    bps_rd: i64,
    /// Of writes.
    bps_wr: i64,
    /// Requests per second.
    iops: i64,
    /// Of reads.
    iops_rd: i64,
    /// Of writes.
    iops_wr: i64,
    /// Burst of bytes per second.
    bps_max: Option<i64>,
    /// Of reads.
    bps_rd_max: Option<i64>,
    /// Of writes.
    bps_wr_max: Option<i64>,
    /// Burst of requests per second.
    iops_max: Option<i64>,
    /// Of reads.
    iops_rd_max: Option<i64>,
    /// Of writes.
    iops_wr_max: Option<i64>,
    /// Seconds of the burst.
    bps_max_length: Option<i64>,
    /// Of reads.
    bps_rd_max_length: Option<i64>,
    /// Of writes.
    bps_wr_max_length: Option<i64>,
    /// Seconds of the burst of requests.
    iops_max_length: Option<i64>,
    /// Of reads.
    iops_rd_max_length: Option<i64>,
    /// Of writes.
    iops_wr_max_length: Option<i64>,
    /// Bytes that count as one request.
    iops_size: Option<i64>,
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
        let rules: Rules = [
            limit(self.bps, self.bps_max, self.bps_max_length),
            limit(self.bps_rd, self.bps_rd_max, self.bps_rd_max_length),
            limit(self.bps_wr, self.bps_wr_max, self.bps_wr_max_length),
            limit(self.iops, self.iops_max, self.iops_max_length),
            limit(self.iops_rd, self.iops_rd_max, self.iops_rd_max_length),
            limit(self.iops_wr, self.iops_wr_max, self.iops_wr_max_length),
        ];
        let group = self.group.clone().or_else(|| self.device.clone()).or_else(|| self.id.clone());
        let size = u64::try_from(self.iops_size.unwrap_or(0)).unwrap_or(0);
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
