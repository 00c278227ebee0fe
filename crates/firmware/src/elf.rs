//! ELF files for AArch64: only what loading needs.

use crate::kernel::KernelError;

const MACHINE_AARCH64: u16 = 183;
const TYPE_LOAD: u32 = 1;
/// Program headers that are read at most.
const MAX_HEADERS: u16 = 256;

/// A piece of an ELF file to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub address: u64,
    /// Bytes from the file.
    pub data: Vec<u8>,
    /// Bytes in memory; those beyond `data` are zero.
    pub memory: u64,
}

/// A loadable ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Where it starts.
    pub entry: u64,
    /// What is loaded.
    pub segments: Vec<Segment>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N], KernelError> {
        let start = usize::try_from(at).map_err(|_| KernelError::Truncated("ELF"))?;
        let end = start.checked_add(N).ok_or(KernelError::Truncated("ELF"))?;
        let part = self.0.get(start..end).ok_or(KernelError::Truncated("ELF"))?;
        part.try_into().map_err(|_| KernelError::Truncated("ELF"))
    }
    fn u16(&self, at: u64) -> Result<u16, KernelError> {
        Ok(u16::from_le_bytes(self.bytes(at)?))
    }
    fn u32(&self, at: u64) -> Result<u32, KernelError> {
        Ok(u32::from_le_bytes(self.bytes(at)?))
    }
    fn u64(&self, at: u64) -> Result<u64, KernelError> {
        Ok(u64::from_le_bytes(self.bytes(at)?))
    }
}

impl Elf {
    /// Reads a file that begins with the ELF magic.
    pub fn parse(file: &[u8]) -> Result<Elf, KernelError> {
        let r = Reader(file);
        let [class, data] = r.bytes::<2>(4)?;
        if class != 2 || data != 1 {
            return Err(KernelError::Architecture("a 32-bit or big-endian ELF file"));
        }
        if r.u16(18)? != MACHINE_AARCH64 {
            return Err(KernelError::Architecture("an ELF file for another architecture"));
        }
        let (entry, table) = (r.u64(24)?, r.u64(32)?);
        let (size, count) = (r.u16(54)?, r.u16(56)?);
        if size < 56 || count > MAX_HEADERS {
            return Err(KernelError::Malformed("ELF", "bad program header table"));
        }
        let mut segments = Vec::new();
        for i in 0..u64::from(count) {
            let at = table.checked_add(i * u64::from(size)).ok_or(KernelError::Truncated("ELF"))?;
            if r.u32(at)? == TYPE_LOAD {
                segments.extend(segment(&r, at)?);
            }
        }
        if segments.is_empty() {
            return Err(KernelError::Malformed("ELF", "no loadable segment"));
        }
        Ok(Elf { entry, segments })
    }

    /// Lowest address that is loaded.
    #[must_use]
    pub fn low(&self) -> u64 {
        self.segments.iter().map(|s| s.address).min().unwrap_or(0)
    }

    /// One past the highest address that is loaded.
    #[must_use]
    pub fn high(&self) -> u64 {
        self.segments.iter().map(|s| s.address.saturating_add(s.memory)).max().unwrap_or(0)
    }
}

fn segment(r: &Reader<'_>, at: u64) -> Result<Option<Segment>, KernelError> {
    let field = |i: u64| r.u64(at.saturating_add(i));
    let (offset, address, filed, memory) = (field(8)?, field(24)?, field(32)?, field(40)?);
    if memory == 0 {
        return Ok(None);
    }
    if filed > memory || address.checked_add(memory).is_none() {
        return Err(KernelError::Malformed("ELF", "a segment does not fit its own size"));
    }
    let range = usize::try_from(offset).ok().zip(usize::try_from(filed).ok());
    let data = range
        .and_then(|(start, len)| r.0.get(start..start.checked_add(len)?))
        .ok_or(KernelError::Truncated("ELF"))?;
    Ok(Some(Segment { address, data: data.to_vec(), memory }))
}
