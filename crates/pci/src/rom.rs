//! Expansion ROMs: the file, its register, and where it is mapped.
//!
//! Files are searched as they are named and where Debian's packages `qemu-system-data` and
//! `ipxe-qemu` have them. A class's own file may be missing; one that the user names may not. The
//! ids in a class's own file are made the function's (PCI Firmware 3.0, 5.1), so that its firmware
//! finds it. Bridges have none. Sources: PCI Local Bus 3.0, 6.2.5.2 and 6.3; QEMU's messages.

use std::path::{Path, PathBuf};

use device::Region;
use guest_ram::{RamBlock, RamOptions};
use qapi::{Error, Result};

use crate::{Common, Function};

/// The register (6.1).
pub(crate) const ROM: usize = 0x30;
const ENABLE: u32 = 1;
/// Number of the region in listings.
pub(crate) const NUMBER: u8 = 6;
/// Longest file.
const MAX: u64 = 64 << 20;
/// The smallest region.
const MIN: u64 = 2048;
const PAGE: u64 = 4096;
const FOLDERS: [&str; 3] = ["", "/usr/share/qemu", "/usr/lib/ipxe/qemu"];

fn find(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Makes the ids of a file's first image those of a function and keeps its sum.
fn adopt(bytes: &mut [u8], id: (u16, u16)) -> Option<()> {
    if word(bytes, 0)? != 0xaa55 {
        return None;
    }
    let at = usize::from(word(bytes, 0x18)?);
    if bytes.get(at..at.checked_add(4)?)? != b"PCIR" {
        return None;
    }
    for (place, new) in [(at + 4, id.0), (at + 6, id.1)] {
        let old = word(bytes, place)?.to_le_bytes();
        let new = new.to_le_bytes();
        for (old, new) in old.iter().zip(new) {
            let sum = bytes.get_mut(6)?;
            *sum = sum.wrapping_add(*old).wrapping_sub(new);
        }
        bytes.get_mut(place..place + 2)?.copy_from_slice(&new);
    }
    Some(())
}

/// Reads a file; `None`: a class's own one is not there.
fn read(name: &str, own: bool) -> Result<Option<Vec<u8>>> {
    let bad = |text: String| Err(Error::generic(text));
    let Some(path) = find(name) else {
        return if own { Ok(None) } else { bad(format!("failed to find romfile \"{name}\"")) };
    };
    let about = std::fs::metadata(&path).ok();
    if about.as_ref().is_some_and(|about| about.is_dir() || about.len() > MAX) {
        return bad(format!("romfile \"{name}\" too large (size cannot exceed 2 GiB)"));
    }
    match std::fs::read(&path) {
        Ok(bytes) if bytes.is_empty() => bad(format!("romfile \"{name}\" is empty")),
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => bad(format!("failed to load romfile \"{name}\"")),
    }
}

impl Function {
    /// Gives the function the ROM that its properties name, or its class's own one; before it is on
    /// a bus.
    ///
    /// # Errors
    /// The file is not there, is empty, or does not fit.
    pub fn add_rom(&self, common: &Common, own: Option<&str>) -> Result<()> {
        let name = common.romfile.as_deref().or(own);
        let Some(name) = name.filter(|name| !name.is_empty() && common.rombar != 0) else {
            return Ok(());
        };
        let is_own = common.romfile.is_none();
        let Some(mut bytes) = read(name, is_own)? else { return Ok(()) };
        if is_own {
            let id = self.config32(0).to_le_bytes();
            let [a, b, c, d] = id;
            // A file that is no such image stays as it is.
            _ = adopt(&mut bytes, (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])));
        }
        let len = bytes.len() as u64;
        let size = match common.romsize {
            u32::MAX => len.next_power_of_two().max(MIN),
            size if u64::from(size) < len => {
                return Err(Error::generic(format!(
                    "romfile \"{name}\" ({len} bytes) is too large for ROM size {size}"
                )));
            }
            size => u64::from(size),
        };
        let failed = |e: &dyn std::fmt::Display| Error::generic(format!("romfile \"{name}\": {e}"));
        let block = RamBlock::new("rom", size.max(PAGE), RamOptions::default());
        let block = block.map_err(|e| failed(&e))?;
        // It is at least as long as the file.
        _ = block.write(0, &bytes);
        let whole = Region::rom("rom", block);
        let region = Region::alias("rom", &whole, 0, size);
        let mask = u32::try_from(!(size - 1) & u64::from(u32::MAX)).unwrap_or(0) | ENABLE;
        self.change_config(|c| c.allow(ROM, &mask.to_le_bytes()));
        _ = self.rom.set((whole, region));
        Ok(())
    }

    /// The ROM's region.
    pub(crate) fn rom_region(&self) -> Option<&Region> {
        self.rom.get().map(|(_, region)| region)
    }

    /// Where it belongs now.
    pub(crate) fn rom_wanted(&self, decodes: bool) -> Option<u64> {
        let region = self.rom_region()?;
        let value = self.config32(ROM);
        let base = u64::from(value & !(ENABLE | 0x7fe));
        let fits = base.saturating_add(region.len()) < u64::from(u32::MAX);
        (decodes && value & ENABLE != 0 && fits).then_some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_change_and_the_sum_stays() {
        let mut rom = vec![0u8; 512];
        rom[..2].copy_from_slice(&[0x55, 0xaa]);
        rom[0x18] = 0x1c;
        rom[0x1c..0x24].copy_from_slice(b"PCIR\xf4\x1a\x41\x10");
        let sum = |rom: &[u8]| rom.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let before = sum(&rom);
        adopt(&mut rom, (0x1af4, 0x1000)).unwrap();
        assert_eq!((rom[0x22], rom[0x23], rom[6]), (0, 0x10, 0x41));
        assert_eq!(sum(&rom), before);
        for n in 0..40 {
            _ = adopt(&mut rom[..n].to_vec(), (1, 2));
        }
        rom[0x19] = 0xff;
        assert!(adopt(&mut rom, (1, 2)).is_none());
    }

    #[test]
    fn files_that_are_not_there() {
        assert!(read("no-such-file.rom", true).unwrap().is_none());
        let words = |name: &str| read(name, false).unwrap_err().desc;
        assert_eq!(words("no-such-file.rom"), "failed to find romfile \"no-such-file.rom\"");
        assert_eq!(words("/dev/null"), "romfile \"/dev/null\" is empty");
        assert!(words("/etc").contains("too large"));
    }
}
