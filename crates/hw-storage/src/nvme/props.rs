//! Properties of `nvme`, with the peer's names and defaults.
//!
//! Those of what is not built are taken at their defaults and refused otherwise.

use derive::Qapi;
use qapi::{Error, Result};

use super::ns::NvmeDisk;

pci::named_property!(
    /// A memory object.
    MemoryLink, "link<memory-backend>"
);
pci::named_property!(
    /// A subsystem.
    SubsystemLink, "link<nvme-subsys>"
);

/// Properties of `nvme`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Serial number
    pub serial: Option<String>,
    /// Most I/O queues of each kind
    #[qapi(name = "max_ioqpairs", default = 64)]
    pub max_ioqpairs: u32,
    /// The same and one more, as it was called before; 0: not given
    #[qapi(name = "num_queues", default = 0)]
    pub num_queues: u32,
    /// Number of MSI-X vectors
    #[qapi(name = "msix_qsize", default = 65)]
    pub vectors: u16,
    /// Most bytes of one transfer, as a power of two of 4 KiB; 0: no limit
    #[qapi(default = 7)]
    pub mdts: u8,
    /// Most entries of a queue but one
    #[qapi(default = 2047)]
    pub mqes: u16,
    /// Most requests for events but one; only 3 is built
    #[qapi(default = 3)]
    pub aerl: u8,
    /// Most events that wait
    #[qapi(name = "aer_max_queued", default = 64)]
    pub aer_max_queued: u32,
    /// Limit of verify, as it is told
    #[qapi(default = 7)]
    pub vsl: u8,
    /// Say that Intel made it
    #[qapi(name = "use-intel-id", default = false)]
    pub use_intel_id: bool,
    /// Critical warnings of the health log
    #[qapi(name = "smart_critical_warning")]
    pub warning: Option<u8>,
    /// Handle doorbells outside of the CPU's thread; without a visible effect
    #[qapi(default = false)]
    pub ioeventfd: bool,
    /// Offer doorbell buffers; not built, so they are not announced
    #[qapi(default = true)]
    pub dbcs: bool,
    /// Log pages of the Open Compute Project; not built
    #[qapi(default = false)]
    pub ocp: bool,
    /// MSI-X in a region of its own; not built
    #[qapi(name = "msix-exclusive-bar", default = false)]
    pub exclusive: bool,
    /// Controller memory buffer in MiB; not built
    #[qapi(name = "cmb_size_mb", default = 0)]
    pub cmb_size_mb: u32,
    /// Persistent memory region; not built
    pub pmrdev: Option<MemoryLink>,
    /// Subsystem; not built
    pub subsys: Option<SubsystemLink>,
    /// Memory-based media; not built
    #[qapi(name = "ctratt.mem", default = false)]
    pub mem: bool,
    /// Atomic writes are normal ones; not built
    #[qapi(name = "atomic.dn", default = false)]
    pub atomic_dn: bool,
    /// Blocks of an atomic write but one; not built
    #[qapi(name = "atomic.awun", default = 0)]
    pub awun: u16,
    /// The same when power fails; not built
    #[qapi(name = "atomic.awupf", default = 0)]
    pub awupf: u16,
    /// Port of a server of SPDM; not built
    #[qapi(name = "spdm_port", default = 0)]
    pub spdm_port: u16,
    /// Virtual functions; not built
    #[qapi(name = "sriov_max_vfs", default = 0)]
    pub max_vfs: u16,
    /// Interrupts of a virtual function; not built
    #[qapi(name = "sriov_max_vi_per_vf", default = 0)]
    pub max_vi: u32,
    /// Queues of a virtual function; not built
    #[qapi(name = "sriov_max_vq_per_vf", default = 0)]
    pub max_vq: u32,
    /// Interrupts that are dealt out; not built
    #[qapi(name = "sriov_vi_flexible", default = 0)]
    pub vi_flexible: u16,
    /// Queues that are dealt out; not built
    #[qapi(name = "sriov_vq_flexible", default = 0)]
    pub vq_flexible: u16,
    /// Zones change their states by themselves; there are none
    #[qapi(name = "zoned.auto_transition", default = true)]
    pub auto_transition: bool,
    /// Limit of appending to zones; there are none
    #[qapi(name = "zoned.zasl", default = 0)]
    pub zasl: u8,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub disk: NvmeDisk,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub pci: pci::Common,
}

impl Props {
    /// I/O queues of each kind.
    pub(super) fn queues(&self) -> u32 {
        if self.num_queues > 1 { self.num_queues - 1 } else { self.max_ioqpairs }
    }

    /// Refuses what cannot be or is not built.
    pub(super) fn check(&self) -> Result<()> {
        self.pci.check("nvme")?;
        let fail = |text: &str| Err(Error::generic(text));
        if self.serial.is_none() {
            return fail("serial property not set");
        }
        if !(1..=65535).contains(&self.queues()) {
            return fail("max_ioqpairs must be between 1 and 65535");
        }
        if !(1..=2048).contains(&self.vectors) {
            return fail("msix_qsize must be between 1 and 2048");
        }
        if self.mqes == 0 {
            return fail("mqes property cannot be less than 1");
        }
        let absent = [
            (self.cmb_size_mb != 0, "cmb_size_mb"),
            (self.pmrdev.is_some(), "pmrdev"),
            (self.subsys.is_some(), "subsys"),
            (self.exclusive, "msix-exclusive-bar"),
            (self.mem, "ctratt.mem"),
            (self.atomic_dn || self.awun != 0 || self.awupf != 0, "atomic.*"),
            (self.spdm_port != 0, "spdm_port"),
            (self.ocp, "ocp"),
            (self.max_vfs != 0 || self.max_vi != 0 || self.max_vq != 0, "sriov_*"),
            (self.vi_flexible != 0 || self.vq_flexible != 0, "sriov_*"),
            (self.zasl != 0 || !self.auto_transition, "zoned.*"),
            (self.aerl != 3, "aerl"),
        ];
        match absent.iter().find(|(given, _)| *given) {
            Some((_, name)) => {
                Err(Error::generic(format!("Property 'nvme.{name}' is not supported")))
            }
            None => Ok(()),
        }
    }
}
