//! Commands of the human monitor about objects, memory and logs.

use std::fmt::Write as _;
use std::sync::Arc;

use qapi::{Error, Value, json, keyval::Dialect};
use vmm::{Vm, commands::execute, qom};

use crate::hmp::{outcome, split_line};

/// `object_add`.
pub(crate) fn object_add(vm: &Arc<Vm>, text: &str) -> String {
    let added = Dialect::structured(Some("qom-type")).parse(text).and_then(|mut parsed| {
        let mut word = |name: &str| match parsed.value.take(name) {
            Some(Value::Str(text)) => Ok(text),
            _ => Err(Error::missing(name)),
        };
        let (kind, id) = (word("qom-type")?, word("id")?);
        vmm::commands::add_object(vm, &kind, &id, parsed.value, qapi::Source::KeyVal)
    });
    outcome(added.map(|()| Value::Null))
}

/// `qom-list`.
pub(crate) fn qom_list(vm: &Arc<Vm>, path: &str) -> String {
    if path.is_empty() {
        return "/\n".into();
    }
    match qom::find(qom::tree(vm), path) {
        Ok(node) => {
            let line = |(name, kind): &(&str, String)| format!("{name} ({kind})\n");
            node.all_properties().iter().map(line).collect()
        }
        Err(error) => outcome(Err(error)),
    }
}

/// `qom-get`.
pub(crate) fn qom_get(vm: &Arc<Vm>, text: &str) -> String {
    let (path, property) = split_line(text);
    let args = Value::map([("path", Value::from(path)), ("property", Value::from(property))]);
    match execute(vm, "qom-get", args) {
        Ok(value) => format!("{}\n", json::to_string(&value)),
        Err(error) => outcome(Err(error)),
    }
}

/// `qom-set`.
pub(crate) fn qom_set(vm: &Arc<Vm>, text: &str) -> String {
    let (path, rest) = split_line(text);
    let (property, value) = split_line(rest);
    let value = json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let args = [("path", Value::from(path)), ("property", Value::from(property)), ("value", value)];
    outcome(execute(vm, "qom-set", Value::map(args)))
}

/// `info qom-tree`.
pub(crate) fn qom_tree(vm: &Arc<Vm>, path: &str) -> String {
    let path = if path.is_empty() { "/machine" } else { path };
    match qom::find(qom::tree(vm), path) {
        Ok(node) => {
            let mut text = String::new();
            branch(&mut text, &node, 0);
            text
        }
        Err(error) => outcome(Err(error)),
    }
}

fn branch(text: &mut String, node: &qom::Node, depth: usize) {
    let pad = " ".repeat(depth * 2);
    // A slash inside a name would look like a path.
    let name = node.name.replace('/', "\\x2f");
    _ = writeln!(text, "{pad}/{name} ({})", node.kind);
    let mut children: Vec<&qom::Node> = node.children.iter().collect();
    children.sort_by(|a, b| a.name.cmp(&b.name));
    for child in children {
        branch(text, child, depth + 1);
    }
}

/// `log`.
pub(crate) fn log(_: &Arc<Vm>, items: &str) -> String {
    if items == "none" {
        trace::set_mask(trace::Mask::empty());
        return String::new();
    }
    match trace::parse_items(items) {
        Ok(mask) => {
            trace::set_mask(mask);
            String::new()
        }
        Err(_) => trace::help(),
    }
}

/// `logfile`.
pub(crate) fn logfile(_: &Arc<Vm>, path: &str) -> String {
    match trace::set_file(Some(std::path::Path::new(path))) {
        Ok(()) => String::new(),
        Err(error) => format!("Error: could not open '{path}': {error}\n"),
    }
}

/// A number as the monitor takes it.
fn number(text: &str) -> Option<u64> {
    qapi::parse_int(text).and_then(|n| u64::try_from(n).ok())
}

/// `memsave` and `pmemsave`.
pub(crate) fn save_memory(vm: &Arc<Vm>, command: &str, text: &str) -> String {
    let (address, rest) = split_line(text);
    let (size, name) = split_line(rest);
    let (Some(address), Some(size)) = (number(address), number(size)) else {
        return format!(
            "{command}: integer expected\nTry \"help {command}\" for more information\n"
        );
    };
    let args = [
        ("val", Value::Uint(address)),
        ("size", Value::Uint(size)),
        ("filename", Value::from(name.trim_matches('"'))),
    ];
    outcome(execute(vm, command, Value::map(args)))
}

/// `balloon`.
pub(crate) fn balloon(vm: &Arc<Vm>, text: &str) -> String {
    let Some(bytes) = qapi::parse_size(text, 1 << 20).and_then(|b| i64::try_from(b).ok()) else {
        return "balloon: invalid size\nTry \"help balloon\" for more information\n".into();
    };
    outcome(execute(vm, "balloon", Value::map([("value", Value::Int(bytes))])))
}

/// `info balloon`.
pub(crate) fn info_balloon(vm: &Arc<Vm>) -> String {
    match execute(vm, "query-balloon", Value::empty()) {
        Ok(info) => {
            let actual = info.get("actual").and_then(Value::as_u64).unwrap_or(0);
            format!("balloon: actual={}\n", actual >> 20)
        }
        Err(error) => outcome(Err(error)),
    }
}

/// `sum`: the 16-bit sum of bytes of physical memory, rotated at each step.
pub(crate) fn sum(vm: &Arc<Vm>, text: &str) -> String {
    let (start, size) = split_line(text);
    let (Some(start), Some(size)) = (number(start), number(size)) else {
        return "sum: integer expected\nTry \"help sum\" for more information\n".into();
    };
    let Some(world) = vm.machine().and_then(|m| m.world.as_ref()) else { return String::new() };
    let mut sum = 0_u16;
    let mut buffer = vec![0; 4096];
    let mut done = 0;
    while done < size.min(1 << 32) {
        let n = usize::try_from(size - done).unwrap_or(4096).min(4096);
        let Some(part) = buffer.get_mut(..n) else { break };
        let attrs = device::TxAttrs::default();
        if world.memory.read(start.wrapping_add(done), part, attrs).is_err() {
            part.fill(0);
        }
        for byte in part.iter() {
            sum = sum.rotate_right(1).wrapping_add(u16::from(*byte));
        }
        done += n as u64;
    }
    format!("{sum:05}\n")
}

/// `ringbuf_read`.
pub(crate) fn ringbuf_read(vm: &Arc<Vm>, text: &str) -> String {
    let (device, size) = split_line(text);
    let size = number(size).unwrap_or(0);
    let args = Value::map([("device", Value::from(device)), ("size", Value::Uint(size))]);
    match execute(vm, "ringbuf-read", args) {
        Ok(text) => {
            let text = text.as_str().unwrap_or_default().to_owned();
            let escape = |c: char| match c {
                '\\' => "\\\\".to_owned(),
                '\n' => "\n".to_owned(),
                c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
                c => c.to_string(),
            };
            format!("{}\n", text.chars().map(escape).collect::<String>())
        }
        Err(error) => outcome(Err(error)),
    }
}

/// `ringbuf_write`.
pub(crate) fn ringbuf_write(vm: &Arc<Vm>, text: &str) -> String {
    let (device, data) = split_line(text);
    let args = Value::map([("device", Value::from(device)), ("data", Value::from(data))]);
    outcome(execute(vm, "ringbuf-write", args))
}

/// `print` and its short form: an expression of integers.
pub(crate) fn print(_: &Arc<Vm>, text: &str) -> String {
    let (format, expression) = match text.strip_prefix('/') {
        Some(rest) => split_line(rest),
        None => ("d", text),
    };
    let Some(value) = crate::expression::evaluate(expression) else {
        return "invalid expression\n".into();
    };
    match format.chars().last() {
        Some('x') => format!("{value:#x}\n"),
        Some('o') => format!("{value:#o}\n"),
        Some('u') => format!("{}\n", value.cast_unsigned()),
        Some('c') => {
            let byte = u8::try_from(value & 0xff).unwrap_or(0);
            format!("'{}'\n", byte.escape_ascii())
        }
        _ => format!("{value}\n"),
    }
}
