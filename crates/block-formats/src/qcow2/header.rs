//! The header and its extensions.
//!
//! The first cluster is kept as it was read; changes of fields are made in it, so that what is
//! unknown stays. Every number is checked against the limits that QEMU has as well: tables beyond
//! them are refused. Extensions: backing format and those that are kept untouched.
//! Source: qcow2 specification, "Header" and "Header extensions".

use std::io;
use std::sync::Arc;

use block::{Node, invalid};
use qapi::{Error, Result};

/// Feature bits.
pub(super) mod feature {
    pub(crate) const DIRTY: u64 = 1;
    pub(crate) const CORRUPT: u64 = 2;
    pub(crate) const DATA_FILE: u64 = 4;
    pub(crate) const COMPRESSION: u64 = 8;
    pub(crate) const EXTENDED_L2: u64 = 16;
    /// Compatible: counts may be late.
    pub(crate) const LAZY_REFCOUNTS: u64 = 1;
    /// Autoclear: bitmaps are as the disk is.
    pub(crate) const BITMAPS: u64 = 1;
    /// Autoclear: the data file alone is a raw image of the disk.
    pub(crate) const RAW_DATA: u64 = 2;
}

/// Most bytes of an L1 table, as QEMU has it.
pub(super) const MAX_L1: u64 = 32 << 20;
/// Most bytes of the table of reference counts, as QEMU has it.
const MAX_TABLE: u64 = 8 << 20;
/// Most snapshots.
const MAX_SNAPSHOTS: u32 = 65536;

const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
/// Extension: the name of the external data file.
pub(super) const DATA_FILE_NAME: u32 = 0x4441_5441;
/// Extension: place and length of the LUKS header.
pub(super) const CRYPT_HEADER: u32 = 0x0537_be77;
/// Extension: the bitmap directory.
pub(super) const BITMAPS: u32 = 0x2385_2875;

/// Kind of bit, its number and its name, for the table that tools read.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The header.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    raw: Vec<u8>,
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt: u32,
    pub(super) l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) table_offset: u64,
    pub(super) table_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) length: u32,
    pub(super) compression: u8,
    pub(super) backing: Option<String>,
    pub(super) backing_format: Option<String>,
    pub(super) extensions: Vec<(u32, Vec<u8>)>,
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    word.map_or(0, u32::from_be_bytes)
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    word.map_or(0, u64::from_be_bytes)
}

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

impl Header {
    /// Reads and checks.
    pub(super) fn read(file: &Arc<Node>) -> Result<Header> {
        let mut head = vec![0; 112];
        let fail = |e: io::Error| {
            Error::generic(format!("Could not read qcow2 header: {}", host::reason(&e)))
        };
        file.driver().read(0, &mut head).map_err(fail)?;
        if head.get(..4) != Some(b"QFI\xfb") {
            return refuse("Image is not in qcow2 format");
        }
        let version = be32(&head, 4);
        if !(2..=3).contains(&version) {
            return refuse(format!("Unsupported qcow2 version {version}"));
        }
        let bits = be32(&head, 20);
        if !(9..=21).contains(&bits) {
            return refuse(format!("Unsupported cluster size: 2^{bits}"));
        }
        let mut raw = vec![0; 1 << bits];
        file.driver().read(0, &mut raw).map_err(fail)?;
        let mut header = Header::parse(raw, version, bits)?;
        header.check()?;
        header.read_extensions()?;
        Ok(header)
    }

    fn parse(raw: Vec<u8>, version: u32, cluster_bits: u32) -> Result<Header> {
        let new = version > 2;
        let length = if new { be32(&raw, 100) } else { 72 };
        if new && length < 104 {
            return refuse("qcow2 header too short");
        }
        if u64::from(length) > 1 << cluster_bits {
            return refuse("qcow2 header exceeds cluster size");
        }
        let v3 = |at: usize| if new { be64(&raw, at) } else { 0 };
        let header = Header {
            version,
            cluster_bits,
            size: be64(&raw, 24),
            crypt: be32(&raw, 32),
            l1_size: be32(&raw, 36),
            l1_offset: be64(&raw, 40),
            table_offset: be64(&raw, 48),
            table_clusters: be32(&raw, 56),
            snapshots: be32(&raw, 60),
            snapshots_offset: be64(&raw, 64),
            incompatible: v3(72),
            compatible: v3(80),
            autoclear: v3(88),
            refcount_order: if new { be32(&raw, 96) } else { 4 },
            length,
            compression: if length > 104 { raw.get(104).copied().unwrap_or(0) } else { 0 },
            raw,
            ..Header::default()
        };
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let cluster = 1u64 << self.cluster_bits;
        let aligned = |offset: u64| offset & (cluster - 1) == 0 && offset < 1 << 56;
        if self.refcount_order > 6 {
            return refuse("Reference count entry width too large; may not exceed 64 bits");
        }
        if self.crypt > 2 {
            return refuse(format!("Unsupported encryption method {}", self.crypt));
        }
        if u64::from(self.l1_size) * 8 > MAX_L1 {
            return refuse("Active L1 table too large");
        }
        let entries = self.size.checked_shr(self.cluster_bits + self.l2_bits()).unwrap_or(0);
        if entries > i32::MAX as u64 - 1 {
            return refuse("Image is too big");
        }
        if self.l1_entries_for(self.size).is_none_or(|need| need > u64::from(self.l1_size)) {
            return refuse("L1 table is too small");
        }
        if !aligned(self.l1_offset) {
            return refuse("Active L1 table offset invalid");
        }
        if u64::from(self.table_clusters) << self.cluster_bits > MAX_TABLE {
            return refuse("Reference count table too large");
        }
        // Without a table the image can be mended only; who opens it looks at that.
        let has_table = self.table_clusters != 0;
        if has_table && (!aligned(self.table_offset) || self.table_offset == 0) {
            return refuse("Reference count table offset invalid");
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return refuse("Snapshot table too large");
        }
        if !aligned(self.snapshots_offset) {
            return refuse("Snapshot table offset invalid");
        }
        Ok(())
    }

    /// Whether entries have a word for sub-clusters.
    pub(super) fn is_extended(&self) -> bool {
        self.incompatible & feature::EXTENDED_L2 != 0
    }

    /// Bits of the number of entries in an L2 table.
    pub(super) fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.is_extended() { 4 } else { 3 }
    }

    /// L1 entries for a disk of this length; `None` when there can be none.
    pub(super) fn l1_entries_for(&self, size: u64) -> Option<u64> {
        let shift = self.cluster_bits + self.l2_bits();
        let entries = size.checked_add((1 << shift) - 1)? >> shift;
        (entries * 8 <= MAX_L1).then_some(entries)
    }

    fn read_extensions(&mut self) -> Result<()> {
        let name_at = usize::try_from(be64(&self.raw, 8)).unwrap_or(usize::MAX);
        let name_len = be32(&self.raw, 16) as usize;
        let has_name = name_at != 0;
        if has_name {
            let name = name_at.checked_add(name_len).and_then(|end| self.raw.get(name_at..end));
            let name = name.filter(|name| name.len() <= 1023);
            let Some(name) = name else {
                return refuse("Invalid backing file offset or name too long");
            };
            if !name.is_empty() {
                self.backing = Some(String::from_utf8_lossy(name).into_owned());
            }
        }
        let end = if has_name { name_at } else { self.raw.len() };
        let mut at = self.length as usize;
        while at + 8 <= end {
            let (kind, len) = (be32(&self.raw, at), be32(&self.raw, at + 4) as usize);
            if kind == 0 {
                break;
            }
            let data = at.checked_add(8 + len).filter(|stop| *stop <= end);
            let Some(data) = data.and_then(|stop| self.raw.get(at + 8..stop)) else {
                return refuse("Header extension too large");
            };
            if kind == BACKING_FORMAT {
                self.backing_format = Some(String::from_utf8_lossy(data).into_owned());
            } else {
                self.extensions.push((kind, data.to_vec()));
            }
            at += 8 + len.next_multiple_of(8);
        }
        Ok(())
    }

    /// Refuses images that need what is not known.
    pub(super) fn refuse_what_is_unknown(&self) -> Result<()> {
        let known = feature::DIRTY
            | feature::CORRUPT
            | feature::COMPRESSION
            | feature::DATA_FILE
            | feature::EXTENDED_L2;
        let unknown = self.incompatible & !known;
        if unknown != 0 {
            let names = self.unknown_names(unknown);
            return refuse(format!("Unsupported qcow2 feature(s): {names}"));
        }
        if self.compression > 1
            || (self.compression == 1) != (self.incompatible & feature::COMPRESSION != 0)
        {
            return refuse(format!("qcow2: unknown compression type: {}", self.compression));
        }
        if self.is_extended() && self.cluster_bits < 14 {
            return refuse("qcow2: extended L2 entries need clusters of 16k or more");
        }
        Ok(())
    }

    /// Names of bits: those that the image itself tells, then the rest as a number.
    fn unknown_names(&self, bits: u64) -> String {
        let mut left = bits;
        let mut names = Vec::new();
        for entry in self.extension(FEATURE_NAMES).unwrap_or_default().chunks(48) {
            let (kind, bit) = (entry.first().copied(), entry.get(1).copied().unwrap_or(64));
            if kind == Some(0) && bit < 64 && left >> bit & 1 == 1 {
                let text = entry.get(2..).unwrap_or_default();
                let text: Vec<u8> = text.iter().copied().take_while(|b| *b != 0).collect();
                names.push(String::from_utf8_lossy(&text).into_owned());
                left &= !(1 << bit);
            }
        }
        if left != 0 {
            names.push(format!("Unknown incompatible feature: {left:x}"));
        }
        names.join(", ")
    }

    /// The data of an extension.
    pub(super) fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|(k, _)| *k == kind).map(|(_, data)| data.as_slice())
    }

    /// Replaces an extension, or takes it away; the header is written by the caller.
    pub(super) fn set_extension(&mut self, kind: u32, data: Option<Vec<u8>>) -> io::Result<()> {
        self.extensions.retain(|(k, _)| *k != kind);
        self.extensions.extend(data.map(|data| (kind, data)));
        self.rebuild()
    }

    fn patch(&mut self) {
        let words = [
            (24, self.size),
            (40, self.l1_offset),
            (48, self.table_offset),
            (64, self.snapshots_offset),
        ];
        let halves = [
            (4, self.version),
            (20, self.cluster_bits),
            (32, self.crypt),
            (36, self.l1_size),
            (56, self.table_clusters),
            (60, self.snapshots),
        ];
        let flags = [(72, self.incompatible), (80, self.compatible), (88, self.autoclear)];
        let put = |raw: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            if let Some(slot) = raw.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(bytes);
            }
        };
        put(&mut self.raw, 0, b"QFI\xfb");
        for (at, word) in words {
            put(&mut self.raw, at, &word.to_be_bytes());
        }
        for (at, word) in halves {
            put(&mut self.raw, at, &word.to_be_bytes());
        }
        if self.version > 2 {
            for (at, word) in flags {
                put(&mut self.raw, at, &word.to_be_bytes());
            }
            put(&mut self.raw, 96, &self.refcount_order.to_be_bytes());
            put(&mut self.raw, 100, &self.length.to_be_bytes());
            if self.length > 104 {
                put(&mut self.raw, 104, &[self.compression]);
            }
        }
    }

    /// Writes the fields.
    pub(super) fn write(&mut self, file: &Arc<Node>) -> io::Result<()> {
        self.patch();
        let len = (self.length as usize).min(self.raw.len());
        file.driver().write(0, self.raw.get(..len).unwrap_or_default())
    }

    /// A header for a new image; its tables are the caller's affair.
    pub(super) fn new(version: u32, cluster_bits: u32, refcount_order: u32) -> Header {
        let length = if version == 2 { 72 } else { 112 };
        let raw = vec![0; 1 << cluster_bits];
        Header { raw, version, cluster_bits, refcount_order, length, ..Header::default() }
    }

    /// Names another backing file.
    pub(super) fn set_backing(
        &mut self,
        file: Option<&str>,
        format: Option<&str>,
    ) -> io::Result<()> {
        if file.is_some_and(|name| name.len() > 1023) {
            return Err(invalid("Backing file name too long"));
        }
        self.backing = file.map(str::to_owned);
        self.backing_format = format.filter(|_| file.is_some()).map(str::to_owned);
        self.rebuild()
    }

    /// The table of names of feature bits.
    fn feature_names() -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, bit, name) in FEATURES {
            let end = out.len() + 48;
            out.extend([kind, bit]);
            out.extend(name.as_bytes());
            out.resize(end, 0);
        }
        out
    }

    /// Extensions in the order in which they are written.
    fn ordered(&self) -> Vec<(u32, Vec<u8>)> {
        let mut all = Vec::new();
        let format = self.backing_format.as_ref().filter(|_| self.backing.is_some());
        all.extend(format.map(|format| (BACKING_FORMAT, format.clone().into_bytes())));
        for kind in [DATA_FILE_NAME, CRYPT_HEADER] {
            all.extend(self.extension(kind).map(|data| (kind, data.to_vec())));
        }
        if self.version > 2 {
            all.push((FEATURE_NAMES, Header::feature_names()));
        }
        all.extend(self.extension(BITMAPS).map(|data| (BITMAPS, data.to_vec())));
        let written = [DATA_FILE_NAME, CRYPT_HEADER, FEATURE_NAMES, BITMAPS];
        all.extend(self.extensions.iter().filter(|(kind, _)| !written.contains(kind)).cloned());
        all
    }

    /// Lays extensions and the backing file's name out anew.
    pub(super) fn rebuild(&mut self) -> io::Result<()> {
        let mut tail = Vec::new();
        let mut all = self.ordered();
        let room = self.raw.len().saturating_sub(
            self.length as usize + 8 + self.backing.as_ref().map_or(0, String::len),
        );
        let sum = |all: &[(u32, Vec<u8>)]| -> usize {
            all.iter().map(|(_, data)| 8 + data.len().next_multiple_of(8)).sum()
        };
        if sum(&all) > room {
            // The names are for people only.
            all.retain(|(kind, _)| *kind != FEATURE_NAMES);
        }
        for (kind, data) in &all {
            tail.extend(kind.to_be_bytes());
            tail.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
            tail.extend(data);
            tail.resize(tail.len().next_multiple_of(8), 0);
        }
        tail.extend([0; 8]);
        let at = self.length as usize + tail.len();
        if let Some(name) = &self.backing {
            tail.extend(name.as_bytes());
        }
        let start = self.length as usize;
        self.raw.get_mut(start..).unwrap_or_default().fill(0);
        let Some(slot) = self.raw.get_mut(start..start + tail.len()) else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        slot.copy_from_slice(&tail);
        let name_len = self.backing.as_ref().map_or(0, String::len);
        let offset = if name_len == 0 { 0 } else { at as u64 };
        for (at, bytes) in [
            (8, offset.to_be_bytes().to_vec()),
            (16, u32::try_from(name_len).unwrap_or(0).to_be_bytes().to_vec()),
        ] {
            if let Some(slot) = self.raw.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    /// The whole first cluster.
    pub(super) fn bytes(&mut self) -> &[u8] {
        self.patch();
        &self.raw
    }

    /// Writes the whole first cluster.
    pub(super) fn write_whole(&mut self, file: &Arc<Node>) -> io::Result<()> {
        self.patch();
        file.driver().write(0, &self.raw)
    }
}
