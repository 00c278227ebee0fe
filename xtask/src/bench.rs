//! Paired benchmarks against an installed QEMU: wall time of the boot to the installer's menu, in
//! turns in one run, so that a busy machine disturbs both alike.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Result, guests, steps};

/// Text of the installer's first menu.
const MENU: &str = "Select a language";

/// Seconds until `marker` is printed on the console.
fn boot(program: &Path, guest: &guests::Guest, cpu: &str, marker: &str) -> Result<f64> {
    let mut child = Command::new(program)
        .args(["-M", "virt", "-cpu", cpu, "-m", "1024", "-nographic", "-no-reboot", "-nic", "none"])
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
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    let began = Instant::now();
    let mut out = child.stdout.take().ok_or("no output")?;
    let (mut seen, mut buf) = (Vec::new(), [0u8; 4096]);
    let mut found = None;
    while let Ok(n) = out.read(&mut buf) {
        seen.extend_from_slice(&buf[..n]);
        if seen.windows(marker.len()).any(|w| w == marker.as_bytes()) {
            found = Some(began.elapsed().as_secs_f64());
            break;
        }
        if n == 0 {
            break;
        }
    }
    // The guest sits in a menu: there is nothing to lose.
    let _ = child.kill();
    let _ = child.wait();
    found.ok_or(format!("{}: the guest ended before '{marker}'", program.display()))
}

/// `bench [CPU] [ROUNDS]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let cpu = args.first().map_or("max", String::as_str);
    let rounds: usize = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let guest = guests::fetch()?;
    let ours = steps::build_release()?;
    let peer = Path::new("qemu-system-aarch64");
    let (mut best_ours, mut best_peer) = (f64::MAX, f64::MAX);
    for n in 1..=rounds {
        let (a, b) = (boot(&ours, &guest, cpu, MENU)?, boot(peer, &guest, cpu, MENU)?);
        println!("round {n}: ours {a:.1} s, QEMU {b:.1} s");
        best_ours = best_ours.min(a);
        best_peer = best_peer.min(b);
    }
    println!(
        "boot to the installer's menu, -cpu {cpu}: ours {best_ours:.1} s, QEMU {best_peer:.1} s, ratio QEMU/ours {:.2}",
        best_peer / best_ours
    );
    Ok(())
}
