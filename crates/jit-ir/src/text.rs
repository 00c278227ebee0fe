//! Text form of blocks: `-d op`, file tests, and dumps of failing random cases.
//!
//! ```text
//! block start=16 len=8 insns=2
//! exit 0 page 24
//! v0 = insn imm=16
//! v1 = get.i64 imm=8
//! v2 = const.i64 imm=1
//! v3 = add.i64 v1, v2
//! v4 = set.i64 v3 imm=8
//! v5 = exit imm=0
//! ```
//! Every line names its op's index so that operands can be read off; the parser checks it.

use std::fmt::Write as _;

use crate::block::{Block, Exit};
use crate::op::{Arg, Op, Opcode, Ty, Val};

const TYPES: [(Ty, &str); 5] =
    [(Ty::None, ""), (Ty::I32, ".i32"), (Ty::I64, ".i64"), (Ty::V128, ".v128"), (Ty::Cc, ".cc")];

/// Prints a block.
#[must_use]
pub fn print(block: &Block) -> String {
    let mut s = format!("block start={} len={} insns={}\n", block.start, block.len, block.insns);
    for (i, e) in block.exits.iter().enumerate() {
        let _ = match e {
            Exit::Page(o) => writeln!(s, "exit {i} page {o}"),
            Exit::Rel(d) => writeln!(s, "exit {i} rel {d}"),
            Exit::Indirect(v) => writeln!(s, "exit {i} indirect {}", v.0),
            Exit::Return(v) => writeln!(s, "exit {i} return {}", v.0),
            Exit::Runtime(o) => writeln!(s, "exit {i} runtime {o}"),
            Exit::RuntimePcSet => writeln!(s, "exit {i} pcset 0"),
            Exit::Helper { helper, imm, offset } => {
                writeln!(s, "exit {i} helper {helper}:{imm}:{offset}")
            }
        };
    }
    for (i, op) in block.ops.iter().enumerate() {
        s.push_str(&print_op(i, op));
        s.push('\n');
    }
    s
}

/// Prints one op.
#[must_use]
pub fn print_op(i: usize, op: &Op) -> String {
    let ty = TYPES.iter().find(|t| t.0 == op.ty).map_or("", |t| t.1);
    let mut s = format!("v{i} = {}{ty}", op.code.text());
    let mut sep = " ";
    for (kind, v) in op.code.args().into_iter().zip([op.a, op.b, op.c()]) {
        if kind != Arg::No {
            let _ = if v == Val::NONE { write!(s, "{sep}_") } else { write!(s, "{sep}v{}", v.0) };
            sep = ", ";
        }
    }
    if op.code.uses_aux() {
        let _ = write!(s, " aux={}", op.aux);
    }
    if op.code.uses_imm() {
        let imm = if op.code.args()[2] == Arg::No { op.imm } else { op.imm >> 32 };
        let _ = write!(s, " imm={imm}");
    }
    s
}

fn number<T: std::str::FromStr>(t: &str) -> Result<T, String> {
    t.parse().map_err(|_| format!("bad number '{t}'"))
}

fn setting<T: std::str::FromStr>(t: &str, key: &str) -> Result<T, String> {
    number(t.strip_prefix(key).ok_or_else(|| format!("expected {key}… in '{t}'"))?)
}

fn parse_exit(words: &[&str]) -> Result<Exit, String> {
    let &[_, _, kind, arg] = words else { return Err("exit needs three words".into()) };
    Ok(match kind {
        "page" => Exit::Page(number(arg)?),
        "rel" => Exit::Rel(number(arg)?),
        "indirect" => Exit::Indirect(Val(number(arg)?)),
        "return" => Exit::Return(Val(number(arg)?)),
        "runtime" => Exit::Runtime(number(arg)?),
        "pcset" => Exit::RuntimePcSet,
        "helper" => {
            let mut parts = arg.splitn(3, ':').map(|p| p.parse::<u32>());
            let mut part = || parts.next().and_then(Result::ok).ok_or("bad helper exit");
            let helper = u16::try_from(part()?).map_err(|_| "helper number too big")?;
            Exit::Helper { helper, imm: part()?, offset: part()? }
        }
        _ => return Err(format!("unknown exit kind '{kind}'")),
    })
}

fn parse_op(line: &str, index: usize) -> Result<Op, String> {
    let (name, rest) = line.split_once(" = ").ok_or("expected 'vN = …'")?;
    if name != format!("v{index}") {
        return Err(format!("expected v{index}, found {name}"));
    }
    let mut words = rest.split([' ', ',']).filter(|w| !w.is_empty());
    let head = words.next().ok_or("no opcode")?;
    let (code, ty) = head.split_once('.').unwrap_or((head, ""));
    let code = *Opcode::ALL.iter().find(|c| c.text() == code).ok_or(format!("no op '{code}'"))?;
    let ty = TYPES
        .iter()
        .find(|t| t.1.trim_start_matches('.') == ty)
        .ok_or(format!("no type '{ty}'"))?;
    let mut op = Op::new(code, ty.0);
    let mut vals = [Val::NONE; 3];
    for (kind, v) in code.args().into_iter().zip(&mut vals) {
        if kind != Arg::No {
            let w = words.next().ok_or("operand missing")?;
            *v = if w == "_" { Val::NONE } else { Val(setting(w, "v")?) };
        }
    }
    (op.a, op.b) = (vals[0], vals[1]);
    let with_c = code.args()[2] != Arg::No;
    if code.uses_aux() {
        op.aux = setting(words.next().ok_or("aux missing")?, "aux=")?;
    }
    let imm: i64 =
        if code.uses_imm() { setting(words.next().ok_or("imm missing")?, "imm=")? } else { 0 };
    op.imm = if with_c { imm.wrapping_shl(32) | i64::from(vals[2].0) } else { imm };
    match words.next() {
        None => Ok(op),
        Some(w) => Err(format!("unexpected '{w}'")),
    }
}

/// Parses what [`print`] wrote; the error names the line.
pub fn parse(text: &str) -> Result<Block, String> {
    let mut block = Block::default();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        parse_line(&mut block, line).map_err(|e| format!("line {}: {e}", n + 1))?;
    }
    Ok(block)
}

fn parse_line(block: &mut Block, line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.first() {
        Some(&"block") => {
            let get = |i: usize| words.get(i).copied().unwrap_or("");
            block.start = setting(get(1), "start=")?;
            block.len = setting(get(2), "len=")?;
            block.insns = setting(get(3), "insns=")?;
        }
        Some(&"exit") => block.exits.push(parse_exit(&words)?),
        _ if block.ops.len() >= usize::from(u16::MAX) => return Err("too many ops".into()),
        _ => block.ops.push(parse_op(line, block.ops.len())?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_text_is_refused_with_its_line() {
        for (bad, want) in [
            ("v0 = frob", "line 1: no op 'frob'"),
            ("v1 = insn imm=0", "line 1: expected v0"),
            ("v0 = const.i99 imm=0", "no type"),
            ("v0 = add.i64 v1", "operand missing"),
            ("exit 0 nowhere 1", "unknown exit"),
            ("block start=x", "bad number"),
        ] {
            let e = parse(bad).expect_err(bad);
            assert!(e.contains(want), "{bad}: {e}");
        }
    }
}
