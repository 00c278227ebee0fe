//! Breakpoints of `blkdebug`: the next request with an event stops there until it may go on.
//!
//! A breakpoint stops one request and is gone then. A request that stops blocks its thread and
//! holds what the format above holds at that event. What happens is told where the program's output
//! goes, as the peer does. Not here: errors (`blkdebug.rs`).
//! Source: QEMU's documentation (`qemu-io`: `break`, `resume`, `remove_break`, `wait_break`; the
//! events are `BlkdebugEvent` of the QMP reference) and what `qemu-io` of QEMU 10.0 prints.

use std::io;

use parking_lot::{Condvar, Mutex};

use crate::driver::Breakpoint;

/// Events that may be named.
const EVENTS: &[&str] = &[
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
];
/// Most breakpoints of a node, so that a monitor's client cannot fill memory.
const MOST: usize = 1024;

#[derive(Default)]
struct State {
    /// Events and tags.
    set: Vec<(String, String)>,
    /// Requests that have stopped, by number and tag.
    stopped: Vec<(u64, String)>,
    next: u64,
}

/// The breakpoints of a node.
#[derive(Default)]
pub(super) struct Breaks {
    state: Mutex<State>,
    changed: Condvar,
}

fn say(text: &str) {
    _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Breaks {
    /// A request reaches an event; returns when it may go on.
    pub(super) fn reached(&self, event: &str) {
        let mut state = self.state.lock();
        let Some(at) = state.set.iter().position(|(name, _)| name == event) else { return };
        let (_, tag) = state.set.remove(at);
        let number = state.next;
        state.next = number.wrapping_add(1);
        say(&format!("blkdebug: Suspended request '{tag}'\n"));
        state.stopped.push((number, tag.clone()));
        self.changed.notify_all();
        while state.stopped.iter().any(|(n, _)| *n == number) {
            self.changed.wait(&mut state);
        }
        drop(state);
        say(&format!("blkdebug: Resuming request '{tag}'\n"));
    }

    pub(super) fn change(&self, what: &Breakpoint<'_>) -> io::Result<()> {
        let mut state = self.state.lock();
        match *what {
            Breakpoint::Set(event, tag) => {
                if !EVENTS.contains(&event) {
                    return Err(gone());
                }
                if state.set.len() >= MOST {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                state.set.push((event.to_owned(), tag.to_owned()));
            }
            Breakpoint::Remove(tag) => {
                let before = state.set.len() + state.stopped.len();
                state.set.retain(|(_, own)| own != tag);
                state.stopped.retain(|(_, own)| own != tag);
                if before == state.set.len() + state.stopped.len() {
                    return Err(gone());
                }
            }
            Breakpoint::Resume(tag) => {
                let at = state.stopped.iter().position(|(_, own)| own == tag).ok_or_else(gone)?;
                state.stopped.remove(at);
            }
            Breakpoint::Wait(tag) => {
                while !state.stopped.iter().any(|(_, own)| own == tag) {
                    self.changed.wait(&mut state);
                }
            }
        }
        self.changed.notify_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a thread that stops in a request")]
    fn one_request_stops_until_it_is_told_to_go_on() {
        for last in [Breakpoint::Resume("a"), Breakpoint::Remove("a")] {
            let (breaks, went) = (Arc::new(Breaks::default()), Arc::new(AtomicU32::new(0)));
            breaks.change(&Breakpoint::Set("write_aio", "a")).unwrap();
            breaks.reached("read_aio");
            let thread = {
                let (breaks, went) = (breaks.clone(), went.clone());
                std::thread::spawn(move || {
                    breaks.reached("write_aio");
                    went.fetch_add(1, Ordering::SeqCst);
                })
            };
            breaks.change(&Breakpoint::Wait("a")).unwrap();
            assert_eq!(went.load(Ordering::SeqCst), 0, "it has stopped");
            // The breakpoint is used up: this would never return.
            breaks.reached("write_aio");
            breaks.change(&last).unwrap();
            thread.join().unwrap();
            let kind = |what| breaks.change(&what).unwrap_err().kind();
            assert_eq!(kind(Breakpoint::Resume("a")), io::ErrorKind::NotFound);
            assert_eq!(kind(Breakpoint::Remove("a")), io::ErrorKind::NotFound);
            assert_eq!(kind(Breakpoint::Set("nonsense", "a")), io::ErrorKind::NotFound);
        }
    }
}
