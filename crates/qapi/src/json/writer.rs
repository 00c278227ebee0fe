//! A value to JSON text, with QEMU's spacing: `{"a": 1, "b": [2, 3]}`.

use std::fmt::Write as _;

use crate::Value;

/// One line.
pub fn to_string(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, None);
    text
}

/// Several lines, indented by four columns.
pub fn to_string_pretty(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, Some(0));
    text
}

fn write(text: &mut String, value: &Value, indent: Option<usize>) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(truth) => text.push_str(if *truth { "true" } else { "false" }),
        Value::Int(number) => _ = write!(text, "{number}"),
        Value::Uint(number) => _ = write!(text, "{number}"),
        Value::Float(number) => text.push_str(&float(*number)),
        Value::Str(content) => string(text, content),
        Value::List(elements) => {
            text.push('[');
            for (at, element) in elements.iter().enumerate() {
                separate(text, at == 0, indent);
                write(text, element, indent.map(|depth| depth + 1));
            }
            close(text, indent);
            text.push(']');
        }
        Value::Map(members) => {
            text.push('{');
            for (at, (key, member)) in members.iter().enumerate() {
                separate(text, at == 0, indent);
                string(text, key);
                text.push_str(": ");
                write(text, member, indent.map(|depth| depth + 1));
            }
            close(text, indent);
            text.push('}');
        }
    }
}

fn separate(text: &mut String, first: bool, indent: Option<usize>) {
    if !first {
        text.push(',');
    }
    match indent {
        Some(depth) => new_line(text, depth + 1),
        None if !first => text.push(' '),
        None => {}
    }
}

/// QEMU breaks the line in empty objects and arrays, too.
fn close(text: &mut String, indent: Option<usize>) {
    if let Some(depth) = indent {
        new_line(text, depth);
    }
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    for _ in 0..depth {
        text.push_str("    ");
    }
}

fn string(text: &mut String, content: &str) {
    text.push('"');
    for c in content.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            ' '..='~' => text.push(c),
            _ => {
                let mut halves = [0; 2];
                for half in c.encode_utf16(&mut halves) {
                    _ = write!(text, "\\u{half:04X}");
                }
            }
        }
    }
    text.push('"');
}

/// Seventeen significant digits without trailing zeros, as C's `%.17g`. JSON has no infinities;
/// they become `null`.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return "null".into();
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.into();
    }
    let text = format!("{number:.16e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let Ok(exponent) = exponent.parse::<i32>() else { return text };
    if (-4..17).contains(&exponent) {
        let places = usize::try_from(16 - exponent).unwrap_or(0);
        let fixed = format!("{number:.places$}");
        return trim_zeros(&fixed).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.unsigned_abs())
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}
