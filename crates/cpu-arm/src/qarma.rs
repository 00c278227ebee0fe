//! QARMA5 and QARMA3: the tweakable block ciphers behind pointer authentication codes.
//!
//! As the pseudocode function ComputePAC and its parts say: a state of sixteen 4-bit cells, forward
//! rounds, a reflector, backward rounds; QARMA3 has two rounds less each way and another S-box.
//! Not here: where a code goes in a pointer (`pauth`).
//! Source: Arm ARM (DDI 0487) J1.1 (shared/functions/pac/computepac); R. Avanzi, "The QARMA Block
//! Cipher Family", 2016, for the meaning of the tables.

const ALPHA: u64 = 0xc0ac_29b7_c97c_50dd;
const RC: [u64; 5] =
    [0, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89, 0x4528_21e6_38d0_1377];

/// Source cell of each cell in PACCellShuffle, lowest cell first.
const SHUFFLE: [u8; 16] = [13, 6, 11, 0, 7, 12, 1, 10, 8, 3, 14, 5, 2, 9, 4, 15];
/// The same of TweakShuffle.
const TWEAK: [u8; 16] = [4, 5, 6, 7, 11, 2, 3, 8, 12, 13, 14, 15, 0, 1, 10, 9];
/// Cells of TweakShuffle's result that go through TweakCellRot.
const ROTATED: u16 = 1 << 2 | 1 << 4 | 1 << 7 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15;

type Box4 = [u8; 16];
const SUB5: Box4 = [11, 6, 8, 15, 12, 0, 9, 14, 3, 7, 4, 5, 13, 2, 1, 10];
const SUB3: Box4 = [10, 13, 14, 6, 15, 7, 3, 5, 9, 8, 0, 12, 11, 1, 2, 4];

const fn inverse(of: &[u8; 16]) -> [u8; 16] {
    let mut r = [0; 16];
    let mut n = 0;
    while n < 16 {
        r[of[n] as usize] = n as u8;
        n += 1;
    }
    r
}
const INV_SHUFFLE: [u8; 16] = inverse(&SHUFFLE);
const INV_TWEAK: [u8; 16] = inverse(&TWEAK);
const INV_SUB5: Box4 = inverse(&SUB5);
const INV_SUB3: Box4 = inverse(&SUB3);

fn cell(v: u64, n: usize) -> u64 {
    v >> (4 * n) & 15
}

fn permute(v: u64, from: &[u8; 16]) -> u64 {
    from.iter().enumerate().fold(0, |r, (n, src)| r | cell(v, usize::from(*src)) << (4 * n))
}

fn substitute(v: u64, with: &Box4) -> u64 {
    (0..16).fold(0, |r, n| r | u64::from(with[cell(v, n) as usize]) << (4 * n))
}

/// All cells rotated left by `by` bits (1 or 2).
fn rotate_cells(v: u64, by: u32) -> u64 {
    let low = 0x1111_1111_1111_1111 * ((1u64 << by) - 1);
    v << by & !low | v >> (4 - by) & low
}

/// PACMult: each column of four cells times the circulant matrix (0, r, r², r).
fn mult(v: u64) -> u64 {
    let (one, two) = (rotate_cells(v, 1), rotate_cells(v, 2));
    // Rows are 16 bits apart; row n of the result takes the three other rows.
    one.rotate_left(16) ^ two.rotate_left(32) ^ one.rotate_left(48)
}

fn rot(c: u64) -> u64 {
    c >> 1 | ((c ^ c >> 1) & 1) << 3
}

fn inv_rot(c: u64) -> u64 {
    c << 1 & 15 | (c ^ c >> 3) & 1
}

fn tweak(v: u64) -> u64 {
    let v = permute(v, &TWEAK);
    (0..16).fold(0, |r, n| {
        let c = cell(v, n);
        r | (if ROTATED >> n & 1 != 0 { rot(c) } else { c }) << (4 * n)
    })
}

fn inv_tweak(v: u64) -> u64 {
    let v = (0..16).fold(0, |r, n| {
        let c = cell(v, n);
        r | (if ROTATED >> n & 1 != 0 { inv_rot(c) } else { c }) << (4 * n)
    });
    permute(v, &INV_TWEAK)
}

fn compute(data: u64, modifier: u64, key: (u64, u64), rounds: usize, s: (&Box4, &Box4)) -> u64 {
    let (key1, key0) = key;
    let modk0 = key0 << 63 | key0 >> 2 << 1 | (key0 >> 63 ^ key0 >> 1) & 1;
    let mut t = modifier;
    let mut v = data ^ key0;
    for (n, rc) in RC.iter().enumerate().take(rounds + 1) {
        v ^= key1 ^ t ^ rc;
        if n > 0 {
            v = mult(permute(v, &SHUFFLE));
        }
        v = substitute(v, s.0);
        t = tweak(t);
    }
    v = mult(permute(v ^ modk0 ^ t, &SHUFFLE));
    v = mult(permute(substitute(v, s.0), &SHUFFLE));
    v = substitute(permute(v ^ key1, &INV_SHUFFLE), s.1);
    v = permute(mult(v), &INV_SHUFFLE) ^ key0 ^ t;
    for n in (0..=rounds).rev() {
        v = substitute(v, s.1);
        if n > 0 {
            v = permute(mult(v), &INV_SHUFFLE);
        }
        t = inv_tweak(t);
        v ^= RC[n] ^ key1 ^ t ^ ALPHA;
    }
    v ^ modk0
}

/// ComputePAC with QARMA5; the key as (low, high) register halves.
#[must_use]
pub fn qarma5(data: u64, modifier: u64, key: (u64, u64)) -> u64 {
    compute(data, modifier, key, 4, (&SUB5, &INV_SUB5))
}

/// ComputePAC with QARMA3.
#[must_use]
pub fn qarma3(data: u64, modifier: u64, key: (u64, u64)) -> u64 {
    compute(data, modifier, key, 2, (&SUB3, &INV_SUB3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the paper, appendix A.1 (σ1 r = 5 aside): data, tweak and key are its own.
    const DATA: u64 = 0xfb62_3599_da6e_8127;
    const TWK: u64 = 0x477d_469d_ec0b_8762;
    const KEY: (u64, u64) = (0xec28_02d4_e0a4_88e9, 0x84be_85ce_9804_e94b);

    #[test]
    fn the_papers_vector_comes_out() {
        assert_eq!(qarma5(DATA, TWK, KEY), 0xc003_b939_99b3_3765);
    }

    #[test]
    fn inverses_invert() {
        for v in [DATA, TWK, KEY.0, KEY.1] {
            assert_eq!(inv_tweak(tweak(v)), v);
            assert_eq!(permute(permute(v, &SHUFFLE), &INV_SHUFFLE), v);
            assert_eq!(substitute(substitute(v, &SUB3), &INV_SUB3), v);
            assert_eq!(mult(mult(v)), v, "the matrix is its own inverse");
        }
    }
}
