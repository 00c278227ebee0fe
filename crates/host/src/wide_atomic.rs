//! 16-byte compare-and-swap.
//!
//! UNSAFE: works on raw addresses (guest RAM). On x86-64 with `cmpxchg16b` it is one instruction; on
//! other hosts a process-wide lock makes it atomic against itself only, which
//! [`is_lock_free`] tells.

#![expect(unsafe_code, reason = "raw guest RAM")]

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::sync::atomic::Ordering;

    pub(super) fn is_lock_free() -> bool {
        std::arch::is_x86_feature_detected!("cmpxchg16b")
    }

    pub(super) unsafe fn cas(at: *mut u128, old: u128, new: u128) -> u128 {
        #[target_feature(enable = "cmpxchg16b")]
        unsafe fn one(at: *mut u128, old: u128, new: u128) -> u128 {
            // SAFETY: passed on to the caller of `cas`.
            unsafe {
                std::arch::x86_64::cmpxchg16b(at, old, new, Ordering::SeqCst, Ordering::SeqCst)
            }
        }
        // SAFETY: `super::cas` checked the feature; the pointer is the caller's promise.
        unsafe { one(at, old, new) }
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
}

static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Whether 16-byte operations are atomic against plain stores too.
#[must_use]
pub fn is_lock_free() -> bool {
    imp::is_lock_free()
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
