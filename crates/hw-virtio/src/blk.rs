//! Virtio block device (virtio 1.3, section 5.2).
//!
//! A disk is a drive or a node of the block graph (`drive=`). Requests are taken on the thread that
//! notifies, or on the queue's I/O thread (`iothread`, `iothread-vq-mapping`), and go to the block
//! layer with the guest's memory as their buffers; they end in any order on the thread of the lane.
//! Reset waits for what is under way. The block layer stops the machine on errors as `rerror` and
//! `werror` say, and makes the request again when it goes on.
//! Requests that wait for that are saved with the queue, and begun again where it is loaded.
//! Neighbours among the reads or writes of one run are made as one (`request-merging`).
//! Not modelled: secure erase, zoned disks.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use crate::merge::{Batch, Joined, Transfer};
use crate::ways::{Mapping, ThreadLink, Way, queues_by_cpus, serve, ways};
use block::{Backend, DiskProps, Graph, Op, User};
use derive::{Qapi, VmState};
use device::{BoxFuture, Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset};
use parking_lot::Mutex;
use qapi::Error;
use virtio::{Chain, Common, Port, Queue, VirtioDevice, VirtioId, pieces};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioBlk>();

pci::named_property!(
    /// The id of a drive or the name of a node.
    DriveName, "str"
);
/// Properties of `virtio-blk-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Node name or ID of a block device to use as a backend
    pub drive: Option<DriveName>,
    /// Text the guest can ask for, at most 20 bytes
    pub serial: Option<String>,
    /// Number of queues; 65535: on PCI one for each CPU, else one
    #[qapi(name = "num-queues", default = 65535)]
    pub num_queues: u16,
    /// Entries of each queue
    #[qapi(name = "queue-size", default = 256)]
    pub queue_size: u16,
    /// As many segments as the queue has entries
    #[qapi(name = "seg-max-adjust", default = true)]
    pub seg_max_adjust: bool,
    /// Offer discard
    #[qapi(default = true)]
    pub discard: bool,
    /// Offer writing zeroes
    #[qapi(name = "write-zeroes", default = true)]
    pub write_zeroes: bool,
    /// Most sectors of one discard
    #[qapi(name = "max-discard-sectors", default = 4194303)]
    pub max_discard_sectors: u32,
    /// Most sectors of one zeroing
    #[qapi(name = "max-write-zeroes-sectors", default = 4194303)]
    pub max_write_zeroes_sectors: u32,
    /// Tell the guest the unit of discards
    #[qapi(name = "report-discard-granularity", default = true)]
    pub report_discard_granularity: bool,
    /// Make neighbouring requests as one
    #[qapi(name = "request-merging", default = true)]
    pub request_merging: bool,
    /// Let the guest choose the cache mode
    #[qapi(name = "config-wce", default = true)]
    pub config_wce: bool,
    /// Place in the boot order; kept and not told to firmware
    pub bootindex: Option<i32>,
    /// I/O thread that serves all queues
    pub iothread: Option<ThreadLink>,
    /// IOThread virtqueue mapping list [{"iothread":"<id>", "vqs":[1,2,3,...]},...]
    #[qapi(name = "iothread-vq-mapping")]
    pub mapping: Option<Vec<Mapping>>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub disk: DiskProps,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

/// 5.2.3: feature bits.
mod bit {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const GEOMETRY: u64 = 1 << 4;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

// 5.2.6: types of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
// 5.2.6: status.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const SECTOR: u64 = 512;
const HEADER: usize = 16;
const ID_LEN: usize = 20;
/// Most sectors of one discard or zeroing, as the peer has it.
const MAX_SECTORS: u32 = 4_194_303;
/// Where the cache mode is in the configuration space (5.2.4).
const WCE_AT: usize = 32;

#[derive(Default, VmState)]
#[vmstate(name = "virtio-blk", version = 1)]
struct State {
    /// Writes are cached until a flush.
    cached: bool,
}

/// The device.
pub struct VirtioBlk {
    props: Props,
    backend: Arc<Backend>,
    ways: Vec<Way>,
    read_only: bool,
    cached_first: bool,
    port: OnceLock<Port>,
    state: Mutex<State>,
}

fn checked(props: &Props) -> qapi::Result<()> {
    props.disk.check()?;
    if props.num_queues == 0 {
        return Err(Error::generic("num-queues property must be larger than 0"));
    }
    let size = props.queue_size;
    if size <= 2 {
        let text = format!("invalid queue-size property ({size}), must be > 2");
        return Err(Error::generic(text));
    }
    if !size.is_power_of_two() || size > virtio::MAX_SIZE {
        let text = format!(
            "invalid queue-size property ({size}), must be a power of 2 (max {})",
            virtio::MAX_SIZE
        );
        return Err(Error::generic(text));
    }
    for (name, sectors) in [
        ("max-discard-sectors", props.max_discard_sectors),
        ("max-write-zeroes-sectors", props.max_write_zeroes_sectors),
    ] {
        if !(1..=MAX_SECTORS).contains(&sectors) {
            let text =
                format!("invalid {name} property ({sectors}), must be between 1 and {MAX_SECTORS}");
            return Err(Error::generic(text));
        }
    }
    if props.iothread.is_some() && props.mapping.is_some() {
        let text = "iothread and iothread-vq-mapping properties cannot be set at the same time";
        return Err(Error::generic(text));
    }
    Ok(())
}

fn queues(props: &Props) -> u16 {
    if props.num_queues == u16::MAX { 1 } else { props.num_queues }
}

impl DeviceType for VirtioBlk {
    const NAME: &'static str = "virtio-blk-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio disk";
    type Props = Props;

    fn create(mut props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if props.num_queues == u16::MAX {
            props.num_queues = queues_by_cpus(at, 0);
        }
        let drive = props.drive.as_ref().ok_or_else(|| Error::generic("drive property not set"))?;
        checked(&props)?;
        let graph = at.service::<Arc<Graph>>();
        let read_only =
            graph.as_ref().and_then(|g| g.backend(&drive.0)).is_none_or(|node| node.is_read_only());
        // On PCI the disk is the device behind the transport.
        let behind = at.parent_bus::<pci::PciBus>().map_or("", |_| "/virtio-backend");
        let path = format!("/machine/peripheral/{}{behind}", at.id());
        let user = User { path, writes: !read_only, ..User::default() };
        let backend =
            props.disk.claim(graph.as_ref(), ("virtio-blk-device", Some(&drive.0)), user)?;
        if backend.node().is_none() {
            backend.detach();
            return Err(Error::generic("Device needs media, but drive is empty"));
        }
        let cached_first = backend.write_cache.load(Ordering::Relaxed);
        let mut failure = None;
        let device = Arc::new_cyclic(|this| {
            let ways = graph.as_ref().map_or_else(
                || Ok(Vec::new()),
                |graph| {
                    let this: Weak<VirtioBlk> = this.clone();
                    let serve = move |index| {
                        if let Some(this) = this.upgrade() {
                            this.serve(index);
                        }
                    };
                    let threads = (props.iothread.as_ref(), props.mapping.as_deref());
                    ways(threads, (0, queues(&props)), graph, at, &serve)
                },
            );
            let ways = ways.unwrap_or_else(|error| {
                failure = Some(error);
                Vec::new()
            });
            VirtioBlk {
                props,
                backend,
                ways,
                read_only,
                cached_first,
                port: OnceLock::new(),
                state: Mutex::new(State { cached: cached_first }),
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if let Some(index) = device.props.bootindex {
            at.offer(device::BootEntry { index, node: "/disk@0,0".into() });
        }
        at.offer::<virtio::Offer>(device.clone());
        at.offer::<block::Slotted>(device.clone());
        Ok(device)
    }
}

impl Drop for VirtioBlk {
    fn drop(&mut self) {
        self.backend.detach();
    }
}

impl block::SlottedDevice for VirtioBlk {
    fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
    fn resized(&self) {
        if let Some(port) = self.port.get() {
            port.config_changed();
        }
    }
}

/// What the driver asked for.
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn of(chain: &Chain) -> Option<Header> {
        let mut bytes = [0; HEADER];
        if chain.read(0, &mut bytes) != HEADER || chain.writable_len() == 0 {
            return None;
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = bytes;
        Some(Header { kind: u32::from_le_bytes([a, b, c, d]), sector: u64::from_le_bytes(sector) })
    }
}

/// What a chain becomes.
enum Step {
    /// A request of the block layer.
    Ask(Op, u64, u64),
    /// Done already.
    Over,
}

impl VirtioBlk {
    pub(crate) fn state(&self) -> &dyn device::Saved {
        &self.state
    }

    /// Waits until all requests are over, those too that wait for the machine.
    fn wait(&self) {
        for way in &self.ways {
            way.still();
        }
        self.backend.give_up();
    }

    fn serve(&self, index: u16) {
        let queue = self.port.get().and_then(|port| port.queue(index.into()));
        let (Some(queue), Some(way)) = (queue, self.ways.get(usize::from(index))) else { return };
        let batch = RefCell::default();
        let begin = |chain| self.begin(way, queue, chain, &mut batch.borrow_mut());
        serve(way, queue, begin, || self.send_all(way, queue, &mut batch.borrow_mut()));
    }

    /// Begins what was collected.
    fn send_all(&self, way: &Way, queue: &Arc<Queue>, batch: &mut Batch) {
        for joined in batch.take(self.props.request_merging) {
            self.send(way, queue, joined);
        }
    }

    fn send(&self, way: &Way, queue: &Arc<Queue>, joined: Joined) {
        let Joined { op, at, len, memory, chains } = joined;
        // One for all of them: they wait or end together.
        let command = self.backend.command();
        let through = !self.state.lock().cached;
        let queue = queue.clone();
        let parts = u32::try_from(chains.len()).unwrap_or(u32::MAX);
        let done = Box::new(move |result: io::Result<()>| {
            let status = result.map_or_else(|error| status(&error), |()| OK);
            for (chain, room) in chains {
                finish(&queue, chain, room, status);
            }
            drop(command);
        });
        let request = block::Request { op, at, len, memory, through, parts, done };
        self.backend.submit(&way.lane, request);
    }

    /// Begins what a chain asks for; a read or write is added to the batch.
    fn begin(&self, way: &Way, queue: &Arc<Queue>, chain: Chain, batch: &mut Batch) {
        let Some(header) = Header::of(&chain) else {
            trace::guest_error!("virtio-blk: a request without header or status");
            queue.push(chain, 0);
            return queue.signal();
        };
        let room = chain.writable_len() - 1;
        let (op, at, len) = match self.step(&header, &chain, room) {
            Ok(Step::Ask(op, at, len)) => (op, at, len),
            Ok(Step::Over) => return finish(queue, chain, room, OK),
            Err(error) => return finish(queue, chain, room, status(&error)),
        };
        let memory = match op {
            Op::Read => pieces(chain.writable(), 0, room),
            Op::Write => pieces(chain.readable(), HEADER, chain.readable_len() - HEADER),
            _ => Vec::new(),
        };
        if matches!(op, Op::Read | Op::Write) && self.props.request_merging {
            let transfer = Transfer { op, at, len, memory, chain: (chain, room) };
            for joined in batch.add(transfer) {
                self.send(way, queue, joined);
            }
            return;
        }
        // What was asked for before comes before, flushes above all.
        self.send_all(way, queue, batch);
        self.send(way, queue, Joined { op, at, len, memory, chains: vec![(chain, room)] });
    }

    /// The range of a transfer, checked against the disk.
    fn range(&self, sector: u64, len: u64) -> io::Result<u64> {
        let at = sector.checked_mul(SECTOR);
        let end = at.and_then(|at| at.checked_add(len));
        let unit = self.props.disk.logical();
        match (at, end) {
            (Some(at), Some(end))
                if end <= self.backend.len()
                    && len.is_multiple_of(unit)
                    && at.is_multiple_of(unit) =>
            {
                Ok(at)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// As [`VirtioBlk::range`]; what makes no sense is counted.
    fn counted(&self, op: Op, sector: u64, len: u64) -> io::Result<u64> {
        self.range(sector, len).inspect_err(|_| self.backend.invalid(op))
    }

    fn step(&self, header: &Header, chain: &Chain, room: usize) -> io::Result<Step> {
        match header.kind {
            IN => {
                let len = room as u64;
                Ok(Step::Ask(Op::Read, self.counted(Op::Read, header.sector, len)?, len))
            }
            OUT => {
                let len = (chain.readable_len() - HEADER) as u64;
                Ok(Step::Ask(Op::Write, self.counted(Op::Write, header.sector, len)?, len))
            }
            FLUSH => Ok(Step::Ask(Op::Flush, 0, 0)),
            GET_ID => {
                let mut id = self.props.serial.clone().unwrap_or_default().into_bytes();
                id.resize(ID_LEN, 0);
                chain.write(0, id.get(..ID_LEN.min(room)).unwrap_or_default());
                Ok(Step::Over)
            }
            DISCARD if self.props.discard => self.one_range(chain, false),
            WRITE_ZEROES if self.props.write_zeroes => self.one_range(chain, true),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Discard and write zeroes: one range (5.2.6).
    fn one_range(&self, chain: &Chain, zero: bool) -> io::Result<Step> {
        let mut bytes = [0; 16];
        if chain.readable_len() != HEADER + 16 || chain.read(HEADER, &mut bytes) != 16 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (at, rest) = bytes.split_at(8);
        let sector = u64::from_le_bytes(at.try_into().unwrap_or_default());
        let (count, flags) = rest.split_at(4);
        let count = u32::from_le_bytes(count.try_into().unwrap_or_default());
        let flags = u32::from_le_bytes(flags.try_into().unwrap_or_default());
        // 5.2.6.2: only zeroing knows a flag, to give the space back.
        if flags & !1 != 0 || (!zero && flags != 0) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let most =
            if zero { self.props.max_write_zeroes_sectors } else { self.props.max_discard_sectors };
        if count > most {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = u64::from(count) * SECTOR;
        let at = self.range(sector, len)?;
        let op = if zero { Op::WriteZeroes { unmap: flags & 1 != 0 } } else { Op::Discard };
        Ok(Step::Ask(op, at, len))
    }
}

fn status(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::Unsupported { UNSUPP } else { IOERR }
}

/// Gives a chain back. The status is its last byte: all before it counts as written.
fn finish(queue: &Queue, chain: Chain, room: usize, status: u8) {
    chain.write(room, &[status]);
    queue.push(chain, room + 1);
    queue.signal();
}

impl VirtioDevice for VirtioBlk {
    fn id(&self) -> VirtioId {
        VirtioId(2)
    }
    fn features(&self) -> u64 {
        let offers = [
            (true, bit::SEG_MAX | bit::GEOMETRY | bit::BLK_SIZE | bit::FLUSH | bit::TOPOLOGY),
            (self.read_only, bit::RO),
            (self.props.config_wce, bit::CONFIG_WCE),
            (queues(&self.props) > 1, bit::MQ),
            (self.props.discard && !self.read_only, bit::DISCARD),
            (self.props.write_zeroes && !self.read_only, bit::WRITE_ZEROES),
        ];
        let own = offers.into_iter().fold(0, |all, (on, bit)| if on { all | bit } else { all });
        own | self.props.common.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.props.queue_size; queues(&self.props).into()]
    }
    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }
    fn config(&self) -> Vec<u8> {
        let sectors = self.backend.len() / SECTOR;
        let disk = &self.props.disk;
        let factor = disk.physical() / disk.logical();
        let low = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        // Cylinders of 16 heads with 63 sectors, as disks of old told it.
        let cylinders = u16::try_from((sectors / (16 * 63)).clamp(2, 16383)).unwrap_or(16383);
        let segments = if self.props.seg_max_adjust { self.props.queue_size - 2 } else { 126 };
        let mut config = sectors.to_le_bytes().to_vec();
        config.extend(0u32.to_le_bytes());
        config.extend(u32::from(segments).to_le_bytes());
        config.extend(cylinders.to_le_bytes());
        config.extend([16, 63]);
        config.extend(low(disk.logical()).to_le_bytes());
        config.push(u8::try_from(factor.trailing_zeros()).unwrap_or(0));
        config.push(0);
        let smallest = u16::try_from(disk.min_io_size.0 / disk.logical()).unwrap_or(u16::MAX);
        config.extend(smallest.to_le_bytes());
        config.extend(low(disk.opt_io_size.0 / disk.logical()).to_le_bytes());
        config.extend([u8::from(self.state.lock().cached), 0]);
        config.extend(queues(&self.props).to_le_bytes());
        let alike = disk.discard_granularity.0 == u64::from(u32::MAX);
        let unit = if alike { disk.physical() } else { disk.discard_granularity.0 };
        let unit = if self.props.report_discard_granularity { unit } else { disk.logical() };
        let (discard, zeroes) = (self.props.discard, self.props.write_zeroes);
        let when = |on: bool, n: u32| if on { n } else { 0 };
        for n in [
            when(discard, self.props.max_discard_sectors),
            u32::from(discard),
            when(discard, low((unit / SECTOR).max(1))),
            when(zeroes, self.props.max_write_zeroes_sectors),
            u32::from(zeroes),
        ] {
            config.extend(n.to_le_bytes());
        }
        config.extend([1, 0, 0, 0]);
        config
    }
    fn config_write(&self, at: usize, data: &[u8]) {
        if let Some(mode) = WCE_AT.checked_sub(at).and_then(|at| data.get(at)) {
            self.state.lock().cached = *mode != 0;
        }
    }
    fn stop(&self) {
        self.wait();
        self.state.lock().cached = self.cached_first;
    }
    fn stop_queue(&self, _: u16) {
        self.wait();
    }
    fn notify(&self, index: u16) {
        match self.ways.get(usize::from(index)).and_then(|way| way.kick.as_ref()) {
            Some(kick) => kick.kick(),
            None => self.serve(index),
        }
    }
    fn restored(&self, index: u16, chains: Vec<Chain>) {
        let queue = self.port.get().and_then(|port| port.queue(index.into()));
        let (Some(queue), Some(way)) = (queue, self.ways.get(usize::from(index))) else { return };
        let mut batch = Batch::default();
        for chain in chains {
            self.begin(way, queue, chain, &mut batch);
        }
        self.send_all(way, queue, &mut batch);
        way.lane.flush();
    }
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            for way in &self.ways {
                way.still();
            }
            self.backend.quiesce();
            if let Some(node) = self.backend.node() {
                _ = node.flush();
            }
        })
    }
}

impl Device for VirtioBlk {
    fn reset(&self, _: Reset) {
        self.wait();
        self.state.lock().cached = self.cached_first;
    }
    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.state)
    }
    fn settle(&self) {}
}
