//! What a guest hears of packets that do not arrive; a host that speaks first.

use super::*;
use std::net::Ipv6Addr;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

fn datagram(port: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + data.len()).unwrap();
    let words = [4000, port, len, 0].into_iter().flat_map(u16::to_be_bytes);
    words.chain(data.iter().copied()).collect()
}

fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    frame[ETHERNET + 8] = hops;
    frame
}

impl Setup {
    /// The next ICMP message with a right checksum: who sent it, and the message.
    fn icmp(&mut self) -> (IpAddr, Vec<u8>) {
        loop {
            let frame = self.frame();
            let ip = match Ethernet::parse(&frame).unwrap().kind {
                wire::IPV4 => Ip::parse4(&frame, frame.len()).unwrap(),
                wire::IPV6 => Ip::parse6(&frame, frame.len()).unwrap(),
                _ => continue,
            };
            let message = frame[ip.start..ip.start + ip.len].to_vec();
            let sum = match ip.protocol {
                wire::ICMP => 0,
                wire::ICMP6 if message[0] < 128 => pseudo_sum(ip.from, ip.to, wire::ICMP6, ip.len),
                _ => continue,
            };
            assert_eq!(net::frame::fold(net::frame::sum(sum, &message)), 0xffff);
            return (ip.from, message);
        }
    }
}

#[test]
fn a_closed_port_of_the_host_is_unreachable() {
    let mut s = setup(|_| {});
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    // The second one must not suffer from what the first one met.
    for _ in 0..2 {
        let sent = datagram(port, b"hello");
        s.send(&ip_frame(GATEWAY, wire::UDP, &sent));
        let (from, message) = s.icmp();
        assert_eq!((from, &message[..2]), (GATEWAY.into(), &[3, 3][..]));
        // The guest finds its datagram in what comes back: addresses, ports, length, data.
        let quoted = &message[8..];
        assert_eq!(net::frame::fold(net::frame::sum(0, &quoted[..20])), 0xffff);
        assert_eq!(quoted[12..20], [GUEST.octets(), GATEWAY.octets()].concat());
        assert_eq!(quoted[20..], sent);
    }
    let open = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    s.send(&ip_frame(GATEWAY, wire::UDP, &datagram(port, b"there?")));
    let mut got = [0; 10];
    assert_eq!(open.recv(&mut got).unwrap(), 6, "the socket still sends");
}

#[test]
fn a_closed_port_is_unreachable_over_ipv6_too() {
    let mut s = setup(|_| {});
    let Ok(closed) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) else { return };
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let (from, to): (Ipv6Addr, Ipv6Addr) =
        ("fec0::15".parse().unwrap(), "fec0::2".parse().unwrap());
    let sent = datagram(port, b"hello");
    let mut frame = [&[0x52, 0x56, 0, 0, 0, 2][..], &MAC, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend(u16::try_from(sent.len()).unwrap().to_be_bytes());
    frame.extend([wire::UDP, 64]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(&sent);
    s.send(&frame);
    let (router, message) = s.icmp();
    assert_eq!((router, &message[..2]), (to.into(), &[1, 4][..]));
    assert_eq!(message[16..48], [from.octets(), to.octets()].concat());
    assert_eq!(message[48..], sent);
    // A packet that may pass no router gets no further than the first one.
    frame[ETHERNET + 7] = 1;
    frame[ETHERNET + 24..ETHERNET + 40]
        .copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    s.send(&frame);
    let (router, message) = s.icmp();
    assert_eq!(
        (router, &message[..2], &message[8..]),
        (to.into(), &[3, 0][..], &frame[ETHERNET..])
    );
}

#[test]
fn packets_that_may_pass_no_router_come_back() {
    let mut s = setup(|_| {});
    let far = Ipv4Addr::new(192, 0, 2, 77);
    let question = [8, 0, 0, 0, 0, 1, 0, 2, 7];
    for (protocol, payload) in [(wire::UDP, datagram(9, b"x")), (wire::ICMP, question.to_vec())] {
        let frame = with_hops(ip_frame(far, protocol, &payload), 1);
        s.send(&frame);
        let (from, message) = s.icmp();
        assert_eq!((from, &message[..2]), (GATEWAY.into(), &[11, 0][..]));
        assert_eq!(message[8..], frame[ETHERNET..]);
    }
    // Nothing is said of an error that met one; the gateway itself is no router further.
    s.send(&with_hops(ip_frame(far, wire::ICMP, &[3, 3, 0, 0, 0, 0, 0, 0]), 1));
    s.send(&with_hops(ip_frame(GATEWAY, wire::ICMP, &question), 1));
    assert_eq!(s.icmp().1[0], 0, "an answer of the gateway");
}

#[test]
fn a_host_that_speaks_first_waits_for_the_guest() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let to = SocketAddr::new(GATEWAY.into(), port);
    let mut guest = Guest { to, port: 4100, seq: 1000, ack: 0, window: 60000 };
    s.send(&guest.segment(SYN, &[]));
    let (answer, _) = s.segment();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"220 welcome").unwrap();
    // The loop hears of it once; after that there is nothing to do until the guest answers.
    let begin = host::monotonic_ns();
    for _ in 0..4 {
        s.events.run_once(Some(Duration::from_millis(20))).unwrap();
    }
    assert!(host::monotonic_ns() - begin >= 40_000_000, "the loop does not spin");
    assert!(s.card.got.lock().is_empty());
    (guest.seq, guest.ack) = (1001, answer.seq.wrapping_add(1));
    s.send(&guest.segment(ACK, &[]));
    loop {
        let (_, data) = s.segment();
        if !data.is_empty() {
            assert_eq!(data, b"220 welcome");
            break;
        }
    }
}
