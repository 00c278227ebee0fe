//! Where QEMU 10.0 puts things in an arm64 guest's RAM.
//!
//! Observed with `info roms` over kernels, RAM sizes and RAM disks: the boot stub
//! at the start of RAM, the kernel at its text offset (2 MiB higher when it would
//! cover the stub), the RAM disk in the middle of RAM but at most 128 MiB in, the
//! device tree behind it on the next 2 MiB boundary. An ELF kernel starts without
//! a stub and finds the device tree at the start of RAM if 1 MiB is free there.

use crate::kernel::{Kernel, KernelError};

/// Room kept for the device tree.
pub const FDT_SIZE: u64 = 1 << 20;
const STUB_ROOM: u64 = 4096;
const MIB2: u64 = 2 << 20;
const INITRD_MAX_OFFSET: u64 = 128 << 20;
const PAGE: u64 = 4096;

/// A piece of memory to be filled at each reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it is, as `info roms` shows it.
    pub name: &'static str,
    /// Physical address.
    pub address: u64,
    /// The bytes.
    pub data: Vec<u8>,
}

/// A planned boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Kernel pieces and RAM disk (the device tree comes later, see `fdt`).
    pub blobs: Vec<Blob>,
    /// Where the RAM disk is: first and one past the last byte.
    pub initrd: Option<(u64, u64)>,
    /// Where the device tree goes, if there is room for it.
    pub fdt: Option<u64>,
    /// Where the boot CPU starts.
    pub entry: u64,
}

/// The stub: X0 = device tree, X1 to X3 = 0, jump to the kernel
/// (booting.rst, "Call the kernel image").
#[must_use]
pub fn stub(fdt: u64, entry: u64) -> Vec<u8> {
    const CODE: [u32; 6] = [
        0x5800_00c0, // ldr x0, fdt
        0xaa1f_03e1, // mov x1, xzr
        0xaa1f_03e2, // mov x2, xzr
        0xaa1f_03e3, // mov x3, xzr
        0x5800_0084, // ldr x4, entry
        0xd61f_0080, // br x4
    ];
    let code = CODE.iter().flat_map(|w| w.to_le_bytes());
    code.chain(fdt.to_le_bytes()).chain(entry.to_le_bytes()).collect()
}

fn fits(what: &'static str, end: Option<u64>, ram_end: u64) -> Result<(), KernelError> {
    let end = end.unwrap_or(u64::MAX);
    if end > ram_end { Err(KernelError::NoRoom { what, end, ram_end }) } else { Ok(()) }
}

/// Plans a boot without a kernel: firmware finds the device tree at the start of RAM.
#[must_use]
pub fn without_kernel(ram_base: u64) -> Layout {
    Layout { blobs: Vec::new(), initrd: None, fdt: Some(ram_base), entry: 0 }
}

/// Plans a direct boot.
pub fn plan(
    kernel: Kernel,
    initrd: Option<Vec<u8>>,
    ram_base: u64,
    ram_size: u64,
) -> Result<Layout, KernelError> {
    match kernel {
        Kernel::Image { data, text_offset, memory } => {
            let offset = if text_offset < STUB_ROOM {
                text_offset.saturating_add(MIB2)
            } else {
                text_offset
            };
            let start = ram_base.saturating_add(offset);
            plan_linux((data, start, memory), start, initrd, (ram_base, ram_size))
        }
        Kernel::At { data, address, entry } => {
            if address < ram_base.saturating_add(STUB_ROOM) {
                let end = address;
                let ram_end = ram_base.saturating_add(STUB_ROOM);
                return Err(KernelError::NoRoom { what: "the boot stub", end, ram_end });
            }
            let memory = data.len() as u64;
            plan_linux((data, address, memory), entry, initrd, (ram_base, ram_size))
        }
        Kernel::Elf(elf) => {
            let ram_end = ram_base.saturating_add(ram_size);
            fits("the kernel", Some(elf.high()), ram_end)?;
            // Only Linux Images take RAM disks; the peer ignores them here, too.
            let room = elf.low().saturating_sub(ram_base) >= FDT_SIZE;
            let fdt = room.then_some(ram_base);
            let entry = elf.entry;
            let blobs = elf.segments.into_iter().map(|s| {
                let mut data = s.data;
                let memory = usize::try_from(s.memory).unwrap_or(data.len());
                data.resize(memory.max(data.len()), 0);
                Blob { name: "kernel", address: s.address, data }
            });
            Ok(Layout { blobs: blobs.collect(), initrd: None, fdt, entry })
        }
    }
}

/// The kernel's bytes go to `start` and need `memory` bytes there.
fn plan_linux(
    (data, start, memory): (Vec<u8>, u64, u64),
    entry: u64,
    initrd: Option<Vec<u8>>,
    (ram_base, ram_size): (u64, u64),
) -> Result<Layout, KernelError> {
    let ram_end = ram_base.saturating_add(ram_size);
    let end = start.checked_add(memory);
    fits("the kernel", end, ram_end)?;
    let kernel_end = end.unwrap_or(ram_end).checked_next_multiple_of(PAGE).unwrap_or(ram_end);
    let middle = ram_base.saturating_add((ram_size / 2).min(INITRD_MAX_OFFSET));
    let initrd_start = middle.max(kernel_end);
    let mut blobs = vec![Blob { name: "kernel", address: start, data }];
    let mut place = None;
    let mut initrd_end = initrd_start;
    if let Some(data) = initrd {
        let end = initrd_start.checked_add(data.len() as u64);
        fits("the initrd", end, ram_end)?;
        initrd_end = end.unwrap_or(ram_end);
        place = Some((initrd_start, initrd_end));
        blobs.push(Blob { name: "initrd", address: initrd_start, data });
    }
    let fdt = initrd_end.checked_next_multiple_of(MIB2).unwrap_or(u64::MAX);
    fits("the device tree", fdt.checked_add(FDT_SIZE), ram_end)?;
    blobs.push(Blob { name: "bootloader", address: ram_base, data: stub(fdt, entry) });
    Ok(Layout { blobs, initrd: place, fdt: Some(fdt), entry: ram_base })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{Elf, Segment};

    const BASE: u64 = 0x4000_0000;
    const MIB: u64 = 1 << 20;

    fn image(text_offset: u64, memory: u64) -> Kernel {
        Kernel::Image { data: vec![1; 0x3000], text_offset, memory }
    }

    fn places(l: &Layout) -> Vec<(&str, u64)> {
        l.blobs.iter().map(|b| (b.name, b.address)).collect()
    }

    #[test]
    fn placement_is_the_peers() {
        // (text offset, MiB of RAM, kernel, initrd, dtb): measured with QEMU 10.0.2.
        let cases = [
            (0x80000, 128, 0x4008_0000, 0x4400_0000, 0x4420_0000),
            (0x80000, 256, 0x4008_0000, 0x4800_0000, 0x4820_0000),
            (0x80000, 4096, 0x4008_0000, 0x4800_0000, 0x4820_0000),
            (0, 512, 0x4020_0000, 0x4800_0000, 0x4820_0000),
        ];
        for (offset, ram, kernel, initrd, dtb) in cases {
            let l = plan(image(offset, 0x20000), Some(vec![2; 1000]), BASE, ram * MIB).unwrap();
            let want = [("kernel", kernel), ("initrd", initrd), ("bootloader", BASE)];
            assert_eq!(places(&l), want);
            assert_eq!((l.fdt, l.entry), (Some(dtb), BASE));
            assert_eq!(l.initrd, Some((initrd, initrd + 1000)));
        }
        let l = plan(image(0x80000, 0x20000), None, BASE, 1024 * MIB).unwrap();
        assert_eq!((l.fdt, l.initrd), (Some(0x4800_0000), None));
    }

    #[test]
    fn stub_is_the_peers() {
        let s = stub(0x4820_0000, 0x4008_0000);
        assert_eq!(s.len(), 0x28);
        assert_eq!(s[..4], 0x5800_00c0u32.to_le_bytes());
        assert_eq!(s[24..32], 0x4820_0000u64.to_le_bytes());
        assert_eq!(s[32..], 0x4008_0000u64.to_le_bytes());
    }

    #[test]
    fn elf_finds_its_device_tree_only_with_room_below() {
        let elf = |address| {
            let segments = vec![Segment { address, data: vec![1], memory: 0x2000 }];
            Kernel::Elf(Elf { entry: address, segments })
        };
        assert_eq!(plan(elf(0x4020_0000), None, BASE, 64 * MIB).unwrap().fdt, Some(BASE));
        assert_eq!(plan(elf(0x4008_0000), None, BASE, 64 * MIB).unwrap().fdt, None);
        assert!(plan(elf(0x5000_0000), None, BASE, 64 * MIB).is_err());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let e = plan(image(0, 1 << 40), None, BASE, 64 * MIB).unwrap_err();
        assert!(e.to_string().contains("the kernel needs memory up to"), "{e}");
        let big = vec![0; usize::try_from(100 * MIB).unwrap()];
        let e = plan(image(0, 1), Some(big), BASE, 64 * MIB).unwrap_err();
        assert!(e.to_string().contains("the initrd"), "{e}");
        assert!(plan(image(u64::MAX - 10, u64::MAX), None, BASE, 64 * MIB).is_err());
        assert!(plan(image(0, 1), None, BASE, 3 * MIB).is_err());
    }
}
