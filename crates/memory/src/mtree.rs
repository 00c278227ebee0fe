//! The memory map as text, in the form of QEMU's `info mtree`.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::flat::Kind;
use crate::region::{Body, Region};
use crate::space::AddressSpace;

fn kind_name(region: &Region) -> &'static str {
    match &region.0.body {
        Body::Ram { readonly: true, .. } => "rom",
        Body::RomDevice { .. } => "romd",
        Body::Ram { .. } => "ram",
        Body::Alias { target, .. } => kind_name(target),
        _ => "i/o",
    }
}

fn line(out: &mut String, region: &Region, base: u64, priority: i32, depth: usize) {
    let last = base.wrapping_add(region.last());
    let _ = write!(out, "{:indent$}", "", indent = 2 * (depth + 1));
    let _ = write!(out, "{base:016x}-{last:016x} (prio {priority}, {}): ", kind_name(region));
    if let Body::Alias { target, offset } = &region.0.body {
        let end = offset.wrapping_add(region.last());
        let _ = write!(out, "alias {} @{} {offset:016x}-{end:016x}", region.name(), target.name());
    } else {
        out.push_str(region.name());
    }
    out.push_str(if region.is_enabled() { "\n" } else { " [disabled]\n" });
}

fn tree(
    out: &mut String,
    region: &Region,
    base: u64,
    priority: i32,
    depth: usize,
    targets: &mut Vec<Region>,
) {
    if depth > 32 {
        return;
    }
    line(out, region, base, priority, depth);
    if let Body::Alias { target, .. } = &region.0.body
        && !targets.contains(target)
    {
        targets.push(target.clone());
    }
    let mut children = region.children();
    children.sort_by_key(|c| (c.at, std::cmp::Reverse(c.priority)));
    for child in children {
        let at = base.wrapping_add(child.at);
        tree(out, &child.region, at, child.priority, depth + 1, targets);
    }
}

/// Text of `info mtree`: the region graph of each address space, spaces with the
/// same root together, then the regions that aliases show.
#[must_use]
pub fn mtree(spaces: &[AddressSpace]) -> String {
    let mut out = String::new();
    let mut targets = Vec::new();
    for (root, names) in groups(spaces) {
        for name in names {
            let _ = writeln!(out, "address-space: {name}");
        }
        tree(&mut out, &root, 0, 0, 0, &mut targets);
        out.push('\n');
    }
    let mut done = 0;
    while let Some(target) = targets.get(done).cloned() {
        let _ = writeln!(out, "memory-region: {}", target.name());
        tree(&mut out, &target, 0, 0, 0, &mut targets);
        out.push('\n');
        done += 1;
    }
    out
}

fn groups(spaces: &[AddressSpace]) -> Vec<(Region, Vec<String>)> {
    let mut groups: Vec<(Region, Vec<String>)> = Vec::new();
    for space in spaces {
        match groups.iter_mut().find(|(root, _)| root == space.root()) {
            Some((_, names)) => names.push(space.name().to_owned()),
            None => groups.push((space.root().clone(), vec![space.name().to_owned()])),
        }
    }
    for (_, names) in &mut groups {
        names.sort();
    }
    groups
}

/// Text of `info mtree -f`: the flat views.
#[must_use]
pub fn mtree_flat(spaces: &[AddressSpace]) -> String {
    let mut out = String::new();
    for (index, (root, _)) in groups(spaces).into_iter().enumerate() {
        let same: Vec<&AddressSpace> = spaces.iter().filter(|s| *s.root() == root).collect();
        let _ = writeln!(out, "FlatView #{index}");
        for space in &same {
            let _ = writeln!(out, " AS \"{}\", root: {}", space.name(), root.name());
        }
        let _ = writeln!(out, " Root memory region: {}", root.name());
        let view = same.first().map(|s| s.view());
        let ranges = view.as_ref().map_or(&[][..], |v: &Arc<_>| v.ranges());
        if ranges.is_empty() {
            out.push_str("  No rendered FlatView\n");
        }
        for range in ranges {
            let kind = match &range.kind {
                Kind::Ram { readonly: true, .. } => "rom",
                Kind::RomDevice { .. } => "romd",
                Kind::Ram { .. } => "ram",
                Kind::Mmio { .. } => "i/o",
            };
            let (start, last) = (range.start, range.last);
            let _ = write!(out, "  {start:016x}-{last:016x} (prio 0, {kind}): ");
            out.push_str(range.region.name());
            if range.offset != 0 {
                let _ = write!(out, " @{:016x}", range.offset);
            }
            out.push('\n');
        }
        out.push('\n');
    }
    out
}
