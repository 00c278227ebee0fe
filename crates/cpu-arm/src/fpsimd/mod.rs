//! FP and Advanced SIMD data processing, cryptography.
//!
//! [`Exec`] is an executor over the register file with one method per encoding group. The translator
//! runs it dry first: that decides whether the word is allocated and whether it touches general
//! registers. Moves and bitwise operations ([`inline`]), most of the integer instructions ([`vector`]) and,
//! while FPCR is plain, of single and double precision ([`float`]) become IR; everything else is a call of
//! [`helper`] with the instruction word.
//!
//! Not here: loads and stores (`translate`), SVE, extended BFloat16 behaviours.
//! Source: Arm ARM (DDI 0487) C7.2 and its shared pseudocode.

mod across;
mod copy;
mod crypto;
mod diff;
mod dispatch;
mod elem;
mod float;
mod inline;
mod matrix;
mod scalar;
mod shift;
mod three;
mod two;
mod vector;

use jit_ir::HelperCx;
use softfloat::{F16, F32, F64, Format, Status};

use crate::decode::fpsimd::decode;
use crate::features::Features;
use crate::helpers::HelperId;
use crate::state::ArmCpu;
use crate::translate::Ctx;

/// FPSR.QC.
const QC: u32 = 1 << 27;

/// Executes, or only checks, one instruction.
pub(crate) struct Exec<'a> {
    cpu: Option<&'a mut ArmCpu>,
    features: &'a Features,
    /// The instruction reads or writes general registers or flags.
    general: bool,
    fp: Status,
    saturated: bool,
}

/// Reads lane `i` of `bits` bits.
fn lane(v: u128, bits: u32, i: u32) -> u64 {
    (v >> (bits * i)) as u64 & ones(bits)
}

/// Sets lane `i`.
fn set_lane(v: &mut u128, bits: u32, i: u32, x: u64) {
    let at = bits * i;
    *v = *v & !(u128::from(ones(bits)) << at) | u128::from(x & ones(bits)) << at;
}

/// The low `bits` bits.
fn ones(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Sign-extends.
fn sx(v: u64, bits: u32) -> i64 {
    (v << (64 - bits)) as i64 >> (64 - bits)
}

/// A lane as a number.
fn number(v: u64, bits: u32, signed: bool) -> i128 {
    if signed { i128::from(sx(v, bits)) } else { i128::from(v & ones(bits)) }
}

/// Format of a two-bit FP type field (scalar FP: 0 single, 1 double, 3 half).
fn scalar_format(ty: u32) -> Option<Format> {
    match ty {
        0 => Some(F32),
        1 => Some(F64),
        3 => Some(F16),
        _ => None,
    }
}

impl<'a> Exec<'a> {
    fn dry(features: &'a Features) -> Self {
        let fp = Status::from_fpcr(0);
        Self { cpu: None, features, general: false, fp, saturated: false }
    }

    /// The CPU, or `None` when this is a dry run.
    fn go(&mut self) -> Option<&mut ArmCpu> {
        self.cpu.as_deref_mut()
    }

    fn v(&self, n: u32) -> u128 {
        self.cpu.as_ref().map_or(0, |c| c.v[n as usize & 31])
    }

    fn set_v(&mut self, n: u32, v: u128) {
        if let Some(c) = self.go() {
            c.v[n as usize & 31] = v;
        }
    }

    /// Writes a vector result of 64 or 128 bits.
    fn set_q(&mut self, n: u32, q: u32, v: u128) {
        self.set_v(n, if q != 0 { v } else { v & u128::from(u64::MAX) });
    }

    fn x(&self, n: u32) -> u64 {
        if n == 31 { 0 } else { self.cpu.as_ref().map_or(0, |c| c.x[n as usize & 31]) }
    }

    fn set_x(&mut self, n: u32, v: u64) {
        if n != 31
            && let Some(c) = self.go()
        {
            c.x[n as usize & 31] = v;
        }
    }

    /// Saturates to a lane.
    fn sat(&mut self, v: i128, bits: u32, signed: bool) -> u64 {
        let (min, max) = if signed {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        let clamped = v.clamp(min, max);
        self.saturated |= clamped != v;
        clamped as u64 & ones(bits)
    }

    /// Applies `f` to `count` lanes of two registers; other bits of the result are zero.
    fn map2(
        &mut self,
        bits: u32,
        count: u32,
        (rd, rn, rm): (u32, u32, u32),
        mut f: impl FnMut(&mut Self, u64, u64) -> u64,
    ) -> bool {
        let (n, m) = (self.v(rn), self.v(rm));
        let mut out = 0;
        for i in 0..count {
            let r = f(self, lane(n, bits, i), lane(m, bits, i));
            set_lane(&mut out, bits, i, r);
        }
        self.set_v(rd, out);
        true
    }

    /// Like [`Self::map2`] with the old lane of the destination as first operand.
    fn map3(
        &mut self,
        bits: u32,
        count: u32,
        (rd, rn, rm): (u32, u32, u32),
        mut f: impl FnMut(&mut Self, u64, u64, u64) -> u64,
    ) -> bool {
        let (d, n, m) = (self.v(rd), self.v(rn), self.v(rm));
        let mut out = 0;
        for i in 0..count {
            let r = f(self, lane(d, bits, i), lane(n, bits, i), lane(m, bits, i));
            set_lane(&mut out, bits, i, r);
        }
        self.set_v(rd, out);
        true
    }

    /// Applies `f` to `count` lanes of one register.
    fn map1(
        &mut self,
        bits: u32,
        count: u32,
        (rd, rn): (u32, u32),
        mut f: impl FnMut(&mut Self, u64) -> u64,
    ) -> bool {
        let n = self.v(rn);
        let mut out = 0;
        for i in 0..count {
            let r = f(self, lane(n, bits, i));
            set_lane(&mut out, bits, i, r);
        }
        self.set_v(rd, out);
        true
    }

    /// Format of vector FP operations by size bit 0.
    fn vector_format(size: u32) -> Format {
        if size & 1 != 0 { F64 } else { F32 }
    }
}

/// Lanes in an operation on a whole register.
fn lanes(bits: u32, q: u32) -> u32 {
    if q != 0 { 128 / bits } else { 64 / bits }
}

fn run(e: &mut Exec<'_>, word: u32) -> bool {
    decode(word, e)
}

/// Executes one instruction word (immediate).
pub fn helper(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    execute(cx.cpu, args[3] as u32);
    0
}

/// Executes one instruction word.
pub(crate) fn execute(cpu: &mut ArmCpu, word: u32) {
    let features = std::sync::Arc::clone(&cpu.features);
    let fp = Status::from_fpcr(cpu.fpcr);
    let (cpu_ref, general) = (Some(&mut *cpu), false);
    let mut e = Exec { cpu: cpu_ref, features: &features, general, fp, saturated: false };
    run(&mut e, word);
    let (flags, saturated) = (e.fp.flags, e.saturated);
    cpu.fpsr |= flags | if saturated { QC } else { 0 };
}

/// Whether a word of this space is an instruction.
#[cfg(test)]
pub(crate) fn is_allocated(word: u32, features: &Features) -> bool {
    run(&mut Exec::dry(features), word)
}

/// Translates an FP or AdvSIMD data-processing word; false = undefined.
pub fn translate(word: u32, t: &mut Ctx<'_>) -> bool {
    let features = t.features;
    let mut dry = Exec::dry(features);
    if !run(&mut dry, word) {
        return false;
    }
    if !t.fp_check()
        || inline::translate(word, t)
        || vector::translate(word, t)
        || (t.key.fp_plain() && float::translate(word, t))
    {
        return true;
    }
    let id = if dry.general { HelperId::SimdGeneral } else { HelperId::Simd };
    t.b.call_void(id as u16, &[], word);
    true
}
