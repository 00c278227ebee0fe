//! Virtio network card (virtio 1.3, section 5.1).
//!
//! Queue pairs, mergeable buffers, checksum and TCP segmentation offload in both
//! directions where the back end has them (`-netdev user` does), the control queue
//! with receive modes, address tables, VLANs, announcements, queue pairs and guest
//! offloads. Frames are sent and received on the loop of the back end, a few short
//! ones on the thread of the driver; a card without back end swallows what it is given.
//! Not modelled: RSC and standby (failover); notification coalescing, which the peer has not
//! either.
//! Source: Virtual I/O Device (VIRTIO) Version 1.3; properties of QEMU 10.0.

mod control;
mod props;
mod receive;
mod rss;
#[cfg(test)]
mod tests;
mod vhost;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use derive::VmState;
use device::{
    AddressSpace, BoxFuture, Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset, Saved,
};
use net::frame::Offload;
use net::link::MAX_FRAME;
use net::{Bytes, Frame, Link, Mac, Netdevs, Nic, NicInfo, RxFilter, Takes};
use parking_lot::Mutex;
use qapi::{Result, Value};
use virtio::{Kick, Port, Queue, VirtioDevice, VirtioId, pieces};
use vmstate::{LoadError, StateReader, StateSchema, StateWriter, VmState as _};

pub use control::fuzz as fuzz_control;
pub use props::Props;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioNet>();

/// Feature bits (5.1.3).
pub(crate) mod feature {
    pub(crate) const CSUM: u64 = 1;
    pub(crate) const GUEST_CSUM: u64 = 1 << 1;
    pub(crate) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub(crate) const MTU: u64 = 1 << 3;
    pub(crate) const MAC: u64 = 1 << 5;
    pub(crate) const GSO: u64 = 1 << 6;
    pub(crate) const GUEST_TSO4: u64 = 1 << 7;
    pub(crate) const GUEST_TSO6: u64 = 1 << 8;
    pub(crate) const GUEST_ECN: u64 = 1 << 9;
    pub(crate) const GUEST_UFO: u64 = 1 << 10;
    pub(crate) const HOST_TSO4: u64 = 1 << 11;
    pub(crate) const HOST_TSO6: u64 = 1 << 12;
    pub(crate) const HOST_ECN: u64 = 1 << 13;
    pub(crate) const HOST_UFO: u64 = 1 << 14;
    pub(crate) const MRG_RXBUF: u64 = 1 << 15;
    pub(crate) const STATUS: u64 = 1 << 16;
    pub(crate) const CTRL_VQ: u64 = 1 << 17;
    pub(crate) const CTRL_RX: u64 = 1 << 18;
    pub(crate) const CTRL_VLAN: u64 = 1 << 19;
    pub(crate) const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub(crate) const GUEST_ANNOUNCE: u64 = 1 << 21;
    pub(crate) const MQ: u64 = 1 << 22;
    pub(crate) const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub(crate) const GUEST_USO4: u64 = 1 << 54;
    pub(crate) const GUEST_USO6: u64 = 1 << 55;
    pub(crate) const HOST_USO: u64 = 1 << 56;
    pub(crate) const HASH_REPORT: u64 = 1 << 57;
    pub(crate) const RSS: u64 = 1 << 60;
    pub(crate) const SPEED_DUPLEX: u64 = 1 << 63;
}
use feature as f;

// 5.1.4: status.
const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;

const CONTROL_SIZE: u16 = 64;
/// Frames sent in one go before others get their turn.
const BURST: usize = 256;
/// Frames sent by the driver's own thread, and their length.
const FEW: usize = 8;
const SHORT: usize = 4096;
/// Most queue pairs.
const MAX_PAIRS: u16 = 512;

/// What the driver chose.
#[derive(Clone, VmState)]
#[vmstate(name = "virtio-net", version = 2, min_version = 2)]
pub(crate) struct State {
    mac: u64,
    promiscuous: bool,
    all_multicast: bool,
    all_unicast: bool,
    no_multicast: bool,
    no_unicast: bool,
    no_broadcast: bool,
    multicast_overflow: bool,
    unicast_overflow: bool,
    #[vmstate(max = 64)]
    unicast: Vec<u64>,
    #[vmstate(max = 64)]
    multicast: Vec<u64>,
    /// One bit for each VLAN that is let through.
    vlans: [u64; 64],
    /// Queue pairs in use.
    pairs: u16,
    /// Accepted features; 0: the driver is not there.
    features: u64,
    /// Guest offloads in use, as feature bits.
    offloads: u64,
    link_down: bool,
    announce: bool,
    /// Hashes of received frames.
    rss: Option<rss::Rss>,
}

impl Default for State {
    fn default() -> State {
        State {
            mac: 0,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            multicast_overflow: false,
            unicast_overflow: false,
            unicast: Vec::new(),
            multicast: Vec::new(),
            vlans: [u64::MAX; 64],
            pairs: 1,
            features: 0,
            offloads: 0,
            link_down: false,
            announce: false,
            rss: None,
        }
    }
}

fn mac_number(mac: Mac) -> u64 {
    mac.iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

fn mac_bytes(number: u64) -> Mac {
    let [_, _, mac @ ..] = number.to_be_bytes();
    mac
}

impl State {
    fn has(&self, bit: u64) -> bool {
        self.features & bit != 0
    }

    /// Bytes of the header in front of each frame (5.1.6).
    fn header_len(&self) -> usize {
        let long = self.has(virtio::feature::VERSION_1) || self.has(f::MRG_RXBUF);
        // 5.1.6.1: the number of buffers, the hash and its kind.
        Offload::LEN
            + if self.has(f::HASH_REPORT) {
                10
            } else if long {
                2
            } else {
                0
            }
    }
}

/// The card.
pub struct VirtioNet {
    props: Props,
    name: Option<String>,
    mac: Mac,
    link: Option<Arc<Link>>,
    netdevs: Option<Arc<Netdevs>>,
    pairs: u16,
    port: OnceLock<Port>,
    sends: Vec<Kick>,
    receives: Kick,
    /// Whose turn it is to send from a queue: frames stay in order.
    turns: Vec<Mutex<()>>,
    /// One frame at a time takes buffers, which may have to be put back.
    receiving: Mutex<()>,
    /// The driver was asked not to tell of new receive buffers, by queue pair.
    quiet: Vec<AtomicBool>,
    /// The driver is there; mirrors `features != 0` for the fast path.
    running: AtomicBool,
    /// The filter changed since it was asked for.
    filter_told: AtomicBool,
    /// Guest memory, for a program that serves the queues, and what it has of them.
    memory: AddressSpace,
    away: Mutex<Option<vhost::Away>>,
    state: Mutex<State>,
}

impl DeviceType for VirtioNet {
    const NAME: &'static str = "virtio-net-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio network card";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> Result<Arc<Self>> {
        props.check()?;
        let netdevs = at.service::<Arc<Netdevs>>();
        let (found, mac) = net::card(Self::NAME, &props.netdev, &props.mac, netdevs.as_ref())?;
        let handle = netdevs.as_ref().map(|table| table.context().handle.clone());
        let pairs = found.as_ref().map_or(1, |link| link.queues()).clamp(1, MAX_PAIRS);
        let pairs = if props.mq { pairs } else { 1 };
        let name = (!at.id().contains('[')).then(|| at.id().to_owned());
        let (link, memory) = (found.clone(), at.world().memory.clone());
        let table = netdevs.clone();
        let card = Arc::new_cyclic(|this: &Weak<VirtioNet>| {
            let kick = |f: fn(&VirtioNet, u16), pair: u16| {
                let weak = this.clone();
                Kick::new(handle.clone(), move || {
                    if let Some(card) = weak.upgrade() {
                        f(&card, pair);
                    }
                })
            };
            VirtioNet {
                name,
                mac,
                link,
                netdevs: table,
                pairs,
                port: OnceLock::new(),
                sends: (0..pairs).map(|pair| kick(VirtioNet::transmit, pair)).collect(),
                receives: kick(|card, _| card.has_room(), 0),
                turns: (0..pairs).map(|_| Mutex::default()).collect(),
                receiving: Mutex::default(),
                quiet: (0..pairs).map(|_| AtomicBool::new(false)).collect(),
                running: AtomicBool::new(false),
                filter_told: AtomicBool::new(true),
                memory,
                away: Mutex::default(),
                state: Mutex::new(State { mac: mac_number(mac), ..State::default() }),
                props,
            }
        });
        let nic: Arc<dyn Nic> = card.clone();
        if let (Some(id), Some(table)) = (&card.props.netdev, &netdevs) {
            table.connect((Self::NAME, "netdev"), id, Arc::downgrade(&nic))?;
        }
        if let Some(table) = &netdevs {
            table.note(Arc::downgrade(&nic), found);
        }
        if let Some(index) = card.props.bootindex {
            at.offer(device::BootEntry { index, node: "/ethernet-phy@0".into() });
        }
        at.offer::<virtio::Offer>(card.clone());
        at.offer::<Arc<dyn Nic>>(nic);
        Ok(card)
    }
}

impl Drop for VirtioNet {
    fn drop(&mut self) {
        if let Some(table) = &self.netdevs {
            table.release_mac(self.mac);
        }
    }
}

impl VirtioNet {
    pub(crate) fn state(&self) -> &dyn Saved {
        self
    }

    fn queue(&self, index: u16) -> Option<&Arc<Queue>> {
        self.port.get()?.queue(index.into())
    }

    fn offloads(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.offloads())
    }

    /// Sends what the driver put into a queue; on the link's loop.
    fn transmit(&self, pair: u16) {
        let Some(turn) = self.turns.get(usize::from(pair)) else { return };
        let more = {
            let _turn = turn.lock();
            self.transmit_some(pair, BURST, usize::MAX)
        };
        if let Some(kick) = self.sends.get(usize::from(pair)).filter(|_| more) {
            kick.kick();
        }
    }

    /// Sends a few short frames in the calling thread: waking another one would take longer, but
    /// not than waiting for it. Whether that was all.
    fn transmit_now(&self, pair: u16) -> bool {
        if self.link.as_ref().is_some_and(|link| link.is_busy()) {
            return false;
        }
        let turn = self.turns.get(usize::from(pair)).and_then(|turn| turn.try_lock());
        turn.is_some_and(|_turn| !self.transmit_some(pair, FEW, SHORT))
    }

    /// Sends at most `most` frames of at most `len` bytes, in the driver's order, with the
    /// queue's turn held. Whether there is more.
    fn transmit_some(&self, pair: u16, most: usize, len: usize) -> bool {
        let Some(queue) = self.queue(2 * pair + 1) else { return false };
        let (header, whole) = {
            let state = self.state.lock();
            // Without a checksum to fill in there is no segmentation either.
            (state.header_len(), state.has(f::CSUM))
        };
        queue.set_notification(false);
        let (mut count, mut more) = (0, true);
        while more && count < most {
            match queue.pop() {
                Some(chain) if chain.readable_len() > len => {
                    queue.unpop(chain);
                    break;
                }
                Some(chain) => {
                    self.send_one(&chain, header, whole, pair);
                    queue.push(chain, 0);
                    count += 1;
                }
                None => {
                    more = queue.set_notification(true);
                    if more {
                        queue.set_notification(false);
                    }
                }
            }
        }
        if let Some(link) = self.link.as_ref().filter(|_| count > 0) {
            link.guest_done();
        }
        queue.signal();
        more
    }

    fn send_one(&self, chain: &virtio::Chain, header: usize, unfinished: bool, pair: u16) {
        let mut bytes = [0; Offload::LEN];
        if chain.read(0, &mut bytes) < bytes.len() {
            trace::guest_error!("virtio-net: a frame without a header");
            return;
        }
        let Some(link) = &self.link else { return };
        let offload = if unfinished { Offload::from_bytes(bytes) } else { Offload::default() };
        let parts = pieces(chain.readable(), header, MAX_FRAME);
        link.from_guest_on(pair, &Frame { offload, bytes: Bytes::Ram(&parts) });
    }

    /// The driver gave buffers for receiving; on the link's loop.
    fn has_room(&self) {
        if let Some(link) = &self.link {
            link.guest_has_room();
        }
    }

    /// Tells that the filter changed, once until it is asked for again.
    fn filter_changed(&self) {
        if self.filter_told.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(table) = &self.netdevs else { return };
        let (context, name) = (table.context().clone(), self.name.clone());
        let handle = context.handle.clone();
        handle.call(Box::new(move || {
            let mut data = Value::empty();
            if let Some(name) = &name {
                data.set("name", Value::from(name.as_str()));
                let path = format!("/machine/peripheral/{name}/virtio-backend");
                data.set("path", Value::from(path.as_str()));
            } else {
                data.set("path", Value::from("/machine/peripheral-anon"));
            }
            (context.tell)("NIC_RX_FILTER_CHANGED", data);
        }));
    }
}

impl VirtioDevice for VirtioNet {
    fn id(&self) -> VirtioId {
        VirtioId(1)
    }

    fn features(&self) -> u64 {
        let datagrams = self.link.as_ref().map(|link| link.datagram_offloads());
        let own = self.props.features(self.offloads(), datagrams.unwrap_or_default(), self.pairs);
        match self.vhost() {
            Some(program) => own & !vhost::NEVER & (program.features() | !vhost::OF_PROGRAM),
            None => own,
        }
    }

    fn legacy_only(&self) -> u64 {
        f::GSO
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let (rx, tx) = (self.props.rx_queue_size, self.props.tx_queue_size);
        let mut sizes: Vec<u16> = (0..self.pairs).flat_map(|_| [rx, tx]).collect();
        sizes.extend(self.props.ctrl_vq.then_some(CONTROL_SIZE));
        sizes
    }

    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }

    fn config(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut config = mac_bytes(state.mac).to_vec();
        let up = if state.link_down { 0 } else { LINK_UP };
        let status = up | if state.announce { ANNOUNCE } else { 0 };
        config.extend(status.to_le_bytes());
        config.extend(self.pairs.to_le_bytes());
        config.extend(self.props.host_mtu.to_le_bytes());
        let speed = u32::try_from(self.props.speed).unwrap_or(u32::MAX);
        config.extend(speed.to_le_bytes());
        config.push(match self.props.duplex.as_deref() {
            Some("half") => 0,
            Some(_) => 1,
            None => 0xff,
        });
        config.push(u8::try_from(net::rss::KEY).unwrap_or(40));
        config.extend(u16::try_from(rss::MAX_TABLE).unwrap_or(128).to_le_bytes());
        config.extend(rss::TYPES.to_le_bytes());
        let offered = self.features();
        let len = match offered {
            o if o & (f::RSS | f::HASH_REPORT) != 0 => 24,
            o if o & f::SPEED_DUPLEX != 0 => 17,
            o if o & f::MTU != 0 => 12,
            o if o & f::MQ != 0 => 10,
            o if o & f::STATUS != 0 => 8,
            _ => 6,
        };
        config.truncate(len);
        config
    }

    fn config_write(&self, at: usize, data: &[u8]) {
        let mut state = self.state.lock();
        // 5.1.4: only legacy drivers write here, and only the address.
        if state.has(virtio::feature::VERSION_1) || state.has(f::CTRL_MAC_ADDR) {
            return;
        }
        let mut mac = mac_bytes(state.mac);
        for (to, from) in mac.iter_mut().skip(at).zip(data) {
            *to = *from;
        }
        state.mac = mac_number(mac);
    }

    fn start(&self, negotiated: u64) {
        {
            let mut state = self.state.lock();
            let fresh = state.features != negotiated;
            state.features = negotiated;
            if fresh {
                state.offloads = negotiated & control::OFFLOADS;
            }
        }
        self.running.store(true, Ordering::Release);
        for quiet in &self.quiet {
            quiet.store(false, Ordering::Relaxed);
        }
        if let Some(link) = &self.link {
            link.takes_changed();
        }
        self.go_away(negotiated);
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.come_back();
        // Queues give nothing more; who took a chain before holds one of these locks.
        for turn in &self.turns {
            drop(turn.lock());
        }
        drop(self.receiving.lock());
        Box::pin(std::future::ready(()))
    }

    fn resume(&self) {
        let features = self.state.lock().features;
        if features != 0 && self.away.lock().is_none() {
            self.go_away(features);
        }
    }

    fn stop(&self) {
        self.come_back();
        self.running.store(false, Ordering::Release);
        let mut state = self.state.lock();
        let (link_down, mac) = (state.link_down, self.mac);
        *state = State { link_down, mac: mac_number(mac), ..State::default() };
    }

    fn notify(&self, index: u16) {
        if index == 2 * self.pairs {
            self.serve_control();
        } else if self.kick_away(index) {
            // The program does the rest.
        } else if index.is_multiple_of(2) {
            if self.link.as_ref().is_some_and(|link| link.wants_room()) {
                self.receives.kick();
            }
        } else if let Some(kick) = self.sends.get(usize::from(index / 2))
            && !self.transmit_now(index / 2)
        {
            kick.kick();
        }
    }
}

impl Nic for VirtioNet {
    fn info(&self) -> NicInfo {
        let mac = mac_bytes(self.state.lock().mac);
        NicInfo { name: self.name.clone(), mac }
    }

    fn takes(&self) -> Takes {
        let state = self.state.lock();
        let on = |bit| state.offloads & bit != 0;
        Takes {
            csum: on(f::GUEST_CSUM),
            tso4: on(f::GUEST_TSO4),
            tso6: on(f::GUEST_TSO6),
            ecn: on(f::GUEST_ECN),
            ufo: on(f::GUEST_UFO),
            uso4: on(f::GUEST_USO4),
            uso6: on(f::GUEST_USO6),
        }
    }

    fn receive(&self, frame: &Frame<'_>) -> bool {
        self.receive_frame(frame, 0)
    }

    fn receive_on(&self, pair: u16, frame: &Frame<'_>) -> bool {
        self.receive_frame(frame, pair)
    }

    fn flush(&self) {
        for pair in 0..self.pairs {
            if let Some(queue) = self.queue(2 * pair) {
                queue.signal();
            }
        }
    }

    fn set_link(&self, up: bool) {
        let changed = std::mem::replace(&mut self.state.lock().link_down, !up) == up;
        if let Some(port) = self.port.get().filter(|_| changed) {
            port.config_changed();
        }
    }

    fn rx_filter(&self) -> Option<RxFilter> {
        self.filter_told.store(false, Ordering::Release);
        Some(self.filter())
    }

    fn announce(&self) -> bool {
        {
            let mut state = self.state.lock();
            if !state.has(f::GUEST_ANNOUNCE) || !state.has(f::CTRL_VQ) {
                return false;
            }
            state.announce = true;
        }
        if let Some(port) = self.port.get() {
            port.config_changed();
        }
        true
    }
}

impl Saved for VirtioNet {
    fn schema(&self) -> &'static StateSchema {
        State::schema()
    }
    fn save(&self, w: &mut StateWriter) {
        self.state.lock().save(w);
    }
    fn load(&self, r: &mut StateReader<'_>, version: u32) -> std::result::Result<(), LoadError> {
        let state = State::load(r, version)?;
        let sane = (1..=self.pairs).contains(&state.pairs)
            && state.offloads & !control::OFFLOADS == 0
            && state.rss.as_ref().is_none_or(|rss| rss.is_sane(self.pairs));
        if !sane {
            return Err(LoadError::Invalid("queue pairs or offloads this card does not have"));
        }
        *self.state.lock() = state;
        Ok(())
    }
}

impl Device for VirtioNet {
    fn reset(&self, _: Reset) {
        self.stop();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(self)
    }

    fn settle(&self) {
        let running = self.state.lock().features != 0;
        self.running.store(running, Ordering::Release);
    }
}
