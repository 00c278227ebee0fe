//! A byte ring that grows on use, up to a limit, and can be let go when idle.

use std::io::{IoSlice, IoSliceMut};

const FIRST: usize = 16 << 10;

/// Bytes in order.
#[derive(Default)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Ring {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Lets the memory go when there is nothing in it.
    pub(crate) fn shrink(&mut self) {
        if self.len == 0 {
            *self = Ring::default();
        }
    }

    /// Makes room for `more` bytes (not beyond `limit` in all).
    fn reserve(&mut self, more: usize, limit: usize) {
        let wanted = self.len.saturating_add(more).min(limit);
        if wanted <= self.bytes.len() {
            return;
        }
        let size = wanted.next_power_of_two().max(FIRST).min(limit.max(FIRST));
        let mut bytes = vec![0; size].into_boxed_slice();
        let [a, b] = self.parts(0, self.len);
        let split = a.len();
        if let Some(to) = bytes.get_mut(..split) {
            to.copy_from_slice(a);
        }
        if let Some(to) = bytes.get_mut(split..split + b.len()) {
            to.copy_from_slice(b);
        }
        self.bytes = bytes;
        self.start = 0;
    }

    /// The bytes `skip..skip + len` as two pieces.
    pub(crate) fn parts(&self, skip: usize, len: usize) -> [&[u8]; 2] {
        let skip = skip.min(self.len);
        let len = len.min(self.len - skip);
        let size = self.bytes.len();
        let mut from = self.start + skip;
        if from >= size {
            from -= size;
        }
        let first = len.min(size - from);
        [
            self.bytes.get(from..from + first).unwrap_or_default(),
            self.bytes.get(..len - first).unwrap_or_default(),
        ]
    }

    /// The bytes as slices for a vectored write.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 2] {
        self.parts(0, self.len).map(IoSlice::new)
    }

    /// Forgets bytes at the front.
    pub(crate) fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        self.start += n;
        if self.start >= self.bytes.len() {
            self.start -= self.bytes.len();
        }
        if self.len == 0 {
            self.start = 0;
        }
    }

    /// Lets `f` fill free room of at most `limit - len` bytes; it says how much it filled.
    pub(crate) fn fill<E>(
        &mut self,
        limit: usize,
        f: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        // A full ring grows; what was never full stays small.
        if self.len == self.bytes.len() {
            self.reserve((self.len * 3).max(1), limit);
        }
        let size = self.bytes.len();
        let room = size.min(limit).saturating_sub(self.len);
        let end = (self.start + self.len) % size.max(1);
        let (low, high) = self.bytes.split_at_mut(end);
        let high_len = high.len().min(room);
        let low_len = room - high_len;
        let high = high.get_mut(..high_len).unwrap_or_default();
        let low = low.get_mut(..low_len).unwrap_or_default();
        let n = f(&mut [IoSliceMut::new(high), IoSliceMut::new(low)])?.min(room);
        self.len += n;
        Ok(n)
    }

    /// Appends; the caller keeps to its limit.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.reserve(data.len(), usize::MAX >> 1);
        let mut rest = data;
        while !rest.is_empty() {
            let limit = self.len + rest.len();
            let done = self.fill::<()>(limit, |slices| {
                let mut done = 0;
                for slice in slices {
                    let n = slice.len().min(rest.len() - done);
                    if let (Some(to), Some(from)) = (slice.get_mut(..n), rest.get(done..done + n)) {
                        to.copy_from_slice(from);
                    }
                    done += n;
                }
                Ok(done)
            });
            match done {
                Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_the_pieces() {
        let mut ring = Ring::default();
        let (mut put, mut got) = (0u32, 0u32);
        for step in 1..2000usize {
            let n = step * 7 % 900;
            let data: Vec<u8> = (0..n).map(|i| (put as usize + i) as u8).collect();
            ring.push(&data);
            put += n as u32;
            let take = step * 11 % 1000;
            let [a, b] = ring.parts(0, take);
            for byte in a.iter().chain(b) {
                assert_eq!(*byte, got as u8);
                got += 1;
            }
            ring.consume(take);
            assert_eq!(ring.len() as u32, put - got);
        }
    }

    #[test]
    fn the_limit_holds_and_memory_is_let_go() {
        let mut ring = Ring::default();
        for _ in 0..100 {
            _ = ring.fill::<()>(50_000, |slices| Ok(slices.iter().map(|s| s.len()).sum()));
        }
        assert_eq!(ring.len(), 50_000);
        assert!(ring.capacity() <= 65536);
        ring.consume(50_000);
        ring.shrink();
        assert_eq!(ring.capacity(), 0);
        assert_eq!(ring.parts(0, 5), [&[] as &[u8], &[]]);
    }
}
