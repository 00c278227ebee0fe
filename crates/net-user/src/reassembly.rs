//! Puts the pieces of datagrams together (RFC 791, 3.2; RFC 8200, 4.5).

use std::net::IpAddr;

use crate::wire::{Fragment, Ip};

/// Most datagrams under way, and how long they may take, in nanoseconds.
const MAX: usize = 16;
const LIFE: u64 = 30_000_000_000;
const MAX_LEN: usize = 65515;
/// Most pieces of one datagram.
const MAX_PIECES: usize = 256;

struct Partial {
    key: (IpAddr, IpAddr, u8, u32),
    bytes: Vec<u8>,
    pieces: Vec<(usize, usize)>,
    total: Option<usize>,
    until: u64,
}

impl Partial {
    fn is_whole(&self) -> bool {
        let Some(total) = self.total else { return false };
        let mut end = 0;
        let mut pieces = self.pieces.clone();
        pieces.sort_unstable();
        for (start, len) in pieces {
            if start > end {
                return false;
            }
            end = end.max(start + len);
        }
        end >= total
    }
}

/// Datagrams under way.
#[derive(Default)]
pub(crate) struct Reassembly(Vec<Partial>);

impl Reassembly {
    /// Takes a piece; gives the payload when it was the last one that was missing.
    pub(crate) fn add(
        &mut self,
        ip: &Ip,
        piece: Fragment,
        data: &[u8],
        now: u64,
    ) -> Option<Vec<u8>> {
        self.0.retain(|partial| partial.until > now);
        let end = piece.offset.checked_add(data.len()).filter(|end| *end <= MAX_LEN)?;
        if data.is_empty() || (piece.more && !data.len().is_multiple_of(8)) {
            return None;
        }
        let key = (ip.from, ip.to, ip.protocol, piece.id);
        let at = match self.0.iter().position(|partial| partial.key == key) {
            Some(at) => at,
            None => {
                if self.0.len() >= MAX {
                    self.0.remove(0);
                }
                let until = now.saturating_add(LIFE);
                let (bytes, pieces) = (Vec::new(), Vec::new());
                self.0.push(Partial { key, bytes, pieces, total: None, until });
                self.0.len() - 1
            }
        };
        let partial = self.0.get_mut(at)?;
        if partial.bytes.len() < end {
            partial.bytes.resize(end, 0);
        }
        partial.bytes.get_mut(piece.offset..end)?.copy_from_slice(data);
        partial.pieces.push((piece.offset, data.len()));
        if !piece.more {
            partial.total = Some(end);
        }
        if partial.pieces.len() > MAX_PIECES {
            self.0.remove(at);
            return None;
        }
        if !partial.is_whole() {
            return None;
        }
        let mut whole = self.0.remove(at);
        whole.bytes.truncate(whole.total.unwrap_or(0));
        Some(whole.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip() -> Ip {
        let (from, to) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into());
        Ip { from, to, protocol: 17, hops: 64, start: 0, len: 0, fragment: None }
    }

    fn add(r: &mut Reassembly, id: u32, offset: usize, len: usize, more: bool) -> Option<usize> {
        r.add(&ip(), Fragment { id, offset, more }, &vec![1; len], 0).map(|data| data.len())
    }

    #[test]
    fn pieces_in_any_order_make_the_whole() {
        let mut r = Reassembly::default();
        assert_eq!(add(&mut r, 1, 16, 5, false), None);
        assert_eq!(add(&mut r, 1, 8, 8, true), None);
        assert_eq!(add(&mut r, 2, 0, 8, true), None);
        assert_eq!(add(&mut r, 1, 0, 8, true), Some(21));
        assert_eq!(r.0.len(), 1);
    }

    #[test]
    fn there_is_a_bound_on_everything() {
        let mut r = Reassembly::default();
        assert_eq!(add(&mut r, 1, 65512, 8, true), None);
        assert_eq!(add(&mut r, 1, 0, 7, true), None);
        for id in 0..200 {
            add(&mut r, id, 0, 8, true);
        }
        assert_eq!(r.0.len(), MAX);
        for _ in 0..1000 {
            add(&mut r, 7, 0, 8, true);
        }
        assert!(r.0.iter().all(|p| p.pieces.len() <= MAX_PIECES));
        r.add(&ip(), Fragment { id: 1, offset: 0, more: true }, &[0; 8], LIFE + 1);
        assert_eq!(r.0.len(), 1);
    }
}
