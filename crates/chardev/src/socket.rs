//! Back end `socket`: TCP and Unix stream sockets, as server or client.

use std::io::{Read, Write};
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharEvent, CharReceiver};
use evloop::{Handle, Readiness, Watch};
use host::socket::{Address, Listener, Stream};
use parking_lot::Mutex;

use crate::file::errno_text;
use crate::front::Front;
use crate::table::{Chardev, Context, Kind};

/// Arguments of `socket`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct SocketArgs {
    /// Path of a Unix socket.
    pub path: Option<String>,
    /// Host name or number of a TCP socket.
    pub host: Option<String>,
    /// TCP port.
    pub port: Option<String>,
    /// Listen instead of connecting.
    pub server: Option<bool>,
    /// As a server, wait for the first client before going on (default: on).
    pub wait: Option<bool>,
    /// Send small TCP packets at once.
    pub nodelay: Option<bool>,
}

impl SocketArgs {
    fn address(&self) -> qapi::Result<Address> {
        match (&self.path, &self.port) {
            (Some(path), None) => Ok(Address::Unix(path.into())),
            (None, Some(port)) => {
                let number = port.parse().map_err(|_| {
                    qapi::Error::generic(format!(
                        "Parameter 'port' expects a port number, not '{port}'"
                    ))
                })?;
                Ok(Address::Tcp(self.host.clone().unwrap_or_default(), number))
            }
            (Some(_), Some(_)) => Err(qapi::Error::generic(
                "At most one of 'path', 'host', 'port' (with 'host') can be given",
            )),
            (None, None) => {
                Err(qapi::Error::generic("chardev: socket: no host, path or port given"))
            }
        }
    }
}

struct Socket {
    weak: Weak<Socket>,
    handle: Handle,
    front: Front,
    name: String,
    nodelay: bool,
    listener: Option<Arc<Listener>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<Arc<Stream>>,
    stream_watch: Option<Watch>,
    listen_watch: Option<Watch>,
}

impl Socket {
    /// Takes a stream over; from now on its input goes to the front end.
    fn connected(&self, stream: Stream) {
        let _ = stream.set_nonblocking(true);
        if self.nodelay {
            let _ = stream.set_nodelay(true);
        }
        let stream = Arc::new(stream);
        let weak = self.weak.clone();
        let interest =
            if self.front.receiver().is_some() { Readiness::READ } else { Readiness::NONE };
        let watch = self.handle.watch(stream.clone(), interest, move |_| {
            if let Some(this) = weak.upgrade() {
                this.readable();
            }
        });
        {
            let mut state = self.state.lock();
            state.stream = Some(stream);
            state.stream_watch = watch.ok();
            // One client at a time: the others wait in the kernel's queue.
            if let Some(watch) = &state.listen_watch {
                watch.set_interest(Readiness::NONE);
            }
        }
        self.front.event(CharEvent::Opened);
    }

    fn disconnected(&self) {
        let gone = {
            let mut state = self.state.lock();
            if let Some(watch) = &state.listen_watch {
                watch.set_interest(Readiness::READ);
            }
            (state.stream.take(), state.stream_watch.take())
        };
        if gone.0.is_some() {
            self.front.event(CharEvent::Closed);
        }
    }

    fn acceptable(&self) {
        if let Some(Ok(stream)) = self.listener.as_ref().map(|l| l.accept()) {
            self.connected(stream);
        }
    }

    fn readable(&self) {
        let Some(stream) = self.state.lock().stream.clone() else { return };
        let mut buffer = [0; 4096];
        let room = self.front.room().min(buffer.len());
        let Some(part) = buffer.get_mut(..room) else { return };
        if room == 0 {
            if let Some(watch) = &self.state.lock().stream_watch {
                watch.set_interest(Readiness::NONE);
            }
            // A vCPU may have made room, and said so, between the two.
            if self.front.room() > 0 {
                self.accept_input();
            }
            return;
        }
        match (&*stream).read(part) {
            Ok(n) if n > 0 => self.front.receive(part.get(..n).unwrap_or_default()),
            Err(e) if is_temporary(&e) => {}
            _ => self.disconnected(),
        }
    }
}

fn is_temporary(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

impl CharBackend for Socket {
    fn send(&self, data: &[u8]) -> usize {
        let Some(stream) = self.state.lock().stream.clone() else { return data.len() };
        let mut rest = data;
        while !rest.is_empty() {
            match (&*stream).write(rest) {
                Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if !host::wait_writable(&*stream, 1000) {
                        break;
                    }
                }
                // The reading side notices the end and cleans up.
                _ => break,
            }
        }
        data.len()
    }

    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.front.attach(front);
        if self.is_open() {
            self.front.event(CharEvent::Opened);
        }
        self.accept_input();
    }

    fn accept_input(&self) {
        if let Some(watch) = &self.state.lock().stream_watch {
            watch.set_interest(Readiness::READ);
        }
    }

    fn is_open(&self) -> bool {
        self.state.lock().stream.is_some()
    }
}

impl Chardev for Socket {
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        let state = if self.is_open() { "" } else { "disconnected:" };
        format!("{state}{}", self.name)
    }
}

impl Kind for SocketArgs {
    const NAME: &'static str = "socket";
    fn open(self, _: &str, context: &Context) -> qapi::Result<Arc<dyn Chardev>> {
        let address = self.address()?;
        let server = self.server == Some(true);
        let wait = self.wait.unwrap_or(true);
        let what = match &address {
            Address::Tcp(host, port) => format!("tcp:{host}:{port}"),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let fail = |verb: &str, e: &std::io::Error| {
            qapi::Error::generic(format!("Failed to {verb} '{what}': {}", errno_text(e)))
        };
        let mut listener = None;
        let mut first = None;
        if server {
            let l = address.listen().map_err(|e| fail("bind socket to", &e))?;
            if wait {
                trace::write(format_args!("info: waiting for connection on: {what},server=on\n"));
                first = Some(l.accept().map_err(|e| fail("accept on", &e))?);
            }
            l.set_nonblocking(true).map_err(|e| fail("set up", &e))?;
            listener = Some(Arc::new(l));
        } else {
            first = Some(address.connect().map_err(|e| fail("connect to", &e))?);
        }
        let this = Arc::new_cyclic(|weak| Socket {
            weak: weak.clone(),
            handle: context.handle.clone(),
            front: Front::default(),
            name: if server { format!("{what},server=on") } else { what.clone() },
            nodelay: self.nodelay == Some(true),
            listener: listener.clone(),
            state: Mutex::default(),
        });
        if let Some(listener) = listener {
            let weak = Arc::downgrade(&this);
            let watch = context.handle.watch(listener, Readiness::READ, move |_| {
                if let Some(this) = weak.upgrade() {
                    this.acceptable();
                }
            });
            this.state.lock().listen_watch = watch.ok();
        }
        if let Some(stream) = first {
            this.connected(stream);
        }
        Ok(this)
    }
}
