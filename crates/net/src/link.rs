//! A link: the wire between a card and a back end.
//!
//! Frames of the guest go to the back end at once; it must not wait. Frames for the guest are
//! taken by the card, or kept in a bounded queue until it has room. A back end that can keep its
//! own frames asks first ([`Link::offer`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use device::Saved;
use evloop::Handle;
use parking_lot::{Mutex, RwLock};

use crate::filter::{Direction, Filter, Verdict};
use crate::frame::{Bytes, Frame, NEEDS_CSUM, Offload, gso};
use crate::vhost::Vhost;

/// Most frames and bytes that wait for a card: answers to a burst of the guest wait here, not in
/// the sender's timer.
const MAX_FRAMES: usize = 10_000;
const MAX_BYTES: usize = 4 << 20;
/// Longest frame: 64 KiB of payload and its headers.
pub const MAX_FRAME: usize = 65536 + 64;

/// Work that the guest takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Frames without a checksum.
    pub csum: bool,
    /// Long TCP segments over IPv4.
    pub tso4: bool,
    /// Long TCP segments over IPv6.
    pub tso6: bool,
    /// Long segments with ECN.
    pub ecn: bool,
    /// Long UDP datagrams to be fragmented.
    pub ufo: bool,
    /// Long UDP datagrams to be segmented, over IPv4.
    pub uso4: bool,
    /// The same over IPv6.
    pub uso6: bool,
}

impl Takes {
    /// Whether the guest takes a frame as it is.
    #[must_use]
    pub fn fit(&self, offload: &Offload) -> bool {
        let csum = self.csum || offload.flags & NEEDS_CSUM == 0;
        csum && match offload.gso & !gso::ECN {
            gso::NONE => true,
            gso::TCPV4 => self.tso4,
            gso::TCPV6 => self.tso6,
            gso::UDP => self.ufo,
            gso::UDP_L4 => self.uso4 || self.uso6,
            _ => false,
        }
    }
}

/// Work with datagrams that a back end takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams {
    /// Fragmenting long ones.
    pub ufo: bool,
    /// Cutting several of one length that came as one.
    pub uso: bool,
}

/// A MAC address.
pub type Mac = [u8; 6];

/// A MAC address as text.
#[must_use]
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Six bytes in hexadecimal, with `:` or `-` between them.
#[must_use]
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|p| matches!(p.len(), 1 | 2))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// What is told of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicInfo {
    /// Its id, if the user gave one.
    pub name: Option<String>,
    /// Its address.
    pub mac: Mac,
}

/// What a card lets through, for `query-rx-filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RxFilter {
    /// Takes everything.
    pub promiscuous: bool,
    /// Multicast: `none`, `normal` or `all`.
    pub multicast: &'static str,
    /// Unicast.
    pub unicast: &'static str,
    /// VLANs.
    pub vlan: &'static str,
    /// Broadcast is let through.
    pub broadcast_allowed: bool,
    /// There were more multicast addresses than fit.
    pub multicast_overflow: bool,
    /// There were more unicast addresses than fit.
    pub unicast_overflow: bool,
    /// The address in use.
    pub main_mac: Mac,
    /// VLANs that are let through.
    pub vlan_table: Vec<i64>,
    /// Unicast addresses.
    pub unicast_table: Vec<Mac>,
    /// Multicast addresses.
    pub multicast_table: Vec<Mac>,
}

/// The guest's end of a link.
pub trait Nic: Send + Sync {
    /// What is told of it.
    fn info(&self) -> NicInfo;
    /// Work that the guest takes over now.
    fn takes(&self) -> Takes {
        Takes::default()
    }
    /// Takes a frame; `false` when there is no room now. A frame that the card does not want is
    /// taken, too.
    fn receive(&self, frame: &Frame<'_>) -> bool;
    /// The same from one of several queues of the back end.
    fn receive_on(&self, pair: u16, frame: &Frame<'_>) -> bool {
        _ = pair;
        self.receive(frame)
    }
    /// No more frames come for now: interrupts may be sent.
    fn flush(&self) {}
    /// The link went up or down.
    fn set_link(&self, up: bool);
    /// What it lets through, if it tells.
    fn rx_filter(&self) -> Option<RxFilter> {
        None
    }
    /// The guest is asked to announce itself; `false` when it cannot.
    fn announce(&self) -> bool {
        false
    }
}

/// The host's end of a link.
pub trait Backend: Send + Sync {
    /// Whether frames with work left to do are welcome.
    fn offloads(&self) -> bool {
        false
    }
    /// Which work with datagrams is welcome besides.
    fn datagram_offloads(&self) -> Datagrams {
        Datagrams::default()
    }
    /// Number of queue pairs.
    fn queues(&self) -> u16 {
        1
    }
    /// Takes a frame of the guest, without waiting.
    fn send(&self, frame: &Frame<'_>);
    /// The same for one of several queues.
    fn send_on(&self, pair: u16, frame: &Frame<'_>) {
        _ = pair;
        self.send(frame);
    }
    /// No more frames come for now.
    fn flush(&self) {}
    /// Another thread is at work here, and [`Backend::send`] would wait for it.
    fn is_busy(&self) -> bool {
        false
    }
    /// The card has room again.
    fn room(&self) {}
    /// What the guest takes over changed.
    fn takes_changed(&self, takes: Takes) {
        _ = takes;
    }
    /// What `info network` says behind the kind.
    fn describe(&self) -> String;
    /// It is removed.
    fn close(&self) {}
    /// What is saved with the machine, if there is something.
    fn saved(&self) -> Option<&dyn Saved> {
        None
    }
    /// The whole machine has been loaded.
    fn settle(&self) {}
    /// What serves the card's queues instead of frames.
    fn vhost(&self) -> Option<&dyn Vhost> {
        None
    }
    /// What only user-mode networking can do.
    fn user(&self) -> Option<&dyn UserNet> {
        None
    }
}

/// User-mode networking, for its commands.
pub trait UserNet {
    /// Adds a rule (`hostfwd_add`).
    ///
    /// # Errors
    /// It cannot be read, or the port is in use.
    fn add_forward(&self, rule: &str) -> qapi::Result<()>;
    /// Removes a rule (`hostfwd_remove`); whether there was one. `None`: it cannot be read.
    fn remove_forward(&self, rule: &str) -> Option<bool>;
    /// The table that `info usernet` shows.
    fn table(&self) -> String;
}

struct Stored {
    offload: Offload,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Pending {
    frames: VecDeque<Stored>,
    bytes: usize,
}

/// Where a filter stands among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nearest to the back end.
    Head,
    /// Nearest to the card.
    Tail,
    /// In front of the one of this name.
    Before(String),
    /// Behind it.
    Behind(String),
}

struct Entry {
    name: String,
    filter: Arc<dyn Filter>,
    on: bool,
}

/// A wire.
pub struct Link {
    /// Id of the back end.
    pub id: String,
    /// Kind of the back end.
    pub kind: &'static str,
    handle: Handle,
    backend: OnceLock<Arc<dyn Backend>>,
    nic: RwLock<Option<Weak<dyn Nic>>>,
    down: AtomicBool,
    closed: AtomicBool,
    this: Weak<Link>,
    /// A card was told that there is no room, or frames wait.
    waiting: AtomicBool,
    pending: Mutex<Pending>,
    /// Frames in `pending` and on their way out of it; changes with its lock held.
    queued: AtomicUsize,
    /// Who takes frames out of `pending`; before its lock.
    draining: Mutex<()>,
    filters: RwLock<Vec<Entry>>,
    filtered: AtomicBool,
}

impl Link {
    /// A link without ends.
    #[must_use]
    pub fn new(id: &str, kind: &'static str, handle: Handle) -> Arc<Link> {
        Arc::new_cyclic(|this| Link {
            this: this.clone(),
            id: id.to_owned(),
            kind,
            handle,
            backend: OnceLock::new(),
            nic: RwLock::default(),
            down: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            pending: Mutex::default(),
            queued: AtomicUsize::new(0),
            draining: Mutex::default(),
            filters: RwLock::default(),
            filtered: AtomicBool::new(false),
        })
    }

    /// Connects the host's end; only the first one counts.
    pub fn connect(&self, backend: Arc<dyn Backend>) {
        _ = self.backend.set(backend);
    }

    /// The host's end.
    #[must_use]
    pub fn backend(&self) -> Option<&Arc<dyn Backend>> {
        self.backend.get()
    }

    /// The loop that the back end runs on.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Connects a card; `false` when there is one.
    #[must_use]
    pub fn attach(&self, nic: Weak<dyn Nic>) -> bool {
        let mut slot = self.nic.write();
        if slot.as_ref().is_some_and(|old| old.strong_count() > 0) {
            return false;
        }
        *slot = Some(nic);
        true
    }

    /// Disconnects the card.
    pub fn detach(&self) {
        *self.nic.write() = None;
        self.forget();
    }

    /// The card.
    #[must_use]
    pub fn nic(&self) -> Option<Arc<dyn Nic>> {
        self.nic.read().as_ref().and_then(Weak::upgrade)
    }

    /// Work that the guest takes over.
    #[must_use]
    pub fn takes(&self) -> Takes {
        self.nic().map(|nic| nic.takes()).unwrap_or_default()
    }

    /// Whether frames with work left to do may come from the guest.
    #[must_use]
    pub fn offloads(&self) -> bool {
        self.backend().is_some_and(|backend| backend.offloads())
    }

    /// Which work with datagrams may be left besides.
    #[must_use]
    pub fn datagram_offloads(&self) -> Datagrams {
        self.backend().map(|backend| backend.datagram_offloads()).unwrap_or_default()
    }

    /// What serves the card's queues instead of frames.
    #[must_use]
    pub fn vhost(&self) -> Option<&dyn Vhost> {
        self.backend()?.vhost()
    }

    /// Number of queue pairs.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.backend().map_or(1, |backend| backend.queues())
    }

    /// Whether frames flow.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed) && !self.closed.load(Ordering::Relaxed)
    }

    /// Takes the link up or down.
    pub fn set_up(&self, up: bool) {
        self.down.store(!up, Ordering::Relaxed);
        if let Some(nic) = self.nic() {
            nic.set_link(up);
        }
    }

    /// The back end goes away.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.filters.write().clear();
        if let Some(nic) = self.nic() {
            nic.set_link(false);
        }
        if let Some(backend) = self.backend() {
            backend.close();
        }
    }

    /// Adds a filter under a name; frames for the guest pass filters in order, frames of the guest in
    /// reverse.
    ///
    /// # Errors
    /// There is no filter of the name that it is to stand beside.
    pub fn add_filter(
        &self,
        name: &str,
        filter: Arc<dyn Filter>,
        place: &Place,
        on: bool,
    ) -> qapi::Result<()> {
        let mut filters = self.filters.write();
        let beside = |name: &String| {
            let at = filters.iter().position(|entry| entry.name == *name);
            at.ok_or_else(|| qapi::Error::generic(format!("filter '{name}' not found")))
        };
        let at = match place {
            Place::Head => 0,
            Place::Tail => filters.len(),
            Place::Before(name) => beside(name)?,
            Place::Behind(name) => beside(name)? + 1,
        };
        filters.insert(at, Entry { name: name.to_owned(), filter, on });
        self.filtered.store(true, Ordering::Release);
        Ok(())
    }

    /// Switches a filter on or off.
    pub fn switch_filter(&self, filter: &Arc<dyn Filter>, on: bool) {
        let mut filters = self.filters.write();
        for entry in filters.iter_mut().filter(|entry| Arc::ptr_eq(&entry.filter, filter)) {
            entry.on = on;
        }
    }

    /// Removes a filter.
    pub fn remove_filter(&self, filter: &Arc<dyn Filter>) {
        let mut filters = self.filters.write();
        filters.retain(|known| !Arc::ptr_eq(&known.filter, filter));
        self.filtered.store(!filters.is_empty(), Ordering::Release);
    }

    /// Whether a filter keeps or drops the frame.
    fn stopped(
        &self,
        from: Direction,
        frame: &Frame<'_>,
        behind: Option<&Arc<dyn Filter>>,
    ) -> bool {
        if !self.filtered.load(Ordering::Acquire) {
            return false;
        }
        let all = self.filters.read();
        let mut filters: Vec<_> = all.iter().map(|e| (e.filter.clone(), e.on)).collect();
        drop(all);
        if from == Direction::FromGuest {
            filters.reverse();
        }
        let at = behind.and_then(|own| filters.iter().position(|(f, _)| Arc::ptr_eq(f, own)));
        let rest = filters.iter().skip(at.map_or(0, |at| at + 1)).filter(|(_, on)| *on);
        let mut stops = rest.map(|(filter, _)| filter.pass(self, from, frame));
        stops.any(|verdict| verdict == Verdict::Taken)
    }

    /// A frame of the guest.
    pub fn from_guest(&self, frame: &Frame<'_>) {
        self.from_guest_behind(frame, None);
    }

    /// A frame of the guest from one of its queues.
    pub fn from_guest_on(&self, pair: u16, frame: &Frame<'_>) {
        if !self.is_up() || self.stopped(Direction::FromGuest, frame, None) {
            return;
        }
        if let Some(backend) = self.backend() {
            backend.send_on(pair, frame);
        }
    }

    /// A frame of the guest, behind a filter.
    pub fn from_guest_behind(&self, frame: &Frame<'_>, behind: Option<&Arc<dyn Filter>>) {
        if !self.is_up() || self.stopped(Direction::FromGuest, frame, behind) {
            return;
        }
        if let Some(backend) = self.backend() {
            backend.send(frame);
        }
    }

    /// Whether a frame of the guest would have to wait for another thread.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.backend().is_some_and(|backend| backend.is_busy())
    }

    /// The card has no more frames for now.
    pub fn guest_done(&self) {
        if let Some(backend) = self.backend() {
            backend.flush();
        }
    }

    fn is_waiting(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > 0
    }

    /// Drops what waits.
    fn forget(&self) {
        let mut pending = self.pending.lock();
        *pending = Pending::default();
        self.queued.store(0, Ordering::SeqCst);
    }

    /// A frame for the guest; `false` when there is no room. [`Backend::room`] follows then.
    #[must_use]
    pub fn offer(&self, frame: &Frame<'_>) -> bool {
        self.offer_on(0, frame)
    }

    /// The same from one of several queues.
    #[must_use]
    pub fn offer_on(&self, pair: u16, frame: &Frame<'_>) -> bool {
        if self.is_waiting() {
            return false;
        }
        if !self.is_up() || self.stopped(Direction::ToGuest, frame, None) {
            return true;
        }
        self.hand_over(pair, frame)
    }

    fn hand_over(&self, pair: u16, frame: &Frame<'_>) -> bool {
        let Some(nic) = self.nic() else { return true };
        if nic.receive_on(pair, frame) {
            return true;
        }
        self.waiting.store(true, Ordering::SeqCst);
        // The guest may have given buffers between the two.
        nic.receive_on(pair, frame)
    }

    /// A frame for the guest, which waits when there is no room. `false` when too many wait.
    pub fn deliver(&self, frame: &Frame<'_>) -> bool {
        if !self.is_up() || self.stopped(Direction::ToGuest, frame, None) {
            return true;
        }
        self.deliver_unfiltered(frame)
    }

    /// A frame for the guest, behind a filter.
    pub fn deliver_behind(&self, frame: &Frame<'_>, behind: &Arc<dyn Filter>) -> bool {
        if !self.is_up() || self.stopped(Direction::ToGuest, frame, Some(behind)) {
            return true;
        }
        self.deliver_unfiltered(frame)
    }

    fn deliver_unfiltered(&self, frame: &Frame<'_>) -> bool {
        if !self.is_waiting() && self.hand_over(0, frame) {
            return true;
        }
        let first = {
            let mut pending = self.pending.lock();
            let len = frame.len();
            if pending.frames.len() >= MAX_FRAMES || pending.bytes + len > MAX_BYTES {
                return false;
            }
            pending.bytes += len;
            let bytes = frame.to_vec(MAX_FRAME);
            pending.frames.push_back(Stored { offload: frame.offload, bytes });
            self.waiting.store(true, Ordering::SeqCst);
            self.queued.fetch_add(1, Ordering::SeqCst) == 0
        };
        // The guest may have given buffers before this frame was seen to wait: nobody else looks.
        if first
            && self.drain()
            && let Some(link) = self.this.upgrade()
        {
            // Others may have been told to wait behind it.
            self.waiting.store(true, Ordering::SeqCst);
            self.handle.call(Box::new(move || link.guest_has_room()));
        }
        true
    }

    /// No more frames for the guest come for now.
    pub fn backend_done(&self) {
        if let Some(nic) = self.nic() {
            nic.flush();
        }
    }

    /// Whether the back end wants to hear of room.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// The card has room again: waiting frames go first. Call it on the link's loop.
    pub fn guest_has_room(&self) {
        if !self.waiting.swap(false, Ordering::SeqCst) {
            return;
        }
        if self.drain()
            && let Some(backend) = self.backend()
        {
            backend.room();
        }
        self.backend_done();
    }

    /// Gives the card what waits; whether nothing waits any more.
    fn drain(&self) -> bool {
        let _one = self.draining.lock();
        let Some(nic) = self.nic() else { return true };
        loop {
            let Some(stored) = self.pending.lock().frames.pop_front() else { return true };
            let parts = [stored.bytes.as_slice()];
            let frame = Frame { offload: stored.offload, bytes: Bytes::Host(&parts) };
            let taken = nic.receive(&frame) || {
                self.waiting.store(true, Ordering::SeqCst);
                // The guest may have given buffers between the two.
                nic.receive(&frame)
            };
            let mut pending = self.pending.lock();
            // All may have been forgotten meanwhile.
            if !taken && self.queued.load(Ordering::SeqCst) > 0 {
                pending.frames.push_front(stored);
                return false;
            }
            pending.bytes = pending.bytes.saturating_sub(stored.bytes.len());
            self.queued.store(pending.frames.len(), Ordering::SeqCst);
        }
    }

    /// A state was loaded: frames that wait belong to another time.
    pub fn settle(&self) {
        self.forget();
        if let Some(backend) = self.backend() {
            backend.settle();
        }
    }

    /// What the guest takes over changed.
    pub fn takes_changed(&self) {
        if let Some(backend) = self.backend() {
            backend.takes_changed(self.takes());
        }
    }
}

#[cfg(test)]
mod tests;
