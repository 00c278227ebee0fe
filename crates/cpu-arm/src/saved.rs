//! Saved state of a CPU: every architectural register as one record.
//!
//! [`CpuState`] is copied out of a stopped [`ArmCpu`] and back. Loading checks what the types cannot,
//! and leaves the CPU as it was on an error; [`ArmCpu::settle_state`] then works out what follows from
//! the registers (timer and PMU alarms, interrupt outputs, mode keys). The engine's translations are
//! void after a load: `AccelVm::with_cpu`, through which CPUs are reached, drops them.
//! Not saved: levels of interrupt inputs (their sources drive them anew), the generator behind RNDR.

use std::sync::atomic::Ordering;

use vmstate::{LoadError, StateReader, StateWriter, VmState};

use crate::pmu::PmuState;
use crate::state::{ArmCpu, Pstate};
use crate::sysreg::REGS;
use crate::sysreg::table::PLAIN;
use crate::system::{Power, TimerState};

/// A named system register.
#[derive(Clone, Debug, PartialEq, Eq, derive::VmState)]
#[vmstate(name = "sysreg", version = 1)]
pub struct SavedRegister {
    /// Encoding (op0, op1, CRn, CRm, op2 as MRS has them).
    pub encoding: u16,
    /// Value.
    pub value: u64,
}

/// The registers of one CPU.
#[derive(Clone, Debug, PartialEq, derive::VmState)]
#[vmstate(name = "arm-cpu", version = 1)]
pub struct CpuState {
    /// X0 to X30 and the SP in use.
    pub x: [u64; 32],
    /// V0 to V31, low and high halves.
    pub v: [[u64; 2]; 32],
    /// PC.
    pub pc: u64,
    /// PSTATE as SPSR_ELx holds it.
    pub pstate: u64,
    /// FPCR.
    pub fpcr: u32,
    /// FPSR.
    pub fpsr: u32,
    /// SP_EL0 to SP_EL3; the one in use is in `x`.
    pub sp: [u64; 4],
    /// System registers that are plain storage.
    #[vmstate(max = 512)]
    pub sysregs: Vec<SavedRegister>,
    /// Generic timers.
    pub timers: TimerState,
    /// Performance monitors.
    pub pmu: PmuState,
    /// In WFI.
    pub waiting: bool,
    /// Event register.
    pub event: bool,
    /// Powered on.
    pub powered: bool,
    /// CPU_ON that was accepted and has not happened: entry point, context id.
    pub start: Option<[u64; 2]>,
    /// Exclusive monitor: address, value; absent when clear.
    pub exclusive: Option<[u64; 3]>,
}

impl ArmCpu {
    /// Copies the registers. The CPU must not be executing.
    #[must_use]
    pub fn save_state(&self) -> CpuState {
        let power = *self.system.shared.power.lock();
        let sysregs =
            PLAIN.iter().map(|p| SavedRegister { encoding: p.enc, value: self.sys(p.reg) });
        let (at, value) = (self.env.excl_addr, self.env.excl_value);
        CpuState {
            x: self.x,
            v: self.v.map(|v| [v as u64, (v >> 64) as u64]),
            pc: self.env.pc(),
            pstate: self.spsr(),
            fpcr: self.fpcr,
            fpsr: self.fpsr,
            sp: self.sp_bank,
            sysregs: sysregs.collect(),
            timers: self.system.timers.save(),
            pmu: self.system.pmu.save(),
            waiting: self.system.waiting,
            event: self.system.shared.event.load(Ordering::Acquire),
            powered: power.on,
            start: power.start.map(|(entry, context)| [entry, context]),
            exclusive: (at != u64::MAX).then_some([at, value[0], value[1]]),
        }
    }

    /// Replaces the registers.
    ///
    /// # Errors
    /// PSTATE names a level that this CPU lacks, or a register is unknown; nothing is changed then.
    pub fn load_state(&mut self, s: &CpuState) -> Result<(), LoadError> {
        let el = (s.pstate >> 2 & 3) as u8;
        let lacks = (el == 2 && !self.features.el2) || (el == 3 && !self.features.el3);
        if lacks || s.pstate & 0x12 != 0 || (el == 0 && s.pstate & 1 != 0) {
            return Err(LoadError::Invalid("PSTATE is not one of this CPU"));
        }
        let mut sys = [0u64; REGS];
        for r in &s.sysregs {
            let known = PLAIN.iter().position(|p| p.enc == r.encoding);
            let cell = known.and_then(|n| sys.get_mut(n));
            *cell.ok_or(LoadError::Invalid("an unknown system register"))? = r.value;
        }
        self.sys = sys;
        self.x = s.x;
        self.v = s.v.map(|[lo, hi]| u128::from(lo) | u128::from(hi) << 64);
        (self.fpcr, self.fpsr, self.sp_bank) = (s.fpcr, s.fpsr, s.sp);
        let bit = |n: u32| s.pstate >> n & 1 != 0;
        self.pstate = Pstate {
            el,
            sp_sel: bit(0),
            daif: (s.pstate >> 6) as u8 & 15,
            ss: bit(21),
            il: bit(20),
            pan: bit(22),
            uao: bit(23),
            dit: bit(24),
            ssbs: bit(12),
            tco: bit(25),
        };
        self.set_nzcv((s.pstate >> 28) as u32 & 15);
        self.btype = (s.pstate >> 10) as u32 & 3;
        self.env.set_pc(s.pc);
        self.env.clear_exclusive();
        if let Some([at, lo, hi]) = s.exclusive {
            (self.env.excl_addr, self.env.excl_value) = (at, [lo, hi]);
        }
        self.system.waiting = s.waiting;
        let shared = &self.system.shared;
        shared.event.store(s.event, Ordering::Release);
        *shared.power.lock() = Power { on: s.powered, start: s.start.map(|[e, c]| (e, c)) };
        shared.reset.store(false, Ordering::Release);
        // Interrupt controllers were loaded too and may know other levels than these lines had.
        self.system.timers.outs.iter().chain([&self.system.pmu.out]).for_each(|out| out.forget());
        self.system.timers.load(&s.timers);
        self.system.pmu.load(&s.pmu);
        self.settle_state();
        Ok(())
    }

    /// Works out what follows from the registers.
    pub fn settle_state(&mut self) {
        self.forget_mode();
        self.system.shared.attention.store(true, Ordering::Release);
        self.system.pmu_live = self.system.pmu.in_use();
        self.update_pmu();
    }

    /// Writes the record.
    pub fn write_state(&self, w: &mut StateWriter) {
        let state = self.save_state();
        w.record(CpuState::schema(), |w| state.save(w));
    }

    /// Reads a record that [`ArmCpu::write_state`] wrote.
    ///
    /// # Errors
    /// The stream is broken or not of such a CPU; nothing is changed then.
    pub fn read_state(&mut self, r: &mut StateReader<'_>) -> Result<(), LoadError> {
        let mut state = None;
        r.record(CpuState::schema(), |r, version| {
            state = Some(CpuState::load(r, version)?);
            Ok(())
        })?;
        match state {
            Some(s) => self.load_state(&s),
            None => Err(LoadError::Truncated),
        }
    }
}
