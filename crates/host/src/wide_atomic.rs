//! 16-byte compare-and-swap.
//!
//! UNSAFE: works on raw addresses (guest RAM). On x86-64 with `cmpxchg16b` it is one instruction; on
//! other hosts a process-wide lock makes it atomic against itself only, which
//! [`is_lock_free`] tells.

#![expect(unsafe_code, reason = "raw guest RAM")]

#[cfg(target_arch = "x86_64")]
mod imp {
    pub(super) fn is_lock_free() -> bool {
        std::arch::is_x86_feature_detected!("cmpxchg16b")
    }

    pub(super) unsafe fn load(at: *mut u128) -> u128 {
        if !std::arch::is_x86_feature_detected!("avx") {
            // SAFETY: the caller's promise; what is compared equal is stored back.
            return unsafe { cas(at, 0, 0) };
        }
        let (lo, hi): (u64, u64);
        // SAFETY: aligned and readable, as promised. Processors with AVX load aligned 16 bytes at once.
        unsafe {
            std::arch::asm!(
                "movdqa {x}, [{at}]",
                "movq {lo}, {x}",
                "pextrq {hi}, {x}, 1",
                at = in(reg) at,
                x = out(xmm_reg) _,
                lo = out(reg) lo,
                hi = out(reg) hi,
                options(nostack, preserves_flags),
            );
        }
        u128::from(lo) | u128::from(hi) << 64
    }

    pub(super) unsafe fn cas(at: *mut u128, old: u128, new: u128) -> u128 {
        let (mut lo, mut hi) = (old as u64, (old >> 64) as u64);
        // SAFETY: `super::cas` checked the feature; the pointer is the caller's promise. rbx cannot be
        // named as an operand, so it is exchanged around the instruction.
        unsafe {
            std::arch::asm!(
                "xchg {new_lo}, rbx",
                "lock cmpxchg16b [{at}]",
                "mov rbx, {new_lo}",
                at = in(reg) at,
                new_lo = inout(reg) new as u64 => _,
                in("rcx") (new >> 64) as u64,
                inout("rax") lo,
                inout("rdx") hi,
                options(nostack),
            );
        }
        u128::from(lo) | u128::from(hi) << 64
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    pub(super) fn is_lock_free() -> bool {
        false
    }
    pub(super) unsafe fn cas(_: *mut u128, old: u128, _: u128) -> u128 {
        old
    }
    pub(super) unsafe fn load(_: *mut u128) -> u128 {
        0
    }
}

static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Whether 16-byte operations are atomic against plain stores too.
#[must_use]
pub fn is_lock_free() -> bool {
    imp::is_lock_free()
}

/// Loads 16 bytes at once, where [`is_lock_free`].
///
/// # Safety
/// `at` must be 16-byte aligned and valid for reads and writes.
pub unsafe fn load(at: *mut u128) -> u128 {
    if imp::is_lock_free() {
        // SAFETY: the caller's promise.
        return unsafe { imp::load(at) };
    }
    let _guard = LOCK.lock();
    // SAFETY: the caller's promise.
    unsafe { at.read_volatile() }
}

/// Compare-and-swap; gives the old content.
///
/// # Safety
/// `at` must be 16-byte aligned and valid for reads and writes.
pub unsafe fn cas(at: *mut u128, old: u128, new: u128) -> u128 {
    if imp::is_lock_free() {
        // SAFETY: the feature is there; the pointer is the caller's promise.
        return unsafe { imp::cas(at, old, new) };
    }
    let _guard = LOCK.lock();
    // SAFETY: the caller's promise.
    let now = unsafe { at.read_volatile() };
    if now == old {
        // SAFETY: as above.
        unsafe { at.write_volatile(new) };
    }
    now
}

#[cfg(test)]
mod tests {
    #[test]
    fn swaps_only_when_equal() {
        #[repr(align(16))]
        struct A(u128);
        let mut a = A(5);
        // SAFETY: aligned and live.
        unsafe {
            assert_eq!(super::cas(&raw mut a.0, 4, 9), 5);
            assert_eq!(super::cas(&raw mut a.0, 5, 9), 5);
        }
        assert_eq!(a.0, 9);
    }
}
