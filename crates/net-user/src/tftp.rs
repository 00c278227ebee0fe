//! TFTP server (RFC 1350, 2347 to 2349): reads of files below one directory.
//!
//! Not modelled: writes and the mode `mail`; `netascii` is sent as it is.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use crate::wire::Fields as _;

const MAX_SESSIONS: usize = 20;
/// A session ends after this time without a packet, in nanoseconds.
const LIFE: u64 = 5_000_000_000;
const MAX_BLOCK: usize = 1428;

const READ: u16 = 1;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTIONS: u16 = 6;

struct Session {
    client: SocketAddr,
    file: File,
    block: usize,
    /// Number of the block that was sent last.
    last: u64,
    finished: bool,
    until: u64,
}

/// The server.
#[derive(Default)]
pub(crate) struct Tftp {
    sessions: Vec<Session>,
}

fn error(code: u16, text: &str) -> Vec<u8> {
    let mut reply = ERROR.to_be_bytes().to_vec();
    reply.extend(code.to_be_bytes());
    reply.extend(text.as_bytes());
    reply.push(0);
    reply
}

/// The path below `root`; `None` for what leads out of it.
fn below(root: &Path, name: &str) -> Option<PathBuf> {
    let name = name.trim_start_matches('/');
    let ok = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let path = root.join(name).canonicalize().ok().filter(|_| ok && !name.is_empty())?;
    path.starts_with(root.canonicalize().ok()?).then_some(path)
}

impl Tftp {
    /// Answers a datagram to port 69.
    pub(crate) fn answer(
        &mut self,
        root: &Path,
        client: SocketAddr,
        data: &[u8],
        now: u64,
    ) -> Option<Vec<u8>> {
        self.sessions.retain(|session| session.until > now);
        match data.at16(0)? {
            READ => Some(self.begin(root, client, data.get(2..)?, now)),
            ACK => self.acknowledged(client, data.at16(2)?, now),
            ERROR => {
                self.sessions.retain(|session| session.client != client);
                None
            }
            _ => Some(error(4, "Only read requests are served")),
        }
    }

    fn begin(&mut self, root: &Path, client: SocketAddr, data: &[u8], now: u64) -> Vec<u8> {
        self.sessions.retain(|session| session.client != client);
        let mut words = data.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let (Some(name), Some(mode)) = (words.next(), words.next()) else {
            return error(4, "Illegal request");
        };
        if !matches!(mode.to_ascii_lowercase().as_str(), "octet" | "netascii") {
            return error(4, "Unsupported transfer mode");
        }
        let file = below(root, &name).and_then(|path| File::open(path).ok());
        let meta = file.as_ref().and_then(|file| file.metadata().ok()).filter(|m| m.is_file());
        let (Some(file), Some(meta)) = (file, meta) else {
            return error(1, "File not found");
        };
        if self.sessions.len() >= MAX_SESSIONS {
            self.sessions.remove(0);
        }
        let (mut block, mut agreed) = (512, Vec::new());
        let options: Vec<_> = words.take(16).collect();
        for pair in options.chunks_exact(2) {
            let [name, value] = pair else { continue };
            match (name.to_ascii_lowercase().as_str(), value.parse::<usize>()) {
                ("blksize", Ok(size)) if size >= 8 => {
                    block = size.min(MAX_BLOCK);
                    agreed.extend(format!("blksize\0{block}\0").bytes());
                }
                ("tsize", Ok(_)) => agreed.extend(format!("tsize\0{}\0", meta.len()).bytes()),
                ("timeout", Ok(seconds @ 1..=255)) => {
                    agreed.extend(format!("timeout\0{seconds}\0").bytes());
                }
                _ => {}
            }
        }
        let until = now.saturating_add(LIFE);
        let mut session = Session { client, file, block, last: 0, finished: false, until };
        let reply = if agreed.is_empty() {
            session.send(1)
        } else {
            let mut reply = OPTIONS.to_be_bytes().to_vec();
            reply.extend(agreed);
            reply
        };
        self.sessions.push(session);
        reply
    }

    fn acknowledged(&mut self, client: SocketAddr, block: u16, now: u64) -> Option<Vec<u8>> {
        let at = self.sessions.iter().position(|session| session.client == client)?;
        let session = self.sessions.get_mut(at)?;
        session.until = now.saturating_add(LIFE);
        let expected = u16::try_from(session.last & 0xffff).unwrap_or(0);
        if block != expected {
            // The guest missed the last block, or says something twice.
            return (block.wrapping_add(1) == expected && session.last > 0)
                .then(|| session.send(session.last));
        }
        if session.finished {
            self.sessions.remove(at);
            return None;
        }
        let next = session.last.checked_add(1)?;
        Some(session.send(next))
    }
}

impl Session {
    fn send(&mut self, number: u64) -> Vec<u8> {
        self.last = number;
        let mut reply = DATA.to_be_bytes().to_vec();
        reply.extend(u16::try_from(number & 0xffff).unwrap_or(0).to_be_bytes());
        let head = reply.len();
        reply.resize(head + self.block, 0);
        let mut at = number.saturating_sub(1).saturating_mul(self.block as u64);
        let mut got = 0;
        while let Some(room) = reply.get_mut(head + got..).filter(|room| !room.is_empty()) {
            match self.file.read_at(room, at) {
                Ok(0) => break,
                Ok(n) => {
                    got += n;
                    at = at.saturating_add(n as u64);
                }
                Err(_) => return error(0, "Read error"),
            }
        }
        reply.truncate(head + got);
        self.finished = got < self.block;
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(tftp: &mut Tftp, root: &Path, data: &[u8]) -> Option<Vec<u8>> {
        tftp.answer(root, "10.0.2.15:1234".parse().unwrap(), data, 0)
    }

    #[test]
    fn files_come_in_blocks_with_the_agreed_size() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..2000u32).map(|n| n as u8).collect();
        std::fs::write(dir.path().join("f"), &content).unwrap();
        let mut tftp = Tftp::default();
        let reply =
            ask(&mut tftp, dir.path(), b"\0\x01f\0octet\0tsize\x000\0blksize\x001000\0").unwrap();
        assert_eq!(reply, b"\0\x06tsize\x002000\0blksize\x001000\0");
        let mut got = Vec::new();
        for block in 0..3u8 {
            let data = ask(&mut tftp, dir.path(), &[0, 4, 0, block]).unwrap();
            assert_eq!(&data[..4], &[0, 3, 0, block + 1]);
            // Said twice, it is sent twice.
            got.extend_from_slice(&data[4..]);
        }
        assert_eq!(got, content);
        assert_eq!(ask(&mut tftp, dir.path(), &[0, 4, 0, 3]), None);
        assert!(tftp.sessions.is_empty());
    }

    #[test]
    fn nothing_outside_of_the_directory_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        let mut tftp = Tftp::default();
        for name in ["../secret", "/../secret", "a/../../secret", "link", "", ".", "/etc/passwd"] {
            let request = [b"\0\x01", name.as_bytes(), b"\0octet\0"].concat();
            let reply = ask(&mut tftp, &root, &request).unwrap();
            assert_eq!(&reply[..4], &[0, 5, 0, 1], "{name}");
        }
        for broken in [&b""[..], b"\0", b"\0\x01", b"\0\x01f", b"\0\x02f\0octet\0", b"\0\x04\0"] {
            let reply = ask(&mut tftp, &root, broken);
            assert!(reply.is_none_or(|reply| reply[..2] == [0, 5]), "{broken:?}");
        }
    }
}
