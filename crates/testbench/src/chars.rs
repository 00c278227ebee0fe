//! Character streams whose other end the test holds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use device::{CharBackend, CharEvent, CharPort, CharReceiver, CharSource};
use parking_lot::Mutex;

#[derive(Default)]
struct State {
    sent: Vec<u8>,
    typed: VecDeque<u8>,
    front: Option<Weak<dyn CharReceiver>>,
    accept: Option<usize>,
}

/// The far end of a stream.
#[derive(Default)]
pub struct FakeChar(Mutex<State>);

impl FakeChar {
    /// Takes what the device sent so far.
    #[must_use]
    pub fn sent(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().sent)
    }

    /// Types input; what the device has no room for waits until it says so.
    pub fn type_in(&self, data: &[u8]) {
        self.0.lock().typed.extend(data);
        self.deliver();
    }

    /// Input the device has not taken yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().typed.len()
    }

    /// Lets the stream take only `bytes` more (or any number again).
    pub fn limit(&self, bytes: Option<usize>) {
        self.0.lock().accept = bytes;
    }

    /// Sends an event, such as a break.
    pub fn event(&self, event: CharEvent) {
        if let Some(front) = self.front() {
            front.event(event);
        }
    }

    fn front(&self) -> Option<Arc<dyn CharReceiver>> {
        self.0.lock().front.as_ref().and_then(Weak::upgrade)
    }

    fn deliver(&self) {
        let Some(front) = self.front() else { return };
        loop {
            let room = front.room();
            let part: Vec<u8> = {
                let typed = &mut self.0.lock().typed;
                let n = room.min(typed.len());
                typed.drain(..n).collect()
            };
            if part.is_empty() {
                return;
            }
            front.receive(&part);
        }
    }
}

impl CharBackend for FakeChar {
    fn send(&self, data: &[u8]) -> usize {
        let mut state = self.0.lock();
        let n = state.accept.unwrap_or(data.len()).min(data.len());
        if let Some(left) = &mut state.accept {
            *left -= n;
        }
        state.sent.extend(data.iter().take(n));
        n
    }

    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.0.lock().front = Some(front);
        self.deliver();
    }

    fn accept_input(&self) {
        self.deliver();
    }
}

/// Streams by id, made when first asked for.
#[derive(Default)]
pub(crate) struct FakeChars(Mutex<HashMap<String, Arc<FakeChar>>>);

impl FakeChars {
    pub(crate) fn get(&self, id: &str) -> Arc<FakeChar> {
        self.0.lock().entry(id.to_owned()).or_default().clone()
    }
}

impl CharSource for FakeChars {
    fn port(&self, id: &str) -> qapi::Result<CharPort> {
        Ok(CharPort::new(self.get(id)))
    }
}
