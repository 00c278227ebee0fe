//! The protocol over a character stream.

use std::sync::Arc;

use device::{CharPort, CharReceiver};
use parking_lot::Mutex;

use crate::Session;

/// Longest line: the largest `write` with its hexadecimal digits, and some more.
const MAX_LINE: usize = 34 << 20;

struct State {
    session: Session,
    line: Vec<u8>,
    dropping: bool,
}

/// Answers a test program; lives as long as the returned handle.
pub struct Server {
    port: CharPort,
    state: Mutex<State>,
}

impl Server {
    /// Starts to answer on `port`.
    pub fn start(port: CharPort, session: Session) -> Arc<Self> {
        let state = State { session, line: Vec::new(), dropping: false };
        let server = Arc::new(Self { port, state: Mutex::new(state) });
        let receiver: Arc<dyn CharReceiver> = server.clone();
        server.port.on_receive(Arc::downgrade(&receiver));
        server
    }
}

impl CharReceiver for Server {
    fn room(&self) -> usize {
        4096
    }

    fn receive(&self, data: &[u8]) {
        let mut replies = String::new();
        {
            let mut state = self.state.lock();
            let State { session, line, dropping } = &mut *state;
            for byte in data {
                match byte {
                    b'\n' if std::mem::take(dropping) => replies.push_str("FAIL Line too long\n"),
                    b'\n' => {
                        let text = String::from_utf8_lossy(line).into_owned();
                        line.clear();
                        replies.push_str(&session.execute(text.trim_end_matches('\r')));
                    }
                    _ if *dropping => {}
                    _ if line.len() >= MAX_LINE => {
                        line.clear();
                        *dropping = true;
                    }
                    byte => line.push(*byte),
                }
            }
        }
        if !replies.is_empty() {
            self.port.send(replies.as_bytes());
        }
    }
}
