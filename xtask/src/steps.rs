//! Tasks that are sequences of commands.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

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
    let packages = ["build", "--release", "-p", "tinamou", "-p", "tinamou-img"];
    run("building the release binaries", &mut cargo(&packages))?;
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

/// Tests that passed, failed, were left out, and what the failed ones printed.
#[derive(Default)]
struct Totals([usize; 3], Failures);

/// What failed tests printed: a log may be cut to its end, which is thousands of lines after them.
#[derive(Default)]
struct Failures {
    lines: Vec<String>,
    inside: bool,
}

impl Failures {
    /// Lines kept, and bytes of each.
    const LIMITS: (usize, usize) = (200, 2000);

    /// Keeps a line if it is between `failures:` and the result of a test program.
    fn add(&mut self, line: &str) {
        self.inside |= line == "failures:";
        if self.inside && self.lines.len() < Self::LIMITS.0 && !line.is_empty() {
            self.lines.push(line.chars().take(Self::LIMITS.1).collect());
        }
        self.inside &= !line.starts_with("test result: ");
    }
}

impl Totals {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for (total, word) in self.0.iter_mut().zip([" passed", " failed", " ignored"]) {
            let number =
                rest.split(word).next().and_then(|text| text.split([' ', '.']).next_back());
            *total += number.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        }
    }

    /// Runs a test command with its output shown, counting.
    fn run(&mut self, what: &str, command: &mut Command) -> Result<()> {
        eprintln!("==> {what}");
        let failed = |e: std::io::Error| format!("{what}: {e}");
        let mut child =
            command.current_dir(root()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).lines() {
                let line = line.map_err(failed)?;
                println!("{line}");
                self.add(&line);
                self.1.add(&line);
            }
        }
        let status = child.wait().map_err(failed)?;
        if status.success() { Ok(()) } else { Err(format!("{what} failed ({status})")) }
    }
}

fn all_tests(totals: &mut Totals, args: &[String]) -> Result<()> {
    packages::need(packages::TEST)?;
    let guest = guests::fetch_all()?;
    let python = packages::python(&target_dir())?;
    if !args.iter().any(|a| a == "--no-check") {
        check(&[])?;
    }
    let units = &mut cargo(&["test", "--workspace", "--quiet", "--no-fail-fast"]);
    let units = totals.run("unit, bench and conformance tests", units);
    let emulator = build_release()?;
    let mut machines =
        cargo(&["test", "--release", "--manifest-path", "tests/vm-tests/Cargo.toml", "--quiet"]);
    machines.args(["--no-fail-fast", "--", "--test-threads=1", "--nocapture"]);
    machines.env("TINAMOU", emulator).env("TINAMOU_GUESTS", guest.dir).env("PYTHONPATH", python);
    totals.run("whole-machine tests", &mut machines).and(units)
}

/// Everything: checks, unit and bench tests, whole-machine tests; totals last.
pub(crate) fn test(args: &[String]) -> Result<()> {
    let mut totals = Totals::default();
    let result = all_tests(&mut totals, args);
    for line in &totals.1.lines {
        println!("{line}");
    }
    if let Err(e) = &result {
        eprintln!("{e}");
    }
    let [passed, failed, ignored] = totals.0;
    println!("total: {passed} passed, {failed} failed, {ignored} ignored");
    result
}

pub(crate) fn install(args: &[String]) -> Result<()> {
    let prefix = args.first().map_or("/usr/local", String::as_str);
    build_release()?;
    let bin = Path::new(prefix).join("bin");
    std::fs::create_dir_all(&bin).map_err(|e| format!("{}: {e}", bin.display()))?;
    let links: [(&str, &[&str]); 2] = [
        ("tinamou", &["tinamou-system-aarch64", "qemu-system-aarch64"]),
        ("tinamou-img", &["qemu-img"]),
    ];
    for (program, names) in links {
        let to = bin.join(program);
        std::fs::copy(target_dir().join("release").join(program), &to)
            .map_err(|e| format!("cannot write {}: {e}", to.display()))?;
        for name in names {
            link(&bin, program, name)?;
        }
    }
    Ok(())
}

/// Links a name to a program beside it, unless the name is somebody else's.
fn link(bin: &Path, program: &str, name: &str) -> Result<()> {
    let link = bin.join(name);
    if link.exists() && !link.is_symlink() {
        eprintln!("{} exists and is not ours: left alone", link.display());
        return Ok(());
    }
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(program, &link)
        .map_err(|e| format!("cannot link {}: {e}", link.display()))?;
    eprintln!("installed {}", link.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Failures, Totals};

    #[test]
    fn what_failed_tests_printed_is_kept() {
        let mut kept = Failures::default();
        let text = "running 2 tests\n\nfailures:\n\n---- a stdout ----\nwhy\n\nfailures:\n    a\n\n\
                    test result: FAILED. 1 passed; 1 failed\nrunning 1 test";
        text.lines().for_each(|line| kept.add(line));
        let end = "test result: FAILED. 1 passed; 1 failed";
        let expected = ["failures:", "---- a stdout ----", "why", "failures:", "    a", end];
        assert_eq!(kept.lines, expected);
        for _ in 0..3 {
            text.lines().for_each(|line| kept.add(&line.repeat(10_000)));
            text.lines().for_each(|line| kept.add(line));
        }
        assert!(kept.lines.len() == 24 && !kept.inside);
    }

    #[test]
    fn totals_add_up() {
        let mut totals = Totals::default();
        totals.add("test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out");
        totals.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured");
        totals.add("running 5 tests");
        assert_eq!(totals.0, [13, 2, 3]);
    }
}
