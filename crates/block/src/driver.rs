//! What a driver is: requests, and what tools ask of formats.
//!
//! Offsets and lengths are bytes throughout; drivers take any alignment. All calls come from
//! several threads at once and block their caller until they are done.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qapi::Value;

use crate::flights::Flight;
use crate::graph::Flags;
use crate::node::Child;
use crate::opening::Opening;

/// What a range of a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes that are alike.
    pub len: u64,
    /// There are bytes to read in this layer.
    pub data: bool,
    /// It reads as zeroes.
    pub zero: bool,
    /// This layer decides what is read (and not what lies behind it).
    pub allocated: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// Where the bytes are in the file below, if they lie there as they are.
    pub offset: Option<u64>,
}

/// How much of the space of a new or longer image is taken at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// None.
    #[default]
    Off,
    /// Tables only.
    Metadata,
    /// Space without writing it.
    Falloc,
    /// Space by writing zeroes.
    Full,
}

/// What `check` may mend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fix {
    /// Nothing.
    #[default]
    None,
    /// Clusters that nothing uses.
    Leaks,
    /// Everything.
    All,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Lines for a person, in the order of finding.
    pub messages: Vec<String>,
    /// Wrong tables or counts.
    pub corruptions: u64,
    /// Clusters that are counted and not used.
    pub leaks: u64,
    /// Of the corruptions, mended.
    pub corruptions_fixed: u64,
    /// Of the leaks, mended.
    pub leaks_fixed: u64,
    /// What could not be looked at.
    pub errors: u64,
    /// Clusters of the disk.
    pub total: u64,
    /// Of them, with data.
    pub allocated: u64,
    /// Of them, not behind their neighbour.
    pub fragmented: u64,
    /// Of them, compressed.
    pub compressed: u64,
    /// End of the last cluster in use.
    pub image_end: u64,
}

/// An internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of the machine's saved state.
    pub vm_state: u64,
    /// Seconds since 1970.
    pub seconds: u32,
    /// And nanoseconds.
    pub nanoseconds: u32,
    /// Guest time in nanoseconds.
    pub clock: u64,
    /// Instructions executed; `u64::MAX`: unknown.
    pub icount: u64,
    /// Length of the disk.
    pub disk_size: u64,
}

/// A change of the internal snapshots.
#[derive(Clone, Debug)]
pub enum SnapshotChange {
    /// Take one of the disk, and of the machine's state that lies behind it; id and length of the
    /// disk are the driver's to fill in.
    Create(Snapshot),
    /// Remove the one of this id or name.
    Delete(String),
    /// Make the disk what it was.
    Apply(String),
}

/// What a tool tells about an image.
#[derive(Clone, Debug, Default)]
pub struct FormatInfo {
    /// Bytes of a cluster.
    pub cluster_size: Option<u64>,
    /// The backing file's name as stored.
    pub backing_file: Option<String>,
    /// Its format as stored.
    pub backing_format: Option<String>,
    /// `format-specific` data.
    pub specific: Option<Value>,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// It was not closed properly.
    pub dirty: bool,
}

/// A persistent dirty bitmap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for, a power of two.
    pub granularity: u64,
    /// Writes are recorded.
    pub enabled: bool,
    /// It was not stored properly and says nothing.
    pub inconsistent: bool,
    /// Bits, the lowest of the first word first.
    pub bits: Vec<u64>,
}

impl Bitmap {
    /// Sets the bits of a range of the disk.
    pub fn set(&mut self, at: u64, len: u64) {
        if len == 0 || self.granularity == 0 {
            return;
        }
        for bit in at / self.granularity..=(at.saturating_add(len - 1)) / self.granularity {
            let word = usize::try_from(bit / 64).ok().and_then(|word| self.bits.get_mut(word));
            let Some(word) = word else { return };
            *word |= 1 << (bit % 64);
        }
    }
    /// Whether a bit is set.
    #[must_use]
    pub fn is_set(&self, bit: u64) -> bool {
        let word = usize::try_from(bit / 64).ok().and_then(|word| self.bits.get(word));
        word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

/// A change of a persistent dirty bitmap.
#[derive(Clone, Debug)]
pub enum BitmapChange {
    /// Make one: its granularity, whether it records.
    Add(Option<u64>, bool),
    /// Remove it.
    Remove,
    /// Clear all bits.
    Clear,
    /// Record writes from now on, or do not.
    Enable(bool),
    /// Set all bits that are set in another one.
    Merge(Bitmap),
}

/// Objects that secrets are found in.
#[derive(Clone, Default)]
pub struct Keys(Option<Arc<device::Objects>>);

impl Keys {
    /// Those of a program.
    #[must_use]
    pub fn of(objects: Arc<device::Objects>) -> Keys {
        Keys(Some(objects))
    }
    /// The objects.
    #[must_use]
    pub fn objects(&self) -> Option<&Arc<device::Objects>> {
        self.0.as_ref()
    }
    /// The bytes of a secret.
    ///
    /// # Errors
    /// There is no such object, or it is no secret.
    pub fn secret(&self, id: &str) -> qapi::Result<Arc<[u8]>> {
        let object = self.0.as_ref().and_then(|objects| objects.find(id));
        let object =
            object.ok_or_else(|| qapi::Error::generic(format!("No secret with id '{id}'")))?;
        let bytes = object.ability::<device::SecretBytes>().ok_or_else(|| {
            qapi::Error::generic(format!("Object with id '{id}' is not a secret"))
        })?;
        Ok(bytes.0.clone())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Where bytes of a node lie ([`BlockDriver::resolve`]).
pub struct Resolved {
    /// The host's file.
    pub file: Arc<File>,
    /// The first byte in it.
    pub at: u64,
    /// What offset and memory must be a multiple of; 1: anything.
    pub align: u32,
    /// The file may be used through a ring.
    pub ring: bool,
    /// A write that the ring cut short is a full disk; otherwise what is left is tried, and tells why.
    pub cut_is_full: bool,
    /// Keeps the bytes where they are.
    pub guard: Option<Flight>,
}

/// What is done with a breakpoint of `blkdebug`; the texts are events and tags.
#[derive(Clone, Copy, Debug)]
pub enum Breakpoint<'a> {
    /// The next request with this event stops there and has this tag then.
    Set(&'a str, &'a str),
    /// The tag is forgotten; requests that have it go on.
    Remove(&'a str),
    /// One request with this tag goes on.
    Resume(&'a str),
    /// Blocks until a request has stopped with this tag.
    Wait(&'a str),
}

fn none<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// An opened node's behaviour.
pub trait BlockDriver: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `into`; the range lies within the length.
    ///
    /// # Errors
    /// What the layer below says, or that the image is broken.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes `data`.
    ///
    /// # Errors
    /// As [`BlockDriver::read`].
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()>;
    /// Makes a range zero; with `unmap` its space may be given back.
    ///
    /// # Errors
    /// As [`BlockDriver::read`].
    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        _ = unmap;
        let zeroes = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(1 << 20)];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeroes.len() as u64);
            self.write(at + done, zeroes.get(..usize::try_from(n).unwrap_or(0)).unwrap_or(&[]))?;
            done += n;
        }
        Ok(())
    }
    /// The bytes are not needed any more; a layer may do nothing.
    ///
    /// # Errors
    /// As [`BlockDriver::read`].
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        _ = (at, len);
        Ok(())
    }
    /// Everything written before is on the disk when this returns.
    ///
    /// # Errors
    /// As [`BlockDriver::read`].
    fn flush(&self) -> io::Result<()>;
    /// Stores what waits for the end; the image could be used by others now. What fails is told on
    /// the error stream ([`lost`]), as most callers can tell nobody.
    ///
    /// # Errors
    /// Something is lost.
    fn close(&self) -> io::Result<()> {
        Ok(())
    }
    /// Changes the length.
    ///
    /// # Errors
    /// It cannot be changed.
    fn truncate(&self, len: u64, how: Preallocation) -> io::Result<()> {
        _ = (len, how);
        none()
    }
    /// What the range that begins at `at` is; at most `len` bytes are looked at.
    ///
    /// # Errors
    /// As [`BlockDriver::read`].
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        Ok(Extent { len, data: true, allocated: true, offset: Some(at), ..Extent::default() })
    }
    /// Whether the image that is read here, under filters, decides itself what a range is (and not
    /// what lies behind it), and for how many bytes that is so.
    ///
    /// # Errors
    /// As [`BlockDriver::read`].
    fn holds(&self, at: u64, len: u64) -> io::Result<(bool, u64)> {
        let found = self.extent(at, len)?;
        Ok((found.allocated, found.len))
    }
    /// Where a range lies as it is in a file of the host, and in one piece; the guard keeps it there
    /// until the request is done. For writes it may be changed in place. Never blocks: in doubt
    /// `None`, and the request is made with the calls above.
    fn resolve(&self, at: u64, len: u64, write: bool) -> Option<Resolved> {
        _ = (at, len, write);
        None
    }
    /// Something happens in the format above that rules of errors may wait for (`l2_load`,
    /// `cluster_alloc`, ...); nothing but `blkdebug` listens.
    fn event(&self, name: &str) {
        _ = name;
    }
    /// Requests stop at an event or go on; nothing but `blkdebug` knows this.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] of other drivers; no such event, tag or request.
    fn breakpoint(&self, what: &Breakpoint<'_>) -> io::Result<()> {
        _ = what;
        none()
    }
    /// Goes on in other ways (for reading only, past the page cache, ...); nothing is under way.
    ///
    /// # Errors
    /// It cannot; everything is as it was.
    fn reopen(&self, to: &Flags) -> qapi::Result<()> {
        _ = to;
        Ok(())
    }
    /// Replaces or removes the backing child while nothing is under way; `false`: it has none.
    fn set_backing(&self, backing: Option<Child>) -> bool {
        drop(backing);
        false
    }
    /// Writes one cluster compressed; `false`: it does not get smaller, so nothing was done.
    /// A shorter piece is for the end of the disk.
    ///
    /// # Errors
    /// The format cannot.
    fn write_compressed(&self, at: u64, data: &[u8]) -> io::Result<bool> {
        _ = (at, data);
        none()
    }
    /// Compresses one cluster for [`BlockDriver::write_packed`], touching nothing of the image;
    /// `None`: it does not get smaller.
    ///
    /// # Errors
    /// The format cannot.
    fn pack(&self, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
        _ = data;
        none()
    }
    /// Stores what [`BlockDriver::pack`] made as the cluster at `at`.
    ///
    /// # Errors
    /// The format cannot.
    fn write_packed(&self, at: u64, packed: &[u8]) -> io::Result<()> {
        _ = (at, packed);
        none()
    }
    /// What is known of the image.
    fn format_info(&self) -> FormatInfo {
        FormatInfo::default()
    }
    /// Bytes it takes on the host's disk; `None` for what has no files of its own.
    fn allocated_size(&self) -> Option<u64> {
        None
    }
    /// Looks for damage.
    ///
    /// # Errors
    /// The format cannot be checked, or the check cannot be done.
    fn check(&self, fix: Fix) -> io::Result<CheckReport> {
        _ = fix;
        none()
    }
    /// Changes internal snapshots.
    ///
    /// # Errors
    /// The format has none, or not that one.
    fn change_snapshot(&self, change: &SnapshotChange) -> io::Result<()> {
        _ = change;
        none()
    }
    /// Writes bytes of the machine's state, which lies behind the disk; the next snapshot that says
    /// how many there are keeps them. The first byte of a state is 0.
    ///
    /// # Errors
    /// The format has no room for it, or as [`BlockDriver::write`].
    fn write_vm_state(&self, at: u64, data: &[u8]) -> io::Result<()> {
        _ = (at, data);
        none()
    }
    /// Reads bytes of the machine's state that a snapshot (its id or name) holds.
    ///
    /// # Errors
    /// There is no such snapshot, it has fewer bytes, or as [`BlockDriver::read`].
    fn read_vm_state(&self, word: &str, at: u64, into: &mut [u8]) -> io::Result<()> {
        _ = (word, at, into);
        none()
    }
    /// Forgets everything this layer holds, so that the backing file is read through it.
    ///
    /// # Errors
    /// The format cannot.
    fn make_empty(&self) -> io::Result<()> {
        none()
    }
    /// Shows the disk as it was in an internal snapshot (its id or name); the node is read-only.
    ///
    /// # Errors
    /// The format has none, or not that one.
    fn show_snapshot(&self, word: &str) -> io::Result<()> {
        _ = word;
        none()
    }
    /// Options that [`BlockDriver::amend`] changes.
    fn amend_options(&self) -> &'static [CreateOption] {
        &[]
    }
    /// Changes options of an image that exists; `force` allows what may lose keys. `steps` is told
    /// how much of how much is done where it takes long.
    ///
    /// # Errors
    /// The format cannot change them so.
    fn amend(&self, options: &Creation, force: bool, steps: &dyn Fn(u64, u64)) -> qapi::Result<()> {
        _ = (options, force, steps);
        Err(qapi::Error::generic("Format driver does not support option amendment"))
    }
    /// Persistent dirty bitmaps.
    ///
    /// # Errors
    /// The image is damaged.
    fn bitmaps(&self) -> io::Result<Vec<Bitmap>> {
        Ok(Vec::new())
    }
    /// Changes a persistent dirty bitmap.
    ///
    /// # Errors
    /// The format has none, or it cannot be changed so.
    fn change_bitmap(&self, name: &str, change: &BitmapChange) -> qapi::Result<()> {
        _ = (name, change);
        Err(qapi::Error::generic("Cannot store dirty bitmaps in this format"))
    }
    /// Stores another backing file's name and format; the disk's contents are the caller's affair.
    ///
    /// # Errors
    /// The format has none.
    fn change_backing(&self, file: Option<&str>, format: Option<&str>) -> io::Result<()> {
        _ = (file, format);
        none()
    }
}

/// An option for making an image.
#[derive(Clone, Copy, Debug)]
pub struct CreateOption {
    /// Its name.
    pub name: &'static str,
    /// `str`, `size`, `num` or `bool (on/off)`.
    pub kind: &'static str,
    /// One line.
    pub help: &'static str,
}

/// A new image.
#[derive(Clone, Debug, Default)]
pub struct Creation {
    /// Where.
    pub filename: String,
    /// Length of the disk.
    pub size: u64,
    /// Options by name, as given.
    pub options: Vec<(String, String)>,
    /// Where `key-secret` options find their secrets.
    pub keys: Keys,
}

impl Creation {
    /// The text of an option.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A driver in the catalog.
pub struct BlockClass {
    /// Name for `driver`.
    pub name: &'static str,
    /// It works on the host and not on another node.
    pub protocol: bool,
    /// How sure it is, from the first bytes, that an image is its own; 0 to 100.
    pub probe: fn(&[u8]) -> u32,
    /// Opens a node.
    pub open: fn(&mut Opening<'_>) -> qapi::Result<Arc<dyn BlockDriver>>,
    /// Makes an image; a line like the options QEMU prints comes back.
    pub create: Option<fn(&Creation) -> qapi::Result<()>>,
    /// Options of `create`.
    pub create_options: &'static [CreateOption],
    /// The options as `Formatting` shows them, behind `fmt=`.
    pub describe: fn(&Creation) -> String,
    /// It can have a backing file.
    pub has_backing: bool,
}

impl BlockClass {
    /// Whether it needs of the node below what is needed of it, and no more.
    #[must_use]
    pub fn passes_on(&self) -> bool {
        self.is_filter() || self.name == "raw"
    }
    /// Whether it shows the bytes of one child unchanged.
    #[must_use]
    pub fn is_filter(&self) -> bool {
        ["copy-on-read", "throttle", "blkdebug", "commit_top", "mirror_top"].contains(&self.name)
    }
}

impl fmt::Debug for BlockClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Something could not be stored when an image was closed.
static LOST: AtomicBool = AtomicBool::new(false);

/// Tells the user that something could not be stored when an image was closed.
pub fn lost(text: &str) {
    LOST.store(true, Ordering::Relaxed);
    trace::report(format_args!("{text}"));
}

/// Whether anything could not be stored when an image was closed.
#[must_use]
pub fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// A damaged image.
#[must_use]
pub fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Something that is not done for this image.
#[must_use]
pub fn unsupported(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, text.into())
}
