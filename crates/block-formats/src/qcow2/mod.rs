//! `qcow2`: copy-on-write images with snapshots, versions 2 and 3.
//!
//! A guest cluster is found through two tables (L1, L2); every host cluster has a reference count.
//! Tables are written back when the guest flushes, in an order that a crash at any point leaves
//! at worst counted clusters that nothing uses: counts, then L2, then L1, then what was freed.
//! Clusters that were given up are used again only when nothing on the disk names them any more.
//! Reads and writes are done without the lock of the tables; only requests that give clusters up
//! wait for all others.
//!
//! Sub-clusters, an external data file, LUKS encryption, zstd and persistent bitmaps are there.
//!
//! The old AES encryption is there as well. Not modelled: lazy reference counts are kept up to date
//! all the same and only marked; cache sizes change nothing.
//! Source: the qcow2 specification in QEMU's documentation (interop/qcow2).

mod amend;
mod bitmap;
mod check;
mod create;
mod header;
mod io;
mod packing;
mod refcount;
mod snapshot;
mod tables;
mod vm_state;

use std::collections::HashSet;
use std::io as stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use block::{
    Bitmap, BitmapChange, BlockClass, BlockDriver, CheckReport, Child, CreateOption, Creation,
    Extent, Fix, FormatInfo, Opening, Preallocation, SnapshotChange, invalid, unsupported,
};
use parking_lot::{Condvar, Mutex, RwLock};
use qapi::{Error, Result, Size, Value};

use crate::luks::{self, Cipher};
use header::{CRYPT_HEADER, DATA_FILE_NAME, Header, be64, feature};
use tables::{Mapped, Meta};

/// The class for the catalog.
pub static CLASS: BlockClass = BlockClass {
    name: "qcow2",
    protocol: false,
    probe: |head| {
        if head.starts_with(b"QFI\xfb\0\0\0\x02") || head.starts_with(b"QFI\xfb\0\0\0\x03") {
            100
        } else {
            0
        }
    },
    open,
    create: Some(create::create),
    create_options: create::OPTIONS,
    describe: create::describe,
    has_backing: true,
};

/// An opened image.
pub(crate) struct Qcow2 {
    file: Child,
    data_file: Option<Child>,
    crypt: Option<Crypt>,
    /// Enciphers data clusters by their place, or with the old AES by their place on the disk.
    cipher: Option<Cipher>,
    /// The number of the encryption method: 0 none, 1 the old AES, 2 LUKS.
    method: u32,
    backing: block::Slot,
    /// Requests that go to the file by themselves.
    flights: block::Flights,
    meta: Mutex<Meta>,
    /// A guest cluster that somebody waits for became free ([`Qcow2::busy`]).
    done: Condvar,
    /// Guest clusters that are being given a place. Locked after `meta`.
    busy: Mutex<HashSet<u64>>,
    /// Shared by reads and writes, exclusive for what gives clusters up. Locked before `meta`.
    gate: RwLock<()>,
    /// The compressed cluster read last: its entry and its contents.
    unpacked: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
    cluster_bits: u32,
    version: u32,
    read_only: AtomicBool,
    unmap: AtomicBool,
    /// Compressed clusters are zstd and not deflate.
    zstd: bool,
    /// The node's name, for messages.
    name: String,
    /// How often closing failed.
    unclosed: AtomicU8,
}

/// The header of an encrypted image, its place, and the master key if it was opened.
struct Crypt {
    header: Mutex<luks::Header>,
    at: u64,
    key: Option<Vec<u8>>,
}

/// Options that shape caches and checks; they are accepted and change nothing that is seen.
const TUNING: &[&str] =
    &["pass-discard-request", "pass-discard-snapshot", "pass-discard-other", "discard-no-unref"];
const SIZES: &[&str] = &[
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-size",
    "cache-clean-interval",
];

fn failed(error: &stdio::Error) -> Error {
    Error::generic(host::reason(error))
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let lazy = block::flag(&mut at.options, "lazy-refcounts", source, false)?;
    for name in TUNING {
        block::flag(&mut at.options, name, source, false)?;
    }
    for name in SIZES {
        block::take::<Size>(&mut at.options, name, source)?;
    }
    let overlap = block::take::<String>(&mut at.options, "overlap-check", source)?;
    if overlap.is_some_and(|word| !["none", "constant", "cached", "all"].contains(&word.as_str())) {
        return Err(Error::generic("Unsupported value for qcow2 option 'overlap-check'"));
    }
    let encrypt = at.options.take("encrypt");
    let file = at.child("file")?;
    at.filename = file.node().path().to_owned();
    let header = Header::read(&file.node())?;
    header.refuse_what_is_unknown()?;
    refuse_uses(at, &header, lazy)?;
    if header.incompatible & feature::CORRUPT != 0 && !at.read_only && !at.is_check() {
        let text = "qcow2: Image is corrupt; cannot be opened read/write";
        return Err(Error::generic(text));
    }
    let data_file = data_file(at, &header)?;
    let (crypt, cipher) = if header.crypt == 1 {
        (None, open_aes(at, encrypt)?)
    } else {
        match open_crypt(at, &header, &file, encrypt)? {
            Some((crypt, cipher)) => (Some(crypt), cipher),
            None => (None, None),
        }
    };
    let backing =
        at.backing(header.backing.clone().map(|name| (name, header.backing_format.clone())))?;
    let (cluster_bits, version, method) = (header.cluster_bits, header.version, header.crypt);
    let dirty = header.incompatible & feature::DIRTY != 0;
    let zstd = header.compression == 1;
    let data = data_file.as_ref().map(|child| child.node().clone());
    let meta = Meta::read(header, file.node().clone(), data).map_err(|e| failed(&e))?;
    let image = Qcow2 {
        file,
        data_file,
        crypt,
        cipher,
        method,
        backing: block::Slot::new(backing),
        flights: block::Flights::default(),
        meta: Mutex::new(meta),
        done: Condvar::new(),
        busy: Mutex::default(),
        gate: RwLock::new(()),
        unpacked: Mutex::default(),
        cluster_bits,
        version,
        read_only: at.read_only.into(),
        unmap: at.is_unmap().into(),
        zstd,
        name: at.name().to_owned(),
        unclosed: AtomicU8::new(0),
    };
    if !at.read_only {
        image.meta.lock().clear_unknown().map_err(|e| failed(&e))?;
    }
    if dirty && !at.read_only && !at.is_check() {
        // Lazy reference counts were not written: count anew.
        let done = image.check(Fix::All);
        let report = done.map_err(|e| failed(&e).prefixed("Could not repair dirty image: "))?;
        for line in report.messages {
            trace::write(format_args!("{line}\n"));
        }
    }
    Ok(Arc::new(image))
}

/// What an image of this kind cannot be used for.
fn refuse_uses(at: &Opening<'_>, header: &Header, lazy: bool) -> Result<()> {
    if header.crypt == 1 && at.is_for_machine() {
        let text =
            "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators";
        return Err(Error::generic(text));
    }
    if header.table_clusters == 0 && !at.is_check() {
        return Err(Error::generic("Image does not contain a reference count table"));
    }
    if lazy && header.version < 3 {
        let text =
            "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level";
        return Err(Error::generic(text));
    }
    Ok(())
}

/// The external data file: from the option, else from the image's own words.
fn data_file(at: &mut Opening<'_>, header: &Header) -> Result<Option<Child>> {
    if header.incompatible & feature::DATA_FILE == 0 {
        if at.options.get("data-file").is_some() {
            return Err(Error::generic(
                "'data-file' can only be set for images with an external data file",
            ));
        }
        return Ok(None);
    }
    if at.options.get("data-file").is_none() && !at.is_header_only() {
        let Some(name) = header.extension(DATA_FILE_NAME) else {
            return Err(Error::generic("'data-file' is required for this image"));
        };
        let name = String::from_utf8_lossy(name);
        let path = block::relative_to(&at.filename, &name);
        at.options.set("data-file", block::filename_options(&path)?);
    }
    at.child_if_given("data-file")
}

/// The secret that options of encryption name; `None`: it is not needed.
fn secret(at: &Opening<'_>, encrypt: Option<Value>, kind: &str) -> Result<Option<Arc<[u8]>>> {
    let mut encrypt = encrypt.unwrap_or(Value::Null);
    let mut word = |name: &str| match encrypt.take(name) {
        Some(Value::Str(text)) => Some(text),
        _ => None,
    };
    if let Some(format) = word("format").filter(|format| format != kind) {
        return Err(Error::generic(format!(
            "Header reported '{kind}' encryption format but options specify '{format}'"
        )));
    }
    match word("key-secret") {
        Some(_) if at.is_header_only() => Ok(None),
        Some(id) => at.keys().secret(&id).map(Some),
        None if at.is_header_only() => Ok(None),
        None => Err(Error::generic("Parameter 'encrypt.key-secret' is required for cipher")),
    }
}

/// The cipher of the old encryption: the first 16 bytes of the secret are the key.
fn open_aes(at: &Opening<'_>, encrypt: Option<Value>) -> Result<Option<Cipher>> {
    let Some(pass) = secret(at, encrypt, "aes")? else { return Ok(None) };
    let mut key = [0; 16];
    for (slot, byte) in key.iter_mut().zip(pass.iter()) {
        *slot = *byte;
    }
    Ok(Cipher::new("aes", "cbc-plain64", &key))
}

/// The LUKS header of an encrypted image, and the cipher where a secret opens it.
fn open_crypt(
    at: &Opening<'_>,
    header: &Header,
    file: &Child,
    encrypt: Option<Value>,
) -> Result<Option<(Crypt, Option<Cipher>)>> {
    if header.crypt == 0 {
        // Options for a cipher that is not needed are no mistake.
        return Ok(None);
    }
    let place = header.extension(CRYPT_HEADER).map(|data| (be64(data, 0), data.len()));
    let Some((place, 16)) = place else {
        return Err(Error::generic("Missing CRYPTO header for crypt method 2"));
    };
    if place & ((1 << header.cluster_bits) - 1) != 0 {
        let text = format!("Encryption header offset '{place}' is not a multiple of cluster size");
        return Err(Error::generic(text));
    }
    let driver = file.node().driver().clone();
    let found = luks::read_header(&*driver, place)?;
    let (cipher, key) = match secret(at, encrypt, "luks")? {
        Some(pass) => {
            let (cipher, key) = luks::unlock(&found, &*driver, place, &pass)?;
            (Some(cipher), Some(key))
        }
        None => (None, None),
    };
    Ok(Some((Crypt { header: Mutex::new(found), at: place, key }, cipher)))
}

impl Qcow2 {
    fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    fn is_unmap(&self) -> bool {
        self.unmap.load(Ordering::Relaxed)
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Waits until no request is under way, and keeps new ones off.
    fn alone(&self) -> parking_lot::RwLockWriteGuard<'_, ()> {
        let all = self.gate.write();
        self.flights.wait();
        all
    }

    /// Everything on the disk.
    fn commit(&self) -> stdio::Result<()> {
        // What gives clusters up must not meet a request that still reads them.
        let pending = self.meta.lock().has_frees();
        let _all = pending.then(|| self.alone());
        self.meta.lock().commit(self.is_unmap())
    }

    /// Writes the tables when so much was given up that it should be used again.
    fn relieve(&self) -> stdio::Result<()> {
        if self.meta.lock().is_crowded() { self.commit() } else { Ok(()) }
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        // What was said twice, when the image was made read-only and when it was to be closed, is
        // not said again.
        if self.unclosed.load(Ordering::Relaxed) < 2 {
            _ = self.close();
        }
    }
}

impl BlockDriver for Qcow2 {
    fn len(&self) -> u64 {
        self.meta.lock().header.size
    }

    fn read(&self, at: u64, into: &mut [u8]) -> stdio::Result<()> {
        let _shared = self.gate.read();
        self.read_range(at, into)
    }

    fn write(&self, at: u64, data: &[u8]) -> stdio::Result<()> {
        self.relieve()?;
        let _shared = self.gate.read();
        self.write_range(at, data)
    }

    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> stdio::Result<()> {
        self.relieve()?;
        let _all = self.alone();
        self.zero_range(at, len, unmap)
    }

    fn discard(&self, at: u64, len: u64) -> stdio::Result<()> {
        self.relieve()?;
        let _all = self.alone();
        self.discard_range(at, len)
    }

    fn flush(&self) -> stdio::Result<()> {
        self.commit()?;
        if let Some(data) = &self.data_file {
            data.node().driver().flush()?;
        }
        self.file.node().driver().flush()
    }

    fn truncate(&self, len: u64, how: Preallocation) -> stdio::Result<()> {
        self.commit()?;
        let _all = self.alone();
        self.resize(len, how)
    }

    fn extent(&self, at: u64, len: u64) -> stdio::Result<Extent> {
        let mut meta = self.meta.lock();
        let (mapped, _, len) = meta.map(at, len)?;
        let within = at & (self.cluster_size() - 1);
        let found = Extent { len, allocated: true, ..Extent::default() };
        let place = |place: u64| (self.method == 0).then_some(place + within);
        Ok(match mapped {
            Mapped::Nothing => Extent { allocated: false, ..found },
            Mapped::Zero => Extent { zero: true, ..found },
            Mapped::ZeroAt(at) => Extent { zero: true, offset: place(at), ..found },
            Mapped::Data(at) => Extent { data: true, offset: place(at), ..found },
            Mapped::Packed(_) => Extent { data: true, compressed: true, ..found },
        })
    }

    fn resolve(&self, at: u64, len: u64, write: bool) -> Option<block::Resolved> {
        // Never waits: whoever asks may be the one that ends the requests that others wait for.
        let _shared = self.gate.try_read()?;
        let mut meta = self.meta.try_lock()?;
        if !meta.is_cached(at) || (write && meta.is_crowded()) {
            return None;
        }
        // What is enciphered or recorded does not go past this driver.
        if self.method != 0 || (write && !meta.is_unrecorded()) {
            return None;
        }
        let (Mapped::Data(place), copied, run) = meta.map(at, len).ok()? else { return None };
        let place = place + (at & (self.cluster_size() - 1));
        if run < len || (write && (!copied || meta.guard(place, len).is_err())) {
            return None;
        }
        let data = self.data_file.as_ref().unwrap_or(&self.file).node();
        let below = data.driver().resolve(place, len, write)?;
        below
            .guard
            .is_none()
            .then(|| block::Resolved { guard: Some(self.flights.begin()), ..below })
    }

    fn reopen(&self, to: &block::Flags) -> Result<()> {
        let was = self.is_read_only();
        if to.read_only && !was {
            // Every writer was told to end; the image is closed as a program that ends does.
            self.close().map_err(|e| failed(&e))?;
        }
        let corrupt = self.meta.lock().header.incompatible & feature::CORRUPT != 0;
        if was && !to.read_only && corrupt {
            return Err(Error::generic("qcow2: Image is corrupt; cannot be opened read/write"));
        }
        self.read_only.store(to.read_only, Ordering::Relaxed);
        self.unmap.store(to.unmap, Ordering::Relaxed);
        Ok(())
    }

    fn set_backing(&self, backing: Option<Child>) -> bool {
        self.backing.set(backing);
        true
    }

    fn write_compressed(&self, at: u64, data: &[u8]) -> stdio::Result<bool> {
        match self.pack(data)? {
            Some(packed) => self.write_packed(at, &packed).map(|()| true),
            None => Ok(false),
        }
    }

    fn pack(&self, data: &[u8]) -> stdio::Result<Option<Vec<u8>>> {
        if self.data_file.is_some() || self.method != 0 {
            return Err(unsupported("compression is not possible in this image"));
        }
        packing::pack(data, self.cluster_size(), self.zstd)
    }

    fn write_packed(&self, at: u64, packed: &[u8]) -> stdio::Result<()> {
        let _all = self.alone();
        if at & (self.cluster_size() - 1) != 0 || at >= self.meta.lock().header.size {
            return Err(stdio::ErrorKind::InvalidInput.into());
        }
        let mut meta = self.meta.lock();
        meta.about_to_change()?;
        let len = self.cluster_size().min(meta.header.size - at);
        meta.mark_written(at, len);
        meta.place_packed(at, packed)
    }

    fn format_info(&self) -> FormatInfo {
        let meta = self.meta.lock();
        let header = &meta.header;
        let specific = self.specific(&meta);
        FormatInfo {
            cluster_size: Some(self.cluster_size()),
            backing_file: header.backing.clone(),
            backing_format: header.backing_format.clone(),
            specific: Some(specific),
            snapshots: meta.snapshots.iter().map(|s| s.about.clone()).collect(),
            dirty: header.incompatible & feature::DIRTY != 0,
        }
    }

    fn check(&self, fix: Fix) -> stdio::Result<CheckReport> {
        if fix != Fix::None && self.is_read_only() {
            return Err(stdio::ErrorKind::PermissionDenied.into());
        }
        let _all = self.alone();
        let mut meta = self.meta.lock();
        if !self.is_read_only() {
            meta.commit(false)?;
        }
        check::check(&mut meta, fix)
    }

    fn change_snapshot(&self, change: &SnapshotChange) -> stdio::Result<()> {
        self.flush()?;
        let _all = self.alone();
        let mut meta = self.meta.lock();
        *self.unpacked.lock() = None;
        if self.data_file.is_some() {
            return Err(unsupported("snapshots are not possible with an external data file"));
        }
        let is_apply = matches!(change, SnapshotChange::Apply(_));
        if is_apply && bitmap::names(&meta).is_ok_and(|all| !all.is_empty()) {
            return Err(stdio::Error::other("Device has active dirty bitmaps"));
        }
        meta.about_to_change()?;
        snapshot::change(&mut meta, change)?;
        meta.commit(self.is_unmap())?;
        self.file.node().driver().flush()
    }

    fn write_vm_state(&self, at: u64, data: &[u8]) -> stdio::Result<()> {
        Qcow2::write_vm_state(self, at, data)
    }

    fn read_vm_state(&self, word: &str, at: u64, into: &mut [u8]) -> stdio::Result<()> {
        Qcow2::read_vm_state(self, word, at, into)
    }

    fn change_backing(&self, file: Option<&str>, format: Option<&str>) -> stdio::Result<()> {
        let mut meta = self.meta.lock();
        let node = meta.file.clone();
        meta.header.set_backing(file, format)?;
        meta.header.write_whole(&node)
    }

    fn make_empty(&self) -> stdio::Result<()> {
        self.commit()?;
        let _all = self.gate.write();
        let mut meta = self.meta.lock();
        meta.about_to_change()?;
        *self.unpacked.lock() = None;
        let size = meta.header.size;
        meta.mark_written(0, size);
        meta.unmap_all(0, size)?;
        meta.commit(self.is_unmap())
    }

    fn show_snapshot(&self, word: &str) -> stdio::Result<()> {
        let _all = self.gate.write();
        let mut meta = self.meta.lock();
        if !self.is_read_only() {
            return Err(stdio::ErrorKind::PermissionDenied.into());
        }
        snapshot::show(&mut meta, word)
    }

    fn amend_options(&self) -> &'static [CreateOption] {
        amend::OPTIONS
    }

    fn close(&self) -> stdio::Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let _all = self.alone();
        let done = self.meta.lock().close(self.is_unmap(), &self.name);
        done.map_err(|text| {
            self.unclosed.fetch_add(1, Ordering::Relaxed);
            block::lost(&text);
            invalid(text)
        })
    }

    fn amend(&self, change: &Creation, force: bool, steps: &dyn Fn(u64, u64)) -> Result<()> {
        amend::run(self, change, force, steps)
    }

    fn bitmaps(&self) -> stdio::Result<Vec<Bitmap>> {
        bitmap::list(&self.meta.lock())
    }

    fn change_bitmap(&self, name: &str, change: &BitmapChange) -> Result<()> {
        self.commit().map_err(|e| failed(&e))?;
        let _all = self.gate.write();
        bitmap::change(&mut self.meta.lock(), name, change)
    }
}

impl Qcow2 {
    /// What the format knows of itself, in QEMU's order.
    fn specific(&self, meta: &Meta) -> Value {
        let header = &meta.header;
        let new = header.version > 2;
        let compat = if new { "1.1" } else { "0.10" };
        let mut out = Value::map([("compat", Value::from(compat))]);
        out.set("compression-type", Value::from(if self.zstd { "zstd" } else { "zlib" }));
        if new {
            let lazy = header.compatible & feature::LAZY_REFCOUNTS != 0;
            out.set("lazy-refcounts", Value::Bool(lazy));
        }
        let bitmaps = bitmap::names(meta).unwrap_or_default();
        if !bitmaps.is_empty() {
            let one = |bitmap: &Bitmap| {
                let flags = [(bitmap.inconsistent, "in-use"), (bitmap.enabled, "auto")];
                let flags = flags.into_iter().filter(|(on, _)| *on).map(|(_, f)| Value::from(f));
                let granularity = i64::try_from(bitmap.granularity).unwrap_or(i64::MAX);
                Value::map([
                    ("flags", Value::List(flags.collect())),
                    ("name", Value::from(bitmap.name.as_str())),
                    ("granularity", Value::Int(granularity)),
                ])
            };
            out.set("bitmaps", Value::List(bitmaps.iter().map(one).collect()));
        }
        out.set("refcount-bits", Value::Int(1 << header.refcount_order));
        if let Some(name) = header.extension(DATA_FILE_NAME).filter(|_| new) {
            out.set("data-file", Value::from(String::from_utf8_lossy(name).as_ref()));
        }
        if header.incompatible & feature::DATA_FILE != 0 {
            let raw = header.autoclear & feature::RAW_DATA != 0;
            out.set("data-file-raw", Value::Bool(raw));
        }
        if let Some(crypt) = &self.crypt {
            out.set("encrypt", crypt.header.lock().info(true));
        } else if self.method == 1 {
            out.set("encrypt", Value::map([("format", Value::from("aes"))]));
        }
        if new {
            let corrupt = header.incompatible & feature::CORRUPT != 0;
            out.set("corrupt", Value::Bool(corrupt));
            out.set("extended-l2", Value::Bool(header.is_extended()));
        }
        out
    }

    fn resize(&self, len: u64, how: Preallocation) -> stdio::Result<()> {
        if len & 511 != 0 {
            return Err(invalid("The new size must be a multiple of 512"));
        }
        let mut meta = self.meta.lock();
        let old = meta.header.size;
        if !meta.snapshots.is_empty() && meta.header.version < 3 {
            return Err(unsupported("Can't resize a v2 image which has snapshots"));
        }
        meta.about_to_change()?;
        bitmap::resize(&mut meta, len);
        if let Some(data) =
            self.data_file.as_ref().filter(|d| meta.is_raw_data() || d.node().len() < len)
        {
            data.node().driver().truncate(len, Preallocation::Off)?;
        }
        if len < old {
            meta.unmap_all(len, old)?;
        } else {
            meta.grow_l1(len)?;
        }
        meta.commit(self.is_unmap())?;
        meta.header.size = len;
        meta.header.write(&self.file.node().clone())?;
        let start = old & !(self.cluster_size() - 1);
        if how != Preallocation::Off && len > old && start < old && self.backing.is_some() {
            // The last cluster gets a place: what is read there now must be there as well.
            drop(meta);
            let mut head = vec![0; usize::try_from(old - start).unwrap_or(0)];
            self.read_range(start, &mut head)?;
            self.write_range(start, &head)?;
            meta = self.meta.lock();
        }
        if how != Preallocation::Off && len > old {
            meta.preallocate(old, len, how)?;
            meta.commit(self.is_unmap())?;
        }
        drop(meta);
        // What lay behind the end of a backing file must not come to light.
        let behind = self.backing.node().map_or(0, |node| node.len());
        if len > old && behind > old {
            self.zero_range(old, behind.min(len) - old, how == Preallocation::Off)?;
            self.meta.lock().commit(self.is_unmap())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
