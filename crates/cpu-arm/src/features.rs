//! CPU models: identification registers and what follows from them.
//!
//! Translation, system registers and the MMU ask the ID registers themselves, so a model cannot
//! advertise what it lacks. Values of `cortex-a57` are from its TRM (DDI 0488). Deviation: AArch32
//! is not built, so no model advertises it (ID_AA64PFR0_EL1.ELx = 1).

/// Makes the features of a model.
pub type MakeFeatures = fn() -> Features;

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
        (self.id.isar1 >> 4 & 15).max(self.id.isar1 >> 8 & 15)
    }
    /// Physical address bits.
    #[must_use]
    pub fn pa_bits(&self) -> u32 {
        [32, 36, 40, 42, 44, 48, 52][(self.id.mmfr0 & 15).min(5) as usize]
    }
    /// ID_AA64PFR0_EL1 with EL2 and EL3; the GIC field is the attached bank's.
    #[must_use]
    pub fn pfr0(&self) -> u64 {
        self.id.pfr0 | u64::from(self.el2) << 8 | u64::from(self.el3) << 12
    }

    /// Cortex-A57 r1p0.
    #[must_use]
    pub fn cortex_a57() -> Self {
        let id = IdRegs {
            midr: 0x411f_d070,
            ctr: 0x8444_c004,
            clidr: 0x0a20_0023,
            ccsidr: [0x701f_e00a, 0x201f_e012, 0x70ff_e07a],
            dczid: 4,
            pfr0: 0x11,
            dfr0: 0x1030_5006, // PMUv3 not built (PMUVer = 0)
            isar0: 0x0001_1120,
            mmfr0: 0x1124,
            ..IdRegs::default()
        };
        Self { model: "cortex-a57", id, cntfrq: 62_500_000, el2: false, el3: false }
    }

    /// `max`: everything that is built. docs/status.md lists what QEMU's `max` has beyond it.
    #[must_use]
    pub fn max() -> Self {
        let id = IdRegs {
            midr: 0x000f_0510,
            ctr: 0xb444_c004, // DIC, IDC: no cache maintenance needed
            dczid: 7,
            // EL0, EL1; FP16, AdvSIMD FP16; DIT; CSV2, CSV3
            pfr0: 0x1101_0000_0011_0011,
            pfr1: 0x21, // BTI, SSBS2
            // RNDR, TLB=2, TS=2 FlagM2, FHM, DP, SHA3, SM3, SM4, RDM, Atomic=2, CRC32, SHA2=2, SHA1, AES=2
            isar0: 0x1221_1111_1021_2120,
            // SB, FRINTTS, GPI, LRCPC=2, FCMA, JSCVT, API=5, DPB=2
            isar1: 0x0011_1021_1502,
            isar2: 0x2, // WFxT
            // 48-bit PA, 16-bit ASID, mixed endian, S/NS memory, 4 KiB, 16 KiB, 64 KiB granules
            mmfr0: 0x0000_0000_0010_1125,
            // HAFDBS=2, VMID16, VHE, HPDS, PAN3, XNX
            mmfr1: 0x0000_0000_1030_1122,
            // CnP, UAO, LSE2 (AT), E0PD
            mmfr2: 0x1000_0001_0000_0011,
            dfr0: 0x0000_0000_1010_5006,
            ..Self::cortex_a57().id
        };
        Self { model: "max", id, cntfrq: 1_000_000_000, ..Self::cortex_a57() }
    }

    /// The models, by `-cpu` name.
    pub const MODELS: &'static [(&'static str, MakeFeatures)] =
        &[("cortex-a57", Self::cortex_a57), ("max", Self::max)];
}
