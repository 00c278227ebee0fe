//! What `-d int` and `-d cpu` say about an Arm CPU.
//!
//! Lines and numbers are those that QEMU 10 prints for AArch64 guests (observed by running it): the
//! number and name of the exception, levels, ESR as class and whole, FAR for aborts, SPSR, ELR, and
//! where execution goes on (PSTATE without the condition flags). `-d mmu` prints nothing for these CPUs there, nor here.
//!
//! Not modelled: the stale ESR that QEMU prints for interrupts (0 here), SVCR and vector lengths.

use crate::exception::{Vector, ec};
use crate::state::ArmCpu;
use crate::sysreg::Reg;

/// QEMU's number and name of an exception.
fn name(vector: Vector, class: u64) -> (u32, &'static str) {
    match (vector, class) {
        (Vector::Irq, _) => (5, "IRQ"),
        (Vector::Fiq, _) => (6, "FIQ"),
        (_, ec::SVC) => (2, "SVC"),
        (_, 0x20..=0x22 | 0x30 | 0x31) => (3, "Prefetch Abort"),
        (_, 0x24..=0x26 | 0x34 | 0x35) => (4, "Data Abort"),
        (_, ec::BRK) => (7, "Breakpoint"),
        (_, ec::HVC) => (11, "Hypervisor Call"),
        (_, ec::SMC) => (13, "Secure Monitor Call"),
        _ => (1, "Undefined Instruction"),
    }
}

fn begin(cpu: &ArmCpu, (number, name): (u32, &str), from: u8, to: u8, esr: u64) {
    let index = cpu.system.index;
    trace::write(format_args!(
        "Taking exception {number} [{name}] on CPU {index}\n...from EL{from} to EL{to}\n\
         ...with ESR {:#x}/{esr:#x}\n",
        esr >> 26
    ));
}

/// An exception was taken; `saved` = SPSR and ELR.
pub(crate) fn taken(
    cpu: &ArmCpu,
    (from, to): (u8, u8),
    vector: Vector,
    esr: u64,
    saved: (u64, u64),
) {
    if !trace::enabled(trace::Mask::INT) {
        return;
    }
    let kind = name(vector, esr >> 26);
    begin(cpu, kind, from, to, esr);
    if matches!(kind.0, 3 | 4) {
        let far = match to {
            3 => Reg::FAR_EL3,
            2 => Reg::FAR_EL2,
            _ => Reg::FAR_EL1,
        };
        trace::write(format_args!("...with FAR {:#x}\n", cpu.sys(far)));
    }
    trace::write(format_args!(
        "...with SPSR {:#x}\n...with ELR {:#x}\n...to EL{to} PC {:#x} PSTATE {:#x}\n",
        saved.0,
        saved.1,
        cpu.env.pc(),
        cpu.spsr() & !(0xf << 28)
    ));
}

/// An exception return was made.
pub(crate) fn returned((from, to): (u8, u8), illegal: bool, pc: u64) {
    if !trace::enabled(trace::Mask::INT) {
        return;
    }
    if illegal {
        trace::write(format_args!(
            "Illegal exception return at EL{from}: resuming execution at {pc:#x}\n"
        ));
    } else {
        trace::write(format_args!(
            "Exception return from AArch64 EL{from} to AArch64 EL{to} PC {pc:#x}\n"
        ));
    }
}

/// HVC or SMC reached the built-in firmware.
pub(crate) fn firmware_call(cpu: &ArmCpu) {
    if !trace::enabled(trace::Mask::INT) {
        return;
    }
    let hvc = cpu.system.psci == accel::FirmwareCalls::Hvc;
    let (class, to) = if hvc { (ec::HVC, 2) } else { (ec::SMC, 3) };
    let esr = class << 26 | 1 << 25;
    begin(cpu, name(Vector::Sync, class), cpu.pstate.el, to, esr);
    trace::write(format_args!("...handled as PSCI call\n"));
}

/// Registers as `-d cpu` shows them.
pub(crate) fn registers(cpu: &ArmCpu, fpu: bool) -> String {
    let mut text = cpu.register_text();
    if !fpu {
        let line = text.find("PSTATE=").unwrap_or(0);
        let end = ["    FPU disabled", "     FPCR="].iter().find_map(|s| text[line..].find(s));
        if let Some(end) = end {
            text.truncate(line + end);
            text.push('\n');
        }
    }
    text
}
