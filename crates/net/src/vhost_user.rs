//! Back end `vhost-user`: a program behind a character back end serves the card's queues.
//!
//! The program gets guest memory (which must be shared, `memory-backend-memfd` or `-file`), the
//! places of the rings and an event for each direction; no frame passes here. When it goes away the
//! link is down, and when another one connects it gets everything again and goes on behind what the
//! one before had finished. Not here: inflight tracking, migration logs, IOMMU messages, the
//! configuration and reconnecting of ports in the program's hand (`slave` channel).
//! Source: QEMU's documentation, "Vhost-user Protocol".

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use derive::Qapi;
use device::{CharEvent, CharPort, CharReceiver};
use evloop::{Handle, Readiness, Watch};
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::frame::Frame;
use crate::link::{Backend, Datagrams, Link};
use crate::table::{Context, Kind};
use crate::vhost::{Vhost, VhostQueue, VhostRegion, VhostRun};

/// Arguments of `vhost-user`.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "NetdevVhostUserOptions")]
pub struct VhostUserArgs {
    /// Character back end of the program's socket.
    pub chardev: String,
    /// Use it for cards without MSI-X, too; always so here.
    pub vhostforce: Option<bool>,
    /// Number of queue pairs (default: 1).
    pub queues: Option<i64>,
}

// Requests.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;

const VERSION: u32 = 1;
const REPLY: u32 = 4;
/// Feature bit: there are protocol features.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Protocol features: several queues.
const MULTIQUEUE: u64 = 1;
/// Longest answer.
const MAX_REPLY: usize = 256;
/// How long an answer may take, in seconds.
const PATIENCE: i64 = 5;
/// Most regions that are told of.
const MAX_REGIONS: usize = 8;
const MAX_PAIRS: i64 = 1024;

/// A program that is connected.
struct Session {
    socket: Arc<OwnedFd>,
    features: u64,
    pairs: u64,
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// Waits until there is something, and reads so much.
fn read_exactly(socket: &OwnedFd, out: &mut [u8]) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut done = 0;
    while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let wait = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
        if poll(&mut fds, Some(&wait))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match rustix::io::read(socket, rest) {
            Ok(0) => return Err(gone()),
            Ok(n) => done += n,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

impl Session {
    /// Sends a request with descriptors.
    fn send(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let size = u32::try_from(body.len()).map_err(|_| gone())?;
        let mut bytes = Vec::with_capacity(12 + body.len());
        for word in [request, VERSION, size] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        host::socket::send_with_fds(&*self.socket, &bytes, fds)
    }

    /// Sends a request and waits for its answer.
    fn ask(&self, request: u32, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(request, body, &[])?;
        let mut head = [0; 12];
        read_exactly(&self.socket, &mut head)?;
        let word = |at: usize| {
            let word = head.get(at..).and_then(|b| b.first_chunk());
            word.map_or(0, |w| u32::from_le_bytes(*w))
        };
        let len = usize::try_from(word(8)).unwrap_or(usize::MAX);
        if word(0) != request || word(4) & REPLY == 0 || len > MAX_REPLY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; len];
        read_exactly(&self.socket, &mut answer)?;
        Ok(answer)
    }

    fn ask64(&self, request: u32) -> io::Result<u64> {
        let answer = self.ask(request, &[])?;
        let bytes = answer.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn set64(&self, request: u32, value: u64) -> io::Result<()> {
        self.send(request, &value.to_le_bytes(), &[])
    }

    fn set_vring(&self, request: u32, index: u32, value: u32) -> io::Result<()> {
        self.send(request, &[index.to_le_bytes(), value.to_le_bytes()].concat(), &[])
    }

    /// The first words with a program.
    fn begin(socket: OwnedFd) -> io::Result<Session> {
        let mut session = Session { socket: Arc::new(socket), features: 0, pairs: 1 };
        session.features = session.ask64(GET_FEATURES)?;
        if session.features & PROTOCOL_FEATURES != 0 {
            let has = session.ask64(GET_PROTOCOL_FEATURES)?;
            session.set64(SET_PROTOCOL_FEATURES, has & MULTIQUEUE)?;
            if has & MULTIQUEUE != 0 {
                session.pairs = session.ask64(GET_QUEUE_NUM)?;
            }
        }
        session.send(SET_OWNER, &[], &[])?;
        Ok(session)
    }

    fn start(&self, run: &VhostRun, lost: bool) -> io::Result<()> {
        // The card has features of its own, of which the program does not know.
        self.set64(SET_FEATURES, (run.features | PROTOCOL_FEATURES) & self.features)?;
        let regions = run.memory.get(..run.memory.len().min(MAX_REGIONS)).unwrap_or_default();
        let mut table = u32::try_from(regions.len()).unwrap_or(0).to_le_bytes().to_vec();
        table.extend([0; 4]);
        for VhostRegion { guest, len, offset, .. } in regions {
            // Guest addresses serve as our own: the program only looks for them in this table.
            for word in [guest, len, guest, offset] {
                table.extend(word.to_le_bytes());
            }
        }
        let fds: Vec<BorrowedFd<'_>> = regions.iter().map(|region| region.fd.as_fd()).collect();
        self.send(SET_MEM_TABLE, &table, &fds)?;
        for (index, queue) in &run.queues {
            self.start_queue(*index, queue, lost)?;
        }
        Ok(())
    }

    fn start_queue(&self, index: u32, queue: &VhostQueue, lost: bool) -> io::Result<()> {
        let [descriptors, driver, device] = queue.areas;
        let position = if lost { (queue.lost)() } else { queue.position };
        self.set_vring(SET_VRING_NUM, index, queue.size.into())?;
        self.set_vring(SET_VRING_BASE, index, position.into())?;
        let mut place = index.to_le_bytes().to_vec();
        place.extend([0; 4]);
        for word in [descriptors, device, driver, 0] {
            place.extend(word.to_le_bytes());
        }
        self.send(SET_VRING_ADDR, &place, &[])?;
        let number = u64::from(index).to_le_bytes();
        self.send(SET_VRING_CALL, &number, &[queue.call.as_fd()])?;
        self.send(SET_VRING_KICK, &number, &[queue.kick.as_fd()])?;
        if self.features & PROTOCOL_FEATURES != 0 {
            self.set_vring(SET_VRING_ENABLE, index, 1)?;
        }
        // What the driver did meanwhile.
        queue.kick.signal();
        Ok(())
    }

    fn stop_queue(&self, index: u32) -> io::Result<u16> {
        let answer = self.ask(GET_VRING_BASE, &[index.to_le_bytes(), [0; 4]].concat())?;
        let bytes: Option<&[u8; 2]> = answer.get(4..).and_then(|b| b.first_chunk());
        Ok(u16::from_le_bytes(*bytes.ok_or(io::ErrorKind::InvalidData)?))
    }
}

#[derive(Default)]
struct Inner {
    session: Option<Session>,
    watch: Option<Watch>,
    run: Option<VhostRun>,
    /// The program is gone, and the character back end is to notice.
    ended: bool,
}

/// The back end.
pub(crate) struct VhostUser {
    this: Weak<VhostUser>,
    link: Weak<Link>,
    handle: Handle,
    port: CharPort,
    chardev: String,
    features: u64,
    pairs: u16,
    front: OnceLock<Arc<Front>>,
    inner: Mutex<Inner>,
}

/// The character back end's other side: it never takes bytes, and hears of programs.
struct Front(Weak<VhostUser>);

impl CharReceiver for Front {
    fn room(&self) -> usize {
        usize::from(self.0.upgrade().is_some_and(|user| user.inner.lock().ended))
    }
    fn receive(&self, _: &[u8]) {}
    fn event(&self, event: CharEvent) {
        if let (CharEvent::Opened, Some(user)) = (event, self.0.upgrade()) {
            user.connected();
        }
    }
}

impl VhostUser {
    /// Another program is there.
    fn connected(&self) {
        if self.inner.lock().session.is_some() {
            return;
        }
        let session = self.port.socket().ok_or_else(gone).and_then(Session::begin);
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                trace::guest_error!("vhost-user: {error}");
                self.inner.lock().ended = true;
                return self.port.accept_input();
            }
        };
        let started = {
            let mut inner = self.inner.lock();
            let result = inner.run.as_ref().map_or(Ok(()), |run| session.start(run, true));
            inner.watch = self.watch(&session);
            inner.ended = false;
            inner.session = Some(session);
            result
        };
        if started.is_err() {
            return self.lost();
        }
        if let Some(link) = self.link.upgrade() {
            link.set_up(true);
        }
    }

    fn watch(&self, session: &Session) -> Option<Watch> {
        let weak = self.this.clone();
        let watch = self.handle.watch(session.socket.clone(), Readiness::READ, move |_| {
            if let Some(user) = weak.upgrade() {
                user.readable();
            }
        });
        watch.ok()
    }

    /// Something came that nobody asked for: the end.
    fn readable(&self) {
        let socket = self.inner.lock().session.as_ref().map(|session| session.socket.clone());
        let Some(socket) = socket else { return };
        match rustix::io::read(&*socket, &mut [0u8; 64]) {
            Ok(n) if n > 0 => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => self.lost(),
        }
    }

    fn lost(&self) {
        {
            let mut inner = self.inner.lock();
            (inner.session, inner.watch, inner.ended) = (None, None, true);
        }
        if let Some(link) = self.link.upgrade() {
            link.set_up(false);
        }
        self.port.accept_input();
    }
}

impl Vhost for VhostUser {
    fn features(&self) -> u64 {
        self.features
    }

    fn start(&self, run: VhostRun) {
        let result = {
            let mut inner = self.inner.lock();
            let result =
                inner.session.as_ref().map_or(Ok(()), |session| session.start(&run, false));
            inner.run = Some(run);
            result
        };
        if let Err(error) = result {
            trace::guest_error!("vhost-user: {error}");
            self.lost();
        }
    }

    fn stop(&self) -> Vec<(u32, Option<u16>)> {
        let mut inner = self.inner.lock();
        let Some(run) = inner.run.take() else { return Vec::new() };
        let session = inner.session.as_ref();
        let queues = run.queues.iter();
        queues.map(|(index, _)| (*index, session.and_then(|s| s.stop_queue(*index).ok()))).collect()
    }
}

impl Backend for VhostUser {
    fn offloads(&self) -> bool {
        true
    }
    fn datagram_offloads(&self) -> Datagrams {
        Datagrams { ufo: true, uso: true }
    }
    fn queues(&self) -> u16 {
        self.pairs
    }
    fn send(&self, _: &Frame<'_>) {}
    fn describe(&self) -> String {
        format!("vhost-user to {}", self.chardev)
    }
    fn close(&self) {
        let mut inner = self.inner.lock();
        (inner.session, inner.watch) = (None, None);
    }
    fn vhost(&self) -> Option<&dyn Vhost> {
        Some(self)
    }
}

impl Kind for VhostUserArgs {
    const NAME: &'static str = "vhost-user";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let name = &self.chardev;
        let pairs = self.queues.unwrap_or(1);
        if !(1..=MAX_PAIRS).contains(&pairs) {
            let text = "vhost-user number of queues must be in range [1, 1024]";
            return Err(Error::generic(text));
        }
        let missing = |_| Error::generic(format!("chardev \"{name}\" not found"));
        let port = context.chardevs.port(name).map_err(missing)?;
        let wrong = || Error::generic(format!("chardev \"{name}\" is not reconnectable"));
        let socket = port.socket().ok_or_else(wrong)?;
        let failed = |error: io::Error| {
            Error::generic(format!("vhost-user: chardev \"{name}\": {}", host::reason(&error)))
        };
        let session = Session::begin(socket).map_err(failed)?;
        let most = session.pairs;
        if u64::try_from(pairs).unwrap_or(u64::MAX) > most {
            return Err(Error::generic(format!(
                "you are asking more queues than supported: {most}"
            )));
        }
        let features = session.features;
        let user = Arc::new_cyclic(|this: &Weak<VhostUser>| VhostUser {
            this: this.clone(),
            link: Arc::downgrade(link),
            handle: context.handle.clone(),
            port,
            chardev: name.clone(),
            features,
            pairs: u16::try_from(pairs).unwrap_or(1),
            front: OnceLock::new(),
            inner: Mutex::default(),
        });
        {
            let mut inner = user.inner.lock();
            inner.watch = user.watch(&session);
            inner.session = Some(session);
        }
        let front = Arc::new(Front(Arc::downgrade(&user)));
        let receiver: Arc<dyn CharReceiver> = front.clone();
        user.port.on_receive(Arc::downgrade(&receiver));
        _ = user.front.set(front);
        Ok(user)
    }
}
