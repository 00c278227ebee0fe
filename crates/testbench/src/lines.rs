//! A recorder of interrupt lines.

use std::collections::HashMap;

use device::IrqSink;
use parking_lot::Mutex;

#[derive(Default)]
struct State {
    levels: HashMap<u32, bool>,
    log: Vec<(u32, bool)>,
}

/// Remembers the level of each line and every change.
#[derive(Default)]
pub struct Lines(Mutex<State>);

impl Lines {
    /// The level of a line.
    #[must_use]
    pub fn level(&self, line: u32) -> bool {
        self.0.lock().levels.get(&line).copied().unwrap_or(false)
    }

    /// Takes the changes so far.
    #[must_use]
    pub fn take_log(&self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.0.lock().log)
    }
}

impl IrqSink for Lines {
    fn set(&self, input: u32, level: bool) {
        let mut state = self.0.lock();
        state.levels.insert(input, level);
        state.log.push((input, level));
    }
}
