//! Keeping other programs off an image: byte locks in the file, the same bytes that QEMU uses.
//!
//! Byte 100 + n is locked while permission n is used, byte 200 + n while others may not have it
//! (n: 0 consistent read, 1 write, 2 write unchanged, 3 resize). Locks are shared ones and belong
//! to the open file description; a conflict is found by asking for the opposite byte.
//! Source: observed with QEMU 10.0 (`/proc/locks`).

use std::fs::File;

use qapi::{Error, Result};

const USED: u64 = 100;
const UNSHARED: u64 = 200;
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];

/// Permissions of a user of a file.
#[derive(Clone, Copy)]
pub(crate) struct Wants {
    /// Bits that are used.
    pub(crate) used: u8,
    /// Bits that others may have.
    pub(crate) shared: u8,
}

impl Wants {
    pub(crate) fn of(writable: bool, share: bool) -> Wants {
        let used = if writable { 0b1011 } else { 0b0001 };
        Wants { used, shared: if share { 0b1111 } else { 0b0101 } }
    }
}

/// Changes what is locked; on an error the old locks stay.
pub(crate) fn change(file: &File, path: &str, from: Wants, to: Wants) -> Result<()> {
    let union = Wants { used: from.used | to.used, shared: from.shared & to.shared };
    if let Err(error) = lock(file, path, union) {
        release(file, union, from);
        return Err(error);
    }
    release(file, union, to);
    Ok(())
}

/// Unlocks what `all` has and `keep` has not.
fn release(file: &File, all: Wants, keep: Wants) {
    for (n, bit) in (0u64..4).map(|n| (n, 1u8 << n)) {
        if all.used & bit != 0 && keep.used & bit == 0 {
            _ = host::unlock_byte(file, USED + n);
        }
        if all.shared & bit == 0 && keep.shared & bit != 0 {
            _ = host::unlock_byte(file, UNSHARED + n);
        }
    }
}

/// Locks the file for as long as it is open.
pub(crate) fn lock(file: &File, path: &str, wants: Wants) -> Result<()> {
    let bits = || (0u64..).zip(NAMES).map(|(n, name)| (n, 1u8 << n, name));
    let in_use = |what: String| {
        Error::generic(what).with_hint(format!("Is another process using the image [{path}]?"))
    };
    for (n, bit, _) in bits() {
        let locks = [(wants.used & bit != 0, USED + n), (wants.shared & bit == 0, UNSHARED + n)];
        for (_, byte) in locks.into_iter().filter(|(wanted, _)| *wanted) {
            if let Err(error) = host::lock_byte(file, byte) {
                if error.kind() == std::io::ErrorKind::WouldBlock {
                    return Err(in_use(format!("Failed to lock byte {byte}")));
                }
                // File systems without locks: nothing can be kept off.
                return Ok(());
            }
        }
    }
    for (n, bit, name) in bits() {
        let taken = |byte: u64| host::is_byte_locked(file, byte).unwrap_or(false);
        if wants.used & bit != 0 && taken(UNSHARED + n) {
            return Err(in_use(format!("Failed to get \"{name}\" lock")));
        }
        if wants.shared & bit == 0 && taken(USED + n) {
            return Err(in_use(format!("Failed to get shared \"{name}\" lock")));
        }
    }
    Ok(())
}
