//! Turns the decode tables (`src/**/*.decode`) into Rust.
//!
//! Each table `NAME.decode` becomes `$OUT_DIR/NAME.rs`, which a module of the same name includes.
//! A mistake in a table stops the build with its line. The table language is described in the crate
//! `decodetree`; which tables exist is listed here and nowhere else. No network, no clock, no tools.

use std::path::Path;

/// Tables, relative to the crate.
const TABLES: &[&str] = &["src/decode/base.decode", "src/decode/fpsimd.decode"];

fn main() {
    let Some(out) = std::env::var_os("OUT_DIR") else { panic!("OUT_DIR is not set") };
    println!("cargo::rerun-if-changed=build.rs");
    for table in TABLES {
        let input = Path::new(table);
        let Some(stem) = input.file_stem() else { continue };
        decodetree::build(input, &Path::new(&out).join(stem).with_extension("rs"));
    }
}
