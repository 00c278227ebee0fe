//! `cargo xtask`: the project's own tasks.
//!
//! Uses the standard library alone, so that it builds in seconds on a fresh machine. Each task says
//! what it does and what it installs. `cargo xtask` without arguments prints the list.
//!
//! Not here: anything the product needs at run time.

mod a64rand;
mod bench;
mod bench_guest;
mod bench_network;
mod bench_storage;
mod bench_system;
mod compare;
mod cross;
mod demo;
mod guests;
mod image;
mod iotests;
mod layers;
mod lint;
mod new;
mod packages;
mod ram_disk;
mod scripts;
mod steps;
mod stress;

use std::path::PathBuf;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, String>;

struct Task {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const TASKS: &[Task] = &[
    Task {
        name: "demo",
        about: "set up, build, boot a Debian arm64 kernel to a root shell",
        run: demo::demo,
    },
    Task { name: "test", about: "set up, then run every check and test", run: steps::test },
    Task {
        name: "check",
        about: "formatting, lints, layers: the pre-submit set",
        run: steps::check,
    },
    Task { name: "layers", about: "check which crate may use which", run: |_| layers::run() },
    Task {
        name: "lint",
        about: "file and function sizes, unsafe counts, headers, documents",
        run: |_| lint::run(),
    },
    Task {
        name: "bench",
        about: "bench [ROUNDS]: kernels, boot and memory against an installed QEMU, paired, into docs/performance.md; bench programs: programs in a Debian guest; bench boot, mmio, storage, network, system, lookup",
        run: bench::run,
    },
    Task {
        name: "a64rand",
        about: "a64rand [SEEDS] [COUNT]: random instructions on ours and on an installed QEMU (4 seeds of 20000)",
        run: a64rand::run,
    },
    Task {
        name: "guests",
        about: "fetch the Debian kernels and initrds that demo and tests boot; guests image arm64: make a bootable Debian disk",
        run: |args| match args {
            [] => guests::fetch_all().map(|_| ()),
            [what, arch] if what == "image" && arch == "arm64" => image::make().map(|_| ()),
            _ => Err("usage: cargo xtask guests [image arm64]".into()),
        },
    },
    Task {
        name: "example",
        about: "example [ROUNDS]: the manual's worked example to power-off, paired with an installed QEMU",
        run: scripts::example,
    },
    Task {
        name: "lifecycle",
        about: "the worked example's machine with 1 to 8 CPUs, raw and qcow2, reboots, EFI variables, -S, -snapshot",
        run: scripts::lifecycle,
    },
    Task {
        name: "savevm",
        about: "savevm [ROUNDS]: snapshots of a Debian guest under load (50 rounds)",
        run: scripts::savevm,
    },
    Task {
        name: "libvirt",
        about: "a Debian guest's life under libvirt (installs it)",
        run: scripts::libvirt,
    },
    Task {
        name: "compare",
        about: "compare IMAGE: what Debian sees on ours and on an installed QEMU (the manual's worked example)",
        run: compare::run,
    },
    Task {
        name: "cross",
        about: "build for arm64 Linux, run the interpreter's and decoders' tests there (installs what it needs)",
        run: cross::run,
    },
    Task {
        name: "stress",
        about: "stress [compile] [MINUTES] [CPUS]: SMP stress in a Linux guest, the emulator checking itself (30 minutes, 4 CPUs)",
        run: stress::run,
    },
    Task {
        name: "iotests",
        about: "iotests [--emulator] [--all]: QEMU's own image tests with our tool (fetches its source package)",
        run: iotests::run,
    },
    Task {
        name: "new",
        about: "new device CRATE/NAME: write a device, its test and its registration",
        run: new::run,
    },
    Task {
        name: "install",
        about: "install [PREFIX]: the binary and its qemu-system-* links",
        run: steps::install,
    },
];

/// The workspace root.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(task) = args.first().and_then(|a| TASKS.iter().find(|t| t.name == a)) else {
        eprintln!("usage: cargo xtask TASK");
        for t in TASKS {
            eprintln!("  {:8} {}", t.name, t.about);
        }
        return ExitCode::FAILURE;
    };
    match (task.run)(&args[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask {}: {e}", task.name);
            ExitCode::FAILURE
        }
    }
}
