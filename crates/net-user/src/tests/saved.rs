//! Connections over a save and a load.

use std::io::{Read as _, Write as _};

use device::Saved as _;
use vmstate::{LoadError, StateReader, StateWriter};

use super::*;

fn save(user: &User) -> Vec<u8> {
    let mut w = StateWriter::new();
    w.record(user.schema(), |w| user.save(w));
    w.into_bytes()
}

fn load(user: &User, bytes: &[u8]) -> Result<(), LoadError> {
    let mut r = StateReader::new(bytes);
    r.record(user.schema(), |r, version| user.load(r, version))
}

impl Setup {
    fn go_back(&self, bytes: &[u8]) {
        load(&self.user, bytes).unwrap();
        self.link.settle();
    }
}

#[test]
fn a_quiet_connection_goes_on() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(6000, port);
    let (mut host, _) = listener.accept().unwrap();
    let state = save(&s.user);
    s.go_back(&state);
    assert_eq!(s.segment().0.ack, guest.seq);
    s.send(&guest.segment(ACK, b"hello"));
    guest.seq += 5;
    assert_eq!(s.segment().0.ack, guest.seq);
    let mut got = [0; 5];
    host.read_exact(&mut got).unwrap();
    host.write_all(b"abc").unwrap();
    assert_eq!(s.segment().1, b"abc");
}

#[test]
fn what_was_on_its_way_comes_again() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(6001, port);
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(b"abc").unwrap();
    assert_eq!(s.segment().1, b"abc");
    let state = save(&s.user);
    guest.ack += 3;
    s.send(&guest.segment(ACK, &[]));
    s.go_back(&state);
    // The guest knows nothing of the bytes any more; a second later they are sent again.
    guest.ack -= 3;
    loop {
        let (segment, data) = s.segment();
        if !data.is_empty() {
            assert_eq!((segment.seq, data.as_slice()), (guest.ack, &b"abc"[..]));
            break;
        }
    }
}

#[test]
fn a_connection_that_went_on_is_broken_on_both_sides() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let mut guest = s.connect(6002, port);
    let (mut host, _) = listener.accept().unwrap();
    let state = save(&s.user);
    s.send(&guest.segment(ACK, b"more"));
    guest.seq += 4;
    let mut got = [0; 4];
    host.read_exact(&mut got).unwrap();
    assert_eq!(s.segment().0.ack, guest.seq);
    guest.seq -= 4;
    s.go_back(&state);
    let (segment, _) = s.segment();
    assert_eq!((segment.flags & RST, segment.seq), (RST, guest.ack));
    let broken = host.read(&mut got).map_err(|e| e.kind());
    assert_eq!(broken, Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(s.user.connections().1, 0);
}

#[test]
fn connections_of_another_process_and_of_the_future_are_broken() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let before = save(&s.user);
    let guest = s.connect(6003, port);
    let (mut host, _) = listener.accept().unwrap();
    let state = save(&s.user);
    s.go_back(&before);
    let broken = host.read(&mut [0; 4]).map_err(|e| e.kind());
    assert_eq!(broken, Err(std::io::ErrorKind::ConnectionReset));
    assert!(s.card.got.lock().is_empty(), "the guest knows nothing of it");
    let mut other = setup(|_| {});
    other.go_back(&state);
    let (segment, _) = other.segment();
    assert_eq!((segment.flags & RST, segment.seq, segment.ack), (RST, guest.ack, guest.seq));
}

#[test]
fn a_broken_state_is_refused_or_harmless() {
    let mut s = setup(|_| {});
    let (listener, port) = listener();
    let _guest = s.connect(6004, port);
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(b"abc").unwrap();
    assert_eq!(s.segment().1, b"abc");
    let state = save(&s.user);
    for n in 0..state.len() {
        assert!(load(&s.user, &state[..n]).is_err());
    }
    let other = setup(|_| {});
    for n in 0..state.len() {
        for bit in [0, 3, 7] {
            let mut state = state.clone();
            state[n] ^= 1 << bit;
            if load(&other.user, &state).is_ok() {
                other.link.settle();
            }
        }
    }
}
