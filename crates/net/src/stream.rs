//! Back end `stream`: frames over a stream socket, as server or client; also the stream forms of
//! `socket`. Each frame follows its length in four bytes, big-endian.
//!
//! A server serves one client at a time; a client may try again. A peer that does not read loses
//! frames and stalls nobody; a peer that says too long a length is disconnected.
//! Not here: TLS, SCTP. Source: QEMU's manual ("network options"), passt's manual page, and their
//! observable behaviour.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use derive::Qapi;
use evloop::{Clock, Handle, Readiness, Timer, Watch};
use host::socket::{Address, Inherited, Listener, Stream};
use parking_lot::Mutex;
use qapi::{Error, Qapi as _, Result, Value};

use crate::address::{FdName, Inet, SocketAddress, Unix};
use crate::frame::Frame;
use crate::link::{Backend, Link, MAX_FRAME};
use crate::table::{Context, Kind, Tell};

/// Arguments of `stream`.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "NetdevStreamOptions")]
pub struct StreamArgs {
    /// Where the socket is.
    pub addr: SocketAddress,
    /// Listen instead of connecting.
    pub server: Option<bool>,
    /// As a client, try again after so many seconds.
    pub reconnect: Option<u32>,
    /// As a client, try again after so many milliseconds.
    pub reconnect_ms: Option<u32>,
}

/// Most bytes that wait for a peer.
const MAX_OUT: usize = 4 << 20;
const READ: usize = 256 << 10;

/// Takes bytes apart into frames.
#[derive(Default)]
pub struct Deframer {
    bytes: Vec<u8>,
    start: usize,
}

/// A length that no frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Deframer {
    /// Adds what was read.
    pub fn push(&mut self, data: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    /// The next whole frame, which stays until [`Deframer::pop`].
    ///
    /// # Errors
    /// The length makes no sense: there is no way to go on.
    pub fn peek(&self) -> std::result::Result<Option<&[u8]>, TooLong> {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if len > MAX_FRAME {
            return Err(TooLong);
        }
        Ok(rest.get(..len))
    }

    /// Forgets the frame that [`Deframer::peek`] gave.
    pub fn pop(&mut self) {
        let len = self.peek().ok().flatten().map_or(0, <[u8]>::len);
        self.start = (self.start + 4 + len).min(self.bytes.len());
    }
}

enum Target {
    Server(Arc<Listener>, Address),
    Tcp(SocketAddr),
    Unix(Address),
    /// Connected by somebody else.
    Given,
}

struct Inner {
    stream: Option<Arc<Stream>>,
    watch: Option<Watch>,
    listen: Option<Watch>,
    connected: bool,
    out: VecDeque<u8>,
    input: Deframer,
    /// The card had no room for the frame at the front.
    blocked: bool,
    text: String,
    closed: bool,
}

/// A stream of frames.
pub struct StreamBackend {
    this: Weak<StreamBackend>,
    link: Weak<Link>,
    id: String,
    handle: Handle,
    clock: Clock,
    tell: Tell,
    target: Target,
    reconnect: Option<u64>,
    timer: OnceLock<Timer>,
    /// It tells of connections (`stream` does, `socket` does not).
    events: bool,
    inner: Mutex<Inner>,
}

/// What a `socket` or `stream` asks for.
pub(crate) enum Plan {
    Listen(Address),
    Connect(SocketAddr),
    ConnectUnix(Address),
    Given(Inherited),
}

/// A descriptor by its number, or by the name that a monitor gave it.
pub(crate) fn descriptor(name: &str, context: &Context) -> Result<std::os::fd::OwnedFd> {
    let missing = || Error::generic(format!("File descriptor named '{name}' has not been found"));
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        let number = name.parse().map_err(|_| missing())?;
        return host::duplicate_number(number).map_err(|error| {
            let why = host::reason(&error);
            Error::generic(format!("Can't use file descriptor {name}: {why}"))
        });
    }
    context.fds.as_ref().and_then(|find| find(name)).ok_or_else(missing)
}

impl StreamBackend {
    pub(crate) fn open(
        link: &Arc<Link>,
        context: &Context,
        plan: Plan,
        (reconnect, events): (Option<u64>, bool),
    ) -> Result<Arc<StreamBackend>> {
        let (target, given) = match plan {
            Plan::Listen(address) => {
                let listener = address.listen().map_err(|e| failed("listen", &address, &e))?;
                _ = listener.set_nonblocking(true);
                (Target::Server(Arc::new(listener), address), None)
            }
            Plan::Connect(address) => (Target::Tcp(address), None),
            Plan::ConnectUnix(address) => (Target::Unix(address), None),
            Plan::Given(Inherited::Listener(listener)) => {
                _ = listener.set_nonblocking(true);
                (Target::Server(Arc::new(listener), Address::Tcp(String::new(), 0)), None)
            }
            Plan::Given(Inherited::Stream(stream)) => (Target::Given, Some(stream)),
        };
        let backend = Arc::new_cyclic(|this| StreamBackend {
            this: this.clone(),
            link: Arc::downgrade(link),
            id: link.id.clone(),
            handle: context.handle.clone(),
            clock: context.clock.clone(),
            tell: context.tell.clone(),
            target,
            reconnect,
            timer: OnceLock::new(),
            events,
            inner: Mutex::new(Inner {
                stream: None,
                watch: None,
                listen: None,
                connected: false,
                out: VecDeque::new(),
                input: Deframer::default(),
                blocked: false,
                text: if events { "initializing".into() } else { String::new() },
                closed: false,
            }),
        });
        let weak = backend.this.clone();
        _ = backend.timer.set(context.clock.timer(move || {
            if let Some(backend) = weak.upgrade() {
                backend.connect();
            }
        }));
        match given {
            Some(stream) => {
                _ = stream.set_nonblocking(true);
                backend.adopt(stream, true).map_err(|e| Error::generic(host::reason(&e)))?;
            }
            None if matches!(backend.target, Target::Server(..)) => backend.listen(),
            None => backend.connect(),
        }
        Ok(backend)
    }

    fn listen(&self) {
        let Target::Server(listener, _) = &self.target else { return };
        let weak = self.this.clone();
        let watch = self.handle.watch(listener.clone(), Readiness::READ, move |_| {
            if let Some(backend) = weak.upgrade() {
                backend.accept();
            }
        });
        self.inner.lock().listen = watch.ok();
    }

    fn accept(&self) {
        let Target::Server(listener, _) = &self.target else { return };
        let Ok(stream) = listener.accept() else { return };
        _ = stream.set_nonblocking(true);
        if self.adopt(stream, true).is_ok() {
            // One client at a time.
            self.inner.lock().listen = None;
        }
    }

    fn connect(&self) {
        let begun = match &self.target {
            Target::Tcp(address) => host::socket::connect_start(*address)
                .map(|(stream, connected)| (Stream::Tcp(stream), connected)),
            Target::Unix(address) => address.connect().map(|stream| {
                _ = stream.set_nonblocking(true);
                (stream, true)
            }),
            Target::Server(..) | Target::Given => return,
        };
        let done = begun.and_then(|(stream, connected)| self.adopt(stream, connected));
        if self.events && !self.inner.lock().connected {
            self.inner.lock().text = "connecting".into();
        }
        if done.is_err() {
            self.retry();
        }
    }

    fn retry(&self) {
        if let (Some(ms), Some(timer)) = (self.reconnect, self.timer.get())
            && !self.inner.lock().closed
        {
            timer.arm_at(self.clock.now_ns().saturating_add(ms.saturating_mul(1_000_000)));
        }
    }

    fn adopt(&self, stream: Stream, connected: bool) -> io::Result<()> {
        _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let weak = self.this.clone();
        let interest = if connected { Readiness::READ } else { Readiness::WRITE };
        let watch = self.handle.watch(stream.clone(), interest, move |ready| {
            if let Some(backend) = weak.upgrade() {
                backend.ready(ready);
            }
        })?;
        {
            let mut inner = self.inner.lock();
            inner.stream = Some(stream);
            inner.watch = Some(watch);
            inner.out.clear();
            inner.input = Deframer::default();
            inner.blocked = false;
        }
        if connected {
            self.connected();
        }
        Ok(())
    }

    fn connected(&self) {
        let (text, data) = {
            let mut inner = self.inner.lock();
            inner.connected = true;
            let peer = inner.stream.as_ref().map(|s| s.peer_text()).unwrap_or_default();
            let text = match (&self.target, peer.as_str()) {
                (Target::Server(_, Address::Unix(path)) | Target::Unix(Address::Unix(path)), _) => {
                    format!("unix:{}", path.display())
                }
                (_, "") => String::from("unix:"),
                (_, peer) => format!("tcp:{peer}"),
            };
            inner.text.clone_from(&text);
            (text, peer)
        };
        let address = match data.rsplit_once(':') {
            Some((host, port)) => SocketAddress::Inet(Inet {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: port.to_owned(),
                numeric: None,
                to: None,
                ipv4: None,
                ipv6: None,
            }),
            None => {
                let path = text.trim_start_matches("unix:").to_owned();
                SocketAddress::Unix(Unix { path, r#abstract: None, tight: None })
            }
        };
        let mut data = Value::map([("netdev-id", Value::from(self.id.as_str()))]);
        data.set("addr", address.to_value());
        self.say("NETDEV_STREAM_CONNECTED", data);
    }

    fn say(&self, event: &'static str, data: Value) {
        if self.events {
            let tell = self.tell.clone();
            self.handle.call(Box::new(move || tell(event, data)));
        }
    }

    fn ready(&self, ready: Readiness) {
        if !self.inner.lock().connected {
            let stream = self.inner.lock().stream.clone();
            let result = match stream.as_deref() {
                Some(Stream::Tcp(stream)) => stream.take_error().ok().flatten().is_none(),
                other => other.is_some(),
            };
            if !result {
                return self.lost(false);
            }
            self.connected();
        }
        if ready.write {
            self.inner.lock().drain();
        }
        if ready.read {
            self.read();
        }
        self.inner.lock().want();
    }

    fn read(&self) {
        let Some(link) = self.link.upgrade() else { return };
        let mut buffer = vec![0; READ];
        let (ok, closed) = {
            let mut inner = self.inner.lock();
            let Some(stream) = inner.stream.clone() else { return };
            if inner.blocked {
                return;
            }
            match (&*stream).read(&mut buffer) {
                Ok(0) => (true, true),
                Ok(n) => {
                    inner.input.push(buffer.get(..n).unwrap_or_default());
                    (inner.take_frames(&link), false)
                }
                Err(e) => (true, e.kind() != io::ErrorKind::WouldBlock),
            }
        };
        link.backend_done();
        if !ok || closed {
            self.lost(true);
        }
    }

    /// The peer is gone.
    fn lost(&self, was_connected: bool) {
        {
            let mut inner = self.inner.lock();
            (inner.stream, inner.watch, inner.connected) = (None, None, false);
            inner.out.clear();
            inner.text = if self.events { "connecting".into() } else { String::new() };
        }
        if was_connected {
            let data = Value::map([("netdev-id", Value::from(self.id.as_str()))]);
            self.say("NETDEV_STREAM_DISCONNECTED", data);
        }
        if matches!(self.target, Target::Server(..)) {
            self.listen();
        }
        self.retry();
    }
}

impl Inner {
    /// Gives whole frames to the card. `false`: the peer makes no sense.
    fn take_frames(&mut self, link: &Link) -> bool {
        loop {
            match self.input.peek() {
                Err(TooLong) => return false,
                Ok(None) => return true,
                Ok(Some(bytes)) => {
                    if !link.offer(&Frame::plain(&[bytes])) {
                        self.blocked = true;
                        return true;
                    }
                }
            }
            self.input.pop();
        }
    }

    fn drain(&mut self) {
        let Some(stream) = &self.stream else { return };
        while !self.out.is_empty() {
            let (first, _) = self.out.as_slices();
            match (&**stream).write(first) {
                Ok(n) if n > 0 => _ = self.out.drain(..n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The reader finds the reason.
                _ => return self.out.clear(),
            }
        }
    }

    fn want(&self) {
        if let Some(watch) = &self.watch {
            let write = !self.out.is_empty() || !self.connected;
            watch.set_interest(Readiness { read: !self.blocked && self.connected, write });
        }
    }

    /// Sends a frame with its length in front, or drops it when too much waits.
    fn send(&mut self, frame: &Frame<'_>) {
        let Some(stream) = self.stream.clone().filter(|_| self.connected) else { return };
        let len = frame.len();
        if len > MAX_FRAME || self.out.len() + len + 4 > MAX_OUT {
            return;
        }
        let mut bytes = u32::try_from(len).unwrap_or(0).to_be_bytes().to_vec();
        bytes.extend(frame.to_vec(MAX_FRAME));
        let done = if self.out.is_empty() { (&*stream).write(&bytes).unwrap_or(0) } else { 0 };
        if done < bytes.len() {
            self.out.extend(bytes.get(done..).unwrap_or_default());
            self.want();
        }
    }
}

impl Backend for StreamBackend {
    fn send(&self, frame: &Frame<'_>) {
        self.inner.lock().send(frame);
    }

    fn room(&self) {
        let Some(link) = self.link.upgrade() else { return };
        let ok = {
            let mut inner = self.inner.lock();
            inner.blocked = false;
            let ok = inner.take_frames(&link);
            inner.want();
            ok
        };
        if !ok {
            self.lost(true);
        }
    }

    fn describe(&self) -> String {
        self.inner.lock().text.clone()
    }

    fn close(&self) {
        if let Some(timer) = self.timer.get() {
            timer.cancel();
        }
        let mut inner = self.inner.lock();
        inner.closed = true;
        (inner.stream, inner.watch, inner.listen) = (None, None, None);
        inner.connected = false;
    }
}

fn failed(what: &str, address: &Address, error: &io::Error) -> Error {
    let name = match address {
        Address::Tcp(host, port) => format!("{host}:{port}"),
        Address::Unix(path) => path.display().to_string(),
        Address::Abstract(name) => String::from_utf8_lossy(name).into_owned(),
    };
    Error::generic(format!("Failed to {what} on '{name}': {}", host::reason(error)))
}

fn unix(unix: &Unix) -> Address {
    match unix.abstract_name() {
        Some(name) => Address::Abstract(name),
        None => Address::Unix(unix.path.clone().into()),
    }
}

impl Kind for StreamArgs {
    const NAME: &'static str = "stream";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let server = self.server == Some(true);
        if self.reconnect.is_some() && self.reconnect_ms.is_some() {
            return Err(Error::generic("'reconnect' and 'reconnect-ms' are mutually exclusive"));
        }
        if server && (self.reconnect.is_some() || self.reconnect_ms.is_some()) {
            let text = "'reconnect' and 'reconnect-ms' options are incompatible with socket in \
                        server mode";
            return Err(Error::generic(text));
        }
        let seconds = self.reconnect.map(|s| u64::from(s).saturating_mul(1000));
        let reconnect = seconds.or(self.reconnect_ms.map(u64::from)).filter(|ms| *ms > 0);
        let plan = match (&self.addr, server) {
            (SocketAddress::Inet(inet), true) => {
                let address = inet.resolve()?;
                Plan::Listen(Address::Tcp(address.ip().to_string(), address.port()))
            }
            (SocketAddress::Inet(inet), false) => Plan::Connect(inet.resolve()?),
            (SocketAddress::Unix(name), true) => Plan::Listen(unix(name)),
            (SocketAddress::Unix(name), false) => Plan::ConnectUnix(unix(name)),
            (SocketAddress::Fd(FdName { str }), _) => {
                let fd = descriptor(str, context)?;
                let socket = host::socket::from_socket(fd);
                Plan::Given(socket.map_err(|e| Error::generic(host::reason(&e)))?)
            }
        };
        let backend = StreamBackend::open(link, context, plan, (reconnect, true))?;
        Ok(backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whatever_the_pieces() {
        let mut bytes = Vec::new();
        for n in [0usize, 60, 1, 1514, MAX_FRAME] {
            bytes.extend(u32::try_from(n).unwrap().to_be_bytes());
            bytes.extend(vec![n as u8; n]);
        }
        for piece in [1, 3, 7, 1000, 100_000] {
            let mut input = Deframer::default();
            let mut lens = Vec::new();
            for part in bytes.chunks(piece) {
                input.push(part);
                while let Some(frame) = input.peek().unwrap() {
                    lens.push(frame.len());
                    input.pop();
                }
            }
            assert_eq!(lens, [0, 60, 1, 1514, MAX_FRAME]);
        }
    }

    #[test]
    fn a_wild_length_ends_it() {
        let mut input = Deframer::default();
        input.push(&[0, 2, 0, 0, 1]);
        assert_eq!(input.peek(), Err(TooLong));
        input.pop();
        let mut input = Deframer::default();
        input.push(&[0, 0, 0]);
        assert_eq!(input.peek(), Ok(None));
    }
}
