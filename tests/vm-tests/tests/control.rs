//! Starting, refusing and ending, without a guest's help.

use std::{fs, time::Instant};

use vm_tests::{Ended, Listener, Vm, guest, scratch};

const LIMIT: u64 = 60;

#[test]
fn start_of_an_empty_machine() {
    let listener = Listener::new("none.qmp");
    let qmp = listener.option();
    let began = Instant::now();
    let vm =
        Vm::start(&["-M", "none", "-S", "-nodefaults", "-display", "none", "-qmp", &qmp], LIMIT);
    let mut qmp = listener.accept(LIMIT);
    println!("-M none: QMP answers after {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    assert_eq!(qmp.run("quit"), "{\"return\": {}}");
    assert!(qmp.event("SHUTDOWN").contains("\"host-qmp-quit\""));
    assert_eq!(vm.end().code, Some(0));
}

/// Status 1, nothing on standard output and one line on standard error with every one of `wanted`.
fn refused(args: &[&str], wanted: &[&str]) {
    let Ended { code, out, err } = Vm::start(args, LIMIT).end();
    assert_eq!((code, out.as_str()), (Some(1), ""), "{args:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    assert!(err.starts_with("tinamou-system-aarch64: "), "{err}");
    for text in wanted {
        assert!(err.contains(text), "{args:?}: no {text:?} in {err}");
    }
}

#[test]
fn mistakes_are_named_with_what_would_be_right() {
    refused(&["-M", "virtt"], &["virtt", "-machine help"]);
    refused(&["-M", "virt", "-cpu", "cortex-a99"], &["cortex-a99", "cortex-a57", "max"]);
    refused(&["-kernal", "x"], &["-kernal"]);
    refused(&["-vnc", ":1"], &["-vnc", "not built yet"]);
    refused(&["-M", "virt", "-kernel", "/no/such/file"], &["/no/such/file"]);
}

#[test]
fn a_kernel_that_is_none_is_refused() {
    let text = scratch("text");
    fs::write(&text, "PK\x03\x04 this is no kernel").expect("temporary folder");
    let directory = std::env::temp_dir();
    refused(
        &["-M", "virt", "-kernel", &directory.display().to_string()],
        &["could not load kernel"],
    );
    // An ELF file of another architecture.
    let own = "/proc/self/exe";
    refused(&["-M", "virt", "-kernel", own], &["could not load kernel"]);
    fs::remove_file(text).expect("own file");
}

#[test]
fn images_larger_than_memory_are_refused() {
    let (kernel, initrd) = (guest("linux"), guest("initrd.gz"));
    refused(&["-M", "virt", "-m", "16", "-kernel", &kernel], &["kernel"]);
    refused(
        &["-M", "virt", "-m", "64", "-kernel", &kernel, "-initrd", &initrd],
        &["initrd", "initrd.gz"],
    );
}
