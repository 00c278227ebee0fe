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
