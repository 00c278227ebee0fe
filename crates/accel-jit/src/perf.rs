//! What profilers are told of generated code, and counts of helper calls.
//!
//! `-perfmap` writes `/tmp/perf-PID.map`: address, size and name of each block, in hexadecimal, a line each
//! (perf-map of Linux, tools/perf/Documentation/jit-interface.txt). `-jitdump` writes `jit-PID.dump` into the
//! current folder, with the code itself (jitdump-specification.txt there), for `perf record -k mono` and
//! `perf inject --jit`. Names are QEMU's: `guest-0xADDRESS`, the virtual address at which the block was first
//! translated; code is not translated again for other addresses of the same page.
//!
//! Not written: line tables, and records of code that was dropped (its place gets a new record when used again).
//! UNSAFE: entry points that generated code calls.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use jit_ir::helper::HelperEntry;
use jit_ir::{HelperDesc, Translator};
use parking_lot::Mutex;

/// "JiTD", as a native word.
const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER: u32 = 40;
/// `EM_X86_64`.
const MACHINE: u32 = 62;
/// `JIT_CODE_LOAD`.
const CODE_LOAD: u32 = 0;

/// The open files.
pub(crate) struct Perf {
    map: Option<Mutex<File>>,
    dump: Option<Mutex<Dump>>,
}

struct Dump {
    file: File,
    records: u64,
}

fn create(name: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(name)
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

/// The head of a dump.
fn header(pid: u32, now: u64) -> Vec<u8> {
    let mut head = words(&[MAGIC, VERSION, HEADER, MACHINE, 0, pid]);
    head.extend([now, 0].iter().flat_map(|n: &u64| n.to_ne_bytes()));
    head
}

/// One block in a dump.
fn record(pid: u32, now: u64, index: u64, name: &str, (at, code): (u64, &[u8])) -> Vec<u8> {
    let size = 16 + 40 + name.len() + 1 + code.len();
    let mut out = words(&[CODE_LOAD, size as u32]);
    out.extend(now.to_ne_bytes());
    out.extend(words(&[pid, pid]));
    for n in [at, at, code.len() as u64, index] {
        out.extend(n.to_ne_bytes());
    }
    out.extend(name.as_bytes());
    out.push(0);
    out.extend(code);
    out
}

impl Perf {
    /// Opens what is asked for; an error with the file's name.
    pub(crate) fn open(map: bool, dump: bool) -> Result<Option<Self>, (String, io::Error)> {
        let pid = std::process::id();
        let open = |wanted: bool, name: String| match wanted {
            false => Ok(None),
            true => create(&name).map(Some).map_err(|e| (name, e)),
        };
        let map_file = open(map, format!("/tmp/perf-{pid}.map"))?;
        let name = format!("jit-{pid}.dump");
        let dump_file = open(dump, name.clone())?;
        if let Some(mut file) = dump_file.as_ref() {
            let begun = file.write_all(&header(pid, host::monotonic_ns()));
            begun.and_then(|()| host::mark_code_file(file)).map_err(|e| (name, e))?;
        }
        let dump = dump_file.map(|file| Mutex::new(Dump { file, records: 0 }));
        Ok((map || dump.is_some()).then(|| Self { map: map_file.map(Mutex::new), dump }))
    }

    /// A block was emitted.
    pub(crate) fn block(&self, pc: u64, at: u64, code: &[u8]) {
        self.note(&format!("guest-{pc:#x}"), at, code);
    }

    /// Code of some name is at an address. A full disk is no reason to stop the guest.
    pub(crate) fn note(&self, name: &str, at: u64, code: &[u8]) {
        if let Some(map) = &self.map {
            let line = format!("{at:x} {:x} {name}\n", code.len());
            _ = map.lock().write_all(line.as_bytes());
        }
        if let Some(dump) = &self.dump {
            let mut dump = dump.lock();
            let now = host::monotonic_ns();
            let bytes = record(std::process::id(), now, dump.records, name, (at, code));
            dump.records += 1;
            _ = dump.file.write_all(&bytes);
        }
    }
}

/// Helpers that can be counted at most.
const MOST: usize = 256;
static COUNTS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// The helpers behind [`call`], the same for all VMs of the process.
static HELPERS: OnceLock<&'static [HelperDesc]> = OnceLock::new();

/// Counts a call of helper `N` and makes it.
unsafe extern "C" fn call<const N: usize>(state: *mut u8, a: u64, b: u64, c: u64, imm: u64) -> u64 {
    COUNTS[N].fetch_add(1, Ordering::Relaxed);
    let Some(helper) = HELPERS.get().and_then(|all| all.get(N)) else { return 0 };
    // SAFETY: `state` is what generated code passes to helpers of this table.
    unsafe { helper.call(state, [a, b, c, imm]) }
}

/// The helpers with entries that count; `None`: too many, or another guest's are counted already.
pub(crate) fn counted(translator: &dyn Translator) -> Option<Vec<HelperDesc>> {
    let helpers = translator.helpers();
    let known = *HELPERS.get_or_init(|| helpers);
    let entries: Vec<HelperEntry> = crate::verify::numbered!(call);
    if !std::ptr::eq(known, helpers) || helpers.len() > entries.len() {
        return None;
    }
    let with = |(h, entry): (&HelperDesc, HelperEntry)| HelperDesc { entry, ..*h };
    Some(helpers.iter().zip(entries).map(with).collect())
}

/// Helpers by their calls, most first.
pub(crate) fn counts_text(helpers: &[HelperDesc]) -> String {
    let mut all: Vec<_> =
        helpers.iter().zip(&COUNTS).map(|(h, n)| (n.load(Ordering::Relaxed), h.name)).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    let mut text = String::from("\nHelper calls:\n");
    for (n, name) in all.iter().filter(|(n, _)| *n != 0) {
        _ = writeln!(text, "{name:19} {n}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_has_the_specified_layout() {
        let head = header(7, 9);
        assert_eq!(head.len(), HEADER as usize);
        assert_eq!(&head[..4], &MAGIC.to_ne_bytes());
        assert_eq!(head[20..24], 7u32.to_ne_bytes());
        assert_eq!(head[24..32], 9u64.to_ne_bytes());
        let r = record(7, 9, 3, "guest-0x40", (0x1000, &[0xc3, 0x90]));
        assert_eq!(r[4..8], (r.len() as u32).to_ne_bytes());
        assert_eq!(r[24..32], 0x1000u64.to_ne_bytes());
        assert_eq!(r[40..48], 2u64.to_ne_bytes());
        assert_eq!(r[48..56], 3u64.to_ne_bytes());
        assert_eq!(&r[56..], b"guest-0x40\0\xc3\x90");
    }
}
