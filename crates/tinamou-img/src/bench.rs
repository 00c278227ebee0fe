//! `bench`: sends requests one behind another and says how long they took.
//!
//! As many requests as `-d` says are under way at once. Past the page cache (`-t none`) few threads
//! send them through rings of the host, else each comes from a thread of its own (at most
//! [`THREADS`], more depth than that changes nothing). `-i threads` uses threads alone, the other
//! words of `-i`, and `-n`, change nothing.
//! As with the peer all requests share one piece of memory, at a page's begin.
//! Source: QEMU's manual, `qemu-img bench`.

#![expect(clippy::disallowed_methods, reason = "a benchmark times itself")]

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::Instant;

use block::{Node, Resolved};
use guest_ram::{RamBlock, RamOptions, RamSlice};
use host::{Ring, RingDone, RingOp};
use parking_lot::Mutex;

use crate::options::{Cache, Given, Opt, cache, size};
use crate::{Done, Fail, fail, say};

/// Most threads.
const THREADS: u64 = 64;
/// Most threads with a ring, and most requests that each of them has under way.
const RINGS: (u64, u64) = (4, 256);
/// How often a request's place is asked for before it goes through the drivers.
const TRIES: usize = 16;

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('t', "cache", "CACHE"),
    ('c', "count", "COUNT"),
    ('d', "depth", "DEPTH"),
    ('o', "offset", "OFFSET"),
    ('s', "buffer-size", "BUFFER_SIZE"),
    ('S', "step-size", "STEP_SIZE"),
    ('i', "aio", "AIO"),
    ('n', "native", ""),
    ('w', "write", ""),
    ('\0', "pattern", "PATTERN"),
    ('\0', "flush-interval", "FLUSH_INTERVAL"),
    ('\0', "no-drain", ""),
];

struct Plan {
    count: u64,
    depth: u64,
    offset: u64,
    step: u64,
    buffer: u64,
    writes: bool,
    pattern: u8,
    flush_every: u64,
    /// Every write is on the disk when it ends.
    through: bool,
    /// Requests go through rings; how many each thread has under way.
    in_ring: Option<usize>,
}

impl Plan {
    /// How many threads send requests, and chooses rings for requests past the page cache.
    fn share(&mut self, direct: bool, aio: Option<&str>) -> u64 {
        let flushes = self.writes && self.through || self.flush_every > 0;
        let threads = self.depth.min(self.count);
        if !direct || flushes || threads < 2 || aio == Some("threads") {
            return threads.min(THREADS);
        }
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let rings = cpus.min(RINGS.0).min(threads);
        self.in_ring = usize::try_from(threads.div_ceil(rings).min(RINGS.1)).ok();
        rings
    }

    /// Where the n-th request is.
    fn place(&self, n: u64, len: u64) -> u64 {
        // Requests begin anew where the image ends.
        let room = len.saturating_sub(self.buffer).saturating_add(1).max(1);
        let at = (u128::from(self.offset) + u128::from(n) * u128::from(self.step))
            % u128::from(room.max(len));
        u64::try_from(at).unwrap_or(0).min(room - 1)
    }
}

fn number(
    given: &Given,
    name: &str,
    what: &str,
    other: u64,
    range: (u64, u64),
) -> Result<u64, Fail> {
    let Some(text) = given.value(name) else { return Ok(other) };
    let found = text.parse::<u64>().ok().filter(|n| (range.0..=range.1).contains(n));
    let text = || match range {
        (0, 255) => "Invalid pattern byte specified".to_owned(),
        _ if what.is_empty() => format!("Invalid {name} specified"),
        (low, high) => format!("Invalid {what} specified. Must be between {low} and {high}."),
    };
    found.ok_or_else(|| Fail(text(), 1))
}

fn plan(given: &Given, mode: Cache) -> Result<Plan, Fail> {
    let most = i32::MAX as u64;
    let bytes = |name: &str, what: &str, other: u64| match given.value(name) {
        None => Ok(other),
        Some(text) => size(text)
            .ok()
            .filter(|n| *n <= most || name == "offset")
            .ok_or_else(|| Fail(format!("Invalid {what} specified"), 1)),
    };
    let buffer = bytes("buffer-size", "buffer size", 4096)?;
    let step = bytes("step-size", "step size", 0)?;
    let plan = Plan {
        count: number(given, "count", "request count", 75_000, (1, most))?,
        depth: number(given, "depth", "queue depth", 64, (1, most))?,
        offset: bytes("offset", "offset", 0)?,
        step: if step == 0 { buffer } else { step },
        buffer,
        writes: given.has("write"),
        pattern: u8::try_from(number(given, "pattern", "", 0, (0, 255))?).unwrap_or(0),
        flush_every: number(given, "flush-interval", "flush interval", 0, (0, most))?,
        through: mode.through,
        in_ring: None,
    };
    if plan.buffer == 0 {
        return Err(Fail("Invalid buffer size specified".into(), 1));
    }
    if !plan.writes && plan.flush_every > 0 {
        return Err(Fail("--flush-interval is only available in write tests".into(), 1));
    }
    if plan.flush_every > 0 && plan.flush_every < plan.depth {
        return Err(Fail("Flush interval can't be smaller than depth".into(), 1));
    }
    if given.value("aio").is_some_and(|word| !["threads", "native", "io_uring"].contains(&word)) {
        return Err(Fail(format!("Invalid aio option: {}", given.value("aio").unwrap_or("")), 1));
    }
    Ok(plan)
}

/// What the threads share.
struct Shared {
    next: AtomicU64,
    wrong: Mutex<Option<io::Error>>,
    /// When the first request began: all threads have their memory then.
    begin: OnceLock<Instant>,
    ready: Barrier,
    memory: RamSlice,
}

/// The memory of all requests, with the pattern in it.
fn memory(plan: &Plan) -> Result<RamSlice, Fail> {
    let wrong = || Fail("Could not allocate memory".into(), 1);
    let block = RamBlock::new("bench", plan.buffer, RamOptions::default()).map_err(|_| wrong())?;
    block.fill(0, plan.buffer, plan.pattern).map_err(|_| wrong())?;
    RamSlice::new(block, 0, usize::try_from(plan.buffer).unwrap_or(0)).map_err(|_| wrong())
}

/// Where a request's bytes lie in the host's file, if they do in one piece and as they are.
fn found(node: &Node, plan: &Plan, at: u64, memory: &RamSlice) -> Option<Resolved> {
    let len = memory.len() as u64;
    let found = node.driver().resolve(at, len, plan.writes)?;
    let align = u64::from(found.align.max(1));
    let fits = found.at.is_multiple_of(align)
        && len.is_multiple_of(align)
        && guest_ram::is_aligned(std::slice::from_ref(memory), found.align as usize);
    fits.then_some(found)
}

/// A part of a request straight between the host's file and the memory, where its bytes lie there
/// as they are; `false`: it must go through the drivers.
fn direct(node: &Node, plan: &Plan, at: u64, memory: &RamSlice) -> io::Result<bool> {
    let Some(found) = found(node, plan, at, memory) else { return Ok(false) };
    let (file, mut done) = (found.file.as_fd(), 0);
    while done < memory.len() {
        let (left, place) = ([memory.part(done, usize::MAX)], found.at + done as u64);
        let moved = if plan.writes {
            guest_ram::write_to(file, &left, Some(place))
        } else {
            guest_ram::read_from(file, &left, Some(place))
        };
        match moved {
            // The end of the file is the drivers' affair.
            Ok(0) => return Ok(false),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A request, in as many parts as it has places in the host's file.
fn once(node: &Node, plan: &Plan, at: u64, memory: &RamSlice) -> io::Result<()> {
    if direct(node, plan, at, memory)? {
        return Ok(());
    }
    let mut done = 0;
    while done < memory.len() {
        let pos = at + done as u64;
        let run = node.extent(pos, (memory.len() - done) as u64)?.len;
        let part = memory.part(done, usize::try_from(run).unwrap_or(usize::MAX));
        if !direct(node, plan, pos, &part)? {
            let mut own = vec![plan.pattern; part.len()];
            if plan.writes {
                node.write(pos, &own)?;
            } else {
                node.read(pos, &mut own)?;
            }
        }
        done += part.len();
    }
    Ok(())
}

/// One thread's requests, several at once through a ring of its own; those whose bytes do not lie in
/// the file as they are go through the drivers meanwhile.
fn send(node: &Node, plan: &Plan, shared: &Shared, (ring, most): (&Ring, usize)) -> io::Result<()> {
    let op = if plan.writes { RingOp::Write } else { RingOp::Read };
    let (len, memory) = (node.len(), &shared.memory);
    let mut under_way: HashMap<u64, Resolved> = HashMap::with_capacity(most);
    let (mut done, mut ended) = (Vec::new(), false);
    loop {
        while !ended && under_way.len() < most {
            let n = shared.next.fetch_add(1, Ordering::Relaxed);
            ended = n >= plan.count || shared.wrong.lock().is_some();
            if ended {
                break;
            }
            let at = plan.place(n, len);
            // A format says no as well while another thread looks into its tables.
            let mut tries = (0..TRIES).map(|_| found(node, plan, at, memory));
            match tries.find_map(|found| found.filter(|found| found.ring)) {
                Some(found) => {
                    let list = std::slice::from_ref(memory);
                    guest_ram::submit(ring, op, (&found.file, found.at), list, n)?;
                    under_way.insert(n, found);
                }
                None => {
                    // A format may wait for those that are under way before it moves clusters.
                    while !under_way.is_empty() {
                        ring.wait(&mut done)?;
                        finish(node, plan, shared, (&mut under_way, &mut done))?;
                    }
                    once(node, plan, at, memory)?;
                }
            }
        }
        if under_way.is_empty() {
            return Ok(());
        }
        ring.wait(&mut done)?;
        finish(node, plan, shared, (&mut under_way, &mut done))?;
    }
}

/// Ends what the ring has done; what was done in part is done again.
fn finish(
    node: &Node,
    plan: &Plan,
    shared: &Shared,
    (under_way, done): (&mut HashMap<u64, Resolved>, &mut Vec<RingDone>),
) -> io::Result<()> {
    for RingDone { token, result } in done.drain(..) {
        under_way.remove(&token);
        match result {
            Ok(n) if n == shared.memory.len() => {}
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                return Err(error);
            }
            _ => once(node, plan, plan.place(token, node.len()), &shared.memory)?,
        }
    }
    Ok(())
}

/// One thread's requests, one after another.
fn ask(node: &Node, plan: &Plan, shared: &Shared) -> io::Result<()> {
    let len = node.len();
    loop {
        let n = shared.next.fetch_add(1, Ordering::Relaxed);
        if n >= plan.count || shared.wrong.lock().is_some() {
            return Ok(());
        }
        once(node, plan, plan.place(n, len), &shared.memory)?;
        let is_flush = plan.writes && plan.through
            || plan.flush_every > 0 && (n + 1).is_multiple_of(plan.flush_every);
        if is_flush {
            node.flush()?;
        }
    }
}

fn work(node: &Node, plan: &Plan, shared: &Shared) {
    let ring = plan.in_ring.and_then(|most| {
        let entries = u32::try_from(most).ok()?.next_power_of_two();
        Ring::new(entries).ok().map(|ring| (ring, most))
    });
    shared.ready.wait();
    shared.begin.get_or_init(Instant::now);
    let done = match &ring {
        Some((ring, most)) => send(node, plan, shared, (ring, *most)),
        None => ask(node, plan, shared),
    };
    if let Err(error) = done {
        shared.wrong.lock().get_or_insert(error);
    }
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("bench", args, OPTIONS)? else { return Ok(0) };
    let name = given.name()?;
    let mode = cache(given.value("cache"), "")?;
    let mut plan = plan(&given, mode)?;
    let flags = mode.flags(given.flags(!plan.writes));
    let node = given.open(&*given.graph()?, name, given.value("format"), flags)?;
    if node.len() < plan.buffer {
        return Err(Fail("Image is too small for the buffer size".into(), 1));
    }
    if !given.has("quiet") {
        say(&format!(
            "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})\n",
            plan.count,
            if plan.writes { "write" } else { "read" },
            plan.buffer,
            plan.depth,
            plan.offset,
            plan.step
        ));
        if plan.flush_every > 0 {
            let kind = if given.has("no-drain") { "ongoing " } else { "" };
            say(&format!("Sending flush every {} {kind}requests\n", plan.flush_every));
        }
    }
    let threads = plan.share(flags.direct, given.value("aio"));
    let shared = Shared {
        next: AtomicU64::new(0),
        wrong: Mutex::new(None),
        begin: OnceLock::new(),
        ready: Barrier::new(usize::try_from(threads).unwrap_or(1)),
        memory: memory(&plan)?,
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| work(&node, &plan, &shared));
        }
        work(&node, &plan, &shared);
    });
    let took = shared.begin.get().map_or(0.0, |begin| begin.elapsed().as_secs_f64());
    if let Some(error) = shared.wrong.into_inner() {
        return fail("Failed request", &error);
    }
    if !given.has("quiet") {
        say(&format!("Run completed in {:.3} seconds.\n", took));
    }
    Ok(0)
}
