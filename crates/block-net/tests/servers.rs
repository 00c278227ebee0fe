//! The nbd client against servers that are installed; without them there is nothing to compare with
//! and the tests say so.

#![expect(clippy::disallowed_methods, reason = "a test waits for a server")]

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use block::{BlockClass, Flags, Graph};

static CLASSES: &[&BlockClass] = &[&block::FILE, &block::RAW, &block_net::nbd::CLASS];

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn wait_for(socket: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < end, "the server does not come up");
        std::thread::yield_now();
    }
}

/// A server over a file of 4 MiB whose first half has data.
fn qemu_nbd(dir: &Path) -> Option<(Server, String)> {
    let (image, socket) = (dir.join("disk.raw"), dir.join("s"));
    if !image.exists() {
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(4 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 2 << 20], 0).unwrap();
    }
    let mut command = Command::new("qemu-nbd");
    command.args(["-t", "-f", "raw", "-e", "10", "-x", "disk", "-k"]).arg(&socket).arg(&image);
    let Ok(child) = command.spawn() else {
        eprintln!("qemu-nbd is not installed: not compared");
        return None;
    };
    let server = Server(child);
    wait_for(&socket);
    Some((server, format!("nbd:unix:{}:exportname=disk", socket.display())))
}

#[test]
fn a_disk_of_qemu_nbd_is_read_written_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_server, name)) = qemu_nbd(dir.path()) else { return };
    let node = Graph::new(CLASSES).open_image(&name, Some("raw"), Flags::default()).unwrap();
    assert_eq!(node.len(), 4 << 20);
    let data = node.extent(0, 4 << 20).unwrap();
    let hole = node.extent(3 << 20, 1 << 20).unwrap();
    assert!(data.data && !data.zero && data.len == 2 << 20 && hole.zero && !hole.data);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let node = &node;
            scope.spawn(move || {
                let base = u64::from(thread) << 20;
                for n in 0..64u64 {
                    node.write(base + n * 5000 + 3, &[thread + 1; 777]).unwrap();
                    let mut back = [0; 777];
                    node.read(base + n * 5000 + 3, &mut back).unwrap();
                    assert!(back.iter().all(|b| *b == thread + 1));
                }
            });
        }
    });
    node.write_zeroes(0, 1 << 20, false).unwrap();
    node.flush().unwrap();
    let raw = std::fs::read(dir.path().join("disk.raw")).unwrap();
    assert!(raw[..1 << 20].iter().all(|b| *b == 0) && raw[(3 << 20) + 3] == 4);
    let wrong = name.replace("=disk", "=none");
    assert!(Graph::new(CLASSES).open_image(&wrong, Some("raw"), Flags::default()).is_err());
}

#[test]
fn requests_wait_for_a_server_that_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some((server, _)) = qemu_nbd(dir.path()) else { return };
    let open = |delay: u32| {
        let text = format!(
            r#"{{"driver": "nbd", "export": "disk", "reconnect-delay": {delay},
                "server": {{"type": "unix", "path": "{}"}}}}"#,
            dir.path().join("s").display()
        );
        let options = qapi::json::from_str(&text).unwrap();
        Graph::new(CLASSES).open(options, qapi::Source::Json, Flags::default()).unwrap()
    };
    let (patient, hasty) = (open(30), open(0));
    patient.write(0, &[9; 100]).unwrap();
    drop(server);
    _ = std::fs::remove_file(dir.path().join("s"));
    let mut back = [0; 100];
    assert!(hasty.read(0, &mut back).is_err());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut back = [0; 100];
            patient.read(0, &mut back).map(|()| back[0])
        });
        let _server = qemu_nbd(dir.path());
        assert_eq!(waiting.join().unwrap().unwrap(), 9);
    });
}

/// A server of nbdkit with these arguments.
fn nbdkit(dir: &Path, args: &[&str]) -> Option<(Server, String)> {
    let socket = dir.join("k");
    let mut command = Command::new("nbdkit");
    // It ends with the test, and must not write a banner.
    command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket).args(args);
    let Ok(child) = command.spawn() else {
        eprintln!("nbdkit is not installed: not compared");
        return None;
    };
    let server = Server(child);
    wait_for(&socket);
    Some((server, format!("nbd:unix:{}", socket.display())))
}

#[test]
fn a_disk_of_nbdkit_is_read_written_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_server, name)) = nbdkit(dir.path(), &["memory", "4M"]) else { return };
    let node = Graph::new(CLASSES).open_image(&name, Some("raw"), Flags::default()).unwrap();
    assert_eq!(node.len(), 4 << 20);
    let all = node.extent(0, 4 << 20).unwrap();
    assert!(all.zero && !all.data && all.len == 4 << 20, "{all:?}");
    node.write(1 << 20, &[5; 100_000]).unwrap();
    node.write_zeroes((1 << 20) + 50_000, 10, true).unwrap();
    node.flush().unwrap();
    let mut back = vec![0; 100_000];
    node.read(1 << 20, &mut back).unwrap();
    assert!(back.iter().enumerate().all(|(n, b)| (*b == 0) == (50_000..50_010).contains(&n)));
    let data = node.extent(1 << 20, 3 << 20).unwrap();
    assert!(data.data && !data.zero && data.len < 200_000, "{data:?}");
}

#[test]
fn errors_of_nbdkit_are_errors_of_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    let Some((_server, name)) = nbdkit(dir.path(), &args) else { return };
    let node = Graph::new(CLASSES).open_image(&name, Some("raw"), Flags::default()).unwrap();
    let error = node.write(0, &[1; 512]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(28));
    let mut back = [1; 512];
    node.read(0, &mut back).unwrap();
    assert_eq!(back, [0; 512], "the connection goes on");
}

#[test]
fn requests_wait_for_nbdkit_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    std::fs::write(&image, vec![3u8; 1 << 20]).unwrap();
    let args = ["file", image.to_str().unwrap()];
    let Some((server, name)) = nbdkit(dir.path(), &args) else { return };
    let (_, path) = name.split_once("unix:").unwrap();
    let text = format!(
        r#"{{"driver": "nbd", "reconnect-delay": 20, "server": {{"type": "unix", "path": "{path}"}}}}"#
    );
    let options = qapi::json::from_str(&text).unwrap();
    let node = Graph::new(CLASSES).open(options, qapi::Source::Json, Flags::default()).unwrap();
    let mut back = [0; 512];
    node.read(0, &mut back).unwrap();
    drop(server);
    _ = std::fs::remove_file(path);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut back = [0; 512];
            node.read(4096, &mut back).map(|()| back)
        });
        // A request is under way, or begins, while nobody listens.
        let again = nbdkit(dir.path(), &args);
        assert_eq!(asked.join().unwrap().unwrap(), [3; 512]);
        node.write(0, &[9; 512]).unwrap();
        node.flush().unwrap();
        drop(again);
    });
    assert_eq!(std::fs::read(&image).unwrap()[..512], [9; 512]);
}

#[test]
fn another_metadata_context_tells_what_a_bitmap_has() {
    let dir = tempfile::tempdir().unwrap();
    let tool = |program: &str, args: &[&str]| {
        Command::new(program)
            .current_dir(dir.path())
            .args(args)
            .stdout(std::process::Stdio::null())
            .status()
    };
    if tool("qemu-img", &["create", "-q", "-f", "qcow2", "a.qcow2", "4M"]).is_err() {
        eprintln!("qemu-img is not installed: not compared");
        return;
    }
    assert!(tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b"]).unwrap().success());
    assert!(tool("qemu-io", &["-c", "write 1M 1M", "a.qcow2"]).unwrap().success());
    let socket = dir.path().join("s");
    let mut command = Command::new("qemu-nbd");
    command.args(["-t", "-r", "-f", "qcow2", "-B", "b", "-k"]).arg(&socket);
    let _server = Server(command.arg(dir.path().join("a.qcow2")).spawn().unwrap());
    wait_for(&socket);
    let open = |context: &str| {
        let text = format!(
            r#"{{"driver": "nbd", "x-dirty-bitmap": "{context}", "read-only": true,
                "server": {{"type": "unix", "path": "{}"}}}}"#,
            socket.display()
        );
        let options = qapi::json::from_str(&text).unwrap();
        let flags = Flags { read_only: true, ..Flags::default() };
        Graph::new(CLASSES).open(options, qapi::Source::Json, flags)
    };
    let node = open("qemu:dirty-bitmap:b").unwrap();
    // What the bitmap has counts as no data, as at the peer.
    let (clean, dirty) = (node.extent(0, 4 << 20).unwrap(), node.extent(1 << 20, 3 << 20).unwrap());
    assert_eq!((clean.data, clean.len, dirty.data, dirty.len), (true, 1 << 20, false, 1 << 20));
    let error = open("qemu:dirty-bitmap:c").err().unwrap();
    assert_eq!(error.desc, "requested x-dirty-bitmap qemu:dirty-bitmap:c not found");
}
