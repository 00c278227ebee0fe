//! `qcow2`: copy-on-write images with snapshots, versions 2 and 3.
//!
//! A guest cluster is found through two tables (L1, L2); every host cluster has a reference count.
//! Tables are written back when the guest flushes, in an order that a crash at any point leaves
//! at worst counted clusters that nothing uses: counts, then L2, then L1, then what was freed.
//! Clusters that were given up are used again only when nothing on the disk names them any more.
//! Reads and writes are done without the lock of the tables; only requests that give clusters up
//! wait for all others.
//!
//! Not modelled: encryption, zstd, extended L2 entries, external data files (such images are
//! refused by name); dirty bitmaps are kept but marked as out of date by the first write.
//! Source: the qcow2 specification in QEMU's documentation (interop/qcow2).

mod check;
mod create;
mod header;
mod io;
mod refcount;
mod snapshot;
mod tables;

use std::collections::HashSet;
use std::io as stdio;
use std::sync::Arc;

use block::{
    BlockClass, BlockDriver, CheckReport, Child, Extent, Fix, FormatInfo, Opening, Preallocation,
    SnapshotChange, invalid, unsupported,
};
use parking_lot::{Condvar, Mutex, RwLock};
use qapi::{Error, Result, Size, Value};

use header::{Header, feature};
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
    read_only: bool,
    unmap: bool,
}

/// Options that shape caches and checks; they are accepted and change nothing that is seen.
const TUNING: &[&str] = &[
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
];
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
    let file = at.child("file")?;
    at.filename = file.node().filename().to_owned();
    let header = Header::read(&file.node())?;
    header.refuse_what_is_not_built()?;
    if header.incompatible & feature::CORRUPT != 0 && !at.read_only && !at.is_check() {
        let text = "qcow2: Image is corrupt; cannot be opened read/write";
        return Err(Error::generic(text));
    }
    let backing =
        at.backing(header.backing.clone().map(|name| (name, header.backing_format.clone())))?;
    let (cluster_bits, version) = (header.cluster_bits, header.version);
    let dirty = header.incompatible & feature::DIRTY != 0;
    let meta = Meta::read(header, file.node().clone()).map_err(|e| failed(&e))?;
    let image = Qcow2 {
        file,
        backing: block::Slot::new(backing),
        flights: block::Flights::default(),
        meta: Mutex::new(meta),
        done: Condvar::new(),
        busy: Mutex::default(),
        gate: RwLock::new(()),
        unpacked: Mutex::default(),
        cluster_bits,
        version,
        read_only: at.read_only,
        unmap: at.is_unmap(),
    };
    if dirty && !at.read_only && !at.is_check() {
        // Lazy reference counts were not written: count anew.
        image.check(Fix::All).map_err(|e| failed(&e).prefixed("Could not repair dirty image: "))?;
    }
    Ok(Arc::new(image))
}

impl Qcow2 {
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
        self.meta.lock().commit(self.unmap)
    }

    /// Writes the tables when so much was given up that it should be used again.
    fn relieve(&self) -> stdio::Result<()> {
        if self.meta.lock().is_crowded() { self.commit() } else { Ok(()) }
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if !self.read_only {
            _ = self.meta.lock().commit(self.unmap);
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
        Ok(match mapped {
            Mapped::Nothing => Extent { allocated: false, ..found },
            Mapped::Zero => Extent { zero: true, ..found },
            Mapped::ZeroAt(place) => Extent { zero: true, offset: Some(place + within), ..found },
            Mapped::Data(place) => Extent { data: true, offset: Some(place + within), ..found },
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
        let (Mapped::Data(place), copied, run) = meta.map(at, len).ok()? else { return None };
        let place = place + (at & (self.cluster_size() - 1));
        if run < len || (write && (!copied || meta.guard(place, len).is_err())) {
            return None;
        }
        let below = self.file.node().driver().resolve(place, len, write)?;
        below
            .guard
            .is_none()
            .then(|| block::Resolved { guard: Some(self.flights.begin()), ..below })
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
        io::pack(data, self.cluster_size())
    }

    fn write_packed(&self, at: u64, packed: &[u8]) -> stdio::Result<()> {
        let _all = self.alone();
        if at & (self.cluster_size() - 1) != 0 || at >= self.meta.lock().header.size {
            return Err(stdio::ErrorKind::InvalidInput.into());
        }
        self.meta.lock().place_packed(at, packed)
    }

    fn format_info(&self) -> FormatInfo {
        let meta = self.meta.lock();
        let header = &meta.header;
        let mut specific =
            Value::map([("compat", Value::from(if header.version == 2 { "0.10" } else { "1.1" }))]);
        specific.set("compression-type", Value::from("zlib"));
        if header.version > 2 {
            let lazy = header.compatible & feature::LAZY_REFCOUNTS != 0;
            specific.set("lazy-refcounts", Value::Bool(lazy));
        }
        specific.set("refcount-bits", Value::Int(1 << header.refcount_order));
        if header.version > 2 {
            let corrupt = header.incompatible & feature::CORRUPT != 0;
            specific.set("corrupt", Value::Bool(corrupt));
            specific.set("extended-l2", Value::Bool(false));
        }
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
        if fix != Fix::None && self.read_only {
            return Err(stdio::ErrorKind::PermissionDenied.into());
        }
        let _all = self.alone();
        let mut meta = self.meta.lock();
        if !self.read_only {
            meta.commit(false)?;
        }
        check::check(&mut meta, fix)
    }

    fn change_snapshot(&self, change: &SnapshotChange) -> stdio::Result<()> {
        self.flush()?;
        let _all = self.alone();
        let mut meta = self.meta.lock();
        *self.unpacked.lock() = None;
        snapshot::change(&mut meta, change)?;
        meta.commit(self.unmap)?;
        self.file.node().driver().flush()
    }

    fn change_backing(&self, file: Option<&str>, format: Option<&str>) -> stdio::Result<()> {
        let mut meta = self.meta.lock();
        let node = meta.file.clone();
        meta.header.set_backing(file, format)?;
        meta.header.write_whole(&node)
    }
}

impl Qcow2 {
    fn resize(&self, len: u64, how: Preallocation) -> stdio::Result<()> {
        if len & 511 != 0 {
            return Err(invalid("The new size must be a multiple of 512"));
        }
        let mut meta = self.meta.lock();
        let old = meta.header.size;
        if !meta.snapshots.is_empty() && meta.header.version < 3 {
            return Err(unsupported("Can't resize a v2 image which has snapshots"));
        }
        if len < old {
            meta.unmap_all(len, old)?;
        } else {
            meta.grow_l1(len)?;
        }
        meta.commit(self.unmap)?;
        meta.header.size = len;
        meta.header.write(&self.file.node().clone())?;
        if how != Preallocation::Off && len > old {
            meta.preallocate(old, len, how)?;
            meta.commit(self.unmap)?;
        }
        drop(meta);
        // What lay behind the end of a backing file must not come to light.
        let behind = self.backing.node().map_or(0, |node| node.len());
        if len > old && behind > old && how == Preallocation::Off {
            self.zero_range(old, behind.min(len) - old, true)?;
            self.meta.lock().commit(self.unmap)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
