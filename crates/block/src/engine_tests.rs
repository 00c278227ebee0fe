use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use guest_ram::{RamBlock, RamOptions, RamSlice};
use qapi::{Source, Value, keyval::Dialect};

use crate::{
    Backend, BlockClass, BlockDriver, Graph, Lane, OnError, Op, Opening, Request, User, Verdict,
};

/// A disk of 64 KiB whose writes fail while the flag is set.
struct Faulty;
static FAIL: AtomicBool = AtomicBool::new(false);

impl BlockDriver for Faulty {
    fn len(&self) -> u64 {
        1 << 16
    }
    fn read(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(3);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        if FAIL.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn open(_: &mut Opening<'_>) -> qapi::Result<Arc<dyn BlockDriver>> {
    Ok(Arc::new(Faulty))
}

static FAULTY: BlockClass = BlockClass { name: "faulty", open, ..crate::NULL_CO };
static CLASSES: &[&BlockClass] = &[&crate::FILE, &crate::RAW, &FAULTY];

struct Bench {
    graph: Arc<Graph>,
    backend: Arc<Backend>,
    lane: Arc<Lane>,
    ram: Arc<RamBlock>,
}

impl Bench {
    fn new(options: &str) -> Bench {
        let graph = Graph::new(CLASSES);
        let options = Dialect::structured(Some("driver")).parse(options).unwrap().value;
        graph.add(options, Source::KeyVal).unwrap();
        let user = User { writes: true, ..User::default() };
        let backend = graph.claim(Some("d"), user).unwrap().unwrap();
        let lane = graph.lane(None);
        let ram = RamBlock::new("ram", 1 << 20, RamOptions::default()).unwrap();
        Bench { graph, backend, lane, ram }
    }

    fn begin(&self, op: Op, at: u64, pieces: &[(u64, usize)]) -> mpsc::Receiver<io::Result<()>> {
        let (send, receive) = mpsc::channel();
        let piece = |(at, len): &(u64, usize)| RamSlice::new(self.ram.clone(), *at, *len).unwrap();
        let memory: Vec<_> = pieces.iter().map(piece).collect();
        let len = memory.iter().map(|m| m.len() as u64).sum();
        let done = Box::new(move |result| _ = send.send(result));
        let request = Request { op, at, len, memory, through: false, parts: 1, done };
        self.backend.submit(&self.lane, request);
        self.lane.flush();
        receive
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.ram.read(at, &mut out).unwrap();
        out
    }
}

fn file_disk(direct: &str, aio: &str) {
    let file = tempfile::NamedTempFile::new_in(".").unwrap();
    file.as_file().set_len(6000).unwrap();
    let path = file.path().display();
    let b = Bench::new(&format!(
        "raw,node-name=d,cache.direct={direct},file.driver=file,file.filename={path},file.aio={aio}"
    ));
    b.ram.write(0x1000, &[7; 4096]).unwrap();
    // Two pieces, neither aligned.
    b.begin(Op::Write, 512, &[(0x1004, 500), (0x1300, 524)]).recv().unwrap().unwrap();
    let stored = std::fs::read(file.path()).unwrap();
    assert_eq!((stored[511], stored[512], stored[1535], stored[1536]), (0, 7, 7, 0));
    // Behind the file's end, in its last sector, are zeroes.
    b.ram.write(0x8000, &[9; 8192]).unwrap();
    b.begin(Op::Read, 0, &[(0x8000, 6144)]).recv().unwrap().unwrap();
    let read = b.bytes(0x8000, 6145);
    assert_eq!((read[511], read[600], read[6143], read[6144]), (0, 7, 0, 9));
    assert!(b.begin(Op::Read, 6144, &[(0, 512)]).recv().unwrap().is_err(), "behind the disk's end");
    b.begin(Op::Flush, 0, &[]).recv().unwrap().unwrap();
    let accounts = &b.backend.accounts;
    let counted = [&accounts.read, &accounts.write, &accounts.flush]
        .map(|a| (a.operations.load(Ordering::Relaxed), a.failed.load(Ordering::Relaxed)));
    assert_eq!(counted, [(1, 1), (1, 0), (1, 0)]);
}

#[test]
fn guest_memory_goes_to_the_file_and_back_in_every_mode() {
    for (direct, aio) in [("off", "io_uring"), ("off", "threads"), ("on", "io_uring")] {
        file_disk(direct, aio);
    }
}

#[test]
fn many_requests_at_once_end_each_with_its_own_data() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let data: Vec<u8> = (0..256u32).flat_map(|n| [u8::try_from(n).unwrap(); 512]).collect();
    std::fs::write(file.path(), &data).unwrap();
    let path = file.path().display();
    let b = Bench::new(&format!("raw,node-name=d,file.driver=file,file.filename={path}"));
    let waiting: Vec<_> =
        (0..256u64).map(|n| b.begin(Op::Read, n * 512, &[(n * 1024, 512)])).collect();
    for (n, done) in (0..256u64).zip(waiting) {
        done.recv().unwrap().unwrap();
        assert_eq!(b.bytes(n * 1024, 512), vec![u8::try_from(n).unwrap(); 512]);
    }
}

#[test]
fn a_drained_slot_holds_requests_back_until_the_end() {
    let b = Bench::new("faulty,node-name=d");
    let drained = b.graph.drain();
    let waiting = b.begin(Op::Read, 0, &[(0, 512)]);
    assert!(waiting.try_recv().is_err());
    assert_eq!(b.bytes(0, 1), [0]);
    drop(drained);
    waiting.recv().unwrap().unwrap();
    assert_eq!(b.bytes(0, 512), [3; 512]);
}

#[test]
fn errors_are_reported_ignored_or_stop_as_the_policy_says() {
    let b = Bench::new("faulty,node-name=d");
    let (send, told) = mpsc::channel();
    b.graph.on_trouble(Arc::new(move |t| _ = send.send((t.verdict, t.write, t.no_space))));
    FAIL.store(true, Ordering::SeqCst);
    let write = || b.begin(Op::Write, 0, &[(0, 512)]);
    b.backend.set_policy(OnError::Report, OnError::Report);
    assert!(write().recv().unwrap().is_err());
    assert_eq!(told.recv().unwrap(), (Verdict::Report, true, None));
    b.backend.set_policy(OnError::Report, OnError::Ignore);
    write().recv().unwrap().unwrap();
    assert_eq!(told.recv().unwrap(), (Verdict::Ignore, true, None));
    for policy in [OnError::Stop, OnError::Enospc, OnError::Auto] {
        FAIL.store(true, Ordering::SeqCst);
        b.backend.set_policy(OnError::Report, policy);
        let parked = write();
        assert_eq!(told.recv().unwrap(), (Verdict::Stop, true, Some(true)));
        assert!(parked.try_recv().is_err(), "the guest hears nothing while it is stopped");
        assert_eq!(b.backend.status.load(Ordering::Relaxed), 2);
        FAIL.store(false, Ordering::SeqCst);
        b.graph.retry();
        parked.recv().unwrap().unwrap();
        assert_eq!(b.backend.status.load(Ordering::Relaxed), 0);
    }
    FAIL.store(true, Ordering::SeqCst);
    let parked = write();
    assert_eq!(told.recv().unwrap().0, Verdict::Stop);
    b.backend.give_up();
    assert!(parked.recv().unwrap().is_err(), "a reset ends what is parked");
    // A device that has no policy: nobody else is told.
    b.backend.leave_errors_to_the_device();
    assert!(write().recv().unwrap().is_err());
    assert!(told.try_recv().is_err() && !b.backend.may_stop());
    FAIL.store(false, Ordering::SeqCst);
}

#[test]
fn an_empty_slot_and_a_second_device_are_refused() {
    let b = Bench::new("faulty,node-name=d");
    let user = User { writes: true, ..User::default() };
    let error = b.graph.claim(Some("d"), user.clone()).err().unwrap();
    assert!(error.desc.starts_with("Permission conflict on node 'd'"), "{}", error.desc);
    assert!(b.graph.claim(Some("nix"), user.clone()).unwrap().is_none());
    b.graph.add_drive("empty", None).unwrap();
    let empty = b.graph.claim(Some("empty"), user.clone()).unwrap().unwrap();
    let error = b.graph.claim(Some("empty"), user).err().unwrap();
    assert_eq!(error.desc, "Drive 'empty' is already in use by another device");
    let (send, done) = mpsc::channel();
    let done_call = Box::new(move |result: io::Result<()>| _ = send.send(result));
    let request = Request {
        op: Op::Flush,
        at: 0,
        len: 0,
        memory: Vec::new(),
        through: false,
        parts: 1,
        done: done_call,
    };
    empty.submit(&b.lane, request);
    assert!(done.recv().unwrap().is_err());
    let options = Value::map([("driver", Value::from("faulty"))]);
    let node = b.graph.open(options, Source::Json, crate::Flags::default()).unwrap();
    empty.change(Some(&node)).unwrap();
    assert_eq!(empty.len(), 1 << 16);
    empty.change(None).unwrap();
    assert!(empty.is_empty());
}
