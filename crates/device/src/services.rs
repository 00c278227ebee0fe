//! What the host side of a machine offers its devices, found by type.
//!
//! Storage, networks and whatever else lives in a crate above this one puts one
//! value per type here before the machine is made; devices ask for the type they
//! know ([`Services::find`]). [`Storage`] is the smallest of them: what a device
//! sees of a disk that it copies to memory and writes back in pieces (flash).
//! Not here: the block graph itself (crate `block`), which implements it.
//! Source: the design pages (architecture, section 3.3).

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

/// One value per type; clones share it.
#[derive(Clone, Default)]
pub struct Services(Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>);

impl Services {
    /// Puts a value in, in place of one of its type.
    pub fn add<T: Any + Clone + Send + Sync>(&self, service: T) {
        self.0.lock().insert(TypeId::of::<T>(), Arc::new(service));
    }

    /// The value of a type.
    #[must_use]
    pub fn find<T: Any + Clone + Send + Sync>(&self) -> Option<T> {
        self.0.lock().get(&TypeId::of::<T>())?.downcast_ref::<T>().cloned()
    }
}

/// A disk as seen by a device that needs it whole and at once. Calls block.
pub trait Storage: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;
    /// Fills `into` from byte `at` on.
    ///
    /// # Errors
    /// What the disk says; ends beyond its length are errors.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes `data` at byte `at`; it is on the disk when this returns.
    ///
    /// # Errors
    /// What the disk says.
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()>;
}

/// Opens disks by name (a block node or a drive). The service is `Arc<dyn StorageSource>`.
pub trait StorageSource: Send + Sync {
    /// The disk that `id` names; `writable` asks for the permission to write.
    ///
    /// # Errors
    /// There is none, or somebody else has it.
    fn storage(&self, id: &str, writable: bool) -> qapi::Result<Arc<dyn Storage>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_type_and_replaced() {
        let services = Services::default();
        assert_eq!(services.find::<u32>(), None);
        services.add(1u32);
        services.clone().add(2u32);
        assert_eq!((services.find::<u32>(), services.find::<u64>()), (Some(2), None));
    }
}
