//! A64 instructions as text, for `-d in_asm` and the monitor's `x/i`.
//!
//! The library `yaxpeax-arm` decodes and prints; this file brings its text into the form that QEMU 10
//! prints: the mnemonic in a column of 8, branch targets as absolute addresses, numbers up to 9 in
//! decimal, system registers and maintenance operations by name. The names are those of the Arm ARM
//! (DDI 0487, chapters C5.3 and D24).
//!
//! Not modelled: QEMU's choice among equivalent spellings beyond these (`mov` for `movz`, digits of
//! floating-point immediates).

use std::fmt::Write as _;

use cpu::encoding;
use yaxpeax_arch::{Decoder, U8Reader};
use yaxpeax_arm::armv8::a64::InstDecoder;

use crate::sysreg::PLAIN;

/// Registers that are computed, not stored.
const SPECIAL: &[(u16, &str)] = &[
    (encoding(3, 3, 4, 2, 0), "nzcv"),
    (encoding(3, 3, 4, 2, 1), "daif"),
    (encoding(3, 0, 4, 2, 2), "currentel"),
    (encoding(3, 0, 4, 2, 0), "spsel"),
    (encoding(3, 0, 4, 2, 3), "pan"),
    (encoding(3, 0, 4, 2, 4), "uao"),
    (encoding(3, 0, 4, 1, 0), "sp_el0"),
    (encoding(3, 4, 4, 1, 0), "sp_el1"),
    (encoding(3, 6, 4, 1, 0), "sp_el2"),
    (encoding(3, 3, 4, 4, 0), "fpcr"),
    (encoding(3, 3, 4, 4, 1), "fpsr"),
    (encoding(3, 0, 0, 0, 0), "midr_el1"),
    (encoding(3, 0, 0, 0, 5), "mpidr_el1"),
    (encoding(3, 0, 0, 0, 6), "revidr_el1"),
    (encoding(3, 0, 0, 4, 0), "id_aa64pfr0_el1"),
    (encoding(3, 0, 0, 4, 1), "id_aa64pfr1_el1"),
    (encoding(3, 0, 0, 4, 4), "id_aa64zfr0_el1"),
    (encoding(3, 0, 0, 5, 0), "id_aa64dfr0_el1"),
    (encoding(3, 0, 0, 5, 1), "id_aa64dfr1_el1"),
    (encoding(3, 0, 0, 6, 0), "id_aa64isar0_el1"),
    (encoding(3, 0, 0, 6, 1), "id_aa64isar1_el1"),
    (encoding(3, 0, 0, 6, 2), "id_aa64isar2_el1"),
    (encoding(3, 0, 0, 7, 0), "id_aa64mmfr0_el1"),
    (encoding(3, 0, 0, 7, 1), "id_aa64mmfr1_el1"),
    (encoding(3, 0, 0, 7, 2), "id_aa64mmfr2_el1"),
    (encoding(3, 1, 0, 0, 0), "ccsidr_el1"),
    (encoding(3, 1, 0, 0, 1), "clidr_el1"),
    (encoding(3, 3, 0, 0, 1), "ctr_el0"),
    (encoding(3, 3, 0, 0, 7), "dczid_el0"),
    (encoding(3, 3, 14, 0, 0), "cntfrq_el0"),
    (encoding(3, 3, 14, 0, 1), "cntpct_el0"),
    (encoding(3, 3, 14, 0, 2), "cntvct_el0"),
    (encoding(3, 3, 14, 2, 0), "cntp_tval_el0"),
    (encoding(3, 3, 14, 2, 1), "cntp_ctl_el0"),
    (encoding(3, 3, 14, 2, 2), "cntp_cval_el0"),
    (encoding(3, 3, 14, 3, 0), "cntv_tval_el0"),
    (encoding(3, 3, 14, 3, 1), "cntv_ctl_el0"),
    (encoding(3, 3, 14, 3, 2), "cntv_cval_el0"),
    (encoding(3, 0, 12, 1, 0), "isr_el1"),
    (encoding(3, 0, 4, 6, 0), "icc_pmr_el1"),
    (encoding(3, 0, 12, 11, 1), "icc_dir_el1"),
    (encoding(3, 0, 12, 11, 3), "icc_rpr_el1"),
    (encoding(3, 0, 12, 11, 5), "icc_sgi1r_el1"),
    (encoding(3, 0, 12, 12, 0), "icc_iar1_el1"),
    (encoding(3, 0, 12, 12, 1), "icc_eoir1_el1"),
    (encoding(3, 0, 12, 12, 4), "icc_ctlr_el1"),
    (encoding(3, 0, 12, 12, 5), "icc_sre_el1"),
    (encoding(3, 0, 12, 12, 7), "icc_igrpen1_el1"),
    (encoding(2, 0, 1, 0, 4), "oslar_el1"),
    (encoding(2, 0, 1, 1, 4), "oslsr_el1"),
];

/// Maintenance operations: encoding, mnemonic and operation, whether a register follows.
const OPERATIONS: &[(u16, &str, &str, bool)] = &[
    (encoding(1, 0, 7, 1, 0), "ic", "ialluis", false),
    (encoding(1, 0, 7, 5, 0), "ic", "iallu", false),
    (encoding(1, 3, 7, 5, 1), "ic", "ivau", true),
    (encoding(1, 0, 7, 6, 1), "dc", "ivac", true),
    (encoding(1, 0, 7, 6, 2), "dc", "isw", true),
    (encoding(1, 0, 7, 10, 2), "dc", "csw", true),
    (encoding(1, 0, 7, 14, 2), "dc", "cisw", true),
    (encoding(1, 3, 7, 4, 1), "dc", "zva", true),
    (encoding(1, 3, 7, 10, 1), "dc", "cvac", true),
    (encoding(1, 3, 7, 11, 1), "dc", "cvau", true),
    (encoding(1, 3, 7, 12, 1), "dc", "cvap", true),
    (encoding(1, 3, 7, 14, 1), "dc", "civac", true),
    (encoding(1, 0, 7, 8, 0), "at", "s1e1r", true),
    (encoding(1, 0, 7, 8, 1), "at", "s1e1w", true),
    (encoding(1, 0, 7, 8, 2), "at", "s1e0r", true),
    (encoding(1, 0, 7, 8, 3), "at", "s1e0w", true),
    (encoding(1, 4, 7, 8, 0), "at", "s1e2r", true),
    (encoding(1, 4, 7, 8, 1), "at", "s1e2w", true),
    (encoding(1, 4, 7, 8, 4), "at", "s12e1r", true),
    (encoding(1, 4, 7, 8, 5), "at", "s12e1w", true),
    (encoding(1, 0, 8, 3, 0), "tlbi", "vmalle1is", false),
    (encoding(1, 0, 8, 3, 1), "tlbi", "vae1is", true),
    (encoding(1, 0, 8, 3, 2), "tlbi", "aside1is", true),
    (encoding(1, 0, 8, 3, 3), "tlbi", "vaae1is", true),
    (encoding(1, 0, 8, 3, 5), "tlbi", "vale1is", true),
    (encoding(1, 0, 8, 3, 7), "tlbi", "vaale1is", true),
    (encoding(1, 0, 8, 7, 0), "tlbi", "vmalle1", false),
    (encoding(1, 0, 8, 7, 1), "tlbi", "vae1", true),
    (encoding(1, 0, 8, 7, 2), "tlbi", "aside1", true),
    (encoding(1, 0, 8, 7, 3), "tlbi", "vaae1", true),
    (encoding(1, 0, 8, 7, 5), "tlbi", "vale1", true),
    (encoding(1, 0, 8, 7, 7), "tlbi", "vaale1", true),
    (encoding(1, 4, 8, 0, 1), "tlbi", "ipas2e1is", true),
    (encoding(1, 4, 8, 0, 5), "tlbi", "ipas2le1is", true),
    (encoding(1, 4, 8, 3, 0), "tlbi", "alle2is", false),
    (encoding(1, 4, 8, 3, 1), "tlbi", "vae2is", true),
    (encoding(1, 4, 8, 3, 4), "tlbi", "alle1is", false),
    (encoding(1, 4, 8, 3, 5), "tlbi", "vale2is", true),
    (encoding(1, 4, 8, 3, 6), "tlbi", "vmalls12e1is", false),
    (encoding(1, 4, 8, 4, 1), "tlbi", "ipas2e1", true),
    (encoding(1, 4, 8, 7, 0), "tlbi", "alle2", false),
    (encoding(1, 4, 8, 7, 1), "tlbi", "vae2", true),
    (encoding(1, 4, 8, 7, 4), "tlbi", "alle1", false),
    (encoding(1, 4, 8, 7, 6), "tlbi", "vmalls12e1", false),
    (encoding(1, 6, 8, 3, 0), "tlbi", "alle3is", false),
    (encoding(1, 6, 8, 7, 0), "tlbi", "alle3", false),
];

/// One instruction: mnemonic, padded, and operands.
#[must_use]
pub fn disassemble(word: u32, pc: u64) -> String {
    if let Some(text) = system(word) {
        return text;
    }
    let bytes = word.to_le_bytes();
    let Ok(insn) = InstDecoder::default().decode(&mut U8Reader::new(&bytes)) else {
        return data(word);
    };
    if word >> 23 & 0xff == 0b1010_0101 && word >> 29 & 3 == 2 {
        return move_wide(word);
    }
    let text = insn.to_string();
    let (mnemonic, operands) = text.split_once(' ').unwrap_or((&text, ""));
    column(mnemonic, &operands_like_qemu(mnemonic, operands, pc))
}

/// MOVZ, which QEMU shows under its own name.
fn move_wide(word: u32) -> String {
    let (n, shift) = (word >> 5 & 0xffff, (word >> 21 & 3) * 16);
    let letter = if word >> 31 != 0 { 'x' } else { 'w' };
    let name = if word & 31 == 31 { "zr".to_owned() } else { (word & 31).to_string() };
    let number = if n == 0 { "0".to_owned() } else { format!("{n:#x}") };
    let place = if shift == 0 { String::new() } else { format!(", lsl #{shift}") };
    column("movz", &format!("{letter}{name}, #{number}{place}"))
}

/// Words that are no instruction.
fn data(word: u32) -> String {
    let [a, b, c, d] = word.to_le_bytes();
    format!(".byte    0x{a:02x}, 0x{b:02x}, 0x{c:02x}, 0x{d:02x}")
}

fn column(mnemonic: &str, operands: &str) -> String {
    format!("{mnemonic:<8} {operands}")
}

fn register(word: u32) -> String {
    match word & 31 {
        31 => "xzr".into(),
        n => format!("x{n}"),
    }
}

/// MSR, MRS and SYS, by name.
fn system(word: u32) -> Option<String> {
    if word >> 22 != 0b11_0101_0100 {
        return None;
    }
    let code = (word >> 5 & 0xffff) as u16;
    let reads = word >> 21 & 1 != 0;
    match code >> 14 {
        2 | 3 => {
            let (name, r) = (register_name(code), register(word));
            let operands = if reads { format!("{r}, {name}") } else { format!("{name}, {r}") };
            Some(column(if reads { "mrs" } else { "msr" }, &operands))
        }
        1 if !reads => {
            let (_, mnemonic, operation, takes) = OPERATIONS.iter().find(|o| o.0 == code)?;
            let operands = if *takes {
                format!("{operation}, {}", register(word))
            } else {
                (*operation).into()
            };
            Some(column(mnemonic, &operands))
        }
        _ => None,
    }
}

fn register_name(code: u16) -> String {
    if let Some(plain) = PLAIN.iter().find(|p| p.enc == code) {
        return plain.reg.name().to_ascii_lowercase();
    }
    if let Some((_, name)) = SPECIAL.iter().find(|s| s.0 == code) {
        return (*name).into();
    }
    let (op0, op1, crn) = (code >> 14, code >> 11 & 7, code >> 7 & 15);
    format!("s{op0}_{op1}_c{crn}_c{}_{}", code >> 3 & 15, code & 7)
}

/// Branch targets become addresses, small numbers decimal.
fn operands_like_qemu(mnemonic: &str, operands: &str, pc: u64) -> String {
    let page = mnemonic == "adrp";
    let always_hex = matches!(
        mnemonic,
        "movz" | "movk" | "movn" | "svc" | "hvc" | "smc" | "brk" | "hlt" | "udf"
    ) || matches!((mnemonic, operands.contains('[')), ("mov", false));
    let mut out = String::with_capacity(operands.len());
    let mut rest = operands;
    while let Some(at) = rest.find(['$', '#']) {
        out.push_str(&rest[..at]);
        let target = rest.as_bytes()[at] == b'$';
        rest = &rest[at + 1..];
        let end = rest.find([',', ']', ' ', '}']).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        rest = tail;
        match signed(number) {
            Some((negative, n)) if target => {
                let base = if page { pc & !0xfff } else { pc };
                let to = if negative { base.wrapping_sub(n) } else { base.wrapping_add(n) };
                _ = write!(out, "#{to:#x}");
            }
            Some((negative, n)) => {
                let sign = if negative { "-" } else { "" };
                if n <= 9 && !(always_hex && n != 0) {
                    _ = write!(out, "#{sign}{n}");
                } else {
                    _ = write!(out, "#{sign}{n:#x}");
                }
            }
            None => {
                out.push('#');
                match number.parse::<f64>() {
                    Ok(x) => _ = write!(out, "{x:.8}"),
                    Err(_) => out.push_str(number),
                }
            }
        }
    }
    out.push_str(rest);
    out
}

fn signed(text: &str) -> Option<(bool, u64)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let n = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some((negative, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_peers_form() {
        let cases: [(u32, &str); 15] = [
            (0xd280_00a0, "movz     x0, #0x5"),
            (0x52a0_0020, "movz     w0, #0x1, lsl #16"),
            (0x1e6e_1000, "fmov     d0, #1.00000000"),
            (0xf100_0400, "subs     x0, x0, #1"),
            (0x54ff_ffe1, "b.ne     #0x40080004"),
            (0x1000_3fa1, "adr      x1, #0x400807fc"),
            (0xd518_c001, "msr      vbar_el1, x1"),
            (0xd538_5205, "mrs      x5, esr_el1"),
            (0xd400_0061, "svc      #0x3"),
            (0xd35a_fca7, "lsr      x7, x5, #0x1a"),
            (0xf900_0060, "str      x0, [x3]"),
            (0xa9bf_7bfd, "stp      x29, x30, [sp, #-0x10]!"),
            (0xd508_831f, "tlbi     vmalle1is"),
            (0xd50b_7b21, "dc       cvau, x1"),
            (0xffff_ffff, ".byte    0xff, 0xff, 0xff, 0xff"),
        ];
        for (word, text) in cases {
            assert_eq!(disassemble(word, 0x4008_0008), text, "{word:#x}");
        }
    }

    #[test]
    fn every_word_has_a_text() {
        let mut x = 0x1234_5678_9abc_def1u64;
        for _ in 0..200_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            assert!(!disassemble(x as u32, x).is_empty());
        }
    }
}
