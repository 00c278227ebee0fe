//! Back end `ringbuf`: the last output, kept in memory for `ringbuf-read`.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharEvent, CharReceiver};
use parking_lot::Mutex;

use crate::common::Common;
use crate::front::Front;
use crate::table::{Chardev, Context, Kind};

/// Arguments of `ringbuf`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct RingbufArgs {
    /// Bytes kept, a power of two (default 65536).
    pub size: Option<u64>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

/// A back end that keeps its last output.
pub struct Ringbuf {
    size: usize,
    bytes: Mutex<VecDeque<u8>>,
    front: Front,
}

impl Ringbuf {
    /// Takes at most `max` of the oldest bytes.
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<u8> {
        let mut bytes = self.bytes.lock();
        let n = max.min(bytes.len());
        bytes.drain(..n).collect()
    }

    /// Sends bytes to the front end; those it has no room for are lost.
    pub fn put(&self, data: &[u8]) {
        let room = self.front.room().min(data.len());
        self.front.receive(data.get(..room).unwrap_or_default());
    }
}

impl CharBackend for Ringbuf {
    fn send(&self, data: &[u8]) -> usize {
        let mut bytes = self.bytes.lock();
        bytes.extend(data);
        let excess = bytes.len().saturating_sub(self.size);
        bytes.drain(..excess);
        data.len()
    }
    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.front.attach(front);
    }
    fn accept_input(&self) {}
}

impl Chardev for Ringbuf {
    fn send_break(&self) {
        self.front.event(CharEvent::Break);
    }
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        "ringbuf".to_owned()
    }
    fn ringbuf(self: Arc<Self>) -> Option<Arc<Ringbuf>> {
        Some(self)
    }
}

impl Kind for RingbufArgs {
    const NAME: &'static str = "ringbuf";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, _: &Context) -> qapi::Result<Arc<dyn Chardev>> {
        let size = self.size.unwrap_or(65536);
        if !size.is_power_of_two() || size > 1 << 30 {
            return Err(qapi::Error::generic("size of ringbuf chardev must be power of two"));
        }
        let size = usize::try_from(size).unwrap_or(65536);
        Ok(Arc::new(Ringbuf { size, bytes: Mutex::default(), front: Front::default() }))
    }
}
