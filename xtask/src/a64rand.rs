//! `cargo xtask a64rand [SEEDS] [COUNT]`: random instructions on ours and on an installed QEMU.
//!
//! `tests/guests/a64rand.S` executes COUNT random words (example `random_words` of `cpu-arm`: every pattern of the
//! decode tables in turn) and prints a digest of the state after each. The digests of both emulators must be the
//! same. `TINAMOU` names another build than the release one, `A64RAND_ACCEL` what its `-accel` gets (`tcg,verify=1`,
//! `tcg,x-passes=0`), `A64RAND_SEED` the first seed (1). Both get `-cpu max` with QARMA5, since the default of
//! pointer authentication is IMPLEMENTATION DEFINED.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Result, packages, root, steps};

const PEER: &str = "qemu-system-aarch64";
const CPU: &str = "max,pauth-qarma5=on";
/// Differences that are shown.
const SHOWN: usize = 20;

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or(default.to_owned())
}

/// Makes the words and the program in a folder; the words.
fn build(dir: &Path, seed: u64, count: u64) -> Result<Vec<u32>> {
    let words = dir.join("random-words.bin");
    let mut make =
        steps::cargo(&["run", "--quiet", "-p", "cpu-arm", "--example", "random_words", "--"]);
    make.args([seed.to_string(), count.to_string()]).arg(&words);
    steps::run(&format!("{count} random words, seed {seed}"), &mut make)?;
    let (object, program) = (dir.join("a64rand.o"), dir.join("a64rand.elf"));
    let mut assembler = Command::new("aarch64-linux-gnu-as");
    assembler.arg("-I").arg(dir).args(["-I", "tests/guests", "-o"]).arg(&object);
    steps::run("assembling", assembler.arg("tests/guests/a64rand.S"))?;
    let mut linker = Command::new("aarch64-linux-gnu-ld");
    linker.args(["-Ttext=0x40200000", "-z", "max-page-size=4096", "-o"]).arg(&program).arg(object);
    steps::run("linking", &mut linker)?;
    let bytes = fs::read(&words).map_err(|e| format!("{}: {e}", words.display()))?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The digests that an emulator prints.
fn digests(emulator: &Path, accel: Option<&str>, dir: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(emulator);
    command
        .args(["-M", "virt", "-cpu", CPU, "-m", "256", "-nodefaults", "-display", "none"])
        .args(["-serial", "stdio", "-kernel"])
        .arg(dir.join("a64rand.elf"))
        .stdin(Stdio::null());
    if let Some(accel) = accel {
        command.args(["-accel", accel]);
    }
    let out = command.output().map_err(|e| format!("{}: {e}", emulator.display()))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(format!("{} ended with {}:\n{text}", emulator.display(), out.status));
    }
    Ok(String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect())
}

fn disassembled(dir: &Path, word: u32) -> String {
    let file = dir.join("word.bin");
    if fs::write(&file, word.to_le_bytes()).is_err() {
        return String::new();
    }
    let mut command = Command::new("aarch64-linux-gnu-objdump");
    command.args(["-D", "-b", "binary", "-m", "aarch64"]).arg(file);
    let text = command.output().map_or(Vec::new(), |out| out.stdout);
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().last().unwrap_or_default();
    line.split('\t').skip(2).collect::<Vec<_>>().join(" ")
}

/// Cases (number, word) whose digests differ.
fn differing(words: &[u32], ours: &[String], peer: &[String]) -> Result<Vec<(usize, u32)>> {
    if ours.len() != words.len() || peer.len() != words.len() {
        let (n, a, b) = (words.len(), ours.len(), peer.len());
        return Err(format!("of {n} cases ours printed {a} and the peer {b}"));
    }
    let pairs = words.iter().zip(ours.iter().zip(peer)).enumerate();
    Ok(pairs.filter(|(_, (_, (a, b)))| a != b).map(|(n, (word, _))| (n, *word)).collect())
}

/// Runs the task.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let number = |n: usize, default: u64| args.get(n).map_or(Ok(default), |t| t.parse());
    let (Ok(seeds @ 1..), Ok(count @ 1..)) = (number(0, 4), number(1, 20_000)) else {
        return Err("usage: cargo xtask a64rand [SEEDS] [COUNT]".into());
    };
    packages::need(packages::TEST)?;
    let ours: PathBuf = match std::env::var_os("TINAMOU") {
        Some(path) => path.into(),
        None => steps::build_release()?,
    };
    let first = variable("A64RAND_SEED", "1").parse().map_err(|_| "A64RAND_SEED is no number")?;
    let accel = variable("A64RAND_ACCEL", "tcg");
    let dir = steps::target_dir().join("a64rand");
    let dir = if dir.is_absolute() { dir } else { root().join(dir) };
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut bad = 0;
    for seed in (first..).take(seeds as usize) {
        let words = build(&dir, seed, count)?;
        let mine = digests(&ours, Some(&accel), &dir)?;
        let peer = digests(Path::new(PEER), None, &dir)?;
        let wrong = differing(&words, &mine, &peer)?;
        for (n, word) in wrong.iter().take(SHOWN) {
            println!("case {n}: {word:#010x} {}", disassembled(&dir, *word));
        }
        println!("seed {seed}: {} cases, {} differ", words.len(), wrong.len());
        bad += wrong.len();
    }
    if bad == 0 { Ok(()) } else { Err(format!("{bad} cases differ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_cases_are_named() {
        let text = |t: &[&str]| t.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (words, a) = ([7, 8, 9], text(&["x", "y", "z"]));
        assert_eq!(differing(&words, &a, &text(&["x", "q", "z"])), Ok(vec![(1, 8)]));
        assert_eq!(differing(&words, &a, &a), Ok(Vec::new()));
        assert!(differing(&words, &a, &text(&["x"])).is_err(), "one ended early");
    }
}
