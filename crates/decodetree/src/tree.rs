//! The decision tree.
//!
//! Turns the nodes of a table into nested dense switches: at each step the longest run of bits that
//! all remaining patterns fix is switched on; when there is none, one bit that most of them fix.
//! It does not write code; `emit` does.
//! Source: own design.

use crate::model::{Node, Table};

/// A step of the decoder.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Nothing matches.
    Undefined,
    /// Compare, then go on.
    Test { mask: u32, value: u32, then: Box<Step> },
    /// Switch on `(insn >> shift) & mask`.
    Switch { shift: u32, mask: u32, arms: Vec<(u32, Step)> },
    /// First that accepts.
    Either(Vec<Step>),
    /// Call the pattern.
    Call(usize),
}

#[derive(Clone)]
struct Item<'a> {
    mask: u32,
    value: u32,
    node: &'a Node,
}

/// Longest run of bits in one switch: at most 64 arms.
const MAX_RUN: u32 = 6;

/// Builds the tree for a table.
pub(crate) fn build(table: &Table) -> Step {
    exclusive(table, &table.root, 0)
}

/// Bits that every pattern under `node` fixes to the same value.
fn common(table: &Table, node: &Node) -> (u32, u32) {
    match node {
        Node::Pattern(i) => table.patterns.get(*i).map_or((0, 0), |p| (p.mask, p.value)),
        Node::Group { items, .. } => {
            let mut all = items.iter().map(|n| common(table, n));
            let first = all.next().unwrap_or((0, 0));
            all.fold(first, |(m, v), (m2, v2)| {
                let mask = m & m2 & !(v ^ v2);
                (mask, v & mask)
            })
        }
    }
}

fn exclusive(table: &Table, nodes: &[Node], known: u32) -> Step {
    let mut items = Vec::new();
    flatten(table, nodes, &mut items);
    split(table, &items, known)
}

/// Exclusive groups dissolve in an exclusive parent.
fn flatten<'a>(table: &Table, nodes: &'a [Node], out: &mut Vec<Item<'a>>) {
    for node in nodes {
        if let Node::Group { overlap: false, items } = node {
            flatten(table, items, out);
        } else {
            let (mask, value) = common(table, node);
            out.push(Item { mask, value, node });
        }
    }
}

fn single(table: &Table, item: &Item<'_>, known: u32) -> Step {
    let rest = item.mask & !known;
    let known = known | item.mask;
    let then = match item.node {
        Node::Pattern(i) => Step::Call(*i),
        Node::Group { overlap: false, items } => exclusive(table, items, known),
        Node::Group { overlap: true, items } => Step::Either(
            items.iter().map(|n| exclusive(table, std::slice::from_ref(n), known)).collect(),
        ),
    };
    if rest == 0 {
        then
    } else {
        Step::Test { mask: rest, value: item.value & rest, then: Box::new(then) }
    }
}

fn split(table: &Table, items: &[Item<'_>], known: u32) -> Step {
    match items {
        [] => return Step::Undefined,
        [one] => return single(table, one, known),
        _ => {}
    }
    let all = items.iter().fold(!known, |m, i| m & i.mask);
    let first = items.first().map_or(0, |i| i.value);
    let differing = items.iter().fold(0, |d, i| d | (i.value ^ first)) & all;
    let same = all & !differing;
    if same != 0 {
        let then = Box::new(split(table, items, known | same));
        return Step::Test { mask: same, value: first & same, then };
    }
    if differing != 0 {
        let (shift, len) = longest_run(differing);
        return switch(table, items, known, shift, len);
    }
    match best_bit(items, known) {
        Some(bit) => switch(table, items, known, bit, 1),
        None => Step::Either(items.iter().map(|i| single(table, i, known)).collect()),
    }
}

fn switch(table: &Table, items: &[Item<'_>], known: u32, shift: u32, len: u32) -> Step {
    let mask = (1 << len) - 1;
    let mut arms = Vec::new();
    for v in 0..=mask {
        let here = |i: &&Item<'_>| (i.value ^ (v << shift)) & i.mask & (mask << shift) == 0;
        let subset: Vec<Item<'_>> = items.iter().filter(here).cloned().collect();
        if !subset.is_empty() {
            arms.push((v, split(table, &subset, known | (mask << shift))));
        }
    }
    Step::Switch { shift, mask, arms }
}

fn longest_run(bits: u32) -> (u32, u32) {
    let mut best = (0, 0);
    let mut pos = 0;
    while pos < 32 {
        let len = (bits >> pos).trailing_ones().min(MAX_RUN);
        if len > best.1 {
            best = (pos, len);
        }
        pos += len.max(1);
    }
    best
}

/// The bit that most items fix, if both values occur.
fn best_bit(items: &[Item<'_>], known: u32) -> Option<u32> {
    (0..32u32)
        .filter(|b| known >> b & 1 == 0)
        .filter_map(|b| {
            let fixed = |v: u32| {
                items.iter().filter(|i| i.mask >> b & 1 == 1 && i.value >> b & 1 == v).count()
            };
            let (zeros, ones) = (fixed(0), fixed(1));
            (zeros > 0 && ones > 0).then_some((zeros + ones, zeros.min(ones), b))
        })
        .max()
        .map(|(_, _, b)| b)
}
