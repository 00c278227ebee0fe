//! The control queue (5.1.6.5): receive modes, addresses, VLANs, announcements, queue pairs,
//! guest offloads. Everything in it is the driver's word and is checked.

use super::feature as f;
use super::rss::Rss;
use super::{State, VirtioNet};

/// Guest offloads that can be switched (5.1.6.5.6.1).
pub(super) const OFFLOADS: u64 = f::GUEST_CSUM
    | f::GUEST_TSO4
    | f::GUEST_TSO6
    | f::GUEST_ECN
    | f::GUEST_UFO
    | f::GUEST_USO4
    | f::GUEST_USO6;

const OK: u8 = 0;
const ERROR: u8 = 1;
/// Longest command: class, command, and two tables of addresses.
const MAX_COMMAND: usize = 64 << 10;
/// Most addresses of both tables together; more make the table overflow.
pub(super) const MAX_MACS: usize = 64;

/// What a command means for the card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) ok: bool,
    pub(super) filter: bool,
    pub(super) offloads: bool,
}

fn switch(value: &mut bool, data: &[u8]) -> Option<()> {
    match data {
        [word] => {
            *value = *word != 0;
            Some(())
        }
        _ => None,
    }
}

/// A table: a count and so many addresses; gives what follows it.
fn table(data: &[u8]) -> Option<(Vec<u64>, bool, &[u8])> {
    let count = u32::from_le_bytes(data.get(..4)?.try_into().ok()?);
    let len = usize::try_from(count).ok()?.checked_mul(6)?;
    let rest = data.get(4..)?;
    let (entries, rest) = rest.split_at_checked(len)?;
    let macs = entries.as_chunks::<6>().0.iter().map(|mac| super::mac_number(*mac));
    let overflow = entries.len() / 6 > MAX_MACS;
    Some((if overflow { Vec::new() } else { macs.collect() }, overflow, rest))
}

impl State {
    /// Carries a command out: class, command, data. `None`: it is refused.
    fn command(&mut self, class: u8, command: u8, data: &[u8], pairs: u16) -> Option<Outcome> {
        let filter = Outcome { ok: true, filter: true, offloads: false };
        match (class, command) {
            (0, 0) => switch(&mut self.promiscuous, data)?,
            (0, 1) => switch(&mut self.all_multicast, data)?,
            (0, 2) => switch(&mut self.all_unicast, data)?,
            (0, 3) => switch(&mut self.no_multicast, data)?,
            (0, 4) => switch(&mut self.no_unicast, data)?,
            (0, 5) => switch(&mut self.no_broadcast, data)?,
            (1, 0) => {
                let (unicast, unicast_overflow, rest) = table(data)?;
                let (multicast, multicast_overflow, rest) = table(rest)?;
                if !rest.is_empty() {
                    return None;
                }
                (self.unicast, self.unicast_overflow) = (unicast, unicast_overflow);
                (self.multicast, self.multicast_overflow) = (multicast, multicast_overflow);
            }
            (1, 1) => self.mac = super::mac_number(data.try_into().ok()?),
            (2, 0 | 1) => {
                let id = usize::from(u16::from_le_bytes(data.try_into().ok()?));
                let word = self.vlans.get_mut(id / 64).filter(|_| id < 4096)?;
                let bit = 1 << (id % 64);
                *word = if command == 0 { *word | bit } else { *word & !bit };
            }
            (3, 0) if self.announce => {
                self.announce = false;
                return Some(Outcome { ok: true, ..Outcome::default() });
            }
            (4, 0) => {
                let count = u16::from_le_bytes(data.try_into().ok()?);
                if count == 0 || count > pairs || !self.has(f::MQ) {
                    return None;
                }
                self.pairs = count;
                // 5.1.6.5.5: without a table again.
                self.rss = self.rss.take().filter(|_| !self.has(f::RSS));
                return Some(Outcome { ok: true, ..Outcome::default() });
            }
            (4, 1) if self.has(f::RSS) => {
                let (rss, sends) = Rss::steering(data, pairs)?;
                (self.rss, self.pairs) = (Some(rss), sends);
                return Some(Outcome { ok: true, ..Outcome::default() });
            }
            (4, 2) if self.has(f::HASH_REPORT) => {
                self.rss = Some(Rss::reporting(data)?);
                return Some(Outcome { ok: true, ..Outcome::default() });
            }
            (5, 0) => {
                let wanted = u64::from_le_bytes(data.try_into().ok()?);
                let allowed = self.features & OFFLOADS;
                if !self.has(f::CTRL_GUEST_OFFLOADS) || wanted & !allowed != 0 {
                    return None;
                }
                self.offloads = wanted;
                return Some(Outcome { ok: true, filter: false, offloads: true });
            }
            _ => return None,
        }
        Some(filter)
    }

    /// Carries out what a driver wrote.
    pub(super) fn control(&mut self, bytes: &[u8], pairs: u16) -> Outcome {
        let [class, command, data @ ..] = bytes else { return Outcome::default() };
        self.command(*class, *command, data, pairs).unwrap_or_default()
    }
}

impl VirtioNet {
    /// Serves the control queue, in the calling thread: the driver waits for the answer.
    pub(super) fn serve_control(&self) {
        let Some(queue) = self.queue(2 * self.pairs) else { return };
        while let Some(chain) = queue.pop() {
            let bytes = chain.read_up_to(MAX_COMMAND);
            let outcome = self.state.lock().control(&bytes, self.pairs);
            let answer = if outcome.ok { OK } else { ERROR };
            let written = chain.write(0, &[answer]);
            queue.push(chain, written);
            if outcome.filter {
                self.filter_changed();
            }
            if let Some(link) = self.link.as_ref().filter(|_| outcome.offloads) {
                link.takes_changed();
            }
        }
        queue.signal();
    }
}

/// Feeds random commands to the parser; for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    let mut state = State { features: u64::MAX, ..State::default() };
    for command in bytes.chunks(16) {
        state.control(command, 4);
    }
    state.control(bytes, 4);
    assert!(state.unicast.len() <= MAX_MACS && state.multicast.len() <= MAX_MACS);
    state.wants(bytes);
}
