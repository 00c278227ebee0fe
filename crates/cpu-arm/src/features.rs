//! Identification registers and the features that follow from them.
//!
//! Translation, system registers and the MMU ask the ID registers themselves, so a model cannot
//! advertise what it lacks. The values of each model are in [`crate::models`], the properties that
//! change them in [`crate::props`]. Source: Arm ARM (DDI 0487) D19.2.
//! Not here: AArch32; its ID registers are plain values that nothing asks.

/// Identification registers (AArch64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegs {
    /// MIDR_EL1.
    pub midr: u64,
    /// REVIDR_EL1.
    pub revidr: u64,
    /// CTR_EL0.
    pub ctr: u64,
    /// CLIDR_EL1.
    pub clidr: u64,
    /// CCSIDR_EL1 for L1D, L1I, L2.
    pub ccsidr: [u64; 3],
    /// DCZID_EL0.BS.
    pub dczid: u64,
    /// ID_AA64PFR0_EL1 without the EL2, EL3 and GIC fields.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
    /// ID_AA64ISAR0_EL1.
    pub isar0: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1.
    pub mmfr2: u64,
    /// ID_AA64MMFR3_EL1.
    pub mmfr3: u64,
    /// The AArch32 ID registers: CRm 1 to 3 by op2 0 to 7 (ID_PFR0_EL1 to ID_ISAR5_EL1, MVFR…).
    pub aarch32: [[u32; 8]; 3],
}

/// What one CPU implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Model name (`-cpu`).
    pub model: &'static str,
    /// Identification registers.
    pub id: IdRegs,
    /// Generic timer frequency in Hz (CNTFRQ_EL0).
    pub cntfrq: u64,
    /// EL2 is implemented.
    pub el2: bool,
    /// EL3 is implemented.
    pub el3: bool,
    /// Pointer authentication algorithm.
    pub pac: Pac,
    /// The PMU's PMCR_EL0.{IMP, IDCODE} in place; its counters follow from the rest.
    pub pmcr: u64,
    /// SCTLR_ELx after reset.
    pub sctlr: u64,
    /// CBAR_EL1 (`reset-cbar`).
    pub cbar: u64,
    /// Reset vector (`rvbar`), if not the board's choice.
    pub rvbar: Option<u64>,
    /// Implementation defined registers that the model has.
    pub impdef: Impdef,
}

/// How pointer authentication codes are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pac {
    /// Our own mix (advertised as implementation defined).
    Impdef,
    /// QARMA5.
    Qarma5,
    /// QARMA3.
    Qarma3,
}

/// Families of implementation defined registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impdef {
    /// Those of Cortex-A53, -A57 and -A72.
    CortexA57,
    /// Those of Neoverse N1.
    NeoverseN1,
    /// CBAR_EL1 alone.
    None,
}

macro_rules! fields {
    ($($(#[$d:meta])* $name:ident: $reg:ident[$at:literal] >= $min:literal;)*) => {
        impl Features {$(
            $(#[$d])*
            #[must_use]
            pub fn $name(&self) -> bool { (self.id.$reg >> $at & 15) >= $min }
        )*}
    };
}

fields! {
    /// FEAT_LSE.
    lse: isar0[20] >= 2;
    /// CRC32.
    crc32: isar0[16] >= 1;
    /// AESE…
    aes: isar0[4] >= 1;
    /// PMULL to 128 bits.
    pmull: isar0[4] >= 2;
    /// SHA1.
    sha1: isar0[8] >= 1;
    /// SHA256.
    sha256: isar0[12] >= 1;
    /// SHA512.
    sha512: isar0[12] >= 2;
    /// SHA3.
    sha3: isar0[32] >= 1;
    /// SM3.
    sm3: isar0[36] >= 1;
    /// SM4.
    sm4: isar0[40] >= 1;
    /// FEAT_RDM.
    rdm: isar0[28] >= 1;
    /// FEAT_DotProd.
    dotprod: isar0[44] >= 1;
    /// FEAT_FHM.
    fhm: isar0[48] >= 1;
    /// FEAT_FlagM.
    flagm: isar0[52] >= 1;
    /// FEAT_FlagM2.
    flagm2: isar0[52] >= 2;
    /// TLBI outer shareable.
    tlbi_os: isar0[56] >= 1;
    /// TLBI by range.
    tlbi_range: isar0[56] >= 2;
    /// RNDR.
    rndr: isar0[60] >= 1;
    /// FEAT_DPB.
    dpb: isar1[0] >= 1;
    /// FEAT_JSCVT.
    jscvt: isar1[12] >= 1;
    /// FEAT_FCMA.
    fcma: isar1[16] >= 1;
    /// LDAPR.
    rcpc: isar1[20] >= 1;
    /// LDAPUR, STLUR.
    rcpc2: isar1[20] >= 2;
    /// FEAT_FRINTTS.
    frintts: isar1[32] >= 1;
    /// FEAT_XS.
    xs: isar1[56] >= 1;
    /// FEAT_TIDCP1.
    tidcp1: mmfr1[52] >= 1;
    /// SB.
    sb: isar1[36] >= 1;
    /// BFloat16.
    bf16: isar1[44] >= 1;
    /// Int8 matrix multiplication.
    i8mm: isar1[52] >= 1;
    /// WFET, WFIT.
    wfxt: isar2[0] >= 2;
    /// BTI.
    bti: pfr1[0] >= 1;
    /// SSBS with MSR/MRS.
    ssbs: pfr1[4] >= 2;
    /// DIT.
    dit: pfr0[48] >= 1;
    /// PAN.
    pan: mmfr1[20] >= 1;
    /// PAN3 (EPAN).
    pan3: mmfr1[20] >= 3;
    /// VHE.
    vhe: mmfr1[8] >= 1;
    /// Hardware access flag.
    hw_af: mmfr1[0] >= 1;
    /// Hardware dirty state.
    hw_dbm: mmfr1[0] >= 2;
    /// Hierarchical permission disables.
    hpd: mmfr1[12] >= 1;
    /// FEAT_LOR.
    lor: mmfr1[16] >= 1;
    /// FEAT_HCX.
    hcx: mmfr1[40] >= 1;
    /// Reads of the feature ID space trap with EC 0x18.
    idst: mmfr2[36] >= 1;
    /// Small translation tables.
    ttst: mmfr2[28] >= 1;
    /// Stage 2 forced write-back.
    fwb: mmfr2[40] >= 1;
    /// Enhanced virtualization traps.
    evt: mmfr2[56] >= 2;
    /// Enhanced counter virtualization.
    ecv: mmfr0[60] >= 1;
    /// FEAT_RAS.
    ras: pfr0[28] >= 1;
    /// SCXTNUM_ELx.
    csv2_2: pfr0[56] >= 2;
    /// CFP, DVP, CPP RCTX.
    specres: isar1[40] >= 1;
    /// UAO.
    uao: mmfr2[4] >= 1;
    /// LSE2 (unaligned single-copy atomicity in 16 bytes).
    lse2: mmfr2[32] >= 1;
    /// E0PD.
    e0pd: mmfr2[60] >= 1;
    /// 16-bit ASIDs.
    asid16: mmfr0[4] >= 2;
}

impl Features {
    /// FP16 arithmetic.
    #[must_use]
    pub fn fp16(&self) -> bool {
        self.id.pfr0 >> 16 & 15 == 1
    }
    /// Level of address authentication: 0 none, 1 PAuth, 3 PAuth2, 4 FPAC, 5 FPACCOMBINE.
    #[must_use]
    pub fn pauth(&self) -> u64 {
        (self.id.isar1 >> 4 & 15).max(self.id.isar1 >> 8 & 15).max(self.id.isar2 >> 12 & 15)
    }
    /// Stage 2 has execute permissions of its own for EL0 (FEAT_XNX).
    #[must_use]
    pub fn xnx(&self) -> bool {
        self.id.mmfr1 >> 28 & 15 != 0
    }
    /// A performance monitors unit is there.
    #[must_use]
    pub fn pmu(&self) -> bool {
        matches!(self.id.dfr0 >> 8 & 15, 1..=14)
    }
    /// Physical address bits.
    #[must_use]
    pub fn pa_bits(&self) -> u32 {
        [32, 36, 40, 42, 44, 48][(self.id.mmfr0 & 15).min(5) as usize]
    }
    /// ID_AA64PFR0_EL1 with EL2 and EL3; the GIC field is the attached bank's.
    #[must_use]
    pub fn pfr0(&self) -> u64 {
        self.id.pfr0 | u64::from(self.el2) << 8 | u64::from(self.el3) << 12
    }
}
