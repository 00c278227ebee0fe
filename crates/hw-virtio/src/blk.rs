//! Virtio block device (virtio 1.3, section 5.2).
//!
//! A disk is a node of the block graph, named by `drive=`. Requests are taken on the thread that
//! notifies and carried out by the graph's worker threads, several at once, in pieces of bounded
//! size. Reset waits for what is under way; pausing waits until all is given back.
//! Not modelled: secure erase, zoned disks, error policies (every error goes to the guest),
//! requests that move without a copy, queues on I/O threads (`iothread` keeps the object only).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use block::{Graph, Hold, Node, Use};
use derive::{Qapi, VmState};
use device::{BoxFuture, Build, Bus, Device, DeviceClass, DeviceType, Held, Migration, Reset};
use parking_lot::{Condvar, Mutex};
use qapi::Error;
use virtio::{Chain, Common, OnOffAuto, Port, Queue, VirtioDevice, VirtioId};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioBlk>();

pci::named_property!(
    /// The id of a drive or the name of a node.
    DriveName, "str"
);
pci::named_property!(
    /// The name of an I/O thread.
    ThreadLink, "link<iothread>"
);

/// Properties of `virtio-blk-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Node name or ID of a block device to use as a backend
    pub drive: Option<DriveName>,
    /// Text the guest can ask for, at most 20 bytes
    pub serial: Option<String>,
    /// Number of queues; 65535: one
    #[qapi(name = "num-queues", default = 65535)]
    pub num_queues: u16,
    /// Entries of each queue
    #[qapi(name = "queue-size", default = 256)]
    pub queue_size: u16,
    /// Bytes of a sector as the guest is told
    #[qapi(name = "logical_block_size", default = 512)]
    pub logical_block_size: u32,
    /// Bytes that the disk writes at once
    #[qapi(name = "physical_block_size", default = 512)]
    pub physical_block_size: u32,
    /// Let others write to the disk as well
    #[qapi(name = "share-rw", default = false)]
    pub share_rw: bool,
    /// Offer discard
    #[qapi(default = true)]
    pub discard: bool,
    /// Offer writing zeroes
    #[qapi(name = "write-zeroes", default = true)]
    pub write_zeroes: bool,
    /// Let the guest choose the cache mode
    #[qapi(name = "config-wce", default = true)]
    pub config_wce: bool,
    /// Cache writes until the guest flushes
    #[qapi(name = "write-cache", default = "auto")]
    pub write_cache: OnOffAuto,
    /// Place in the boot order; kept and not told to firmware
    pub bootindex: Option<i32>,
    /// I/O thread; kept, requests run on the threads of the block layer
    pub iothread: Option<ThreadLink>,
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
/// Bytes that are moved at once.
const PIECE: usize = 1 << 20;
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
    graph: Arc<Graph>,
    hold: Hold,
    read_only: bool,
    cached_first: bool,
    _thread: Option<Held<evloop::Handle>>,
    port: OnceLock<Port>,
    this: Weak<VirtioBlk>,
    state: Mutex<State>,
    working: Mutex<usize>,
    idle: Condvar,
    /// Requests that failed, for nobody but a debugger so far.
    errors: AtomicU64,
}

fn checked(props: &Props) -> qapi::Result<()> {
    for (name, size) in [
        ("logical_block_size", props.logical_block_size),
        ("physical_block_size", props.physical_block_size),
    ] {
        if !size.is_power_of_two() || !(512..=2 << 20).contains(&size) {
            let text = format!("{name} must be a power of 2 between 512 and 2 MiB");
            return Err(Error::generic(text));
        }
    }
    if props.logical_block_size > props.physical_block_size {
        return Err(Error::generic("logical_block_size > physical_block_size not supported"));
    }
    if props.num_queues == 0 {
        return Err(Error::generic("num-queues property must be larger than 0"));
    }
    let size = props.queue_size;
    if !size.is_power_of_two() || size <= 2 || size > virtio::MAX_SIZE {
        let text = format!(
            "invalid queue-size property ({size}), must be a power of 2 (max {})",
            virtio::MAX_SIZE
        );
        return Err(Error::generic(text));
    }
    Ok(())
}

impl DeviceType for VirtioBlk {
    const NAME: &'static str = "virtio-blk-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio disk";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let drive = props.drive.as_ref().ok_or_else(|| Error::generic("drive property not set"))?;
        checked(&props)?;
        let thread = match &props.iothread {
            Some(link) => Some(at.object("iothread", &link.0, "iothread")?),
            None => None,
        };
        let name = &drive.0;
        let missing = || {
            Error::generic(format!("Property 'virtio-blk-device.drive' can't find value '{name}'"))
        };
        let graph = at.service::<Arc<Graph>>().ok_or_else(missing)?;
        let node = graph.backend(name).ok_or_else(missing)?;
        let read_only = node.is_read_only();
        let how = Use { writes: !read_only, shares_write: props.share_rw };
        let hold = node.hold("a virtio-blk device", how)?;
        let cached_first = props.write_cache != OnOffAuto::Off;
        let device = Arc::new_cyclic(|this| VirtioBlk {
            props,
            graph,
            hold,
            read_only,
            cached_first,
            _thread: thread,
            port: OnceLock::new(),
            this: this.clone(),
            state: Mutex::new(State { cached: cached_first }),
            working: Mutex::new(0),
            idle: Condvar::new(),
            errors: AtomicU64::new(0),
        });
        at.offer::<virtio::Offer>(device.clone());
        Ok(device)
    }
}

/// What the driver asked for.
struct Request {
    kind: u32,
    sector: u64,
}

impl Request {
    fn of(chain: &Chain) -> Option<Request> {
        let mut bytes = [0; HEADER];
        if chain.read(0, &mut bytes) != HEADER || chain.writable_len() == 0 {
            return None;
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = bytes;
        Some(Request { kind: u32::from_le_bytes([a, b, c, d]), sector: u64::from_le_bytes(sector) })
    }
}

impl VirtioBlk {
    pub(crate) fn state(&self) -> &dyn device::Saved {
        &self.state
    }

    fn node(&self) -> &Arc<Node> {
        self.hold.node()
    }

    fn queues(&self) -> u16 {
        if self.props.num_queues == u16::MAX { 1 } else { self.props.num_queues }
    }

    fn serve(&self, index: u16) {
        let Some(queue) = self.port.get().and_then(|port| port.queue(index.into())) else { return };
        while let Some(chain) = queue.pop() {
            let Some(this) = self.this.upgrade() else { return };
            *self.working.lock() += 1;
            let queue = queue.clone();
            self.graph.pool.submit(move || {
                this.carry_out(&queue, chain);
                let mut working = this.working.lock();
                *working -= 1;
                this.idle.notify_all();
            });
        }
        queue.signal();
    }

    fn carry_out(&self, queue: &Arc<Queue>, chain: Chain) {
        let Some(request) = Request::of(&chain) else {
            trace::guest_error!("virtio-blk: a request without header or status");
            queue.push(chain, 0);
            queue.signal();
            return;
        };
        let room = chain.writable_len() - 1;
        let (status, written) = match self.perform(&request, &chain, room) {
            Ok(written) => (OK, written),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => (UNSUPP, 0),
            Err(_) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                (IOERR, 0)
            }
        };
        chain.write(room, &[status]);
        // The status is the last byte: what lies before it counts as written.
        _ = written;
        queue.push(chain, room + 1);
        queue.signal();
    }

    /// The range of a transfer, checked against the disk.
    fn range(&self, sector: u64, len: usize) -> io::Result<u64> {
        let at = sector.checked_mul(SECTOR);
        let end = at.and_then(|at| at.checked_add(len as u64));
        let whole = (len as u64).is_multiple_of(self.props.logical_block_size.into());
        match (at, end) {
            (Some(at), Some(end)) if end <= self.node().len() && whole => Ok(at),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn perform(&self, request: &Request, chain: &Chain, room: usize) -> io::Result<usize> {
        match request.kind {
            IN => {
                let at = self.range(request.sector, room)?;
                let mut bytes = vec![0; room.min(PIECE)];
                let mut done = 0;
                while done < room {
                    let n = (room - done).min(PIECE);
                    let piece = bytes.get_mut(..n).unwrap_or_default();
                    self.node().read(at + done as u64, piece)?;
                    chain.write(done, piece);
                    done += n;
                }
                Ok(room)
            }
            OUT => {
                let len = chain.readable_len() - HEADER;
                let at = self.range(request.sector, len)?;
                let mut bytes = vec![0; len.min(PIECE)];
                let mut done = 0;
                while done < len {
                    let n = (len - done).min(PIECE);
                    let piece = bytes.get_mut(..n).unwrap_or_default();
                    chain.read(HEADER + done, piece);
                    self.node().write(at + done as u64, piece)?;
                    done += n;
                }
                if self.state.lock().cached { Ok(0) } else { self.node().flush().map(|()| 0) }
            }
            FLUSH => self.node().flush().map(|()| 0),
            GET_ID => {
                let mut id = self.props.serial.clone().unwrap_or_default().into_bytes();
                id.resize(ID_LEN, 0);
                Ok(chain.write(0, id.get(..ID_LEN.min(room)).unwrap_or_default()))
            }
            DISCARD if self.props.discard => self.ranges(chain, false),
            WRITE_ZEROES if self.props.write_zeroes => self.ranges(chain, true),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Discard and write zeroes: one range (5.2.6).
    fn ranges(&self, chain: &Chain, zero: bool) -> io::Result<usize> {
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
        if count > MAX_SECTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = u64::from(count) * SECTOR;
        let at = self.range(sector, usize::try_from(len).unwrap_or(usize::MAX))?;
        if zero {
            self.node().write_zeroes(at, len, flags & 1 != 0)?;
        } else {
            self.node().discard(at, len)?;
        }
        if self.state.lock().cached { Ok(0) } else { self.node().flush().map(|()| 0) }
    }

    fn wait(&self) {
        let mut working = self.working.lock();
        while *working > 0 {
            self.idle.wait(&mut working);
        }
    }
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
            (self.queues() > 1, bit::MQ),
            (self.props.discard && !self.read_only, bit::DISCARD),
            (self.props.write_zeroes && !self.read_only, bit::WRITE_ZEROES),
        ];
        let own = offers.into_iter().fold(0, |all, (on, bit)| if on { all | bit } else { all });
        own | self.props.common.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.props.queue_size; self.queues().into()]
    }
    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }
    fn config(&self) -> Vec<u8> {
        let sectors = self.node().len() / SECTOR;
        let logical = self.props.logical_block_size;
        let factor = self.props.physical_block_size / logical;
        // Cylinders of 16 heads with 63 sectors, as disks of old told it.
        let cylinders = u16::try_from((sectors / (16 * 63)).clamp(2, 16383)).unwrap_or(16383);
        let mut config = sectors.to_le_bytes().to_vec();
        config.extend(0u32.to_le_bytes());
        config.extend(u32::from(self.props.queue_size - 2).to_le_bytes());
        config.extend(cylinders.to_le_bytes());
        config.extend([16, 63]);
        config.extend(logical.to_le_bytes());
        config.push(u8::try_from(factor.trailing_zeros()).unwrap_or(0));
        config.extend([0, 0, 0, 0, 0, 0, 0]);
        config.extend([u8::from(self.state.lock().cached), 0]);
        config.extend(self.queues().to_le_bytes());
        for on in [self.props.discard, self.props.write_zeroes] {
            config.extend(if on { MAX_SECTORS } else { 0 }.to_le_bytes());
            config.extend(u32::from(on).to_le_bytes());
            if config.len() == 44 {
                config.extend((logical / 512).to_le_bytes());
            }
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
        self.serve(index);
    }
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.wait();
            _ = self.node().flush();
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
