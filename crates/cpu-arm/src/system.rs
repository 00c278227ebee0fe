//! What a CPU shares with the rest of the machine: interrupt lines, power state (PSCI), timers,
//! events.
//!
//! PSCI: DEN 0022 (version 1.1 as QEMU's built-in one answers). Generic timer: Arm ARM D12.
//! WFE and WFxT yield the host thread instead of sleeping: spinning guests make progress, idle
//! guests use WFI.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use accel::{Boot, FirmwareCalls};
use cpu::SystemRegisters;
use device::{Cause, IrqOut, IrqSink, Request, RunControl};
use evloop::{Clock, Timer};
use jit_ir::HelperCx;
use parking_lot::Mutex;

use crate::pmu::Pmu;
use crate::state::{ArmCpu, ModeKey};

/// A callback that makes a vCPU leave translated code.
pub type Kick = Arc<dyn Fn() + Send + Sync>;

/// Whether a CPU runs, and where it shall start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// Powered on.
    pub on: bool,
    /// CPU_ON was accepted: entry point and context id.
    pub start: Option<(u64, u64)>,
}

/// The part of a CPU that other threads reach.
#[derive(Default)]
pub struct CpuShared {
    /// Levels of the interrupt inputs, one bit each.
    pub lines: AtomicU32,
    /// Event register.
    pub event: AtomicBool,
    /// Power state or `reset` changed, or the CPU is off: `poll` must look closer.
    pub attention: AtomicBool,
    /// Power state.
    pub power: Mutex<Power>,
    /// A machine reset is due before the next instruction.
    pub reset: AtomicBool,
    /// Where the CPU starts.
    pub boot: Mutex<Boot>,
    /// GICv3 CPU interface, if the machine has one.
    pub gic: OnceLock<Arc<dyn SystemRegisters>>,
    kick: Mutex<Option<Kick>>,
}

impl CpuShared {
    /// Wakes the vCPU.
    pub fn kick(&self) {
        let kick = self.kick.lock().clone();
        if let Some(kick) = kick {
            kick();
        }
    }

    /// Powers the CPU off.
    pub fn turn_off(&self) {
        self.power.lock().on = false;
        self.attention.store(true, Ordering::Release);
    }

    /// Sets the wake-up.
    pub fn set_kick(&self, kick: Kick) {
        *self.kick.lock() = Some(kick);
    }
}

impl IrqSink for CpuShared {
    fn set(&self, input: u32, level: bool) {
        let bit = 1 << (input & 31);
        let old = if level {
            self.lines.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.lines.fetch_and(!bit, Ordering::AcqRel)
        };
        if level && old & bit == 0 {
            self.kick();
        }
    }
}

/// All CPUs of the machine, for PSCI and events.
pub struct Cluster {
    /// MPIDR affinity and shared part of each CPU.
    pub cpus: Vec<(u64, Arc<CpuShared>)>,
    /// Power-off and reset requests.
    pub run: Arc<dyn RunControl>,
}

/// Timers of one CPU in register order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerId {
    /// EL1 physical (CNTP).
    Phys,
    /// Virtual (CNTV).
    Virt,
    /// EL2 physical (CNTHP).
    Hyp,
    /// EL2 virtual (CNTHV).
    HypVirt,
    /// Secure physical (CNTPS).
    Secure,
}

#[derive(Default)]
struct TimerRegs {
    ctl: [u32; 5],
    cval: [u64; 5],
    cntvoff: u64,
}

/// The registers of the timers as they are saved, in [`TimerId`] order. The count is the guest clock's.
#[derive(Clone, Debug, Default, PartialEq, Eq, derive::VmState)]
#[vmstate(name = "arm-timers", version = 1)]
pub struct TimerState {
    /// CNTx_CTL without ISTATUS.
    pub ctl: [u32; 5],
    /// CNTx_CVAL.
    pub cval: [u64; 5],
    /// CNTVOFF_EL2.
    pub cntvoff: u64,
}

/// The generic timers of one CPU.
pub struct Timers {
    clock: Clock,
    freq: u64,
    regs: Mutex<TimerRegs>,
    alarms: Vec<Timer>,
    /// Interrupt outputs in [`TimerId`] order: cntp, cntv, cnthp, cnthv, cntps.
    pub outs: [Arc<IrqOut>; 5],
}

/// Ticks of `freq` Hz in `ns` nanoseconds, modulo 2^64. Guests ask for the time so often that a division of
/// 128 bits shows in profiles.
fn ticks(ns: u64, freq: u64) -> u64 {
    let (seconds, rest) = (ns / NS, ns % NS);
    let part = match rest.checked_mul(freq) {
        Some(n) => n / NS,
        None => (u128::from(rest) * u128::from(freq) / u128::from(NS)) as u64,
    };
    seconds.wrapping_mul(freq).wrapping_add(part)
}

const NS: u64 = 1_000_000_000;

/// Names of [`Timers::outs`].
pub const TIMER_NAMES: [&str; 5] = ["cntp", "cntv", "cnthp", "cnthv", "cntps"];

impl Timers {
    /// Timers that count `clock` at `freq` Hz.
    #[must_use]
    pub fn new(clock: &Clock, freq: u64) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let alarms = (0..5)
                .map(|n| {
                    let me = me.clone();
                    clock.timer(move || {
                        if let Some(t) = me.upgrade() {
                            t.update(&t.regs.lock(), n);
                        }
                    })
                })
                .collect();
            let outs = std::array::from_fn(|_| IrqOut::new());
            Self { clock: clock.clone(), freq, regs: Mutex::default(), alarms, outs }
        })
    }

    /// CNTPCT.
    #[must_use]
    pub fn count(&self) -> u64 {
        ticks(self.clock.now_ns(), self.freq)
    }

    /// CNTVOFF.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.regs.lock().cntvoff
    }

    /// Sets CNTVOFF.
    pub fn set_offset(&self, v: u64) {
        let mut r = self.regs.lock();
        r.cntvoff = v;
        self.update(&r, TimerId::Virt as usize);
    }

    fn offset_of(r: &TimerRegs, n: usize) -> u64 {
        if n == TimerId::Virt as usize { r.cntvoff } else { 0 }
    }

    fn fired(&self, r: &TimerRegs, n: usize) -> bool {
        self.count().wrapping_sub(Self::offset_of(r, n)) >= r.cval[n]
    }

    /// Drives the interrupt of timer `n` and plans the next look.
    fn update(&self, r: &TimerRegs, n: usize) {
        let enabled = r.ctl[n] & 1 != 0;
        let fired = enabled && self.fired(r, n);
        self.outs[n].set(fired && r.ctl[n] & 2 == 0);
        if !enabled || fired {
            self.alarms[n].cancel();
            return;
        }
        let due = u128::from(r.cval[n]) + u128::from(Self::offset_of(r, n));
        let ns = (due * 1_000_000_000).div_ceil(u128::from(self.freq));
        match u64::try_from(ns) {
            Ok(at) if at < i64::MAX as u64 => self.alarms[n].arm_at(at),
            _ => self.alarms[n].cancel(),
        }
    }

    /// Reads TVAL (0), CTL (1), CVAL (2).
    #[must_use]
    pub fn read(&self, id: TimerId, reg: u16) -> u64 {
        let (r, n) = (self.regs.lock(), id as usize);
        match reg {
            0 => {
                let now = self.count().wrapping_sub(Self::offset_of(&r, n));
                u64::from(r.cval[n].wrapping_sub(now) as u32)
            }
            1 => {
                let istatus = r.ctl[n] & 1 != 0 && self.fired(&r, n);
                u64::from(r.ctl[n] & 3 | u32::from(istatus) << 2)
            }
            _ => r.cval[n],
        }
    }

    /// Writes TVAL (0), CTL (1), CVAL (2).
    pub fn write(&self, id: TimerId, reg: u16, v: u64) {
        let mut r = self.regs.lock();
        let n = id as usize;
        match reg {
            0 => {
                let now = self.count().wrapping_sub(Self::offset_of(&r, n));
                r.cval[n] = now.wrapping_add(i64::from(v as u32 as i32) as u64);
            }
            1 => r.ctl[n] = v as u32 & 3,
            _ => r.cval[n] = v,
        }
        self.update(&r, n);
    }

    /// Cold state.
    pub fn reset(&self) {
        self.load(&TimerState::default());
    }

    /// The registers.
    #[must_use]
    pub fn save(&self) -> TimerState {
        let r = self.regs.lock();
        TimerState { ctl: r.ctl, cval: r.cval, cntvoff: r.cntvoff }
    }

    /// Replaces the registers and drives outputs and alarms anew.
    pub fn load(&self, s: &TimerState) {
        let mut r = self.regs.lock();
        *r = TimerRegs { ctl: s.ctl.map(|c| c & 3), cval: s.cval, cntvoff: s.cntvoff };
        for n in 0..5 {
            self.update(&r, n);
        }
    }
}

/// The parts of [`ArmCpu`] that translated code never touches.
pub struct System {
    /// CPU index in the machine.
    pub index: usize,
    /// MPIDR_EL1.
    pub mpidr: u64,
    /// What other threads reach.
    pub shared: Arc<CpuShared>,
    /// All CPUs.
    pub cluster: Arc<Cluster>,
    /// Generic timers.
    pub timers: Arc<Timers>,
    /// Performance monitors.
    pub pmu: Arc<Pmu>,
    /// A counter is enabled: changes of the exception level matter to the PMU.
    pub pmu_live: bool,
    /// PSCI conduit.
    pub psci: FirmwareCalls,
    /// Waiting for an interrupt (WFI).
    pub waiting: bool,
    /// Mode keys per exception level without what PSTATE adds; `None` = to be computed.
    pub mode_cache: [Option<ModeKey>; 4],
    /// State of the random number generator behind RNDR.
    pub rng: u64,
}

const PSCI_SUCCESS: u64 = 0;
const PSCI_NOT_SUPPORTED: u64 = -1i64 as u64;
const PSCI_INVALID_PARAMETERS: u64 = -2i64 as u64;
const PSCI_ALREADY_ON: u64 = -4i64 as u64;
const PSCI_ON_PENDING: u64 = -5i64 as u64;
const AFFINITY: u64 = 0xff_00ff_ffff;

impl ArmCpu {
    /// Executes the PSCI call in X0… and leaves its result in X0. PC is already past the call.
    pub fn psci_call(&mut self) {
        crate::log::firmware_call(self);
        let (f, a1, a2, a3) = (self.x[0] as u32, self.x[1], self.x[2], self.x[3]);
        self.x[0] = match f {
            0x8400_0000 => 0x0001_0001,
            0x8400_0001 | 0xc400_0001 => {
                self.system.waiting = true;
                self.env.exit_after_helper();
                PSCI_SUCCESS
            }
            0x8400_0002 => {
                self.system.shared.turn_off();
                self.env.exit_after_helper();
                PSCI_SUCCESS
            }
            0x8400_0003 => self.cpu_on(a1 as u32 as u64, a2 as u32 as u64, a3 as u32 as u64),
            0xc400_0003 => self.cpu_on(a1, a2, a3),
            0x8400_0004 => self.affinity_info(a1 as u32 as u64),
            0xc400_0004 => self.affinity_info(a1),
            0x8400_0006 => 2,
            0x8400_0008 => self.request(Request::Shutdown(Cause::GuestShutdown)),
            0x8400_0009 => self.request(Request::Reset(Cause::GuestReset)),
            0x8400_000a => match a1 as u32 {
                0x8400_0000..=0x8400_0004
                | 0xc400_0001
                | 0xc400_0003
                | 0xc400_0004
                | 0x8400_0006
                | 0x8400_0008..=0x8400_000a => PSCI_SUCCESS,
                _ => PSCI_NOT_SUPPORTED,
            },
            _ => PSCI_NOT_SUPPORTED,
        };
    }

    fn request(&mut self, what: Request) -> u64 {
        self.system.cluster.run.request(what);
        // The call does not return: hold the CPU until the machine stops or resets.
        self.system.shared.turn_off();
        self.env.exit_after_helper();
        PSCI_SUCCESS
    }

    fn cpu_on(&mut self, target: u64, entry: u64, context: u64) -> u64 {
        let found = self.system.cluster.cpus.iter().find(|(m, _)| m & AFFINITY == target);
        let Some((_, shared)) = found else { return PSCI_INVALID_PARAMETERS };
        let mut power = shared.power.lock();
        if power.on {
            return PSCI_ALREADY_ON;
        }
        if power.start.is_some() {
            return PSCI_ON_PENDING;
        }
        power.start = Some((entry, context));
        shared.attention.store(true, Ordering::Release);
        drop(power);
        shared.kick();
        PSCI_SUCCESS
    }

    fn affinity_info(&self, target: u64) -> u64 {
        let found = self.system.cluster.cpus.iter().find(|(m, _)| m & AFFINITY == target);
        let Some((_, shared)) = found else { return PSCI_INVALID_PARAMETERS };
        let power = *shared.power.lock();
        if power.on {
            0
        } else {
            u64::from(power.start.is_none()) + u64::from(power.start.is_some()) * 2
        }
    }
}

/// WFI, WFE, WFIT, WFET (immediate 0 to 3).
pub fn wait(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let cpu = &mut *cx.cpu;
    if let Some(target) = cpu.wait_trap(args[3]) {
        cpu.trap_wfx(target, args[3]);
        return 0;
    }
    let next = cpu.env.pc().wrapping_add(4);
    cpu.env.set_pc(next);
    if args[3] == 0 {
        cpu.system.waiting = true;
    } else if !cpu.system.shared.event.swap(false, Ordering::AcqRel) {
        std::thread::yield_now();
    }
    cpu.env.exit_after_helper();
    0
}

/// SEV (0) and SEVL (1).
pub fn event(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    if args[3] == 1 {
        cx.cpu.system.shared.event.store(true, Ordering::Release);
    } else {
        for (_, shared) in &cx.cpu.system.cluster.cpus {
            shared.event.store(true, Ordering::Release);
        }
    }
    0
}

/// YIELD: lets another thread run.
pub fn yield_(cx: &mut HelperCx<'_, ArmCpu>, _: [u64; 4]) -> u64 {
    std::thread::yield_now();
    let next = cx.cpu.env.pc().wrapping_add(4);
    cx.cpu.env.set_pc(next);
    cx.cpu.env.exit_after_helper();
    0
}

/// DSB: completes this CPU's broadcast maintenance.
pub fn dsb(cx: &mut HelperCx<'_, ArmCpu>, _: [u64; 4]) -> u64 {
    std::sync::atomic::fence(Ordering::SeqCst);
    cx.services.sync(cx.cpu);
    0
}

const fn crc_table(poly: u32) -> [u32; 256] {
    let mut t = [0u32; 256];
    let mut n = 0;
    while n < 256 {
        let mut c = n as u32;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 != 0 { c >> 1 ^ poly } else { c >> 1 };
            k += 1;
        }
        t[n] = c;
        n += 1;
    }
    t
}
static CRC32: [u32; 256] = crc_table(0xedb8_8320);
static CRC32C: [u32; 256] = crc_table(0x82f6_3b78);

/// CRC32 and CRC32C: accumulator, data, log2(bytes) | castagnoli << 4.
pub fn crc32(_: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let table = if args[3] & 16 != 0 { &CRC32C } else { &CRC32 };
    let bytes = 1 << (args[3] & 3);
    let crc = args[1]
        .to_le_bytes()
        .iter()
        .take(bytes)
        .fold(args[0] as u32, |c, b| table[usize::from(c as u8 ^ b)] ^ c >> 8);
    u64::from(crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_exact_however_long_it_was() {
        let exact =
            |ns: u64, freq: u64| (u128::from(ns) * u128::from(freq) / u128::from(NS)) as u64;
        for freq in [1, 1_000_000, 62_500_000, 1_000_000_000, 1_000_000_007, 1 << 40, u64::MAX] {
            for ns in [0, 1, 15, 16, NS - 1, NS, NS * 7 + 999_999_999, u64::MAX / 3, u64::MAX] {
                assert_eq!(ticks(ns, freq), exact(ns, freq), "{ns} {freq}");
            }
        }
    }
}
