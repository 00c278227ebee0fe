//! What boards need from a device that hands data to firmware.

/// Items and files for firmware (fw_cfg).
pub trait FirmwareConfig: Send + Sync {
    /// Sets a numbered item.
    fn set_item(&self, key: u16, data: Vec<u8>);
    /// Adds or replaces a named file; the error says why it cannot be taken.
    fn set_file(&self, name: &str, data: Vec<u8>) -> qapi::Result<()>;
}
