//! The device's side of a character stream; `chardev` has the host's side.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

/// What happened on a stream besides data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharEvent {
    /// A break condition.
    Break,
    /// The other side connected.
    Opened,
    /// The other side went away.
    Closed,
    /// A multiplexer gave this front end the focus.
    FocusIn,
    /// A multiplexer took the focus away.
    FocusOut,
    /// Output is taken again after some was refused.
    Writable,
}

/// A front end: takes what comes from the host, on the main loop.
pub trait CharReceiver: Send + Sync {
    /// How many bytes it can take now.
    fn room(&self) -> usize;
    /// Takes at most [`CharReceiver::room`] bytes.
    fn receive(&self, data: &[u8]);
    /// Hears of an event.
    fn event(&self, event: CharEvent) {
        let _ = event;
    }
}

/// A back end, as a port sees it. Called with no device lock held.
pub trait CharBackend: Send + Sync {
    /// Sends bytes to the host without waiting for it; how many were taken. The rest may be
    /// tried again at [`CharEvent::Writable`].
    fn send(&self, data: &[u8]) -> usize;
    /// Sets where input goes.
    fn attach(&self, front: Weak<dyn CharReceiver>);
    /// The front end has room again after it had none.
    fn accept_input(&self);
    /// Whether somebody is at the other end.
    fn is_open(&self) -> bool {
        true
    }
    /// The oldest descriptor that came with the input and was not taken yet.
    fn take_fd(&self) -> Option<OwnedFd> {
        None
    }
    /// A duplicate of the connected socket, for a front end that talks through it by itself.
    fn socket(&self) -> Option<OwnedFd> {
        None
    }
}

/// A device's port to a back end, or to nothing.
#[derive(Clone, Default)]
pub struct CharPort(Option<Arc<dyn CharBackend>>);

impl CharPort {
    /// A port to a back end.
    #[must_use]
    pub fn new(backend: Arc<dyn CharBackend>) -> CharPort {
        CharPort(Some(backend))
    }

    /// A port that swallows output and has no input.
    #[must_use]
    pub fn unconnected() -> CharPort {
        CharPort(None)
    }

    /// Whether there is a back end.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Whether somebody is at the other end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_some_and(|b| b.is_open())
    }

    /// The oldest descriptor that came with the input and was not taken yet.
    #[must_use]
    pub fn take_fd(&self) -> Option<OwnedFd> {
        self.0.as_ref().and_then(|b| b.take_fd())
    }

    /// A duplicate of the connected socket, if it is one.
    #[must_use]
    pub fn socket(&self) -> Option<OwnedFd> {
        self.0.as_ref().and_then(|b| b.socket())
    }

    /// Sends bytes; how many were taken, at once and without waiting. What was refused may be
    /// sent again at [`CharEvent::Writable`]. With no back end all are taken.
    pub fn send(&self, data: &[u8]) -> usize {
        self.0.as_ref().map_or(data.len(), |b| b.send(data))
    }

    /// Sets where input goes.
    pub fn on_receive(&self, front: Weak<dyn CharReceiver>) {
        if let Some(backend) = &self.0 {
            backend.attach(front);
        }
    }

    /// Tells the back end that there is room again.
    pub fn accept_input(&self) {
        if let Some(backend) = &self.0 {
            backend.accept_input();
        }
    }
}
