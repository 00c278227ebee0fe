//! Tokens to a value.

use super::{MAX_NESTING, lexer::Token, parse_error};
use crate::{Result, Value};

/// Parses the tokens of one value; tokens behind it are dropped, as QEMU does.
pub(super) fn parse(tokens: Vec<Token>) -> Result<Value> {
    let mut tokens = tokens.into_iter().peekable();
    value(&mut tokens, 0)
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

fn value(tokens: &mut Tokens, depth: usize) -> Result<Value> {
    if depth > MAX_NESTING {
        return Err(parse_error("nesting too deep"));
    }
    let Some(token) = tokens.next() else { return Err(parse_error("premature EOI")) };
    match token {
        Token::Structure(b'{') => object(tokens, depth + 1),
        Token::Structure(b'[') => array(tokens, depth + 1),
        Token::Structure(_) => Err(parse_error("expecting value")),
        Token::Str(bytes) => string(&bytes).map(Value::Str),
        Token::Int(text) => Ok(integer(&text)),
        Token::Float(text) => Ok(float(&text)),
        Token::Word(word) => match word.as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" => Ok(Value::Null),
            _ => Err(parse_error(&format!("invalid keyword '{word}'"))),
        },
        Token::Error(text) => Err(parse_error(&text)),
    }
}

fn object(tokens: &mut Tokens, depth: usize) -> Result<Value> {
    let mut members: Vec<(String, Value)> = Vec::new();
    let mut known = std::collections::HashSet::new();
    if tokens.next_if_eq(&Token::Structure(b'}')).is_some() {
        return Ok(Value::Map(members));
    }
    loop {
        let Value::Str(key) = value(tokens, depth)? else {
            return Err(parse_error("key is not a string in object"));
        };
        if tokens.next_if_eq(&Token::Structure(b':')).is_none() {
            return Err(parse_error("missing : in object pair"));
        }
        let member = value(tokens, depth)?;
        if !known.insert(key.clone()) {
            return Err(parse_error("duplicate key"));
        }
        members.push((key, member));
        match tokens.next() {
            Some(Token::Structure(b'}')) => return Ok(Value::Map(members)),
            Some(Token::Structure(b',')) => {}
            Some(_) => return Err(parse_error("expected separator in dict")),
            None => return Err(parse_error("premature EOI")),
        }
    }
}

fn array(tokens: &mut Tokens, depth: usize) -> Result<Value> {
    let mut elements = Vec::new();
    if tokens.next_if_eq(&Token::Structure(b']')).is_some() {
        return Ok(Value::List(elements));
    }
    loop {
        elements.push(value(tokens, depth)?);
        match tokens.next() {
            Some(Token::Structure(b']')) => return Ok(Value::List(elements)),
            Some(Token::Structure(b',')) => {}
            Some(_) => return Err(parse_error("expected separator in list")),
            None => return Err(parse_error("premature EOI")),
        }
    }
}

/// An integer of the smallest kind that holds it; beyond 64 bits it is a float.
fn integer(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        Value::Int(number)
    } else if let Ok(number) = text.parse::<u64>() {
        Value::Uint(number)
    } else {
        float(text)
    }
}

fn float(text: &str) -> Value {
    Value::Float(text.parse().unwrap_or(f64::INFINITY))
}

/// Undoes the escapes of a quoted string.
fn string(quoted: &[u8]) -> Result<String> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or(&[]);
    let Ok(text) = std::str::from_utf8(inner) else {
        return Err(parse_error("invalid UTF-8 sequence in string"));
    };
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        let mut chars = rest[at + 1..].chars();
        match chars.next() {
            Some(c @ ('"' | '\'' | '\\' | '/')) => result.push(c),
            Some('b') => result.push('\u{8}'),
            Some('f') => result.push('\u{c}'),
            Some('n') => result.push('\n'),
            Some('r') => result.push('\r'),
            Some('t') => result.push('\t'),
            Some('u') => {
                let (c, behind) = unicode(chars.as_str())?;
                result.push(c);
                rest = behind;
                continue;
            }
            _ => return Err(parse_error("invalid escape sequence in string")),
        }
        rest = chars.as_str();
    }
    result.push_str(rest);
    Ok(result)
}

/// The character of the digits behind `\u` (and of a second half), and what follows.
fn unicode(text: &str) -> Result<(char, &str)> {
    let bad_digits = || parse_error("invalid hex escape in string");
    let (first, rest) = hex4(text).ok_or_else(bad_digits)?;
    if let Some(c) = char::from_u32(first) {
        return Ok((c, rest));
    }
    let second = rest.strip_prefix("\\u").and_then(hex4);
    if let (0xd800..0xdc00, Some((low @ 0xdc00..0xe000, rest))) = (first, second)
        && let Some(c) = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00))
    {
        return Ok((c, rest));
    }
    let digits = text.get(..4).unwrap_or(text);
    Err(parse_error(&format!("\\u{digits} is not a valid Unicode character")))
}

fn hex4(text: &str) -> Option<(u32, &str)> {
    let digits = text.get(..4)?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some((u32::from_str_radix(digits, 16).ok()?, text.get(4..)?))
}
