//! Namespaces: disks of a controller, its own (`nvme` with `drive=`) or `nvme-ns` devices on its bus.
//!
//! One format: the disk's logical blocks, no metadata. Not modelled: zones, several formats,
//! protection information, placement, sharing between controllers, resizing of a namespace's count.
//! Sources: NVM Express Base 2.0 and NVM Command Set 1.0; properties of QEMU 10.0.

use std::sync::{Arc, OnceLock, Weak};

use block::{Backend, BlockdevOnError, DiskProps, Graph, OnOffAuto, Slotted, SlottedDevice, User};
use derive::Qapi;
use device::{Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset};
use qapi::{Error, Result, Size};

use super::Nvme;

/// The class of namespaces.
pub static CLASS: DeviceClass = DeviceClass::of::<NvmeNs>();

/// Properties of a disk behind NVMe.
#[derive(Clone, Debug, Qapi)]
pub struct NvmeDisk {
    /// Node name or ID of a block device to use as a backend
    pub drive: Option<String>,
    /// A power of two between 512 B and 2 MiB
    #[qapi(name = "logical_block_size", default = 0)]
    pub logical_block_size: Size,
    /// A power of two between 512 B and 2 MiB
    #[qapi(name = "physical_block_size", default = 0)]
    pub physical_block_size: Size,
    /// Smallest request that is fast; kept
    #[qapi(name = "min_io_size", default = 0)]
    pub min_io_size: Size,
    /// Best request; kept
    #[qapi(name = "opt_io_size", default = 0)]
    pub opt_io_size: Size,
    /// Unit of discards; 4294967295: 4096 bytes
    #[qapi(name = "discard_granularity", default = 4294967295)]
    pub discard_granularity: Size,
    /// Cache writes until the guest flushes
    #[qapi(name = "write-cache", default = "auto")]
    pub write_cache: OnOffAuto,
    /// Let others write to the disk as well
    #[qapi(name = "share-rw", default = false)]
    pub share_rw: bool,
    /// Whether requests that make no sense are counted
    #[qapi(name = "account-invalid", default = "auto")]
    pub account_invalid: OnOffAuto,
    /// Whether requests that failed are counted
    #[qapi(name = "account-failed", default = "auto")]
    pub account_failed: OnOffAuto,
    /// Whether sizes come from the host's device
    #[qapi(name = "backend_defaults", default = "auto")]
    pub backend_defaults: OnOffAuto,
    /// Place in the boot order
    pub bootindex: Option<i32>,
}

impl NvmeDisk {
    fn common(&self) -> DiskProps {
        DiskProps {
            logical_block_size: self.logical_block_size,
            physical_block_size: self.physical_block_size,
            min_io_size: self.min_io_size,
            opt_io_size: self.opt_io_size,
            discard_granularity: self.discard_granularity,
            write_cache: self.write_cache,
            share_rw: self.share_rw,
            rerror: BlockdevOnError::Auto,
            werror: BlockdevOnError::Auto,
            account_invalid: self.account_invalid,
            account_failed: self.account_failed,
            backend_defaults: self.backend_defaults,
        }
    }
}

/// Names that a namespace has for ever (CNS 3).
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) nguid: Option<[u8; 16]>,
    pub(super) eui64: u64,
}

/// A disk of a controller.
pub(super) struct Namespace {
    pub(super) backend: Arc<Backend>,
    /// Bytes of a block as a power of two.
    pub(super) shift: u32,
    pub(super) read_only: bool,
    /// Unit of discards in blocks.
    pub(super) granularity: u64,
    pub(super) names: Names,
    controller: OnceLock<Weak<Nvme>>,
}

impl Namespace {
    pub(super) fn blocks(&self) -> u64 {
        self.backend.len() >> self.shift
    }

    pub(super) fn create(
        props: &NvmeDisk,
        (kind, names): (&str, Names),
        at: &mut Build<'_>,
    ) -> Result<Arc<Namespace>> {
        let disk = props.common();
        disk.check()?;
        let drive = props.drive.as_deref();
        let graph = at.service::<Arc<Graph>>();
        let node = drive.and_then(|d| graph.as_ref().and_then(|g| g.backend(d)));
        let read_only = node.is_none_or(|node| node.is_read_only());
        let path = format!("/machine/peripheral/{}", at.id());
        let user = User { path, writes: !read_only, ..User::default() };
        let backend = disk.claim(graph.as_ref(), (kind, drive), user)?;
        // Errors are the commands' status, whatever the drive says, as at the peer.
        backend.leave_errors_to_the_device();
        if backend.node().is_none() {
            backend.detach();
            return Err(Error::generic("Device needs media, but drive is empty"));
        }
        let logical = disk.logical();
        let unit = if disk.discard_granularity.0 == u64::from(u32::MAX) {
            logical.max(4096)
        } else {
            disk.discard_granularity.0
        };
        let namespace = Arc::new(Namespace {
            backend,
            shift: logical.trailing_zeros(),
            read_only,
            granularity: (unit / logical).max(1),
            names,
            controller: OnceLock::new(),
        });
        at.offer::<Slotted>(namespace.clone());
        if let Some(index) = props.bootindex {
            at.offer(device::BootEntry { index, node: "/namespace@1,0".into() });
        }
        Ok(namespace)
    }

    pub(super) fn belongs_to(&self, controller: Weak<Nvme>) {
        _ = self.controller.set(controller);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.backend.detach();
    }
}

impl SlottedDevice for Namespace {
    fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
    fn resized(&self) {
        if let Some(controller) = self.controller.get().and_then(Weak::upgrade) {
            controller.namespace_changed();
        }
    }
}

/// Properties of `nvme-ns`.
#[derive(Clone, Debug, Qapi)]
pub(super) struct Props {
    /// Number; 0: the first free one
    #[qapi(default = 0)]
    pub nsid: u32,
    /// UUID (aka GUID) or "auto" for random value (default)
    pub uuid: Option<String>,
    /// NGUID or "auto" for random value
    pub nguid: Option<String>,
    /// Extended unique identifier; 0: none
    #[qapi(default = 0)]
    pub eui64: u64,
    /// Not attached to controllers; not built
    #[qapi(default = false)]
    pub detached: bool,
    /// Attached to all controllers of a subsystem; there is one
    #[qapi(default = true)]
    pub shared: bool,
    #[qapi(flatten)]
    pub disk: NvmeDisk,
}

/// Sixteen bytes from hexadecimal digits with or without dashes.
fn digits(text: &str) -> Option<[u8; 16]> {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    if plain.len() != 32 || !plain.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(&plain, 16).ok()?.to_be_bytes())
}

fn name(property: &str, text: Option<&str>, auto: bool) -> Result<Option<[u8; 16]>> {
    let random = || {
        let mut bytes = [0; 16];
        _ = host::fill_random(&mut bytes);
        // RFC 4122, 4.4.
        let [.., sixth, _, eighth, _, _, _, _, _, _, _] = &mut bytes;
        *sixth = (*sixth & 0x0f) | 0x40;
        *eighth = (*eighth & 0x3f) | 0x80;
        bytes
    };
    match text {
        None if auto => Ok(Some(random())),
        Some("auto") => Ok(Some(random())),
        None => Ok(None),
        Some(text) => digits(text).map(Some).ok_or_else(|| {
            Error::generic(format!("Property 'nvme-ns.{property}' doesn't take value '{text}'"))
        }),
    }
}

/// A namespace device.
pub(super) struct NvmeNs(
    #[expect(dead_code, reason = "lives as long as the device")] Arc<Namespace>,
);

impl DeviceType for NvmeNs {
    const NAME: &'static str = "nvme-ns";
    const BUS: Bus = Bus::Nvme;
    const SUMMARY: &'static str = "Virtual NVMe namespace";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> Result<Arc<Self>> {
        if props.detached {
            return Err(Error::generic(
                "detached requires that the nvme device is linked to an nvme-subsys device",
            ));
        }
        if props.disk.drive.is_none() {
            return Err(Error::generic("drive property not set"));
        }
        let names = Names {
            uuid: name("uuid", props.uuid.as_deref(), true)?,
            nguid: name("nguid", props.nguid.as_deref(), false)?,
            eui64: props.eui64,
        };
        let namespace = Namespace::create(&props.disk, ("nvme-ns", names), at)?;
        at.offer::<super::Plugged>(super::Plugged {
            namespace: namespace.clone(),
            nsid: props.nsid,
        });
        Ok(Arc::new(NvmeNs(namespace)))
    }
}

impl Device for NvmeNs {
    fn reset(&self, _: Reset) {}
    fn migration(&self) -> Migration<'_> {
        Migration::Stateless
    }
}
