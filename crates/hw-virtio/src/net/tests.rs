//! Receive modes, tables and commands.

use super::*;

fn frame(to: Mac) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([0x52, 0x54, 0, 0, 0, 1, 8, 0]);
    frame
}

const OWN: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn state() -> State {
    State { mac: mac_number(OWN), promiscuous: false, features: u64::MAX, ..State::default() }
}

#[test]
fn only_what_the_driver_wants_passes() {
    let mut s = state();
    let other = [0x52, 0x54, 0, 9, 9, 9];
    let group = [0x33, 0x33, 0, 0, 0, 1];
    assert!(s.wants(&frame(OWN)) && s.wants(&frame([0xff; 6])));
    assert!(!s.wants(&frame(other)) && !s.wants(&frame(group)));
    let mut tables = vec![1, 0, 1, 0, 0, 0];
    tables.extend(other);
    tables.extend([1, 0, 0, 0]);
    tables.extend(group);
    assert!(s.control(&tables, 1).filter);
    assert!(s.wants(&frame(other)) && s.wants(&frame(group)));
    assert!(s.control(&[0, 3, 1], 1).ok && !s.wants(&frame(group)));
    assert!(s.control(&[0, 5, 1], 1).ok && !s.wants(&frame([0xff; 6])));
    assert!(s.control(&[0, 0, 1], 1).ok && s.wants(&frame(group)));
}

#[test]
fn vlans_that_were_not_added_are_dropped() {
    let mut s = state();
    s.vlans = [0; 64];
    let mut tagged = frame(OWN);
    tagged.truncate(12);
    tagged.extend([0x81, 0, 0x20, 5, 8, 0]);
    assert!(!s.wants(&tagged));
    assert!(s.control(&[2, 0, 5, 0], 1).ok && s.wants(&tagged));
    assert!(s.control(&[2, 1, 5, 0], 1).ok && !s.wants(&tagged));
    assert!(!s.control(&[2, 0, 0, 16], 1).ok);
}

#[test]
fn broken_commands_are_refused_and_change_nothing() {
    let mut s = state();
    for command in [
        &[][..],
        &[0],
        &[0, 0],
        &[0, 0, 1, 1],
        &[0, 9, 1],
        &[1, 0],
        &[1, 0, 255, 255, 255, 255],
        &[1, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        &[1, 1, 1, 2, 3],
        &[2, 0, 1],
        &[3, 0],
        &[4, 0, 0, 0],
        &[4, 0, 5, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0x80],
        &[9, 9, 9],
    ] {
        assert!(!s.control(command, 4).ok, "{command:?}");
    }
    assert!(!s.promiscuous && s.mac == mac_number(OWN) && s.pairs == 1);
    assert!(s.control(&[4, 0, 4, 0], 4).ok && s.pairs == 4);
}

#[test]
fn tables_that_are_too_long_let_all_through() {
    let mut s = state();
    let mut tables = vec![1, 0, 100, 0, 0, 0];
    tables.extend([2; 600]);
    tables.extend([0; 4]);
    assert!(s.control(&tables, 1).ok && s.unicast_overflow && s.unicast.is_empty());
    assert!(s.wants(&frame([2, 9, 9, 9, 9, 9])));
}

#[test]
fn random_commands_do_no_harm() {
    let mut x = 1u64;
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..x % 90)
            .map(|_| {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (x >> 60) as u8
            })
            .collect();
        control::fuzz(&bytes);
        x = x.wrapping_add(1);
    }
}
