//! What a guest finds in memory when it starts.
//!
//! [`Fdt`] builds, reads and writes flattened device trees. [`Kernel`] reads
//! kernel files (arm64 `Image`, gzip, EFI zboot with gzip, ELF, raw), and
//! [`arm64::Layout`] says where kernel, initial RAM disk, device tree and the
//! boot stub go. Nothing here touches guest memory: boards do, at every reset.
//! [`acpi`] collects ACPI tables, [`smbios`] writes SMBIOS. Not here: fw_cfg.
//! Sources: Devicetree Specification 0.4, Linux
//! `Documentation/arch/arm64/booting.rst`, the ELF-64 object file format, RFC 1952
//! (through flate2); placement is what QEMU 10.0's `info roms` shows.

pub mod acpi;
pub mod arm64;
mod elf;
mod fdt;
mod kernel;
pub mod smbios;
mod uimage;

pub use elf::{Elf, Segment};
pub use fdt::{Entries, Fdt, FdtError, Prop};
pub use kernel::{Kernel, KernelError};
