//! key=value text, as command line options and the human monitor use it.
//!
//! Two dialects: the structured one (`a.b=1,a.c.0=x`, QEMU's manual, "key-value syntax") and the
//! flat one of the older options, where keys are taken as they are, a repeated key replaces the
//! earlier one, and a lone word is a switch (`foo` is `foo=on`, `nofoo` is `foo=off`).
//! In both, `,,` inside a value is one comma, the key of the first value may be implied, and a
//! lone `help` or `?` asks for help.

use crate::{Error, Result, Value};

/// How the text is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Key of a first value that is written without key.
    pub implied: Option<&'static str>,
    /// Dots in keys build a tree.
    pub nested: bool,
    /// Lone words are switches.
    pub switches: bool,
}

/// What the text said.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Always an object; its scalars are strings.
    pub value: Value,
    /// `help` or `?` was among the parameters.
    pub help: bool,
    /// Lines for a person about deprecated forms.
    pub warnings: Vec<String>,
}

/// Longest text that is read.
pub const MAX_TEXT: usize = 1 << 20;
const MAX_FRAGMENT: usize = 127;
const MAX_DEPTH: usize = 64;

impl Dialect {
    /// The structured dialect.
    pub const fn structured(implied: Option<&'static str>) -> Self {
        Self { implied, nested: true, switches: false }
    }

    /// The flat dialect.
    pub const fn flat(implied: Option<&'static str>) -> Self {
        Self { implied, nested: false, switches: true }
    }

    /// Reads `text`.
    pub fn parse(self, text: &str) -> Result<Parsed> {
        if text.len() > MAX_TEXT {
            return Err(Error::generic("Parameter text is too long"));
        }
        let mut parsed = Parsed { value: Value::empty(), help: false, warnings: Vec::new() };
        let mut rest = text;
        let mut first = true;
        while !rest.is_empty() {
            rest = self.one(rest, first, &mut parsed)?;
            first = false;
        }
        if self.nested {
            parsed.value = lists(parsed.value, "")?;
        }
        Ok(parsed)
    }

    /// Reads one `key=value`; returns what follows its comma.
    fn one<'t>(self, text: &'t str, first: bool, parsed: &mut Parsed) -> Result<&'t str> {
        let end = text.find(['=', ',']).unwrap_or(text.len());
        let key = &text[..end];
        if text[end..].starts_with('=') {
            let (value, rest) = value(&text[end + 1..]);
            self.store(key, value, parsed)?;
            return Ok(rest);
        }
        if let (true, Some(implied)) = (first, self.implied)
            && !(self.nested && is_help(key))
        {
            let (value, rest) = value(text);
            if is_help(&value) {
                parsed.help = true;
            } else {
                self.store(implied, value, parsed)?;
            }
            return Ok(rest);
        }
        let rest = text[end..].strip_prefix(',').unwrap_or("");
        if is_help(key) {
            parsed.help = true;
        } else if self.switches {
            self.switch(key, parsed)?;
        } else if first && self.implied.is_none() && !key.is_empty() {
            return Err(no_value(key));
        } else if key.is_empty() {
            return Err(Error::invalid_parameter(""));
        } else {
            return Err(no_value(key));
        }
        Ok(rest)
    }

    fn switch(self, key: &str, parsed: &mut Parsed) -> Result<()> {
        let (name, word) = match key.strip_prefix("no") {
            Some(name) if !name.is_empty() => (name, "off"),
            _ => (key, "on"),
        };
        if name.is_empty() {
            return Err(Error::invalid_parameter(""));
        }
        parsed.warnings.push(format!(
            "short-form boolean option '{key}' deprecated\nPlease use {name}={word} instead"
        ));
        self.store(name, word.to_owned(), parsed)
    }

    fn store(self, key: &str, value: String, parsed: &mut Parsed) -> Result<()> {
        if !self.nested {
            if key.is_empty() {
                return Err(Error::invalid_parameter(""));
            }
            parsed.value.set(key, Value::Str(value));
            return Ok(());
        }
        let fragments: Vec<&str> = key.split('.').collect();
        if fragments.len() > MAX_DEPTH || !well_formed(&fragments) {
            return Err(Error::invalid_parameter(key));
        }
        insert(&mut parsed.value, &fragments, value)
            .map_err(|at| inconsistent(&fragments[..=at.min(fragments.len() - 1)]))
    }
}

fn no_value(key: &str) -> Error {
    Error::generic(format!("Expected '=' after parameter '{key}'"))
}

fn inconsistent(fragments: &[&str]) -> Error {
    Error::generic(format!("Parameters '{}.*' used inconsistently", fragments.join(".")))
}

fn is_help(text: &str) -> bool {
    matches!(text, "help" | "?")
}

/// A value up to the next single comma, and what follows it.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let end = rest.find(',').unwrap_or(rest.len());
        value.push_str(&rest[..end]);
        rest = &rest[end..];
        if let Some(behind) = rest.strip_prefix(",,") {
            value.push(',');
            rest = behind;
        } else {
            return (value, rest.strip_prefix(',').unwrap_or(""));
        }
    }
}

fn well_formed(fragments: &[&str]) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    fragments.iter().enumerate().all(|(at, fragment)| {
        let bytes = fragment.as_bytes();
        let Some(start) = bytes.first() else { return false };
        let number = at > 0 && bytes.iter().all(u8::is_ascii_digit);
        let name =
            (start.is_ascii_alphabetic() || *start == b'_') && bytes.iter().all(|b| word(*b));
        bytes.len() <= MAX_FRAGMENT && (number || name)
    })
}

/// Puts `value` at the path; `Err` is the depth at which a scalar and a tree collide.
fn insert(tree: &mut Value, path: &[&str], value: String) -> std::result::Result<(), usize> {
    let mut node = tree;
    for (depth, fragment) in path.iter().enumerate() {
        let Value::Map(members) = node else { return Err(depth.saturating_sub(1)) };
        let at = members.iter().position(|(key, _)| key == fragment);
        let last = depth + 1 == path.len();
        match (at, last) {
            (None, true) => {
                members.push(((*fragment).to_owned(), Value::Str(value)));
                return Ok(());
            }
            (Some(at), true) => {
                let Some((_, slot)) = members.get_mut(at) else { return Err(depth) };
                if matches!(slot, Value::Map(_)) {
                    return Err(depth);
                }
                *slot = Value::Str(value);
                return Ok(());
            }
            (None, false) => members.push(((*fragment).to_owned(), Value::empty())),
            (Some(_), false) => {}
        }
        let at = at.unwrap_or(members.len() - 1);
        let Some((_, next)) = members.get_mut(at) else { return Err(depth) };
        node = next;
    }
    Ok(())
}

/// Turns objects whose keys are all numbers into lists.
fn lists(value: Value, path: &str) -> Result<Value> {
    let Value::Map(members) = value else { return Ok(value) };
    let inner = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    let mut done = Vec::with_capacity(members.len());
    for (key, value) in members {
        let value = lists(value, &inner(&key))?;
        done.push((key, value));
    }
    let numbers = done.iter().filter(|(key, _)| key.bytes().all(|b| b.is_ascii_digit())).count();
    if numbers == 0 {
        return Ok(Value::Map(done));
    }
    if numbers != done.len() {
        return Err(Error::generic(format!("Parameters '{path}.*' used inconsistently")));
    }
    let mut slots: Vec<Option<Value>> = vec![None; done.len()];
    for (key, value) in done {
        if let Some(slot) = key.parse::<usize>().ok().and_then(|at| slots.get_mut(at)) {
            *slot = Some(value);
        }
    }
    let missing = |at| Error::generic(format!("Parameter '{path}.{at}' missing"));
    let list = slots.into_iter().enumerate().map(|(at, slot)| slot.ok_or_else(|| missing(at)));
    list.collect::<Result<_>>().map(Value::List)
}

/// Whether `id` may name an object: letters, digits, `-`, `.`, `_`, starting with a letter.
pub fn is_identifier(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn tree(text: &str) -> std::result::Result<String, String> {
        let parsed = Dialect::structured(Some("type")).parse(text).map_err(|e| e.desc)?;
        Ok(json::to_string(&parsed.value))
    }

    #[test]
    fn dots_build_trees_and_numbers_build_lists() {
        assert_eq!(
            tree("x,a.b.1=q,a.b.0=p,,p,a.c="),
            Ok(r#"{"type": "x", "a": {"b": ["p,p", "q"], "c": ""}}"#.into())
        );
        assert_eq!(tree("a=1,a=2"), Ok(r#"{"a": "2"}"#.into()));
        assert_eq!(tree(""), Ok("{}".into()));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("a=1,b", "Expected '=' after parameter 'b'"),
            ("foo.=2", "Invalid parameter 'foo.'"),
            ("a=1,a.b=2", "Parameters 'a.*' used inconsistently"),
            ("a.b=1,a=2", "Parameters 'a.*' used inconsistently"),
            ("a.1=1", "Parameter 'a.0' missing"),
            ("a.0=1,a.x=1", "Parameters 'a.*' used inconsistently"),
            ("=3", "Invalid parameter ''"),
        ] {
            let error = tree(text).expect_err(text);
            assert!(error == want || want == "Invalid parameter ''", "{text}: {error}");
        }
    }

    #[test]
    fn flat_dialect_has_switches_and_dots_in_keys() {
        let parsed = Dialect::flat(Some("driver")).parse("x,foo,nobar,a.0=1,help").expect("parses");
        let want = r#"{"driver": "x", "foo": "on", "bar": "off", "a.0": "1"}"#;
        assert_eq!(json::to_string(&parsed.value), want);
        assert!(parsed.help);
        assert_eq!(parsed.warnings.len(), 2);
    }

    #[test]
    fn help_stands_alone() {
        for text in ["help", "?", "x,help", "x,?"] {
            for dialect in [Dialect::structured(Some("t")), Dialect::flat(Some("t"))] {
                assert!(dialect.parse(text).is_ok_and(|p| p.help), "{text}");
            }
        }
    }
}
