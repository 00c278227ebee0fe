//! `-drive if=pflash` and `-pflash`: raw files behind the flash banks of the board.
//!
//! The place of the block layer until there is one: it opens each file, gives it to
//! the machine as [`device::StorageSource`], and does nothing else. Every write is in
//! the file when it returns. Not here: formats, other interfaces, locking of images.
//! Source: QEMU's manual, `-drive`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use device::{Storage, StorageSource};
use qapi::keyval::Dialect;

use crate::fail::{At as _, Step, Stop};
use crate::settings::Placed;

/// Lengths are told in sectors of this many bytes, as block devices do.
const SECTOR: u64 = 512;

struct Raw {
    file: File,
    len: u64,
    read_only: bool,
}

impl Storage for Raw {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at.saturating_add(done as u64)) {
                // The rest of the last sector.
                Ok(0) => {
                    rest.fill(0);
                    return Ok(());
                }
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, at)
    }
}

struct Drive {
    id: String,
    raw: Arc<Raw>,
}

/// The drives by id.
#[derive(Default)]
pub(crate) struct Drives(Vec<Drive>);

impl StorageSource for Drives {
    fn storage(&self, id: &str, _: bool) -> qapi::Result<Arc<dyn Storage>> {
        let found = self.0.iter().find(|drive| drive.id == id);
        let found = found.ok_or_else(|| {
            qapi::Error::generic(format!("Property 'cfi.pflash01.drive' can't find value '{id}'"))
        })?;
        Ok(found.raw.clone())
    }
}

/// What one option says.
#[derive(Default)]
struct Given {
    file: Option<String>,
    interface: Option<String>,
    format: Option<String>,
    id: Option<String>,
    unit: Option<usize>,
    read_only: bool,
}

impl Given {
    fn of(text: &str) -> qapi::Result<Given> {
        let value = Dialect::flat(None).parse(text)?.value;
        let mut given = Given::default();
        for (key, value) in value.as_map().unwrap_or(&[]) {
            let text = value.as_str().unwrap_or_default().to_owned();
            match key.as_str() {
                "file" => given.file = Some(text),
                "if" => given.interface = Some(text),
                "format" | "driver" => given.format = Some(text),
                "id" => given.id = Some(text),
                "unit" | "index" => {
                    let number = qapi::parse_int(&text).and_then(|n| usize::try_from(n).ok());
                    let wrong = || qapi::Error::expects(key, "a number");
                    given.unit = Some(number.ok_or_else(wrong)?);
                }
                "readonly" | "read-only" => {
                    given.read_only = match text.as_str() {
                        "on" => true,
                        "off" => false,
                        _ => return Err(qapi::Error::expects(key, "'on' or 'off'")),
                    }
                }
                // How the host's cache is used makes no difference to what is seen.
                "cache" | "aio" | "discard" | "detect-zeroes" => {}
                _ => return Err(qapi::Error::invalid_parameter(key)),
            }
        }
        Ok(given)
    }
}

fn open(path: &str, read_only: bool) -> io::Result<Raw> {
    let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
    let len = file.metadata()?.len().checked_next_multiple_of(SECTOR);
    let len = len.ok_or(io::ErrorKind::FileTooLarge)?;
    Ok(Raw { file, len, read_only })
}

/// Opens all drives; gives them, and the ids of those that are flash banks.
pub(crate) fn open_all(options: &[Placed]) -> Step<(Drives, [Option<String>; 2])> {
    let mut drives = Drives::default();
    let mut banks = [None, None];
    for option in options {
        let fail = |text: String| Stop::at(&option.place, text);
        let given = Given::of(&option.value).at(&option.place)?;
        if given.interface.as_deref() != Some("pflash") {
            return Err(fail("only if=pflash is built yet in Tinamou".into()));
        }
        if !matches!(given.format.as_deref(), None | Some("raw")) {
            let format = given.format.unwrap_or_default();
            return Err(fail(format!(
                "format '{format}' is not built yet in Tinamou; only raw is"
            )));
        }
        let free = banks.iter().position(Option::is_none).unwrap_or(banks.len());
        let unit = given.unit.unwrap_or(free);
        let Some(bank) = banks.get_mut(unit) else {
            return Err(fail(format!("machine type does not support if=pflash,bus=0,unit={unit}")));
        };
        if bank.is_some() {
            return Err(fail(format!("drive with bus=0, unit={unit} (index=-1) exists")));
        }
        let id = given.id.unwrap_or_else(|| format!("pflash{unit}"));
        if drives.0.iter().any(|drive| drive.id == id) {
            return Err(qapi::Error::duplicate_id(&id, "drive")).at(&option.place);
        }
        let file = given.file.unwrap_or_default();
        let raw = open(&file, given.read_only)
            .map_err(|error| fail(format!("Could not open '{file}': {}", plain(&error))))?;
        *bank = Some(id.clone());
        drives.0.push(Drive { id, raw: Arc::new(raw) });
    }
    Ok((drives, banks))
}

/// The system's words without Rust's number behind them.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(texts: &[String]) -> Result<(Drives, [Option<String>; 2]), String> {
        let place = |value: &String| Placed { place: "-drive".into(), value: value.clone() };
        let options: Vec<Placed> = texts.iter().map(place).collect();
        open_all(&options).map_err(|stop| format!("{stop:?}"))
    }

    #[test]
    fn files_are_found_by_id_and_written_through() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        let path = file.path().display();
        let (drives, banks) =
            opened(&[format!("if=pflash,unit=1,format=raw,file={path}")]).unwrap();
        assert_eq!(banks, [None, Some("pflash1".into())]);
        let storage = drives.storage("pflash1", true).unwrap();
        assert_eq!((storage.len(), storage.is_read_only()), (512, false));
        storage.write(1, b"x").unwrap();
        let mut back = [9; 5];
        storage.read(0, &mut back).unwrap();
        assert_eq!(back, *b"axc\0\0");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"axc");
        assert!(drives.storage("other", true).is_err());
    }

    #[test]
    fn mistakes_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let fails = |texts: &[String]| opened(texts).err().unwrap_or_default();
        let same = format!("if=pflash,unit=0,file={path}");
        assert!(fails(&[same.clone(), same]).contains("unit=0 (index=-1) exists"));
        assert!(fails(&[format!("if=pflash,unit=2,file={path}")]).contains("does not support"));
        assert!(fails(&[format!("if=none,file={path}")]).contains("only if=pflash"));
        assert!(fails(&[format!("if=pflash,format=qcow2,file={path}")]).contains("qcow2"));
        assert!(fails(&["if=pflash,file=/nonexistent".into()]).contains("No such file"));
        assert!(fails(&["if=pflash,bogus=1".into()]).contains("bogus"));
    }
}
