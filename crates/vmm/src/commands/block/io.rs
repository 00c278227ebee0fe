//! Single requests that a person makes of a disk (`qemu-io` of the human monitor).
//!
//! `read`, `write` (with `-P`, `-z`, `-u`, `-q`), `discard` and `flush`; what was done is told where
//! the program's output goes, as the peer does. Requests go to the root node by themselves: limits
//! do not count them. `map`, `length`, `alloc`, `reopen` and the breakpoints of `blkdebug` are in
//! `io_more.rs`. Not built: the tool's other commands.
//! Source: QEMU's manual, `qemu-io`, and what it prints.

use std::sync::Arc;

use block::Node;
use qapi::{Error, Result, parse_size};

use super::graph;
use crate::Vm;

/// Most bytes of a request.
const MOST: u64 = 1 << 30;

#[derive(Default)]
struct Request {
    pattern: Option<u8>,
    zero: bool,
    unmap: bool,
    quiet: bool,
    numbers: Vec<u64>,
}

impl Request {
    fn parse(words: &[&str]) -> Option<Request> {
        let (mut request, mut words) = (Request::default(), words.iter());
        while let Some(word) = words.next() {
            let Some(letters) = word.strip_prefix('-') else {
                request.numbers.push(parse_size(word, 1)?);
                continue;
            };
            // Letters may stand together, and a value behind its letter.
            for (n, letter) in letters.char_indices() {
                match letter {
                    'P' => {
                        let glued = &letters[n + 1..];
                        let value = if glued.is_empty() { *words.next()? } else { glued };
                        request.pattern = Some(u8::try_from(qapi::parse_int(value)? & 0xff).ok()?);
                        break;
                    }
                    'z' => request.zero = true,
                    'u' => request.unmap = true,
                    'q' => request.quiet = true,
                    _ => return None,
                }
            }
        }
        Some(request)
    }

    fn range(&self) -> Option<(u64, u64)> {
        match self.numbers.as_slice() {
            [at, len] if *len <= MOST => Some((*at, *len)),
            _ => None,
        }
    }
}

pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let Some(unit) = UNITS.iter().enumerate().rev().find(|(n, _)| bytes >> (10 * (n + 1)) > 0)
    else {
        return format!("{bytes} bytes");
    };
    let (whole, rest) = (bytes >> (10 * (unit.0 + 1)), bytes & ((1 << (10 * (unit.0 + 1))) - 1));
    if rest == 0 {
        return format!("{whole} {}", unit.1);
    }
    let thousandths = (u128::from(rest) * 1000) >> (10 * (unit.0 + 1));
    format!("{whole}.{thousandths:03} {}", unit.1)
}

pub(super) fn say(text: &str) {
    _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

fn report(verb: &str, at: u64, len: u64, begun: u64) {
    let time = host::monotonic_ns().saturating_sub(begun).max(1);
    let rate =
        |n: u64| u64::try_from(u128::from(n) * 1_000_000_000 / u128::from(time)).unwrap_or(0);
    let seconds = format!("{:02}.{:02}", time / 1_000_000_000, time / 10_000_000 % 100);
    say(&format!(
        "{verb} {len}/{len} bytes at offset {at}\n{}, 1 ops; {seconds} sec ({}/sec and {} ops/sec)\n",
        size(len),
        size(rate(len)),
        rate(1)
    ));
}

fn carry_out(node: &Arc<Node>, command: &str, request: &Request) -> std::io::Result<()> {
    let begun = host::monotonic_ns();
    if command == "flush" {
        return node.flush();
    }
    let Some((at, len)) = request.range() else {
        say("bad argument count to the command\n");
        return Ok(());
    };
    let whole = usize::try_from(len).unwrap_or(0);
    match command {
        "read" => {
            let mut data = vec![0; whole];
            node.read(at, &mut data)?;
            if let Some(pattern) = request.pattern
                && let Some(wrong) = data.iter().position(|byte| *byte != pattern)
            {
                let left = whole - wrong;
                let place = at + wrong as u64;
                say(&format!("Pattern verification failed at offset {place}, {left} bytes\n"));
            }
        }
        "discard" => node.discard(at, len)?,
        _ if request.zero => node.write_zeroes(at, len, request.unmap)?,
        _ => node.write(at, &vec![request.pattern.unwrap_or(0xcd); whole])?,
    }
    if !request.quiet {
        let verb = match command {
            "read" => "read",
            "discard" => "discard",
            _ => "wrote",
        };
        report(verb, at, len, begun);
    }
    Ok(())
}

/// Carries out one command on a drive or node; what the monitor says comes back.
///
/// # Errors
/// There is no such drive, node or command, or the node cannot be written.
pub fn io_command(vm: &Vm, device: &str, line: &str) -> Result<String> {
    let graph = graph(vm)?;
    let node = graph.backend(device).ok_or_else(|| {
        Error::generic(format!("Cannot find device='{device}' nor node-name='{device}'"))
    })?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((command, rest)) = words.split_first() else { return Ok(String::new()) };
    if let Some(done) = super::io_more::run(&graph, &node, command, rest) {
        return done;
    }
    let command = command.strip_prefix("aio_").unwrap_or(command);
    if !["read", "write", "discard", "flush"].contains(&command) {
        return Err(Error::generic(format!("command \"{command}\" not found")));
    }
    let Some(request) = Request::parse(rest) else {
        say(&format!("{command} failed: Invalid argument\n"));
        return Ok(String::new());
    };
    if matches!(command, "write" | "discard") && node.is_read_only() {
        return Ok("Block node is read-only\n".into());
    }
    if let Err(error) = carry_out(&node, command, &request) {
        say(&format!("{command} failed: {}\n", host::reason(&error)));
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_sizes_shown_as_the_tool_does() {
        let request = Request::parse(&["-P", "0x11", "64k", "1M"]).unwrap();
        assert_eq!((request.pattern, request.range()), (Some(0x11), Some((65536, 1 << 20))));
        let request = Request::parse(&["-qzuP0x11", "0", "512"]).unwrap();
        assert!(request.quiet && request.zero && request.unmap);
        assert_eq!((request.pattern, request.range()), (Some(0x11), Some((0, 512))));
        assert_eq!(Request::parse(&["-qP", "0x112", "0", "1"]).unwrap().pattern, Some(0x12));
        assert!(Request::parse(&["-Pé"]).is_none() && Request::parse(&["-é"]).is_none());
        assert!(Request::parse(&["-P"]).is_none() && Request::parse(&["x"]).is_none());
        assert!(Request::parse(&["0", "1T"]).unwrap().range().is_none());
        for (bytes, want) in [(512, "512 bytes"), (65536, "64 KiB"), (1536, "1.500 KiB")] {
            assert_eq!(size(bytes), want);
        }
    }
}
