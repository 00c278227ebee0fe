//! Virtio SCSI host (virtio 1.3, section 5.6).
//!
//! Requests go to the units on its bus through the crate `scsi`, each queue served as with
//! virtio-blk (`iothread`, `iothread-vq-mapping`). Plugging and unplugging, other media and other
//! lengths are told by the event queue. Task management waits for the unit's requests.
//! Not modelled: aborting single tasks (they are waited for), asynchronous notification (answered
//! as not supported), `T10_PI`.

use std::sync::{Arc, OnceLock, Weak};

use block::Graph;
use derive::{Qapi, VmState};
use device::{
    BoxFuture, Build, Bus, Device, DeviceClass, DeviceType, Migration, PlugBus, Record, Reset,
    Unplug,
};
use parking_lot::Mutex;
use qapi::Error;
use scsi::{Address, Disk, Outcome, Plugged, Sense, Targets, Task};
use virtio::{Chain, Common, Port, Queue, VirtioDevice, VirtioId, pieces};

use crate::ways::{Mapping, ThreadLink, Way, queues_by_cpus, serve, ways};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioScsi>();

/// Properties of `virtio-scsi-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Number of request queues; 4294967295: on PCI one for each CPU, else one
    #[qapi(name = "num_queues", default = 4294967295)]
    pub num_queues: u32,
    /// Entries of each queue
    #[qapi(name = "virtqueue_size", default = 256)]
    pub virtqueue_size: u32,
    /// As many segments as the queue has entries
    #[qapi(name = "seg_max_adjust", default = true)]
    pub seg_max_adjust: bool,
    /// Most sectors of one request
    #[qapi(name = "max_sectors", default = 65535)]
    pub max_sectors: u32,
    /// Most requests of one unit
    #[qapi(name = "cmd_per_lun", default = 128)]
    pub cmd_per_lun: u32,
    /// Units may come and go
    #[qapi(default = true)]
    pub hotplug: bool,
    /// Tell of changed media and lengths
    #[qapi(name = "param_change", default = true)]
    pub param_change: bool,
    /// I/O thread that serves all queues
    pub iothread: Option<ThreadLink>,
    /// IOThread virtqueue mapping list [{"iothread":"<id>", "vqs":[1,2,3,...]},...]
    #[qapi(name = "iothread-vq-mapping")]
    pub mapping: Option<Vec<Mapping>>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

// 5.6.3: feature bits.
const HOTPLUG: u64 = 1 << 1;
const CHANGE: u64 = 1 << 2;
// 5.6.6.1: sizes of request and response headers.
const CDB_AT: usize = 19;
const REQUEST: usize = CDB_AT + 32;
const SENSE: usize = 96;
const RESPONSE: usize = 12 + SENSE;
// Response codes.
const OK: u8 = 0;
const BAD_TARGET: u8 = 3;
const FUNCTION_REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;
// 5.6.6.3: events.
const EVENT: usize = 16;
const TRANSPORT_RESET: u32 = 1;
const PARAM_CHANGE: u32 = 3;
const EVENTS_MISSED: u32 = 0x8000_0000;
const RESCAN: u32 = 1;
const REMOVED: u32 = 2;
/// Control and event queue come before the request queues.
const FIRST: u16 = 2;

#[derive(Default, VmState)]
#[vmstate(name = "virtio-scsi", version = 1)]
struct State {
    features: u64,
    events_missed: bool,
}

/// The device.
pub struct VirtioScsi {
    props: Props,
    bus: String,
    ways: Vec<Way>,
    pool: Option<Arc<block::Pool>>,
    targets: Arc<Targets>,
    port: OnceLock<Port>,
    state: Mutex<State>,
    this: Weak<VirtioScsi>,
}

fn queues(props: &Props) -> u16 {
    if props.num_queues == u32::MAX { 1 } else { u16::try_from(props.num_queues).unwrap_or(1) }
}

fn checked(props: &Props) -> qapi::Result<()> {
    let most = 1024 - u32::from(FIRST);
    let count = props.num_queues;
    if count != u32::MAX && !(1..=most).contains(&count) {
        let text = format!(
            "Invalid number of queues (= {count}), must be a positive integer less than {most}."
        );
        return Err(Error::generic(text));
    }
    let size = props.virtqueue_size;
    if size <= 2 || size > u32::from(virtio::MAX_SIZE) || !size.is_power_of_two() {
        let text = format!(
            "invalid virtqueue_size property (= {size}), must be a power of 2 between 4 and {}",
            virtio::MAX_SIZE
        );
        return Err(Error::generic(text));
    }
    if props.iothread.is_some() && props.mapping.is_some() {
        let text = "iothread and iothread-vq-mapping properties cannot be set at the same time";
        return Err(Error::generic(text));
    }
    Ok(())
}

impl DeviceType for VirtioScsi {
    const NAME: &'static str = "virtio-scsi-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio SCSI host";
    type Props = Props;

    fn create(mut props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if props.num_queues == u32::MAX {
            props.num_queues = queues_by_cpus(at, FIRST).into();
        }
        checked(&props)?;
        let graph = at.service::<Arc<Graph>>();
        let bus = at.bus_name("scsi");
        let mut failure = None;
        let device = Arc::new_cyclic(|this: &Weak<VirtioScsi>| {
            let (weak, count) = (this.clone(), queues(&props));
            let serve = move |index| {
                if let Some(this) = weak.upgrade() {
                    this.serve(index);
                }
            };
            let threads = (props.iothread.as_ref(), props.mapping.as_deref());
            let made = graph.as_ref().map(|g| ways(threads, (FIRST, count), g, at, &serve));
            let ways = made.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|error| {
                failure = Some(error);
                Vec::new()
            });
            VirtioScsi {
                props,
                bus,
                ways,
                pool: graph.as_ref().map(|graph| graph.pool.clone()),
                targets: Arc::new(Targets::new(255, 16383)),
                port: OnceLock::new(),
                state: Mutex::default(),
                this: this.clone(),
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        at.offer::<virtio::Offer>(device.clone());
        at.bus(device.clone());
        Ok(device)
    }
}

impl PlugBus for VirtioScsi {
    fn name(&self) -> &str {
        &self.bus
    }
    fn kind(&self) -> Bus {
        Bus::Scsi
    }
    fn is_hotpluggable(&self) -> bool {
        self.props.hotplug
    }

    fn node(&self, record: &Record) -> String {
        let plugged: Option<Plugged> = record.ability();
        let address = plugged.and_then(|plugged| self.targets.address(&*plugged.unit));
        address.map_or_else(String::new, |address| {
            format!("/channel@0/disk@{:x},{:x}", address.target, address.lun)
        })
    }

    fn plug(&self, record: &Record) -> qapi::Result<()> {
        let plugged: Option<Plugged> = record.ability();
        let plugged = plugged.ok_or_else(|| Error::generic("this is no SCSI device"))?;
        let address = self.targets.add(&record.id, &plugged)?;
        if let Some(disk) = record.ability::<Arc<Disk>>() {
            disk.set_lun(u16::try_from(address.lun).unwrap_or(0));
        }
        let this = self.this.clone();
        plugged.unit.on_event(Arc::new(move |sense| {
            if let Some(this) = this.upgrade()
                && this.props.param_change
                && sense != Sense::RESET
            {
                let reason = u32::from(sense.1) | u32::from(sense.2) << 8;
                this.event(CHANGE, PARAM_CHANGE, address, reason);
            }
        }));
        self.event(HOTPLUG, TRANSPORT_RESET, address, RESCAN);
        Ok(())
    }

    fn unplug(&self, record: &Record) -> qapi::Result<Unplug> {
        let plugged: Option<Plugged> = record.ability();
        let plugged = plugged.ok_or_else(|| Error::generic("this is no SCSI device"))?;
        if let Some(address) = self.targets.remove(&plugged.unit) {
            self.event(HOTPLUG, TRANSPORT_RESET, address, REMOVED);
        }
        plugged.unit.wait();
        Ok(Unplug::Done)
    }
}

/// A unit's address from the eight bytes of a request (5.6.6.1); `None`: it cannot be one.
fn address(lun: &[u8]) -> Option<Address> {
    let &[1, target, high, low, 0, 0, 0, 0] = lun else { return None };
    // Flat space addressing, or plain numbers below 256.
    let lun = u32::from(high) << 8 | u32::from(low);
    Some(Address { target: target.into(), lun: lun & 0x3fff })
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

/// Gives a request back.
fn respond(queue: &Queue, chain: Chain, response: u8, outcome: &Outcome, asked: u64) {
    let sense = outcome.sense.get(..SENSE.min(outcome.sense.len())).unwrap_or_default();
    let residual = u32::try_from(asked.saturating_sub(outcome.moved)).unwrap_or(u32::MAX);
    let mut out = u32::try_from(sense.len()).unwrap_or(0).to_le_bytes().to_vec();
    out.extend(residual.to_le_bytes());
    out.extend([0, 0, outcome.status, response]);
    out.extend(sense);
    out.resize(RESPONSE, 0);
    chain.write(0, &out);
    let moved = usize::try_from(outcome.moved).unwrap_or(usize::MAX);
    let room = chain.writable_len();
    let written = if room > RESPONSE { RESPONSE.saturating_add(moved).min(room) } else { RESPONSE };
    queue.push(chain, written);
    queue.signal();
}

impl VirtioScsi {
    pub(crate) fn state(&self) -> &dyn device::Saved {
        &self.state
    }

    fn queue(&self, index: u16) -> Option<&Arc<Queue>> {
        self.port.get()?.queue(index.into())
    }

    fn serve(&self, index: u16) {
        let way = index.checked_sub(FIRST).and_then(|at| self.ways.get(usize::from(at)));
        let (Some(queue), Some(way)) = (self.queue(index), way) else { return };
        serve(way, queue, |chain| self.begin(way, queue, chain, false), || ());
    }

    fn begin(&self, way: &Way, queue: &Arc<Queue>, chain: Chain, again: bool) {
        let mut head = [0; REQUEST];
        if chain.read(0, &mut head) != REQUEST || chain.writable_len() < RESPONSE {
            trace::guest_error!("virtio-scsi: a request with short headers");
            queue.push(chain, 0);
            return queue.signal();
        }
        let (lun, rest) = head.split_at(8);
        let cdb: [u8; 32] =
            rest.get(CDB_AT - 8..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; 32]);
        let out = chain.readable_len() - REQUEST;
        let room = chain.writable_len() - RESPONSE;
        let asked = (out + room) as u64;
        let place = address(lun);
        let unit = place.and_then(|place| self.targets.find(place));
        let (Some(place), Some(unit)) = (place, unit) else {
            return respond(queue, chain, BAD_TARGET, &Outcome::default(), asked);
        };
        let to_driver = pieces(chain.writable(), RESPONSE, room);
        let from_driver = pieces(chain.readable(), REQUEST, out);
        let queue = queue.clone();
        let done = Box::new(move |outcome: Outcome| respond(&queue, chain, OK, &outcome, asked));
        let lun = u16::try_from(place.lun).unwrap_or(u16::MAX);
        let task = Task { cdb, lun, to_driver, from_driver, again, done };
        if cdb[0] == 0xa0 {
            return self.report_luns(place, task);
        }
        unit.execute(&way.lane, task);
    }

    /// REPORT LUNS is the target's affair (SPC-5, 6.33); unit 0 is always in the list.
    fn report_luns(&self, place: Address, task: Task) {
        let mut luns = self.targets.luns(place.target);
        if !luns.contains(&0) {
            luns.insert(0, 0);
        }
        let len = u32::try_from(luns.len() * 8).unwrap_or(u32::MAX);
        let mut out = len.to_be_bytes().to_vec();
        out.extend([0; 4]);
        for lun in luns {
            let [_, _, high, low] = lun.to_be_bytes();
            // From 256 on: flat space addressing.
            out.extend([if lun < 256 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0, 0, 0]);
        }
        let allowed = task.cdb.get(6..10).and_then(|b| b.first_chunk());
        let allowed = allowed.map_or(0, |b| u32::from_be_bytes(*b)) as usize;
        task.reply(&out, allowed);
    }

    /// Requests of the control queue (5.6.6.2).
    fn control(&self) {
        let Some(queue) = self.queue(0) else { return };
        while let Some(chain) = queue.pop() {
            self.manage(queue, chain);
        }
    }

    fn manage(&self, queue: &Arc<Queue>, chain: Chain) {
        let mut head = [0; 16];
        let read = chain.read(0, &mut head);
        let kind = number(&head);
        if kind != 0 || read < 16 {
            // Asynchronous notification: none of its events.
            let response: &[u8] = &[0, 0, 0, 0, OK];
            chain.write(0, response);
            queue.push(chain, response.len());
            return queue.signal();
        }
        let (subtype, lun) = (number(head.get(4..).unwrap_or_default()), head.get(8..16));
        let place = lun.and_then(address);
        let unit = place.and_then(|place| self.targets.find(place));
        let exact = place.is_some_and(|place| self.targets.has(place));
        let queue = queue.clone();
        let answer = move |response: u8| {
            chain.write(0, &[response]);
            queue.push(chain, 1);
            queue.signal();
        };
        let Some(unit) = unit else {
            return answer(BAD_TARGET);
        };
        match subtype {
            _ if !exact && subtype != 4 => answer(INCORRECT_LUN),
            // 3 and 7 ask only; what ends here was never found unfinished.
            3 | 7 => answer(OK),
            0..=2 => self.later(move || {
                unit.wait();
                answer(OK);
            }),
            4 | 5 => self.later(move || {
                unit.reset();
                answer(OK);
            }),
            _ => answer(FUNCTION_REJECTED),
        }
    }

    /// Runs what must wait for requests, where it keeps nobody from ending them.
    fn later(&self, work: impl FnOnce() + Send + 'static) {
        match &self.pool {
            Some(pool) => pool.submit(work),
            None => work(),
        }
    }

    /// Tells the driver of an event, if it wants to know.
    fn event(&self, feature: u64, kind: u32, place: Address, reason: u32) {
        if self.state.lock().features & feature == 0 {
            return;
        }
        let Some(queue) = self.queue(1) else { return };
        let Some(chain) = queue.pop().filter(|chain| chain.writable_len() >= EVENT) else {
            self.state.lock().events_missed = true;
            return;
        };
        let missed = std::mem::take(&mut self.state.lock().events_missed);
        let mut out = (kind | if missed { EVENTS_MISSED } else { 0 }).to_le_bytes().to_vec();
        let [_, _, high, low] = place.lun.to_be_bytes();
        let target = u8::try_from(place.target).unwrap_or(u8::MAX);
        out.extend([1, target, if place.lun < 256 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0]);
        out.extend(reason.to_le_bytes());
        chain.write(0, &out);
        queue.push(chain, EVENT);
        queue.signal();
    }

    /// Waits until nobody takes requests; for queues that give none.
    fn still(&self) {
        for way in &self.ways {
            way.still();
        }
    }

    fn wait(&self) {
        self.still();
        for unit in self.targets.all() {
            unit.wait();
        }
    }
}

impl VirtioDevice for VirtioScsi {
    fn id(&self) -> VirtioId {
        VirtioId(8)
    }
    fn features(&self) -> u64 {
        let hotplug = if self.props.hotplug { HOTPLUG } else { 0 };
        let change = if self.props.param_change { CHANGE } else { 0 };
        hotplug | change | self.props.common.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        let size = u16::try_from(self.props.virtqueue_size).unwrap_or(256);
        vec![size; usize::from(FIRST + queues(&self.props))]
    }
    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }
    fn config(&self) -> Vec<u8> {
        let adjusted = self.props.virtqueue_size.saturating_sub(2);
        let segments = if self.props.seg_max_adjust { adjusted } else { 126 };
        let sense = u32::try_from(SENSE).unwrap_or(96);
        let event = u32::try_from(EVENT).unwrap_or(16);
        let mut out = Vec::new();
        for n in [
            u32::from(queues(&self.props)),
            segments,
            self.props.max_sectors,
            self.props.cmd_per_lun,
            event,
            sense,
            32,
        ] {
            out.extend(n.to_le_bytes());
        }
        out.extend(0u16.to_le_bytes());
        out.extend(255u16.to_le_bytes());
        out.extend(16383u32.to_le_bytes());
        out
    }
    fn start(&self, negotiated: u64) {
        self.state.lock().features = negotiated;
    }
    fn stop(&self) {
        self.wait();
        // A reset of the controller is one of its bus: units tell of it.
        self.targets.all().iter().for_each(|unit| unit.reset());
        *self.state.lock() = State::default();
    }
    fn stop_queue(&self, _: u16) {
        self.wait();
    }
    fn notify(&self, index: u16) {
        match index {
            0 => self.control(),
            1 => {}
            _ => {
                let way = self.ways.get(usize::from(index - FIRST));
                match way.and_then(|way| way.kick.as_ref()) {
                    Some(kick) => kick.kick(),
                    None => self.serve(index),
                }
            }
        }
    }
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.still();
            if let Some(control) = self.queue(0) {
                control.wait_idle();
            }
            for unit in self.targets.all() {
                unit.quiesce();
                if let Some(node) = unit.backend().node() {
                    _ = node.flush();
                }
            }
        })
    }
    fn restored(&self, index: u16, chains: Vec<Chain>) {
        let Some(queue) = self.queue(index) else { return };
        let way = index.checked_sub(FIRST).and_then(|at| self.ways.get(usize::from(at)));
        for chain in chains {
            match (index, way) {
                (0, _) => self.manage(queue, chain),
                (_, Some(way)) => self.begin(way, queue, chain, true),
                (_, None) => chain.give_back(),
            }
        }
        if let Some(way) = way {
            way.lane.flush();
        }
    }
}

impl Device for VirtioScsi {
    fn reset(&self, _: Reset) {
        self.wait();
        *self.state.lock() = State::default();
    }
    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.state)
    }
    fn settle(&self) {}
}
