//! Cryptographic instructions: AES, SHA1, SHA2, SHA3, SM3, SM4.
//!
//! Sources: Arm ARM C7.2; AES is `jit_ir::aes`, the S-box of SM4 is that of GB/T 32907.

use jit_ir::aes;

use super::{Exec, lane, set_lane};
use crate::decode::fpsimd as d;

#[rustfmt::skip]
static SM4: [u8; 256] = [
    0xd6, 0x90, 0xe9, 0xfe, 0xcc, 0xe1, 0x3d, 0xb7, 0x16, 0xb6, 0x14, 0xc2, 0x28, 0xfb, 0x2c, 0x05,
    0x2b, 0x67, 0x9a, 0x76, 0x2a, 0xbe, 0x04, 0xc3, 0xaa, 0x44, 0x13, 0x26, 0x49, 0x86, 0x06, 0x99,
    0x9c, 0x42, 0x50, 0xf4, 0x91, 0xef, 0x98, 0x7a, 0x33, 0x54, 0x0b, 0x43, 0xed, 0xcf, 0xac, 0x62,
    0xe4, 0xb3, 0x1c, 0xa9, 0xc9, 0x08, 0xe8, 0x95, 0x80, 0xdf, 0x94, 0xfa, 0x75, 0x8f, 0x3f, 0xa6,
    0x47, 0x07, 0xa7, 0xfc, 0xf3, 0x73, 0x17, 0xba, 0x83, 0x59, 0x3c, 0x19, 0xe6, 0x85, 0x4f, 0xa8,
    0x68, 0x6b, 0x81, 0xb2, 0x71, 0x64, 0xda, 0x8b, 0xf8, 0xeb, 0x0f, 0x4b, 0x70, 0x56, 0x9d, 0x35,
    0x1e, 0x24, 0x0e, 0x5e, 0x63, 0x58, 0xd1, 0xa2, 0x25, 0x22, 0x7c, 0x3b, 0x01, 0x21, 0x78, 0x87,
    0xd4, 0x00, 0x46, 0x57, 0x9f, 0xd3, 0x27, 0x52, 0x4c, 0x36, 0x02, 0xe7, 0xa0, 0xc4, 0xc8, 0x9e,
    0xea, 0xbf, 0x8a, 0xd2, 0x40, 0xc7, 0x38, 0xb5, 0xa3, 0xf7, 0xf2, 0xce, 0xf9, 0x61, 0x15, 0xa1,
    0xe0, 0xae, 0x5d, 0xa4, 0x9b, 0x34, 0x1a, 0x55, 0xad, 0x93, 0x32, 0x30, 0xf5, 0x8c, 0xb1, 0xe3,
    0x1d, 0xf6, 0xe2, 0x2e, 0x82, 0x66, 0xca, 0x60, 0xc0, 0x29, 0x23, 0xab, 0x0d, 0x53, 0x4e, 0x6f,
    0xd5, 0xdb, 0x37, 0x45, 0xde, 0xfd, 0x8e, 0x2f, 0x03, 0xff, 0x6a, 0x72, 0x6d, 0x6c, 0x5b, 0x51,
    0x8d, 0x1b, 0xaf, 0x92, 0xbb, 0xdd, 0xbc, 0x7f, 0x11, 0xd9, 0x5c, 0x41, 0x1f, 0x10, 0x5a, 0xd8,
    0x0a, 0xc1, 0x31, 0x88, 0xa5, 0xcd, 0x7b, 0xbd, 0x2d, 0x74, 0xd0, 0x12, 0xb8, 0xe5, 0xb4, 0xb0,
    0x89, 0x69, 0x97, 0x4a, 0x0c, 0x96, 0x77, 0x7e, 0x65, 0xb9, 0xf1, 0x09, 0xc5, 0x6e, 0xc6, 0x84,
    0x18, 0xf0, 0x7d, 0xec, 0x3a, 0xdc, 0x4d, 0x20, 0x79, 0xee, 0x5f, 0x3e, 0xd7, 0xcb, 0x39, 0x48,
];

fn words(v: u128) -> [u32; 4] {
    std::array::from_fn(|i| (v >> (32 * i)) as u32)
}

fn from_words(w: [u32; 4]) -> u128 {
    w.iter().rev().fold(0, |v, w| v << 32 | u128::from(*w))
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    (y ^ z) & x ^ z
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y | (x | y) & z
}

fn sha256_round(mut x: [u32; 4], mut y: [u32; 4], w: [u32; 4]) -> ([u32; 4], [u32; 4]) {
    for k in w {
        let s1 = y[0].rotate_right(6) ^ y[0].rotate_right(11) ^ y[0].rotate_right(25);
        let s0 = x[0].rotate_right(2) ^ x[0].rotate_right(13) ^ x[0].rotate_right(22);
        let t = y[3].wrapping_add(s1).wrapping_add(choose(y[0], y[1], y[2])).wrapping_add(k);
        let x3 = x[3].wrapping_add(t);
        let y3 = t.wrapping_add(s0).wrapping_add(majority(x[0], x[1], x[2]));
        x = [y3, x[0], x[1], x[2]];
        y = [x3, y[0], y[1], y[2]];
    }
    (x, y)
}

fn sm4_round(rr: [u32; 4], key: u32, linear: fn(u32) -> u32) -> [u32; 4] {
    let v = rr[3] ^ rr[2] ^ rr[1] ^ key;
    let s = u32::from_le_bytes(v.to_le_bytes().map(|b| SM4[usize::from(b)]));
    [rr[1], rr[2], rr[3], rr[0] ^ linear(s)]
}

impl Exec<'_> {
    pub(super) fn aes(&mut self, a: &d::ArgOpRdRn) -> bool {
        if !self.features.aes() {
            return false;
        }
        let (dst, n) = (self.v(a.rd), self.v(a.rn));
        let r = match a.op {
            4 => aes::encrypt(dst ^ n),
            5 => aes::decrypt(dst ^ n),
            6 => aes::mix(n),
            7 => aes::unmix(n),
            _ => return false,
        };
        self.set_v(a.rd, r);
        true
    }

    pub(super) fn sha_three(&mut self, a: &d::ArgOpRdRmRn) -> bool {
        let ok = if a.op < 4 { self.features.sha1() } else { self.features.sha256() };
        if !ok || a.op == 7 {
            return false;
        }
        let (dst, n, m) = (self.v(a.rd), self.v(a.rn), self.v(a.rm));
        let r = match a.op {
            0..=2 => sha1_hash(a.op, words(dst), n as u32, words(m)),
            3 => (n << 64 | dst >> 64) ^ dst ^ m,
            4 => from_words(sha256_round(words(dst), words(n), words(m)).0),
            5 => from_words(sha256_round(words(n), words(dst), words(m)).1),
            _ => sha256_schedule(words(dst), words(n), words(m)),
        };
        self.set_v(a.rd, r);
        true
    }

    pub(super) fn sha_two(&mut self, a: &d::ArgOpRdRn) -> bool {
        let ok = if a.op < 2 { self.features.sha1() } else { self.features.sha256() };
        if !ok || a.op > 2 {
            return false;
        }
        let (dst, n) = (self.v(a.rd), self.v(a.rn));
        let r = match a.op {
            0 => u128::from((n as u32).rotate_left(30)),
            1 => {
                let t = words(dst ^ n >> 32);
                let mut w = t.map(|x| x.rotate_left(1));
                w[3] ^= t[0].rotate_left(2);
                from_words(w)
            }
            _ => {
                let t = words(n << 96 | dst >> 32);
                let old = words(dst);
                from_words(std::array::from_fn(|i| {
                    let s = t[i].rotate_right(7) ^ t[i].rotate_right(18) ^ t[i] >> 3;
                    s.wrapping_add(old[i])
                }))
            }
        };
        self.set_v(a.rd, r);
        true
    }

    pub(super) fn sha512_three(&mut self, a: &d::ArgOOpRdRmRn) -> bool {
        let ok = match (a.o, a.op) {
            (0, 3) => self.features.sha3(),
            (0, _) => self.features.sha512(),
            (_, 0 | 1) => self.features.sm3(),
            (_, 2) => self.features.sm4(),
            _ => false,
        };
        if !ok {
            return false;
        }
        let (dst, n, m) = (self.v(a.rd), self.v(a.rn), self.v(a.rm));
        let r = match (a.o, a.op) {
            (0, 0) => sha512_h(dst, n, m),
            (0, 1) => sha512_h2(dst, n, m),
            (0, 2) => lanes64(|i| {
                let x = lane(n, 64, i);
                let s = x.rotate_right(19) ^ x.rotate_right(61) ^ x >> 6;
                lane(dst, 64, i).wrapping_add(s).wrapping_add(lane(m, 64, i))
            }),
            (0, _) => lanes64(|i| lane(n, 64, i) ^ lane(m, 64, i).rotate_left(1)),
            (_, 0) => sm3_part_w1(words(dst), words(n), words(m)),
            (_, 1) => sm3_part_w2(words(dst), words(n), words(m)),
            _ => {
                let linear = |s: u32| s ^ s.rotate_left(13) ^ s.rotate_left(23);
                from_words(words(m).into_iter().fold(words(n), |rr, k| sm4_round(rr, k, linear)))
            }
        };
        self.set_v(a.rd, r);
        true
    }

    pub(super) fn sha512_two(&mut self, a: &d::ArgOpRdRn) -> bool {
        let (dst, n) = (self.v(a.rd), self.v(a.rn));
        let r = match a.op {
            0 if self.features.sha512() => {
                let s = |x: u64| x.rotate_right(1) ^ x.rotate_right(8) ^ x >> 7;
                let (w0, w1, x0) = (lane(dst, 64, 0), lane(dst, 64, 1), lane(n, 64, 0));
                lanes64(|i| if i == 0 { w0.wrapping_add(s(w1)) } else { w1.wrapping_add(s(x0)) })
            }
            1 if self.features.sm4() => {
                let linear = |s: u32| {
                    s ^ s.rotate_left(2) ^ s.rotate_left(10) ^ s.rotate_left(18) ^ s.rotate_left(24)
                };
                from_words(words(n).into_iter().fold(words(dst), |rr, k| sm4_round(rr, k, linear)))
            }
            _ => return false,
        };
        self.set_v(a.rd, r);
        true
    }

    pub(super) fn sha3_four(&mut self, a: &d::ArgOpRaRdRmRn) -> bool {
        let (n, m, x) = (self.v(a.rn), self.v(a.rm), self.v(a.ra));
        let r = match a.op {
            0 if self.features.sha3() => n ^ m ^ x,
            1 if self.features.sha3() => n ^ m & !x,
            2 if self.features.sm3() => {
                let (n, m, x) = (words(n)[3], words(m)[3], words(x)[3]);
                let s = n.rotate_left(12).wrapping_add(m).wrapping_add(x).rotate_left(7);
                u128::from(s) << 96
            }
            _ => return false,
        };
        self.set_v(a.rd, r);
        true
    }

    pub(super) fn xar(&mut self, a: &d::ArgImmRdRmRn) -> bool {
        if !self.features.sha3() {
            return false;
        }
        let x = self.v(a.rn) ^ self.v(a.rm);
        let r = lanes64(|i| lane(x, 64, i).rotate_right(a.imm));
        self.set_v(a.rd, r);
        true
    }

    pub(super) fn sm3_tt(&mut self, a: &d::ArgImmOpRdRmRn) -> bool {
        if !self.features.sm3() {
            return false;
        }
        let (v, n) = (words(self.v(a.rd)), words(self.v(a.rn)));
        let w = words(self.v(a.rm))[(a.imm & 3) as usize];
        let f = match a.op {
            0 | 2 => v[1] ^ v[3] ^ v[2],
            1 => majority(v[3], v[2], v[1]),
            _ => v[3] & v[2] | !v[3] & v[1],
        };
        let base = f.wrapping_add(v[0]).wrapping_add(w);
        let r = if a.op < 2 {
            let ss2 = n[3] ^ v[3].rotate_left(12);
            [v[1], v[2].rotate_left(9), v[3], base.wrapping_add(ss2)]
        } else {
            let t = base.wrapping_add(n[3]);
            [v[1], v[2].rotate_left(19), v[3], t ^ t.rotate_left(9) ^ t.rotate_left(17)]
        };
        self.set_v(a.rd, from_words(r));
        true
    }
}

fn lanes64(f: impl Fn(u32) -> u64) -> u128 {
    let mut v = 0;
    for i in 0..2 {
        set_lane(&mut v, 64, i, f(i));
    }
    v
}

fn sha1_hash(op: u32, mut x: [u32; 4], mut y: u32, w: [u32; 4]) -> u128 {
    for k in w {
        let t = match op {
            0 => choose(x[1], x[2], x[3]),
            1 => x[1] ^ x[2] ^ x[3],
            _ => majority(x[1], x[2], x[3]),
        };
        let new = y.wrapping_add(x[0].rotate_left(5)).wrapping_add(t).wrapping_add(k);
        y = x[3];
        x = [new, x[0], x[1].rotate_left(30), x[2]];
    }
    from_words(x)
}

fn sha256_schedule(dst: [u32; 4], n: [u32; 4], m: [u32; 4]) -> u128 {
    let t0 = [n[1], n[2], n[3], m[0]];
    let sigma = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let mut r = [0u32; 4];
    for i in 0..4 {
        let src = if i < 2 { m[2 + i] } else { r[i - 2] };
        r[i] = sigma(src).wrapping_add(dst[i]).wrapping_add(t0[i]);
    }
    from_words(r)
}

fn sha512_h(w: u128, x: u128, y: u128) -> u128 {
    let sigma = |v: u64| v.rotate_right(14) ^ v.rotate_right(18) ^ v.rotate_right(41);
    let (x0, x1, y0, y1) = (lane(x, 64, 0), lane(x, 64, 1), lane(y, 64, 0), lane(y, 64, 1));
    let high = (y1 & x0 ^ !y1 & x1).wrapping_add(sigma(y1)).wrapping_add(lane(w, 64, 1));
    let t = high.wrapping_add(y0);
    let low = (t & y1 ^ !t & x0).wrapping_add(sigma(t)).wrapping_add(lane(w, 64, 0));
    u128::from(low) | u128::from(high) << 64
}

fn sha512_h2(w: u128, x: u128, y: u128) -> u128 {
    let sigma = |v: u64| v.rotate_right(28) ^ v.rotate_right(34) ^ v.rotate_right(39);
    let maj = |a: u64, b: u64, c: u64| a & b ^ a & c ^ b & c;
    let (x0, y0, y1) = (lane(x, 64, 0), lane(y, 64, 0), lane(y, 64, 1));
    let high = maj(x0, y1, y0).wrapping_add(sigma(y0)).wrapping_add(lane(w, 64, 1));
    let low = maj(high, y0, y1).wrapping_add(sigma(high)).wrapping_add(lane(w, 64, 0));
    u128::from(low) | u128::from(high) << 64
}

fn sm3_mix(v: u32) -> u32 {
    v ^ v.rotate_left(15) ^ v.rotate_left(23)
}

fn sm3_part_w1(dst: [u32; 4], n: [u32; 4], m: [u32; 4]) -> u128 {
    let mut r = [0u32; 4];
    for i in 0..3 {
        r[i] = sm3_mix(dst[i] ^ n[i] ^ m[i + 1].rotate_left(15));
    }
    r[3] = sm3_mix(dst[3] ^ n[3] ^ r[0].rotate_left(15));
    from_words(r)
}

fn sm3_part_w2(dst: [u32; 4], n: [u32; 4], m: [u32; 4]) -> u128 {
    let t: [u32; 4] = std::array::from_fn(|i| n[i] ^ m[i].rotate_left(7));
    let mut r: [u32; 4] = std::array::from_fn(|i| dst[i] ^ t[i]);
    r[3] ^= sm3_mix(t[0].rotate_left(15));
    from_words(r)
}
