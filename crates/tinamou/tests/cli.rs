//! The program from outside: messages, exit status, a QMP session, start-up time.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Output, Stdio},
};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinamou"));
    command.args(["system", "aarch64"]);
    command
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output: Output = program().args(args).stdin(Stdio::null()).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn mistakes_are_one_line_and_status_1() {
    for (args, want) in [
        (&["-foo"][..], "-foo: invalid option"),
        (&["-M"], "-M: requires an argument"),
        (&["-mtdblock", "x"], "-mtdblock x: this option of QEMU is not built yet in Tinamou"),
        (
            &["-M", "none", "-hda", "/nonexist"],
            "-hda /nonexist: Could not open '/nonexist': No such file or directory",
        ),
        (&["-M", "virtt"], "unsupported machine type: \"virtt\""),
        (&["-S"], "No machine specified, and there is no default"),
        (&["-M", "none", "-accel", "foo"], "-accel foo: invalid accelerator foo"),
        (&["-M", "none", "-m", "12zz"], "-m 12zz: Parameter 'size' expects a non-negative number"),
        (&["-M", "none", "-smp", "abc"], "-smp abc: Parameter 'smp.cpus' expects integer"),
        (&["-M", "none", "-chardev", "null"], "-chardev null: chardev: no id specified"),
        (
            &["-M", "none", "-chardev", "zz,id=a"],
            "-chardev zz,id=a: 'zz' is not a valid char driver name",
        ),
        (&["-M", "none", "-mon", "zz"], "-mon zz: chardev \"zz\" not found"),
        (&["-M", "none", "-device", "zz"], "-device zz: 'zz' is not a valid device model name"),
        (
            &["-M", "none", "-device", "pl011"],
            "-device pl011: Parameter 'driver' expects a pluggable device type",
        ),
        (&["-M", "none", "-device", "{"], "-device {: JSON parse error, premature EOI"),
        (&["-M", "none", "-uuid", "zz"], "-uuid zz: failed to parse UUID string: wrong format"),
        (&["-M", "none", "-d", "zz"], "-d zz: Invalid parameter 'zz' for -d"),
        (&["-M", "virt,virtualization=zz"], "Parameter 'virtualization' expects 'on' or 'off'"),
        (&["-M", "virt,foo=1"], "Property 'virt-10.0-machine.foo' not found"),
        (&["-M", "virt", "-cpu", "foo"], "unable to find CPU model 'foo'"),
        (&["-M", "virt", "-smp", "9999"], "Invalid SMP CPUs 9999. The max CPUs supported by"),
        (&["-M", "virt", "-kernel", "/nonexist"], "could not load kernel '/nonexist'"),
        (&["-M", "virt", "-initrd", "x"], "-initrd only allowed with -kernel option"),
        (&["-M", "none,foo=1"], "Property 'none-machine.foo' not found"),
        (&["-M", "none", "-nic", "foo"], "-nic foo: Parameter 'type' does not accept value 'foo'"),
    ] {
        let (code, out, err) = run(args);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{args:?}");
        let first = err.lines().next().unwrap_or_default();
        let message = first.split_once(": ").map_or("", |(_, message)| message);
        assert!(message.starts_with(want), "{args:?}: {first}");
    }
}

#[test]
fn help_is_printed_from_the_tables() {
    for (args, want) in [
        (&["-M", "help"][..], "none                 empty machine"),
        (&["-machine", "?"], "Supported machines are:"),
        (&["-cpu", "help"], "  cortex-a57"),
        (&["-accel", "help"], "qtest"),
        (&["-chardev", "help"], "  socket"),
        (&["-chardev", "socket,help"], "  path=<str>"),
        (&["-device", "help"], "Misc devices:\nname \"edu\", bus PCI"),
        (&["-device", "pl011,help"], "pl011 options:\n  chardev=<str>          - ID of a chardev"),
        (&["-d", "help"], "guest_errors"),
        (&["-help"], "-kernel file"),
        (&["--version"], "QEMU emulator version 10.0.2 (Tinamou"),
    ] {
        let (code, out, err) = run(args);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
        assert!(out.contains(want), "{args:?}: {out}");
    }
}

#[test]
fn qmp_over_stdio_from_greeting_to_quit() {
    let start = host::monotonic_ns();
    let mut child = program()
        .args(["-M", "none", "-S", "-nodefaults", "-qmp", "stdio", "-name", "n"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("greeting");
    let millis = (host::monotonic_ns() - start) / 1_000_000;
    assert!(line.starts_with("{\"QMP\""), "{line}");
    assert!(millis < 500, "start took {millis} ms"); // 50 on a quiet machine
    let mut input = child.stdin.take().expect("piped");
    let script = "{'execute':'qmp_capabilities'}{'execute':'query-name'}{'execute':'quit'}\n";
    input.write_all(script.as_bytes()).expect("written");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("read");
    assert!(rest.contains("{\"return\": {\"name\": \"n\"}}\r\n"), "{rest}");
    assert!(rest.contains("\"event\": \"SHUTDOWN\""), "{rest}");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn qtest_over_stdio() {
    let mut child = program()
        .args(["-M", "none", "-nodefaults", "-qtest", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    for (line, want) in [
        ("clock_step 7", "OK 7\n"),
        ("readl 0", "OK 0x0000000000000000\n"),
        ("endianness", "OK little\n"),
    ] {
        writeln!(input, "{line}").expect("written");
        let mut reply = String::new();
        out.read_line(&mut reply).expect("reply");
        assert_eq!(reply, want);
    }
    child.kill().expect("killed");
    _ = child.wait();
}

#[test]
fn devices_of_virt_answer_qtest() {
    let mut child = program()
        .args(["-M", "virt,gic-version=3", "-smp", "2", "-nodefaults", "-qtest", "stdio"])
        .args(["-serial", "null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    for (line, want) in [
        ("readl 0x09000fe0", "OK 0x0000000000000011"), // PL011: PeriphID0
        ("readl 0x09010fe0", "OK 0x0000000000000031"), // PL031: PeriphID0
        ("writeq 0x40000000 0x1122334455667788", "OK"),
        ("readl 0x40000004", "OK 0x0000000011223344"),
        ("readl 0x08000008", "OK 0x000000000000043b"), // GICD_IIDR: Arm
    ] {
        writeln!(input, "{line}").expect("written");
        let mut reply = String::new();
        out.read_line(&mut reply).expect("reply");
        assert_eq!(reply.trim_end(), want, "{line}");
    }
    child.kill().expect("killed");
    _ = child.wait();
}

/// Prints a word on the PL011, then powers off (PSCI SYSTEM_OFF by HVC).
const HELLO: &[u32] = &[
    0x5280_0001, // mov w1, #0
    0x72a1_2001, // movk w1, #0x900, lsl #16
    0x5280_0d02, // mov w2, #'h'
    0x3900_0022, // strb w2, [x1]
    0x5280_0d22, // mov w2, #'i'
    0x3900_0022, // strb w2, [x1]
    0x52b0_8000, // mov w0, #0x84000000
    0x1100_2000, // add w0, w0, #8
    0xd400_0002, // hvc #0
    0x1400_0000, // b .
];

fn kernel(name: &str, words: &[u32]) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("tinamou-{}-{name}.bin", std::process::id()));
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    std::fs::write(&path, bytes).expect("written");
    path
}

const VIRT: &[&str] = &["-M", "virt,gic-version=3", "-cpu", "cortex-a57", "-nodefaults"];

#[test]
fn guest_prints_and_powers_off() {
    let path = kernel("hello", HELLO);
    let image = path.to_str().expect("text");
    let args = [VIRT, &["-serial", "stdio", "-kernel", image]].concat();
    let (code, out, err) = run(&args);
    _ = std::fs::remove_file(&path);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "hi", ""));
}

#[test]
fn busy_guest_stops_resets_and_ends() {
    let path = kernel("busy", &[0x1400_0000]);
    let image = path.to_str().expect("text");
    let mut child = program()
        .args([VIRT, &["-smp", "2", "-qmp", "stdio", "-kernel", image]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    let commands = ["qmp_capabilities", "stop", "cont", "system_reset", "query-status", "quit"];
    for command in commands {
        writeln!(input, "{{'execute':'{command}'}}").expect("written");
    }
    let mut out = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut out).expect("read");
    _ = std::fs::remove_file(&path);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    let event = |line: &str| line.split_once("\"event\": \"").map(|(_, rest)| rest.to_owned());
    let events: Vec<String> = out.lines().filter_map(event).collect();
    let names: Vec<&str> = events.iter().filter_map(|e| e.split('"').next()).collect();
    assert_eq!(names, ["STOP", "RESUME", "RESET", "SHUTDOWN"]);
    assert!(out.contains("{\"return\": {\"status\": \"running\", \"running\": true}}"), "{out}");
}
