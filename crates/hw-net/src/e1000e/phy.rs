//! The PHY behind MDIO, and the configuration memory.
//!
//! The link comes up at once after a reset of the PHY or when it is negotiated anew. Pages other
//! than the first are empty. Writes to the configuration memory stay until the machine ends.
//! Source: 82574 data sheet, 10.2.2 (MDIC, EERD, EEWR) and 9.1 (PHY registers).

use super::regs::*;

const READY: u32 = 1 << 28;
const ERROR: u32 = 1 << 30;
const WRITE: u32 = 1;
const READ: u32 = 2;
const RESET: u16 = 1 << 15;
const RESTART: u16 = 1 << 9;
const LOOPBACK: u16 = 1 << 14;
const LINK: u16 = 1 << 2;
/// PHY specific status: the link is up (in real time).
const LINK_NOW: u16 = 1 << 10;
const PAGE: usize = 22;
/// Registers that there are; others answer with an error.
const KNOWN: u32 = 0x667f_87ff;

impl State {
    /// Whether frames come back.
    pub(super) fn loops_back(&self) -> bool {
        self.get(RCTL) & RCTL_LBM == RCTL_LBM || self.phy.first().is_some_and(|c| c & LOOPBACK != 0)
    }

    /// A frame on the management bus.
    pub(super) fn mdic(&mut self, value: u32) {
        let (index, phy) = ((value >> 16 & 31) as usize, value >> 21 & 31);
        let mut answer = value | READY;
        let known = phy == 1 && KNOWN >> index & 1 != 0 || index == PAGE;
        match (value >> 26 & 3, known) {
            (READ, true) => {
                let first_page = self.phy.get(PAGE).is_none_or(|page| *page == 0) || index >= 16;
                let data = if first_page { self.phy.get(index).copied() } else { None };
                answer = answer & !0xffff | u32::from(data.unwrap_or(0));
            }
            (WRITE, true) => self.phy_write(index, u16::try_from(value & 0xffff).unwrap_or(0)),
            _ => answer = (answer & !0xffff) | ERROR,
        }
        self.set(MDIC, answer);
        if value >> 29 & 1 != 0 {
            self.cause(MDAC);
        }
    }

    fn phy_write(&mut self, index: usize, value: u16) {
        let other_page = self.phy.get(PAGE).is_some_and(|page| *page != 0) && index < 16;
        let read_only = matches!(index, 1..=3 | 5 | 6 | 10 | 15 | 17 | 21 | 25);
        if other_page || read_only {
            return;
        }
        let mut value = value;
        if index == 0 {
            if value & RESET != 0 {
                self.phy_reset();
            }
            if value & (RESET | RESTART) != 0 {
                self.set_link(self.link_up);
            }
            value &= !(RESET | RESTART);
        }
        if let Some(register) = self.phy.get_mut(index) {
            *register = value;
        }
    }

    pub(super) fn phy_reset(&mut self) {
        self.phy = PHY;
    }

    /// The link is up or down: what the PHY and the status say, and the cause.
    pub(super) fn set_link(&mut self, up: bool) {
        self.link_up = up;
        for (index, bits) in [(1, LINK | 1 << 5), (17, LINK_NOW)] {
            if let Some(register) = self.phy.get_mut(index) {
                *register = if up { *register | bits } else { *register & !bits };
            }
        }
        self.cause(LSC);
    }

    /// Reads a word of the configuration memory.
    pub(super) fn nvm_read(&mut self, value: u32) {
        let mut answer = value & 0xfffc;
        if value & 1 != 0 {
            let at = (value >> 2 & 0x3fff) as usize;
            let word = self.nvm.get(at).copied().unwrap_or(0);
            answer |= 2 | u32::from(word) << 16;
        }
        self.set(EERD, answer);
    }

    /// Writes one.
    pub(super) fn nvm_write(&mut self, value: u32) {
        if value & 1 != 0
            && let Some(word) = self.nvm.get_mut((value >> 2 & 0x3fff) as usize)
        {
            *word = u16::try_from(value >> 16).unwrap_or(0);
        }
        self.set(EEWR, value | 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_the_phy_and_words_of_the_memory() {
        let mut s = State::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let mut ask = |op: u32, index: u32, data: u32| {
            s.mdic(op << 26 | 1 << 21 | index << 16 | data);
            s.get(MDIC)
        };
        assert_eq!(ask(READ, 3, 0), 0x1823_0cb1);
        assert_eq!(ask(READ, 11, 0), 0x582b_0000);
        ask(WRITE, 4, 0x1234);
        assert_eq!(ask(READ, 4, 0) & 0xffff, 0x1234);
        ask(WRITE, 0, 0x8000);
        assert_eq!(ask(READ, 4, 0) & 0xffff, 0x0de1);
        s.nvm_read(1);
        assert_eq!(s.get(EERD), 0x5452_0002);
        let sum = (0..64).fold(0u16, |sum, n| {
            s.nvm_read(1 | n << 2);
            sum.wrapping_add(u16::try_from(s.get(EERD) >> 16).unwrap())
        });
        assert_eq!(sum, 0xbaba);
        s.nvm_read(1 | 0xffff << 2);
        assert_eq!(s.get(EERD) >> 16, 0);
    }
}
