//! The steps of an AES round on a 128-bit state, byte 0 lowest.
//!
//! They are the values of the AES operations of the IR, which the interpreter and guests use where the host
//! has no instructions for them.
//!
//! Not here: key schedules, modes. Not constant-time. Source: FIPS 197.

/// Product in GF(2^8).
const fn gf_mul(mut a: u8, mut b: u8) -> u8 {
    let mut r = 0;
    while b != 0 {
        if b & 1 != 0 {
            r ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    r
}

/// The S-box and its inverse.
const fn tables() -> ([u8; 256], [u8; 256]) {
    let (mut forward, mut inverse) = ([0u8; 256], [0u8; 256]);
    let mut n = 0;
    while n < 256 {
        // Inverse in GF(2^8) is the 254th power.
        let (mut inv, mut base, mut e) = (1u8, n as u8, 254u8);
        while e != 0 {
            if e & 1 != 0 {
                inv = gf_mul(inv, base);
            }
            base = gf_mul(base, base);
            e >>= 1;
        }
        if n == 0 {
            inv = 0;
        }
        let s = inv
            ^ inv.rotate_left(1)
            ^ inv.rotate_left(2)
            ^ inv.rotate_left(3)
            ^ inv.rotate_left(4)
            ^ 0x63;
        forward[n] = s;
        inverse[s as usize] = n as u8;
        n += 1;
    }
    (forward, inverse)
}
static BOXES: ([u8; 256], [u8; 256]) = tables();

fn bytes(v: u128, f: impl Fn([u8; 16], usize) -> u8) -> u128 {
    let b = v.to_le_bytes();
    u128::from_le_bytes(std::array::from_fn(|i| f(b, i)))
}

/// A matrix of factors applied to each column.
fn columns(v: u128, factors: [u8; 4]) -> u128 {
    bytes(v, |b, i| {
        let (col, row) = (i & !3, i & 3);
        (0..4).fold(0, |r, k| r ^ gf_mul(b[col + (row + k) % 4], factors[k]))
    })
}

/// ShiftRows and SubBytes.
#[must_use]
pub fn encrypt(v: u128) -> u128 {
    bytes(v, |b, i| BOXES.0[usize::from(b[(i + 4 * (i & 3)) & 15])])
}

/// InvShiftRows and InvSubBytes.
#[must_use]
pub fn decrypt(v: u128) -> u128 {
    bytes(v, |b, i| BOXES.1[usize::from(b[(i + 16 - 4 * (i & 3)) & 15])])
}

/// MixColumns.
#[must_use]
pub fn mix(v: u128) -> u128 {
    columns(v, [2, 3, 1, 1])
}

/// InvMixColumns.
#[must_use]
pub fn unmix(v: u128) -> u128 {
    columns(v, [14, 11, 13, 9])
}

/// Polynomial product over GF(2) of two 64-bit numbers.
#[must_use]
pub fn carryless(a: u64, b: u64) -> u128 {
    (0..64).filter(|i| b >> i & 1 != 0).fold(0, |r, i| r ^ u128::from(a) << i)
}
