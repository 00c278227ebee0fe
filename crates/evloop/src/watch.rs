//! The guard of a watched descriptor.

use host::Interest;

use crate::Handle;

/// Keeps a watcher registered; dropping it ends the watch.
#[must_use = "dropping a watch ends it"]
pub struct Watch {
    handle: Handle,
    key: usize,
}

impl Watch {
    pub(crate) fn new(handle: Handle, key: usize) -> Watch {
        Watch { handle, key }
    }

    /// Changes what is waited for.
    pub fn set_interest(&self, interest: Interest) {
        let _ = self.handle.shared().poller.modify(self.key, interest);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.forget(self.key);
    }
}
