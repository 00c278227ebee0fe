//! What every back end can do: keep a log of its output.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharReceiver};

use crate::file::errno_text;

/// Arguments of every back end.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct Common {
    /// File that keeps a copy of the output.
    pub logfile: Option<String>,
    /// Keep what is in that file.
    pub logappend: Option<bool>,
}

impl Common {
    /// The log file, opened, if there is to be one.
    pub(crate) fn open_log(&self) -> qapi::Result<Option<Arc<File>>> {
        let Some(path) = &self.logfile else { return Ok(None) };
        let append = self.logappend == Some(true);
        let mut options = OpenOptions::new();
        options.create(true).write(true).append(append).truncate(!append);
        let file = options.open(path).map_err(|e| {
            let text = errno_text(&e);
            qapi::Error::generic(format!("Unable to open logfile {path}: {text}"))
        })?;
        Ok(Some(Arc::new(file)))
    }
}

/// A back end whose output goes to a log as well.
pub(crate) struct Logged {
    pub(crate) inner: Arc<dyn CharBackend>,
    pub(crate) log: Arc<File>,
}

impl CharBackend for Logged {
    fn send(&self, data: &[u8]) -> usize {
        let taken = self.inner.send(data);
        // A full disk costs the log, not the guest.
        _ = (&*self.log).write_all(data.get(..taken).unwrap_or(data));
        taken
    }
    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.inner.attach(front);
    }
    fn accept_input(&self) {
        self.inner.accept_input();
    }
    fn is_open(&self) -> bool {
        self.inner.is_open()
    }
    fn take_fd(&self) -> Option<OwnedFd> {
        self.inner.take_fd()
    }
}
