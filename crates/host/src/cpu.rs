//! Features of the host processor that a JIT may use.

/// Host CPU features, probed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// x86: SSE4.2.
    pub sse42: bool,
    /// x86: AVX2.
    pub avx2: bool,
    /// x86: fused multiply-add.
    pub fma: bool,
    /// x86: BMI1 (ANDN, TZCNT).
    pub bmi1: bool,
    /// x86: BMI2 (SHLX, RORX, MULX).
    pub bmi2: bool,
    /// x86: LZCNT.
    pub lzcnt: bool,
    /// x86: POPCNT.
    pub popcnt: bool,
    /// x86: MOVBE.
    pub movbe: bool,
    /// x86: CMPXCHG16B.
    pub cmpxchg16b: bool,
    /// x86: AES-NI.
    pub aes: bool,
    /// x86: PCLMULQDQ.
    pub pclmulqdq: bool,
    /// x86: half-precision conversion.
    pub f16c: bool,
}

impl Features {
    /// Asks the processor this program runs on.
    #[must_use]
    #[cfg(target_arch = "x86_64")]
    pub fn probe() -> Features {
        use std::is_x86_feature_detected as has;
        Features {
            sse42: has!("sse4.2"),
            avx2: has!("avx2"),
            fma: has!("fma"),
            bmi1: has!("bmi1"),
            bmi2: has!("bmi2"),
            lzcnt: has!("lzcnt"),
            popcnt: has!("popcnt"),
            movbe: has!("movbe"),
            cmpxchg16b: has!("cmpxchg16b"),
            aes: has!("aes"),
            pclmulqdq: has!("pclmulqdq"),
            f16c: has!("f16c"),
        }
    }

    /// Asks the processor this program runs on: nothing to ask here.
    #[must_use]
    #[cfg(not(target_arch = "x86_64"))]
    pub fn probe() -> Features {
        Features::default()
    }
}
