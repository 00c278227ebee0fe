//! Tasks that drive a whole Debian machine by the scripts in `tests/scripts`: `libvirt`, `savevm`,
//! `example`, `lifecycle`, `programs`, `compile`.
//!
//! The disk is that of `cargo xtask guests image arm64`, or the one that `IMAGE` names.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, guests, image, packages, root, steps};

const PYTHON: &[(&str, &str)] = &[
    ("/usr/bin/python3", "python3"),
    ("/usr/lib/python3/dist-packages/pexpect/__init__.py", "python3-pexpect"),
    ("sshpass", "sshpass"),
    ("ssh", "openssh-client"),
    ("qemu-img", "qemu-utils"),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "qemu-efi-aarch64"),
];
const LIBVIRT: &[(&str, &str)] = &[
    ("libvirtd", "libvirt-daemon"),
    ("/etc/libvirt/qemu.conf", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("pgrep", "procps"),
];

/// A script with the emulator and the disk it works on.
fn script(name: &str) -> Result<Command> {
    packages::need(PYTHON)?;
    let image = match std::env::var_os("IMAGE") {
        Some(path) => path.into(),
        None => image::make()?,
    };
    let emulator: PathBuf = match std::env::var_os("TINAMOU") {
        Some(path) => path.into(),
        None => steps::build_release()?,
    };
    let mut command = Command::new("/usr/bin/python3");
    command.arg(root().join("tests/scripts").join(name)).env("EMU", emulator).env("IMAGE", image);
    Ok(command)
}

/// `cargo xtask libvirt`.
pub(crate) fn libvirt(_: &[String]) -> Result<()> {
    packages::need(LIBVIRT)?;
    let guest = guests::fetch()?;
    let mut command = script("libvirt.py")?;
    command.env("KERNEL", guest.kernel).env("INITRD", guest.initrd);
    steps::run("a guest's life under libvirt", &mut command)
}

/// `cargo xtask lifecycle`.
pub(crate) fn lifecycle(_: &[String]) -> Result<()> {
    steps::run("the life of the worked example's machine", &mut script("lifecycle.py")?)
}

/// `cargo xtask savevm [ROUNDS]`.
pub(crate) fn savevm(args: &[String]) -> Result<()> {
    let mut command = script("savevm.py")?;
    command.env("ROUNDS", args.first().map_or("50", String::as_str));
    steps::run("snapshots of a guest under load", &mut command)
}

/// `cargo xtask example [ROUNDS]`: paired where QEMU is installed.
pub(crate) fn example(args: &[String]) -> Result<()> {
    let mut command = script("example.py")?;
    command.env("ROUNDS", args.first().map_or("1", String::as_str));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let peer = std::env::split_paths(&path).map(|dir| dir.join("qemu-system-aarch64"));
    if let Some(peer) = { peer }.find(|file| file.is_file()) {
        command.env("PEER", peer);
    }
    steps::run("the manual's worked example", &mut command)
}

/// `cargo xtask bench programs [ROUNDS]`.
pub(crate) fn programs(args: &[String]) -> Result<()> {
    let mut command = script("programs.py")?;
    command.env("ROUNDS", args.first().map_or("2", String::as_str));
    command.env("CACHE", guests::fetch()?.dir);
    steps::run("programs in a Debian guest", &mut command)
}

/// `cargo xtask stress compile [MINUTES] [CPUS]`.
pub(crate) fn compile(args: &[String], accel: &str) -> Result<()> {
    let mut command = script("compile.py")?;
    command.env("MINUTES", args.first().map_or("30", String::as_str));
    command.env("CPUS", args.get(1).map_or("4", String::as_str));
    command.env("ACCEL", accel).env("CACHE", guests::fetch()?.dir);
    steps::run("compiling in a Debian guest", &mut command)
}
