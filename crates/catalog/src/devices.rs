//! Devices.

use device::DeviceClass;

/// All device classes, sorted by crate and name.
pub static DEVICES: &[&DeviceClass] = &[
    &hw_char::pl011::CLASS,
    &hw_intc::gicv2::CLASS,
    &hw_intc::gicv3::CLASS,
    &hw_intc::gicv2m::CLASS,
    &hw_misc::edu::CLASS,
    &hw_misc::fw_cfg::CLASS,
    &hw_misc::gpio_key::CLASS,
    &hw_misc::pci_testdev::CLASS,
    &hw_intc::its::CLASS,
    &hw_misc::gpio_pwr::CLASS,
    &hw_misc::loader::CLASS,
    &hw_misc::pl061::CLASS,
    &hw_pcihost::gpex::CLASS,
    &hw_storage::pflash_cfi01::CLASS,
    &hw_timer::pl031::CLASS,
    &hw_virtio::balloon::CLASS,
    &hw_virtio::pci::BALLOON,
    &hw_virtio::pci::BALLOON_MODERN,
    &hw_virtio::pci::BALLOON_TRANSITIONAL,
    &hw_virtio::pci::RNG,
    &hw_virtio::pci::RNG_MODERN,
    &hw_virtio::pci::RNG_TRANSITIONAL,
    &hw_virtio::pci::SERIAL,
    &hw_virtio::pci::SERIAL_MODERN,
    &hw_virtio::pci::SERIAL_TRANSITIONAL,
    &hw_virtio::rng::CLASS,
    &hw_virtio::serial::CLASS,
    &hw_virtio::serial_port::CONSOLE,
    &hw_virtio::serial_port::PORT,
    &virtio::mmio::CLASS,
];
