//! Hashes of frames: reported to the driver, and as the way to choose a receive queue
//! (5.1.6.5.6, 5.1.6.5.7). The hash itself is in `net::rss`.

use derive::VmState;
use net::Frame;
use net::rss::{Flow, KEY};

use super::{State, feature as f};

/// Kinds of hash that there are (5.1.6.4.3.1): IPv4, TCP and UDP over it, the same for IPv6, and
/// those of IPv6 with extension headers.
pub(super) const TYPES: u32 = 0x1ff;
/// Longest table.
pub(super) const MAX_TABLE: usize = 128;

/// What the driver wants.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-net-rss", version = 1)]
pub(super) struct Rss {
    types: u32,
    key: [u8; KEY],
    /// Frames are spread by it; else the hash is only told.
    steers: bool,
    /// Queue pairs by the hash's lower bits; as many as a power of two.
    #[vmstate(max = 128)]
    table: Vec<u16>,
    /// The pair for frames without a hash.
    unclassified: u16,
}

/// Reads little-endian words off the front.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn word(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    /// The key at the end; a shorter one is filled up with zeroes.
    fn key(mut self) -> Option<[u8; KEY]> {
        let [len] = self.take()?;
        if self.0.len() != usize::from(len) || self.0.len() > KEY {
            return None;
        }
        let mut key = [0; KEY];
        for (to, from) in key.iter_mut().zip(self.0) {
            *to = *from;
        }
        Some(key)
    }
}

impl Rss {
    /// Reads `virtio_net_rss_config`; gives the pairs to be used for sending, too.
    pub(super) fn steering(data: &[u8], pairs: u16) -> Option<(Rss, u16)> {
        let mut words = Words(data);
        let types = u32::from_le_bytes(words.take()?);
        let len = usize::from(words.word()?) + 1;
        let unclassified = words.word()?;
        if len > MAX_TABLE || !len.is_power_of_two() || types & !TYPES != 0 {
            return None;
        }
        let table: Option<Vec<u16>> = (0..len).map(|_| words.word()).collect();
        let table = table?;
        let sends = words.word()?;
        let key = words.key()?;
        let fits = unclassified < pairs && table.iter().all(|pair| *pair < pairs);
        (fits && (1..=pairs).contains(&sends))
            .then_some((Rss { types, key, steers: true, table, unclassified }, sends))
    }

    /// Reads `virtio_net_hash_config`.
    pub(super) fn reporting(data: &[u8]) -> Option<Rss> {
        let mut words = Words(data);
        let types = u32::from_le_bytes(words.take()?);
        words.take::<8>()?;
        if types & !TYPES != 0 {
            return None;
        }
        let key = words.key()?;
        Some(Rss { types, key, steers: false, table: Vec::new(), unclassified: 0 })
    }

    /// Whether a loaded one makes sense.
    pub(super) fn is_sane(&self, pairs: u16) -> bool {
        let len = self.table.len();
        let table = !self.steers || (len.is_power_of_two() && len <= MAX_TABLE);
        table && self.unclassified < pairs && self.table.iter().all(|pair| *pair < pairs)
    }

    /// The hash of a frame and its kind (`VIRTIO_NET_HASH_REPORT_*`), if it has one.
    fn hash(&self, flow: &Flow) -> Option<(u32, u16)> {
        let on = |bit: u32| self.types >> bit & 1 != 0;
        // Bits of the plain kind and of that with extension headers, and what is reported.
        let kinds: [(bool, u32, u16); 3] =
            [(flow.is_tcp(), 1, 2), (flow.is_udp(), 2, 3), (true, 0, 1)];
        for (fits, bit, report) in kinds.into_iter().filter(|(fits, ..)| *fits) {
            _ = fits;
            let (bit, report) = if flow.v6 { (bit + 3, report + 3) } else { (bit, report) };
            let ports = !matches!(report, 1 | 4);
            if flow.v6 && flow.extended && on(bit + 3) {
                return Some((flow.hash(&self.key, ports), report + 3));
            }
            if on(bit) {
                return Some((flow.hash(&self.key, ports), report));
            }
        }
        None
    }
}

impl State {
    /// Where a frame goes and what is told of it: queue pair, hash, kind of hash. `given` is the
    /// pair that the back end would choose.
    pub(super) fn place(&self, frame: &Frame<'_>, given: u16) -> (u16, u32, u16) {
        let plain = given.checked_rem(self.pairs).unwrap_or(0);
        let Some(rss) = &self.rss else { return (plain, 0, 0) };
        let found = Flow::of(frame).and_then(|flow| rss.hash(&flow));
        let pair = match (rss.steers, found) {
            (false, _) => plain,
            (true, None) => rss.unclassified,
            (true, Some((hash, _))) => {
                let mask = rss.table.len().wrapping_sub(1);
                rss.table.get(hash as usize & mask).copied().unwrap_or(0)
            }
        };
        let (hash, kind) = found.filter(|_| self.has(f::HASH_REPORT)).unwrap_or((0, 0));
        (pair, hash, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(types: u32, table: &[u16], sends: u16) -> Vec<u8> {
        let mut data = types.to_le_bytes().to_vec();
        data.extend((table.len() as u16).wrapping_sub(1).to_le_bytes());
        data.extend(1u16.to_le_bytes());
        data.extend(table.iter().flat_map(|pair| pair.to_le_bytes()));
        data.extend(sends.to_le_bytes());
        data.push(40);
        data.extend(1..=40);
        data
    }

    fn udp(port: u8, kind: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, kind, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([1, port, 0, 7, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn flows_are_spread_and_others_have_their_queue() {
        let (rss, sends) = Rss::steering(&config(0x1ff, &[2, 3, 2, 3], 4), 4).unwrap();
        assert_eq!(sends, 4);
        let features = f::HASH_REPORT;
        let mut state = State { rss: Some(rss), pairs: 4, features, ..State::default() };
        let place = |state: &State, bytes: &[u8]| state.place(&Frame::plain(&[bytes]), 0);
        let mut seen = [0; 4];
        for port in 0..64 {
            let (pair, hash, kind) = place(&state, &udp(port, 17));
            seen[usize::from(pair)] += 1;
            assert!(kind == 3 && hash != 0);
        }
        assert!(seen[0] == 0 && seen[1] == 0 && seen[2] > 10 && seen[3] > 10, "{seen:?}");
        assert_eq!(place(&state, &udp(1, 1)).2, 1, "no ports: the addresses");
        assert_eq!(place(&state, &[0; 20]), (1, 0, 0), "unclassified");
        state.features = 0;
        assert_eq!((place(&state, &udp(1, 17)).1, place(&state, &udp(1, 17)).2), (0, 0));
    }

    #[test]
    fn hashes_may_be_told_only() {
        let mut data = 4u32.to_le_bytes().to_vec();
        data.extend([0; 8]);
        data.push(2);
        data.extend([7, 7]);
        let state = State {
            rss: Rss::reporting(&data),
            pairs: 2,
            features: f::HASH_REPORT,
            ..State::default()
        };
        let (pair, _, kind) = state.place(&Frame::plain(&[&udp(1, 17)]), 5);
        assert_eq!((pair, kind), (1, 3));
        assert_eq!(state.place(&Frame::plain(&[&udp(1, 6)]), 5).2, 0);
    }

    #[test]
    fn broken_configurations_are_refused() {
        for (types, table, sends) in [
            (0x200, &[0u16, 1][..], 1),
            (1, &[0, 1, 0], 1),
            (1, &[0, 4], 1),
            (1, &[0, 1], 0),
            (1, &[0, 1], 5),
        ] {
            assert!(Rss::steering(&config(types, table, sends), 4).is_none(), "{table:?}");
        }
        let good = config(1, &[0, 1], 1);
        assert!(Rss::steering(&good, 4).is_some() && Rss::steering(&good, 1).is_none());
        for n in 0..good.len() {
            assert!(Rss::steering(&good[..n], 4).is_none());
            assert!(Rss::reporting(&good[..n.min(12)]).is_none());
        }
    }
}
