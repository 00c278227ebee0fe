//! `cargo xtask bench system [ROUNDS]`: what is around the CPU, in turns with an installed QEMU: two busy
//! processes on two CPUs, lateness of timers, host processor time of an idle guest, start and end.
//!
//! The guest is `tests/guests/bench/system.c`, alone in an initrd on Debian's kernel. The best of all rounds counts.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench_guest::cpu_seconds;
use crate::{Result, guests, packages, steps};

/// Seconds for which the idle guest is watched; it sleeps for longer.
const WATCHED: u64 = 4;

/// What was measured: name and number; smaller is better.
type Numbers = Vec<(String, f64)>;

fn seconds_of<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    let began = Instant::now();
    Ok((f()?, began.elapsed().as_secs_f64()))
}

fn started(program: &Path, args: &[&str]) -> Result<Child> {
    Command::new(program)
        .args(["-M", "virt", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))
}

/// What the guest prints, and the host processor time of its idleness.
fn measured(program: &Path, guest: &guests::Guest, initrd: &Path, cpus: &str) -> Result<Numbers> {
    let (kernel, initrd) = (guest.kernel.display().to_string(), initrd.display().to_string());
    let append = "console=ttyAMA0 quiet loglevel=3";
    let args =
        ["-m", "512", "-smp", cpus, "-kernel", &kernel, "-initrd", &initrd, "-append", append];
    let mut child = started(program, &args)?;
    let out = child.stdout.take().ok_or("no output")?;
    let mut numbers = Numbers::new();
    for line in BufReader::new(out).lines() {
        let line = line.map_err(|e| e.to_string())?;
        if line.trim() == "IDLE" {
            let before = cpu_seconds(child.id()).unwrap_or(f64::NAN);
            std::thread::sleep(Duration::from_secs(WATCHED));
            let after = cpu_seconds(child.id()).unwrap_or(f64::NAN);
            numbers.push(("idle".into(), (after - before) / WATCHED as f64 * 100.0));
        }
        if let Some((name, number)) = line.trim().split_once(' ')
            && let Ok(number) = number.parse()
        {
            numbers.push((name.to_owned(), number));
        }
    }
    child.wait().map_err(|e| e.to_string())?;
    if numbers.len() < 6 {
        return Err(format!("{}: the guest printed too little", program.display()));
    }
    Ok(numbers)
}

/// Milliseconds from the start of a machine whose program turns it off at once to its end.
fn start_and_end(program: &Path, image: &Path) -> Result<f64> {
    let image = image.display().to_string();
    let run = || {
        let mut child = started(program, &["-kernel", &image])?;
        child.wait().map_err(|e| e.to_string())
    };
    Ok(seconds_of(run)?.1 * 1000.0)
}

fn power_off_image() -> Result<PathBuf> {
    let target = steps::target_dir();
    let (source, object) = (target.join("off.S"), target.join("off.o"));
    let image = target.join("off.elf");
    let text = ".globl _start\n_start: movz w0, #0x8400, lsl #16\nmovk w0, #8\nhvc #0\nb .\n";
    fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
    let mut assembler = Command::new("aarch64-linux-gnu-as");
    steps::run("assembling", assembler.arg("-o").arg(&object).arg(&source))?;
    let mut linker = Command::new("aarch64-linux-gnu-ld");
    linker.arg("-Ttext=0x40200000").arg("-o").arg(&image).arg(&object);
    steps::run("linking", &mut linker)?;
    Ok(image)
}

fn of(numbers: &Numbers, name: &str) -> f64 {
    numbers.iter().find(|(n, _)| n == name).map_or(f64::NAN, |(_, v)| *v)
}

/// One emulator's rows.
fn rows(program: &Path, guest: &guests::Guest, initrd: &Path, image: &Path) -> Result<Numbers> {
    let (one, two) =
        (measured(program, guest, initrd, "1")?, measured(program, guest, initrd, "2")?);
    let mut rows = vec![
        ("two busy processes, -smp 1: s".to_owned(), of(&one, "two_processes")),
        ("two busy processes, -smp 2: s".to_owned(), of(&two, "two_processes")),
        ("a sleep of 200 us ends late, median: us".to_owned(), of(&one, "timer_median")),
        ("a sleep of 200 us ends late, 99 of 100: us".to_owned(), of(&one, "timer_99th")),
        ("idle guest, -smp 1: % of a host processor".to_owned(), of(&one, "idle")),
        ("idle guest, -smp 2: % of a host processor".to_owned(), of(&two, "idle")),
    ];
    let mut best = f64::MAX;
    for _ in 0..10 {
        best = best.min(start_and_end(program, image)?);
    }
    rows.push(("start, power-off by the guest, end: ms".to_owned(), best));
    Ok(rows)
}

/// Runs the task.
pub(crate) fn run(rounds: usize) -> Result<()> {
    packages::need(packages::TEST)?;
    let ours = match std::env::var_os("TINAMOU") {
        Some(path) => path.into(),
        None => steps::build_release()?,
    };
    let guest = guests::fetch()?;
    let source = ("system", "bench/system.c");
    let initrd = guests::program(&guest, source, &[], &["dev", "proc"])?;
    let image = power_off_image()?;
    let peer = Path::new("qemu-system-aarch64");
    let (mut a, mut b) = (Numbers::new(), Numbers::new());
    for _ in 0..rounds {
        for (best, program) in [(&mut a, ours.as_path()), (&mut b, peer)] {
            let new = rows(program, &guest, &initrd, &image)?;
            if best.is_empty() {
                *best = new;
            } else {
                best.iter_mut().zip(new).for_each(|(old, new)| old.1 = old.1.min(new.1));
            }
        }
    }
    println!("| what | ours | QEMU | ratio |\n|---|--:|--:|--:|");
    for ((what, x), (_, y)) in a.iter().zip(&b) {
        println!("| {what} | {x:.2} | {y:.2} | {:.2} |", y / x);
    }
    for (name, best) in [("ours", &a), ("QEMU", &b)] {
        let gain = best.first().map_or(f64::NAN, |r| r.1) / best.get(1).map_or(f64::NAN, |r| r.1);
        println!("\nThroughput of two busy processes, -smp 2 by -smp 1, {name}: {gain:.2}");
    }
    Ok(())
}
