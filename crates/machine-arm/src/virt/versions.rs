//! The versions of `virt`: what an older one does differently, as far as a guest sees it
//! (QEMU 10.0: device trees of all versions compared).

use machine::{Board, MachineClass, MachineType};

use super::Props;

/// One version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) name: &'static str,
    summary: &'static str,
    /// Since 2.7: `its` is on by default.
    pub(super) its: bool,
    /// Since 2.7: the PMU is told of.
    pub(super) pmu: bool,
    /// Since 2.9: the timers' interrupts are told to be level-triggered.
    pub(super) timer_level: bool,
    /// Since 3.0: configuration space lies high.
    pub(super) high_ecam: bool,
    /// Since 4.2: with firmware the power button is an ACPI event.
    pub(super) events: bool,
    /// The version in SMBIOS: no more than "1.0" until 2.11.
    pub(super) smbios: &'static str,
    /// Most bytes of a memory device in SMBIOS: 16 GiB until 9.0.
    pub(super) memory_device: u64,
    /// Until 5.0: ACPI tells of the flash banks.
    pub(super) flash_told: bool,
    /// Until 5.0: nodes may be given by size.
    pub(super) nodes_by_size: bool,
    /// Since 9.2: the IOMMU has both stages.
    pub(super) nested_iommu: bool,
    /// Since 6.0: a GPIO controller of the secure world.
    pub(super) secure_gpio: bool,
    /// Since 6.2: the CPUs' topology is told, and there is an ITS.
    pub(super) topology: bool,
    /// Since 7.2: regions that are off take no room in high memory.
    pub(super) compact: bool,
}

/// Number of versions.
const COUNT: usize = 28;

/// Major and minor number, name and summary.
type Named = ((u32, u32), &'static str, &'static str);

macro_rules! named {
    ($($major:literal . $minor:literal $(, $note:literal)?;)*) => {
        [$((
            ($major, $minor),
            concat!("virt-", $major, ".", $minor),
            concat!("QEMU ", $major, ".", $minor, " ARM Virtual Machine" $(, $note)?),
        )),*]
    };
}

const NAMED: [Named; COUNT] = named! {
    10 . 0; 9 . 2; 9 . 1; 9 . 0; 8 . 2; 8 . 1; 8 . 0; 7 . 2; 7 . 1;
    7 . 0, " (deprecated)"; 6 . 2, " (deprecated)"; 6 . 1, " (deprecated)"; 6 . 0, " (deprecated)";
    5 . 2, " (deprecated)"; 5 . 1, " (deprecated)"; 5 . 0, " (deprecated)";
    4 . 2, " (deprecated)"; 4 . 1, " (deprecated)"; 4 . 0, " (deprecated)";
    3 . 1, " (deprecated)"; 3 . 0, " (deprecated)";
    2 . 12, " (deprecated)"; 2 . 11, " (deprecated)"; 2 . 10, " (deprecated)"; 2 . 9, " (deprecated)";
    2 . 8, " (deprecated)"; 2 . 7, " (deprecated)"; 2 . 6, " (deprecated)";
};

const fn version(((major, minor), name, summary): Named) -> Version {
    let number = major * 100 + minor;
    Version {
        name,
        summary,
        its: number >= 207,
        pmu: number >= 207,
        timer_level: number >= 209,
        high_ecam: number >= 300,
        events: number >= 402,
        smbios: if number >= 212 { name } else { "1.0" },
        memory_device: if number >= 901 { 2047 << 30 } else { 16 << 30 },
        flash_told: number <= 500,
        nested_iommu: number >= 902,
        nodes_by_size: number <= 500,
        secure_gpio: number >= 600,
        topology: number >= 602,
        compact: number >= 702,
    }
}

/// The version of this position, newest first.
struct Virt<const AT: usize>;

impl<const AT: usize> Virt<AT> {
    const VERSION: Version = version(NAMED[AT]);
}

impl<const AT: usize> MachineType for Virt<AT> {
    const NAME: &'static str = Self::VERSION.name;
    const ALIAS: Option<&'static str> = if AT == 0 { Some("virt") } else { None };
    const SUMMARY: &'static str = Self::VERSION.summary;
    const ARCH: Option<&'static str> = Some("aarch64");
    const DEFAULT_CPU: Option<&'static str> = Some("cortex-a57");
    const MAX_CPUS: u32 = 512;
    const TAKES_NODES: bool = true;
    const NODES_BY_SIZE: bool = Self::VERSION.nodes_by_size;
    type Props = Props;

    fn create(props: Props, board: &mut Board<'_>) -> qapi::Result<()> {
        super::create(Self::VERSION, props, board)
    }
}

macro_rules! classes {
    ($($at:literal)*) => {
        /// The classes of all versions, newest first.
        pub static CLASSES: [MachineClass; COUNT] = [$(MachineClass::of::<Virt<$at>>()),*];
    };
}

classes!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27);
