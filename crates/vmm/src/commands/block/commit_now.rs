//! `commit` of the human monitor: what the first layer of a drive holds goes to its backing file, at
//! once and while everything waits; then the layer is emptied.
//!
//! The chain stays as it is. Not here: jobs (`layers.rs`).
//! Source: QEMU's manual, what QEMU 10.0 prints and does.

use std::io;
use std::sync::Arc;

use block::{Graph, Node, Preallocation};

use super::graph;
use crate::Vm;

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

/// Copies what a layer itself decides.
fn copy(top: &Node, base: &Node) -> io::Result<()> {
    if base.len() < top.len() {
        base.driver().truncate(top.len(), Preallocation::Off)?;
    }
    let (mut at, end) = (0, top.len());
    while at < end {
        let found = top.extent(at, (end - at).min(PIECE))?;
        if found.allocated && found.zero {
            base.write_zeroes(at, found.len, false)?;
        } else if found.allocated {
            let mut data = vec![0; usize::try_from(found.len).unwrap_or(0)];
            top.read(at, &mut data)?;
            base.write(at, &data)?;
        }
        at += found.len;
    }
    base.flush()
}

fn commit(graph: &Graph, root: &Arc<Node>) -> Result<(), String> {
    let told = |error: io::Error| host::reason(&error);
    let top = root.skip_filters();
    let base = top.child("backing").ok_or("Operation not supported")?;
    if [&top, &base].iter().any(|node| graph.why_blocked(node).is_some()) {
        return Err("Device or resource busy".into());
    }
    let _still = graph.drain();
    let was_read_only = base.is_read_only();
    if was_read_only {
        graph.set_read_only(&base, false).map_err(|_| "Permission denied")?;
    }
    let done = copy(&top, &base).and_then(|()| match top.driver().make_empty() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
        _ => top.flush(),
    });
    if was_read_only {
        // It was read-only before, so that it can be so again.
        _ = graph.set_read_only(&base, true);
    }
    done.map_err(told)
}

/// Commits a drive or `all` of them; what the monitor says comes back.
#[must_use]
pub fn commit_now(vm: &Vm, device: &str) -> String {
    let Ok(graph) = graph(vm) else { return format!("Device '{device}' not found\n") };
    let all = graph.drives();
    if device == "all" {
        let has_backing = |root: &Arc<Node>| root.skip_filters().child("backing").is_some();
        let roots = all.into_iter().filter_map(|(_, root)| root).filter(has_backing);
        for root in roots {
            if let Err(why) = commit(&graph, &root) {
                return format!("'commit' error for 'all': {why}\n");
            }
        }
        return String::new();
    }
    let Some((_, root)) = all.into_iter().find(|(name, _)| name == device) else {
        return format!("Device '{device}' not found\n");
    };
    let done = root.map_or_else(|| Err("No medium found".to_owned()), |root| commit(&graph, &root));
    done.map_or_else(|why| format!("'commit' error for '{device}': {why}\n"), |()| String::new())
}
