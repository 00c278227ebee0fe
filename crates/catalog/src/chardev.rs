//! Character back ends.

pub use chardev::CLASSES as CHARDEVS;
