//! Writes random instruction words from the decode tables, for `cargo xtask a64rand`.
//!
//! `random_words SEED COUNT FILE`: every pattern of both tables in turn, its free fields random; no branches,
//! exceptions and system instructions.

use cpu_arm::decode::{base, fpsimd};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |n: usize| args.get(n).and_then(|t| t.parse::<u64>().ok());
    let (Some(seed), Some(count), Some(file)) = (number(1), number(2), args.get(3)) else {
        panic!("usage: random_words SEED COUNT FILE");
    };
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut rng = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    };
    let all = base::PATTERNS.len() + fpsimd::PATTERNS.len();
    let mut words = Vec::new();
    let mut n = 0;
    while words.len() < count as usize {
        let at = n % all;
        n += 1;
        let word = match at.checked_sub(base::PATTERNS.len()) {
            None => base::random(&mut rng, at),
            Some(at) => fpsimd::random(&mut rng, at),
        };
        // LDAPR: bits 20 to 16 should be ones (Arm ARM C6.2), or anything may happen.
        let word = if word & 0x3fe0_fc00 == 0x38a0_c000 { word | 31 << 16 } else { word };
        // Arm ARM C4.1: bits 28 to 25 are 101x.
        if word >> 26 & 7 != 5 {
            words.push(word);
        }
    }
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    std::fs::write(file, bytes).expect("the file");
}
