//! Back end `udp`: each output is one datagram, each datagram is input.
//!
//! Datagrams that the front end has no room for wait in the host, which drops what is
//! too much, as is the custom with UDP. Source: QEMU's manual.

use std::net::{ToSocketAddrs, UdpSocket};
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharReceiver};
use evloop::{Readiness, Watch};
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::common::Common;
use crate::file::errno_text;
use crate::front::Front;
use crate::table::{Chardev, Context, Kind};

/// Longest datagram.
const MAX_LEN: usize = 65_536;

/// Arguments of `udp`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct UdpArgs {
    /// Host name or number that output goes to (default: localhost).
    pub host: Option<String>,
    /// Port that output goes to.
    pub port: Option<String>,
    /// Address to receive at (default: all).
    pub localaddr: Option<String>,
    /// Port to receive at (default: any).
    pub localport: Option<String>,
    /// Use IPv4.
    pub ipv4: Option<bool>,
    /// Use IPv6.
    pub ipv6: Option<bool>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

struct Udp {
    socket: Arc<UdpSocket>,
    front: Front,
    pending: Mutex<Vec<u8>>,
    watch: Mutex<Option<Watch>>,
}

impl Udp {
    fn readable(&self) {
        let mut datagram = vec![0; MAX_LEN];
        if self.pending.lock().is_empty()
            && let Ok(n) = self.socket.recv(&mut datagram)
        {
            datagram.truncate(n);
            *self.pending.lock() = datagram;
        }
        self.pump();
    }

    /// Hands over what the front end has room for; reads on only when all is handed over.
    fn pump(&self) {
        loop {
            let room = self.front.room();
            let part: Vec<u8> = {
                let mut pending = self.pending.lock();
                let n = room.min(pending.len());
                pending.drain(..n).collect()
            };
            if part.is_empty() {
                break;
            }
            self.front.receive(&part);
        }
        let interest =
            if self.pending.lock().is_empty() { Readiness::READ } else { Readiness::NONE };
        if let Some(watch) = &*self.watch.lock() {
            watch.set_interest(interest);
        }
    }
}

impl CharBackend for Udp {
    fn send(&self, data: &[u8]) -> usize {
        for datagram in data.chunks(MAX_LEN / 2) {
            _ = self.socket.send(datagram);
        }
        data.len()
    }
    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.front.attach(front);
        self.accept_input();
    }
    fn accept_input(&self) {
        self.pump();
    }
}

impl Chardev for Udp {
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        "udp".to_owned()
    }
}

impl Kind for UdpArgs {
    const NAME: &'static str = "udp";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, context: &Context) -> Result<Arc<dyn Chardev>> {
        let number = |port: &str| -> Result<u16> {
            let bad = |_| Error::generic(format!("chardev: udp: '{port}' is not a port number"));
            port.parse().map_err(bad)
        };
        let port = self.port.as_deref();
        let port = port.ok_or_else(|| Error::generic("chardev: udp: remote port not specified"))?;
        let port = number(port)?;
        let host = self.host.as_deref().filter(|h| !h.is_empty()).unwrap_or("localhost");
        let fail = |e: std::io::Error| {
            Error::generic(format!("Failed to connect to '{host}:{port}': {}", errno_text(&e)))
        };
        let fits = |a: &std::net::SocketAddr| {
            if a.is_ipv4() { self.ipv4 != Some(false) } else { self.ipv6 != Some(false) }
        };
        let none = || std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        let mut peers = (host, port).to_socket_addrs().map_err(fail)?.filter(fits);
        let peer = peers.next().ok_or_else(none).map_err(fail)?;
        let any = if peer.is_ipv4() { "0.0.0.0" } else { "::" };
        let local = self.localaddr.as_deref().filter(|a| !a.is_empty()).unwrap_or(any);
        let local_port = self.localport.as_deref().map_or(Ok(0), number)?;
        let socket = UdpSocket::bind((local, local_port)).map_err(fail)?;
        socket.connect(peer).and_then(|()| socket.set_nonblocking(true)).map_err(fail)?;
        let udp = Arc::new(Udp {
            socket: Arc::new(socket),
            front: Front::default(),
            pending: Mutex::default(),
            watch: Mutex::default(),
        });
        let weak = Arc::downgrade(&udp);
        let watch = context.handle.watch(udp.socket.clone(), Readiness::NONE, move |_| {
            if let Some(this) = weak.upgrade() {
                this.readable();
            }
        });
        *udp.watch.lock() = watch.ok();
        Ok(udp)
    }
}
