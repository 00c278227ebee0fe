//! `cargo xtask bench [ROUNDS]`: kernels, the boot, memory and the cost of translation, ours and an installed
//! QEMU's in turns, for `-cpu max` and `cortex-a72`; the table goes into `docs/performance.md`.
//!
//! The kernels are `tests/guests/bench/kernels.c`, alone in an initrd on Debian's kernel. The best of all rounds
//! counts. `TINAMOU` names another build than the release one; `BENCH_SCALE` the kernels' work (0.1), `BENCH_ONLY` one of
//! them, and then nothing is written.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, guests, packages, root, steps};

const PEER: &str = "qemu-system-aarch64";
const CPUS: [&str; 2] = ["max", "cortex-a72"];
/// Text of the installer's first menu.
const MENU: &str = "Select a language";
const DOCUMENT: &str = "docs/performance.md";
const BEGIN: &str = "<!-- written by `cargo xtask bench`: begin -->\n";
const END: &str = "<!-- written by `cargo xtask bench`: end -->\n";

/// One row: what was measured on ours and on QEMU, and in what.
struct Row {
    what: String,
    unit: &'static str,
    ours: f64,
    /// NaN: only ours has it.
    peer: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.peer / self.ours
    }

    fn text(&self) -> String {
        let number =
            |v: f64| if v.is_nan() { String::new() } else { format!("{v:.2} {}", self.unit) };
        let ratio = if self.peer.is_nan() { String::new() } else { format!("{:.2}", self.ratio()) };
        format!("| {} | {} | {} | {ratio} |\n", self.what, number(self.ours), number(self.peer))
    }
}

/// What a boot to the menu took.
struct Boot {
    wall: f64,
    cpu: f64,
    peak_mb: f64,
    /// Microseconds of translation for each guest instruction.
    translation: f64,
}

fn number_after(text: &str, before: &str) -> Option<f64> {
    let rest = text.split_once(before)?.1.trim_start();
    rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?.parse().ok()
}

/// Seconds of processor time that a process used.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |n: usize| fields.get(n)?.parse::<f64>().ok();
    // utime, stime (proc(5), fields 14 and 15) in hundredths.
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// What the human monitor at a socket says to a line.
fn monitor(socket: &Path, line: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while text.matches("(qemu)").count() < 2 {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => text.push_str(&String::from_utf8_lossy(buffer.get(..n)?)),
            _ => break,
        }
    }
    Some(text)
}

/// Reads the console until a text comes; seconds.
fn wait_for(child: &mut Child, marker: &str) -> Result<f64> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    let began = Instant::now();
    let mut out = child.stdout.take().ok_or("no output")?;
    let (mut seen, mut buffer) = (Vec::new(), [0u8; 4096]);
    loop {
        let n = out.read(&mut buffer).map_err(|e| e.to_string())?;
        if n == 0 {
            return Err(format!("the guest ended before '{marker}'"));
        }
        // The text may be in two pieces.
        let from = seen.len().saturating_sub(marker.len());
        seen.extend_from_slice(&buffer[..n]);
        if seen[from..].windows(marker.len()).any(|w| w == marker.as_bytes()) {
            child.stdout = Some(out);
            return Ok(began.elapsed().as_secs_f64());
        }
    }
}

fn boot(program: &Path, guest: &guests::Guest, cpu: &str) -> Result<Boot> {
    let socket = std::env::temp_dir().join(format!("tinamou-bench-{}", std::process::id()));
    let mut child = Command::new(program)
        .args(["-M", "virt", "-cpu", cpu, "-m", "1024", "-display", "none", "-no-reboot"])
        .args(["-nic", "none", "-serial", "stdio", "-monitor"])
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(guest.dir.join("initrd.gz"))
        .args(["-append", "console=ttyAMA0 quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let wall = wait_for(&mut child, MENU);
    let cpu = cpu_seconds(child.id()).unwrap_or(f64::NAN);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let info = monitor(&socket, "info jit").unwrap_or_default();
    // The guest sits in a menu: there is nothing to lose.
    let _ = child.kill();
    let _ = child.wait();
    let _ = fs::remove_file(&socket);
    Ok(Boot {
        wall: wall.map_err(|e| format!("{}: {e}", program.display()))?,
        cpu,
        peak_mb: number_after(&status, "VmHWM:").unwrap_or(f64::NAN) / 1024.0,
        translation: number_after(&info, "translation ").unwrap_or(f64::NAN),
    })
}

/// Nanoseconds per operation, by kernel.
fn kernels(
    program: &Path,
    guest: &guests::Guest,
    initrd: &Path,
    cpu: &str,
) -> Result<Vec<(String, f64)>> {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let only = variable("BENCH_ONLY", "");
    let only = if only.is_empty() { only } else { format!("only={only}") };
    let scale = variable("BENCH_SCALE", "0.1");
    let out = Command::new(program)
        .args(["-M", "virt", "-cpu", cpu, "-m", "1024", "-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg(format!("console=ttyAMA0 quiet loglevel=3 panic=-1 scale={scale} {only}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, ns, "ns/op", ..] => Some(((*name).to_owned(), ns.parse().ok()?)),
            _ => None,
        }
    };
    let found: Vec<_> = String::from_utf8_lossy(&out.stdout).lines().filter_map(line).collect();
    if found.is_empty() {
        return Err(format!("{}: the guest printed no result", program.display()));
    }
    Ok(found)
}

fn keep_best(rows: &mut Vec<Row>, what: String, unit: &'static str, ours: f64, peer: f64) {
    match rows.iter_mut().find(|r| r.what == what) {
        Some(r) => (r.ours, r.peer) = (r.ours.min(ours), r.peer.min(peer)),
        None => rows.push(Row { what, unit, ours, peer }),
    }
}

fn geometric_mean(rows: &[Row], of: impl Fn(&Row) -> bool) -> Option<(usize, f64)> {
    let logs: Vec<f64> = rows.iter().filter(|r| of(r)).map(|r| r.ratio().ln()).collect();
    let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
    (!logs.is_empty()).then_some((logs.len(), mean))
}

fn measure(ours: &Path, rounds: usize, only_kernels: bool) -> Result<Vec<Row>> {
    let guest = guests::fetch()?;
    let source = ("kernels", "bench/kernels.c");
    let initrd = guests::program(&guest, source, &["-lm"], &["dev", "proc", "sys"])?;
    let peer = Path::new(PEER);
    let mut rows = Vec::new();
    for cpu in CPUS {
        for round in 1..=rounds {
            eprintln!("==> -cpu {cpu}, round {round} of {rounds}");
            if !only_kernels {
                let (a, b) = (boot(ours, &guest, cpu)?, boot(peer, &guest, cpu)?);
                let name = |what: &str| format!("boot to the installer's menu, {cpu}: {what}");
                keep_best(&mut rows, name("wall time"), "s", a.wall, b.wall);
                keep_best(&mut rows, name("processor time"), "s", a.cpu, b.cpu);
                keep_best(&mut rows, name("peak memory"), "MiB", a.peak_mb, b.peak_mb);
                let each = "translation of a guest instruction";
                keep_best(&mut rows, name(each), "us", a.translation, f64::NAN);
            }
            let a = kernels(ours, &guest, &initrd, cpu)?;
            let b = kernels(peer, &guest, &initrd, cpu)?;
            for (name, peer) in b {
                let ours = a.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, ns)| *ns);
                keep_best(&mut rows, format!("{name}, {cpu}"), "ns", ours, peer);
            }
        }
    }
    Ok(rows)
}

fn said_by(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    out.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

fn section(rows: &[Row], rounds: usize, load: &str) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("?").to_owned();
    let peer = said_by(PEER, &["--version"]);
    let peer = peer.lines().next().unwrap_or("?").to_owned();
    let build = match std::env::var_os("TINAMOU") {
        Some(_) => "the build that TINAMOU named",
        None => "release build",
    };
    let mut text = format!(
        "{} by `cargo xtask bench {rounds}`, {build}; {cpu}, load {load} before; {peer}.\nRatio = QEMU's by ours: above 1, ours \
         is better.\n\n| what | ours | QEMU | ratio |\n|---|--:|--:|--:|\n",
        said_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
    );
    rows.iter().for_each(|r| text.push_str(&r.text()));
    for cpu in CPUS {
        let end = format!(", {cpu}");
        if let Some((n, mean)) = geometric_mean(rows, |r| r.unit == "ns" && r.what.ends_with(&end))
        {
            text.push_str(&format!("| geometric mean of {n} kernels, {cpu} | | | {mean:.2} |\n"));
        }
    }
    text
}

/// `document` with the section between the marks replaced.
fn replaced(document: &str, section: &str) -> Result<String> {
    let parts = document.split_once(BEGIN).and_then(|(a, rest)| Some((a, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or("no marks in docs/performance.md")?;
    Ok(format!("{before}{BEGIN}{section}{END}{after}"))
}

/// Runs the task.
pub(crate) fn run(rounds: usize) -> Result<()> {
    packages::need(packages::TEST)?;
    let ours = match std::env::var_os("TINAMOU") {
        Some(path) => path.into(),
        None => steps::build_release()?,
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let only = std::env::var_os("BENCH_ONLY").is_some();
    let rows = measure(&ours, rounds, only)?;
    let section = section(&rows, rounds, &load);
    println!("{section}");
    if only {
        return Ok(());
    }
    let file = root().join(DOCUMENT);
    let say = |e: std::io::Error| format!("{DOCUMENT}: {e}");
    let document = fs::read_to_string(&file).map_err(say)?;
    fs::write(&file, replaced(&document, &section)?).map_err(say)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_between_the_marks_is_replaced() {
        let document = format!("a\n{BEGIN}old\n{END}b\n");
        let once = replaced(&document, "new\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}new\n{END}b\n"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
        assert!(replaced("no marks", "").is_err());
    }

    #[test]
    fn means_are_of_ratios() {
        let row = |what: &str, ours, peer| Row { what: what.into(), unit: "ns", ours, peer };
        let rows = [row("a, max", 1.0, 4.0), row("b, max", 2.0, 2.0), row("b, other", 1.0, 9.0)];
        let (n, mean) = geometric_mean(&rows, |r| r.what.ends_with(", max")).unwrap();
        assert_eq!((n, format!("{mean:.3}").as_str()), (2, "2.000"));
        assert!(rows[0].text().contains("| 4.00 |"));
    }

    #[test]
    fn the_document_has_the_marks() {
        let document = fs::read_to_string(root().join(DOCUMENT)).unwrap();
        assert!(replaced(&document, "").is_ok());
    }
}
