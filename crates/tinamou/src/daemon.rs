//! `-daemonize` and `-pidfile`.
//!
//! A process with threads cannot fork, and a fork is not something safe code can do,
//! so the program starts itself again: the first process waits until the second says
//! that everything is set up, or ends with its status. The second gets a session of
//! its own and lets go of the terminal once it is ready. Descriptors that the caller
//! passed in are inherited. Source: QEMU's manual and behaviour.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{
    fail::{Step, Stop},
    settings::Settings,
};

/// Set in the environment of the second process.
const MARK: &str = "TINAMOU_DAEMON";

/// In the first process of `-daemonize`: starts the second, waits and ends. In all
/// others: goes on.
pub(crate) fn detach(settings: &Settings) -> Step<()> {
    if !settings.daemonize {
        return Ok(());
    }
    // Without default devices nothing would be on the standard streams, as libvirt knows.
    if settings.nographic && !settings.nodefaults {
        return Err(Stop::new("-nographic cannot be used with -daemonize"));
    }
    if is_daemon() {
        host::new_session().map_err(|e| Stop::new(format!("cannot make a session: {e}")))?;
        return Ok(());
    }
    let fail = |e: std::io::Error| Stop::new(format!("cannot start the daemon: {e}"));
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let mut command = Command::new(std::env::current_exe().map_err(fail)?);
    std::os::unix::process::CommandExt::arg0(&mut command, &name);
    command.args(args).env(MARK, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(fail)?;
    let mut said = Vec::new();
    if let Some(out) = &mut child.stdout {
        _ = out.read_to_end(&mut said);
    }
    if said == b"ready\n" {
        return Err(Stop::Done);
    }
    let status = child.wait().map_err(fail)?;
    Err(Stop::Ended(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1).max(1)))
}

fn is_daemon() -> bool {
    std::env::var_os(MARK).is_some()
}

/// In the second process: tells the first that everything is set up.
pub(crate) fn ready(settings: &Settings) -> Step<()> {
    if !settings.daemonize || !is_daemon() {
        return Ok(());
    }
    let fail = |e: std::io::Error| Stop::new(format!("cannot become a daemon: {e}"));
    let mut out = std::io::stdout();
    out.write_all(b"ready\n").and_then(|()| out.flush()).map_err(fail)?;
    host::detach_stdio().map_err(fail)
}

/// The file with the process's number; removed with this.
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it, if one was asked for.
    pub(crate) fn write(settings: &Settings) -> Step<Option<PidFile>> {
        let Some(given) = &settings.pidfile else { return Ok(None) };
        let path = PathBuf::from(&given.value);
        std::fs::write(&path, format!("{}\n", std::process::id())).map_err(|error| {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_owned();
            Stop::new(format!(
                "cannot create PID file: Could not create '{}': {text}",
                path.display()
            ))
        })?;
        Ok(Some(PidFile(path)))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}
