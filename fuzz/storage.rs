//! The bodies of the fuzz targets of storage: hostile images and hostile servers.
//!
//! An input is a small good image with words of it replaced (bit 7 of the first byte: the rest of
//! the input is the image itself). It lies in memory; nothing of the host is opened. Whatever the
//! image says, requests and checks end, memory stays bounded by the length of the image, and what a
//! check calls mended is found whole by the next one.
//! `fuzz_targets/block_*.rs` run them under libFuzzer, `crates/catalog-block/tests/fuzz_storage.rs`
//! with random bytes.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, OnceLock};

use block::{
    BitmapChange, BlockClass, BlockDriver, Creation, Fix, Flags, Graph, Keys, Node, Opening,
    Preallocation, SnapshotChange,
};
use parking_lot::Mutex;
use qapi::{Source, Value};

/// A file in memory does not get longer.
const MOST: usize = 8 << 20;

type Bytes = Arc<Mutex<Vec<u8>>>;

thread_local! {
    static IMAGE: RefCell<Bytes> = RefCell::default();
}

struct Memory(Bytes);

impl BlockDriver for Memory {
    fn len(&self) -> u64 {
        (self.0.lock().len() as u64).next_multiple_of(512)
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock();
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let found = bytes.get(from..).unwrap_or_default();
        let n = found.len().min(into.len());
        let (there, behind) = into.split_at_mut(n);
        there.copy_from_slice(found.get(..n).unwrap_or_default());
        behind.fill(0);
        Ok(())
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock();
        let end = usize::try_from(at).ok().and_then(|at| at.checked_add(data.len()));
        let end = end.filter(|end| *end <= MOST).ok_or(io::ErrorKind::StorageFull)?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(slot) = bytes.get_mut(end - data.len()..end) {
            slot.copy_from_slice(data);
        }
        Ok(())
    }
    fn write_zeroes(&self, at: u64, len: u64, _: bool) -> io::Result<()> {
        let len = usize::try_from(len).ok().filter(|len| *len <= MOST);
        self.write(at, &vec![0; len.ok_or(io::ErrorKind::StorageFull)?])
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, len: u64, _: Preallocation) -> io::Result<()> {
        let len = usize::try_from(len).ok().filter(|len| *len <= MOST);
        self.0.lock().resize(len.ok_or(io::ErrorKind::StorageFull)?, 0);
        Ok(())
    }
}

fn open_memory(_: &mut Opening<'_>) -> qapi::Result<Arc<dyn BlockDriver>> {
    Ok(Arc::new(Memory(IMAGE.with_borrow(Arc::clone))))
}

static MEMORY: BlockClass = BlockClass {
    name: "memory",
    protocol: true,
    probe: |_| 0,
    open: open_memory,
    create: None,
    create_options: &[],
    describe: |_| String::new(),
    has_backing: false,
};

static CLASSES: &[&BlockClass] =
    &[&MEMORY, &block::RAW, &block_formats::qcow2::CLASS, &block_formats::luks::CLASS];

fn keys() -> Keys {
    let objects = Arc::new(device::Objects::default());
    let props = Value::map([("data", Value::from("secret"))]);
    _ = objects.add(&objects::secret::CLASS, "k", props, Source::Json);
    Keys::of(objects)
}

/// Opens what lies in memory.
fn open(bytes: Vec<u8>, driver: &str, more: &[(&str, Value)], flags: Flags) -> Option<Arc<Node>> {
    IMAGE.set(Arc::new(Mutex::new(bytes)));
    open_again(driver, more, flags)
}

fn open_again(driver: &str, more: &[(&str, Value)], flags: Flags) -> Option<Arc<Node>> {
    let graph = Graph::new(CLASSES);
    graph.set_keys(keys());
    let file = Value::map([("driver", Value::from("memory"))]);
    let mut options = Value::map([("driver", Value::from(driver)), ("file", file)]);
    for (name, value) in more {
        options.set(name, value.clone());
    }
    // Names in an image lead to nothing of the host.
    graph.open(options, Source::Json, Flags { no_backing: true, ..flags }).ok()
}

/// Good images to begin with.
fn templates() -> &'static [Vec<u8>] {
    static ALL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let kinds: [&[(&str, &str)]; 6] = [
            &[("cluster_size", "512")],
            &[("cluster_size", "512"), ("refcount_bits", "1")],
            &[("cluster_size", "1024"), ("lazy_refcounts", "on"), ("refcount_bits", "64")],
            &[("extended_l2", "on"), ("cluster_size", "16384")],
            &[("cluster_size", "512"), ("compat", "0.10")],
            &[("cluster_size", "4096"), ("compression_type", "zstd")],
        ];
        kinds.iter().filter_map(|options| template(options)).collect()
    })
}

fn template(options: &[(&str, &str)]) -> Option<Vec<u8>> {
    let new = format!("tinamou-fuzz-{}-{:p}", std::process::id(), options);
    let path = std::env::temp_dir().join(new);
    let new = Creation {
        filename: path.display().to_string(),
        size: 256 << 10,
        options: options.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
        ..Creation::default()
    };
    (block_formats::qcow2::CLASS.create?)(&new).ok()?;
    let bytes = std::fs::read(&path).ok()?;
    _ = std::fs::remove_file(&path);
    let node = open(bytes, "qcow2", &[], Flags::default())?;
    let cluster = node.driver().format_info().cluster_size.unwrap_or(512);
    let text: Vec<u8> = (0..cluster).map(|n| u8::try_from(n % 7).unwrap_or(0)).collect();
    _ = node.write(1000, &[1; 9000]);
    _ = node.driver().write_compressed(32 << 10, &text);
    _ = node.driver().write_vm_state(100, &[5; 5000]);
    _ = node.driver().change_snapshot(&SnapshotChange::Create(snapshot("s", 5100)));
    _ = node.write(4000, &[2; 3000]);
    _ = node.write_zeroes(64 << 10, 4096, false);
    _ = node.driver().change_bitmap("b", &BitmapChange::Add(Some(4096), true));
    _ = node.write(128 << 10, &[3; 100]);
    _ = node.flush();
    drop(node);
    Some(IMAGE.with_borrow(|image| image.lock().clone()))
}

/// Words that tables have: places, marks, limits.
fn word(of: u8, cluster: u64) -> u64 {
    let places = [0, 1, 2, 3, 5, 8, 13, 40, 1000, 1 << 20, 1 << 32, u64::MAX >> 20];
    let place = places.get(usize::from(of & 15)).copied().unwrap_or(u64::from(of));
    match of >> 4 {
        0..4 => place.wrapping_mul(cluster),
        4..7 => place.wrapping_mul(cluster) | 1 << 63,
        7..9 => place.wrapping_mul(512) | 1 << 62,
        9 => place.wrapping_mul(cluster) | 1 << 63 | 1,
        10 => place,
        11 => place << 32,
        12 => u64::MAX >> (of & 15),
        13 => place.wrapping_mul(cluster) + 512,
        14 => u64::from(of & 15) << 56,
        _ => 0x8000_0000 | place,
    }
}

/// Replaces words: three bytes say where, one how wide, one what.
fn patch(image: &mut [u8], patches: &[u8], cluster: u64) {
    for step in patches.as_chunks::<5>().0.iter().take(64) {
        let [a, b, c, how, what] = *step;
        let at = u32::from_be_bytes([0, a, b, c]) as usize;
        let len = match how & 3 {
            0 => 1,
            1 => 4,
            _ => 8,
        };
        // Most of what matters is in the header and near the begin, at multiples of its width.
        let limit = if how & 4 == 0 { 160 } else { image.len() };
        let at = (at % limit.max(1)) / len * len;
        let bytes = word(what, cluster).to_be_bytes();
        let bytes = if len == 1 { &[what][..] } else { bytes.get(8 - len..).unwrap_or_default() };
        if let Some(slot) = image.get_mut(at..at + len) {
            slot.copy_from_slice(bytes);
        }
    }
}

fn image(data: &[u8]) -> Option<Vec<u8>> {
    let (kind, rest) = data.split_first()?;
    if kind & 0x80 != 0 {
        return Some(rest.to_vec());
    }
    let all = templates();
    let mut image = all.get(usize::from(*kind) % all.len().max(1))?.clone();
    let bits = image.get(23).copied().unwrap_or(9);
    patch(&mut image, rest, 1 << (bits & 31));
    Some(image)
}

/// Requests at the places where something is.
fn requests(node: &Node) {
    let len = node.len();
    let mut back = vec![0; 20_000];
    for at in [0, 1000, 30_000, 64 << 10, 128 << 10, len / 2, len.saturating_sub(5000)] {
        let n = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX).min(back.len());
        _ = node.read(at, back.get_mut(..n).unwrap_or_default());
        _ = node.extent(at, n as u64);
    }
    let mut at = 0;
    for _ in 0..200 {
        match node.extent(at, len.saturating_sub(at)) {
            Ok(extent) => at += extent.len,
            Err(_) => break,
        }
    }
    if node.is_read_only() {
        return;
    }
    for (n, at) in (0u8..).zip([500, 31_000, 100_000, len.saturating_sub(3000)]) {
        let n = vec![n; usize::try_from(len.saturating_sub(at)).unwrap_or(3000).min(3000)];
        _ = node.write(at, &n);
    }
    _ = node.flush();
    _ = node.write_zeroes(200, len.saturating_sub(200).min(50_000), true);
    _ = node.driver().discard(2048, len.saturating_sub(2048).min(16_384));
    _ = node.flush();
}

fn snapshot(name: &str, vm_state: u64) -> block::Snapshot {
    block::Snapshot { name: name.to_owned(), vm_state, ..block::Snapshot::default() }
}

fn changes(node: &Node) {
    let driver = node.driver();
    let name = |text: &str| text.to_owned();
    let mut state = [0; 3000];
    _ = driver.read_vm_state("s", 2000, &mut state);
    _ = driver.write_vm_state(0, &state);
    _ = driver.change_snapshot(&SnapshotChange::Create(snapshot("t", 3000)));
    _ = driver.read_vm_state("t", 0, &mut state);
    _ = driver.change_snapshot(&SnapshotChange::Apply(name("s")));
    _ = driver.change_snapshot(&SnapshotChange::Delete(name("s")));
    _ = driver.change_bitmap("b", &BitmapChange::Clear);
    _ = driver.change_bitmap("c", &BitmapChange::Add(None, true));
    _ = driver.change_bitmap("b", &BitmapChange::Remove);
    _ = driver.truncate(node.len().saturating_add(4096) & !511, Preallocation::Off);
    _ = driver.truncate(4096, Preallocation::Off);
    _ = driver.make_empty();
    _ = node.flush();
}

/// A qcow2 image: opening, requests, changes, checks.
pub fn qcow2(data: &[u8]) {
    let Some(image) = image(data) else { return };
    let looking = Flags { read_only: true, check: true, ..Flags::default() };
    if let Some(node) = open(image.clone(), "qcow2", &[], looking) {
        _ = node.driver().check(Fix::None);
        _ = node.driver().bitmaps();
        _ = node.driver().format_info();
        requests(&node);
        _ = node.driver().show_snapshot("s");
        requests(&node);
    }
    if let Some(node) = open(image.clone(), "qcow2", &[], Flags::default()) {
        requests(&node);
        changes(&node);
    }
    let mending = Flags { check: true, ..Flags::default() };
    if let Some(node) = open(image, "qcow2", &[], mending) {
        _ = node.driver().check(Fix::Leaks);
        let found = node.driver().check(Fix::All);
        drop(node);
        let whole = |r: &block::CheckReport| r.corruptions == 0 && r.leaks == 0 && r.errors == 0;
        if found.is_ok_and(|report| whole(&report))
            && let Some(node) = open_again("qcow2", &[], looking)
            && let Ok(report) = node.driver().check(Fix::None)
        {
            assert!(whole(&report), "mended is not whole: {:?}", report.messages);
        }
    }
}

/// A LUKS image whose words are replaced; slots that would take long to open are left out.
pub fn luks(data: &[u8]) {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    let good = GOOD.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("tinamou-fuzz-luks-{}", std::process::id()));
        let options = [("key-secret", "k"), ("iter-time", "1")];
        let new = Creation {
            filename: path.display().to_string(),
            size: 16 << 10,
            options: options.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
            keys: keys(),
        };
        _ = block_formats::luks::CLASS.create.map(|create| create(&new));
        let bytes = std::fs::read(&path).unwrap_or_default();
        _ = std::fs::remove_file(&path);
        bytes
    });
    let Some((kind, rest)) = data.split_first() else { return };
    let mut image = if kind & 0x80 != 0 { rest.to_vec() } else { good.clone() };
    if kind & 0x80 == 0 {
        for step in rest.as_chunks::<3>().0.iter().take(64) {
            let at = usize::from(u16::from_be_bytes([step[0], step[1]])) % 600;
            if let Some(slot) = image.get_mut(at) {
                *slot = step[2];
            }
        }
    }
    let slow = |at: usize| {
        let word = image.get(at..at + 4).and_then(|b| b.try_into().ok());
        word.map_or(0, u32::from_be_bytes) > 100_000
    };
    if slow(164) || (0..8).any(|n| slow(208 + n * 48 + 4)) {
        return;
    }
    let key = [("key-secret", Value::from("k"))];
    if let Some(node) = open(image.clone(), "luks", &key, Flags::default()) {
        requests(&node);
        _ = node.driver().truncate(32 << 10, Preallocation::Off);
    }
    let looking = Flags { read_only: true, header_only: true, ..Flags::default() };
    if let Some(node) = open(image, "luks", &[], looking) {
        _ = node.driver().format_info();
    }
}

/// Options of `raw`: two numbers of eight bytes, then the file.
pub fn raw(data: &[u8]) {
    let number = |at: usize| {
        let bytes = data.get(at..at + 8).and_then(|b| b.try_into().ok());
        i64::from_be_bytes(bytes.unwrap_or_default())
    };
    let (offset, size) = (Value::Int(number(0)), Value::Int(number(8)));
    let file = data.get(16..).unwrap_or_default();
    for more in [vec![("offset", offset.clone())], vec![("offset", offset), ("size", size)]] {
        if let Some(node) = open(file.to_vec(), "raw", &more, Flags::default()) {
            assert!(node.len() <= (file.len() as u64).next_multiple_of(512));
            requests(&node);
            _ = node.driver().truncate(9000, Preallocation::Off);
        }
    }
}

/// A server that says what the input is.
struct Server<'a>(&'a [u8]);

impl io::Read for Server<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl io::Write for Server<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a server of the network block device protocol says: a handshake, and then replies.
pub fn nbd(data: &[u8]) {
    use block_net::nbd::wire;
    let Some((kind, rest)) = data.split_first() else { return };
    let mut server = Server(rest);
    if kind & 1 == 0 && wire::handshake(&mut server, "name", wire::ALLOCATION).is_err() {
        return;
    }
    while let Ok(reply) = wire::reply(&mut server, &|handle| (handle & 1 == 0).then_some((0, 600)))
    {
        if let wire::Part::Data(_, bytes) = &reply.part {
            assert!(bytes.len() <= rest.len(), "no more than came");
        }
    }
}
