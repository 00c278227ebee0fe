//! Exception entry, return and routing (Arm ARM D1.3, D1.4; pseudocode AArch64.TakeException,
//! AArch64.ExceptionReturn).
//!
//! Not modelled: SError injection, exceptions to AArch32, FEAT_NMI, ESB.

use std::sync::atomic::Ordering;

use accel::FirmwareCalls;
use cpu::Line;
use jit_ir::HelperCx;
use jit_ir::state::image;

use crate::state::{ArmCpu, Pstate};
use crate::sysreg::Reg;

/// Exception classes (ESR_ELx.EC).
pub mod ec {
    #![allow(missing_docs)]
    pub const UNKNOWN: u64 = 0x00;
    pub const WFX: u64 = 0x01;
    pub const FP_TRAP: u64 = 0x07;
    pub const PAUTH_TRAP: u64 = 0x09;
    pub const BTI: u64 = 0x0d;
    pub const ILLEGAL: u64 = 0x0e;
    pub const SVC: u64 = 0x15;
    pub const HVC: u64 = 0x16;
    pub const SMC: u64 = 0x17;
    pub const SYSREG: u64 = 0x18;
    pub const PAC_FAIL: u64 = 0x1c;
    pub const IABT_LOWER: u64 = 0x20;
    pub const PC_ALIGNMENT: u64 = 0x22;
    pub const DABT_LOWER: u64 = 0x24;
    pub const SP_ALIGNMENT: u64 = 0x26;
    pub const BREAKPOINT_LOWER: u64 = 0x30;
    pub const STEP_LOWER: u64 = 0x32;
    pub const WATCHPOINT_LOWER: u64 = 0x34;
    pub const BRK: u64 = 0x3c;
}

/// Which vector of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vector {
    /// Synchronous.
    Sync,
    /// IRQ.
    Irq,
    /// FIQ.
    Fiq,
}

const HCR_TGE: u64 = 1 << 27;
const HCR_E2H: u64 = 1 << 34;

impl ArmCpu {
    /// Which interrupts are FIQs depends on the world the CPU is in (IHI 0069, 4.6.2).
    fn tell_gic(&self, before: u8) {
        if self.features.el3
            && (before == 3) != (self.pstate.el == 3)
            && let Some(gic) = self.system.shared.gic.get()
        {
            gic.level_changed(&self.sysreg_cx());
        }
    }

    /// EL3 exists and the PE is in Secure state.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.features.el3 && (self.pstate.el == 3 || self.sys(Reg::SCR_EL3) & 1 == 0)
    }

    /// EL2 is implemented and enabled in the current security state.
    #[must_use]
    pub fn el2_enabled(&self) -> bool {
        self.features.el2 && (!self.features.el3 || self.sys(Reg::SCR_EL3) & 1 != 0)
    }

    /// HCR_EL2 as it takes effect.
    #[must_use]
    pub fn hcr(&self) -> u64 {
        if self.el2_enabled() { self.sys(Reg::HCR_EL2) } else { 0 }
    }

    /// HCR_EL2.E2H.
    #[must_use]
    pub fn e2h(&self) -> bool {
        self.features.el2 && self.sys(Reg::HCR_EL2) & HCR_E2H != 0
    }

    /// HCR_EL2.{E2H, TGE} = {1, 1}.
    #[must_use]
    pub fn e2h_tge(&self) -> bool {
        self.hcr() & (HCR_E2H | HCR_TGE) == HCR_E2H | HCR_TGE
    }

    /// SCTLR of the regime that governs the current exception level.
    #[must_use]
    pub fn sctlr(&self) -> u64 {
        match self.pstate.el {
            0 if self.e2h_tge() => self.sys(Reg::SCTLR_EL2),
            0 | 1 => self.sys(Reg::SCTLR_EL1),
            2 => self.sys(Reg::SCTLR_EL2),
            _ => self.sys(Reg::SCTLR_EL3),
        }
    }

    /// Where an exception from EL0 that belongs to EL1 goes.
    #[must_use]
    pub fn el0_trap_target(&self) -> u8 {
        if self.hcr() & HCR_TGE != 0 { 2 } else { 1 }
    }

    /// Bits 3..0 = N Z C V.
    #[must_use]
    pub fn nzcv(&self) -> u32 {
        image::to_nzcv(self.flags)
    }

    /// Sets N Z C V from bits 3..0.
    pub fn set_nzcv(&mut self, v: u32) {
        self.flags = image::from_nzcv(v);
    }

    fn sp_index(p: &Pstate) -> usize {
        if p.sp_sel { usize::from(p.el & 3) } else { 0 }
    }

    /// Moves to another EL and SP selection, exchanging the SP in use.
    pub fn switch_sp(&mut self, el: u8, sp_sel: bool) {
        self.sp_bank[Self::sp_index(&self.pstate)] = self.x[31];
        let before = self.pstate.el;
        let moved = before != el & 3;
        self.pstate.el = el & 3;
        self.tell_gic(before);
        self.pstate.sp_sel = sp_sel;
        if moved && self.system.pmu_live {
            self.update_pmu();
        }
        self.x[31] = self.sp_bank[Self::sp_index(&self.pstate)];
    }

    /// Writes PSTATE.SP.
    pub fn select_sp(&mut self, sp_sel: bool) {
        self.switch_sp(self.pstate.el, sp_sel);
    }

    /// PSTATE as SPSR_ELx holds it.
    #[must_use]
    pub fn spsr(&self) -> u64 {
        let p = &self.pstate;
        let mode = u64::from(p.el) << 2 | u64::from(p.sp_sel && p.el > 0);
        u64::from(self.nzcv()) << 28
            | u64::from(p.tco) << 25
            | u64::from(p.dit) << 24
            | u64::from(p.uao) << 23
            | u64::from(p.pan) << 22
            | u64::from(p.ss) << 21
            | u64::from(p.il) << 20
            | u64::from(p.ssbs) << 12
            | u64::from(self.btype & 3) << 10
            | u64::from(p.daif) << 6
            | mode
    }

    fn regs_of(target: u8) -> (Reg, Reg, Reg, Reg, Reg) {
        match target {
            3 => (Reg::SPSR_EL3, Reg::ELR_EL3, Reg::ESR_EL3, Reg::VBAR_EL3, Reg::SCTLR_EL3),
            2 => (Reg::SPSR_EL2, Reg::ELR_EL2, Reg::ESR_EL2, Reg::VBAR_EL2, Reg::SCTLR_EL2),
            _ => (Reg::SPSR_EL1, Reg::ELR_EL1, Reg::ESR_EL1, Reg::VBAR_EL1, Reg::SCTLR_EL1),
        }
    }

    /// Takes an exception to `target` with preferred return address `ret`. `esr` is written for
    /// synchronous ones.
    pub fn take_exception(&mut self, target: u8, vector: Vector, esr: u64, ret: u64) {
        let (spsr, elr, esr_reg, vbar, sctlr_reg) = Self::regs_of(target);
        let from = self.pstate;
        let mut offset = match vector {
            Vector::Sync => 0,
            Vector::Irq => 0x80,
            Vector::Fiq => 0x100,
        };
        offset += if from.el < target {
            0x400
        } else if from.sp_sel {
            0x200
        } else {
            0
        };
        let saved = self.spsr();
        self.set_sys(spsr, saved);
        self.set_sys(elr, ret);
        if vector == Vector::Sync {
            self.set_sys(esr_reg, esr);
        }
        self.switch_sp(target, true);
        let sctlr = self.sys(sctlr_reg);
        let (has_ssbs, has_pan) = (self.features.ssbs(), self.features.pan());
        let p = &mut self.pstate;
        (p.daif, p.ss, p.il, p.uao) = (15, false, false, false);
        p.ssbs = has_ssbs && sctlr >> 44 & 1 != 0;
        let span_applies = target == 1 || (target == 2 && self.e2h_tge());
        if has_pan && span_applies && sctlr >> 23 & 1 == 0 {
            self.pstate.pan = true;
        }
        self.btype = 0;
        let pc = self.sys(vbar).wrapping_add(offset);
        self.env.set_pc(pc);
        self.env.clear_exclusive();
        self.env.exit_after_helper();
        crate::log::taken(self, (from.el, target), vector, esr, (saved, ret));
    }

    /// Target of a synchronous exception that belongs to the lowest level that may take it.
    #[must_use]
    pub fn sync_target(&self) -> u8 {
        match self.pstate.el {
            0 => self.el0_trap_target(),
            el => el,
        }
    }

    /// Synchronous exception at PC with EC and ISS (IL = 1).
    pub fn take_sync(&mut self, target: u8, class: u64, iss: u64) {
        let pc = self.env.pc();
        self.take_exception(target, Vector::Sync, class << 26 | 1 << 25 | iss, pc);
    }

    /// Undefined instruction at PC.
    pub fn take_undefined(&mut self) {
        self.take_sync(self.sync_target(), ec::UNKNOWN, 0);
    }

    /// Trapped system register access; `imm` = encoding | Rt << 16.
    pub fn take_sysreg_trap(&mut self, target: u8, imm: u64, read: bool) {
        let (op0, op1, crn, crm, op2) =
            (imm >> 14 & 3, imm >> 11 & 7, imm >> 7 & 15, imm >> 3 & 15, imm & 7);
        let rt = imm >> 16 & 31;
        let iss =
            op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | u64::from(read);
        self.take_sync(target.max(self.pstate.el), ec::SYSREG, iss);
    }

    /// Where WFI (0, 2) or WFE (1, 3) traps, if it does.
    #[must_use]
    pub fn wait_trap(&self, kind: u64) -> Option<u8> {
        let el = self.pstate.el;
        let sctlr_bit = if kind & 1 == 0 { 16 } else { 18 };
        if el == 0 && self.sctlr() >> sctlr_bit & 1 == 0 {
            return Some(self.el0_trap_target());
        }
        let hcr_bit = if kind & 1 == 0 { 13 } else { 14 };
        let below_el2 = el < 2 && !(el == 0 && self.e2h_tge());
        if below_el2 && self.hcr() >> hcr_bit & 1 != 0 {
            return Some(2);
        }
        let scr_bit = if kind & 1 == 0 { 12 } else { 13 };
        (self.features.el3 && el < 3 && self.sys(Reg::SCR_EL3) >> scr_bit & 1 != 0).then_some(3)
    }

    /// Takes the WFx trap.
    pub fn trap_wfx(&mut self, target: u8, kind: u64) {
        let iss = 1 << 24 | 0xe << 20 | kind & 3;
        self.take_sync(target, ec::WFX, iss);
    }

    fn interrupt(&self) -> Option<(u8, Vector)> {
        let lines = self.system.shared.lines.load(Ordering::Acquire);
        if lines == 0 {
            return None;
        }
        let on = |l: Line| lines >> l as u32 & 1 != 0;
        let hcr = self.hcr();
        let scr = if self.features.el3 { self.sys(Reg::SCR_EL3) } else { 0 };
        let p = &self.pstate;
        let tge = hcr & HCR_TGE != 0;
        let physical = |line: Line, scr_bit: u64, hcr_bit: u64, mask: u8| {
            let target = if scr & scr_bit != 0 {
                3
            } else if hcr & hcr_bit != 0 || tge {
                2
            } else {
                1
            };
            let open = target > p.el || (target == p.el && p.daif & mask == 0);
            (on(line) && open).then_some(target)
        };
        if let Some(t) = physical(Line::Fiq, 1 << 2, 1 << 3, 1) {
            return Some((t, Vector::Fiq));
        }
        if let Some(t) = physical(Line::Irq, 1 << 1, 1 << 4, 2) {
            return Some((t, Vector::Irq));
        }
        let virt = |l: Line, vbit: u64, route: u64, mask: u8| {
            let pending = on(l) || hcr & vbit != 0;
            pending && hcr & route != 0 && !tge && p.el <= 1 && p.daif & mask == 0
        };
        if virt(Line::VFiq, 1 << 6, 1 << 3, 1) {
            return Some((1, Vector::Fiq));
        }
        virt(Line::VIrq, 1 << 7, 1 << 4, 2).then_some((1, Vector::Irq))
    }

    /// An interrupt could be taken now.
    #[must_use]
    pub fn interrupt_ready(&self) -> bool {
        self.interrupt().is_some()
    }

    /// Some interrupt is pending, masked or not: WFI ends.
    #[must_use]
    pub fn wakes(&self) -> bool {
        self.system.shared.lines.load(Ordering::Acquire) != 0
    }

    /// Takes an interrupt if one can be taken.
    pub fn take_interrupt(&mut self) -> bool {
        let Some((target, vector)) = self.interrupt() else { return false };
        let pc = self.env.pc();
        self.take_exception(target, vector, 0, pc);
        true
    }

    /// ISR_EL1.
    #[must_use]
    pub fn pending_isr(&self) -> u64 {
        let lines = self.system.shared.lines.load(Ordering::Acquire);
        let hcr = self.hcr();
        let pick = |route: u64, phys: Line, virt: Line| {
            let l = if self.pstate.el == 1 && hcr & route != 0 { virt } else { phys };
            u64::from(lines >> l as u32 & 1)
        };
        pick(1 << 4, Line::Irq, Line::VIrq) << 7 | pick(1 << 3, Line::Fiq, Line::VFiq) << 6
    }

    /// ERET: PSTATE and PC from SPSR_ELx and ELR_ELx.
    pub fn exception_return(&mut self, pc: u64) {
        let el = self.pstate.el;
        let spsr = self.sys(Self::regs_of(el).0);
        let target = (spsr >> 2 & 3) as u8;
        let illegal = spsr & 0x10 != 0
            || target > el
            || spsr & 2 != 0
            || (target == 0 && spsr & 1 != 0)
            || (target == 2 && !self.el2_enabled())
            || (target == 3 && !self.features.el3)
            || (target == 1 && self.hcr() & HCR_TGE != 0);
        let f = &self.features;
        let (has_pan, has_dit, has_uao) = (f.pan(), f.dit(), f.uao());
        let (has_ssbs, has_bti) = (f.ssbs(), f.bti());
        self.set_nzcv((spsr >> 28) as u32 & 15);
        let bit = |n: u32| spsr >> n & 1 != 0;
        let p = &mut self.pstate;
        p.daif = (spsr >> 6) as u8 & 15;
        p.pan = has_pan && bit(22);
        p.dit = has_dit && bit(24);
        p.ss = bit(21);
        if illegal {
            p.il = true;
        } else {
            p.il = bit(20);
            p.uao = has_uao && bit(23);
            p.ssbs = has_ssbs && bit(12);
            self.btype = if has_bti { (spsr >> 10) as u32 & 3 } else { 0 };
            self.switch_sp(target, spsr & 1 != 0);
        }
        let pc = if illegal { pc } else { self.branch_address(pc) };
        self.env.set_pc(pc);
        crate::log::returned((el, self.pstate.el), illegal, pc);
        self.env.clear_exclusive();
        self.system.shared.event.store(true, Ordering::Release);
        self.env.exit_after_helper();
    }

    /// Strips a tag from a branch target where the regime ignores the top byte.
    #[must_use]
    pub fn branch_address(&self, pc: u64) -> u64 {
        let (tbi0, tbi1) = self.branch_tbi();
        let high = pc >> 55 & 1 != 0;
        if if high { tbi1 } else { tbi0 } { ((pc << 8) as i64 >> 8) as u64 } else { pc }
    }

    /// PC is not aligned to 4.
    pub fn take_pc_alignment(&mut self) {
        let (pc, target) = (self.env.pc(), self.sync_target());
        self.set_far(target, pc);
        self.take_sync(target, ec::PC_ALIGNMENT, 0);
    }

    /// FAR of an exception level.
    pub fn set_far(&mut self, target: u8, va: u64) {
        let far = match target {
            3 => Reg::FAR_EL3,
            2 => Reg::FAR_EL2,
            _ => Reg::FAR_EL1,
        };
        self.set_sys(far, va);
    }

    fn after_call(&mut self) {
        // The call is a step of its own (SSAdvance).
        self.pstate.ss = false;
        let next = self.env.pc().wrapping_add(4);
        self.env.set_pc(next);
    }
}

/// Undefined instruction.
pub fn undefined(cx: &mut HelperCx<'_, ArmCpu>, _: [u64; 4]) -> u64 {
    cx.cpu.take_undefined();
    0
}

/// SVC #imm16.
pub fn svc(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let target = cx.cpu.sync_target();
    cx.cpu.after_call();
    cx.cpu.take_sync(target, ec::SVC, args[3] & 0xffff);
    0
}

/// HVC #imm16; PSCI when that is its conduit.
pub fn hvc(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let cpu = &mut *cx.cpu;
    if cpu.pstate.el == 0 {
        cpu.take_undefined();
    } else if cpu.system.psci == FirmwareCalls::Hvc {
        cpu.after_call();
        cpu.psci_call();
        cpu.env.exit_after_helper();
    } else if !cpu.el2_enabled() || cpu.sys(Reg::HCR_EL2) >> 29 & 1 != 0 {
        cpu.take_undefined();
    } else {
        let target = cpu.pstate.el.max(2);
        cpu.after_call();
        cpu.take_sync(target, ec::HVC, args[3] & 0xffff);
    }
    0
}

/// SMC #imm16.
pub fn smc(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let cpu = &mut *cx.cpu;
    let el = cpu.pstate.el;
    if el == 0 {
        cpu.take_undefined();
    } else if el == 1 && cpu.hcr() >> 19 & 1 != 0 {
        cpu.take_sync(2, ec::SMC, args[3] & 0xffff);
    } else if cpu.system.psci == FirmwareCalls::Smc {
        cpu.after_call();
        cpu.psci_call();
        cpu.env.exit_after_helper();
    } else if !cpu.features.el3 || cpu.sys(Reg::SCR_EL3) >> 7 & 1 != 0 {
        cpu.take_undefined();
    } else {
        cpu.after_call();
        cpu.take_sync(3, ec::SMC, args[3] & 0xffff);
    }
    0
}

/// BRK #imm16.
pub fn brk(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let tde = cx.cpu.el2_enabled() && cx.cpu.sys(Reg::MDCR_EL2) >> 8 & 1 != 0;
    let target = if tde && cx.cpu.pstate.el < 2 { 2 } else { cx.cpu.sync_target() };
    cx.cpu.take_sync(target, ec::BRK, args[3] & 0xffff);
    0
}

/// ERET (0), ERETAA (1), ERETAB (2).
pub fn eret(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let cpu = &mut *cx.cpu;
    if cpu.pstate.el == 0 {
        cpu.take_undefined();
        return 0;
    }
    let mut pc = cpu.sys(ArmCpu::regs_of(cpu.pstate.el).1);
    if args[3] != 0 {
        match cpu.authenticate_return(pc, args[3] == 2) {
            Some(p) => pc = p,
            None => return 0,
        }
    }
    cpu.exception_return(pc);
    0
}

/// FP/SIMD access trap to the level in the immediate.
pub fn fp_trap(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let target = (args[3] as u8 & 3).max(1);
    // COND and CV are 1110 and 1 for AArch64; to EL3 from CPTR likewise.
    cx.cpu.take_sync(target, ec::FP_TRAP, 1 << 24 | 0xe << 20);
    0
}

/// SP alignment fault.
pub fn sp_alignment(cx: &mut HelperCx<'_, ArmCpu>, _: [u64; 4]) -> u64 {
    let target = cx.cpu.sync_target();
    cx.cpu.take_sync(target, ec::SP_ALIGNMENT, 0);
    0
}

/// Branch target exception.
pub fn branch_target(cx: &mut HelperCx<'_, ArmCpu>, _: [u64; 4]) -> u64 {
    let (target, btype) = (cx.cpu.sync_target(), u64::from(cx.cpu.btype & 3));
    cx.cpu.take_sync(target, ec::BTI, btype);
    0
}

/// Illegal execution state.
pub fn illegal_state(cx: &mut HelperCx<'_, ArmCpu>, _: [u64; 4]) -> u64 {
    let target = cx.cpu.sync_target();
    cx.cpu.take_sync(target, ec::ILLEGAL, 0);
    0
}

/// Software step exception; PC is already at the next instruction. Immediate: 1 after a load-exclusive.
pub fn step_done(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let cpu = &mut *cx.cpu;
    let target = cpu.debug_target();
    let class = ec::STEP_LOWER + u64::from(target == cpu.pstate.el);
    cpu.pstate.ss = false;
    // ISV, EX.
    cpu.take_sync(target, class, 1 << 24 | (args[3] & 1) << 6 | 0x22);
    0
}
