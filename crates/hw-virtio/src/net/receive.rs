//! Frames for the driver: the filter, and the buffers they go into.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use net::frame::Bytes;
use net::link::MAX_FRAME;
use net::{Frame, Offload, RxFilter};
use virtio::{Chain, Queue};

use super::feature as f;
use super::{State, VirtioNet, mac_bytes};

const VLAN: [u8; 2] = [0x81, 0];
/// A frame spreads over at most so many buffers.
const MAX_BUFFERS: usize = 128;

impl State {
    /// Whether the driver wants a frame that begins so (5.1.6.5.1 to 5.1.6.5.3).
    pub(super) fn wants(&self, head: &[u8]) -> bool {
        let Some(to) = head.get(..6) else { return false };
        if self.promiscuous {
            return true;
        }
        if let (Some(kind), Some([high, low])) = (head.get(12..14), head.get(14..16))
            && kind == VLAN
        {
            let id = usize::from(u16::from_be_bytes([*high, *low]) & 0xfff);
            let word = self.vlans.get(id / 64).copied().unwrap_or(0);
            if word >> (id % 64) & 1 == 0 {
                return false;
            }
        }
        let number = to.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        if to.first().is_some_and(|byte| byte & 1 != 0) {
            if to == [0xff; 6] {
                return !self.no_broadcast;
            }
            if self.no_multicast {
                return false;
            }
            return self.all_multicast
                || self.multicast_overflow
                || self.multicast.contains(&number);
        }
        if self.no_unicast {
            return false;
        }
        self.all_unicast
            || self.unicast_overflow
            || number == self.mac
            || self.unicast.contains(&number)
    }
}

/// Where a frame goes, and how.
struct Target {
    pair: u16,
    hash: u32,
    kind: u16,
    header: usize,
    mergeable: bool,
}

impl VirtioNet {
    /// Takes a frame; `false`: no room. `given`: the pair that the back end would choose.
    pub(super) fn receive_frame(&self, frame: &Frame<'_>, given: u16) -> bool {
        if !self.running.load(Ordering::Acquire) {
            return true;
        }
        let mut head = [0; 18];
        let n = frame.copy(0, &mut head);
        let to = {
            let state = self.state.lock();
            let wanted = state.wants(head.get(..n).unwrap_or_default());
            if state.link_down || !wanted || frame.len() > MAX_FRAME {
                return true;
            }
            let (pair, hash, kind) = state.place(frame, given);
            let mergeable = state.has(f::MRG_RXBUF);
            Target { pair, hash, kind, header: state.header_len(), mergeable }
        };
        // A back end that did not look, or a driver that changed its mind meanwhile.
        if !net::Nic::takes(self).fit(&frame.offload) {
            let parts = net::segment::split(&frame.offload, frame.to_vec(MAX_FRAME));
            for (index, part) in parts.iter().enumerate() {
                // What does not fit behind the first one is lost, as on a wire.
                if !self.fill(&Frame::plain(&[part]), &to) {
                    return index > 0;
                }
            }
            return true;
        }
        self.fill(frame, &to)
    }

    fn fill(&self, frame: &Frame<'_>, to: &Target) -> bool {
        let Target { pair, header, mergeable, .. } = *to;
        let queue = self.queue(2 * pair).zip(self.quiet.get(usize::from(pair)));
        let Some((queue, quiet)) = queue else { return true };
        let total = header + frame.len();
        let _one = self.receiving.lock();
        let chains = match self.gather(queue, total, mergeable) {
            Some(chains) => chains,
            None => {
                // Ask to be told of new buffers, and look once more: they may have come meanwhile.
                queue.set_notification(true);
                quiet.store(false, Ordering::Relaxed);
                let Some(chains) = self.gather(queue, total, mergeable) else { return false };
                chains
            }
        };
        if !quiet.swap(true, Ordering::Relaxed) {
            queue.set_notification(false);
        }
        let count = if mergeable { u16::try_from(chains.len()).unwrap_or(1) } else { 1 };
        let mut first = [0; Offload::LEN + 10];
        let fields = frame.offload.to_bytes().into_iter().chain(count.to_le_bytes());
        let fields = fields.chain(to.hash.to_le_bytes()).chain(to.kind.to_le_bytes());
        for (to, from) in first.iter_mut().zip(fields) {
            *to = from;
        }
        let mut source = Source::new(first.get(..header).unwrap_or_default(), frame);
        // All at once: a driver that looks meanwhile must not see half a frame.
        let filled: Vec<_> = chains
            .into_iter()
            .map(|chain| {
                let written = source.fill(&chain);
                (chain, written)
            })
            .collect();
        queue.push_all(filled);
        true
    }

    /// Buffers for so many bytes; `None` when there are not enough now.
    fn gather(&self, queue: &Arc<Queue>, total: usize, mergeable: bool) -> Option<Vec<Chain>> {
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0;
        while room < total {
            let Some(chain) = queue.pop() else {
                while let Some(chain) = chains.pop() {
                    queue.unpop(chain);
                }
                return None;
            };
            room += chain.writable_len();
            chains.push(chain);
            if room < total && (!mergeable || chains.len() >= MAX_BUFFERS) {
                trace::guest_error!("virtio-net: a frame of {total} bytes does not fit its buffer");
                break;
            }
        }
        Some(chains)
    }

    /// What `query-rx-filter` tells.
    pub(super) fn filter(&self) -> RxFilter {
        let state = self.state.lock();
        let mode = |none, all| match (none, all) {
            (true, _) => "none",
            (_, true) => "all",
            _ => "normal",
        };
        let with_vlans = state.has(f::CTRL_VLAN);
        let on = |id: &i64| {
            let id = usize::try_from(*id).unwrap_or(0);
            state.vlans.get(id / 64).is_some_and(|word| word >> (id % 64) & 1 != 0)
        };
        RxFilter {
            promiscuous: state.promiscuous,
            multicast: mode(state.no_multicast, state.all_multicast),
            unicast: mode(state.no_unicast, state.all_unicast),
            vlan: if with_vlans { "normal" } else { "all" },
            broadcast_allowed: state.no_broadcast,
            multicast_overflow: state.multicast_overflow,
            unicast_overflow: state.unicast_overflow,
            main_mac: mac_bytes(state.mac),
            vlan_table: (0..4096).rev().filter(on).collect(),
            unicast_table: state.unicast.iter().map(|mac| mac_bytes(*mac)).collect(),
            multicast_table: state.multicast.iter().map(|mac| mac_bytes(*mac)).collect(),
        }
    }
}

/// The bytes of header and frame, one after the other.
struct Source<'a> {
    header: &'a [u8],
    frame: &'a Frame<'a>,
    done: usize,
    copy: Vec<u8>,
}

impl<'a> Source<'a> {
    fn new(header: &'a [u8], frame: &'a Frame<'a>) -> Source<'a> {
        // Frames of another guest's memory are copied once.
        let copy = match frame.bytes {
            Bytes::Ram(_) => frame.to_vec(MAX_FRAME),
            Bytes::Host(_) => Vec::new(),
        };
        Source { header, frame, done: 0, copy }
    }

    /// Fills a chain; how many bytes were written.
    fn fill(&mut self, chain: &Chain) -> usize {
        let own: [&[u8]; 1] = [&self.copy];
        let parts: &[&[u8]] = match self.frame.bytes {
            Bytes::Ram(_) => &own,
            Bytes::Host(parts) => parts,
        };
        let mut written = 0;
        let mut begin = 0;
        for part in std::iter::once(self.header).chain(parts.iter().copied()) {
            let end = begin + part.len();
            if self.done < end {
                let rest = part.get(self.done.saturating_sub(begin)..).unwrap_or_default();
                let n = chain.write(written, rest);
                written += n;
                self.done += n;
                if n < rest.len() {
                    break;
                }
            }
            begin = end;
        }
        written
    }
}
