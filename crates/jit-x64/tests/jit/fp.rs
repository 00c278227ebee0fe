//! Every floating-point op with operands at the corners: values and flags against the software
//! implementation.

use std::mem::offset_of;

use crate::machine::{Code, World, r};
use crate::random::{NO_FMA, PLAIN, env};
use jit_ir::fp::{self, FpDesc, FpOp, FpShape};
use jit_ir::opt::Passes;
use jit_ir::random::Rng;
use jit_ir::toy::{HELPERS, LAYOUT, ToyCpu};
use jit_ir::{Block, Builder, Cond, Exit, Op, Opcode, Ty, Val, text, verify};
use jit_x64::{BACKEND, X64};

fn v(n: u32) -> u32 {
    offset_of!(ToyCpu, v) as u32 + 16 * n
}

/// One op from v0 to v2 (or r0 to r2 for integers); the scalars that `clean` names are made so that back
/// ends know it.
fn block(code: Opcode, d: FpDesc, clean: usize) -> Option<Block> {
    let mut b = Builder::new(&LAYOUT, HELPERS, Passes::all());
    b.begin(0);
    b.insn(0, 4);
    let operand = |b: &mut Builder, n: u32| {
        if code == Opcode::FpFromInt {
            let x = b.get(r(0), Ty::I64);
            return if d.wide() { x } else { b.trunc(x) };
        }
        let x = b.get(v(n), Ty::V128);
        if clean >> n & 1 == 0 {
            x
        } else {
            b.vector(Opcode::VLow64, jit_ir::Lane::B, x, Val::NONE)
        }
    };
    let used = code.args().iter().filter(|a| **a != jit_ir::op::Arg::No).count() as u32;
    let vals: Vec<Val> = (0..used).map(|n| operand(&mut b, n)).collect();
    let ty = match code {
        Opcode::FpToInt if d.wide() => Ty::I64,
        Opcode::FpToInt => Ty::I32,
        Opcode::FpCmp => Ty::Cc,
        _ => Ty::V128,
    };
    let mut op = Op { aux: d.0, a: vals[0], ..Op::new(code, ty) };
    op.b = vals.get(1).copied().unwrap_or(Val::NONE);
    op.imm = vals.get(2).map_or(0, |c| i64::from(c.0));
    let x = b.push(op);
    let word = |b: &mut Builder, x: Val| if b.ty(x) == Ty::I32 { b.zext(x) } else { x };
    match ty {
        Ty::V128 => b.set(v(2), x),
        Ty::Cc => {
            for (n, c) in Cond::ALL.into_iter().enumerate() {
                let y = b.cond_val(Ty::I64, x, c);
                b.set(r(n as u32 + 4), y);
            }
            b.set_cc(x);
            let y = b.nzcv_of(x);
            let y = word(&mut b, y);
            b.set(r(2), y);
        }
        _ => {
            let x = word(&mut b, x);
            b.set(r(2), x);
        }
    }
    b.exit(Exit::Runtime(4));
    let block = b.block().clone();
    verify::verify(&block, &LAYOUT, HELPERS).is_ok().then_some(block)
}

fn operands(rng: &mut Rng, d: FpDesc) -> [u128; 3] {
    let double = match d.op() {
        FpOp::Widen => false,
        FpOp::Narrow => true,
        _ => d.double(),
    };
    let integers = matches!(d.op(), FpOp::FromS | FpOp::FromU);
    let [a, b, c] = [(); 3].map(|()| {
        let mut words = rng.floats(double);
        if integers {
            words = [rng.value(), rng.value()];
        } else if d.op() == FpOp::Narrow {
            // Near the limits of singles.
            for w in &mut words {
                let s = f32::from_bits(rng.float(false) as u32);
                if !s.is_nan() && rng.below(2) == 0 {
                    *w = f64::from(s).to_bits().wrapping_add(rng.below(3) as u64).wrapping_sub(1);
                }
            }
        } else if matches!(d.op(), FpOp::ToS | FpOp::ToU) && rng.below(2) == 0 {
            // Near the limits of integers.
            for w in &mut words {
                let x = rng.value() as i64 as f64 + rng.below(5) as f64 * 0.25;
                *w = if double {
                    x.to_bits()
                } else {
                    u64::from((x as f32).to_bits()) * ((1 << 32) + 1)
                };
            }
        }
        u128::from(words[1]) << 64 | u128::from(words[0])
    });
    [a, if rng.below(6) == 0 { a } else { b }, c]
}

/// Runs an op with many operands.
fn check(backend: &'static X64, passes: Passes, code: Opcode, d: FpDesc, count: u64) {
    let mut host = Code::new(backend, passes);
    let mut rng = Rng::new(u64::from(d.0) << 8 | env("JIT_SEED").unwrap_or(0));
    for clean in [0, 1, 2, 4, 7] {
        let Some(block) = block(code, d, clean) else { return };
        let at = host.emit(&block);
        let mut w = World::new(1);
        for n in 0..count {
            let mut x = operands(&mut rng, d);
            (w.cpu.v[0], w.cpu.v[1]) = (x[0], x[1]);
            w.cpu.v[2] = x[2];
            w.cpu.r[0] = x[0] as u64;
            // Earlier flags stay.
            w.cpu.fpsr = if n % 8 == 0 { 0x0800_0080 } else { 0 };
            let before = w.cpu.fpsr;
            host.enter(&mut w, at);
            for (n, x) in x.iter_mut().enumerate() {
                if clean >> n & 1 != 0 {
                    *x &= u128::from(u64::MAX);
                }
            }
            let (want, flags) = fp::compute(d, x);
            let want_flags = before | flags;
            let c = &w.cpu;
            let bad = match code {
                Opcode::FpCmp => {
                    let nzcv = want as u32;
                    let conds = Cond::ALL.iter().zip(&c.r[4..]);
                    c.r[2] != u64::from(nzcv) << 28
                        || conds.into_iter().any(|(k, r)| *r != u64::from(k.holds(nzcv)))
                        || jit_ir::state::image::to_nzcv(c.flags) != nzcv
                }
                Opcode::FpToInt => c.r[2] != want as u64,
                _ => c.v[2] != want,
            };
            assert!(
                !bad && c.fpsr == want_flags,
                "{d:?} {:?} on {x:x?} ({clean}): want {want:#x} {want_flags:#x}, got v {:#x} r {:#x} flags {:#x}\n{}\n{}",
                d.op(),
                c.v[2],
                c.r[2],
                c.fpsr,
                text::print(&block),
                host.listing()
            );
        }
    }
}

fn campaign(backend: &'static X64, passes: Passes, count: u64) {
    let count = env("JIT_FP").unwrap_or(count);
    let codes = [Opcode::Fp1, Opcode::Fp2, Opcode::Fp3, Opcode::FpCmp, Opcode::FpToInt];
    for code in codes.into_iter().chain([Opcode::FpFromInt]) {
        for bits in 0..0xa00 {
            let d = FpDesc(bits);
            let rounds = matches!(d.op(), FpOp::Round | FpOp::RoundExact | FpOp::ToS | FpOp::ToU);
            let general = d.shape() == FpShape::General;
            if (rounds || bits >> 9 == 0) && (general || !d.wide()) {
                check(backend, passes, code, d, count);
            }
        }
    }
}

#[test]
fn all_ops() {
    campaign(&BACKEND, Passes::all(), 400);
}

#[test]
fn all_ops_with_flags_in_memory() {
    campaign(&BACKEND, Passes::empty(), 60);
}

#[test]
fn all_ops_without_optional_instructions() {
    campaign(&PLAIN, Passes::all(), 200);
}

#[test]
fn all_ops_without_fused_multiply_add() {
    if host::cpu::Features::probe().avx2 {
        campaign(&NO_FMA, Passes::all(), 60);
    }
}

/// A block that divides v0 by v1 into v2, does `more`, and leaves.
fn dividing(more: impl FnOnce(&mut Builder)) -> Block {
    let mut b = Builder::new(&LAYOUT, HELPERS, Passes::all());
    b.begin(0);
    b.insn(0, 4);
    let (x, y) = (b.get(v(0), Ty::V128), b.get(v(1), Ty::V128));
    let d = FpDesc::new(FpOp::Div, true, FpShape::Scalar);
    let q = b.fp(d, x, y, Val::NONE);
    b.set(v(2), q);
    more(&mut b);
    b.exit(Exit::Runtime(4));
    b.block().clone()
}

fn one_by(y: f64) -> Box<World> {
    let mut w = World::new(1);
    (w.cpu.v[0], w.cpu.v[1]) = (u128::from(1f64.to_bits()), u128::from(y.to_bits()));
    w.cpu.fpsr = 0;
    w
}

#[test]
fn the_hosts_own_arithmetic_leaves_no_flags() {
    let mut host = Code::new(&BACKEND, Passes::all());
    let block = dividing(|b| {
        let x = b.c64(1);
        let x = b.call(4, &[x], 0);
        b.set(r(2), x);
    });
    let at = host.emit(&block);
    let mut w = one_by(2.0);
    host.enter(&mut w, at);
    assert_eq!((w.cpu.r[2], w.cpu.fpsr), ((1.0f64 / 3.0).to_bits(), 0), "an exact division");
    let mut w = one_by(0.0);
    host.enter(&mut w, at);
    assert_eq!(w.cpu.fpsr, 2, "flags before the call stay");
}

#[test]
fn flags_are_in_the_state_when_it_is_asked_for_them() {
    let mut host = Code::new(&BACKEND, Passes::all());
    let fpsr = offset_of!(ToyCpu, fpsr) as u32;
    let block = dividing(|b| {
        b.fp_sync();
        let x = b.get(fpsr, Ty::I32);
        let x = b.zext(x);
        b.set(r(2), x);
        let zero = b.c32(0);
        b.fp_sync();
        b.set(fpsr, zero);
    });
    let at = host.emit(&block);
    let mut w = one_by(3.0);
    host.enter(&mut w, at);
    assert_eq!(w.cpu.r[2], u64::from(16u32));
    assert_eq!(w.cpu.fpsr, 0, "what the guest wrote");
    // The next entry starts without the flags of this thread's earlier arithmetic.
    std::hint::black_box(std::hint::black_box(1.0) / 3.0);
    let mut w = one_by(2.0);
    host.enter(&mut w, at);
    assert_eq!((w.cpu.r[2], w.cpu.fpsr), (0, 0));
}
