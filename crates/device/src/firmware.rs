//! What boards need from a device that hands data to firmware.

use std::sync::Arc;

/// Bus number, and device and function number, of a PCI device by its id.
pub type PciAddress<'a> = &'a dyn Fn(&str) -> Option<(u8, u8)>;

/// Files for firmware that name devices, made when all devices exist; a service.
#[derive(Clone)]
pub struct LateFiles(pub Arc<dyn Fn(PciAddress<'_>) -> qapi::Result<()> + Send + Sync>);

/// Makes files for firmware again when all devices exist; a service.
#[derive(Clone)]
pub struct LateTables(pub Arc<dyn Fn() + Send + Sync>);

/// Items and files for firmware (fw_cfg).
pub trait FirmwareConfig: Send + Sync {
    /// Sets a numbered item.
    fn set_item(&self, key: u16, data: Vec<u8>);
    /// Adds or replaces a named file; the error says why it cannot be taken.
    fn set_file(&self, name: &str, data: Vec<u8>) -> qapi::Result<()>;
    /// Calls `f` when the guest chooses one of these files for the first time after a reset.
    fn before_reading(&self, names: &'static [&'static str], f: Arc<dyn Fn() + Send + Sync>);
}

/// What a loader device wants of the board at every reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadRequest {
    /// A file: an ELF or uImage program, or bytes.
    pub file: Option<String>,
    /// Take the file as bytes whatever it is.
    pub raw: bool,
    /// Where bytes go, and where a CPU starts if the file does not say.
    pub address: u64,
    /// Bytes, if there is no file.
    pub data: Vec<u8>,
    /// The CPU that starts there.
    pub cpu: Option<u32>,
}
