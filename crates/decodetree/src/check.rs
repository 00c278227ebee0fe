//! Search for patterns that overlap where they must not.
//!
//! Two patterns overlap when some word matches both. That is allowed only when their nearest common
//! group is a `{ }` group, where order decides. Everything else is a mistake in the table and stops
//! the build with both names and lines.
//! Source: own design.

use crate::Error;
use crate::model::{Node, Table};

/// Fails with one error per forbidden pair.
pub(crate) fn overlaps(table: &Table) -> Result<(), Vec<Error>> {
    let mut errors = Vec::new();
    exclusive(table, &table.root, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn leaves(node: &Node, out: &mut Vec<usize>) {
    match node {
        Node::Pattern(i) => out.push(*i),
        Node::Group { items, .. } => items.iter().for_each(|n| leaves(n, out)),
    }
}

fn inside(table: &Table, node: &Node, errors: &mut Vec<Error>) {
    match node {
        Node::Pattern(_) => {}
        Node::Group { overlap: false, items } => exclusive(table, items, errors),
        Node::Group { overlap: true, items } => items.iter().for_each(|n| inside(table, n, errors)),
    }
}

fn exclusive(table: &Table, items: &[Node], errors: &mut Vec<Error>) {
    let sets: Vec<Vec<usize>> = items
        .iter()
        .map(|n| {
            let mut v = Vec::new();
            leaves(n, &mut v);
            v
        })
        .collect();
    for (i, set) in sets.iter().enumerate() {
        for other in sets.iter().skip(i + 1) {
            for a in set {
                for b in other {
                    pair(table, *a, *b, errors);
                }
            }
        }
    }
    items.iter().for_each(|n| inside(table, n, errors));
}

fn pair(table: &Table, a: usize, b: usize, errors: &mut Vec<Error>) {
    let (Some(a), Some(b)) = (table.patterns.get(a), table.patterns.get(b)) else { return };
    if (a.value ^ b.value) & a.mask & b.mask == 0 {
        let message = format!(
            "pattern `{}` (line {}) overlaps pattern `{}` (line {}); both match {:#010x}",
            b.name,
            b.line,
            a.name,
            a.line,
            a.value | b.value
        );
        errors.push(Error { line: b.line, message });
    }
}
