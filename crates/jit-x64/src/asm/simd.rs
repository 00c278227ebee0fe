//! Vector instructions, in their SSE and VEX forms.

use super::{Asm, Enc, Mem, Rm};

impl Asm {
    /// vfmadd231, vfmsub231, vfnmadd231 or vfnmsub231 d, n, m (scalar): d = ±(n * m) ± d.
    pub fn fused(&mut self, double: bool, neg_n: bool, neg_a: bool, d: u8, n: u8, m: u8) {
        let opcode = match (neg_n, neg_a) {
            (false, false) => 0xb9,
            (false, true) => 0xbb,
            (true, false) => 0xbd,
            (true, true) => 0xbf,
        };
        self.vex((2, 1, opcode), double, n, d, Rm::R(m));
    }
    /// An SSE instruction `d, s`.
    pub fn sse(&mut self, e: Enc, d: u8, s: impl Into<Rm>) {
        self.put(e, false, false, d, s.into());
    }
    /// An SSE instruction `d, s, constant`.
    pub fn sse_imm(&mut self, e: Enc, d: u8, s: impl Into<Rm>, v: u8) {
        self.put(e, false, false, d, s.into());
        self.b(v);
    }
    /// movdqa d, s
    pub fn movdqa(&mut self, d: u8, s: u8) {
        self.sse(Enc(0x66, 1, 0x6f), d, s);
    }
    /// movups d, [m]
    pub fn load128(&mut self, d: u8, m: Mem) {
        self.sse(Enc(0, 1, 0x10), d, m);
    }
    /// movups d, [rip + …] with the displacement, the last four bytes, to be set by [`Self::bind`].
    pub fn load128_pool(&mut self, d: u8) {
        self.sse(Enc(0, 1, 0x10), d, Rm::Pool(0, 0));
    }
    /// movups [m], s
    pub fn store128(&mut self, m: Mem, s: u8) {
        self.sse(Enc(0, 1, 0x11), s, m);
    }
    /// movd / movq xmm, general
    pub fn movq_to_xmm(&mut self, w: bool, d: u8, s: impl Into<Rm>) {
        self.put(Enc(0x66, 1, 0x6e), w, false, d, s.into());
    }
    /// movd / movq general, xmm
    pub fn movq_from_xmm(&mut self, w: bool, d: impl Into<Rm>, s: u8) {
        self.put(Enc(0x66, 1, 0x7e), w, false, s, d.into());
    }
    /// pinsrq d, s, lane
    pub fn pinsrq(&mut self, d: u8, s: u8, lane: u8) {
        self.put(Enc(0x66, 3, 0x22), true, false, d, Rm::R(s));
        self.b(lane);
    }
    /// pextrq d, s, lane
    pub fn pextrq(&mut self, d: u8, s: u8, lane: u8) {
        self.put(Enc(0x66, 3, 0x16), true, false, s, Rm::R(d));
        self.b(lane);
    }
    /// A VEX instruction `d, v, s` on 128 bits.
    pub fn avx(&mut self, e: Enc, d: u8, v: u8, s: impl Into<Rm>) {
        self.avx_wide(e, false, d, v, s);
    }
    /// [`Self::avx`] with VEX.W.
    pub fn avx_wide(&mut self, e: Enc, w: bool, d: u8, v: u8, s: impl Into<Rm>) {
        let prefix = match e.0 {
            0x66 => 1,
            0xf3 => 2,
            0xf2 => 3,
            _ => 0,
        };
        self.vex((e.1, prefix, e.2), w, v, d, s.into());
    }
    /// A VEX instruction `d, v, s, constant`.
    pub fn avx_imm(&mut self, e: Enc, d: u8, v: u8, s: impl Into<Rm>, imm: u8) {
        self.avx(e, d, v, s);
        self.b(imm);
    }
    /// cvttss2si, cvttsd2si (truncating) or cvtss2si, cvtsd2si: d (64-bit if `w`), s
    pub fn fp_to_int(&mut self, w: bool, double: bool, truncating: bool, d: u8, s: u8) {
        let prefix = if double { 0xf2 } else { 0xf3 };
        let opcode = if truncating { 0x2c } else { 0x2d };
        self.put(Enc(prefix, 1, opcode), w, false, d, Rm::R(s));
    }
    /// cvtsi2ss, cvtsi2sd d, s (64-bit if `w`); the rest of `d` stays.
    pub fn int_to_fp(&mut self, w: bool, double: bool, d: u8, s: u8) {
        let prefix = if double { 0xf2 } else { 0xf3 };
        self.put(Enc(prefix, 1, 0x2a), w, false, d, Rm::R(s));
    }
    /// ldmxcsr [m]
    pub fn ldmxcsr(&mut self, m: impl Into<Rm>) {
        self.put(Enc(0, 1, 0xae), false, false, 2, m.into());
    }
    /// stmxcsr [m]
    pub fn stmxcsr(&mut self, m: Mem) {
        self.put(Enc(0, 1, 0xae), false, false, 3, m.into());
    }
}
