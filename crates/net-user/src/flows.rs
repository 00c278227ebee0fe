//! Datagrams of the guest: one socket of the host per port of the guest, and one per echo
//! identifier.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use evloop::{Readiness, Watch};
use rustc_hash::FxHashMap;
use rustix::net::sockopt;

use crate::icmp::{self, Echo, Why};
use crate::out::{Out, put};
use crate::user::Reach;
use crate::wire;

/// Most sockets.
const MAX_FLOWS: usize = 2048;
/// A socket without traffic is closed after this time, in nanoseconds.
const LIFE: u64 = 240_000_000_000;
/// The same for name servers and echoes.
const SHORT_LIFE: u64 = 10_000_000_000;
/// Most datagrams taken from a socket at once.
const BATCH: usize = 64;
/// Longest datagram.
pub(crate) const MAX_DATAGRAM: usize = 65536;

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A port of the guest; to targets of which family.
    Udp { guest: SocketAddr, v4: bool },
    /// An echo identifier of the guest.
    Echo { guest: IpAddr, id: u16 },
}

struct Flow {
    socket: Arc<UdpSocket>,
    _watch: Option<Watch>,
    used: u64,
    /// Name servers are asked through it.
    dns: bool,
    /// It is a rule's (`hostfwd`) and stays.
    fixed: bool,
    sent: u64,
    /// Routers that its datagrams may pass; 0: as the host likes.
    hops: u8,
}

/// All sockets.
#[derive(Default)]
pub(crate) struct Flows {
    flows: FxHashMap<Owner, Flow>,
    buffer: Vec<u8>,
}

/// What `info usernet` shows of a socket.
pub(crate) struct FlowInfo {
    pub(crate) owner: Owner,
    pub(crate) fd: i32,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) fixed: bool,
    /// Nanoseconds until it is closed.
    pub(crate) left: u64,
}

fn open(owner: Owner) -> io::Result<UdpSocket> {
    let socket = match owner {
        Owner::Udp { v4: true, .. } => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        Owner::Udp { v4: false, .. } => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        Owner::Echo { guest, .. } => {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
            let (family, protocol) = match guest {
                IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
                IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
            };
            socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?.into()
        }
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The first bytes of a packet of the guest as they were, as far as is known: addresses, protocol,
/// and what came behind the IP header.
fn quoted((from, to): (IpAddr, IpAddr), protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let len = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
            packet.extend([0x45, 0]);
            packet.extend(len.to_be_bytes());
            packet.extend([0, 0, 0, 0, 1, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            let sum = !net::frame::fold(net::frame::sum(0, &packet));
            put(&mut packet, 10, &sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(len.to_be_bytes());
            packet.extend([protocol, 1]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => {}
    }
    packet.extend(payload);
    packet
}

impl Flow {
    /// Sends a datagram. What an earlier one met is not this one's fault.
    fn send(&mut self, data: &[u8], to: SocketAddr, hops: u8) -> io::Result<()> {
        if hops != self.hops {
            self.hops = hops;
            _ = if to.is_ipv4() {
                sockopt::set_ip_ttl(&*self.socket, hops.into())
            } else {
                sockopt::set_ipv6_unicast_hops(&*self.socket, Some(hops))
            };
        }
        let sent = self.socket.send_to(data, to);
        if sent.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock) {
            self.socket.send_to(data, to)?;
        }
        Ok(())
    }

    fn life(&self, owner: &Owner) -> u64 {
        match owner {
            Owner::Udp { .. } if !self.dns => LIFE,
            _ => SHORT_LIFE,
        }
    }
}

impl Flows {
    /// Number of sockets.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    fn flow(&mut self, reach: &Reach, owner: Owner, now: u64) -> io::Result<&mut Flow> {
        if !self.flows.contains_key(&owner) {
            if self.flows.len() >= MAX_FLOWS {
                self.evict();
            }
            self.insert(reach, owner, open(owner)?, (false, now))?;
        }
        let flow = self.flows.get_mut(&owner).ok_or(io::ErrorKind::NotFound)?;
        flow.used = now;
        Ok(flow)
    }

    fn insert(
        &mut self,
        reach: &Reach,
        owner: Owner,
        socket: UdpSocket,
        (fixed, now): (bool, u64),
    ) -> io::Result<()> {
        let socket = Arc::new(socket);
        let user = reach.user.clone();
        let v6 = !socket.local_addr().is_ok_and(|at| at.is_ipv4());
        _ = host::keep_datagram_errors(socket.as_fd(), v6);
        let watch = reach.handle.watch(socket.clone(), Readiness::READ, move |ready| {
            if let Some(user) = user.upgrade() {
                // Nobody waits for room: then it is an error.
                user.datagrams(owner, ready.write);
            }
        })?;
        let watch = Some(watch);
        let flow = Flow { socket, _watch: watch, used: now, dns: false, fixed, sent: 0, hops: 0 };
        self.flows.insert(owner, flow);
        Ok(())
    }

    /// Gives a port of the guest the socket of a rule.
    pub(crate) fn adopt(
        &mut self,
        reach: &Reach,
        guest: SocketAddr,
        socket: UdpSocket,
        now: u64,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.insert(reach, Owner::Udp { guest, v4: true }, socket, (true, now))
    }

    /// Takes a rule's socket away.
    pub(crate) fn drop_fixed(&mut self, guest: SocketAddr) {
        self.flows.remove(&Owner::Udp { guest, v4: true });
    }

    /// Closes the socket that was used least recently.
    fn evict(&mut self) {
        let all = self.flows.iter().filter(|(_, flow)| !flow.fixed);
        let oldest = all.min_by_key(|(_, flow)| flow.used).map(|(owner, _)| *owner);
        if let Some(owner) = oldest {
            self.flows.remove(&owner);
        }
    }

    /// Sends a datagram of the guest.
    pub(crate) fn send(
        &mut self,
        reach: &Reach,
        guest: SocketAddr,
        (to, dns): (SocketAddr, bool),
        (data, hops): (&[u8], u8),
        now: u64,
    ) -> io::Result<()> {
        let flow = self.flow(reach, Owner::Udp { guest, v4: to.is_ipv4() }, now)?;
        flow.dns |= dns;
        flow.sent += 1;
        flow.send(data, to, hops)
    }

    /// Sends an echo question of the guest.
    pub(crate) fn ping(
        &mut self,
        reach: &Reach,
        guest: IpAddr,
        (to, hops): (IpAddr, u8),
        echo: &Echo<'_>,
        now: u64,
    ) -> io::Result<()> {
        let flow = self.flow(reach, Owner::Echo { guest, id: echo.id }, now)?;
        flow.send(&echo.question(to.is_ipv6()), SocketAddr::new(to, 0), hops)
    }

    /// Tells the guest what the network says of its datagrams.
    pub(crate) fn errors(&mut self, out: &mut Out, reach: &Reach, owner: Owner) {
        let Some(flow) = self.flows.get(&owner) else { return };
        let (socket, dns) = (flow.socket.clone(), flow.dns);
        let mut data = [0; 512];
        for _ in 0..BATCH {
            let Ok(error) = host::datagram_error(socket.as_fd(), &mut data) else { return };
            let Some((error, why)) = error.and_then(|e| Some((e, Why::told(&e)?))) else {
                continue;
            };
            let data = data.get(..error.len).unwrap_or(&data);
            let v4 = error.to.is_ipv4();
            let to = match owner {
                // An address of the host's is another one of the guest's.
                Owner::Udp { guest, .. } => reach.config.inward(error.to, dns, guest.is_ipv4()),
                Owner::Echo { .. } => reach.config.inward(error.to, false, v4),
            };
            let router = error.from.map(|ip| SocketAddr::new(ip, 0));
            let router = router.and_then(|at| reach.config.inward(at, false, v4));
            let (Some(to), Some(router)) = (to, router.or(to)) else { continue };
            let (guest, protocol, payload) = match owner {
                Owner::Udp { guest, .. } => {
                    let len = u16::try_from(data.len() + 8).unwrap_or(u16::MAX);
                    let words = [guest.port(), to.port(), len, 0];
                    let head = words.into_iter().flat_map(u16::to_be_bytes);
                    (guest.ip(), wire::UDP, head.chain(data.iter().copied()).collect())
                }
                Owner::Echo { guest, id } => {
                    let mut message = data.to_vec();
                    put(&mut message, 4, &id.to_be_bytes());
                    (guest, if v4 { wire::ICMP } else { wire::ICMP6 }, message)
                }
            };
            if guest.is_ipv4() == v4 {
                let packet = quoted((guest, to.ip()), protocol, &payload);
                icmp::failed(out, (router.ip(), guest), why, &packet);
            }
        }
    }

    /// Takes what came for a socket and gives it to the guest.
    pub(crate) fn receive(&mut self, out: &mut Out, reach: &Reach, owner: Owner, now: u64) {
        let Some(flow) = self.flows.get_mut(&owner) else { return };
        flow.used = now;
        let (socket, dns) = (flow.socket.clone(), flow.dns);
        self.buffer.resize(MAX_DATAGRAM, 0);
        for _ in 0..BATCH {
            let (n, from) = match socket.recv_from(&mut self.buffer) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // An answer of the network to something that was sent, such as a refusal.
                Err(_) => continue,
            };
            let data = self.buffer.get(..n).unwrap_or_default();
            match owner {
                Owner::Udp { guest, .. } => {
                    if let Some(from) = reach.config.inward(from, dns, guest.is_ipv4()) {
                        out.datagram(from, guest, data);
                    }
                }
                Owner::Echo { guest, id } => {
                    let v6 = guest.is_ipv6();
                    let echo =
                        if v6 { Echo::parse6(data, false) } else { Echo::parse(data, false) };
                    let Some(echo) = echo.map(|echo| Echo { id, ..echo }) else { continue };
                    match (from.ip(), guest) {
                        (IpAddr::V4(from), _) => icmp::reply(out, (from, guest), &echo),
                        (IpAddr::V6(from), IpAddr::V6(guest)) => {
                            crate::icmp6::echo_reply(out, (from, guest), &echo);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Closes sockets without traffic.
    pub(crate) fn expire(&mut self, now: u64) {
        self.flows
            .retain(|owner, flow| flow.fixed || now.saturating_sub(flow.used) < flow.life(owner));
        if self.flows.is_empty() {
            self.buffer = Vec::new();
        }
    }

    /// All sockets, for `info usernet`.
    pub(crate) fn list(&self, now: u64) -> Vec<FlowInfo> {
        use std::os::fd::AsRawFd as _;
        let all = self.flows.iter().map(|(owner, flow)| FlowInfo {
            owner: *owner,
            fd: flow.socket.as_raw_fd(),
            local: flow.socket.local_addr().ok(),
            fixed: flow.fixed,
            left: flow.life(owner).saturating_sub(now.saturating_sub(flow.used)),
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|info| info.fd);
        all
    }
}
