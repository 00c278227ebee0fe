//! The state of 32 interrupts, shared by the GIC models.

use derive::VmState;

/// State of 32 consecutive interrupts, one bit each.
#[derive(Clone, Default, VmState)]
#[vmstate(name = "gic-word", version = 1)]
pub(crate) struct Word {
    /// Group bit: set means (non-secure) group 1.
    pub(crate) group: u32,
    /// Group modifier (GICv3 with two security states).
    pub(crate) modifier: u32,
    pub(crate) enabled: u32,
    /// Pending by an edge or by software.
    pub(crate) latch: u32,
    /// Input level. An input, so reset keeps it.
    pub(crate) level: u32,
    pub(crate) active: u32,
    /// Edge-triggered.
    pub(crate) edge: u32,
    pub(crate) priority: [u8; 32],
}

impl Word {
    pub(crate) fn reset(&mut self) {
        *self = Word { level: self.level, ..Word::default() };
    }

    pub(crate) fn pending(&self) -> u32 {
        self.latch | (self.level & !self.edge)
    }

    /// What could be signalled.
    pub(crate) fn candidates(&self) -> u32 {
        self.pending() & self.enabled & !self.active
    }

    /// Sets an input's level; true when something could have changed.
    pub(crate) fn drive(&mut self, bit: u32, level: bool) -> bool {
        let mask = 1u32 << (bit & 31);
        let before = (self.level, self.latch);
        if level {
            if self.level & mask == 0 && self.edge & mask != 0 {
                self.latch |= mask;
            }
            self.level |= mask;
        } else {
            self.level &= !mask;
        }
        before != (self.level, self.latch)
    }

    /// An edge of a low input.
    pub(crate) fn pulse(&mut self, bit: u32) {
        self.latch |= self.edge & !self.level & 1u32 << (bit & 31);
    }

    /// Acknowledges one interrupt: active, no longer latched.
    pub(crate) fn acknowledge(&mut self, bit: u32) {
        let mask = 1u32 << (bit & 31);
        self.active |= mask;
        self.latch &= !mask;
    }

    pub(crate) fn deactivate(&mut self, bit: u32) {
        self.active &= !(1u32 << (bit & 31));
    }

    pub(crate) fn priority(&self, bit: u32) -> u8 {
        self.priority.get(bit as usize).copied().unwrap_or(0xff)
    }

    /// Two configuration bits per interrupt: bit 1 of each is "edge".
    pub(crate) fn config(&self, half: u32) -> u32 {
        let bits = (self.edge >> (16 * (half & 1))) & 0xffff;
        (0..16).filter(|i| bits & (1 << i) != 0).fold(0, |v, i| v | 2 << (2 * i))
    }

    pub(crate) fn set_config(&mut self, half: u32, value: u32, mask: u32) {
        let shift = 16 * (half & 1);
        let bits = (0..16).filter(|i| value & (2 << (2 * i)) != 0).fold(0u32, |v, i| v | 1 << i);
        let mask = mask & (0xffff << shift);
        self.edge = (self.edge & !mask) | ((bits << shift) & mask);
    }
}

/// Bits set in a word, from the lowest.
pub(crate) fn bits(mut word: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(bit)
    })
}
