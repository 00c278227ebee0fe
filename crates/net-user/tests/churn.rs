//! A hundred thousand connections of a guest that opens and closes one after the other, over real
//! sockets of the loopback: neither tables nor the process grow.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::Duration;

use device::{CharPort, CharSource};
use evloop::{Clock, EventLoop};
use net::{Context, Frame, Hubs, Link, Nic, NicInfo, UserNet as _};
use net_user::{User, UserArgs};
use parking_lot::Mutex;

const ALL: u32 = 100_000;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN: u8 = 1;

struct NoChars;

impl CharSource for NoChars {
    fn port(&self, _: &str) -> qapi::Result<CharPort> {
        Err(qapi::Error::generic("none"))
    }
}

#[derive(Default)]
struct Card(Mutex<VecDeque<Vec<u8>>>);

impl Nic for Card {
    fn info(&self) -> NicInfo {
        NicInfo { name: None, mac: [2, 0, 0, 0, 0, 1] }
    }
    fn receive(&self, frame: &Frame<'_>) -> bool {
        self.0.lock().push_back(frame.to_vec(2000));
        true
    }
    fn set_link(&self, _: bool) {}
}

/// A segment to the gateway's port.
fn segment(port: u16, to: u16, (seq, ack): (u32, u32), flags: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend(u16::try_from(40 + data.len()).unwrap().to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    frame.extend(port.to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend(seq.to_be_bytes());
    frame.extend(ack.to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(data);
    frame
}

/// Resident memory in kilobytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs the loop until a TCP segment comes that has one of the flags: its sequence number.
fn wait(events: &mut EventLoop, card: &Card, flags: u8) -> u32 {
    for _ in 0..2000 {
        while let Some(frame) = card.0.lock().pop_front() {
            if frame.get(23) == Some(&6) && frame[47] & flags != 0 {
                return u32::from_be_bytes(frame[38..42].try_into().unwrap());
            }
        }
        events.run_once(Some(Duration::from_millis(5))).unwrap();
    }
    panic!("no segment came");
}

#[test]
fn a_hundred_thousand_connections_leave_no_growth() {
    let mut events = EventLoop::new().unwrap();
    let clock = Clock::host();
    events.handle().serve_clock(&clock);
    let context = Context {
        handle: events.handle(),
        clock,
        fds: None,
        chardevs: Arc::new(NoChars),
        hubs: Arc::<Hubs>::default(),
        tell: Arc::new(|_, _| {}),
    };
    let link = Link::new("n", "user", events.handle());
    let user = User::open(&UserArgs::default(), &link, &context).unwrap();
    link.connect(user.clone());
    let card = Arc::new(Card::default());
    let nic: Arc<dyn Nic> = card.clone();
    let weak: Weak<dyn Nic> = Arc::downgrade(&nic);
    assert!(link.attach(weak));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = listener.local_addr().unwrap().port();
    let send = |bytes: &[u8]| {
        link.from_guest(&Frame::plain(&[bytes]));
        link.guest_done();
    };
    let mut at_first = 0;
    for n in 0..ALL {
        let port = u16::try_from(1024 + n % 60_000).unwrap();
        send(&segment(port, to, (n, 0), SYN, &[]));
        let ack = wait(&mut events, &card, SYN).wrapping_add(1);
        send(&segment(port, to, (n + 1, ack), ACK, b"ask"));
        let (mut host, _) = listener.accept().unwrap();
        let mut got = [0; 3];
        host.read_exact(&mut got).unwrap();
        host.write_all(b"answer").unwrap();
        // A reset of the host's side, a reset of the guest's, or both say that they are done.
        match n % 3 {
            0 => {
                rustix::net::sockopt::set_socket_linger(&host, Some(Duration::ZERO)).unwrap();
                drop(host);
                wait(&mut events, &card, RST);
            }
            1 => {
                send(&segment(port, to, (n + 4, ack), RST, &[]));
                rustix::net::sockopt::set_socket_linger(&host, Some(Duration::ZERO)).unwrap();
            }
            _ => {
                send(&segment(port, to, (n + 4, ack), ACK | FIN, &[]));
                assert_eq!(host.read(&mut got).unwrap(), 0);
                rustix::net::sockopt::set_socket_linger(&host, Some(Duration::ZERO)).unwrap();
                drop(host);
                wait(&mut events, &card, RST | FIN);
                send(&segment(port, to, (n + 5, ack.wrapping_add(7)), RST | ACK, &[]));
            }
        }
        card.0.lock().clear();
        if n == ALL / 10 {
            at_first = resident();
        }
    }
    let lines = user.table().lines().count();
    assert!(lines <= 2, "connections stay:\n{lines}");
    let grown = resident().saturating_sub(at_first);
    println!("{ALL} connections, {grown} kB more than after the first tenth");
    assert!(grown < 2048, "{grown} kB more");
}
