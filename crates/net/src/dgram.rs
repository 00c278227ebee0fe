//! Back end `dgram`: a frame in each datagram, over UDP (one peer or a multicast group) or Unix
//! sockets; also the datagram forms of `socket`.
//!
//! Source: QEMU's manual ("network options") and its observable behaviour.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use derive::Qapi;
use evloop::{Readiness, Watch};
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::address::SocketAddress;
use crate::frame::Frame;
use crate::link::{Backend, Link, MAX_FRAME};
use crate::stream::descriptor;
use crate::table::{Context, Kind};

/// Arguments of `dgram`.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "NetdevDgramOptions")]
pub struct DgramArgs {
    /// Where datagrams come to.
    pub local: Option<SocketAddress>,
    /// Where they go.
    pub remote: Option<SocketAddress>,
}

/// Most datagrams taken at once.
const BATCH: usize = 64;

enum Socket {
    Udp(UdpSocket, SocketAddr),
    Unix(UnixDatagram, PathBuf),
    /// Connected by somebody else.
    Given(UdpSocket),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Udp(socket, _) | Socket::Given(socket) => socket.as_fd(),
            Socket::Unix(socket, _) => socket.as_fd(),
        }
    }
}

impl Socket {
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Udp(socket, to) => socket.send_to(data, to),
            Socket::Unix(socket, to) => socket.send_to(data, to),
            Socket::Given(socket) => socket.send(data),
        }
    }

    fn receive(&self, data: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Udp(socket, _) | Socket::Given(socket) => socket.recv(data),
            Socket::Unix(socket, _) => socket.recv(data),
        }
    }
}

/// A socket for datagrams.
pub(crate) struct DgramBackend {
    link: Weak<Link>,
    socket: Arc<Socket>,
    watch: Mutex<Option<Watch>>,
    buffer: Mutex<Vec<u8>>,
    text: String,
    /// Path to remove in the end.
    path: Option<PathBuf>,
}

/// What a `dgram` or `socket` asks for.
pub(crate) enum Plan {
    Udp { local: SocketAddr, remote: SocketAddr, text: String },
    Multicast { group: SocketAddr, from: Option<Ipv4Addr>, text: String },
    Unix { local: PathBuf, remote: PathBuf },
    Given(std::os::fd::OwnedFd, String),
}

fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

impl Plan {
    fn open(self) -> io::Result<(Socket, String, Option<PathBuf>)> {
        Ok(match self {
            Plan::Udp { local, remote, text } => {
                (Socket::Udp(bind_shared(local)?, remote), text, None)
            }
            Plan::Multicast { group, from, text } => {
                let socket = bind_shared(group)?;
                if let IpAddr::V4(ip) = group.ip() {
                    socket.join_multicast_v4(&ip, &from.unwrap_or(Ipv4Addr::UNSPECIFIED))?;
                    // Other guests of this host are in the group, too.
                    socket.set_multicast_loop_v4(true)?;
                }
                (Socket::Udp(socket, group), text, None)
            }
            Plan::Unix { local, remote } => {
                _ = std::fs::remove_file(&local);
                let text = format!("udp={}:{}", local.display(), remote.display());
                let socket = UnixDatagram::bind(&local)?;
                socket.set_nonblocking(true)?;
                (Socket::Unix(socket, remote), text, Some(local))
            }
            Plan::Given(fd, text) => {
                let socket = UdpSocket::from(fd);
                socket.set_nonblocking(true)?;
                (Socket::Given(socket), text, None)
            }
        })
    }
}

impl DgramBackend {
    pub(crate) fn open(
        link: &Arc<Link>,
        context: &Context,
        plan: Plan,
    ) -> Result<Arc<DgramBackend>> {
        let fail = |error: io::Error| {
            Error::generic(format!("can't bind socket to address: {}", host::reason(&error)))
        };
        let (socket, text, path) = plan.open().map_err(fail)?;
        let backend = Arc::new(DgramBackend {
            link: Arc::downgrade(link),
            socket: Arc::new(socket),
            watch: Mutex::default(),
            buffer: Mutex::new(vec![0; MAX_FRAME]),
            text,
            path,
        });
        let weak = Arc::downgrade(&backend);
        let watch = context.handle.watch(backend.socket.clone(), Readiness::READ, move |_| {
            if let Some(backend) = weak.upgrade() {
                backend.read();
            }
        });
        *backend.watch.lock() = Some(watch.map_err(fail)?);
        Ok(backend)
    }

    fn read(&self) {
        let Some(link) = self.link.upgrade() else { return };
        let mut buffer = self.buffer.lock();
        for _ in 0..BATCH {
            let Ok(n) = self.socket.receive(&mut buffer) else { break };
            link.deliver(&Frame::plain(&[buffer.get(..n).unwrap_or_default()]));
        }
        drop(buffer);
        link.backend_done();
    }
}

impl Drop for DgramBackend {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            _ = std::fs::remove_file(path);
        }
    }
}

impl Backend for DgramBackend {
    fn send(&self, frame: &Frame<'_>) {
        // What the socket does not take is lost, as on a wire.
        _ = self.socket.send(&frame.to_vec(MAX_FRAME));
    }
    fn describe(&self) -> String {
        self.text.clone()
    }
    fn close(&self) {
        *self.watch.lock() = None;
    }
}

fn plan(args: &DgramArgs, context: &Context) -> Result<Plan> {
    let fail = |text: &str| Err(Error::generic(text));
    if let Some(SocketAddress::Inet(remote)) = &args.remote {
        let group = remote.resolve()?;
        if group.ip().is_multicast() {
            let from = match &args.local {
                None => None,
                Some(SocketAddress::Inet(local)) => match local.resolve()?.ip() {
                    IpAddr::V4(ip) => Some(ip),
                    IpAddr::V6(_) => None,
                },
                Some(SocketAddress::Fd(name)) => {
                    let fd = descriptor(&name.str, context)?;
                    return Ok(Plan::Given(fd, format!("fd={} mcast={group}", name.str)));
                }
                Some(SocketAddress::Unix(_)) => {
                    return fail("multicast requires type=inet for local and remote");
                }
            };
            return Ok(Plan::Multicast { group, from, text: format!("mcast={group}") });
        }
    }
    match (&args.local, &args.remote) {
        (None, _) => fail("dgram requires local= parameter"),
        (Some(SocketAddress::Fd(name)), None) => {
            Ok(Plan::Given(descriptor(&name.str, context)?, format!("fd={}", name.str)))
        }
        (Some(SocketAddress::Fd(_)), Some(_)) => fail("don't set remote with local.fd"),
        (Some(_), None) => fail("type=inet or type=unix requires remote parameter"),
        (Some(SocketAddress::Inet(local)), Some(SocketAddress::Inet(remote))) => {
            let (local, remote) = (local.resolve()?, remote.resolve()?);
            Ok(Plan::Udp { local, remote, text: format!("udp={local}/{remote}") })
        }
        (Some(SocketAddress::Unix(local)), Some(SocketAddress::Unix(remote))) => {
            let (local, remote) = (local.path.clone().into(), remote.path.clone().into());
            Ok(Plan::Unix { local, remote })
        }
        _ => fail("local and remote types must be the same"),
    }
}

impl Kind for DgramArgs {
    const NAME: &'static str = "dgram";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let backend = DgramBackend::open(link, context, plan(&self, context)?)?;
        Ok(backend)
    }
}
