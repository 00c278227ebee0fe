//! Objects that users make.

use device::ObjectClass;
use objects::{iothread, memory, rng, secret, throttle};

/// All object classes, sorted by name.
pub static OBJECTS: &[&ObjectClass] = &[
    &iothread::CLASS,
    &memory::FILE,
    &memory::MEMFD,
    &memory::RAM,
    &rng::BUILTIN,
    &rng::RANDOM,
    &secret::CLASS,
    &throttle::CLASS,
];

/// The class of a name.
#[must_use]
pub fn object(name: &str) -> Option<&'static ObjectClass> {
    OBJECTS.iter().copied().find(|class| class.name == name)
}
