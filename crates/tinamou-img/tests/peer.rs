//! Interchange with the peer's tool, over a corpus that the peer makes: what it wrote is read bit
//! for bit, what we write it finds nothing wrong with, and on damaged images both come to the same
//! verdict. Without `qemu-img` there is nothing to compare with and the tests say so.

use std::path::Path;
use std::process::{Command, Output};

const OURS: &str = env!("CARGO_BIN_EXE_tinamou-img");

fn run(program: &str, dir: &Path, args: &[&str]) -> Output {
    Command::new(program).current_dir(dir).args(args).output().unwrap()
}

fn fine(program: &str, dir: &Path, args: &[&str]) -> String {
    let out = run(program, dir, args);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    text
}

fn has_peer() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        eprintln!("qemu-img is not installed: not compared");
    }
    found
}

/// A disk of 6 MiB and a bit with text, noise and holes.
fn source(dir: &Path) {
    let mut bytes = vec![0u8; (6 << 20) + 512];
    let mut state = 1u64;
    for (n, byte) in bytes.iter_mut().enumerate() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = match n >> 18 {
            0 | 5..=7 => u8::try_from(n / 100 % 120).unwrap(),
            2 | 9 | 23 => u8::try_from(state >> 56).unwrap(),
            24 => 7,
            _ => 0,
        };
    }
    std::fs::write(dir.join("source.raw"), bytes).unwrap();
}

const CORPUS: &[&[&str]] = &[
    &[],
    &["-o", "compat=0.10"],
    &["-o", "cluster_size=512"],
    &["-o", "cluster_size=2M"],
    &["-o", "refcount_bits=1"],
    &["-o", "refcount_bits=64"],
    &["-o", "lazy_refcounts=on"],
    &["-o", "extended_l2=on"],
    &["-o", "extended_l2=on,cluster_size=16k"],
    &["-o", "preallocation=metadata"],
    &["-o", "preallocation=full"],
    &["-o", "data_file=a.data"],
    &["-o", "data_file=a.data,data_file_raw=on"],
    &["-c"],
    &["-c", "-o", "compression_type=zstd"],
    &["-c", "-o", "cluster_size=4k"],
    &["-c", "-o", "extended_l2=on"],
];

#[test]
fn images_are_interchanged_bit_for_bit() {
    if !has_peer() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    source(dir);
    for options in CORPUS {
        for (writer, reader) in [("qemu-img", OURS), (OURS, "qemu-img")] {
            let name = "a.qcow2";
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
            args.extend(*options);
            args.extend(["source.raw", name]);
            fine(writer, dir, &args);
            fine(reader, dir, &["check", name]);
            let same = fine(reader, dir, &["compare", "-F", "raw", name, "source.raw"]);
            assert_eq!(same, "Images are identical.\n", "{options:?} by {writer}");
            fine(reader, dir, &["convert", "-O", "raw", name, "back.raw"]);
            let back = std::fs::read(dir.join("back.raw")).unwrap();
            assert!(back == std::fs::read(dir.join("source.raw")).unwrap(), "{options:?}");
            // Whether the holes of a data file are shown is a guess of the peer's.
            let guessed = options.iter().any(|o| o.contains("data_file_raw"));
            let maps = [writer, reader].map(|p| fine(p, dir, &["map", "--output=json", name]));
            assert!(guessed || maps[0] == maps[1], "{options:?} by {writer}: {maps:?}");
            let infos = [writer, reader].map(|p| fine(p, dir, &["info", "--output=json", name]));
            assert_eq!(infos[0], infos[1], "{options:?} by {writer}");
            std::fs::remove_file(dir.join(name)).unwrap();
        }
    }
}

#[test]
fn encrypted_images_are_interchanged() {
    if !has_peer() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    source(dir);
    let secret = ["--object", "secret,id=s,data=word"];
    let kinds = [
        ("luks", "key-secret=s,iter-time=5", "driver=luks,key-secret=s,file.filename=a.img"),
        (
            "luks",
            "key-secret=s,iter-time=5,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512",
            "driver=luks,key-secret=s,file.filename=a.img",
        ),
        (
            "qcow2",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=5",
            "driver=qcow2,encrypt.key-secret=s,file.filename=a.img",
        ),
    ];
    for (format, options, description) in kinds {
        for (writer, reader) in [("qemu-img", OURS), (OURS, "qemu-img")] {
            let mut args = vec!["convert", "-f", "raw", "-O", format, "-o", options];
            args.extend(secret);
            args.extend(["source.raw", "a.img"]);
            fine(writer, dir, &args);
            let mut args = vec!["convert", "--image-opts", "-O", "raw"];
            args.extend(secret);
            args.extend([description, "back.raw"]);
            fine(reader, dir, &args);
            let back = std::fs::read(dir.join("back.raw")).unwrap();
            assert!(back == std::fs::read(dir.join("source.raw")).unwrap(), "{options}");
            let wrong = ["--object", "secret,id=s,data=other"];
            let args =
                ["convert", "--image-opts", "-O", "raw", wrong[0], wrong[1], description, "x"];
            assert_eq!(run(reader, dir, &args).status.code(), Some(1));
        }
    }
}

#[test]
fn chains_snapshots_and_bitmaps_are_interchanged() {
    if !has_peer() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    source(dir);
    for (one, two) in [("qemu-img", OURS), (OURS, "qemu-img")] {
        fine(one, dir, &["convert", "-O", "qcow2", "source.raw", "base.qcow2"]);
        fine(
            one,
            dir,
            &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"],
        );
        fine(two, dir, &["bench", "-w", "-c", "40", "-S", "90000", "--pattern", "9", "top.qcow2"]);
        fine(one, dir, &["check", "top.qcow2"]);
        fine(one, dir, &["convert", "-O", "raw", "top.qcow2", "want.raw"]);
        for (n, program) in [two, one].into_iter().enumerate() {
            fine(program, dir, &["snapshot", "-c", &format!("s{n}"), "base.qcow2"]);
        }
        fine(two, dir, &["snapshot", "-a", "s0", "base.qcow2"]);
        fine(two, dir, &["snapshot", "-d", "s0", "base.qcow2"]);
        fine(one, dir, &["check", "base.qcow2"]);
        let lists = [one, two].map(|p| fine(p, dir, &["snapshot", "-l", "base.qcow2"]));
        assert_eq!(lists[0], lists[1]);
        fine(two, dir, &["bitmap", "--add", "-g", "64k", "top.qcow2", "b"]);
        fine(one, dir, &["bench", "-w", "-c", "3", "-S", "200000", "top.qcow2"]);
        fine(two, dir, &["check", "top.qcow2"]);
        let infos = [one, two].map(|p| fine(p, dir, &["info", "--output=json", "top.qcow2"]));
        assert_eq!(infos[0], infos[1]);
        fine(two, dir, &["bitmap", "--remove", "top.qcow2", "b"]);
        fine(one, dir, &["convert", "-O", "raw", "top.qcow2", "want.raw"]);
        fine(two, dir, &["create", "-q", "-f", "qcow2", "other.qcow2", "8M"]);
        fine(two, dir, &["rebase", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2"]);
        fine(one, dir, &["compare", "-F", "raw", "top.qcow2", "want.raw"]);
        fine(two, dir, &["commit", "-q", "top.qcow2"]);
        fine(one, dir, &["check", "other.qcow2"]);
        fine(one, dir, &["compare", "-F", "raw", "top.qcow2", "want.raw"]);
        fine(two, dir, &["resize", "-q", "top.qcow2", "+3M"]);
        fine(one, dir, &["check", "top.qcow2"]);
    }
}

/// Exit status and what was found, without the words.
fn verdict(program: &str, dir: &Path, args: &[&str]) -> (Option<i32>, Vec<String>) {
    let out = run(program, dir, args);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let keys = ["\"corruptions\"", "\"leaks\"", "\"check-errors\""];
    let lines = text.lines().filter(|l| keys.iter().any(|key| l.contains(key)));
    let mut lines: Vec<_> = lines.map(|l| l.trim().trim_end_matches(',').to_owned()).collect();
    lines.sort();
    (out.status.code(), lines)
}

#[test]
fn damage_gets_the_peers_verdict() {
    if !has_peer() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    source(dir);
    fine("qemu-img", dir, &["convert", "-O", "qcow2", "source.raw", "good.qcow2"]);
    let good = std::fs::read(dir.join("good.qcow2")).unwrap();
    let word = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap());
    let (l1, block) = (usize::try_from(word(40)).unwrap(), usize::try_from(word(65536)).unwrap());
    let l2 = usize::try_from(word(l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    // What is damaged, where, and the bytes put there.
    let cases: [(&str, usize, &[u8]); 10] = [
        ("nothing", 0, b"Q"),
        ("a leaked cluster", block + 80, &[0, 1]),
        ("a cluster behind the end that counts", block + 160, &[0, 1]),
        ("a cluster in use counted as free", block + 10, &[0, 0]),
        ("a count too high", block + 12, &[0, 2]),
        ("a mark missing", l2, &[0]),
        ("a mark of a table missing", l1, &[0]),
        ("two entries for one cluster", l2 + 8, &good[l2..l2 + 8]),
        ("a place behind the end", l2 + 4, &[0x10]),
        ("no magic", 0, b"X"),
    ];
    for (what, at, bytes) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        if what.starts_with("a leaked") {
            bad.resize(50 << 16, 0);
        }
        let mut all = Vec::new();
        for program in ["qemu-img", OURS] {
            std::fs::write(dir.join("bad.qcow2"), &bad).unwrap();
            let check = ["check", "--output=json", "-f", "qcow2", "bad.qcow2"];
            let mend = ["check", "--output=json", "-f", "qcow2", "-r", "all", "bad.qcow2"];
            let leaks = ["check", "--output=json", "-f", "qcow2", "-r", "leaks", "bad.qcow2"];
            let found = verdict(program, dir, &check);
            let mended = (verdict(program, dir, &leaks), verdict(program, dir, &mend));
            all.push((found, mended, verdict("qemu-img", dir, &check)));
        }
        if what == "a place behind the end" {
            // The peer leaves such an entry as it is; here the file grows to hold its cluster.
            assert_eq!(all[0].0, all[1].0, "{what}");
            assert_eq!(all[1].1.1.0, Some(0), "{what}");
            continue;
        }
        assert_eq!(all[0], all[1], "{what}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a rate is kept in the host's time")]
fn convert_keeps_a_rate_and_lets_the_system_copy() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    source(dir);
    for args in [&["-C"][..], &["-C", "-W", "-O", "raw"], &["-C", "-O", "qcow2"]] {
        let all = [&["convert", "-f", "raw"][..], args, &["source.raw", "out"]].concat();
        fine(OURS, dir, &all);
        let compare = fine(OURS, dir, &["compare", "source.raw", "out"]);
        assert_eq!(compare, "Images are identical.\n", "{args:?}");
    }
    let begin = std::time::Instant::now();
    fine(OURS, dir, &["convert", "-f", "raw", "-r", "2M", "source.raw", "out"]);
    // There are 1.75 MiB of data; a tenth of a second's worth may go at once.
    assert!(begin.elapsed().as_secs_f64() > 0.5, "{:?}", begin.elapsed());
    for (rate, text) in [
        ("xyz", "qemu-img: Invalid rate limit specified: 'xyz'.\n"),
        (
            "-1",
            "qemu-img: Invalid rate limit specified. Must be between 0 and 9223372036854775807.\n",
        ),
    ] {
        let out = run(OURS, dir, &["convert", "-r", rate, "source.raw", "out"]);
        assert_eq!(String::from_utf8_lossy(&out.stderr), text);
    }
}

#[test]
fn drives_of_the_host_say_what_the_peer_says() {
    if !has_peer() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), [0; 512]).unwrap();
    for options in ["host_cdrom,filename=a", "host_device,filename=a", "host_cdrom,filename=none"] {
        let args = ["info", "--image-opts", &format!("driver={options}")];
        let both = ["qemu-img", OURS].map(|program| {
            let out = run(program, dir.path(), &args);
            (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
        });
        assert_eq!(both[0], both[1], "{options}");
    }
}

#[test]
fn a_described_chain_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("data"), vec![7; 1 << 20]).unwrap();
    fine(OURS, dir, &["create", "-q", "-f", "qcow2", "base", "1M"]);
    fine(OURS, dir, &["convert", "-f", "raw", "-O", "qcow2", "data", "top"]);
    fine(OURS, dir, &["rebase", "-u", "-b", "nothing", "-F", "qcow2", "top"]);
    let chain = "driver=qcow2,file.filename=top,backing.driver=qcow2,backing.file.filename=base";
    assert_eq!(fine(OURS, dir, &["commit", "--image-opts", chain]), "Image committed.\n");
    let compare = fine(OURS, dir, &["compare", "-f", "raw", "-F", "qcow2", "data", "base"]);
    assert_eq!(compare, "Images are identical.\n");
}

#[test]
fn maps_name_the_file_that_has_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("data"), vec![7; 1 << 20]).unwrap();
    fine(OURS, dir, &["convert", "-f", "raw", "-O", "qcow2", "data", "a"]);
    fine(OURS, dir, &["convert", "-O", "qcow2", "-o", "data_file=b.data", "a", "b"]);
    let rules = "driver=qcow2,file.driver=blkdebug,file.image.filename=a,file.align=512";
    let json = r#"json:{"image": {"driver": "file", "filename": "a"}, "driver": "blkdebug", "align": "512"}"#;
    let over = "driver=blkdebug,image.driver=qcow2,image.file.filename=a,align=512";
    for (args, name) in [
        (&["map", "--image-opts", rules][..], json),
        (&["map", "--image-opts", over], " a"),
        (&["map", "b"], " b.data"),
    ] {
        let told = fine(OURS, dir, args);
        assert!(told.lines().count() == 2 && told.trim_end().ends_with(name), "{told}");
        // Places below a filter over a format are told as the filter's own here.
        if has_peer() && name != " a" {
            assert_eq!(told, fine("qemu-img", dir, args));
        }
    }
}

#[test]
fn commands_that_only_write_share_with_nobody() {
    if !has_peer() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fine(OURS, dir.path(), &["create", "-q", "-f", "qcow2", "a", "1M"]);
    for args in [
        &["amend", "-U", "a"][..],
        &["commit", "-U", "a"],
        &["resize", "--force-share", "a", "2M"],
        &["create", "-U", "a"],
        &["bitmap", "-U", "a"],
        &["info", "-Z", "a"],
    ] {
        let both = ["qemu-img", OURS].map(|program| {
            let out = run(program, dir.path(), args);
            (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
        });
        assert_eq!(both[0], both[1], "{args:?}");
    }
}

#[test]
fn what_shows_through_a_target_is_not_taken_for_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("base.raw"), vec![7; 1 << 20]).unwrap();
    std::fs::write(dir.join("other.raw"), vec![8; 1 << 20]).unwrap();
    let create = |more: &[&str]| {
        let args = [&["create", "-q", "-f", "qcow2"][..], more].concat();
        fine(OURS, dir, &args);
    };
    create(&["empty.qcow2", "1M"]);
    create(&["-b", "other.raw", "-F", "raw", "overlay.qcow2"]);
    for source in ["empty.qcow2", "overlay.qcow2"] {
        create(&["-b", "base.raw", "-F", "raw", "target.qcow2"]);
        fine(OURS, dir, &["convert", "-n", "-O", "qcow2", source, "target.qcow2"]);
        let compare = fine(OURS, dir, &["compare", source, "target.qcow2"]);
        assert_eq!(compare, "Images are identical.\n", "{source}");
    }
}
