//! `x` and `xp`: memory in rows.
//!
//! The format is `/COUNT FORMAT SIZE`, as in gdb: formats `x` hexadecimal, `d` signed,
//! `u` unsigned, `o` octal, `c` character, `i` instructions; sizes `b`, `h`, `w`, `g`. Instructions
//! are those of guests with words of 32 bits; without an accelerator that knows them, `i` says so.

use std::fmt::Write as _;
use std::sync::Arc;

use vmm::Vm;

use crate::expression::evaluate;
use crate::hmp::split_line;

/// Whose addresses.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Space {
    /// The current CPU's.
    Virtual,
    /// The machine's.
    Physical,
}

/// Most elements of one command.
const MAX: u64 = 1 << 16;

#[derive(Debug, PartialEq)]
struct Format {
    count: u64,
    kind: char,
    size: usize,
}

fn format(text: &str) -> Option<Format> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, letters) = text.split_at(digits);
    let count = if count.is_empty() { 1 } else { count.parse().ok()? };
    let mut format = Format { count, kind: 'x', size: 4 };
    for letter in letters.chars() {
        match letter {
            'x' | 'd' | 'u' | 'o' | 'c' => format.kind = letter,
            'i' => (format.kind, format.size) = ('i', 4),
            'b' => format.size = 1,
            'h' => format.size = 2,
            'w' => format.size = 4,
            'g' => format.size = 8,
            _ => return None,
        }
    }
    if format.kind == 'c' {
        format.size = 1;
    }
    Some(format)
}

/// `x` and `xp`.
pub(crate) fn dump(vm: &Arc<Vm>, text: &str, space: Space) -> String {
    let (given, address) = match text.strip_prefix('/') {
        Some(rest) => split_line(rest),
        None => ("", text),
    };
    let Some(format) = format(given) else { return format!("invalid char in format: '{given}'\n") };
    let Some(start) = evaluate(address) else { return "invalid expression\n".into() };
    vm.while_stopped(|| rows(vm, &format, start.cast_unsigned(), space))
}

fn rows(vm: &Arc<Vm>, format: &Format, start: u64, space: Space) -> String {
    if format.kind == 'i' {
        return instructions(vm, format.count, start, space);
    }
    let width = u64::try_from(format.size).unwrap_or(4);
    let per_row = match (format.kind, format.size) {
        ('c', _) => 8,
        ('o', 8) => 1,
        _ => u64::try_from(16 / format.size.max(1)).unwrap_or(4).min(8),
    };
    let mut text = String::new();
    for number in 0..format.count.min(MAX) {
        let at = start.wrapping_add(number * width);
        if number % per_row == 0 {
            let end = if number == 0 { "" } else { "\n" };
            _ = write!(text, "{end}{at:016x}:");
        }
        let mut bytes = [0; 8];
        let Some(part) = bytes.get_mut(..format.size) else { break };
        if !read(vm, at, part, space) {
            _ = writeln!(text, " Cannot access memory");
            return text;
        }
        _ = write!(text, " {}", element(format, u64::from_le_bytes(bytes)));
    }
    text.push('\n');
    text
}

fn instructions(vm: &Arc<Vm>, count: u64, start: u64, space: Space) -> String {
    let Some(accel) = vm.execution().accel() else { return "no CPU\n".into() };
    let mut text = String::new();
    for number in 0..count.min(MAX) {
        let at = start.wrapping_add(number * 4);
        let mut bytes = [0; 4];
        if !read(vm, at, &mut bytes, space) {
            _ = writeln!(text, "Cannot access memory");
            break;
        }
        let Some(insn) = accel.disassemble(at, &bytes) else {
            text.push_str("the accelerator does not disassemble\n");
            break;
        };
        _ = writeln!(text, "{at:#010x}:  {insn}");
    }
    text
}

fn read(vm: &Arc<Vm>, at: u64, out: &mut [u8], space: Space) -> bool {
    if space == Space::Virtual {
        return vm.execution().accel().is_some_and(|accel| accel.read_virtual(0, at, out));
    }
    let world = vm.machine().and_then(|machine| machine.world.as_ref());
    world.is_some_and(|w| w.memory.read(at, out, device::TxAttrs::default()).is_ok())
}

fn element(format: &Format, value: u64) -> String {
    let bits = 64 - format.size * 8;
    let signed = (value << bits).cast_signed() >> bits;
    match format.kind {
        'd' => {
            format!("{signed:>width$}", width = [4, 6, 11, 21][format.size.ilog2().min(3) as usize])
        }
        'u' => {
            format!("{value:>width$}", width = [3, 5, 10, 20][format.size.ilog2().min(3) as usize])
        }
        'o' => format!("0{value:0width$o}", width = (format.size * 8).div_ceil(3)),
        'c' => format!("'{}'", u8::try_from(value & 0xff).unwrap_or(0).escape_ascii()),
        _ => format!("0x{value:0width$x}", width = format.size * 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_gdbs() {
        assert_eq!(format("4gx"), Some(Format { count: 4, kind: 'x', size: 8 }));
        assert_eq!(format(""), Some(Format { count: 1, kind: 'x', size: 4 }));
        assert_eq!(format("3c"), Some(Format { count: 3, kind: 'c', size: 1 }));
        assert_eq!(format("z"), None);
        let f = |kind, size| Format { count: 1, kind, size };
        assert_eq!(element(&f('d', 1), 0xff), "  -1");
        assert_eq!(element(&f('x', 2), 0xab), "0x00ab");
        assert_eq!(element(&f('o', 1), 8), "0010");
    }
}
