//! Initial RAM disks: what the guest should find in one, computed on the host, and such of one program.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const REGULAR: u32 = 0o100_000;

fn number(header: &[u8], field: usize) -> u32 {
    let text = header.get(6 + 8 * field..14 + 8 * field).expect("whole header");
    u32::from_str_radix(std::str::from_utf8(text).expect("text"), 16).expect("hexadecimal")
}

/// Regular files of a cpio archive in newc form, by path.
fn files(archive: &[u8]) -> BTreeMap<String, &[u8]> {
    let (mut at, mut found) = (0, BTreeMap::new());
    let mut links: HashMap<u32, Vec<String>> = HashMap::new();
    loop {
        let header = &archive[at..];
        assert_eq!(&header[..6], b"070701", "newc header");
        let (inode, mode, size) = (number(header, 0), number(header, 1), number(header, 6));
        let name_len = number(header, 11) as usize;
        let name = String::from_utf8_lossy(&header[110..110 + name_len - 1]).into_owned();
        if name == "TRAILER!!!" {
            return found;
        }
        let start = at + (110 + name_len).next_multiple_of(4);
        let data = &archive[start..start + size as usize];
        at = start + data.len().next_multiple_of(4);
        if mode & 0o170_000 != REGULAR {
            continue;
        }
        // Names of one file: the contents come with the last.
        let names = links.entry(inode).or_default();
        names.push(name);
        for name in names.iter() {
            found.insert(name.trim_start_matches("./").to_owned(), data);
        }
    }
}

/// SHA-256 of all bytes of the files that the guest's script reads, in the order of their names.
pub fn checksum(initrd: &Path) -> String {
    let unpacked = Command::new("gzip").arg("-dc").arg(initrd).output().expect("gzip runs").stdout;
    let all = files(&unpacked);
    let wanted = |name: &&String| {
        ["bin/", "sbin/", "lib/", "usr/", "etc/"].iter().any(|dir| name.starts_with(dir))
            && !name.contains("lib/modules/")
    };
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum runs");
    let mut input = child.stdin.take().expect("piped");
    for name in all.keys().filter(wanted) {
        input.write_all(all[name]).expect("sha256sum reads");
    }
    drop(input);
    let out = child.wait_with_output().expect("sha256sum ends").stdout;
    String::from_utf8_lossy(&out).split(' ').next().unwrap_or_default().to_owned()
}

/// A file of a cpio archive in newc form.
pub fn entry(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let len = |n: usize| u32::try_from(n).expect("small");
    let fields = [0, mode, 0, 0, 1, 0, len(data.len()), 0, 0, 0, 0, len(name.len() + 1), 0];
    let mut out = b"070701".to_vec();
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A RAM disk with `tests/guests/NAME.c` as init, compiled here.
pub fn of_program(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../guests/{name}.c"));
    let (program, path) = (crate::scratch(name), crate::scratch(&format!("{name}.cpio")));
    let mut compiler = Command::new("aarch64-linux-gnu-gcc");
    compiler.args(["-O1", "-static", "-pthread", "-o"]).args([&program, &source]);
    assert!(compiler.status().is_ok_and(|s| s.success()), "{compiler:?}");
    let code = std::fs::read(&program).expect("own file");
    std::fs::remove_file(&program).expect("own file");
    let mut bytes = [entry("proc", 0o40_755, &[]), entry("dev", 0o40_755, &[])].concat();
    bytes.extend(entry("init", 0o100_755, &code));
    bytes.extend(entry("TRAILER!!!", 0, &[]));
    std::fs::write(&path, bytes).expect("a temporary file");
    path
}
