//! Disks of the host whose bytes lie in memory, for benchmarks that go past the page cache: a loop
//! device over a file in `/dev/shm`. What is measured on them is the program and the kernel's way
//! to a disk, and not the disk. They need root and a file system in memory; both go when the value
//! is dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// A loop device.
pub(crate) struct RamDisk {
    pub(crate) device: PathBuf,
    file: PathBuf,
}

impl RamDisk {
    /// A disk with the bytes of a file.
    pub(crate) fn copy_of(from: &Path, name: &str) -> Result<RamDisk> {
        let file = format!("/dev/shm/tinamou-bench-{}-{name}", std::process::id());
        let file = PathBuf::from(file);
        let copied = std::fs::copy(from, &file);
        let disk = RamDisk { device: PathBuf::new(), file };
        copied.map_err(|e| format!("{}: {e}", disk.file.display()))?;
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--direct-io=off"]).arg(&disk.file);
        let out = attach.output().map_err(|e| format!("losetup: {e}"))?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
        }
        let device = String::from_utf8_lossy(&out.stdout).trim().into();
        let mut disk = disk;
        disk.device = device;
        Ok(disk)
    }
}

impl Drop for RamDisk {
    fn drop(&mut self) {
        if !self.device.as_os_str().is_empty() {
            _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
        }
        _ = std::fs::remove_file(&self.file);
    }
}
