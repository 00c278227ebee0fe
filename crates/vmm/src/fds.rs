//! Descriptors that monitors were given: by name (`getfd`) and in numbered sets (`add-fd`).
//!
//! A descriptor comes over the monitor's Unix socket together with the command. Named ones are
//! taken by whoever uses the name first; those of a set stay and are duplicated whenever
//! `/dev/fdset/N` is opened. Source: the QMP reference of QEMU's manual.

use std::os::fd::{AsRawFd as _, OwnedFd};

use device::CharPort;
use parking_lot::Mutex;
use qapi::{Error, Result};

/// Most descriptors that are kept in all.
const MAX: usize = 1024;

/// A descriptor of a set.
struct SetEntry {
    set: i64,
    fd: OwnedFd,
    opaque: Option<String>,
}

/// What `query-fdsets` tells of a descriptor: set, number, note.
pub(crate) type SetInfo = (i64, i64, Option<String>);

/// All descriptors.
#[derive(Default)]
pub struct Fds {
    source: Mutex<Option<CharPort>>,
    named: Mutex<Vec<(String, OwnedFd)>>,
    sets: Mutex<Vec<SetEntry>>,
}

impl Fds {
    /// Says whose descriptors the commands mean that run from now on.
    pub fn set_source(&self, port: Option<CharPort>) {
        *self.source.lock() = port;
    }

    fn received(&self) -> Option<OwnedFd> {
        self.source.lock().as_ref().and_then(CharPort::take_fd)
    }

    /// Keeps the descriptor that came with the command under a name, in place of one before.
    pub(crate) fn name(&self, name: &str) -> Result<()> {
        let missing = "No file descriptor supplied via SCM_RIGHTS";
        let fd = self.received().ok_or_else(|| Error::generic(missing))?;
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Error::expects("fdname", "a name not starting with a digit"));
        }
        let mut named = self.named.lock();
        named.retain(|(known, _)| known != name);
        if named.len() >= MAX {
            return Err(Error::generic(format!("at most {MAX} file descriptors are kept")));
        }
        named.push((name.to_owned(), fd));
        Ok(())
    }

    /// Takes a named descriptor out.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        let mut named = self.named.lock();
        let at = named.iter().position(|(known, _)| known == name)?;
        Some(named.remove(at).1)
    }

    /// Puts the descriptor that came with the command into a set; gives set and number.
    pub(crate) fn add(&self, set: Option<i64>, opaque: Option<String>) -> Result<(i64, i64)> {
        let missing = "No file descriptor supplied via SCM_RIGHTS";
        let fd = self.received().ok_or_else(|| Error::generic(missing))?;
        self.add_fd(fd, set, opaque)
    }

    /// Puts a descriptor into a set; gives set and number.
    ///
    /// # Errors
    /// The number of the set is negative; there are too many descriptors.
    pub fn add_fd(
        &self,
        fd: OwnedFd,
        set: Option<i64>,
        opaque: Option<String>,
    ) -> Result<(i64, i64)> {
        if set.is_some_and(|set| set < 0) {
            return Err(Error::expects("fdset-id", "a non-negative value"));
        }
        let mut sets = self.sets.lock();
        if sets.len() >= MAX {
            return Err(Error::generic(format!("at most {MAX} file descriptors are kept")));
        }
        let free = || (0..).find(|n| !sets.iter().any(|e| e.set == *n)).unwrap_or(0);
        let set = set.unwrap_or_else(free);
        let number = i64::from(fd.as_raw_fd());
        sets.push(SetEntry { set, fd, opaque });
        Ok((set, number))
    }

    /// Takes a descriptor, or all, out of a set.
    pub(crate) fn remove(&self, set: i64, number: Option<i64>) -> Result<()> {
        let mut sets = self.sets.lock();
        let gone =
            |e: &SetEntry| e.set == set && number.is_none_or(|n| n == i64::from(e.fd.as_raw_fd()));
        if !sets.iter().any(gone) {
            let name = match number {
                Some(number) => format!("fdset-id:{set}, fd:{number}"),
                None => format!("fdset-id:{set}"),
            };
            return Err(Error::generic(format!("File descriptor named '{name}' not found")));
        }
        sets.retain(|e| !gone(e));
        Ok(())
    }

    /// All descriptors of sets, ordered by set.
    pub(crate) fn list(&self) -> Vec<SetInfo> {
        let sets = self.sets.lock();
        let mut list: Vec<SetInfo> =
            sets.iter().map(|e| (e.set, i64::from(e.fd.as_raw_fd()), e.opaque.clone())).collect();
        list.sort_by_key(|(set, ..)| *set);
        list
    }

    /// A duplicate of a descriptor for a path `/dev/fdset/N`; `None` for any other path. Of a
    /// set's descriptors it is the first that can be written when `write` asks for it.
    ///
    /// # Errors
    /// The set has no such descriptor.
    pub fn open(&self, path: &str, write: bool) -> Option<std::io::Result<OwnedFd>> {
        let set: i64 = path.strip_prefix("/dev/fdset/")?.parse().ok()?;
        let sets = self.sets.lock();
        let fits = |e: &&SetEntry| e.set == set && (!write || host::is_writable(&e.fd));
        let found = sets.iter().find(fits);
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        Some(found.ok_or_else(missing).and_then(|e| e.fd.try_clone()))
    }
}
