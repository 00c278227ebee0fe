//! `scsi-hd` and `scsi-cd`: disks and CD drives on a SCSI bus.
//!
//! Properties and names are those of QEMU 10.0; the commands are the crate `scsi`. A CD drive may
//! be empty, its medium can be changed, and the guest can open, close and lock its tray.
//! Saved: the tray and its lock, what the guest was not told yet, the write cache; commands that
//! wait for the machine to go on are the controller's.
//! Not modelled: `rotation_rate` is told and nothing else; geometry properties, compatibility
//! switches of old machine types.
//! Source: SBC-4 and MMC-6 (in `scsi`); the peer's help texts and messages.

use std::sync::Arc;

use block::{Backend, DiskProps, Graph, Slotted, SlottedDevice, User};
use derive::Qapi;
use device::{Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset};
use qapi::{Error, Size};
use scsi::{Disk, Identity, Plugged, Sense, Unit};

/// The class of disks.
pub static HD: DeviceClass = DeviceClass::of::<ScsiHd>();
/// The class of CD drives.
pub static CD: DeviceClass = DeviceClass::of::<ScsiCd>();

/// Properties of both.
#[derive(Clone, Debug, Qapi)]
pub struct Common {
    /// Node name or ID of a block device to use as a backend
    pub drive: Option<String>,
    /// Channel
    #[qapi(default = 0)]
    pub channel: u32,
    /// Target; 4294967295: the first free one
    #[qapi(name = "scsi-id", default = 4294967295)]
    pub scsi_id: u32,
    /// Unit at the target; 4294967295: the first free one
    #[qapi(default = 4294967295)]
    pub lun: u32,
    /// Place in the boot order
    pub bootindex: Option<i32>,
    /// Serial number
    pub serial: Option<String>,
    /// Maker
    pub vendor: Option<String>,
    /// Name
    pub product: Option<String>,
    /// Version
    pub ver: Option<String>,
    /// Name in page 83
    #[qapi(name = "device_id")]
    pub device_id: Option<String>,
    /// World-wide name
    #[qapi(default = 0)]
    pub wwn: u64,
    /// World-wide name of the port
    #[qapi(name = "port_wwn", default = 0)]
    pub port_wwn: u64,
    /// Number of the port
    #[qapi(name = "port_index", default = 0)]
    pub port_index: u16,
    /// Version of the standard
    #[qapi(name = "scsi_version", default = 5)]
    pub scsi_version: i32,
    /// Most bytes of one transfer
    #[qapi(name = "max_io_size", default = 2147483647)]
    pub max_io_size: u64,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub disk: DiskProps,
}

/// Properties of disks.
#[derive(Clone, Debug, Qapi)]
pub struct HdProps {
    /// Media can be taken out
    #[qapi(default = false)]
    pub removable: bool,
    /// Offer the bits DPO and FUA
    #[qapi(default = false)]
    pub dpofua: bool,
    /// Turns per minute; 0: not told, 1: none
    #[qapi(name = "rotation_rate", default = 0)]
    pub rotation_rate: u16,
    /// Most bytes of one UNMAP
    #[qapi(name = "max_unmap_size", default = 1073741824)]
    pub max_unmap_size: u64,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

/// Both kinds.
struct Drive {
    unit: Arc<Disk>,
    removable: bool,
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.unit.backend().detach();
    }
}

impl SlottedDevice for Drive {
    fn backend(&self) -> &Arc<Backend> {
        self.unit.backend()
    }
    fn resized(&self) {
        let cause = if self.removable { Sense::MEDIUM_CHANGED } else { Sense::CAPACITY_CHANGED };
        self.unit.attention(cause);
    }
    fn tray_open(&self) -> Option<bool> {
        self.removable.then(|| self.unit.is_open())
    }
    fn is_locked(&self) -> bool {
        self.unit.is_locked()
    }
    fn move_tray(&self, open: bool, force: bool) -> bool {
        if open && self.unit.is_locked() && !force {
            self.unit.ask_to_open();
            return false;
        }
        self.unit.set_open(open);
        true
    }
}

fn create(hd: &HdProps, cd: bool, kind: &str, at: &mut Build<'_>) -> qapi::Result<Arc<Drive>> {
    let props = &hd.common;
    props.disk.check()?;
    if !cd && props.drive.is_none() {
        return Err(Error::generic("drive property not set"));
    }
    let graph = at.service::<Arc<Graph>>();
    let node = props.drive.as_ref().and_then(|d| graph.as_ref().and_then(|g| g.backend(d)));
    let read_only = cd || node.is_none_or(|node| node.is_read_only());
    let removable = cd || hd.removable;
    let path = format!("/machine/peripheral/{}", at.id());
    let user = User { path, writes: !read_only, removable, ..User::default() };
    let backend = props.disk.claim(graph.as_ref(), (kind, props.drive.as_deref()), user)?;
    if !cd && backend.node().is_none() {
        backend.detach();
        return Err(Error::generic("Device needs media, but drive is empty"));
    }
    let serial = props.serial.clone().unwrap_or_default();
    let named = if serial.is_empty() { backend.name().to_owned() } else { serial.clone() };
    let or = |given: &Option<String>, other: &str| given.clone().unwrap_or_else(|| other.into());
    let about = Identity {
        cd,
        removable,
        vendor: or(&props.vendor, "QEMU"),
        product: or(&props.product, if cd { "QEMU CD-ROM" } else { "QEMU HARDDISK" }),
        revision: or(&props.ver, "2.5+"),
        serial,
        device_id: props.device_id.clone().unwrap_or(named),
        wwn: props.wwn,
        port_wwn: props.port_wwn,
        port_index: props.port_index,
        version: u8::try_from(props.scsi_version).unwrap_or(5),
        rotation: hd.rotation_rate,
        dpofua: hd.dpofua,
        max_io_size: props.max_io_size,
        max_unmap_size: hd.max_unmap_size,
    };
    let disk = if cd {
        let block = Size(2048);
        DiskProps { logical_block_size: block, physical_block_size: block, ..props.disk.clone() }
    } else {
        props.disk.clone()
    };
    let unit = Disk::new(about, disk, backend);
    let chosen = |n: u32| Some(n).filter(|n| *n != u32::MAX);
    at.offer(Plugged {
        unit: unit.clone(),
        channel: props.channel,
        target: chosen(props.scsi_id),
        lun: chosen(props.lun),
    });
    if let Some(index) = props.bootindex {
        at.offer(device::BootEntry { index, node: String::new() });
    }
    at.offer::<Arc<Disk>>(unit.clone());
    let drive = Arc::new(Drive { unit, removable });
    at.offer::<Slotted>(drive.clone());
    Ok(drive)
}

macro_rules! kind {
    ($type:ident, $props:ty, $name:literal, $summary:literal, $create:expr) => {
        /// The device.
        pub struct $type(Arc<Drive>);

        impl DeviceType for $type {
            const NAME: &'static str = $name;
            const BUS: Bus = Bus::Scsi;
            const SUMMARY: &'static str = $summary;
            type Props = $props;

            fn create(props: $props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
                let make: fn($props, &mut Build<'_>) -> qapi::Result<Arc<Drive>> = $create;
                Ok(Arc::new($type(make(props, at)?)))
            }
        }

        impl Device for $type {
            fn reset(&self, _: Reset) {
                self.0.unit.reset();
            }
            fn migration(&self) -> Migration<'_> {
                Migration::Saved(&*self.0.unit)
            }
        }
    };
}
kind!(ScsiHd, HdProps, "scsi-hd", "virtual SCSI disk", |props, at| {
    create(&props, false, "scsi-hd", at)
});
kind!(ScsiCd, Common, "scsi-cd", "virtual SCSI CD-ROM", |common, at| {
    let hd =
        HdProps { removable: true, dpofua: false, rotation_rate: 0, max_unmap_size: 0, common };
    create(&hd, true, "scsi-cd", at)
});
