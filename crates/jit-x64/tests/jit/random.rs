//! Random blocks: the back end against the interpreter.
//!
//! `JIT_RANDOM=N` runs N blocks; `JIT_SEED=S` starts at another seed; `JIT_TRACE=1` prints seeds (for
//! crashes).

use crate::machine::{Code, MEMORY, MEMORY_LEN, differ};
use jit_ir::op::{Arg, Op};
use jit_ir::opt::Passes;
use jit_ir::random::{Rng, Shape, block};
use jit_ir::toy::{HELPERS, LAYOUT};
use jit_ir::{Block, Builder, Exit, MemDesc, Opcode, Ty, Val, text, verify};
use jit_x64::{BACKEND, CpuFeatures, X64};

pub(crate) static PLAIN: X64 = X64::with_features(CpuFeatures {
    bmi1: false,
    bmi2: false,
    lzcnt: false,
    cmpxchg16b: false,
    fma: false,
    avx: false,
});

/// VEX forms but no fused multiply-add, where the host has them.
pub(crate) static NO_FMA: X64 = X64::with_features(CpuFeatures {
    bmi1: false,
    bmi2: false,
    lzcnt: false,
    cmpxchg16b: false,
    fma: false,
    avx: true,
});

pub(crate) fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Adds what the generator does not make.
fn decorate(b: &mut Block, rng: &mut Rng) {
    let host = host::cpu::Features::probe();
    let crypto = host.aes && host.pclmulqdq;
    for op in &mut b.ops {
        match op.code {
            Opcode::Load | Opcode::Store | Opcode::Rmw | Opcode::Cas | Opcode::StoreEx => {
                let d = MemDesc(op.aux);
                op.aux = match rng.below(10) {
                    0 => d.aligned(),
                    1 => d.within16(),
                    2 => d.big_endian(),
                    3 => d.release().acquire(),
                    _ => d,
                }
                .0;
            }
            Opcode::VLow64 | Opcode::VMinU | Opcode::VMaxU if crypto => {
                use Opcode::{VAesDec, VAesEnc, VAesMix, VAesRound, VAesUnmix, VAesUnround};
                if op.code == Opcode::VLow64 {
                    op.code = [VAesDec, VAesEnc, VAesMix, VAesUnmix, VAesRound, VAesUnround]
                        [rng.below(6)];
                } else if rng.below(3) == 0 {
                    (op.code, op.aux) = (Opcode::VClMul, rng.below(2) as u16);
                }
            }
            Opcode::InsnStart => {
                let code = match rng.below(12) {
                    0 => Opcode::Fence,
                    1 => Opcode::ClearEx,
                    2 => Opcode::PushReturn,
                    _ => continue,
                };
                *op = Op::new(code, Ty::None);
                op.aux = if code == Opcode::Fence { 3 } else { 0 };
                op.imm = 4 * rng.below(1025) as i64;
            }
            _ => {}
        }
    }
    let addresses: Vec<Val> = (0..b.ops.len())
        .map(|n| Val(n as u16))
        .filter(|v| b.def(*v).result_ty() == Ty::I64)
        .collect();
    let last = b.exits.len().wrapping_sub(1);
    for (n, e) in b.exits.iter_mut().enumerate() {
        // Values for indirect exits must be defined before the exit: only the last one is safe.
        let v = if n == last { addresses.last().copied() } else { addresses.first().copied() };
        *e = match (rng.below(8), v) {
            (0, _) => Exit::Rel(rng.value() as i64),
            (1, _) => Exit::Runtime(4 * rng.below(1024) as u32),
            (2, _) => Exit::RuntimePcSet,
            (3, _) => Exit::Helper {
                helper: rng.below(4) as u16,
                imm: rng.next() as u32,
                offset: 4 * rng.below(1024) as u32,
            },
            (4, Some(v)) if n == last => Exit::Return(v),
            (5, _) => Exit::Page(0),
            _ => *e,
        };
    }
}

pub(crate) fn make(seed: u64, passes: Passes) -> Block {
    let mut rng = Rng::new(seed);
    let mut b = Builder::new(&LAYOUT, HELPERS, passes);
    let memory = (rng.below(3) > 0).then_some((MEMORY, MEMORY_LEN as u64 / 2 - 1));
    let most = if rng.below(8) == 0 { 300 } else { 60 };
    let shape = Shape {
        ops: 4 + rng.below(most),
        memory,
        mmu: rng.below(16) as u8,
        helpers: if rng.below(2) == 0 { vec![0, 1, 2, 3, 4] } else { vec![] },
    };
    block(&mut b, &mut rng, &shape);
    let mut block = b.block().clone();
    decorate(&mut block, &mut rng);
    verify::verify(&block, &LAYOUT, HELPERS).unwrap();
    block
}

/// Removes an op that nothing uses.
fn without(b: &Block, at: usize) -> Option<Block> {
    let uses = |v: Val| v.index() == at;
    if b.ops.iter().any(|o| o.operands().any(uses)) || at + 1 == b.ops.len() {
        return None;
    }
    if b.exits.iter().any(|e| matches!(e, Exit::Indirect(v) | Exit::Return(v) if uses(*v))) {
        return None;
    }
    let mut b = b.clone();
    b.ops.remove(at);
    let shift = |v: &mut Val| {
        if *v != Val::NONE && v.index() > at {
            v.0 -= 1;
        }
    };
    for op in &mut b.ops {
        let kinds = op.code.args();
        if kinds[0] != Arg::No {
            shift(&mut op.a);
        }
        if kinds[1] != Arg::No {
            shift(&mut op.b);
        }
        if kinds[2] != Arg::No {
            let mut c = op.c();
            shift(&mut c);
            op.imm = op.imm & !0xffff | i64::from(c.0);
        }
    }
    for e in &mut b.exits {
        if let Exit::Indirect(v) | Exit::Return(v) = e {
            shift(v);
        }
    }
    Some(b)
}

/// Replaces an op by a simpler one of the same type.
fn simpler(b: &Block, at: usize) -> Option<Block> {
    let old = b.ops[at];
    let new = match old.result_ty() {
        ty @ (Ty::I32 | Ty::I64) if old.code != Opcode::Const => {
            Op { imm: 3, ..Op::new(Opcode::Const, ty) }
        }
        Ty::Cc if old.code != Opcode::GetCc => Op::new(Opcode::GetCc, Ty::Cc),
        Ty::V128 if old.code != Opcode::Get => {
            Op { imm: i64::from(LAYOUT.vectors.0), ..Op::new(Opcode::Get, Ty::V128) }
        }
        _ => return None,
    };
    let mut b = b.clone();
    b.ops[at] = new;
    Some(b)
}

fn shrink(mut b: Block, fails: &mut dyn FnMut(&Block) -> bool) -> Block {
    loop {
        let before = b.clone();
        for at in (0..b.ops.len()).rev() {
            for change in [without, simpler] {
                if let Some(c) = (at < b.ops.len()).then(|| change(&b, at)).flatten()
                    && verify::verify(&c, &LAYOUT, HELPERS).is_ok()
                    && fails(&c)
                {
                    b = c;
                }
            }
        }
        if b == before {
            return b;
        }
    }
}

fn campaign(backend: &'static X64, passes: Passes, count: u64, salt: u64) {
    let mut code = Code::new(backend, passes);
    let first = env("JIT_SEED").unwrap_or(0);
    for n in first..first + count {
        let seed = n << 8 | salt;
        if env("JIT_TRACE").is_some() {
            eprintln!("seed {n} passes {passes:?}");
        }
        let b = make(seed, passes);
        let Err(e) = differ(&mut code, &b, seed) else { continue };
        let small = shrink(b, &mut |b| differ(&mut code, b, seed).is_err());
        let e = differ(&mut code, &small, seed).err().unwrap_or(e);
        panic!("seed {n}, {passes:?}: {e}\n{}\n{}", text::print(&small), code.listing());
    }
}

pub(crate) fn blocks(default: u64) -> u64 {
    env("JIT_RANDOM").unwrap_or(default)
}

#[test]
fn all_passes() {
    campaign(&BACKEND, Passes::all(), blocks(8000), 0);
}

#[test]
fn without_optional_instructions() {
    campaign(&PLAIN, Passes::all(), blocks(3000), 1);
}

#[test]
fn every_pass_off_in_turn() {
    for (n, p) in Passes::all().iter().enumerate() {
        campaign(&BACKEND, Passes::all().difference(p), blocks(1000), 2 + n as u64);
    }
}

#[test]
fn no_passes() {
    campaign(&BACKEND, Passes::empty(), blocks(2000), 20);
    campaign(&PLAIN, Passes::empty(), blocks(500), 21);
}
