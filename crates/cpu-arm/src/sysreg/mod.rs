//! System registers and system instructions (Arm ARM chapter D19, D8.13 for TLB maintenance).
//!
//! Plainly stored registers are rows of [`table`]; the rest is in [`special`]. Traps modelled:
//! EL0 enables (SCTLR_EL1, CNTKCTL_EL1), HCR_EL2 TVM/TRVM/TTLB/TSW/TPC/TPU/TACR/TID3/TDZ, timer
//! enables of CNTHCTL_EL2. Not modelled: fine-grained traps, MDCR traps, RAS and LORegion
//! registers, the PMU.

mod special;
mod system_insns;
pub mod table;

use std::sync::Arc;

use jit_ir::HelperCx;

pub use system_insns::{dc_zva, sys_insn};
pub use table::{REGS, Reg, inline_slot};

use crate::state::ArmCpu;
use table::{CONTEXT, IRQS, READ_ONLY, VM, plain, redirect_e2h};

/// Why an access is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// Undefined instruction exception.
    Undefined,
    /// System-instruction trap (EC 0x18) to this exception level.
    To(u8),
}

/// What a write changed besides the register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Translation regimes or the mode key.
    pub context: bool,
    /// The mode key alone (PSTATE).
    pub mode: bool,
    /// Interrupt masking or routing.
    pub irqs: bool,
}

/// All mmu indices.
pub const ALL_MMUS: u16 = 0xffff;

fn lowest_el(enc: u16) -> u8 {
    match enc >> 11 & 7 {
        3 => 0,
        4 | 5 => 2,
        6 => 3,
        _ => 1,
    }
}

impl ArmCpu {
    /// A system register's plain storage.
    #[must_use]
    pub fn sys(&self, r: Reg) -> u64 {
        self.sys[r as usize]
    }

    /// Sets a system register's plain storage.
    pub fn set_sys(&mut self, r: Reg, v: u64) {
        self.sys[r as usize] = v;
    }

    fn check_level(&self, enc: u16) -> Result<u16, Trap> {
        let el = self.pstate.el;
        let e2h = self.e2h();
        if enc >> 14 == 3 && enc >> 11 & 7 == 5 && !(e2h && el >= 2) {
            return Err(Trap::Undefined);
        }
        let low = lowest_el(enc);
        if el < low || (low == 2 && !self.features.el2) || (low == 3 && !self.features.el3) {
            return Err(Trap::Undefined);
        }
        Ok(if el >= 2 && e2h && (el == 2 || enc >> 11 & 7 == 5) { redirect_e2h(enc) } else { enc })
    }

    fn check_vm_trap(&self, flags: u8, write: bool) -> Result<(), Trap> {
        let bit = if write { 26 } else { 30 };
        if flags & VM != 0 && self.pstate.el == 1 && self.hcr() >> bit & 1 != 0 {
            return Err(Trap::To(2));
        }
        Ok(())
    }

    /// Reads a system register as the current exception level.
    pub fn sys_read(&mut self, enc: u16) -> Result<u64, Trap> {
        let enc = self.check_level(enc)?;
        if let Some(p) = plain(enc) {
            self.check_vm_trap(p.flags, false)?;
            return Ok(self.sys(p.reg));
        }
        self.read_special(enc)
    }

    /// Writes a system register as the current exception level.
    pub fn sys_write(&mut self, enc: u16, v: u64) -> Result<Changed, Trap> {
        let enc = self.check_level(enc)?;
        let Some(p) = plain(enc) else { return self.write_special(enc, v) };
        self.check_vm_trap(p.flags, true)?;
        let highest = if self.features.el3 {
            3
        } else if self.features.el2 {
            2
        } else {
            1
        };
        let refused = p.flags & READ_ONLY != 0
            || (p.reg == Reg::TPIDRRO_EL0 && self.pstate.el == 0)
            || (p.reg == Reg::CNTFRQ_EL0 && self.pstate.el < highest);
        if refused {
            return Err(Trap::Undefined);
        }
        let old = self.sys(p.reg);
        let v = self.legal(p.reg, v);
        self.set_sys(p.reg, v);
        Ok(Changed {
            context: p.flags & CONTEXT != 0 && old != v,
            mode: false,
            irqs: p.flags & IRQS != 0,
        })
    }

    /// Clears the bits of a value that the CPU does not implement.
    fn legal(&self, r: Reg, v: u64) -> u64 {
        match r {
            Reg::HCR_EL2 => {
                let mut allowed = 0x0000_0003_ffff_ffff & !(1 << 29); // up to ID
                if self.features.vhe() {
                    allowed |= 1 << 34;
                }
                if self.features.pauth() > 0 {
                    allowed |= 3 << 40;
                }
                v & allowed | 1 << 31 // RW: EL1 is AArch64
            }
            Reg::SCR_EL3 => v & 0x7_3fff | 0x430, // RW and RES1 bits
            Reg::TTBR0_EL1 | Reg::TTBR1_EL1 if !self.features.asid16() => v & !(0xff << 56),
            Reg::VBAR_EL1 | Reg::VBAR_EL2 | Reg::VBAR_EL3 => v & !0x7ff,
            Reg::CSSELR_EL1 => v & 0xf,
            Reg::CNTKCTL_EL1 => v & 0x2_03ff,
            _ => v,
        }
    }

    /// After a write: engine and interrupt bookkeeping. PC is still at the instruction; the block is
    /// left only when what follows must be looked up anew.
    fn settle(cx: &mut HelperCx<'_, Self>, changed: Changed) {
        if changed.context {
            cx.cpu.forget_mode();
            cx.services.context_changed(cx.cpu, ALL_MMUS);
        }
        let due = changed.irqs && cx.cpu.interrupt_ready();
        if changed.context || changed.mode || due {
            let next = cx.cpu.env.pc().wrapping_add(4);
            cx.cpu.env.set_pc(next);
            cx.cpu.env.exit_after_helper();
        }
    }

    fn refuse(&mut self, trap: Trap, imm: u64, read: bool) {
        match trap {
            Trap::Undefined => self.take_undefined(),
            Trap::To(el) => self.take_sysreg_trap(el, imm, read),
        }
    }
}

/// MRS: immediate = encoding | Rt << 16.
pub fn mrs(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    match cx.cpu.sys_read(args[3] as u16) {
        Ok(v) => v,
        Err(trap) => {
            cx.cpu.refuse(trap, args[3], true);
            0
        }
    }
}

/// MSR (register): immediate = encoding | Rt << 16, a = value.
pub fn msr(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    match cx.cpu.sys_write(args[3] as u16, args[0]) {
        Ok(changed) => ArmCpu::settle(cx, changed),
        Err(trap) => cx.cpu.refuse(trap, args[3], false),
    }
    0
}

/// MSR (immediate): immediate = op1 << 7 | op2 << 4 | CRm.
pub fn msr_imm(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let (field, crm) = (args[3] as u32 >> 4, args[3] as u32 & 15);
    let cpu = &mut *cx.cpu;
    let (op1, op2) = (field >> 3, field & 7);
    let el = cpu.pstate.el;
    let f = Arc::clone(&cpu.features);
    let on = crm & 1 != 0;
    let ok = match (op1, op2) {
        (0, 3) => f.uao() && el > 0,
        (0, 4) => f.pan() && el > 0,
        (0, 5) => el > 0,
        (3, 1) => f.ssbs(),
        (3, 2) => f.dit(),
        (3, 6 | 7) => true,
        _ => false,
    };
    if !ok {
        cpu.take_undefined();
        return 0;
    }
    let before = (cpu.pstate.uao, cpu.pstate.pan, cpu.pstate.sp_sel);
    let mut changed = Changed::default();
    match (op1, op2) {
        (0, 3) => cpu.pstate.uao = on,
        (0, 4) => cpu.pstate.pan = on,
        (0, 5) => cpu.select_sp(on),
        (3, 1) => cpu.pstate.ssbs = on,
        (3, 2) => cpu.pstate.dit = on,
        _ if el == 0 && cpu.sctlr() >> 9 & 1 == 0 => {
            let target = cpu.el0_trap_target();
            cpu.take_sysreg_trap(
                target,
                u64::from(cpu::encoding(0, 3, 4, crm as u16, op2 as u16)) | 31 << 16,
                false,
            );
            return 0;
        }
        (3, 6) => cpu.pstate.daif |= crm as u8,
        _ => {
            cpu.pstate.daif &= !(crm as u8);
            changed.irqs = true;
        }
    }
    changed.mode = before != (cpu.pstate.uao, cpu.pstate.pan, cpu.pstate.sp_sel) || cpu.steps();
    ArmCpu::settle(cx, changed);
    0
}
