//! A network with `restrict=on`, forwarding to a server at a path, which works there too, and DHCPv6.

use std::net::Ipv6Addr;
use std::os::unix::net::UnixListener;

use super::*;

fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut all = [from.to_be_bytes(), to.to_be_bytes()].concat();
    all.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    all.extend([0, 0]);
    all.extend(data);
    all
}

/// A datagram over IPv6, whose checksum is set.
fn datagram6(to: &str, mut datagram: Vec<u8>) -> Vec<u8> {
    let from: Ipv6Addr = "fec0::5054:ff:fe12:3456".parse().unwrap();
    let to: Ipv6Addr = to.parse().unwrap();
    let sum = pseudo_sum(from.into(), to.into(), wire::UDP, datagram.len());
    let sum = !net::frame::fold(net::frame::sum(sum, &datagram));
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x52, 0x56, 0, 0, 0, 2];
    frame.extend(MAC);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(datagram.len()).unwrap().to_be_bytes());
    frame.extend([wire::UDP, 64]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(datagram);
    frame
}

#[test]
fn a_guest_with_an_address_asks_dhcp_for_the_rest() {
    let mut s = setup(|args| args.bootfile = Some("boot.efi".into()));
    let request = b"\x0b\x11\x22\x33\0\x06\0\x04\0\x17\0\x3b";
    for to in ["ff02::1:2", "fec0::2"] {
        s.send(&datagram6(to, udp(546, 547, request)));
        let frame = s.frame();
        let ip = Ip::parse6(&frame, frame.len()).unwrap();
        assert_eq!(ip.from, "fec0::2".parse::<IpAddr>().unwrap());
        let answer = &frame[ip.start..ip.start + ip.len];
        assert_eq!(answer[..4], [2, 0x23, 2, 0x22], "ports");
        assert_eq!(answer[8..12], [7, 0x11, 0x22, 0x33]);
        assert!(answer.ends_with(b"/boot.efi"));
    }
}

fn echo() -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 2];
    icmp.extend(b"data");
    icmp
}

/// Asks for an address. What was sent before is answered before.
fn ask_for_address(s: &Setup) {
    let request = crate::dhcp::tests::request(1, 0x56, None);
    s.send(&ip_frame(Ipv4Addr::BROADCAST, wire::UDP, &udp(68, 67, &request)));
}

/// The frames up to the offer of an address, and that.
fn until_offer(s: &mut Setup) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut before = Vec::new();
    loop {
        let frame = s.frame();
        let ip = Ethernet::parse(&frame).unwrap().kind == wire::IPV4;
        if ip && frame[ETHERNET + 9] == wire::UDP && frame[ETHERNET + 20..][..2] == [0, 67] {
            return (before, frame);
        }
        before.push(frame);
    }
}

/// Whether a DHCP message has an option.
fn has_option(frame: &[u8], code: u8) -> bool {
    let mut rest = &frame[ETHERNET + 20 + 8 + 240..];
    while let [option, len, more @ ..] = rest {
        if *option == code {
            return true;
        }
        if *option == 255 {
            break;
        }
        rest = &more[usize::from(*len)..];
    }
    false
}

#[test]
fn nothing_is_reached_from_a_closed_network() {
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_nonblocking(true).unwrap();
    let port = host.local_addr().unwrap().port();
    let file = tempfile::tempdir().unwrap();
    std::fs::write(file.path().join("x"), "secret").unwrap();
    for restrict in [false, true] {
        let mut s = setup(|args| {
            args.restrict = Some(restrict);
            args.tftp = Some(file.path().to_str().unwrap().into());
        });
        let gateway = Ipv4Addr::new(10, 0, 2, 2);
        s.send(&ip_frame(gateway, wire::UDP, &udp(4000, port, b"abc")));
        s.send(&ip_frame(gateway, wire::UDP, &udp(4001, 69, b"\0\x01x\0octet\0")));
        ask_for_address(&s);
        let (before, offer) = until_offer(&mut s);
        // Files are there because they were named.
        assert_eq!(before.len(), 1, "the file's first block: {before:?}");
        assert!(before[0].ends_with(b"secret"));
        assert_eq!(host.recv(&mut [0; 10]).is_ok(), !restrict);
        // Neither a router nor a name server is told of.
        assert_eq!([has_option(&offer, 3), has_option(&offer, 6)], [!restrict; 2]);
        // The gateway itself answers.
        s.send(&ip_frame(gateway, wire::ICMP, &echo()));
        let reply = s.frame();
        let ip = Ip::parse4(&reply, reply.len()).unwrap();
        assert_eq!((ip.from, reply[ip.start]), (IpAddr::V4(gateway), 0));
    }
}

#[test]
fn connections_and_questions_out_of_a_closed_network_are_refused() {
    let (listener, port) = listener();
    listener.set_nonblocking(true).unwrap();
    let mut s = setup(|args| args.restrict = Some(true));
    for (n, ip) in [[10, 0, 2, 2], [10, 0, 2, 3], [127, 0, 0, 1], [192, 0, 2, 1]].iter().enumerate()
    {
        let to = SocketAddr::new(Ipv4Addr::from(*ip).into(), port);
        let guest = Guest { to, port: 5200 + n as u16, seq: 1, ack: 0, window: 1000 };
        s.send(&guest.segment(SYN, &[]));
        assert_eq!(s.segment().0.flags & RST, RST, "{to}");
    }
    // Names, and echoes of hosts outside: not a word.
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    s.send(&ip_frame(Ipv4Addr::new(10, 0, 2, 3), wire::UDP, &udp(4002, 53, question)));
    s.send(&ip_frame(Ipv4Addr::LOCALHOST, wire::ICMP, &echo()));
    // A datagram over IPv6 to the host.
    let frame = datagram6("fec0::2", udp(4003, port, b"abc"));
    let host = UdpSocket::bind(("::1", port)).unwrap();
    host.set_nonblocking(true).unwrap();
    s.send(&frame);
    ask_for_address(&s);
    until_offer(&mut s);
    assert!(host.recv(&mut [0; 10]).is_err() && listener.accept().is_err());
    // The same datagram arrives where nothing is closed.
    let open = setup(|_| {});
    open.send(&frame);
    host.set_nonblocking(false).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(host.recv(&mut [0; 10]).unwrap(), 3);
}

#[test]
fn a_server_at_a_path_answers_where_it_was_put_even_in_a_closed_network() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("server");
    let listener = UnixListener::bind(&path).unwrap();
    let rule = Text { str: format!("tcp:10.0.2.100:7-unix:{}", path.display()) };
    let mut s = setup(|args| {
        args.restrict = Some(true);
        args.guestfwd = Some(vec![rule]);
    });
    let server = evloop::spawn("server", move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = [0; 5];
        stream.read_exact(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        _ = stream.read(&mut got);
    })
    .unwrap();
    more::echoes(&mut s, 5300);
    server.join().unwrap();
}
