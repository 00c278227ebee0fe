//! Nodes that go on with other options, limits of drives, and places that writes are watched for.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use block::{BlockClass, Creation, Flags, Graph, Node, Op, Request};
use guest_ram::{RamBlock, RamOptions, RamSlice};
use qapi::{Source, Value};

static CLASSES: &[&BlockClass] =
    &[&block::FILE, &block::RAW, &block::NULL_CO, &block_formats::qcow2::CLASS];

fn image(path: &Path, fill: u8) {
    let new =
        Creation { filename: path.display().to_string(), size: 1 << 20, ..Creation::default() };
    block_formats::qcow2::CLASS.create.unwrap()(&new).unwrap();
    let node = open(&Graph::new(CLASSES), path, false).unwrap();
    node.write(0, &[fill; 4096]).unwrap();
}

fn open(graph: &Arc<Graph>, path: &Path, read_only: bool) -> qapi::Result<Arc<Node>> {
    let flags = Flags { read_only, ..Flags::default() };
    graph.open_image(&path.display().to_string(), Some("qcow2"), flags)
}

fn json(text: &str) -> Value {
    qapi::json::from_str(text).unwrap()
}

fn add(graph: &Arc<Graph>, name: &str, path: &Path, more: &str) -> Arc<Node> {
    let path = path.display();
    let text = format!(
        r#"{{"driver": "qcow2", "node-name": "{name}", "file": {{"driver": "file", "filename": "{path}"}}{more}}}"#
    );
    graph.add(json(&text), Source::Json).unwrap()
}

fn reopen(graph: &Arc<Graph>, name: &str, path: &Path, more: &str) -> Result<(), String> {
    let path = path.display();
    let text = format!(
        r#"{{"driver": "qcow2", "node-name": "{name}", "file": {{"driver": "file", "filename": "{path}"}}{more}}}"#
    );
    graph.reopen(vec![json(&text)]).map_err(|error| error.desc)
}

#[test]
fn a_node_becomes_read_only_and_writable_again_with_its_file_and_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    image(&path, 1);
    let graph = Graph::new(CLASSES);
    let node = add(&graph, "a", &path, "");
    node.write(8192, &[5; 512]).unwrap();
    reopen(&graph, "a", &path, r#", "read-only": true"#).unwrap();
    assert!(node.is_read_only() && node.child("file").unwrap().is_read_only());
    assert!(node.write(0, &[9; 512]).is_err());
    // Somebody else may read now, but may not while it is written.
    drop(open(&Graph::new(CLASSES), &path, true).unwrap());
    reopen(&graph, "a", &path, "").unwrap();
    let error = open(&Graph::new(CLASSES), &path, true).err().unwrap();
    assert_eq!(error.desc, "Failed to get shared \"write\" lock");
    node.write(0, &[9; 512]).unwrap();
    let mut back = [0; 512];
    node.read(8192, &mut back).unwrap();
    assert_eq!(back, [5; 512]);
    // While another program reads it and lets nobody write, it stays as it was.
    reopen(&graph, "a", &path, r#", "read-only": true"#).unwrap();
    let reader = open(&Graph::new(CLASSES), &path, true).unwrap();
    let text = reopen(&graph, "a", &path, "").unwrap_err();
    assert_eq!(text, "Failed to get \"write\" lock");
    assert!(node.is_read_only());
    drop(reader);
    reopen(&graph, "a", &path, "").unwrap();
    drop((node, graph));
    let node = open(&Graph::new(CLASSES), &path, true).unwrap();
    let report = node.driver().check(block::Fix::None).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0));
}

#[test]
fn a_writer_keeps_a_node_writable_and_fixed_options_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    image(&path, 1);
    let graph = Graph::new(CLASSES);
    let node = add(&graph, "a", &path, "");
    let how = block::Use { writes: true, shares_write: false };
    let _writer = node.hold("a disk", how).unwrap();
    let fails = |more: &str| reopen(&graph, "a", &path, more).unwrap_err();
    let text = fails(r#", "read-only": true"#);
    assert_eq!(text, "Read-only block node 'a' cannot support read-write users");
    assert_eq!(fails(r#", "foo": 1"#), "Parameter 'options[0].foo' is unexpected");
    assert_eq!(fails(r#", "force-share": true"#), "Cannot change the option 'force-share'");
    let other = dir.path().join("b");
    let text = reopen(&graph, "a", &other, "").unwrap_err();
    assert_eq!(text, "Cannot change the option 'file.filename'");
    let nameless = graph.reopen(vec![json(r#"{"driver": "raw"}"#)]).unwrap_err();
    assert_eq!(nameless.desc, "node-name not specified");
}

#[test]
fn the_backing_node_changes_or_everything_stays() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<_> = ["a", "b", "c"].iter().map(|n| dir.path().join(n)).collect();
    let [a, b, c] = paths.as_slice() else { panic!() };
    image(b, 2);
    image(c, 3);
    let new = Creation { filename: a.display().to_string(), size: 1 << 20, ..Creation::default() };
    block_formats::qcow2::CLASS.create.unwrap()(&new).unwrap();
    let graph = Graph::new(CLASSES);
    add(&graph, "b", b, r#", "read-only": true"#);
    add(&graph, "c", c, r#", "read-only": true"#);
    let top = add(&graph, "a", a, r#", "backing": "b""#);
    let first = || {
        let mut byte = [0];
        top.read(0, &mut byte).unwrap();
        byte[0]
    };
    assert_eq!(first(), 2);
    reopen(&graph, "a", a, r#", "backing": "c""#).unwrap();
    assert_eq!(first(), 3);
    assert_eq!(reopen(&graph, "a", a, "").unwrap_err(), "backing is missing for 'a'");
    let text = reopen(&graph, "a", a, r#", "backing": "a""#).unwrap_err();
    assert_eq!(text, "Making 'a' a backing child of 'a' would create a cycle");
    // The second one fails, so the first is taken back.
    let list = [("a", a, r#", "backing": "b""#), ("b", b, r#", "backing": "a""#)];
    let list = list.map(|(name, path, more)| {
        let path = path.display();
        json(&format!(
            r#"{{"driver": "qcow2", "node-name": "{name}", "file": {{"driver": "file", "filename": "{path}"}}{more}}}"#
        ))
    });
    assert!(graph.reopen(list.to_vec()).unwrap_err().desc.contains("would create a cycle"));
    assert_eq!(first(), 3);
    reopen(&graph, "a", a, r#", "backing": null"#).unwrap();
    assert_eq!(first(), 0);
    graph.delete("b").unwrap();
}

#[test]
fn a_write_beyond_a_place_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    image(&path, 1);
    let graph = Graph::new(CLASSES);
    let node = add(&graph, "a", &path, "");
    let (send, told) = channel();
    let file = node.child("file").unwrap();
    let send = parking_lot::Mutex::new(send);
    // The file is 6 clusters long; the next cluster lies behind them.
    file.threshold().set(6 << 16, move |name, beyond, place| {
        send.lock().send((name.to_owned(), beyond, place)).unwrap();
    });
    node.write(0, &[7; 512]).unwrap();
    assert!(told.try_recv().is_err());
    node.write(1 << 16, &[7; 1 << 16]).unwrap();
    node.write(2 << 16, &[7; 1 << 16]).unwrap();
    let (name, beyond, place) = told.try_recv().unwrap();
    assert_eq!((name.as_str(), beyond, place), (file.name(), 1 << 16, 6 << 16));
    assert!(told.try_recv().is_err() && file.threshold().place() == 0);
}

#[test]
fn limits_make_requests_wait_their_turn_and_a_drained_section_does_not_wait() {
    let graph = Graph::new(CLASSES);
    let options = json(r#"{"driver": "null-co", "node-name": "n"}"#);
    let node = graph.add(options, Source::Json).unwrap();
    let drive = graph.add_drive("d", Some(node)).unwrap();
    let mut rules: block::Rules = [block::Limit { average: 0.0, max: 0.0, length: 1.0 }; 6];
    // One request in a thousand seconds, after the first.
    rules[3].average = 0.001;
    graph.limit(&drive, "g", &rules, 0).unwrap();
    let lane = graph.lane(None);
    let ram = RamBlock::new("ram", 1 << 16, RamOptions::default()).unwrap();
    let (send, done) = channel();
    for n in 0..3 {
        let send = send.clone();
        let memory = vec![RamSlice::new(ram.clone(), 0, 512).unwrap()];
        let told = Box::new(move |result: std::io::Result<()>| {
            result.unwrap();
            send.send(n).unwrap();
        });
        let request =
            Request { op: Op::Read, at: 0, len: 512, memory, through: false, parts: 1, done: told };
        drive.submit(&lane, request);
    }
    assert_eq!(done.recv().unwrap(), 0);
    assert!(done.try_recv().is_err());
    drop(drive.drain());
    let mut rest = [done.recv().unwrap(), done.recv().unwrap()];
    rest.sort_unstable();
    assert_eq!(rest, [1, 2]);
    rules[4].average = 1.0;
    assert!(graph.limit(&drive, "g", &rules, 0).is_err());
}
