//! Commands of disks and CD drives, as a controller gives them.

use std::sync::{Arc, mpsc};

use block::{BlockClass, DiskProps, Graph, Lane, User};
use guest_ram::{RamBlock, RamOptions, RamSlice};
use qapi::{Qapi as _, Source, Value};
use scsi::{Disk, Identity, Outcome, Task, Unit as _};

static CLASSES: &[&BlockClass] = &[&block::FILE, &block::RAW, &block::NULL_CO];

struct Bench {
    graph: Arc<Graph>,
    disk: Arc<Disk>,
    lane: Arc<Lane>,
    ram: Arc<RamBlock>,
}

impl Bench {
    fn new(about: Identity, node: Option<Value>) -> Bench {
        let graph = Graph::new(CLASSES);
        let writes = !about.cd;
        let removable = about.cd;
        if let Some(options) = node {
            graph.add(options, Source::Json).unwrap();
        } else {
            graph.add_drive("d", None).unwrap();
        }
        let user = User { writes, removable, ..User::default() };
        let backend = graph.claim(Some("d"), user).unwrap().unwrap();
        let conf = DiskProps::from_value(Value::empty(), Source::Json).unwrap();
        let lane = graph.lane(None);
        let ram = RamBlock::new("ram", 1 << 16, RamOptions::default()).unwrap();
        Bench { graph, disk: Disk::new(about, conf, backend), lane, ram }
    }

    fn piece(&self, at: u64, len: usize) -> Vec<RamSlice> {
        if len == 0 {
            return Vec::new();
        }
        vec![RamSlice::new(self.ram.clone(), at, len).unwrap()]
    }

    /// A command with what it may write, and what it is sent.
    fn run(&self, cdb: &[u8], room: usize, sent: &[u8]) -> (Outcome, Vec<u8>) {
        let mut whole = [0; 32];
        whole[..cdb.len()].copy_from_slice(cdb);
        self.ram.write(0x8000, sent).unwrap();
        let (send, done) = mpsc::channel();
        let task = Task {
            cdb: whole,
            lun: 0,
            to_driver: self.piece(0, room),
            from_driver: self.piece(0x8000, sent.len()),
            again: false,
            done: Box::new(move |outcome| _ = send.send(outcome)),
        };
        self.disk.clone().execute(&self.lane, task);
        self.lane.flush();
        let outcome = done.recv().unwrap();
        let mut data = vec![0; usize::try_from(outcome.moved).unwrap().min(room)];
        self.ram.read(0, &mut data).unwrap();
        (outcome, data)
    }

    fn sense(&self, cdb: &[u8], room: usize, sent: &[u8]) -> (u8, u8, u8) {
        let (outcome, _) = self.run(cdb, room, sent);
        assert_eq!(outcome.status, 2, "{cdb:x?}");
        (outcome.sense[2], outcome.sense[12], outcome.sense[13])
    }

    /// The first command after power-on is told so.
    fn awake(self) -> Bench {
        assert_eq!(self.sense(&[0], 0, &[]), (6, 0x29, 0));
        self
    }
}

fn about(cd: bool) -> Identity {
    Identity {
        cd,
        removable: cd,
        vendor: "QEMU".into(),
        product: "QEMU HARDDISK".into(),
        revision: "2.5+".into(),
        serial: "abc".into(),
        version: 5,
        max_io_size: 2_147_483_647,
        max_unmap_size: 1 << 30,
        ..Identity::default()
    }
}

fn raw(path: &std::path::Path) -> Value {
    let file = Value::map([
        ("driver", Value::from("file")),
        ("filename", Value::from(path.display().to_string())),
    ]);
    Value::map([
        ("driver", Value::from("raw")),
        ("node-name", Value::from("d")),
        ("discard", Value::from("unmap")),
        ("file", file),
    ])
}

#[test]
fn a_disk_says_what_it_is_and_moves_blocks() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let b = Bench::new(about(false), Some(raw(file.path()))).awake();
    let (_, inquiry) = b.run(&[0x12, 0, 0, 0, 255], 255, &[]);
    assert_eq!((inquiry[0], inquiry[2], inquiry.len()), (0, 5, 36));
    assert_eq!(&inquiry[8..36], b"QEMU    QEMU HARDDISK   2.5+");
    let (_, pages) = b.run(&[0x12, 1, 0, 0, 255], 255, &[]);
    assert_eq!(&pages[4..], [0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    let (_, capacity) = b.run(&[0x25], 8, &[]);
    assert_eq!(capacity, [0, 0, 7, 0xff, 0, 0, 2, 0]);
    let (long, _) = b.run(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], 32, &[]);
    assert_eq!((long.status, long.moved), (0, 32));
    let (written, _) = b.run(&[0x2a, 0, 0, 0, 0, 3, 0, 0, 2, 0], 0, &[5; 1024]);
    assert_eq!((written.status, written.moved), (0, 1024));
    assert_eq!(&std::fs::read(file.path()).unwrap()[1536..2560], &[5; 1024]);
    let (_, read) = b.run(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1], 512, &[]);
    assert_eq!(read, [5; 512]);
    // The same block 300 times, more than go at once.
    let (same, _) = b.run(&[0x41, 0, 0, 0, 0, 8, 0, 1, 44, 0], 0, &[6; 512]);
    assert_eq!(same.status, 0);
    let stored = std::fs::read(file.path()).unwrap();
    assert!(stored[8 * 512..308 * 512].iter().all(|byte| *byte == 6) && stored[308 * 512] == 0);
    // One range of UNMAP.
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend([0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 1, 0, 0, 0, 0, 0]);
    let (unmapped, _) = b.run(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24], 0, &list);
    assert_eq!(unmapped.status, 0);
    assert_eq!(std::fs::read(file.path()).unwrap()[8 * 512], 0);
}

#[test]
fn what_cannot_be_is_told_by_sense_data() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let b = Bench::new(about(false), Some(raw(file.path()))).awake();
    assert_eq!(b.sense(&[0x28, 0, 0, 0, 8, 0, 0, 0, 1], 512, &[]), (5, 0x21, 0));
    assert_eq!(
        b.sense(&[0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1], 512, &[]).1,
        0x21
    );
    assert_eq!(b.sense(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2], 512, &[]), (5, 0x24, 0));
    assert_eq!(b.sense(&[0xff], 0, &[]), (5, 0x20, 0));
    assert_eq!(b.sense(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24], 0, &[0, 22, 0, 16]), (5, 0x1a, 0));
    b.disk.attention(scsi::Sense::CAPACITY_CHANGED);
    assert_eq!(b.sense(&[0], 0, &[]), (6, 0x2a, 9));
}

#[test]
fn the_guest_sets_the_write_cache() {
    let null = Value::map([("driver", Value::from("null-co")), ("node-name", Value::from("d"))]);
    let b = Bench::new(about(false), Some(null)).awake();
    let (_, page) = b.run(&[0x1a, 8, 8, 0, 255], 255, &[]);
    assert_eq!((page[4], page[5], page[6]), (8, 18, 4));
    let mut select = vec![0; 4];
    select.extend([8, 18]);
    select.extend([0; 18]);
    assert_eq!(b.run(&[0x15, 0x10, 0, 0, 24], 0, &select).0.status, 0);
    let (_, page) = b.run(&[0x1a, 8, 8, 0, 255], 255, &[]);
    assert_eq!(page[6], 0);
    select[7] = 1;
    assert_eq!(b.sense(&[0x15, 0x10, 0, 0, 24], 0, &select), (5, 0x26, 0));
}

#[test]
fn media_of_a_cd_drive_are_changed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let b = Bench::new(about(true), None).awake();
    assert_eq!(b.sense(&[0], 0, &[]), (2, 0x3a, 0), "empty");
    let mut options = raw(file.path());
    options.set("read-only", Value::Bool(true));
    options.set("node-name", Value::from("m"));
    let medium = b.graph.add(options, Source::Json).unwrap();
    b.disk.set_open(true);
    assert_eq!(b.sense(&[0], 0, &[]), (2, 0x3a, 2), "open");
    b.disk.backend().change(Some(&medium)).unwrap();
    b.disk.set_open(false);
    let (_, event) = b.run(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8, &[]);
    assert_eq!(event, [0, 4, 4, 0x10, 2, 2, 0, 0], "a new medium");
    assert_eq!(b.sense(&[0], 0, &[]), (6, 0x28, 0));
    let (_, capacity) = b.run(&[0x25], 8, &[]);
    assert_eq!(capacity, [0, 0, 1, 0xff, 0, 0, 8, 0]);
    let (_, toc) = b.run(&[0x43, 0, 0, 0, 0, 0, 0, 0, 255], 255, &[]);
    assert_eq!((toc[1], toc[2], toc[3], &toc[16..20]), (18, 1, 1, &[0, 0, 2, 0][..]));
    assert_eq!(b.sense(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], 0, &[0; 2048]), (7, 0x27, 0));
    assert_eq!(b.run(&[0x1e, 0, 0, 0, 1], 0, &[]).0.status, 0);
    assert_eq!(b.sense(&[0x1b, 0, 0, 0, 2], 0, &[]), (5, 0x53, 2), "locked");
    assert_eq!(b.run(&[0x1e], 0, &[]).0.status, 0);
    assert_eq!(b.run(&[0x1b, 0, 0, 0, 2], 0, &[]).0.status, 0);
    assert!(b.disk.is_open());
}

#[test]
fn random_commands_end_and_never_panic() {
    let null = || Value::map([("driver", Value::from("null-co")), ("node-name", Value::from("d"))]);
    for cd in [false, true] {
        let mut node = null();
        node.set("read-only", Value::Bool(cd));
        let b = Bench::new(about(cd), Some(node)).awake();
        let mut seed: u64 = 42;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        };
        for round in 0..4000u32 {
            let mut cdb: Vec<u8> = [next(), next()].concat();
            // Every operation code many times, and lengths that often fit.
            cdb[0] = u8::try_from(round & 0xff).unwrap();
            if round & 0x100 != 0 {
                cdb[2..8].fill(0);
            }
            let sent: Vec<u8> = (0..8).flat_map(|_| next()).collect();
            b.run(&cdb, usize::from(next()[0]) * 16, &sent);
        }
    }
}
