//! `blockdev-reopen`: nodes take other options, as a list that is taken as a whole or not at all.
//!
//! What every node has (`read-only`, `cache`, `discard`, ...) may change, and so may the backing
//! node and the file of a node that passes requests on. What a driver has of its own must stay as
//! it was given. Options that are not given go back to what they are without being given.
//! Not here: `offset` and `size` of raw, secrets of encrypted images, `x-` options.
//! Source: QEMU's manual and messages of QEMU 10.0.

use std::sync::Arc;

use qapi::{Error, Result, Source, Value};

use crate::graph::{Flags, Graph, common};
use crate::node::{Node, Use};
use crate::opening::used_by;

/// Options of drivers that change nothing that is seen and may change.
const TUNING: &[&str] = &[
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "overlap-check.template",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-size",
    "cache-clean-interval",
];
/// Options of drivers that must stay.
const FIXED: &[(&str, &[&str])] = &[
    ("qcow2", &["encrypt", "data-file"]),
    ("raw", &["offset", "size"]),
    ("file", &["filename", "aio", "locking", "pr-manager", "drop-cache", "aio-max-batch"]),
    ("host_device", &["filename", "aio", "locking", "pr-manager", "drop-cache"]),
    ("throttle", &["throttle-group"]),
    ("luks", &["key-secret"]),
    ("null-co", &["size", "latency-ns", "read-zeroes"]),
    ("null-aio", &["size", "latency-ns", "read-zeroes"]),
    ("copy-on-read", &["bottom"]),
];
const COMMON: &[&str] = &[
    "driver",
    "node-name",
    "read-only",
    "auto-read-only",
    "force-share",
    "discard",
    "detect-zeroes",
    "cache",
];

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

fn cannot<T>(option: &str) -> Result<T> {
    refuse(format!("Cannot change the option '{option}'"))
}

fn missing(name: &str) -> Error {
    Error::generic(format!("Cannot find device='' nor node-name='{name}'"))
}

/// How a node was, for going back.
struct Before {
    node: Arc<Node>,
    flags: Flags,
    detect: crate::Detect,
    links: Vec<(&'static str, Arc<Node>)>,
}

impl Graph {
    /// Gives nodes other options.
    ///
    /// # Errors
    /// One of them cannot take them; all are as they were then.
    pub fn reopen(&self, list: Vec<Value>) -> Result<()> {
        let mut nodes = Vec::new();
        for (at, options) in list.into_iter().enumerate() {
            let name = match options.get("node-name") {
                None => return refuse("node-name not specified"),
                Some(Value::Str(name)) => name.clone(),
                Some(_) => {
                    return Err(Error::wrong_type(&format!("options[{at}].node-name"), "string"));
                }
            };
            let node = self.find(&name).ok_or_else(|| {
                Error::generic(format!("Failed to find node with node-name='{name}'"))
            })?;
            check_known(&node, &options, at)?;
            nodes.push((node, options));
        }
        let _still = self.drain();
        let mut done: Vec<Before> = Vec::new();
        for (node, options) in nodes {
            let result = self.reopen_one(&node, options, &mut done, ("", 0));
            if let Err(error) = result {
                for before in done.iter().rev() {
                    self.go_back(before);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn go_back(&self, before: &Before) {
        let node = &before.node;
        if node.driver_has_backing() {
            let backing = before.links.iter().find(|(role, _)| *role == "backing");
            let hold = backing.map(|(_, below)| as_backing(below, node));
            _ = node.set_backing(hold);
        }
        for (role, link) in node.links() {
            if let Some((_, old)) = before.links.iter().find(|(r, _)| *r == role)
                && role != "backing"
            {
                Node::retarget(&link, old);
            }
        }
        _ = self.reopen_as(node, before.flags, before.detect);
    }

    fn reopen_one(
        &self,
        node: &Arc<Node>,
        mut options: Value,
        done: &mut Vec<Before>,
        (within, depth): (&str, usize),
    ) -> Result<()> {
        if depth > 64 {
            return refuse("the chain of images is too long or never ends");
        }
        let backing = options.take("backing");
        if backing.is_none() && node.child("backing").is_some_and(|below| self.is_named(&below)) {
            return refuse(format!("backing is missing for '{}'", node.name()));
        }
        check_fixed(node, &options, within)?;
        let file = options.take("file");
        let forces = options.get("force-share").and_then(Value::as_bool).unwrap_or(false);
        if forces != node.flags().force_share {
            return cannot("force-share");
        }
        let new = self.flags_of(node, options)?;
        done.push(Before {
            node: node.clone(),
            flags: node.flags(),
            detect: node.detect_zeroes(),
            links: node.children(),
        });
        if let Some(file) = file {
            self.reopen_child(node, "file", file, done, (within, depth))?;
        }
        if let Some(given) = backing {
            self.reopen_backing(node, given, done, (within, depth))?;
        }
        self.reopen_as(node, new.0, new.1)
    }

    /// The flags that options mean; what is not given is as without options.
    fn flags_of(&self, node: &Arc<Node>, options: Value) -> Result<(Flags, crate::Detect)> {
        let mut given = Value::empty();
        for name in COMMON.iter().skip(2) {
            if let Some(value) = options.get(name) {
                given.set(name, value.clone());
            }
        }
        let old = node.flags();
        let start = Flags {
            no_backing: old.no_backing,
            check: old.check,
            header_only: old.header_only,
            ..Flags::default()
        };
        let (mut flags, detect) = common(&mut given, Source::Json, start)?;
        flags.force_share = old.force_share;
        Ok((flags, detect))
    }

    fn reopen_child(
        &self,
        node: &Arc<Node>,
        role: &'static str,
        given: Value,
        done: &mut Vec<Before>,
        (within, depth): (&str, usize),
    ) -> Result<()> {
        let Some((_, link)) = node.links().into_iter().find(|(r, _)| *r == role) else {
            return cannot(role);
        };
        let now = link.node();
        match given {
            Value::Str(name) => {
                let new = self.find(&name).ok_or_else(|| missing(&name))?;
                if Arc::ptr_eq(&new, &now) {
                    return Ok(());
                }
                let same = Arc::ptr_eq(&new.skip_filters(), &now.skip_filters());
                if !node.class().passes_on() && !same {
                    new.check_new_user(&used_by(node.name(), &new, role), link.how())?;
                    return cannot(role);
                }
                self.check_cycle(node, &new, role)?;
                if !node.class().passes_on() {
                    new.check_new_user(&used_by(node.name(), &new, role), link.how())?;
                }
                Node::retarget(&link, &new);
                Ok(())
            }
            value if self.is_named(&now) => {
                let first = value.as_map().and_then(|members| members.first());
                let key = first.map_or("driver", |(key, _)| key.as_str()).to_owned();
                cannot(&format!("{within}{role}.{key}"))
            }
            value => {
                let within = format!("{within}{role}.");
                self.reopen_one(&now, value, done, (&within, depth + 1))
            }
        }
    }

    fn check_cycle(&self, node: &Arc<Node>, new: &Arc<Node>, role: &str) -> Result<()> {
        if new.below().iter().any(|below| Arc::ptr_eq(below, node)) {
            return refuse(format!(
                "Making '{}' a {role} child of '{}' would create a cycle",
                new.name(),
                node.name()
            ));
        }
        Ok(())
    }

    fn reopen_backing(
        &self,
        node: &Arc<Node>,
        given: Value,
        done: &mut Vec<Before>,
        (within, depth): (&str, usize),
    ) -> Result<()> {
        let now = node.child("backing");
        let new = match given {
            Value::Null => None,
            Value::Str(name) => Some(self.find(&name).ok_or_else(|| missing(&name))?),
            value => match now {
                Some(below) if !self.is_named(&below) => {
                    let within = format!("{within}backing.");
                    return self.reopen_one(&below, value, done, (&within, depth + 1));
                }
                _ => {
                    let first = value.as_map().and_then(|members| members.first());
                    let key = first.map_or("driver", |(key, _)| key.as_str()).to_owned();
                    return cannot(&format!("{within}backing.{key}"));
                }
            },
        };
        let is = |a: &Option<Arc<Node>>, b: &Option<Arc<Node>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        // A filter that a job put in is not seen.
        if is(&now, &new) || is(&now.as_ref().map(Node::skip_implicit), &new) {
            return Ok(());
        }
        if !node.driver_has_backing() {
            return refuse(format!(
                "Driver '{}' of node '{}' does not support backing files",
                node.class().name,
                node.name()
            ));
        }
        let name = |node: &Option<Arc<Node>>| {
            node.as_ref().map_or_else(|| "(null)".to_owned(), |node| node.name().to_owned())
        };
        if self.why_blocked(node).is_some() && now.is_some() {
            return refuse(format!(
                "Cannot change frozen 'backing' link from '{}' to '{}'",
                node.name(),
                name(&now)
            ));
        }
        if let Some(new) = &new {
            self.check_cycle(node, new, "backing")?;
            let user = used_by(node.name(), new, "backing");
            new.check_new_user(&user, Use { writes: false, shares_write: false })?;
        }
        node.set_backing(new.map(|new| as_backing(&new, node)))
    }
}

fn as_backing(below: &Arc<Node>, node: &Node) -> crate::Child {
    let how = Use { writes: false, shares_write: false };
    below.hold_unchecked(&used_by(node.name(), below, "backing"), how)
}

fn fixed_of(node: &Node) -> &'static [&'static str] {
    let found = FIXED.iter().find(|(name, _)| *name == node.class().name);
    found.map_or(&[], |(_, names)| *names)
}

/// Options that the driver does not have.
fn check_known(node: &Node, options: &Value, at: usize) -> Result<()> {
    let class = node.class();
    // Another driver is refused later.
    if options.get("driver").and_then(Value::as_str).is_some_and(|driver| driver != class.name) {
        return Ok(());
    }
    if options.get("driver").is_none() {
        return Err(Error::missing(&format!("options[{at}].driver")));
    }
    if !class.protocol && options.get("file").is_none() && node.child("file").is_some() {
        return Err(Error::missing(&format!("options[{at}].file")));
    }
    for (key, _) in options.as_map().unwrap_or(&[]) {
        let own = fixed_of(node).contains(&key.as_str())
            || (class.name == "qcow2" && TUNING.contains(&key.as_str()))
            || node.given(key).is_some();
        let child = (key == "file" && !class.protocol) || (key == "backing" && class.has_backing);
        if !own && !child && !COMMON.contains(&key.as_str()) {
            return Err(Error::unexpected(&format!("options[{at}].{key}")));
        }
    }
    Ok(())
}

/// Options that must stay as they were given.
fn check_fixed(node: &Node, options: &Value, within: &str) -> Result<()> {
    for (key, value) in options.as_map().unwrap_or(&[]) {
        let name = key.as_str();
        if name == "driver" {
            if value.as_str().is_some_and(|driver| driver != node.class().name) {
                return cannot(&format!("{within}driver"));
            }
            continue;
        }
        if COMMON.contains(&name) || ["file", "backing"].contains(&name) {
            continue;
        }
        if name == "overlap-check"
            && value.as_str().is_some_and(|w| !["none", "constant", "cached", "all"].contains(&w))
        {
            let word = value.as_str().unwrap_or("");
            return refuse(format!("Parameter 'overlap-check' does not accept value '{word}'"));
        }
        if !TUNING.contains(&name) && node.given(name).as_ref() != Some(value) {
            return cannot(&format!("{within}{name}"));
        }
    }
    Ok(())
}
