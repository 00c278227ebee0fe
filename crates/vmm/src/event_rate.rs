//! Events that are told at most once a second.
//!
//! The first of a device is told at once. Of those that follow within the second only the last one
//! is kept; it is told when the second is over, with the time at which it happened, and begins
//! another second. Only `BLOCK_IO_ERROR` is limited so, for each device by its path; the peer limits
//! others as well (`RTC_CHANGE`, `BALLOON_CHANGE`, `VSERPORT_CHANGE`, `WATCHDOG`).
//! Source: QEMU's QMP reference, "rate-limited"; what QEMU 10.0 sends.

use std::collections::HashMap;

use evloop::{Clock, Handle, Timer};
use parking_lot::Mutex;
use qapi::Value;

use crate::Event;

/// Nanoseconds between two events of a device.
const PAUSE: u64 = 1_000_000_000;

/// A device that was heard of less than a second ago.
struct Second {
    timer: Timer,
    last: Option<Event>,
}

/// The seconds that run.
pub(crate) struct Rates {
    clock: Clock,
    running: Mutex<HashMap<String, Second>>,
}

/// What an event is limited by; `None`: it is not.
fn key(event: &Event) -> Option<String> {
    if event.name != "BLOCK_IO_ERROR" {
        return None;
    }
    event.data.as_ref()?.get("qom-path").and_then(Value::as_str).map(str::to_owned)
}

impl Rates {
    pub(crate) fn new(handle: &Handle) -> Rates {
        let clock = Clock::host();
        handle.serve_clock(&clock);
        clock.start();
        Rates { clock, running: Mutex::default() }
    }

    /// Gives an event back if it is to be told now; `later` is called on the main loop when the
    /// second of a device, whose key it takes, is over.
    pub(crate) fn pass(
        &self,
        event: Event,
        later: impl Fn(&str) + Send + Sync + 'static,
    ) -> Option<Event> {
        let Some(key) = key(&event) else { return Some(event) };
        let mut running = self.running.lock();
        if let Some(second) = running.get_mut(&key) {
            second.last = Some(event);
            return None;
        }
        let name = key.clone();
        let timer = self.clock.timer(move || later(&name));
        timer.arm_at(self.clock.now_ns().saturating_add(PAUSE));
        running.insert(key, Second { timer, last: None });
        Some(event)
    }

    /// A second is over: the event that waited, if one did.
    pub(crate) fn over(&self, key: &str) -> Option<Event> {
        let mut running = self.running.lock();
        let second = running.get_mut(key)?;
        let event = second.last.take();
        if event.is_some() {
            second.timer.arm_at(self.clock.now_ns().saturating_add(PAUSE));
        } else {
            running.remove(key);
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn the_last_of_a_second_is_told_when_it_is_over() {
        let mut events = evloop::EventLoop::new().unwrap();
        let rates = Arc::new(Rates::new(&events.handle()));
        let error = |path: &str, at| Event {
            name: "BLOCK_IO_ERROR",
            data: Some(Value::map([("qom-path", Value::from(path))])),
            at,
        };
        let (send, over) = mpsc::channel();
        let pass = |event| {
            let send = send.clone();
            rates.pass(event, move |key| _ = send.send(key.to_owned()))
        };
        let stop = || Event { name: "STOP", data: None, at: 0 };
        assert_eq!(pass(error("a", 1)), Some(error("a", 1)));
        assert_eq!(pass(error("b", 2)), Some(error("b", 2)));
        for at in 3..6 {
            assert_eq!(pass(error("a", at)), None);
            assert_eq!(pass(stop()), Some(stop()));
        }
        let mut keys = Vec::new();
        while keys.len() < 2 {
            events.run_once(None).unwrap();
            keys.extend(over.try_iter());
        }
        keys.sort_unstable();
        assert_eq!(keys, ["a", "b"]);
        assert_eq!(rates.over("b"), None);
        assert_eq!(rates.over("a"), Some(error("a", 5)));
        // Another second of one; the other is as new.
        assert_eq!(pass(error("a", 7)), None);
        assert_eq!(pass(error("b", 8)), Some(error("b", 8)));
        assert_eq!(rates.over("a"), Some(error("a", 7)));
        assert_eq!(rates.over("a"), None);
        assert_eq!(pass(error("a", 9)), Some(error("a", 9)));
    }
}
