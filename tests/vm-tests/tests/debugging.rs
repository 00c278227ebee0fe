//! Linux with the CPU's debug and performance registers: perf events and ptrace.

use vm_tests::{Vm, guest, initrd};

const SAYS: &str = "writes to one word 10
reads of one word 10
both 20
two bytes of a word 2
calls 7
watchpoint registers 4
set 0
stopped 1 by signal 5, code 4, at the variable 1
then signal 19
stepped to brk, x0 0x5a
cycles counted 1
";

fn debugs(args: &[&str], instructions: &str) {
    let disk = initrd::of_program("debugging").display().to_string();
    let kernel = guest("linux");
    let common = ["-M", "virt", "-m", "512", "-no-reboot", "-kernel", &kernel, "-initrd", &disk];
    let append = ["-append", "console=ttyAMA0 quiet panic=-1", "-display", "none", "-nodefaults"];
    let vm = Vm::start(&[&common[..], &append, &["-serial", "stdio"], args].concat(), 300);
    let ended = vm.end();
    std::fs::remove_file(disk).expect("own file");
    let out = ended.out.replace('\r', "");
    let expected = format!("{SAYS}instructions {instructions}\nDEBUGGING DONE\n");
    assert!(out.contains(&expected), "{out}\n{}", ended.err);
}

#[test]
fn perf_and_ptrace_use_breakpoints_watchpoints_and_counters() {
    for cpu in ["cortex-a57", "max"] {
        debugs(&["-cpu", cpu], "not counted");
    }
}

#[test]
fn instructions_are_counted_with_icount() {
    debugs(&["-cpu", "cortex-a57", "-icount", "shift=1"], "counted");
}

#[test]
fn one_thread_runs_four_cpus() {
    debugs(&["-cpu", "max", "-smp", "4", "-accel", "tcg,thread=single"], "not counted");
}

#[test]
fn with_icount_two_runs_of_linux_are_the_same_to_the_microsecond() {
    let disk = initrd::of_program("debugging").display().to_string();
    let kernel = guest("linux");
    let run = || {
        let machine = ["-M", "virt,dtb-randomness=off", "-cpu", "cortex-a57", "-m", "512"];
        let count = ["-smp", "4", "-icount", "shift=1", "-rtc", "base=2024-01-01,clock=vm"];
        let boot = ["-kernel", &kernel, "-initrd", &disk, "-append", "console=ttyAMA0 panic=-1"];
        let rest = ["-no-reboot", "-display", "none", "-nodefaults", "-serial", "stdio"];
        Vm::start(&[&machine[..], &count, &boot, &rest].concat(), 300).end().out
    };
    let (first, second) = (run(), run());
    std::fs::remove_file(disk).expect("own file");
    assert!(first.contains("DEBUGGING DONE"), "{first}");
    // The kernel's lines have the time in microseconds.
    assert_eq!(first, second);
}
