//! The guest CPU's state struct and what translated code may know of it.

use std::mem::offset_of;
use std::sync::Arc;

use jit_ir::state::FpControl;
use jit_ir::{JitEnv, Slot, SlotClass, StateLayout, Ty};

use crate::features::Features;
use crate::sysreg::{REGS, Reg};
use crate::system::System;

/// Exception level.
pub type El = u8;

/// PSTATE apart from NZCV (which is [`ArmCpu::flags`]) and BTYPE ([`ArmCpu::btype`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pstate {
    /// Current exception level.
    pub el: El,
    /// SPSel: use SP_ELx instead of SP_EL0.
    pub sp_sel: bool,
    /// D, A, I, F masks in bits 3..0.
    pub daif: u8,
    /// Software step.
    pub ss: bool,
    /// Illegal execution state.
    pub il: bool,
    /// Privileged access never.
    pub pan: bool,
    /// User access override.
    pub uao: bool,
    /// Data-independent timing.
    pub dit: bool,
    /// Speculative store bypass safe.
    pub ssbs: bool,
    /// Tag check override.
    pub tco: bool,
}

/// One AArch64 CPU. `#[repr(C)]`: translated code addresses fields by offset.
#[repr(C)]
pub struct ArmCpu {
    /// V0 to V31.
    pub v: [u128; 32],
    /// FPCR.
    pub fpcr: u32,
    /// FPSR.
    pub fpsr: u32,
    /// Plain storage of system registers, indexed by [`Reg`].
    pub sys: [u64; REGS],
    /// The rest of PSTATE.
    pub pstate: Pstate,
    /// SP_EL0 to SP_EL3 while not in use.
    pub sp_bank: [u64; 4],
    /// X0 to X30; element 31 is the SP in use. Those from X22 on, the flags and the start of `env` are
    /// near the address that translated code counts from, where instructions are short.
    pub x: [u64; 32],
    /// NZCV as a flags image (`jit_ir::state::image`).
    pub flags: u16,
    /// PSTATE.BTYPE.
    pub btype: u32,
    /// Engine state.
    pub env: JitEnv,
    /// What the model implements.
    pub features: Arc<Features>,
    /// Everything that translated code never touches.
    pub system: System,
}

/// Byte offset of Xn (31: the SP in use).
#[must_use]
pub const fn x_slot(n: u32) -> u32 {
    offset_of!(ArmCpu, x) as u32 + 8 * (n & 31)
}

/// Byte offset of Vn.
#[must_use]
pub const fn v_slot(n: u32) -> u32 {
    offset_of!(ArmCpu, v) as u32 + 16 * (n & 31)
}

/// Byte offset of a plainly stored system register.
#[must_use]
pub const fn sys_slot(r: Reg) -> u32 {
    offset_of!(ArmCpu, sys) as u32 + 8 * r as u32
}

/// Byte offset of BTYPE (I32).
pub const BTYPE_SLOT: u32 = offset_of!(ArmCpu, btype) as u32;
/// Byte offset of SP_EL0 while another SP is in use.
pub const SP_EL0_SLOT: u32 = offset_of!(ArmCpu, sp_bank) as u32;
/// Byte offset of FPCR (I32).
pub const FPCR_SLOT: u32 = offset_of!(ArmCpu, fpcr) as u32;
/// Byte offset of FPSR (I32).
pub const FPSR_SLOT: u32 = offset_of!(ArmCpu, fpsr) as u32;

/// FPSR: N, Z, C, V, QC, IDC and the other cumulative flags.
pub const FPSR_BITS: u32 = 0xf800_009f;
/// FPCR: DN, FZ, RMode, and NEP, AH, FIZ of FEAT_AFP.
pub const FPCR_SPECIAL: u32 = 1 << 25 | 1 << 24 | 3 << 22 | 7;

const X_NAMES: [&str; 32] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
    "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
    "x28", "x29", "x30", "sp",
];
const V_NAMES: [&str; 32] = [
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
    "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
    "v28", "v29", "v30", "v31",
];

/// Register numbers by how often Debian's arm64 code names them (jit.md 2.4).
const PIN_ORDER: [usize; 12] = [0, 1, 31, 19, 2, 20, 3, 21, 29, 30, 4, 8];

const fn slots() -> [Slot; 64] {
    let none = Slot { name: "", offset: 0, ty: Ty::I64, class: SlotClass::General, pin: None };
    let mut all = [none; 64];
    let mut n = 0;
    while n < 32 {
        all[n].name = X_NAMES[n];
        all[n].offset = x_slot(n as u32);
        let v = &mut all[32 + n];
        v.name = V_NAMES[n];
        v.offset = v_slot(n as u32);
        v.ty = Ty::V128;
        v.class = SlotClass::Vector;
        n += 1;
    }
    let mut rank = 0;
    while rank < PIN_ORDER.len() {
        all[PIN_ORDER[rank]].pin = Some(rank as u8);
        rank += 1;
    }
    all
}
static SLOTS: [Slot; 64] = slots();

/// The table the engine works from.
pub static LAYOUT: StateLayout = StateLayout {
    size: size_of::<ArmCpu>() as u32,
    env: offset_of!(ArmCpu, env) as u32,
    flags: offset_of!(ArmCpu, flags) as u32,
    slots: &SLOTS,
    vectors: (offset_of!(ArmCpu, v) as u32, 32 * 16),
    // V0 to BTYPE, which the order of fields keeps together.
    plain: (offset_of!(ArmCpu, v) as u32, (offset_of!(ArmCpu, env) - offset_of!(ArmCpu, v)) as u32),
    fp: Some(FpControl { flags: FPSR_SLOT }),
};

/// Translation regimes as mmu indices.
pub mod mmu_index {
    /// EL1&0, unprivileged.
    pub const E10_0: u8 = 0;
    /// EL1&0, privileged.
    pub const E10_1: u8 = 1;
    /// EL1&0, privileged with PAN.
    pub const E10_1_PAN: u8 = 2;
    /// EL2.
    pub const E2: u8 = 3;
    /// EL2&0, unprivileged.
    pub const E20_0: u8 = 4;
    /// EL2&0, privileged.
    pub const E20_2: u8 = 5;
    /// EL2&0, privileged with PAN.
    pub const E20_2_PAN: u8 = 6;
    /// EL3.
    pub const E3: u8 = 7;
}

/// Everything besides the bytes that a translation depends on (`CodeMode::key`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ModeKey(pub u64);

macro_rules! key_fields {
    ($($(#[$d:meta])* $get:ident $with:ident: $ty:ident = $at:literal, $bits:literal;)*) => {
        impl ModeKey {$(
            $(#[$d])*
            #[must_use]
            pub fn $get(self) -> $ty {
                key_fields!(@get $ty, (self.0 >> $at & ((1u64 << $bits) - 1)))
            }
            /// Sets the field of the same name.
            #[must_use]
            pub fn $with(self, v: $ty) -> Self {
                let mask = ((1u64 << $bits) - 1) << $at;
                Self(self.0 & !mask | (u64::from(v) << $at & mask))
            }
        )*}
    };
    (@get bool, $e:expr) => { $e != 0 };
    (@get u8, $e:expr) => { $e as u8 };
}

key_fields! {
    /// Current exception level.
    el with_el: u8 = 0, 2;
    /// mmu index of ordinary data accesses.
    mmu with_mmu: u8 = 2, 4;
    /// mmu index of LDTR/STTR.
    unpriv_mmu with_unpriv_mmu: u8 = 6, 4;
    /// Exception level that FP/SIMD instructions trap to; 0 = enabled.
    fp_trap with_fp_trap: u8 = 10, 2;
    /// SCTLR.A: all unaligned data accesses fault.
    align_check with_align_check: bool = 12, 1;
    /// SP alignment is checked at this EL.
    sp_check with_sp_check: bool = 13, 1;
    /// Data accesses are big-endian.
    big_endian with_big_endian: bool = 14, 1;
    /// The page is guarded (GP) and BTI is implemented.
    guarded with_guarded: bool = 15, 1;
    /// SCTLR.BTx: BR X16/X17 and PACIxSP rules (1 = PACIASP is no landing pad for BTYPE 3).
    bt with_bt: bool = 16, 1;
    /// Top byte of low (bit 55 = 0) branch targets is ignored.
    tbi0 with_tbi0: bool = 17, 1;
    /// Top byte of high (bit 55 = 1) branch targets is ignored.
    tbi1 with_tbi1: bool = 18, 1;
    /// PSTATE.IL: every instruction is an illegal state exception.
    illegal with_illegal: bool = 19, 1;
    /// Software step is active: one instruction per block, then the step exception.
    step with_step: bool = 20, 1;
    /// DC ZVA traps nowhere and its block has 64 bytes.
    zva_ok with_zva_ok: bool = 21, 1;
    /// Debug: breakpoints or watchpoints are armed.
    debug with_debug: bool = 22, 1;
    /// HCR_EL2.E2H takes effect (register accesses from EL2 are redirected).
    e2h with_e2h: bool = 23, 1;
    /// EL2 traps some EL1 register accesses: nothing is accessed in place at EL1.
    el1_traps with_el1_traps: bool = 24, 1;
    /// PSTATE.SP.
    sp_sel with_sp_sel: bool = 25, 1;
    /// Pointer authentication keys are there and trap nowhere (HCR_EL2.APK, SCR_EL3.APK).
    keys with_keys: bool = 26, 1;
    /// [`crate::pauth::InlinePac`] of key IA.
    pac_a with_pac_a: u8 = 27, 2;
    /// [`crate::pauth::InlinePac`] of key IB.
    pac_b with_pac_b: u8 = 29, 2;
    /// Lowest bit of codes in pointers to instructions; 0 = helpers find out.
    pac_bottom with_pac_bottom: u8 = 31, 6;
    /// FPCR asks for nothing that single and double precision would notice ([`FPCR_SPECIAL`]).
    fp_plain with_fp_plain: bool = 37, 1;
}
