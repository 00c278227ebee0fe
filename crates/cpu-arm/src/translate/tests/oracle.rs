//! Comparison with recorded instructions of a real machine or another emulator.
//!
//! The file named by `TINAMOU_A64_CASES` has, for each case, lines `I` (word, trapped, ESR, PC, NZCV,
//! X0..X30, SP), `V` (vector words), `M` (memory address and words), `O` (NZCV, X0..X30, SP after),
//! `v`/`m` (changed words), `E`. Without the variable the test does nothing.
//! Source: observed behaviour, recorded by a bare-metal program.

use super::machine::{Machine, Stop};
use crate::decode::base;

fn hex(s: &str) -> u64 {
    u64::from_str_radix(s, 16).expect("hexadecimal")
}

struct Case {
    machine: Machine,
    word: u32,
    trapped: bool,
    esr: u64,
    pc: u64,
    want_x: Vec<u64>,
    want_nzcv: u32,
    want_v: Vec<u64>,
    want_m: Vec<u64>,
}

fn parse(lines: &[&str]) -> Case {
    let mut machine = Machine::new();
    machine.key = machine.key.with_zva_ok(true);
    machine.isa.mte = false;
    let mut c = Case {
        machine,
        word: 0,
        trapped: false,
        esr: 0,
        pc: 0,
        want_x: Vec::new(),
        want_nzcv: 0,
        want_v: Vec::new(),
        want_m: Vec::new(),
    };
    for line in lines {
        let (kind, rest) = line.split_at(1);
        let f: Vec<u64> = rest.split_whitespace().map(hex).collect();
        match kind {
            "I" => {
                (c.word, c.trapped, c.esr, c.pc) = (f[0] as u32, f[1] != 0, f[2], f[3]);
                c.machine.set_nzcv((f[4] >> 28) as u32);
                (0..32).for_each(|n| c.machine.set_x(n, f[5 + n as usize]));
            }
            "V" => {
                c.want_v = f.clone();
                for n in 0..32usize {
                    let v = u128::from(f[2 * n]) | u128::from(f[2 * n + 1]) << 64;
                    c.machine.set_v(n as u32, v);
                }
            }
            "M" => {
                c.machine.mem_base = f[0];
                c.want_m = f[1..].to_vec();
                c.machine.mem = f[1..].iter().flat_map(|w| w.to_le_bytes()).collect();
            }
            "O" => {
                c.want_nzcv = (f[0] >> 28) as u32;
                c.want_x = f[1..].to_vec();
            }
            "v" => c.want_v[f[0] as usize] = f[1],
            "m" => c.want_m[f[0] as usize] = f[1],
            _ => {}
        }
    }
    c
}

fn differences(c: &mut Case) -> Vec<String> {
    let stop = c.machine.run(&[c.word], c.pc);
    let mut bad = Vec::new();
    if matches!(stop, Stop::Fault(_)) && !c.trapped {
        return bad; // Outside the recorded memory.
    }
    let ended = stop == Stop::Pc(c.pc + 4);
    if ended == c.trapped {
        bad.push(format!("stopped by {stop:?}, trapped {} esr {:#x}", c.trapped, c.esr));
        return bad;
    }
    for n in 0..32u32 {
        let (got, want) = (c.machine.x(n), c.want_x[n as usize]);
        if got != want {
            bad.push(format!("x{n} {got:#x}, want {want:#x}"));
        }
    }
    if c.machine.nzcv() != c.want_nzcv {
        bad.push(format!("nzcv {:x}, want {:x}", c.machine.nzcv(), c.want_nzcv));
    }
    for n in 0..64u32 {
        let got = (c.machine.v(n / 2) >> (64 * (n % 2))) as u64;
        if got != c.want_v[n as usize] {
            bad.push(format!("v{}[{}] {got:#x}, want {:#x}", n / 2, n % 2, c.want_v[n as usize]));
        }
    }
    for (n, want) in c.want_m.iter().enumerate() {
        let got = c.machine.mem[8 * n..8 * n + 8].first_chunk().map(|b| u64::from_le_bytes(*b));
        if got != Some(*want) {
            bad.push(format!("memory word {n} {got:x?}, want {want:#x}"));
        }
    }
    bad
}

#[test]
fn recorded_cases() {
    let Some(path) = std::env::var_os("TINAMOU_A64_CASES") else { return };
    let text = std::fs::read_to_string(path).expect("case file");
    let lines: Vec<&str> = text.lines().collect();
    let (mut cases, mut failed) = (0, 0);
    for group in lines.split(|l| *l == "E").filter(|g| !g.is_empty()) {
        let mut c = parse(group);
        cases += 1;
        if base::print(c.word).is_some_and(|t| t.contains("user=1")) {
            continue; // The recording ran without user access.
        }
        let bad = differences(&mut c);
        if !bad.is_empty() {
            failed += 1;
            println!("{:#010x} {:?}: {}", c.word, base::print(c.word), bad.join("; "));
        }
    }
    println!("{cases} cases, {failed} differ");
    assert_eq!(failed, 0);
}
