//! `blkdebug`: requests that fail when they are told to.
//!
//! Rules come from a file (`config`) or from options (`inject-error`, `set-state`): an event arms
//! a rule, and requests of its kinds (in its sector) fail with its error until it is used up
//! (`once`) or another event arms. Events come from the filter's own requests (`flush_to_os`,
//! `flush_to_disk`, `pwritev`, `pwritev_zero`, `pwritev_rmw_*`, `pwritev_done`), from the format above
//! ([`BlockDriver::event`]: `read_aio`, `write_aio`, `l2_load`, `cluster_alloc`, ...), and `none` always
//! is. Limits cut requests into pieces, each of which is asked for; with `align` whole blocks are.
//! Requests stop at events where a person set a breakpoint (`breaks.rs`). Not here: events of formats that this program's formats do not have.
//! Source: QEMU's documentation, "Block I/O error injection using blkdebug".

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use qapi::{Error, Result, Source, Value};

use super::breaks::Breaks;
use super::pass::{Access, Filter, Passing, Rest};
use crate::driver::{BlockClass, BlockDriver, Breakpoint, Extent};
use crate::node::{Child, Node};
use crate::opening::Opening;

const KINDS: [&str; 6] = ["read", "write", "write-zeroes", "discard", "flush", "block-status"];
/// Longest file of rules.
const CONFIG: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq)]
struct Inject {
    event: String,
    state: u64,
    kinds: Vec<String>,
    errno: i32,
    sector: Option<u64>,
    once: bool,
    armed: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct SetState {
    event: String,
    state: u64,
    new: u64,
}

#[derive(Debug, Default)]
struct Rules {
    state: u64,
    inject: Vec<Inject>,
    set: Vec<SetState>,
}

impl Rules {
    fn event(&mut self, name: &str) {
        if name.is_empty() {
            return;
        }
        let state = self.state;
        let now = |event: &str, wanted: u64| event == name && (wanted == 0 || wanted == state);
        // What is armed stays so in other states, until an event arms anew.
        if self.inject.iter().any(|rule| now(&rule.event, rule.state)) {
            for rule in &mut self.inject {
                rule.armed = now(&rule.event, rule.state);
            }
        }
        if let Some(rule) = self.set.iter().find(|rule| now(&rule.event, rule.state)) {
            self.state = rule.new;
        }
    }

    fn check(&mut self, kind: &str, at: u64, len: u64) -> io::Result<()> {
        let (first, last) = (at / 512, at.saturating_add(len.max(1) - 1) / 512);
        let state = self.state;
        let hit = self.inject.iter().position(|rule| {
            let armed =
                rule.armed || rule.event == "none" && (rule.state == 0 || rule.state == state);
            armed
                && rule.kinds.iter().any(|k| k == kind)
                && rule.sector.is_none_or(|sector| (first..=last).contains(&sector))
        });
        let Some(n) = hit else { return Ok(()) };
        let Some(rule) = self.inject.get(n) else { return Ok(()) };
        let errno = rule.errno;
        if rule.once {
            self.inject.remove(n);
        }
        if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }
}

/// A section of a file, or an object of options, as pairs.
type Pairs = Vec<(String, String)>;

fn number(pairs: &Pairs, key: &str, other: u64) -> Result<u64> {
    let Some((_, text)) = pairs.iter().rev().find(|(k, _)| k == key) else { return Ok(other) };
    qapi::parse_size(text, 1).ok_or_else(|| Error::expects(key, "a number"))
}

fn text<'a>(pairs: &'a Pairs, key: &str) -> Option<&'a str> {
    pairs.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

fn event(pairs: &Pairs) -> Result<String> {
    let name = text(pairs, "event").ok_or_else(|| Error::missing("event"))?;
    Ok(name.to_ascii_lowercase())
}

fn add(rules: &mut Rules, kind: &str, pairs: &Pairs) -> Result<()> {
    let known: &[&str] = match kind {
        "inject-error" => &["event", "state", "errno", "sector", "once", "immediately", "iotype"],
        "set-state" => &["event", "state", "new_state"],
        other => return Err(Error::generic(format!("There is no option group '{other}'"))),
    };
    let is_known = |key: &str| known.contains(&key) || key.starts_with("iotype.");
    if let Some((key, _)) = pairs.iter().find(|(key, _)| !is_known(key)) {
        return Err(Error::generic(format!("Invalid parameter '{key}'")));
    }
    if kind == "set-state" {
        let new = number(pairs, "new_state", 0)?;
        rules.set.push(SetState { event: event(pairs)?, state: number(pairs, "state", 0)?, new });
        return Ok(());
    }
    let kinds: Vec<String> = pairs
        .iter()
        .filter(|(key, _)| key == "iotype" || key.starts_with("iotype."))
        .map(|(_, kind)| kind.clone())
        .collect();
    if let Some(kind) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(Error::generic(format!("Invalid IO type '{kind}'")));
    }
    let usual = || KINDS.iter().filter(|k| **k != "block-status").map(|k| (*k).to_owned());
    let once = text(pairs, "once").is_some_and(|word| matches!(word, "on" | "true" | "yes"));
    rules.inject.push(Inject {
        event: event(pairs)?,
        state: number(pairs, "state", 0)?,
        kinds: if kinds.is_empty() { usual().collect() } else { kinds },
        errno: i32::try_from(number(pairs, "errno", 5)?).unwrap_or(5),
        sector: text(pairs, "sector").map(|_| number(pairs, "sector", 0)).transpose()?,
        once,
        armed: false,
    });
    Ok(())
}

/// Reads a file of rules: sections in brackets, lines `key = "value"`.
fn parse(config: &str, rules: &mut Rules) -> Result<()> {
    let mut section: Option<(String, Pairs)> = None;
    for line in config.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            if let Some((kind, pairs)) = section.take() {
                add(rules, &kind, &pairs)?;
            }
            section = Some((name.to_owned(), Vec::new()));
        } else if let (Some((key, value)), Some((_, pairs))) = (line.split_once('='), &mut section)
        {
            pairs.push((key.trim().to_owned(), value.trim().trim_matches('"').to_owned()));
        } else {
            return Err(Error::generic("Could not parse blkdebug config file"));
        }
    }
    section.map_or(Ok(()), |(kind, pairs)| add(rules, &kind, &pairs))
}

fn flat(value: &Value) -> String {
    value.as_str().map_or_else(|| qapi::json::to_string(value), str::to_owned)
}

/// Rules of options: a list of objects, or an object of numbered ones.
fn from_options(kind: &str, given: &Value, rules: &mut Rules) -> Result<()> {
    let members: Vec<&Value> = match given {
        Value::List(all) => all.iter().collect(),
        Value::Map(all) => all.iter().map(|(_, value)| value).collect(),
        _ => return Err(Error::wrong_type(kind, "array")),
    };
    for member in members {
        let pairs = member.as_map().ok_or_else(|| Error::wrong_type(kind, "object"))?;
        let pairs =
            pairs.iter().map(|(key, value)| (key.replace("new-state", "new_state"), flat(value)));
        add(rules, kind, &pairs.collect())?;
    }
    Ok(())
}

/// Limits of requests, in bytes; 0: none.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    align: u64,
    max_transfer: u64,
    opt_write_zero: u64,
    max_write_zero: u64,
    opt_discard: u64,
    max_discard: u64,
}

impl Limits {
    fn take(options: &mut Value, source: Source) -> Result<Limits> {
        let mut one = |name: &str, unit: u64| {
            let size = crate::options::take::<qapi::Size>(options, name, source)?;
            let size = size.map_or(0, |size| size.0);
            let fits = size < 1 << 31
                && if name == "align" {
                    size < 2 || size.is_power_of_two()
                } else {
                    size % unit == 0
                };
            if fits {
                return Ok(size);
            }
            Err(Error::generic(format!("Cannot meet constraints with {name} {size}")))
        };
        let align = one("align", 1)?;
        let unit = align.max(1);
        Ok(Limits {
            align,
            max_transfer: one("max-transfer", unit)?,
            opt_write_zero: one("opt-write-zero", unit)?,
            max_write_zero: one("max-write-zero", unit)?,
            opt_discard: one("opt-discard", unit)?,
            max_discard: one("max-discard", unit)?,
        })
    }

    /// The most bytes of a piece, and the unit whose parts at the ends are pieces of their own.
    fn of(&self, access: Access) -> (u64, u64) {
        match access {
            Access::Read | Access::Write => (self.max_transfer, 0),
            Access::WriteZeroes => (self.max_write_zero, self.opt_write_zero),
            Access::Discard => (self.max_discard, self.opt_discard),
            Access::Flush => (0, 0),
        }
    }

    /// How much of a range is the next piece.
    fn piece(&self, access: Access, at: u64, left: u64) -> u64 {
        let (most, unit) = self.of(access);
        let most = if most == 0 { left } else { left.min(most) };
        if unit == 0 || left == 0 {
            return most;
        }
        match at % unit {
            0 if most >= unit => most - most % unit,
            0 => most,
            within => most.min(unit - within),
        }
    }
}

struct Blkdebug {
    image: Child,
    rules: Mutex<Rules>,
    limits: Limits,
    breaks: Breaks,
}

impl Blkdebug {
    /// Something happens; the request may stop here for long, so nothing is locked meanwhile.
    fn happen(&self, event: &str) {
        self.rules.lock().event(event);
        self.breaks.reached(event);
    }

    fn ask(&self, event: &str, kind: &str, at: u64, len: u64) -> io::Result<()> {
        self.happen(event);
        self.rules.lock().check(kind, at, len)
    }

    /// Asks for the whole blocks of a piece; the blocks that a write changes in part are read.
    fn ask_aligned(&self, access: Access, at: u64, len: u64) -> io::Result<()> {
        let (kind, event) = match access {
            Access::Read => ("read", ""),
            Access::Write => ("write", "pwritev"),
            Access::WriteZeroes => ("write-zeroes", "pwritev_zero"),
            Access::Discard => ("discard", ""),
            Access::Flush => {
                self.happen("flush_to_os");
                return self.ask("flush_to_disk", "flush", 0, 0);
            }
        };
        let align = self.limits.align.max(1);
        let (first, end) = (at - at % align, (at + len).next_multiple_of(align));
        if matches!(access, Access::Write | Access::WriteZeroes) {
            if first < at {
                self.ask("pwritev_rmw_head", "read", first, align)?;
                self.happen("pwritev_rmw_after_head");
            }
            if end > at + len && (end - align > first || first == at) {
                self.ask("pwritev_rmw_tail", "read", end - align, align)?;
                self.happen("pwritev_rmw_after_tail");
            }
        }
        self.ask(event, kind, first, end - first)
    }
}

impl Filter for Blkdebug {
    fn below(&self) -> Arc<Node> {
        self.image.node()
    }
    fn pass(&self, access: Access, at: u64, len: u64, rest: &mut Rest<'_>) -> io::Result<()> {
        let mut done = 0;
        loop {
            let n = self.limits.piece(access, at + done, len - done);
            self.ask_aligned(access, at + done, n)?;
            rest(at + done, n)?;
            done += n;
            if access == Access::Write {
                self.happen("pwritev_done");
            }
            if done >= len {
                return Ok(());
            }
        }
    }
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        self.ask("", "block-status", at, len)?;
        let found = self.below().driver().extent(at, len)?;
        Ok(Extent { offset: Some(at), ..found })
    }
    fn event(&self, name: &str) {
        self.happen(name);
    }
    fn breakpoint(&self, what: &Breakpoint<'_>) -> io::Result<()> {
        self.breaks.change(what)
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let mut rules = Rules { state: 1, ..Rules::default() };
    let config = crate::options::take::<String>(&mut at.options, "config", source)?;
    if let Some(path) = config.as_ref().filter(|path| !path.is_empty()) {
        use std::io::Read as _;
        let failed = |error: io::Error| {
            Error::generic(format!("Could not read blkdebug config file: {}", host::reason(&error)))
        };
        let mut config = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(CONFIG).read_to_string(&mut config).map_err(failed)?;
        parse(&config, &mut rules)?;
    }
    for kind in ["inject-error", "set-state"] {
        if let Some(given) = at.options.take(kind) {
            from_options(kind, &given, &mut rules)?;
        }
    }
    let limits = Limits::take(&mut at.options, source)?;
    let image = at.child("image")?;
    at.filename = image.node().path().to_owned();
    Ok(Arc::new(Passing(Blkdebug {
        image,
        rules: Mutex::new(rules),
        limits,
        breaks: Breaks::default(),
    })))
}

pub(crate) const CLASS: BlockClass = BlockClass {
    name: "blkdebug",
    protocol: true,
    probe: |_| 0,
    open,
    create: None,
    create_options: &[],
    describe: |_| String::new(),
    has_backing: false,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_cut_requests() {
        let limits = Limits {
            max_transfer: 1000,
            opt_discard: 4096,
            max_discard: 8192,
            ..Limits::default()
        };
        assert_eq!(limits.piece(Access::Read, 5, 2500), 1000);
        assert_eq!(limits.piece(Access::WriteZeroes, 5, 2500), 2500);
        let cut = |mut at: u64, end: u64| {
            let mut all = Vec::new();
            while at < end {
                let n = limits.piece(Access::Discard, at, end - at);
                all.push(n);
                at += n;
            }
            all
        };
        assert_eq!(cut(4000, 20_000), [96, 8192, 4096, 3616]);
        let refused = |text: &str| {
            let mut value = qapi::json::from_str(text).unwrap();
            Limits::take(&mut value, Source::Json).unwrap_err().desc
        };
        assert_eq!(refused(r#"{"align": 511}"#), "Cannot meet constraints with align 511");
        let text = r#"{"align": 4096, "max-transfer": 6144}"#;
        assert_eq!(refused(text), "Cannot meet constraints with max-transfer 6144");
    }

    #[test]
    fn rules_fire_by_event_state_and_sector() {
        let mut rules = Rules { state: 1, ..Rules::default() };
        let config = "# rules\n[inject-error]\nevent = \"read_aio\"\nsector = \"4\"\nonce = \"on\"\n\n[set-state]\nevent = \"write_aio\"\nstate = \"1\"\nnew_state = \"2\"\n[inject-error]\nevent = \"flush_to_disk\"\nstate = \"2\"\nerrno = \"28\"\n";
        parse(config, &mut rules).unwrap();
        rules.event("read_aio");
        assert!(rules.check("read", 0, 2048).is_ok());
        assert_eq!(rules.check("read", 2048, 1).unwrap_err().raw_os_error(), Some(5));
        assert!(rules.check("read", 2048, 1).is_ok(), "used up");
        rules.event("flush_to_disk");
        assert!(rules.check("flush", 0, 0).is_ok(), "state 1");
        rules.event("write_aio");
        rules.event("flush_to_disk");
        assert_eq!(rules.check("flush", 0, 0).unwrap_err().raw_os_error(), Some(28));
        assert!(parse("[nothing]\nevent = \"x\"", &mut Rules::default()).is_err());
        assert!(parse("event = \"x\"", &mut Rules::default()).is_err());
    }
}
