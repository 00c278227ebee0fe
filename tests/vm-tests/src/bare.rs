//! Bare-metal programs: assembled here, run anywhere, compared with a stored text.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use crate::{Ended, Vm, on_path, scratch};

/// Seconds for one program: far more than any takes. The CPUs of some wait for each other thousands
/// of times, and on a busy host each time costs a time slice.
const LIMIT: u64 = 600;

/// One at a time: programs with several CPUs would wait for each other's time slices.
static TURN: Mutex<()> = Mutex::new(());

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests")
}

/// An installed QEMU; never ourselves under its name.
pub fn peer() -> Option<PathBuf> {
    let file = on_path("qemu-system-aarch64")?;
    let version = Command::new(&file).arg("--version").output().ok()?.stdout;
    (!String::from_utf8_lossy(&version).contains("Tinamou")).then_some(file)
}

/// Assembles and links a program; `include` is where it looks besides its own folder.
fn assemble(name: &str, file: &Path, include: &str) {
    let (elf, object) = (file.display().to_string(), format!("{}.o", file.display()));
    let source = format!("{name}.S");
    tool("aarch64-linux-gnu-as", &["-I", include, "-o", &object, &source]);
    let page = ["-z", "max-page-size=4096"];
    let place = ["-Ttext=0x40200000", "-o", &elf, &object];
    tool("aarch64-linux-gnu-ld", &[page.as_slice(), place.as_slice()].concat());
    std::fs::remove_file(object).expect("own file");
}

/// A program that is ready to run.
pub struct Program {
    name: &'static str,
    machine: &'static [&'static str],
    file: PathBuf,
    expected: String,
}

fn tool(name: &str, args: &[&str]) {
    let status = Command::new(name).args(args).current_dir(sources()).status();
    assert!(status.is_ok_and(|s| s.success()), "{name} {args:?}");
}

impl Program {
    /// Assembles `tests/guests/NAME.S`, whose output is stored beside it.
    pub fn build(name: &'static str, machine: &'static [&'static str]) -> Self {
        let expected = sources().join(format!("{name}.expected"));
        let expected = std::fs::read_to_string(&expected).expect("stored output");
        let mut program = Self::assemble(name);
        (program.machine, program.expected) = (machine, expected);
        program
    }

    /// The program.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Assembles a program that the caller runs.
    pub fn assemble(name: &'static str) -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let file = scratch(&format!("{name}-{thread}.elf"));
        assemble(name, &file, ".");
        Self { name, machine: &[], file, expected: String::new() }
    }

    /// Assembles `tests/guests/NAME.S` with a `generated.inc` of this text.
    pub fn generated(name: &'static str, machine: &'static [&'static str], text: &str) -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let folder = scratch(&format!("{name}-{thread}"));
        std::fs::create_dir_all(&folder).expect("scratch folder");
        std::fs::write(folder.join("generated.inc"), text).expect("scratch folder");
        let file = folder.with_extension("elf");
        assemble(name, &file, &folder.display().to_string());
        std::fs::remove_dir_all(&folder).expect("own folder");
        Self { name, machine, file, expected: String::new() }
    }

    /// Takes what an emulator prints as what is expected.
    pub fn expect_of(&mut self, emulator: &Path, accel: &[&str]) {
        let ended = self.run(emulator, accel);
        assert_eq!(ended.code, Some(0), "{} on {}", self.name, emulator.display());
        self.expected = ended.out;
    }

    fn run(&self, emulator: &Path, accel: &[&str]) -> Ended {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file.display().to_string();
        let own = ["-nodefaults", "-display", "none", "-serial", "stdio", "-kernel", &file];
        Vm::of(emulator, &[self.machine, accel, &own].concat(), LIMIT).end()
    }

    /// Runs it to its power-off and compares what it printed.
    pub fn check(&self, emulator: &Path, accel: &[&str]) {
        let ended = self.run(emulator, accel);
        let what = format!("{} on {} {accel:?}", self.name, emulator.display());
        assert_eq!(ended.out, self.expected, "{what}: {}", ended.err);
        assert_eq!(ended.code, Some(0), "{what}: {}", ended.err);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.file);
    }
}
