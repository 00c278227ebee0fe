//! Bare-metal programs of `tests/guests`: the output stored beside each is ours, by both back ends,
//! and the peer's.

use vm_tests::bare::{Program, peer};

const PROGRAMS: &[(&str, &[&str])] = &[
    ("exceptions", &["-M", "virt", "-cpu", "cortex-a57"]),
    ("pages", &["-M", "virt", "-cpu", "cortex-a57"]),
    ("selfmod", &["-M", "virt", "-cpu", "cortex-a57"]),
    ("atomics", &["-M", "virt", "-cpu", "max", "-smp", "4"]),
    ("ids-cortex-a53", &["-M", "virt", "-cpu", "cortex-a53"]),
    ("ids-cortex-a57", &["-M", "virt", "-cpu", "cortex-a57"]),
    ("ids-cortex-a72", &["-M", "virt", "-cpu", "cortex-a72"]),
    ("ids-cortex-a76", &["-M", "virt", "-cpu", "cortex-a76"]),
    ("ids-neoverse-n1", &["-M", "virt", "-cpu", "neoverse-n1"]),
    ("sysregs-el1", &["-M", "virt", "-cpu", "cortex-a57"]),
    ("sysregs-el2", &["-M", "virt,virtualization=on", "-cpu", "cortex-a57"]),
    ("sysregs-el3", &["-M", "virt,virtualization=on,secure=on", "-cpu", "cortex-a57"]),
    ("spaces", &["-M", "virt", "-cpu", "max"]),
    ("tlbi-el1", &["-M", "virt", "-cpu", "max"]),
    ("tlbi-el2", &["-M", "virt,virtualization=on", "-cpu", "max"]),
    ("psci", &["-M", "virt,gic-version=2", "-smp", "2", "-cpu", "cortex-a57"]),
    ("debug-pmu", &["-M", "virt", "-cpu", "cortex-a57"]),
    ("litmus", &["-M", "virt", "-cpu", "max", "-smp", "2"]),
    ("dma-code", &["-M", "virt", "-cpu", "cortex-a57"]),
    ("timer-gicv2", &["-M", "virt,gic-version=2", "-cpu", "cortex-a57"]),
    ("timer-gicv3", &["-M", "virt,gic-version=3", "-cpu", "cortex-a57"]),
];

fn all(check: impl Fn(&Program)) {
    for (name, machine) in PROGRAMS {
        check(&Program::build(name, machine));
    }
}

#[test]
fn programs_print_what_is_stored() {
    all(|program| program.check(&vm_tests::emulator(), &["-accel", "tcg"]));
}

#[test]
fn programs_print_the_same_under_the_interpreter() {
    all(|program| program.check(&vm_tests::emulator(), &["-accel", "tcg,x-backend=interp"]));
}

#[test]
fn the_peer_prints_the_same() {
    match peer() {
        Some(peer) => all(|program| program.check(&peer, &["-accel", "tcg"])),
        None => println!("NOT RUN: there is no qemu-system-aarch64"),
    }
}
