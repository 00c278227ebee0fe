//! `throttle`: requests wait so that a group of nodes keeps its limits.
//!
//! A group ([`Limits`]) has limits of bytes and of requests per second, for reads, writes and both;
//! each is a leaky bucket: it drains at the limit and holds at most the burst (`-max`, for
//! `-max-length` seconds; a tenth of a second's worth without). A request waits on its thread until
//! its buckets have room. All nodes and slots of a group share its buckets ([`IoGroup`]).
//! Not here: turns between nodes of a group are as they come.
//! Source: QEMU's manual, `throttle-group`; QEMU's documentation, "The QEMU throttling
//! infrastructure".

#![expect(clippy::disallowed_methods, reason = "limits are kept in the host's time")]

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use qapi::{Error, Result};

use super::pass::{Access, Filter, Passing, Rest};
use crate::driver::{BlockClass, BlockDriver};
use crate::io_limits::IoGroup;
use crate::node::{Child, Node};
use crate::opening::Opening;

/// One limit: units per second, the burst per second, and for how many seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limit {
    /// Units per second; 0: none.
    pub average: f64,
    /// Units per second in a burst; 0: none.
    pub max: f64,
    /// Seconds a burst lasts.
    pub length: f64,
}

/// Limits in the order: bytes of all, of reads, of writes; requests of all, of reads, of writes.
pub type Rules = [Limit; 6];

#[derive(Clone, Copy)]
struct Bucket {
    limit: Limit,
    level: f64,
    since: Instant,
}

impl Bucket {
    fn room(&self) -> f64 {
        let Limit { average, max, length } = self.limit;
        if max > 0.0 { max * length.max(1.0) } else { average / 10.0 }
    }
    fn leak(&mut self, now: Instant) {
        let gone = now.saturating_duration_since(self.since).as_secs_f64() * self.limit.average;
        self.level = (self.level - gone).max(0.0);
        self.since = now;
    }
    /// Seconds until there is room.
    fn wait(&self) -> f64 {
        ((self.level - self.room()) / self.limit.average).max(0.0)
    }
}

/// The buckets of a group.
pub struct Limits {
    buckets: Mutex<[Option<Bucket>; 6]>,
    /// Bytes that count as one request; 0: any.
    op_size: u64,
}

/// Largest limit.
const MOST: f64 = 1e15;

/// What a group is found by among the abilities of objects.
#[derive(Clone)]
pub struct ThrottleGroup(pub Arc<IoGroup>);

impl Limits {
    /// Buckets with these limits; `op_size` bytes count as one request (0: any).
    ///
    /// # Errors
    /// Limits contradict one another.
    pub fn new(rules: &Rules, op_size: u64) -> Result<Limits> {
        let refuse = |text: &str| Err(Error::generic(text));
        for all in rules.chunks(3) {
            let used = |at: usize| all.get(at).is_some_and(|l| l.average > 0.0);
            let bursts = |at: usize| all.get(at).is_some_and(|l| l.max > 0.0);
            if used(0) && (used(1) || used(2)) || bursts(0) && (bursts(1) || bursts(2)) {
                let text = "bps/iops/max total values and read/write values cannot be used at the same time";
                return refuse(text);
            }
        }
        if op_size > 0 && rules.iter().skip(3).all(|limit| limit.average <= 0.0) {
            return refuse("iops size requires an iops value to be set");
        }
        for limit in rules {
            let problem = if [limit.average, limit.max].iter().any(|n| !(0.0..=MOST).contains(n)) {
                "bps/iops/max values must be within [0, 1000000000000000]"
            } else if limit.max > 0.0 && limit.length < 1.0 {
                "the burst length cannot be 0"
            } else if limit.length > 1.0 && limit.max <= 0.0 {
                "burst length set without burst rate"
            } else if limit.max > 0.0 && limit.length > MOST / limit.max {
                "burst length too high for this burst rate"
            } else if limit.max > 0.0 && limit.average == 0.0 {
                "bps_max/iops_max require corresponding bps/iops values"
            } else if limit.max > 0.0 && limit.max < limit.average {
                "bps_max/iops_max cannot be lower than bps/iops"
            } else {
                continue;
            };
            return refuse(problem);
        }
        let since = Instant::now();
        let bucket = |limit: &Limit| {
            (limit.average > 0.0).then_some(Bucket { limit: *limit, level: 0.0, since })
        };
        let buckets = [0, 1, 2, 3, 4, 5].map(|n| rules.get(n).and_then(bucket));
        Ok(Limits { buckets: Mutex::new(buckets), op_size })
    }

    /// Takes a request's share and gives 0, or tells how many seconds it has to wait.
    #[must_use]
    pub fn delay(&self, writes: bool, bytes: u64) -> f64 {
        self.take(writes, bytes, Instant::now())
    }

    /// Takes a request's share, or tells how many seconds it has to wait.
    fn take(&self, writes: bool, bytes: u64, now: Instant) -> f64 {
        let own = if writes { 2 } else { 1 };
        let mut all = self.buckets.lock();
        let mine = |n: usize| n.is_multiple_of(3) || n % 3 == own;
        let mut time = 0.0f64;
        for (_, bucket) in all.iter_mut().enumerate().filter(|(n, _)| mine(*n)) {
            if let Some(bucket) = bucket {
                bucket.leak(now);
                time = time.max(bucket.wait());
            }
        }
        if time > 0.0 {
            return time;
        }
        let requests = bytes.div_ceil(if self.op_size == 0 { u64::MAX } else { self.op_size });
        for (n, bucket) in all.iter_mut().enumerate().filter(|(n, _)| mine(*n)) {
            if let Some(bucket) = bucket {
                #[expect(clippy::cast_precision_loss, reason = "a share of a second")]
                let units = if n < 3 { bytes as f64 } else { requests.max(1) as f64 };
                bucket.level += units;
            }
        }
        0.0
    }
}

struct Throttle {
    file: Child,
    group: Arc<IoGroup>,
    /// The object that the group is, which stays meanwhile.
    _object: Option<Arc<device::Object>>,
}

impl Filter for Throttle {
    fn below(&self) -> Arc<Node> {
        self.file.node()
    }
    fn pass(&self, access: Access, at: u64, len: u64, rest: &mut Rest<'_>) -> io::Result<()> {
        if access != Access::Flush {
            self.group.wait(access != Access::Read, len);
        }
        rest(at, len)
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let group = crate::options::take::<String>(&mut at.options, "throttle-group", source)?;
    let group = group.ok_or_else(|| {
        if at.has_schema() {
            Error::missing("throttle-group")
        } else {
            Error::generic("Please specify a throttle group")
        }
    })?;
    let file = at.child("file")?;
    let Some((found, object)) = at.io_group(&group) else {
        return Err(Error::generic(format!("Throttle group '{group}' does not exist")));
    };
    at.filename = file.node().path().to_owned();
    Ok(Arc::new(Passing(Throttle { file, group: found, _object: object })))
}

pub(crate) const CLASS: BlockClass = BlockClass {
    name: "throttle",
    protocol: false,
    probe: |_| 0,
    open,
    create: None,
    create_options: &[],
    describe: |_| String::new(),
    has_backing: false,
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_full_bucket_makes_requests_wait_until_it_leaked() {
        let mut rules = Rules::default();
        rules[0] = Limit { average: 1000.0, max: 0.0, length: 1.0 };
        let limits = Limits::new(&rules, 0).unwrap();
        let start = Instant::now();
        assert!(limits.take(false, 600, start) <= 0.0);
        // 600 are in the bucket, which has room for 100.
        let time = limits.take(true, 1, start);
        assert!((0.4..=0.51).contains(&time), "{time}");
        assert!(limits.take(true, 1, start + Duration::from_millis(600)) <= 0.0);
        let sized = Limits::new(&rules, 512);
        let text = "iops size requires an iops value to be set";
        assert_eq!(sized.err().map(|e| e.desc), Some(text.to_owned()));
        rules[1] = rules[0];
        assert!(Limits::new(&rules, 0).is_err());
        rules[0] = Limit::default();
        rules[1].max = 10.0;
        assert!(Limits::new(&rules, 0).is_err());
    }
}
