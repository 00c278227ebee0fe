//! Nodes of memory and CPUs (`-numa`), as they are told, checked, and asked for.
//!
//! Options are taken one by one in the order of the command line, with the peer's checks and words;
//! [`Numa::complete`] checks the whole. What firmware tells of them is the machine's matter.
//! Sources: QEMU's manual (`-numa`) and behaviour; the meaning of latencies and caches: ACPI 6.5,
//! 5.2.28. Not here: `set-numa-node` (there is no `-preconfig`).

use derive::Qapi;
use qapi::{Error, Qapi as _, Result, Size, Source, Value};

use crate::config::Topology;

/// Most nodes.
pub const MAX_NODES: usize = 128;
/// Distance of a node to itself, and the least there is.
pub const LOCAL: u8 = 10;
/// Distance of nodes that nothing is said of.
pub const REMOTE: u8 = 20;
/// Levels of caches besides memory itself.
const MAX_LEVEL: u8 = 3;
/// Most steps between the smallest and the largest value of a table.
const MOST_STEPS: u64 = 0xffff;

/// How latencies and bandwidths are written: the place in memory's hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Qapi)]
#[qapi(name = "HmatLBMemoryHierarchy")]
pub enum Hierarchy {
    /// Memory itself.
    #[qapi(name = "memory")]
    Memory,
    /// The first cache.
    #[qapi(name = "first-level")]
    First,
    /// The second cache.
    #[qapi(name = "second-level")]
    Second,
    /// The third cache.
    #[qapi(name = "third-level")]
    Third,
}

/// What a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Qapi)]
#[qapi(name = "HmatLBDataType")]
pub enum DataType {
    /// Latency of both directions.
    #[qapi(name = "access-latency")]
    AccessLatency,
    /// Latency of reads.
    #[qapi(name = "read-latency")]
    ReadLatency,
    /// Latency of writes.
    #[qapi(name = "write-latency")]
    WriteLatency,
    /// Bandwidth of both directions.
    #[qapi(name = "access-bandwidth")]
    AccessBandwidth,
    /// Bandwidth of reads.
    #[qapi(name = "read-bandwidth")]
    ReadBandwidth,
    /// Bandwidth of writes.
    #[qapi(name = "write-bandwidth")]
    WriteBandwidth,
}

impl DataType {
    /// Whether values are nanoseconds and not bytes per second.
    #[must_use]
    pub fn is_latency(self) -> bool {
        self <= DataType::WriteLatency
    }
}

/// How a cache finds lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "HmatCacheAssociativity")]
pub enum Associativity {
    /// None.
    None,
    /// Directly mapped.
    Direct,
    /// In some other way.
    Complex,
}

/// When a cache writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(name = "HmatCacheWritePolicy")]
pub enum WritePolicy {
    /// None.
    None,
    /// Later.
    #[qapi(name = "write-back")]
    WriteBack,
    /// At once.
    #[qapi(name = "write-through")]
    WriteThrough,
}

/// `-numa node`, but for `cpus`.
#[derive(Clone, Debug, Qapi)]
struct NodeOptions {
    /// Number of the node; by default the next one.
    nodeid: Option<u16>,
    /// Bytes of the machine's RAM.
    mem: Option<Size>,
    /// Object whose memory it is.
    memdev: Option<String>,
    /// Node with the nearest CPUs.
    initiator: Option<u16>,
}

/// `-numa dist`.
#[derive(Clone, Debug, Qapi)]
struct DistanceOptions {
    /// From this node.
    src: u16,
    /// To this node.
    dst: u16,
    /// The distance.
    val: u8,
}

/// `-numa cpu`.
#[derive(Clone, Debug, Qapi)]
#[qapi(rename_all = "kebab-case")]
struct CpuOptions {
    /// The node.
    node_id: Option<u64>,
    /// Socket.
    socket_id: Option<u32>,
    /// Cluster within the socket.
    cluster_id: Option<u32>,
    /// Core within the cluster.
    core_id: Option<u32>,
    /// Thread within the core.
    thread_id: Option<u32>,
}

/// `-numa hmat-lb`.
#[derive(Clone, Debug, Qapi)]
#[qapi(rename_all = "kebab-case")]
struct LbOptions {
    /// Node that asks.
    initiator: u16,
    /// Node that is asked.
    target: u16,
    /// Place in the hierarchy.
    hierarchy: Hierarchy,
    /// What the value is of.
    data_type: DataType,
    /// Nanoseconds.
    latency: Option<u64>,
    /// Bytes per second.
    bandwidth: Option<Size>,
}

/// `-numa hmat-cache`.
#[derive(Clone, Debug, Qapi)]
#[qapi(rename_all = "kebab-case")]
struct CacheOptions {
    /// The node in front of whose memory it is.
    node_id: u32,
    /// Bytes.
    size: Size,
    /// 1 is nearest to memory.
    level: u8,
    /// How lines are found.
    associativity: Associativity,
    /// When it writes.
    policy: WritePolicy,
    /// Bytes of a line.
    line: u16,
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// It was told.
    present: bool,
    /// Bytes of memory; with `memdev` known when the machine is made.
    pub mem: u64,
    /// The object with its memory.
    pub memdev: Option<String>,
    /// Node with the nearest CPUs.
    pub initiator: Option<u16>,
    /// A CPU was put into it.
    has_cpu: bool,
}

/// Values between nodes at a place of the hierarchy.
#[derive(Clone, Debug)]
pub struct Table {
    /// The place.
    pub hierarchy: Hierarchy,
    /// What of.
    pub data: DataType,
    /// Initiator, target, and nanoseconds or MiB per second.
    pub values: Vec<(u16, u16, u64)>,
}

impl Table {
    /// What the values are multiples of: a power of ten of latencies, of two of bandwidths.
    #[must_use]
    pub fn base(&self) -> u64 {
        let step = if self.data.is_latency() { 10 } else { 2 };
        let mut base = 1u64;
        while let Some(next) = base.checked_mul(step)
            && self.values.iter().any(|(.., v)| *v > 0)
            && self.values.iter().all(|(.., v)| v.is_multiple_of(next))
        {
            base = next;
        }
        base
    }
}

/// A cache in front of memory.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The node.
    pub node: u16,
    /// 1 is nearest to memory.
    pub level: u8,
    /// Bytes.
    pub size: u64,
    /// How lines are found.
    pub associativity: Associativity,
    /// When it writes.
    pub policy: WritePolicy,
    /// Bytes of a line.
    pub line: u16,
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub struct Numa {
    /// By number; after [`Numa::complete`] without holes.
    pub nodes: Vec<Node>,
    /// Node of each possible CPU that was told, by index.
    cpus: Vec<Option<u16>>,
    /// Told distances: from, to.
    told: Vec<(u16, u16, u8)>,
    /// Latencies and bandwidths.
    pub tables: Vec<Table>,
    /// Caches, by node and level.
    pub caches: Vec<Cache>,
}

/// What options are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arrangement of the CPUs, with all that there may be.
    pub topology: Topology,
    /// Most CPUs.
    pub max_cpus: u32,
    /// The machine takes `mem=`.
    pub by_size: bool,
    /// `-machine hmat=on`.
    pub hmat: bool,
}

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

/// `2` or `2-5`.
fn range(text: &str) -> Result<(u32, u32)> {
    let wrong = || Error::generic("Parameter 'cpus' expects a uint64 value or range");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |t: &str| t.parse::<u32>().map_err(|_| wrong());
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok((first, last)) } else { Err(wrong()) }
}

const NO_HMAT: &str = "ACPI Heterogeneous Memory Attribute Table (HMAT) is disabled, enable it with \
                       -machine hmat=on before using any of hmat specific options";

impl Numa {
    /// Takes one option; the result is a warning. `cpus` are all values of that name.
    ///
    /// # Errors
    /// The peer's words about what is wrong with it.
    pub fn add(
        &mut self,
        kind: &str,
        (value, source): (Value, Source),
        cpus: &[String],
        limits: Limits,
    ) -> Result<Option<&'static str>> {
        if !cpus.is_empty() && kind != "node" {
            return Err(Error::invalid_parameter("cpus"));
        }
        match kind {
            "node" => return self.node(NodeOptions::from_value(value, source)?, cpus, limits),
            "dist" => self.distance_option(&DistanceOptions::from_value(value, source)?)?,
            "cpu" => self.cpu(&CpuOptions::from_value(value, source)?, limits)?,
            "hmat-lb" | "hmat-cache" if !limits.hmat => return error(NO_HMAT),
            "hmat-lb" => self.values(&LbOptions::from_value(value, source)?)?,
            "hmat-cache" => self.cache(&CacheOptions::from_value(value, source)?)?,
            other => {
                return error(format!("Parameter 'type' does not accept value '{other}'"));
            }
        }
        Ok(None)
    }

    fn is_known(&self, id: u64) -> bool {
        let node = usize::try_from(id).ok().and_then(|at| self.nodes.get(at));
        node.is_some_and(|node| node.present)
    }

    fn count(&self) -> usize {
        self.nodes.iter().filter(|node| node.present).count()
    }

    fn node(
        &mut self,
        options: NodeOptions,
        cpus: &[String],
        limits: Limits,
    ) -> Result<Option<&'static str>> {
        let id = options.nodeid.map_or(self.count(), usize::from);
        if id >= MAX_NODES {
            return error(format!("Max number of NUMA nodes reached: {id}"));
        }
        if self.is_known(id as u64) {
            return error(format!("Duplicate NUMA nodeid: {id}"));
        }
        let ranges: Vec<_> = cpus.iter().map(|text| range(text)).collect::<Result<_>>()?;
        if self.nodes.len() <= id {
            self.nodes.resize_with(id + 1, Node::default);
        }
        let number = u16::try_from(id).unwrap_or(u16::MAX);
        for (first, last) in ranges {
            for index in first..=last {
                if index >= limits.max_cpus {
                    return error(format!(
                        "CPU index ({index}) should be smaller than maxcpus ({})",
                        limits.max_cpus
                    ));
                }
                self.assign(index, number)?;
            }
        }
        if options.memdev.is_some() && options.mem.is_some() || self.is_mixed(&options) {
            return error(
                "numa configuration should use either mem= or memdev=,mixing both is not allowed",
            );
        }
        let mut warning = None;
        if options.mem.is_some() {
            if !limits.by_size {
                return Err(Error::generic(
                    "Parameter -numa node,mem is not supported by this machine type",
                )
                .with_hint("Use -numa node,memdev instead"));
            }
            warning = Some("Parameter -numa node,mem is deprecated, use -numa node,memdev instead");
        }
        if let Some(initiator) = options.initiator {
            if !limits.hmat {
                return error(NO_HMAT);
            }
            if usize::from(initiator) >= MAX_NODES {
                return error(format!(
                    "The initiator id {initiator} expects an integer between 0 and 127"
                ));
            }
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.present = true;
            node.mem = options.mem.map_or(0, |size| size.0);
            node.memdev = options.memdev;
            node.initiator = options.initiator;
            if let (true, Some(told)) = (node.has_cpu, node.initiator)
                && told != number
            {
                return error(format!(
                    "The initiator of CPU NUMA node {id} should be itself (got {told})"
                ));
            }
        }
        Ok(warning)
    }

    fn is_mixed(&self, options: &NodeOptions) -> bool {
        let by_size = self.nodes.iter().any(|node| node.mem > 0);
        let by_object = self.nodes.iter().any(|node| node.memdev.is_some());
        options.memdev.is_some() && by_size || options.mem.is_some() && by_object
    }

    fn assign(&mut self, index: u32, node: u16) -> Result<()> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        if self.cpus.len() <= at {
            self.cpus.resize(at.saturating_add(1), None);
        }
        let Some(slot) = self.cpus.get_mut(at) else { return Ok(()) };
        match *slot {
            Some(other) if other != node => {
                return error(format!("CPU is already assigned to node-id: {other}"));
            }
            _ => *slot = Some(node),
        }
        if let Some(node) = self.nodes.get_mut(usize::from(node)) {
            node.has_cpu = true;
        }
        Ok(())
    }

    fn distance_option(&mut self, options: &DistanceOptions) -> Result<()> {
        let DistanceOptions { src, dst, val } = *options;
        for (id, name) in [(src, "src"), (dst, "dst")] {
            if usize::from(id) >= MAX_NODES {
                return error(format!("Parameter '{name}' expects an integer between 0 and 127"));
            }
        }
        if !self.is_known(src.into()) || !self.is_known(dst.into()) {
            return error(
                "Source/Destination NUMA node is missing. Please use '-numa node' option to \
                 declare it first.",
            );
        }
        if val < LOCAL {
            return error(format!(
                "NUMA distance ({val}) is invalid, it shouldn't be less than {LOCAL}."
            ));
        }
        if src == dst && val != LOCAL {
            return error(format!("Local distance of node {src} should be {LOCAL}."));
        }
        self.told.retain(|(from, to, _)| (*from, *to) != (src, dst));
        self.told.push((src, dst, val));
        Ok(())
    }

    fn cpu(&mut self, options: &CpuOptions, limits: Limits) -> Result<()> {
        let id =
            options.node_id.ok_or_else(|| Error::generic("Missing mandatory node-id property"))?;
        if !self.is_known(id) {
            return error(format!(
                "Invalid node-id={id}, NUMA node must be defined with -numa node,nodeid=ID before \
                 it's used with -numa cpu,node-id=ID"
            ));
        }
        let t = limits.topology;
        let fits = |told: Option<u32>, is: u32| told.is_none_or(|told| told == is);
        let matching: Vec<u32> = (0..limits.max_cpus)
            .filter(|index| {
                let [socket, cluster, core, thread] = place(t, *index);
                fits(options.socket_id, socket)
                    && fits(options.cluster_id, cluster)
                    && fits(options.core_id, core)
                    && fits(options.thread_id, thread)
            })
            .collect();
        if matching.is_empty() {
            return error("no match found");
        }
        let node = u16::try_from(id).unwrap_or(u16::MAX);
        matching.into_iter().try_for_each(|index| self.assign(index, node))
    }

    fn values(&mut self, options: &LbOptions) -> Result<()> {
        let (from, to) = (options.initiator, options.target);
        let count = self.count();
        for (id, name) in [(from, "initiator"), (to, "target")] {
            if usize::from(id) >= count {
                return error(format!("Invalid {name}={id}, it should be less than {count}"));
            }
            let is_initiator = self.nodes.get(usize::from(id)).is_some_and(|n| n.has_cpu);
            if name == "initiator" && !is_initiator {
                let text =
                    format!("Invalid initiator={id}, it isn't an initiator proximity domain");
                return error(text);
            }
        }
        let latency = options.data_type.is_latency();
        let (word, unit) =
            if latency { ("latency", "latency") } else { ("bandwidth", "bandwidth") };
        let value = match (latency, options.latency, options.bandwidth) {
            (true, None, _) => return error("Missing 'latency' option"),
            (false, _, None) => return error("Missing 'bandwidth' option"),
            (true, _, Some(_)) => {
                return error("Invalid option 'bandwidth' since the data type is latency");
            }
            (false, Some(_), _) => {
                return error("Invalid option 'latency' since the data type is bandwidth");
            }
            (true, Some(ns), None) => ns,
            (false, None, Some(Size(bytes))) if !bytes.is_multiple_of(1 << 20) => {
                return error(format!(
                    "Bandwidth {bytes} between initiator={from} and target={to} should be 1MB aligned"
                ));
            }
            (false, None, Some(Size(bytes))) => bytes >> 20,
        };
        let place = (options.hierarchy, options.data_type);
        let at = self.tables.iter().position(|t| (t.hierarchy, t.data) == place);
        let at = at.unwrap_or_else(|| {
            let (hierarchy, data) = place;
            self.tables.push(Table { hierarchy, data, values: Vec::new() });
            self.tables.len() - 1
        });
        let Some(table) = self.tables.get_mut(at) else { return Ok(()) };
        if table.values.iter().any(|(f, t, _)| (*f, *t) == (from, to)) {
            return error(format!(
                "Duplicate configuration of the {unit} for initiator={from} and target={to}"
            ));
        }
        table.values.push((from, to, value));
        let base = table.base();
        if table.values.iter().any(|(.., v)| v / base > MOST_STEPS) {
            table.values.pop();
            let (name, what) = if word == "latency" {
                (format!("Latency {value}"), "min or max values")
            } else {
                (format!("Bandwidth {}", value << 20), "values")
            };
            return error(format!(
                "{name} between initiator={from} and target={to} should not differ from previously \
                 entered {what} on more than {}",
                MOST_STEPS - 1
            ));
        }
        self.tables.sort_by_key(|t| (t.hierarchy, t.data));
        Ok(())
    }

    fn cache(&mut self, options: &CacheOptions) -> Result<()> {
        let (node, level) = (options.node_id, options.level);
        let count = self.count();
        if usize::try_from(node).is_ok_and(|id| id >= count) {
            return error(format!("Invalid node-id={node}, it should be less than {count}"));
        }
        let node = u16::try_from(node).unwrap_or(u16::MAX);
        let has = |latency: bool| {
            let of =
                |t: &&Table| t.hierarchy == Hierarchy::Memory && t.data.is_latency() == latency;
            let about = |t: &Table| t.values.iter().any(|(_, to, _)| *to == node);
            self.tables.iter().filter(of).any(about)
        };
        if !has(true) || !has(false) {
            return error(format!(
                "The latency and bandwidth information of node-id={node} should be provided before \
                 memory side cache attributes"
            ));
        }
        if level == 0 || level > MAX_LEVEL {
            return error(format!(
                "Invalid level={level}, it should be larger than 0 and less than or equal to \
                 {MAX_LEVEL}"
            ));
        }
        let of = |level: u8| self.caches.iter().find(|c| (c.node, c.level) == (node, level));
        if of(level).is_some() {
            return error(format!(
                "Duplicate configuration of the side cache for node-id={node} and level={level}"
            ));
        }
        let size = options.size.0;
        if level > 1 {
            let Some(below) = of(level - 1) else {
                return error(format!("Cache level={} shall be defined first", level - 1));
            };
            if size <= below.size {
                return error(format!(
                    "Invalid size={size}, the size of level={level} should be larger than the \
                     size({}) of level={}",
                    below.size, below.level
                ));
            }
        }
        let CacheOptions { associativity, policy, line, .. } = *options;
        self.caches.push(Cache { node, level, size, associativity, policy, line });
        self.caches.sort_by_key(|c| (c.node, c.level));
        Ok(())
    }

    /// Whether there are nodes.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// One node with everything: what plugged memory needs where no node was told.
    pub(crate) fn single(&mut self, ram: u64) {
        self.nodes = vec![Node { present: true, mem: ram, ..Node::default() }];
    }

    /// Checks the whole when sizes are known; `ram` is the machine's in bytes.
    pub(crate) fn complete(&mut self, ram: u64) -> Result<()> {
        let count = self.count();
        if let Some(hole) = self.nodes.iter().position(|node| !node.present) {
            // The last number that is missing is told.
            let last = self.nodes.iter().rposition(|node| !node.present).unwrap_or(hole);
            return error(format!("numa: Node ID missing: {last}"));
        }
        let total = self.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(node.mem));
        if total != ram {
            return error(format!(
                "total memory for NUMA nodes ({total:#x}) should equal RAM size ({ram:#x})"
            ));
        }
        for (id, node) in self.nodes.iter().enumerate() {
            let Some(initiator) = node.initiator else { continue };
            if usize::from(initiator) >= count {
                return error(format!("The initiator of NUMA node {id} is missing"));
            }
            if !self.nodes.get(usize::from(initiator)).is_some_and(|n| n.has_cpu) {
                return error(format!("The initiator of NUMA node {id} is invalid"));
            }
        }
        self.check_distances()
    }

    fn check_distances(&self) -> Result<()> {
        if self.told.is_empty() {
            return Ok(());
        }
        let told = |a: u16, b: u16| self.told.iter().any(|(f, t, _)| (*f, *t) == (a, b));
        let value =
            |a: u16, b: u16| self.told.iter().find(|(f, t, _)| (*f, *t) == (a, b)).map(|t| t.2);
        let all = 0..u16::try_from(self.nodes.len()).unwrap_or(u16::MAX);
        let asymmetric = self.told.iter().any(|(a, b, v)| value(*b, *a).is_some_and(|w| w != *v));
        for a in all.clone() {
            for b in all.clone().filter(|b| *b != a) {
                if !told(a, b) && !told(b, a) {
                    return error(format!(
                        "The distance between node {a} and {b} is missing, at least one distance \
                         value between each nodes should be provided."
                    ));
                }
                if asymmetric && !told(a, b) {
                    return error(
                        "At least one asymmetrical pair of distances is given, please \
                                  provide distances for both directions of all node pairs.",
                    );
                }
            }
        }
        Ok(())
    }

    /// Whether distances were told.
    #[must_use]
    pub fn has_distances(&self) -> bool {
        !self.told.is_empty()
    }

    /// The distance between two nodes.
    #[must_use]
    pub fn distance(&self, from: u16, to: u16) -> u8 {
        let told = |a: u16, b: u16| self.told.iter().find(|t| (t.0, t.1) == (a, b)).map(|t| t.2);
        let default = if from == to { LOCAL } else { REMOTE };
        told(from, to).or_else(|| told(to, from)).unwrap_or(default)
    }

    /// The node of a CPU: as told, or by its socket; `None` without nodes.
    #[must_use]
    pub fn node_of(&self, index: u32, topology: Topology) -> Option<u16> {
        let count = u32::try_from(self.nodes.len()).ok().filter(|n| *n > 0)?;
        let told = usize::try_from(index).ok().and_then(|at| self.cpus.get(at).copied().flatten());
        if told.is_some() || self.cpus.iter().any(Option::is_some) {
            return told.or(Some(0));
        }
        let [socket, ..] = place(topology, index);
        u16::try_from(socket % count).ok()
    }

    /// Nodes that ask for memory in the tables of latencies.
    #[must_use]
    pub fn initiators(&self) -> Vec<u16> {
        (0u16..).zip(&self.nodes).filter(|(_, node)| node.has_cpu).map(|(id, _)| id).collect()
    }

    /// Warns of what systems may not expect.
    pub(crate) fn warn(&self, topology: Topology, cpus: u32) {
        let mut left = Vec::new();
        for index in 0..cpus {
            let told = usize::try_from(index).ok().and_then(|at| self.cpus.get(at));
            if self.cpus.iter().any(Option::is_some) && told.is_none_or(Option::is_none) {
                let [socket, cluster, core, thread] = place(topology, index);
                left.push(format!(
                    "CPU {index} [socket-id: {socket}, cluster-id: {cluster}, core-id: {core}, \
                     thread-id: {thread}]"
                ));
            }
        }
        if !left.is_empty() {
            trace::warning!("CPU(s) not present in any NUMA nodes: {}", left.join(", "));
            trace::warning!(
                "All CPU(s) up to maxcpus should be described in NUMA config, ability to start up \
                 with partial NUMA mappings is obsoleted and will be removed in future"
            );
        }
        for a in 0..cpus {
            let [socket, cluster, ..] = place(topology, a);
            for b in (a + 1..cpus).filter(|b| place(topology, *b)[..2] == [socket, cluster]) {
                let (one, other) = (self.node_of(a, topology), self.node_of(b, topology));
                if let (Some(one), Some(other)) = (one, other)
                    && one != other
                {
                    trace::warning!(
                        "CPU-{a} and CPU-{b} in socket-{socket}-cluster-{cluster} have been \
                         associated with node-{one} and node-{other} respectively. It can cause \
                         OSes like Linux to misbehave"
                    );
                }
            }
        }
    }
}

/// Socket, cluster, core and thread of a CPU.
#[must_use]
pub fn place(t: Topology, index: u32) -> [u32; 4] {
    let (threads, cores, clusters) = (t.threads.max(1), t.cores.max(1), t.clusters.max(1));
    let core = index / threads;
    [core / cores / clusters, core / cores % clusters, core % cores, index % threads]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPOLOGY: Topology = Topology { sockets: 2, clusters: 1, cores: 2, threads: 1 };
    const LIMITS: Limits = Limits { topology: TOPOLOGY, max_cpus: 4, by_size: true, hmat: true };

    fn add(numa: &mut Numa, text: &str) -> std::result::Result<(), String> {
        let parsed = qapi::keyval::Dialect::flat(Some("type")).parse(text).unwrap();
        let mut value = parsed.value;
        let kind = value.take("type").unwrap();
        let cpus = value.take("cpus").and_then(|c| c.as_str().map(str::to_owned));
        let cpus: Vec<_> = cpus.into_iter().collect();
        let kind = kind.as_str().unwrap();
        let done = numa.add(kind, (value, Source::KeyVal), &cpus, LIMITS);
        done.map(|_| ()).map_err(|e| e.to_string())
    }

    #[test]
    fn cpus_go_to_nodes_by_index_place_or_socket() {
        let mut numa = Numa::default();
        add(&mut numa, "node,mem=1G").unwrap();
        add(&mut numa, "node,mem=1G").unwrap();
        let nodes = |n: &Numa| (0..4).map(|i| n.node_of(i, TOPOLOGY).unwrap()).collect::<Vec<_>>();
        assert_eq!(nodes(&numa), [0, 0, 1, 1]);
        add(&mut numa, "cpu,node-id=1,socket-id=0,core-id=0").unwrap();
        assert_eq!(nodes(&numa), [1, 0, 0, 0]);
        assert_eq!(add(&mut numa, "cpu,node-id=0,core-id=7").unwrap_err(), "no match found");
        numa.complete(2 << 30).unwrap();
        assert!(numa.complete(1 << 30).is_err());
    }

    #[test]
    fn broken_options_are_refused() {
        let mut numa = Numa::default();
        for text in [
            "node,nodeid=128",
            "node,cpus=4",
            "node,cpus=3-1",
            "node,cpus=x",
            "node,mem=1G,memdev=m",
            "node,foo=1",
            "dist,src=0,dst=1,val=20",
            "cpu,core-id=0",
            "hmat-cache,node-id=0,size=1,level=1,associativity=direct,policy=none,line=1",
            "hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=read-latency,latency=1",
            "x",
        ] {
            assert!(add(&mut numa, text).is_err(), "{text}");
        }
        add(&mut Numa::default(), "node,nodeid=3,mem=1").unwrap();
        let mut holes = Numa::default();
        add(&mut holes, "node,nodeid=1,mem=1").unwrap();
        assert_eq!(holes.complete(1).unwrap_err().to_string(), "numa: Node ID missing: 0");
    }

    #[test]
    fn values_have_a_common_base() {
        let mut numa = Numa::default();
        add(&mut numa, "node,mem=1G,cpus=0-3").unwrap();
        add(&mut numa, "node,mem=1G").unwrap();
        let of = "hierarchy=memory,data-type=access-latency";
        add(&mut numa, &format!("hmat-lb,initiator=0,target=0,{of},latency=100")).unwrap();
        add(&mut numa, &format!("hmat-lb,initiator=0,target=1,{of},latency=2000")).unwrap();
        assert_eq!(numa.tables[0].base(), 100);
        let again = format!("hmat-lb,initiator=0,target=1,{of},latency=3");
        assert!(add(&mut numa, &again).unwrap_err().starts_with("Duplicate"));
        let mut far = Numa::default();
        add(&mut far, "node,mem=1G,cpus=0-3").unwrap();
        add(&mut far, "node,mem=1G").unwrap();
        add(&mut far, &format!("hmat-lb,initiator=0,target=0,{of},latency=1")).unwrap();
        let over = format!("hmat-lb,initiator=0,target=1,{of},latency=70001");
        assert!(add(&mut far, &over).unwrap_err().ends_with("on more than 65534"));
    }
}
