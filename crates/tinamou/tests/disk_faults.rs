//! Disks that fail, from outside: our program and the installed peer get the same requests by qtest,
//! and say the same to the guest, in events and in the state of the machine.
//!
//! Faults are those of a rule of `blkdebug`, of an NBD server, of a file system that is full, and of a
//! limit of files that cuts a write short. Without a peer, our own answers are looked at only.

#[path = "harness/disk.rs"]
#[expect(dead_code, reason = "this test uses a part")]
mod disk_driver;
#[expect(dead_code, reason = "this test uses a part")]
mod harness;
#[path = "harness/nvme.rs"]
mod nvme_driver;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use disk_driver::{Disk, Kind};
use harness::{Emulator, OURS, PEER};
use nvme_driver::DATA;

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

/// A new disk. It is another file than before: a ring of a killed program may hold the old one and
/// its locks a moment longer.
fn disk(path: &Path) {
    _ = std::fs::remove_file(path);
    std::fs::write(path, vec![0x11; 1 << 20]).expect("a disk");
}

/// A request that fails; if the machine stands it goes on once.
fn fails_once(disk: &mut Disk<'_>, write: bool) -> Vec<String> {
    disk.e().put(DATA, &[0x77; 8192]);
    let mut out = vec![disk.run(write, 8, 8)];
    out.extend(disk.events());
    if out[0].starts_with("stands") {
        let words = disk.e().qmp("{\"execute\":\"cont\"}");
        out.push(format!("cont: {words}, {}", disk.outcome()));
        out.extend(disk.events());
    }
    out
}

/// The same, then the disk is looked at.
fn fails(disk: &mut Disk<'_>, write: bool) -> Vec<String> {
    let mut out = fails_once(disk, write);
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
        // EINVAL of the host is a disk that failed too.
        ("write", "report stop", 22),
        ("read", "stop", 22),
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
    assert_eq!(stood, 12, "machines that stood");
}

#[test]
fn a_write_that_is_cut_short_fails_with_what_is_there() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display();
    let mut ways = vec!["threads"];
    if host::Ring::new(1).is_ok() {
        ways.extend(["io_uring", "native,file.cache.direct=on"]);
    } else {
        // Threads stand in for rings then, and the peer refuses them.
        println!("NOT RUN: no io_uring here");
    }
    let mut whole = false;
    for (format, kind) in ways.into_iter().flat_map(|aio| KINDS.map(|kind| (aio, kind))) {
        // The kernel writes six sectors of eight.
        let node = format!("driver=raw,file.driver=file,file.filename={path},file.aio={format}");
        let limit = Some((8 + 6) * 512);
        for policy in ["", ",werror=stop", ",werror=enospc", ",werror=report"] {
            let fault = Fault { kind, node: &node, policy, limit };
            let out = compare(
                &fault,
                || disk(file.path()),
                |d| {
                    // If it stands it fails again; a reset ends that.
                    let mut out = fails_once(d, true);
                    out.push(d.run(true, 0, 8));
                    out
                },
            );
            // A ring's short write is a full disk; a thread tries the rest and hears why.
            // A file system of 4 KiB blocks takes no part of one past the page cache (told by the
            // event of the first kind).
            whole |= out.iter().any(|line| line.contains("Invalid argument"));
            let full = policy != ",werror=report" && format != "threads" && !whole;
            let stands = (full || policy == ",werror=stop") && kind != Kind::Nvme;
            assert_eq!(out[0].starts_with("stands"), stands, "{out:?}");
            let all = std::fs::read(file.path()).expect("the disk");
            let last = if whole { 0x11 } else { 0x77 };
            assert_eq!((all[13 * 512], all[14 * 512], all.len()), (last, 0x11, 1 << 20));
        }
    }
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
            let mut out = fails_once(d, true);
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
            for file in [&path, &filler] {
                _ = std::fs::remove_file(file);
            }
            // What a killed program's ring holds is free a moment later.
            let used = || {
                let fs = rustix::fs::statvfs(dir.path()).expect("the file system");
                fs.f_blocks - fs.f_bfree
            };
            let mut tries = 0..6000;
            while used() > 0 {
                assert!(tries.next().is_some(), "{} pages are in use", used());
                std::thread::sleep(Duration::from_millis(5));
            }
            let disk = std::fs::File::create(&path).expect("a disk");
            disk.set_len(1 << 20).expect("a disk with holes");
            let mut filler = std::fs::File::create(&filler).expect("a file");
            for _ in 0..14 {
                std::io::Write::write_all(&mut filler, &[1; 4096]).expect("room");
            }
        };
        compare(&Fault { kind, node: &node, policy: "", limit: None }, fill, |d| {
            // The first page has room, and not all that follow.
            let mut out = fails_once(d, true);
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
