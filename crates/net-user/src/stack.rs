//! What happens to a frame of the guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use evloop::Readiness;
use net::frame::gso;
use net::{Bytes, Context, Frame, Link};
use qapi::Result;

use crate::arp::{self, Arp};
use crate::conns::Conns;
use crate::dhcp::Dhcp;
use crate::dhcp6;
use crate::flows::{Flows, Owner};
use crate::forward::{HostSide, Rule};
use crate::icmp::{self, Echo, Why};
use crate::icmp6;
use crate::out::Out;
use crate::reassembly::Reassembly;
use crate::resolver::Resolver;
use crate::saved::{NeighbourState, StackState};
use crate::tcp::{ip_number, number_ip};
use crate::tftp::Tftp;
use crate::user::Reach;
use crate::wire::{self, Datagram, ETHERNET, Ethernet, Ip, Segment};

/// So much of a frame is looked at for headers.
const HEAD: usize = 192;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const TFTP: u16 = 69;
const DHCP6_SERVER: u16 = 547;
/// Where those are asked (RFC 8415, 7.1).
const DHCP6_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// All state of a network.
pub(crate) struct Stack {
    out: Out,
    conns: Conns,
    flows: Flows,
    dhcp: Dhcp,
    tftp: Tftp,
    resolver: Resolver,
    reassembly: Reassembly,
    in_batch: bool,
}

impl Stack {
    pub(crate) fn new(link: &Arc<Link>) -> Stack {
        Stack {
            out: Out::new(link),
            conns: Conns::default(),
            flows: Flows::default(),
            dhcp: Dhcp::default(),
            tftp: Tftp::default(),
            resolver: Resolver::default(),
            reassembly: Reassembly::default(),
            in_batch: false,
        }
    }

    /// A batch of work begins.
    pub(crate) fn begin(&mut self) {
        self.begin_once();
    }

    /// A batch begins, unless one has begun.
    pub(crate) fn begin_once(&mut self) {
        if !self.in_batch {
            self.in_batch = true;
            self.out.begin();
        }
    }

    /// The batch ends.
    pub(crate) fn end(&mut self, now: u64) {
        self.conns.end(&mut self.out, now);
        self.in_batch = false;
        self.out.done();
    }

    /// Whether time matters.
    pub(crate) fn is_busy(&self) -> bool {
        !self.conns.is_empty() || self.flows.len() > 0
    }

    /// Looks at what has expired.
    pub(crate) fn tick(&mut self, now: u64) {
        self.conns.tick(&mut self.out, now);
        self.flows.expire(now);
    }

    /// The card has room again.
    pub(crate) fn room(&mut self, now: u64) {
        self.conns.resume(&mut self.out, now);
    }

    pub(crate) fn datagrams(&mut self, reach: &Reach, (owner, failed): (Owner, bool), now: u64) {
        if failed {
            self.flows.errors(&mut self.out, reach, owner);
        }
        self.flows.receive(&mut self.out, reach, owner, now);
    }

    pub(crate) fn stream_ready(&mut self, reach: &Reach, token: u64, ready: Readiness, now: u64) {
        self.conns.ready(&mut self.out, reach, token, ready, now);
    }

    pub(crate) fn accept(&mut self, reach: &Reach, host: SocketAddr, now: u64) {
        self.conns.accept(&mut self.out, reach, host, now);
    }

    pub(crate) fn add_forward(
        &mut self,
        reach: &Reach,
        rule: Rule,
        now: u64,
    ) -> std::io::Result<()> {
        let start = reach.config.v4.map(|v4| IpAddr::V4(v4.dhcp_start));
        let guest = rule.guest.filter(|ip| !ip.is_unspecified()).or(start);
        let guest = guest.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let guest = SocketAddr::new(guest, rule.port);
        if rule.udp {
            let socket = std::net::UdpSocket::bind(rule.host)?;
            self.flows.adopt(reach, guest, socket, now)?;
        }
        self.conns.add_rule(reach, rule, guest)
    }

    pub(crate) fn remove_forward(&mut self, reach: &Reach, side: HostSide) -> bool {
        _ = reach;
        match self.conns.remove_rule(side) {
            None => false,
            Some(guest) => {
                if side.udp {
                    self.flows.drop_fixed(guest);
                }
                true
            }
        }
    }

    pub(crate) fn add_guest_forward(
        &mut self,
        reach: &Reach,
        text: &str,
        context: &Context,
    ) -> Result<()> {
        self.conns.add_guest_forward(reach, text, context)
    }

    pub(crate) fn table(&self, reach: &Reach, now: u64) -> String {
        crate::info::table(&self.conns, &self.flows, reach, now)
    }

    /// What is saved.
    pub(crate) fn state(&self, instance: u64) -> StackState {
        let neighbour = |(ip, mac)| NeighbourState { ip: ip_number(ip), mac };
        let mut neighbours: Vec<_> = self.out.neighbours().map(neighbour).collect();
        neighbours.sort_by_key(|known| known.ip);
        let leases = self.dhcp.leases.clone();
        StackState { instance, leases, neighbours, conns: self.conns.state() }
    }

    /// Goes back to a state.
    pub(crate) fn restore(&mut self, state: StackState, instance: u64, now: u64) {
        self.dhcp.leases = state.leases;
        self.out.forget();
        for NeighbourState { ip, mac } in state.neighbours {
            self.out.learn(number_ip(ip), mac);
        }
        self.conns.restore(state.conns, state.instance == instance, now);
        self.reassembly = Reassembly::default();
        self.tftp = Tftp::default();
    }

    /// Everything is loaded: tells the guest what is broken.
    pub(crate) fn settle(&mut self) {
        self.conns.settle(&mut self.out);
    }

    #[cfg(test)]
    pub(crate) fn memory(&self) -> (usize, usize) {
        self.conns.memory()
    }

    /// A frame of the guest.
    pub(crate) fn frame(&mut self, reach: &Reach, frame: &Frame<'_>, now: u64) {
        let len = frame.len();
        let mut head = [0; HEAD];
        let n = frame.copy(0, &mut head);
        let head = head.get(..n).unwrap_or_default();
        let Some(ethernet) = Ethernet::parse(head) else { return };
        match ethernet.kind {
            wire::ARP => self.arp(reach, head),
            wire::IPV4 if reach.config.v4.is_some() => {
                if let Some(ip) = Ip::parse4(head, len) {
                    self.ip(reach, &ethernet, (frame, head), &ip, now);
                }
            }
            wire::IPV6 if reach.config.v6.is_some() => {
                if let Some(ip) = Ip::parse6(head, len) {
                    self.ip(reach, &ethernet, (frame, head), &ip, now);
                }
            }
            _ => {}
        }
    }

    fn arp(&mut self, reach: &Reach, head: &[u8]) {
        let (Some(arp), Some(v4)) = (Arp::parse(head), reach.config.v4) else { return };
        let own = arp.to == v4.host || arp.to == v4.dns || self.conns.answers_for(arp.to.into());
        if v4.contains(arp.from) && !reach.config.is_host(arp.from.into()) {
            self.met(arp.from.into(), arp.mac);
        }
        if arp.request && own && arp.from != arp.to {
            self.out.raw(&arp::reply(&arp));
        }
    }

    /// The guest is at this address.
    fn met(&mut self, ip: IpAddr, mac: net::Mac) {
        let fresh = self.out.mac(ip).is_none();
        self.out.learn(ip, mac);
        if fresh {
            self.conns.found(&mut self.out, ip);
        }
    }

    fn ip(
        &mut self,
        reach: &Reach,
        ethernet: &Ethernet,
        (frame, head): (&Frame<'_>, &[u8]),
        ip: &Ip,
        now: u64,
    ) {
        if reach.config.is_inside(ip.from) && !reach.config.is_host(ip.from) {
            self.met(ip.from, ethernet.from);
        }
        if ip.hops <= 1 && self.is_beyond(reach, ip) {
            return self.failed(reach, ip, Why::hops(ip.to.is_ipv6()), head);
        }
        if let Some(piece) = ip.fragment {
            let mut data = vec![0; ip.len];
            frame.copy(ip.start, &mut data);
            if let Some(whole) = self.reassembly.add(ip, piece, &data, now) {
                self.whole(reach, ethernet, (head, ip), &whole, now);
            }
            return;
        }
        match ip.protocol {
            wire::TCP => {
                if let Some(segment) = Segment::parse(head, ip) {
                    self.conns.segment(
                        &mut self.out,
                        (reach, &mut self.resolver),
                        &segment,
                        frame,
                        now,
                    );
                }
            }
            wire::UDP => {
                if let Some(datagram) = Datagram::parse(head, ip) {
                    self.udp(reach, ip, &datagram, (frame, head), now);
                }
            }
            wire::ICMP | wire::ICMP6 => {
                let mut data = vec![0; ip.len];
                let n = frame.copy(ip.start, &mut data);
                data.truncate(n);
                self.icmp(reach, ethernet, (ip, head), &data, now);
            }
            _ => {}
        }
    }

    /// Whether a packet has a router to pass.
    fn is_beyond(&self, reach: &Reach, ip: &Ip) -> bool {
        let many = match ip.to {
            IpAddr::V4(to) => to.is_broadcast() || to.is_multicast(),
            IpAddr::V6(to) => to.is_multicast(),
        };
        !many && !reach.config.is_inside(ip.to) && !reach.config.restrict
    }

    /// Tells the guest as its router why a packet did not arrive.
    fn failed(&mut self, reach: &Reach, ip: &Ip, why: Why, head: &[u8]) {
        let router = match ip.to {
            IpAddr::V4(_) => reach.config.v4.map(|v4| IpAddr::V4(v4.host)),
            IpAddr::V6(_) => reach.config.v6.as_ref().map(|v6| IpAddr::V6(v6.host)),
        };
        // Nothing is said of messages that say such things (RFC 1122, 3.2.2; RFC 4443, 2.4).
        let first = head.get(ip.start).copied();
        let about_error = match ip.protocol {
            wire::ICMP => !Echo::is_question(first, false),
            wire::ICMP6 => !Echo::is_question(first, true),
            _ => false,
        };
        if let Some(router) = router.filter(|_| !about_error) {
            // Not what fills the frame up.
            let end = head.len().min(ip.start.saturating_add(ip.len));
            let packet = head.get(ETHERNET..end).unwrap_or_default();
            icmp::failed(&mut self.out, (router, ip.from), why, packet);
        }
    }

    /// A datagram that came in pieces, as one frame.
    fn whole(
        &mut self,
        reach: &Reach,
        ethernet: &Ethernet,
        (head, ip): (&[u8], &Ip),
        payload: &[u8],
        now: u64,
    ) {
        let start = ip.start.min(head.len());
        let parts: [&[u8]; 2] = [head.get(..start).unwrap_or_default(), payload];
        let frame = Frame { offload: net::Offload::default(), bytes: Bytes::Host(&parts) };
        let head = frame.to_vec(HEAD);
        let ip = Ip { fragment: None, start, len: payload.len(), ..*ip };
        self.ip(reach, ethernet, (&frame, &head), &ip, now);
    }

    fn udp(
        &mut self,
        reach: &Reach,
        ip: &Ip,
        datagram: &Datagram,
        (frame, head): (&Frame<'_>, &[u8]),
        now: u64,
    ) {
        let mut data = vec![0; datagram.len];
        let n = frame.copy(datagram.start, &mut data);
        data.truncate(n);
        let Datagram { from, to, .. } = *datagram;
        let v4 = reach.config.v4;
        let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
        if let Some(v4) = v4
            && to.port() == DHCP_SERVER
            && (to.ip() == broadcast || to.ip() == IpAddr::V4(v4.host))
        {
            if let Some(answer) = self.dhcp.answer(&reach.config, &v4, &data) {
                let source = SocketAddr::new(v4.host.into(), DHCP_SERVER);
                let target = SocketAddr::new(answer.to.into(), DHCP_CLIENT);
                self.out.datagram(source, target, &answer.data);
            }
            return;
        }
        if let Some(v6) = &reach.config.v6
            && to.port() == DHCP6_SERVER
            && (to.ip() == IpAddr::V6(DHCP6_SERVERS) || to.ip() == IpAddr::V6(v6.host))
        {
            if let Some(answer) = dhcp6::answer(&reach.config, v6, &data) {
                let source = SocketAddr::new(v6.host.into(), DHCP6_SERVER);
                self.out.datagram(source, from, &answer);
            }
            return;
        }
        if to.port() == TFTP && reach.config.is_host(to.ip()) {
            if let Some(root) = &reach.config.tftp
                && let Some(reply) = self.tftp.answer(root, from, &data, now)
            {
                self.out.datagram(to, from, &reply);
            }
            return;
        }
        let Some(outward) = reach.config.outward(to, &mut self.resolver, now) else { return };
        let target = (outward.to, outward.dns);
        // Several datagrams of one length may come as one (virtio 1.3, 5.1.6.2).
        let several = frame.offload.gso & !gso::ECN == gso::UDP_L4 && frame.offload.segment > 0;
        let size = if several { usize::from(frame.offload.segment) } else { data.len().max(1) };
        let (mut sent, hops) = (Ok(()), ip.hops.max(2) - 1);
        if data.is_empty() {
            sent = self.flows.send(reach, from, target, (&data, hops), now);
        }
        for datagram in data.chunks(size) {
            sent = sent.and(self.flows.send(reach, from, target, (datagram, hops), now));
        }
        match sent {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                self.failed(reach, ip, Why::of(&error, ip.to.is_ipv6()), head);
            }
            _ => {}
        }
    }

    fn icmp(
        &mut self,
        reach: &Reach,
        ethernet: &Ethernet,
        (ip, head): (&Ip, &[u8]),
        data: &[u8],
        now: u64,
    ) {
        match (ip.protocol, ip.from, ip.to) {
            (wire::ICMP, _, IpAddr::V4(to)) => {
                let Some(echo) = Echo::parse(data, true) else { return };
                if reach.config.is_host(ip.to) || reach.config.is_dns(ip.to) {
                    icmp::reply(&mut self.out, (to, ip.from), &echo);
                    return;
                }
                self.ping(reach, (ip, head), &echo, now);
            }
            (wire::ICMP6, IpAddr::V6(from), IpAddr::V6(to)) => {
                let outside = !reach.config.is_host(ip.to) && !reach.config.is_dns(ip.to);
                if let Some(echo) = Echo::parse6(data, true).filter(|_| outside) {
                    return self.ping(reach, (ip, head), &echo, now);
                }
                let ends = (ethernet.from, from, to);
                icmp6::input(&mut self.out, &reach.config, ends, data);
            }
            _ => {}
        }
    }

    /// An echo question of the guest for somebody outside.
    fn ping(&mut self, reach: &Reach, (ip, head): (&Ip, &[u8]), echo: &Echo<'_>, now: u64) {
        let target = SocketAddr::new(ip.to, 0);
        if reach.config.outward(target, &mut self.resolver, now).is_none() {
            return;
        }
        let to = (ip.to, ip.hops.max(2) - 1);
        if let Err(error) = self.flows.ping(reach, ip.from, to, echo, now) {
            self.failed(reach, ip, Why::of(&error, ip.to.is_ipv6()), head);
        }
    }
}
