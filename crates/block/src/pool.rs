//! Threads that carry out requests for devices.
//!
//! A device must not block the thread that notifies it, and drivers block theirs. Threads start
//! when there is work and nobody idle, up to [`LIMIT`]; they end with the pool. Requests are begun
//! in order and end in any.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Most threads.
pub(crate) const LIMIT: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    queue: VecDeque<Work>,
    idle: usize,
    threads: usize,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
}

/// A pool of threads.
#[derive(Default)]
pub struct Pool(Arc<Shared>);

impl Pool {
    /// Runs `work` on one of the threads, or at once when the system gives none.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        let mut inner = self.0.inner.lock();
        inner.queue.push_back(Box::new(work));
        if inner.idle >= inner.queue.len() || inner.threads >= LIMIT {
            drop(inner);
            self.0.wake.notify_one();
            return;
        }
        inner.threads += 1;
        drop(inner);
        let shared = self.0.clone();
        if evloop::spawn("block-worker", move || run(&shared)).is_err() {
            let mut inner = self.0.inner.lock();
            inner.threads -= 1;
            let work = if inner.threads == 0 { inner.queue.pop_back() } else { None };
            drop(inner);
            if let Some(work) = work {
                work();
            }
        }
    }
}

fn run(shared: &Shared) {
    let mut inner = shared.inner.lock();
    loop {
        if let Some(work) = inner.queue.pop_front() {
            drop(inner);
            work();
            inner = shared.inner.lock();
        } else if inner.ended {
            return;
        } else {
            inner.idle += 1;
            shared.wake.wait(&mut inner);
            inner.idle -= 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.inner.lock().ended = true;
        self.0.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_work_is_done_by_several_threads() {
        let pool = Pool::default();
        let (send, receive) = std::sync::mpsc::channel();
        for n in 0..100u32 {
            let send = send.clone();
            pool.submit(move || send.send(n).unwrap());
        }
        drop(send);
        let mut all: Vec<u32> = receive.iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(pool.0.inner.lock().threads <= LIMIT);
    }
}
