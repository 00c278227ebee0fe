//! Connections of the guest that go to a character back end (`guestfwd=…-chardev:ID`).
//!
//! A pair of sockets stands between: the guest's connection has one end as others have theirs, what
//! comes out of the other end goes to the back end, and back. One connection at a time: a new one
//! takes the place of the one before.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

use device::{CharEvent, CharPort, CharReceiver};
use evloop::{Handle, Readiness, Watch};
use host::socket::Stream;
use parking_lot::Mutex;

const ROOM: usize = 4096;

#[derive(Default)]
struct Inner {
    stream: Option<Arc<UnixStream>>,
    watch: Option<Watch>,
    /// For the guest, which the socket did not take.
    to_guest: Vec<u8>,
    /// Of the guest, which the back end did not take.
    to_char: Vec<u8>,
}

/// A character back end with a socket.
pub(crate) struct CharBridge {
    port: CharPort,
    inner: Mutex<Inner>,
}

impl CharBridge {
    pub(crate) fn new(port: CharPort) -> Arc<CharBridge> {
        let bridge = Arc::new(CharBridge { port, inner: Mutex::default() });
        let receiver: Arc<dyn CharReceiver> = bridge.clone();
        bridge.port.on_receive(Arc::downgrade(&receiver));
        bridge
    }

    /// A new connection: its end.
    pub(crate) fn connect(self: &Arc<CharBridge>, handle: &Handle) -> io::Result<Stream> {
        let (ours, theirs) = UnixStream::pair()?;
        for end in [&ours, &theirs] {
            end.set_nonblocking(true)?;
        }
        let (ours, weak) = (Arc::new(ours), Arc::downgrade(self));
        let watch = handle.watch(ours.clone(), Readiness::READ, move |ready| {
            if let Some(bridge) = Weak::upgrade(&weak) {
                bridge.ready(ready);
            }
        })?;
        *self.inner.lock() = Inner { stream: Some(ours), watch: Some(watch), ..Inner::default() };
        self.port.accept_input();
        Ok(Stream::Unix(theirs))
    }

    fn ready(&self, ready: Readiness) {
        if ready.write {
            self.drain();
        }
        if !ready.read {
            return;
        }
        let mut buffer = [0; ROOM];
        let got = {
            let inner = self.inner.lock();
            let Some(stream) = inner.stream.clone().filter(|_| inner.to_char.is_empty()) else {
                return;
            };
            (&*stream).read(&mut buffer)
        };
        match got {
            Ok(n) if n > 0 => self.send(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            _ => *self.inner.lock() = Inner::default(),
        }
    }

    /// Gives bytes to the back end; what it does not take waits, and the guest with it.
    fn send(&self, data: &[u8]) {
        let taken = self.port.send(data);
        let rest = data.get(taken..).unwrap_or_default();
        let mut inner = self.inner.lock();
        inner.to_char = rest.to_vec();
        inner.want();
    }

    fn drain(&self) {
        let mut inner = self.inner.lock();
        let (Some(stream), true) = (inner.stream.clone(), !inner.to_guest.is_empty()) else {
            return;
        };
        let n = (&*stream).write(&inner.to_guest).unwrap_or(0);
        inner.to_guest.drain(..n);
        inner.want();
        let room = inner.to_guest.is_empty();
        drop(inner);
        if room {
            self.port.accept_input();
        }
    }
}

impl Inner {
    fn want(&self) {
        if let Some(watch) = &self.watch {
            let (read, write) = (self.to_char.is_empty(), !self.to_guest.is_empty());
            watch.set_interest(Readiness { read, write });
        }
    }
}

impl CharReceiver for CharBridge {
    fn room(&self) -> usize {
        let inner = self.inner.lock();
        if inner.stream.is_some() && inner.to_guest.is_empty() { ROOM } else { 0 }
    }

    fn receive(&self, data: &[u8]) {
        self.inner.lock().to_guest.extend(data);
        self.drain();
    }

    fn event(&self, event: CharEvent) {
        if event == CharEvent::Writable {
            let rest = std::mem::take(&mut self.inner.lock().to_char);
            self.send(&rest);
        }
    }
}
