//! Registers that compute something.

use cpu::{SysRegCx, encoding};

use super::{Changed, Reg, Trap};

use crate::state::{ArmCpu, FPCR_SPECIAL};
use crate::system::TimerId;

const SP_EL0: u16 = encoding(3, 0, 4, 1, 0);
const SP_EL1: u16 = encoding(3, 4, 4, 1, 0);
const SP_EL2: u16 = encoding(3, 6, 4, 1, 0);
const SPSEL: u16 = encoding(3, 0, 4, 2, 0);
const CURRENT_EL: u16 = encoding(3, 0, 4, 2, 2);
const PAN: u16 = encoding(3, 0, 4, 2, 3);
const UAO: u16 = encoding(3, 0, 4, 2, 4);
const NZCV: u16 = encoding(3, 3, 4, 2, 0);
const DAIF: u16 = encoding(3, 3, 4, 2, 1);
const DIT: u16 = encoding(3, 3, 4, 2, 5);
const SSBS: u16 = encoding(3, 3, 4, 2, 6);
const FPCR: u16 = encoding(3, 3, 4, 4, 0);
const FPSR: u16 = encoding(3, 3, 4, 4, 1);
const RNDR: u16 = encoding(3, 3, 2, 4, 0);
const RNDRRS: u16 = encoding(3, 3, 2, 4, 1);
const ISR: u16 = encoding(3, 0, 12, 1, 0);
const OSLAR: u16 = encoding(2, 0, 1, 0, 4);
const CLAIMSET: u16 = encoding(2, 0, 7, 8, 6);
const RVBAR: [u16; 3] =
    [encoding(3, 0, 12, 0, 1), encoding(3, 4, 12, 0, 1), encoding(3, 6, 12, 0, 1)];
const RMR: [u16; 3] =
    [encoding(3, 0, 12, 0, 2), encoding(3, 4, 12, 0, 2), encoding(3, 6, 12, 0, 2)];
const CNTVOFF: u16 = encoding(3, 4, 14, 0, 3);

fn timer_of(enc: u16) -> Option<(TimerId, u16)> {
    let op2 = enc & 7;
    let id = match enc & !7 {
        e if e == encoding(3, 3, 14, 2, 0) => TimerId::Phys,
        e if e == encoding(3, 3, 14, 3, 0) => TimerId::Virt,
        e if e == encoding(3, 4, 14, 2, 0) => TimerId::Hyp,
        e if e == encoding(3, 4, 14, 3, 0) => TimerId::HypVirt,
        e if e == encoding(3, 7, 14, 2, 0) => TimerId::Secure,
        _ => return None,
    };
    (op2 <= 2).then_some((id, op2))
}

fn is_gic(enc: u16) -> bool {
    let (op1, crn, crm, op2) = (enc >> 11 & 7, enc >> 7 & 15, enc >> 3 & 15, enc & 7);
    enc >> 14 == 3
        && (enc == encoding(3, 0, 4, 6, 0)
            || (crn == 12 && op1 == 0 && (8..=12).contains(&crm))
            || (crn == 12 && op1 == 4 && ((8..=9).contains(&crm) || (11..=13).contains(&crm)))
            || (crn == 12 && op1 == 4 && crm == 9 && op2 == 5)
            || (crn == 12 && op1 == 6 && crm == 12))
}

impl ArmCpu {
    /// The state that the GIC CPU interface looks at.
    #[must_use]
    pub fn sysreg_cx(&self) -> SysRegCx {
        SysRegCx {
            cpu: self.system.index,
            el: self.pstate.el,
            secure: self.is_secure(),
            hcr_el2: self.hcr(),
            scr_el3: if self.features.el3 { self.sys(Reg::SCR_EL3) } else { 0 },
            has_el2: self.features.el2,
            has_el3: self.features.el3,
        }
    }

    /// Traps of the GIC's registers (IHI 0069, 12.2): SGIs to a hypervisor that handles
    /// interrupts itself, and what secure firmware keeps for itself.
    fn check_gic(&self, enc: u16) -> Result<(), Trap> {
        let (op1, crm, op2) = (enc >> 11 & 7, enc >> 3 & 15, enc & 7);
        let el = self.pstate.el;
        if op1 != 0 || el == 3 {
            return Ok(());
        }
        let sgi = crm == 11 && op2 >= 5;
        // Bit 0: about group 0 (FIQ), bit 1: about group 1 (IRQ).
        let groups = match (crm, op2) {
            (8, _) | (12, 6) => 1,
            (11, 5 | 6) | (9 | 12, 0..=3 | 7) => 2,
            (11, 7) => 1,
            (12, 5) => return Ok(()), // ICC_SRE_EL1 has its own enables, which are fixed
            _ => 3,
        };
        let (fmo, imo) = (self.hcr() >> 3 & 1, self.hcr() >> 4 & 1);
        let virt = el == 1 && self.el2_enabled() && (fmo | imo << 1) & groups != 0;
        if virt && sgi || el == 1 && self.el2_enabled() && sgi && fmo | imo != 0 {
            return Err(Trap::To(2));
        }
        if virt || !self.features.el3 {
            return Ok(());
        }
        let scr = self.sys(Reg::SCR_EL3);
        // SCR_EL3.FIQ and IRQ; a register of both groups traps when both do.
        let kept = scr >> 2 & 1 | (scr >> 1 & 1) << 1;
        if groups & kept == groups { Err(Trap::To(3)) } else { Ok(()) }
    }

    fn check_timer(&self, id: TimerId) -> Result<(), Trap> {
        let el = self.pstate.el;
        let kctl =
            if self.e2h_tge() { self.sys(Reg::CNTHCTL_EL2) } else { self.sys(Reg::CNTKCTL_EL1) };
        match id {
            TimerId::Phys | TimerId::Virt if el == 0 => {
                let bit = if id == TimerId::Phys { 9 } else { 8 };
                if kctl >> bit & 1 == 0 {
                    return Err(Trap::To(self.el0_trap_target()));
                }
            }
            TimerId::HypVirt if !self.features.vhe() => return Err(Trap::Undefined),
            TimerId::Secure if el < 3 && !(el == 1 && self.is_secure()) => {
                return Err(Trap::Undefined);
            }
            _ => {}
        }
        if id == TimerId::Phys && el <= 1 && self.el2_enabled() && !self.e2h_tge() {
            let bit = if self.e2h() { 11 } else { 1 };
            if self.sys(Reg::CNTHCTL_EL2) >> bit & 1 == 0 {
                return Err(Trap::To(2));
            }
        }
        if id == TimerId::Virt && self.virtual_trap(13) { Err(Trap::To(2)) } else { Ok(()) }
    }

    /// CNTHCTL_EL2.EL1TVT (13) and EL1TVCT (14), FEAT_ECV.
    fn virtual_trap(&self, bit: u32) -> bool {
        self.pstate.el <= 1
            && self.el2_enabled()
            && !self.e2h_tge()
            && self.sys(Reg::CNTHCTL_EL2) >> bit & 1 != 0
    }

    fn check_counter(&self, physical: bool) -> Result<(), Trap> {
        let el = self.pstate.el;
        let kctl =
            if self.e2h_tge() { self.sys(Reg::CNTHCTL_EL2) } else { self.sys(Reg::CNTKCTL_EL1) };
        let bit = u32::from(!physical);
        if el == 0 && kctl >> bit & 1 == 0 {
            return Err(Trap::To(self.el0_trap_target()));
        }
        if physical && el <= 1 && self.el2_enabled() && !self.e2h_tge() {
            let bit = if self.e2h() { 10 } else { 0 };
            if self.sys(Reg::CNTHCTL_EL2) >> bit & 1 == 0 {
                return Err(Trap::To(2));
            }
        }
        if !physical && self.virtual_trap(14) { Err(Trap::To(2)) } else { Ok(()) }
    }

    /// Whether the virtual counter offset applies here.
    fn counter_offset(&self) -> u64 {
        let plain = self.pstate.el == 2 && self.e2h() || self.e2h_tge() && self.pstate.el == 0;
        if plain { 0 } else { self.system.timers.offset() }
    }

    fn read_pstate(&self, enc: u16) -> Option<Result<u64, Trap>> {
        let p = &self.pstate;
        let f = &self.features;
        let priv_ok = p.el > 0;
        let gate = |ok: bool, v: u64| if ok { Ok(v) } else { Err(Trap::Undefined) };
        Some(match enc {
            SPSEL => gate(priv_ok, u64::from(p.sp_sel)),
            CURRENT_EL => gate(priv_ok, u64::from(p.el) << 2),
            PAN => gate(priv_ok && f.pan(), u64::from(p.pan) << 22),
            UAO => gate(priv_ok && f.uao(), u64::from(p.uao) << 23),
            NZCV => Ok(u64::from(self.nzcv()) << 28),
            DAIF if !priv_ok && self.sctlr() >> 9 & 1 == 0 => Err(Trap::To(self.el0_trap_target())),
            DAIF => Ok(u64::from(p.daif) << 6),
            DIT => gate(f.dit(), u64::from(p.dit) << 24),
            SSBS => gate(f.ssbs(), u64::from(p.ssbs) << 12),
            _ => return None,
        })
    }

    pub(super) fn read_special(&mut self, enc: u16) -> Result<u64, Trap> {
        if let Some(r) = self.read_identity(enc) {
            return r;
        }
        if let Some(r) = self.read_pstate(enc) {
            return r;
        }
        if let Some(r) = self.read_pmu(enc) {
            return r;
        }
        if let Some((id, reg)) = timer_of(enc) {
            self.check_timer(id)?;
            return Ok(self.system.timers.read(id, reg));
        }
        if is_gic(enc) {
            let cx = self.sysreg_cx();
            let gic = self.system.shared.gic.get().filter(|_| cx.el > 0).ok_or(Trap::Undefined)?;
            self.check_gic(enc)?;
            return gic.read(&cx, enc).ok_or(Trap::Undefined);
        }
        match enc {
            SP_EL0 | SP_EL1 | SP_EL2 => self.bank_index(enc).map(|n| self.sp_bank[n]),
            // Access traps of these two are the translator's, with the FP mode check.
            FPCR => Ok(u64::from(self.fpcr)),
            FPSR => Ok(u64::from(self.fpsr)),
            RNDR | RNDRRS if self.features.rndr() => {
                self.set_nzcv(0);
                Ok(self.random())
            }
            e if e == encoding(3, 3, 14, 0, 1)
                || (e == encoding(3, 3, 14, 0, 5) && self.features.ecv()) =>
            {
                self.check_counter(true)?;
                Ok(self.system.timers.count())
            }
            e if e == encoding(3, 3, 14, 0, 2)
                || (e == encoding(3, 3, 14, 0, 6) && self.features.ecv()) =>
            {
                self.check_counter(false)?;
                Ok(self.system.timers.count().wrapping_sub(self.counter_offset()))
            }
            CNTVOFF => Ok(self.system.timers.offset()),
            ISR => Ok(self.pending_isr()),
            CLAIMSET => self.check_debug(enc).map(|()| 0xff),
            // AA64; a warm reset cannot be asked for.
            e if e == self.rmr() => Ok(1),
            e if e == RVBAR[usize::from(self.highest_el().clamp(1, 3)) - 1] => {
                Ok(self.features.rvbar.unwrap_or(0))
            }
            e if e == encoding(2, 0, 1, 0, 0)
                || e == encoding(2, 0, 7, 14, 6)
                || e == encoding(2, 3, 0, 5, 0)
                || e == encoding(2, 3, 0, 1, 0) =>
            {
                Ok(0)
            }
            _ => Err(Trap::Undefined),
        }
    }

    /// RMR_ELx of the highest exception level.
    fn rmr(&self) -> u16 {
        RMR[usize::from(self.highest_el().clamp(1, 3)) - 1]
    }

    /// Which banked SP an SP_ELx access names; the selected one is undefined to access.
    fn bank_index(&self, enc: u16) -> Result<usize, Trap> {
        let n = match enc {
            SP_EL0 => 0,
            SP_EL1 => 1,
            _ => 2,
        };
        if n == 0 && !self.pstate.sp_sel { Err(Trap::Undefined) } else { Ok(n) }
    }

    fn random(&mut self) -> u64 {
        let s = &mut self.system.rng;
        *s = s.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*s ^ *s >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn write_pstate(&mut self, enc: u16, v: u64) -> Option<Result<Changed, Trap>> {
        let none = Changed::default();
        let f = &self.features;
        let el = self.pstate.el;
        let ok = match enc {
            SPSEL => el > 0,
            PAN => el > 0 && f.pan(),
            UAO => el > 0 && f.uao(),
            DIT => f.dit(),
            SSBS => f.ssbs(),
            NZCV | DAIF => true,
            _ => return None,
        };
        if !ok {
            return Some(Err(Trap::Undefined));
        }
        match enc {
            SPSEL => self.select_sp(v & 1 != 0),
            PAN => self.pstate.pan = v >> 22 & 1 != 0,
            UAO => self.pstate.uao = v >> 23 & 1 != 0,
            DIT => self.pstate.dit = v >> 24 & 1 != 0,
            SSBS => self.pstate.ssbs = v >> 12 & 1 != 0,
            NZCV => self.set_nzcv((v >> 28) as u32),
            _ => {
                if el == 0 && self.sctlr() >> 9 & 1 == 0 {
                    return Some(Err(Trap::To(self.el0_trap_target())));
                }
                self.pstate.daif = (v >> 6) as u8 & 15;
                return Some(Ok(Changed { irqs: true, mode: self.steps(), ..none }));
            }
        }
        Some(Ok(Changed { mode: matches!(enc, SPSEL | PAN | UAO), ..none }))
    }

    pub(super) fn write_special(&mut self, enc: u16, v: u64) -> Result<Changed, Trap> {
        let none = Changed::default();
        if let Some(r) = self.write_pstate(enc, v) {
            return r;
        }
        if let Some(r) = self.write_pmu(enc, v) {
            return r;
        }
        if let Some((id, reg)) = timer_of(enc) {
            self.check_timer(id)?;
            self.system.timers.write(id, reg, v);
            return Ok(Changed { irqs: true, ..none });
        }
        if is_gic(enc) {
            let cx = self.sysreg_cx();
            let gic = self.system.shared.gic.get().filter(|_| cx.el > 0).ok_or(Trap::Undefined)?;
            self.check_gic(enc)?;
            let ok = gic.write(&cx, enc, v);
            return if ok { Ok(Changed { irqs: true, ..none }) } else { Err(Trap::Undefined) };
        }
        match enc {
            SP_EL0 | SP_EL1 | SP_EL2 => {
                let n = self.bank_index(enc)?;
                self.sp_bank[n] = v;
            }
            // AHP, DN, FZ, RMode, FZ16; trapped exceptions are not built (RES0).
            FPCR => {
                let old = self.fpcr & FPCR_SPECIAL == 0;
                self.fpcr = v as u32 & if self.features.fp16() { 0x07c8_0000 } else { 0x07c0_0000 };
                return Ok(Changed { mode: old != (self.fpcr & FPCR_SPECIAL == 0), ..none });
            }
            FPSR => self.fpsr = v as u32 & 0xf800_009f,
            CNTVOFF => self.system.timers.set_offset(v),
            e if e == self.rmr() => {}
            OSLAR => {
                self.check_debug(enc)?;
                self.set_sys(Reg::OSLSR_EL1, 8 | (v & 1) << 1);
                self.forget_mode();
                return Ok(Changed { mode: true, debug: true, ..none });
            }
            CLAIMSET => {
                self.check_debug(enc)?;
                self.set_sys(Reg::DBGCLAIMCLR_EL1, self.sys(Reg::DBGCLAIMCLR_EL1) | v & 0xff);
            }
            _ => return Err(Trap::Undefined),
        }
        Ok(none)
    }
}
