//! Copies, table look-ups, permutations, extraction.

use super::{Exec, lane, lanes, ones, set_lane, sx};
use crate::decode::fpsimd as d;

/// Element size in bits and index from imm5.
pub(super) fn imm5_lane(imm5: u32) -> Option<(u32, u32)> {
    let size = imm5.trailing_zeros();
    (size < 4 && imm5 != 0).then(|| (8 << size, imm5 >> (size + 1)))
}

impl Exec<'_> {
    pub(super) fn copy(&mut self, a: &d::ArgImm4Imm5OpQRdRn) -> bool {
        let Some((bits, i)) = imm5_lane(a.imm5) else { return false };
        if a.op != 0 {
            // INS (element).
            if a.q == 0 {
                return false;
            }
            let src = a.imm4 >> (bits / 8).trailing_zeros();
            let x = lane(self.v(a.rn), bits, src);
            let mut v = self.v(a.rd);
            set_lane(&mut v, bits, i, x);
            self.set_v(a.rd, v);
            return true;
        }
        match a.imm4 {
            0 => {
                let x = lane(self.v(a.rn), bits, i);
                self.duplicate(a.rd, a.q, bits, x)
            }
            1 => {
                self.general = true;
                let x = self.x(a.rn);
                self.duplicate(a.rd, a.q, bits, x)
            }
            3 if a.q != 0 => {
                self.general = true;
                let (x, mut v) = (self.x(a.rn), self.v(a.rd));
                set_lane(&mut v, bits, i, x);
                self.set_v(a.rd, v);
                true
            }
            5 => self.lane_to_general(a, bits, i, true),
            7 => self.lane_to_general(a, bits, i, false),
            _ => false,
        }
    }

    fn duplicate(&mut self, rd: u32, q: u32, bits: u32, x: u64) -> bool {
        if bits == 64 && q == 0 {
            return false;
        }
        let mut v = 0;
        for i in 0..lanes(bits, q) {
            set_lane(&mut v, bits, i, x);
        }
        self.set_v(rd, v);
        true
    }

    /// SMOV, UMOV.
    fn lane_to_general(
        &mut self,
        a: &d::ArgImm4Imm5OpQRdRn,
        bits: u32,
        i: u32,
        signed: bool,
    ) -> bool {
        let legal = match (signed, a.q) {
            (true, 0) => bits < 32,
            (true, _) => bits < 64,
            (false, 0) => bits < 64,
            (false, _) => bits == 64,
        };
        if !legal {
            return false;
        }
        self.general = true;
        let x = lane(self.v(a.rn), bits, i);
        let x = if signed { sx(x, bits) as u64 } else { x };
        self.set_x(a.rd, if a.q == 0 { x & ones(32) } else { x });
        true
    }

    pub(super) fn scalar_copy(&mut self, a: &d::ArgImm5RdRn) -> bool {
        let Some((bits, i)) = imm5_lane(a.imm5) else { return false };
        let x = lane(self.v(a.rn), bits, i);
        self.set_v(a.rd, u128::from(x));
        true
    }

    pub(super) fn table(&mut self, a: &d::ArgLenOpQRdRmRn) -> bool {
        let (index, old) = (self.v(a.rm), self.v(a.rd));
        let mut out = 0;
        for i in 0..lanes(8, a.q) {
            let at = lane(index, 8, i) as u32;
            let r = if at < 16 * (a.len + 1) {
                lane(self.v((a.rn + at / 16) & 31), 8, at % 16)
            } else if a.op != 0 {
                lane(old, 8, i)
            } else {
                0
            };
            set_lane(&mut out, 8, i, r);
        }
        self.set_v(a.rd, out);
        true
    }

    /// UZP, TRN, ZIP.
    pub(super) fn permute(&mut self, a: &d::ArgOpQRdRmRnSize) -> bool {
        let bits = 8u32 << a.size;
        let (part, kind) = (a.op >> 2, a.op & 3);
        if kind == 0 || (a.size == 3 && a.q == 0) {
            return false;
        }
        let (n, m) = (self.v(a.rn), self.v(a.rm));
        let count = lanes(bits, a.q);
        let both = |i: u32| if i < count { lane(n, bits, i) } else { lane(m, bits, i - count) };
        let mut out = 0;
        for i in 0..count {
            let r = match kind {
                1 => both(2 * i + part),
                2 => lane(if i & 1 == 0 { n } else { m }, bits, (i & !1) + part),
                _ => lane(if i & 1 == 0 { n } else { m }, bits, i / 2 + part * count / 2),
            };
            set_lane(&mut out, bits, i, r);
        }
        self.set_v(a.rd, out);
        true
    }

    pub(super) fn extract(&mut self, a: &d::ArgImmQRdRmRn) -> bool {
        if a.q == 0 && a.imm >= 8 {
            return false;
        }
        let (n, m) = (self.v(a.rn), self.v(a.rm));
        let count = lanes(8, a.q);
        let mut out = 0;
        for i in 0..count {
            let at = i + a.imm;
            let r = if at < count { lane(n, 8, at) } else { lane(m, 8, at - count) };
            set_lane(&mut out, 8, i, r);
        }
        self.set_v(a.rd, out);
        true
    }
}
