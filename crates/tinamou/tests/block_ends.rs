//! What happens to images when the emulator lets go of them: what cannot be stored is told.
//! The peer's tool makes the images; without it the tests say so.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn peer(dir: &Path, args: &[&str]) -> bool {
    match Command::new("qemu-img").current_dir(dir).args(args).status() {
        Ok(status) => {
            assert!(status.success(), "qemu-img {args:?}");
            true
        }
        Err(_) => {
            eprintln!("qemu-img is not installed: not tried");
            false
        }
    }
}

/// Runs the emulator with these options and commands of QMP, to its end.
fn run(dir: &Path, args: &[&str], commands: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tinamou"))
        .current_dir(dir)
        .args(["system", "aarch64", "-M", "none", "-nodefaults", "-display", "none"])
        .args(["-qmp", "stdio"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, r#"{{"execute": "qmp_capabilities"}}"#).unwrap();
    for command in commands {
        writeln!(input, "{command}").unwrap();
    }
    writeln!(input, r#"{{"execute": "quit"}}"#).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn bitmaps_that_are_lost_at_the_end_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if !peer(dir, &["create", "-q", "-f", "qcow2", "-o", "preallocation=falloc", "a.qcow2", "1M"]) {
        return;
    }
    peer(dir, &["bitmap", "--add", "a.qcow2", "b"]);
    let file = std::fs::File::options().write(true).open(dir.join("a.qcow2")).unwrap();
    let len = file.metadata().unwrap().len().next_multiple_of(65536);
    file.set_len(len).unwrap();
    let node = format!(
        r#"{{"driver": "qcow2", "node-name": "d", "file": {{"driver": "raw", "size": {len}, "file": {{"driver": "file", "filename": "a.qcow2"}}}}}}"#
    );
    let write = r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io d \"write -P 7 0 64k\""}}"#;
    let lost = "Lost persistent bitmaps during inactivation of node 'd': Failed to write bitmap 'b' to file: No space left on device";
    for delete in [false, true] {
        let commands = [write, r#"{"execute": "blockdev-del", "arguments": {"node-name": "d"}}"#];
        let commands = commands.get(..if delete { 2 } else { 1 }).unwrap();
        let out = run(dir, &["-blockdev", &node], commands);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains(lost), "{said}\n{}", String::from_utf8_lossy(&out.stdout));
        assert_eq!(out.status.code(), Some(0));
        // The data is there, and the image is whole.
        peer(dir, &["check", "-q", "a.qcow2"]);
        peer(dir, &["bitmap", "--remove", "a.qcow2", "b"]);
        peer(dir, &["bitmap", "--add", "a.qcow2", "b"]);
    }
    peer(dir, &["convert", "-O", "raw", "a.qcow2", "a.raw"]);
    assert_eq!(std::fs::read(dir.join("a.raw")).unwrap()[..65536], [7; 65536]);
}

#[test]
fn commit_of_the_human_monitor_writes_to_the_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if !peer(dir, &["create", "-q", "-f", "qcow2", "b.qcow2", "1M"]) {
        return;
    }
    peer(dir, &["create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "o.qcow2"]);
    let hmp = |line: &str| {
        format!(
            r#"{{"execute": "human-monitor-command", "arguments": {{"command-line": "{line}"}}}}"#
        )
    };
    let commands = [hmp(r#"qemu-io d \"write -P 7 64k 64k\""#), hmp("commit d"), hmp("commit no")];
    let drive = ["-drive", "if=none,id=d,file=o.qcow2,format=qcow2"];
    let out = run(dir, &drive, &commands.each_ref().map(String::as_str));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("Device 'no' not found"), "{said}");
    for image in ["b.qcow2", "o.qcow2"] {
        peer(dir, &["check", "-q", image]);
        peer(dir, &["convert", "-O", "raw", image, "r.raw"]);
        assert_eq!(
            std::fs::read(dir.join("r.raw")).unwrap()[65536..131_072],
            [7; 65536],
            "{image}"
        );
    }
}

/// Events and answers of QMP, line by line.
struct Talk {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    asked: u32,
}

impl Drop for Talk {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Talk {
    fn start(dir: &Path, args: &[&str]) -> Talk {
        use std::io::BufRead as _;
        let mut child = Command::new(env!("CARGO_BIN_EXE_tinamou"))
            .current_dir(dir)
            .args(["system", "aarch64", "-M", "virt", "-accel", "qtest", "-nodefaults"])
            .args(["-display", "none", "-qmp", "stdio"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut talk = Talk { child, lines, asked: 0 };
        talk.ask(r#"{"execute": "qmp_capabilities"}"#);
        talk
    }

    fn send(&mut self, command: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    /// The next line with this in it; all up to it come back.
    fn until(&mut self, what: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("no {what} in {all:?}")).unwrap();
            let found = line.contains(what);
            all.push(line);
            if found {
                return all;
            }
        }
    }

    /// The answer to a command, which is told from others by its id.
    fn ask(&mut self, command: &str) -> String {
        let id = format!("\"id\": \"q{}\"", self.asked);
        self.asked += 1;
        self.send(&format!("{}, {id}}}", command.strip_suffix('}').unwrap()));
        self.until(&id).pop().unwrap().replace(&format!(", {id}"), "")
    }
}

const COMMIT: &str = r#"{"execute": "block-commit", "arguments": {"job-id": "j", "device": "NAME", "speed": 65536}}"#;

fn chain(dir: &Path) -> bool {
    std::fs::write(dir.join("old.raw"), vec![1; 1 << 20]).unwrap();
    peer(dir, &["convert", "-O", "qcow2", "old.raw", "base.qcow2"])
        && peer(
            dir,
            &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"],
        )
        && peer(dir, &["convert", "-n", "-O", "qcow2", "old.raw", "top.qcow2"])
}

#[test]
fn a_drive_goes_with_its_device_and_its_job_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    if !chain(dir.path()) {
        return;
    }
    let drive = ["-device", "virtio-scsi-pci,id=bus0", "-drive"];
    let more = ["if=none,id=d0,file=top.qcow2,format=qcow2", "-device", "scsi-hd,id=s0,drive=d0"];
    let mut talk = Talk::start(dir.path(), &[&drive[..], &more].concat());
    talk.ask(&COMMIT.replace("NAME", "d0"));
    talk.send(r#"{"execute": "device_del", "arguments": {"id": "s0"}}"#);
    let said = talk.until("BLOCK_JOB_CANCELLED");
    let said = if said.iter().any(|line| line.contains("DEVICE_DELETED")) {
        said
    } else {
        [said, talk.until("DEVICE_DELETED")].concat()
    };
    assert!(said.iter().any(|line| line.contains("BLOCK_JOB_CANCELLED")), "{said:?}");
    assert_eq!(talk.ask(r#"{"execute": "query-block"}"#), r#"{"return": []}"#);
    assert_eq!(talk.ask(r#"{"execute": "query-named-block-nodes"}"#), r#"{"return": []}"#);
}

#[test]
fn a_node_of_the_users_own_and_its_job_stay_when_the_device_goes() {
    let dir = tempfile::tempdir().unwrap();
    if !chain(dir.path()) {
        return;
    }
    let node = "driver=qcow2,node-name=n0,file.driver=file,file.filename=top.qcow2";
    let args = ["-device", "virtio-scsi-pci,id=bus0", "-blockdev", node];
    let mut talk =
        Talk::start(dir.path(), &[&args[..], &["-device", "scsi-hd,id=s0,drive=n0"]].concat());
    talk.ask(&COMMIT.replace("NAME", "n0"));
    talk.send(r#"{"execute": "device_del", "arguments": {"id": "s0"}}"#);
    talk.until("DEVICE_DELETED");
    let jobs = talk.ask(r#"{"execute": "query-block-jobs"}"#);
    assert!(jobs.contains("\"device\": \"j\""), "{jobs}");
    talk.send(r#"{"execute": "blockdev-del", "arguments": {"node-name": "n0"}}"#);
    let refused = talk.until("\"error\"").pop().unwrap();
    assert!(refused.contains("is in use") || refused.contains("is busy"), "{refused}");
    talk.send(r#"{"execute": "block-job-cancel", "arguments": {"device": "j", "force": true}}"#);
    talk.until("BLOCK_JOB_CANCELLED");
}
