//! Announcements: frames that tell switches where a card is (`announce-self`).

use std::sync::{Arc, Weak};

use evloop::Timer;
use parking_lot::Mutex;

use crate::frame::Frame;
use crate::link::Mac;
use crate::table::Netdevs;

/// How often, in milliseconds.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Time before the second one.
    pub initial: u64,
    /// Longest time.
    pub max: u64,
    /// How many.
    pub rounds: u64,
    /// How much the time grows.
    pub step: u64,
    /// Cards by name; empty: all.
    pub cards: Vec<String>,
}

/// A reverse ARP request (RFC 903) from a card, as the peer sends.
fn rarp(mac: Mac) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    for _ in 0..2 {
        frame.extend(mac);
        frame.extend([0; 4]);
    }
    frame.resize(60, 0);
    frame
}

struct Run {
    what: Announcement,
    round: u64,
    timer: Option<Timer>,
}

/// Announces now, and again until all rounds are done.
pub fn announce(netdevs: &Arc<Netdevs>, what: Announcement) {
    let run = Arc::new(Mutex::new(Run { what, round: 0, timer: None }));
    let (table, weak): (Weak<Netdevs>, _) = (Arc::downgrade(netdevs), Arc::downgrade(&run));
    let timer = netdevs.context().clock.timer(move || {
        if let (Some(table), Some(run)) = (table.upgrade(), weak.upgrade()) {
            step(&table, &run);
        }
    });
    run.lock().timer = Some(timer);
    netdevs.keep_announcing(run.clone());
    step(netdevs, &run);
}

fn step(netdevs: &Netdevs, run: &Mutex<Run>) {
    let cards = run.lock().what.cards.clone();
    for (nic, link) in netdevs.nics() {
        let info = nic.info();
        let named = info.name.as_ref().is_some_and(|name| cards.contains(name));
        if !cards.is_empty() && !named {
            continue;
        }
        if let Some(link) = link {
            let bytes = rarp(info.mac);
            link.from_guest(&Frame::plain(&[&bytes]));
            link.guest_done();
        }
        nic.announce();
    }
    let mut run = run.lock();
    run.round += 1;
    if run.round >= run.what.rounds {
        return;
    }
    let grown = (run.round - 1).saturating_mul(run.what.step);
    let wait = run.what.initial.saturating_add(grown).min(run.what.max);
    if let Some(timer) = &run.timer {
        let now = netdevs.context().clock.now_ns();
        timer.arm_at(now.saturating_add(wait.saturating_mul(1_000_000)));
    }
}
