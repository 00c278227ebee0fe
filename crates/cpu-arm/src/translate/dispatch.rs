//! The decoder's methods: which function translates which pattern.
//!
//! One line a pattern and nothing else; a pattern without a line does not compile.
//! Flags in the calls are named at the functions. `false` makes the word undefined.
//! Not here: any emission of IR.
//! Source: the table `decode/base.decode`.

use jit_ir::{Opcode, RmwKind};

use super::Ctx;
use super::branch::Kind;
use crate::decode::base::*;
use crate::helpers::HelperId;

macro_rules! dispatch {
    ($($name:ident: $arg:ident => |$t:ident, $a:ident| $e:expr;)*) => {
        impl Trans for Ctx<'_> {
            $(fn $name(&mut self, $a: &$arg) -> bool { let $t = self; $e })*
        }
    };
}

dispatch! {
    trans_adr: ArgImmSRd => |t, a| t.adr(a.rd, a.imm, false);
    trans_adrp: ArgImmSRd => |t, a| t.adr(a.rd, a.imm, true);
    trans_add_i: ArgAddsubImm => |t, a| t.addsub_imm(a, false, false);
    trans_adds_i: ArgAddsubImm => |t, a| t.addsub_imm(a, false, true);
    trans_sub_i: ArgAddsubImm => |t, a| t.addsub_imm(a, true, false);
    trans_subs_i: ArgAddsubImm => |t, a| t.addsub_imm(a, true, true);
    trans_and_i: ArgBitsImm => |t, a| t.logic_imm(a, Opcode::And, false);
    trans_orr_i: ArgBitsImm => |t, a| t.logic_imm(a, Opcode::Or, false);
    trans_eor_i: ArgBitsImm => |t, a| t.logic_imm(a, Opcode::Xor, false);
    trans_ands_i: ArgBitsImm => |t, a| t.logic_imm(a, Opcode::And, true);
    trans_movn: ArgMovw => |t, a| t.mov_wide(a, true);
    trans_movz: ArgMovw => |t, a| t.mov_wide(a, false);
    trans_movk: ArgMovw => |t, a| t.movk(a);
    trans_sbfm: ArgBitsImm => |t, a| t.bfm_extract(a, true);
    trans_bfm: ArgBitsImm => |t, a| t.bfm(a);
    trans_ubfm: ArgBitsImm => |t, a| t.bfm_extract(a, false);
    trans_extr: ArgImmsNRdRmRnSf => |t, a| t.extr(a);

    trans_b: ArgImmS => |t, a| t.b(a.imm);
    trans_bl: ArgImmS => |t, a| t.bl(a.imm);
    trans_cbz: ArgImmSNzRtSf => |t, a| t.cbz(a);
    trans_tbz: ArgBitImmSNzRt => |t, a| t.tbz(a);
    trans_b_cond: ArgCondImmS => |t, a| t.b_cond(a);
    trans_bc_cond: ArgCondImmS => |t, a| t.isa.hbc && t.b_cond(a);
    trans_br: ArgBr => |t, a| t.branch_reg(a, Kind::Jump);
    trans_blr: ArgBr => |t, a| t.branch_reg(a, Kind::Call);
    trans_ret: ArgBr => |t, a| t.branch_reg(a, Kind::Return);
    trans_braz: ArgBrpac => |t, a| t.branch_auth(a, true, Kind::Jump);
    trans_blraz: ArgBrpac => |t, a| t.branch_auth(a, true, Kind::Call);
    trans_reta: ArgM => |t, a| t.reta(a);
    trans_bra: ArgBrpac => |t, a| t.branch_auth(a, false, Kind::Jump);
    trans_blra: ArgBrpac => |t, a| t.branch_auth(a, false, Kind::Call);
    trans_eret: ArgEmpty => |t, _a| t.eret(0);
    trans_ereta: ArgM => |t, a| t.eret(1 + a.m);
    trans_drps: ArgEmpty => |_t, _a| false;

    trans_svc: ArgExc => |t, a| t.exception(HelperId::Svc, 0, a);
    trans_hvc: ArgExc => |t, a| t.exception(HelperId::Hvc, 1, a);
    trans_smc: ArgExc => |t, a| t.exception(HelperId::Smc, 1, a);
    trans_brk: ArgExc => |t, a| t.exception(HelperId::Brk, 0, a);
    // Halting debug is not implemented: undefined, as with EDSCR.HDE = 0.
    trans_hlt: ArgExc => |_t, _a| false;
    trans_dcps1: ArgExc => |_t, _a| false;
    trans_dcps2: ArgExc => |_t, _a| false;
    trans_dcps3: ArgExc => |_t, _a| false;
    trans_udf: ArgExc => |_t, _a| false;

    trans_yield: ArgEmpty => |t, _a| t.yield_();
    trans_wfe: ArgEmpty => |t, _a| t.wait(1, None);
    trans_wfi: ArgEmpty => |t, _a| t.wait(0, None);
    trans_sev: ArgEmpty => |t, _a| t.event(0);
    trans_sevl: ArgEmpty => |t, _a| t.event(1);
    trans_dgh: ArgEmpty => |_t, _a| true;
    trans_xpaclri: ArgEmpty => |t, _a| t.xpac(30, 0, true);
    trans_pac1716: ArgB => |t, a| t.pac_hint(a, 17, Some(16), false);
    trans_aut1716: ArgB => |t, a| t.pac_hint(a, 17, Some(16), true);
    trans_esb: ArgEmpty => |_t, _a| true;
    trans_psb: ArgEmpty => |_t, _a| true;
    trans_tsb: ArgEmpty => |_t, _a| true;
    trans_csdb: ArgEmpty => |_t, _a| true;
    trans_pacz: ArgB => |t, a| t.pac_hint(a, 30, None, false);
    trans_pacsp: ArgB => |t, a| t.pac_hint(a, 30, Some(31), false);
    trans_autz: ArgB => |t, a| t.pac_hint(a, 30, None, true);
    trans_autsp: ArgB => |t, a| t.pac_hint(a, 30, Some(31), true);
    trans_bti: ArgTarget => |_t, _a| true;
    trans_nop: ArgEmpty => |_t, _a| true;
    trans_wfet: ArgRt => |t, a| t.wait(3, Some(a.rt));
    trans_wfit: ArgRt => |t, a| t.wait(2, Some(a.rt));
    trans_clrex: ArgCrm => |t, _a| { t.b.clear_ex(); true };
    trans_dsb: ArgCrm => |t, _a| t.dsb();
    trans_dsb_nxs: ArgDomain => |t, _a| t.isa.xs && t.dsb();
    trans_dmb: ArgCrm => |t, a| t.dmb(a.crm);
    trans_isb: ArgCrm => |t, _a| { t.leave_to_runtime(); true };
    trans_sb: ArgEmpty => |t, _a| t.isa.sb;
    trans_cfinv: ArgEmpty => |t, _a| t.cfinv();
    trans_xaflag: ArgEmpty => |t, _a| t.xaflag();
    trans_axflag: ArgEmpty => |t, _a| t.axflag();
    trans_msr_uao: ArgMsrImm => |t, a| t.msr_imm(0, 3, t.isa.uao, true, a);
    trans_msr_pan: ArgMsrImm => |t, a| t.msr_imm(0, 4, t.isa.pan, true, a);
    trans_msr_spsel: ArgMsrImm => |t, a| t.msr_imm(0, 5, true, true, a);
    trans_msr_ssbs: ArgMsrImm => |t, a| t.msr_imm(3, 1, t.isa.ssbs, false, a);
    trans_msr_dit: ArgMsrImm => |t, a| t.msr_imm(3, 2, t.isa.dit, false, a);
    trans_msr_tco: ArgMsrImm => |t, a| t.msr_imm(3, 4, t.isa.mte, false, a);
    trans_msr_daifset: ArgMsrImm => |t, a| t.msr_imm(3, 6, true, false, a);
    trans_msr_daifclr: ArgMsrImm => |t, a| t.msr_imm(3, 7, true, false, a);
    trans_sys: ArgSys => |t, a| t.sys(a);
    // No SYSL instruction is implemented.
    trans_sysl: ArgSys => |_t, _a| false;
    trans_msr: ArgSys => |t, a| t.msr(a);
    trans_mrs: ArgSys => |t, a| t.mrs(a);
    trans_rmif: ArgMaskRnShift => |t, a| t.rmif(a);
    trans_setf8: ArgRn => |t, a| t.setf(a.rn, 8);
    trans_setf16: ArgRn => |t, a| t.setf(a.rn, 16);

    trans_udiv: ArgRrrSf => |t, a| t.two_source(a, Opcode::DivU);
    trans_sdiv: ArgRrrSf => |t, a| t.two_source(a, Opcode::DivS);
    trans_lslv: ArgRrrSf => |t, a| t.two_source(a, Opcode::Shl);
    trans_lsrv: ArgRrrSf => |t, a| t.two_source(a, Opcode::Shr);
    trans_asrv: ArgRrrSf => |t, a| t.two_source(a, Opcode::Sar);
    trans_rorv: ArgRrrSf => |t, a| t.two_source(a, Opcode::Ror);
    trans_pacga: ArgRrr => |t, a| t.pacga(a);
    trans_crc32: ArgCrc => |t, a| t.crc32(a, false);
    trans_crc32c: ArgCrc => |t, a| t.crc32(a, true);
    trans_rbit: ArgRrSf => |t, a| t.one_source(a, Opcode::Rbit, 0);
    trans_rev16: ArgRrSf => |t, a| t.one_source(a, Opcode::Rev, 1);
    trans_rev32: ArgRrSf => |t, a| t.one_source(a, Opcode::Rev, 2);
    trans_rev64: ArgRr => |t, a| t.rev64(a);
    trans_clz: ArgRrSf => |t, a| t.one_source(a, Opcode::Clz, 0);
    trans_cls: ArgRrSf => |t, a| t.cls(a);
    trans_pacia: ArgPac => |t, a| t.pac(a, false, 0);
    trans_pacib: ArgPac => |t, a| t.pac(a, false, 1);
    trans_pacda: ArgPac => |t, a| t.pac(a, false, 2);
    trans_pacdb: ArgPac => |t, a| t.pac(a, false, 3);
    trans_autia: ArgPac => |t, a| t.pac(a, true, 0);
    trans_autib: ArgPac => |t, a| t.pac(a, true, 1);
    trans_autda: ArgPac => |t, a| t.pac(a, true, 2);
    trans_autdb: ArgPac => |t, a| t.pac(a, true, 3);
    trans_xpaci: ArgRd => |t, a| t.xpac(a.rd, 0, false);
    trans_xpacd: ArgRd => |t, a| t.xpac(a.rd, 1, false);
    trans_madd: ArgMadd => |t, a| t.madd(a, false);
    trans_msub: ArgMadd => |t, a| t.madd(a, true);
    trans_smaddl: ArgMaddl => |t, a| t.maddl(a, true, false);
    trans_smsubl: ArgMaddl => |t, a| t.maddl(a, true, true);
    trans_umaddl: ArgMaddl => |t, a| t.maddl(a, false, false);
    trans_umsubl: ArgMaddl => |t, a| t.maddl(a, false, true);
    trans_smulh: ArgRrr => |t, a| t.mul_high(a, Opcode::MulHiS);
    trans_umulh: ArgRrr => |t, a| t.mul_high(a, Opcode::MulHiU);

    trans_and_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::And, false, false);
    trans_bic_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::And, true, false);
    trans_orr_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::Or, false, false);
    trans_orn_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::Or, true, false);
    trans_eor_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::Xor, false, false);
    trans_eon_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::Xor, true, false);
    trans_ands_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::And, false, true);
    trans_bics_r: ArgRrrSh => |t, a| t.logic_sh(a, Opcode::And, true, true);
    trans_add_r: ArgRrrSh => |t, a| t.addsub_sh(a, false, false);
    trans_adds_r: ArgRrrSh => |t, a| t.addsub_sh(a, false, true);
    trans_sub_r: ArgRrrSh => |t, a| t.addsub_sh(a, true, false);
    trans_subs_r: ArgRrrSh => |t, a| t.addsub_sh(a, true, true);
    trans_add_x: ArgRrrExt => |t, a| t.addsub_ext(a, false, false);
    trans_adds_x: ArgRrrExt => |t, a| t.addsub_ext(a, false, true);
    trans_sub_x: ArgRrrExt => |t, a| t.addsub_ext(a, true, false);
    trans_subs_x: ArgRrrExt => |t, a| t.addsub_ext(a, true, true);
    trans_adc: ArgRrrSf => |t, a| t.adc(a, false, false);
    trans_adcs: ArgRrrSf => |t, a| t.adc(a, false, true);
    trans_sbc: ArgRrrSf => |t, a| t.adc(a, true, false);
    trans_sbcs: ArgRrrSf => |t, a| t.adc(a, true, true);
    trans_ccmn_r: ArgCcmp => |t, a| t.ccmp(a, true, false);
    trans_ccmp_r: ArgCcmp => |t, a| t.ccmp(a, false, false);
    trans_ccmn_i: ArgCcmp => |t, a| t.ccmp(a, true, true);
    trans_ccmp_i: ArgCcmp => |t, a| t.ccmp(a, false, true);
    trans_csel: ArgCsel => |t, a| t.csel(a, false, false);
    trans_csinc: ArgCsel => |t, a| t.csel(a, false, true);
    trans_csinv: ArgCsel => |t, a| t.csel(a, true, false);
    trans_csneg: ArgCsel => |t, a| t.csel(a, true, true);

    trans_stxr: ArgExcl => |t, a| t.stxr(a);
    trans_ldxr: ArgExcl => |t, a| t.ldxr(a);
    trans_stxp: ArgExclp => |t, a| t.stxp(a);
    trans_ldxp: ArgExclp => |t, a| t.ldxp(a);
    trans_stlr: ArgOrdered => |t, a| (a.lo == 0 || t.isa.lor) && t.store_release(a.sz, a.rn, a.rt);
    trans_ldar: ArgOrdered => |t, a| (a.lo == 0 || t.isa.lor) && t.load_acquire(a.sz, a.rn, a.rt);
    trans_cas: ArgCas => |t, a| t.cas(a);
    trans_casp: ArgCas => |t, a| t.casp(a);
    trans_ldadd: ArgAtomic => |t, a| t.atomic(a, RmwKind::Add);
    trans_ldclr: ArgAtomic => |t, a| t.atomic(a, RmwKind::Clr);
    trans_ldeor: ArgAtomic => |t, a| t.atomic(a, RmwKind::Xor);
    trans_ldset: ArgAtomic => |t, a| t.atomic(a, RmwKind::Or);
    trans_ldsmax: ArgAtomic => |t, a| t.atomic(a, RmwKind::SMax);
    trans_ldsmin: ArgAtomic => |t, a| t.atomic(a, RmwKind::SMin);
    trans_ldumax: ArgAtomic => |t, a| t.atomic(a, RmwKind::UMax);
    trans_ldumin: ArgAtomic => |t, a| t.atomic(a, RmwKind::UMin);
    trans_swp: ArgAtomic => |t, a| t.atomic(a, RmwKind::Swap);
    trans_ldapr: ArgRnRtSz => |t, a| t.isa.rcpc && t.load_acquire(a.sz, a.rn, a.rt);

    trans_str_i: ArgLdst => |t, a| t.str_imm(a);
    trans_ldr_i: ArgLdst => |t, a| t.ldr_imm(a);
    trans_ldrs_i: ArgLdst => |t, a| t.ldr_imm(a);
    trans_str_r: ArgLdstR => |t, a| t.str_reg(a);
    trans_ldr_r: ArgLdstR => |t, a| t.ldr_reg(a);
    trans_ldrs_r: ArgLdstR => |t, a| t.ldr_reg(a);
    trans_prfm: ArgEmpty => |_t, _a| true;
    trans_ldr_lit: ArgLdlit => |t, a| t.ldr_literal(a);
    trans_stp: ArgLdstp => |t, a| t.stp(a);
    trans_ldp: ArgLdstp => |t, a| t.ldp(a);
    trans_ldra: ArgImmSMRnRtW => |t, a| t.ldra(a);
    trans_stlur: ArgRcpc => |t, a| t.stlur(a);
    trans_ldapur: ArgRcpc => |t, a| t.ldapur(a);
    trans_ldr_lit_v: ArgLdlit => |t, a| t.ldr_v_literal(a);
    trans_stp_v: ArgLdstp => |t, a| t.stp_v(a);
    trans_ldp_v: ArgLdstp => |t, a| t.ldp_v(a);
    trans_str_v: ArgLdst => |t, a| t.str_v(a);
    trans_ldr_v: ArgLdst => |t, a| t.ldr_v(a);
    trans_str_r_v: ArgLdstR => |t, a| t.str_v_reg(a);
    trans_ldr_r_v: ArgLdstR => |t, a| t.ldr_v_reg(a);
    trans_st_mult: ArgVmult => |t, a| t.st_mult(a);
    trans_ld_mult: ArgVmult => |t, a| t.ld_mult(a);
    trans_st_one: ArgVone => |t, a| t.st_one(a);
    trans_ld_one: ArgVone => |t, a| t.ld_one(a);
    trans_ld_rep: ArgVone => |t, a| t.ld_rep(a);
}
