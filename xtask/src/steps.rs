//! Tasks that are sequences of commands.

use std::path::Path;
use std::process::Command;

use crate::{Result, guests, layers, lint, packages, root};

/// Runs a command with its output shown; an error names it.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {what}");
    let status = command
        .current_dir(root())
        .status()
        .map_err(|e| format!("{what}: cannot start {:?}: {e}", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed ({status})")) }
}

pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut c = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    c.args(args);
    c
}

/// Builds the release binary and makes the `tinamou-system-aarch64` link beside it.
pub(crate) fn build_release() -> Result<std::path::PathBuf> {
    run("building the release binary", &mut cargo(&["build", "--release", "-p", "tinamou"]))?;
    let dir = target_dir().join("release");
    let link = dir.join("tinamou-system-aarch64");
    if !link.exists() {
        std::os::unix::fs::symlink("tinamou", &link)
            .map_err(|e| format!("cannot link {}: {e}", link.display()))?;
    }
    Ok(link)
}

/// Where cargo builds.
pub(crate) fn target_dir() -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

pub(crate) fn check(_: &[String]) -> Result<()> {
    run("formatting", &mut cargo(&["fmt", "--all", "--", "--check"]))?;
    layers::run()?;
    lint::run()?;
    let mut clippy = cargo(&["clippy", "--workspace", "--all-targets", "--quiet"]);
    if std::env::var_os("CI").is_some() {
        clippy.args(["--", "-D", "warnings"]);
    }
    run("lints (clippy)", &mut clippy)
}

/// Everything: checks, unit and bench tests, whole-machine tests.
pub(crate) fn test(args: &[String]) -> Result<()> {
    packages::need(packages::TEST)?;
    let guest = guests::fetch()?;
    if !args.iter().any(|a| a == "--no-check") {
        check(&[])?;
    }
    run("unit, bench and conformance tests", &mut cargo(&["test", "--workspace", "--quiet"]))?;
    let emulator = build_release()?;
    run(
        "whole-machine tests",
        cargo(&[
            "test",
            "--release",
            "--manifest-path",
            "tests/vm-tests/Cargo.toml",
            "--quiet",
            "--",
            "--test-threads=1",
        ])
        .env("TINAMOU", emulator)
        .env("TINAMOU_GUESTS", guest.dir),
    )?;
    eprintln!("==> all tests passed");
    Ok(())
}

pub(crate) fn install(args: &[String]) -> Result<()> {
    let prefix = args.first().map_or("/usr/local", String::as_str);
    build_release()?;
    let bin = Path::new(prefix).join("bin");
    std::fs::create_dir_all(&bin).map_err(|e| format!("{}: {e}", bin.display()))?;
    let to = bin.join("tinamou");
    std::fs::copy(target_dir().join("release/tinamou"), &to)
        .map_err(|e| format!("cannot write {}: {e}", to.display()))?;
    for name in ["tinamou-system-aarch64", "qemu-system-aarch64"] {
        let link = bin.join(name);
        if link.exists() && !link.is_symlink() {
            eprintln!("{} exists and is not ours: left alone", link.display());
            continue;
        }
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("tinamou", &link)
            .map_err(|e| format!("cannot link {}: {e}", link.display()))?;
        eprintln!("installed {}", link.display());
    }
    Ok(())
}
