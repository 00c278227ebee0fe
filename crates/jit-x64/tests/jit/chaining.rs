//! Jumps between blocks: patched exits, the code TLB, the return ring, requests.

use crate::machine::{Code, PAGE, World, r};
use jit_ir::opt::Passes;
use jit_ir::toy::{HELPERS, LAYOUT};
use jit_ir::{Block, Builder, Exit, Opcode, Ty};
use jit_x64::BACKEND;

fn build(passes: Passes, start: u32, f: impl FnOnce(&mut Builder)) -> Block {
    let mut b = Builder::new(&LAYOUT, HELPERS, passes);
    b.begin(start);
    b.insn(start, 4);
    f(&mut b);
    b.block().clone()
}

fn add(b: &mut Builder, reg: u32, n: i64) {
    let v = b.get(r(reg), Ty::I64);
    let v = b.add_imm(v, n);
    b.set(r(reg), v);
}

/// How a callee takes the tag off its return address.
#[derive(Clone, Copy, PartialEq)]
enum Untag {
    No,
    /// Of all addresses.
    All,
    /// Of those with bit 55 clear.
    Low,
}

/// A machine and a program: at 0 call 4096, which returns to 8, which loops to 0 r1 times and ends at
/// 64, where nothing is.
fn program(passes: Passes, counter: u64) -> (Box<World>, Code) {
    tagged_program(passes, counter, Untag::No, 0)
}

/// The same where the callee finds a tag in its return address.
fn tagged_program(passes: Passes, counter: u64, untag: Untag, tag: u64) -> (Box<World>, Code) {
    let mut code = Code::new(&BACKEND, passes);
    let mut w = World::new(1);
    *w.cpu.env.request.get_mut() = 0;
    w.area = code.area();
    (w.cpu.r[1], w.cpu.r[2]) = (counter, 0);
    let call = build(passes, 0, |b| {
        let link = b.pc(8);
        b.set(r(15), link);
        b.push_return(8);
        b.exit(Exit::Rel(4096));
    });
    let callee = build(passes, 0, |b| {
        add(b, 2, 1);
        let link = b.get(r(15), Ty::I64);
        let tag = b.c64(tag << 56);
        let link = b.binary(Opcode::Or, link, tag);
        b.set(r(14), link);
        let to = match untag {
            Untag::No => link,
            Untag::All => b.sbfx(link, 0, 56),
            Untag::Low => {
                let sign = b.sbfx(link, 0, 56);
                b.binary(Opcode::And, link, sign)
            }
        };
        b.exit(Exit::Return(to));
    });
    let after = build(passes, 8, |b| {
        add(b, 1, -1);
        let v = b.get(r(1), Ty::I64);
        b.exit_if(v, false, Exit::Page(0));
        b.exit(Exit::Page(64));
    });
    for (va, block) in [(PAGE, call), (PAGE + 4096, callee), (PAGE + 8, after)] {
        let at = code.emit(&block);
        w.blocks.push((va, at));
    }
    (w, code)
}

#[test]
fn calls_and_returns_stay_in_generated_code() {
    for passes in [Passes::all(), Passes::all() - Passes::RING, Passes::empty()] {
        let (mut w, code) = program(passes, 1000);
        let entry = w.blocks[0].1;
        code.enter(&mut w, entry);
        assert_eq!(w.cpu.r[2], 1000, "{passes:?}");
        assert_eq!(w.cpu.r[1], 0, "{passes:?}");
        assert_eq!(w.cpu.env.pc(), PAGE + 64, "{passes:?}");
        assert!(w.lookups <= 6, "{} look-ups with {passes:?}", w.lookups);
    }
}

#[test]
fn returns_lose_their_tags() {
    for passes in [Passes::all(), Passes::all() - Passes::RING, Passes::empty()] {
        for untag in [Untag::All, Untag::Low] {
            for tag in [0, 0x5a] {
                let (mut w, code) = tagged_program(passes, 1000, untag, tag);
                let entry = w.blocks[0].1;
                code.enter(&mut w, entry);
                assert_eq!((w.cpu.r[2], w.cpu.r[1]), (1000, 0), "{passes:?} {tag:#x}");
                assert_eq!(w.cpu.r[14], (PAGE + 8) | tag << 56, "{passes:?}");
                assert_eq!(w.cpu.env.pc(), PAGE + 64, "{passes:?}");
                assert!(w.lookups <= 8, "{} look-ups with {passes:?}", w.lookups);
            }
        }
    }
}

#[test]
fn a_loop_notices_a_request() {
    let (mut w, code) = program(Passes::all(), u64::MAX);
    let entry = w.blocks[0].1;
    let request = &raw const w.cpu.env.request;
    let address = request as usize;
    #[expect(clippy::disallowed_methods, reason = "another thread is what is tested")]
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        // SAFETY: the machine lives until this thread was joined.
        let request = unsafe { &*(address as *const std::sync::atomic::AtomicI32) };
        request.store(-1, std::sync::atomic::Ordering::Release);
    });
    code.enter(&mut w, entry);
    kicker.join().expect("kicker");
    let pc = w.cpu.env.pc();
    assert!([PAGE, PAGE + 8, PAGE + 4096].contains(&pc), "left at {pc:#x}");
    assert!(w.cpu.r[2] > 1000, "the loop ran {} times", w.cpu.r[2]);
}

#[test]
fn a_call_at_the_end_of_a_page_returns_to_the_next() {
    let passes = Passes::all();
    let (mut w, mut code) = program(passes, 1);
    let call = build(passes, 0xffc, |b| {
        let link = b.pc(0x1000);
        b.set(r(15), link);
        b.push_return(0x1000);
        b.exit(Exit::Page(0x2000));
    });
    let callee = build(passes, 0, |b| {
        add(b, 2, 1);
        let link = b.get(r(15), Ty::I64);
        b.exit(Exit::Return(link));
    });
    let end = build(passes, 0, |b| b.exit(Exit::Runtime(4)));
    w.blocks.clear();
    for (va, block) in [(PAGE + 0x2000, callee), (PAGE + 0x1000, end), (PAGE + 0xffc, call)] {
        let at = code.emit(&block);
        w.blocks.push((va, at));
    }
    for _ in 0..3 {
        w.cpu.env.set_pc(PAGE);
        let entry = w.blocks[2].1;
        code.enter(&mut w, entry);
        assert_eq!(w.cpu.env.pc(), PAGE + 0x1004);
    }
    assert_eq!(w.cpu.r[2], 3);
}

#[test]
fn a_return_to_the_mark_of_empty_entries_is_looked_up() {
    let passes = Passes::all();
    let (mut w, mut code) = program(passes, 1);
    let block = build(passes, 0, |b| {
        let to = b.c64(u64::MAX);
        b.exit(Exit::Return(to));
    });
    let at = code.emit(&block);
    code.enter(&mut w, at);
    assert_eq!(w.looked_up, Some((!0xfff, 0xfff, 0)));
}

#[test]
fn computed_jumps_are_remembered_until_they_are_forgotten() {
    for passes in [Passes::all(), Passes::all() - Passes::JUMPS] {
        let (mut w, mut code) = program(passes, 1);
        let jump = build(passes, 0, |b| {
            let to = b.get(r(3), Ty::I64);
            b.exit(Exit::Indirect(to));
        });
        let [first, second] = [1, 100].map(|n| {
            let block = build(passes, 0x20, |b| {
                add(b, 2, n);
                b.exit(Exit::Runtime(4));
            });
            code.emit(&block)
        });
        let entry = code.emit(&jump);
        let va = PAGE + 0x5020;
        let run = |w: &mut World, to: u64| {
            (w.cpu.r[2], w.cpu.r[3]) = (0, to);
            w.cpu.env.set_pc(PAGE);
            code.enter(w, entry);
            w.cpu.r[2]
        };
        w.map_code(va, first);
        assert_eq!(run(&mut w, va), 1);
        let mark = w.cpu.env.jump_mark();
        w.map_code(va, second);
        let kept = if passes.contains(Passes::JUMPS) { 1 } else { 100 };
        assert_eq!(run(&mut w, va), kept, "{passes:?}");
        // Another space, and back.
        w.cpu.env.use_jumps((0, 0));
        assert_eq!(run(&mut w, va), 100);
        w.map_code(va, first);
        w.cpu.env.forget_jumps();
        assert_eq!(run(&mut w, va), 1);
        w.map_code(va, second);
        w.cpu.env.use_jumps(mark);
        assert_eq!(run(&mut w, va), 100, "the mark is from before");
        // Close addresses are others: unaligned ones, and those that share an entry.
        for other in [va + 1, va + 2, va + 4, va ^ 0x2000, va ^ 1 << 55] {
            assert_eq!(run(&mut w, other), 0, "{other:x}");
            assert_eq!(run(&mut w, va), 100);
        }
    }
}
