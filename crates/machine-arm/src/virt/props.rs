//! Properties of `virt`: names, defaults and help texts are QEMU 10.0's.

use derive::Qapi;

/// On, off, or as the machine thinks best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum OnOffAuto {
    /// The machine decides.
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

/// Properties of `virt`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Enable ACPI
    #[qapi(default = "auto")]
    pub acpi: OnOffAuto,
    /// Set on/off to enable/disable compact layout for high memory regions
    #[qapi(name = "compact-highmem")]
    pub compact_highmem: Option<bool>,
    /// Set on/off to enable/disable bypass_iommu for default root bus
    #[qapi(name = "default-bus-bypass-iommu", default = "off")]
    pub default_bus_bypass_iommu: bool,
    /// Overrides the "compatible" property of the dt root node
    #[qapi(name = "dt-compatible")]
    pub dt_compatible: Option<String>,
    /// Deprecated synonym of dtb-randomness
    #[qapi(name = "dtb-kaslr-seed")]
    pub dtb_kaslr_seed: Option<bool>,
    /// Set off to disable passing random or non-deterministic dtb nodes to guest
    #[qapi(name = "dtb-randomness", default = "on")]
    pub dtb_randomness: bool,
    /// Include guest memory in a core dump
    #[qapi(name = "dump-guest-core", default = "on")]
    pub dump_guest_core: bool,
    /// Set GIC version. Valid values are 2, 3, 4, host and max
    #[qapi(name = "gic-version")]
    pub gic_version: Option<String>,
    /// Set on/off to enable/disable graphics emulation
    #[qapi(default = "on")]
    pub graphics: bool,
    /// Set on/off to enable/disable using physical address space above 32 bits
    #[qapi(default = "on")]
    pub highmem: bool,
    /// Set on/off to enable/disable high memory region for PCI ECAM
    #[qapi(name = "highmem-ecam")]
    pub highmem_ecam: Option<bool>,
    /// Set on/off to enable/disable high memory region for PCI MMIO
    #[qapi(name = "highmem-mmio", default = "on")]
    pub highmem_mmio: bool,
    /// Set the high memory region size for PCI MMIO
    #[qapi(name = "highmem-mmio-size")]
    pub highmem_mmio_size: Option<qapi::Size>,
    /// Set on/off to enable/disable high memory region for GICv3 or GICv4 redistributor
    #[qapi(name = "highmem-redists", default = "on")]
    pub highmem_redists: bool,
    /// Set the IOMMU type. Valid values are none and smmuv3
    #[qapi(default = "none")]
    pub iommu: String,
    /// Set on/off to enable/disable ITS instantiation
    pub its: Option<bool>,
    /// Enable/disable memory merge support
    #[qapi(name = "mem-merge", default = "on")]
    pub mem_merge: bool,
    /// Set RAM backendValid value is ID of hostmem based backend
    #[qapi(name = "memory-backend")]
    pub memory_backend: Option<String>,
    /// Set on/off to enable/disable emulating a guest CPU which implements the ARM Memory Tagging Extension
    #[qapi(default = "off")]
    pub mte: bool,
    /// Node name or ID of a block device to use as a backend
    pub pflash0: Option<String>,
    /// Node name or ID of a block device to use as a backend
    pub pflash1: Option<String>,
    /// The first phandle ID we may generate dynamically
    #[qapi(name = "phandle-start", default = "0")]
    pub phandle_start: i64,
    /// Set on/off to enable/disable reporting host memory errors to a KVM guest using ACPI and guest external abort exceptions
    #[qapi(default = "off")]
    pub ras: bool,
    /// Set on/off to enable/disable the ARM Security Extensions (TrustZone)
    #[qapi(default = "off")]
    pub secure: bool,
    /// Set on to disable self-describing migration
    #[qapi(name = "suppress-vmdesc", default = "off")]
    pub suppress_vmdesc: bool,
    /// Set on/off to enable/disable usb
    #[qapi(default = "off")]
    pub usb: bool,
    /// Set on/off to enable/disable emulating a guest CPU which implements the ARM Virtualization Extensions
    #[qapi(default = "off")]
    pub virtualization: bool,
    /// Override the default value of field OEMID in ACPI table header.The string may be up to 6 bytes in size
    #[qapi(name = "x-oem-id")]
    pub x_oem_id: Option<String>,
    /// Override the default value of field OEM Table ID in ACPI table header.The string may be up to 8 bytes in size
    #[qapi(name = "x-oem-table-id")]
    pub x_oem_table_id: Option<String>,
}

impl Props {
    /// What is not built, or not as told, with the line the user sees.
    pub(super) fn check(&self) -> qapi::Result<()> {
        match self.iommu.as_str() {
            "none" | "smmuv3" => {}
            _ => {
                return Err(qapi::Error::generic("Invalid iommu value")
                    .with_hint("Valid values are none, smmuv3."));
            }
        }
        for (on, what) in [(self.usb, "usb=on"), (self.phandle_start != 0, "phandle-start")] {
            if on {
                return refuse(what);
            }
        }
        if self.ras {
            return Err(qapi::Error::generic(
                "tcg does not support providing RAS to the guest CPU",
            ));
        }
        if self.mte {
            return Err(qapi::Error::generic("MTE requested, but not supported by the guest CPU"));
        }
        for (value, what, len) in
            [(&self.x_oem_id, "OEMID", 6), (&self.x_oem_table_id, "OEM Table ID", 8)]
        {
            if value.as_ref().is_some_and(|v| v.len() > len) {
                return Err(qapi::Error::generic(format!(
                    "User specified {what} value is bigger than {len} bytes in size"
                )));
            }
        }
        Ok(())
    }
}

fn refuse(what: &str) -> qapi::Result<()> {
    Err(qapi::Error::generic(format!("virt: {what} is not built yet")))
}
