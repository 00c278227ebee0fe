//! The link from a back end to its front end, with flow control.

use std::sync::{Arc, Weak};

use device::{CharEvent, CharReceiver};
use parking_lot::Mutex;

/// Where a back end's input goes.
#[derive(Default)]
pub struct Front(Mutex<Option<Weak<dyn CharReceiver>>>);

impl Front {
    /// Sets the receiver.
    pub fn attach(&self, front: Weak<dyn CharReceiver>) {
        *self.0.lock() = Some(front);
    }

    /// The receiver, if there is one and it still exists.
    #[must_use]
    pub fn receiver(&self) -> Option<Arc<dyn CharReceiver>> {
        self.0.lock().as_ref().and_then(Weak::upgrade)
    }

    /// How much may be read from the host now. Input nobody listens to stays in
    /// the host.
    #[must_use]
    pub fn room(&self) -> usize {
        self.receiver().map_or(0, |r| r.room())
    }

    /// Hands over input, at most what [`Front::room`] said.
    pub fn receive(&self, data: &[u8]) {
        if let Some(receiver) = self.receiver() {
            receiver.receive(data);
        }
    }

    /// Hands over an event.
    pub fn event(&self, event: CharEvent) {
        if let Some(receiver) = self.receiver() {
            receiver.event(event);
        }
    }
}
