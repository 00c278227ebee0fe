//! [`ArmCpu`] as the engine drives it, and its construction and reset.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jit_ir::cpu::TlbTag;
use jit_ir::{AccessKind, CodeMode, DebugPoints, JitCpu, JitEnv, MemFault, PageMap, PhysMem, Wake};

use crate::features::{Features, Impdef};
use crate::state::{ArmCpu, FPCR_SPECIAL, ModeKey, Pstate};
use crate::sysreg::{REGS, Reg};
use crate::system::{Kick, Power, System};

impl ArmCpu {
    /// A CPU in its reset state.
    #[must_use]
    pub fn new(features: Arc<Features>, system: System) -> Box<Self> {
        let mut cpu = Box::new(Self {
            env: JitEnv::default(),
            x: [0; 32],
            v: [0; 32],
            flags: 0,
            btype: 0,
            fpcr: 0,
            fpsr: 0,
            sys: [0; REGS],
            pstate: Pstate {
                el: 1,
                sp_sel: true,
                daif: 15,
                ss: false,
                il: false,
                pan: false,
                uao: false,
                dit: false,
                ssbs: false,
                tco: false,
            },
            sp_bank: [0; 4],
            features,
            system,
        });
        cpu.reset();
        cpu
    }

    /// The highest implemented exception level.
    #[must_use]
    pub fn highest_el(&self) -> u8 {
        if self.features.el3 {
            3
        } else if self.features.el2 {
            2
        } else {
            1
        }
    }

    /// Architectural cold reset into `el` at `pc`.
    fn cold(&mut self, el: u8, pc: u64, x0: u64) {
        self.x = [0; 32];
        self.v = [0; 32];
        self.sp_bank = [0; 4];
        (self.flags, self.btype, self.fpcr, self.fpsr) = (0, 0, 0, 0);
        self.sys = [0; REGS];
        for r in [Reg::SCTLR_EL1, Reg::SCTLR_EL3] {
            self.set_sys(r, self.features.sctlr);
        }
        self.set_sys(Reg::CBAR_EL1, self.features.cbar);
        if self.features.impdef == Impdef::NeoverseN1 {
            self.set_sys(Reg::CPUCFR_EL1, 4);
            self.set_sys(Reg::N1_CPUECTLR_EL1, 0x9_6156_3010);
        }
        let last = self.system.cluster.cpus.len().saturating_sub(1).min(3) as u64;
        self.set_sys(Reg::L2CTLR_EL1, last << 24);
        self.set_sys(Reg::OSLSR_EL1, 0xa); // implemented, locked
        self.set_sys(Reg::CNTFRQ_EL0, self.features.cntfrq);
        self.set_sys(Reg::VPIDR_EL2, self.features.id.midr);
        self.set_sys(Reg::VMPIDR_EL2, self.system.mpidr);
        // The counters are readable below the reset level, as boot code expects of firmware.
        self.set_sys(Reg::CNTHCTL_EL2, 3);
        if self.features.el2 {
            self.set_sys(Reg::HCR_EL2, 1 << 31);
        }
        if self.features.el3 {
            self.set_sys(Reg::SCR_EL3, 0x430); // RW: there is no AArch32 below
        }
        if el < 3 && self.features.el3 {
            // What EL3 firmware would have set up for a kernel that is started directly.
            let pac = if self.features.pauth() > 0 { 3 << 16 } else { 0 };
            self.set_sys(Reg::SCR_EL3, 0x5b1 & !0x180 | 1 << 8 | pac);
        }
        if el < 2 && self.features.el2 && self.features.pauth() > 0 {
            let hcr = self.sys(Reg::HCR_EL2) | 3 << 40;
            self.set_sys(Reg::HCR_EL2, hcr);
        }
        let (dit, ss) = (false, false);
        self.pstate = Pstate {
            el: el.min(self.highest_el()),
            sp_sel: true,
            daif: 15,
            ss,
            il: false,
            pan: false,
            uao: false,
            dit,
            ssbs: false,
            tco: false,
        };
        self.x[0] = x0;
        self.forget_mode();
        self.env.set_pc(pc);
        self.env.clear_exclusive();
        self.system.waiting = false;
        self.system.timers.reset();
        self.system.pmu.reset();
        self.system.pmu_live = false;
        self.set_sys(Reg::MDCR_EL2, if self.features.pmu() { 6 } else { 0 });
    }

    /// The exception level that a non-secure guest starts in by PSCI CPU_ON.
    fn start_el(&self) -> u8 {
        if self.features.el2 { 2 } else { 1 }
    }

    fn fp_trap_target(&self) -> u8 {
        let el = self.pstate.el;
        if !self.e2h_tge() && el <= 1 {
            match self.sys(Reg::CPACR_EL1) >> 20 & 3 {
                3 => {}
                1 if el == 1 => {}
                _ => return self.el0_trap_target().max(el),
            }
        }
        if el <= 2 && self.el2_enabled() {
            let cptr = self.sys(Reg::CPTR_EL2);
            let trapped = if self.e2h() {
                match cptr >> 20 & 3 {
                    3 => false,
                    1 => el == 0 && self.e2h_tge(),
                    _ => true,
                }
            } else {
                cptr >> 10 & 1 != 0
            };
            if trapped {
                return 2;
            }
        }
        if self.features.el3 && self.sys(Reg::CPTR_EL3) >> 10 & 1 != 0 { 3 } else { 0 }
    }

    /// Drops the cached mode keys: a register that they depend on changed.
    pub fn forget_mode(&mut self) {
        self.system.mode_cache = [None; 4];
    }

    /// Software step is enabled here.
    #[must_use]
    pub fn steps(&self) -> bool {
        self.sys(Reg::MDSCR_EL1) & 1 != 0 && self.debug_open()
    }

    /// What of the mode key follows from system registers and the exception level.
    fn system_mode(&self) -> ModeKey {
        let (el, sctlr) = (self.pstate.el, self.sctlr());
        let bit = |n: u32| sctlr >> n & 1 != 0;
        let (tbi0, tbi1) = self.branch_tbi();
        let at_el0 = el == 0;
        let hcr = self.hcr();
        let el1_traps = hcr & (1 << 26 | 1 << 30) != 0;
        let (pac, pac_bottom) = self.inline_pac();
        ModeKey::default()
            .with_el(el)
            .with_fp_trap(self.fp_trap_target())
            .with_align_check(bit(1))
            .with_sp_check(if at_el0 { bit(4) } else { bit(3) })
            .with_big_endian(if at_el0 { bit(24) } else { bit(25) })
            .with_bt(if at_el0 { bit(35) } else { bit(36) })
            .with_tbi0(tbi0)
            .with_tbi1(tbi1)
            .with_zva_ok(self.zva_trap().is_none() && self.features.id.dczid == 4)
            .with_e2h(self.e2h())
            .with_el1_traps(el1_traps)
            .with_keys(self.features.pauth() > 0 && self.key_trap().is_none())
            .with_pac_a(pac[0] as u8)
            .with_pac_b(pac[1] as u8)
            .with_pac_bottom(pac_bottom)
    }

    /// The mode key for a page with this code attribute.
    #[must_use]
    pub fn mode_key(&mut self, code_attr: u8) -> ModeKey {
        let n = usize::from(self.pstate.el & 3);
        let base = match self.system.mode_cache[n] {
            Some(key) => key,
            None => {
                let key = self.system_mode();
                self.system.mode_cache[n] = Some(key);
                key
            }
        };
        base.with_mmu(self.data_mmu())
            .with_unpriv_mmu(self.unprivileged_mmu())
            .with_guarded(code_attr & 1 != 0)
            .with_illegal(self.pstate.il)
            .with_step(self.steps())
            .with_sp_sel(self.pstate.sp_sel)
            .with_fp_plain(self.fpcr & FPCR_SPECIAL == 0)
    }

    /// Reset, power and PSCI requests of other threads; false = the CPU is off.
    fn attend(&mut self) -> bool {
        let shared = Arc::clone(&self.system.shared);
        shared.attention.store(false, Ordering::SeqCst);
        if shared.reset.swap(false, Ordering::AcqRel) {
            // A CPU that came up faster may have turned this one on since the reset was asked
            // for; the handle set the power state then, so keep what is there.
            let power = *shared.power.lock();
            self.reset();
            *shared.power.lock() = power;
        }
        let mut power = shared.power.lock();
        if let Some((entry, context)) = power.start.take() {
            power.on = true;
            drop(power);
            let el = self.start_el();
            self.cold(el, entry, context);
            return true;
        }
        if !power.on {
            // Stays off until someone asks again.
            shared.attention.store(true, Ordering::SeqCst);
        }
        power.on
    }
}

impl JitCpu for ArmCpu {
    fn save(&mut self, w: &mut vmstate::StateWriter) {
        self.write_state(w);
    }

    fn load(&mut self, r: &mut vmstate::StateReader<'_>) -> Result<(), vmstate::LoadError> {
        self.read_state(r)
    }

    fn env(&mut self) -> &mut JitEnv {
        &mut self.env
    }

    fn state_ptr(&mut self) -> *mut u8 {
        std::ptr::from_mut(self).cast()
    }

    fn code_mode(&mut self, code_attr: u8) -> CodeMode {
        CodeMode { key: self.mode_key(code_attr).0, mmu: self.data_mmu() }
    }

    fn tlb_tag(&mut self, mmu: u8) -> TlbTag {
        self.tag_of(mmu)
    }

    fn translate(
        &mut self,
        va: u64,
        kind: AccessKind,
        mmu: u8,
        mem: &mut dyn PhysMem,
    ) -> Result<PageMap, MemFault> {
        self.translate_page(va, kind, mmu, mem)
    }

    fn alignment_fault(&mut self, va: u64, kind: AccessKind) -> MemFault {
        Self::alignment(va, kind)
    }

    fn bus_fault(&mut self, va: u64, _: u64, kind: AccessKind) -> MemFault {
        Self::external(va, kind)
    }

    fn raise(&mut self, fault: MemFault) {
        if fault.code != MemFault::DEBUG_STOP {
            self.take_abort(fault);
        }
    }

    fn poll(&mut self) -> Wake {
        if self.system.shared.attention.load(Ordering::Acquire) && !self.attend() {
            return Wake::Halt;
        }
        if self.system.waiting && !self.wakes() {
            return Wake::Halt;
        }
        self.system.waiting = false;
        self.take_interrupt();
        if self.env.pc() & 3 != 0 {
            self.take_pc_alignment();
        }
        if self.pstate.il {
            // The translator raises it: every block of this mode starts with the exception.
        } else if self.steps() && !self.pstate.ss {
            let target = self.debug_target();
            let class = crate::exception::ec::STEP_LOWER + u64::from(target == self.pstate.el);
            self.take_sync(target, class, 0x22);
        }
        Wake::Run
    }

    fn goes_on(&mut self) -> bool {
        let shared = &self.system.shared;
        let quiet = !shared.attention.load(Ordering::Acquire) && !self.system.waiting;
        quiet && !self.interrupt_ready() && !self.steps() && self.env.pc() & 3 == 0
    }

    fn set_kick(&mut self, kick: Kick) {
        self.system.shared.set_kick(kick);
    }

    fn reset(&mut self) {
        let boot = *self.system.shared.boot.lock();
        let el = if boot.as_kernel { self.start_el() } else { self.highest_el() };
        let pc = if boot.as_kernel { boot.pc } else { self.features.rvbar.unwrap_or(boot.pc) };
        self.cold(el, pc, boot.arg);
        *self.system.shared.power.lock() = Power { on: !boot.powered_off, start: None };
        self.system.shared.attention.store(true, Ordering::Release);
    }

    fn debug_points(&mut self) -> DebugPoints {
        self.covered()
    }

    fn breakpoint(&mut self) -> bool {
        self.take_breakpoint()
    }

    fn watchpoint(&mut self, va: u64, len: u64, kind: AccessKind) -> Option<MemFault> {
        self.watch_hit(va, len, kind)
    }

    fn runnable(&mut self) -> bool {
        self.system.shared.power.lock().on
    }

    fn catch_up(&mut self) {
        if self.system.shared.attention.load(Ordering::Acquire) {
            self.attend();
        }
    }

    fn debugger_registers(&mut self) -> cpu::debug::RegisterFile {
        ArmCpu::debugger_registers(self)
    }

    fn debugger_read(&mut self, number: u32) -> Option<Vec<u8>> {
        ArmCpu::debugger_read(self, number)
    }

    fn debugger_write(&mut self, number: u32, bytes: &[u8]) -> usize {
        ArmCpu::debugger_write(self, number, bytes)
    }

    fn register_text(&mut self) -> String {
        ArmCpu::register_text(self)
    }

    fn log_text(&mut self, fpu: bool) -> String {
        crate::log::registers(self, fpu)
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
