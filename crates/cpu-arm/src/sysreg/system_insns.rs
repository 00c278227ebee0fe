//! SYS instructions: cache, TLB and address-translation maintenance.
//!
//! Caches are not modelled, so DC and IC operations only check their permissions. Translations
//! made by AT are not cached.

use jit_ir::{AccessKind, HelperCx, TlbFlush};

use super::{Reg, Trap};
use crate::attributes::shown_share;
use crate::mmu::{Regime, Request};
use crate::state::ArmCpu;

fn fields(enc: u16) -> (u16, u16, u16, u16) {
    (enc >> 11 & 7, enc >> 7 & 15, enc >> 3 & 15, enc & 7)
}

/// SYS: immediate = encoding | Rt << 16, a = Xt.
pub fn sys_insn(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let enc = args[3] as u16;
    let (op1, crn, _, _) = fields(enc);
    let el = cx.cpu.pstate.el;
    let level_ok = match op1 {
        4 => el >= 2 && cx.cpu.features.el2,
        6 => el >= 3 && cx.cpu.features.el3,
        3 => true,
        _ => el >= 1,
    };
    let done = if level_ok {
        match crn {
            7 => cache_or_at(cx, enc, args[0]),
            8 => tlbi(cx, enc, args[0]),
            // The nXS forms differ in what they wait for, and nothing here waits for that.
            9 if cx.cpu.features.xs() => tlbi(cx, enc, args[0]),
            _ => Err(Trap::Undefined),
        }
    } else {
        Err(Trap::Undefined)
    };
    if let Err(trap) = done {
        cx.cpu.refuse(trap, args[3], false);
    }
    0
}

/// CFP, DVP, CPP RCTX: nothing is predicted, so permissions are all there is.
fn restrict_prediction(cpu: &ArmCpu) -> Result<(), Trap> {
    if !cpu.features.specres() {
        return Err(Trap::Undefined);
    }
    if cpu.pstate.el == 0 && cpu.sctlr() >> 10 & 1 == 0 {
        return Err(Trap::To(cpu.el0_trap_target()));
    }
    Ok(())
}

fn trap_if(cpu: &ArmCpu, hcr_bit: u32) -> Result<(), Trap> {
    let at_el1 = cpu.pstate.el == 1 || (cpu.pstate.el == 0 && !cpu.e2h_tge());
    if at_el1 && cpu.hcr() >> hcr_bit & 1 != 0 { Err(Trap::To(2)) } else { Ok(()) }
}

fn cache_or_at(cx: &mut HelperCx<'_, ArmCpu>, enc: u16, v: u64) -> Result<(), Trap> {
    let (op1, _, crm, op2) = fields(enc);
    let el = cx.cpu.pstate.el;
    if op1 == 3 {
        // DC CVAC, CVAU, CVAP, CVADP, CIVAC, IC IVAU at EL0 need SCTLR.UCI.
        if crm == 3 && matches!(op2, 4 | 5 | 7) {
            return restrict_prediction(cx.cpu);
        }
        let known = matches!((crm, op2), (10..=14, 1) | (5, 1));
        if !known {
            return Err(Trap::Undefined);
        }
        if el == 0 && cx.cpu.sctlr() >> 26 & 1 == 0 {
            return Err(Trap::To(cx.cpu.el0_trap_target()));
        }
        trap_if(cx.cpu, if crm == 11 || crm == 5 { 24 } else { 23 })?;
        if crm == 11 || crm == 5 {
            trap_if(cx.cpu, 52)?;
        }
        if crm == 5 {
            cx.services.code_changed(cx.cpu, v, 64);
        }
        return Ok(());
    }
    match (op1, crm, op2) {
        (0, 6, 1) => trap_if(cx.cpu, 23),
        (0, 6 | 10 | 14, 2) => trap_if(cx.cpu, 22),
        (0, 1, 0) | (0, 5, 0) => {
            trap_if(cx.cpu, 24)?;
            trap_if(cx.cpu, if crm == 1 { 50 } else { 52 })?;
            cx.services.code_changed(cx.cpu, 0, u64::MAX);
            Ok(())
        }
        (0 | 4 | 6, 8 | 9, _) => {
            at(cx, op1, crm, op2, v);
            Ok(())
        }
        _ => Err(Trap::Undefined),
    }
}

/// AT: fills PAR_EL1 (Arm ARM D19.2.113).
fn at(cx: &mut HelperCx<'_, ArmCpu>, op1: u16, crm: u16, op2: u16, va: u64) {
    let cpu = &mut *cx.cpu;
    let el = cpu.pstate.el;
    let kind = if op2 & 1 != 0 { AccessKind::Write } else { AccessKind::Read };
    let vhe = cpu.e2h_tge() && el == 2;
    let (regime, user, both) = match (op1, op2 & 6) {
        (0, 0) => (if vhe { Regime::El20 } else { Regime::El10 }, false, false),
        (0, _) => (if vhe { Regime::El20 } else { Regime::El10 }, true, false),
        (4, 0) => (if cpu.e2h() { Regime::El20 } else { Regime::El2 }, false, false),
        (4, 4) => (Regime::El10, false, true),
        (4, _) => (Regime::El10, true, true),
        _ => (Regime::El3, false, false),
    };
    let pan = crm == 9 && cpu.pstate.pan;
    let stage2 = both || (op1 == 0 && !vhe);
    let req = Request { va, kind, regime, user, pan, stage2_enabled: stage2, stage1_only: !both };
    let par = match cpu.walk(&req, cx.services.phys()) {
        Ok(m) => {
            m.pa & 0x000f_ffff_ffff_f000
                | 1 << 11
                | u64::from(m.attr) << 56
                | u64::from(shown_share(m.attr, m.share)) << 7
                | u64::from(!m.secure) << 9
        }
        Err(f) if cpu.take_at_abort(f) => return,
        Err(f) => {
            1 | 1 << 11 | (f.code & 0x3f) << 1 | (f.code >> 7 & 1) << 8 | (f.code >> 8 & 1) << 9
        }
    };
    cpu.set_sys(Reg::PAR_EL1, par);
}

const EL10: u32 = 1 << Regime::El10 as u32;
const EL2: u32 = 1 << Regime::El2 as u32;
const EL20: u32 = 1 << Regime::El20 as u32;
const EL3: u32 = 1 << Regime::El3 as u32;

/// Start and length of a range operand (FEAT_TLBIRANGE, Arm ARM C5.5.51).
fn range(v: u64) -> Option<(u64, u64)> {
    let page = match v >> 46 & 3 {
        1 => 12,
        2 => 14,
        3 => 16,
        _ => return None,
    };
    let pages = ((v >> 39 & 31) + 1) << (5 * (v >> 44 & 3) + 1);
    let base = ((v << 27) as i64 >> 27) as u64;
    Some((base.wrapping_shl(page), pages << page))
}

fn tlbi(cx: &mut HelperCx<'_, ArmCpu>, enc: u16, v: u64) -> Result<(), Trap> {
    let (op1, _, crm, op2) = fields(enc);
    let f = std::sync::Arc::clone(&cx.cpu.features);
    let broadcast = matches!(crm, 0..=3);
    let ranged = matches!(crm, 2 | 5 | 6) || (op1 == 4 && matches!(crm, 0 | 4) && op2 & 2 != 0);
    if (crm == 1 || crm == 5) && !f.tlbi_os() || ranged && !f.tlbi_range() {
        return Err(Trap::Undefined);
    }
    if op1 == 0 {
        trap_if(cx.cpu, 25)?;
        match crm {
            2 | 3 => trap_if(cx.cpu, 54)?,
            1 | 5 => trap_if(cx.cpu, 55)?,
            _ => {}
        }
    }
    let vhe = cx.cpu.e2h_tge() && cx.cpu.pstate.el >= 2;
    let own_vmid = || Some(cx.cpu.vmid());
    let va = if ranged { range(v) } else { Some((((v << 20) as i64 >> 8) as u64, 4096)) };
    let asid = Some((v >> 48) as u16 & if f.asid16() { 0xffff } else { 0xff });
    let mut what = TlbFlush { broadcast: broadcast || crm == 5, ..TlbFlush::default() };
    match op1 {
        0 => {
            what.regimes = if vhe { EL20 } else { EL10 };
            what.vmid = if vhe { None } else { own_vmid() };
            match op2 {
                0 => {}
                2 => what.asid = asid,
                1 | 5 => (what.asid, what.va, what.globals) = (asid, va, true),
                3 | 7 => what.va = va,
                _ => return Err(Trap::Undefined),
            }
        }
        4 if matches!(crm, 0 | 4) => {
            // By IPA: combined entries are kept, so everything of this VMID goes.
            (what.regimes, what.vmid) = (EL10, own_vmid());
        }
        4 => match op2 {
            0 => what.regimes = EL2 | EL20,
            1 | 5 => (what.regimes, what.va) = (EL2 | EL20, va),
            4 => what.regimes = EL10,
            6 => (what.regimes, what.vmid) = (EL10, own_vmid()),
            _ => return Err(Trap::Undefined),
        },
        _ => {
            what.regimes = EL3;
            what.va = if matches!(op2, 1 | 5) { va } else { None };
        }
    }
    // A reserved granule in a range operand: nothing is invalidated for certain, so all is.
    cx.services.tlb_flush(cx.cpu, what);
    Ok(())
}

impl ArmCpu {
    /// The exception level that DC ZVA traps to (SCTLR.DZE, HCR_EL2.TDZ).
    pub(crate) fn zva_trap(&self) -> Option<u8> {
        if self.pstate.el == 0 && self.sctlr() >> 14 & 1 == 0 {
            return Some(self.el0_trap_target());
        }
        match trap_if(self, 28) {
            Err(Trap::To(el)) => Some(el),
            _ => None,
        }
    }
}

/// DC ZVA where it is not a store of translated code: a = address, imm = encoding | Rt << 16.
pub fn dc_zva(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let cpu = &mut *cx.cpu;
    if let Some(el) = cpu.zva_trap() {
        cpu.refuse(Trap::To(el), args[3], false);
        return 0;
    }
    let len = 4u64 << cpu.features.id.dczid;
    let mmu = cpu.data_mmu();
    if let Err(fault) = cx.services.zero(cx.cpu, args[0] & !(len - 1), len, mmu) {
        let fault = jit_ir::MemFault { va: args[0], ..fault };
        jit_ir::JitCpu::raise(cx.cpu, fault);
        cx.cpu.env.exit_after_helper();
    }
    0
}
