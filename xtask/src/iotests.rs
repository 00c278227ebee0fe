//! QEMU's own tests of images, run with our image tool.
//!
//! Debian's source package of QEMU carries them. The archive is fetched through apt into the build
//! folder and only the tests and their Python modules are unpacked; none of it is kept in the
//! repository. The peer's `qemu-io`, `qemu-nbd` and `qemu-storage-daemon` serve as the tests' tools.
//! Run are the tests that need only the tool; with `--emulator` those as well that start one. Kinds
//! are qcow2 and raw, and with `--all` also qcow2 with other options and raw through a server of NBD,
//! and LUKS. Tests that fail with the peer's own tool on this machine are run and named apart; what
//! the peer does is kept in the build folder. `TINAMOU_IMG` names another build of the tool.
//! What `check` printed, with all differences, stays in the build folder (`ours-KIND.log`), and a
//! table tells the first difference of each test that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Result, packages, steps};

const NEEDS: &[(&str, &str)] =
    &[("qemu-io", "qemu-utils"), ("qemu-system-aarch64", "qemu-system-arm")];
/// Words in tests that start an emulator or a daemon.
const STARTS: &[&str] = &[
    "common.qemu",
    "_launch_qemu",
    "run_qemu",
    "$QEMU ",
    "iotests.VM",
    "QMPTestCase",
    "VM(",
    "QSD",
    "qsd",
    "QemuStorageDaemon",
];

fn say(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path = path.display().to_string();
    move |e| format!("{path}: {e}")
}

fn done(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|e| format!("{what}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed")) }
}

/// Fetches and unpacks the tests; their folder.
fn fetch(dir: &Path) -> Result<PathBuf> {
    let tests = dir.join("qemu/tests/qemu-iotests");
    if tests.join("check").exists() {
        return Ok(tests);
    }
    for sub in ["lists/partial", "cache/archives/partial", "source", "qemu"] {
        fs::create_dir_all(dir.join(sub)).map_err(say(dir))?;
    }
    let list = dir.join("sources.list");
    let text = "deb-src http://deb.debian.org/debian bookworm-backports main\n";
    fs::write(&list, text).map_err(say(&list))?;
    let option = |key: &str, value: &Path| format!("-o{key}={}", value.display());
    let options = [
        option("Dir::Etc::sourcelist", &list),
        option("Dir::Etc::sourceparts", Path::new("/dev/null")),
        option("Dir::State::lists", &dir.join("lists")),
        option("Dir::Cache", &dir.join("cache")),
    ];
    eprintln!("==> fetching QEMU's source package for its tests");
    done("apt-get update", Command::new("apt-get").args(&options).args(["-qq", "update"]))?;
    let mut get = Command::new("apt-get");
    get.args(&options).args(["-qq", "--download-only", "source", "qemu"]);
    // The tests are in the first archive: others of the package may be gone.
    _ = get.current_dir(dir.join("source")).stderr(Stdio::null()).status();
    let archives = fs::read_dir(dir.join("source")).map_err(say(dir))?.flatten();
    let archive = archives.map(|e| e.path()).find(|p| p.to_string_lossy().contains(".orig.tar"));
    let archive = archive.ok_or("the source package of qemu could not be fetched")?;
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(dir.join("qemu")).args(["--strip-components=1", "--wildcards", "-xf"]);
    tar.arg(&archive).args(["*/tests/qemu-iotests", "*/python/qemu"]);
    done("tar", &mut tar)?;
    Ok(tests)
}

/// Names of tests: numbers, and those of the folder `tests`.
fn names(tests: &Path, emulator: bool) -> Vec<String> {
    let mut all = Vec::new();
    for dir in [tests.to_path_buf(), tests.join("tests")] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit());
            if !(number || dir.ends_with("tests") && !name.contains('.') && entry.path().is_file())
            {
                continue;
            }
            if dir == tests && !number {
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if STARTS.iter().any(|word| text.contains(word)) == emulator {
                all.push(name);
            }
        }
    }
    all.sort();
    all
}

/// A folder of programs as the tests want them.
fn programs(dir: &Path, tool: &Path, emulator: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(say(dir))?;
    let peer = |name: &str| PathBuf::from("/usr/bin").join(name);
    let links = [
        ("qemu-img", tool.to_path_buf()),
        ("qemu-system-aarch64", emulator.to_path_buf()),
        ("qemu-io", peer("qemu-io")),
        ("qemu-nbd", peer("qemu-nbd")),
        ("qemu-storage-daemon", peer("qemu-storage-daemon")),
    ];
    for (name, to) in links {
        let link = dir.join(name);
        _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&to, &link).map_err(say(&link))?;
    }
    Ok(())
}

#[derive(Default)]
struct Found {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    not_run: BTreeSet<String>,
}

/// A kind of image: its name here, and how `check` is told.
type Kind = (&'static str, &'static [&'static str]);

const KINDS: [Kind; 2] = [("qcow2", &["-qcow2"]), ("raw", &["-raw"])];
const MORE: [Kind; 5] = [
    ("qcow2-v2", &["-qcow2", "-o", "compat=0.10"]),
    ("qcow2-data-file", &["-qcow2", "-o", "data_file=$TEST_IMG.ext_data_file"]),
    ("qcow2-extended", &["-qcow2", "-o", "extended_l2=on"]),
    ("luks", &["-luks"]),
    ("raw-nbd", &["-raw", "-nbd"]),
];

/// Where the words of a run are kept, beside the programs that it used.
fn log_of(bin: &Path, kind: &str) -> PathBuf {
    let whose = bin.file_name().unwrap_or_default().to_string_lossy();
    bin.with_file_name(format!("{whose}-{kind}.log"))
}

/// The first differences in what `check` printed, by test: the line that is missing, or where none
/// is missing the line that is too many.
fn first_differences(text: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut test: Option<String> = None;
    let mut extra: Option<&str> = None;
    let mut close = |test: &mut Option<String>, line: &str| {
        if let Some(test) = test.take() {
            found.entry(test).or_insert_with(|| line.to_owned());
        }
    };
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("+++ ") {
            let name = path.split_whitespace().next().and_then(|path| path.rsplit('/').next());
            test = name.and_then(|name| name.strip_suffix(".out.bad")).map(str::to_owned);
        } else if line.starts_with("--- ") {
            continue;
        } else if line.starts_with('-') && line.trim_end().len() > 1 {
            close(&mut test, line);
        } else if line.starts_with('+') && line.trim_end().len() > 1 {
            extra.get_or_insert(line);
            continue;
        } else if let Some(line) = extra {
            close(&mut test, line);
        }
        extra = None;
    }
    if let Some(line) = extra {
        close(&mut test, line);
    }
    found
}

fn run_kind(tests: &Path, bin: &Path, kind: Kind, which: &[String]) -> Result<Found> {
    let (name, args) = kind;
    let scratch = std::env::temp_dir().join(format!("iotests-{}-{name}", std::process::id()));
    let mut check = Command::new("./check");
    check.current_dir(tests).args(args).args(which);
    for (key, name) in [
        ("QEMU_PROG", "qemu-system-aarch64"),
        ("QEMU_IMG_PROG", "qemu-img"),
        ("QEMU_IO_PROG", "qemu-io"),
        ("QEMU_NBD_PROG", "qemu-nbd"),
        ("QSD_PROG", "qemu-storage-daemon"),
    ] {
        check.env(key, bin.join(name));
    }
    check.env("TEST_DIR", &scratch).env("SOCK_DIR", scratch.join("s")).stderr(Stdio::inherit());
    let out = check.output().map_err(|e| format!("check: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let log = log_of(bin, name);
    fs::write(&log, text.as_bytes()).map_err(say(&log))?;
    let mut found = Found::default();
    for line in text.lines() {
        // Lines are written over: the last part counts.
        let words: Vec<&str> = line.rsplit('\r').next().unwrap_or("").split_whitespace().collect();
        if let [name, verdict, ..] = words.as_slice()
            && which.iter().any(|known| known == name)
        {
            let set = match *verdict {
                "pass" => &mut found.passed,
                "fail" => &mut found.failed,
                "not" => &mut found.not_run,
                _ => continue,
            };
            set.insert((*name).to_owned());
        }
    }
    _ = fs::remove_dir_all(&scratch);
    Ok(found)
}

/// What the peer's tool does, from the build folder or by running it.
fn peer_found(dir: &Path, tests: &Path, bin: &Path, kind: Kind, which: &[String]) -> Result<Found> {
    let kept = dir.join(format!("peer-{}-{}.txt", kind.0, which.len()));
    let set = |text: Option<&str>| {
        text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    if let Ok(text) = fs::read_to_string(&kept) {
        let mut lines = text.lines();
        let (passed, failed) = (set(lines.next()), set(lines.next()));
        return Ok(Found { passed, failed, not_run: set(lines.next()) });
    }
    let found = run_kind(tests, bin, kind, which)?;
    let text = [&found.passed, &found.failed, &found.not_run].map(join).join("\n");
    fs::write(&kept, text).map_err(say(&kept))?;
    Ok(found)
}

fn join(set: &BTreeSet<String>) -> String {
    set.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Prints a table of the first differences of tests that fail.
fn print_differences(bin: &Path, kind: &str, failed: &BTreeSet<String>) -> Result<()> {
    let log = log_of(bin, kind);
    let differences = first_differences(&fs::read_to_string(&log).map_err(say(&log))?);
    println!("| {kind} test | first difference |\n|---|---|");
    for test in failed {
        let line = differences.get(test).map_or("no output to compare", String::as_str);
        let line: String = line.chars().take(100).collect();
        println!("| {test} | `{}` |", line.replace('|', "\\|").replace('`', "'"));
    }
    Ok(())
}

/// Runs and prints passed, failed and not run for each format.
pub(crate) fn run(args: &[String]) -> Result<()> {
    packages::need(NEEDS)?;
    let dir = steps::target_dir().join("iotests");
    let tests = fetch(&dir)?;
    let tool = match std::env::var_os("TINAMOU_IMG") {
        Some(tool) => PathBuf::from(tool),
        None => {
            steps::build_release()?;
            steps::target_dir().join("release/tinamou-img")
        }
    };
    let (ours, peer) = (dir.join("ours"), dir.join("peer"));
    programs(&ours, &tool, &tool.with_file_name("tinamou"))?;
    let installed = Path::new("/usr/bin");
    programs(&peer, &installed.join("qemu-img"), &installed.join("qemu-system-aarch64"))?;
    let which = names(&tests, args.iter().any(|a| a == "--emulator"));
    let mut failures = 0;
    let more = args.iter().any(|a| a == "--all");
    for kind in KINDS.into_iter().chain(MORE.into_iter().filter(|_| more)) {
        let base = peer_found(&dir, &tests, &peer, kind, &which)?;
        let found = run_kind(&tests, &ours, kind, &which)?;
        let format = kind.0;
        let both: BTreeSet<String> = found.failed.intersection(&base.failed).cloned().collect();
        let own: BTreeSet<String> = found.failed.difference(&base.failed).cloned().collect();
        failures += own.len();
        println!(
            "{format}: {} passed, {} failed, {} not run; {} fail here with the peer's tool as well",
            found.passed.len(),
            own.len(),
            found.not_run.len(),
            both.len()
        );
        println!("  failed: {}\n  not run: {}", join(&own), join(&found.not_run));
        println!("  fail with both: {}", join(&both));
        print_differences(&ours, format, &own)?;
    }
    if failures == 0 { Ok(()) } else { Err(format!("{failures} tests fail")) }
}

#[cfg(test)]
mod tests {
    use super::first_differences;

    #[test]
    fn first_differences_are_told_by_test() {
        let text = "102   fail  output mismatch\n--- /a/102.out\n+++ /t/qcow2-file-102/102.out.bad\n\
                    @@ -1,2 +1,2 @@\n (qemu)\n-64 KiB\n+Error\n-more\n\
                    142   fail\n--- /a/142.out\n+++ /t/142.out.bad\n@@ -1 +1 @@\n \n+greeting\n \n-x\n\
                    087   pass\n--- /a/9.out\n+++ /t/9.out.bad\n@@ -1 +1 @@\n-\n+last\n";
        let found = first_differences(text);
        let found: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("102", "-64 KiB"), ("142", "+greeting"), ("9", "+last")]);
    }
}
