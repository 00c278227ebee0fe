//! `bench network`: the network of a guest against an installed QEMU's, in turns on the same host.
//!
//! The guest is Debian's installer kernel and RAM disk with iperf3 of Debian's arm64 packages and
//! `tests/guests/net-bench.c`; it carries out lines that come over its console. The servers run on
//! the host's loopback (user networking), or in a network namespace that is made here, joined to
//! another one, in which the emulator runs with a tap device, by a pair of veth and a bridge.
//! Everything stays on the machine, and every load is bounded in count and time.
//! Ratio: above 1, ours is better. Rows are medians of the rounds.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Result, guests, packages, steps};

const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("iperf3", "iperf3"),
    ("ip", "iproute2"),
    ("cc", "gcc"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
];
/// What iperf3 needs in the guest.
const ARM64: &[&str] = &["iperf3", "libiperf0", "libc6", "libssl3", "libsctp1"];
/// Ports of iperf3, of the echo server, and the one that leads into the guest.
const PORTS: [u16; 3] = [22801, 22802, 22803];
/// Bursts of connections whose slowest is shown.
const BURSTS: usize = 5;
/// Longest life of a guest in seconds.
const LIFE: &str = "900";

/// The guest's first program: it carries out lines.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe virtio_pci; modprobe virtio_net; modprobe e1000e
until [ -e /sys/class/net/eth0 ]; do sleep 1; done
ip link set lo up; ip link set eth0 up
echo 16384 65000 > /proc/sys/net/ipv4/ip_local_port_range
export LD_LIBRARY_PATH=/opt/lib; ulimit -n 65536
run() { /opt/lib/ld-linux-aarch64.so.1 \"$@\"; }
stty -echo; echo READY
while read -r line; do eval \"$line\"; echo \"DONE $?\"; done
";

fn failed(what: impl std::fmt::Display) -> impl Fn(std::io::Error) -> String {
    move |e| format!("{what}: {e}")
}

/// Where the network of a guest ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Net {
    User,
    Tap,
}

impl Net {
    /// Whom the guest talks to.
    fn server(self) -> &'static str {
        match self {
            Net::User => "10.0.2.2",
            Net::Tap => "10.9.0.1",
        }
    }
    /// The same as the servers are bound.
    fn bind(self) -> &'static str {
        if self == Net::User { "127.0.0.1" } else { "10.9.0.1" }
    }
    fn guest(self) -> &'static str {
        if self == Net::User { "10.0.2.15" } else { "10.9.0.2" }
    }
    fn name(self) -> &'static str {
        if self == Net::User { "user" } else { "tap" }
    }
}

/// A process that is ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Two namespaces of our own.
struct Spaces {
    emulator: String,
    server: String,
}

fn ip(line: &str) -> Result<()> {
    let done = Command::new("ip").args(line.split(' ')).status().map_err(failed("ip"))?;
    if done.success() { Ok(()) } else { Err(format!("ip {line} failed")) }
}

impl Spaces {
    fn new() -> Result<Spaces> {
        let own = std::process::id();
        let spaces =
            Spaces { emulator: format!("tnm-bench-{own}"), server: format!("tnm-serve-{own}") };
        let Spaces { emulator: a, server: b } = &spaces;
        for line in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add veth0 type veth peer name veth1 netns {b}"),
            format!("-n {a} link add br0 type bridge"),
            format!("-n {a} tuntap add tap0 mode tap vnet_hdr"),
            format!("-n {a} link set veth0 master br0 up"),
            format!("-n {a} link set tap0 master br0 up"),
            format!("-n {a} link set br0 up"),
            format!("-n {b} addr add 10.9.0.1/24 dev veth1"),
            format!("-n {b} link set veth1 up"),
            format!("-n {b} link set lo up"),
        ] {
            ip(&line)?;
        }
        Ok(spaces)
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        _ = ip(&format!("netns del {}", self.emulator));
        _ = ip(&format!("netns del {}", self.server));
    }
}

/// A command in a namespace, or outside of all.
fn inside(space: Option<&str>, program: &Path) -> Command {
    let Some(space) = space else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space]).arg(program);
    command
}

/// Downloads and unpacks what the guest needs; the system's own lists stay as they are.
fn arm64(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    if root.join("usr/bin/iperf3").exists() {
        return Ok(root);
    }
    eprintln!("==> downloading Debian's arm64 packages {}", ARM64.join(" "));
    for sub in ["lists/partial", "cache/archives/partial", "debs", "root"] {
        fs::create_dir_all(dir.join(sub)).map_err(failed(sub))?;
    }
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    for args in [&["update"][..], &[&["download"], ARM64].concat()] {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures::=arm64"]);
        apt.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-o"]);
        apt.arg(option("Dir::State::lists", &dir.join("lists"))).arg("-o");
        apt.arg(option("Dir::Cache", &dir.join("cache"))).args(args).current_dir(dir.join("debs"));
        if !apt.status().is_ok_and(|status| status.success()) {
            return Err(format!("apt-get {} failed", args.join(" ")));
        }
    }
    for deb in fs::read_dir(dir.join("debs")).map_err(failed("debs"))?.flatten() {
        let mut unpack = Command::new("dpkg");
        unpack.arg("-x").arg(deb.path()).arg(&root);
        steps::run("unpacking", &mut unpack)?;
    }
    Ok(root)
}

/// The RAM disk.
fn initrd(dir: &Path, guest: &guests::Guest) -> Result<PathBuf> {
    let root = arm64(&dir.join("arm64"))?;
    let (program, path) = (dir.join("net-bench-arm64"), dir.join("initrd"));
    let mut cc = Command::new("aarch64-linux-gnu-gcc");
    cc.args(["-O1", "-static", "-o"]).arg(&program).arg("tests/guests/net-bench.c");
    steps::run("compiling for the guest", &mut cc)?;
    let mut files: Vec<(String, Vec<u8>)> = vec![("net-init".into(), INIT.into())];
    let mut add = |name: &str, path: &Path| -> Result<()> {
        files.push((name.into(), fs::read(path).map_err(failed(path.display()))?));
        Ok(())
    };
    add("opt/net-bench", &program)?;
    add("opt/iperf3", &root.join("usr/bin/iperf3"))?;
    for lib in ["lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"] {
        for entry in fs::read_dir(root.join(lib)).map_err(failed(lib))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let wanted =
                ["libc.", "libm.", "libiperf", "libcrypto", "libssl", "libsctp", "ld-linux"];
            if wanted.iter().any(|w| name.starts_with(w)) && entry.path().is_file() {
                add(&format!("opt/lib/{name}"), &entry.path())?;
            }
        }
    }
    let plain = guest.dir.join("initrd.gz");
    let mut all = fs::read(&plain).map_err(failed(plain.display()))?;
    all.resize(all.len().next_multiple_of(4), 0);
    let list: Vec<(&str, u32, &[u8])> =
        files.iter().map(|(name, data)| (name.as_str(), 0o100_755, data.as_slice())).collect();
    all.extend(guests::archive(&["opt", "opt/lib"], &list));
    fs::write(&path, all).map_err(failed(path.display()))?;
    Ok(path)
}

/// A guest that carries out lines.
struct Vm {
    child: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Vm {
    fn start(bench: &Bench, program: &Path, net: Net) -> Result<Vm> {
        let space = bench.spaces.as_ref().map(|s| s.emulator.as_str()).filter(|_| net == Net::Tap);
        let netdev = match net {
            Net::User => format!("user,id=n,hostfwd=tcp:127.0.0.1:{}-:{}", PORTS[2], PORTS[2]),
            Net::Tap => "tap,id=n,ifname=tap0,script=no,downscript=no".to_owned(),
        };
        let mut command = inside(space, Path::new("timeout"));
        command.args(["-s", "KILL", LIFE]).arg(program);
        command.args(["-M", "virt", "-cpu", "max", "-m", "1G", "-smp", "2", "-nodefaults"]);
        command.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-kernel"]);
        command.arg(&bench.guest.kernel).arg("-initrd").arg(&bench.initrd);
        command.args(["-append", "console=ttyAMA0 quiet panic=-1 rdinit=/net-init", "-netdev"]);
        command.arg(netdev).arg("-device").arg(format!("{},netdev=n", bench.card));
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().map_err(failed(program.display()))?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut vm = Vm { child: Running(child), input, output };
        vm.until("READY")?;
        vm.run(&format!("ip addr add {}/24 dev eth0", net.guest()))?;
        Ok(vm)
    }

    /// Reads lines until one begins so; all of them.
    fn until(&mut self, begin: &str) -> Result<String> {
        let mut all = String::new();
        loop {
            let mut line = Vec::new();
            let n = self.output.read_until(b'\n', &mut line).map_err(failed("console"))?;
            let line = String::from_utf8_lossy(&line);
            all.push_str(&line);
            if line.trim().starts_with(begin) {
                return Ok(all);
            }
            if n == 0 {
                return Err(format!("the guest ended before '{begin}':\n{all}"));
            }
        }
    }

    fn send(&mut self, line: &str) -> Result<()> {
        self.input.write_all(line.as_bytes()).map_err(failed("console"))?;
        self.input.write_all(b"\n").and_then(|()| self.input.flush()).map_err(failed("console"))
    }

    fn run(&mut self, line: &str) -> Result<String> {
        self.send(line)?;
        self.until("DONE")
    }

    /// Resident memory of the emulator in bytes: the child of `timeout`.
    fn memory(&self) -> u64 {
        let own = self.child.0.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let pid = children.unwrap_or_default().trim().to_owned();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kb = line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kb.unwrap_or(0) * 1024
    }
}

struct Bench {
    guest: guests::Guest,
    initrd: PathBuf,
    program: PathBuf,
    card: String,
    spaces: Option<Spaces>,
}

/// A figure of a row: `more` is better, or less.
#[derive(Clone)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    more: bool,
}

/// The number behind a word.
fn after(text: &str, word: &str) -> Option<f64> {
    text.split(word).nth(1)?.split_whitespace().next()?.parse().ok()
}

/// Bits per second of iperf3's last line for the receiver, and the loss in percent.
fn iperf(text: &str) -> Result<(f64, f64)> {
    let bad = || format!("iperf3 says:\n{text}");
    let line = text.lines().rev().find(|line| line.contains("receiver")).ok_or_else(bad)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "Mbits/sec").ok_or_else(bad)?;
    let speed = words.get(at.saturating_sub(1)).and_then(|w| w.parse().ok()).ok_or_else(bad)?;
    let loss = line.split('(').nth(1).and_then(|rest| rest.split('%').next()?.parse().ok());
    Ok((speed, loss.unwrap_or(0.0)))
}

fn servers(bench: &Bench, net: Net) -> Result<[Running; 2]> {
    let space = bench.spaces.as_ref().map(|s| s.server.as_str()).filter(|_| net == Net::Tap);
    let port = |n: usize| PORTS.get(n).map(u16::to_string).unwrap_or_default();
    let mut iperf = inside(space, Path::new("iperf3"));
    iperf.args(["-s", "-B", net.bind(), "-p", &port(0)]).stdout(Stdio::null());
    let mut echo = inside(space, &bench.program);
    echo.args(["serve", net.bind(), &port(1)]).stdout(Stdio::piped());
    let iperf = Running(iperf.stdin(Stdio::null()).spawn().map_err(failed("iperf3"))?);
    let mut echo = Running(echo.spawn().map_err(failed("net-bench"))?);
    let out = echo.0.stdout.take().ok_or("no output")?;
    BufReader::new(out).read_line(&mut String::new()).map_err(failed("net-bench"))?;
    Ok([iperf, echo])
}

fn streams(vm: &mut Vm, net: Net, found: &mut Vec<Figure>, name: &str) -> Result<()> {
    let [port, ..] = PORTS;
    for (what, flags) in [
        ("TCP, guest to host", "-t 4"),
        ("TCP, host to guest", "-t 4 -R"),
        ("UDP, guest to host", "-t 3 -u -b 0 -l 1400"),
        ("UDP, 100 Mbit/s to guest", "-t 3 -u -b 100M -l 1400 -R"),
    ] {
        let line = format!("run /opt/iperf3 -f m -c {} -p {port} {flags}", net.server());
        let (speed, loss) = iperf(&vm.run(&line)?)?;
        let mut add = |name, value, unit, more| found.push(Figure { name, value, unit, more });
        add(format!("{name}: {what}"), speed, "Mbit/s", true);
        if flags.contains("-R") && flags.contains("-u") {
            add(format!("{name}: {what}, lost"), loss, "%", false);
        }
    }
    Ok(())
}

fn small(bench: &Bench, vm: &mut Vm, net: Net, found: &mut Vec<Figure>, name: &str) -> Result<()> {
    let [_, port, forwarded] = PORTS;
    let to = net.server();
    let mut add = |what: &str, value: Option<f64>, unit: &'static str| {
        let name = format!("{name}: {what}");
        let value = value.ok_or_else(|| format!("no figure for {name}"))?;
        found.push(Figure { name, value, unit, more: false });
        Ok::<(), String>(())
    };
    let text = vm.run(&format!("/opt/net-bench rr tcp {to} {port} 3000 1"))?;
    add("request and answer, TCP", after(&text, "us "), "us")?;
    let text = vm.run(&format!("/opt/net-bench rr udp {to} {port} 3000 1"))?;
    add("request and answer, UDP", after(&text, "us "), "us")?;
    if net == Net::User {
        vm.run(&format!("/opt/net-bench serve 0.0.0.0 {forwarded} > /dev/null & sleep 1"))?;
        let port = forwarded.to_string();
        let mut asks = Command::new(&bench.program);
        asks.args(["rr", "tcp", "127.0.0.1", &port, "3000", "1"]);
        let out = asks.output().map_err(failed("net-bench"))?;
        let text = String::from_utf8_lossy(&out.stdout);
        add("request and answer, hostfwd", after(&text, "us "), "us")?;
    }
    let before = vm.memory();
    vm.send(&format!("/opt/net-bench conns {to} {port} 1000 10"))?;
    let text = vm.until("RESULT open_us")?;
    add("1000 connections, opening one", after(&text, "open_us "), "us")?;
    let grown = vm.memory().saturating_sub(before);
    vm.send("go")?;
    let text = vm.until("DONE")?;
    add("1000 connections, request and answer", after(&text, "us "), "us")?;
    if net == Net::User {
        add("memory of an idle connection", Some(grown as f64 / 1_024_000.0), "KiB")?;
    }
    // The guest's own queue is as long: what it drops is asked again after a second.
    let mut worst = 0_f64;
    for _ in 0..BURSTS {
        vm.send(&format!("/opt/net-bench conns {to} {port} 1000 1"))?;
        let text = vm.until("RESULT open_us")?;
        worst = worst.max(after(&text, "open_us ").unwrap_or(f64::MAX));
        vm.send("go")?;
        vm.until("DONE")?;
    }
    add("bursts of 1000 connections, opening one in the slowest", Some(worst), "us")?;
    let text = vm.run(&format!("/opt/net-bench churn {to} {port} 3000 50"))?;
    add("open, ask, close", after(&text, "us "), "us")
}

fn measure(bench: &Bench, program: &Path, net: Net) -> Result<Vec<Figure>> {
    let _servers = servers(bench, net)?;
    let mut vm = Vm::start(bench, program, net)?;
    let (mut found, name) = (Vec::new(), format!("{}, {}", net.name(), bench.card));
    streams(&mut vm, net, &mut found, &name)?;
    small(bench, &mut vm, net, &mut found, &name)?;
    _ = vm.send("poweroff -f");
    _ = vm.until("never");
    Ok(found)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

fn table(pairs: &[(Vec<Figure>, Vec<Figure>)]) {
    let Some((first, _)) = pairs.first() else { return };
    for figure in first {
        let of = |all: &[Figure]| {
            let found = all.iter().find(|f| f.name == figure.name);
            found.map_or(0.0, |f| f.value)
        };
        let ours = median(pairs.iter().map(|(a, _)| of(a)).collect());
        let peer = median(pairs.iter().map(|(_, b)| of(b)).collect());
        let ratio = if figure.more { ours / peer } else { peer / ours };
        let Figure { name, unit, .. } = figure;
        println!("| {name} | {ours:.1} {unit} | {peer:.1} {unit} | {ratio:.2} |");
    }
}

/// `bench network [ROUNDS] [user|tap|both] [CARD]`. `TINAMOU` names another build of ours.
pub(crate) fn run(args: &[String]) -> Result<()> {
    packages::need(TOOLS)?;
    let rounds = args.first().and_then(|n| n.parse().ok()).unwrap_or(1);
    let which = args.get(1).map_or("both", String::as_str);
    let card = args.get(2).map(String::as_str);
    let ours = match std::env::var_os("TINAMOU") {
        Some(program) => program.into(),
        None => steps::build_release()?,
    };
    let dir = steps::target_dir().join("bench-network");
    fs::create_dir_all(&dir).map_err(failed(dir.display()))?;
    let guest = guests::fetch()?;
    let initrd = initrd(&dir, &guest)?;
    let program = dir.join("net-bench");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-o"]).arg(&program).arg("tests/guests/net-bench.c");
    steps::run("compiling for the host", &mut cc)?;
    let mut bench = Bench { guest, initrd, program, card: String::new(), spaces: None };
    println!("| what | ours | QEMU | ratio |\n|---|--:|--:|--:|");
    let all = [(Net::User, "virtio-net-pci"), (Net::Tap, "virtio-net-pci"), (Net::User, "e1000e")];
    // A card that is named is looked at alone, with each back end.
    let all: Vec<_> = match card {
        Some(card) => vec![(Net::User, card), (Net::Tap, card)],
        None => all.to_vec(),
    };
    for (net, card) in all {
        if which != "both" && which != net.name() {
            continue;
        }
        card.clone_into(&mut bench.card);
        if net == Net::Tap && bench.spaces.is_none() {
            bench.spaces = Some(Spaces::new()?);
        }
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let a = measure(&bench, &ours, net)?;
            pairs.push((a, measure(&bench, Path::new("qemu-system-aarch64"), net)?));
        }
        table(&pairs);
    }
    Ok(())
}
