//! System registers and system instructions (Arm ARM chapter D19, D8.13 for TLB maintenance).
//!
//! Plainly stored registers are rows of [`table`]; the rest is in [`special`]. Traps modelled:
//! EL0 enables (SCTLR_EL1, CNTKCTL_EL1, PMUSERENR_EL0), HCR_EL2 TVM/TRVM/TTLB*/TSW/TPC/TPU/TACR/TID1
//! to TID4/TDZ/TIDCP/TLOR/TERR/EnSCXT, CPTR TCPAC, MDCR TDA/TDOSA/TPM, timer enables of CNTHCTL_EL2. Not
//! modelled: fine-grained traps, HCRX_EL2 beyond storage, error records of RAS, MDCR_EL3 beyond TDA,
//! TDOSA, TPM, SPME and SDD.

mod identity;
mod pmu;
mod special;
mod system_insns;
pub mod table;

use std::sync::Arc;

use jit_ir::HelperCx;

pub use system_insns::{dc_zva, sys_insn};
pub use table::{PLAIN, REGS, Reg, exists, inline_slot};

use crate::state::ArmCpu;
use table::{CONTEXT, DEBUG, IRQS, Plain, READ_ONLY, TRAPS, VM, ZERO, plain, redirect_e2h};

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
    /// What debug registers cover.
    pub debug: bool,
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
        if matches!(enc >> 7 & 15, 11 | 15) && enc >> 14 == 3 && self.pstate.el <= 1 {
            self.check_impdef()?;
        }
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

    /// SCTLR_ELx.TIDCP and HCR_EL2.TIDCP: implementation defined registers.
    fn check_impdef(&self) -> Result<(), Trap> {
        let el = self.pstate.el;
        if el == 0 && self.features.tidcp1() && self.sctlr() >> 63 != 0 {
            return Err(Trap::To(self.el0_trap_target()));
        }
        let to_el2 = el == 1 && self.hcr() >> 20 & 1 != 0;
        if to_el2 { Err(Trap::To(2)) } else { Ok(()) }
    }

    /// With FEAT_IDST a read of the ID space is a trap, not an undefined instruction.
    fn id_space_trap(&self, enc: u16, trap: Trap) -> Trap {
        if trap != Trap::Undefined || !self.features.idst() || !identity::in_id_space(enc) {
            return trap;
        }
        let el = self.pstate.el;
        Trap::To(if el == 0 { self.el0_trap_target() } else { el })
    }

    fn check_plain(&self, p: &Plain, write: bool) -> Result<(), Trap> {
        if p.flags & VM != 0 && self.pstate.el == 1 {
            let bit = if write { 26 } else { 30 };
            if self.hcr() >> bit & 1 != 0 {
                return Err(Trap::To(2));
            }
        }
        // Debug registers all have traps.
        if p.flags & TRAPS == 0 && p.enc >> 14 != 2 { Ok(()) } else { self.check_traps(p, write) }
    }

    fn check_traps(&self, p: &Plain, write: bool) -> Result<(), Trap> {
        let el = self.pstate.el;
        let hcr = self.hcr();
        let tcpac = |cptr: Reg| self.sys(cptr) >> 31 & 1 != 0;
        if p.reg.is_key() {
            return self.key_trap().map_or(Ok(()), |el| Err(Trap::To(el)));
        }
        let other = match p.reg {
            Reg::CSSELR_EL1 => return self.check_identity(p.enc),
            Reg::ACTLR_EL1 => hcr >> 21 & 1 != 0,
            Reg::CPACR_EL1 => tcpac(Reg::CPTR_EL2),
            _ => false,
        };
        if other && el == 1 && self.el2_enabled() {
            return Err(Trap::To(2));
        }
        let to_el3 = matches!(p.reg, Reg::CPACR_EL1 | Reg::CPTR_EL2) && tcpac(Reg::CPTR_EL3);
        if to_el3 && el < 3 && self.features.el3 {
            return Err(Trap::To(3));
        }
        if p.enc >> 14 == 2 {
            return self.check_debug(p.enc);
        }
        self.check_optional(p, write)
    }

    /// Where accesses to pointer authentication keys trap, if they do: HCR_EL2.APK, SCR_EL3.APK.
    pub(crate) fn key_trap(&self) -> Option<u8> {
        let el = self.pstate.el;
        if el == 1 && self.el2_enabled() && self.hcr() >> 40 & 1 == 0 {
            return Some(2);
        }
        (self.features.el3 && el < 3 && self.sys(Reg::SCR_EL3) >> 16 & 1 == 0).then_some(3)
    }

    /// MDCR_EL2.{TDA, TDOSA, TDE} and MDCR_EL3.{TDA, TDOSA} for debug registers.
    fn check_debug(&self, enc: u16) -> Result<(), Trap> {
        let el = self.pstate.el;
        // The OS lock's registers have CRn = 1.
        let bit = if enc >> 7 & 15 == 1 { 10 } else { 9 };
        let mdcr = self.sys(Reg::MDCR_EL2);
        let two = el < 2 && self.el2_enabled();
        if two && (mdcr >> bit & 1 != 0 || mdcr >> 8 & 1 != 0 || self.hcr() >> 27 & 1 != 0) {
            return Err(Trap::To(2));
        }
        let three = self.features.el3 && el < 3 && self.sys(Reg::MDCR_EL3) >> bit & 1 != 0;
        if three { Err(Trap::To(3)) } else { Ok(()) }
    }

    /// Traps of registers that came with a feature.
    fn check_optional(&self, p: &Plain, write: bool) -> Result<(), Trap> {
        let el = self.pstate.el;
        match p.reg {
            // SCTLR.TSCXT, HCR_EL2.EnSCXT.
            Reg::SCXTNUM_EL0 | Reg::SCXTNUM_EL1 => {
                if el == 0 && self.sctlr() >> 20 & 1 != 0 {
                    return Err(Trap::To(self.el0_trap_target()));
                }
                let below = el == 1 || (el == 0 && !self.e2h_tge());
                let off = below && self.el2_enabled() && self.hcr() >> 53 & 1 == 0;
                if off { Err(Trap::To(2)) } else { Ok(()) }
            }
            Reg::LORC_EL1 | Reg::LOREA_EL1 | Reg::LORID_EL1 | Reg::LORN_EL1 | Reg::LORSA_EL1 => {
                let id = p.reg == Reg::LORID_EL1;
                if write && id || !id && self.is_secure() {
                    return Err(Trap::Undefined);
                }
                let trapped = el == 1 && self.hcr() >> 35 & 1 != 0;
                if trapped { Err(Trap::To(2)) } else { Ok(()) }
            }
            Reg::ERRIDR_EL1 | Reg::DISR_EL1 if el == 1 && self.hcr() >> 36 & 1 != 0 => {
                Err(Trap::To(2))
            }
            _ => Ok(()),
        }
    }

    /// Reads a system register as the current exception level.
    pub fn sys_read(&mut self, enc: u16) -> Result<u64, Trap> {
        let enc = self.check_level(enc).map_err(|trap| self.id_space_trap(enc, trap))?;
        if let Some(p) = plain(enc).filter(|p| exists(p, &self.features)) {
            self.check_plain(p, false)?;
            return Ok(self.sys(p.reg));
        }
        self.read_special(enc).map_err(|trap| self.id_space_trap(enc, trap))
    }

    /// Writes a system register as the current exception level.
    pub fn sys_write(&mut self, enc: u16, v: u64) -> Result<Changed, Trap> {
        let enc = self.check_level(enc)?;
        let Some(p) = plain(enc).filter(|p| exists(p, &self.features)) else {
            return self.write_special(enc, v);
        };
        self.check_plain(p, true)?;
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
        let v = if p.flags & ZERO != 0 { self.sys(p.reg) } else { self.legal(p.reg, v) };
        self.set_sys(p.reg, v);
        if p.reg == Reg::MDCR_EL2 && self.system.pmu_live {
            self.update_pmu();
        }
        Ok(Changed {
            context: p.flags & CONTEXT != 0 && old != v,
            mode: false,
            irqs: p.flags & IRQS != 0,
            debug: p.flags & DEBUG != 0 && old != v,
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
                let f = &self.features;
                let optional = [
                    (f.pauth() > 0, 3 << 40), // API, APK
                    (f.lor(), 1 << 35),       // TLOR
                    (f.ras(), 3 << 36),       // TERR, TEA
                    (f.fwb(), 1 << 46),
                    (f.evt(), 1 << 49 | 1 << 50 | 1 << 52 | 3 << 54), // TID4, TICAB, TOCU, TTLBIS, TTLBOS
                    (f.csv2_2(), 1 << 53),                            // EnSCXT
                ];
                for (has, bits) in optional {
                    allowed |= if has { bits } else { 0 };
                }
                v & allowed | 1 << 31 // RW: EL1 is AArch64
            }
            Reg::SCR_EL3 => {
                let mut allowed = 0x3fbf; // up to TWE
                let f = &self.features;
                let optional = [
                    (f.lor(), 1 << 14),
                    (f.ras(), 1 << 15),
                    (f.pauth() > 0, 3 << 16), // APK, API
                    (f.csv2_2(), 1 << 25),
                    (f.ecv(), 1 << 28),
                    (f.hcx(), 1 << 38),
                ];
                for (has, bits) in optional {
                    allowed |= if has { bits } else { 0 };
                }
                v & allowed | 0x430 // RW and RES1 bits
            }
            // What of HCRX_EL2 has a feature here: FnXS, FGTnXS aside, CMOW.
            Reg::HCRX_EL2 => v & (1 << 3 | 1 << 9),
            Reg::DISR_EL1 | Reg::VDISR_EL2 => v & (1 << 31 | 0x01ff_ffff),
            Reg::TTBR0_EL1 | Reg::TTBR1_EL1 if !self.features.asid16() => v & !(0xff << 56),
            Reg::OSDLR_EL1 => v & 1,
            Reg::DBGCLAIMCLR_EL1 => self.sys(r) & !v,
            Reg::VBAR_EL1 | Reg::VBAR_EL2 | Reg::VBAR_EL3 => v & !0x7ff,
            Reg::CSSELR_EL1 => v & 0xf,
            Reg::CNTKCTL_EL1 => v & if self.features.ecv() { 0x2_03ff } else { 0x3ff },
            // EL1TVT, EL1TVCT, EL1NVPCT, EL1NVVCT, EVNTIS; ECV (12) comes with CNTPOFF_EL2.
            Reg::CNTHCTL_EL2 => v & if self.features.ecv() { 0x3_efff } else { 0xfff },
            r if (Reg::DBGWVR0_EL1 as u16..=Reg::DBGWVR3_EL1 as u16).contains(&(r as u16)) => {
                v & !3
            }
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
        if changed.debug {
            cx.services.debug_changed(cx.cpu);
        }
        let due = changed.irqs && cx.cpu.interrupt_ready();
        if changed.context || changed.mode || changed.debug || due {
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
