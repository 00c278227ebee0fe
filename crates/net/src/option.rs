//! The text of `-netdev`, `-nic` and `-net`.

use qapi::keyval::Dialect;
use qapi::{Error, Result, Value};

/// Options that may be given several times.
const LISTS: &[&str] = &["hostfwd", "guestfwd", "dnssearch"];

/// Whether a type is written with dots (`addr.type=unix`).
fn is_structured(text: &str) -> bool {
    let kind = text.split(',').find_map(|part| match part.split_once('=') {
        Some(("type", kind)) => Some(kind),
        Some(_) => None,
        None => Some(part),
    });
    matches!(kind, Some("stream" | "dgram"))
}

/// Splits at commas that stand alone.
fn parts(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut all, mut from, mut at) = (Vec::new(), 0, 0);
    while let Some(byte) = bytes.get(at) {
        if *byte == b',' {
            if bytes.get(at + 1) == Some(&b',') {
                at += 1;
            } else {
                all.push(text.get(from..at).unwrap_or_default());
                from = at + 1;
            }
        }
        at += 1;
    }
    all.push(text.get(from..).unwrap_or_default());
    all
}

/// Reads a back end's text; options that may be repeated become lists.
///
/// # Errors
/// The text makes no sense.
pub fn parse(text: &str) -> Result<Value> {
    if text.starts_with('{') {
        return qapi::json::from_str(text);
    }
    if is_structured(text) {
        return Ok(Dialect::structured(Some("type")).parse(text)?.value);
    }
    let mut rest = Vec::new();
    let mut lists: Vec<(&str, Vec<Value>)> = Vec::new();
    for part in parts(text) {
        let list = part.split_once('=').filter(|(key, _)| LISTS.contains(key));
        let Some((key, value)) = list else {
            rest.push(part);
            continue;
        };
        let value = Value::map([("str", Value::from(value.replace(",,", ",").as_str()))]);
        match lists.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => lists.push((key, vec![value])),
        }
    }
    let mut value = Dialect::flat(Some("type")).parse(&rest.join(","))?.value;
    for (key, values) in lists {
        value.set(key, Value::List(values));
    }
    Ok(value)
}

/// Takes a word out of what was read.
///
/// # Errors
/// It is not a text.
pub fn word(value: &mut Value, name: &str) -> Result<Option<String>> {
    match value.take(name) {
        None => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text)),
        Some(_) => Err(Error::wrong_type(name, "string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_options_become_lists() {
        let value = parse("user,id=n,hostfwd=tcp::1-:2,restrict=on,hostfwd=udp::3-:4").unwrap();
        let rules = value.get("hostfwd").and_then(Value::as_list).unwrap();
        let text = |v: &Value| v.get("str").and_then(Value::as_str).map(str::to_owned);
        assert_eq!(text(&rules[1]).unwrap(), "udp::3-:4");
        assert_eq!(value.get("type").and_then(Value::as_str), Some("user"));
        assert_eq!(value.get("restrict").and_then(Value::as_str), Some("on"));
        let value = parse("user,id=n,guestfwd=tcp:10.0.2.9:1-cmd:a,,b").unwrap();
        let rules = value.get("guestfwd").and_then(Value::as_list).unwrap();
        assert_eq!(text(&rules[0]).unwrap(), "tcp:10.0.2.9:1-cmd:a,b");
    }

    #[test]
    fn addresses_are_trees() {
        let value = parse("stream,id=s,addr.type=unix,addr.path=/x").unwrap();
        let address = value.get("addr").unwrap();
        assert_eq!(address.get("path").and_then(Value::as_str), Some("/x"));
        assert!(parse("id=s,type=dgram,local.type=inet").unwrap().get("local").is_some());
        assert!(parse("{\"type\":").is_err());
    }
}
