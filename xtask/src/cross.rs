//! `cargo xtask cross`: the program for arm64 Linux hosts, and tests of what runs there in place of the JIT.
//!
//! Rust's own channel has no standard library for arm64 that this task could add without touching the
//! developer's toolchain, so it takes Debian's compiler 1.96 (`rustc-web`) with the arm64 library of the same
//! build, unpacked under the target folder, and Debian's cross linker. Then it builds `tinamou` for
//! `aarch64-unknown-linux-gnu`, and runs the interpreter's and the decoders' tests there by user-mode
//! emulation (`qemu-user`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, packages, steps};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Packages of the compiler for this host.
const COMPILER: [&str; 4] = ["rustc-web", "libstd-rust-web-1.96", "libllvm22", LIBRARY];
/// The library, for build scripts here and for the program there.
const LIBRARY: &str = "libstd-rust-web-dev";
/// Tools that are installed.
const TOOLS: &[(&str, &str)] =
    &[("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user")];
/// Packages whose tests run: what takes the place of a host back end, and the decoders.
const TESTED: [&str; 4] = ["jit-interp", "jit-ir", "decodetree", "cpu-arm"];

fn say(e: impl std::fmt::Display, path: &Path) -> String {
    format!("{}: {e}", path.display())
}

/// Downloads packages of an architecture and unpacks them into `root`.
fn unpack(root: &Path, arch: &str, names: &[&str]) -> Result<()> {
    let work = root.join(format!("packages-{arch}"));
    let state = root.join(format!("apt-{arch}"));
    for d in [&work, &state.join("lists/partial"), &state.join("cache/archives/partial")] {
        fs::create_dir_all(d).map_err(|e| say(e, d))?;
    }
    fs::write(state.join("status"), "").map_err(|e| say(e, &state))?;
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    let apt = |args: &[&str]| {
        let mut c = Command::new("apt-get");
        c.args(["-q", "-o", &format!("APT::Architecture={arch}"), "-o", "APT::Sandbox::User="])
            .args(["-o", &format!("APT::Architectures={arch}")])
            .args(["-o", &option("Dir::State::lists", &state.join("lists"))])
            .args(["-o", &option("Dir::State::status", &state.join("status"))])
            .args(["-o", &option("Dir::Cache", &state.join("cache"))])
            .args(args)
            .current_dir(&work);
        c
    };
    let run = |what: &str, mut c: Command| {
        eprintln!("==> {what}");
        match c.status() {
            Ok(s) if s.success() => Ok(()),
            Ok(s) => Err(format!("{what} failed ({s})")),
            Err(e) => Err(format!("{what}: {e}")),
        }
    };
    run(&format!("reading Debian's lists for {arch}"), apt(&["update"]))?;
    let what = format!("downloading {} ({arch})", names.join(" "));
    run(&what, apt(&[&["download"], names].concat()))?;
    let list = fs::read_dir(&work).map_err(|e| say(e, &work))?;
    for deb in list.filter_map(std::result::Result::ok).map(|e| e.path()) {
        if deb.extension().is_some_and(|e| e == "deb") {
            let mut c = Command::new("dpkg");
            c.arg("-x").arg(&deb).arg(root);
            run(&format!("unpacking {}", deb.display()), c)?;
        }
    }
    fs::remove_dir_all(&work).map_err(|e| say(e, &work))
}

/// The compiler's wrapper, made if need be.
fn compiler(root: &Path) -> Result<PathBuf> {
    let wrapper = root.join("rustc");
    let library = root.join("usr/lib/rustlib").join(TARGET);
    if wrapper.exists() && library.exists() {
        return Ok(wrapper);
    }
    fs::create_dir_all(root).map_err(|e| say(e, root))?;
    unpack(root, "amd64", &COMPILER)?;
    let arm = root.join("arm64");
    unpack(&arm, "arm64", &[LIBRARY])?;
    let from = arm.join("usr/lib/rustlib").join(TARGET);
    if !library.exists() {
        fs::rename(&from, &library).map_err(|e| say(e, &from))?;
    }
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={0}/usr/lib/x86_64-linux-gnu exec {0}/usr/bin/rustc \"$@\"\n",
        root.display()
    );
    fs::write(&wrapper, text).map_err(|e| say(e, &wrapper))?;
    steps::run("making the wrapper executable", Command::new("chmod").arg("+x").arg(&wrapper))?;
    Ok(wrapper)
}

/// Runs the task.
pub(crate) fn run(_: &[String]) -> Result<()> {
    packages::need(TOOLS)?;
    let target = steps::target_dir();
    let target = if target.is_absolute() { target } else { crate::root().join(target) };
    let root = target.join("cross");
    let rustc = compiler(&root.join("toolchain"))?;
    let cargo = |args: &[&str]| {
        let mut c = steps::cargo(args);
        c.args(["--target", TARGET])
            .env("RUSTC", &rustc)
            .env("CARGO_TARGET_DIR", &root)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                "qemu-aarch64 -L /usr/aarch64-linux-gnu",
            );
        c
    };
    steps::run(
        "building the program for arm64",
        &mut cargo(&["build", "--profile", "fast", "-p", "tinamou"]),
    )?;
    let mut tests = vec!["test"];
    tests.extend(TESTED.iter().flat_map(|p| ["-p", p]));
    tests.push("--lib");
    steps::run("interpreter and decoder tests under qemu-aarch64", &mut cargo(&tests))?;
    let program = root.join(TARGET).join("fast/tinamou");
    let mut version = Command::new("qemu-aarch64");
    version.args(["-L", "/usr/aarch64-linux-gnu"]).arg(&program).args([
        "system",
        "aarch64",
        "--version",
    ]);
    steps::run("the program says its version", &mut version)
}
