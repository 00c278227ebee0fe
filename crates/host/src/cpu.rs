#![expect(unsafe_code, reason = "reads and writes MXCSR")]
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

/// Runs `f`, which may do floating-point arithmetic, without a trace in this thread's floating-point
/// control and exception flags: generated code may keep its guest's flags there.
#[cfg(target_arch = "x86_64")]
pub fn keep_fp_state<R>(f: impl FnOnce() -> R) -> R {
    let mut saved = 0u32;
    // SAFETY: stores MXCSR to a local variable.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut saved, options(nostack, preserves_flags));
    }
    let r = f();
    // SAFETY: a value that MXCSR had.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const saved, options(nostack, preserves_flags));
    }
    r
}

/// Runs `f`; generated code keeps nothing in this host's floating-point state.
#[cfg(not(target_arch = "x86_64"))]
pub fn keep_fp_state<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::hint::black_box;

    fn flags() -> u32 {
        let mut v = 0u32;
        // SAFETY: stores MXCSR to a local variable.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut v, options(nostack)) };
        v & 0x3f
    }

    #[test]
    fn arithmetic_leaves_no_flags_behind() {
        super::keep_fp_state(|| {
            let clear = 0x1f80u32;
            // SAFETY: the default value.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const clear) };
            let third = || black_box(1.0f64) / black_box(3.0);
            assert!(super::keep_fp_state(third) > 0.3);
            assert_eq!(flags(), 0);
            assert!(third() > 0.3);
            assert_eq!(flags(), 0x20, "the division is inexact");
        });
    }
}
