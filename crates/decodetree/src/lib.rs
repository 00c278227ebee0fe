//! Build-time generator of instruction decoders.
//!
//! Reads a text table of bit patterns and writes one Rust source file: argument structs, a trait with
//! one method per instruction, a decoder built as a tree of dense bit switches, a table for coverage
//! and random instructions, and a simple printer. It runs from `build.rs`; nothing of it is linked
//! into the emulator, and it knows nothing of any guest.
//!
//! # Table language
//!
//! One item a line; `#` starts a comment; a trailing `\` joins the next line.
//!
//! ```text
//! %off   5:s19 29:2 !function=times4      # a field: segments position:length, highest first; `s` = signed
//! &ri    rd imm:s                         # an argument set: u32 members, i64 when marked `:s`
//! @fmt   sf:1 .. 100010 imm:12 rn:5 rd:5  # a format: bits and members that patterns share
//! ADD_i  . 00 100010 ............ ..... ..... @fmt  &ri imm=%off q=1
//! { … }                                   # members may overlap: tried in order until one accepts
//! [ … ]                                   # members must not overlap (the rule at the top level too)
//! ```
//!
//! Bits are `0`, `1`, `.` (must belong to some member) and `-` (ignored). `name:4` and `name:s9` are
//! members at that place. Transforms: `plus1`, `times2`, `times4`, `times8`, `times16`, `shl12`.
//!
//! Sources: own design; the idea of decode tables of this kind is common knowledge.

mod check;
mod emit;
mod model;
mod parse;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::path::Path;

/// A mistake in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line in the table, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// Turns the text of a table into Rust source.
///
/// # Errors
/// Every mistake found: syntax first; overlaps are looked for only in a table that parses.
pub fn generate(source: &str) -> Result<String, Vec<Error>> {
    let table = parse::parse(source)?;
    check::overlaps(&table)?;
    Ok(emit::emit(&table))
}

/// For `build.rs`: reads `input`, writes `output`, tells Cargo what to watch.
///
/// # Panics
/// On any mistake, after printing each as `file:line: message`; that is how a build script fails.
pub fn build(input: &Path, output: &Path) {
    println!("cargo::rerun-if-changed={}", input.display());
    let text = match std::fs::read_to_string(input) {
        Ok(text) => text,
        Err(e) => panic!("{}: {e}", input.display()),
    };
    match generate(&text) {
        Ok(code) => {
            if let Err(e) = std::fs::write(output, code) {
                panic!("{}: {e}", output.display());
            }
        }
        Err(errors) => {
            for e in &errors {
                println!("cargo::error={}:{e}", input.display());
            }
            panic!("{}: {} mistake(s), see above", input.display(), errors.len());
        }
    }
}
