//! Properties that all disks have, and what follows from them.
//!
//! Virtio-blk, SCSI disks and NVMe share them: which drive, sizes of blocks, geometry, caching,
//! what happens on errors. [`DiskProps::claim`] gives the device its backend. `account-*` and
//! `backend_defaults` are kept for management programs; counters count everything.
//! Source: names, defaults and messages of QEMU 10.0.

use std::sync::Arc;

use derive::Qapi;
use qapi::{Error, Result, Size};

use crate::backend::{Backend, OnError, User};
use crate::graph::Graph;

/// On, off, or as the circumstances say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum OnOffAuto {
    /// On.
    On,
    /// Off.
    Off,
    /// As the circumstances say.
    Auto,
}

/// What is done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum BlockdevOnError {
    /// The guest is told.
    Report,
    /// As if there had been none.
    Ignore,
    /// Stop when there is no space left, else report.
    Enospc,
    /// The machine stops.
    Stop,
    /// As the drive says.
    Auto,
}

impl BlockdevOnError {
    fn policy(self, drive: OnError) -> OnError {
        match self {
            BlockdevOnError::Report => OnError::Report,
            BlockdevOnError::Ignore => OnError::Ignore,
            BlockdevOnError::Enospc => OnError::Enospc,
            BlockdevOnError::Stop => OnError::Stop,
            BlockdevOnError::Auto => drive,
        }
    }
}

/// Properties that all disks have.
#[derive(Clone, Debug, Qapi)]
pub struct DiskProps {
    /// A power of two between 512 B and 2 MiB
    #[qapi(name = "logical_block_size", default = 0)]
    pub logical_block_size: Size,
    /// A power of two between 512 B and 2 MiB
    #[qapi(name = "physical_block_size", default = 0)]
    pub physical_block_size: Size,
    /// Smallest request that is fast, as the guest is told
    #[qapi(name = "min_io_size", default = 0)]
    pub min_io_size: Size,
    /// Best request, as the guest is told
    #[qapi(name = "opt_io_size", default = 0)]
    pub opt_io_size: Size,
    /// Unit of discards; 4294967295: as the device has it
    #[qapi(name = "discard_granularity", default = 4294967295)]
    pub discard_granularity: Size,
    /// Cache writes until the guest flushes
    #[qapi(name = "write-cache", default = "auto")]
    pub write_cache: OnOffAuto,
    /// Let others write to the disk as well
    #[qapi(name = "share-rw", default = false)]
    pub share_rw: bool,
    /// Error handling policy (report/ignore/enospc/stop/auto)
    #[qapi(default = "auto")]
    pub rerror: BlockdevOnError,
    /// Error handling policy (report/ignore/enospc/stop/auto)
    #[qapi(default = "auto")]
    pub werror: BlockdevOnError,
    /// Whether requests that make no sense are counted
    #[qapi(name = "account-invalid", default = "auto")]
    pub account_invalid: OnOffAuto,
    /// Whether requests that failed are counted
    #[qapi(name = "account-failed", default = "auto")]
    pub account_failed: OnOffAuto,
    /// Whether sizes come from the host's device
    #[qapi(name = "backend_defaults", default = "auto")]
    pub backend_defaults: OnOffAuto,
}

impl DiskProps {
    /// Bytes of a sector as the guest is told.
    #[must_use]
    pub fn logical(&self) -> u64 {
        if self.logical_block_size.0 == 0 { 512 } else { self.logical_block_size.0 }
    }

    /// Bytes that the disk writes at once.
    #[must_use]
    pub fn physical(&self) -> u64 {
        if self.physical_block_size.0 == 0 { self.logical() } else { self.physical_block_size.0 }
    }

    /// Checks what depends on nothing else.
    ///
    /// # Errors
    /// Sizes that cannot be, in the peer's words.
    pub fn check(&self) -> Result<()> {
        for (name, size) in [
            ("logical_block_size", self.logical_block_size.0),
            ("physical_block_size", self.physical_block_size.0),
        ] {
            if size != 0 && !(512..=2 << 20).contains(&size) {
                return Err(Error::generic(format!(
                    "parameter {name} must be between 512 and 2097152"
                )));
            }
            if size != 0 && !size.is_power_of_two() {
                return Err(Error::generic(format!("parameter {name} must be a power of 2")));
            }
        }
        if self.logical() > self.physical() {
            return Err(Error::generic("logical_block_size > physical_block_size not supported"));
        }
        for (name, size) in
            [("min_io_size", self.min_io_size.0), ("opt_io_size", self.opt_io_size.0)]
        {
            if !size.is_multiple_of(self.logical()) {
                return Err(Error::generic(format!(
                    "{name} must be a multiple of logical_block_size"
                )));
            }
        }
        Ok(())
    }

    /// The device's backend. `kind` is the device's type, for messages.
    ///
    /// # Errors
    /// There is no such drive or node, or it cannot be had.
    pub fn claim(
        &self,
        graph: Option<&Arc<Graph>>,
        (kind, property): (&str, Option<&str>),
        user: User,
    ) -> Result<Arc<Backend>> {
        let missing = |name: &str| {
            Error::generic(format!("Property '{kind}.drive' can't find value '{name}'"))
        };
        let user = User { shares_write: self.share_rw, ..user };
        let graph = graph.ok_or_else(|| missing(property.unwrap_or("")))?;
        let found = graph.claim(property, user)?;
        let backend = found.ok_or_else(|| missing(property.unwrap_or("")))?;
        match self.write_cache {
            OnOffAuto::Auto => {}
            on => {
                let on = on == OnOffAuto::On;
                backend.write_cache.store(on, std::sync::atomic::Ordering::Relaxed);
            }
        }
        for (chosen, place) in [
            (self.account_invalid, &backend.accounts.with_invalid),
            (self.account_failed, &backend.accounts.with_failed),
        ] {
            if chosen != OnOffAuto::Auto {
                place.store(chosen == OnOffAuto::On, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (reads, writes) = backend.policy();
        backend.set_policy(self.rerror.policy(reads), self.werror.policy(writes));
        Ok(backend)
    }
}
