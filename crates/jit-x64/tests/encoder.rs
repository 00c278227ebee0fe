//! The encoder against iced-x86's decoder: what is encoded decodes to the same operands.

use iced_x86::{Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register};
use jit_x64::asm::{Asm, Enc, Mem, NO_INDEX, Rm, alu, cc, shift, unary};

const SCALES: [u32; 4] = [1, 2, 4, 8];
const DISPS: [i32; 7] = [0, 1, -1, 127, -128, 128, i32::MIN];

fn general(n: u8, bytes: u32) -> Register {
    let first = match bytes {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    // The byte registers list ah..bh in between.
    let n = if bytes == 1 && n >= 4 { u32::from(n) + 4 } else { u32::from(n) };
    first + n
}

fn xmm(n: u8) -> Register {
    Register::XMM0 + u32::from(n)
}

/// Decodes exactly one instruction.
fn one(f: impl FnOnce(&mut Asm)) -> Instruction {
    let mut a = Asm { code: Vec::new(), base: 0x1000 };
    f(&mut a);
    let mut d = Decoder::with_ip(64, &a.code, 0x1000, DecoderOptions::NONE);
    let i = d.decode();
    assert!(!i.is_invalid(), "{:02x?} is not an instruction", a.code);
    assert_eq!(i.len(), a.code.len(), "{:02x?} is more than {i}", a.code);
    i
}

fn size_of_memory(i: &Instruction) -> u32 {
    match i.memory_size() {
        MemorySize::UInt8 | MemorySize::Int8 => 1,
        MemorySize::UInt16 | MemorySize::Int16 => 2,
        MemorySize::UInt32 | MemorySize::Int32 => 4,
        MemorySize::UInt64 | MemorySize::Int64 => 8,
        other => panic!("{i}: {other:?}"),
    }
}

fn check_mem(i: &Instruction, m: Mem) {
    assert_eq!(i.memory_base(), general(m.base, 8), "{i}");
    if m.index == NO_INDEX {
        assert_eq!(i.memory_index(), Register::None, "{i}");
    } else {
        assert_eq!(i.memory_index(), general(m.index, 8), "{i}");
        assert_eq!(i.memory_index_scale(), SCALES[usize::from(m.scale)], "{i}");
    }
    assert_eq!(i.memory_displacement64() as i32, m.disp, "{i}");
}

fn memories() -> Vec<Mem> {
    let mut all = Vec::new();
    for base in 0..16 {
        for disp in DISPS {
            all.push(Mem::new(base, disp));
            for index in (0..16).filter(|i| *i != 4) {
                all.push(Mem { scale: (base ^ index) & 3, ..Mem::indexed(base, index, disp) });
            }
        }
    }
    all
}

fn is(i: &Instruction, m: Mnemonic, ops: &[Register]) {
    assert_eq!(i.mnemonic(), m, "{i}");
    for (n, r) in ops.iter().enumerate() {
        assert_eq!(i.op_kind(n as u32), OpKind::Register, "{i}");
        assert_eq!(i.op_register(n as u32), *r, "{i}");
    }
}

#[test]
fn memory_operands() {
    for (n, m) in memories().into_iter().enumerate() {
        let r = n as u8 & 15;
        for w in [false, true] {
            let bytes = if w { 8 } else { 4 };
            let i = one(|a| a.load(w, r, m));
            is(&i, Mnemonic::Mov, &[general(r, bytes)]);
            check_mem(&i, m);
            let i = one(|a| a.lea(w, r, m));
            is(&i, Mnemonic::Lea, &[general(r, bytes)]);
            check_mem(&i, m);
        }
        for log2 in 0..4 {
            let i = one(|a| a.store_sized(log2, m, r));
            assert_eq!((i.mnemonic(), i.op1_register()), (Mnemonic::Mov, general(r, 1 << log2)));
            check_mem(&i, m);
            let i = one(|a| a.store_imm(log2, m, -2));
            assert_eq!(size_of_memory(&i), 1 << log2, "{i}");
            assert_eq!(i.immediate(1) as i8, -2, "{i}");
            check_mem(&i, m);
            for (f, mnemonic) in [
                (Asm::lock_cmpxchg as fn(&mut Asm, u32, Mem, u8), Mnemonic::Cmpxchg),
                (Asm::lock_xadd, Mnemonic::Xadd),
                (Asm::xchg, Mnemonic::Xchg),
            ] {
                let i = one(|a| f(a, log2, m, r));
                assert_eq!((i.mnemonic(), i.op1_register()), (mnemonic, general(r, 1 << log2)));
                assert!(i.has_lock_prefix() || mnemonic == Mnemonic::Xchg, "{i}");
                check_mem(&i, m);
            }
        }
        for log2 in 0..2 {
            let i = one(|a| a.movzx(log2, r, m));
            is(&i, Mnemonic::Movzx, &[general(r, 4)]);
            assert_eq!(size_of_memory(&i), 1 << log2);
            check_mem(&i, m);
        }
        let i = one(|a| a.load128(r, m));
        is(&i, Mnemonic::Movups, &[xmm(r)]);
        check_mem(&i, m);
        let i = one(|a| a.store128(m, r));
        assert_eq!((i.mnemonic(), i.op1_register()), (Mnemonic::Movups, xmm(r)));
        check_mem(&i, m);
        let i = one(|a| a.alu(alu::CMP, true, r, m));
        is(&i, Mnemonic::Cmp, &[general(r, 8)]);
        check_mem(&i, m);
        let i = one(|a| a.test_byte(m, 0x40));
        assert_eq!((i.mnemonic(), i.immediate8()), (Mnemonic::Test, 0x40));
        check_mem(&i, m);
        let i = one(|a| a.bt_word(m, 8));
        assert_eq!((i.mnemonic(), size_of_memory(&i)), (Mnemonic::Bt, 2));
        check_mem(&i, m);
        let i = one(|a| a.lock_cmpxchg16b(m));
        assert_eq!(i.mnemonic(), Mnemonic::Cmpxchg16b);
        check_mem(&i, m);
    }
}

fn pairs() -> impl Iterator<Item = (u8, u8, bool)> {
    (0..16).flat_map(|d| (0..16).flat_map(move |s| [(d, s, false), (d, s, true)]))
}

#[test]
fn register_pairs() {
    for (d, s, w) in pairs() {
        let n = if w { 8 } else { 4 };
        let (rd, rs) = (general(d, n), general(s, n));
        is(&one(|a| a.mov(w, d, s)), Mnemonic::Mov, &[rd, rs]);
        let ops = [
            (alu::ADD, Mnemonic::Add),
            (alu::OR, Mnemonic::Or),
            (alu::ADC, Mnemonic::Adc),
            (alu::SBB, Mnemonic::Sbb),
            (alu::AND, Mnemonic::And),
            (alu::SUB, Mnemonic::Sub),
            (alu::XOR, Mnemonic::Xor),
            (alu::CMP, Mnemonic::Cmp),
        ];
        for (op, m) in ops {
            is(&one(|a| a.alu(op, w, d, s)), m, &[rd, rs]);
            for v in [0, 127, -128, 128, i32::MIN] {
                let i = one(|a| a.alu_imm(op, w, d, v));
                is(&i, m, &[rd]);
                assert_eq!(i.immediate(1) as i32, v, "{i}");
            }
        }
        is(&one(|a| a.test(w, d, s)), Mnemonic::Test, &[rd, rs]);
        is(&one(|a| a.imul(w, d, s)), Mnemonic::Imul, &[rd, rs]);
        is(&one(|a| a.imul_imm(w, d, s, -7)), Mnemonic::Imul, &[rd, rs]);
        is(&one(|a| a.shrd(w, d, s, 9)), Mnemonic::Shrd, &[rd, rs]);
        is(&one(|a| a.bsr(w, d, s)), Mnemonic::Bsr, &[rd, rs]);
        is(&one(|a| a.lzcnt(w, d, s)), Mnemonic::Lzcnt, &[rd, rs]);
        is(&one(|a| a.cmov(cc::LE, w, d, s)), Mnemonic::Cmovle, &[rd, rs]);
        is(&one(|a| a.rorx(w, d, s, 3)), Mnemonic::Rorx, &[rd, rs]);
        let t = (d + s) & 15;
        let rt = general(t, n);
        is(&one(|a| a.andn(w, d, s, t)), Mnemonic::Andn, &[rd, rs, rt]);
        is(&one(|a| a.mulx(w, d, t, s)), Mnemonic::Mulx, &[rd, rt, rs]);
        for (op, m) in [
            (shift::SHL, Mnemonic::Shlx),
            (shift::SHR, Mnemonic::Shrx),
            (shift::SAR, Mnemonic::Sarx),
        ] {
            is(&one(|a| a.shift_x(op, w, d, s, t)), m, &[rd, rs, rt]);
        }
        for (log2, bytes) in [(0, 1), (1, 2)] {
            let small = general(s, bytes);
            is(&one(|a| a.movzx(log2, d, s)), Mnemonic::Movzx, &[general(d, 4), small]);
            is(&one(|a| a.movsx(w, log2, d, s)), Mnemonic::Movsx, &[rd, small]);
        }
        if w {
            is(&one(|a| a.movsx(w, 2, d, s)), Mnemonic::Movsxd, &[rd, general(s, 4)]);
            is(&one(|a| a.pinsrq(d, s, 1)), Mnemonic::Pinsrq, &[xmm(d), rs]);
            is(&one(|a| a.pextrq(d, s, 1)), Mnemonic::Pextrq, &[rd, xmm(s)]);
            is(&one(|a| a.movdqa(d, s)), Mnemonic::Movdqa, &[xmm(d), xmm(s)]);
            is(&one(|a| a.sse(Enc(0x66, 2, 0x29), d, s)), Mnemonic::Pcmpeqq, &[xmm(d), xmm(s)]);
        } else {
            is(&one(|a| a.pext(d, s, t)), Mnemonic::Pext, &[rd, rs, rt]);
            is(&one(|a| a.pdep(d, s, t)), Mnemonic::Pdep, &[rd, rs, rt]);
        }
        let mov = if w { Mnemonic::Movq } else { Mnemonic::Movd };
        is(&one(|a| a.movq_to_xmm(w, d, s)), mov, &[xmm(d), rs]);
        is(&one(|a| a.movq_from_xmm(w, d, s)), mov, &[rd, xmm(s)]);
    }
}

#[test]
fn fused_multiply_add() {
    for (d, s, w) in pairs() {
        let t = (d + s) & 15;
        let (xd, xs, xt) = (xmm(d), xmm(s), xmm(t));
        let fma = |n, a| move |x: &mut Asm| x.fused(w, n, a, d, s, t);
        let names = if w {
            [
                Mnemonic::Vfmadd231sd,
                Mnemonic::Vfmsub231sd,
                Mnemonic::Vfnmadd231sd,
                Mnemonic::Vfnmsub231sd,
            ]
        } else {
            [
                Mnemonic::Vfmadd231ss,
                Mnemonic::Vfmsub231ss,
                Mnemonic::Vfnmadd231ss,
                Mnemonic::Vfnmsub231ss,
            ]
        };
        for (n, name) in names.into_iter().enumerate() {
            is(&one(fma(n & 2 != 0, n & 1 != 0)), name, &[xd, xs, xt]);
        }
    }
}

#[test]
fn single_registers() {
    for d in 0..16 {
        for w in [false, true] {
            let rd = general(d, if w { 8 } else { 4 });
            for (op, m) in [
                (unary::NOT, Mnemonic::Not),
                (unary::NEG, Mnemonic::Neg),
                (unary::MUL, Mnemonic::Mul),
                (unary::IMUL, Mnemonic::Imul),
                (unary::DIV, Mnemonic::Div),
                (unary::IDIV, Mnemonic::Idiv),
            ] {
                is(&one(|a| a.unary(op, w, d)), m, &[rd]);
            }
            for (op, m) in [
                (shift::ROL, Mnemonic::Rol),
                (shift::ROR, Mnemonic::Ror),
                (shift::SHL, Mnemonic::Shl),
                (shift::SHR, Mnemonic::Shr),
                (shift::SAR, Mnemonic::Sar),
            ] {
                let i = one(|a| a.shift(op, w, d, 5));
                is(&i, m, &[rd]);
                assert_eq!(i.immediate8(), 5);
                is(&one(|a| a.shift_cl(op, w, d)), m, &[rd, Register::CL]);
            }
            is(&one(|a| a.bswap(w, d)), Mnemonic::Bswap, &[rd]);
            is(&one(|a| a.bt(w, d, 7)), Mnemonic::Bt, &[rd]);
            is(&one(|a| a.test_imm(w, d, -3)), Mnemonic::Test, &[rd]);
        }
        let r64 = general(d, 8);
        is(&one(|a| a.push(d)), Mnemonic::Push, &[r64]);
        is(&one(|a| a.pop(d)), Mnemonic::Pop, &[r64]);
        is(&one(|a| a.jmp_reg(d)), Mnemonic::Jmp, &[r64]);
        is(&one(|a| a.call_reg(d)), Mnemonic::Call, &[r64]);
        is(&one(|a| a.setcc(cc::G, d)), Mnemonic::Setg, &[general(d, 1)]);
        for v in [0, 1, 0xffff_ffff, 0x1_0000_0000, u64::MAX, i64::MIN as u64] {
            let i = one(|a| a.mov_imm(d, v));
            assert_eq!(i.mnemonic(), Mnemonic::Mov, "{i}");
            assert!([r64, general(d, 4)].contains(&i.op0_register()), "{i}");
            assert_eq!(i.immediate(1), v, "{i}");
        }
    }
}

#[test]
fn jumps_reach_their_targets() {
    let i = one(|a| a.jmp_to(0x2345));
    assert_eq!((i.mnemonic(), i.near_branch_target()), (Mnemonic::Jmp, 0x2345));
    let i = one(|a| a.call_to(0x10));
    assert_eq!((i.mnemonic(), i.near_branch_target()), (Mnemonic::Call, 0x10));
    let i = one(|a| a.jcc_to(cc::S, 0x2345));
    assert_eq!((i.mnemonic(), i.near_branch_target()), (Mnemonic::Js, 0x2345));
    let mut a = Asm { code: Vec::new(), base: 0x1000 };
    let long = a.jcc(cc::NE);
    let short = a.jmp_short();
    a.align_field(1);
    assert_eq!((a.here() + 1) & 3, 0);
    a.bind(long);
    a.bind_short(short);
    let end = a.here();
    let at = a.lea_rip(9);
    a.bind(at);
    a.lea_back(9, 2);
    let mut d = Decoder::with_ip(64, &a.code, 0x1000, DecoderOptions::NONE);
    assert_eq!(d.decode().near_branch_target(), end);
    assert_eq!(d.decode().near_branch_target(), end);
    let leas: Vec<_> = d.iter().filter(|i| i.mnemonic() == Mnemonic::Lea).collect();
    assert_eq!(leas[0].memory_displacement64(), leas[0].next_ip());
    assert_eq!(leas[1].memory_displacement64(), 0x1002);
    assert_eq!(leas[1].op0_register(), Register::R9);
}

#[test]
fn vector_instructions() {
    let disp = Mem::new(5, -16);
    for d in 0..16u8 {
        for s in 0..16u8 {
            let v = (d + s) & 15;
            let add = Enc(0x66, 1, 0xfe);
            is(&one(|a| a.avx(add, d, v, s)), Mnemonic::Vpaddd, &[xmm(d), xmm(v), xmm(s)]);
            let fma = Enc(0x66, 2, 0xb8);
            let i = one(|a| a.avx_wide(fma, true, d, v, s));
            is(&i, Mnemonic::Vfmadd231pd, &[xmm(d), xmm(v), xmm(s)]);
            let i = one(|a| a.avx_imm(Enc(0, 1, 0xc2), d, v, s, 8));
            assert_eq!((i.mnemonic(), i.immediate8()), (Mnemonic::Vcmpps, 8));
            is(&i, Mnemonic::Vcmpps, &[xmm(d), xmm(v), xmm(s)]);
            for (w, bytes) in [(false, 4), (true, 8)] {
                let i = one(|a| a.fp_to_int(w, true, true, d & 7, s));
                is(&i, Mnemonic::Cvttsd2si, &[general(d & 7, bytes), xmm(s)]);
                let i = one(|a| a.fp_to_int(w, false, false, d, s));
                is(&i, Mnemonic::Cvtss2si, &[general(d, bytes), xmm(s)]);
                let i = one(|a| a.int_to_fp(w, true, d, s));
                is(&i, Mnemonic::Cvtsi2sd, &[xmm(d), general(s, bytes)]);
            }
        }
        let i = one(|a| a.avx(Enc(0, 1, 0x54), d, d, Rm::Pool(0x2000, 0)));
        assert_eq!((i.mnemonic(), i.memory_displacement64()), (Mnemonic::Vandps, 0x2000));
        let i = one(|a| a.avx_imm(Enc(0, 1, 0xc2), d, d, Rm::Pool(0x2000, 1), 8));
        assert_eq!((i.mnemonic(), i.memory_displacement64()), (Mnemonic::Vcmpps, 0x2000));
        let i = one(|a| a.sse(Enc(0, 1, 0x10), d, Rm::Pool(0x800, 0)));
        assert_eq!((i.op0_register(), i.memory_displacement64()), (xmm(d), 0x800));
    }
    check_mem(&one(|a| a.stmxcsr(disp)), disp);
    assert_eq!(one(|a| a.stmxcsr(disp)).mnemonic(), Mnemonic::Stmxcsr);
    assert_eq!(one(|a| a.ldmxcsr(disp)).mnemonic(), Mnemonic::Ldmxcsr);
}
