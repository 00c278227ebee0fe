//! Measures translation speed: `cargo run --release -p jit-x64 --example emit_speed`.
//!
//! Blocks imitate A64 code: a quarter of the instructions access memory, every block ends in a
//! compare and branch. Nothing is executed.

#![expect(clippy::disallowed_methods, reason = "a benchmark times itself")]
#![expect(clippy::print_stdout, reason = "prints its result")]

use std::mem::offset_of;
use std::time::Instant;

use jit_ir::backend::{BlockCx, CodeBuf, HostBackend, RuntimeCalls, RuntimeCx};
use jit_ir::opt::{self, Liveness, Passes};
use jit_ir::random::Rng;
use jit_ir::toy::{HELPERS, LAYOUT, ToyCpu};
use jit_ir::{Block, Builder, Cond, Exit, MemDesc, Opcode, Ty};
use jit_x64::BACKEND;

fn reg(rng: &mut Rng) -> u32 {
    // Half of the references are to the most used registers.
    let n = if rng.below(2) == 0 { rng.below(5) } else { rng.below(20) };
    offset_of!(ToyCpu, r) as u32 + 8 * n as u32
}

fn instruction(b: &mut Builder, rng: &mut Rng) {
    let (d, n, m) = (reg(rng), reg(rng), reg(rng));
    let x = b.get(n, Ty::I64);
    match rng.below(8) {
        0 => {
            let v = b.load(Ty::I64, x, 8 * rng.below(8) as i32, MemDesc::new(3, 1));
            b.set(d, v);
        }
        1 => {
            let v = b.get(m, Ty::I64);
            b.store(x, 8 * rng.below(8) as i32, v, MemDesc::new(3, 1));
        }
        2 => {
            let v = b.trunc(x);
            let v = b.add_imm(v, 17);
            let v = b.zext(v);
            b.set(d, v);
        }
        3 => {
            let v = b.ubfx(x, 4, 8);
            b.set(d, v);
        }
        4 => {
            let v = b.c64(rng.next());
            b.set(d, v);
        }
        _ => {
            let y = b.get(m, Ty::I64);
            let op = [Opcode::Add, Opcode::Sub, Opcode::Or][rng.below(3)];
            let v = b.binary(op, x, y);
            b.set(d, v);
        }
    }
}

fn block(b: &mut Builder, rng: &mut Rng) {
    b.begin(64);
    let n = 4 + rng.below(8) as u32;
    for i in 0..n {
        b.insn(64 + 4 * i, 4);
        instruction(b, rng);
    }
    b.insn(64 + 4 * n, 4);
    let (x, y) = (b.get(reg(rng), Ty::I64), b.get(reg(rng), Ty::I64));
    let (_, cc) = b.with_flags(Opcode::Sub, x, y);
    b.set_cc(cc);
    b.insn(68 + 4 * n, 4);
    b.exit_cc(cc, Cond::Ne, Exit::Page(1024));
    b.exit(Exit::Page(72 + 4 * n));
}

fn main() {
    let mut rng = Rng::new(1);
    let mut b = Builder::new(&LAYOUT, HELPERS, Passes::all());
    let blocks: Vec<Block> = (0..2000)
        .map(|_| {
            block(&mut b, &mut rng);
            b.block().clone()
        })
        .collect();
    let mut bytes = vec![0; 8 << 20];
    let passes = Passes::all();
    let cx = RuntimeCx { layout: &LAYOUT, calls: RuntimeCalls::default(), passes };
    let Ok(runtime) = BACKEND.emit_runtime(&cx, &mut CodeBuf::new(&mut bytes, 0x1000)) else {
        return println!("no room for the thunks");
    };
    let mut live = Liveness::default();
    let (mut best_opt, mut best_emit, mut size) = (f64::MAX, f64::MAX, 0);
    for _ in 0..200 {
        let mut out = CodeBuf::new(&mut bytes, 0x10000);
        let (mut t_opt, mut t_emit) = (0, 0);
        for block in &blocks {
            let start = Instant::now();
            opt::run(block, &LAYOUT, HELPERS, passes, &mut live);
            let middle = Instant::now();
            let cx = BlockCx {
                count: 0,
                log: false,
                loops: true,
                block,
                live: &live,
                layout: &LAYOUT,
                helpers: HELPERS,
                passes,
                runtime: &runtime,
            };
            if BACKEND.emit_block(&cx, &mut out).is_err() {
                return println!("no room for the code");
            }
            t_opt += (middle - start).as_nanos();
            t_emit += middle.elapsed().as_nanos();
        }
        best_opt = best_opt.min(t_opt as f64);
        best_emit = best_emit.min(t_emit as f64);
        size = out.len();
    }
    let insns = blocks.iter().map(|b| f64::from(b.insns)).sum::<f64>();
    let ops = blocks.iter().map(|b| b.ops.len()).sum::<usize>() as f64;
    println!("{:.2} ops per guest instruction", ops / insns);
    println!("backward pass {:.1} ns/op {:.1} ns/insn", best_opt / ops, best_opt / insns);
    println!("emission      {:.1} ns/op {:.1} ns/insn", best_emit / ops, best_emit / insns);
    println!("code          {:.1} bytes/insn", size as f64 / insns);
}
