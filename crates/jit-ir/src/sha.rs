//! SHA-256 on vectors of four words, as the vector ops compute it.
//!
//! Source: FIPS 180-4 section 6.2.2.

fn words(v: u128) -> [u32; 4] {
    std::array::from_fn(|n| (v >> (32 * n)) as u32)
}

fn vector(w: [u32; 4]) -> u128 {
    w.iter().rev().fold(0, |v, x| v << 32 | u128::from(*x))
}

/// Four rounds on a, b, c, d and e, f, g, h (the first in the lowest word) with the words of `wk`; gives
/// the new e to h if `second`, else the new a to d.
#[must_use]
pub fn rounds(abcd: u128, efgh: u128, wk: u128, second: bool) -> u128 {
    let ([mut a, mut b, mut c, mut d], [mut e, mut f, mut g, mut h]) = (words(abcd), words(efgh));
    for w in words(wk) {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let t1 = h.wrapping_add(s1).wrapping_add(e & f ^ !e & g).wrapping_add(w);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t2 = s0.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(t2));
    }
    vector(if second { [e, f, g, h] } else { [a, b, c, d] })
}

/// Each word of `a` plus sigma0 of the next; that after the last is the lowest of `b`.
#[must_use]
pub fn schedule0(a: u128, b: u128) -> u128 {
    let w = words(a);
    let next = words(a >> 32 | b << 96);
    vector(std::array::from_fn(|n| {
        let x = next[n];
        w[n].wrapping_add(x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3)
    }))
}

/// Each word of `a` plus sigma1 of the word two before it; those before the first are the upper ones of `b`.
#[must_use]
pub fn schedule1(a: u128, b: u128) -> u128 {
    let mut w = [0; 6];
    (w[0], w[1]) = (words(b)[2], words(b)[3]);
    for (n, x) in words(a).into_iter().enumerate() {
        let y: u32 = w[n];
        w[n + 2] = x.wrapping_add(y.rotate_right(17) ^ y.rotate_right(19) ^ y >> 10);
    }
    vector([w[2], w[3], w[4], w[5]])
}
