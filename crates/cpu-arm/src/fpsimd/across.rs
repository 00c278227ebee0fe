//! Across lanes and scalar pairwise.

use softfloat::{F16, F32, Format};

use super::{Exec, lane, lanes, number, ones};
use crate::decode::fpsimd as d;

impl Exec<'_> {
    pub(super) fn across(&mut self, a: &d::ArgRr) -> bool {
        let (u, bits) = (a.u != 0, 8u32 << a.size);
        if matches!(a.op, 12 | 15) {
            return self.across_fp(a);
        }
        if a.size == 3 || (a.size == 2 && a.q == 0) {
            return false;
        }
        let n = self.v(a.rn);
        let all = (0..lanes(bits, a.q)).map(|i| number(lane(n, bits, i), bits, !u));
        let (r, width) = match (a.op, u) {
            (3, _) => (all.sum::<i128>(), 2 * bits),
            (10, _) => (all.max().unwrap_or(0), bits),
            (26, _) => (all.min().unwrap_or(0), bits),
            (27, false) => (all.sum::<i128>(), bits),
            _ => return false,
        };
        self.set_v(a.rd, u128::from(r as u64 & ones(width)));
        true
    }

    /// FMAXNMV, FMINNMV (12), FMAXV, FMINV (15).
    fn across_fp(&mut self, a: &d::ArgRr) -> bool {
        let f = match (a.u, a.size & 1) {
            (0, 0) if self.features.fp16() => F16,
            (1, 0) if a.q != 0 => F32,
            _ => return false,
        };
        let n = self.v(a.rn);
        let r = self.reduce(f, (a.op == 12, a.size & 2 != 0), n, 0, lanes(f.bits(), a.q));
        self.set_v(a.rd, u128::from(r));
        true
    }

    fn fp_pick(&mut self, f: Format, (num, min): (bool, bool), x: u64, y: u64) -> u64 {
        match (num, min) {
            (true, _) => self.fp.number(f, x, y, !min),
            (false, true) => self.fp.min(f, x, y),
            (false, false) => self.fp.max(f, x, y),
        }
    }

    fn reduce(&mut self, f: Format, how: (bool, bool), v: u128, at: u32, count: u32) -> u64 {
        if count == 1 {
            return lane(v, f.bits(), at);
        }
        let half = count / 2;
        let x = self.reduce(f, how, v, at, half);
        let y = self.reduce(f, how, v, at + half, half);
        self.fp_pick(f, how, x, y)
    }

    pub(super) fn scalar_pair(&mut self, a: &d::ArgRr) -> bool {
        let n = self.v(a.rn);
        if a.op == 27 {
            if a.u != 0 || a.size != 3 {
                return false;
            }
            let r = (n as u64).wrapping_add((n >> 64) as u64);
            self.set_v(a.rd, u128::from(r));
            return true;
        }
        let f = match (a.u, a.size & 1) {
            (0, 0) if self.features.fp16() => F16,
            (1, s) => Self::vector_format(s),
            _ => return false,
        };
        let (x, y) = (lane(n, f.bits(), 0), lane(n, f.bits(), 1));
        let min = a.size & 2 != 0;
        let r = match a.op {
            12 => self.fp_pick(f, (true, min), x, y),
            13 if !min => self.fp.add(f, x, y),
            15 => self.fp_pick(f, (false, min), x, y),
            _ => return false,
        };
        self.set_v(a.rd, u128::from(r));
        true
    }
}
