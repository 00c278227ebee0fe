//! Descriptions of nodes as people write them: file names with a protocol, `json:`, options without
//! `driver`.
//!
//! A name becomes options; options that leave out drivers are completed: the driver of a protocol
//! comes from `filename`, that of a format from the first bytes of its file, as for `-drive` and
//! for tools (`blockdev-add` wants everything said). Keys with dots make a tree. `nbd` names have
//! four forms: `nbd:HOST:PORT`, `nbd:unix:PATH`, `nbd://` and `nbd+unix://`.
//! Source: QEMU's manual, "Disk images"; the NBD URI specification.

use std::sync::Arc;

use qapi::{Error, Result, Source, Value};

use crate::driver::BlockClass;
use crate::graph::{Flags, Graph, file_options};
use crate::node::Node;

/// Deepest tree of options.
const DEPTH: usize = 64;

/// The options of `nbd` for a name, if it is one.
pub(crate) fn nbd(name: &str) -> Option<Result<Value>> {
    if let Some(rest) = name.strip_prefix("nbd+unix://") {
        return Some(unix_uri(rest));
    }
    if let Some(rest) = name.strip_prefix("nbd://").or_else(|| name.strip_prefix("nbd+tcp://")) {
        return Some(Ok(tcp_uri(rest)));
    }
    name.strip_prefix("nbd:").map(plain)
}

fn server(kind: &str, members: &[(&str, &str)]) -> Value {
    let mut server = Value::map([("type", Value::from(kind))]);
    for (key, value) in members {
        server.set(key, Value::from(*value));
    }
    server
}

fn node(server: Value, export: &str) -> Value {
    let mut out = Value::map([("driver", Value::from("nbd")), ("server", server)]);
    if !export.is_empty() {
        out.set("export", Value::from(export));
    }
    out
}

/// Percent signs and two digits are one byte.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn unix_uri(rest: &str) -> Result<Value> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
    let Some(socket) = socket else {
        return Err(Error::generic("Could not parse NBD URI"));
    };
    let export = path.strip_prefix('/').unwrap_or(path);
    Ok(node(server("unix", &[("path", &unescape(socket))]), &unescape(export)))
}

fn tcp_uri(rest: &str) -> Value {
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = host_port(place, "10809");
    node(server("inet", &[("host", &host), ("port", &port)]), &unescape(path))
}

fn host_port(place: &str, other: &str) -> (String, String) {
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (place, other),
    };
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.to_owned())
}

fn plain(rest: &str) -> Result<Value> {
    let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
    if let Some(path) = place.strip_prefix("unix:") {
        return Ok(node(server("unix", &[("path", path)]), export));
    }
    if place.is_empty() {
        return Err(Error::generic("File name string for NBD must start with 'nbd:'"));
    }
    let (host, port) = host_port(place, "");
    if port.is_empty() {
        return Err(Error::generic("address and port must be specified"));
    }
    Ok(node(server("inet", &[("host", &host), ("port", &port)]), export))
}

/// Makes a tree of keys with dots.
#[must_use]
pub fn tree(value: Value) -> Value {
    nested(value, 0)
}

/// Options of which some are said anew.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_map().unwrap_or(&[]) {
        merge(&mut base, key, value.clone());
    }
    base
}

fn nested(value: Value, depth: usize) -> Value {
    let Value::Map(members) = value else { return value };
    let mut out = Value::empty();
    for (key, value) in members {
        let value = if depth < DEPTH { nested(value, depth + 1) } else { value };
        match key.split_once('.') {
            Some((head, tail)) if depth < DEPTH => {
                let inner = nested(Value::map([(tail.to_owned(), value)]), depth + 1);
                merge(&mut out, head, inner);
            }
            _ => merge(&mut out, &key, value),
        }
    }
    out
}

/// Whether options say all there is to say about a node.
pub(crate) fn is_whole(options: &Value) -> bool {
    let says = |value: &Value, keys: [&str; 2]| keys.iter().any(|key| value.get(key).is_some());
    match options.get("file") {
        _ if options.as_map().is_none() || options.get("driver").is_some() => true,
        Some(file @ Value::Map(_)) => says(file, ["driver", "filename"]),
        file => file.is_some(),
    }
}

/// A member that is described; names of nodes and `null` stay where they are.
fn take_map(options: &mut Value, name: &str) -> Option<Value> {
    options.get(name).and_then(Value::as_map)?;
    options.take(name)
}

fn merge(into: &mut Value, key: &str, value: Value) {
    match (into.take(key), value) {
        (Some(mut old @ Value::Map(_)), Value::Map(new)) => {
            for (key, value) in new {
                merge(&mut old, &key, value);
            }
            into.set(key, old);
        }
        (_, value) => into.set(key, value),
    }
}

impl Graph {
    fn is_protocol(&self, driver: &str) -> bool {
        self.class(driver).is_ok_and(|class: &BlockClass| class.protocol)
    }

    /// Fills in the drivers that a description leaves out.
    ///
    /// # Errors
    /// Neither a driver nor a file says what it is, or the file cannot be looked at.
    pub fn complete(&self, options: Value, flags: Flags) -> Result<Value> {
        self.complete_at(nested(options, 0), flags, 0)
    }

    /// Fills in the drivers that a description of a file leaves out.
    ///
    /// # Errors
    /// As [`Graph::complete`].
    pub fn complete_file(&self, options: Value, flags: Flags) -> Result<Value> {
        self.complete_protocol(nested(options, 0), flags, 0)
    }

    fn complete_at(&self, mut options: Value, flags: Flags, depth: usize) -> Result<Value> {
        if depth > DEPTH {
            return Err(Error::generic("the description of the image is too deep"));
        }
        for role in ["file", "data-file", "header", "image"] {
            if let Some(child) = take_map(&mut options, role) {
                options.set(role, self.complete_protocol(child, flags, depth + 1)?);
            }
        }
        if let Some(child) = take_map(&mut options, "backing") {
            let child = self.complete_backing(child, flags, depth + 1);
            let failed = |error: Error| error.prefixed("Could not open backing file: ");
            options.set("backing", child.map_err(failed)?);
        }
        if options.get("driver").is_some() {
            return Ok(options);
        }
        let Some(file) = options.get("file").cloned() else {
            return Err(Error::generic("Must specify either driver or file"));
        };
        let node = self.look_at(file, flags)?;
        let format = self.probe_node(&node)?.name;
        drop(node);
        options.set("driver", Value::from(format));
        Ok(options)
    }

    /// Without a driver and a file's name these are some options of the file that the image names.
    fn complete_backing(&self, mut given: Value, flags: Flags, depth: usize) -> Result<Value> {
        if is_whole(&given) {
            let flags = Flags { no_backing: false, ..flags };
            return self.complete_at(given, flags, depth);
        }
        if depth < DEPTH
            && let Some(child) = take_map(&mut given, "backing")
        {
            given.set("backing", self.complete_backing(child, flags, depth + 1)?);
        }
        Ok(given)
    }

    fn complete_protocol(&self, mut options: Value, flags: Flags, depth: usize) -> Result<Value> {
        if let Some(driver) = options.get("driver").and_then(Value::as_str) {
            // `blkdebug` has a child though it is a protocol.
            let is_protocol = self.is_protocol(driver);
            if is_protocol && options.get("image").is_none() {
                return Ok(options);
            }
            // The file of a format that stands where a protocol is expected.
            if !is_protocol
                && options.get("file").is_none()
                && let Some(Value::Str(name)) = options.take("filename")
            {
                options.set("file", file_options(&name));
            }
            return self.complete_at(options, flags, depth);
        }
        let Some(Value::Str(name)) = options.get("filename").cloned() else {
            return self.complete_at(options, flags, depth);
        };
        options.take("filename");
        // The name of a file, whatever it looks like.
        let mut found = file_options(&name);
        for (key, value) in options.as_map().unwrap_or(&[]) {
            merge(&mut found, key, value.clone());
        }
        Ok(found)
    }

    fn look_at(&self, file: Value, flags: Flags) -> Result<Arc<Node>> {
        let flags = Flags { read_only: true, force_share: true, ..flags };
        match file {
            Value::Str(name) => self.find(&name).ok_or_else(|| {
                Error::generic(format!("Cannot find device='' nor node-name='{name}'"))
            }),
            mut value => {
                // Opened for a look only: the name stays free for the node itself. Values of both
                // sources are taken; mistakes are told when the node is opened.
                value.take("node-name");
                self.open(value, Source::KeyVal, flags)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nbd_servers_become_options() {
        let json = |name: &str| nbd(name).unwrap().map(|v| qapi::json::to_string(&v)).unwrap();
        assert_eq!(
            json("nbd:unix:/run/s:exportname=a"),
            r#"{"driver": "nbd", "server": {"type": "unix", "path": "/run/s"}, "export": "a"}"#
        );
        assert_eq!(
            json("nbd+unix:///b%20c?socket=/s"),
            r#"{"driver": "nbd", "server": {"type": "unix", "path": "/s"}, "export": "b c"}"#
        );
        assert_eq!(
            json("nbd://[::1]:7/x"),
            r#"{"driver": "nbd", "server": {"type": "inet", "host": "::1", "port": "7"}, "export": "x"}"#
        );
        assert!(nbd("nbd:").unwrap().is_err() && nbd("nbd:host").unwrap().is_err());
        assert!(nbd("file").is_none());
    }

    #[test]
    fn dots_make_trees() {
        let value = qapi::json::from_str(r#"{"file.a.b": 1, "file": {"c": 2}, "d": 3}"#).unwrap();
        assert_eq!(
            qapi::json::to_string(&nested(value, 0)),
            r#"{"file": {"a": {"b": 1}, "c": 2}, "d": 3}"#
        );
    }
}
