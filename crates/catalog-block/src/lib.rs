//! The table of block drivers.
//!
//! It stands alone, beside the catalog of devices and machines, so that the image tool links
//! drivers and nothing else. A new driver is registered by one line here. The order is that of
//! probing and of help texts. Not here: anything but names.
//! Source: the architecture page (section 3.1).

use block::BlockClass;

/// All block drivers.
pub static BLOCK: &[&BlockClass] = &[
    &block::BLKDEBUG,
    &block::COPY_ON_READ,
    &block::FILE,
    &block::HOST_CDROM,
    &block::HOST_DEVICE,
    &block::NULL_AIO,
    &block::NULL_CO,
    &block_net::nbd::CLASS,
    &block::RAW,
    &block::THROTTLE,
    &block_formats::qcow2::CLASS,
    &block_formats::luks::CLASS,
];

/// Objects that nodes refer to, for programs that have no other objects.
pub static OBJECTS: &[&device::ObjectClass] = &[&objects::secret::CLASS, &objects::throttle::CLASS];
