//! Text of a table to [`Table`].
//!
//! Works line by line, gathers every mistake instead of stopping at the first, and resolves fields,
//! formats and argument sets as it goes (they must be written before they are used).
//! It does not look for overlaps; `check` does.
//! Source: the language is described in `lib.rs`.

use std::collections::HashMap;

use crate::Error;
use crate::model::{ArgSet, Field, Func, Member, Node, Pattern, Seg, Source, Table};

/// Bits and members as written on one line.
#[derive(Clone, Debug, Default)]
struct Body {
    fixed_mask: u32,
    fixed_value: u32,
    /// `-` bits.
    ignored: u32,
    inits: Vec<(String, Source)>,
    args: Option<usize>,
    /// Whether any bits were written.
    has_bits: bool,
}

#[derive(Default)]
struct Parser {
    table: Table,
    fields: HashMap<String, Field>,
    sets: HashMap<String, usize>,
    formats: HashMap<String, Body>,
    errors: Vec<Error>,
    /// Open groups: kind, items, line.
    open: Vec<(bool, Vec<Node>, usize)>,
}

type Res<T> = Result<T, String>;

/// Parses a whole table.
pub(crate) fn parse(text: &str) -> Result<Table, Vec<Error>> {
    let mut p = Parser::default();
    for (line, text) in logical_lines(text) {
        if let Err(message) = p.line(line, &text) {
            p.errors.push(Error { line, message });
        }
    }
    if let Some((_, _, line)) = p.open.last() {
        p.errors.push(Error { line: *line, message: "group is never closed".into() });
    }
    if p.errors.is_empty() { Ok(p.table) } else { Err(p.errors) }
}

fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for (i, raw) in text.lines().enumerate() {
        let code = raw.split('#').next().unwrap_or("").trim_end();
        let (code, more) = match code.strip_suffix('\\') {
            Some(rest) => (rest, true),
            None => (code, false),
        };
        let (line, mut all) = joined.take().unwrap_or((i + 1, String::new()));
        all.push_str(code);
        all.push(' ');
        if more {
            joined = Some((line, all));
        } else if !all.trim().is_empty() {
            out.push((line, all));
        }
    }
    out.extend(joined);
    out
}

fn is_name(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn name(s: &str) -> Res<String> {
    if is_name(s) { Ok(s.to_string()) } else { Err(format!("`{s}` is not a name")) }
}

fn number(s: &str) -> Res<i64> {
    let (neg, digits) = s.strip_prefix('-').map_or((false, s), |d| (true, d));
    let value = match digits.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    value.map(|v| if neg { -v } else { v }).map_err(|_| format!("`{s}` is not a number"))
}

/// `s9` or `4`.
fn width(s: &str) -> Res<(u32, bool)> {
    let (digits, signed) = s.strip_prefix('s').map_or((s, false), |d| (d, true));
    match digits.parse() {
        Ok(n) if (1..=32).contains(&n) => Ok((n, signed)),
        _ => Err(format!("`{s}` is not a width of 1 to 32 bits")),
    }
}

fn camel(s: &str) -> String {
    s.split('_')
        .map(|part| {
            let mut c = part.chars();
            c.next()
                .map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + c.as_str())
        })
        .collect()
}

fn function(s: &str) -> Res<Func> {
    match s {
        "plus1" => Ok(Func::Plus1),
        "times2" => Ok(Func::Shl(1)),
        "times4" => Ok(Func::Shl(2)),
        "times8" => Ok(Func::Shl(3)),
        "times16" => Ok(Func::Shl(4)),
        "shl12" => Ok(Func::Shl(12)),
        _ => Err(format!("unknown function `{s}`")),
    }
}

impl Parser {
    fn line(&mut self, line: usize, text: &str) -> Res<()> {
        let mut words = text.split_whitespace();
        let Some(first) = words.next() else { return Ok(()) };
        let rest: Vec<&str> = words.collect();
        match first.split_at_checked(1) {
            Some(("%", n)) => self.field(n, &rest),
            Some(("&", n)) => self.arg_set(n, &rest),
            Some(("@", n)) => self.format(n, &rest),
            Some(("{" | "[", "")) if rest.is_empty() => {
                self.open.push((first == "{", Vec::new(), line));
                Ok(())
            }
            Some(("}" | "]", "")) if rest.is_empty() => self.close(first == "}"),
            Some(("{" | "}" | "[" | "]", _)) => {
                Err(format!("`{first}` must stand alone on its line"))
            }
            _ => self.pattern(line, first, &rest),
        }
    }

    fn close(&mut self, overlap: bool) -> Res<()> {
        match self.open.pop() {
            None => Err("no group is open".into()),
            Some((kind, _, at)) if kind != overlap => {
                Err(format!("the group opened on line {at} is of the other kind"))
            }
            Some((_, items, at)) if items.is_empty() => {
                Err(format!("the group opened on line {at} is empty"))
            }
            Some((_, items, _)) => {
                self.push(Node::Group { overlap, items });
                Ok(())
            }
        }
    }

    fn push(&mut self, node: Node) {
        match self.open.last_mut() {
            Some((_, items, _)) => items.push(node),
            None => self.table.root.push(node),
        }
    }

    fn field(&mut self, field: &str, words: &[&str]) -> Res<()> {
        let field = name(field)?;
        let mut segs = Vec::new();
        let mut func = None;
        for w in words {
            if let Some(f) = w.strip_prefix("!function=") {
                func = Some(function(f)?);
                continue;
            }
            let (pos, len) =
                w.split_once(':').ok_or_else(|| format!("`{w}` is not position:length"))?;
            let pos: u32 = pos.parse().map_err(|_| format!("`{pos}` is not a bit position"))?;
            let (len, signed) = width(len)?;
            if pos + len > 32 {
                return Err(format!("segment `{w}` reaches past bit 31"));
            }
            if signed && !segs.is_empty() {
                return Err("only the first segment may be signed".into());
            }
            segs.push(Seg { pos, len, signed });
        }
        if segs.is_empty() {
            return Err(format!("field `{field}` has no segment"));
        }
        if segs.iter().map(|s| s.len).sum::<u32>() > 32 {
            return Err(format!("field `{field}` is wider than 32 bits"));
        }
        match self.fields.insert(field.clone(), Field { segs, func }) {
            Some(_) => Err(format!("field `{field}` is defined twice")),
            None => Ok(()),
        }
    }

    fn arg_set(&mut self, set: &str, words: &[&str]) -> Res<()> {
        let set = name(set)?;
        let mut members: Vec<Member> = Vec::new();
        for w in words {
            let (n, signed) = match w.split_once(':') {
                Some((n, "s")) => (n, true),
                Some(_) => return Err(format!("`{w}`: only `:s` may follow a member")),
                None => (*w, false),
            };
            if members.iter().any(|m| m.name == n) {
                return Err(format!("member `{n}` is listed twice"));
            }
            members.push(Member { name: name(n)?, signed });
        }
        let index = self.table.args.len();
        let type_name = format!("Arg{}", camel(&set));
        if self.table.args.iter().any(|a| a.type_name == type_name) {
            return Err(format!("argument set `{set}` is defined twice"));
        }
        self.sets.insert(set, index);
        self.table.args.push(ArgSet { type_name, members });
        Ok(())
    }

    fn format(&mut self, format: &str, words: &[&str]) -> Res<()> {
        let format = name(format)?;
        let body = self.body(words)?;
        match self.formats.insert(format.clone(), body) {
            Some(_) => Err(format!("format `{format}` is defined twice")),
            None => Ok(()),
        }
    }

    /// Reads bits, members and references; formats are merged in at once.
    fn body(&self, words: &[&str]) -> Res<Body> {
        let mut b = Body::default();
        let mut pos = 32u32;
        let mut formats = Vec::new();
        for w in words {
            if w.chars().all(|c| "01.-".contains(c)) {
                for c in w.chars() {
                    pos = pos.checked_sub(1).ok_or("more than 32 bits")?;
                    match c {
                        '0' | '1' => {
                            b.fixed_mask |= 1 << pos;
                            b.fixed_value |= u32::from(c == '1') << pos;
                        }
                        '-' => b.ignored |= 1 << pos,
                        _ => {}
                    }
                }
            } else if let Some(n) = w.strip_prefix('&') {
                let set = self.sets.get(n).ok_or_else(|| format!("unknown argument set `{n}`"))?;
                if b.args.replace(*set).is_some() {
                    return Err("two argument sets".into());
                }
            } else if let Some(n) = w.strip_prefix('@') {
                formats.push(self.formats.get(n).ok_or_else(|| format!("unknown format `{n}`"))?);
            } else if let Some(n) = w.strip_prefix('%') {
                b.inits.push((n.to_string(), self.reference(n)?));
            } else if let Some((n, v)) = w.split_once('=') {
                let source = match v.strip_prefix('%') {
                    Some(f) => self.reference(f)?,
                    None => Source::Const(number(v)?),
                };
                b.inits.push((name(n)?, source));
            } else if let Some((n, len)) = w.split_once(':') {
                let (len, signed) = width(len)?;
                pos = pos.checked_sub(len).ok_or("more than 32 bits")?;
                let field = Field { segs: vec![Seg { pos, len, signed }], func: None };
                b.inits.push((name(n)?, Source::Field(field)));
            } else {
                return Err(format!("`{w}` is not understood"));
            }
        }
        b.has_bits = pos != 32;
        if b.has_bits && pos != 0 {
            return Err(format!("{} bits written, not 32", 32 - pos));
        }
        for f in formats {
            b = merge(b, f)?;
        }
        Ok(b)
    }

    fn reference(&self, n: &str) -> Res<Source> {
        self.fields
            .get(n)
            .cloned()
            .map(Source::Field)
            .ok_or_else(|| format!("unknown field `%{n}`"))
    }

    fn pattern(&mut self, line: usize, pattern: &str, words: &[&str]) -> Res<()> {
        let pattern = name(pattern)?;
        let body = self.body(words)?;
        if !body.has_bits {
            return Err(format!("pattern `{pattern}` has no bits"));
        }
        let mut covered = body.fixed_mask | body.ignored;
        for (_, source) in &body.inits {
            if let Source::Field(f) = source {
                covered |= f.mask();
            }
        }
        if covered != u32::MAX {
            return Err(format!(
                "bits {:#010x} of `{pattern}` are neither fixed, ignored nor in a member",
                !covered
            ));
        }
        let args = match body.args {
            Some(set) => set,
            None => self.inferred_set(&body.inits),
        };
        let inits = self.order(args, body.inits)?;
        if let Some(other) =
            self.table.patterns.iter().find(|p| p.name == pattern && p.args != args)
        {
            return Err(format!("`{pattern}` has another argument set on line {}", other.line));
        }
        let index = self.table.patterns.len();
        self.table.patterns.push(Pattern {
            name: pattern,
            mask: body.fixed_mask,
            value: body.fixed_value,
            args,
            inits,
            line,
        });
        self.push(Node::Pattern(index));
        Ok(())
    }

    /// The set named after its members, for patterns that cite none.
    fn inferred_set(&mut self, inits: &[(String, Source)]) -> usize {
        let mut members: Vec<Member> = inits
            .iter()
            .map(|(n, s)| Member {
                name: n.clone(),
                signed: match s {
                    Source::Field(f) => f.signed(),
                    Source::Const(c) => *c < 0,
                },
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let mut type_name = String::from("Arg");
        for m in &members {
            type_name += &camel(&m.name);
            type_name += if m.signed { "S" } else { "" };
        }
        if members.is_empty() {
            type_name += "Empty";
        }
        let set = ArgSet { type_name, members };
        if let Some(i) = self.table.args.iter().position(|a| a.type_name == set.type_name) {
            return i;
        }
        self.table.args.push(set);
        self.table.args.len() - 1
    }

    /// Puts initialisers in the set's order; exactly one each.
    fn order(&self, args: usize, inits: Vec<(String, Source)>) -> Res<Vec<Source>> {
        let set = self.table.args.get(args).ok_or("no such argument set")?;
        for (i, (n, source)) in inits.iter().enumerate() {
            let Some(member) = set.members.iter().find(|m| m.name == *n) else {
                return Err(format!("`{n}` is not a member of {}", set.type_name));
            };
            if inits.iter().skip(i + 1).any(|(other, _)| other == n) {
                return Err(format!("member `{n}` is given twice"));
            }
            let negative = match source {
                Source::Field(f) => f.signed(),
                Source::Const(c) => *c < 0 || *c > i64::from(u32::MAX),
            };
            if negative && !member.signed {
                return Err(format!("member `{n}` of {} must be marked `:s`", set.type_name));
            }
        }
        let find = |m: &Member| {
            let found = inits.iter().find(|(n, _)| *n == m.name).map(|(_, s)| s.clone());
            found.ok_or_else(|| format!("member `{}` of {} gets no value", m.name, set.type_name))
        };
        set.members.iter().map(find).collect()
    }
}

/// Adds what a format says to what a line says.
fn merge(mut line: Body, format: &Body) -> Res<Body> {
    let both = line.fixed_mask & format.fixed_mask;
    if (line.fixed_value ^ format.fixed_value) & both != 0 {
        return Err("fixed bits contradict the format".into());
    }
    line.fixed_mask |= format.fixed_mask;
    line.fixed_value |= format.fixed_value;
    line.ignored |= format.ignored & !line.fixed_mask;
    line.has_bits |= format.has_bits;
    for (n, s) in &format.inits {
        // What the line says itself wins.
        if !line.inits.iter().any(|(own, _)| own == n) {
            line.inits.push((n.clone(), s.clone()));
        }
    }
    line.args = line.args.or(format.args);
    Ok(line)
}
