//! What a node is called for people: the file's name where that says everything, else the options.
//!
//! A name says everything when opening it again gives the same node. Where more was given (a window
//! of `raw`, limits, a secret, another backing file than the image names), the name is `json:` with
//! the options that decide what is read; options that only tune are left out. Members stand in the
//! order in which QEMU shows them.
//! Source: names that QEMU 10.0 shows in `query-named-block-nodes` and `info`.

use qapi::Value;

use crate::graph::relative_to;
use crate::node::Node;

/// Deepest chain of nodes that a name tells of.
const DEPTH: usize = 500;
/// Options by driver that decide what is read; all of `blkdebug` do.
const DECIDE: &[(&str, &[&str])] = &[
    ("raw", &["offset", "size"]),
    ("null-co", &["size", "read-zeroes"]),
    ("null-aio", &["size", "read-zeroes"]),
    ("throttle", &["throttle-group"]),
    ("luks", &["key-secret"]),
    ("qcow2", &["encrypt.key-secret"]),
    ("file", &["filename"]),
    ("host_device", &["filename"]),
    ("nbd", &["server", "host", "port", "path", "export", "x-dirty-bitmap"]),
];
/// Members in the peer's order; the others follow.
const ORDER: &[&str] = &[
    "backing",
    "encrypt.key-secret",
    "inject-error.0.state",
    "opt-write-zero",
    "inject-error.0.immediately",
    "read-zeroes",
    "throttle-group",
    "set-state.0.event",
    "inject-error.0.once",
    "max-write-zero",
    "offset",
    "image",
    "max-transfer",
    "driver",
    "config",
    "size",
    "file",
    "key-secret",
    "inject-error.0.iotype",
    "set-state.0.new_state",
    "inject-error.0.errno",
    "inject-error.0.event",
    "opt-discard",
    "set-state.0.state",
    "inject-error.0.sector",
    "max-discard",
    "align",
];

/// A node's name in both ways.
pub(crate) struct Called {
    /// A name that says everything, if there is one.
    exact: Option<String>,
    /// The options.
    options: Value,
}

impl Called {
    pub(crate) fn name(self) -> String {
        let Called { exact, options } = self;
        exact.unwrap_or_else(|| format!("json:{}", qapi::json::to_string(&options)))
    }
}

/// Keys with dots instead of trees and lists.
pub(crate) fn flat(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    let within = |key: &str| format!("{prefix}.{key}");
    match value {
        Value::Map(members) => members.iter().for_each(|(k, v)| flat(&within(k), v, out)),
        Value::List(all) => {
            for (n, value) in all.iter().enumerate() {
                flat(&within(&n.to_string()), value, out);
            }
        }
        other => out.push((prefix.to_owned(), other.clone())),
    }
}

/// Options that were given and decide what is read.
fn deciding(node: &Node) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (key, value) in node.given.as_map().unwrap_or(&[]) {
        flat(key, value, &mut all);
    }
    let class = node.class.name;
    if class == "blkdebug" {
        let own = ["config", "align", "inject-error", "set-state"];
        let is_own = |key: &str| {
            let head = key.split('.').next().unwrap_or("");
            own.contains(&head) || head.starts_with("max-") || head.starts_with("opt-")
        };
        all.retain(|(key, _)| is_own(key));
        return all;
    }
    let known = DECIDE.iter().find(|(name, _)| *name == class).map_or(&[][..], |(_, keys)| keys);
    let covers = |known: &str, key: &str| {
        key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    all.retain(|(key, _)| known.iter().any(|known| covers(known, key)));
    all
}

/// The place of a member.
fn place(key: &str) -> usize {
    ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len())
}

/// Whether another backing file stands behind a node than the one that its image names.
fn is_other(node: &Node, backing: Option<&str>) -> bool {
    if !node.class.has_backing || node.flags().no_backing {
        return false;
    }
    let stored = node.driver.format_info().backing_file;
    let opened = node.opened_backing.lock();
    let means = stored.map(|stored| match &*opened {
        Some((name, found)) if *name == stored => found.clone(),
        _ => relative_to(&node.path, &stored),
    });
    means.as_deref() != backing
}

/// What a node is called. Each node below is looked at once.
pub(crate) fn called(node: &Node, depth: usize) -> Called {
    if depth > DEPTH {
        return Called { exact: Some(node.path.clone()), options: Value::empty() };
    }
    let class = node.class.name;
    if node.implicit
        && let Some((_, child)) = node.children().first()
    {
        // Filters that jobs put in without a name are not seen.
        return called(child, depth + 1);
    }
    let mut decide = deciding(node);
    let mut members = vec![("driver".to_owned(), Value::from(class))];
    let mut below: Option<Called> = None;
    let mut below_is_protocol = false;
    let mut other_backing = false;
    for (role, child) in node.children() {
        let name = called(&child, depth + 1);
        match role {
            "backing" if node.class.has_backing => {
                let options = name.options.clone();
                other_backing = is_other(node, Some(&name.name()));
                if other_backing {
                    members.push((role.to_owned(), options));
                }
            }
            "file" | "image" | "backing" => {
                members.push((role.to_owned(), name.options.clone()));
                below_is_protocol = child.class.protocol;
                below = Some(name);
            }
            _ => {}
        }
    }
    if node.child("backing").is_none() && is_other(node, None) {
        other_backing = true;
        members.push(("backing".to_owned(), Value::Null));
    }
    let only_config = decide.iter().all(|(key, _)| key == "config");
    let config = decide.iter().find(|(key, _)| key == "config");
    let config = config.and_then(|(_, v)| v.as_str()).unwrap_or("").to_owned();
    let exact = match class {
        // Names of protocols that say their options.
        "file" | "host_device" | "nbd" => Some(node.path.clone()),
        "null-co" | "null-aio" => decide.is_empty().then(|| node.path.clone()),
        "copy-on-read" | "throttle" => None,
        "blkdebug" if !only_config => None,
        "blkdebug" => {
            below.and_then(|below| below.exact).map(|name| format!("blkdebug:{config}:{name}"))
        }
        // Filters of jobs are called as what is below them.
        _ if node.class.is_filter() => below.map(Called::name),
        _ if other_backing || !decide.is_empty() || !below_is_protocol => None,
        _ => below.and_then(|below| below.exact),
    };
    members.append(&mut decide);
    members.sort_by_key(|(key, _)| place(key));
    Called { exact, options: Value::Map(members) }
}
