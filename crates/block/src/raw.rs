//! `raw`: the bytes of the node below, or a window of them (`offset`, `size`).
//!
//! A raw image has no signature: any file may be one, so its probe is the least sure of all.
//! Requests go down with the offset added; a disk with a given size cannot be resized.
//! Source: QEMU's manual, `raw`.

use std::fs::File;
use std::io;
use std::sync::Arc;

use qapi::{Error, Result, Size};

use crate::driver::{
    BlockClass, BlockDriver, CreateOption, Creation, Extent, Preallocation, Resolved, unsupported,
};
use crate::node::{Child, Node};
use crate::opening::Opening;
use crate::options::take;

struct Raw {
    file: Child,
    offset: u64,
    size: Option<u64>,
}

impl Raw {
    fn below(&self) -> Arc<Node> {
        self.file.node()
    }
}

impl Raw {
    /// A format above may grow: with a fixed size that is as if the disk were full.
    fn room(&self, at: u64, len: u64) -> io::Result<()> {
        let fits = self.size.is_none_or(|size| at.checked_add(len).is_some_and(|end| end <= size));
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

impl BlockDriver for Raw {
    fn len(&self) -> u64 {
        self.size.unwrap_or_else(|| self.below().len().saturating_sub(self.offset))
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.below().driver().event("read_aio");
        self.below().driver().read(self.offset + at, into)
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.room(at, data.len() as u64)?;
        self.below().driver().event("write_aio");
        self.below().driver().write(self.offset + at, data)
    }
    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.room(at, len)?;
        self.below().driver().write_zeroes(self.offset + at, len, unmap)
    }
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.below().driver().discard(self.offset + at, len)
    }
    fn flush(&self) -> io::Result<()> {
        self.below().driver().flush()
    }
    fn truncate(&self, len: u64, how: Preallocation) -> io::Result<()> {
        if self.size.is_some() {
            return Err(unsupported("Cannot resize fixed-size raw disks"));
        }
        let end = len.checked_add(self.offset).ok_or(io::ErrorKind::FileTooLarge)?;
        self.below().driver().truncate(end, how)
    }
    fn resolve(&self, at: u64, len: u64, write: bool) -> Option<Resolved> {
        let below = self.below();
        // A node below that has something to do with writes must see them.
        if self.room(at, len).is_err() || write && below.detect_zeroes() != crate::node::Detect::Off
        {
            return None;
        }
        below.driver().resolve(self.offset + at, len, write)
    }
    fn holds(&self, at: u64, len: u64) -> io::Result<(bool, u64)> {
        self.below().driver().holds(self.offset + at, len)
    }
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        let below = self.below().driver().extent(self.offset + at, len)?;
        Ok(Extent { allocated: true, ..below })
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let offset = take::<Size>(&mut at.options, "offset", source)?.map_or(0, |size| size.0);
    let size = take::<Size>(&mut at.options, "size", source)?.map(|size| size.0);
    let file = at.child("file")?;
    let len = file.node().len();
    if offset > len {
        let text =
            format!("Offset ({offset}) cannot be greater than size of the containing file ({len})");
        return Err(Error::generic(text));
    }
    if size.is_some_and(|size| size > len - offset) {
        let text = "The sum of offset (%) and size (%) has to be smaller or equal to the actual size of the containing file (%)";
        let (a, b) = (offset, size.unwrap_or(0));
        let text =
            [a, b, len].iter().fold(text.to_owned(), |t, n| t.replacen('%', &n.to_string(), 1));
        return Err(Error::generic(text));
    }
    at.filename = file.node().path().to_owned();
    Ok(Arc::new(Raw { file, offset, size }))
}

fn create(new: &Creation) -> Result<()> {
    let fail = |error: io::Error| {
        Error::generic(format!("Could not create '{}': {}", new.filename, host::reason(&error)))
    };
    let path = new.filename.strip_prefix("file:").unwrap_or(&new.filename);
    // What another program uses must stay as it is: cut only once the lock is there.
    let file = File::options().write(true).create(true).truncate(false).read(true).open(path);
    let file = file.map_err(fail)?;
    crate::lock::lock(&file, path, crate::lock::Wants::of(true, false))?;
    if file.metadata().is_ok_and(|data| data.is_file()) {
        file.set_len(0).map_err(fail)?;
    }
    let Some(whole) = new.size.checked_next_multiple_of(512).filter(|n| *n < 1 << 63) else {
        return Err(Error::generic("Could not resize file: Invalid argument"));
    };
    let grown = file.set_len(whole);
    grown.map_err(|e| Error::generic(format!("Could not resize file: {}", host::reason(&e))))?;
    match new.option("preallocation").unwrap_or("off") {
        // As QEMU does it, so that maps of new images are alike: the first block has a place.
        "off" => {
            let first = usize::try_from(new.size.min(4096)).unwrap_or(0);
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; first], 0).map_err(fail)
        }
        "falloc" if new.size > 0 => host::allocate(&file, 0, new.size).map_err(fail),
        "full" => crate::file::fill(&file, 0, new.size).map_err(fail),
        "falloc" => Ok(()),
        other => Err(Error::generic(format!("Invalid parameter '{other}'"))),
    }
}

pub(crate) const RAW: BlockClass = BlockClass {
    name: "raw",
    protocol: false,
    probe: |_| 1,
    open,
    create: Some(create),
    create_options: &[
        CreateOption {
            name: "extent_size_hint",
            kind: "size",
            help: "Extent size hint for the image file, 0 to disable",
        },
        CreateOption {
            name: "nocow",
            kind: "bool (on/off)",
            help: "Turn off copy-on-write (valid only on btrfs)",
        },
        CreateOption {
            name: "preallocation",
            kind: "str",
            help: "Preallocation mode (allowed values: off, falloc, full)",
        },
        CreateOption { name: "size", kind: "size", help: "Virtual disk size" },
    ],
    describe: |new| {
        let how = new.option("preallocation").map(|how| format!(" preallocation={how}"));
        format!(" size={}{}", new.size, how.unwrap_or_default())
    },
    has_backing: false,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_image_leaves_a_file_alone_that_somebody_uses() {
        let path = std::env::temp_dir().join(format!("raw-create-{}", std::process::id()));
        std::fs::write(&path, b"contents").unwrap();
        let name = path.to_str().unwrap().to_owned();
        let other = File::options().read(true).write(true).open(&path).unwrap();
        crate::lock::lock(&other, &name, crate::lock::Wants::of(true, false)).unwrap();
        let new = Creation { filename: name.clone(), size: 4096, ..Creation::default() };
        let refused = create(&new).unwrap_err();
        assert!(refused.desc.contains("lock"), "{}", refused.desc);
        assert_eq!(std::fs::read(&path).unwrap(), b"contents");
        drop(other);
        create(&new).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 4096], "nothing is left of the old file");
        std::fs::remove_file(&path).unwrap();
    }
}
