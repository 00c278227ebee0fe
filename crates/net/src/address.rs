//! Where sockets are (`SocketAddress` of the peer's types).

use std::net::{SocketAddr, ToSocketAddrs as _};

use derive::Qapi;
use qapi::{Error, Result};

/// An address on the network.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "InetSocketAddress")]
pub struct Inet {
    /// Host name or number.
    pub host: String,
    /// Port.
    pub port: String,
    /// The host is a number.
    pub numeric: Option<bool>,
    /// Last port that a server may try.
    pub to: Option<u16>,
    /// Use IPv4.
    pub ipv4: Option<bool>,
    /// Use IPv6.
    pub ipv6: Option<bool>,
}

/// An address in the file system.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "UnixSocketAddress")]
pub struct Unix {
    /// Path of the socket.
    pub path: String,
    /// It is a name that is in no file system.
    pub r#abstract: Option<bool>,
    /// An abstract name is not filled up with zeros (default: on).
    pub tight: Option<bool>,
}

/// A descriptor that a monitor was given.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "FdSocketAddress")]
pub struct FdName {
    /// Its name, or its number.
    pub str: String,
}

/// Where a socket is.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "SocketAddress", tag = "type")]
pub enum SocketAddress {
    /// On the network.
    Inet(Inet),
    /// In the file system.
    Unix(Unix),
    /// Open already.
    Fd(FdName),
}

impl Inet {
    /// The first address of the host that fits.
    ///
    /// # Errors
    /// There is none.
    pub fn resolve(&self) -> Result<SocketAddr> {
        let fail = |why: &str| {
            let (host, port) = (&self.host, &self.port);
            Error::generic(format!("address resolution failed for {host}:{port}: {why}"))
        };
        let port: u16 = self.port.parse().map_err(|_| fail("a port is a number up to 65535"))?;
        let host = match (self.host.as_str(), self.ipv6) {
            ("", Some(true)) => "::",
            ("", _) => "0.0.0.0",
            (host, _) => host,
        };
        let fits = |address: &SocketAddr| {
            let wanted = if address.is_ipv4() { self.ipv4 } else { self.ipv6 };
            let other = if address.is_ipv4() { self.ipv6 } else { self.ipv4 };
            wanted.unwrap_or(other != Some(true))
        };
        let found =
            (host, port).to_socket_addrs().map_err(|_| fail("Name or service not known"))?;
        let mut found = found.filter(fits);
        found.next().ok_or_else(|| fail("no address of that family"))
    }
}

impl Unix {
    /// The name of an abstract socket.
    #[must_use]
    pub fn abstract_name(&self) -> Option<Vec<u8>> {
        let mut name = self.path.clone().into_bytes();
        if self.tight == Some(false) {
            // An address without `tight` has its full length (unix(7): 107 bytes).
            name.resize(name.len().max(107), 0);
        }
        (self.r#abstract == Some(true)).then_some(name)
    }
}

/// Splits `host:port`.
///
/// # Errors
/// There is no colon, or no port behind it.
pub fn host_port(text: &str) -> Result<SocketAddr> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| {
        let text = format!("host address '{text}' doesn't contain ':' separating host from port");
        Error::generic(text)
    })?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let inet = Inet {
        host: host.to_owned(),
        port: port.to_owned(),
        numeric: None,
        to: None,
        ipv4: None,
        ipv6: None,
    };
    if port.parse::<u16>().is_err() {
        return Err(Error::generic(format!("port number '{port}' is invalid")));
    }
    inet.resolve().map_err(|_| Error::generic(format!("can't resolve host address '{host}'")))
}
