//! Log mask, guest errors and trace points.
//!
//! `-d` selects items by QEMU's names, `-D` a file instead of standard error.
//! [`guest_error!`] and [`unimp!`] report what a guest did wrong or what we do
//! not model; they are limited per place in the source, since a guest may repeat
//! its mistake a million times a second. Trace points are minimal: a name and
//! text, switched by patterns. Not a general logging crate; text for the person
//! at the terminal goes through the command line's own errors.
//! Source: `qemu-system-aarch64 -d help` (the names).

mod limit;
mod points;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use bitflags::bitflags;
use parking_lot::Mutex;

pub use limit::Limit;
pub use points::{enable_point, point_enabled};

bitflags! {
    /// Items of `-d`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mask: u32 {
        /// Generated host code.
        const OUT_ASM = 1 << 0;
        /// Guest code of each translated block.
        const IN_ASM = 1 << 1;
        /// Intermediate code.
        const OP = 1 << 2;
        /// Intermediate code after optimisation.
        const OP_OPT = 1 << 3;
        /// Intermediate code before indirect lowering.
        const OP_IND = 1 << 4;
        /// Intermediate code before plugin injection.
        const OP_PLUGIN = 1 << 5;
        /// Interrupts and exceptions.
        const INT = 1 << 6;
        /// Each executed block.
        const EXEC = 1 << 7;
        /// CPU registers before each block.
        const CPU = 1 << 8;
        /// Floating-point registers with `CPU`.
        const FPU = 1 << 9;
        /// MMU activity.
        const MMU = 1 << 10;
        /// x86 protected-mode far calls.
        const PCALL = 1 << 11;
        /// CPU state before a reset.
        const CPU_RESET = 1 << 12;
        /// What is not implemented.
        const UNIMP = 1 << 13;
        /// What the guest does wrong.
        const GUEST_ERRORS = 1 << 14;
        /// Pages at the start of user mode.
        const PAGE = 1 << 15;
        /// Do not chain blocks.
        const NOCHAIN = 1 << 16;
        /// Plugin output.
        const PLUGIN = 1 << 17;
        /// User-mode system calls.
        const STRACE = 1 << 18;
        /// One file per thread.
        const TID = 1 << 19;
        /// Vector registers with `CPU`.
        const VPU = 1 << 20;
        /// Invalid memory accesses.
        const INVALID_MEM = 1 << 21;
    }
}

/// One `-d` item.
pub struct Item {
    /// The name on the command line.
    pub name: &'static str,
    /// Its bit.
    pub mask: Mask,
    /// One line of help.
    pub help: &'static str,
}

const fn item(name: &'static str, mask: Mask, help: &'static str) -> Item {
    Item { name, mask, help }
}

/// All `-d` items in the order of the help text.
pub const ITEMS: &[Item] = &[
    item("out_asm", Mask::OUT_ASM, "show generated host assembly code for each compiled TB"),
    item("in_asm", Mask::IN_ASM, "show target assembly code for each compiled TB"),
    item("op", Mask::OP, "show micro ops for each compiled TB"),
    item("op_opt", Mask::OP_OPT, "show micro ops after optimization"),
    item("op_ind", Mask::OP_IND, "show micro ops before indirect lowering"),
    item("op_plugin", Mask::OP_PLUGIN, "show micro ops before plugin injection"),
    item("int", Mask::INT, "show interrupts/exceptions in short format"),
    item("exec", Mask::EXEC, "show trace before each executed TB (lots of logs)"),
    item("cpu", Mask::CPU, "show CPU registers before entering a TB (lots of logs)"),
    item("fpu", Mask::FPU, "include FPU registers in the 'cpu' logging"),
    item("mmu", Mask::MMU, "log MMU-related activities"),
    item("pcall", Mask::PCALL, "x86 only: show protected mode far calls/returns/exceptions"),
    item("cpu_reset", Mask::CPU_RESET, "show CPU state before CPU resets"),
    item("unimp", Mask::UNIMP, "log unimplemented functionality"),
    item(
        "guest_errors",
        Mask::GUEST_ERRORS,
        "log when the guest OS does something invalid (eg accessing a\nnon-existent register)",
    ),
    item("page", Mask::PAGE, "dump pages at beginning of user mode emulation"),
    item(
        "nochain",
        Mask::NOCHAIN,
        "do not chain compiled TBs so that \"exec\" and \"cpu\" show\ncomplete traces",
    ),
    item("plugin", Mask::PLUGIN, "output from TCG plugins"),
    item("strace", Mask::STRACE, "log every user-mode syscall, its input, and its result"),
    item("tid", Mask::TID, "open a separate log file per thread; filename must contain '%d'"),
    item("vpu", Mask::VPU, "include VPU registers in the 'cpu' logging"),
    item("invalid_mem", Mask::INVALID_MEM, "log invalid memory accesses"),
];

static MASK: AtomicU32 = AtomicU32::new(0);
static SINK: Mutex<Option<File>> = Mutex::new(None);

/// Items that something logs under, or that are silent for the guests that are built as at QEMU (mmu);
/// the others are accepted and said to be idle in the help.
const BUILT: Mask = Mask::IN_ASM
    .union(Mask::OUT_ASM)
    .union(Mask::OP)
    .union(Mask::OP_OPT)
    .union(Mask::INT)
    .union(Mask::EXEC)
    .union(Mask::CPU)
    .union(Mask::FPU)
    .union(Mask::MMU)
    .union(Mask::NOCHAIN)
    .union(Mask::UNIMP)
    .union(Mask::GUEST_ERRORS);

/// Text of `-d help`.
#[must_use]
pub fn help() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("Log items (comma separated):\n");
    for i in ITEMS {
        let idle = if BUILT.contains(i.mask) { "" } else { " (logs nothing yet)" };
        let _ = writeln!(text, "{:<15} {}{idle}", i.name, i.help);
    }
    text.push_str("trace:PATTERN   enable trace events\n");
    text
}

/// Reads a `-d` list; `trace:PATTERN` items switch trace points on at once.
pub fn parse_items(list: &str) -> Result<Mask, String> {
    let mut mask = Mask::empty();
    for name in list.split(',') {
        if name == "all" {
            mask |= Mask::all();
        } else if let Some(pattern) = name.strip_prefix("trace:") {
            enable_point(pattern, true);
        } else {
            let item = ITEMS.iter().find(|i| i.name == name);
            mask |= item.ok_or_else(|| format!("Invalid parameter '{name}' for -d"))?.mask;
        }
    }
    Ok(mask)
}

/// Replaces the mask.
pub fn set_mask(mask: Mask) {
    MASK.store(mask.bits(), Ordering::Relaxed);
}

/// The mask in force.
#[must_use]
pub fn mask() -> Mask {
    Mask::from_bits_truncate(MASK.load(Ordering::Relaxed))
}

/// Whether any item of `mask` is logged; one relaxed load.
#[inline]
#[must_use]
pub fn enabled(mask: Mask) -> bool {
    MASK.load(Ordering::Relaxed) & mask.bits() != 0
}

/// Address ranges of `-dfilter`; empty means all.
static FILTER: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// Reads a `-dfilter` list: `start+len`, `start-len` or `start..end`, in hexadecimal or
/// decimal; gives inclusive ranges.
pub fn parse_filter(list: &str) -> Result<Vec<(u64, u64)>, String> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let range = |text: &str| -> Option<(u64, u64)> {
        if let Some((start, end)) = text.split_once("..") {
            let (start, end) = (number(start)?, number(end)?);
            return (start <= end).then_some((start, end));
        }
        if let Some((start, len)) = text.split_once('+') {
            let (start, len) = (number(start)?, number(len)?);
            return Some((start, start.checked_add(len.checked_sub(1)?)?));
        }
        let (end, len) = text.split_once('-')?;
        let (end, len) = (number(end)?, number(len)?);
        Some((end.checked_sub(len.checked_sub(1)?)?, end))
    };
    list.split(',')
        .map(|text| range(text).ok_or_else(|| "Bad range specifier".to_owned()))
        .collect()
}

/// Limits what is logged about guest code to these inclusive address ranges.
pub fn set_filter(ranges: Vec<(u64, u64)>) {
    *FILTER.lock() = ranges;
}

/// Whether what happens at a guest address is to be logged.
#[must_use]
pub fn in_filter(address: u64) -> bool {
    let ranges = FILTER.lock();
    ranges.is_empty() || ranges.iter().any(|(start, end)| (*start..=*end).contains(&address))
}

/// Sends the log to a file, or back to standard error.
pub fn set_file(path: Option<&Path>) -> io::Result<()> {
    *SINK.lock() = path.map(File::create).transpose()?;
    Ok(())
}

/// Writes text to the log as it is.
pub fn write(text: std::fmt::Arguments<'_>) {
    let text = text.to_string();
    match &mut *SINK.lock() {
        Some(file) => drop(file.write_all(text.as_bytes())),
        None => drop(io::stderr().lock().write_all(text.as_bytes())),
    }
}

/// Tells a person something on standard output.
pub fn say(text: std::fmt::Arguments<'_>) {
    drop(io::stdout().lock().write_all(text.to_string().as_bytes()));
}

fn tell(text: std::fmt::Arguments<'_>) {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    let line = format!("{}: {text}\n", name.to_string_lossy());
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

/// Warns the user, after the program's name as it was called.
pub fn warn(text: std::fmt::Arguments<'_>) {
    tell(format_args!("warning: {text}"));
}

/// Tells the user of an error that no caller can be given.
pub fn report(text: std::fmt::Arguments<'_>) {
    tell(text);
}

/// Writes a line to the log when an item of the mask is on.
#[macro_export]
macro_rules! log {
    ($mask:expr, $($text:tt)+) => {
        if $crate::enabled($mask) {
            $crate::write(::std::format_args!("{}\n", ::std::format_args!($($text)+)));
        }
    };
}

/// As [`log!`], limited per place in the source.
#[macro_export]
macro_rules! log_limited {
    ($mask:expr, $($text:tt)+) => {
        if $crate::enabled($mask) {
            static LIMIT: $crate::Limit = $crate::Limit::new();
            if let ::std::option::Option::Some(lost) = LIMIT.pass() {
                if lost > 0 {
                    $crate::write(::std::format_args!("({lost} similar messages suppressed)\n"));
                }
                $crate::write(::std::format_args!("{}\n", ::std::format_args!($($text)+)));
            }
        }
    };
}

/// Reports a mistake of the guest (`-d guest_errors`), rate-limited.
#[macro_export]
macro_rules! guest_error {
    ($($text:tt)+) => { $crate::log_limited!($crate::Mask::GUEST_ERRORS, $($text)+) };
}

/// Warns the user.
#[macro_export]
macro_rules! warning {
    ($($text:tt)+) => { $crate::warn(::std::format_args!($($text)+)) };
}

/// Reports something that is not modelled (`-d unimp`), rate-limited.
#[macro_export]
macro_rules! unimp {
    ($($text:tt)+) => { $crate::log_limited!($crate::Mask::UNIMP, $($text)+) };
}

/// A named trace point: `trace::point!("pl011_write", "addr {:#x}", at)`.
#[macro_export]
macro_rules! point {
    ($name:literal, $($text:tt)+) => {
        if $crate::point_enabled($name) {
            $crate::write(::std::format_args!("{} {}\n", $name, ::std::format_args!($($text)+)));
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_ranges() {
        let want = vec![(0x1000, 0x10ff), (0xf01, 0x1000), (10, 20)];
        assert_eq!(parse_filter("0x1000+0x100,0x1000-0x100,10..20"), Ok(want));
        for wrong in ["foo", "1", "5..4", "1+0", "0xffffffffffffffff+2", "1-3", ""] {
            assert!(parse_filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn items_parse_by_name() {
        assert_eq!(parse_items("int,unimp").unwrap(), Mask::INT | Mask::UNIMP);
        assert!(parse_items("int,bogus").unwrap_err().contains("bogus"));
        assert!(help().contains("guest_errors"));
    }
}
