//! `tinamou-img`: makes, converts, checks and describes disk images; also called `qemu-img`.
//!
//! Commands: check, compare, convert, create, info, map, measure, resize, snapshot; options, output
//! and exit statuses are those of QEMU's tool. Each command reads its options, opens images through
//! the catalog of block drivers and prints; what it prints is built in `text.rs` and `json.rs`.
//! Not here: amend, bench, bitmap, commit, dd, rebase; they are refused by name.
//! Source: QEMU's manual, `qemu-img`, and what the tool of QEMU 10.0 prints.

mod check;
mod convert;
mod create;
mod info;
mod map;
mod options;

use std::process::ExitCode;

/// Ends a command: text for the error stream and the exit status.
pub(crate) struct Fail(pub(crate) String, pub(crate) u8);

pub(crate) type Done = Result<u8, Fail>;

impl From<qapi::Error> for Fail {
    fn from(error: qapi::Error) -> Fail {
        let hint = error.hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default();
        Fail(format!("{}{hint}", error.desc), 1)
    }
}

/// What could not be done, with the system's words.
pub(crate) fn fail<T>(what: &str, error: &std::io::Error) -> Result<T, Fail> {
    Err(Fail(format!("{what}: {}", host::reason(error)), 1))
}

/// Prints; a reader that went away is nobody's error.
pub(crate) fn say(text: &str) {
    use std::io::Write as _;
    _ = std::io::stdout().write_all(text.as_bytes());
}

const ABSENT: &[&str] = &["amend", "bench", "bitmap", "commit", "dd", "rebase"];

fn run(args: &[String]) -> Done {
    let Some((command, rest)) = args.split_first() else {
        return Err(Fail("Not enough arguments\nTry 'qemu-img --help' for more info".into(), 1));
    };
    match command.as_str() {
        "check" => check::run(rest),
        "compare" => check::compare(rest),
        "convert" => convert::run(rest),
        "create" => create::run(rest),
        "resize" => create::resize(rest),
        "info" => info::run(rest),
        "snapshot" => info::snapshot(rest),
        "map" => map::run(rest),
        "measure" => map::measure(rest),
        "--version" | "-V" => {
            say("qemu-img version 10.0.2 (Tinamou)\n");
            Ok(0)
        }
        "--help" | "-h" => {
            say(
                "usage: qemu-img command [command options]\n\nCommands: check compare convert create info map measure resize snapshot\n",
            );
            Ok(0)
        }
        name if ABSENT.contains(&name) => {
            Err(Fail(format!("{name} is not built yet in Tinamou"), 1))
        }
        name => {
            Err(Fail(format!("Command not found: {name}\nTry 'qemu-img --help' for more info"), 1))
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(status) => ExitCode::from(status),
        Err(Fail(text, status)) => {
            {
                eprintln!("qemu-img: {text}");
            }
            ExitCode::from(status)
        }
    }
}
