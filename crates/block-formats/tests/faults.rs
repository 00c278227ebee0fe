//! Failing disks below: EIO and a full disk are errors of the request, and the image stays whole.

use std::sync::Arc;

use block::{BlockClass, Creation, Fix, Flags, Graph, Node};

static CLASSES: &[&BlockClass] =
    &[&block::BLKDEBUG, &block::FILE, &block::RAW, &block_formats::qcow2::CLASS];

fn create(dir: &tempfile::TempDir) -> String {
    let filename = dir.path().join("a.qcow2").display().to_string();
    let new = Creation { filename: filename.clone(), size: 16 << 20, ..Creation::default() };
    (block_formats::qcow2::CLASS.create.unwrap())(&new).unwrap();
    filename
}

fn open(path: &str, rule: &str) -> Arc<Node> {
    let text = format!(
        r#"{{"driver": "qcow2", "file": {{"driver": "blkdebug", "inject-error": [{rule}],
            "image": {{"driver": "file", "filename": "{path}"}}}}}}"#
    );
    let options = qapi::json::from_str(&text).unwrap();
    Graph::new(CLASSES).open(options, qapi::Source::Json, Flags::default()).unwrap()
}

#[test]
fn errors_below_are_errors_of_the_request_only() {
    for (event, errno) in [("write_aio", 5), ("write_aio", 28), ("flush_to_disk", 5)] {
        let dir = tempfile::tempdir().unwrap();
        let path = create(&dir);
        let plain = Graph::new(CLASSES).open_image(&path, None, Flags::default()).unwrap();
        plain.write(0, &[1; 200_000]).unwrap();
        drop(plain);
        let rule = format!(r#"{{"event": "{event}", "errno": {errno}, "once": true}}"#);
        let node = open(&path, &rule);
        let mut failed = 0;
        for n in 0..40u64 {
            let done = node.write(n * 300_000, &[2; 100_000]).and_then(|()| node.flush());
            if let Err(error) = done {
                assert_eq!(error.raw_os_error(), Some(errno));
                failed += 1;
            }
        }
        assert_eq!(failed, 1, "{event}");
        // Asked again, it is done.
        node.write(7, &[3; 100_000]).unwrap();
        node.flush().unwrap();
        let mut back = vec![0; 100_000];
        node.read(7, &mut back).unwrap();
        assert!(back.iter().all(|b| *b == 3));
        drop(node);
        let node = Graph::new(CLASSES).open_image(&path, None, Flags::default()).unwrap();
        let report = node.driver().check(Fix::None).unwrap();
        assert_eq!(report.corruptions, 0, "{event} {errno}: {:?}", report.messages);
    }
}

#[test]
fn reads_that_fail_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = create(&dir);
    let plain = Graph::new(CLASSES).open_image(&path, None, Flags::default()).unwrap();
    plain.write(0, &[1; 4096]).unwrap();
    drop(plain);
    let node = open(&path, r#"{"event": "none", "iotype": "read", "sector": 640, "errno": 5}"#);
    let mut back = vec![0; 512];
    // Data begins behind header, tables and the L2 table.
    let found = (0..8u64).filter(|n| node.read(n * 512, &mut back).is_err()).count();
    let place = node.extent(0, 512).unwrap().offset.unwrap();
    let expected = usize::from((place..place + 4096).contains(&(640 * 512)));
    assert_eq!(found, expected);
}
