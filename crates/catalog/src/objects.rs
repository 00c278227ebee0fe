//! Types of user-made objects.

use device::ObjectClass;

/// All object types, sorted by name.
pub static OBJECTS: &[&ObjectClass] = &[];
