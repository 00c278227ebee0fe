//! U-Boot's legacy images (`mkimage`; U-Boot's `include/image.h` describes the header):
//! big-endian fields, then the kernel, plain or packed by gzip. Not read: images of
//! several files, checksums (the peer does not check them either).

use crate::kernel::KernelError;

const MAGIC: [u8; 4] = [0x27, 0x05, 0x19, 0x56];
/// Bytes of the header.
const HEADER: usize = 64;
const ARCH_ARM64: u8 = 22;
const TYPE_KERNEL: u8 = 2;
/// A kernel that goes where it is free, at its default offset.
const TYPE_KERNEL_ANYWHERE: u8 = 14;
const PACKED_NOT: u8 = 0;
const PACKED_GZIP: u8 = 1;

/// What a legacy image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UImage<'a> {
    pub(crate) load: u64,
    pub(crate) entry: u64,
    pub(crate) gzip: bool,
    pub(crate) data: &'a [u8],
}

impl<'a> UImage<'a> {
    /// The image, if the file is one.
    pub(crate) fn parse(file: &'a [u8]) -> Option<Result<UImage<'a>, KernelError>> {
        file.starts_with(&MAGIC).then(|| UImage::fields(file))
    }

    fn fields(file: &'a [u8]) -> Result<UImage<'a>, KernelError> {
        let cut = || KernelError::Truncated("uImage");
        let word = |at: usize| -> Result<u64, KernelError> {
            let bytes = file.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(cut)?;
            Ok(u32::from_be_bytes(bytes).into())
        };
        let byte = |at: usize| file.get(at).copied().ok_or_else(cut);
        if byte(29)? != ARCH_ARM64 {
            return Err(KernelError::Architecture("a uImage for another architecture"));
        }
        let kind = byte(30)?;
        if !matches!(kind, TYPE_KERNEL | TYPE_KERNEL_ANYWHERE) {
            return Err(KernelError::Malformed("uImage", "it is no kernel"));
        }
        let packed = byte(31)?;
        if !matches!(packed, PACKED_NOT | PACKED_GZIP) {
            return Err(KernelError::Compression(format!("uImage method {packed}")));
        }
        let size = usize::try_from(word(12)?).map_err(|_| cut())?;
        let end = HEADER.checked_add(size).ok_or_else(cut)?;
        let data = file.get(HEADER..end).ok_or_else(cut)?;
        Ok(UImage { load: word(16)?, entry: word(20)?, gzip: packed == PACKED_GZIP, data })
    }
}

#[cfg(test)]
pub(crate) fn file(arch: u8, packed: u8, data: &[u8]) -> Vec<u8> {
    let mut f = MAGIC.to_vec();
    f.resize(HEADER, 0);
    f[12..16].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    f[16..20].copy_from_slice(&0x4020_0000u32.to_be_bytes());
    f[20..24].copy_from_slice(&0x4020_0040u32.to_be_bytes());
    f[29..32].copy_from_slice(&[arch, TYPE_KERNEL, packed]);
    f.extend(data);
    f
}
