//! Commands about descriptors that come over the monitor.

use derive::Qapi;
use qapi::{Error, Result};

use super::QmpCommand;
use crate::Vm;

/// Keep the descriptor that comes with this command under a name.
#[derive(Qapi)]
pub(super) struct Getfd {
    /// The name.
    #[qapi(name = "fdname")]
    fdname: String,
}

impl QmpCommand for Getfd {
    const NAME: &'static str = "getfd";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.fds.name(&self.fdname)
    }
}

/// Close a descriptor that was kept under a name.
#[derive(Qapi)]
pub(super) struct Closefd {
    /// The name.
    #[qapi(name = "fdname")]
    fdname: String,
}

impl QmpCommand for Closefd {
    const NAME: &'static str = "closefd";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let missing =
            || Error::generic(format!("File descriptor named '{}' not found", self.fdname));
        vm.fds.take(&self.fdname).map(drop).ok_or_else(missing)
    }
}

/// Put the descriptor that comes with this command into a set.
#[derive(Qapi)]
pub(super) struct AddFd {
    /// The set; a new one if absent.
    fdset_id: Option<i64>,
    /// A note.
    opaque: Option<String>,
}

/// Where a descriptor went.
#[derive(Qapi)]
pub(super) struct AddfdInfo {
    /// The set.
    fdset_id: i64,
    /// Its number in this process.
    fd: i64,
}

impl QmpCommand for AddFd {
    const NAME: &'static str = "add-fd";
    type Returns = AddfdInfo;
    fn run(self, vm: &Vm) -> Result<AddfdInfo> {
        let (fdset_id, fd) = vm.fds.add(self.fdset_id, self.opaque)?;
        Ok(AddfdInfo { fdset_id, fd })
    }
}

/// Take a descriptor, or all, out of a set.
#[derive(Qapi)]
pub(super) struct RemoveFd {
    /// The set.
    fdset_id: i64,
    /// The number; all if absent.
    fd: Option<i64>,
}

impl QmpCommand for RemoveFd {
    const NAME: &'static str = "remove-fd";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.fds.remove(self.fdset_id, self.fd)
    }
}

/// A descriptor of a set.
#[derive(Qapi)]
pub(super) struct FdsetFdInfo {
    /// Its number in this process.
    fd: i64,
    /// The note that came with it.
    opaque: Option<String>,
}

/// A set of descriptors.
#[derive(Qapi)]
pub(super) struct FdsetInfo {
    /// Its number.
    fdset_id: i64,
    /// Its descriptors.
    fds: Vec<FdsetFdInfo>,
}

/// List the sets of descriptors.
#[derive(Qapi)]
pub(super) struct QueryFdsets;

impl QmpCommand for QueryFdsets {
    const NAME: &'static str = "query-fdsets";
    type Returns = Vec<FdsetInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<FdsetInfo>> {
        let mut sets: Vec<FdsetInfo> = Vec::new();
        for (fdset_id, fd, opaque) in vm.fds.list() {
            let info = FdsetFdInfo { fd, opaque };
            match sets.last_mut().filter(|set| set.fdset_id == fdset_id) {
                Some(set) => set.fds.push(info),
                None => sets.push(FdsetInfo { fdset_id, fds: vec![info] }),
            }
        }
        Ok(sets)
    }
}
