//! Back end `socket`: TCP and Unix stream sockets, as server or client.
//!
//! A server serves one client after another; a client with `reconnect-ms` tries again
//! until there is somebody. Inherited sockets come by number (`fd=`). With `telnet=on`
//! the server speaks telnet for one terminal. Not here: TLS, web sockets, `tn3270`.
//! Source: QEMU's manual, "character device options", and its observable behaviour.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharEvent, CharReceiver};
use evloop::{Handle, Readiness, Timer, Watch};
use host::socket::{Address, Inherited, Listener, Stream};
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::common::Common;
use crate::endpoint::{Endpoint, Filter};
use crate::file::errno_text;
use crate::table::{Chardev, Context, Kind};
use crate::telnet::{self, Telnet};

/// Arguments of `socket`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct SocketArgs {
    /// Path of a Unix socket.
    pub path: Option<String>,
    /// The path is a name that is in no file system.
    pub r#abstract: Option<bool>,
    /// An abstract name is not filled up with zeros (default: on).
    pub tight: Option<bool>,
    /// Host name or number of a TCP socket.
    pub host: Option<String>,
    /// TCP port.
    pub port: Option<String>,
    /// Last TCP port that a server may try.
    pub to: Option<u16>,
    /// Use IPv4.
    pub ipv4: Option<bool>,
    /// Use IPv6.
    pub ipv6: Option<bool>,
    /// Number of an inherited socket, or name of one that a monitor was given.
    pub fd: Option<String>,
    /// Listen instead of connecting.
    pub server: Option<bool>,
    /// As a server, wait for the first client before going on (default: on).
    pub wait: Option<bool>,
    /// Send small TCP packets at once.
    pub nodelay: Option<bool>,
    /// As a client, try again after so many seconds.
    pub reconnect: Option<u32>,
    /// As a client, try again after so many milliseconds.
    pub reconnect_ms: Option<u32>,
    /// Speak telnet.
    pub telnet: Option<bool>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

enum Place {
    Address(Address),
    Number(i32),
    Open(OwnedFd),
}

impl SocketArgs {
    fn check(&self) -> Result<()> {
        let server = self.server == Some(true);
        let bad = |text: &str| Err(Error::generic(text));
        if server && (self.reconnect.is_some() || self.reconnect_ms.is_some()) {
            return bad("'reconnect' option is incompatible with socket in server listen mode");
        }
        if self.reconnect.is_some() && self.reconnect_ms.is_some() {
            return bad("'reconnect' and 'reconnect-ms' are mutually exclusive");
        }
        if !server && self.wait.is_some() {
            return bad("'wait' option is incompatible with socket in client connect mode");
        }
        if self.ipv4 == Some(false) && self.ipv6 == Some(false) {
            return bad("setting both 'ipv4' and 'ipv6' to off leaves no address family");
        }
        let ways =
            [self.path.is_some(), self.host.is_some() || self.port.is_some(), self.fd.is_some()];
        if ways.iter().filter(|way| **way).count() != 1 {
            return bad("None or one of 'path', 'fd' or 'host' option required.");
        }
        Ok(())
    }

    fn place(&self, context: &Context) -> Result<Place> {
        if let Some(path) = &self.path {
            let name = || {
                let mut name = path.clone().into_bytes();
                if self.tight == Some(false) {
                    // An address without `tight` has its full length (unix(7): 107 bytes).
                    name.resize(name.len().max(107), 0);
                }
                name
            };
            let address = match self.r#abstract {
                Some(true) => Address::Abstract(name()),
                _ => Address::Unix(path.into()),
            };
            return Ok(Place::Address(address));
        }
        if let Some(fd) = &self.fd {
            if let Ok(number) = fd.parse() {
                return Ok(Place::Number(number));
            }
            let named = context.fds.as_ref().and_then(|fds| fds(fd));
            let missing = || Error::generic(format!("Unable to parse FD number {fd}"));
            return named.map(Place::Open).ok_or_else(missing);
        }
        let port = self.port.as_ref();
        let port = port.ok_or_else(|| Error::generic("chardev: socket: no port given"))?;
        let host = self.host.clone().unwrap_or_default();
        let number = port.parse().map_err(|_| {
            Error::generic(format!(
                "address resolution failed for {host}:{port}: a port is a number up to 65535"
            ))
        })?;
        let family = match (self.ipv4, self.ipv6) {
            (Some(true), None | Some(false)) | (None, Some(false)) => Some(false),
            (None | Some(false), Some(true)) | (Some(false), None) => Some(true),
            _ => None,
        };
        Ok(Place::Address(host::socket::tcp(&host, number, family).map_err(|e| {
            Error::generic(format!(
                "address resolution failed for {host}:{port}: {}",
                errno_text(&e)
            ))
        })?))
    }

    fn retry_ms(&self) -> Option<u64> {
        let seconds = self.reconnect.map(|s| u64::from(s) * 1000);
        self.reconnect_ms.map(u64::from).or(seconds).filter(|ms| *ms > 0)
    }
}

struct Socket {
    weak: Weak<Socket>,
    handle: Handle,
    end: Arc<Endpoint>,
    name: String,
    server: bool,
    nodelay: bool,
    telnet: bool,
    listener: Option<Arc<Listener>>,
    address: Option<Address>,
    retry_ms: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listen_watch: Option<Watch>,
    peer: String,
    /// The stream that is connected.
    socket: Option<Arc<Stream>>,
    timer: Option<Timer>,
}

impl Socket {
    /// Takes a stream over; from now on its input goes to the front end.
    fn connected(&self, stream: Stream) {
        let _ = stream.set_nonblocking(true);
        if self.nodelay {
            let _ = stream.set_nodelay(true);
        }
        let peer = stream.peer_text();
        let stream = Arc::new(stream);
        let opened = stream
            .try_clone()
            .and_then(|output| self.end.open(stream.clone(), Arc::new(output), self.filter()));
        if opened.is_err() {
            return;
        }
        {
            let mut state = self.state.lock();
            state.peer = peer;
            state.socket = Some(stream);
            // One client at a time: the others wait in the kernel's queue.
            if let Some(watch) = &state.listen_watch {
                watch.set_interest(Readiness::NONE);
            }
        }
        if self.telnet {
            self.end.send(telnet::GREETING);
        }
        self.end.front.event(CharEvent::Opened);
    }

    fn filter(&self) -> Option<Filter> {
        if !self.telnet {
            return None;
        }
        let mut telnet = Telnet::default();
        let weak = self.weak.clone();
        Some(Box::new(move |bytes| {
            if telnet::is_break(bytes)
                && let Some(this) = weak.upgrade()
            {
                this.end.front.event(CharEvent::Break);
            }
            telnet.filter(bytes);
            Vec::new()
        }))
    }

    fn disconnected(&self) {
        self.state.lock().socket = None;
        if let Some(watch) = &self.state.lock().listen_watch {
            watch.set_interest(Readiness::READ);
        }
        self.end.front.event(CharEvent::Closed);
        self.try_later();
    }

    fn acceptable(&self) {
        if !self.end.is_open()
            && let Some(Ok(stream)) = self.listener.as_ref().map(|l| l.accept())
        {
            self.connected(stream);
        }
    }

    fn try_later(&self) {
        if let (Some(ms), Some(timer)) = (self.retry_ms, &self.state.lock().timer) {
            timer.arm_at(timer.clock().now_ns().saturating_add(ms.saturating_mul(1_000_000)));
        }
    }

    /// Connects on a thread, for a network may take its time.
    fn try_now(&self) {
        let (Some(address), weak) = (self.address.clone(), self.weak.clone()) else { return };
        let handle = self.handle.clone();
        let thread = evloop::spawn("connect", move || {
            let stream = address.connect();
            handle.call(Box::new(move || {
                let Some(this) = weak.upgrade() else { return };
                match stream {
                    Ok(stream) if !this.end.is_open() => this.connected(stream),
                    Ok(_) => {}
                    Err(_) => this.try_later(),
                }
            }));
        });
        if thread.is_err() {
            self.try_later();
        }
    }
}

impl CharBackend for Socket {
    fn send(&self, data: &[u8]) -> usize {
        if !self.telnet {
            return self.end.send(data);
        }
        // RFC 854: 255 in the data is doubled.
        for part in data.split_inclusive(|byte| *byte == 255) {
            self.end.send(part);
            if part.last() == Some(&255) {
                self.end.send(&[255]);
            }
        }
        data.len()
    }

    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.end.front.attach(front);
        if self.is_open() {
            self.end.front.event(CharEvent::Opened);
        }
        self.accept_input();
    }

    fn accept_input(&self) {
        self.end.accept_input();
    }

    fn is_open(&self) -> bool {
        self.end.is_open()
    }

    fn take_fd(&self) -> Option<OwnedFd> {
        self.end.take_fd()
    }

    fn socket(&self) -> Option<OwnedFd> {
        self.state.lock().socket.as_ref()?.as_fd().try_clone_to_owned().ok()
    }
}

impl Chardev for Socket {
    fn hang_up(&self) {
        if self.end.close() {
            self.disconnected();
        }
    }
    fn send_break(&self) {
        self.end.front.event(CharEvent::Break);
    }
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        let server = if self.server { ",server=on" } else { "" };
        if !self.is_open() {
            return format!("disconnected:{}{server}", self.name);
        }
        let peer = self.state.lock().peer.clone();
        let peer = if peer.is_empty() { peer } else { format!(" <-> {peer}") };
        format!("{}{server}{peer}", self.name)
    }
}

/// What came of opening.
#[derive(Default)]
struct Opened {
    listener: Option<Listener>,
    stream: Option<Stream>,
    name: String,
    address: Option<Address>,
}

fn describe(address: &Address, telnet: bool) -> String {
    let kind = if telnet { "telnet" } else { "tcp" };
    match address {
        Address::Tcp(host, port) if host.contains(':') => format!("{kind}:[{host}]:{port}"),
        Address::Tcp(host, port) => format!("{kind}:{host}:{port}"),
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Abstract(name) => {
            let name = String::from_utf8_lossy(name);
            format!("unix:{},abstract=on", name.trim_end_matches('\0'))
        }
    }
}

impl SocketArgs {
    fn open_place(&self, context: &Context) -> Result<Opened> {
        let (fd, number) = match self.place(context)? {
            Place::Address(address) => return self.open_address(address),
            Place::Open(fd) => (host::socket::from_socket(fd), String::from("fd")),
            Place::Number(number) => (host::socket::inherited(number), format!("fd:{number}")),
        };
        let shown = self.fd.clone().unwrap_or_default();
        let none = |_| Error::generic(format!("File descriptor '{shown}' is not a socket"));
        let server = self.server == Some(true);
        match fd.map_err(none)? {
            Inherited::Listener(listener) if server => {
                Ok(Opened { listener: Some(listener), name: number, ..Opened::default() })
            }
            Inherited::Stream(stream) if !server => {
                Ok(Opened { stream: Some(stream), name: number, ..Opened::default() })
            }
            _ => Err(Error::generic(format!(
                "File descriptor '{shown}' is not a socket that server={} can use",
                if server { "on" } else { "off" }
            ))),
        }
    }

    fn open_address(&self, address: Address) -> Result<Opened> {
        let plain = match &address {
            Address::Tcp(host, port) => format!("{host}:{port}"),
            Address::Unix(path) => path.display().to_string(),
            Address::Abstract(name) => String::from_utf8_lossy(name).into_owned(),
        };
        let name = describe(&address, self.telnet == Some(true));
        if self.server == Some(true) {
            let (listener, port) = address.listen_up_to(self.to).map_err(|e| {
                Error::generic(format!("Failed to bind socket to {plain}: {}", errno_text(&e)))
            })?;
            let name = match (&address, port) {
                (Address::Tcp(host, _), Some(port)) => {
                    describe(&Address::Tcp(host.clone(), port), self.telnet == Some(true))
                }
                _ => name,
            };
            return Ok(Opened { listener: Some(listener), name, ..Opened::default() });
        }
        let mut stream = None;
        if self.retry_ms().is_none() {
            stream = Some(address.connect().map_err(|e| {
                Error::generic(format!("Failed to connect to '{plain}': {}", errno_text(&e)))
            })?);
        }
        Ok(Opened { stream, name, address: Some(address), listener: None })
    }
}

impl Kind for SocketArgs {
    const NAME: &'static str = "socket";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, context: &Context) -> Result<Arc<dyn Chardev>> {
        self.check()?;
        let Opened { listener, mut stream, name, address } = self.open_place(context)?;
        let server = self.server == Some(true);
        if let Some(listener) = &listener {
            let fail = |e: std::io::Error| {
                Error::generic(format!("Failed to accept on '{name}': {}", errno_text(&e)))
            };
            if self.wait.unwrap_or(true) {
                let line = format_args!("info: QEMU waiting for connection on: {name},server=on\n");
                trace::write(line);
                stream = Some(listener.accept().map_err(fail)?);
            }
            listener.set_nonblocking(true).map_err(fail)?;
        }
        let listener = listener.map(Arc::new);
        let retry_ms = self.retry_ms();
        let this = Arc::new_cyclic(|weak: &Weak<Socket>| {
            let ended = weak.clone();
            Socket {
                weak: weak.clone(),
                handle: context.handle.clone(),
                end: Endpoint::new(&context.handle, move || {
                    if let Some(this) = ended.upgrade() {
                        this.disconnected();
                    }
                }),
                name,
                server,
                nodelay: self.nodelay == Some(true),
                telnet: self.telnet == Some(true),
                listener: listener.clone(),
                address,
                retry_ms,
                state: Mutex::default(),
            }
        });
        this.start(listener, context);
        match stream {
            Some(stream) => this.connected(stream),
            None if !server => this.try_now(),
            None => {}
        }
        Ok(this)
    }
}

impl Socket {
    /// Watches the listener, or gets ready to connect again.
    fn start(&self, listener: Option<Arc<Listener>>, context: &Context) {
        if let Some(listener) = listener {
            let weak = self.weak.clone();
            let watch = context.handle.watch(listener, Readiness::READ, move |_| {
                if let Some(this) = weak.upgrade() {
                    this.acceptable();
                }
            });
            self.state.lock().listen_watch = watch.ok();
        }
        if self.retry_ms.is_some() {
            let weak = self.weak.clone();
            let timer = context.clock.timer(move || {
                if let Some(this) = weak.upgrade() {
                    this.try_now();
                }
            });
            self.state.lock().timer = Some(timer);
        }
    }
}
