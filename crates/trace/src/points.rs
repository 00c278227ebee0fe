//! Trace points switched by name patterns.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

static ANY: AtomicBool = AtomicBool::new(false);
static PATTERNS: RwLock<Vec<(String, bool)>> = RwLock::new(Vec::new());

/// Switches the points whose names match `pattern` (`*` at the end matches the
/// rest); a later pattern wins over an earlier one.
pub fn enable_point(pattern: &str, on: bool) {
    PATTERNS.write().push((pattern.to_owned(), on));
    ANY.store(true, Ordering::Relaxed);
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.starts_with(head) && name.len() >= head.len() + tail.len() && name.ends_with(tail)
        }
    }
}

/// Whether the point is on. While no pattern was ever given, one relaxed load.
#[must_use]
pub fn point_enabled(name: &str) -> bool {
    ANY.load(Ordering::Relaxed)
        && PATTERNS.read().iter().rev().find(|(p, _)| matches(p, name)).is_some_and(|(_, on)| *on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_pattern_wins() {
        enable_point("pl0*", true);
        enable_point("pl031_*", false);
        assert!(point_enabled("pl011_write"));
        assert!(!point_enabled("pl031_read"));
        assert!(!point_enabled("gic_read"));
    }
}
