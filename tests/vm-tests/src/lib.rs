//! Whole machines from outside: start one, watch its console, talk to its monitor.
//!
//! [`Vm`] runs an emulator with its console on standard input and output. Every wait ends by an
//! event (text, end of output, a reply) or at the machine's one deadline; nothing sleeps. [`Qmp`]
//! is a line-wise client: the emulator connects to the test, so there is no race at the start.
//!
//! Environment: `TINAMOU` is the binary named `tinamou-system-aarch64`, `TINAMOU_GUESTS` a folder
//! with `linux`, `initrd.gz`, `initrd-tinamou` (both set by `cargo xtask test`).

pub mod bare;
pub mod initrd;
mod qmp;
pub mod tables;
mod vm;

pub use qmp::{Listener, Qmp};
pub use vm::{Ended, Vm};

use std::path::PathBuf;

fn folder(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    PathBuf::from(value.unwrap_or_else(|| panic!("{name} is not set: use `cargo xtask test`")))
}

/// The emulator under test.
pub fn emulator() -> PathBuf {
    folder("TINAMOU")
}

/// A file of the Debian guest.
pub fn guest(file: &str) -> String {
    folder("TINAMOU_GUESTS").join(file).display().to_string()
}

/// A file name of this process's own in the temporary folder.
pub fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tinamou-{}-{name}", std::process::id()))
}

/// A program on `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
