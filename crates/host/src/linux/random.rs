//! Random bytes from the host (getrandom(2)).

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `out` with bytes nobody can predict.
pub fn fill_random(out: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = out.get_mut(done..)
        && !rest.is_empty()
    {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
