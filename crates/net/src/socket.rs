//! Back end `socket`: the older spelling of `stream` (listen, connect, fd) and `dgram` (mcast,
//! udp). Source: QEMU's manual ("network options") and its observable behaviour.

use std::net::IpAddr;
use std::sync::Arc;

use derive::Qapi;
use host::socket::Address;
use qapi::{Error, Result};

use crate::address::host_port;
use crate::dgram::{self, DgramBackend};
use crate::link::{Backend, Link};
use crate::stream::{self, StreamBackend, descriptor};
use crate::table::{Context, Kind};

/// Arguments of `socket`.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "NetdevSocketOptions")]
pub struct SocketArgs {
    /// Descriptor of a connected or listening stream socket, or of a datagram socket.
    pub fd: Option<String>,
    /// Address to listen at, `[host]:port`.
    pub listen: Option<String>,
    /// Address to connect to, `host:port`.
    pub connect: Option<String>,
    /// Multicast group, `addr:port`.
    pub mcast: Option<String>,
    /// Address of this end: for `mcast` that of the interface, for `udp` `host:port`.
    pub localaddr: Option<String>,
    /// Address that datagrams go to, `host:port`.
    pub udp: Option<String>,
}

impl Kind for SocketArgs {
    const NAME: &'static str = "socket";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let ways = [&self.fd, &self.listen, &self.connect, &self.mcast, &self.udp];
        if ways.iter().filter(|way| way.is_some()).count() != 1 {
            return Err(Error::generic(
                "exactly one of listen=, connect=, mcast= or udp= is required",
            ));
        }
        if self.localaddr.is_some() && self.mcast.is_none() && self.udp.is_none() {
            return Err(Error::generic("localaddr= is only valid with mcast= or udp="));
        }
        let stream = |plan| -> Result<Arc<dyn Backend>> {
            Ok(StreamBackend::open(link, context, plan, (None, false))?)
        };
        if let Some(text) = &self.listen {
            let at = host_port(text)?;
            return stream(stream::Plan::Listen(Address::Tcp(at.ip().to_string(), at.port())));
        }
        if let Some(text) = &self.connect {
            return stream(stream::Plan::Connect(host_port(text)?));
        }
        if let Some(name) = &self.fd {
            let fd = descriptor(name, context)?;
            let copy = fd.try_clone().map_err(|e| Error::generic(host::reason(&e)))?;
            let kind = rustix::net::sockopt::socket_type(&fd);
            if kind.is_ok_and(|kind| kind == rustix::net::SocketType::DGRAM) {
                let plan = dgram::Plan::Given(copy, format!("fd={name}"));
                return Ok(DgramBackend::open(link, context, plan)?);
            }
            let given = host::socket::from_socket(copy);
            return stream(stream::Plan::Given(
                given.map_err(|e| Error::generic(host::reason(&e)))?,
            ));
        }
        let plan = match (&self.mcast, &self.udp, &self.localaddr) {
            (Some(text), _, from) => {
                let group = host_port(text)?;
                if !group.ip().is_multicast() {
                    let text =
                        format!("specified mcastaddr {} is not in multicast range", group.ip());
                    return Err(Error::generic(text));
                }
                let from = match from {
                    None => None,
                    Some(text) => match text.parse() {
                        Ok(IpAddr::V4(ip)) => Some(ip),
                        _ => {
                            let text = format!("localaddr '{text}' is not a valid IPv4 address");
                            return Err(Error::generic(text));
                        }
                    },
                };
                dgram::Plan::Multicast { group, from, text: format!("socket: mcast={group}") }
            }
            (None, Some(udp), Some(local)) => {
                let (local, remote) = (host_port(local)?, host_port(udp)?);
                dgram::Plan::Udp { local, remote, text: format!("socket: udp={remote}") }
            }
            _ => return Err(Error::generic("localaddr= is mandatory with udp=")),
        };
        Ok(DgramBackend::open(link, context, plan)?)
    }
}
