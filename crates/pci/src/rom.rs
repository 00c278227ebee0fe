//! Expansion ROMs: code for firmware behind a base address register of their own.
//!
//! A ROM that a device has by default is taken if it is installed, and gets the device's identifiers,
//! as at the peer; one that a user names must be there. Source: PCI Local Bus 3.0, 6.2.5.2 and 6.3.
//! Not modelled: bridges' ROMs, `rombar=0` as a file for firmware.

use std::path::{Path, PathBuf};

use device::Region;
use guest_ram::{RamBlock, RamOptions};
use qapi::{Error, Result};

/// The register.
pub(crate) const REGISTER: usize = 0x30;
/// Address decoding is on.
pub(crate) const ENABLE: u32 = 1;
/// Largest file (the peer's limit is 2 GiB).
const MOST: u64 = 16 << 20;
/// Least size of a ROM.
const LEAST: u64 = 2048;
/// Where files without a folder are looked for.
const FOLDERS: [&str; 4] =
    ["/usr/share/tinamou", "/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu"];

/// The ROM of a function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// File that the user named.
    pub(crate) file: Option<String>,
    /// File that the device has by default.
    pub(crate) default: Option<&'static str>,
    /// Size that the user wants.
    pub(crate) size: Option<u32>,
    /// Not to be shown.
    pub(crate) hidden: bool,
}

fn place(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    if name.contains('/') || path.exists() {
        return path.exists().then(|| path.to_owned());
    }
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

/// Puts a function's identifiers into the header of the first image (6.3.1.2).
fn identify(rom: &mut [u8], (vendor, device): (u16, u16)) -> Option<()> {
    const CHECKSUM: usize = 6;
    if rom.get(..2)? != [0x55, 0xaa] {
        return None;
    }
    let at = usize::from(u16::from_le_bytes([*rom.get(0x18)?, *rom.get(0x19)?]));
    if rom.get(at..at + 4)? != b"PCIR" {
        return None;
    }
    for (offset, id) in [(4, vendor), (6, device)] {
        for (byte, new) in (at + offset..).zip(id.to_le_bytes()) {
            let old = std::mem::replace(rom.get_mut(byte)?, new);
            let sum = rom.get_mut(CHECKSUM)?;
            *sum = sum.wrapping_add(old).wrapping_sub(new);
        }
    }
    Some(())
}

impl Wish {
    /// The ROM's region; `None` if there is to be none.
    ///
    /// # Errors
    /// What is wrong with the file that a user named.
    pub(crate) fn region(&self, name: &str, ids: (u16, u16)) -> Result<Option<Region>> {
        let own = self.file.as_deref();
        let Some(file) = own.or(self.default).filter(|file| !file.is_empty() && !self.hidden)
        else {
            return Ok(None);
        };
        let failed = |why: &str| Error::generic(format!("failed to {why} romfile \"{file}\""));
        let Some(path) = place(file) else {
            return if own.is_some() { Err(failed("find")) } else { Ok(None) };
        };
        let len = std::fs::metadata(&path).map_err(|_| failed("find"))?.len();
        if len == 0 {
            return Err(Error::generic(format!("romfile \"{file}\" is empty")));
        }
        let size = self.size.map_or(len.next_power_of_two().max(LEAST), u64::from);
        if len > MOST || size > MOST {
            return Err(Error::generic(format!("romfile \"{file}\" too large")));
        }
        if len > size {
            return Err(Error::generic(format!(
                "romfile \"{file}\" ({len} bytes) is too large for ROM size {size}"
            )));
        }
        let mut bytes = std::fs::read(&path).map_err(|_| failed("load"))?;
        bytes.resize(usize::try_from(size).unwrap_or(0), 0);
        if own.is_none() {
            identify(&mut bytes, ids);
        }
        let block = RamBlock::new(&format!("{name}.rom"), size, RamOptions::default());
        let block = block.map_err(|e| Error::generic(e.to_string()))?;
        block.write(0, &bytes).map_err(|_| failed("load"))?;
        Ok(Some(Region::rom(&format!("{name}.rom"), block)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_put_in_and_the_checksum_stays() {
        let mut rom = vec![0; 64];
        rom[..2].copy_from_slice(&[0x55, 0xaa]);
        rom[0x18] = 0x1c;
        rom[0x1c..0x20].copy_from_slice(b"PCIR");
        rom[0x20..0x24].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
        rom[6] = 104;
        identify(&mut rom, (0x1af4, 0x1000)).unwrap();
        assert_eq!((rom[6], &rom[0x20..0x24]), (169, &[0xf4, 0x1a, 0x00, 0x10][..]));
        for broken in [vec![], vec![0x55], vec![0x55, 0xaa, 0, 0], vec![0xff; 0x1a]] {
            assert_eq!(identify(&mut broken.clone(), (0, 0)), None);
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told_if_a_user_named_it() {
        let named = Wish { file: Some("/no/such/file".into()), ..Wish::default() };
        let error = named.region("x", (0, 0)).unwrap_err();
        assert_eq!(error.desc, "failed to find romfile \"/no/such/file\"");
        let default = Wish { default: Some("no-such-file.rom"), ..Wish::default() };
        assert!(default.region("x", (0, 0)).unwrap().is_none());
    }
}
