//! Exclusives, compare-and-swap, atomic read-modify-write.
//!
//! Pairs are one access of twice the size; which half belongs to which register depends on the
//! byte order. With FEAT_LSE2 every one of them, exclusives included (as observed of QEMU), may be
//! misaligned inside 16 bytes. Not here: how the exclusive monitor works (`accel-jit`).
//! Source: Arm ARM (DDI 0487) C6.2 (LDXR, STXP, CAS, LDADD pages), B2.9.

use jit_ir::{MemDesc, RmwKind, Ty, Val};

use super::Ctx;
use crate::decode::base::{ArgAtomic, ArgCas, ArgExcl, ArgExclp};

impl Ctx<'_> {
    fn ordered(d: MemDesc, acquire: u32, release: u32) -> MemDesc {
        let d = if acquire != 0 { d.acquire() } else { d };
        if release != 0 { d.release() } else { d }
    }

    /// The integer type that an access of this size works on.
    fn access_ty(sz: u32) -> Ty {
        if sz == 3 { Ty::I64 } else { Ty::I32 }
    }

    pub(super) fn ldxr(&mut self, a: &ArgExcl) -> bool {
        let at = self.base(a.rn);
        let desc = Self::ordered(self.mem_strict(a.sz), a.lasr, 0);
        self.load_exclusive = true;
        let v = self.b.load_ex(Self::access_ty(a.sz), at, desc);
        self.set_reg(a.rt, v);
        true
    }

    pub(super) fn stxr(&mut self, a: &ArgExcl) -> bool {
        let at = self.base(a.rn);
        let desc = Self::ordered(self.mem_strict(a.sz), 0, a.lasr);
        let v = if a.sz == 3 { self.x(a.rt) } else { self.w(a.rt) };
        let status = self.b.store_ex(at, v, desc);
        self.set_reg(a.rs, status);
        true
    }

    /// Joins two registers of `1 << sz` bytes in memory order.
    fn join(&mut self, sz: u32, first: u32, second: u32) -> Val {
        let (a, b) = (self.x(first), self.x(second));
        let (lo, hi) = if self.key.big_endian() { (b, a) } else { (a, b) };
        if sz == 3 { self.b.v_from64(lo, hi) } else { self.b.bfi(lo, hi, 32, 32) }
    }

    /// The reverse of [`Self::join`]: zero-extended values for the first and second register.
    fn split(&mut self, sz: u32, v: Val) -> (Val, Val) {
        let (lo, hi) = if sz == 3 {
            (self.b.v_get64(v, 0), self.b.v_get64(v, 1))
        } else {
            (self.b.ubfx(v, 0, 32), self.b.ubfx(v, 32, 32))
        };
        if self.key.big_endian() { (hi, lo) } else { (lo, hi) }
    }

    fn pair_ty(sz: u32) -> Ty {
        if sz == 3 { Ty::V128 } else { Ty::I64 }
    }

    pub(super) fn ldxp(&mut self, a: &ArgExclp) -> bool {
        let at = self.base(a.rn);
        let desc = Self::ordered(self.mem_strict(a.sz + 1), a.lasr, 0);
        self.load_exclusive = true;
        let v = self.b.load_ex(Self::pair_ty(a.sz), at, desc);
        let (first, second) = self.split(a.sz, v);
        self.set_reg(a.rt, first);
        self.set_reg(a.rt2, second);
        true
    }

    pub(super) fn stxp(&mut self, a: &ArgExclp) -> bool {
        let at = self.base(a.rn);
        let desc = Self::ordered(self.mem_strict(a.sz + 1), 0, a.lasr);
        let v = self.join(a.sz, a.rt, a.rt2);
        let status = self.b.store_ex(at, v, desc);
        self.set_reg(a.rs, status);
        true
    }

    pub(super) fn cas(&mut self, a: &ArgCas) -> bool {
        if !self.isa.lse {
            return false;
        }
        let at = self.base(a.rn);
        let desc = Self::ordered(self.mem_strict(a.sz), a.acq, a.rel);
        let (mut expected, new) =
            if a.sz == 3 { (self.x(a.rs), self.x(a.rt)) } else { (self.w(a.rs), self.w(a.rt)) };
        if a.sz < 2 {
            expected = self.b.ubfx(expected, 0, 8 << a.sz);
        }
        let old = self.b.cas(at, expected, new, desc);
        self.set_reg(a.rs, old);
        true
    }

    pub(super) fn casp(&mut self, a: &ArgCas) -> bool {
        if !self.isa.lse || a.rs & 1 != 0 || a.rt & 1 != 0 {
            return false;
        }
        let at = self.base(a.rn);
        let desc = Self::ordered(self.mem_strict(a.sz + 1), a.acq, a.rel);
        let expected = self.join(a.sz, a.rs, a.rs + 1);
        let new = self.join(a.sz, a.rt, a.rt + 1);
        let old = self.b.cas(at, expected, new, desc);
        let (first, second) = self.split(a.sz, old);
        self.set_reg(a.rs, first);
        self.set_reg(a.rs + 1, second);
        true
    }

    pub(super) fn atomic(&mut self, a: &ArgAtomic, kind: RmwKind) -> bool {
        if !self.isa.lse {
            return false;
        }
        let at = self.base(a.rn);
        let desc = Self::ordered(self.mem_strict(a.sz), a.acq, a.rel);
        let v = if a.sz == 3 { self.x(a.rs) } else { self.w(a.rs) };
        let old = self.b.rmw(kind, at, v, desc);
        self.set_reg(a.rt, old);
        true
    }
}
