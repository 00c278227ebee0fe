//! Frames for the driver: the filter, and the buffers they go into.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use net::frame::{Bytes, NEEDS_CSUM, finish_checksum, gso};
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

impl VirtioNet {
    /// Takes a frame; `false`: no room.
    pub(super) fn receive_frame(&self, frame: &Frame<'_>) -> bool {
        if !self.running.load(Ordering::Acquire) {
            return true;
        }
        let mut head = [0; 18];
        let n = frame.copy(0, &mut head);
        let (header, mergeable) = {
            let state = self.state.lock();
            let wanted = state.wants(head.get(..n).unwrap_or_default());
            if state.link_down || !wanted || frame.len() > MAX_FRAME {
                return true;
            }
            (state.header_len(), state.has(f::MRG_RXBUF))
        };
        let offload = frame.offload;
        let takes = net::Nic::takes(self);
        // A back end that did not look, or a driver that changed its mind meanwhile.
        if offload.flags & NEEDS_CSUM != 0 && !takes.csum {
            let mut bytes = frame.to_vec(MAX_FRAME);
            let mut offload = offload;
            finish_checksum(&mut offload, &mut bytes);
            if offload.gso != gso::NONE {
                return true;
            }
            let parts: [&[u8]; 1] = [&bytes];
            let frame = Frame { offload, bytes: Bytes::Host(&parts) };
            return self.fill(&frame, header, mergeable);
        }
        self.fill(frame, header, mergeable)
    }

    fn fill(&self, frame: &Frame<'_>, header: usize, mergeable: bool) -> bool {
        let Some(queue) = self.queue(0) else { return true };
        let total = header + frame.len();
        let _one = self.receiving.lock();
        let chains = match self.gather(queue, total, mergeable) {
            Some(chains) => chains,
            None => {
                // Ask to be told of new buffers, and look once more: they may have come meanwhile.
                queue.set_notification(true);
                self.quiet.store(false, Ordering::Relaxed);
                let Some(chains) = self.gather(queue, total, mergeable) else { return false };
                chains
            }
        };
        if !self.quiet.swap(true, Ordering::Relaxed) {
            queue.set_notification(false);
        }
        let mut first = [0; Offload::LEN + 2];
        let (head, count) = first.split_at_mut(Offload::LEN);
        head.copy_from_slice(&frame.offload.to_bytes());
        count.copy_from_slice(&u16::try_from(chains.len()).unwrap_or(1).to_le_bytes());
        if !mergeable {
            count.copy_from_slice(&1u16.to_le_bytes());
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
