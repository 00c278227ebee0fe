//! Plainly stored system registers: encodings and how each behaves.

use std::sync::LazyLock;

use cpu::encoding;

use crate::features::{Features, Impdef};
use crate::state::{ModeKey, SP_EL0_SLOT, sys_slot};

const SP_EL0: u16 = encoding(3, 0, 4, 1, 0);

/// Translated code may read it in place.
pub const INLINE_R: u16 = 1;
/// Translated code may write it in place.
pub const INLINE_W: u16 = 2;
/// Writing changes translation regimes or the mode key.
pub const CONTEXT: u16 = 4;
/// HCR_EL2.TVM/TRVM trap EL1 accesses.
pub const VM: u16 = 8;
/// Reads only.
pub const READ_ONLY: u16 = 16;
/// Writing may change interrupt routing or masking.
pub const IRQS: u16 = 32;
/// Only there with a feature or on some models: see [`exists`].
pub const OPTIONAL: u16 = 64;
/// Writing may change what debug registers cover.
pub const DEBUG: u16 = 256;
/// Has traps of its own besides [`VM`].
pub const TRAPS: u16 = 512;
/// Storage only: accesses are special.
pub const HIDDEN: u16 = 128;
/// Keeps no value: implementation defined, or of what is not built.
pub const ZERO: u16 = 1024;
const INLINE: u16 = INLINE_R | INLINE_W;

/// A plainly stored register.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// Storage.
    pub reg: Reg,
    /// Encoding.
    pub enc: u16,
    /// Behaviour bits of this module.
    pub flags: u16,
}

macro_rules! plain_regs {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal $flags:expr;)*) => {
        /// Storage index of a system register, named as in the Arm ARM.
        #[expect(non_camel_case_types, missing_docs, reason = "the names of the Arm ARM")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Reg { $($name,)* }
        /// All plain registers in storage order.
        pub static PLAIN: &[Plain] = &[$(Plain {
            reg: Reg::$name, enc: encoding($op0, $op1, $crn, $crm, $op2), flags: $flags,
        },)*];
        /// Number of storage cells.
        pub const REGS: usize = [$(Reg::$name,)*].len();
        impl Reg {
            /// Name in lower case letters of the enum.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$name => stringify!($name),)* } }
        }
    };
}

plain_regs! {
    SCTLR_EL1 = 3 0 1 0 0 CONTEXT | VM | INLINE_R;
    ACTLR_EL1 = 3 0 1 0 1 ZERO | TRAPS;
    CPACR_EL1 = 3 0 1 0 2 CONTEXT | INLINE_R | TRAPS;
    TTBR0_EL1 = 3 0 2 0 0 CONTEXT | VM | INLINE_R;
    TTBR1_EL1 = 3 0 2 0 1 CONTEXT | VM | INLINE_R;
    TCR_EL1 = 3 0 2 0 2 CONTEXT | VM | INLINE_R;
    APIAKEYLO_EL1 = 3 0 2 1 0 INLINE | OPTIONAL | TRAPS;
    APIAKEYHI_EL1 = 3 0 2 1 1 INLINE | OPTIONAL | TRAPS;
    APIBKEYLO_EL1 = 3 0 2 1 2 INLINE | OPTIONAL | TRAPS;
    APIBKEYHI_EL1 = 3 0 2 1 3 INLINE | OPTIONAL | TRAPS;
    APDAKEYLO_EL1 = 3 0 2 2 0 INLINE | OPTIONAL | TRAPS;
    APDAKEYHI_EL1 = 3 0 2 2 1 INLINE | OPTIONAL | TRAPS;
    APDBKEYLO_EL1 = 3 0 2 2 2 INLINE | OPTIONAL | TRAPS;
    APDBKEYHI_EL1 = 3 0 2 2 3 INLINE | OPTIONAL | TRAPS;
    APGAKEYLO_EL1 = 3 0 2 3 0 INLINE | OPTIONAL | TRAPS;
    APGAKEYHI_EL1 = 3 0 2 3 1 INLINE | OPTIONAL | TRAPS;
    SPSR_EL1 = 3 0 4 0 0 INLINE;
    ELR_EL1 = 3 0 4 0 1 INLINE;
    AFSR0_EL1 = 3 0 5 1 0 VM | ZERO;
    AFSR1_EL1 = 3 0 5 1 1 VM | ZERO;
    ESR_EL1 = 3 0 5 2 0 VM | INLINE;
    FAR_EL1 = 3 0 6 0 0 VM | INLINE;
    PAR_EL1 = 3 0 7 4 0 INLINE;
    MAIR_EL1 = 3 0 10 2 0 CONTEXT | VM;
    AMAIR_EL1 = 3 0 10 3 0 VM | ZERO;
    VBAR_EL1 = 3 0 12 0 0 INLINE;
    CONTEXTIDR_EL1 = 3 0 13 0 1 VM | INLINE;
    TPIDR_EL1 = 3 0 13 0 4 INLINE;
    CNTKCTL_EL1 = 3 0 14 1 0 0;
    CSSELR_EL1 = 3 2 0 0 0 TRAPS;
    TPIDR_EL0 = 3 3 13 0 2 INLINE;
    TPIDRRO_EL0 = 3 3 13 0 3 INLINE;
    MDSCR_EL1 = 2 0 0 2 2 CONTEXT | DEBUG;
    MDCCINT_EL1 = 2 0 0 2 0 ZERO;
    OSDTRRX_EL1 = 2 0 0 0 2 ZERO;
    OSDTRTX_EL1 = 2 0 0 3 2 ZERO;
    OSECCR_EL1 = 2 0 0 6 2 ZERO;
    OSDLR_EL1 = 2 0 1 3 4 CONTEXT;
    DBGPRCR_EL1 = 2 0 1 4 4 0;
    DBGCLAIMCLR_EL1 = 2 0 7 9 6 0;
    VPIDR_EL2 = 3 4 0 0 0 0;
    VMPIDR_EL2 = 3 4 0 0 5 0;
    SCTLR_EL2 = 3 4 1 0 0 CONTEXT;
    ACTLR_EL2 = 3 4 1 0 1 ZERO;
    HCR_EL2 = 3 4 1 1 0 CONTEXT | IRQS;
    MDCR_EL2 = 3 4 1 1 1 CONTEXT;
    CPTR_EL2 = 3 4 1 1 2 CONTEXT | TRAPS;
    HSTR_EL2 = 3 4 1 1 3 0;
    HACR_EL2 = 3 4 1 1 7 ZERO;
    TTBR0_EL2 = 3 4 2 0 0 CONTEXT;
    TTBR1_EL2 = 3 4 2 0 1 CONTEXT | OPTIONAL;
    TCR_EL2 = 3 4 2 0 2 CONTEXT;
    VTTBR_EL2 = 3 4 2 1 0 CONTEXT;
    VTCR_EL2 = 3 4 2 1 2 CONTEXT;
    SPSR_EL2 = 3 4 4 0 0 INLINE;
    ELR_EL2 = 3 4 4 0 1 INLINE;
    SPSR_IRQ = 3 4 4 3 0 0;
    SPSR_ABT = 3 4 4 3 1 0;
    SPSR_UND = 3 4 4 3 2 0;
    SPSR_FIQ = 3 4 4 3 3 0;
    AFSR0_EL2 = 3 4 5 1 0 ZERO;
    AFSR1_EL2 = 3 4 5 1 1 ZERO;
    ESR_EL2 = 3 4 5 2 0 INLINE;
    FAR_EL2 = 3 4 6 0 0 INLINE;
    HPFAR_EL2 = 3 4 6 0 4 INLINE;
    MAIR_EL2 = 3 4 10 2 0 CONTEXT;
    AMAIR_EL2 = 3 4 10 3 0 ZERO;
    VBAR_EL2 = 3 4 12 0 0 INLINE;
    CONTEXTIDR_EL2 = 3 4 13 0 1 OPTIONAL;
    TPIDR_EL2 = 3 4 13 0 2 INLINE;
    CNTHCTL_EL2 = 3 4 14 1 0 0;
    SCTLR_EL3 = 3 6 1 0 0 CONTEXT;
    ACTLR_EL3 = 3 6 1 0 1 ZERO;
    SCR_EL3 = 3 6 1 1 0 CONTEXT | IRQS;
    CPTR_EL3 = 3 6 1 1 2 CONTEXT;
    MDCR_EL3 = 3 6 1 3 1 0;
    TTBR0_EL3 = 3 6 2 0 0 CONTEXT;
    TCR_EL3 = 3 6 2 0 2 CONTEXT;
    SPSR_EL3 = 3 6 4 0 0 INLINE;
    ELR_EL3 = 3 6 4 0 1 INLINE;
    AFSR0_EL3 = 3 6 5 1 0 ZERO;
    AFSR1_EL3 = 3 6 5 1 1 ZERO;
    ESR_EL3 = 3 6 5 2 0 INLINE;
    FAR_EL3 = 3 6 6 0 0 INLINE;
    MAIR_EL3 = 3 6 10 2 0 CONTEXT;
    AMAIR_EL3 = 3 6 10 3 0 ZERO;
    VBAR_EL3 = 3 6 12 0 0 INLINE;
    TPIDR_EL3 = 3 6 13 0 2 INLINE;
    CNTFRQ_EL0 = 3 3 14 0 0 0;
    OSLSR_EL1 = 2 0 1 1 4 READ_ONLY;
    // Debug breakpoint and watchpoint registers.
    DBGBVR0_EL1 = 2 0 0 0 4 DEBUG;
    DBGBVR1_EL1 = 2 0 0 1 4 DEBUG;
    DBGBVR2_EL1 = 2 0 0 2 4 DEBUG;
    DBGBVR3_EL1 = 2 0 0 3 4 DEBUG;
    DBGBVR4_EL1 = 2 0 0 4 4 DEBUG;
    DBGBVR5_EL1 = 2 0 0 5 4 DEBUG;
    DBGBCR0_EL1 = 2 0 0 0 5 DEBUG;
    DBGBCR1_EL1 = 2 0 0 1 5 DEBUG;
    DBGBCR2_EL1 = 2 0 0 2 5 DEBUG;
    DBGBCR3_EL1 = 2 0 0 3 5 DEBUG;
    DBGBCR4_EL1 = 2 0 0 4 5 DEBUG;
    DBGBCR5_EL1 = 2 0 0 5 5 DEBUG;
    DBGWVR0_EL1 = 2 0 0 0 6 DEBUG;
    DBGWVR1_EL1 = 2 0 0 1 6 DEBUG;
    DBGWVR2_EL1 = 2 0 0 2 6 DEBUG;
    DBGWVR3_EL1 = 2 0 0 3 6 DEBUG;
    DBGWCR0_EL1 = 2 0 0 0 7 DEBUG;
    DBGWCR1_EL1 = 2 0 0 1 7 DEBUG;
    DBGWCR2_EL1 = 2 0 0 2 7 DEBUG;
    DBGWCR3_EL1 = 2 0 0 3 7 DEBUG;
    // Implementation defined: Cortex-A57 and its like, Neoverse N1.
    CPUACTLR_EL1 = 3 1 15 2 0 OPTIONAL | ZERO;
    CPUECTLR_EL1 = 3 1 15 2 1 OPTIONAL | ZERO;
    CPUMERRSR_EL1 = 3 1 15 2 2 OPTIONAL | ZERO;
    L2MERRSR_EL1 = 3 1 15 2 3 OPTIONAL | ZERO;
    L2CTLR_EL1 = 3 1 11 0 2 OPTIONAL | ZERO;
    L2ECTLR_EL1 = 3 1 11 0 3 OPTIONAL | ZERO;
    L2ACTLR_EL1 = 3 1 15 0 0 OPTIONAL | ZERO;
    CBAR_EL1 = 3 1 15 3 0 READ_ONLY;
    CPUCFR_EL1 = 3 0 15 0 0 OPTIONAL | READ_ONLY;
    N1_CPUACTLR_EL1 = 3 0 15 1 0 OPTIONAL;
    N1_CPUACTLR2_EL1 = 3 0 15 1 1 OPTIONAL;
    N1_CPUACTLR3_EL1 = 3 0 15 1 2 OPTIONAL;
    N1_CPUECTLR_EL1 = 3 0 15 1 4 OPTIONAL;
    N1_ATCR_EL1 = 3 0 15 7 0 OPTIONAL;
    N1_CPUPWRCTLR_EL1 = 3 0 15 2 7 OPTIONAL;
    N1_ERXPFGCDN_EL1 = 3 0 15 2 0 OPTIONAL;
    N1_ERXPFGCTL_EL1 = 3 0 15 2 1 OPTIONAL;
    N1_ERXPFGF_EL1 = 3 0 15 2 2 OPTIONAL;
    // Numbers that the PMU's registers use; reached through `pmu` alone.
    PMSELR_EL0 = 3 3 9 12 5 HIDDEN;
    PMUSERENR_EL0 = 3 3 9 14 0 HIDDEN;
    // With a feature.
    LORSA_EL1 = 3 0 10 4 0 ZERO | OPTIONAL | TRAPS;
    LOREA_EL1 = 3 0 10 4 1 ZERO | OPTIONAL | TRAPS;
    LORN_EL1 = 3 0 10 4 2 ZERO | OPTIONAL | TRAPS;
    LORC_EL1 = 3 0 10 4 3 ZERO | OPTIONAL | TRAPS;
    LORID_EL1 = 3 0 10 4 7 OPTIONAL | TRAPS;
    ERRIDR_EL1 = 3 0 5 3 0 OPTIONAL | READ_ONLY | TRAPS;
    DISR_EL1 = 3 0 12 1 1 OPTIONAL | TRAPS;
    VDISR_EL2 = 3 4 12 1 1 OPTIONAL;
    VSESR_EL2 = 3 4 5 2 3 OPTIONAL;
    HCRX_EL2 = 3 4 1 2 2 OPTIONAL | CONTEXT;
    SCXTNUM_EL0 = 3 3 13 0 7 OPTIONAL | TRAPS;
    SCXTNUM_EL1 = 3 0 13 0 7 OPTIONAL | TRAPS;
    SCXTNUM_EL2 = 3 4 13 0 7 OPTIONAL;
    SCXTNUM_EL3 = 3 6 13 0 7 OPTIONAL;
}

impl Reg {
    /// Whether it is half of a pointer authentication key.
    #[must_use]
    pub fn is_key(self) -> bool {
        (Reg::APIAKEYLO_EL1 as u16..=Reg::APGAKEYHI_EL1 as u16).contains(&(self as u16))
    }
}

/// Encoding to index + 1 into [`PLAIN`]; 0 = not plain. Indexed by the encoding below op0's top bit.
static INDEX: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut t = vec![0u8; 1 << 15].into_boxed_slice();
    for (n, p) in PLAIN.iter().enumerate() {
        t[usize::from(p.enc & 0x7fff)] = n as u8 + 1;
        debug_assert!(n < 255, "the index is a byte");
    }
    t
});

/// The plain register of this encoding (op0 2 or 3).
#[must_use]
pub fn plain(enc: u16) -> Option<&'static Plain> {
    let n = INDEX.get(usize::from(enc & 0x7fff)).copied().unwrap_or(0);
    PLAIN.get(usize::from(n).checked_sub(1)?).filter(|p| p.enc == enc)
}

/// Whether a CPU of these features has the register.
#[must_use]
pub fn exists(p: &Plain, f: &Features) -> bool {
    if p.flags & (OPTIONAL | HIDDEN) == 0 {
        return true;
    }
    if p.flags & HIDDEN != 0 {
        return false;
    }
    match p.reg {
        Reg::CPUACTLR_EL1
        | Reg::CPUECTLR_EL1
        | Reg::CPUMERRSR_EL1
        | Reg::L2MERRSR_EL1
        | Reg::L2CTLR_EL1
        | Reg::L2ACTLR_EL1
        | Reg::L2ECTLR_EL1 => f.impdef == Impdef::CortexA57,
        Reg::LORSA_EL1 | Reg::LOREA_EL1 | Reg::LORN_EL1 | Reg::LORC_EL1 | Reg::LORID_EL1 => f.lor(),
        Reg::ERRIDR_EL1 | Reg::DISR_EL1 | Reg::VDISR_EL2 | Reg::VSESR_EL2 => f.ras(),
        Reg::HCRX_EL2 => f.hcx(),
        Reg::TTBR1_EL2 | Reg::CONTEXTIDR_EL2 => f.vhe(),
        r if r.is_key() => f.pauth() > 0,
        Reg::SCXTNUM_EL0 | Reg::SCXTNUM_EL1 | Reg::SCXTNUM_EL2 | Reg::SCXTNUM_EL3 => f.csv2_2(),
        _ => f.impdef == Impdef::NeoverseN1,
    }
}

/// EL1 encodings and the EL2 ones that they reach from EL2 when HCR_EL2.E2H is 1
/// (Arm ARM D1.8.1); the `_EL12` encoding of the first has op1 = 5.
const REDIRECT: &[(u16, u16)] = &[
    (encoding(3, 0, 1, 0, 0), encoding(3, 4, 1, 0, 0)), // SCTLR
    (encoding(3, 0, 1, 0, 2), encoding(3, 4, 1, 1, 2)), // CPACR, CPTR
    (encoding(3, 0, 2, 0, 0), encoding(3, 4, 2, 0, 0)), // TTBR0
    (encoding(3, 0, 2, 0, 1), encoding(3, 4, 2, 0, 1)), // TTBR1
    (encoding(3, 0, 2, 0, 2), encoding(3, 4, 2, 0, 2)), // TCR
    (encoding(3, 0, 4, 0, 0), encoding(3, 4, 4, 0, 0)), // SPSR
    (encoding(3, 0, 4, 0, 1), encoding(3, 4, 4, 0, 1)), // ELR
    (encoding(3, 0, 5, 1, 0), encoding(3, 4, 5, 1, 0)), // AFSR0
    (encoding(3, 0, 5, 1, 1), encoding(3, 4, 5, 1, 1)), // AFSR1
    (encoding(3, 0, 5, 2, 0), encoding(3, 4, 5, 2, 0)), // ESR
    (encoding(3, 0, 6, 0, 0), encoding(3, 4, 6, 0, 0)), // FAR
    (encoding(3, 0, 10, 2, 0), encoding(3, 4, 10, 2, 0)), // MAIR
    (encoding(3, 0, 10, 3, 0), encoding(3, 4, 10, 3, 0)), // AMAIR
    (encoding(3, 0, 12, 0, 0), encoding(3, 4, 12, 0, 0)), // VBAR
    (encoding(3, 0, 13, 0, 1), encoding(3, 4, 13, 0, 1)), // CONTEXTIDR
    (encoding(3, 0, 13, 0, 7), encoding(3, 4, 13, 0, 7)), // SCXTNUM
    (encoding(3, 0, 14, 1, 0), encoding(3, 4, 14, 1, 0)), // CNTKCTL, CNTHCTL
    (encoding(3, 3, 14, 2, 0), encoding(3, 4, 14, 2, 0)), // CNTP_TVAL
    (encoding(3, 3, 14, 2, 1), encoding(3, 4, 14, 2, 1)), // CNTP_CTL
    (encoding(3, 3, 14, 2, 2), encoding(3, 4, 14, 2, 2)), // CNTP_CVAL
    (encoding(3, 3, 14, 3, 0), encoding(3, 4, 14, 3, 0)), // CNTV_TVAL
    (encoding(3, 3, 14, 3, 1), encoding(3, 4, 14, 3, 1)), // CNTV_CTL
    (encoding(3, 3, 14, 3, 2), encoding(3, 4, 14, 3, 2)), // CNTV_CVAL
];

/// What an access from EL2 with E2H = 1 reaches.
#[must_use]
pub fn redirect_e2h(enc: u16) -> u16 {
    if let Some((_, to)) = REDIRECT.iter().find(|(from, _)| *from == enc) {
        return *to;
    }
    if enc >> 11 & 7 == 5
        && let Some((el1, _)) = REDIRECT.iter().find(|(from, _)| from & 0x07ff == enc & 0x07ff)
    {
        return *el1;
    }
    enc
}

/// State offset of a register that translated code may access in place at this mode, if it may.
#[must_use]
pub fn inline_slot(enc: u16, key: ModeKey, write: bool) -> Option<u32> {
    let el = key.el();
    if enc == SP_EL0 && el >= 1 && key.sp_sel() {
        return Some(SP_EL0_SLOT);
    }
    let enc = if el == 2 && key.e2h() { redirect_e2h(enc) } else { enc };
    let p = plain(enc)?;
    let want = if write { INLINE_W } else { INLINE_R };
    let lowest = match enc >> 11 & 7 {
        3 => 0,
        4 => 2,
        6 => 3,
        _ => 1,
    };
    let el0_write_of_ro = el == 0 && write && p.reg == Reg::TPIDRRO_EL0;
    let trapped = key.el1_traps() && el == 1 || p.reg.is_key() && !key.keys();
    if p.flags & want == 0 || el < lowest || el0_write_of_ro || trapped {
        return None;
    }
    Some(sys_slot(p.reg))
}
