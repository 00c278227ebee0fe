//! Blocks that lead to themselves, run to their end both ways.

use std::sync::atomic::Ordering;

use jit_interp::Next;
use jit_ir::opt::Passes;
use jit_ir::random::Rng;
use jit_ir::toy::{HELPERS, LAYOUT};
use jit_ir::{Block, Effects, Exit, MemDesc, Op, Opcode, Ty, Val, text, verify};
use jit_x64::{BACKEND, X64};

use crate::machine::{Code, MEMORY, MEMORY_LEN, PAGE, World, compare, interpret, r};
use crate::random::{PLAIN, blocks, env, make};

/// Counts the rounds down.
const COUNTER: u32 = 15;
/// Walks through memory.
const POINTER: u32 = 16;

fn push(b: &mut Block, code: Opcode, ty: Ty, f: impl FnOnce(&mut Op)) -> Val {
    let mut op = Op::new(code, ty);
    f(&mut op);
    b.ops.push(op);
    Val(b.ops.len() as u16 - 1)
}

/// rN += step; the new value.
fn step(b: &mut Block, n: u32, step: i64) -> Val {
    let at = i64::from(r(n));
    let v = push(b, Opcode::Get, Ty::I64, |o| o.imm = at);
    let c = push(b, Opcode::Const, Ty::I64, |o| o.imm = step);
    let v = push(b, Opcode::Add, Ty::I64, |o| (o.a, o.b) = (v, c));
    push(b, Opcode::Set, Ty::I64, |o| (o.a, o.imm) = (v, at));
    v
}

/// Accesses at the pointer, which moves on.
fn walk(b: &mut Block, rng: &mut Rng) {
    for _ in 0..rng.below(4) {
        let base = push(b, Opcode::Get, Ty::I64, |o| o.imm = i64::from(r(POINTER)));
        let imm = rng.below(80) as i64 - 40;
        if rng.below(2) == 0 {
            let (ty, log2, at) = if rng.below(2) == 0 {
                (Ty::V128, 4, LAYOUT.vectors.0 + 16 * rng.below(8) as u32)
            } else {
                (Ty::I64, rng.below(4) as u32, r(rng.below(14) as u32))
            };
            let aux = MemDesc::new(log2, 3).0;
            let v = push(b, Opcode::Load, ty, |o| (o.a, o.imm, o.aux) = (base, imm, aux));
            push(b, Opcode::Set, ty, |o| (o.a, o.imm) = (v, i64::from(at)));
        } else {
            let at = i64::from(r(rng.below(14) as u32));
            let v = push(b, Opcode::Get, Ty::I64, |o| o.imm = at);
            let aux = MemDesc::new(rng.below(4) as u32, 3).0;
            push(b, Opcode::Store, Ty::I64, |o| {
                (o.a, o.b, o.imm, o.aux) = (base, v, imm, aux);
            });
        }
    }
    if rng.below(2) == 0 {
        let at = |rng: &mut Rng| i64::from(r(rng.below(14) as u32));
        let code = [Opcode::Sub, Opcode::Sub, Opcode::Add, Opcode::And][rng.below(4)];
        let (n, ty) = (at(rng), [Ty::I64, Ty::I32][rng.below(2)]);
        let mut a = push(b, Opcode::Get, Ty::I64, |o| o.imm = n);
        let m = at(rng);
        let mut c = push(b, Opcode::Get, Ty::I64, |o| o.imm = m);
        if ty == Ty::I32 {
            a = push(b, Opcode::Trunc, Ty::I32, |o| o.a = a);
            c = push(b, Opcode::Trunc, Ty::I32, |o| o.a = c);
        }
        if rng.below(3) == 0 {
            let k = rng.below(200) as i64;
            c = push(b, Opcode::Const, ty, |o| o.imm = k);
        }
        let v = push(b, code, ty, |o| (o.a, o.b) = (a, c));
        let f = push(b, Opcode::FlagsOf, Ty::Cc, |o| o.a = v);
        push(b, Opcode::SetCc, Ty::Cc, |o| o.a = f);
        if ty == Ty::I64 {
            push(b, Opcode::Set, Ty::I64, |o| (o.a, o.imm) = (v, n));
        }
        if rng.below(2) == 0 {
            let back = b.exits.len() as i64;
            b.exits.push(Exit::Page(3000));
            push(b, Opcode::ExitIfCc, Ty::None, |o| (o.a, o.imm, o.aux) = (f, back, 5));
        }
    }
    let far = if rng.below(4) == 0 { 3000 } else { 80 };
    step(b, POINTER, rng.below(far) as i64);
}

/// A random body that goes round until its counter is 0.
fn looping(seed: u64, passes: Passes) -> Block {
    let mut rng = Rng::new(seed ^ 0x55);
    let mut b = make(seed, passes);
    // The interpreter's place is that of the last round until it is told.
    b.ops[0] = Op::new(Opcode::InsnStart, Ty::None);
    for e in &mut b.exits {
        // Only the counter leads back to the start.
        match e {
            Exit::Page(to) => *to = 4000,
            Exit::Rel(0) => *e = Exit::Rel(4),
            _ => {}
        }
    }
    let reserved = [i64::from(r(COUNTER)), i64::from(r(POINTER))];
    for op in &mut b.ops {
        if op.code == Opcode::Set && reserved.contains(&op.imm) {
            op.imm = i64::from(r(14));
        }
    }
    let last = b.ops.pop().unwrap();
    walk(&mut b, &mut rng);
    let count = step(&mut b, COUNTER, -1);
    let back = b.exits.len() as i64;
    b.exits.push(Exit::Page(0));
    if rng.below(4) == 0 {
        push(&mut b, Opcode::ExitIfZ, Ty::None, |o| (o.a, o.imm) = (count, last.imm));
        push(&mut b, Opcode::ExitTo, Ty::None, |o| o.imm = back);
    } else {
        push(&mut b, Opcode::ExitIfNz, Ty::None, |o| (o.a, o.imm) = (count, back));
        b.ops.push(last);
    }
    b
}

/// The only instruction of a loop that makes flags, and what keeps or changes its operands around it.
fn compare_registers(b: &mut Block, rng: &mut Rng) -> Val {
    let (left, right) = (rng.below(3) as u32, 3 + rng.below(2) as u32);
    let changes = |b: &mut Block, rng: &mut Rng, n| match rng.below(3) {
        0 => Some(step(b, n, rng.below(9) as i64 - 4)),
        _ => None,
    };
    let moved = changes(b, rng, left);
    if rng.below(3) == 0 {
        walk_on(b, rng);
    }
    let read = |b: &mut Block, n| push(b, Opcode::Get, Ty::I64, |o| o.imm = i64::from(r(n)));
    let mut a = moved.unwrap_or_else(|| read(b, left));
    let mut c = changes(b, rng, right).unwrap_or_else(|| read(b, right));
    let ty = [Ty::I64, Ty::I32][rng.below(2)];
    if ty == Ty::I32 {
        a = push(b, Opcode::Trunc, Ty::I32, |o| o.a = a);
        c = push(b, Opcode::Trunc, Ty::I32, |o| o.a = c);
    }
    if rng.below(2) == 0 {
        let k = rng.below(4) as i64;
        c = push(b, Opcode::Const, ty, |o| o.imm = k);
    }
    let code = [Opcode::Sub, Opcode::Sub, Opcode::Add, Opcode::And][rng.below(4)];
    let v = push(b, code, ty, |o| (o.a, o.b) = (a, c));
    let f = push(b, Opcode::FlagsOf, Ty::Cc, |o| o.a = v);
    push(b, Opcode::SetCc, Ty::Cc, |o| o.a = f);
    if rng.below(4) == 0 {
        walk_on(b, rng);
    }
    if rng.below(2) == 0 {
        let to = if ty == Ty::I32 { push(b, Opcode::Zext32, Ty::I64, |o| o.a = v) } else { v };
        push(b, Opcode::Set, Ty::I64, |o| (o.a, o.imm) = (to, i64::from(r(left))));
    }
    if rng.below(4) == 0 {
        changes(b, rng, left);
    }
    f
}

/// A load or store at the pointer.
fn walk_on(b: &mut Block, rng: &mut Rng) {
    let base = push(b, Opcode::Get, Ty::I64, |o| o.imm = i64::from(r(POINTER)));
    let aux = MemDesc::new(3, 3).0;
    let v = push(b, Opcode::Load, Ty::I64, |o| (o.a, o.imm, o.aux) = (base, 8, aux));
    push(b, Opcode::Set, Ty::I64, |o| (o.a, o.imm) = (v, i64::from(r(5 + rng.below(3) as u32))));
}

/// A small loop with one compare, which leaves by an access, by its flags or when its counter is 0.
fn comparing(seed: u64) -> Block {
    let mut rng = Rng::new(seed ^ 0x99);
    let mut b = Block { len: 4, insns: 1, ..Block::default() };
    push(&mut b, Opcode::InsnStart, Ty::None, |_| {});
    if rng.below(3) == 0 {
        step(&mut b, rng.below(5) as u32, rng.below(9) as i64 - 4);
    }
    if rng.below(2) == 0 {
        walk_on(&mut b, &mut rng);
    }
    let f = compare_registers(&mut b, &mut rng);
    b.exits.push(Exit::Page(3000));
    if rng.below(2) == 0 {
        let cond = rng.below(14) as u16;
        push(&mut b, Opcode::ExitIfCc, Ty::None, |o| (o.a, o.imm, o.aux) = (f, 0, cond));
    }
    step(&mut b, POINTER, [8, 64, 3000][rng.below(3)]);
    let count = step(&mut b, COUNTER, -1);
    b.exits.push(Exit::Page(0));
    push(&mut b, Opcode::ExitIfNz, Ty::None, |o| (o.a, o.imm) = (count, 1));
    push(&mut b, Opcode::ExitTo, Ty::None, |o| o.imm = 0);
    b
}

fn world(seed: u64) -> Box<World> {
    let mut w = World::new(seed);
    let mut rng = Rng::new(seed ^ 0x77);
    w.cpu.r[COUNTER as usize] = 1 + rng.below(40) as u64;
    w.cpu.r[POINTER as usize] = MEMORY + rng.below(MEMORY_LEN) as u64;
    if rng.below(2) == 0 {
        // Near where flags change.
        (0..5).for_each(|n| w.cpu.r[n] = (rng.below(8) as u64).wrapping_sub(4));
    }
    w
}

/// Runs both ways; what differs.
fn differ(code: &mut Code, block: &Block, seed: u64) -> Result<(), String> {
    let (mut i, mut n) = (world(seed), world(seed));
    let asked = i.cpu.env.request.load(Ordering::Relaxed) < 0;
    // Blocks whose helpers change the counter are no loops, and come back after each round.
    let full = Effects::READS_GENERAL | Effects::WRITES_GENERAL | Effects::MAY_EXIT;
    let is_full = |o: &Op| HELPERS[usize::from(o.aux)].effects.intersects(full);
    let helpers = block.ops.iter().any(|o| o.code == Opcode::Call && is_full(o));
    let at = code.emit(block);
    loop {
        n.looked_up = None;
        code.enter(&mut n, at);
        if n.looked_up.is_none_or(|l| (l.0, l.1) != (PAGE, 0)) || asked || helpers {
            break;
        }
    }
    // A request is noticed when the block would go back, or once around later.
    let counter = COUNTER as usize;
    let back = n.looked_up.is_some_and(|l| (l.0, l.1) == (PAGE, 0));
    let counted = world(seed).cpu.r[counter].wrapping_sub(n.cpu.r[counter]);
    let mut rounds = if asked { counted.wrapping_add(u64::from(!back)) } else { 99 };
    assert!(!asked || helpers || counted <= 2, "{counted} rounds in spite of a request");
    let mut next = interpret(block, &mut i);
    while next == Next::Page(0) && !helpers && rounds > 1 {
        next = interpret(block, &mut i);
        rounds -= 1;
    }
    if block.exits.contains(&Exit::RuntimePcSet) && next == Next::RuntimePcSet {
        n.cpu.env.offset = i.cpu.env.offset;
    }
    compare(next, &i, &n)
}

fn campaign(backend: &'static X64, passes: Passes, count: u64, salt: u64) {
    campaign_of(backend, passes, count, salt, looping);
}

fn campaign_of(
    backend: &'static X64,
    passes: Passes,
    count: u64,
    salt: u64,
    block: fn(u64, Passes) -> Block,
) {
    let mut code = Code::new(backend, passes);
    code.loops = true;
    let first = env("JIT_SEED").unwrap_or(0);
    for n in first..first + count {
        let seed = n << 8 | salt;
        if env("JIT_TRACE").is_some() {
            eprintln!("seed {n} passes {passes:?}");
        }
        let b = block(seed, passes);
        verify::verify(&b, &LAYOUT, HELPERS).unwrap();
        let Err(e) = differ(&mut code, &b, seed) else { continue };
        // Not made smaller: what remains might not come to an end.
        panic!("seed {n}, {passes:?}: {e}\n{}\n{}", text::print(&b), code.listing());
    }
}

#[test]
fn loops_with_all_passes() {
    campaign(&BACKEND, Passes::all(), blocks(6000), 0);
}

#[test]
fn flags_of_loops_are_there_whenever_they_are_asked_for() {
    campaign_of(&BACKEND, Passes::all(), blocks(6000), 20, |seed, _| comparing(seed));
}

#[test]
fn loops_without_optional_instructions() {
    campaign(&PLAIN, Passes::all(), blocks(2000), 1);
}

#[test]
fn loops_with_every_pass_off_in_turn() {
    for (n, p) in Passes::all().iter().enumerate() {
        campaign(&BACKEND, Passes::all().difference(p), blocks(600), 2 + n as u64);
    }
}

/// What a loop is for: nothing of guest state goes to memory and back in it.
#[test]
fn a_loop_keeps_its_registers_and_page() {
    let mut b = Block { insns: 1, ..Block::default() };
    push(&mut b, Opcode::InsnStart, Ty::None, |_| {});
    let base = push(&mut b, Opcode::Get, Ty::I64, |o| o.imm = i64::from(r(18)));
    let aux = MemDesc::new(4, 0).0;
    let v = push(&mut b, Opcode::Load, Ty::V128, |o| (o.a, o.aux) = (base, aux));
    let sum_at = i64::from(LAYOUT.vectors.0);
    let sum = push(&mut b, Opcode::Get, Ty::V128, |o| o.imm = sum_at);
    let sum = push(&mut b, Opcode::VAdd, Ty::V128, |o| (o.a, o.b, o.aux) = (sum, v, 2));
    push(&mut b, Opcode::Set, Ty::V128, |o| (o.a, o.imm) = (sum, sum_at));
    step(&mut b, 18, 16);
    let count = step(&mut b, COUNTER, -1);
    b.exits = vec![Exit::Page(0), Exit::Page(64)];
    push(&mut b, Opcode::ExitIfNz, Ty::None, |o| (o.a, o.imm) = (count, 0));
    push(&mut b, Opcode::ExitTo, Ty::None, |o| o.imm = 1);
    let mut code = Code::new(&BACKEND, Passes::all());
    code.loops = true;
    code.emit(&b);
    let listing = code.listing();
    let body: Vec<&str> = listing
        .lines()
        .skip_while(|l| !l.contains("subq"))
        .take_while(|l| !l.contains("jns"))
        .collect();
    let state = body.iter().filter(|l| l.contains("(%rbp)")).count();
    // Tag, addend and limit of the page, and the request; no guest register.
    assert_eq!(state, 4, "{listing}");
    assert!(body.len() < 18, "{listing}");
}
