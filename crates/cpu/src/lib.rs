//! What boards and devices see of a CPU, whatever its architecture.
//!
//! [`SystemRegisters`] lets a device (an interrupt controller) answer a CPU's system-register
//! accesses. [`RunState`] is what PSCI-like firmware interfaces and the run loop share.
//!
//! Not here: execution (`accel`, `accel-jit`), guest architectures (`cpu-*`).

pub mod debug;

/// The state of the accessing CPU that decides how a register behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysRegCx {
    /// CPU index in the machine.
    pub cpu: usize,
    /// Current exception level (0..=3).
    pub el: u8,
    /// Secure state.
    pub secure: bool,
    /// HCR_EL2 as it takes effect (0 when EL2 is absent or disabled).
    pub hcr_el2: u64,
    /// SCR_EL3 (0 when EL3 is absent).
    pub scr_el3: u64,
    /// The CPU implements EL2.
    pub has_el2: bool,
    /// The CPU implements EL3.
    pub has_el3: bool,
}

/// System registers that a device implements for CPUs (Arm GICv3 CPU interface).
///
/// Encodings are `op0 << 14 | op1 << 11 | CRn << 7 | CRm << 3 | op2`.
pub trait SystemRegisters: Send + Sync {
    /// Reads; `None` = undefined instruction.
    fn read(&self, cx: &SysRegCx, encoding: u16) -> Option<u64>;
    /// Writes; `false` = undefined instruction.
    fn write(&self, cx: &SysRegCx, encoding: u16, value: u64) -> bool;
    /// The CPU entered or left its highest level (Arm EL3), after the fact.
    fn level_changed(&self, cx: &SysRegCx) {
        let _ = cx;
    }
}

/// Packs a system register encoding.
#[must_use]
pub const fn encoding(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// Interrupt inputs of a CPU object, in the order that its sink counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Line {
    /// IRQ.
    Irq,
    /// FIQ.
    Fiq,
    /// Virtual IRQ.
    VIrq,
    /// Virtual FIQ.
    VFiq,
    /// Non-maskable interrupt.
    Nmi,
}
