//! Commands of `qemu-io` beside requests: `map`, `length`, `alloc`, `reopen` and breakpoints.
//!
//! Layers below are not looked at by `map` and `alloc`. `reopen` knows `-r`, `-w` and the options
//! `read-only` and `detect-zeroes` of a node and those below; what is not given stays.
//! Source: QEMU's manual, `qemu-io`, and what it prints.

use std::io;
use std::sync::Arc;

use block::{Breakpoint, Detect, Graph, Node};
use qapi::{Error, Result, parse_size};

use super::io::{say, size};

/// Names and how many words they want.
const COMMANDS: [(&str, usize, usize); 8] = [
    ("alloc", 1, 2),
    ("break", 2, 2),
    ("length", 0, 0),
    ("map", 0, 0),
    ("remove_break", 1, 1),
    ("reopen", 0, 16),
    ("resume", 1, 1),
    ("wait_break", 1, 1),
];
/// Most runs that a map shows.
const RUNS: usize = 100_000;

/// From a place on: whether the node itself holds it, and how far that goes.
fn run_at(node: &Node, at: u64, end: u64) -> io::Result<(bool, u64)> {
    let first = node.extent(at, end - at)?;
    let mut len = first.len;
    while at + len < end {
        let next = node.extent(at + len, end - at - len)?;
        if next.allocated != first.allocated {
            break;
        }
        len += next.len;
    }
    Ok((first.allocated, len))
}

fn map(node: &Node) -> io::Result<()> {
    let (mut at, end) = (0, node.len());
    for _ in 0..RUNS {
        if at >= end {
            break;
        }
        let (held, len) = run_at(node, at, end)?;
        let what = if held { "    allocated" } else { "not allocated" };
        say(&format!("{} ({len:#x}) bytes {what} at offset {} ({at:#x})\n", size(len), size(at)));
        at += len;
    }
    Ok(())
}

fn alloc(node: &Node, words: &[&str]) -> io::Result<()> {
    let numbers: Option<Vec<u64>> = words.iter().map(|word| parse_size(word, 1)).collect();
    let (start, count) = match numbers.as_deref() {
        Some([at]) => (*at, 512),
        Some([at, count]) => (*at, *count),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let end = start.checked_add(count).filter(|end| *end <= node.len());
    let end = end.ok_or(io::ErrorKind::InvalidInput)?;
    let (mut at, mut sum) = (start, 0);
    while at < end {
        let (held, len) = run_at(node, at, end)?;
        sum += if held { len } else { 0 };
        at += len;
    }
    say(&format!("{sum}/{count} bytes allocated at offset {}\n", size(start)));
    Ok(())
}

/// The first node of the files below that knows breakpoints does it.
fn breakpoint(node: &Arc<Node>, what: &Breakpoint<'_>) -> io::Result<()> {
    let mut node = Some(node.clone());
    while let Some(at) = node {
        match at.driver().breakpoint(what) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            done => return done,
        }
        let below = at.child("file").or_else(|| at.child("image"));
        node = below.or_else(|| at.child("backing").filter(|_| at.class().is_filter()));
    }
    Err(io::ErrorKind::Unsupported.into())
}

/// The node that an option's name means, and the rest of the name.
fn target<'a>(node: &Arc<Node>, name: &'a str) -> Option<(Arc<Node>, &'a str)> {
    let (mut node, mut name) = (node.clone(), name);
    while let Some((role, rest)) = name.split_once('.') {
        (node, name) = (node.child(role)?, rest);
    }
    Some((node, name))
}

fn reopen(graph: &Graph, node: &Arc<Node>, words: &[&str]) -> Result<()> {
    let mut options = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-r" => options.push(("read-only".to_owned(), "on".to_owned())),
            "-w" => options.push(("read-only".to_owned(), "off".to_owned())),
            "-o" => {
                let text = words.next().copied().unwrap_or_default();
                for pair in text.split(',') {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, "on"));
                    options.push((key.to_owned(), value.to_owned()));
                }
            }
            other => return Err(Error::generic(format!("invalid option '{other}'"))),
        }
    }
    let _still = graph.drain();
    for (name, value) in options {
        let refused = || Error::generic(format!("Cannot change the option '{name}'"));
        let (node, option) = target(node, &name).ok_or_else(refused)?;
        let (mut flags, mut detect) = (node.flags(), node.detect_zeroes());
        match option {
            "read-only" if matches!(value.as_str(), "on" | "off") => {
                flags.read_only = value == "on";
            }
            "detect-zeroes" => {
                let known = [Detect::Off, Detect::On, Detect::Unmap];
                detect = known.into_iter().find(|one| one.word() == value).ok_or_else(|| {
                    Error::generic(format!(
                        "Parameter 'detect-zeroes' does not accept value '{value}'"
                    ))
                })?;
            }
            _ => return Err(refused()),
        }
        graph.reopen_as(&node, flags, detect)?;
    }
    Ok(())
}

fn wrong_count(name: &str, given: usize, least: usize, most: usize) -> String {
    let wanted =
        if least == most { format!("{least}") } else { format!("between {least} and {most}") };
    format!("bad argument count {given} to {name}, expected {wanted} arguments\n")
}

/// Carries a command out; `None`: it is not one of these.
pub(super) fn run(
    graph: &Graph,
    node: &Arc<Node>,
    name: &str,
    words: &[&str],
) -> Option<Result<String>> {
    let (_, least, most) = COMMANDS.iter().find(|(own, ..)| *own == name)?;
    if !(*least..=*most).contains(&words.len()) {
        say(&wrong_count(name, words.len(), *least, *most));
        return Some(Ok(String::new()));
    }
    let word = |n: usize| words.get(n).copied().unwrap_or_default();
    let (done, failed) = match name {
        "reopen" => return Some(reopen(graph, node, words).map(|()| String::new())),
        "map" => (map(node), "Failed to query allocation status".to_owned()),
        "alloc" => (alloc(node, words), "is_allocated failed".to_owned()),
        "length" => {
            say(&format!("{}\n", size(node.len())));
            (Ok(()), String::new())
        }
        "break" => {
            let what = Breakpoint::Set(word(0), word(1));
            (breakpoint(node, &what), "Could not set breakpoint".to_owned())
        }
        "resume" => {
            let what = Breakpoint::Resume(word(0));
            (breakpoint(node, &what), "Could not resume request".to_owned())
        }
        "wait_break" => {
            let what = Breakpoint::Wait(word(0));
            (breakpoint(node, &what), "Could not wait".to_owned())
        }
        _ => {
            let what = Breakpoint::Remove(word(0));
            (breakpoint(node, &what), format!("Could not remove breakpoint {}", word(0)))
        }
    };
    if let Err(error) = done {
        say(&format!("{failed}: {}\n", host::reason(&error)));
    }
    Some(Ok(String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_counts_are_told_as_the_tool_does() {
        let want = "bad argument count 0 to alloc, expected between 1 and 2 arguments\n";
        assert_eq!(wrong_count("alloc", 0, 1, 2), want);
        let want = "bad argument count 1 to break, expected 2 arguments\n";
        assert_eq!(wrong_count("break", 1, 2, 2), want);
    }
}
