//! Rules of the house that no compiler knows: sizes, headers, unsafe counts, documents.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, root};

const MAX_LINES: usize = 800;

/// Crates that may hold `unsafe`, and how many blocks each has. A new one is a visible diff here.
const UNSAFE: &[(&str, usize)] =
    &[("accel-jit", 39), ("guest-ram", 6), ("host", 57), ("jit-ir", 7)];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for e in entries.flatten() {
        let path = e.path();
        if path.is_dir() {
            if e.file_name() != "target" {
                sources(&path, out);
            }
        } else if path.extension().is_some_and(|x| x == "rs") {
            out.push(path);
        }
    }
}

fn crate_of(path: &Path) -> String {
    let rest = path.strip_prefix(root().join("crates")).unwrap_or(path);
    rest.components().next().map_or(String::new(), |c| c.as_os_str().to_string_lossy().into_owned())
}

fn check_headers(bad: &mut Vec<String>) {
    let dir = root().join("crates");
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = e.file_name().to_string_lossy().into_owned();
        let main = ["src/lib.rs", "src/main.rs"].map(|f| e.path().join(f));
        let Some(text) = main.iter().find_map(|f| fs::read_to_string(f).ok()) else { continue };
        if text.lines().take_while(|l| l.starts_with("//!")).count() < 5 {
            bad.push(format!("crates/{name}: the crate header has fewer than five lines"));
        }
        if !architecture.contains(&format!("`{name}`")) {
            bad.push(format!("ARCHITECTURE.md does not mention `{name}`"));
        }
    }
}

/// What one file breaks; `name` is its path below the root.
fn file_problems(name: &str, krate: &str, text: &str) -> Vec<String> {
    let mut bad = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        bad.push(format!("{name}: {lines} lines, at most {MAX_LINES}"));
    }
    let todo = ["TO", "DO"].concat();
    if text.contains(&todo) {
        bad.push(format!("{name}: {todo} without an issue"));
    }
    let arch = ["target", "_arch"].concat();
    let code = |line: &str| !line.trim_start().starts_with("//");
    if !(krate == "host" || krate.starts_with("jit-"))
        && text.lines().any(|line| code(line) && line.contains(&arch))
    {
        bad.push(format!("{name}: {arch} outside `host` and `jit-*`"));
    }
    bad
}

pub(crate) fn run() -> Result<()> {
    eprintln!("==> house rules");
    let mut files = Vec::new();
    for dir in ["crates", "xtask", "tests", "fuzz"] {
        sources(&root().join(dir), &mut files);
    }
    let mut bad = Vec::new();
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for f in &files {
        let Ok(text) = fs::read_to_string(f) else { continue };
        let name = f.strip_prefix(root()).unwrap_or(f).display().to_string();
        bad.extend(file_problems(&name, &crate_of(f), &text));
        let block = ["unsafe", " {"].concat();
        // Not the end of a longer name.
        let whole = |(at, _): &(usize, &str)| {
            !text.get(..*at).unwrap_or("").ends_with(|c: char| c == '_' || c.is_alphanumeric())
        };
        let n = text.match_indices(block.as_str()).filter(whole).count();
        if n > 0 && name.starts_with("crates") && f.components().any(|c| c.as_os_str() == "src") {
            *counts.entry(crate_of(f)).or_default() += n;
        }
    }
    for (name, n) in &counts {
        let allowed = UNSAFE.iter().find(|u| u.0 == name).map_or(0, |u| u.1);
        if *n != allowed {
            bad.push(format!(
                "crates/{name}: {n} unsafe blocks, the table in xtask/src/lint.rs says {allowed}"
            ));
        }
    }
    check_headers(&mut bad);
    if bad.is_empty() { Ok(()) } else { Err(format!("house rules:\n  {}", bad.join("\n  "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_conditions_stay_in_host_and_jit() {
        let text = ["#[cfg(target", "_arch = \"x86_64\")]"].concat();
        assert_eq!(file_problems("f", "cpu-arm", &text).len(), 1);
        assert!(file_problems("f", "host", &text).is_empty());
        assert!(file_problems("f", "jit-x64", &text).is_empty());
        assert!(file_problems("f", "cpu-arm", &format!("// {text}")).is_empty());
    }

    #[test]
    fn long_files_are_refused() {
        assert_eq!(file_problems("f", "cpu-arm", &"\n".repeat(MAX_LINES + 1)).len(), 1);
    }
}
