//! `throttle-group`: limits that nodes of the driver `throttle` and drives share.
//!
//! Limits are given in `limits`, or as `x-bps-total`, `x-iops-read-max` and so on. What they mean is
//! said where they are kept (`block::IoGroup`). `limits` changes while the object is used; what it
//! does not name stays. A drive that joins by the group's name (`block_set_io_throttle`) sets the
//! limits of all. Source: QEMU's manual, `-object throttle-group`; messages of QEMU 10.0.

use std::sync::Arc;

use block::{Graph, IoGroup, Limit, Rules, ThrottleGroup};
use derive::Qapi;
use device::{Getter, ObjectBuild, ObjectClass, ObjectType, Setter};
use qapi::{Error, Qapi as _, Result, Source, Value};

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

/// Average, burst and its seconds of each limit, in the order of [`Rules`], as they were given.
type Given = [[Option<i64>; 3]; 6];

/// The properties of each limit, in the order of [`Rules`].
const NAMES: [&str; 6] =
    ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];

impl ThrottleLimits {
    fn given(&self) -> Given {
        [
            [self.bps_total, self.bps_total_max, self.bps_total_max_length],
            [self.bps_read, self.bps_read_max, self.bps_read_max_length],
            [self.bps_write, self.bps_write_max, self.bps_write_max_length],
            [self.iops_total, self.iops_total_max, self.iops_total_max_length],
            [self.iops_read, self.iops_read_max, self.iops_read_max_length],
            [self.iops_write, self.iops_write_max, self.iops_write_max_length],
        ]
    }
}

impl Props {
    fn given(&self) -> Given {
        [
            [self.x_bps_total, self.x_bps_total_max, self.x_bps_total_max_length],
            [self.x_bps_read, self.x_bps_read_max, self.x_bps_read_max_length],
            [self.x_bps_write, self.x_bps_write_max, self.x_bps_write_max_length],
            [self.x_iops_total, self.x_iops_total_max, self.x_iops_total_max_length],
            [self.x_iops_read, self.x_iops_read_max, self.x_iops_read_max_length],
            [self.x_iops_write, self.x_iops_write_max, self.x_iops_write_max_length],
        ]
    }
}

/// Rules with what was given; what was not stays.
fn with(mut rules: Rules, given: &Given) -> Result<Rules> {
    #[expect(clippy::cast_precision_loss, reason = "rates")]
    let float = |n: i64| n as f64;
    // A length below zero is a very great one.
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let seconds = |n: i64| n.cast_unsigned() as f64;
    for (rule, [average, max, length]) in rules.iter_mut().zip(given) {
        if *length == Some(0) {
            return Err(Error::generic("the burst length cannot be 0"));
        }
        rule.average = average.map_or(rule.average, float);
        rule.max = max.map_or(rule.max, float);
        rule.length = length.map_or(rule.length, seconds);
    }
    Ok(rules)
}

/// A limit's value as it is shown.
fn whole(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "limits are whole and bounded")]
    let value = value as i64;
    value
}

/// A property of a group now; `None` for one that is none of its limits.
fn shown(group: &IoGroup, name: &str) -> Option<Value> {
    let (rules, op_size) = group.rules();
    let op_size = op_size.cast_signed();
    if name == "limits" {
        let names = NAMES.iter().zip(rules).flat_map(|(name, rule)| {
            [("", rule.average), ("-max", rule.max), ("-max-length", rule.length)]
                .map(|(end, value)| (format!("{name}{end}"), whole(value)))
        });
        let all = names.chain([("iops-size".to_owned(), op_size)]);
        return Some(Value::Map(all.map(|(name, n)| (name, Value::Int(n))).collect()));
    }
    let name = name.strip_prefix("x-")?;
    if name == "iops-size" {
        return Some(Value::Int(op_size));
    }
    NAMES.iter().zip(rules).find_map(|(known, rule)| {
        let value = match name.strip_prefix(known)? {
            "" => rule.average,
            "-max" => rule.max,
            "-max-length" => rule.length,
            _ => return None,
        };
        Some(Value::Int(whole(value)))
    })
}

/// The value of `limits`, under its name, for messages.
#[derive(Qapi)]
struct Change {
    limits: ThrottleLimits,
}

/// Sets a property of a group that lives.
fn change(group: &IoGroup, name: &str, value: &Value) -> Result<bool> {
    if name != "limits" {
        let known = shown(group, name).is_some();
        let text = "Property cannot be set after initialization";
        return if known { Err(Error::generic(text)) } else { Ok(false) };
    }
    let Change { limits } =
        Change::from_value(Value::map([("limits", value.clone())]), Source::Json)?;
    let (rules, op_size) = group.rules();
    let op_size = limits.iops_size.map_or(op_size, i64::cast_unsigned);
    group.set(&with(rules, &limits.given())?, op_size)?;
    Ok(true)
}

impl ObjectType for Throttle {
    const NAME: &'static str = "throttle-group";
    const SUMMARY: &'static str = "limits for block nodes";
    type Props = Props;

    fn create(p: Props, at: &mut ObjectBuild<'_>) -> Result<Arc<Self>> {
        let plain = p.given();
        if plain.iter().flatten().chain([&p.x_iops_size]).flatten().any(|n| *n < 0) {
            return Err(Error::generic("Property values cannot be negative"));
        }
        let graph = at.service::<Arc<Graph>>();
        if graph.is_some_and(|graph| graph.slots_group(at.id()).is_some()) {
            return Err(Error::generic("A group with this name already exists"));
        }
        let l = p.limits.clone().unwrap_or_default();
        let none: Rules = [Limit { average: 0.0, max: 0.0, length: 1.0 }; 6];
        let rules = with(with(none, &l.given())?, &plain)?;
        let op_size = p.x_iops_size.or(l.iops_size).map_or(0, i64::cast_unsigned);
        let group = IoGroup::new(at.id(), &rules, op_size)?;
        let (get, set) = (group.clone(), group.clone());
        at.offer(Getter(Arc::new(move |name| shown(&get, name))));
        at.offer(Setter(Arc::new(move |name, value| change(&set, name, value))));
        at.offer(ThrottleGroup(group));
        Ok(Arc::new(Throttle))
    }
}
