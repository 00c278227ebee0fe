//! Forwarding to character back ends and servers, pieces of IPv6 datagrams.

use std::net::Ipv6Addr;

use device::{CharBackend, CharReceiver};

use super::*;

/// Gives back what it is sent.
#[derive(Default)]
struct Mirror {
    front: Mutex<Option<Weak<dyn CharReceiver>>>,
    kept: Mutex<Vec<u8>>,
}

impl Mirror {
    fn give(&self) {
        let front = self.front.lock().clone().and_then(|front| front.upgrade());
        let Some(front) = front else { return };
        let mut kept = self.kept.lock();
        let n = kept.len().min(front.room());
        let data: Vec<u8> = kept.drain(..n).collect();
        drop(kept);
        front.receive(&data);
    }
}

impl CharBackend for Mirror {
    fn send(&self, data: &[u8]) -> usize {
        self.kept.lock().extend(data);
        self.give();
        data.len()
    }
    fn attach(&self, front: Weak<dyn CharReceiver>) {
        *self.front.lock() = Some(front);
    }
    fn accept_input(&self) {
        self.give();
    }
}

struct Mirrors(Arc<Mirror>);

impl CharSource for Mirrors {
    fn port(&self, id: &str) -> qapi::Result<CharPort> {
        assert_eq!(id, "c");
        Ok(CharPort::new(self.0.clone()))
    }
}

/// Says something at an address of the guest's network and hears the same.
pub(super) fn echoes(s: &mut Setup, port: u16) {
    let to = SocketAddr::new(Ipv4Addr::new(10, 0, 2, 100).into(), 7);
    let mut guest = Guest { to, port, seq: 1, ack: 0, window: 1000 };
    s.send(&guest.segment(SYN, &[]));
    let (answer, _) = s.segment();
    assert_eq!(answer.flags, SYN | ACK);
    (guest.seq, guest.ack) = (2, answer.seq + 1);
    s.send(&guest.segment(ACK, b"hello"));
    guest.seq += 5;
    loop {
        let (_, data) = s.segment();
        if !data.is_empty() {
            assert_eq!(data, b"hello");
            break;
        }
    }
    s.send(&guest.segment(RST, &[]));
}

#[test]
fn a_character_back_end_answers_where_it_was_put() {
    let rule = Text { str: "tcp:10.0.2.100:7-chardev:c".into() };
    let chars = Arc::new(Mirrors(Arc::default()));
    let mut s = setup_with(|args| args.guestfwd = Some(vec![rule]), chars);
    echoes(&mut s, 5100);
    echoes(&mut s, 5101);
}

#[test]
fn a_server_answers_where_it_was_put() {
    let (listener, port) = listener();
    let rule = Text { str: format!("tcp:10.0.2.100:7-tcp:127.0.0.1:{port}") };
    let mut s = setup(|args| args.guestfwd = Some(vec![rule]));
    let server = evloop::spawn("server", move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = [0; 5];
        stream.read_exact(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        _ = stream.read(&mut got);
    })
    .unwrap();
    echoes(&mut s, 5102);
    server.join().unwrap();
    for wrong in ["pipe:/x", "tcp:nonsense", "cmd", ""] {
        let rule = Text { str: format!("tcp:10.0.2.100:7-{wrong}") };
        let args = UserArgs { guestfwd: Some(vec![rule]), ..UserArgs::default() };
        assert!(User::open(&args, &s.link, &context(&s.events, Arc::new(NoChars))).is_err());
    }
}

/// A piece of a datagram of the guest over IPv6.
fn piece(from: Ipv6Addr, word: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x56, 0, 0, 0, 2];
    frame.extend(MAC);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(data.len() + 8).unwrap().to_be_bytes());
    frame.extend([wire::FRAGMENT, 64]);
    frame.extend(from.octets());
    frame.extend("fec0::2".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend([wire::UDP, 0]);
    frame.extend(word.to_be_bytes());
    frame.extend([0, 0, 0, 9]);
    frame.extend(data);
    frame
}

#[test]
fn long_datagrams_of_ipv6_come_and_go_in_pieces() {
    let mut s = setup(|_| {});
    let Ok(host) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) else { return };
    let from: Ipv6Addr = "fec0::15".parse().unwrap();
    let mut datagram = 4000u16.to_be_bytes().to_vec();
    datagram.extend(host.local_addr().unwrap().port().to_be_bytes());
    datagram.extend(3008u16.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend((0..3000u32).map(|n| n as u8));
    s.send(&piece(from, 2000, &datagram[2000..]));
    s.send(&piece(from, 1, &datagram[..2000]));
    let mut got = [0; 4000];
    let (n, back) = host.recv_from(&mut got).unwrap();
    assert_eq!(got[..n], datagram[8..]);
    host.send_to(&got[..n], back).unwrap();
    let (mut whole, mut more) = (Vec::<u8>::new(), true);
    while more {
        let frame = s.frame();
        if Ethernet::parse(&frame).unwrap().kind != wire::IPV6 || frame[20] != wire::FRAGMENT {
            continue;
        }
        assert!(frame.len() <= 1514);
        let ip = Ip::parse6(&frame, frame.len()).unwrap();
        let piece = ip.fragment.unwrap();
        assert_eq!((piece.offset, ip.protocol), (whole.len(), wire::UDP));
        whole.extend(&frame[ip.start..ip.start + ip.len]);
        more = piece.more;
    }
    assert_eq!(whole[8..], datagram[8..]);
}
