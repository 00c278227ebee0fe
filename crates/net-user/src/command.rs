//! Commands that answer connections of the guest (`guestfwd=…-cmd:…`).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use host::socket::Stream;

/// Starts a command with the shell; its input and output are the other end of the stream.
pub(crate) fn start(command: &str) -> io::Result<Stream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let input: OwnedFd = theirs.try_clone()?.into();
    let output: OwnedFd = theirs.into();
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .spawn()?;
    // Somebody has to wait for it, or it stays as a zombie.
    evloop::spawn("guestfwd", move || {
        _ = child.wait();
    })?;
    Ok(Stream::Unix(ours))
}
