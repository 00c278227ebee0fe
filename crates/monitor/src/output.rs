//! Output of a session whose reader may be slow.
//!
//! What the stream does not take at once is kept and sent later, in order. A session
//! with kept output takes no further commands, so replies are bounded by what one
//! command can say; events beyond [`EVENT_LIMIT`] kept bytes are lost.

use std::collections::VecDeque;

use device::CharPort;
use parking_lot::Mutex;

/// Kept bytes beyond which events are lost.
const EVENT_LIMIT: usize = 1 << 20;

pub(crate) struct Output {
    port: CharPort,
    kept: Mutex<VecDeque<u8>>,
}

impl Output {
    pub(crate) fn new(port: CharPort) -> Output {
        Output { port, kept: Mutex::default() }
    }

    pub(crate) fn port(&self) -> &CharPort {
        &self.port
    }

    /// Sends, or keeps for later.
    pub(crate) fn send(&self, data: &[u8]) {
        let mut kept = self.kept.lock();
        let sent = if kept.is_empty() { self.port.send(data) } else { 0 };
        kept.extend(data.get(sent..).unwrap_or_default());
    }

    /// As [`Output::send`], for what may be lost when nobody reads.
    pub(crate) fn send_event(&self, data: &[u8]) {
        if self.kept.lock().len() < EVENT_LIMIT {
            self.send(data);
        }
    }

    /// Whether output is kept.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.kept.lock().is_empty()
    }

    /// The stream takes output again. Whether all of it is gone.
    pub(crate) fn writable(&self) -> bool {
        let mut kept = self.kept.lock();
        let sent = self.port.send(kept.make_contiguous());
        kept.drain(..sent);
        kept.is_empty()
    }

    /// The other end went away.
    pub(crate) fn clear(&self) {
        self.kept.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::{CharBackend, CharReceiver};
    use std::sync::{Arc, Weak};

    #[derive(Default)]
    struct Slow(Mutex<(usize, Vec<u8>)>);
    impl CharBackend for Slow {
        fn send(&self, data: &[u8]) -> usize {
            let (room, got) = &mut *self.0.lock();
            let n = data.len().min(*room);
            *room -= n;
            got.extend(&data[..n]);
            n
        }
        fn attach(&self, _: Weak<dyn CharReceiver>) {}
        fn accept_input(&self) {}
    }

    #[test]
    fn what_a_slow_reader_refuses_comes_later_in_order() {
        let slow = Arc::new(Slow::default());
        slow.0.lock().0 = 3;
        let output = Output::new(CharPort::new(slow.clone()));
        output.send(b"hello");
        output.send(b" you");
        assert!(output.is_stuck());
        slow.0.lock().0 = 4;
        assert!(!output.writable());
        slow.0.lock().0 = 100;
        assert!(output.writable() && !output.is_stuck());
        assert_eq!(slow.0.lock().1, b"hello you");
    }

    #[test]
    fn events_for_nobody_are_lost() {
        let output = Output::new(CharPort::new(Arc::new(Slow::default())));
        for _ in 0..300 {
            output.send_event(&[0; 8192]);
        }
        assert!(output.kept.lock().len() < EVENT_LIMIT + 8192);
    }
}
