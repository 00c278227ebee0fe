//! `bench storage`: the image tool against an installed QEMU's, in turns on the same host files.
//!
//! Conversions of an image whose clusters are a quarter holes, a quarter noise and half text;
//! `bench` with 4 KiB requests that jump (a step of a prime number of blocks, so that a run visits
//! the disk without order) and 1 MiB requests in order, at depths 1 and 32, past the page cache and
//! through it. Past the page cache there are two kinds of rows: `disk` on the host's disk, where a
//! row shows the disk's noise as much as the programs, and `ram` on loop devices over memory (left
//! out, and said so, where they cannot be had). Each row is the median of the rounds' ratios (QEMU's
//! time / ours), the ratio of the best rounds of both, and the medians of the processors' time and of
//! the peaks of resident memory (`VmHWM`, looked at while the program runs).
//!
//! Not here: disks inside a guest.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ram_disk::RamDisk;
use crate::{Result, packages, steps};

/// Bytes of the disks.
const SIZE: u64 = 1 << 30;
const CLUSTER: usize = 65536;
/// The step of requests that jump: a prime number of blocks.
const JUMP: u64 = 4096 * 100_003;

/// One run: seconds and kilobytes.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    /// Seconds of the processors, as far as it was seen.
    cpu: f64,
    memory: u64,
}

struct Row {
    name: String,
    least: f64,
    args: Vec<String>,
    /// A file that is made by it and must go before the next run.
    makes: Option<PathBuf>,
    /// Bytes or requests, for the figure of speed.
    unit: &'static str,
    amount: f64,
}

fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The source of the conversions; with `full` there are no holes and no text.
fn source(path: &Path, full: bool) -> Result<()> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut cluster = vec![0u8; CLUSTER];
    for n in 0..SIZE / CLUSTER as u64 {
        match n % 4 {
            _ if full => {}
            0 => {
                out.write_all(&vec![0; CLUSTER]).map_err(failed)?;
                continue;
            }
            1 | 2 => {
                cluster.clear();
                while cluster.len() < CLUSTER {
                    let (a, b) = (noise(&mut state) % 1000, noise(&mut state) % 50);
                    cluster.extend_from_slice(format!("record {a} of table {b}: ok\n").as_bytes());
                }
                cluster.truncate(CLUSTER);
                out.write_all(&cluster).map_err(failed)?;
                continue;
            }
            _ => {}
        }
        cluster.clear();
        while cluster.len() < CLUSTER {
            cluster.extend_from_slice(&noise(&mut state).to_le_bytes());
        }
        out.write_all(&cluster).map_err(failed)?;
    }
    out.flush().map_err(failed)
}

/// Seconds of the processors, from `/proc/PID/stat` (proc(5): fields 14 and 15, hundredths).
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / 100.0)
}

/// Runs a program to its end; what `bench` says of itself counts, else the wall clock.
fn cost(program: &Path, row: &Row) -> Result<Cost> {
    if let Some(made) = &row.makes {
        _ = std::fs::remove_file(made);
    }
    let failed = |e: std::io::Error| format!("{}: {e}", program.display());
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(&row.args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (path, mut memory) = (format!("/proc/{}/status", child.id()), 0);
    let (times, mut cpu) = (format!("/proc/{}/stat", child.id()), 0.0);
    while child.try_wait().map_err(failed)?.is_none() {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        memory = peak.unwrap_or(0).max(memory);
        cpu = std::fs::read_to_string(&times).ok().and_then(|text| ticks(&text)).unwrap_or(cpu);
        std::thread::sleep(Duration::from_millis(5));
    }
    let wall = began.elapsed().as_secs_f64();
    let out = child.wait_with_output().map_err(failed)?;
    if !out.status.success() {
        return Err(format!("{} {}: {}", program.display(), row.args.join(" "), out.status));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let told = text.split("Run completed in ").nth(1).and_then(|rest| {
        let number = rest.split_whitespace().next()?;
        number.parse().ok()
    });
    Ok(Cost { seconds: told.unwrap_or(wall).max(0.001), cpu, memory })
}

fn rows(dir: &Path, ram: &[RamDisk]) -> Vec<Row> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut all = Vec::new();
    let mib = SIZE as f64 / f64::from(1 << 20);
    for (name, least, words, from) in [
        ("convert raw to qcow2", 1.0, "convert -f raw -O qcow2", "mixed.raw"),
        ("convert qcow2 to raw", 1.0, "convert -f qcow2 -O raw", "mixed.qcow2"),
        ("convert raw to compressed qcow2", 1.3, "convert -c -f raw -O qcow2", "mixed.raw"),
        (
            "convert raw to qcow2 compressed with zstd",
            1.3,
            "convert -c -o compression_type=zstd -f raw -O qcow2",
            "mixed.raw",
        ),
    ] {
        let mut args: Vec<String> = words.split(' ').map(String::from).collect();
        args.extend([file(from), file("out")]);
        let makes = Some(dir.join("out"));
        all.push(Row { name: name.into(), least, args, makes, unit: "MiB/s", amount: mib });
    }
    for (at, format) in ["raw", "qcow2"].into_iter().enumerate() {
        let plain = file(&format!("full.{format}"));
        let mut places = vec![
            ("writeback", "writeback", plain.clone(), 60_000),
            ("none", "none, disk", plain, 6000),
        ];
        if let Some(disk) = ram.get(at) {
            places.push(("none", "none, ram", disk.device.display().to_string(), 60_000));
        }
        for (cache, place, target, small) in places {
            for (what, size, step, count) in
                [("4 KiB random", "4096", JUMP, small), ("1 MiB sequential", "1048576", 0, 1500)]
            {
                for (kind, flag) in [("reads", ""), ("writes", "-w")] {
                    for depth in ["1", "32"] {
                        let qcow2_random = format == "qcow2" && size == "4096";
                        let (step, count) = (step.to_string(), count.to_string());
                        let words = ["bench", "-f", format, "-t", cache, "-d", depth, "-s", size];
                        let mut args: Vec<String> = words.map(String::from).into();
                        args.extend(["-S".into(), step, "-c".into(), count.clone()]);
                        args.extend((!flag.is_empty()).then(|| flag.to_owned()));
                        args.push(target.clone());
                        let unit = if size == "4096" { "requests/s" } else { "MiB/s" };
                        all.push(Row {
                            name: format!("{format}, {what} {kind}, depth {depth}, cache={place}"),
                            least: if qcow2_random { 1.3 } else { 1.0 },
                            args,
                            makes: None,
                            unit,
                            amount: count.parse().unwrap_or(1.0),
                        });
                    }
                }
            }
        }
    }
    all
}

fn median<T: Copy + PartialOrd>(mut all: Vec<T>) -> Option<T> {
    all.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    all.get(all.len() / 2).copied()
}

/// Runs a row in turns; a line of the table and whether it is good enough.
fn measure(ours: &Path, row: &Row, rounds: usize) -> Result<bool> {
    let peer = Path::new("qemu-img");
    let mut found = Vec::new();
    // The first pair warms the page cache.
    for round in 0..=rounds {
        let pair = if round % 2 == 0 {
            let a = cost(ours, row)?;
            (a, cost(peer, row)?)
        } else {
            let b = cost(peer, row)?;
            (cost(ours, row)?, b)
        };
        if round > 0 {
            found.push(pair);
        }
    }
    if let Some(made) = &row.makes {
        _ = std::fs::remove_file(made);
    }
    let by = |f: &dyn Fn(&(Cost, Cost)) -> f64| median(found.iter().map(f).collect());
    let ratio = by(&|(a, b)| b.seconds / a.seconds).unwrap_or(0.0);
    let least =
        |f: &dyn Fn(&(Cost, Cost)) -> f64| found.iter().map(f).fold(f64::INFINITY, f64::min);
    let best = least(&|(_, b)| b.seconds) / least(&|(a, _)| a.seconds);
    let cpu_a = by(&|(a, _)| a.cpu).unwrap_or(0.0);
    let cpu_b = by(&|(_, b)| b.cpu).unwrap_or(0.0);
    let speed = |seconds: f64| row.amount / seconds;
    let a = speed(by(&|(a, _)| a.seconds).unwrap_or(1.0));
    let b = speed(by(&|(_, b)| b.seconds).unwrap_or(1.0));
    let memory_a = by(&|(a, _)| a.memory as f64).unwrap_or(0.0);
    let memory_b = by(&|(_, b)| b.memory as f64).unwrap_or(0.0);
    let good = ratio >= row.least;
    let mark = if good { "" } else { " (below)" };
    println!(
        "| {} | {a:.0} {unit} | {b:.0} {unit} | {ratio:.2}{mark} | {best:.2} | {cpu_a:.2} s | {cpu_b:.2} s | {memory_a:.0} kB | {memory_b:.0} kB |",
        row.name,
        unit = row.unit
    );
    Ok(good)
}

/// `bench storage [ROUNDS] [WORD]`: rows whose name contains WORD. `TINAMOU_IMG` names another
/// build of our tool.
pub(crate) fn run(args: &[String]) -> Result<()> {
    packages::need(&[("qemu-img", "qemu-utils")])?;
    let rounds = args.first().and_then(|n| n.parse().ok()).unwrap_or(5);
    let only = args.get(1).cloned().unwrap_or_default();
    let ours = match std::env::var_os("TINAMOU_IMG") {
        Some(program) => program.into(),
        None => {
            steps::build_release()?;
            steps::target_dir().join("release/tinamou-img")
        }
    };
    let dir = steps::target_dir().join("bench-storage");
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for (name, full) in [("mixed", false), ("full", true)] {
        let (raw, qcow2) = (dir.join(format!("{name}.raw")), dir.join(format!("{name}.qcow2")));
        source(&raw, full)?;
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&qcow2);
        steps::run("making an image", &mut convert)?;
    }
    let ram: Result<Vec<RamDisk>> = ["raw", "qcow2"]
        .map(|format| RamDisk::copy_of(&dir.join(format!("full.{format}")), format))
        .into_iter()
        .collect();
    let ram = ram.unwrap_or_else(|error| {
        println!("no rows on disks in memory: {error}");
        Vec::new()
    });
    for disk in &ram {
        println!("in memory: {}", disk.device.display());
    }
    println!(
        "| what | ours | QEMU | ratio | of the best | CPU, ours | QEMU | peak memory, ours | QEMU |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    let mut below = 0;
    for row in rows(&dir, &ram).iter().filter(|row| row.name.contains(&only)) {
        below += usize::from(!measure(&ours, row, rounds)?);
    }
    _ = std::fs::remove_dir_all(&dir);
    println!("{below} rows below what is wanted");
    Ok(())
}
