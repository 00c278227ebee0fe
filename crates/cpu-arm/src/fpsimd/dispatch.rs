//! Connects the decoder's groups to the executor.

use super::Exec;
use crate::decode::fpsimd as d;

macro_rules! groups {
    ($($method:ident($arg:ty) => |$e:ident, $a:ident| $body:expr;)*) => {
        impl d::Trans for Exec<'_> {
            $(fn $method(&mut self, $a: &$arg) -> bool { let $e = self; $body })*
        }
    };
}

groups! {
    trans_fp_fix(d::ArgOpRdRmodeRnScaleSfTy) => |e, a| e.fix(a);
    trans_fp_int(d::ArgOpRdRmodeRnSfTy) => |e, a| e.int(a);
    trans_fp_1src(d::ArgOpRdRnTy) => |e, a| e.one_source_any(a);
    trans_fp_cmp(d::ArgOpRmRnTy) => |e, a| e.cmp(a);
    trans_fp_imm(d::ArgImmRdTy) => |e, a| e.imm(a);
    trans_fp_ccmp(d::ArgCondNzcvOpRmRnTy) => |e, a| e.ccmp(a);
    trans_fp_2src(d::ArgOpRdRmRnTy) => |e, a| e.two_source(a);
    trans_fp_csel(d::ArgCondRdRmRnTy) => |e, a| e.csel(a);
    trans_fp_3src(d::ArgO0O1RaRdRmRnTy) => |e, a| e.three_source(a);
    trans_copy(d::ArgImm4Imm5OpQRdRn) => |e, a| e.copy(a);
    trans_tbl(d::ArgLenOpQRdRmRn) => |e, a| e.table(a);
    trans_permute(d::ArgOpQRdRmRnSize) => |e, a| e.permute(a);
    trans_ext(d::ArgImmQRdRmRn) => |e, a| e.extract(a);
    trans_three(d::ArgRrr) => |e, a| e.three(a, false);
    trans_three_16(d::ArgAOpQRdRmRnU) => |e, a| e.three_16(a, false);
    trans_three_x(d::ArgRrr) => |e, a| e.three_extra(a, false);
    trans_two(d::ArgRr) => |e, a| e.two(a, false);
    trans_two_16(d::ArgAOpQRdRnU) => |e, a| e.two_16(a, false);
    trans_across(d::ArgRr) => |e, a| e.across(a);
    trans_diff(d::ArgRrr) => |e, a| e.diff(a, false);
    trans_mod_imm(d::ArgAbcCmodeDefghO2OpQRd) => |e, a| e.modified_immediate(a);
    trans_shift(d::ArgShift) => |e, a| e.shift(a, false);
    trans_elem(d::ArgElem) => |e, a| e.elem(a, false);
    trans_s_copy(d::ArgImm5RdRn) => |e, a| e.scalar_copy(a);
    trans_s_three(d::ArgRrr) => |e, a| e.three(a, true);
    trans_s_three_16(d::ArgAOpRdRmRnU) => |e, a| e.three_16(&half3(a), true);
    trans_s_three_x(d::ArgRrr) => |e, a| e.three_extra(a, true);
    trans_s_two(d::ArgRr) => |e, a| e.two(a, true);
    trans_s_two_16(d::ArgAOpRdRnU) => |e, a| e.two_16(&half2(a), true);
    trans_s_pair(d::ArgRr) => |e, a| e.scalar_pair(a);
    trans_s_diff(d::ArgRrr) => |e, a| e.diff(a, true);
    trans_s_shift(d::ArgShift) => |e, a| e.shift(a, true);
    trans_s_elem(d::ArgElem) => |e, a| e.elem(a, true);
    trans_aes(d::ArgOpRdRn) => |e, a| e.aes(a);
    trans_sha_3(d::ArgOpRdRmRn) => |e, a| e.sha_three(a);
    trans_sha_2(d::ArgOpRdRn) => |e, a| e.sha_two(a);
    trans_sha512_3(d::ArgOOpRdRmRn) => |e, a| e.sha512_three(a);
    trans_sha512_2(d::ArgOpRdRn) => |e, a| e.sha512_two(a);
    trans_sha3_4(d::ArgOpRaRdRmRn) => |e, a| e.sha3_four(a);
    trans_xar(d::ArgImmRdRmRn) => |e, a| e.xar(a);
    trans_sm3_tt(d::ArgImmOpRdRmRn) => |e, a| e.sm3_tt(a);
}

/// A scalar half-precision group as its vector form.
fn half3(a: &d::ArgAOpRdRmRnU) -> d::ArgAOpQRdRmRnU {
    d::ArgAOpQRdRmRnU { a: a.a, op: a.op, q: 1, rd: a.rd, rm: a.rm, rn: a.rn, u: a.u }
}

fn half2(a: &d::ArgAOpRdRnU) -> d::ArgAOpQRdRnU {
    d::ArgAOpQRdRnU { a: a.a, op: a.op, q: 1, rd: a.rd, rn: a.rn, u: a.u }
}
