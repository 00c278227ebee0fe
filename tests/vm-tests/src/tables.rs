//! Random translation tables: programs for the bare machine, generated from a seed.
//!
//! A program has tables of one granule with random descriptors (valid, reserved, with every attribute
//! and permission, hierarchical ones too, outputs beyond the physical address size), and a list of
//! accesses to addresses that lie in them: AT instructions, loads, stores, unprivileged ones, branches.
//! It prints PAR_EL1 or what the exception said, and at the end the tables: the CPU writes into them. `walk.S` in `tests/guests` is the part that is always the same.
//! Source of the formats: Arm ARM, D8.3 (VMSAv8-64 translation table descriptor formats).

use std::fmt::Write as _;

/// Numbers from a seed (splitmix64).
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Where the pattern is that reads show, and its size.
const PATTERN: u64 = 0x5000_0000;
const PATTERN_SIZE: u64 = 0x40_0000;
/// Attributes that leaves of stage 1 may have: everything but address and type.
const STAGE1: u64 = 0x0dfc | 0x07f0_0000_0000_0000;
/// The same of stage 2.
const STAGE2: u64 = 0x07fc | 0x07e0_0000_0000_0000;

/// What a program is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// EL1's own tables, for the upper half.
    One,
    /// Random tables at both stages, looked at from EL2.
    Two,
}

/// One set of tables.
struct Tree<'a> {
    random: &'a mut Random,
    /// log2 of the granule.
    shift: u32,
    second: bool,
    /// The CPU writes access flags and dirty state.
    modern: bool,
    /// Stage 2 allows reading and writing everywhere.
    open: bool,
    name: &'static str,
    text: String,
    tables: usize,
    /// Addresses in what was generated.
    seen: Vec<u64>,
    /// Where leaves of stage 1 lead.
    outputs: Vec<u64>,
}

impl Tree<'_> {
    fn stride(&self) -> u32 {
        self.shift - 3
    }

    fn low(&self, level: u32) -> u32 {
        self.shift + (3 - level) * self.stride()
    }

    fn has_blocks(&self, level: u32) -> bool {
        level == 2 || (level == 1 && self.shift == 12)
    }

    fn leaf(&mut self, level: u32) -> u64 {
        let size = 1u64 << self.low(level);
        let pattern = PATTERN + self.random.below(PATTERN_SIZE);
        let mut at = match self.random.below(20) {
            0 => 1 << 44 | pattern, // beyond 40 bits
            1..=8 if !self.outputs.is_empty() => {
                let n = self.random.below(self.outputs.len() as u64) as usize;
                self.outputs[n]
            }
            _ => pattern,
        };
        at &= !(size - 1);
        let mask = if self.second { STAGE2 } else { STAGE1 };
        let mut attributes = self.random.next() & mask;
        if self.random.chance(80) {
            attributes |= 1 << 10; // AF
        }
        if !self.modern {
            attributes &= !(3 << 50); // GP and DBM
        }
        if self.second {
            // A normal type more often than not.
            attributes |= if self.random.chance(60) { 0xf << 2 } else { 0 };
            attributes &= if self.modern { u64::MAX } else { !(1 << 53) };
            attributes |= if self.open { 3 << 6 } else { 0 };
        }
        at | attributes | if level == 3 { 3 } else { 1 }
    }

    fn table(&mut self, level: u32, base: u64, bits: u32, keep: &[(u64, u64)]) -> usize {
        let number = self.tables;
        self.tables += 1;
        let low = self.low(level);
        let entries = 1u64 << bits;
        let mut used: Vec<u64> = (0..14).map(|_| self.random.below(entries)).collect();
        used.extend([0, entries - 1]);
        used.extend(keep.iter().map(|(index, _)| *index));
        used.sort_unstable();
        used.dedup();
        let mut out = format!("{}{number}:\n", self.name);
        let mut next = 0;
        for index in used {
            if index > next {
                _ = writeln!(out, "    .skip {}", (index - next) * 8);
            }
            next = index + 1;
            let at = base | index << low;
            let kept = keep.iter().find(|(kept, _)| *kept == index);
            let entry = match kept {
                Some((_, value)) => format!("{value:#x}"),
                None => self.entry(level, at),
            };
            _ = writeln!(out, "    .quad {entry}");
        }
        if entries > next {
            _ = writeln!(out, "    .skip {}", (entries - next) * 8);
        }
        _ = writeln!(out, "    .balign {}", 1u64 << self.shift);
        self.text.push_str(&out);
        number
    }

    fn entry(&mut self, level: u32, at: u64) -> String {
        // In a block that is larger than the pattern: where the pattern is.
        let size = 1 << self.low(level);
        let inside = if size > PATTERN_SIZE {
            PATTERN & (size - 1) | self.random.below(PATTERN_SIZE)
        } else {
            self.random.below(size)
        };
        let kind = self.random.below(100);
        if level < 3 && self.tables < 40 && (kind < 60 || !self.has_blocks(level) && kind < 90) {
            let below = self.table(level + 1, at, self.stride(), &[]);
            let mut bits =
                3 | if self.random.chance(30) { self.random.next() & 0xf8 << 56 } else { 0 };
            if self.second {
                bits = 3;
            }
            return format!("{}{below} + {bits:#x}", self.name);
        }
        self.seen.push(at | inside);
        // With FEAT_LPA, which is not built, 64 KiB granules have blocks at level 1.
        let wrong = kind >= 96 || self.modern && self.shift == 16 && level == 1;
        if wrong {
            return format!("{:#x}", self.random.next() & !3 | self.random.below(3) & 2);
        }
        if level == 3 || self.has_blocks(level) {
            return format!("{:#x}", self.leaf(level));
        }
        // A block where there are none.
        format!("{:#x}", self.leaf(2))
    }
}

/// log2 of the granule, and the fields that say so in TCR_EL1 (TG1, TG0) and VTCR_EL2.
const GRANULES: [(u32, u64, u64); 3] = [(12, 2, 0), (14, 1, 2), (16, 3, 1)];

/// The part that is a program's own: constants, tables, accesses.
pub fn generate(seed: u64, stage: Stage, modern: bool) -> String {
    let mut random = Random::new(seed);
    let (shift, tg1, tg0) = GRANULES[random.below(3) as usize];
    let mut text = format!("// Generated from seed {seed}.\n");
    // QEMU 10.0 ends itself (an assertion in do_ats_write) when stage 2 has no permission for an AT of
    // both stages: either there are no such instructions or stage 2 permits everything.
    let open = random.chance(50);
    let (second, ipas) = match stage {
        Stage::One => (String::new(), Vec::new()),
        Stage::Two => stage_two(&mut random, modern, open, &mut text),
    };
    let size = [39, 36, 42][(shift as usize - 12) / 2] + random.below(3) as u32 * 3;
    let stride = shift - 3;
    let levels = (size - shift).div_ceil(stride);
    let top_bits = size - shift - (levels - 1) * stride;
    let mut tree = Tree {
        random: &mut random,
        shift,
        second: false,
        modern,
        open: false,
        name: "first",
        text: String::new(),
        tables: 0,
        seen: Vec::new(),
        outputs: ipas.clone(),
    };
    let base = if stage == Stage::One { u64::MAX << size } else { 0 };
    let root = tree.table(4 - levels, base, top_bits, &[]);
    let (first, seen) = (tree.text, tree.seen);
    let size_field = u64::from(64 - size);
    // Both halves write-back and inner shareable, 40-bit outputs; the other half is the program's.
    let mut tcr = 2 << 32 | 0x3500;
    tcr |= match stage {
        Stage::One => 25 | size_field << 16 | tg1 << 30 | 0x3500 << 16,
        Stage::Two => size_field | tg0 << 14 | 1 << 23,
    };
    if modern {
        tcr |= random.next() & (3 << 39 | 3 << 41); // HA, HD, HPD0, HPD1
        if stage == Stage::One {
            tcr &= !(1 << 41);
        }
    }
    // BT0 of a model with BTI; WXN would take the program's own page from it.
    let sctlr: u64 = if modern { 1 << 35 } else { 0 };
    _ = writeln!(
        text,
        "    .equ TCR, {tcr:#x}\n    .equ SCTLR, {sctlr:#x}\n    .equ GRANULE, {shift}"
    );
    _ = writeln!(text, "    .equ MODERN, {}", u8::from(modern));
    accesses(&mut random, (stage, open), &seen, &ipas, &mut text);
    _ = writeln!(text, "    .balign 65536\ntables:\n{first}{second}tables_end:\n    .text");
    _ = writeln!(text, "    .equ first_root, first{root}");
    text
}

/// Tables of stage 2 under which the program's own gigabyte stays as it is; their text and the
/// intermediate addresses in them.
fn stage_two(
    random: &mut Random,
    modern: bool,
    open: bool,
    text: &mut String,
) -> (String, Vec<u64>) {
    // One that every model has, or the program would not see itself.
    let (shift, _, tg0) =
        GRANULES[random.below(if modern { 3 } else { 2 }) as usize * if modern { 1 } else { 2 }];
    // The start level that SL0 = 1 means: 1 with 4 KiB, else 2.
    let (level, size) = [(1, 39), (2, 36), (2, 42)][(shift as usize - 12) / 2];
    let mut tree = Tree {
        random,
        shift,
        second: true,
        modern,
        open,
        name: "second",
        text: String::new(),
        tables: 0,
        seen: Vec::new(),
        outputs: Vec::new(),
    };
    let low = tree.low(level);
    let keep: Vec<(u64, u64)> = (0..1u64 << 30)
        .step_by(1 << low.min(30))
        .map(|at| 0x4000_0000 + at)
        .map(|at| (at >> low, at & !((1 << low) - 1) | 0x7fd))
        .collect();
    let root = tree.table(level, 0, size - low, &keep);
    let (second, mut ipas) = (tree.text, tree.seen);
    ipas.retain(|at| !(0x4000_0000..0x8000_0000).contains(at));
    let mut vtcr = 2 << 16 | 0x3500 | 1 << 31 | 1 << 6 | tg0 << 14 | u64::from(64 - size);
    if modern {
        vtcr |= random.next() & (3 << 21); // HA, HD
    }
    let hcr = 1 << 31 | random.next() & (1 << 2) | 1; // RW, PTW, VM
    _ = writeln!(
        text,
        "    .equ VTCR, {vtcr:#x}\n    .equ HCR, {hcr:#x}\n    .equ second_root, second{root}"
    );
    (second, ipas)
}

/// The list of what is tried: kind and address.
fn accesses(
    random: &mut Random,
    (stage, open): (Stage, bool),
    seen: &[u64],
    ipas: &[u64],
    text: &mut String,
) {
    text.push_str("    .section .tables, \"aw\"\naccesses:\n");
    for _ in 0..400 {
        let kind = match stage {
            Stage::One => [0, 1, 2, 3, 8, 9, 10, 11, 12][random.below(9) as usize],
            Stage::Two if !open => [0, 1, 2, 3, 8, 9, 12][random.below(7) as usize],
            Stage::Two => [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12][random.below(11) as usize],
        };
        // From EL1 under stage 2 the first stage is off: addresses are intermediate ones.
        let from = if stage == Stage::Two && kind >= 8 { ipas } else { seen };
        let mut at = from[random.below(from.len() as u64) as usize];
        // What is written or executed has to lie in the pattern.
        if random.chance(10) && !matches!(kind, 9 | 11 | 12) {
            at ^= 1 << (12 + random.below(34));
        }
        let at = if kind == 12 { at & !63 | 0x38 } else { at & !7 };
        _ = writeln!(text, "    .quad {kind}, {at:#x}");
    }
    text.push_str("    .quad -1\n");
}
