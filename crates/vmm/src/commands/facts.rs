//! Commands that tell what this machine and this program have, mostly by saying what they have not.

use derive::Qapi;
use qapi::{Error, Result, Value};

use super::QmpCommand;
use crate::Vm;

/// What holds for the machine that runs.
#[derive(Qapi)]
pub(super) struct CurrentMachineParams {
    /// It can wake from suspend.
    wakeup_suspend_support: bool,
}

/// Tell what holds for the machine that runs.
#[derive(Qapi)]
pub(super) struct QueryCurrentMachine;

impl QmpCommand for QueryCurrentMachine {
    const NAME: &'static str = "query-current-machine";
    type Returns = CurrentMachineParams;
    fn run(self, _: &Vm) -> Result<CurrentMachineParams> {
        Ok(CurrentMachineParams { wakeup_suspend_support: false })
    }
}

/// Where a CPU sits.
#[derive(Qapi)]
pub(super) struct CpuInstanceProperties {
    /// NUMA node.
    node_id: Option<i64>,
    /// Socket.
    socket_id: Option<i64>,
    /// Die.
    die_id: Option<i64>,
    /// Cluster.
    cluster_id: Option<i64>,
    /// Core.
    core_id: Option<i64>,
    /// Thread.
    thread_id: Option<i64>,
}

impl CpuInstanceProperties {
    pub(super) fn of(place: &crate::CpuPlace) -> Self {
        let [socket, cluster, core, thread] = place.ids.map(|id| Some(i64::from(id)));
        Self {
            node_id: place.node.map(i64::from),
            socket_id: socket,
            die_id: None,
            cluster_id: cluster,
            core_id: core,
            thread_id: thread,
        }
    }
}

/// A place for a CPU.
#[derive(Qapi)]
pub(super) struct HotpluggableCpu {
    /// Type of the CPU.
    r#type: String,
    /// CPUs that come together.
    vcpus_count: i64,
    /// Where it is.
    props: CpuInstanceProperties,
    /// Path of the CPU, if it is there.
    qom_path: Option<String>,
}

/// List the places for CPUs; no machine here can plug CPUs.
#[derive(Qapi)]
pub(super) struct QueryHotpluggableCpus;

impl QmpCommand for QueryHotpluggableCpus {
    const NAME: &'static str = "query-hotpluggable-cpus";
    type Returns = Vec<HotpluggableCpu>;
    fn run(self, _: &Vm) -> Result<Vec<HotpluggableCpu>> {
        Err(Error::generic("machine does not support hot-plugging CPUs"))
    }
}

/// A thread with an event loop of its own.
#[derive(Qapi)]
#[qapi(name = "IOThreadInfo")]
pub(super) struct IoThreadInfo {
    /// Its id.
    id: String,
    /// Number of the host's thread.
    thread_id: i64,
    /// Longest time it polls, in nanoseconds.
    poll_max_ns: i64,
    /// Factor by which polling grows.
    poll_grow: i64,
    /// Divisor by which polling shrinks.
    poll_shrink: i64,
    /// Most requests in a batch.
    aio_max_batch: i64,
}

/// List the threads with event loops.
#[derive(Qapi)]
pub(super) struct QueryIothreads;

impl QmpCommand for QueryIothreads {
    const NAME: &'static str = "query-iothreads";
    type Returns = Vec<IoThreadInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<IoThreadInfo>> {
        let objects = vm.objects.all();
        let info = |object: &std::sync::Arc<device::Object>| {
            let number =
                |name: &str| object.props.get(name).and_then(Value::as_i64).unwrap_or_default();
            IoThreadInfo {
                id: object.id.clone(),
                thread_id: object.ability::<device::ThreadId>().map_or(0, |id| id.0),
                poll_max_ns: number("poll-max-ns"),
                poll_grow: number("poll-grow"),
                poll_shrink: number("poll-shrink"),
                aio_max_batch: number("aio-max-batch"),
            }
        };
        Ok(objects.iter().filter(|o| o.class.name == "iothread").map(info).collect())
    }
}

/// A version of the interrupt controller.
#[derive(Qapi)]
#[qapi(name = "GICCapability")]
pub(super) struct GicCapability {
    /// The version.
    version: i64,
    /// This program models it.
    emulated: bool,
    /// The host's hypervisor offers it.
    kernel: bool,
}

/// List the versions of the Arm interrupt controller that a machine can have.
#[derive(Qapi)]
pub(super) struct QueryGicCapabilities;

impl QmpCommand for QueryGicCapabilities {
    const NAME: &'static str = "query-gic-capabilities";
    type Returns = Vec<GicCapability>;
    fn run(self, vm: &Vm) -> Result<Vec<GicCapability>> {
        let arm = vm.listing.target == "aarch64";
        let one = |version| GicCapability { version, emulated: true, kernel: false };
        Ok(if arm { vec![one(3), one(2)] } else { Vec::new() })
    }
}

/// Give all CPUs a non-maskable interrupt.
#[derive(Qapi)]
pub(super) struct InjectNmi;

impl QmpCommand for InjectNmi {
    const NAME: &'static str = "inject-nmi";
    type Returns = ();
    fn run(self, _: &Vm) -> Result<()> {
        Err(Error::generic("machine does not provide NMIs"))
    }
}

/// List the kinds of trusted platform modules; there are none.
#[derive(Qapi)]
pub(super) struct QueryTpmModels;

impl QmpCommand for QueryTpmModels {
    const NAME: &'static str = "query-tpm-models";
    type Returns = Vec<String>;
    fn run(self, _: &Vm) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// List the back ends of trusted platform modules; there are none.
#[derive(Qapi)]
pub(super) struct QueryTpmTypes;

impl QmpCommand for QueryTpmTypes {
    const NAME: &'static str = "query-tpm-types";
    type Returns = Vec<String>;
    fn run(self, _: &Vm) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// A kind of display.
#[derive(Qapi)]
pub(super) enum DisplayType {
    /// No display.
    None,
}

/// The display.
#[derive(Qapi)]
pub(super) struct DisplayOptions {
    /// Its kind.
    r#type: DisplayType,
}

/// Tell which display there is.
#[derive(Qapi)]
pub(super) struct QueryDisplayOptions;

impl QmpCommand for QueryDisplayOptions {
    const NAME: &'static str = "query-display-options";
    type Returns = DisplayOptions;
    fn run(self, _: &Vm) -> Result<DisplayOptions> {
        Ok(DisplayOptions { r#type: DisplayType::None })
    }
}

/// A connection that can be broken.
#[derive(Qapi)]
pub(super) struct ChardevInstance {
    /// Id of the character back end.
    id: String,
}

/// Something that can be freed from a peer that hangs.
#[derive(Qapi)]
#[qapi(name = "YankInstance", tag = "type")]
pub(super) enum YankInstance {
    /// A character back end.
    Chardev(ChardevInstance),
}

/// List the connections that `yank` can break.
#[derive(Qapi)]
pub(super) struct QueryYank;

impl QmpCommand for QueryYank {
    const NAME: &'static str = "query-yank";
    type Returns = Vec<YankInstance>;
    fn run(self, vm: &Vm) -> Result<Vec<YankInstance>> {
        let sockets = vm.chardevs.list().into_iter();
        let sockets = sockets.filter(|c| vm.chardevs.kind(&c.label) == Some("socket"));
        Ok(sockets.map(|c| YankInstance::Chardev(ChardevInstance { id: c.label })).collect())
    }
}

/// Break connections whose peers hang.
#[derive(Qapi)]
pub(super) struct Yank {
    /// Which.
    instances: Vec<YankInstance>,
}

impl QmpCommand for Yank {
    const NAME: &'static str = "yank";
    const OOB: bool = true;
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let mut found = Vec::new();
        for YankInstance::Chardev(instance) in &self.instances {
            let socket = vm.chardevs.kind(&instance.id) == Some("socket");
            let chardev = vm.chardevs.find(&instance.id).filter(|_| socket);
            found.push(chardev.ok_or_else(|| Error::device_not_found(&instance.id))?);
        }
        found.iter().for_each(|chardev| chardev.hang_up());
        Ok(())
    }
}
