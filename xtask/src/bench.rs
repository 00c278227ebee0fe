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

/// Picoseconds of a device register read, by device, as the guest measures them.
fn mmio_of(program: &Path, image: &Path) -> Result<Vec<(String, f64)>> {
    let out = Command::new(program)
        .args(["-M", "virt,gic-version=3", "-cpu", "max", "-nodefaults", "-display", "none"])
        .args(["-serial", "stdio", "-kernel"])
        .arg(image)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let line = |line: &str| {
        let (name, digits) = line.split_once(' ')?;
        let picoseconds = u64::from_str_radix(digits.trim(), 16).ok()?;
        Some((name.to_owned(), picoseconds as f64 / 1000.0))
    };
    Ok(String::from_utf8_lossy(&out.stdout).lines().filter_map(line).collect())
}

/// `bench mmio [ROUNDS]`: reads of device registers from a bare-metal guest.
fn mmio(rounds: usize) -> Result<()> {
    crate::packages::need(crate::packages::TEST)?;
    let ours = steps::build_release()?;
    let (image, object) =
        (steps::target_dir().join("mmio.elf"), steps::target_dir().join("mmio.o"));
    let text = |path: &Path| path.display().to_string();
    let source = ["-I", "tests/guests", "-o", &text(&object), "tests/guests/bench/mmio.S"];
    steps::run("assembling", Command::new("aarch64-linux-gnu-as").args(source))?;
    let link =
        ["-Ttext=0x40200000", "-z", "max-page-size=4096", "-o", &text(&image), &text(&object)];
    steps::run("linking", Command::new("aarch64-linux-gnu-ld").args(link))?;
    let mut best: Vec<(String, f64, f64)> = Vec::new();
    for _ in 0..rounds {
        let (a, b) = (mmio_of(&ours, &image)?, mmio_of(Path::new("qemu-system-aarch64"), &image)?);
        for ((name, ours), (_, peer)) in a.into_iter().zip(b) {
            match best.iter_mut().find(|(known, ..)| *known == name) {
                Some(slot) => *slot = (name, slot.1.min(ours), slot.2.min(peer)),
                None => best.push((name, ours, peer)),
            }
        }
    }
    for (name, ours, peer) in best {
        let ratio = peer / ours;
        println!(
            "read of a register of {name}: ours {ours:.0} ns, QEMU {peer:.0} ns, ratio QEMU/ours {ratio:.2}"
        );
    }
    Ok(())
}

/// `bench [ROUNDS]`, `bench boot [CPU] [ROUNDS]`, `bench programs [ROUNDS]`, `bench mmio [ROUNDS]`, `bench storage
/// [ROUNDS]`, `bench network [ROUNDS]`, `bench system [ROUNDS]`, `bench lookup`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    match args {
        [] => return crate::bench_guest::run(1),
        [first, ..] => {
            if let Ok(rounds @ 1..) = first.parse() {
                return crate::bench_guest::run(rounds);
            }
        }
    }
    if args.first().is_some_and(|word| word == "programs") {
        return crate::scripts::programs(args.get(1..).unwrap_or_default());
    }
    if args.first().is_some_and(|word| word == "lookup") {
        let args = ["run", "--release", "--quiet", "-p", "memory", "--example", "lookup"];
        return steps::run("address-space lookups", &mut steps::cargo(&args));
    }
    if args.first().is_some_and(|word| word == "storage") {
        return crate::bench_storage::run(args.get(1..).unwrap_or_default());
    }
    if args.first().is_some_and(|word| word == "system") {
        return crate::bench_system::run(args.get(1).and_then(|n| n.parse().ok()).unwrap_or(1));
    }
    if args.first().is_some_and(|word| word == "network") {
        return crate::bench_network::run(args.get(1..).unwrap_or_default());
    }
    if args.first().is_some_and(|word| word == "mmio") {
        return mmio(args.get(1).and_then(|n| n.parse().ok()).unwrap_or(3));
    }
    if args.first().is_none_or(|word| word != "boot") {
        return Err("usage: cargo xtask bench [ROUNDS | boot [CPU] [ROUNDS] | programs | mmio | storage | network | system | lookup]".into());
    }
    let cpu = args.get(1).map_or("max", String::as_str);
    let rounds: usize = args.get(2).and_then(|n| n.parse().ok()).unwrap_or(1);
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
