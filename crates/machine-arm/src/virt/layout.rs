//! What depends on the options: which controller, how many CPUs, where high regions lie.

use std::fs::File;
use std::io::Read as _;

use accel::FirmwareCalls;
use machine::Board;

use super::versions::Version;
use super::{Props, map};

/// Which interrupt controller the board has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gic {
    V2,
    V3,
}

/// A place in the map: first address and length.
pub(super) type Place = (u64, u64);

/// Regions above RAM; absent ones are off or do not fit the CPU's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct High {
    /// The second region of redistributors.
    pub(super) redists: Option<Place>,
    /// Configuration space of PCI.
    pub(super) ecam: Option<Place>,
    /// Memory window of PCI.
    pub(super) mmio: Option<Place>,
}

/// What the steps of creation share.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) version: Version,
    pub(super) props: Props,
    pub(super) gic: Gic,
    pub(super) ids: Vec<u64>,
    pub(super) calls: FirmwareCalls,
    pub(super) high: High,
    /// Where memory that is plugged in goes.
    pub(super) plugged: Option<Place>,
}

const GIB: u64 = 1 << 30;

fn error<T>(text: String) -> qapi::Result<T> {
    Err(qapi::Error::generic(text))
}

fn gic_version(props: &Props, most: u32) -> qapi::Result<Gic> {
    Ok(match props.gic_version.as_deref() {
        // A GICv2 serves eight CPUs.
        None if most <= 8 => Gic::V2,
        None | Some("3" | "max") => Gic::V3,
        Some("2") => Gic::V2,
        Some("4") if props.virtualization => {
            return error("virt: gic-version=4 is not built yet".into());
        }
        Some("4") => {
            return error("tcg does not support GICv4 emulation, is virtualization=on?".into());
        }
        Some("host") => return error("gic-version=host requires KVM".into()),
        Some(_) => {
            return Err(qapi::Error::generic("Invalid gic-version value")
                .with_hint("Valid values are 3, 2, host, max."));
        }
    })
}

/// Whether the guest starts in firmware, in flash.
pub(super) fn has_firmware(props: &Props, board: &Board<'_>) -> bool {
    let flash = board.config.flash.first().is_some_and(Option::is_some);
    board.config.boot.firmware.is_some() || props.pflash0.is_some() || flash
}

/// Whether the kernel is a program for the bare machine: it starts as after a reset, at the highest
/// exception level, where Linux starts at EL2 or EL1.
pub(super) fn is_bare(board: &Board<'_>) -> bool {
    let mut magic = [0; 4];
    let file = board.config.boot.kernel.as_ref().and_then(|path| File::open(path).ok());
    file.is_some_and(|mut f| f.read_exact(&mut magic).is_ok()) && magic == *b"\x7fELF"
}

impl Plan {
    pub(super) fn new(version: Version, props: Props, board: &Board<'_>) -> qapi::Result<Plan> {
        props.check()?;
        let most = board.config.max_cpus.max(board.config.cpus);
        let gic = gic_version(&props, most)?;
        let in_region = |len: u64| len / map::GIC_REDIST_STRIDE;
        let (limit, cluster) = match gic {
            Gic::V2 => (8, 8),
            Gic::V3 if props.highmem && props.highmem_redists => {
                (in_region(map::GIC_REDIST_SIZE) + in_region(map::HIGH_REDIST), 16)
            }
            Gic::V3 => (in_region(map::GIC_REDIST_SIZE), 16),
        };
        if u64::from(most) > limit {
            let text = format!(
                "Number of SMP CPUs requested ({most}) exceeds max CPUs supported by machine \
                 'mach-virt' ({limit})"
            );
            let hint = match gic {
                Gic::V3 if !props.highmem_redists => "Try 'highmem-redists=on' for more CPUs",
                _ => "",
            };
            let error = qapi::Error::generic(text);
            return Err(if hint.is_empty() { error } else { error.with_hint(hint) });
        }
        let calls = match (props.secure, props.virtualization) {
            // The guest's own firmware is in charge of EL3.
            (true, _)
                if board.config.boot.kernel.is_none()
                    || has_firmware(&props, board)
                    || is_bare(board) =>
            {
                FirmwareCalls::None
            }
            (_, true) => FirmwareCalls::Smc,
            _ => FirmwareCalls::Hvc,
        };
        let id = |i: u64| (i / cluster) << 8 | (i % cluster);
        let ids = (0..u64::from(board.config.cpus)).map(id).collect();
        let high = High::default();
        Ok(Plan { version, props, gic, ids, calls, high, plugged: None })
    }

    /// Whether an IOMMU is in front of PCI's devices.
    pub(super) fn has_iommu(&self) -> bool {
        self.props.iommu == "smmuv3"
    }

    /// Whether the GICv3 has an ITS.
    pub(super) fn has_its(&self) -> bool {
        let wanted = self.props.its.unwrap_or(self.version.its);
        self.gic == Gic::V3 && self.version.topology && wanted
    }

    /// Whether there is something that takes MSIs: the ITS or a GICv2m frame.
    pub(super) fn has_msi(&self) -> bool {
        self.gic == Gic::V2 || self.has_its()
    }

    pub(super) fn randomness(&self) -> bool {
        self.props.dtb_kaslr_seed.unwrap_or(self.props.dtb_randomness)
    }

    /// The storage behind a flash bank.
    pub(super) fn drive(&self, board: &Board<'_>, bank: usize) -> Option<String> {
        let named = [&self.props.pflash0, &self.props.pflash1];
        let named = named.get(bank).and_then(|name| (*name).clone());
        named.or_else(|| board.config.flash.get(bank).cloned().flatten())
    }

    /// Regions of redistributors that the CPUs need.
    pub(super) fn redist_regions(&self) -> usize {
        let first = map::GIC_REDIST_SIZE / map::GIC_REDIST_STRIDE;
        1 + usize::from(self.ids.len() as u64 > first)
    }

    /// Where configuration space is.
    pub(super) fn ecam(&self) -> Place {
        self.high.ecam.unwrap_or(map::PCI_ECAM)
    }

    /// Places the high regions for a CPU with this many address bits.
    pub(super) fn place_high(&mut self, board: &Board<'_>, bits: u32) -> qapi::Result<()> {
        let bits = if self.props.highmem { bits.clamp(32, 52) } else { 32 };
        let top = 1u64 << bits;
        let config = board.config;
        let ram_end = map::RAM.saturating_add(config.ram_size);
        // Room for memory that would be plugged in, each piece aligned to 1 GiB.
        let plugged = config.max_ram.saturating_sub(config.ram_size);
        let room = u64::from(config.ram_slots).saturating_mul(GIB);
        let round = |v: u64| v.checked_next_multiple_of(GIB).unwrap_or(u64::MAX);
        let pool = if plugged > 0 { plugged.saturating_add(room) } else { 0 };
        self.plugged = (pool > 0).then(|| (round(ram_end), pool));
        let ram_end = if pool > 0 { round(ram_end).saturating_add(round(pool)) } else { ram_end };
        if ram_end > top {
            return error(format!(
                "Addressing limited to {bits} bits, but memory exceeds it by {} bytes",
                ram_end - top
            ));
        }
        let mut at = round(ram_end).max(map::HIGH_BASE);
        let mut place = |on: bool, len: u64| {
            let start = at.checked_next_multiple_of(len)?;
            let end = start.checked_add(len)?;
            let fits = on && end <= top;
            if fits || !self.props.compact_highmem.unwrap_or(self.version.compact) {
                at = end;
            }
            fits.then_some((start, len))
        };
        let props = &self.props;
        let ecam = props.highmem_ecam.unwrap_or(self.version.high_ecam);
        let mmio = match &props.highmem_mmio_size {
            None => map::HIGH_MMIO,
            Some(size) => window(size.0)?,
        };
        let redists = place(props.highmem_redists, map::HIGH_REDIST);
        let ecam = place(ecam, map::HIGH_ECAM);
        let mmio = place(props.highmem_mmio, mmio);
        self.high = High { redists, ecam, mmio };
        Ok(())
    }
}

fn window(size: u64) -> qapi::Result<u64> {
    if !size.is_power_of_two() {
        return error("highmem-mmio-size is not a power of 2".into());
    }
    if size < map::HIGH_MMIO {
        return error(format!(
            "highmem-mmio-size cannot be set to a lower value than the default ({} GiB)",
            map::HIGH_MMIO >> 30
        ));
    }
    Ok(size)
}
