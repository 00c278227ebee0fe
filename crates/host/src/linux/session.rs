//! Sessions and standard streams of a daemon (setsid(2), dup2(2)).

use std::fs::OpenOptions;
use std::io;

/// Makes this process the leader of a session without terminal.
///
/// # Errors
/// It leads a process group already.
pub fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Points the standard streams at nothing.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn detach_stdio() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
