//! Kernel files of every form that can be booted directly.

use std::io::Read;

use crate::elf::Elf;
use crate::uimage::UImage;

/// Largest file after decompression.
pub(crate) const MAX_KERNEL: u64 = 256 << 20;
/// Bytes of the arm64 Image header.
const HEADER: usize = 64;
/// Where kernels without a usable header are loaded, relative to RAM.
pub(crate) const DEFAULT_TEXT_OFFSET: u64 = 0x8_0000;

/// Why a kernel file cannot be booted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The file ends inside something.
    #[error("the {0} file is cut off")]
    Truncated(&'static str),
    /// It is for another machine.
    #[error("it is {0}; a little-endian AArch64 kernel is needed")]
    Architecture(&'static str),
    /// Something in it makes no sense.
    #[error("the {0} file is malformed: {1}")]
    Malformed(&'static str, &'static str),
    /// It is packed in a way that cannot be unpacked.
    #[error("its '{0}' compression is not supported; use gzip or an uncompressed Image")]
    Compression(String),
    /// It is too big.
    #[error("it unpacks to more than {} MiB", MAX_KERNEL >> 20)]
    TooBig,
    /// It does not fit the guest's memory.
    #[error("{what} needs memory up to {end:#x}, but RAM ends at {ram_end:#x}; use a larger -m")]
    NoRoom {
        /// What does not fit.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Where RAM ends.
        ram_end: u64,
    },
}

/// A kernel, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// An arm64 Image, or a raw binary treated as one.
    Image {
        /// The bytes.
        data: Vec<u8>,
        /// Offset from the start of RAM.
        text_offset: u64,
        /// Bytes it needs from there, with its BSS.
        memory: u64,
    },
    /// A Linux kernel at an address of its own (uImage).
    At {
        /// The bytes.
        data: Vec<u8>,
        /// Where they go.
        address: u64,
        /// Where it starts.
        entry: u64,
    },
    /// An ELF file, started at its entry point without a boot stub.
    Elf(Elf),
}

impl Kernel {
    /// Recognises and unpacks a kernel file.
    pub fn parse(file: Vec<u8>) -> Result<Kernel, KernelError> {
        Kernel::parse_nested(file, 0)
    }

    /// The file's bytes for firmware to boot: gzip is taken off, nothing else.
    pub fn unpacked(file: Vec<u8>) -> Result<Vec<u8>, KernelError> {
        if file.starts_with(&[0x1f, 0x8b]) { gunzip(&file) } else { Ok(file) }
    }

    /// The file as a program that says where it goes (ELF, uImage), if it is one.
    #[must_use]
    pub fn program(file: &[u8]) -> Option<Kernel> {
        if file.starts_with(b"\x7fELF") {
            return Elf::parse(file).ok().map(Kernel::Elf);
        }
        UImage::parse(file).and_then(|_| Kernel::parse(file.to_vec()).ok())
    }

    fn parse_nested(file: Vec<u8>, depth: u32) -> Result<Kernel, KernelError> {
        if file.len() as u64 > MAX_KERNEL {
            return Err(KernelError::TooBig);
        }
        if let Some(image) = UImage::parse(&file) {
            let UImage { load, entry, gzip, data } = image?;
            let data = if gzip { gunzip(data)? } else { data.to_vec() };
            return Ok(Kernel::At { data, address: load, entry });
        }
        if file.starts_with(b"\x7fELF") {
            return Ok(Kernel::Elf(Elf::parse(&file)?));
        }
        if depth == 0 {
            if file.starts_with(&[0x1f, 0x8b]) {
                return Kernel::parse_nested(gunzip(&file)?, 1);
            }
            if file.starts_with(b"MZ") && file.get(4..8) == Some(b"zimg") {
                return Kernel::parse_nested(unpack_zboot(&file)?, 1);
            }
        }
        Ok(Kernel::image(file))
    }

    /// booting.rst, "Call the kernel image": the header's fields.
    fn image(data: Vec<u8>) -> Kernel {
        let len = data.len() as u64;
        let header = data.get(..HEADER).filter(|h| h.get(56..60) == Some(b"ARM\x64"));
        let field = |at: usize| -> Option<u64> {
            let bytes = header?.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        match (field(8), field(16)) {
            // image_size 0: a kernel from before 3.17, whose text_offset means nothing.
            (Some(text_offset), Some(size)) if size != 0 => {
                Kernel::Image { data, text_offset, memory: size.max(len) }
            }
            _ => Kernel::Image { data, text_offset: DEFAULT_TEXT_OFFSET, memory: len },
        }
    }
}

fn gunzip(file: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut out = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(file).take(MAX_KERNEL + 1);
    match reader.read_to_end(&mut out) {
        Ok(_) if out.len() as u64 > MAX_KERNEL => Err(KernelError::TooBig),
        Ok(_) => Ok(out),
        Err(_) => Err(KernelError::Malformed("gzip", "it does not unpack")),
    }
}

/// Linux's EFI zboot form: a small EFI program around a packed Image.
fn unpack_zboot(file: &[u8]) -> Result<Vec<u8>, KernelError> {
    let cut = KernelError::Truncated("EFI zboot");
    let word = |at: usize| -> Option<usize> {
        let bytes = file.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let (Some(offset), Some(size)) = (word(8), word(12)) else { return Err(cut) };
    let kind = file.get(24..56).ok_or(cut.clone())?;
    let kind: Vec<u8> = kind.iter().copied().take_while(|b| *b != 0).collect();
    if kind != b"gzip" {
        return Err(KernelError::Compression(String::from_utf8_lossy(&kind).into_owned()));
    }
    let end = offset.checked_add(size).ok_or(cut.clone())?;
    gunzip(file.get(offset..end).ok_or(cut)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn image(text_offset: u64, size: u64) -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[8..16].copy_from_slice(&text_offset.to_le_bytes());
        file[16..24].copy_from_slice(&size.to_le_bytes());
        file[56..60].copy_from_slice(b"ARM\x64");
        file
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(data).unwrap();
        e.finish().unwrap()
    }

    pub(crate) fn elf(machine: u16, address: u64, filed: u64, memory: u64) -> Vec<u8> {
        let mut f = vec![0u8; 0x100];
        f[..6].copy_from_slice(b"\x7fELF\x02\x01");
        f[18..20].copy_from_slice(&machine.to_le_bytes());
        f[24..32].copy_from_slice(&(address + 4).to_le_bytes());
        f[32..40].copy_from_slice(&64u64.to_le_bytes());
        f[54..56].copy_from_slice(&56u16.to_le_bytes());
        f[56..58].copy_from_slice(&1u16.to_le_bytes());
        f[64..68].copy_from_slice(&1u32.to_le_bytes());
        for (at, value) in [(72, 0x80), (88, address), (96, filed), (104, memory)] {
            f[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        f
    }

    #[test]
    fn image_header_says_where_it_goes() {
        let k = Kernel::parse(image(0x1000, 0x9000)).unwrap();
        assert!(matches!(k, Kernel::Image { text_offset: 0x1000, memory: 0x9000, .. }));
        let old = Kernel::parse(image(0x1000, 0)).unwrap();
        assert!(matches!(old, Kernel::Image { text_offset: 0x80000, memory: 4096, .. }));
        let raw = Kernel::parse(b"junk".to_vec()).unwrap();
        assert!(matches!(raw, Kernel::Image { text_offset: 0x80000, memory: 4, .. }));
    }

    #[test]
    fn packed_kernels_are_unpacked_once() {
        let plain = Kernel::parse(image(0, 0x9000)).unwrap();
        assert_eq!(Kernel::parse(gzip(&image(0, 0x9000))).unwrap(), plain);
        let payload = gzip(&image(0, 0x9000));
        let mut zboot = vec![0u8; 64];
        zboot[..2].copy_from_slice(b"MZ");
        zboot[4..8].copy_from_slice(b"zimg");
        zboot[8..12].copy_from_slice(&64u32.to_le_bytes());
        zboot[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        zboot[24..28].copy_from_slice(b"gzip");
        zboot.extend(&payload);
        assert_eq!(Kernel::parse(zboot.clone()).unwrap(), plain);
        zboot[24..28].copy_from_slice(b"zstd");
        assert_eq!(Kernel::parse(zboot.clone()), Err(KernelError::Compression("zstd".into())));
        zboot[24..28].copy_from_slice(b"gzip");
        zboot[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Kernel::parse(zboot[..70].to_vec()).is_err());
        assert!(Kernel::parse(gzip(&image(0, 1))[..40].to_vec()).is_err());
        for len in 0..64 {
            let _ = Kernel::parse(zboot[..len].to_vec());
        }
    }

    #[test]
    fn uimages_say_where_they_go() {
        use crate::uimage::file;
        let plain = Kernel::parse(file(22, 0, b"kernel")).unwrap();
        let want =
            Kernel::At { data: b"kernel".to_vec(), address: 0x4020_0000, entry: 0x4020_0040 };
        assert_eq!(plain, want);
        assert_eq!(Kernel::parse(file(22, 1, &gzip(b"kernel"))).unwrap(), want);
        assert!(Kernel::parse(file(2, 0, b"kernel")).is_err(), "32-bit Arm");
        assert!(Kernel::parse(file(22, 3, b"kernel")).is_err(), "LZMA");
        let good = file(22, 1, &gzip(b"kernel"));
        for at in 0..good.len() {
            let mut f = good.clone();
            f[at] ^= 0xff;
            let _ = Kernel::parse(f);
            let _ = Kernel::parse(good[..at].to_vec());
        }
    }

    #[test]
    fn elf_segments_and_their_mistakes() {
        let Kernel::Elf(e) = Kernel::parse(elf(183, 0x4020_0000, 0x40, 0x2000)).unwrap() else {
            panic!("not ELF");
        };
        assert_eq!((e.entry, e.low(), e.high()), (0x4020_0004, 0x4020_0000, 0x4020_2000));
        let bad = [
            elf(62, 0, 1, 1),
            elf(183, 0, 0x1000, 0x2000),
            elf(183, 0, 2, 1),
            elf(183, u64::MAX - 5, 1, 0x100),
            elf(183, 0, 0, 0),
        ];
        for file in bad {
            assert!(Kernel::parse(file).is_err());
        }
        let good = elf(183, 0x4020_0000, 0x40, 0x2000);
        for at in 0..good.len() {
            let mut f = good.clone();
            f[at] ^= 0xff;
            let _ = Kernel::parse(f);
            let _ = Kernel::parse(good[..at].to_vec());
        }
    }
}
