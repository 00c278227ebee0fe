//! The manual's worked example on ours and on an installed QEMU: what the guest sees, compared.
//!
//! Debian boots from firmware on a throw-away overlay of a disk image; its `dmesg`, `lspci -vvnn`,
//! `lscpu`, `/proc/interrupts`, `/proc/iomem`, `dmidecode` and ACPI tables are fetched by the console.
//! Texts are compared line by line without order, counters and addresses. Tables are compared byte by
//! byte and disassembled with `iasl`. What may differ is in [`ON_PURPOSE`], with the reason.
//! `TINAMOU` names another build than the release one, `TINAMOU_COMPARE` a folder that keeps it all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::{Result, packages, steps};

const PEER: &str = "qemu-system-aarch64";
const FIRMWARE: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";
const VARIABLES: &str = "/usr/share/AAVMF/AAVMF_VARS.fd";

/// Commands in the guest.
const LOOKS: &[&str] = &[
    "dmesg",
    "lspci -vvnn",
    "lscpu",
    "cat /proc/interrupts",
    "cat /proc/iomem",
    "dmidecode",
    "ls /sys/bus/platform/devices /sys/bus/virtio/devices /sys/bus/acpi/devices",
];

/// Tables, as text.
const TABLES: &str = "for f in /sys/firmware/acpi/tables/*; do [ -f $f ] && echo T $(basename $f) && \
                      base64 -w0 $f && echo; done";

/// Lines that may be there on one side only: what is in them, and why.
const ON_PURPOSE: &[(&str, &str)] = &[
    ("32-bit EL0 Support", "CPUs are AArch64 only"),
    ("32-bit EL1 Support", "CPUs are AArch64 only"),
    ("CPU op-mode(s):", "CPUs are AArch64 only"),
    ("Scalable Vector Extension", "no SVE"),
    ("SVE:", "no SVE"),
    ("Flags:", "no SVE and what builds on it"),
    ("Address sizes", "52-bit addresses are absent"),
    ("Virtualization features", "the same"),
    ("Scalable Matrix Extension", "no SME"),
    ("SME:", "no SME"),
    ("Memory Tagging", "no MTE"),
];

/// Lines that differ between two boots of one emulator.
const NOISE: &[&str] = &[
    "systemd",
    "audit:",
    "Memory: ",
    "deferred pages",
    "setting system clock",
    "hrtimer: interrupt took",
    "arch_timer: ",
    "sched_clock",
    "Calibrating delay",
    "random: crng",
    "NODE_DATA",
    "software IO TLB",
    "efi: SMBIOS",
    "reserved",
    "Kernel code",
    "Kernel data",
    "System RAM",
    "clocksource:",
    "BogoMIPS",
    "KASLR",
    "Spectre",
    "Freeing unused",
    "workingset",
    "random: fast init",
    "Kernel command line",
    "hid-generic",
    "UUID",
    "EXT4-fs",
    "loop:",
    "perf: interrupt took",
    "rcu:",
    "clock-frequency",
    "DISABLE_HTABLE",
];

/// What a guest showed.
struct Seen {
    texts: BTreeMap<&'static str, BTreeSet<String>>,
    tables: BTreeMap<String, Vec<u8>>,
}

/// A guest's console.
struct Console {
    child: Child,
    to: ChildStdin,
    from: Receiver<Vec<u8>>,
    seen: String,
}

impl Drop for Console {
    fn drop(&mut self) {
        // The disk is thrown away.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Console {
    fn start(mut command: Command) -> Result<Console> {
        let text = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("{text}: {e}"))?;
        let (Some(to), Some(mut out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no console".into());
        };
        let (send, from) = channel();
        #[expect(clippy::disallowed_methods, reason = "a task of its own, not the emulator")]
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                if send.send(buffer.get(..n).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Console { child, to, from, seen: String::new() })
    }

    /// What came before `text`, which must come before there is silence for `seconds`.
    fn expect(&mut self, text: &str, seconds: u64) -> Result<String> {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                let before = std::mem::replace(&mut self.seen, rest);
                return Ok(before.strip_suffix(text).unwrap_or_default().replace('\r', ""));
            }
            match self.from.recv_timeout(Duration::from_secs(seconds)) {
                Ok(bytes) => self.seen.extend(bytes.iter().map(|b| char::from(*b))),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no {text:?} in {seconds} s: {}", self.seen));
                }
                Err(RecvTimeoutError::Disconnected) => return Err("the guest ended".into()),
            }
        }
    }

    fn send(&mut self, line: &str) -> Result<()> {
        let sent = self.to.write_all(line.as_bytes()).and_then(|()| self.to.write_all(b"\n"));
        sent.and_then(|()| self.to.flush()).map_err(|e| format!("console: {e}"))
    }

    fn run(&mut self, line: &str) -> Result<String> {
        // The prompt is not in the echo of what makes it.
        self.send(line)?;
        self.expect("@@DONE@@ ", 240)
    }
}

fn worked_example(program: &Path, disk: &Path, variables: &Path) -> Command {
    let mut c = Command::new(program);
    c.args(["-machine", "type=virt,virtualization=on,pflash0=rom,pflash1=efivars", "-m", "4096"])
        .args(["-cpu", "max,pauth-impdef=on", "-smp", "4", "-accel", "tcg"])
        .args(["-device", "virtio-net-pci,netdev=unet", "-device", "virtio-scsi-pci"])
        .args(["-device", "scsi-hd,drive=hd", "-netdev", "user,id=unet"])
        .arg("-blockdev")
        .arg(format!(
            "driver=qcow2,node-name=hd,file.driver=file,file.filename={},discard=unmap",
            disk.display()
        ))
        .args(["-serial", "stdio", "-monitor", "none", "-display", "none", "-blockdev"])
        .arg(format!("node-name=rom,driver=file,filename={FIRMWARE},read-only=true"))
        .arg("-blockdev")
        .arg(format!("node-name=efivars,driver=file,filename={}", variables.display()));
    c
}

fn look(name: &str, program: &Path, image: &Path, folder: &Path) -> Result<Seen> {
    eprintln!("==> {name}: boots");
    let (disk, variables) = (folder.join("disk.qcow2"), folder.join("variables.fd"));
    let mut make = Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(image).arg(&disk);
    steps::run("qemu-img", &mut make)?;
    fs::copy(VARIABLES, &variables).map_err(|e| format!("{VARIABLES}: {e}"))?;
    let mut guest = Console::start(worked_example(program, &disk, &variables))?;
    guest.expect("login: ", 240)?;
    guest.send("root")?;
    guest.expect("assword:", 60)?;
    guest.send("root")?;
    guest.expect("# ", 120)?;
    guest.send(
        "stty cols 400 -echo; bind 'set enable-bracketed-paste off'; dmesg -n 1; PS1=\"@@\"\"DONE@@ \"",
    )?;
    guest.expect("@@DONE@@ ", 60)?;
    guest.run("")?;
    let mut texts = BTreeMap::new();
    for command in LOOKS {
        let text = guest.run(command)?;
        keep(folder, name, command, text.as_bytes())?;
        texts.insert(*command, text.lines().filter_map(normal).collect());
    }
    let text = guest.run(TABLES)?;
    let mut tables = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(table) = line.strip_prefix("T ") else { continue };
        tables.insert(table.to_owned(), base64(lines.next().unwrap_or_default()));
    }
    drop(guest);
    for file in [disk, variables] {
        fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(Seen { texts, tables })
}

/// Keeps a text for people who look at a difference.
fn keep(folder: &Path, name: &str, what: &str, bytes: &[u8]) -> Result<PathBuf> {
    let what: String = what.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let file = folder.join(format!("{name}.{what}"));
    fs::write(&file, bytes).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(file)
}

/// A line without times, counters and addresses; `None` if it says nothing then.
fn normal(line: &str) -> Option<String> {
    let line = line.trim();
    let line = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if time.trim().starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => line,
    };
    if line.is_empty() || NOISE.iter().any(|noise| line.contains(noise)) {
        return None;
    }
    // Interrupts: number and counters come before the controller's name.
    let line = match line.split_once(':') {
        Some((number, rest)) if number.parse::<u32>().is_ok() || number.starts_with("IPI") => {
            rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
        }
        _ => line,
    };
    let mut out = String::new();
    let mut word = String::new();
    for c in line.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        let digits = word.trim_start_matches("0x");
        let is_address = digits.len() >= 7 && digits.chars().all(|c| c.is_ascii_hexdigit());
        out.push_str(if is_address { "ADDRESS" } else { &word });
        word.clear();
        out.push(c);
    }
    Some(out.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let Some(value) = DIGITS.iter().position(|d| *d == byte) else { break };
        bits = bits << 6 | u32::try_from(value).unwrap_or(0);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).unwrap_or(0));
        }
    }
    out
}

fn on_purpose(line: &str) -> Option<&'static str> {
    ON_PURPOSE.iter().find(|(part, _)| line.contains(part)).map(|(_, why)| *why)
}

/// Errors and warnings that `iasl` has about a table.
fn complaints(file: &Path) -> Result<Vec<String>> {
    let source = file.with_extension("dsl");
    let mut out = Vec::new();
    for (option, input) in [("-d", file), ("-vw2104", source.as_path())] {
        let mut c = Command::new("iasl");
        let done = c.arg(option).arg(input).output().map_err(|e| format!("iasl: {e}"))?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned()
            + &String::from_utf8_lossy(&done.stderr);
        let bad = |line: &&str| {
            (line.contains("Error") || line.contains("Warning")) && !line.contains("0 Errors")
        };
        out.extend(text.lines().filter(bad).map(|line| line.trim().to_owned()));
        if !source.exists() {
            break;
        }
    }
    Ok(out)
}

fn compare_tables(ours: &Seen, theirs: &Seen, folder: &Path) -> Result<u32> {
    let mut bad = 0;
    let names: BTreeSet<_> = ours.tables.keys().chain(theirs.tables.keys()).collect();
    for name in names {
        let (Some(a), Some(b)) = (ours.tables.get(name), theirs.tables.get(name)) else {
            println!("table {name}: only on one side");
            bad += 1;
            continue;
        };
        let same = if a == b { "the same bytes" } else { "other bytes" };
        let first = complaints(&keep(folder, "ours", &format!("{name}_aml"), a)?)?;
        let second = complaints(&keep(folder, "peer", &format!("{name}_aml"), b)?)?;
        let new: Vec<_> = first.iter().filter(|line| !second.contains(line)).collect();
        println!(
            "table {name}: {} bytes, {same}; iasl complains {} times, at the peer {}",
            a.len(),
            first.len(),
            second.len()
        );
        if !new.is_empty() || a != b {
            bad += 1;
            new.iter().for_each(|line| println!("  {line}"));
        }
    }
    Ok(bad)
}

/// `compare IMAGE`: a Debian arm64 disk image (qcow2) whose root has the password `root`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let image = args.first().ok_or("usage: cargo xtask compare IMAGE.qcow2")?;
    let image = fs::canonicalize(image).map_err(|e| format!("{image}: {e}"))?;
    packages::need(&[("iasl", "acpica-tools")])?;
    let emulator = match std::env::var_os("TINAMOU") {
        Some(path) => PathBuf::from(path),
        None => steps::build_release()?,
    };
    let kept = std::env::var_os("TINAMOU_COMPARE").map(PathBuf::from);
    let folder = kept.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("tinamou-compare-{}", std::process::id()))
    });
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let ours = look("ours", &emulator, &image, &folder)?;
    let theirs = look("peer", Path::new(PEER), &image, &folder)?;
    let mut bad = 0;
    for command in LOOKS {
        let none = BTreeSet::new();
        let (a, b) =
            (ours.texts.get(command).unwrap_or(&none), theirs.texts.get(command).unwrap_or(&none));
        println!("{command}: {} lines, at the peer {}", a.len(), b.len());
        for (side, line) in
            b.difference(a).map(|l| ("missing", l)).chain(a.difference(b).map(|l| ("new", l)))
        {
            match on_purpose(line) {
                Some(why) => println!("  {side}, on purpose ({why}): {line}"),
                None => {
                    println!("  {side}: {line}");
                    bad += 1;
                }
            }
        }
    }
    bad += compare_tables(&ours, &theirs, &folder)?;
    if kept.is_none() {
        fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    println!("{bad} differences that are not on purpose");
    if bad == 0 { Ok(()) } else { Err("the guests see different machines".into()) }
}
