//! `savevm`, `loadvm`, `delvm` and `info snapshots`.
//!
//! Source: QEMU's manual (VM snapshots); what QEMU 10.0 prints.

use std::sync::Arc;

use vmm::Vm;
use vmm::snapshot::{self, Disks};

/// The name in the words of a command: plain, or in quotes with `\` before what is meant as it is.
fn name(words: &str) -> Result<Option<String>, ()> {
    let words = words.trim();
    let Some(inner) = words.strip_prefix('"') else {
        let mut all = words.split_whitespace();
        let first = all.next().map(str::to_owned);
        return if all.next().is_none() { Ok(first) } else { Err(()) };
    };
    let (mut out, mut escaped) = (String::new(), false);
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            _ if escaped => {
                out.push(if c == 'n' { '\n' } else { c });
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return if chars.as_str().trim().is_empty() { Ok(Some(out)) } else { Err(()) },
            c => out.push(c),
        }
    }
    Err(())
}

fn said(command: &str, words: &str, f: impl FnOnce(Option<&str>) -> qapi::Result<()>) -> String {
    let hint = format!("Try \"help {command}\" for more information\n");
    match name(words) {
        Err(()) => format!("{command}: extraneous characters at the end of line\n{hint}"),
        Ok(name) => match f(name.as_deref()) {
            Ok(()) => String::new(),
            Err(error) => format!("Error: {}\n", error.desc),
        },
    }
}

/// `savevm [tag]`.
pub(crate) fn save(vm: &Arc<Vm>, words: &str) -> String {
    said("savevm", words, |name| snapshot::save(vm, &Disks::all(vm)?, name, true))
}

/// `loadvm tag`.
pub(crate) fn load(vm: &Arc<Vm>, words: &str) -> String {
    said("loadvm", words, |name| snapshot::load(vm, &Disks::all(vm)?, name.unwrap_or_default()))
}

/// `delvm tag`.
pub(crate) fn delete(vm: &Arc<Vm>, words: &str) -> String {
    said("delvm", words, |name| Disks::all(vm)?.delete(name.unwrap_or_default()))
}

/// `info snapshots`.
pub(crate) fn info(vm: &Arc<Vm>) -> String {
    vmm::commands::snapshot_text(vm).unwrap_or_else(|error| format!("{}\n", error.desc))
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_are_plain_or_quoted() {
        assert_eq!(name(""), Ok(None));
        assert_eq!(name(" a "), Ok(Some("a".into())));
        assert_eq!(name("a b"), Err(()));
        assert_eq!(name("\"a b\""), Ok(Some("a b".into())));
        assert_eq!(name("\"a\\\"b\\\\\""), Ok(Some("a\"b\\".into())));
        assert_eq!(name("\"a"), Err(()));
        assert_eq!(name("\"a\" b"), Err(()));
    }
}
