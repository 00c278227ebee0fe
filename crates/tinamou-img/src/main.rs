//! `tinamou-img`: makes, converts, checks and describes disk images; also called `qemu-img`.
//!
//! Commands, options, output and exit statuses are those of QEMU's tool. Each command reads its
//! options, opens images through the catalog of block drivers and prints. The program looks at no
//! name of its own: a link `qemu-img` to it is all that is needed (`cargo xtask install` makes it).
//! Not here: `--trace` has no events.
//! Source: QEMU's manual, `qemu-img`, and what the tool of QEMU 10.0 prints.

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod info;
mod map;
mod measure;
mod options;
mod progress;
mod rebase;
mod snapshot;

use std::process::ExitCode;

/// Ends a command: text for the error stream (empty: it was said) and the exit status.
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
    let mut out = std::io::stdout();
    _ = out.write_all(text.as_bytes());
    _ = out.flush();
}

/// What waits for the end of images is stored; what cannot be was told, and the status says so.
pub(crate) fn close(graph: &block::Graph) -> Option<u8> {
    graph.close_all().err()?;
    eprintln!("qemu-img: Error while closing the image: Invalid argument");
    Some(1)
}

type Command = (&'static str, fn(&[String]) -> Done, &'static str);

const COMMANDS: &[Command] = &[
    ("amend", amend::run, "changes options of an image"),
    ("bench", bench::run, "measures requests per second"),
    ("bitmap", bitmap::run, "changes persistent dirty bitmaps"),
    ("check", check::run, "looks for damage and mends it"),
    ("commit", commit::run, "writes an image's changes to its backing file"),
    ("compare", compare::run, "compares the contents of two images"),
    ("convert", convert::run, "copies images to another one, perhaps of another format"),
    ("create", create::run, "makes an image"),
    ("dd", dd::run, "copies blocks to a new image"),
    ("info", info::run, "describes an image"),
    ("map", map::run, "shows what is where"),
    ("measure", measure::run, "says how long a new image would be"),
    ("rebase", rebase::run, "changes the backing file"),
    ("resize", create::resize, "changes the length of a disk"),
    ("snapshot", snapshot::run, "lists and changes internal snapshots"),
];

const VERSION: &str = "qemu-img version 10.0.2 (Tinamou)\n";

fn help() -> String {
    let mut out = format!(
        "{VERSION}QEMU disk image utility.  Usage:\n\n  qemu-img [-h | -V | -T TRACE] COMMAND [OPTIONS]\n\nCommands (qemu-img COMMAND --help tells their options):\n\n"
    );
    for (name, _, about) in COMMANDS {
        out += &format!("  {name} - {about}\n");
    }
    let names: Vec<&str> = catalog_block::BLOCK.iter().map(|class| class.name).collect();
    out += &format!("\nSupported image formats:\n\n  {}\n", names.join(" "));
    out
}

fn run(args: &[String]) -> Done {
    let hint = "Try 'qemu-img --help' for more info";
    let mut args = args;
    while let Some((first, rest)) = args.split_first() {
        match first.as_str() {
            "--version" | "-V" => {
                say(VERSION);
                return Ok(0);
            }
            "--help" | "-h" => {
                say(&help());
                return Ok(0);
            }
            "-T" | "--trace" => args = rest.get(1..).unwrap_or_default(),
            word if word.starts_with("--trace=") || word.starts_with("-T") => args = rest,
            word if word.starts_with('-') => {
                return Err(Fail(format!("unrecognized option '{word}'\n{hint}"), 1));
            }
            word => {
                return match COMMANDS.iter().find(|(name, ..)| *name == word) {
                    Some((_, run, _)) => run(rest),
                    None => Err(Fail(format!("Command not found: {word}\n{hint}"), 1)),
                };
            }
        }
    }
    Err(Fail(format!("Not enough arguments\n{hint}"), 1))
}

fn main() -> ExitCode {
    host::outlive_file_limits();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(0) if block::is_lost() => ExitCode::FAILURE,
        Ok(status) => ExitCode::from(status),
        Err(Fail(text, status)) => {
            if !text.is_empty() {
                eprintln!("qemu-img: {text}");
            }
            ExitCode::from(status)
        }
    }
}
