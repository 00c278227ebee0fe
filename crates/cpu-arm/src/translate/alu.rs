//! Integer data processing.
//!
//! Every function returns false for the unallocated combinations of its fields before it emits
//! anything. 32-bit forms work on I32 values; writing them zero-extends.
//! Not here: conditional select (with the branches), pointer authentication (system).
//! Source: Arm ARM (DDI 0487) C6.2; DecodeBitMasks of J1.

use jit_ir::{Cond, Opcode, Ty, Val};

use super::Ctx;
use crate::decode::base::{
    ArgAddsubImm, ArgBitsImm, ArgCcmp, ArgCrc, ArgImmsNRdRmRnSf, ArgMadd, ArgMaddl, ArgMaskRnShift,
    ArgMovw, ArgRr, ArgRrSf, ArgRrr, ArgRrrExt, ArgRrrSf, ArgRrrSh,
};
use crate::helpers::HelperId;

/// The immediate of a logical instruction, replicated to 64 bits; `None` if reserved.
pub(super) fn bit_mask(n: u32, imms: u32, immr: u32) -> Option<u64> {
    let sized = n << 6 | (!imms & 0x3f);
    let len = 31u32.checked_sub(sized.leading_zeros())?;
    if len < 1 {
        return None;
    }
    let esize = 1u32 << len;
    let levels = esize - 1;
    let (s, r) = (imms & levels, immr & levels);
    if s == levels {
        return None;
    }
    let ones = (1u64 << (s + 1)) - 1;
    let all = if esize == 64 { u64::MAX } else { (1u64 << esize) - 1 };
    let mut v = if r == 0 { ones } else { (ones >> r | ones << (esize - r)) & all };
    let mut width = esize;
    while width < 64 {
        v |= v << width;
        width *= 2;
    }
    Some(v)
}

const SHIFTS: [Opcode; 4] = [Opcode::Shl, Opcode::Shr, Opcode::Sar, Opcode::Ror];

impl Ctx<'_> {
    fn shifted(&mut self, v: Val, st: u32, amount: u32) -> Val {
        match SHIFTS.get(st as usize) {
            Some(code) if amount != 0 => self.b.shift_imm(*code, v, amount),
            _ => v,
        }
    }

    /// ExtendReg: UXTB to SXTX, then shifted left.
    pub(super) fn extended(&mut self, sf: u32, n: u32, opt: u32, shift: u32) -> Val {
        let v = self.reg(sf, n);
        let bits = 8u32 << (opt & 3);
        let width = if sf != 0 { 64 } else { 32 };
        let v = if bits >= width {
            v
        } else if opt & 4 != 0 {
            self.b.sbfx(v, 0, bits)
        } else {
            self.b.ubfx(v, 0, bits)
        };
        self.shifted(v, 0, shift)
    }

    /// rd = a ± b, flags if asked; `sp`: rd 31 is SP.
    fn add_sub(&mut self, rd: u32, a: Val, b: Val, sub: bool, flags: bool, sp: bool) {
        let code = if sub { Opcode::Sub } else { Opcode::Add };
        if flags {
            let (v, cc) = self.b.with_flags(code, a, b);
            self.b.set_cc(cc);
            self.set_reg(rd, v);
        } else {
            let v = self.b.binary(code, a, b);
            if sp { self.set_reg_sp(rd, v) } else { self.set_reg(rd, v) }
        }
    }

    pub(super) fn addsub_imm(&mut self, a: &ArgAddsubImm, sub: bool, flags: bool) -> bool {
        let imm = u64::from(a.imm) << (12 * a.sh);
        let keeps = a.sf != 0 && a.rn == 31 && a.rd == 31 && imm & 15 == 0 && self.sp_aligned;
        let n = self.reg_sp(a.sf, a.rn);
        let imm = self.b.constant(Ctx::ty(a.sf), imm);
        self.add_sub(a.rd, n, imm, sub, flags, true);
        self.sp_aligned |= keeps;
        true
    }

    pub(super) fn addsub_sh(&mut self, a: &ArgRrrSh, sub: bool, flags: bool) -> bool {
        if a.st == 3 || (a.sf == 0 && a.imm > 31) {
            return false;
        }
        let n = self.reg(a.sf, a.rn);
        let m = self.reg(a.sf, a.rm);
        let m = self.shifted(m, a.st, a.imm);
        self.add_sub(a.rd, n, m, sub, flags, false);
        true
    }

    pub(super) fn addsub_ext(&mut self, a: &ArgRrrExt, sub: bool, flags: bool) -> bool {
        if a.imm > 4 {
            return false;
        }
        let n = self.reg_sp(a.sf, a.rn);
        let m = self.extended(a.sf, a.rm, a.opt, a.imm);
        self.add_sub(a.rd, n, m, sub, flags, true);
        true
    }

    pub(super) fn adc(&mut self, a: &ArgRrrSf, sub: bool, flags: bool) -> bool {
        let n = self.reg(a.sf, a.rn);
        let mut m = self.reg(a.sf, a.rm);
        if sub {
            m = self.b.unary(Opcode::Not, 0, m);
        }
        let cc = self.b.get_cc();
        let (v, cc) = self.b.add_carry(n, m, cc);
        if flags {
            self.b.set_cc(cc);
        }
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn logic_imm(&mut self, a: &ArgBitsImm, code: Opcode, flags: bool) -> bool {
        if a.sf == 0 && a.n != 0 {
            return false;
        }
        let Some(mask) = bit_mask(a.n, a.imms, a.immr) else { return false };
        let n = self.reg(a.sf, a.rn);
        let m = self.b.constant(Ctx::ty(a.sf), mask);
        self.logic(a.rd, n, m, code, flags, true);
        if a.rd == 31 && code == Opcode::And && !flags && mask & 15 == 0 {
            self.sp_aligned = true;
        }
        true
    }

    fn logic(&mut self, rd: u32, n: Val, m: Val, code: Opcode, flags: bool, sp: bool) {
        if flags {
            let (v, cc) = self.b.with_flags(Opcode::And, n, m);
            self.b.set_cc(cc);
            self.set_reg(rd, v);
        } else {
            let v = self.b.binary(code, n, m);
            if sp { self.set_reg_sp(rd, v) } else { self.set_reg(rd, v) }
        }
    }

    pub(super) fn logic_sh(&mut self, a: &ArgRrrSh, code: Opcode, not: bool, flags: bool) -> bool {
        if a.sf == 0 && a.imm > 31 {
            return false;
        }
        let n = self.reg(a.sf, a.rn);
        let m = self.reg(a.sf, a.rm);
        let mut m = self.shifted(m, a.st, a.imm);
        if not {
            m = self.b.unary(Opcode::Not, 0, m);
        }
        self.logic(a.rd, n, m, code, flags, false);
        true
    }

    /// MOVN, MOVZ.
    pub(super) fn mov_wide(&mut self, a: &ArgMovw, not: bool) -> bool {
        if a.sf == 0 && a.hw > 1 {
            return false;
        }
        let v = u64::from(a.imm) << (16 * a.hw);
        let v = self.b.constant(Ctx::ty(a.sf), if not { !v } else { v });
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn movk(&mut self, a: &ArgMovw) -> bool {
        if a.sf == 0 && a.hw > 1 {
            return false;
        }
        let old = self.reg(a.sf, a.rd);
        let imm = self.b.constant(Ctx::ty(a.sf), u64::from(a.imm));
        let v = self.b.bfi(old, imm, 16 * a.hw, 16);
        self.set_reg(a.rd, v);
        true
    }

    fn bitfield_ok(a: &ArgBitsImm) -> bool {
        a.n == a.sf && (a.sf != 0 || (a.immr < 32 && a.imms < 32))
    }

    /// SBFM, UBFM.
    pub(super) fn bfm_extract(&mut self, a: &ArgBitsImm, signed: bool) -> bool {
        if !Self::bitfield_ok(a) {
            return false;
        }
        let width = if a.sf != 0 { 64 } else { 32 };
        let n = self.reg(a.sf, a.rn);
        let (lsb, len, up) = if a.imms >= a.immr {
            (a.immr, a.imms - a.immr + 1, 0)
        } else {
            (0, a.imms + 1, width - a.immr)
        };
        let v = if lsb + len == width && lsb != 0 {
            self.b.shift_imm(if signed { Opcode::Sar } else { Opcode::Shr }, n, lsb)
        } else if len == width || up + len == width {
            n
        } else if signed {
            self.b.sbfx(n, lsb, len)
        } else {
            self.b.ubfx(n, lsb, len)
        };
        let v = self.shifted(v, 0, up);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn bfm(&mut self, a: &ArgBitsImm) -> bool {
        if !Self::bitfield_ok(a) {
            return false;
        }
        let width = if a.sf != 0 { 64 } else { 32 };
        let old = self.reg(a.sf, a.rd);
        let n = self.reg(a.sf, a.rn);
        let v = if a.imms >= a.immr {
            let n = self.shifted(n, 1, a.immr);
            self.b.bfi(old, n, 0, a.imms - a.immr + 1)
        } else {
            self.b.bfi(old, n, width - a.immr, a.imms + 1)
        };
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn extr(&mut self, a: &ArgImmsNRdRmRnSf) -> bool {
        if a.n != a.sf || (a.sf == 0 && a.imms > 31) {
            return false;
        }
        let m = self.reg(a.sf, a.rm);
        let v = if a.imms == 0 {
            m
        } else if a.rn == a.rm {
            self.b.shift_imm(Opcode::Ror, m, a.imms)
        } else {
            let n = self.reg(a.sf, a.rn);
            self.b.binary_aux(Opcode::Extr, a.imms as u16, n, m)
        };
        self.set_reg(a.rd, v);
        true
    }

    /// Two registers to one: division, variable shifts.
    pub(super) fn two_source(&mut self, a: &ArgRrrSf, code: Opcode) -> bool {
        let n = self.reg(a.sf, a.rn);
        let m = self.reg(a.sf, a.rm);
        let v = self.b.binary(code, n, m);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn crc32(&mut self, a: &ArgCrc, castagnoli: bool) -> bool {
        if !self.isa.crc32 {
            return false;
        }
        let acc = self.x(a.rn);
        let acc = self.b.ubfx(acc, 0, 32);
        let m = self.x(a.rm);
        let data = if a.sz == 3 { m } else { self.b.ubfx(m, 0, 8 << a.sz) };
        let imm = a.sz | u32::from(castagnoli) << 4;
        let v = self.b.call(HelperId::Crc32 as u16, &[acc, data], imm);
        let v = self.b.trunc(v);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn one_source(&mut self, a: &ArgRrSf, code: Opcode, aux: u16) -> bool {
        let n = self.reg(a.sf, a.rn);
        let v = self.b.unary(code, aux, n);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn rev64(&mut self, a: &ArgRr) -> bool {
        let n = self.x(a.rn);
        let v = self.b.unary(Opcode::Rev, 3, n);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn cls(&mut self, a: &ArgRrSf) -> bool {
        let n = self.reg(a.sf, a.rn);
        let sign = self.b.shift_imm(Opcode::Sar, n, if a.sf != 0 { 63 } else { 31 });
        let v = self.b.binary(Opcode::Xor, n, sign);
        let v = self.b.unary(Opcode::Clz, 0, v);
        let v = self.b.add_imm(v, -1);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn madd(&mut self, a: &ArgMadd, sub: bool) -> bool {
        let n = self.reg(a.sf, a.rn);
        let m = self.reg(a.sf, a.rm);
        let product = self.b.binary(Opcode::Mul, n, m);
        let acc = self.reg(a.sf, a.ra);
        let v = self.b.binary(if sub { Opcode::Sub } else { Opcode::Add }, acc, product);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn maddl(&mut self, a: &ArgMaddl, signed: bool, sub: bool) -> bool {
        let widen = if signed { Opcode::Sext32 } else { Opcode::Zext32 };
        let n = self.w(a.rn);
        let n = self.b.convert(widen, n);
        let m = self.w(a.rm);
        let m = self.b.convert(widen, m);
        let product = self.b.binary(Opcode::Mul, n, m);
        let acc = self.x(a.ra);
        let v = self.b.binary(if sub { Opcode::Sub } else { Opcode::Add }, acc, product);
        self.set_reg(a.rd, v);
        true
    }

    pub(super) fn mul_high(&mut self, a: &ArgRrr, code: Opcode) -> bool {
        let n = self.x(a.rn);
        let m = self.x(a.rm);
        let v = self.b.binary(code, n, m);
        self.set_reg(a.rd, v);
        true
    }

    /// CCMP, CCMN; `imm`: y is a 5-bit immediate.
    pub(super) fn ccmp(&mut self, a: &ArgCcmp, add: bool, imm: bool) -> bool {
        let n = self.reg(a.sf, a.rn);
        let y =
            if imm { self.b.constant(Ctx::ty(a.sf), u64::from(a.y)) } else { self.reg(a.sf, a.y) };
        let cc = match Cond::from_bits(a.cond) {
            None => self.b.with_flags(if add { Opcode::Add } else { Opcode::Sub }, n, y).1,
            Some(cond) => {
                let cc = self.b.get_cc();
                self.b.ccmp(add, n, y, cc, cond, a.nzcv)
            }
        };
        self.b.set_cc(cc);
        true
    }

    // ------------------------------------------------------------ flag manipulation

    fn nzcv(&mut self) -> Val {
        let cc = self.b.get_cc();
        self.b.nzcv_of(cc)
    }

    fn set_nzcv(&mut self, v: Val) {
        let cc = self.b.cc_from_nzcv(v);
        self.b.set_cc(cc);
    }

    pub(super) fn cfinv(&mut self) -> bool {
        if !self.isa.flagm {
            return false;
        }
        let old = self.nzcv();
        let c = self.b.c32(1 << 29);
        let v = self.b.binary(Opcode::Xor, old, c);
        self.set_nzcv(v);
        true
    }

    pub(super) fn rmif(&mut self, a: &ArgMaskRnShift) -> bool {
        if !self.isa.flagm {
            return false;
        }
        let x = self.x(a.rn);
        let x = self.b.shift_imm(Opcode::Ror, x, a.shift);
        let x = self.b.trunc(x);
        let new = self.b.shift_imm(Opcode::Shl, x, 28);
        let new = self.b.and_imm(new, u64::from(a.mask << 28));
        let old = self.nzcv();
        let old = self.b.and_imm(old, u64::from(!(a.mask << 28)));
        let v = self.b.binary(Opcode::Or, old, new);
        self.set_nzcv(v);
        true
    }

    /// SETF8, SETF16: N, Z and V from the low `bits` bits, C unchanged.
    pub(super) fn setf(&mut self, rn: u32, bits: u32) -> bool {
        if !self.isa.flagm {
            return false;
        }
        let x = self.w(rn);
        let top = self.b.shift_imm(Opcode::Shl, x, 32 - bits);
        let n = self.b.and_imm(top, 1 << 31);
        let zero = self.b.c32(0);
        let z = self.b.cmp_set(Cond::Eq, top, zero);
        let z = self.b.trunc(z);
        let z = self.b.shift_imm(Opcode::Shl, z, 30);
        let up = self.b.shift_imm(Opcode::Shr, x, 1);
        let v = self.b.binary(Opcode::Xor, x, up);
        let v = self.b.ubfx(v, bits - 1, 1);
        let v = self.b.shift_imm(Opcode::Shl, v, 28);
        let old = self.nzcv();
        let c = self.b.and_imm(old, 1 << 29);
        let all = self.b.binary(Opcode::Or, n, z);
        let all = self.b.binary(Opcode::Or, all, v);
        let all = self.b.binary(Opcode::Or, all, c);
        self.set_nzcv(all);
        true
    }

    /// The flags as four I32 values of 0 or 1: N, Z, C, V.
    fn flag_bits(&mut self) -> [Val; 4] {
        let old = self.nzcv();
        [31, 30, 29, 28].map(|bit| self.b.ubfx(old, bit, 1))
    }

    fn set_flag_bits(&mut self, bits: [Val; 4]) {
        let mut all = self.b.c32(0);
        for (v, at) in bits.into_iter().zip([31, 30, 29, 28]) {
            let v = self.b.shift_imm(Opcode::Shl, v, at);
            all = self.b.binary(Opcode::Or, all, v);
        }
        self.set_nzcv(all);
    }

    /// N = !C & !Z, Z = Z & C, C = C | Z, V = !C & Z.
    pub(super) fn xaflag(&mut self) -> bool {
        if !self.isa.flagm2 {
            return false;
        }
        let [_, z, c, _] = self.flag_bits();
        let not_c = self.not_bit(c);
        let not_z = self.not_bit(z);
        let bits = [
            self.b.binary(Opcode::And, not_c, not_z),
            self.b.binary(Opcode::And, z, c),
            self.b.binary(Opcode::Or, c, z),
            self.b.binary(Opcode::And, not_c, z),
        ];
        self.set_flag_bits(bits);
        true
    }

    /// N = 0, Z = Z | V, C = C & !V, V = 0.
    pub(super) fn axflag(&mut self) -> bool {
        if !self.isa.flagm2 {
            return false;
        }
        let [_, z, c, v] = self.flag_bits();
        let zero = self.b.c32(0);
        let not_v = self.not_bit(v);
        let z = self.b.binary(Opcode::Or, z, v);
        let c = self.b.binary(Opcode::And, c, not_v);
        self.set_flag_bits([zero, z, c, zero]);
        true
    }

    fn not_bit(&mut self, v: Val) -> Val {
        debug_assert_eq!(self.b.ty(v), Ty::I32);
        let one = self.b.c32(1);
        self.b.binary(Opcode::Xor, v, one)
    }
}
