//! `null-co` and `null-aio`: a disk that keeps nothing.
//!
//! Reads give zeroes (also without `read-zeroes`, where QEMU leaves the buffer as it is, which
//! would show old memory), writes are dropped. `latency-ns` is accepted and not waited for.
//! Source: QEMU's manual, `null-co`.

use std::io;
use std::sync::Arc;

use qapi::{Result, Size};

use crate::driver::{BlockClass, BlockDriver, Extent};
use crate::opening::Opening;
use crate::options::take;

struct Null {
    len: u64,
    zero: bool,
}

impl BlockDriver for Null {
    fn len(&self) -> u64 {
        self.len
    }
    fn read(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn allocated_size(&self) -> Option<u64> {
        Some(0)
    }
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        let offset = Some(at);
        Ok(Extent { len, data: false, zero: self.zero, allocated: true, offset, compressed: false })
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let len = take::<Size>(&mut at.options, "size", source)?.map_or(1 << 30, |size| size.0);
    _ = take::<u64>(&mut at.options, "latency-ns", source)?;
    let zero = take::<bool>(&mut at.options, "read-zeroes", source)?.unwrap_or(false);
    at.filename = format!("{}://", at.class.name);
    Ok(Arc::new(Null { len, zero }))
}

const fn class(name: &'static str) -> BlockClass {
    BlockClass {
        name,
        protocol: true,
        probe: |_| 0,
        open,
        create: None,
        create_options: &[],
        describe: |_| String::new(),
        has_backing: false,
    }
}

pub(crate) const CO: BlockClass = class("null-co");
pub(crate) const AIO: BlockClass = class("null-aio");
