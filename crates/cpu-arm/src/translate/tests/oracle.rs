//! Comparison with instructions recorded on another implementation.
//!
//! `recorded.txt` holds single random instructions of every class, run by a bare-metal program (the
//! project's `a64rand` tool) at EL1 under QEMU 10.0.2 `-cpu max`: one line a case, with what changed.
//! Inputs are not stored: both sides draw them from the same generator. Not recorded: LDTR and STTR
//! (no user mapping there), branches, system instructions, pointer authentication.
//! Source: observed behaviour.

use super::machine::{Machine, Stop};
use crate::decode::base;

static RECORDED: &str = include_str!("recorded.txt");

fn hex(s: &str) -> u64 {
    u64::from_str_radix(s, 16).expect("hexadecimal")
}

/// The generator of the recording program.
struct Inputs(u64);

impl Inputs {
    fn new(seed: u64, index: u64) -> Self {
        let s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let s = s.wrapping_add((index + 1).wrapping_mul(0xd1b5_4a32_d192_ed03));
        let mut r = Self(if s == 0 { 1 } else { s });
        r.word();
        r.word();
        r
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// An integer, often a special one.
    fn integer(&mut self) -> u64 {
        let kind = self.word() >> 20 & 7;
        let r = self.word();
        match kind {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (r & 63),
            3 => (1 << (r & 63)) - 1,
            4 => i64::from(r as u32 as i32) as u64,
            5 => r & 0xff,
            _ => r,
        }
    }
}

/// One line: the fields before the colon, and what came out.
struct Case<'a> {
    word: u32,
    pc: u64,
    machine: Machine,
    outcome: Vec<&'a str>,
}

fn parse(line: &str) -> Case<'_> {
    let (inputs, outcome) = line.split_once(" : ").expect("a colon");
    let f: Vec<u64> = inputs.split(' ').map(hex).collect();
    let [seed, index, word, pc, sp, memory, base] = f[..] else { panic!("seven fields: {line}") };
    let mut m = Machine::new();
    m.isa.mte = false;
    let mut r = Inputs::new(seed, index);
    (0..31).for_each(|n| m.set_x(n, r.integer()));
    m.set_nzcv((r.word() >> 60) as u32);
    for n in 0..32 {
        let (lo, hi) = (r.integer(), r.integer());
        m.set_v(n, u128::from(lo) | u128::from(hi) << 64);
    }
    m.set_x(31, sp);
    let word = word as u32;
    if memory != 0 {
        m.mem_base = memory;
        m.mem = (0..512).flat_map(|_| r.word().to_le_bytes()).collect();
        let (rn, rm) = (word >> 5 & 31, word >> 16 & 31);
        if rm < 31 {
            m.set_x(rm, r.word() & 63);
        }
        m.set_x(rn, base);
    }
    Case { word, pc, machine: m, outcome: outcome.split(' ').collect() }
}

/// State as (name, value) pairs, in the recording's notation.
fn dump(m: &Machine) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = (0..32).map(|n| (format!("x{n:x}"), m.x(n))).collect();
    for n in 0..64u32 {
        all.push((format!("v{n:02x}"), (m.v(n / 2) >> (64 * (n % 2))) as u64));
    }
    for (n, w) in m.mem.chunks_exact(8).enumerate() {
        let word = w.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        all.push((format!("m{n:03x}"), word));
    }
    all
}

fn differences(c: &mut Case<'_>) -> Vec<String> {
    let before = dump(&c.machine);
    let stop = c.machine.run(&[c.word], c.pc);
    if c.outcome.first() == Some(&"T") {
        let ec = hex(c.outcome[1]) >> 26;
        let same = match stop {
            Stop::Helper("Undefined", ..) => ec == 0,
            Stop::Helper("SpAlignment", ..) => ec == 0x26,
            Stop::Align(_) => ec == 0x25,
            _ => false,
        };
        return if same { Vec::new() } else { vec![format!("{stop:?}, exception {ec:#x}")] };
    }
    if stop != Stop::Pc(c.pc + 4) {
        return vec![format!("stopped by {stop:x?}")];
    }
    let mut bad = Vec::new();
    let flags = hex(c.outcome[0]) as u32;
    if c.machine.nzcv() != flags {
        bad.push(format!("nzcv {:x}, want {flags:x}", c.machine.nzcv()));
    }
    for ((name, old), (_, new)) in before.into_iter().zip(dump(&c.machine)) {
        let change = c.outcome.iter().filter_map(|o| o.split_once('=')).find(|(n, _)| *n == name);
        let want = change.map_or(old, |(_, v)| hex(v));
        if new != want {
            bad.push(format!("{name} {new:#x}, want {want:#x}"));
        }
    }
    bad
}

#[test]
fn recorded_cases() {
    let (mut cases, mut failed) = (0, 0);
    for line in RECORDED.lines().filter(|l| !l.starts_with('#')) {
        let mut c = parse(line);
        cases += 1;
        let bad = differences(&mut c);
        if !bad.is_empty() {
            failed += 1;
            println!("{:#010x} {:?}: {}", c.word, base::print(c.word), bad.join("; "));
        }
    }
    assert_eq!(failed, 0, "of {cases}");
    assert!(cases > 1000);
}
