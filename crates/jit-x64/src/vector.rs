//! Vector ops in SSE registers (SSE4.2 at least; they leave the host flags alone).

use jit_ir::{Lane, Op, Opcode, eval};

use crate::alloc::XMM;
use crate::asm::Enc;
use crate::emit::Emit;
use crate::exits::Stub;

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
        Opcode::VCmpGt => (by_lane([sse2(0x64), sse2(0x65), sse2(0x66), sse41(0x37)]), false),
        Opcode::VMinS => (by_lane([sse41(0x38), sse2(0xea), sse41(0x39), sse41(0x39)]), true),
        Opcode::VMaxS => (by_lane([sse41(0x3c), sse2(0xee), sse41(0x3d), sse41(0x3d)]), true),
        Opcode::VMul => (by_lane([sse2(0xd5), sse2(0xd5), sse41(0x40), sse41(0x40)]), true),
        Opcode::VMulU32 => (sse2(0xf4), true),
        Opcode::VMulS32 => (sse41(0x28), true),
        Opcode::VShuffle => (sse41(0x00), false),
        Opcode::VSha256S0 => (Enc(0, 2, 0xcc), false),
        Opcode::VSha256S1 => (Enc(0, 2, 0xcd), false),
        Opcode::VZipLo => (zip(0x60, lane), false),
        Opcode::VZipHi => (zip(0x68, lane), false),
        Opcode::VEven if lane == Lane::D => (zip(0x60, lane), false),
        Opcode::VOdd if lane == Lane::D => (zip(0x68, lane), false),
        _ => return None,
    })
}

/// punpckl (base 0x60) or punpckh (0x68).
fn zip(base: u8, lane: Lane) -> Enc {
    match lane {
        Lane::D => sse2(if base == 0x60 { 0x6c } else { 0x6d }),
        _ => sse2(base + lane as u8),
    }
}

const PSHUFD: Enc = sse2(0x70);
const PSHUFLW: Enc = Enc(0xf2, 1, 0x70);
const PSHUFHW: Enc = Enc(0xf3, 1, 0x70);
const SHUFPS: Enc = Enc(0, 1, 0xc6);
const PALIGNR: Enc = Enc(0x66, 3, 0x0f);
const PACKSSWB: Enc = sse2(0x63);
const PACKUSWB: Enc = sse2(0x67);
const PACKUSDW: Enc = sse41(0x2b);
const PCMPGTQ: Enc = sse41(0x37);
const PAND: Enc = sse2(0xdb);
const POR: Enc = sse2(0xeb);
const PCLMULQDQ: Enc = Enc(0x66, 3, 0x44);
const AESIMC: Enc = sse41(0xdb);
const AESENC: Enc = sse41(0xdc);
const AESENCLAST: Enc = sse41(0xdd);
const AESDEC: Enc = sse41(0xde);
const AESDECLAST: Enc = sse41(0xdf);
pub(crate) const PXOR: Enc = sse2(0xef);
const PUNPCKHBW: Enc = sse2(0x68);
const PUNPCKLBW: Enc = sse2(0x60);
const PUNPCKLQDQ: Enc = sse2(0x6c);
const PUNPCKHQDQ: Enc = sse2(0x6d);
const PANDN: Enc = sse2(0xdf);
const PEXTRB: Enc = Enc(0x66, 3, 0x14);
const PEXTRW: Enc = sse2(0xc5);
const PEXTRD: Enc = Enc(0x66, 3, 0x16);
const PINSRB: Enc = Enc(0x66, 3, 0x20);
const PINSRW: Enc = sse2(0xc4);
const PINSRD: Enc = Enc(0x66, 3, 0x22);
const PCMPEQB: Enc = sse2(0x74);
const MOVQ: Enc = Enc(0xf3, 1, 0x7e);

impl Emit<'_> {
    pub(crate) fn vector_op(&mut self, i: u16, op: &Op) {
        match op.code {
            Opcode::VFrom64 if self.constant_vector(i, op) => {}
            Opcode::VFrom64 if self.al.constant(self.block, op.b) == Some(0) => {
                let a = self.gpr(op.a);
                let d = self.dst_xmm(None);
                self.asm.movq_to_xmm(true, d, a);
                self.def_xmm(i, d);
            }
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
            Opcode::VDup if self.constant_vector(i, op) => {}
            Opcode::VDup => self.dup(i, op),
            Opcode::VLane => self.lane_out(i, op),
            Opcode::VSetLane => self.lane_in(i, op),
            Opcode::VLow64 => {
                let a = self.xmm(op.a);
                let d = self.dst_xmm(None);
                self.asm.sse(MOVQ, d, a);
                self.def_xmm(i, d);
            }
            Opcode::VAndNot => self.vector_and_not(i, op),
            Opcode::VShl | Opcode::VShr | Opcode::VSar => self.shift_lanes(i, op),
            Opcode::VEven | Opcode::VOdd if op.lane() != Lane::D => self.split(i, op),
            Opcode::VExt => self.align(i, op),
            Opcode::VSxt | Opcode::VUxt => {
                let base = if op.code == Opcode::VSxt { 0x20 } else { 0x30 };
                let e = sse41(base + [0, 3, 5, 5][op.lane() as usize]);
                let a = self.xmm(op.a);
                let d = self.dst_xmm(None);
                self.asm.sse(e, d, a);
                self.def_xmm(i, d);
            }
            Opcode::VDupLane => self.dup_lane(i, op),
            Opcode::VAesEnc
            | Opcode::VAesDec
            | Opcode::VAesMix
            | Opcode::VAesRound
            | Opcode::VAesUnround => self.aes(i, op),
            Opcode::VAesUnmix => {
                let a = self.xmm(op.a);
                let d = self.dst_xmm(None);
                self.asm.sse(AESIMC, d, a);
                self.def_xmm(i, d);
            }
            Opcode::VSha256 => self.sha256(i, op),
            Opcode::VClMul => {
                let b = self.xmm(op.b);
                let same = self.xmm(op.a) == b;
                let d = self.copy_of(op, (!same).then_some(b));
                let b = if same { d } else { b };
                self.asm.sse_imm(PCLMULQDQ, d, b, (op.aux as u8 & 1) * 0x11);
                self.def_xmm(i, d);
            }
            _ => self.lanes(i, op),
        }
    }

    fn lane_out(&mut self, i: u16, op: &Op) {
        let a = self.xmm(op.a);
        let d = self.dst(0);
        let n = op.vector_imm() as u8;
        match op.lane() {
            Lane::B => self.asm.sse_imm(PEXTRB, a, d, n & 15),
            Lane::H => self.asm.sse_imm(PEXTRW, d, a, n & 7),
            Lane::S if n & 3 == 0 => self.asm.movq_from_xmm(false, d, a),
            Lane::S => self.asm.sse_imm(PEXTRD, a, d, n & 3),
            Lane::D if n & 1 == 0 => self.asm.movq_from_xmm(true, d, a),
            Lane::D => self.asm.pextrq(d, a, 1),
        }
        self.def(i, d);
    }

    fn lane_in(&mut self, i: u16, op: &Op) {
        let x = self.gpr(op.b);
        let d = self.copy_of(op, None);
        let n = op.vector_imm() as u8;
        match op.lane() {
            Lane::B => self.asm.sse_imm(PINSRB, d, x, n & 15),
            Lane::H => self.asm.sse_imm(PINSRW, d, x, n & 7),
            Lane::S => self.asm.sse_imm(PINSRD, d, x, n & 3),
            Lane::D => self.asm.pinsrq(d, x, n & 1),
        }
        self.def_xmm(i, d);
    }

    fn vector_and_not(&mut self, i: u16, op: &Op) {
        let (a, b) = (self.xmm(op.a), self.xmm(op.b));
        if self.features.avx {
            let d = self.dst_xmm(None);
            self.asm.avx(PANDN, d, b, a);
            return self.def_xmm(i, d);
        }
        let d = self.dst_xmm(Some(a));
        if d != b {
            self.asm.movdqa(d, b);
        }
        self.asm.sse(PANDN, d, a);
        self.def_xmm(i, d);
    }

    fn lanes(&mut self, i: u16, op: &Op) {
        let Some((e, commutes)) = encoding(op) else {
            debug_assert!(false, "{} is not a vector op", op.code.text());
            return;
        };
        let (a, b) = (self.xmm(op.a), self.xmm(op.b));
        let vex = !matches!(op.code, Opcode::VSha256S0 | Opcode::VSha256S1);
        if self.features.avx && vex {
            let d = self.dst_xmm(None);
            // The shorter form has its high register first.
            let (a, b) = if commutes && b >= 8 && a < 8 { (b, a) } else { (a, b) };
            self.asm.avx(e, d, a, b);
            return self.def_xmm(i, d);
        }
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

    /// Loads a constant, if `op` is one.
    fn constant_vector(&mut self, i: u16, op: &Op) -> bool {
        let Some(low) = self.al.constant(self.block, op.a) else { return false };
        let value = if op.code == Opcode::VDup {
            eval::dup(op.lane(), low)
        } else {
            match self.al.constant(self.block, op.b) {
                Some(high) => u128::from(high) << 64 | u128::from(low),
                None => return false,
            }
        };
        let d = self.dst_xmm(None);
        match value {
            0 => self.asm.sse(PXOR, d, d),
            u128::MAX => self.asm.sse(PCMPEQB, d, d),
            _ => {
                self.asm.load128_pool(d);
                self.stubs.push(Stub::Literal { field: self.asm.pos() - 4, value });
            }
        }
        self.def_xmm(i, d);
        true
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

    /// The first operand in the result's register, to be changed there; not `keep`'s register.
    fn copy_of(&mut self, op: &Op, keep: Option<u8>) -> u8 {
        let a = self.xmm(op.a);
        let d = self.dst_xmm(keep);
        if d != a {
            self.asm.movdqa(d, a);
        }
        d
    }

    /// A shift of 16-, 32- or 64-bit lanes by a constant (`Lane::D` has no arithmetic one).
    fn shift_imm(&mut self, code: Opcode, lane: Lane, x: u8, n: u8) {
        let (e, kind) = Self::shift_encoding(code, lane);
        self.asm.sse_imm(e, kind, x, n);
    }

    fn shift_encoding(code: Opcode, lane: Lane) -> (Enc, u8) {
        let e = sse2([0x71, 0x71, 0x72, 0x73][lane as usize]);
        let kind = match code {
            Opcode::VShl => 6,
            Opcode::VShr => 2,
            _ => 4,
        };
        (e, kind)
    }

    fn shift_lanes(&mut self, i: u16, op: &Op) {
        let (lane, n) = (op.lane(), op.vector_imm() as u8);
        let direct = lane != Lane::B && (op.code, lane) != (Opcode::VSar, Lane::D);
        if self.features.avx && direct {
            let a = self.xmm(op.a);
            let d = self.dst_xmm(None);
            let (e, kind) = Self::shift_encoding(op.code, lane);
            self.asm.avx_imm(e, kind, d, a, n);
            return self.def_xmm(i, d);
        }
        let d = self.copy_of(op, None);
        match (op.code, lane) {
            (Opcode::VSar, Lane::B) => {
                let t = self.temp_xmm();
                self.asm.movdqa(t, d);
                self.asm.sse(PUNPCKLBW, d, d);
                self.asm.sse(PUNPCKHBW, t, t);
                let n = n.min(7) + 8;
                self.shift_imm(Opcode::VSar, Lane::H, d, n);
                self.shift_imm(Opcode::VSar, Lane::H, t, n);
                self.asm.sse(PACKSSWB, d, t);
            }
            (Opcode::VSar, Lane::D) => {
                let t = self.temp_xmm();
                self.asm.sse(PXOR, t, t);
                self.asm.sse(PCMPGTQ, t, d);
                self.shift_imm(Opcode::VShr, lane, d, n);
                self.shift_imm(Opcode::VShl, lane, t, 64 - n.min(64));
                self.asm.sse(POR, d, t);
            }
            (code, Lane::B) => {
                let kept = match code {
                    Opcode::VShl => 0xff_u32 << n & 0xff,
                    _ => 0xff >> n,
                };
                self.shift_imm(code, Lane::H, d, n);
                let (g, t) = (self.temp(), self.temp_xmm());
                self.asm.mov_imm(g, u64::from(kept) * 0x0101_0101_0101_0101);
                self.asm.movq_to_xmm(true, t, g);
                self.asm.sse(PUNPCKLQDQ, t, t);
                self.asm.sse(PAND, d, t);
            }
            (code, lane) => self.shift_imm(code, lane, d, n),
        }
        self.def_xmm(i, d);
    }

    /// Even or odd lanes of two vectors.
    fn split(&mut self, i: u16, op: &Op) {
        let b = self.xmm(op.b);
        let same = self.xmm(op.a) == b;
        let d = self.copy_of(op, Some(b));
        let odd = op.code == Opcode::VOdd;
        if op.lane() == Lane::S {
            self.asm.sse_imm(SHUFPS, d, b, if odd { 0xdd } else { 0x88 });
            return self.def_xmm(i, d);
        }
        let s = if same {
            d
        } else {
            let t = self.temp_xmm();
            self.asm.movdqa(t, b);
            t
        };
        let (wide, n, pack) =
            if op.lane() == Lane::B { (Lane::H, 8, PACKUSWB) } else { (Lane::S, 16, PACKUSDW) };
        for x in [Some(d), (!same).then_some(s)].into_iter().flatten() {
            if !odd {
                self.shift_imm(Opcode::VShl, wide, x, n);
            }
            self.shift_imm(Opcode::VShr, wide, x, n);
        }
        self.asm.sse(pack, d, s);
        self.def_xmm(i, d);
    }

    /// Steps of rounds from whole ones with a zero key; MixColumns undoes what comes before it.
    fn aes(&mut self, i: u16, op: &Op) {
        let d = self.copy_of(op, None);
        let zero = self.temp_xmm();
        self.asm.sse(PXOR, zero, zero);
        match op.code {
            Opcode::VAesEnc => self.asm.sse(AESENCLAST, d, zero),
            Opcode::VAesDec => self.asm.sse(AESDECLAST, d, zero),
            Opcode::VAesRound => self.asm.sse(AESENC, d, zero),
            Opcode::VAesUnround => self.asm.sse(AESDEC, d, zero),
            _ => {
                self.asm.sse(AESDECLAST, d, zero);
                self.asm.sse(AESENC, d, zero);
            }
        }
        self.def_xmm(i, d);
    }

    /// Four rounds, two at a time: the instruction has a, b, e, f and c, d, g, h together, the first in
    /// the highest word, and takes its words from xmm0.
    fn sha256(&mut self, i: u16, op: &Op) {
        const RNDS2: Enc = Enc(0, 2, 0xcb);
        self.take(XMM);
        let [z, x] = [op.a, op.b].map(|v| {
            let s = self.xmm(v);
            let d = self.temp_xmm();
            self.asm.sse_imm(PSHUFD, d, s, 0x1b);
            self.unlock(s + XMM);
            d
        });
        let (w, y) = (self.xmm(op.c()), self.temp_xmm());
        self.asm.movdqa(y, x);
        self.asm.sse(PUNPCKLQDQ, x, z);
        self.asm.sse(PUNPCKHQDQ, y, z);
        self.asm.movdqa(0, w);
        self.asm.sse(RNDS2, x, y);
        self.asm.sse_imm(PSHUFD, 0, w, 0x0e);
        self.asm.sse(RNDS2, y, x);
        self.asm.sse(if op.aux & 1 == 0 { PUNPCKHQDQ } else { PUNPCKLQDQ }, x, y);
        self.asm.sse_imm(PSHUFD, x, x, 0x1b);
        self.def_xmm(i, x);
    }

    fn align(&mut self, i: u16, op: &Op) {
        let (a, b) = (self.xmm(op.a), self.xmm(op.b));
        let n = op.aux as u8 & 15;
        if a == b {
            let d = self.copy_of(op, None);
            self.asm.sse_imm(PALIGNR, d, d, n);
            return self.def_xmm(i, d);
        }
        let d = self.dst_xmm(Some(a));
        if d != b {
            self.asm.movdqa(d, b);
        }
        self.asm.sse_imm(PALIGNR, d, a, n);
        self.def_xmm(i, d);
    }

    fn dup_lane(&mut self, i: u16, op: &Op) {
        let a = self.xmm(op.a);
        let d = self.dst_xmm(None);
        let n = op.vector_imm() as u8;
        match op.lane() {
            Lane::D => self.asm.sse_imm(PSHUFD, d, a, if n & 1 == 0 { 0x44 } else { 0xee }),
            Lane::S => self.asm.sse_imm(PSHUFD, d, a, (n & 3) * 0x55),
            lane => {
                let (s, n) = if lane == Lane::B {
                    if d != a {
                        self.asm.movdqa(d, a);
                    }
                    self.asm.sse(if n & 8 == 0 { PUNPCKLBW } else { PUNPCKHBW }, d, d);
                    (d, n & 7)
                } else {
                    (a, n & 7)
                };
                self.asm.sse_imm(if n < 4 { PSHUFLW } else { PSHUFHW }, d, s, (n & 3) * 0x55);
                self.asm.sse_imm(PSHUFD, d, d, if n < 4 { 0 } else { 0xaa });
            }
        }
        self.def_xmm(i, d);
    }
}
