//! Debian packages that demo and tests need.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// For tests: firmware, ROMs of network cards, namespaces, servers of disks and networks, a device tree compiler to compare trees, a cross compiler for bare-metal guests, a debugger.
pub(crate) const TEST: &[(&str, &str)] = &[
    ("/usr/lib/u-boot/qemu_arm64/u-boot.bin", "u-boot-qemu"),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "qemu-efi-aarch64"),
    ("/usr/lib/ipxe/qemu/efi-e1000e.rom", "ipxe-qemu"),
    ("ip", "iproute2"),
    ("passt", "passt"),
    ("dpdk-testpmd", "dpdk-dev"),
    ("qemu-nbd", "qemu-utils"),
    ("nbdkit", "nbdkit"),
    ("dtc", "device-tree-compiler"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("cc", "gcc"),
    ("gdb-multiarch", "gdb-multiarch"),
    ("python3", "python3"),
    ("pip3", "python3-pip"),
];

fn have(tool: &str) -> bool {
    if tool.starts_with('/') {
        return Path::new(tool).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|d| d.join(tool).is_file())
}

/// Downloads a package of another architecture into a folder, with lists of its own beside it.
pub(crate) fn download_foreign(dir: &Path, architecture: &str, package: &str) -> Result<()> {
    let io = |e: std::io::Error| format!("{}: {e}", dir.display());
    for sub in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(dir.join(sub)).map_err(io)?;
    }
    let list = dir.join("sources.list");
    std::fs::write(&list, "deb http://deb.debian.org/debian bookworm main\n").map_err(io)?;
    let option = |key: &str, value: &str| format!("-o{key}={value}");
    let options = [
        option("Dir::Etc::sourcelist", &list.to_string_lossy()),
        option("Dir::Etc::sourceparts", "/dev/null"),
        option("Dir::State::lists", &dir.join("lists").to_string_lossy()),
        option("Dir::Cache", &dir.join("cache").to_string_lossy()),
        option("APT::Architecture", architecture),
        option("APT::Architectures", architecture),
    ];
    for args in [&["-qq", "update"][..], &["-qq", "download", package]] {
        let mut get = Command::new("apt-get");
        let status = get.args(&options).args(args).current_dir(dir).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("apt-get {} failed", args.join(" ")));
        }
    }
    Ok(())
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

/// Installs the Python package `qemu.qmp` into a folder of its own, unless it is there.
pub(crate) fn python(target: &Path) -> Result<PathBuf> {
    let dir = target.join("python");
    if dir.join("qemu/qmp").is_dir() {
        return Ok(dir);
    }
    eprintln!("==> installing the Python package qemu.qmp into {}", dir.display());
    let mut pip = Command::new("pip3");
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    pip.arg("--target").arg(&dir).arg("qemu.qmp");
    let status = pip.status().map_err(|e| format!("pip3: {e}"))?;
    if status.success() { Ok(dir) } else { Err("pip3 install qemu.qmp failed".into()) }
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
