//! The whole back end against a guest that is written here, with real sockets of the host.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use device::{CharPort, CharSource};
use evloop::{Clock, EventLoop};
use net::{Context, Frame, Hubs, Link, Nic, NicInfo, Takes, UserNet as _};
use parking_lot::Mutex;

use crate::wire::{self, ACK, ETHERNET, Ethernet, FIN, Ip, RST, SYN, Segment, pseudo_sum};
use crate::{Text, User, UserArgs};

mod closed;
mod errors;
mod more;
mod saved;

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const MAC: net::Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

struct NoChars;

impl CharSource for NoChars {
    fn port(&self, _: &str) -> qapi::Result<CharPort> {
        Err(qapi::Error::generic("none"))
    }
}

/// The card: keeps what it gets.
#[derive(Default)]
struct Card {
    got: Mutex<VecDeque<Vec<u8>>>,
    takes: Mutex<Takes>,
    full: AtomicBool,
}

impl Nic for Card {
    fn info(&self) -> NicInfo {
        NicInfo { name: None, mac: MAC }
    }
    fn takes(&self) -> Takes {
        *self.takes.lock()
    }
    fn receive(&self, frame: &Frame<'_>) -> bool {
        if self.full.load(Ordering::Relaxed) {
            return false;
        }
        self.got.lock().push_back(frame.to_vec(1 << 17));
        true
    }
    fn set_link(&self, _: bool) {}
}

struct Setup {
    events: EventLoop,
    link: Arc<Link>,
    user: Arc<User>,
    card: Arc<Card>,
}

fn context(events: &EventLoop, chardevs: Arc<dyn CharSource>) -> Context {
    let clock = Clock::host();
    events.handle().serve_clock(&clock);
    Context {
        handle: events.handle(),
        clock,
        fds: None,
        chardevs,
        hubs: Arc::<Hubs>::default(),
        tell: Arc::new(|_, _| {}),
    }
}

fn setup(change: impl FnOnce(&mut UserArgs)) -> Setup {
    setup_with(change, Arc::new(NoChars))
}

fn setup_with(change: impl FnOnce(&mut UserArgs), chardevs: Arc<dyn CharSource>) -> Setup {
    let events = EventLoop::new().unwrap();
    let context = context(&events, chardevs);
    let link = Link::new("n", "user", events.handle());
    let mut args = UserArgs::default();
    change(&mut args);
    let user = User::open(&args, &link, &context).unwrap();
    link.connect(user.clone());
    let card = Arc::new(Card::default());
    let nic: Arc<dyn Nic> = card.clone();
    let weak: Weak<dyn Nic> = Arc::downgrade(&nic);
    assert!(link.attach(weak));
    Setup { events, link, user, card }
}

fn ip_frame(to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x55, 10, 0, 2, 2];
    frame.extend(MAC);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(GUEST.octets());
    frame.extend(to.octets());
    frame.extend(payload);
    frame
}

/// A guest's connection.
struct Guest {
    to: SocketAddr,
    port: u16,
    seq: u32,
    ack: u32,
    window: u16,
}

impl Guest {
    fn segment(&self, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut tcp = self.port.to_be_bytes().to_vec();
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let words: u8 = if flags & SYN != 0 { 7 } else { 5 };
        tcp.extend([words << 4, flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        if flags & SYN != 0 {
            tcp.extend([2, 4, 5, 0xb4, 1, 3, 3, 0]);
        }
        tcp.extend(data);
        let SocketAddr::V4(to) = self.to else { unreachable!("IPv4 here") };
        ip_frame(*to.ip(), wire::TCP, &tcp)
    }
}

impl Setup {
    fn send(&self, bytes: &[u8]) {
        self.link.from_guest(&Frame::plain(&[bytes]));
        self.link.guest_done();
    }

    /// The next frame, for which the loop runs at most ten seconds.
    fn frame(&mut self) -> Vec<u8> {
        for _ in 0..1000 {
            if let Some(frame) = self.card.got.lock().pop_front() {
                return frame;
            }
            self.events.run_once(Some(Duration::from_millis(10))).unwrap();
        }
        panic!("no frame came");
    }

    /// The next TCP segment with its payload; its checksum must be right.
    fn segment(&mut self) -> (Segment, Vec<u8>) {
        loop {
            let frame = self.frame();
            if Ethernet::parse(&frame).unwrap().kind != wire::IPV4 {
                continue;
            }
            let ip = Ip::parse4(&frame, frame.len()).unwrap();
            let covered = &frame[ip.start..ip.start + ip.len];
            let sum = pseudo_sum(ip.from, ip.to, wire::TCP, ip.len);
            assert_eq!(net::frame::fold(net::frame::sum(sum, covered)), 0xffff);
            let segment = Segment::parse(&frame, &ip).unwrap();
            let data = frame[segment.start..segment.start + segment.len].to_vec();
            return (segment, data);
        }
    }

    fn connect(&mut self, port: u16, target: u16) -> Guest {
        let to = SocketAddr::new(Ipv4Addr::new(10, 0, 2, 2).into(), target);
        let mut guest = Guest { to, port, seq: 1000, ack: 0, window: 60000 };
        self.send(&guest.segment(SYN, &[]));
        let (answer, _) = self.segment();
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, 1001));
        guest.seq = 1001;
        guest.ack = answer.seq.wrapping_add(1);
        self.send(&guest.segment(ACK, &[]));
        guest
    }

    fn until(&mut self, what: impl Fn(&Setup) -> bool) {
        for _ in 0..1000 {
            if what(self) {
                return;
            }
            self.events.run_once(Some(Duration::from_millis(10))).unwrap();
        }
        panic!("it did not come to that");
    }
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_connection_carries_data_both_ways_and_ends() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(5000, port);
    let (mut host, _) = listener.accept().unwrap();
    s.send(&guest.segment(ACK, b"hello"));
    guest.seq += 5;
    let mut got = [0; 5];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    assert_eq!(s.segment().0.ack, guest.seq);
    // Said again, it is acknowledged and not given to the host again.
    guest.seq -= 5;
    s.send(&guest.segment(ACK, b"hello"));
    guest.seq += 5;
    assert_eq!(s.segment().0.ack, guest.seq);
    host.write_all(b"world!").unwrap();
    let (segment, data) = s.segment();
    assert_eq!((segment.seq, data.as_slice()), (guest.ack, &b"world!"[..]));
    guest.ack += 6;
    s.send(&guest.segment(ACK | FIN, &[]));
    guest.seq += 1;
    assert_eq!(s.segment().0.ack, guest.seq);
    assert_eq!(host.read(&mut got).unwrap(), 0);
    drop(host);
    let (fin, _) = s.segment();
    assert_eq!((fin.flags & FIN, fin.seq), (FIN, guest.ack));
    guest.ack += 1;
    s.send(&guest.segment(ACK, &[]));
    assert_eq!(s.user.connections().1, 0);
}

#[test]
fn what_the_guest_loses_is_sent_again() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(5001, port);
    let (mut host, _) = listener.accept().unwrap();
    let sent: Vec<u8> = (0..20_000u32).map(|n| (n / 7) as u8).collect();
    host.write_all(&sent).unwrap();
    let mut got = Vec::new();
    let mut dropped = false;
    while got.len() < sent.len() {
        let (segment, data) = s.segment();
        assert!(data.len() <= 1460);
        if !dropped && got.len() > 4000 {
            dropped = true;
            continue;
        }
        if segment.seq == guest.ack {
            guest.ack += u32::try_from(data.len()).unwrap();
            got.extend(data);
        }
        s.send(&guest.segment(ACK, &[]));
    }
    assert!(dropped && got == sent);
}

#[test]
fn a_closed_window_stops_and_an_open_one_goes_on() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(5002, port);
    let (mut host, _) = listener.accept().unwrap();
    guest.window = 0;
    s.send(&guest.segment(ACK, &[]));
    host.write_all(b"abc").unwrap();
    // A second later one byte asks whether the window is still closed.
    let (_, data) = s.segment();
    assert_eq!(data, b"a");
    guest.window = 1000;
    s.send(&guest.segment(ACK, &[]));
    let mut text = Vec::new();
    while text.len() < 3 {
        let (segment, data) = s.segment();
        if segment.seq == guest.ack {
            guest.ack += u32::try_from(data.len()).unwrap();
            text.extend(data);
            s.send(&guest.segment(ACK, &[]));
        }
    }
    assert_eq!(text, b"abc");
}

#[test]
fn a_card_without_room_holds_data_back_and_loses_none() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(5003, port);
    let (mut host, _) = listener.accept().unwrap();
    s.card.full.store(true, Ordering::Relaxed);
    host.write_all(&[7; 3000]).unwrap();
    s.until(|s| s.link.wants_room());
    s.card.full.store(false, Ordering::Relaxed);
    s.link.guest_has_room();
    let mut n = 0;
    while n < 3000 {
        let (_, data) = s.segment();
        n += data.len();
        guest.ack += u32::try_from(data.len()).unwrap();
        s.send(&guest.segment(ACK, &[]));
    }
    assert_eq!(n, 3000);
}

#[test]
fn a_host_that_does_not_read_closes_the_window() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(5004, port);
    let (host, _) = listener.accept().unwrap();
    let mut window = usize::MAX;
    for _ in 0..200_000 {
        s.send(&guest.segment(ACK, &[1; 1460]));
        let (answer, _) = s.segment();
        guest.seq = answer.ack;
        window = usize::from(answer.window);
        if window == 0 {
            break;
        }
    }
    assert_eq!(window, 0);
    assert!(s.user.connections().0 <= 3 << 20);
    drop(host);
}

#[test]
fn refused_connections_are_reset() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    drop(listener);
    let to = SocketAddr::new(Ipv4Addr::new(10, 0, 2, 2).into(), port);
    let guest = Guest { to, port: 5005, seq: 1, ack: 0, window: 1000 };
    s.send(&guest.segment(SYN, &[]));
    let (answer, _) = s.segment();
    assert_eq!(answer.flags & (RST | ACK), RST | ACK);
    assert_eq!(s.user.connections().1, 0);
}

#[test]
fn a_restricted_guest_is_refused() {
    let (_listener, port) = listener();
    let mut s = setup(|args| args.restrict = Some(true));
    let to = SocketAddr::new(Ipv4Addr::new(10, 0, 2, 2).into(), port);
    let guest = Guest { to, port: 5006, seq: 1, ack: 0, window: 1000 };
    s.send(&guest.segment(SYN, &[]));
    assert_eq!(s.segment().0.flags & RST, RST);
}

#[test]
fn a_thousand_idle_connections_hold_no_buffers_and_many_leave_nothing() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut hosts = Vec::new();
    for n in 0..300 {
        let mut guest = s.connect(6000 + n, port);
        let (mut host, _) = listener.accept().unwrap();
        host.write_all(b"x").unwrap();
        let (_, data) = s.segment();
        assert_eq!(data, b"x");
        guest.ack += 1;
        s.send(&guest.segment(ACK, &[]));
        hosts.push((guest, host));
    }
    assert_eq!(s.user.connections().1, 300);
    // Their memory is let go after a while without traffic.
    s.until(|s| s.user.connections().0 == 0);
    for (guest, host) in hosts {
        drop(host);
        s.send(&guest.segment(RST, &[]));
    }
    assert_eq!(s.user.connections(), (0, 0));
}

#[test]
fn forwarded_ports_reach_the_guest() {
    let (listener, port) = listener();
    drop(listener);
    let rule = Text { str: format!("tcp:127.0.0.1:{port}-:22") };
    let mut s = setup(|args| args.hostfwd = Some(vec![rule]));
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // The guest was never heard of: it is asked for.
    let question = s.frame();
    assert_eq!(Ethernet::parse(&question).unwrap().kind, wire::ARP);
    let mut answer = crate::arp::reply(&crate::arp::Arp::parse(&question).unwrap());
    answer[22..28].copy_from_slice(&MAC);
    s.send(&answer);
    let (syn, _) = s.segment();
    assert_eq!((syn.flags, syn.to), (SYN, SocketAddr::new(GUEST.into(), 22)));
    assert_eq!(syn.from.ip(), Ipv4Addr::new(10, 0, 2, 2));
    let mut guest = Guest { to: syn.from, port: 22, seq: 9, ack: syn.seq + 1, window: 9000 };
    s.send(&guest.segment(SYN | ACK, &[]));
    assert_eq!(s.segment().0.flags, ACK);
    guest.seq += 1;
    s.send(&guest.segment(ACK, b"SSH-2.0"));
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"SSH-2.0");
    assert!(s.user.table().contains("TCP[HOST_FORWARD]"));
    assert_eq!(s.user.remove_forward(&format!("tcp:127.0.0.1:{port}")), Some(true));
    assert_eq!(s.user.remove_forward(&format!("tcp:127.0.0.1:{port}")), Some(false));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_command_answers_where_it_was_put() {
    let rule = Text { str: "tcp:10.0.2.100:7-cmd:cat".into() };
    let mut s = setup(|args| args.guestfwd = Some(vec![rule]));
    let to = SocketAddr::new(Ipv4Addr::new(10, 0, 2, 100).into(), 7);
    let mut guest = Guest { to, port: 5007, seq: 1, ack: 0, window: 1000 };
    s.send(&guest.segment(SYN, &[]));
    let (answer, _) = s.segment();
    guest.seq += 1;
    guest.ack = answer.seq.wrapping_add(1);
    s.send(&guest.segment(ACK, b"echo"));
    let mut text = Vec::new();
    while text.len() < 4 {
        text.extend(s.segment().1);
    }
    assert_eq!(text, b"echo");
}

#[test]
fn datagrams_go_out_and_answers_come_as_the_gateway() {
    let mut s = setup(|_| {});
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let mut udp = 4000u16.to_be_bytes().to_vec();
    udp.extend(port.to_be_bytes());
    udp.extend([0, 11, 0, 0]);
    udp.extend(b"abc");
    s.send(&ip_frame(Ipv4Addr::new(10, 0, 2, 2), wire::UDP, &udp));
    let mut got = [0; 10];
    let (n, from) = host.recv_from(&mut got).unwrap();
    assert_eq!(&got[..n], b"abc");
    // Longer than the link takes: it comes in pieces.
    host.send_to(&[9; 4000], from).unwrap();
    let mut pieces = crate::reassembly::Reassembly::default();
    loop {
        let frame = s.frame();
        let ip = Ip::parse4(&frame, frame.len()).unwrap();
        assert_eq!(ip.from, Ipv4Addr::new(10, 0, 2, 2));
        let data = &frame[ip.start..ip.start + ip.len];
        if let Some(whole) = pieces.add(&ip, ip.fragment.unwrap(), data, 0) {
            assert_eq!(whole.len(), 4008);
            assert_eq!(&whole[..4], &[port.to_be_bytes(), 4000u16.to_be_bytes()].concat()[..]);
            break;
        }
    }
}

#[test]
fn dhcp_arp_and_ping_are_answered() {
    let mut s = setup(|_| {});
    let mut udp = vec![0, 68, 0, 67];
    let request = crate::dhcp::tests::request(1, 0x56, None);
    udp.extend(u16::try_from(8 + request.len()).unwrap().to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(request);
    s.send(&ip_frame(Ipv4Addr::BROADCAST, wire::UDP, &udp));
    let offer = s.frame();
    assert_eq!(&offer[ETHERNET + 20 + 8 + 16..][..4], &[10, 0, 2, 15]);
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 2];
    icmp.extend(b"data");
    s.send(&ip_frame(Ipv4Addr::new(10, 0, 2, 2), wire::ICMP, &icmp));
    let reply = s.frame();
    let ip = Ip::parse4(&reply, reply.len()).unwrap();
    let message = &reply[ip.start..ip.start + ip.len];
    assert_eq!(net::frame::fold(net::frame::sum(0, message)), 0xffff);
    assert_eq!((message[0], &message[8..]), (0, &b"data"[..]));
}

#[test]
fn routers_and_neighbours_of_ipv6_answer() {
    let mut s = setup(|_| {});
    let local: std::net::Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
    let ask = |to: &str, message: &[u8]| {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 2];
        frame.extend(MAC);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend([58, 255]);
        frame.extend(local.octets());
        frame.extend(to.parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend(message);
        frame
    };
    let check = |frame: &[u8]| {
        let ip = Ip::parse6(frame, frame.len()).unwrap();
        let message = frame[ip.start..ip.start + ip.len].to_vec();
        let sum = pseudo_sum(ip.from, ip.to, wire::ICMP6, ip.len);
        assert_eq!(net::frame::fold(net::frame::sum(sum, &message)), 0xffff);
        message
    };
    s.send(&ask("ff02::2", &[133, 0, 0, 0, 0, 0, 0, 0]));
    let message = check(&s.frame());
    assert_eq!((message[0], &message[32..34]), (134, &[0xfe, 0xc0][..]));
    assert_eq!(message[5], 0x40, "more by DHCPv6");
    let target: std::net::Ipv6Addr = "fec0::2".parse().unwrap();
    let question = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    s.send(&ask("ff02::1:ff00:2", &question));
    assert_eq!(check(&s.frame())[0], 136);
    s.send(&ask("fec0::2", &[128, 0, 0, 0, 0, 1, 0, 1, 7]));
    assert_eq!(check(&s.frame())[..1], [129]);
}
