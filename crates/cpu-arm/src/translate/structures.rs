//! Structures of two to four members in memory, moved as whole registers and taken apart inside.
//!
//! Only where accesses may have any size: little-endian, no alignment checks.
//! Source: Arm ARM (DDI 0487) C7.2 (LD2 to LD4, ST2 to ST4 (multiple structures) pages).

use jit_ir::{Lane, Opcode, Val};

use super::Ctx;

/// A bit of a shuffle's byte that makes a zero.
const NOTHING: u8 = 0x80;

impl Ctx<'_> {
    fn op2(&mut self, code: Opcode, lane: Lane, a: Val, b: Val) -> Val {
        self.b.vector(code, lane, a, b)
    }

    /// The bytes of several vectors that a table names, counted through all of them; 0xff = zero.
    fn gather(&mut self, from: &[Val], table: [u8; 16]) -> Val {
        let mut sum = None;
        for (v, first) in from.iter().zip((0u8..).step_by(16)) {
            let mask = table.map(|n| {
                let at = n.wrapping_sub(first);
                if n != 0xff && at < 16 { at } else { NOTHING }
            });
            let mask = u128::from_le_bytes(mask);
            let (low, high) = (self.b.c64(mask as u64), self.b.c64((mask >> 64) as u64));
            let mask = self.b.v_from64(low, high);
            let part = self.op2(Opcode::VShuffle, Lane::B, *v, mask);
            sum = Some(match sum {
                None => part,
                Some(s) => self.op2(Opcode::VOr, Lane::B, s, part),
            });
        }
        sum.unwrap_or(Val::NONE)
    }

    fn low_or_all(&mut self, q: u32, v: Val) -> Val {
        if q != 0 { v } else { self.op2(Opcode::VLow64, Lane::B, v, Val::NONE) }
    }

    /// Registers with the members of the structures in `from`: consecutive memory in whole vectors.
    pub(super) fn take_apart(&mut self, members: u32, q: u32, sz: u32, from: &[Val]) -> Vec<Val> {
        let lane = Lane::ALL[sz as usize & 3];
        let split = |t: &mut Self, a: Val, b: Val| {
            (t.op2(Opcode::VEven, lane, a, b), t.op2(Opcode::VOdd, lane, a, b))
        };
        let regs = match (members, from) {
            (2, [a]) => {
                let (x, y) = split(self, *a, *a);
                vec![x, y]
            }
            (2, [a, b]) => {
                let (x, y) = split(self, *a, *b);
                vec![x, y]
            }
            (4, [a, b]) => {
                let (even, odd) = split(self, *a, *b);
                let ((w, y), (x, z)) = (split(self, even, even), split(self, odd, odd));
                vec![w, x, y, z]
            }
            (4, [a, b, c, d]) => {
                let ((e0, o0), (e1, o1)) = (split(self, *a, *b), split(self, *c, *d));
                let ((w, y), (x, z)) = (split(self, e0, e1), split(self, o0, o1));
                vec![w, x, y, z]
            }
            _ => {
                let within = (1u32 << sz) - 1;
                let table = |k: u32| {
                    std::array::from_fn(|i| {
                        let i = i as u32;
                        let at = (((i >> sz) * members + k) << sz) + (i & within);
                        if i < 8 << q { at as u8 } else { 0xff }
                    })
                };
                (0..members).map(|k| self.gather(from, table(k))).collect()
            }
        };
        regs.into_iter().map(|v| self.low_or_all(q, v)).collect()
    }

    /// The reverse: consecutive memory from registers with members; the last vector may be half used.
    pub(super) fn put_together(&mut self, q: u32, sz: u32, regs: &[Val]) -> Vec<Val> {
        let lane = Lane::ALL[sz as usize & 3];
        let zip = |t: &mut Self, a: Val, b: Val| {
            (t.op2(Opcode::VZipLo, lane, a, b), t.op2(Opcode::VZipHi, lane, a, b))
        };
        let mut all = match regs {
            [a, b] => {
                let (low, high) = zip(self, *a, *b);
                vec![low, high]
            }
            [a, b, c, d] => {
                let ((x0, x1), (y0, y1)) = (zip(self, *a, *c), zip(self, *b, *d));
                let ((w, x), (y, z)) = (zip(self, x0, y0), zip(self, x1, y1));
                vec![w, x, y, z]
            }
            _ => {
                let members = regs.len() as u32;
                let within = (1u32 << sz) - 1;
                let table = |n: u32| {
                    std::array::from_fn(|i| {
                        let at = 16 * n + i as u32;
                        let (element, byte) = (at >> sz, at & within);
                        let source = ((element / members) << sz) + byte;
                        if source < 8 << q {
                            (16 * (element % members) + source) as u8
                        } else {
                            0xff
                        }
                    })
                };
                (0..members).map(|n| self.gather(regs, table(n))).collect()
            }
        };
        all.truncate((regs.len() * (8 << q)).div_ceil(16));
        all
    }
}
