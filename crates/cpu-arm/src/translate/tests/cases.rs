//! Hand-written cases: control flow, exceptions, modes, byte order, exclusives; and random words.
//!
//! The machine starts at EL1 with SP checking and every feature; each test says what differs.
//! Words are written with their assembler text beside them.
//! Source: Arm ARM (DDI 0487) C6.2, D1 (exceptions), D8.4 (BTI).

use jit_ir::{Exit, opt::Passes};

use super::machine::{Machine, Stop};
use crate::state::BTYPE_SLOT;
use crate::translate::Isa;

const PC: u64 = 0xffff_8000_1234_5100;
const MEM: u64 = 0x1_0000;
const NOP: u32 = 0xd503_201f;

/// A machine with X1 = start of memory and an aligned SP.
fn machine() -> Machine {
    let mut m = Machine::new();
    m.set_x(1, MEM);
    m.set_x(31, MEM + 256);
    m.mem.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
    m
}

fn next(n: u64) -> Stop {
    Stop::Pc(PC + 4 * n)
}

#[test]
fn forward_jumps_stay_in_the_block() {
    let mut m = machine();
    // b .+8; (skipped); add x1, x1, #2; brk
    let words = [0x1400_0002, 0x9100_0421, 0x9100_0821, 0xd420_0060];
    assert_eq!(m.run(&words, PC), Stop::Helper("Brk", 3, PC + 12));
    assert_eq!(m.x(1), MEM + 2);
    // b .-4 leaves.
    assert_eq!(m.run(&[0x17ff_ffff], PC), Stop::Pc(PC - 4));
}

#[test]
fn conditional_branches() {
    let mut m = machine();
    m.set_nzcv(4);
    assert_eq!(m.run(&[0x5400_0200], PC), Stop::Pc(PC + 64)); // b.eq
    assert_eq!(m.run(&[0x5400_0201], PC), next(1)); // b.ne
    m.set_x(0, 1 << 40);
    assert_eq!(m.run(&[0xb400_0100], PC), next(1)); // cbz x0
    assert_eq!(m.run(&[0x3500_0100], PC), next(1)); // cbnz w0
    assert_eq!(m.run(&[0xb740_0080], PC), Stop::Pc(PC + 16)); // tbnz x0, #40
    assert_eq!(m.run(&[0x3618_0080], PC), Stop::Pc(PC + 16)); // tbz x0, #3
    assert_eq!(m.run(&[0x5400_020f], PC), Stop::Pc(PC + 64)); // b.nv
    // Not taken, the block goes on.
    assert_eq!(m.run(&[0x5400_0201, 0x9100_0821], PC), next(2));
    assert_eq!(m.x(1), MEM + 2);
}

#[test]
fn calls_and_returns() {
    let mut m = machine();
    assert_eq!(m.run(&[0x9400_0400], PC), Stop::Pc(PC + 4096)); // bl
    assert_eq!(m.x(30), PC + 4);
    m.set_x(30, 0x4000);
    assert_eq!(m.run(&[0xd63f_03c0], PC), Stop::Pc(0x4000)); // blr x30 reads first
    assert_eq!((m.x(30), m.slot32(BTYPE_SLOT)), (PC + 4, 2));
    m.set_slot32(BTYPE_SLOT, 1);
    assert_eq!(m.run(&[0xd65f_03c0], PC), Stop::Pc(PC + 4)); // ret
    assert_eq!(m.slot32(BTYPE_SLOT), 0);
    let block = m.block(&[0xd65f_03c0], PC, Passes::all());
    assert!(matches!(block.exits[..], [Exit::Return(_)]));
}

#[test]
fn branch_target_tags() {
    for (tbi0, tbi1, mmu, target, want) in [
        (false, false, 1, 0x12ff_0000_0000_1000, 0x12ff_0000_0000_1000),
        (true, false, 1, 0x1200_0000_0000_1000, 0x1000),
        (true, false, 1, 0x12ff_0000_0000_1000, 0x12ff_0000_0000_1000),
        (false, true, 1, 0x12ff_0000_0000_1000, 0xffff_0000_0000_1000),
        (false, true, 1, 0x1200_0000_0000_1000, 0x1200_0000_0000_1000),
        (true, true, 1, 0x12ff_0000_0000_1000, 0xffff_0000_0000_1000),
        (true, true, 3, 0x12ff_0000_0000_1000, 0x00ff_0000_0000_1000),
    ] {
        let mut m = machine();
        m.key = m.key.with_tbi0(tbi0).with_tbi1(tbi1).with_mmu(mmu);
        m.set_x(16, target);
        assert_eq!(m.run(&[0xd61f_0200], PC), Stop::Pc(want)); // br x16
    }
}

#[test]
fn btype_of_branches() {
    let mut m = machine();
    m.run(&[0xd61f_0020], PC); // br x1
    assert_eq!(m.slot32(BTYPE_SLOT), 1);
    m.set_slot32(BTYPE_SLOT, 0);
    m.key = m.key.with_guarded(true);
    m.run(&[0xd61f_0020], PC);
    assert_eq!(m.slot32(BTYPE_SLOT), 3);
    m.set_slot32(BTYPE_SLOT, 0);
    m.run(&[0xd61f_0200], PC); // br x16
    assert_eq!(m.slot32(BTYPE_SLOT), 1);
}

#[test]
fn landing_pads() {
    let refused = Stop::Helper("BranchTarget", 0, PC);
    // Word, and whether BTYPE 1, 2, 3 is accepted.
    for (word, ok) in [
        (NOP, [false, false, false]),
        (0xd503_241f, [false, false, false]), // bti
        (0xd503_245f, [true, true, false]),   // bti c
        (0xd503_249f, [true, false, true]),   // bti j
        (0xd503_24df, [true, true, true]),    // bti jc
        (0xd503_233f, [true, true, true]),    // paciasp
    ] {
        for btype in 0..4u32 {
            let mut m = machine();
            m.key = m.key.with_guarded(true);
            m.set_slot32(BTYPE_SLOT, btype);
            let want = btype == 0 || ok[btype as usize - 1];
            assert_eq!(m.run(&[word], PC), if want { next(1) } else { refused }, "{word:x}");
            assert_eq!(m.slot32(BTYPE_SLOT), if want { 0 } else { btype });
        }
    }
    let mut m = machine();
    m.key = m.key.with_guarded(true).with_bt(true);
    m.set_slot32(BTYPE_SLOT, 3);
    assert_eq!(m.run(&[0xd503_233f], PC), refused);
    assert_eq!(m.run(&[0xd420_0060], PC), Stop::Helper("Brk", 3, PC));
    m.key = m.key.with_guarded(false);
    assert_eq!(m.run(&[NOP], PC), next(1));
    assert_eq!(m.slot32(BTYPE_SLOT), 0);
}

#[test]
fn sp_alignment() {
    let mut m = machine();
    m.set_x(31, MEM + 8);
    assert_eq!(m.run(&[NOP, 0xf940_03e0], PC), Stop::Helper("SpAlignment", 0, PC + 4)); // ldr x0, [sp]
    m.key = m.key.with_sp_check(false);
    assert_eq!(m.run(&[0xf940_03e0], PC), next(1));
    m.key = m.key.with_sp_check(true);
    m.set_x(31, MEM);
    let exits = |m: &Machine, words: &[u32]| m.block(words, PC, Passes::all()).exits.len();
    // Checked once; SP moved by 16 stays aligned, by 8 not.
    assert_eq!(exits(&m, &[0xf940_03e0, 0x9100_43ff, 0xf940_03e0]), 2);
    assert_eq!(exits(&m, &[0xf940_03e0, 0x9100_23ff, 0xf940_03e0]), 3);
}

#[test]
fn exceptions() {
    let mut m = machine();
    assert_eq!(m.run(&[0xd400_00a1], PC), Stop::Helper("Svc", 5, PC));
    assert_eq!(m.run(&[0xd400_0022], PC), Stop::Helper("Hvc", 1, PC));
    assert_eq!(m.run(&[0xd400_0043], PC), Stop::Helper("Smc", 2, PC));
    assert_eq!(m.run(&[0xd420_0060], PC), Stop::Helper("Brk", 3, PC));
    assert_eq!(m.run(&[0xd69f_03e0], PC), Stop::Helper("Eret", 0, PC));
    assert_eq!(m.run(&[0xd440_0000], PC), Stop::Helper("Undefined", 0, PC)); // hlt
    assert_eq!(m.run(&[NOP, 0], PC), Stop::Helper("Undefined", 0, PC + 4)); // udf
    m.key = m.key.with_el(0);
    for word in [0xd400_0022, 0xd400_0043, 0xd69f_03e0] {
        assert_eq!(m.run(&[word], PC), Stop::Helper("Undefined", 0, PC));
    }
    m.key = m.key.with_illegal(true);
    assert_eq!(m.run(&[NOP], PC), Stop::Helper("IllegalState", 0, PC));
}

#[test]
fn fp_traps() {
    let mut m = machine();
    m.key = m.key.with_fp_trap(1);
    for word in [0x3dc0_0020, 0x4c40_7420, 0xfc00_8c20] {
        assert_eq!(m.run(&[word], PC), Stop::Helper("FpTrap", 1, PC));
    }
    // MRS FPCR too; an unallocated structure load is undefined first.
    assert_eq!(m.run(&[0xd53b_4400], PC), Stop::Helper("FpTrap", 1, PC));
    assert_eq!(m.run(&[0x0c40_8c20], PC), Stop::Helper("Undefined", 0, PC));
}

#[test]
fn single_step() {
    let mut m = machine();
    m.key = m.key.with_step(true);
    assert_eq!(m.run(&[0x9100_0421, NOP], PC), Stop::Helper("StepDone", 0, PC + 4));
    assert_eq!(m.x(1), MEM + 1);
    // A branch: the target becomes the page base of the exit.
    let block = m.block(&[0x5400_0200], PC, Passes::all());
    assert!(matches!(block.exits[..], [Exit::Helper { offset: 0, .. }]));
    assert_eq!(m.run(&[0xd400_00a1], PC), Stop::Helper("Svc", 5, PC));
}

#[test]
fn page_end_and_caps() {
    let mut m = machine();
    let block = m.block(&[NOP, NOP], 0x1ff8, Passes::all());
    assert_eq!(block.exits, [Exit::Rel(4096)]);
    let block = m.block(&[NOP; 100], 0x1000, Passes::all());
    assert_eq!((block.insns, &block.exits[..]), (64, &[Exit::Page(256)][..]));
    // Bytes that are not there are not looked at.
    let far = [0x1400_0080, NOP, NOP]; // b +512
    m.seen = 512;
    let block = m.block(&far, PC & !0xfff, Passes::all());
    assert_eq!((block.insns, &block.exits[..]), (1, &[Exit::Page(512)][..]));
    m.seen = 4096;
    let block = m.block(&far, PC & !0xfff, Passes::all());
    assert_ne!(block.insns, 1);
    let block = m.block(&[0xb400_0100; 20], 0x1000, Passes::all());
    assert_eq!((block.insns, block.exits.len()), (7, 8));
}

#[test]
fn exclusives() {
    let mut m = machine();
    let load = 0xc85f_7c20; // ldxr x0, [x1]
    let store = 0xc802_7c23; // stxr w2, x3, [x1]
    m.set_x(3, 77);
    assert_eq!(m.run(&[load, store], PC), next(2));
    assert_eq!((m.x(0), m.x(2), m.mem[0]), (0x0706_0504_0302_0100, 0, 77));
    assert_eq!(m.run(&[store], PC), next(1));
    assert_eq!(m.x(2), 1);
    m.run(&[load, 0xd503_3f5f, store], PC); // clrex
    assert_eq!(m.x(2), 1);
    // ldxp w0, w2; stxp w4, w5, w6
    (m.mem[..8]).copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
    m.set_x(5, 0xffff_ffff_0000_0003);
    m.set_x(6, 4);
    m.run(&[0x887f_0820, 0x8824_1825], PC);
    assert_eq!((m.x(0), m.x(2), m.x(4)), (1, 2, 0));
    assert_eq!(m.mem[..8], [3, 0, 0, 0, 4, 0, 0, 0]);
    // The 64-bit pair, big-endian: registers keep memory order.
    m.key = m.key.with_big_endian(true);
    m.mem[..16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    m.run(&[0xc87f_0820, 0xc824_1825], PC);
    assert_eq!((m.x(0), m.x(2), m.x(4)), (1, 2, 0));
    assert_eq!(m.mem[..8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3]);
    assert_eq!(m.mem[8..16], [0, 0, 0, 0, 0, 0, 0, 4]);
}

#[test]
fn compare_and_swap() {
    let mut m = machine();
    m.mem[..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    m.set_x(2, 1);
    m.set_x(3, 2);
    m.set_x(4, 7);
    m.set_x(5, 8);
    m.run(&[0x4822_7c24], PC); // casp x2, x3, x4, x5, [x1]
    assert_eq!((m.x(2), m.x(3), m.mem[0], m.mem[8]), (1, 2, 7, 8));
    m.run(&[0x4822_7c24], PC);
    assert_eq!((m.x(2), m.x(3)), (7, 8));
    // cas w0, w2, [x1]: the upper half of Ws does not count.
    m.set_x(0, 0xffff_ffff_0000_0007);
    m.set_x(2, 9);
    m.run(&[0x88a0_7c22], PC);
    assert_eq!((m.x(0), m.mem[0]), (7, 9));
    // Odd registers.
    assert_eq!(m.run(&[0x4823_7c24], PC), Stop::Helper("Undefined", 0, PC));
}

#[test]
fn byte_order() {
    let mut m = machine();
    m.key = m.key.with_big_endian(true);
    m.run(&[0xb940_0020], PC); // ldr w0, [x1]
    assert_eq!(m.x(0), 0x0001_0203);
    m.run(&[0x2940_0820], PC); // ldp w0, w2, [x1]
    assert_eq!((m.x(0), m.x(2)), (0x0001_0203, 0x0405_0607));
    m.run(&[0x3dc0_0020], PC); // ldr q0, [x1]
    assert_eq!(m.v(0), 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
    m.run(&[0x4c40_7420], PC); // ld1 {v0.8h}, [x1]
    assert_eq!(m.v(0), 0x0e0f_0c0d_0a0b_0809_0607_0405_0203_0001);
}

#[test]
fn alignment() {
    let mut m = machine();
    m.set_x(1, MEM + 13);
    assert_eq!(m.run(&[0xb940_0020], PC), next(1));
    assert_eq!(m.run(&[0x88df_fc20], PC), Stop::Align(MEM + 13)); // ldar w0
    assert_eq!(m.run(&[0x88a0_7c22], PC), Stop::Align(MEM + 13)); // cas
    m.set_x(1, MEM + 9);
    assert_eq!(m.run(&[0x88df_fc20], PC), next(1));
    m.isa.lse2 = false;
    assert_eq!(m.run(&[0x88df_fc20], PC), Stop::Align(MEM + 9));
    m.key = m.key.with_align_check(true);
    assert_eq!(m.run(&[0xb940_0020], PC), Stop::Align(MEM + 9));
}

#[test]
fn system_registers() {
    let mut m = machine();
    m.set_x(0, 0xa000_0000);
    m.run(&[0xd51b_4200], PC); // msr nzcv, x0
    assert_eq!(m.nzcv(), 10);
    m.set_x(0, 0);
    m.run(&[0xd53b_4200], PC);
    assert_eq!(m.x(0), 0xa000_0000);
    m.run(&[0xd538_4243], PC); // mrs x3, currentel
    assert_eq!(m.x(3), 4);
    m.set_x(5, 99);
    assert_eq!(m.run(&[0xd51b_d045, 0xd53b_d040], PC), next(2)); // msr, mrs tpidr_el0
    assert_eq!(m.x(0), 99);
    assert!(m.calls.is_empty());
    m.run(&[0xd503_42df, NOP], PC); // msr daifset, #2
    assert_eq!(m.calls.pop(), Some(("MsrImm", [0, 0, 0, 3 << 7 | 6 << 4 | 2])));
    let block = m.block(&[0xd503_42df, NOP], PC, Passes::all());
    // The block goes on: the helper leaves by itself when an interrupt is due.
    assert_eq!(block.exits, [Exit::Page(0x108)]);
    m.set_x(7, 0x1000);
    m.calls.clear();
    m.run(&[0xd518_c007], PC); // msr vbar_el1, x7
    assert!(matches!(m.calls[..], [] | [("Msr", [0x1000, 0, 0, 0x7_c600])]), "{:x?}", m.calls);
    m.calls.clear();
    m.run(&[0xd50b_7421], PC); // dc zva, x1
    assert_eq!(m.calls.pop(), None, "it is a store");
    let key = m.key;
    m.key = key.with_zva_ok(false);
    m.run(&[0xd50b_7421, NOP], PC);
    let zva = 1 << 14 | 3 << 11 | 7 << 7 | 4 << 3 | 1 | 1 << 16;
    assert_eq!(m.calls.pop(), Some(("DcZva", [MEM, 0, 0, zva])));
    m.key = key;
    m.run(&[0xd50b_7e21, NOP], PC); // dc civac, x1
    let enc = 1 << 14 | 3 << 11 | 7 << 7 | 14 << 3 | 1 | 1 << 16;
    assert_eq!(m.calls.pop(), Some(("SysInsn", [MEM, 0, 0, enc])));
}

#[test]
fn features_decide() {
    let mut m = machine();
    m.isa = Isa::NONE;
    // cas, swp, ldaddb, crc32x, retaa, ldraa, bc.ne, cfinv
    for word in [0x88a0_7c22, 0xb820_8022, 0x3820_0022, 0x9ac3_4c41, 0xd65f_0bff, 0xf820_1c20] {
        assert_eq!(m.run(&[word], PC), Stop::Helper("Undefined", 0, PC), "{word:x}");
    }
    for word in [0x5400_0211, 0xd500_401f] {
        assert_eq!(m.run(&[word], PC), Stop::Helper("Undefined", 0, PC), "{word:x}");
    }
    let lr = m.x(30);
    assert_eq!(m.run(&[0xd503_233f, 0xd503_23bf], PC), next(2)); // paciasp, autiasp
    assert_eq!(m.x(30), lr);
}

/// Any word in any mode gives a well-formed block, and folding changes nothing.
#[test]
fn random_words() {
    let mut s = 0x1234_5678_9abc_def1u64;
    let mut rng = move || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s
    };
    let count = crate::decode::base::PATTERNS.len();
    for i in 0..40_000 {
        let word = match i % 4 {
            0 => rng() as u32,
            _ => crate::decode::base::random(&mut rng, i),
        };
        let mut m = machine();
        m.key.0 = rng() & rng() & 0x007f_ffff;
        (0..31).for_each(|n| m.set_x(n, MEM + (rng() & 0x7f0)));
        m.set_nzcv(rng() as u32 & 15);
        let mut plain = machine();
        (plain.key, plain.state) = (m.key, m.state.clone());
        let a = m.execute(&m.block(&[word], PC, Passes::all()), PC);
        let b = plain.execute(&plain.block(&[word], PC, Passes::empty()), PC);
        assert_eq!(a, b, "{word:#010x} of {count}");
        assert!(m.state == plain.state && m.mem == plain.mem, "{word:#010x}");
    }
}
