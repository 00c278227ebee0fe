//! `bench`: sends requests one behind another and says how long they took.
//!
//! As many requests as `-d` says are under way at once, each from a thread of its own (at most
//! [`THREADS`], more depth than that changes nothing). `-i` and `-n` are accepted and change nothing.
//! As with the peer all requests share one piece of memory, at a page's begin.
//! Source: QEMU's manual, `qemu-img bench`.

#![expect(clippy::disallowed_methods, reason = "a benchmark times itself")]

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::Instant;

use block::Node;
use guest_ram::{RamBlock, RamOptions, RamSlice};
use parking_lot::Mutex;

use crate::options::{Cache, Given, Opt, cache, size};
use crate::{Done, Fail, fail, say};

/// Most threads.
const THREADS: u64 = 64;

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

/// A part of a request straight between the host's file and the memory, where its bytes lie there
/// as they are; `false`: it must go through the drivers.
fn direct(node: &Node, plan: &Plan, at: u64, memory: &RamSlice) -> io::Result<bool> {
    let len = memory.len() as u64;
    let Some(found) = node.driver().resolve(at, len, plan.writes) else { return Ok(false) };
    let align = u64::from(found.align.max(1));
    let fits = found.at.is_multiple_of(align)
        && len.is_multiple_of(align)
        && guest_ram::is_aligned(std::slice::from_ref(memory), found.align as usize);
    if !fits {
        return Ok(false);
    }
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

fn work(node: &Node, plan: &Plan, shared: &Shared) {
    let Shared { next, wrong, memory, .. } = shared;
    let len = node.len();
    shared.ready.wait();
    shared.begin.get_or_init(Instant::now);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= plan.count || wrong.lock().is_some() {
            return;
        }
        // Requests begin anew where the image ends.
        let room = len.saturating_sub(plan.buffer).saturating_add(1).max(1);
        let at = (u128::from(plan.offset) + u128::from(n) * u128::from(plan.step))
            % u128::from(room.max(len));
        let at = u64::try_from(at).unwrap_or(0).min(room - 1);
        let is_flush = plan.writes && plan.through
            || plan.flush_every > 0 && (n + 1).is_multiple_of(plan.flush_every);
        let done = once(node, plan, at, memory)
            .and_then(|()| if is_flush { node.flush() } else { Ok(()) });
        if let Err(error) = done {
            wrong.lock().get_or_insert(error);
            return;
        }
    }
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("bench", args, OPTIONS)? else { return Ok(0) };
    let name = given.name()?;
    let mode = cache(given.value("cache"), "")?;
    let plan = plan(&given, mode)?;
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
    let threads = plan.depth.min(THREADS).min(plan.count);
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
