//! Vector ops in SSE registers (SSE4.1 at least).

use jit_ir::{Lane, Op, Opcode};

use crate::asm::Enc;
use crate::emit::Emit;

const fn sse2(opcode: u8) -> Enc {
    Enc(0x66, 1, opcode)
}
const fn sse41(opcode: u8) -> Enc {
    Enc(0x66, 2, opcode)
}

/// `d op= s` for an op; and whether operands may be exchanged.
fn encoding(op: &Op) -> Option<(Enc, bool)> {
    let lane = op.lane();
    let by_lane = |table: [Enc; 4]| table[lane as usize];
    Some(match op.code {
        Opcode::VAnd => (sse2(0xdb), true),
        Opcode::VOr => (sse2(0xeb), true),
        Opcode::VXor => (sse2(0xef), true),
        Opcode::VAdd => (by_lane([sse2(0xfc), sse2(0xfd), sse2(0xfe), sse2(0xd4)]), true),
        Opcode::VSub => (by_lane([sse2(0xf8), sse2(0xf9), sse2(0xfa), sse2(0xfb)]), false),
        Opcode::VCmpEq => (by_lane([sse2(0x74), sse2(0x75), sse2(0x76), sse41(0x29)]), true),
        Opcode::VMinU => (by_lane([sse2(0xda), sse41(0x3a), sse41(0x3b), sse41(0x3b)]), true),
        Opcode::VMaxU => (by_lane([sse2(0xde), sse41(0x3e), sse41(0x3f), sse41(0x3f)]), true),
        _ => return None,
    })
}

const PSHUFD: Enc = sse2(0x70);
const PSHUFLW: Enc = Enc(0xf2, 1, 0x70);
const PUNPCKLBW: Enc = sse2(0x60);
const PUNPCKLQDQ: Enc = sse2(0x6c);
const PANDN: Enc = sse2(0xdf);
const MOVQ: Enc = Enc(0xf3, 1, 0x7e);

impl Emit<'_> {
    pub(crate) fn vector_op(&mut self, i: u16, op: &Op) {
        match op.code {
            Opcode::VFrom64 => {
                let (a, b) = (self.gpr(op.a), self.gpr(op.b));
                let d = self.dst_xmm(None);
                self.asm.movq_to_xmm(true, d, a);
                self.asm.pinsrq(d, b, 1);
                self.def_xmm(i, d);
            }
            Opcode::VGet64 => {
                let a = self.xmm(op.a);
                let d = self.dst(0);
                if op.aux & 1 == 0 {
                    self.asm.movq_from_xmm(true, d, a);
                } else {
                    self.asm.pextrq(d, a, 1);
                }
                self.def(i, d);
            }
            Opcode::VDup => self.dup(i, op),
            Opcode::VLow64 => {
                let a = self.xmm(op.a);
                let d = self.dst_xmm(None);
                self.asm.sse(MOVQ, d, a);
                self.def_xmm(i, d);
            }
            Opcode::VAndNot => {
                let (a, b) = (self.xmm(op.a), self.xmm(op.b));
                let d = self.dst_xmm(Some(a));
                if d != b {
                    self.asm.movdqa(d, b);
                }
                self.asm.sse(PANDN, d, a);
                self.def_xmm(i, d);
            }
            _ => self.lanes(i, op),
        }
    }

    fn lanes(&mut self, i: u16, op: &Op) {
        let Some((e, commutes)) = encoding(op) else {
            debug_assert!(false, "{} is not a vector op", op.code.text());
            return;
        };
        let (a, b) = (self.xmm(op.a), self.xmm(op.b));
        let d = if commutes { self.dst_xmm(None) } else { self.dst_xmm(Some(b)) };
        if d == b && commutes {
            self.asm.sse(e, d, a);
        } else {
            if d != a {
                self.asm.movdqa(d, a);
            }
            self.asm.sse(e, d, b);
        }
        self.def_xmm(i, d);
    }

    fn dup(&mut self, i: u16, op: &Op) {
        let a = self.gpr(op.a);
        let d = self.dst_xmm(None);
        self.asm.movq_to_xmm(true, d, a);
        match op.lane() {
            Lane::D => self.asm.sse(PUNPCKLQDQ, d, d),
            Lane::S => self.asm.sse_imm(PSHUFD, d, d, 0),
            lane => {
                if lane == Lane::B {
                    self.asm.sse(PUNPCKLBW, d, d);
                }
                self.asm.sse_imm(PSHUFLW, d, d, 0);
                self.asm.sse_imm(PSHUFD, d, d, 0);
            }
        }
        self.def_xmm(i, d);
    }
}
