//! What a parsed table is.
//!
//! Plain data only: fields, argument sets, formats and patterns after all references are resolved.
//! `parse` makes it, `check` reads it for overlaps, `tree` and `emit` turn it into code.
//! Nothing here is public outside the crate.
//! Source: own design.

/// Bits of an instruction word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seg {
    pub(crate) pos: u32,
    pub(crate) len: u32,
    pub(crate) signed: bool,
}

impl Seg {
    pub(crate) fn mask(self) -> u32 {
        low_bits(self.len) << self.pos
    }
}

/// A mask of the `n` lowest bits.
pub(crate) fn low_bits(n: u32) -> u32 {
    if n >= 32 { u32::MAX } else { (1 << n) - 1 }
}

/// What `!function=` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Func {
    Plus1,
    Shl(u32),
}

/// Concatenated segments, the most significant first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) segs: Vec<Seg>,
    pub(crate) func: Option<Func>,
}

impl Field {
    pub(crate) fn mask(&self) -> u32 {
        self.segs.iter().fold(0, |m, s| m | s.mask())
    }

    pub(crate) fn signed(&self) -> bool {
        self.segs.first().is_some_and(|s| s.signed)
    }
}

/// Where a member's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Field(Field),
    Const(i64),
}

/// A member of an argument set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) signed: bool,
}

/// An argument set: one generated struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArgSet {
    /// Name of the Rust struct.
    pub(crate) type_name: String,
    pub(crate) members: Vec<Member>,
}

/// One line of the table that names an instruction.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    pub(crate) name: String,
    pub(crate) mask: u32,
    pub(crate) value: u32,
    /// Index into [`Table::args`].
    pub(crate) args: usize,
    /// In the order of the argument set's members.
    pub(crate) inits: Vec<Source>,
    pub(crate) line: usize,
}

/// A pattern, or a group of them.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Pattern(usize),
    Group { overlap: bool, items: Vec<Node> },
}

/// A whole table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) args: Vec<ArgSet>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) root: Vec<Node>,
}
