//! `file`, `host_device` and `host_cdrom`: a file, block device or CD drive of the host.
//!
//! Requests are the system's positioned reads and writes on the thread that asks. Bytes behind the
//! end of a file read as zeroes. Discards punch holes; holes are found with lseek(2). The file is
//! locked (`locking=off` does not). With `cache.direct` whole blocks of 4 KiB go past the page
//! cache, through a copy where memory is not aligned; parts of blocks go through it. `aio=threads`
//! keeps requests off the ring; `native` and `io_uring` (the default) are the same.
//! Reading a drive that has no medium says so. Not here: the tray of such a drive; `x-check-cache-dropped`, `drop-cache`, `pr-manager`.
//! Source: QEMU's manual, `file` and `host_device`; fallocate(2), lseek(2).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use qapi::{Error, Result};

use crate::driver::{BlockClass, BlockDriver, Extent, Preallocation, Resolved, unsupported};
use crate::graph::Flags;
use crate::lock::{self, Wants};
use crate::node::Threshold;
use crate::opening::Opening;
use crate::options::{take, word};

/// What offset, length and memory of direct I/O are multiples of.
const BLOCK: u64 = 4096;
/// ENOMEDIUM of Linux.
const NO_MEDIUM: i32 = 123;
/// Bytes of the aligned buffer.
const BOUNCE: usize = 1 << 20;

/// How the file is open now.
#[derive(Clone)]
struct Doors {
    file: Arc<File>,
    /// The same file, past the page cache.
    direct: Option<Arc<File>>,
}

struct Disk {
    doors: RwLock<Doors>,
    /// The file as it was opened first, and how it is locked.
    lock: Option<(File, Mutex<Wants>)>,
    path: String,
    threshold: Arc<Threshold>,
    ring: bool,
    cut_is_full: bool,
    is_device: bool,
    /// It may have no medium.
    is_cdrom: bool,
    /// The file system cannot tell or make holes.
    plain: AtomicBool,
    no_flush: AtomicBool,
}

impl Disk {
    fn file(&self) -> Arc<File> {
        self.doors.read().file.clone()
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    // EOPNOTSUPP, ENOTTY, ENOSYS and EINVAL (devices) all say that it cannot be done so.
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
        || matches!(error.raw_os_error(), Some(95 | 25 | 38))
}

/// Memory that begins at a multiple of [`BLOCK`], and where it begins in the vector.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let block = usize::try_from(BLOCK).unwrap_or(1);
    let memory = vec![0; len + block];
    let start = memory.as_ptr().align_offset(block).min(block);
    (memory, start)
}

/// How much of a range goes past the page cache: whole blocks.
fn whole_blocks(at: u64, len: usize) -> usize {
    if at.is_multiple_of(BLOCK) { len - len % usize::try_from(BLOCK).unwrap_or(1) } else { 0 }
}

/// Whether memory can be used for direct I/O as it is.
fn is_aligned(memory: &[u8]) -> bool {
    memory.as_ptr().align_offset(usize::try_from(BLOCK).unwrap_or(1)) == 0
}

/// Reads until the end of the file or of the memory, in multiples of `unit`; how much that was.
fn read_all(file: &File, at: u64, into: &mut [u8], unit: usize) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(done as u64)) {
            Ok(n) if n < unit || n % unit != 0 => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads whole blocks past the page cache; how much that was. The end of the file is the other
/// way's affair.
fn read_direct(direct: &File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let block = usize::try_from(BLOCK).unwrap_or(1);
    let whole = whole_blocks(at, into.len());
    let into = into.get_mut(..whole).unwrap_or_default();
    if is_aligned(into) {
        return read_all(direct, at, into, block);
    }
    let (mut memory, start) = aligned(whole.min(BOUNCE));
    let mut done = 0;
    for piece in into.chunks_mut(BOUNCE) {
        let bounce = memory.get_mut(start..start + piece.len()).unwrap_or_default();
        let n = read_all(direct, at.saturating_add(done as u64), bounce, block)?;
        if let (Some(to), Some(from)) = (piece.get_mut(..n), bounce.get(..n)) {
            to.copy_from_slice(from);
        }
        done += n;
        if n < piece.len() {
            break;
        }
    }
    Ok(done)
}

/// Writes whole blocks past the page cache; how much that was.
fn write_direct(direct: &File, at: u64, data: &[u8]) -> io::Result<usize> {
    let whole = whole_blocks(at, data.len());
    let data = data.get(..whole).unwrap_or_default();
    if is_aligned(data) {
        return direct.write_all_at(data, at).map(|()| whole);
    }
    let (mut memory, start) = aligned(whole.min(BOUNCE));
    let mut place = at;
    for piece in data.chunks(BOUNCE) {
        let bounce = memory.get_mut(start..start + piece.len()).unwrap_or_default();
        bounce.copy_from_slice(piece);
        direct.write_all_at(bounce, place)?;
        place = place.saturating_add(piece.len() as u64);
    }
    Ok(whole)
}

/// Writes zeroes.
pub(crate) fn fill(file: &File, at: u64, len: u64) -> io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    let mut done = 0;
    while done < len {
        let n = usize::try_from((len - done).min(1 << 20)).unwrap_or(0);
        file.write_all_at(zeroes.get(..n).unwrap_or_default(), at + done)?;
        done += n as u64;
    }
    Ok(())
}

impl BlockDriver for Disk {
    fn len(&self) -> u64 {
        if self.is_device {
            return host::file_length(self.file()).unwrap_or(0);
        }
        // Disks have whole sectors; the rest of the last one reads as zeroes.
        self.file().metadata().map_or(0, |m| m.len().next_multiple_of(512).min(1 << 62))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        if self.is_cdrom && self.is_empty() {
            return Err(io::Error::from_raw_os_error(NO_MEDIUM));
        }
        let Doors { file, direct } = self.doors.read().clone();
        let done = match &direct {
            Some(direct) => read_direct(direct, at, into)?,
            None => 0,
        };
        let rest = into.get_mut(done..).unwrap_or_default();
        let done = read_all(&file, at.saturating_add(done as u64), rest, 1)?;
        // Behind the end of the file are zeroes.
        rest.get_mut(done..).unwrap_or_default().fill(0);
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.threshold.check(at, data.len() as u64);
        let Doors { file, direct } = self.doors.read().clone();
        let done = match &direct {
            Some(direct) => write_direct(direct, at, data)?,
            None => 0,
        };
        let rest = data.get(done..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        file.write_all_at(rest, at.saturating_add(done as u64))
    }

    fn resolve(&self, at: u64, len: u64, write: bool) -> Option<Resolved> {
        if write {
            self.threshold.check(at, len);
        }
        let doors = self.doors.read();
        let (file, align) = match &doors.direct {
            Some(direct) => (direct, BLOCK),
            None => (&doors.file, 1),
        };
        let align = u32::try_from(align).ok()?;
        let (ring, cut_is_full) = (self.ring, self.cut_is_full);
        Some(Resolved { file: file.clone(), at, align, ring, cut_is_full, guard: None })
    }

    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.threshold.check(at, len);
        let file = &*self.file();
        // Punching does not make the file longer, so it serves only below its end.
        if unmap && !self.is_device && at.saturating_add(len) <= self.len() {
            match host::punch_hole(file, at, len) {
                Err(error) if is_unsupported(&error) => {}
                done => return done,
            }
        }
        match host::zero_range(file, at, len) {
            Err(error) if is_unsupported(&error) => fill(file, at, len),
            done => done,
        }
    }

    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match host::punch_hole(self.file(), at, len) {
            Err(error) if is_unsupported(&error) => Ok(()),
            done => done,
        }
    }

    fn flush(&self) -> io::Result<()> {
        if self.no_flush.load(Ordering::Relaxed) { Ok(()) } else { self.file().sync_data() }
    }

    fn truncate(&self, len: u64, how: Preallocation) -> io::Result<()> {
        if self.is_device {
            return if len <= self.len() {
                Ok(())
            } else {
                Err(unsupported("Cannot grow device files"))
            };
        }
        let (old, file) = (self.len(), &*self.file());
        match how {
            Preallocation::Off | Preallocation::Metadata => file.set_len(len),
            Preallocation::Falloc if len > old => host::allocate(file, old, len - old),
            Preallocation::Full if len > old => fill(file, old, len - old),
            _ => Err(unsupported("Preallocation can't be used for shrinking files")),
        }
    }

    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        let whole =
            Extent { len, data: true, allocated: true, offset: Some(at), ..Extent::default() };
        if self.plain.load(Ordering::Relaxed) {
            return Ok(whole);
        }
        let hole = Extent { data: false, zero: true, ..whole };
        let file = &*self.file();
        match host::next_data(file, at) {
            Ok(None) => Ok(hole),
            Ok(Some(data)) if data > at => Ok(Extent { len: len.min(data - at), ..hole }),
            Ok(Some(_)) => {
                let mut end = host::next_hole(file, at)?.unwrap_or(u64::MAX);
                // Past the page cache whole sectors are asked for: the rest of the last one is
                // no piece of its own.
                if self.doors.read().direct.is_some()
                    && file.metadata().is_ok_and(|m| m.len() == end)
                {
                    end = end.next_multiple_of(512);
                }
                Ok(Extent { len: len.min(end.saturating_sub(at)).max(1), ..whole })
            }
            Err(_) => {
                self.plain.store(true, Ordering::Relaxed);
                Ok(whole)
            }
        }
    }

    fn reopen(&self, to: &Flags) -> Result<()> {
        let wants = Wants::of(!to.read_only, to.force_share);
        let mut how = File::options();
        how.read(true).write(!to.read_only);
        let old = self.doors.read().file.clone();
        let again = how.open(format!("/proc/self/fd/{}", old.as_raw_fd())).map_err(|error| {
            Error::generic(format!("Could not open '{}': {}", self.path, host::reason(&error)))
        })?;
        let direct = if to.direct {
            Some(Arc::new(reopen(&again, !to.read_only, &self.path)?))
        } else {
            None
        };
        if let Some((file, wanted)) = &self.lock {
            let mut wanted = wanted.lock();
            lock::change(file, &self.path, *wanted, wants)?;
            *wanted = wants;
        }
        *self.doors.write() = Doors { file: Arc::new(again), direct };
        self.no_flush.store(to.no_flush, Ordering::Relaxed);
        Ok(())
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file().metadata().ok().map(|m| m.blocks().saturating_mul(512))
    }
}

fn open_path(at: &mut Opening<'_>, path: &str, auto: bool) -> Result<(File, bool)> {
    let open = |write: bool| File::options().read(true).write(write).open(path);
    let failed = |error: &io::Error| {
        Error::generic(format!("Could not open '{path}': {}", host::reason(error)))
    };
    if at.read_only {
        return open(false).map(|file| (file, false)).map_err(|error| failed(&error));
    }
    match open(true) {
        Ok(file) => Ok((file, true)),
        Err(error) if auto && matches!(error.raw_os_error(), Some(13 | 1 | 30)) => {
            at.read_only = true;
            open(false).map(|file| (file, false)).map_err(|error| failed(&error))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// The same file past the page cache.
fn reopen(file: &File, writable: bool, path: &str) -> Result<File> {
    let mut how = File::options();
    how.read(true).write(writable).custom_flags(host::O_DIRECT);
    let opened = how.open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    opened.map_err(|error| {
        let text = format!("Could not open '{path}': {}", host::reason(&error));
        let error = Error::generic(text);
        error.with_hint("the file system may not support O_DIRECT")
    })
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let path = take::<String>(&mut at.options, "filename", source)?;
    let is_given = path.is_some();
    let path = path.filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| {
        let name = at.class.name;
        let text = format!("The '{name}' block driver requires a file name");
        let schema = at.has_schema() && !is_given;
        if schema { Error::missing("filename") } else { Error::generic(text) }
    })?;
    let aio = word(&mut at.options, "aio", &["threads", "native", "io_uring"])?;
    if aio.as_deref() == Some("native") && !at.direct {
        let text =
            "aio=native was specified, but it requires cache.direct=on, which was not specified.";
        return Err(Error::generic(text));
    }
    let locking = word(&mut at.options, "locking", &["on", "off", "auto"])?;
    let (file, writable) = match at.descriptor(&path) {
        Some(found) => {
            let file = found?;
            let writable = host::is_writable(&file);
            if !writable && !at.read_only {
                return Err(Error::generic(format!("Could not open '{path}': Permission denied")));
            }
            (file, writable && !at.read_only)
        }
        None => open_path(at, &path, at.auto_read_only)?,
    };
    let kind = file.metadata().map_err(|e| Error::generic(host::reason(&e)))?.file_type();
    let is_device = kind.is_block_device();
    if at.class.name == "file" && !kind.is_file() && !is_device {
        return Err(Error::generic(format!(
            "'file' driver requires '{path}' to be a regular file"
        )));
    }
    let is_cdrom = at.class.name == "host_cdrom";
    if at.class.name != "file" && !is_device && !kind.is_char_device() {
        let name = at.class.name;
        let text =
            format!("'{name}' driver requires '{path}' to be either a character or block device");
        return Err(Error::generic(text));
    }
    let wants = Wants::of(writable, at.force_share);
    let locked = if locking.as_deref() == Some("off") {
        None
    } else {
        lock::lock(&file, &path, wants)?;
        // The lock is the open file's, and lives on when another one is used.
        file.try_clone().ok().map(|file| (file, Mutex::new(wants)))
    };
    let direct = if at.direct { Some(Arc::new(reopen(&file, writable, &path)?)) } else { None };
    // A colon would be read as a protocol.
    let colon = path.find(':').is_some_and(|at| !path.get(..at).unwrap_or("").contains('/'));
    at.filename = if colon { format!("./{path}") } else { path.clone() };
    let ring = aio.as_deref() != Some("threads");
    // As at the peer, which uses threads unless it is told not to.
    let cut_is_full = ring && aio.is_some();
    Ok(Arc::new(Disk {
        doors: RwLock::new(Doors { file: Arc::new(file), direct }),
        lock: locked,
        path,
        threshold: at.threshold.clone(),
        ring,
        cut_is_full,
        is_device: is_device || is_cdrom,
        is_cdrom,
        plain: AtomicBool::new(false),
        no_flush: at.no_flush.into(),
    }))
}

const fn class(name: &'static str) -> BlockClass {
    BlockClass {
        name,
        protocol: true,
        probe: |_| 0,
        open,
        create: None,
        create_options: &[],
        describe: |_| String::new(),
        has_backing: false,
    }
}

pub(crate) const FILE: BlockClass = class("file");
pub(crate) const HOST_DEVICE: BlockClass = class("host_device");
pub(crate) const HOST_CDROM: BlockClass = class("host_cdrom");
