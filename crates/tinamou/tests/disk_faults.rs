//! Disks that fail, from outside: our program and the installed peer get the same requests by qtest,
//! and say the same to the guest, in events and in the state of the machine.
//!
//! Faults are those of a rule of `blkdebug`, of an NBD server, of a file system that is full, and of a
//! limit of files that cuts a write short. Without a peer, our own answers are looked at only.

mod harness;
#[path = "harness/nvme.rs"]
mod nvme_driver;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{Emulator, OURS, PEER};
use nvme_driver::{DATA, Nvme};

const RAM: u64 = 0x4000_0000;
/// The ring of virtio; what the machine tells of itself lies at the start of RAM.
const RING: u64 = RAM + 0x80_0000;
/// Where a request of virtio has its head and its answer.
const HEAD: u64 = RING + 0x4000;
const ANSWER: u64 = RING + 0x5000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Blk,
    Scsi,
    Nvme,
}

/// A driver for one virtio queue behind MMIO, one request at a time.
struct Virtio<'a> {
    e: &'a mut Emulator,
    base: u64,
    queue: u64,
    count: u16,
}

impl Virtio<'_> {
    fn of(e: &mut Emulator, queue: u64) -> Virtio<'_> {
        let places = (0..32).map(|n| 0x0a00_0000 + n * 0x200);
        let found: Vec<u64> = places.filter(|at| e.read32(at + 8) != 0).collect();
        let base = *found.first().expect("a device");
        e.write(base + 0x70, 32, 3);
        for sel in 0..2 {
            e.write(base + 0x24, 32, sel);
            e.write(base + 0x20, 32, sel);
        }
        e.write(base + 0x70, 32, 11);
        e.write(base + 0x30, 32, queue);
        e.write(base + 0x38, 32, 16);
        for (register, at) in [(0x80, 0), (0x90, 0x1000), (0xa0, 0x2000)] {
            e.write(base + register, 32, RING + at);
            e.write(base + register + 4, 32, 0);
        }
        e.write(base + 0x44, 32, 1);
        e.write(base + 0x70, 32, 15);
        Virtio { e, base, queue, count: 0 }
    }

    /// Rings for a request of these pieces: place, length, and whether the device writes.
    fn begin(&mut self, parts: &[(u64, u32, bool)]) {
        for (n, (at, len, writes)) in (0u16..).zip(parts) {
            let more = usize::from(n) + 1 < parts.len();
            let mut d = at.to_le_bytes().to_vec();
            d.extend(len.to_le_bytes());
            d.extend((u16::from(more) | u16::from(*writes) << 1).to_le_bytes());
            d.extend((n + 1).to_le_bytes());
            self.e.put(RING + 16 * u64::from(n), &d);
        }
        self.e.put(RING + 0x1004 + 2 * u64::from(self.count % 16), &[0, 0]);
        self.count += 1;
        self.e.put(RING + 0x1002, &self.count.to_le_bytes());
        self.e.write(self.base + 0x50, 32, self.queue);
    }

    fn is_back(&mut self) -> bool {
        self.e.bytes(RING + 0x2002, 2) == self.count.to_le_bytes()
    }

    fn said(&mut self, kind: Kind) -> String {
        if kind == Kind::Blk {
            return format!("status {}", self.e.bytes(ANSWER, 1)[0]);
        }
        let a = self.e.bytes(ANSWER, 108);
        let sense = if a[10] == 2 { (a[14], a[24], a[25]) } else { (0, 0, 0) };
        format!("status {} response {} sense {sense:x?}", a[10], a[11])
    }
}

/// A disk of some kind with its driver.
enum Disk<'a> {
    Virtio(Virtio<'a>, Kind),
    Nvme(Nvme<'a>),
}

impl Disk<'_> {
    fn of(e: &mut Emulator, kind: Kind) -> Disk<'_> {
        let queue = match kind {
            Kind::Nvme => {
                let mut n = Nvme::of(e);
                for (opcode, at, flags) in [(5, 0x13_0000, 1), (1, 0x12_0000, 1 << 16 | 1)] {
                    let made = n.run(0, opcode, 0, (RAM + at, 0), [31 << 16 | 1, flags, 0]);
                    assert_eq!(made.1, 0, "a queue");
                }
                return Disk::Nvme(n);
            }
            Kind::Blk => 0,
            Kind::Scsi => 2,
        };
        Disk::Virtio(Virtio::of(e, queue), kind)
    }

    fn e(&mut self) -> &mut Emulator {
        match self {
            Disk::Virtio(v, _) => v.e,
            Disk::Nvme(n) => n.e,
        }
    }

    fn begin(&mut self, write: bool, sector: u16, count: u8) {
        let len = u32::from(count) * 512;
        let [high, low] = sector.to_be_bytes();
        match self {
            Disk::Nvme(n) => {
                let words = [sector.into(), 0, u32::from(count) - 1];
                n.begin(1, if write { 1 } else { 2 }, 1, (DATA, DATA + 4096), words);
            }
            Disk::Virtio(v, Kind::Blk) => {
                let mut head = vec![u8::from(write), 0, 0, 0, 0, 0, 0, 0, low, high];
                head.resize(16, 0);
                v.e.put(HEAD, &head);
                v.begin(&[(HEAD, 16, false), (DATA, len, !write), (ANSWER, 1, true)]);
            }
            Disk::Virtio(v, _) => {
                let mut head = vec![1, 0, 0, 0, 0, 0, 0, 0];
                head.resize(19, 0);
                head.extend([if write { 0x2a } else { 0x28 }, 0, 0, 0, high, low, 0, 0, count]);
                head.resize(51, 0);
                v.e.put(HEAD, &head);
                let (data, answer) = ((DATA, len, !write), (ANSWER, 108, true));
                let parts = if write { [data, answer] } else { [answer, data] };
                v.begin(&[(HEAD, 51, false), parts[0], parts[1]]);
            }
        }
    }

    /// What a request came to, if it is there.
    fn answer(&mut self) -> Option<String> {
        match self {
            Disk::Nvme(n) => n.answer(1).map(|(_, status, _)| format!("status {status:#x}")),
            Disk::Virtio(v, kind) => v.is_back().then(|| v.said(*kind)),
        }
    }

    /// What came of a request: an answer, or a machine that stands.
    fn outcome(&mut self) -> String {
        for _ in 0..4000 {
            if let Some(answer) = self.answer() {
                return answer;
            }
            let status = self.e().reply("{\"execute\":\"query-status\"}");
            if let Some((_, state)) = status.split_once("\"status\": \"")
                && !state.starts_with("running")
            {
                return format!("stands: {}", state.split('"').next().unwrap_or(""));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no answer");
    }

    fn run(&mut self, write: bool, sector: u16, count: u8) -> String {
        self.begin(write, sector, count);
        self.outcome()
    }

    /// Events of storage and of the machine since the last time.
    fn events(&mut self) -> Vec<String> {
        self.e().reply("{\"execute\":\"query-status\"}");
        let wanted = ["BLOCK_IO_ERROR", "STOP", "RESUME"];
        let all = std::mem::take(&mut self.e().events).into_iter();
        let all = all.filter(|line| wanted.iter().any(|name| line.contains(name)));
        // Times are not compared, and members have no order.
        let plain = |line: String| {
            let line = line.split("\"timestamp\": {").map(|part| {
                let is_time = part.starts_with("\"seconds\"");
                if is_time { part.split_once('}').map_or("", |(_, rest)| rest) } else { part }
            });
            let line: String = line.collect();
            let mut words: Vec<_> = line.split([',', '{', '}']).map(str::trim).collect();
            words.sort_unstable();
            words.retain(|word| !word.is_empty());
            words.join(" ")
        };
        all.map(plain).collect()
    }
}

/// A file system's or a server's fault.
struct Fault<'a> {
    kind: Kind,
    /// Options of the drive's driver.
    node: &'a str,
    /// `rerror` and `werror`.
    policy: &'a str,
    /// Bytes that files may have.
    limit: Option<u64>,
}

/// Starts a program with a drive that fails.
fn start(program: &str, fault: &Fault<'_>) -> Option<Emulator> {
    let device = match fault.kind {
        Kind::Blk => "virtio-blk-device",
        Kind::Scsi => "virtio-scsi-device -device scsi-hd",
        Kind::Nvme => "nvme,serial=1",
    };
    let args = format!(
        "-global virtio-mmio.force-legacy=false -drive if=none,id=d,node-name=n,{}{} -device {device},id=x,drive=d",
        fault.node, fault.policy
    );
    let Some(limit) = fault.limit else { return Emulator::start(program, &args) };
    Command::new(program).arg("--version").output().ok()?;
    let mut command = Command::new("sh");
    let ours = if program == OURS { "system aarch64" } else { "" };
    let script = format!("trap '' XFSZ; ulimit -f {}; exec {program} {ours} \"$@\"", limit / 512);
    command.args(["-c", &script, "sh"]);
    Emulator::launch(command, &args)
}

/// What both programs say to a session with a failing drive; without a peer, what ours says.
fn compare(
    fault: &Fault<'_>,
    mut before: impl FnMut(),
    session: impl Fn(&mut Disk<'_>) -> Vec<String>,
) -> Vec<String> {
    let mut all = Vec::new();
    for program in [PEER, OURS] {
        before();
        let Some(mut e) = start(program, fault) else { continue };
        e.qmp("{\"execute\":\"cont\"}");
        let mut disk = Disk::of(&mut e, fault.kind);
        if fault.kind == Kind::Scsi {
            // The first command hears of the power-on.
            assert_eq!(disk.run(false, 0, 1), "status 2 response 0 sense (6, 29, 0)");
        }
        disk.events();
        all.push(session(&mut disk));
    }
    if let [theirs, ours] = all.as_slice() {
        assert_eq!(ours, theirs, "{:?} {} {}", fault.kind, fault.node, fault.policy);
    }
    all.pop().expect("our program")
}

const KINDS: [Kind; 3] = [Kind::Blk, Kind::Scsi, Kind::Nvme];

fn disk(path: &Path) {
    std::fs::write(path, vec![0x11; 1 << 20]).expect("a disk");
}

/// A request that fails, then what stands goes on, then the disk is looked at.
fn fails(disk: &mut Disk<'_>, write: bool) -> Vec<String> {
    disk.e().put(DATA, &[0x77; 8192]);
    let mut out = vec![disk.run(write, 8, 8)];
    out.extend(disk.events());
    if out[0].starts_with("stands") {
        let words = disk.e().qmp("{\"execute\":\"cont\"}");
        out.push(format!("cont: {words}, {}", disk.outcome()));
        out.extend(disk.events());
    }
    disk.e().put(DATA, &[0x55; 8192]);
    out.push(disk.run(false, 8, 16));
    out.push(format!("{:x?}", disk.e().bytes(DATA + 4092, 8)));
    out
}

#[test]
fn policies_are_kept_as_at_the_peer() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display();
    let mut stood = 0;
    for (iotype, policies, errno) in [
        ("write", "report ignore stop enospc", 5),
        ("write", "report ignore stop enospc", 28),
        ("read", "report ignore stop", 5),
    ] {
        for (policy, kind) in policies.split(' ').flat_map(|p| KINDS.map(|kind| (p, kind))) {
            let node = format!(
                "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={path}\
                 ,file.inject-error.0.event=none,file.inject-error.0.iotype={iotype}\
                 ,file.inject-error.0.errno={errno},file.inject-error.0.once=on\
                 ,file.inject-error.0.sector=8"
            );
            let letter = &iotype[..1];
            let policy = format!(",{letter}error={policy}");
            let fault = Fault { kind, node: &node, policy: &policy, limit: None };
            let out = compare(&fault, || disk(file.path()), |d| fails(d, iotype == "write"));
            stood += usize::from(out[0].starts_with("stands"));
        }
    }
    // Stop, and what is full with enospc: not with NVMe, whose commands always end.
    assert_eq!(stood, 8, "machines that stood");
}

#[test]
fn a_write_that_is_cut_short_fails_with_what_is_there() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display();
    for (format, kind) in ["io_uring", "threads", "native,file.cache.direct=on"]
        .into_iter()
        .flat_map(|aio| KINDS.map(|kind| (aio, kind)))
    {
        // The kernel writes six sectors of eight.
        let node = format!("driver=raw,file.driver=file,file.filename={path},file.aio={format}");
        let limit = Some((8 + 6) * 512);
        for policy in ["", ",werror=stop", ",werror=enospc", ",werror=report"] {
            let fault = Fault { kind, node: &node, policy, limit };
            let out = compare(
                &fault,
                || disk(file.path()),
                |d| {
                    let mut out = fails_once(d);
                    out.push(d.run(true, 0, 8));
                    out
                },
            );
            // A ring's short write is a full disk; a thread tries the rest and hears why.
            let full = policy != ",werror=report" && format != "threads";
            let stands = (full || policy == ",werror=stop") && kind != Kind::Nvme;
            assert_eq!(out[0].starts_with("stands"), stands, "{out:?}");
            let all = std::fs::read(file.path()).expect("the disk");
            assert_eq!((all[13 * 512], all[14 * 512], all.len()), (0x77, 0x11, 1 << 20));
        }
    }
}

/// A write that fails and is not made again.
fn fails_once(disk: &mut Disk<'_>) -> Vec<String> {
    disk.e().put(DATA, &[0x77; 8192]);
    let mut out = vec![disk.run(true, 8, 8)];
    out.extend(disk.events());
    if out[0].starts_with("stands") {
        // It fails again, and the machine stands again; a reset ends that.
        let words = disk.e().qmp("{\"execute\":\"cont\"}");
        out.push(format!("cont: {words}, {}", disk.outcome()));
        out.extend(disk.events());
    }
    out
}

/// A server that was started, gone with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn a_failing_server_is_a_failing_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let (socket, trigger) = (dir.path().join("s"), dir.path().join("fail"));
    if Command::new("nbdkit").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("NOT RUN: there is no nbdkit");
        return;
    }
    for (kind, (policy, error)) in KINDS.into_iter().flat_map(|kind| {
        [("", "ENOSPC"), (",werror=stop", "EIO"), (",werror=report", "EIO")].map(|c| (kind, c))
    }) {
        let mut servers: Vec<Server> = Vec::new();
        let serve = || {
            servers.clear();
            _ = std::fs::remove_file(&socket);
            std::fs::write(&trigger, "").expect("a file");
            let mut command = Command::new("nbdkit");
            command.args(["-f", "-U"]).arg(&socket).args(["--filter=error", "memory", "1M"]);
            command.arg(format!("error-pwrite={error}")).arg("error-pwrite-rate=100%");
            command.arg(format!("error-pwrite-file={}", trigger.display()));
            servers.push(Server(command.stderr(Stdio::null()).spawn().expect("nbdkit")));
            let mut tries = 0..6000;
            while std::os::unix::net::UnixStream::connect(&socket).is_err() {
                assert!(tries.next().is_some(), "no server");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let node = format!(
            "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={}",
            socket.display()
        );
        let out = compare(&Fault { kind, node: &node, policy, limit: None }, serve, |d| {
            let mut out = fails_once(d);
            // The server has room again.
            std::fs::remove_file(&trigger).expect("the file");
            if out[0].starts_with("stands") {
                let words = d.e().qmp("{\"execute\":\"cont\"}");
                out.push(format!("cont: {words}, {}", d.outcome()));
            } else {
                out.push(d.run(true, 8, 8));
            }
            out.extend(d.events());
            d.e().put(DATA, &[0x55; 8192]);
            out.push(d.run(false, 8, 16));
            out.push(format!("{:x?}", d.e().bytes(DATA + 4092, 8)));
            out
        });
        assert!(out.last().is_some_and(|s| s == "[77, 77, 77, 77, 0, 0, 0, 0]"), "{out:?}");
    }
}

#[test]
fn a_full_file_system_stops_the_machine_until_there_is_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let mount = |args: &[&str]| {
        let status = Command::new(args[0]).args(&args[1..]).arg(dir.path()).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
        println!("NOT RUN: no file system may be mounted here");
        return;
    }
    let (path, filler) = (dir.path().join("d"), dir.path().join("filler"));
    let node = format!("driver=raw,file.driver=file,file.filename={}", path.display());
    let all = KINDS.map(|kind| {
        let fill = || {
            let disk = std::fs::File::create(&path).expect("a disk");
            disk.set_len(1 << 20).expect("a disk with holes");
            let mut filler = std::fs::File::create(&filler).expect("a file");
            for _ in 0..14 {
                std::io::Write::write_all(&mut filler, &[1; 4096]).expect("room");
            }
        };
        compare(&Fault { kind, node: &node, policy: "", limit: None }, fill, |d| {
            // The first page has room, and not all that follow.
            let mut out = fails_once(d);
            out.push(d.run(true, 16, 16));
            out.extend(d.events());
            std::fs::remove_file(&filler).expect("the file");
            if out.iter().any(|line| line.starts_with("stands")) {
                let words = d.e().qmp("{\"execute\":\"cont\"}");
                out.push(format!("cont: {words}, {}", d.outcome()));
            } else {
                out.push(d.run(true, 16, 16));
            }
            d.e().put(DATA, &[0x55; 8192]);
            out.push(d.run(false, 16, 16));
            out.push(format!("{:x?}", d.e().bytes(DATA + 8188, 4)));
            out
        })
    });
    assert!(mount(&["umount"]));
    for (kind, out) in KINDS.into_iter().zip(&all) {
        assert_eq!(out.last().map(String::as_str), Some("[77, 77, 77, 77]"), "{out:?}");
        let stood = out.iter().any(|line| line.starts_with("stands"));
        assert_eq!(stood, kind != Kind::Nvme, "{out:?}");
    }
}
