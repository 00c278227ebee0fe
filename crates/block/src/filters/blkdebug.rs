//! `blkdebug`: requests that fail when they are told to.
//!
//! Rules come from a file (`config`) or from options (`inject-error`, `set-state`): an event arms
//! a rule, and requests of its kinds (in its sector) fail with its error until it is used up
//! (`once`) or another event arms. Events here are those of the filter's own requests: `read_aio`,
//! `write_aio`, `flush_to_disk`, `pwritev`, `pwritev_zero`, `preadv`, and `none`, which always is.
//! Not here: events inside formats (`l2_load`, `cluster_alloc`, ...: such rules never fire),
//! suspending requests, limits (`align`, `max-transfer` and the like are accepted).
//! Source: QEMU's documentation, "Block I/O error injection using blkdebug".

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use qapi::{Error, Result, Value};

use crate::driver::{BlockClass, BlockDriver, Extent, Preallocation};
use crate::node::Child;
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

struct Blkdebug {
    image: Child,
    rules: Mutex<Rules>,
}

impl Blkdebug {
    fn below(&self) -> Arc<dyn BlockDriver> {
        self.image.node().driver().clone()
    }
    fn ask(&self, events: &[&str], kind: &str, at: u64, len: u64) -> io::Result<()> {
        let mut rules = self.rules.lock();
        for event in events {
            rules.event(event);
        }
        rules.check(kind, at, len)
    }
}

impl BlockDriver for Blkdebug {
    fn len(&self) -> u64 {
        self.below().len()
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.ask(&["read_aio", "preadv"], "read", at, into.len() as u64)?;
        self.below().read(at, into)
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.ask(&["write_aio", "pwritev"], "write", at, data.len() as u64)?;
        self.below().write(at, data)
    }
    fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.ask(&["pwritev_zero"], "write-zeroes", at, len)?;
        self.below().write_zeroes(at, len, unmap)
    }
    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.ask(&[], "discard", at, len)?;
        self.below().discard(at, len)
    }
    fn flush(&self) -> io::Result<()> {
        self.ask(&["flush_to_os", "flush_to_disk"], "flush", 0, 0)?;
        self.below().flush()
    }
    fn truncate(&self, len: u64, how: Preallocation) -> io::Result<()> {
        self.below().truncate(len, how)
    }
    fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        self.ask(&[], "block-status", at, len)?;
        let found = self.below().extent(at, len)?;
        Ok(Extent { offset: Some(at), ..found })
    }
    fn allocated_size(&self) -> Option<u64> {
        self.below().allocated_size()
    }
}

fn open(at: &mut Opening<'_>) -> Result<Arc<dyn BlockDriver>> {
    let source = at.source;
    let mut rules = Rules { state: 1, ..Rules::default() };
    if let Some(path) = crate::options::take::<String>(&mut at.options, "config", source)?
        && !path.is_empty()
    {
        use std::io::Read as _;
        let failed = |error: io::Error| {
            Error::generic(format!("Could not read blkdebug config file: {}", host::reason(&error)))
        };
        let mut config = String::new();
        let file = std::fs::File::open(&path).map_err(failed)?;
        file.take(CONFIG).read_to_string(&mut config).map_err(failed)?;
        parse(&config, &mut rules)?;
    }
    for kind in ["inject-error", "set-state"] {
        if let Some(given) = at.options.take(kind) {
            from_options(kind, &given, &mut rules)?;
        }
    }
    let limits =
        ["align", "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard"];
    for name in limits {
        crate::options::take::<qapi::Size>(&mut at.options, name, source)?;
    }
    let image = at.child("image")?;
    at.filename = image.node().filename().to_owned();
    Ok(Arc::new(Blkdebug { image, rules: Mutex::new(rules) }))
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
