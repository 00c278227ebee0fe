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
mod tests {
    use super::*;

    /// A card with some buffers, and what came into them.
    #[derive(Default)]
    struct Ring {
        room: AtomicUsize,
        /// Buffers that the driver gives, without a word, when it was refused so many times.
        late: Mutex<Option<(usize, usize)>>,
        got: Mutex<Vec<Vec<u8>>>,
    }

    impl Nic for Ring {
        fn info(&self) -> NicInfo {
            NicInfo { name: None, mac: [2, 0, 0, 0, 0, 1] }
        }
        fn receive(&self, frame: &Frame<'_>) -> bool {
            if self.room.load(Ordering::SeqCst) > 0 {
                self.room.fetch_sub(1, Ordering::SeqCst);
                self.got.lock().push(frame.to_vec(64));
                return true;
            }
            let mut late = self.late.lock();
            match &mut *late {
                Some((0, room)) => self.room.store(std::mem::take(room), Ordering::SeqCst),
                Some((times, _)) => *times -= 1,
                None => {}
            }
            false
        }
        fn set_link(&self, _: bool) {}
    }

    fn ring(room: usize) -> (evloop::EventLoop, Arc<Link>, Arc<Ring>) {
        let events = evloop::EventLoop::new().unwrap();
        let link = Link::new("n", "user", events.handle());
        let ring = Arc::new(Ring { room: room.into(), ..Ring::default() });
        let nic: Arc<dyn Nic> = ring.clone();
        assert!(link.attach(Arc::downgrade(&nic)));
        (events, link, ring)
    }

    #[test]
    fn a_burst_waits_for_the_card_in_order() {
        let (_events, link, ring) = ring(256);
        let frame = |n: u32| n.to_be_bytes().repeat(16);
        for n in 0..6000 {
            assert!(link.deliver(&Frame::plain(&[&frame(n)])), "frame {n}");
        }
        assert!(!link.offer(&Frame::plain(&[&frame(0)])), "others wait");
        while ring.got.lock().len() < 6000 {
            assert!(link.wants_room());
            ring.room.store(256, Ordering::SeqCst);
            link.guest_has_room();
        }
        assert!((0..6000).zip(&*ring.got.lock()).all(|(n, got)| *got == frame(n)));
        assert!(link.offer(&Frame::plain(&[&frame(0)])));
        ring.room.store(0, Ordering::SeqCst);
        let mut kept = 0;
        while link.deliver(&Frame::plain(&[&frame(0)])) {
            kept += 1;
        }
        assert_eq!(kept, MAX_FRAMES, "no more than that");
    }

    #[test]
    fn buffers_that_come_unheard_are_found() {
        // Refused twice; the buffers come before the frame is seen to wait.
        let (mut events, link, card) = ring(0);
        *card.late.lock() = Some((1, 5));
        assert!(link.deliver(&Frame::plain(&[&[1; 60]])));
        assert_eq!(card.got.lock().len(), 1);
        events.run_once(Some(std::time::Duration::ZERO)).unwrap();
        assert!(link.offer(&Frame::plain(&[&[2; 60]])), "nothing waits any more");
        // The same while those that waited are given.
        let (_events, link, card) = ring(0);
        for n in 0..4 {
            assert!(link.deliver(&Frame::plain(&[&[n; 60]])));
        }
        card.room.store(2, Ordering::SeqCst);
        *card.late.lock() = Some((0, 2));
        link.guest_has_room();
        assert_eq!(card.got.lock().len(), 4);
    }

    #[test]
    fn frames_of_another_thread_do_not_get_stuck() {
        let (mut events, link, card) = ring(0);
        let handle = events.handle();
        let sender = {
            let link = link.clone();
            std::thread::spawn(move || {
                for n in 0..20_000u32 {
                    while !link.deliver(&Frame::plain(&[&n.to_be_bytes().repeat(16)])) {
                        std::thread::yield_now();
                    }
                }
                handle.wake();
            })
        };
        // The driver: gives buffers, and says so when it is to.
        while card.got.lock().len() < 20_000 {
            card.room.fetch_add(3, Ordering::SeqCst);
            if link.wants_room() {
                link.guest_has_room();
            }
            events.run_once(Some(std::time::Duration::ZERO)).unwrap();
        }
        sender.join().unwrap();
        let got = card.got.lock();
        let number = |frame: &Vec<u8>| u32::from_be_bytes(*frame.first_chunk().unwrap());
        assert!(got.iter().map(number).eq(0..20_000), "all, in order");
    }

    /// Notes that it was passed.
    struct Note(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Filter for Note {
        fn pass(&self, _: &Link, _: Direction, _: &Frame<'_>) -> Verdict {
            self.1.lock().push(self.0);
            Verdict::Pass
        }
    }

    #[test]
    fn filters_stand_where_they_were_put_and_can_be_switched() {
        let events = evloop::EventLoop::new().unwrap();
        let link = Link::new("n", "user", events.handle());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let add = |name: &'static str, place: Place, on: bool| {
            let filter: Arc<dyn Filter> = Arc::new(Note(name, seen.clone()));
            link.add_filter(name, filter.clone(), &place, on).map(|()| filter)
        };
        let b = add("b", Place::Tail, true).unwrap();
        add("d", Place::Tail, true).unwrap();
        add("a", Place::Head, true).unwrap();
        add("c", Place::Behind("b".into()), true).unwrap();
        let off = add("off", Place::Before("d".into()), false).unwrap();
        let missing = add("e", Place::Before("nobody".into()), true).map(|_| ()).unwrap_err();
        assert_eq!(missing.desc, "filter 'nobody' not found");
        let pass = || {
            assert!(link.deliver(&Frame::plain(&[&[0; 60]])));
            std::mem::take(&mut *seen.lock()).concat()
        };
        assert_eq!(pass(), "abcd");
        link.switch_filter(&off, true);
        link.switch_filter(&b, false);
        assert_eq!(pass(), "acoffd");
        link.from_guest(&Frame::plain(&[&[0; 60]]));
        assert_eq!(std::mem::take(&mut *seen.lock()).concat(), "doffca");
        link.remove_filter(&off);
        assert_eq!(pass(), "acd");
    }
}
