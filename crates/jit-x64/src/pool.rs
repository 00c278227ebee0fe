//! Constants that emitted code reads, in the runtime area near the code.

use crate::asm::Rm;
use crate::emit::Emit;
use crate::thunks::id;

/// Indices of the constants, 16 bytes each.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Pool {
    /// All but the signs of singles.
    AbsS,
    /// All but the signs of doubles.
    AbsD,
    /// The smallest normal number, singles.
    MinS,
    /// The smallest normal number, doubles.
    MinD,
    /// 1.0 in the two upper singles, else zero.
    OneHigh,
    /// What a conversion to 32-bit integers gives for what does not fit.
    IndefiniteS,
    /// MXCSR: nearest, no flushing, all exceptions masked, no flags.
    Control,
    /// 2^32 and 2^64 / 2 as doubles.
    LimitsD,
    /// The same as singles, in 64 bits each.
    LimitsS,
    /// 65536.0 in singles.
    Two16,
    /// The low 16 bits of 32.
    Low16,
}

const S: u64 = 1 << 32 | 1;

/// The constants in order.
pub(crate) const CONTENT: [[u64; 2]; 11] = [
    [0x7fff_ffff * S; 2],
    [!(1 << 63); 2],
    [0x0080_0000 * S; 2],
    [1 << 52; 2],
    [0, 0x3f80_0000 * S],
    [0x8000_0000 * S; 2],
    [0x1f80, 0],
    [0x41f0_0000_0000_0000, 0x43e0_0000_0000_0000],
    [0x4f80_0000, 0x5f00_0000],
    [0x4780_0000 * S; 2],
    [0xffff * S; 2],
];

impl Emit<'_> {
    /// A constant as an operand.
    pub(crate) fn pool(&self, p: Pool) -> Rm {
        self.pool_at(p, 0, 0)
    }
    /// A constant's byte `at` as an operand of an instruction with `more` bytes of immediates.
    pub(crate) fn pool_at(&self, p: Pool, at: u64, more: u8) -> Rm {
        Rm::Pool(self.thunk(id::POOL) + 16 * p as u64 + at, more)
    }
}
