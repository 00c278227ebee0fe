//! The memory map and interrupt numbers of `virt` (QEMU 10.0: `info mtree`, `dumpdtb`).

use machine::{Slot, slot};

pub(super) const GIC_DIST: u64 = 0x0800_0000;
pub(super) const GIC_CPU: u64 = 0x0801_0000;
pub(super) const GIC_VIFACE: u64 = 0x0803_0000;
pub(super) const GIC_VCPU: u64 = 0x0804_0000;
pub(super) const GIC_FRAME: u64 = 0x1_0000;
pub(super) const GIC_REDIST: u64 = 0x080a_0000;
pub(super) const GIC_REDIST_SIZE: u64 = 0x00f6_0000;
/// Two 64 KiB frames per CPU.
pub(super) const GIC_REDIST_STRIDE: u64 = 0x2_0000;
pub(super) const RAM: u64 = 0x4000_0000;

/// Shared interrupts of the board.
pub(super) const SHARED_IRQS: u32 = 256;

/// Private interrupts (INTIDs) of the CPUs' timers and PMUs, by the CPU's output name.
pub(super) const TIMERS: &[(&str, u32)] =
    &[("cntps", 29), ("cntp", 30), ("cntv", 27), ("cnthp", 26), ("cnthv", 28), ("pmu", PMU)];
/// Private interrupt of the performance monitors.
pub(super) const PMU: u32 = 23;
/// Private interrupt of virtual interface maintenance.
pub(super) const MAINTENANCE: u32 = 25;

pub(super) const UART: Slot = slot("uart0", "pl011", 0x0900_0000, 0x1000, Some(1));
pub(super) const RTC: Slot = slot("rtc", "pl031", 0x0901_0000, 0x1000, Some(2));
pub(super) const FW_CFG: Slot =
    slot("fw_cfg", "fw_cfg_mem", 0x0902_0000, 0x18, None).with_banks(&[0x8, 0x0, 0x10]);

pub(super) const GPIO: Slot = slot("gpio", "pl061", 0x0903_0000, 0x1000, Some(7));
/// Line of the GPIO controller that the power key is on.
pub(super) const POWER_LINE: u32 = 3;

/// The ACPI event device: address and shared interrupt.
pub(super) const EVENTS: (u64, u32) = (0x0908_0000, 9);

/// The IOMMU of PCI: address, length, first of four shared interrupts.
pub(super) const SMMU: (u64, u64, u32) = (0x0905_0000, 0x2_0000, 74);

/// Registers of the slots for memory: address and length.
pub(super) const MEMORY_SLOTS: (u64, u64) = (0x0907_0000, 0x18);

/// Virtio transports: first address, distance, first interrupt, number.
pub(super) const VIRTIO: u64 = 0x0a00_0000;
pub(super) const VIRTIO_SIZE: u64 = 0x200;
pub(super) const VIRTIO_IRQ: u32 = 16;
pub(super) const VIRTIO_COUNT: u32 = 32;

/// The MSI frame of a GICv2: address, first shared interrupt, number of them.
pub(super) const V2M: u64 = 0x0802_0000;
pub(super) const V2M_SIZE: u64 = 0x1000;
pub(super) const V2M_SPI: u32 = 48;
pub(super) const V2M_COUNT: u32 = 64;

/// PCI: memory, ports, configuration space (low and high), high memory, first interrupt.
pub(super) const PCI_MMIO: (u64, u64) = (0x1000_0000, 0x2eff_0000);
pub(super) const PCI_PIO: (u64, u64) = (0x3eff_0000, 0x1_0000);
pub(super) const PCI_ECAM: (u64, u64) = (0x3f00_0000, 0x0100_0000);
/// High regions, in order: none begins below this, each is aligned to its length.
pub(super) const HIGH_BASE: u64 = 256 << 30;
pub(super) const HIGH_REDIST: u64 = 64 << 20;
pub(super) const HIGH_ECAM: u64 = 256 << 20;
pub(super) const HIGH_MMIO: u64 = 512 << 30;
pub(super) const PCI_IRQ: u32 = 3;

/// The first flash bank; the second one follows.
pub(super) const FLASH: (u64, u64) = (0, 0x0400_0000);
/// The interrupt translation service: control frame, then the frame of doorbells.
pub(super) const ITS: (u64, u64) = (0x0808_0000, 0x2_0000);
/// The bus for devices that users add without a bus of their own; always empty here.
pub(super) const PLATFORM: (u64, u64) = (0x0c00_0000, 0x0200_0000);

/// Of the secure world alone.
pub(super) const SECURE_RAM: (u64, u64) = (0x0e00_0000, 0x0100_0000);
/// The second one of the plain world, where there is no secure one.
pub(super) const UART2: Slot = slot("uart1", "pl011", 0x0904_0000, 0x1000, Some(8));
pub(super) const SECURE_UART: Slot = slot("uart1", "pl011", 0x0904_0000, 0x1000, Some(8));
pub(super) const SECURE_GPIO: Slot = slot("secure-gpio", "pl061", 0x090b_0000, 0x1000, Some(0));

/// What is on the board besides memory, CPUs and their interrupt controller.
pub(super) const SLOTS: &[Slot] = &[UART, RTC, GPIO, FW_CFG];
