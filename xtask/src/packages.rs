//! Debian packages that demo and tests need.

use std::process::{Command, Stdio};

use crate::Result;

/// For tests: a device tree compiler to compare trees, a cross compiler for bare-metal guests, a debugger.
pub(crate) const TEST: &[(&str, &str)] = &[
    ("dtc", "device-tree-compiler"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("cc", "gcc"),
    ("gdb-multiarch", "gdb-multiarch"),
];

fn have(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|d| d.join(tool).is_file())
}

fn is_root() -> bool {
    let out = Command::new("id").arg("-u").output();
    out.is_ok_and(|o| o.stdout.starts_with(b"0\n"))
}

/// apt-get with root rights, quiet.
pub(crate) fn apt(args: &[&str]) -> Result<()> {
    let mut c = if is_root() {
        Command::new("apt-get")
    } else {
        let mut c = Command::new("sudo");
        c.arg("apt-get");
        c
    };
    c.args(["-q", "-y", "-o", "Dpkg::Use-Pty=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let status = c.stdout(Stdio::null()).status().map_err(|e| format!("apt-get: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("apt-get {} failed", args.join(" "))) }
}

/// Installs the packages of tools that are missing.
pub(crate) fn need(tools: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = tools.iter().filter(|(t, _)| !have(t)).map(|(_, p)| *p).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("==> installing Debian packages: {}", missing.join(" "));
    apt(&["update"])?;
    let mut args = vec!["install", "--no-install-recommends"];
    args.extend(&missing);
    apt(&args)
}
