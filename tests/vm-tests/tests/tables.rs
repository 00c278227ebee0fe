//! Random translation tables: both back ends and the peer say the same of every access.
//!
//! More seeds: `TABLE_SEEDS=FIRST..LAST`.

use vm_tests::bare::{Program, peer};
use vm_tests::tables::{Stage, generate};

const MODELS: &[(Stage, bool, &[&str])] = &[
    (Stage::One, false, &["-M", "virt", "-cpu", "cortex-a57", "-m", "512"]),
    (Stage::One, true, &["-M", "virt", "-cpu", "max,sve=off,sme=off", "-m", "512"]),
    (Stage::Two, false, &["-M", "virt,virtualization=on", "-cpu", "cortex-a57", "-m", "512"]),
    (
        Stage::Two,
        true,
        &["-M", "virt,virtualization=on", "-cpu", "max,sve=off,sme=off", "-m", "512"],
    ),
];

fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("TABLE_SEEDS").unwrap_or_default();
    let parsed = given.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    parsed.unwrap_or(1..7)
}

#[test]
fn accesses_end_the_same_everywhere() {
    let ours = vm_tests::emulator();
    let peer = peer();
    if peer.is_none() {
        println!("NOT RUN against the peer: there is no qemu-system-aarch64");
    }
    for seed in seeds() {
        for (number, (stage, modern, machine)) in MODELS.iter().enumerate() {
            let text = generate(seed << 8 | number as u64, *stage, *modern);
            let mut program = Program::generated("walk", machine, &text);
            match &peer {
                Some(peer) => program.expect_of(peer, &["-accel", "tcg"]),
                None => program.expect_of(&ours, &["-accel", "tcg"]),
            }
            program.check(&ours, &["-accel", "tcg"]);
            program.check(&ours, &["-accel", "tcg,x-backend=interp"]);
        }
    }
}
