//! Register arrays that distributor and redistributors have in common.

use device::{Size, TxAttrs};

use super::Gicv3;
use crate::word::Word;

/// What an access may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Everything: a secure access, or there is one security state.
    All,
    /// Only non-secure group 1, with shifted priorities.
    NonSecure,
}

impl View {
    pub(super) fn of(gic: &Gicv3, attrs: TxAttrs) -> View {
        if gic.ds() || attrs.secure { View::All } else { View::NonSecure }
    }

    pub(super) fn mask(self, word: &Word) -> u32 {
        if self == View::All { u32::MAX } else { word.group }
    }

    pub(super) fn sees(self, word: &Word, intid: usize) -> bool {
        self.mask(word) & (1 << (intid % 32)) != 0
    }
}

/// A register array with one field per interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    Priority,
    Config,
    Modifier,
}

impl Field {
    /// The array at an offset, the word of interrupts, and the rest of the
    /// offset inside that word's registers.
    pub(super) fn decode(offset: u64) -> Option<(Field, usize, u32)> {
        let at = u32::try_from(offset).ok()?;
        let one_bit = |field, base: u32| (field, ((at - base) / 4) as usize, at & 3);
        Some(match at {
            0x080..0x100 => one_bit(Field::Group, 0x080),
            0x100..0x180 => one_bit(Field::SetEnable, 0x100),
            0x180..0x200 => one_bit(Field::ClearEnable, 0x180),
            0x200..0x280 => one_bit(Field::SetPending, 0x200),
            0x280..0x300 => one_bit(Field::ClearPending, 0x280),
            0x300..0x380 => one_bit(Field::SetActive, 0x300),
            0x380..0x400 => one_bit(Field::ClearActive, 0x380),
            0x400..0x800 => (Field::Priority, ((at - 0x400) / 32) as usize, at & 31),
            0xc00..0xd00 => (Field::Config, ((at - 0xc00) / 8) as usize, at & 7),
            0xd00..0xd80 => one_bit(Field::Modifier, 0xd00),
            _ => return None,
        })
    }

    pub(super) fn read(self, word: &Word, rest: u32, size: Size, view: View, ds: bool) -> u32 {
        let mask = view.mask(word);
        if self == Field::Priority {
            return read_priorities(word, rest, size, view);
        }
        let value = match self {
            // Group registers are secure registers.
            Field::Group if view == View::All => word.group,
            Field::Modifier if view == View::All && !ds => word.modifier,
            Field::Group | Field::Modifier | Field::Priority => 0,
            Field::SetEnable | Field::ClearEnable => word.enabled & mask,
            Field::SetPending | Field::ClearPending => word.pending() & mask,
            Field::SetActive | Field::ClearActive => word.active & mask,
            Field::Config => word.config(rest / 4),
        };
        // Narrow reads take their byte lanes.
        value >> (8 * (rest & 3))
    }

    pub(super) fn write(
        self,
        word: &mut Word,
        rest: u32,
        size: Size,
        view: View,
        ds: bool,
        value: u32,
    ) {
        if self == Field::Priority {
            return write_priorities(word, rest, size, view, value);
        }
        if size != Size::B4 {
            trace::guest_error!("gicv3: narrow write to {self:?} ignored");
            return;
        }
        let mask = view.mask(word);
        match self {
            Field::Group if view == View::All => word.group = value,
            Field::Modifier if view == View::All && !ds => word.modifier = value,
            Field::Group | Field::Modifier | Field::Priority => {}
            Field::SetEnable => word.enabled |= value & mask,
            Field::ClearEnable => word.enabled &= !(value & mask),
            Field::SetPending => word.latch |= value & mask,
            Field::ClearPending => word.latch &= !(value & mask),
            Field::SetActive => word.active |= value & mask,
            Field::ClearActive => word.active &= !(value & mask),
            Field::Config => word.set_config(rest / 4, value, mask),
        }
    }
}

fn read_priorities(word: &Word, rest: u32, size: Size, view: View) -> u32 {
    let mut value = 0;
    for i in 0..size as u32 {
        let priority = word.priority(rest + i);
        let seen = match view {
            View::All => priority,
            View::NonSecure if view.mask(word) & (1 << (rest + i)) != 0 => priority << 1,
            View::NonSecure => 0,
        };
        value |= u32::from(seen) << (8 * i);
    }
    value
}

fn write_priorities(word: &mut Word, rest: u32, size: Size, view: View, value: u32) {
    let mask = view.mask(word);
    for (i, byte) in (0..size as u32).zip(value.to_le_bytes()) {
        let at = rest + i;
        if mask & (1 << (at & 31)) == 0 {
            continue;
        }
        if let Some(slot) = word.priority.get_mut(at as usize) {
            *slot = if view == View::All { byte } else { byte >> 1 | 0x80 };
        }
    }
}

/// An identification byte: one register per four offsets.
pub(super) fn id(table: &[u8], offset: u64) -> u32 {
    let index = usize::try_from(offset / 4).unwrap_or(usize::MAX);
    table.get(index).copied().map_or(0, u32::from)
}
