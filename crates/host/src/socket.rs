//! Stream sockets: TCP and Unix, one type for both.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, sockopt};

/// Most descriptors taken with one read.
const MAX_FDS: usize = 16;

/// Where a stream socket listens or connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host name or number and port.
    Tcp(String, u16),
    /// Path of a Unix socket.
    Unix(PathBuf),
    /// Name of a Unix socket that is in no file system.
    Abstract(Vec<u8>),
}

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// A socket that accepts streams. A Unix listener removes its path on drop.
#[derive(Debug)]
pub enum Listener {
    /// For TCP.
    Tcp(TcpListener),
    /// For a Unix path.
    Unix(UnixListener, Option<PathBuf>),
}

impl Address {
    /// Opens a listening socket.
    pub fn listen(&self) -> io::Result<Listener> {
        match self {
            Address::Tcp(host, port) => {
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                Ok(Listener::Tcp(TcpListener::bind((host, *port))?))
            }
            Address::Unix(path) => {
                if let Ok(meta) = std::fs::symlink_metadata(path)
                    && std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type())
                {
                    let _ = std::fs::remove_file(path);
                }
                Ok(Listener::Unix(UnixListener::bind(path)?, Some(path.clone())))
            }
            Address::Abstract(name) => {
                let name = UnixAddr::from_abstract_name(name)?;
                Ok(Listener::Unix(UnixListener::bind_addr(&name)?, None))
            }
        }
    }

    /// Connects, waiting for the peer.
    pub fn connect(&self) -> io::Result<Stream> {
        match self {
            Address::Tcp(host, port) => {
                let host = if host.is_empty() { "localhost" } else { host };
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for addr in (host, *port).to_socket_addrs()? {
                    match TcpStream::connect(addr) {
                        Ok(s) => return Ok(Stream::Tcp(s)),
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path)?)),
            Address::Abstract(name) => {
                let name = UnixAddr::from_abstract_name(name)?;
                Ok(Stream::Unix(UnixStream::connect_addr(&name)?))
            }
        }
    }
}

/// Begins to connect to an address without waiting; whether it is connected already. If not,
/// `take_error` says how it ended once the socket can be written to.
///
/// # Errors
/// It failed at once.
pub fn connect_start(address: std::net::SocketAddr) -> io::Result<(TcpStream, bool)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket.into(), true)),
        Err(rustix::io::Errno::INPROGRESS) => {
            // Within the host the other side has answered by now.
            let ready = rustix::net::getpeername(&socket).is_ok();
            Ok((socket.into(), ready))
        }
        Err(error) => Err(error.into()),
    }
}

/// The TCP address of a host; with `v6`, of that family only.
///
/// # Errors
/// The host has no address of that family.
pub fn tcp(host: &str, port: u16, v6: Option<bool>) -> io::Result<Address> {
    let Some(v6) = v6 else { return Ok(Address::Tcp(host.to_owned(), port)) };
    let any = if v6 { "::" } else { "0.0.0.0" };
    let name = if host.is_empty() { any } else { host };
    let fits = |address: &std::net::SocketAddr| address.is_ipv6() == v6;
    let found = (name, port).to_socket_addrs()?.find(fits);
    let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    Ok(Address::Tcp(found.ip().to_string(), port))
}

impl Address {
    /// Opens a listening socket; TCP tries the ports up to `to`. Gives the port it got.
    pub fn listen_up_to(&self, to: Option<u16>) -> io::Result<(Listener, Option<u16>)> {
        let Address::Tcp(host, first) = self else { return Ok((self.listen()?, None)) };
        let mut port = *first;
        loop {
            match Address::Tcp(host.clone(), port).listen() {
                Ok(listener) => {
                    let port = listener.port();
                    return Ok((listener, port));
                }
                Err(e)
                    if e.kind() == io::ErrorKind::AddrInUse && to.is_some_and(|to| port < to) =>
                {
                    port += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Listener {
    /// Accepts one stream.
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(l) => Ok(Stream::Tcp(l.accept()?.0)),
            Listener::Unix(l, _) => Ok(Stream::Unix(l.accept()?.0)),
        }
    }

    /// Switches between blocking and non-blocking accept.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Listener::Tcp(l) => l.set_nonblocking(on),
            Listener::Unix(l, _) => l.set_nonblocking(on),
        }
    }

    /// The TCP port that was bound, useful after asking for port 0.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Listener::Tcp(l) => l.local_addr().ok().map(|a| a.port()),
            Listener::Unix(..) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, Some(path)) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that the process was started with.
pub enum Inherited {
    /// It accepts streams.
    Listener(Listener),
    /// It is connected.
    Stream(Stream),
}

/// Takes a stream socket that the process inherited, by number; the number stays open.
///
/// # Errors
/// It is no open descriptor, or none of a TCP or Unix stream socket.
pub fn inherited(number: i32) -> io::Result<Inherited> {
    from_socket(crate::duplicate_number(number)?)
}

/// A socket from its descriptor.
///
/// # Errors
/// It is none of a TCP or Unix stream socket.
pub fn from_socket(fd: OwnedFd) -> io::Result<Inherited> {
    let listens = sockopt::socket_acceptconn(&fd)?;
    let family = sockopt::socket_domain(&fd)?;
    let unix = family == rustix::net::AddressFamily::UNIX;
    let inet = [rustix::net::AddressFamily::INET, rustix::net::AddressFamily::INET6];
    if !unix && !inet.contains(&family) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(match (listens, unix) {
        (true, true) => Inherited::Listener(Listener::Unix(fd.into(), None)),
        (true, false) => Inherited::Listener(Listener::Tcp(fd.into())),
        (false, true) => Inherited::Stream(Stream::Unix(fd.into())),
        (false, false) => Inherited::Stream(Stream::Tcp(fd.into())),
    })
}

/// Sends bytes with descriptors through a Unix socket, all at once (unix(7), SCM_RIGHTS).
///
/// # Errors
/// What the system says; `WriteZero` when it took only some of them.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

impl Stream {
    /// A second handle of the same stream.
    pub fn try_clone(&self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(s) => s.try_clone().map(Stream::Tcp),
            Stream::Unix(s) => s.try_clone().map(Stream::Unix),
        }
    }

    /// Address of the other end, for people; empty on Unix sockets.
    #[must_use]
    pub fn peer_text(&self) -> String {
        match self {
            Stream::Tcp(s) => s.peer_addr().map(|a| a.to_string()).unwrap_or_default(),
            Stream::Unix(_) => String::new(),
        }
    }

    /// Reads bytes and the descriptors that came with them (unix(7), SCM_RIGHTS).
    pub fn receive(&self, out: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let Stream::Unix(socket) = self else {
            let mut stream = self;
            return Ok((stream.read(out)?, Vec::new()));
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(out)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        Ok((got.bytes, fds))
    }

    /// Switches between blocking and non-blocking transfers.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nonblocking(on),
            Stream::Unix(s) => s.set_nonblocking(on),
        }
    }

    /// Sends small TCP packets at once; nothing on Unix sockets.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nodelay(on),
            Stream::Unix(_) => Ok(()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(s) => s.as_fd(),
            Stream::Unix(s) => s.as_fd(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(l) => l.as_fd(),
            Listener::Unix(l, _) => l.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => (&mut &*s).read(out),
            Stream::Unix(s) => (&mut &*s).read(out),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => (&mut &*s).write(data),
            Stream::Unix(s) => (&mut &*s).write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
