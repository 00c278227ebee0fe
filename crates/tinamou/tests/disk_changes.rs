//! Disks that change under a running machine, from outside: their lengths, and queues on several
//! threads. Our program and the installed peer get the same requests by qtest and the same
//! commands by QMP, and give the same answers; without a peer, our own are looked at only.

#[path = "harness/disk.rs"]
#[expect(dead_code, reason = "this test uses a part")]
mod disk_driver;
#[expect(dead_code, reason = "this test uses a part")]
mod harness;
#[path = "harness/nvme.rs"]
mod nvme_driver;

use std::path::Path;
use std::time::Duration;

use disk_driver::{Disk, Kind, Virtio, area};
use harness::{Emulator, OURS, PEER};
use nvme_driver::DATA;

const MMIO: &str = "-global virtio-mmio.force-legacy=false";

/// What both programs say to the same session, which are equal; `before` makes the files.
fn compare(
    args: &str,
    mut before: impl FnMut(),
    session: impl Fn(&mut Emulator) -> Vec<String>,
) -> Vec<String> {
    let mut all = Vec::new();
    // Namespaces keep their length at the peer.
    let peer = if args.contains("nvme") { "" } else { PEER };
    for program in [peer, OURS] {
        before();
        let Some(mut e) = Emulator::start(program, args) else { continue };
        if !args.contains("pcie-root-port") {
            e.qmp("{\"execute\":\"cont\"}");
        }
        all.push(session(&mut e));
    }
    if let [theirs, ours] = all.as_slice() {
        let differ: Vec<_> =
            ours.iter().zip(theirs).filter(|(ours, theirs)| ours != theirs).collect();
        assert!(differ.is_empty(), "{args}: ours, theirs: {differ:#?}");
        assert_eq!(ours.len(), theirs.len());
    }
    all.pop().expect("our program")
}

#[test]
fn machines_without_running_cpus_are_saved() {
    let args = "-accel qtest -drive if=none,id=d,driver=null-co,size=1M,snapshot=on";
    let mut e = Emulator::start(OURS, args).expect("our program");
    let mut line = |line: &str| {
        let args = format!("{{\"command-line\":\"{line}\"}}");
        e.reply(&format!("{{\"execute\":\"human-monitor-command\",\"arguments\":{args}}}"))
    };
    for command in ["savevm a", "loadvm a"] {
        assert_eq!(line(command), "{\"return\": \"\"}", "{command}");
    }
    assert!(line("info snapshots").contains("--      a "));
    assert!(line("loadvm b").contains("Error: Snapshot 'b' does not exist"));
}

fn disk(path: &Path) {
    std::fs::write(path, vec![0x11; 1 << 20]).expect("a disk");
}

fn resize(e: &mut Emulator, size: u64) -> String {
    let args = format!("\"node-name\":\"n\",\"size\":{size}");
    e.qmp(&format!("{{\"execute\":\"block_resize\",\"arguments\":{{{args}}}}}"))
}

#[test]
fn the_guest_sees_another_length() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let node = format!("driver=raw,file.driver=file,file.filename={}", file.path().display());
    for (kind, device) in [
        (Kind::Blk, "virtio-blk-device"),
        (Kind::Scsi, "virtio-scsi-device -device scsi-hd"),
        (Kind::Nvme, "nvme,serial=1"),
    ] {
        let args =
            format!("{MMIO} -drive if=none,id=d,node-name=n,{node} -device {device},id=x,drive=d");
        let out = compare(
            &args,
            || disk(file.path()),
            |e| {
                let mut d = Disk::of(e, kind);
                let look = |d: &mut Disk<'_>| match d {
                    Disk::Nvme(n) => {
                        let told = n.run(0, 6, 1, (DATA, 0), [0, 0, 0]);
                        format!("{told:x?} {:x?}", n.e.bytes(DATA, 8))
                    }
                    Disk::Virtio(v, Kind::Blk) => {
                        let (low, why) = (v.e.read32(v.base + 0x100), v.e.read32(v.base + 0x60));
                        v.e.write(v.base + 0x64, 32, why.into());
                        format!("{low:x} {why:x} {:x}", v.e.read32(v.base + 0x60))
                    }
                    Disk::Virtio(..) => d.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8),
                };
                let mut out = vec![look(&mut d), look(&mut d)];
                for size in [2 << 20, 512 << 10, (3 << 20) + 512] {
                    out.push(resize(d.e(), size));
                    out.push(look(&mut d));
                    out.push(look(&mut d));
                    let last = u16::try_from(size / 512).expect("small") - 1;
                    out.push(d.run(true, last, 1));
                    out.push(d.run(true, last, 2));
                }
                out
            },
        );
        assert_eq!(std::fs::metadata(file.path()).expect("the disk").len(), (3 << 20) + 512);
        assert_eq!(out.iter().filter(|line| *line == "ok").count(), 3, "{out:?}");
        // The last block is there, the one behind it is not.
        let last = &out[out.len() - 2..];
        let good = ["status 0", "status 0x0", "status 0 response 0 sense (0, 0, 0)"];
        assert_eq!([0, 1].map(|n| good.contains(&last[n].as_str())), [true, false], "{out:?}");
    }
}

#[test]
fn queues_are_served_by_several_threads() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let device = |mapping: &str| {
        let json = format!(
            "{{\"driver\":\"virtio-blk-device\",\"id\":\"x\",\"drive\":\"d\",\"num-queues\":4,\"iothread-vq-mapping\":[{mapping}]}}"
        );
        format!(
            "{MMIO} -object iothread,id=t0 -object iothread,id=t1 -drive if=none,id=d,node-name=n,driver=raw,file.driver=file,file.filename={} -device {json}",
            file.path().display()
        )
    };
    for mapping in [
        "{\"iothread\":\"t0\"},{\"iothread\":\"t1\"}",
        "{\"iothread\":\"t0\",\"vqs\":[0,3]},{\"iothread\":\"t1\",\"vqs\":[1,2]}",
        "{\"iothread\":\"t1\"}",
    ] {
        let out = compare(
            &device(mapping),
            || disk(file.path()),
            |e| {
                let mut v = Virtio::of(e, &[0, 1, 2, 3]);
                for round in 0..20u16 {
                    for queue in 0..4u64 {
                        let fill = u8::try_from(round * 4 + queue as u16 + 1).expect("small");
                        let place = DATA + queue * 0x1000;
                        v.e.put(place, &[fill; 512]);
                        v.begin_blocks(queue, true, round * 4 + queue as u16, (place, 512));
                    }
                    for queue in 0..4 {
                        let mut tries = 0..4000;
                        while !v.is_back(queue) {
                            assert!(tries.next().is_some(), "queue {queue}");
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        assert_eq!(v.e.bytes(area(queue) + 0x5000, 1), [0]);
                    }
                    // Queues stand and go on with the machine.
                    if round == 10 {
                        v.e.qmp("{\"execute\":\"stop\"}");
                        v.e.qmp("{\"execute\":\"cont\"}");
                    }
                }
                vec![v.e.reply("{\"execute\":\"query-status\"}")]
            },
        );
        assert_eq!(out.len(), 1);
        let bytes = std::fs::read(file.path()).expect("the disk");
        for sector in 0..80usize {
            let fill = u8::try_from(sector + 1).expect("small");
            assert!(bytes[sector * 512..][..512].iter().all(|b| *b == fill), "sector {sector}");
        }
    }
}

#[test]
fn wrong_mappings_are_refused_as_at_the_peer() {
    let add = |more: &str| {
        format!(
            "\"driver\":\"virtio-blk-pci\",\"id\":\"x\",\"drive\":\"n\",\"bus\":\"a\",\"num-queues\":4,{more}"
        )
    };
    let args = "-object iothread,id=t0 -object iothread,id=t1 -blockdev null-co,node-name=n -device pcie-root-port,id=a";
    let out = compare(
        args,
        || (),
        |e| {
            [
            "\"iothread-vq-mapping\":[{\"iothread\":\"no\"}]",
            "\"iothread-vq-mapping\":[{\"iothread\":\"t0\"},{\"iothread\":\"t0\"}]",
            "\"iothread-vq-mapping\":[{\"iothread\":\"t0\",\"vqs\":[0,1]}]",
            "\"iothread-vq-mapping\":[{\"iothread\":\"t0\",\"vqs\":[0,1,2,3]},{\"iothread\":\"t1\"}]",
            "\"iothread-vq-mapping\":[{\"iothread\":\"t0\",\"vqs\":[0,1,2,3,3]}]",
            "\"iothread-vq-mapping\":[{\"iothread\":\"t0\",\"vqs\":[0,1,2,9]}]",
            "\"iothread-vq-mapping\":[{\"iothread\":\"t0\"}],\"iothread\":\"t1\"",
            "\"iothread-vq-mapping\":[{\"vqs\":[1]}]",
            // None at all is as if it were not said.
            "\"iothread-vq-mapping\":[]",
        ]
        .map(|more| format!("{more}: {}", e.device_add(&add(more))))
        .into()
        },
    );
    assert!(out.iter().filter(|line| line.ends_with(": ok")).count() <= 1, "{out:#?}");
}

const ECAM: u64 = 0x40_1000_0000;
/// The root port in slot 1, and the device behind it.
const PORT: u64 = ECAM + (1 << 15);
const BEHIND: u64 = ECAM + (1 << 20);
/// The start of the low window.
const BAR: u64 = 0x1000_0000;

/// Takes a device away that has a request under way, gives one like it back, and says what came of
/// it all. The guest has a driver for the slot as well as for the disk.
fn take_away(e: &mut Emulator, kind: Kind, path: &Path) -> Vec<String> {
    let window = |first: u64, last: u64| last >> 16 << 16 | first >> 16;
    for (at, value) in [(0x18, 0x1_0100), (0x20, window(BAR, BAR + 0x3f_ffff)), (4, 6)] {
        e.write(PORT + at, 32, value);
    }
    let mut disk = Disk::on_pci(e, kind, (BEHIND, BAR));
    if kind == Kind::Scsi {
        // The first command hears of the power-on.
        disk.run(false, 0, 1);
    }
    disk.e().put(DATA, &[0x77; 512]);
    let mut out = vec![disk.run(true, 0, 1)];
    // The limit makes the next ones wait.
    disk.begin(true, 8, 1);
    assert_eq!(disk.answer(), None, "{kind:?}: a request that waits");
    let e = disk.e();
    out.push(e.device_del("x"));
    if kind != Kind::Scsi {
        // The button was pressed: the guest lets the light blink, and switches power off.
        e.write(PORT + 0x6e, 16, 9);
        e.write(PORT + 0x6c, 16, 0x2e9);
        e.write(PORT + 0x6c, 16, 0x7e9);
    }
    e.gone("x");
    out.push(format!("{:x}", e.read32(BEHIND)));
    let written = std::fs::read(path).expect("the disk")[4096..4608] == [0x77; 512];
    out.push(format!("written: {written}"));
    let status = e.reply("{\"execute\":\"query-status\"}");
    out.push(format!("runs: {}", status.contains("\"running\"")));
    // Nobody holds the disk any more.
    let (driver, bus) = device(kind);
    out.push(e.device_add(&format!("{driver},\"bus\":\"{bus}\",\"id\":\"x\",\"drive\":\"n\"")));
    out.push(e.qmp("{\"execute\":\"blockdev-del\",\"arguments\":{\"node-name\":\"n\"}}"));
    out
}

/// A disk's driver and bus, as `device_add` takes them.
fn device(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Blk => ("\"driver\":\"virtio-blk-pci\"", "a"),
        Kind::Scsi => ("\"driver\":\"scsi-hd\"", "s.0"),
        Kind::Nvme => ("\"driver\":\"nvme\",\"serial\":\"1\"", "a"),
    }
}

#[test]
fn disks_are_taken_away_with_a_request_under_way() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    for (kind, devices) in [
        (Kind::Blk, "-device virtio-blk-pci,id=x,bus=a,drive=n"),
        (Kind::Scsi, "-device virtio-scsi-pci,id=s,bus=a -device scsi-hd,id=x,bus=s.0,drive=n"),
        (Kind::Nvme, "-device nvme,id=x,bus=a,serial=1,drive=n"),
    ] {
        let args = format!(
            "-object throttle-group,id=g,x-iops-write=1 -blockdev driver=throttle,node-name=n\
             ,throttle-group=g,file.driver=file,file.filename={} -device pcie-root-port,id=a {devices}",
            file.path().display()
        );
        // Not compared: at the peer (10.0.2) the event that the device is gone does not come then.
        disk(file.path());
        let mut e = Emulator::start(OURS, &args).expect("our program");
        e.qmp("{\"execute\":\"cont\"}");
        let ours = take_away(&mut e, kind, file.path());
        let good = match kind {
            Kind::Blk => "status 0",
            Kind::Scsi => "status 0 response 0 sense (0, 0, 0)",
            Kind::Nvme => "status 0x0",
        };
        // The port says that its slot is empty; the controller of a SCSI disk stays in it.
        let there = if kind == Kind::Scsi { "10481af4" } else { "ffffffff" };
        let in_use = "\"Node n is in use\"";
        let want = [good, "ok", there, "written: true", "runs: true", "ok", in_use];
        assert_eq!(ours, want, "{kind:?}");
    }
}
