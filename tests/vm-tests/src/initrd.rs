//! What the guest should find in its initial RAM disk, computed on the host.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    path::Path,
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
