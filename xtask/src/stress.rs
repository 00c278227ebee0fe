//! `cargo xtask stress [MINUTES] [CPUS]`: forking, mapping, signalling, compressing and checksumming in a
//! Linux guest with several CPUs, watched for wrong results, oopses and hangs.
//!
//! The program is `tests/guests/stress.c`, alone in an initrd, on Debian's kernel. `stress compile [MINUTES] [CPUS]`
//! compiles in a Debian guest instead, on all CPUs at once (`tests/scripts/compile.py`). In both the emulator verifies
//! some blocks and looks at its TLBs now and then; `STRESS_ACCEL` says otherwise.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::{Result, guests, packages, root, steps};

/// Longest silence of a guest that prints a line every ten seconds of its time.
const SILENCE: Duration = Duration::from_secs(180);
/// What a healthy kernel does not print.
const BAD: [&str; 8] = [
    "STRESS WRONG",
    "Oops",
    "BUG:",
    "WARNING:",
    "Kernel panic",
    "rcu_sched",
    "soft lockup",
    "segfault",
];

/// How the emulator checks itself meanwhile.
const CHECKS: &str = "tcg,verify=2000,x-check-tlb=5000";

fn accel() -> String {
    std::env::var("STRESS_ACCEL").unwrap_or(CHECKS.to_owned())
}

/// Runs the task.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(("compile", rest)) = args.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        return crate::scripts::compile(rest, &accel());
    }
    let number = |n: usize, default: u64| args.get(n).map_or(Ok(default), |t| t.parse());
    let (minutes, cpus) = match (number(0, 30), number(1, 4)) {
        (Ok(minutes @ 1..), Ok(cpus @ 1..)) => (minutes, cpus),
        _ => return Err("usage: cargo xtask stress [MINUTES] [CPUS]".into()),
    };
    packages::need(packages::TEST)?;
    let guest = guests::fetch()?;
    let source = ("stress", "stress.c");
    let initrd = guests::program(&guest, source, &["-pthread"], &["dev", "tmp"])?;
    let emulator = match std::env::var_os("TINAMOU") {
        Some(path) => path.into(),
        None => steps::build_release()?,
    };
    eprintln!("==> {minutes} minutes of stress on {cpus} CPUs");
    let mut command = Command::new(&emulator);
    command
        .args(["-M", "virt", "-cpu", "max", "-m", "1024", "-nographic", "-no-reboot"])
        .args(["-accel", &accel(), "-smp", &cpus.to_string(), "-kernel"])
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&initrd)
        .arg("-append")
        .arg(format!("console=ttyAMA0 quiet oops=panic panic=-1 stress={}", minutes * 60))
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    watch(command)
}

fn watch(mut command: Command) -> Result<()> {
    let mut child = command.spawn().map_err(|e| format!("the emulator: {e}"))?;
    let out = child.stdout.take().ok_or("no output")?;
    let (send, lines) = channel();
    #[expect(clippy::disallowed_methods, reason = "a task may wait for two things")]
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(std::result::Result::ok) {
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let mut verdict = Err("the guest ended without a verdict".to_owned());
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                println!("{line}");
                if BAD.iter().any(|bad| line.contains(bad)) {
                    verdict = Err(line);
                    break;
                }
                if line.contains("STRESS ok") {
                    verdict = Ok(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                verdict = Err(format!("silent for {} s", SILENCE.as_secs()));
                break;
            }
        }
    }
    // It has ended, or what it says now does not matter.
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    verdict
}
