//! How a guest's state struct looks to the engine: a table, not a type.

use crate::op::Ty;

/// Which helpers and passes care about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotClass {
    /// General registers: always accessed as [`Ty::I64`] at exactly their offset, may be pinned
    /// to host registers and held in registers inside a block.
    General,
    /// The vector file: accessed as V128, I64 or I32 at any offset inside it.
    Vector,
    /// Everything else (system registers, counters): plain memory.
    System,
}

/// One named piece of guest state.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Name in text form and dumps.
    pub name: &'static str,
    /// Byte offset from the state pointer.
    pub offset: u32,
    /// Type of the whole slot.
    pub ty: Ty,
    /// Class.
    pub class: SlotClass,
    /// Pin rank: 0 = most used. `None` = never pinned.
    pub pin: Option<u8>,
}

/// Where the guest's floating-point state is, for the ops of [`crate::fp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FpControl {
    /// State offset of the 32-bit word of cumulative exception flags: bits 0 to 4 are invalid, division
    /// by zero, overflow, underflow, inexact ([`softfloat::flag`]).
    pub flags: u32,
}

/// The guest's state struct (`#[repr(C)]`).
#[derive(Clone, Copy, Debug)]
pub struct StateLayout {
    /// Size of the state struct in bytes.
    pub size: u32,
    /// Byte offset of the embedded [`crate::JitEnv`].
    pub env: u32,
    /// Byte offset of the u16 flags image: bit 15 N, bit 14 Z, bit 8 C, bit 0 V (what `lahf` and
    /// `seto` give on x86); other bits are unspecified.
    pub flags: u32,
    /// All declared slots.
    pub slots: &'static [Slot],
    /// Byte range of the vector file (offset, length).
    pub vectors: (u32, u32),
    /// Byte range (offset, length) of registers that are plain data: all slots, the flags and what else
    /// the guest keeps there. The engine may copy it as bytes.
    pub plain: (u32, u32),
    /// Floating-point state, if the translator emits floating-point ops.
    pub fp: Option<FpControl>,
}

/// Flags image bits used by every guest.
pub mod image {
    /// N.
    pub const N: u16 = 1 << 15;
    /// Z.
    pub const Z: u16 = 1 << 14;
    /// C.
    pub const C: u16 = 1 << 8;
    /// V.
    pub const V: u16 = 1;

    /// From bits 3..0 = N Z C V.
    #[must_use]
    pub fn from_nzcv(nzcv: u32) -> u16 {
        let bit = |n: u32, b: u16| if nzcv & n != 0 { b } else { 0 };
        bit(8, N) | bit(4, Z) | bit(2, C) | bit(1, V)
    }

    /// To bits 3..0 = N Z C V.
    #[must_use]
    pub fn to_nzcv(image: u16) -> u32 {
        let bit = |b: u16, n: u32| if image & b != 0 { n } else { 0 };
        bit(N, 8) | bit(Z, 4) | bit(C, 2) | bit(V, 1)
    }
}

impl StateLayout {
    /// The general-class slot at this offset.
    #[must_use]
    pub fn general_at(&self, offset: u32) -> Option<&'static Slot> {
        let fits = |s: &&Slot| s.offset == offset && s.class == SlotClass::General;
        // Registers mostly lie one after the other.
        let guess = offset.wrapping_sub(self.slots.first()?.offset) / 8;
        let near = self.slots.get(guess as usize).filter(fits);
        near.or_else(|| self.slots.iter().find(fits))
    }

    /// The slot of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&'static Slot> {
        self.slots.iter().find(|s| s.name == name)
    }

    /// Whether a range lies in the vector file.
    #[must_use]
    pub fn in_vectors(&self, offset: u32, bytes: u32) -> bool {
        offset >= self.vectors.0 && offset + bytes <= self.vectors.0 + self.vectors.1
    }

    /// The pinned slots in rank order.
    #[must_use]
    pub fn pinned(&self) -> Vec<&'static Slot> {
        let mut v: Vec<_> = self.slots.iter().filter(|s| s.pin.is_some()).collect();
        v.sort_by_key(|s| s.pin);
        v
    }
}
