//! Which optional instructions a CPU model has.
//!
//! One flag per feature that the translator asks about, derived from the ID registers the guest sees,
//! so the two cannot disagree. Features that only change system registers are not here.
//! Source: Arm ARM (DDI 0487) D19.2, the ID_AA64* registers.

use crate::features::IdRegs;

macro_rules! isa {
    ($($(#[$d:meta])* $name:ident: $reg:ident[$at:literal] >= $min:literal;)*) => {
        /// Instruction set features.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Isa { $($(#[$d])* pub $name: bool,)* }
        impl Isa {
            /// What the ID registers say.
            #[must_use]
            pub fn from_id(id: &IdRegs) -> Self {
                let mut isa = Self { $($name: (id.$reg >> $at & 15) >= $min,)* };
                let any = |reg: u64, at: u32| reg >> at & 15 != 0;
                isa.pauth |= any(id.isar1, 8) || any(id.isar2, 12);
                isa.pacga |= any(id.isar1, 28) || any(id.isar2, 8);
                isa
            }
            /// Everything that the translator knows.
            pub const ALL: Self = Self { $($name: true,)* };
            /// Armv8.0 without options.
            pub const NONE: Self = Self { $($name: false,)* };
        }
    };
}

isa! {
    /// CRC32*.
    crc32: isar0[16] >= 1;
    /// Large system extensions: CAS, SWP, LD<op>.
    lse: isar0[20] >= 2;
    /// RMIF, SETF*, CFINV.
    flagm: isar0[52] >= 1;
    /// AXFLAG, XAFLAG.
    flagm2: isar0[52] >= 2;
    /// PAC*, AUT*, XPAC* and the combined forms.
    pauth: isar1[4] >= 1;
    /// PACGA.
    pacga: isar1[24] >= 1;
    /// LDAPR.
    rcpc: isar1[20] >= 1;
    /// LDAPUR, STLUR.
    rcpc2: isar1[20] >= 2;
    /// BFloat16 instructions.
    bf16: isar1[44] >= 1;
    /// Int8 matrix multiplication.
    i8mm: isar1[52] >= 1;
    /// SB.
    sb: isar1[36] >= 1;
    /// DSB nXS.
    xs: isar1[56] >= 1;
    /// WFET, WFIT.
    wfxt: isar2[0] >= 2;
    /// BC.cond.
    hbc: isar2[20] >= 1;
    /// MSR DIT.
    dit: pfr0[48] >= 1;
    /// Branch target identification.
    bti: pfr1[0] >= 1;
    /// MSR SSBS.
    ssbs: pfr1[4] >= 2;
    /// MSR TCO.
    mte: pfr1[8] >= 1;
    /// LDLAR, STLLR.
    lor: mmfr1[16] >= 1;
    /// MSR PAN.
    pan: mmfr1[20] >= 1;
    /// MSR UAO.
    uao: mmfr2[4] >= 1;
    /// Unaligned atomics inside 16 bytes.
    lse2: mmfr2[32] >= 1;
}
