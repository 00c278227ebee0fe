//! The CPU models: identification registers as QEMU 10.0 shows them, read there by a program.
//!
//! Deviations, all towards less: AArch32 is not built, so ID_AA64PFR0_EL1.{EL0, EL1} are 1 in every
//! model; and what `max` lacks of QEMU's is left out of the register that would advertise it
//! ([`MAX_LACKS`]). Implementation defined registers are constants.
//! Sources: TRMs of Cortex-A53 (DDI 0500), -A57 (DDI 0488), -A72 (100095), -A76 (100798) and
//! Neoverse N1 (100616); observed behaviour of QEMU 10.0.

use crate::features::{Features, IdRegs, Impdef, Pac};

/// An ID register field in which `max` shows less than QEMU's.
#[derive(Clone, Copy, Debug)]
pub struct Lack {
    /// Register name.
    pub reg: &'static str,
    /// Lowest bit of the field.
    pub at: u32,
    /// QEMU's value.
    pub theirs: u64,
    /// Our value.
    pub ours: u64,
    /// What is missing.
    pub what: &'static str,
}

const fn lack(reg: &'static str, at: u32, theirs: u64, ours: u64, what: &'static str) -> Lack {
    Lack { reg, at, theirs, ours, what }
}

/// What `max` (with `sve=off,sme=off`) shows less than QEMU 10.0's.
pub const MAX_LACKS: &[Lack] = &[
    lack("ID_AA64PFR0_EL1", 0, 2, 1, "AArch32 at EL0"),
    lack("ID_AA64PFR0_EL1", 4, 2, 1, "AArch32 at EL1"),
    lack("ID_AA64PFR0_EL1", 36, 1, 0, "Secure EL2"),
    lack("ID_AA64PFR1_EL1", 8, 1, 0, "MTE instructions"),
    lack("ID_AA64PFR1_EL1", 36, 1, 0, "non-maskable interrupts"),
    lack("ID_AA64ISAR1_EL1", 44, 2, 1, "extended BFloat16 behaviours (FPCR.EBF)"),
    lack("ID_AA64ISAR2_EL1", 4, 1, 0, "12-bit reciprocal estimates (FPCR.AH)"),
    lack("ID_AA64ISAR2_EL1", 16, 1, 0, "memory copy and set instructions"),
    lack("ID_AA64MMFR0_EL1", 0, 6, 5, "52-bit physical addresses"),
    lack("ID_AA64MMFR0_EL1", 20, 2, 1, "52-bit addresses with 16 KiB pages"),
    lack("ID_AA64MMFR0_EL1", 28, 1, 0, "52-bit addresses with 4 KiB pages"),
    lack("ID_AA64MMFR0_EL1", 32, 3, 2, "stage 2 of the same, 16 KiB"),
    lack("ID_AA64MMFR0_EL1", 40, 3, 2, "stage 2 of the same, 4 KiB"),
    lack("ID_AA64MMFR0_EL1", 60, 2, 1, "CNTPOFF_EL2"),
    lack("ID_AA64MMFR0_EL1", 56, 1, 0, "fine-grained traps"),
    lack("ID_AA64MMFR1_EL1", 44, 1, 0, "alternate floating-point behaviour (FPCR.AH, NEP, FIZ)"),
    lack("ID_AA64MMFR2_EL1", 16, 1, 0, "52-bit virtual addresses with 64 KiB pages"),
    lack("ID_AA64MMFR2_EL1", 24, 2, 0, "nested virtualization"),
];

const BASE: IdRegs = IdRegs {
    midr: 0x411f_d070,
    revidr: 0,
    ctr: 0x8444_c004,
    clidr: 0x0a20_0023,
    ccsidr: [0x700f_e01a, 0x201f_e012, 0x70ff_e07a],
    dczid: 4,
    pfr0: 0x11,
    pfr1: 0,
    dfr0: 0x1030_5106,
    isar0: 0x0001_1120,
    isar1: 0,
    isar2: 0,
    mmfr0: 0x1124,
    mmfr1: 0,
    mmfr2: 0,
    mmfr3: 0,
    aarch32: [
        [0x131, 0x1_0001, 0x0300_0006, 0, 0x1010_1105, 0x4000_0000, 0x0126_0000, 0x0210_2211],
        [0x0210_1110, 0x1311_2111, 0x2123_2042, 0x0111_2131, 0x1_1142, 0x1_1121, 0, 0],
        [0x1011_0222, 0x1211_1111, 0x43, 0, 0, 0, 0, 0],
    ],
};

const A57: Features = Features {
    model: "cortex-a57",
    id: BASE,
    cntfrq: 62_500_000,
    el2: false,
    el3: false,
    pac: Pac::Impdef,
    pmcr: 0x4101_0000,
    sctlr: 0x00c5_0838,
    // The GIC's base on the board that these CPUs are used with.
    cbar: 0x0800_0000,
    rvbar: None,
    impdef: Impdef::CortexA57,
};

const A53: Features = Features {
    model: "cortex-a53",
    id: IdRegs {
        midr: 0x410f_d034,
        revidr: 0x100,
        ctr: 0x8444_8004,
        ccsidr: [0x700f_e01a, 0x203f_e002, 0x707f_e07a],
        mmfr0: 0x1122,
        ..BASE
    },
    pmcr: 0x4103_0000,
    ..A57
};

const A72: Features = Features {
    model: "cortex-a72",
    id: IdRegs {
        midr: 0x410f_d083,
        ccsidr: [0x700f_e01a, 0x201f_e012, 0x707f_e07a],
        aarch32: [
            [0x131, 0x1_0001, 0x0300_0006, 0, 0x1020_1105, 0x4000_0000, 0x0126_0000, 0x0210_2211],
            BASE.aarch32[1],
            BASE.aarch32[2],
        ],
        ..BASE
    },
    pmcr: 0x4102_0000,
    ..A57
};

const A76: Features = Features {
    model: "cortex-a76",
    id: IdRegs {
        midr: 0x414f_d0b1,
        clidr: 0x8200_0023,
        ccsidr: [0x701f_e01a, 0x201f_e01a, 0x707f_e03a],
        pfr0: 0x1100_0000_1011_0011,
        pfr1: 0x10,
        dfr0: 0x1030_5408,
        isar0: 0x0000_1000_1021_1120,
        isar1: 0x0010_0001,
        mmfr0: 0x0010_1122,
        mmfr1: 0x1021_2122,
        mmfr2: 0x1011,
        aarch32: [
            [
                0x1001_0131,
                0x1_0000,
                0x0400_0008,
                0,
                0x1020_1105,
                0x4000_0000,
                0x0126_0000,
                0x0212_2211,
            ],
            [
                0x0210_1110,
                0x1311_2111,
                0x2123_2042,
                0x0111_2131,
                0x1_0142,
                0x0101_1121,
                0x2_1110,
                0x10,
            ],
            [0x1011_0222, 0x1321_1111, 0x43, 0, 0x11, 0, 0, 0],
        ],
        ..BASE
    },
    pmcr: 0x410b_0000,
    sctlr: 0x30c5_0838,
    impdef: Impdef::None,
    ..A57
};

const N1: Features = Features {
    model: "neoverse-n1",
    id: IdRegs {
        midr: 0x414f_d0c1,
        ccsidr: [0x701f_e01a, 0x201f_e01a, 0x70ff_e03a],
        pfr1: 0x20,
        mmfr0: 0x0010_1125,
        ..A76.id
    },
    pmcr: 0x410c_0000,
    impdef: Impdef::NeoverseN1,
    ..A76
};

/// QEMU's `max` without SVE and SME.
const THEIR_MAX: IdRegs = IdRegs {
    midr: 0x000f_0510,
    ctr: 0xb444_c004,
    clidr: 0x0200_0023,
    pfr0: 0x1301_0010_2011_0022,
    pfr1: 0x0010_0000_0121,
    dfr0: 0x1000_0000_1030_560a,
    isar0: 0x1221_1111_1021_2120,
    isar1: 0x0111_2111_1021_1502,
    isar2: 0x11_0012,
    mmfr0: 0x2100_0323_1020_1126,
    mmfr1: 0x0110_1120_1031_2122,
    mmfr2: 0x1221_0111_1201_1011,
    mmfr3: 1 << 60,
    aarch32: [
        [0x1102_0131, 0x1_0001, 0x0600_000a, 0, 0x1010_1105, 0x4000_0000, 0x0126_0000, 0x0212_2211],
        [
            0x0210_1110,
            0x1311_2111,
            0x2123_2042,
            0x0111_2131,
            0x1_1142,
            0x1101_1121,
            0x2002_1110,
            0x0111_1111,
        ],
        [0x1011_0222, 0x1321_1111, 0x43, 0, 0x11, 0x10, 2, 0],
    ],
    ..BASE
};

/// An ID register by name (what [`MAX_LACKS`] uses).
#[must_use]
pub fn register(id: &IdRegs, name: &str) -> u64 {
    match name {
        "ID_AA64PFR0_EL1" => id.pfr0,
        "ID_AA64PFR1_EL1" => id.pfr1,
        "ID_AA64DFR0_EL1" => id.dfr0,
        "ID_AA64ISAR0_EL1" => id.isar0,
        "ID_AA64ISAR1_EL1" => id.isar1,
        "ID_AA64ISAR2_EL1" => id.isar2,
        "ID_AA64MMFR0_EL1" => id.mmfr0,
        "ID_AA64MMFR1_EL1" => id.mmfr1,
        "ID_AA64MMFR2_EL1" => id.mmfr2,
        "ID_AA64MMFR3_EL1" => id.mmfr3,
        _ => 0,
    }
}

/// The same, to change.
fn register_mut<'a>(id: &'a mut IdRegs, name: &str) -> Option<&'a mut u64> {
    Some(match name {
        "ID_AA64PFR0_EL1" => &mut id.pfr0,
        "ID_AA64PFR1_EL1" => &mut id.pfr1,
        "ID_AA64DFR0_EL1" => &mut id.dfr0,
        "ID_AA64ISAR1_EL1" => &mut id.isar1,
        "ID_AA64ISAR2_EL1" => &mut id.isar2,
        "ID_AA64MMFR0_EL1" => &mut id.mmfr0,
        "ID_AA64MMFR1_EL1" => &mut id.mmfr1,
        "ID_AA64MMFR2_EL1" => &mut id.mmfr2,
        _ => return None,
    })
}

impl Features {
    /// Cortex-A57 r1p0.
    #[must_use]
    pub fn cortex_a57() -> Self {
        A57
    }

    /// `max`: QEMU's less [`MAX_LACKS`].
    #[must_use]
    pub fn max() -> Self {
        let mut id = THEIR_MAX;
        for l in MAX_LACKS {
            if let Some(r) = register_mut(&mut id, l.reg) {
                *r = *r & !(15 << l.at) | l.ours << l.at;
            }
        }
        Self { model: "max", id, cntfrq: 1_000_000_000, pmcr: 0x4101_0000, ..A57 }
    }

    /// The model of this name.
    #[must_use]
    pub fn of_model(name: &str) -> Option<Self> {
        Some(match name {
            "cortex-a53" => A53,
            "cortex-a57" => A57,
            "cortex-a72" => A72,
            "cortex-a76" => A76,
            "neoverse-n1" => N1,
            "max" => Self::max(),
            _ => return None,
        })
    }
}
