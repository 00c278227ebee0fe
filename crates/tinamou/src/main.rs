//! The program: `tinamou-system-aarch64` (or `qemu-system-aarch64`) by the name it is called
//! under, or `tinamou system aarch64 …`.
//!
//! The command line is read against one table ([`options`]), collected into [`settings`], and then
//! carried out as a script in QEMU's order of creation ([`start`]): log, character back ends,
//! machine, monitors, devices. What QMP can do too goes through the same commands.
//!
//! Not here: anything that a machine or a monitor does; this crate only connects crates.
//!
//! Sources: QEMU's manual (invocation) and the messages of QEMU 10.0.2.
#![expect(clippy::print_stderr, reason = "this is the program")]

mod audio;
mod board;
mod boot_option;
mod config_file;
mod daemon;
mod defaults;
mod drives;
mod fail;
mod help;
mod icount;
mod listing;
mod network;
mod numa_option;
mod options;
mod rtc;
mod settings;
mod start;
#[cfg(test)]
mod status;
mod table;

use std::process::ExitCode;

use fail::Stop;

fn main() -> ExitCode {
    host::outlive_file_limits();
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        host::restore_terminals();
        default(info);
    }));
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let called = args.next().unwrap_or_default();
    let code = run(&called, args.collect());
    host::restore_terminals();
    code
}

fn run(called: &str, mut args: Vec<String>) -> ExitCode {
    let name = called.rsplit('/').next().unwrap_or_default().to_owned();
    let mut program = name.clone();
    let target = match name.rsplit_once("-system-") {
        Some((_, target)) => target.to_owned(),
        None if args.first().is_some_and(|word| word == "system") && args.len() > 1 => {
            let target = args.remove(1);
            args.remove(0);
            program = format!("{name} system {target}");
            target
        }
        None => {
            eprintln!("{name}: nothing to do; try '{name} system aarch64 -help'");
            return ExitCode::FAILURE;
        }
    };
    let Some(guest) = catalog::GUESTS.iter().copied().find(|guest| guest.name() == target) else {
        let known: Vec<_> = catalog::GUESTS.iter().map(|guest| guest.name()).collect();
        eprintln!("{name}: no guest '{target}' (there is: {})", known.join(", "));
        return ExitCode::FAILURE;
    };
    match start::start(&program, guest, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Done) => ExitCode::SUCCESS,
        Err(Stop::Ended(status)) => ExitCode::from(status),
        Err(Stop::Failed(failure)) => {
            host::restore_terminals();
            fail::say(&failure.text(&program));
            ExitCode::FAILURE
        }
    }
}
