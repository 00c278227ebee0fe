//! Jobs on real images, with requests of others at the same time.
//!
//! Each test has a chain of qcow2 images, writers that go on while a job works, and a picture of
//! what the disk must hold in the end, which is compared and checked as an image.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use block::{Backend, BlockClass, Creation, Flags, Graph, Lane, Node, Op, Request};
use block_jobs::commit::Committing;
use block_jobs::stream::Streaming;
use block_jobs::{JobType, Jobs, OnJobError, Spec, Told};
use guest_ram::{RamBlock, RamOptions, RamSlice};
use parking_lot::Mutex;
use qapi::{Source, Value};

static CLASSES: &[&BlockClass] =
    &[&block::FILE, &block::RAW, &block::BLKDEBUG, &block_formats::qcow2::CLASS];

const SIZE: u64 = 8 << 20;
const CLUSTER: u64 = 64 << 10;

type Call = Box<dyn FnOnce() + Send>;

/// A main loop of its own: calls are run when the test waits.
struct Bench {
    jobs: Jobs,
    calls: Receiver<Call>,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Bench {
    fn new() -> Bench {
        let (send, calls) = channel();
        let send = Mutex::new(send);
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let seen = told.clone();
        let post = move |call: Call| _ = send.lock().send(call);
        let jobs = Jobs::new(post, move |t: &Told| seen.lock().push(t.clone()));
        Bench { jobs, calls, told }
    }
    fn states(&self) -> Vec<&'static str> {
        let told = self.told.lock();
        let word = |t: &Told| match t {
            Told::Status(_, status) => status.word(),
            Told::Ready(_) => "READY",
            Told::Pending(..) => "PENDING",
            Told::Completed(_) => "COMPLETED",
            Told::Cancelled(_) => "CANCELLED",
            Told::Error { .. } => "ERROR",
        };
        told.iter().map(word).collect()
    }
    /// Runs the main loop until something was told.
    fn until(&self, what: &str) {
        while !self.states().contains(&what) {
            let call = self.calls.recv_timeout(std::time::Duration::from_secs(60));
            call.unwrap_or_else(|_| panic!("no {what}: {:?}", self.told.lock()))();
        }
    }
}

fn create(path: &Path, backing: Option<&Path>) {
    let mut options = vec![("cluster_size".to_owned(), CLUSTER.to_string())];
    if let Some(backing) = backing {
        options.push(("backing_file".into(), backing.display().to_string()));
        options.push(("backing_fmt".into(), "qcow2".into()));
    }
    let new = Creation {
        filename: path.display().to_string(),
        size: SIZE,
        options,
        ..Creation::default()
    };
    block_formats::qcow2::CLASS.create.unwrap()(&new).unwrap();
}

/// A number that is different at each place and for each writer.
fn fill(at: u64, len: u64, seed: u8) -> Vec<u8> {
    (at..at + len).map(|n| (n >> 9) as u8 ^ (n >> 17) as u8 ^ seed).collect()
}

struct Chain {
    dir: tempfile::TempDir,
    graph: Arc<Graph>,
    top: Arc<Node>,
    picture: Vec<u8>,
}

impl Chain {
    /// `base`, `mid`, `top`, each with pieces of its own.
    fn new() -> Chain {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = ["base", "mid", "top"].iter().map(|n| dir.path().join(n)).collect();
        let mut picture = vec![0; SIZE as usize];
        let mut below = None;
        for (n, path) in paths.iter().enumerate() {
            create(path, below);
            let graph = Graph::new(CLASSES);
            let node = open(&graph, path);
            for piece in (n as u64..40).step_by(n + 2) {
                let (at, len) = (piece * 200 * 1024, 100 * 1024);
                let data = fill(at, len.min(SIZE - at), n as u8 + 1);
                node.write(at, &data).unwrap();
                picture[at as usize..at as usize + data.len()].copy_from_slice(&data);
            }
            node.flush().unwrap();
            below = Some(path.as_path());
        }
        let graph = Graph::new(CLASSES);
        let top = open(&graph, &dir.path().join("top"));
        Chain { dir, graph, top, picture }
    }
    fn layer(&self, name: &str) -> Arc<Node> {
        let path = self.dir.path().join(name).display().to_string();
        self.top.chain().into_iter().find(|n| n.filename() == path).unwrap()
    }
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

/// Opens an image. Whoever ended the last request of its former user may hold its lock a moment longer.
fn open(graph: &Arc<Graph>, path: &Path) -> Arc<Node> {
    let path = path.display().to_string();
    loop {
        match graph.open_image(&path, Some("qcow2"), Flags::default()) {
            Err(error) if error.desc.contains(" lock") => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

/// The whole disk as an image of this name has it, after a check.
fn disk(path: &Path) -> Vec<u8> {
    let graph = Graph::new(CLASSES);
    let node = open(&graph, path);
    let report = node.driver().check(block::Fix::None).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
    let mut all = vec![0; SIZE as usize];
    node.read(0, &mut all).unwrap();
    all
}

fn spec(id: &str, kind: JobType) -> Spec {
    Spec {
        id: id.into(),
        kind,
        speed: 0,
        on_error: OnJobError::Report,
        auto_finalize: true,
        auto_dismiss: true,
        nodes: Vec::new(),
    }
}

/// A write of a device, and its end.
fn request(drive: &Arc<Backend>, lane: &Arc<Lane>, at: u64, data: &[u8]) {
    let ram = RamBlock::new("ram", 1 << 16, RamOptions::default()).unwrap();
    let memory = RamSlice::new(ram, 0, data.len()).unwrap();
    assert_eq!(memory.write(data), data.len());
    let (send, done) = channel();
    let done_call = Box::new(move |result| send.send(result).unwrap());
    let request = Request {
        op: Op::Write,
        at,
        len: data.len() as u64,
        memory: vec![memory],
        through: false,
        parts: 1,
        done: done_call,
    };
    drive.submit(lane, request);
    lane.flush();
    done.recv().unwrap().unwrap();
}

/// Writes through a drive on two threads until told to stop; what the disk holds then.
fn write_meanwhile(chain: &Chain, during: impl FnOnce()) -> Vec<u8> {
    let drive = chain.graph.add_drive("d0", Some(chain.top.clone())).unwrap();
    drive.attach(block::User { writes: true, ..block::User::default() }).unwrap();
    let picture = Arc::new(Mutex::new(chain.picture.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let lane = chain.graph.lane(None);
    let writers: Vec<_> = (0..2u64)
        .map(|half| {
            let (drive, picture, stop) = (drive.clone(), picture.clone(), stop.clone());
            let lane = lane.clone();
            evloop::spawn("writer", move || {
                let mut n: u64 = half * 77 + 1;
                while !stop.load(Ordering::SeqCst) || n < 500 {
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
                    // Each writer has half of the disk.
                    let at = half * (SIZE / 2) + (n >> 20) % (SIZE / 2 - 5000) / 512 * 512;
                    let data = fill(at, 4608, n as u8);
                    request(&drive, &lane, at, &data);
                    let at = at as usize;
                    picture.lock()[at..at + data.len()].copy_from_slice(&data);
                }
            })
            .unwrap()
        })
        .collect();
    during();
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().unwrap();
    }
    drive.node().unwrap().flush().unwrap();
    drop(drive);
    chain.graph.remove_drive("d0");
    Arc::try_unwrap(picture).unwrap().into_inner()
}

fn streaming(chain: &Chain, bottom: &str) -> Streaming {
    let (top, bottom) = (chain.top.clone(), chain.layer(bottom));
    Streaming { top, bottom, backing_name: None, filter_name: None }
}

const GOOD_END: [&str; 7] =
    ["created", "running", "waiting", "pending", "COMPLETED", "concluded", "null"];

#[test]
fn a_stream_under_writes_leaves_one_image_that_needs_no_other() {
    let (chain, bench) = (Chain::new(), Bench::new());
    let picture = write_meanwhile(&chain, || {
        let work = block_jobs::stream::prepare(&chain.graph, streaming(&chain, "base")).unwrap();
        bench.jobs.start(spec("s", JobType::Stream), || Ok(work)).unwrap();
        bench.until("null");
    });
    assert_eq!(bench.states(), GOOD_END);
    assert!(chain.top.child("backing").is_none());
    let top = chain.path("top");
    drop(chain.graph);
    drop(chain.top);
    std::fs::remove_file(chain.dir.path().join("mid")).unwrap();
    std::fs::remove_file(chain.dir.path().join("base")).unwrap();
    assert!(disk(&top) == picture);
}

#[test]
fn a_stream_down_to_a_layer_keeps_what_is_below() {
    let (chain, bench) = (Chain::new(), Bench::new());
    let picture = write_meanwhile(&chain, || {
        let work = block_jobs::stream::prepare(&chain.graph, streaming(&chain, "mid")).unwrap();
        bench.jobs.start(spec("s", JobType::Stream), || Ok(work)).unwrap();
        bench.until("null");
    });
    // `bottom` is the lowest layer that is copied.
    assert!(chain.top.child("backing").is_some_and(|n| n.filename().ends_with("/base")));
    let top = chain.path("top");
    drop((chain.graph, chain.top));
    std::fs::remove_file(chain.dir.path().join("mid")).unwrap();
    assert!(disk(&top) == picture);
}

fn committing(chain: &Chain, top: &str, base: &str) -> Committing {
    let root = chain.graph.drive("d0").and_then(|d| d.node()).unwrap_or(chain.top.clone());
    let (top, base) = (chain.layer(top), chain.layer(base));
    Committing { root, top, base, backing_name: None, filter_name: None }
}

#[test]
fn a_commit_between_layers_is_not_seen_by_the_guest() {
    let (chain, bench) = (Chain::new(), Bench::new());
    let picture = write_meanwhile(&chain, || {
        let what = committing(&chain, "mid", "base");
        let make = || block_jobs::commit::prepare(&chain.graph, what);
        bench.jobs.start(spec("c", JobType::Commit), make).unwrap();
        bench.until("null");
    });
    assert_eq!(bench.states(), GOOD_END);
    let base = chain.layer("base");
    assert!(base.is_read_only() && chain.top.chain().len() == 2);
    drop(base);
    let top = chain.path("top");
    drop((chain.graph, chain.top));
    std::fs::remove_file(chain.dir.path().join("mid")).unwrap();
    assert!(disk(&top) == picture);
}

#[test]
fn a_commit_of_the_active_layer_follows_the_guest_and_pivots() {
    let (chain, bench) = (Chain::new(), Bench::new());
    let picture = write_meanwhile(&chain, || {
        let what = committing(&chain, "top", "base");
        let work = block_jobs::active::prepare(&chain.graph, what).unwrap();
        bench.jobs.start(spec("c", JobType::Commit), || Ok(work)).unwrap();
        bench.until("READY");
        assert!(bench.jobs.finalize("c", true).is_err());
        bench.jobs.complete("c", true).unwrap();
        bench.until("null");
        let root = chain.graph.drive("d0").unwrap().node().unwrap();
        assert!(root.filename().ends_with("/base") && !root.is_read_only());
    });
    let base = chain.path("base");
    drop((chain.graph, chain.top));
    assert!(disk(&base) == picture);
}

#[test]
fn a_cancelled_commit_leaves_the_guest_where_it_was() {
    let (chain, bench) = (Chain::new(), Bench::new());
    let picture = write_meanwhile(&chain, || {
        let what = committing(&chain, "top", "mid");
        let work = block_jobs::active::prepare(&chain.graph, what).unwrap();
        let slow = Spec { speed: 1 << 16, ..spec("c", JobType::Commit) };
        bench.jobs.start(slow, || Ok(work)).unwrap();
        assert!(bench.jobs.complete("c", true).is_err());
        bench.jobs.cancel("c", true, false).unwrap();
        bench.until("null");
        assert!(bench.states().contains(&"CANCELLED"));
        let root = chain.graph.drive("d0").unwrap().node().unwrap();
        assert!(Arc::ptr_eq(&root, &chain.top));
    });
    assert!(chain.layer("mid").is_read_only());
    let top = chain.path("top");
    drop((chain.graph, chain.top));
    assert!(disk(&top) == picture);
}

#[test]
fn a_paused_job_waits_and_a_held_result_waits_for_its_word() {
    let (chain, bench) = (Chain::new(), Bench::new());
    let work = block_jobs::stream::prepare(&chain.graph, streaming(&chain, "base")).unwrap();
    let mut held = Spec { speed: 1 << 16, ..spec("s", JobType::Stream) };
    (held.auto_finalize, held.auto_dismiss) = (false, false);
    bench.jobs.start(held, || Ok(work)).unwrap();
    bench.jobs.pause("s", true).unwrap();
    bench.until("paused");
    let desc = |r: qapi::Result<()>| r.unwrap_err().desc;
    assert_eq!(desc(bench.jobs.pause("s", false)), "Job is already paused");
    let text = "The block job for device 's' is currently paused";
    assert_eq!(desc(bench.jobs.cancel("s", true, false)), text);
    bench.jobs.set_speed("s", 0).unwrap();
    bench.jobs.resume("s", true).unwrap();
    bench.until("PENDING");
    assert!(chain.top.child("backing").is_some());
    bench.jobs.finalize("s", false).unwrap();
    assert!(chain.top.child("backing").is_none());
    assert_eq!(bench.states().last(), Some(&"concluded"));
    bench.jobs.dismiss("s", false).unwrap();
    assert_eq!(bench.states().last(), Some(&"null"));
    assert!(bench.jobs.list().is_empty());
}

fn faulty_chain(on_error: OnJobError, once: bool) -> (Chain, Bench) {
    let Chain { dir, graph, top, picture } = Chain::new();
    // The old node of the file lets its lock go first.
    drop((top, graph));
    let path = dir.path().join("top").display().to_string();
    let rule = Value::map([
        ("event", Value::from("none")),
        ("iotype", Value::from("write")),
        ("errno", Value::Int(28)),
        ("once", Value::Bool(once)),
    ]);
    let file = Value::map([("driver", Value::from("file")), ("filename", Value::from(path))]);
    let debug = Value::map([
        ("driver", Value::from("blkdebug")),
        ("image", file),
        ("inject-error", Value::List(vec![rule])),
    ]);
    let options = Value::map([("driver", Value::from("qcow2")), ("file", debug)]);
    let graph = Graph::new(CLASSES);
    let top = graph.open(options, Source::Json, Flags::default()).unwrap();
    let chain = Chain { dir, graph, top, picture };
    let bench = Bench::new();
    let work = block_jobs::stream::prepare(&chain.graph, streaming(&chain, "base")).unwrap();
    let spec = Spec { on_error, ..spec("s", JobType::Stream) };
    bench.jobs.start(spec, || Ok(work)).unwrap();
    (chain, bench)
}

#[test]
fn errors_end_or_stop_a_job_as_its_policy_says() {
    let (chain, bench) = faulty_chain(OnJobError::Report, false);
    bench.until("null");
    let want = ["created", "running", "ERROR", "aborting", "COMPLETED", "concluded", "null"];
    assert_eq!(bench.states(), want);
    let told = bench.told.lock();
    let error = told.iter().find_map(|t| match t {
        Told::Completed(about) => about.error.clone(),
        _ => None,
    });
    assert_eq!(error.as_deref(), Some("No space left on device"));
    assert!(chain.top.child("backing").is_some());

    let (chain, bench) = faulty_chain(OnJobError::Enospc, true);
    bench.until("paused");
    assert_eq!(bench.jobs.list().first().map(|about| about.io_status), Some(2));
    bench.jobs.resume("s", true).unwrap();
    bench.until("null");
    assert!(bench.states().contains(&"COMPLETED"));
    assert!(chain.top.child("backing").is_none());
}

#[test]
fn a_job_keeps_other_commands_off_its_nodes() {
    let (chain, bench) = (Chain::new(), Bench::new());
    chain.graph.add_drive("d0", Some(chain.top.clone())).unwrap();
    let work = block_jobs::stream::prepare(&chain.graph, streaming(&chain, "base")).unwrap();
    let slow = Spec { speed: 1, ..spec("s", JobType::Stream) };
    bench.jobs.start(slow, || Ok(work)).unwrap();
    let root = chain.graph.drive("d0").unwrap().node().unwrap();
    assert!(root.is_implicit() && Arc::ptr_eq(&root.skip_implicit(), &chain.top));
    let error = block::check_free(&chain.graph, &root).unwrap_err();
    assert_eq!(error.desc, "Node 'd0' is busy: block device is in use by block job: stream");
    let twice = bench.jobs.start(spec("s", JobType::Stream), || unreachable!());
    assert_eq!(twice.unwrap_err().desc, "Job ID 's' already in use");
    bench.jobs.cancel_all();
    assert!(bench.jobs.list().is_empty());
    let root = chain.graph.drive("d0").unwrap().node().unwrap();
    assert!(Arc::ptr_eq(&root, &chain.top) && block::check_free(&chain.graph, &root).is_ok());
}
