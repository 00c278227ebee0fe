//! Causes, masks, moderation, and the three ways to interrupt: messages of MSI-X and MSI, the pin.
//!
//! A cause is told once by a message and again when it was cleared and came anew; the pin follows
//! causes and masks. After an interrupt its vector keeps silent for the time in EITR (ITR for MSI and
//! the pin), counted in 256 ns. The delay timers of receiving and transmitting are kept and expire
//! at once. Source: 82574 data sheet, 7.1, 7.4 and 10.2.4.

use super::E1000e;
use super::regs::*;

/// What a moderation register counts, in nanoseconds.
const UNIT: u64 = 256;
/// Vectors of MSI-X, and the one silence of MSI and the pin.
const VECTORS: usize = 5;
/// Causes that have a vector, with their place in IVAR.
const ALLOCATED: [(u32, u32); 5] =
    [(RXQ0, 0), (RXQ0 << 1, 4), (TXQ0, 8), (TXQ0 << 1, 12), (OTHER, 16)];

/// What is to be sent when the lock is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    /// One bit for each vector.
    pub(super) vectors: u8,
    pub(super) msi: bool,
    /// When to look again.
    pub(super) again: Option<u64>,
}

/// How the guest has its interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Msix,
    Msi,
    Pin,
}

impl State {
    /// Notes causes.
    pub(super) fn cause(&mut self, bits: u32) {
        let bits = bits & !(ASSERTED | OTHER);
        let mut all = self.get(ICR) | bits;
        if bits & OTHER_CAUSES & self.get(IMS) != 0 {
            all |= OTHER;
        }
        self.set(ICR, all);
    }

    /// Causes that are not masked.
    fn pending(&self) -> u32 {
        self.get(ICR) & self.get(IMS) & !ASSERTED
    }

    /// Whether the silence of a vector is over; if not, `again` is no later than its end.
    fn may_speak(&self, slot: usize, now: u64, again: &mut Option<u64>) -> bool {
        let until = self.silent.get(slot).copied().unwrap_or(0);
        if until > now {
            *again = Some(again.map_or(until, |at| at.min(until)));
        }
        until <= now
    }

    fn keep_silent(&mut self, slot: usize, register: u32, now: u64) {
        let wait = u64::from(self.get(register)) * UNIT;
        if let Some(until) = self.silent.get_mut(slot) {
            *until = now.saturating_add(wait);
        }
    }

    /// What follows from causes and masks.
    pub(super) fn evaluate(&mut self, way: Way, now: u64) -> Messages {
        let mut messages = Messages::default();
        let pending = self.pending();
        self.told &= pending;
        let icr = self.get(ICR);
        self.set(ICR, if pending == 0 { icr & !ASSERTED } else { icr | ASSERTED });
        match way {
            Way::Msix => self.evaluate_msix(pending, now, &mut messages),
            Way::Msi | Way::Pin => {
                let fresh = pending & !self.told;
                if fresh != 0 && self.may_speak(VECTORS, now, &mut messages.again) {
                    self.told |= pending;
                    self.keep_silent(VECTORS, ITR, now);
                    messages.msi = way == Way::Msi;
                }
            }
        }
        messages
    }

    fn evaluate_msix(&mut self, pending: u32, now: u64, messages: &mut Messages) {
        let ivar = self.get(IVAR);
        for (cause, shift) in ALLOCATED {
            let (vector, valid) = (ivar >> shift & 7, ivar >> shift & 8 != 0);
            let slot = vector as usize;
            if pending & cause & !self.told == 0 || !valid || slot >= VECTORS {
                continue;
            }
            if !self.may_speak(slot, now, &mut messages.again) {
                continue;
            }
            self.told |= cause;
            self.keep_silent(slot, EITR + 4 * vector, now);
            messages.vectors |= 1 << vector;
            if self.is_set(EIAC, cause) {
                self.set(ICR, self.get(ICR) & !cause);
                self.told &= !cause;
            }
            if self.is_set(CTRL_EXT, EXT_EIAME) {
                self.set(IMS, self.get(IMS) & !(cause & self.get(IAM)));
            }
        }
    }

    /// The pin's level.
    pub(super) fn level(&self) -> bool {
        self.pending() & self.told != 0
    }

    /// Reading the causes clears them when they were told or nothing is told at all (10.2.4.1).
    pub(super) fn read_causes(&mut self) -> u32 {
        let causes = self.get(ICR);
        if self.get(IMS) == 0 {
            self.set(ICR, 0);
        } else if causes & ASSERTED != 0 {
            self.set(ICR, 0);
            if self.is_set(CTRL_EXT, EXT_IAME) {
                self.set(IMS, self.get(IMS) & !self.get(IAM));
            }
        }
        causes
    }
}

impl E1000e {
    fn way(&self) -> Way {
        if self.msix.is_enabled() {
            Way::Msix
        } else if self.function.is_msi_enabled() {
            Way::Msi
        } else {
            Way::Pin
        }
    }

    /// Tells the guest what there is to tell. Call it without locks.
    pub(super) fn tell(&self) {
        let way = self.way();
        let messages = {
            let mut state = self.state.lock();
            let messages = state.evaluate(way, self.clock.now_ns());
            self.function.set_pin(way == Way::Pin && state.level());
            messages
        };
        for vector in 0..VECTORS {
            if messages.vectors >> vector & 1 != 0 {
                self.msix.send(u16::try_from(vector).unwrap_or(0));
            }
        }
        if messages.msi {
            self.function.send_msi();
        }
        if let (Some(at), Some(timer)) = (messages.again, self.timer.get())
            && timer.deadline().is_none_or(|now| now > at)
        {
            timer.arm_at(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::new([2, 0, 0, 0, 0, 1])
    }

    #[test]
    fn a_message_clears_and_masks_what_it_is_told_to() {
        let mut s = state();
        s.set(IVAR, 8 | 9 << 8 | 10 << 16);
        s.set(EIAC, RXQ0 | TXQ0);
        s.set(IAM, u32::MAX);
        s.set(CTRL_EXT, EXT_EIAME);
        s.set(IMS, RXQ0 | TXQ0 | OTHER | LSC);
        s.cause(RXQ0 | RXT0);
        assert_eq!(s.evaluate(Way::Msix, 0).vectors, 1);
        assert_eq!((s.get(ICR) & RXQ0, s.get(IMS) & RXQ0), (0, 0));
        s.cause(RXQ0);
        assert_eq!(s.evaluate(Way::Msix, 0).vectors, 0, "masked");
        s.set(IMS, s.get(IMS) | RXQ0);
        assert_eq!(s.evaluate(Way::Msix, 0).vectors, 1);
        s.cause(LSC);
        assert_eq!(s.evaluate(Way::Msix, 0).vectors, 4);
        assert_ne!(s.read_causes() & LSC, 0);
        assert_eq!(s.get(ICR), 0);
    }

    #[test]
    fn moderation_keeps_a_vector_silent() {
        let mut s = state();
        s.set(IVAR, 8);
        s.set(IMS, RXQ0);
        s.set(EIAC, RXQ0);
        s.set(EITR, 100);
        s.cause(RXQ0);
        assert_eq!(s.evaluate(Way::Msix, 1000).vectors, 1);
        s.cause(RXQ0);
        let later = s.evaluate(Way::Msix, 2000);
        assert_eq!((later.vectors, later.again), (0, Some(1000 + 25_600)));
        assert_eq!(s.evaluate(Way::Msix, 26_600).vectors, 1);
    }

    #[test]
    fn the_pin_follows_causes_and_masks() {
        let mut s = state();
        s.cause(LSC);
        s.evaluate(Way::Pin, 0);
        assert!(!s.level());
        assert_eq!(s.read_causes() & LSC, LSC, "nothing is unmasked: reading clears");
        s.set(IMS, LSC);
        s.cause(LSC);
        s.evaluate(Way::Pin, 0);
        assert!(s.level());
        assert_eq!(s.read_causes() & ASSERTED, ASSERTED);
        s.evaluate(Way::Pin, 0);
        assert!(!s.level());
        s.cause(LSC);
        assert!(s.evaluate(Way::Msi, 0).msi);
        assert!(!s.evaluate(Way::Msi, 0).msi, "told once");
    }
}
