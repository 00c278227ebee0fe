//! `throttle-group`: limits that nodes of the driver `throttle` share.
//!
//! Limits are given in `limits`, or as `x-bps-total`, `x-iops-read-max` and so on. What they mean is
//! said where they are kept (`block::Limits`). They do not change while the object lives, and
//! `iops-size` is not built: only 0 is taken.
//! Source: QEMU's manual, `-object throttle-group`.

use std::sync::Arc;

use block::{Limit, Limits, Rules, ThrottleGroup};
use derive::Qapi;
use device::{ObjectBuild, ObjectClass, ObjectType};
use qapi::{Error, Result};

/// The class for the catalog.
pub static CLASS: ObjectClass = ObjectClass::of::<Throttle>();

/// Limits in their structured form.
#[derive(Clone, Debug, Default, Qapi)]
#[expect(missing_docs, reason = "named as in the schema")]
pub struct ThrottleLimits {
    pub bps_total: Option<i64>,
    pub bps_total_max: Option<i64>,
    pub bps_total_max_length: Option<i64>,
    pub bps_read: Option<i64>,
    pub bps_read_max: Option<i64>,
    pub bps_read_max_length: Option<i64>,
    pub bps_write: Option<i64>,
    pub bps_write_max: Option<i64>,
    pub bps_write_max_length: Option<i64>,
    pub iops_total: Option<i64>,
    pub iops_total_max: Option<i64>,
    pub iops_total_max_length: Option<i64>,
    pub iops_read: Option<i64>,
    pub iops_read_max: Option<i64>,
    pub iops_read_max_length: Option<i64>,
    pub iops_write: Option<i64>,
    pub iops_write_max: Option<i64>,
    pub iops_write_max_length: Option<i64>,
    pub iops_size: Option<i64>,
}

/// Properties of `throttle-group`.
#[derive(Clone, Debug, Qapi)]
#[expect(missing_docs, reason = "the peer's help has no texts either")]
pub struct Props {
    pub limits: Option<ThrottleLimits>,
    pub x_bps_read: Option<i64>,
    pub x_bps_read_max: Option<i64>,
    pub x_bps_read_max_length: Option<i64>,
    pub x_bps_total: Option<i64>,
    pub x_bps_total_max: Option<i64>,
    pub x_bps_total_max_length: Option<i64>,
    pub x_bps_write: Option<i64>,
    pub x_bps_write_max: Option<i64>,
    pub x_bps_write_max_length: Option<i64>,
    pub x_iops_read: Option<i64>,
    pub x_iops_read_max: Option<i64>,
    pub x_iops_read_max_length: Option<i64>,
    pub x_iops_size: Option<i64>,
    pub x_iops_total: Option<i64>,
    pub x_iops_total_max: Option<i64>,
    pub x_iops_total_max_length: Option<i64>,
    pub x_iops_write: Option<i64>,
    pub x_iops_write_max: Option<i64>,
    pub x_iops_write_max_length: Option<i64>,
}

/// A group.
pub struct Throttle;

/// A limit from the unstructured properties, or else from the structured ones.
fn limit(plain: [Option<i64>; 3], structured: [Option<i64>; 3]) -> Result<Limit> {
    let number = |n: usize, other: i64| -> Result<f64> {
        let given = plain.get(n).copied().flatten().or(structured.get(n).copied().flatten());
        let value = given.unwrap_or(other);
        if value < 0 {
            return Err(Error::generic("Property values cannot be negative"));
        }
        #[expect(clippy::cast_precision_loss, reason = "rates")]
        Ok(value as f64)
    };
    Ok(Limit { average: number(0, 0)?, max: number(1, 0)?, length: number(2, 1)? })
}

impl ObjectType for Throttle {
    const NAME: &'static str = "throttle-group";
    const SUMMARY: &'static str = "limits for block nodes";
    type Props = Props;

    fn create(p: Props, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let l = p.limits.unwrap_or_default();
        if p.x_iops_size.or(l.iops_size).is_some_and(|size| size != 0) {
            return Err(Error::generic("iops-size of a throttle-group is not built yet"));
        }
        let rules: Rules = [
            limit(
                [p.x_bps_total, p.x_bps_total_max, p.x_bps_total_max_length],
                [l.bps_total, l.bps_total_max, l.bps_total_max_length],
            )?,
            limit(
                [p.x_bps_read, p.x_bps_read_max, p.x_bps_read_max_length],
                [l.bps_read, l.bps_read_max, l.bps_read_max_length],
            )?,
            limit(
                [p.x_bps_write, p.x_bps_write_max, p.x_bps_write_max_length],
                [l.bps_write, l.bps_write_max, l.bps_write_max_length],
            )?,
            limit(
                [p.x_iops_total, p.x_iops_total_max, p.x_iops_total_max_length],
                [l.iops_total, l.iops_total_max, l.iops_total_max_length],
            )?,
            limit(
                [p.x_iops_read, p.x_iops_read_max, p.x_iops_read_max_length],
                [l.iops_read, l.iops_read_max, l.iops_read_max_length],
            )?,
            limit(
                [p.x_iops_write, p.x_iops_write_max, p.x_iops_write_max_length],
                [l.iops_write, l.iops_write_max, l.iops_write_max_length],
            )?,
        ];
        at.offer(ThrottleGroup(Arc::new(Limits::new(&rules)?)));
        Ok(Arc::new(Throttle))
    }
}
