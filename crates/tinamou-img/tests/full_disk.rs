//! A disk that is full when an image is closed: what is lost is told, and the status says so.

use std::path::Path;
use std::process::{Command, Output};

const OURS: &str = env!("CARGO_BIN_EXE_tinamou-img");

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(OURS).current_dir(dir).args(args).output().unwrap()
}

fn fine(dir: &Path, args: &[&str]) -> String {
    let out = run(dir, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The image with no room to grow.
fn full(dir: &Path, name: &str) -> String {
    // To the end of the last cluster.
    let file = std::fs::File::options().write(true).open(dir.join(name)).unwrap();
    let len = file.metadata().unwrap().len().next_multiple_of(65536);
    file.set_len(len).unwrap();
    format!(
        r#"json:{{"driver": "qcow2", "file": {{"driver": "raw", "size": {len}, "file": {{"driver": "file", "filename": "{name}"}}}}}}"#
    )
}

/// Errors with numbered nodes made alike.
fn errors(out: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let plain = |line: &str| match line.split_once("'#block") {
        Some((head, tail)) => {
            format!("{head}'NODE{}", tail.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line.to_owned(),
    };
    text.lines().map(plain).map(|l| l.replace("tinamou-img: ", "qemu-img: ")).collect()
}

#[test]
fn a_bitmap_that_cannot_be_stored_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fine(dir, &["create", "-q", "-f", "qcow2", "a.qcow2", "64M"]);
    fine(dir, &["bitmap", "--add", "a.qcow2", "old"]);
    let out = run(dir, &["bitmap", "--add", &full(dir, "a.qcow2"), "new"]);
    let lost = "qemu-img: Lost persistent bitmaps during inactivation of node 'NODE': Failed to write bitmap 'old' to file: No space left on device";
    let closing = "qemu-img: Error while closing the image: Invalid argument";
    assert_eq!(
        (out.status.code(), errors(&out)),
        (Some(1), vec![lost.into(), closing.into(), lost.into()])
    );
    let info = fine(dir, &["info", "a.qcow2"]);
    // It was in use when it was lost: nobody trusts it.
    assert!(info.contains("name: old") && info.contains("in-use") && !info.contains("name: new"));
    assert_eq!(
        fine(dir, &["check", "a.qcow2"]).lines().next(),
        Some("No errors were found on the image.")
    );
}

#[test]
fn a_commit_whose_bitmaps_are_lost_is_an_error_and_its_data_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("old.raw"), [1; 65536]).unwrap();
    std::fs::write(dir.join("new.raw"), [2; 65536]).unwrap();
    fine(dir, &["convert", "-O", "qcow2", "old.raw", "a.qcow2"]);
    fine(dir, &["bitmap", "--add", "a.qcow2", "b"]);
    fine(dir, &["convert", "-O", "qcow2", "-B", "a.qcow2", "-F", "qcow2", "new.raw", "top.qcow2"]);
    let base = full(dir, "a.qcow2");
    fine(dir, &["rebase", "-u", "-b", &base, "-F", "qcow2", "top.qcow2"]);
    let out = run(dir, &["commit", "-d", "top.qcow2"]);
    let lost = "qemu-img: Lost persistent bitmaps during inactivation of node 'NODE': Failed to write bitmap 'b' to file: No space left on device";
    let closing = "qemu-img: Error while closing the image: Invalid argument";
    assert_eq!(
        (out.status.code(), errors(&out)),
        (Some(1), vec![lost.into(), lost.into(), closing.into()])
    );
    assert!(out.stdout.is_empty());
    fine(dir, &["convert", "-O", "raw", "a.qcow2", "back.raw"]);
    assert_eq!(std::fs::read(dir.join("back.raw")).unwrap(), [2; 65536]);
    fine(dir, &["check", "a.qcow2"]);
}

#[test]
fn a_copy_to_a_full_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), vec![1; 1 << 20]).unwrap();
    fine(dir, &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    for args in [&["-n"][..], &["-n", "-c"], &["-n", "-m", "4", "-W"]] {
        let target = full(dir, "a.qcow2");
        let mut all = vec!["convert", "-f", "raw", "-O", "qcow2"];
        all.extend(args);
        all.extend(["--target-image-opts", "a.raw"]);
        // Options of the target as pairs.
        let len = target.split("\"size\": ").nth(1).unwrap().split(',').next().unwrap();
        let pairs = format!(
            "driver=qcow2,file.driver=raw,file.size={len},file.file.driver=file,file.file.filename=a.qcow2"
        );
        all.retain(|word| *word != "-O" && *word != "qcow2");
        all.push(&pairs);
        let out = run(dir, &all);
        assert_eq!(out.status.code(), Some(1), "{:?}", errors(&out));
        let said = errors(&out).join("\n");
        assert!(said.contains("No space left on device"), "{said}");
        fine(dir, &["check", "a.qcow2"]);
    }
}
