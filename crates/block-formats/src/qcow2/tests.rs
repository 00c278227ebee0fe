use std::sync::Arc;

use block::{BitmapChange, BlockClass, Creation, Fix, Flags, Graph, Node, SnapshotChange};

static CLASSES: &[&BlockClass] = &[&block::FILE, &block::RAW, &super::CLASS];

fn create(dir: &tempfile::TempDir, name: &str, size: u64, options: &[(&str, &str)]) -> String {
    let filename = dir.path().join(name).display().to_string();
    let options = options.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let new = Creation { filename: filename.clone(), size, options, ..Creation::default() };
    super::create::create(&new).unwrap();
    filename
}

fn open(path: &str) -> Arc<Node> {
    Graph::new(CLASSES).open_image(path, None, Flags::default()).unwrap()
}

/// Numbers that look random (a linear congruence), the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn assert_clean(node: &Node) {
    node.flush().unwrap();
    let report = node.driver().check(Fix::None).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
}

/// Does the same to an image and to a vector, and compares.
fn exercise(options: &[(&str, &str)], size: u64, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = create(&dir, "a.qcow2", size, options);
    let mut node = open(&path);
    let mut model = vec![0u8; usize::try_from(size).unwrap()];
    let mut numbers = Numbers(seed);
    for round in 0..300 {
        let at = numbers.next(size);
        let len = (numbers.next(200_000) + 1).min(size - at);
        let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
        match numbers.next(8) {
            0..=3 => {
                let data = vec![u8::try_from(round % 255 + 1).unwrap(); range.len()];
                node.write(at, &data).unwrap();
                model[range].copy_from_slice(&data);
            }
            4 => {
                node.driver().write_zeroes(at, len, round % 2 == 0).unwrap();
                model[range].fill(0);
            }
            5 => {
                let mut back = vec![0; range.len()];
                node.read(at, &mut back).unwrap();
                assert!(back == model[range], "round {round}");
            }
            6 => node.flush().unwrap(),
            _ => {
                drop(node);
                node = open(&path);
            }
        }
    }
    let mut back = vec![0; model.len()];
    node.read(0, &mut back).unwrap();
    assert!(back == model);
    assert_clean(&node);
}

#[test]
fn random_requests_are_what_a_plain_disk_does() {
    exercise(&[], 5 << 20, 1);
    exercise(&[("cluster_size", "512")], 3 << 20, 2);
    exercise(&[("cluster_size", "4096"), ("refcount_bits", "1")], 3 << 20, 3);
    exercise(&[("compat", "0.10")], 2_000_384, 4);
    exercise(&[("cluster_size", "512"), ("refcount_bits", "64")], 2 << 20, 5);
    exercise(&[("preallocation", "metadata")], 3 << 20, 6);
    exercise(&[("extended_l2", "on"), ("cluster_size", "16384")], 3 << 20, 7);
    exercise(&[("extended_l2", "on")], 5_000_192, 8);
    exercise(&[("extended_l2", "on"), ("preallocation", "metadata")], 3 << 20, 9);
    exercise(&[("data_file", "a.data")], 3 << 20, 10);
    exercise(&[("data_file", "a.data"), ("data_file_raw", "on")], 3 << 20, 11);
    exercise(&[("data_file", "a.data"), ("extended_l2", "on")], 3 << 20, 12);
    exercise(&[("lazy_refcounts", "on"), ("compression_type", "zstd")], 3 << 20, 13);
}

fn named(name: &str) -> block::Snapshot {
    block::Snapshot { name: name.into(), seconds: 7, nanoseconds: 8, ..Default::default() }
}

fn vm_state_comes_back(options: &[(&str, &str)], piece: usize, total: u64) {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&create(&dir, "a.qcow2", (1 << 20) + 512, options));
    node.write(0, &[1; 100_000]).unwrap();
    let state: Vec<u8> = (0..total).map(|n| ((n * 7) >> 3) as u8).collect();
    let save = |extra: u8, name: &str| {
        for (n, bytes) in state.chunks(piece).enumerate() {
            let bytes: Vec<u8> = bytes.iter().map(|b| b ^ extra).collect();
            node.driver().write_vm_state((n * piece) as u64, &bytes).unwrap();
        }
        let about = block::Snapshot { vm_state: total, clock: 5, ..named(name) };
        node.driver().change_snapshot(&SnapshotChange::Create(about)).unwrap();
    };
    save(0, "one");
    assert_clean(&node);
    node.write(0, &[2; 100_000]).unwrap();
    save(0x55, "two");
    assert_clean(&node);
    for (name, extra) in [("two", 0x55), ("one", 0)] {
        let mut back = vec![0; state.len()];
        node.driver().read_vm_state(name, 0, &mut back).unwrap();
        assert!(back.iter().zip(&state).all(|(a, b)| *a == b ^ extra), "{name}");
        let mut part = vec![0; 1000];
        node.driver().read_vm_state(name, 12_345, &mut part).unwrap();
        assert!(part.iter().zip(&state[12_345..]).all(|(a, b)| *a == b ^ extra), "{name}");
    }
    // No byte behind the end, and none of what is not there.
    assert!(node.driver().read_vm_state("one", total - 1, &mut [0; 2]).is_err());
    assert!(node.driver().read_vm_state("three", 0, &mut [0]).is_err());
    node.driver().change_snapshot(&SnapshotChange::Apply("one".into())).unwrap();
    assert_clean(&node);
    let mut disk = vec![0; 100_000];
    node.read(0, &mut disk).unwrap();
    assert!(disk.iter().all(|b| *b == 1));
    for name in ["one", "two"] {
        node.driver().change_snapshot(&SnapshotChange::Delete(name.into())).unwrap();
        assert_clean(&node);
    }
}

#[test]
fn the_machines_state_lies_behind_the_disk() {
    vm_state_comes_back(&[], 1 << 20, 5 << 20);
    vm_state_comes_back(&[("cluster_size", "512")], 65536, 1 << 20);
    vm_state_comes_back(&[("extended_l2", "on")], 300_000, 3 << 20);
    vm_state_comes_back(&[("compat", "0.10"), ("cluster_size", "4096")], 1 << 20, 5 << 20);
}

#[test]
fn going_back_to_another_length() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&create(&dir, "a.qcow2", 64 << 20, &[("cluster_size", "4096")]));
    node.write(63 << 20, &[1; 4096]).unwrap();
    node.driver().change_snapshot(&SnapshotChange::Create(named("long"))).unwrap();
    node.driver().truncate(1 << 20, block::Preallocation::Off).unwrap();
    node.driver().change_snapshot(&SnapshotChange::Create(named("short"))).unwrap();
    node.driver().change_snapshot(&SnapshotChange::Apply("long".into())).unwrap();
    assert_eq!(node.driver().len(), 64 << 20);
    let mut back = [0; 4096];
    node.driver().read(63 << 20, &mut back).unwrap();
    assert!(back.iter().all(|b| *b == 1));
    assert_clean(&node);
    node.driver().change_snapshot(&SnapshotChange::Apply("short".into())).unwrap();
    assert_eq!(node.driver().len(), 1 << 20);
    assert_clean(&node);
}

#[test]
fn snapshots_keep_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&create(&dir, "a.qcow2", 1 << 20, &[("cluster_size", "4096")]));
    node.write(0, &[1; 100_000]).unwrap();
    let change = |change: &SnapshotChange| node.driver().change_snapshot(change);
    change(&SnapshotChange::Create(named("one"))).unwrap();
    assert_clean(&node);
    node.write(5000, &[2; 50_000]).unwrap();
    node.driver().write_compressed(200 * 4096, &[3; 4096]).unwrap();
    change(&SnapshotChange::Create(named("two"))).unwrap();
    node.write(0, &[4; 9000]).unwrap();
    assert_clean(&node);
    change(&SnapshotChange::Apply("one".into())).unwrap();
    let mut back = vec![0; 1 << 20];
    node.read(0, &mut back).unwrap();
    assert!(back[..100_000].iter().all(|b| *b == 1) && back[100_000..].iter().all(|b| *b == 0));
    assert_clean(&node);
    change(&SnapshotChange::Apply("2".into())).unwrap();
    node.read(0, &mut back).unwrap();
    assert_eq!((back[0], back[5000], back[200 * 4096]), (1, 2, 3));
    change(&SnapshotChange::Delete("one".into())).unwrap();
    change(&SnapshotChange::Delete("two".into())).unwrap();
    assert!(change(&SnapshotChange::Delete("two".into())).is_err());
    assert_clean(&node);
}

#[test]
fn backing_files_are_read_through_and_copied() {
    let dir = tempfile::tempdir().unwrap();
    let base = create(&dir, "base.qcow2", 1 << 20, &[]);
    open(&base).write(0, &[7; 300_000]).unwrap();
    let node = open(&create(
        &dir,
        "top.qcow2",
        2 << 20,
        &[("backing_file", "base.qcow2"), ("backing_fmt", "qcow2")],
    ));
    node.write(100, &[8; 10]).unwrap();
    node.driver().discard(65536, 65536).unwrap();
    let mut back = vec![0; 300_000];
    node.read(0, &mut back).unwrap();
    assert_eq!((back[99], back[100], back[110], back[65536], back[131_072]), (7, 8, 7, 0, 7));
    assert_eq!(node.extent_of_chain(131_072, 1 << 20).unwrap().1, 1);
    assert_clean(&node);
}

#[test]
fn writers_of_one_cluster_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&create(&dir, "a.qcow2", 1 << 20, &[]));
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let node = &node;
            scope.spawn(move || {
                for n in (u64::from(thread)..2048).step_by(4) {
                    node.write(n * 512, &[thread + 1; 512]).unwrap();
                }
            });
        }
    });
    let mut back = vec![0; 1 << 20];
    node.read(0, &mut back).unwrap();
    assert!(
        back.chunks(512)
            .zip(0u32..)
            .all(|(sector, n)| sector.iter().all(|b| u32::from(*b) == n % 4 + 1))
    );
    assert_clean(&node);
}

#[test]
fn broken_images_are_errors_and_nothing_worse() {
    let dir = tempfile::tempdir().unwrap();
    let path = create(&dir, "a.qcow2", 4 << 20, &[("cluster_size", "4096")]);
    let node = open(&path);
    node.write(0, &[1; 70_000]).unwrap();
    node.driver().write_compressed(1 << 20, &[3; 4096]).unwrap();
    node.driver().change_snapshot(&SnapshotChange::Create(named("s"))).unwrap();
    drop(node);
    let good = std::fs::read(&path).unwrap();
    let mut numbers = Numbers(9);
    for _ in 0..100 {
        let mut bad = good.clone();
        for _ in 0..=numbers.next(4) {
            // Where tables are.
            let at = if numbers.next(2) == 0 {
                numbers.next(128)
            } else {
                numbers.next(good.len() as u64)
            };
            bad[usize::try_from(at).unwrap()] = u8::try_from(numbers.next(256)).unwrap();
        }
        std::fs::write(&path, &bad).unwrap();
        let flags = Flags { no_backing: true, ..Flags::default() };
        let Ok(node) = Graph::new(CLASSES).open_image(&path, Some("qcow2"), flags) else {
            continue;
        };
        let mut back = vec![0; 100_000];
        _ = node.read(0, &mut back);
        _ = node.write(5000, &back);
        _ = node.driver().discard(0, 9000);
        _ = node.driver().check(Fix::None);
        _ = node.driver().check(Fix::All);
        _ = node.flush();
    }
}

#[test]
fn sub_clusters_show_the_backing_file_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let base = create(&dir, "base.qcow2", 1 << 20, &[]);
    open(&base).write(0, &[7; 300_000]).unwrap();
    let options = [("backing_file", "base.qcow2"), ("backing_fmt", "qcow2"), ("extended_l2", "on")];
    let node = open(&create(&dir, "top.qcow2", 1 << 20, &options));
    node.write(4096, &[8; 2048]).unwrap();
    node.write(10_000, &[9; 100]).unwrap();
    node.driver().write_zeroes(20_480, 4096, true).unwrap();
    let mut back = vec![0; 65536];
    node.read(0, &mut back).unwrap();
    let ranges = [(0, 7), (4095, 7), (4096, 8), (6143, 8), (6144, 7), (10_000, 9), (10_100, 7)];
    for (at, byte) in ranges.into_iter().chain([(20_480, 0), (24_575, 0), (24_576, 7)]) {
        assert_eq!(back[at], byte, "at {at}");
    }
    assert!(!node.extent(0, 65536).unwrap().allocated);
    assert_eq!(node.extent(4096, 60_000).unwrap().len, 2048);
    assert_clean(&node);
}

#[test]
fn bitmaps_record_writes_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let path = create(&dir, "a.qcow2", 4 << 20, &[]);
    let node = open(&path);
    let change = |node: &Node, change| node.driver().change_bitmap("b", &change);
    change(&node, BitmapChange::Add(Some(65536), true)).unwrap();
    assert!(change(&node, BitmapChange::Add(None, true)).is_err());
    assert_clean(&node);
    drop(node);
    let node = open(&path);
    node.write(1 << 20, &[1; 100]).unwrap();
    node.driver().write_zeroes(2 << 20, 131_072, true).unwrap();
    drop(node);
    let node = open(&path);
    let all = node.driver().bitmaps().unwrap();
    let set: Vec<u64> = (0..64).filter(|bit| all[0].is_set(*bit)).collect();
    assert_eq!((set, all[0].inconsistent), (vec![16, 32, 33], false));
    assert_clean(&node);
    // A crash: what is on the disk while writes are recorded.
    node.write(0, &[1; 100]).unwrap();
    node.flush().unwrap();
    let copy = dir.path().join("crashed.qcow2").display().to_string();
    std::fs::copy(&path, &copy).unwrap();
    let crashed = open(&copy);
    assert!(crashed.driver().bitmaps().unwrap()[0].inconsistent);
    assert!(change(&crashed, BitmapChange::Clear).is_err());
    change(&crashed, BitmapChange::Remove).unwrap();
    assert_clean(&crashed);
}

#[test]
fn encrypted_images_open_with_their_secret_only() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Arc::new(device::Objects::default());
    for (id, data) in [("s", "right"), ("w", "wrong")] {
        let props = qapi::Value::map([("data", qapi::Value::from(data))]);
        objects.add(&objects::secret::CLASS, id, props, qapi::Source::Json).unwrap();
    }
    let keys = block::Keys::of(objects);
    let path = dir.path().join("a.qcow2").display().to_string();
    let options =
        [("encrypt.format", "luks"), ("encrypt.key-secret", "s"), ("encrypt.iter-time", "1")];
    let options = options.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
    let new = Creation { filename: path.clone(), size: 1 << 20, options, keys: keys.clone() };
    super::create::create(&new).unwrap();
    let graph = Graph::new(CLASSES);
    graph.set_keys(keys);
    let open = |secret: &str| {
        let text = format!(
            r#"{{"driver": "qcow2", "encrypt": {{"format": "luks", "key-secret": "{secret}"}},
                "file": {{"driver": "file", "filename": "{path}"}}}}"#
        );
        let options = qapi::json::from_str(&text).unwrap();
        graph.open(options, qapi::Source::Json, Flags::default())
    };
    assert!(open("w").is_err() && graph.open_image(&path, None, Flags::default()).is_err());
    let node = open("s").unwrap();
    node.write(1000, &[5; 70_000]).unwrap();
    drop(node);
    let node = open("s").unwrap();
    let mut back = vec![0; 80_000];
    node.read(0, &mut back).unwrap();
    assert!(back[1000..71_000].iter().all(|b| *b == 5) && back[999] == 0 && back[71_000] == 0);
    assert_clean(&node);
    let raw = std::fs::read(&path).unwrap();
    assert!(!raw.windows(512).any(|sector| sector.iter().all(|b| *b == 5)));
}

fn amend(node: &Node, options: &[(&str, &str)]) -> qapi::Result<()> {
    let options = options.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    node.driver().amend(&Creation { options, ..Creation::default() }, false, &|_, _| {})
}

#[test]
fn reference_counts_get_another_width() {
    let dir = tempfile::tempdir().unwrap();
    let path = create(&dir, "a.qcow2", 8 << 20, &[("cluster_size", "512")]);
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| n.to_le_bytes()[1] | 1).collect();
    open(&path).write(1 << 20, &bytes).unwrap();
    for bits in ["1", "64", "8", "2", "16", "32"] {
        let node = open(&path);
        amend(&node, &[("refcount_bits", bits)]).unwrap();
        assert_clean(&node);
        drop(node);
        let node = open(&path);
        let told = node.driver().format_info().specific.unwrap();
        assert_eq!(told.get("refcount-bits").unwrap().as_i64(), bits.parse().ok());
        let mut back = vec![0; bytes.len()];
        node.read(1 << 20, &mut back).unwrap();
        assert!(back == bytes, "{bits}");
        assert_clean(&node);
    }
    let node = open(&path);
    let about = block::Snapshot { name: "s".into(), ..block::Snapshot::default() };
    node.driver().change_snapshot(&SnapshotChange::Create(about)).unwrap();
    let error = amend(&node, &[("refcount_bits", "1")]).unwrap_err().desc;
    let start = "Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x";
    assert!(error.starts_with(start) && error.ends_with(" has a refcount of 2"), "{error}");
    assert_clean(&node);
    amend(&node, &[("refcount_bits", "2")]).unwrap();
    assert_clean(&node);
    let error = amend(&node, &[("backing_file", "x")]).unwrap_err().desc;
    assert_eq!(error, "Cannot amend the backing file");
    let error = amend(&node, &[("compat", "0.10")]).unwrap_err().desc;
    assert_eq!(error, "compat=0.10 requires refcount_bits=16");
}

/// What a node is called that is opened with options (as JSON).
fn called(options: &str) -> String {
    static CLASSES: &[&BlockClass] =
        &[&block::FILE, &block::RAW, &block::NULL_CO, &block::BLKDEBUG, &super::CLASS];
    let graph = Graph::new(CLASSES);
    let value = graph.complete(qapi::json::from_str(options).unwrap(), Flags::default()).unwrap();
    graph.open(value, qapi::Source::Json, Flags::default()).unwrap().filename()
}

#[test]
fn names_say_what_options_say() {
    let dir = tempfile::tempdir().unwrap();
    let base = create(&dir, "base", 1 << 20, &[]);
    let other = create(&dir, "other", 1 << 20, &[]);
    let backing = [("backing_file", base.as_str()), ("backing_fmt", "qcow2")];
    let top = create(&dir, "top", 1 << 20, &backing);
    let file = |path: &str| format!(r#"{{"driver": "file", "filename": "{path}"}}"#);
    let (t, b) = (file(&top), file(&base));
    let plain = format!(r#"{{"driver": "qcow2", "file": {t}, "lazy-refcounts": true}}"#);
    assert_eq!(called(&plain), top);
    let same = format!(r#"{{"driver": "qcow2", "file": {t}, "backing.file.filename": "{base}"}}"#);
    assert_eq!(called(&same), top);
    let name =
        |backing: &str| format!(r#"json:{{"backing": {backing}, "driver": "qcow2", "file": {t}}}"#);
    let none = format!(r#"{{"driver": "qcow2", "file": {t}, "backing": null}}"#);
    assert_eq!(called(&none), name("null"));
    let changed = format!(r#"{{"file": {t}, "backing.file.filename": "{other}"}}"#);
    let shown = format!(r#"{{"driver": "qcow2", "file": {}}}"#, file(&other));
    assert_eq!(called(&changed), name(&shown));
    let window = format!(r#"{{"driver": "raw", "size": 512, "file": {b}, "offset": 512}}"#);
    let shown = format!(r#"json:{{"offset": 512, "driver": "raw", "size": 512, "file": {b}}}"#);
    assert_eq!(called(&window), shown);
    let rules = format!(r#"{{"file.driver": "blkdebug", "file.image.filename": "{base}"}}"#);
    assert_eq!(called(&rules), format!("blkdebug::{base}"));
    let limits = r#"{"driver": "raw", "file": {"driver": "blkdebug", "align": 4096,
        "inject-error": [{"event": "l2_load"}], "image": {"driver": "null-co"}}}"#;
    let shown = r#"json:{"driver": "raw", "file": {"image": {"driver": "null-co"}, "driver": "blkdebug", "inject-error.0.event": "l2_load", "align": 4096}}"#;
    assert_eq!(called(limits), shown);
}

#[test]
fn a_snapshot_that_is_gone_back_to_brings_the_state_along() {
    let dir = tempfile::tempdir().unwrap();
    let path = create(&dir, "a", 1 << 20, &[]);
    let node = open(&path);
    node.driver().write_vm_state(0, &[7; 4096]).unwrap();
    let about = block::Snapshot { name: "s".into(), vm_state: 4096, ..block::Snapshot::default() };
    node.driver().change_snapshot(&SnapshotChange::Create(about.clone())).unwrap();
    node.driver().change_snapshot(&SnapshotChange::Apply("s".into())).unwrap();
    // The next one keeps what the active tables name, without having been told it again.
    let next = block::Snapshot { name: "t".into(), ..about };
    node.driver().change_snapshot(&SnapshotChange::Create(next)).unwrap();
    let mut back = [0; 4096];
    node.driver().read_vm_state("t", 0, &mut back).unwrap();
    assert_eq!(back, [7; 4096]);
    assert_clean(&node);
}

#[test]
fn uses_that_an_image_is_not_for_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = create(&dir, "a", 1 << 20, &[("compat", "0.10")]);
    let refused = |graph: &Graph, options: &str| {
        let file = format!(r#"{{"driver": "file", "filename": "{path}"}}"#);
        let text = format!(r#"{{"driver": "qcow2", "file": {file}{options}}}"#);
        let value = qapi::json::from_str(&text).unwrap();
        graph.open(value, qapi::Source::Json, Flags::default()).err().map(|error| error.desc)
    };
    let graph = Graph::new(CLASSES);
    let text = "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level";
    assert_eq!(refused(&graph, r#", "lazy-refcounts": true"#).as_deref(), Some(text));
    assert_eq!(refused(&graph, ""), None);
    // The old encryption is for tools only.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0, 0, 0, 1], 32).unwrap();
    let key = "Parameter 'encrypt.key-secret' is required for cipher";
    assert_eq!(refused(&graph, "").as_deref(), Some(key));
    graph.serve_machine();
    let text = "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators";
    assert_eq!(refused(&graph, "").as_deref(), Some(text));
}

#[test]
fn a_backing_name_that_is_changed_shows_what_stands_behind() {
    let dir = tempfile::tempdir().unwrap();
    let base = create(&dir, "base", 1 << 20, &[]);
    let named = format!("file:{base}");
    let top = create(&dir, "top", 1 << 20, &[("backing_file", &named), ("backing_fmt", "qcow2")]);
    let node = open(&top);
    assert_eq!(node.filename(), top, "the image's own name was followed");
    node.change_backing(Some("null-co://"), Some("raw")).unwrap();
    assert!(node.filename().starts_with(r#"json:{"backing": {"driver": "qcow2", "file""#));
    node.change_backing(Some(&base), Some("qcow2")).unwrap();
    assert_eq!(node.filename(), top);
    node.change_backing(Some(&named), Some("qcow2")).unwrap();
    assert!(node.filename().starts_with("json:"), "nobody looked where it leads");
}

#[test]
fn what_is_read_is_copied_across_filters_down_to_the_bottom() {
    static ALL: &[&BlockClass] = &[&block::FILE, &block::RAW, &block::COPY_ON_READ, &super::CLASS];
    let dir = tempfile::tempdir().unwrap();
    let base = create(&dir, "base", 1 << 20, &[]);
    open(&base).write(0, &[1; 65536]).unwrap();
    let over = |name: &str, below: &str| {
        create(&dir, name, 1 << 20, &[("backing_file", below), ("backing_fmt", "qcow2")])
    };
    let mid = over("mid", &base);
    open(&mid).write(1 << 17, &[2; 65536]).unwrap();
    let held = |path: &str, at: u64| open(path).extent(at, 65536).unwrap().allocated;
    for (bottom, copied) in [("", true), (r#", "bottom": "mid""#, false)] {
        let top = over("top", &mid);
        let file = |path: &str| format!(r#"{{"driver": "file", "filename": "{path}"}}"#);
        let graph = Graph::new(ALL);
        let text = format!(
            r#"{{"driver": "raw", "file": {{"driver": "copy-on-read"{bottom}, "file": {{"driver": "raw",
            "file": {{"driver": "qcow2", "file": {}, "backing": {{"driver": "qcow2",
            "node-name": "mid", "file": {}}}}}}}}}}}"#,
            file(&top),
            file(&mid)
        );
        let value = qapi::json::from_str(&text).unwrap();
        let node = graph.open(value, qapi::Source::Json, Flags::default()).unwrap();
        let mut back = vec![0; 1 << 20];
        node.read(0, &mut back).unwrap();
        assert_eq!((back[0], back[1 << 17], back[1 << 19]), (1, 2, 0));
        drop(node);
        assert_eq!(held(&top, 0), copied, "the lowest layer's, {bottom}");
        assert!(held(&top, 1 << 17), "the middle layer's, {bottom}");
    }
}

#[test]
fn tables_of_counts_and_zeroes_without_a_place_are_mended() {
    let patch = |path: &str, at: u64, bytes: &[u8]| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
    };
    let look = |path: &str, at: u64| {
        let file = std::fs::File::open(path).unwrap();
        let mut word = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut word, at).unwrap();
        u64::from_be_bytes(word)
    };
    for damage in ["no table", "behind the end", "not aligned", "zeroes"] {
        let dir = tempfile::tempdir().unwrap();
        let path = create(&dir, "a", 1 << 20, &[]);
        let node = open(&path);
        node.write(0, &[7; 65536]).unwrap();
        node.flush().unwrap();
        drop(node);
        let table = look(&path, 48);
        match damage {
            "no table" => patch(&path, 56, &[0; 4]),
            "behind the end" => patch(&path, table + 8, &(1u64 << 40).to_be_bytes()),
            "not aligned" => patch(&path, table, &(look(&path, table) + 512).to_be_bytes()),
            _ => {
                let l2 = look(&path, look(&path, 40)) & super::tables::PLACE;
                patch(&path, l2 + 8, &0x2a01u64.to_be_bytes());
            }
        }
        if damage == "no table" {
            let refused = Graph::new(CLASSES).open_image(&path, None, Flags::default());
            let text = "Image does not contain a reference count table";
            assert_eq!(refused.err().unwrap().desc, text);
        }
        let flags = Flags { check: true, ..Flags::default() };
        let check = |fix: Fix| {
            let node = Graph::new(CLASSES).open_image(&path, None, flags).unwrap();
            node.driver().check(fix).unwrap()
        };
        let found = check(Fix::None);
        assert!(found.corruptions > 0 && found.corruptions_fixed == 0, "{damage}: {found:?}");
        let mended = check(Fix::All);
        assert!(mended.corruptions == 0 && mended.corruptions_fixed > 0, "{damage}: {mended:?}");
        let node = open(&path);
        assert_clean(&node);
        let mut back = vec![0; 1 << 17];
        node.read(0, &mut back).unwrap();
        assert!(back[..65536] == [7; 65536] && back[65536..].iter().all(|b| *b == 0), "{damage}");
    }
}
