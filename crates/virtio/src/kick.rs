//! Hands a notification to an event loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use evloop::Handle;

/// Runs a function on an event loop; calls while one is under way become one.
///
/// For devices that serve a queue on an I/O thread: `notify` calls [`Kick::kick`] and returns at
/// once. Without a loop the function runs in the calling thread.
#[derive(Clone)]
pub struct Kick {
    handle: Option<Handle>,
    posted: Arc<AtomicBool>,
    call: Arc<dyn Fn() + Send + Sync>,
}

impl Kick {
    /// Calls `call` on the loop of `handle`, or directly.
    pub fn new(handle: Option<Handle>, call: impl Fn() + Send + Sync + 'static) -> Kick {
        Kick { handle, posted: Arc::default(), call: Arc::new(call) }
    }

    /// Asks for one more run.
    pub fn kick(&self) {
        let Some(handle) = &self.handle else { return (self.call)() };
        if self.posted.swap(true, Ordering::SeqCst) {
            return;
        }
        let (posted, call) = (self.posted.clone(), self.call.clone());
        handle.call(Box::new(move || {
            // Before the run: what is notified during it is for the next one. A full barrier, or the
            // run could look at the ring before this is seen and miss what was put there.
            posted.swap(false, Ordering::SeqCst);
            call();
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn kicks_run_on_the_loop_and_become_one() {
        let mut l = evloop::EventLoop::new().unwrap();
        let count = Arc::new(AtomicU32::new(0));
        let c = count.clone();
        let add = move || {
            c.fetch_add(1, Ordering::SeqCst);
        };
        let kick = Kick::new(Some(l.handle()), add.clone());
        kick.kick();
        kick.kick();
        assert_eq!(count.load(Ordering::SeqCst), 0);
        l.run_once(Some(std::time::Duration::ZERO)).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        kick.kick();
        l.run_once(Some(std::time::Duration::ZERO)).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
        Kick::new(None, add).kick();
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }
}
