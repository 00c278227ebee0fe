//! `throttle-group`: limits that nodes of the driver `throttle` share.
//!
//! Limits are given as `x-bps-total`, `x-iops-read-max` and so on (the structured `limits` is for
//! QMP in QEMU and not accepted here). What they mean is said where they are kept
//! (`block::Limits`). They do not change while the object lives.
//! Source: QEMU's manual, `-object throttle-group`.

use std::sync::Arc;

use block::{Limit, Limits, Rules, ThrottleGroup};
use derive::Qapi;
use device::{ObjectBuild, ObjectClass, ObjectType};
use qapi::Result;

/// The class for the catalog.
pub static CLASS: ObjectClass = ObjectClass::of::<Throttle>();

/// Properties of `throttle-group`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no texts either")]
pub struct Props {
    pub x_bps_read: Option<u64>,
    pub x_bps_read_max: Option<u64>,
    pub x_bps_read_max_length: Option<u64>,
    pub x_bps_total: Option<u64>,
    pub x_bps_total_max: Option<u64>,
    pub x_bps_total_max_length: Option<u64>,
    pub x_bps_write: Option<u64>,
    pub x_bps_write_max: Option<u64>,
    pub x_bps_write_max_length: Option<u64>,
    pub x_iops_read: Option<u64>,
    pub x_iops_read_max: Option<u64>,
    pub x_iops_read_max_length: Option<u64>,
    pub x_iops_size: Option<u64>,
    pub x_iops_total: Option<u64>,
    pub x_iops_total_max: Option<u64>,
    pub x_iops_total_max_length: Option<u64>,
    pub x_iops_write: Option<u64>,
    pub x_iops_write_max: Option<u64>,
    pub x_iops_write_max_length: Option<u64>,
}

/// A group.
pub struct Throttle;

fn limit(average: Option<u64>, max: Option<u64>, length: Option<u64>) -> Limit {
    #[expect(clippy::cast_precision_loss, reason = "rates")]
    let number = |n: Option<u64>, other: u64| n.unwrap_or(other) as f64;
    Limit { average: number(average, 0), max: number(max, 0), length: number(length, 1) }
}

impl ObjectType for Throttle {
    const NAME: &'static str = "throttle-group";
    const SUMMARY: &'static str = "limits for block nodes";
    type Props = Props;

    fn create(p: Props, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let rules: Rules = [
            limit(p.x_bps_total, p.x_bps_total_max, p.x_bps_total_max_length),
            limit(p.x_bps_read, p.x_bps_read_max, p.x_bps_read_max_length),
            limit(p.x_bps_write, p.x_bps_write_max, p.x_bps_write_max_length),
            limit(p.x_iops_total, p.x_iops_total_max, p.x_iops_total_max_length),
            limit(p.x_iops_read, p.x_iops_read_max, p.x_iops_read_max_length),
            limit(p.x_iops_write, p.x_iops_write_max, p.x_iops_write_max_length),
        ];
        at.offer(ThrottleGroup(Arc::new(Limits::new(&rules)?)));
        Ok(Arc::new(Throttle))
    }
}
