//! "Three different": widening and narrowing.

use super::three::poly_mul;
use super::{Exec, lane, number, ones, set_lane};
use crate::decode::fpsimd as d;

impl Exec<'_> {
    pub(super) fn diff(&mut self, a: &d::ArgRrr, scalar: bool) -> bool {
        let doubling = matches!(a.op, 9 | 11 | 13);
        if scalar && !(doubling && a.u == 0) {
            return false;
        }
        match a.op {
            14 => a.u == 0 && self.poly_long(a),
            _ if a.size == 3 => false,
            1 | 3 => self.wide(a),
            4 | 6 => self.narrow_high(a),
            15 => false,
            _ if doubling && (a.u != 0 || a.size == 0) => false,
            _ => self.long(a, scalar),
        }
    }

    fn poly_long(&mut self, a: &d::ArgRrr) -> bool {
        let bits = 8u32 << a.size;
        if a.size == 1 || a.size == 2 || (a.size == 3 && !self.features.pmull()) {
            return false;
        }
        let (n, m) = (self.v(a.rn) >> (64 * a.q), self.v(a.rm) >> (64 * a.q));
        let r = if a.size == 3 {
            poly_mul(n as u64, m as u64, 64)
        } else {
            let mut out = 0;
            for i in 0..8 {
                let p = poly_mul(lane(n, bits, i), lane(m, bits, i), bits);
                set_lane(&mut out, 16, i, p as u64);
            }
            out
        };
        self.set_v(a.rd, r);
        true
    }

    /// SADDW, SSUBW…
    fn wide(&mut self, a: &d::ArgRrr) -> bool {
        let bits = 8u32 << a.size;
        let (n, m) = (self.v(a.rn), self.v(a.rm) >> (64 * a.q));
        let mut out = 0;
        for i in 0..64 / bits {
            let y = number(lane(m, bits, i), bits, a.u == 0) as u64;
            let x = lane(n, 2 * bits, i);
            let r = if a.op == 1 { x.wrapping_add(y) } else { x.wrapping_sub(y) };
            set_lane(&mut out, 2 * bits, i, r);
        }
        self.set_v(a.rd, out);
        true
    }

    /// ADDHN, SUBHN and the rounding forms.
    fn narrow_high(&mut self, a: &d::ArgRrr) -> bool {
        let bits = 8u32 << a.size;
        let (n, m) = (self.v(a.rn), self.v(a.rm));
        let round = if a.u != 0 { 1u64 << (bits - 1) } else { 0 };
        let mut out = 0;
        for i in 0..64 / bits {
            let (x, y) = (lane(n, 2 * bits, i), lane(m, 2 * bits, i));
            let r = if a.op == 4 { x.wrapping_add(y) } else { x.wrapping_sub(y) };
            let r = r.wrapping_add(round) & ones(2 * bits);
            set_lane(&mut out, bits, i, r >> bits);
        }
        self.set_half(a.rd, a.q, out);
        true
    }

    /// One lane of a widening operation: accumulator, operands; `bits` of the narrow lanes.
    pub(super) fn long_lane(&mut self, op: u32, u: bool, bits: u32, d: u64, n: u64, m: u64) -> u64 {
        let (x, y) = (number(n, bits, !u), number(m, bits, !u));
        let w = 2 * bits;
        match op {
            0 => (x + y) as u64,
            2 => (x - y) as u64,
            5 => d.wrapping_add((x - y).unsigned_abs() as u64),
            7 => (x - y).unsigned_abs() as u64,
            8 => d.wrapping_add((x * y) as u64),
            10 => d.wrapping_sub((x * y) as u64),
            12 => (x * y) as u64,
            _ => {
                let p = self.sat(2 * x * y, w, true);
                let (acc, p) = (number(d, w, true), number(p, w, true));
                match op {
                    9 => self.sat(acc + p, w, true),
                    11 => self.sat(acc - p, w, true),
                    _ => p as u64,
                }
            }
        }
    }

    fn long(&mut self, a: &d::ArgRrr, scalar: bool) -> bool {
        let bits = 8u32 << a.size;
        let shift = if scalar { 0 } else { 64 * a.q };
        let (d, n, m) = (self.v(a.rd), self.v(a.rn) >> shift, self.v(a.rm) >> shift);
        let count = if scalar { 1 } else { 64 / bits };
        let mut out = 0;
        for i in 0..count {
            let acc = lane(d, 2 * bits, i);
            let r = self.long_lane(a.op, a.u != 0, bits, acc, lane(n, bits, i), lane(m, bits, i));
            set_lane(&mut out, 2 * bits, i, r);
        }
        self.set_v(a.rd, out);
        true
    }
}
