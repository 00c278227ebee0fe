//! Disks in the human monitor: `info block`, `info blockstats`, `info block-jobs`, `eject`, `change`.
//!
//! All of it is made from the replies of QMP commands, in the peer's words. `info block -v` shows
//! the images of one disk after the other without formats' own data. `change` changes media only,
//! not passwords of displays.
//! Source: what QEMU 10.0 prints.

use std::fmt::Write as _;
use std::sync::Arc;

use ::block::describe::human;
use qapi::Value;
use vmm::Vm;
use vmm::commands::execute;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn list(vm: &Vm, command: &str) -> Vec<Value> {
    match execute(vm, command, Value::empty()) {
        Ok(Value::List(all)) => all,
        _ => Vec::new(),
    }
}

/// What is in a slot, and how it is cached.
fn inserted(out: &mut String, value: &Value) {
    let cache = value.get("cache").cloned().unwrap_or_else(Value::empty);
    let mode = if flag(&cache, "writeback") { "writeback" } else { "writethrough" };
    let direct = if flag(&cache, "direct") { ", direct" } else { "" };
    let ignored = if flag(&cache, "no-flush") { ", ignore flushes" } else { "" };
    _ = writeln!(out, "    Cache mode:       {mode}{direct}{ignored}");
    let limits =
        ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"].map(|name| number(value, name));
    let backing = text(value, "backing_file");
    if !backing.is_empty() {
        let depth = number(value, "backing_file_depth");
        _ = writeln!(out, "    Backing file:     {backing} (chain depth: {depth})");
    }
    let zeroes = text(value, "detect_zeroes");
    if !["", "off"].contains(&zeroes) {
        _ = writeln!(out, "    Detect zeroes:    {zeroes}");
    }
    if limits.iter().any(|limit| *limit > 0) {
        out.push_str("    I/O throttling:  ");
        for name in [
            "bps",
            "bps_rd",
            "bps_wr",
            "bps_max",
            "bps_rd_max",
            "bps_wr_max",
            "iops",
            "iops_rd",
            "iops_wr",
            "iops_max",
            "iops_rd_max",
            "iops_wr_max",
            "iops_size",
        ] {
            _ = write!(out, " {name}={}", number(value, name));
        }
        _ = writeln!(out, " group={}", text(value, "group"));
    }
}

fn images(out: &mut String, value: &Value) {
    out.push_str("\nImages:\n");
    let mut next = value.get("image").cloned();
    while let Some(image) = next {
        _ = writeln!(out, "image: {}", text(&image, "filename"));
        _ = writeln!(out, "file format: {}", text(&image, "format"));
        let size = number(&image, "virtual-size");
        _ = writeln!(out, "virtual size: {} ({size} bytes)", human(size));
        match image.get("actual-size") {
            Some(_) => _ = writeln!(out, "disk size: {}", human(number(&image, "actual-size"))),
            None => out.push_str("disk size: unavailable\n"),
        }
        let cluster = number(&image, "cluster-size");
        if cluster > 0 {
            _ = writeln!(out, "cluster_size: {cluster}");
        }
        let backing = text(&image, "backing-filename");
        if !backing.is_empty() {
            let full = text(&image, "full-backing-filename");
            let actual = if full.is_empty() || full == backing {
                String::new()
            } else {
                format!(" (actual path: {full})")
            };
            _ = writeln!(out, "backing file: {backing}{actual}");
            let format = text(&image, "backing-filename-format");
            if !format.is_empty() {
                _ = writeln!(out, "backing file format: {format}");
            }
        }
        next = image.get("backing-image").cloned();
        if next.is_some() {
            out.push('\n');
        }
    }
}

fn one(out: &mut String, info: &Value, verbose: bool) {
    let (device, node) = (text(info, "device"), info.get("inserted"));
    let name = node.map_or("", |node| text(node, "node-name"));
    if device.is_empty() {
        out.push_str(if name.is_empty() { text(info, "qdev") } else { name });
    } else {
        out.push_str(device);
        if !name.is_empty() {
            _ = write!(out, " ({name})");
        }
    }
    match node {
        Some(node) => {
            let only = if flag(node, "ro") { ", read-only" } else { "" };
            _ = writeln!(out, ": {} ({}{only})", text(node, "file"), text(node, "drv"));
        }
        None => out.push_str(": [not inserted]\n"),
    }
    let attached = text(info, "qdev");
    if !attached.is_empty() {
        _ = writeln!(out, "    Attached to:      {attached}");
    }
    let status = text(info, "io-status");
    if !["", "ok"].contains(&status) {
        _ = writeln!(out, "    I/O status:       {status}");
    }
    if flag(info, "removable") {
        let lock = if flag(info, "locked") { "" } else { "not " };
        let tray = if flag(info, "tray_open") { "open" } else { "closed" };
        _ = writeln!(out, "    Removable device: {lock}locked, tray {tray}");
    }
    if let Some(node) = node {
        inserted(out, node);
        if verbose {
            images(out, node);
        }
    }
}

/// `info block [-n] [-v] [device]`.
pub(crate) fn info_block(vm: &Arc<Vm>, words: &str) -> String {
    let (flags, names): (Vec<_>, Vec<_>) =
        words.split_whitespace().partition(|w| w.starts_with('-'));
    let verbose = flags.iter().any(|flag| flag.contains('v'));
    let named = flags.iter().any(|flag| flag.contains('n'));
    let wanted = names.first().copied();
    let mut parts = Vec::new();
    if named {
        for node in list(vm, "query-named-block-nodes") {
            if wanted.is_none_or(|name| name == text(&node, "node-name")) {
                let info = Value::map([("device", Value::from("")), ("inserted", node)]);
                let mut out = String::new();
                one(&mut out, &info, verbose);
                parts.push(out);
            }
        }
        return parts.join("\n");
    }
    for info in list(vm, "query-block") {
        if wanted.is_none_or(|word| word == text(&info, "device")) {
            let mut out = String::new();
            one(&mut out, &info, verbose);
            parts.push(out);
        }
    }
    if parts.is_empty()
        && let Some(name) = wanted
    {
        let nodes = list(vm, "query-named-block-nodes");
        let found = nodes.into_iter().enumerate().find(|(_, node)| text(node, "node-name") == name);
        if let Some((at, node)) = found {
            let info = Value::map([("device", Value::from("")), ("inserted", node)]);
            let mut out = String::new();
            // An empty line stands before all but the first of the list.
            out.push_str(if at == 0 { "" } else { "\n" });
            one(&mut out, &info, verbose);
            return out;
        }
    }
    parts.join("\n")
}

/// `info blockstats`.
pub(crate) fn info_blockstats(vm: &Arc<Vm>) -> String {
    let mut out = String::new();
    for stats in list(vm, "query-blockstats") {
        let Some(counters) = stats.get("stats") else { continue };
        _ = write!(out, "{}:", text(&stats, "device"));
        for name in [
            "rd_bytes",
            "wr_bytes",
            "rd_operations",
            "wr_operations",
            "flush_operations",
            "wr_total_time_ns",
            "rd_total_time_ns",
            "flush_total_time_ns",
            "rd_merged",
            "wr_merged",
            "idle_time_ns",
        ] {
            _ = write!(out, " {name}={}", number(counters, name));
        }
        out.push('\n');
    }
    out
}

fn answer(result: qapi::Result<Value>) -> String {
    result.map_or_else(|error| format!("Error: {}\n", error.desc), |_| String::new())
}

/// `eject [-f] device`.
pub(crate) fn eject(vm: &Arc<Vm>, words: &str) -> String {
    let force = words.split_whitespace().any(|word| word == "-f");
    let device = words.split_whitespace().find(|word| !word.starts_with('-')).unwrap_or("");
    let args = [("device", Value::from(device)), ("force", Value::Bool(force))];
    answer(execute(vm, "eject", Value::map(args)))
}

/// `change device [-f] filename [format]`.
pub(crate) fn change(vm: &Arc<Vm>, words: &str) -> String {
    let force = words.split_whitespace().any(|word| word == "-f");
    let mut rest = words.split_whitespace().filter(|word| *word != "-f");
    let (device, file) = (rest.next().unwrap_or(""), rest.next().unwrap_or(""));
    let mut args = Value::map([
        ("device", Value::from(device)),
        ("filename", Value::from(file)),
        ("force", Value::Bool(force)),
    ]);
    if let Some(format) = rest.next() {
        args.set("format", Value::from(format));
    }
    answer(execute(vm, "blockdev-change-medium", args))
}

/// `block_resize device size`; without a unit the size is in MiB.
pub(crate) fn resize(vm: &Arc<Vm>, words: &str) -> String {
    let mut words = words.split_whitespace();
    let (device, size) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let Some(bytes) = qapi::parse_size(size, 1 << 20).and_then(|n| i64::try_from(n).ok()) else {
        return "block_resize: invalid size\n".into();
    };
    let args = [("device", Value::from(device)), ("size", Value::Int(bytes))];
    answer(execute(vm, "block_resize", Value::map(args)))
}

/// `info block-jobs`.
pub(crate) fn info_jobs(vm: &Arc<Vm>) -> String {
    let mut out = String::new();
    for job in list(vm, "query-block-jobs") {
        let (kind, name) = (text(&job, "type"), text(&job, "device"));
        let (done, all) = (number(&job, "offset"), number(&job, "len"));
        let speed = number(&job, "speed");
        if kind == "stream" {
            _ = writeln!(
                out,
                "Streaming device {name}: Completed {done} of {all} bytes, speed limit {speed} bytes/s"
            );
        } else {
            _ = writeln!(
                out,
                "Type {kind}, device {name}: Completed {done} of {all} bytes, speed limit {speed} bytes/s"
            );
        }
    }
    if out.is_empty() { "No active jobs\n".into() } else { out }
}

/// `block_stream device [speed [base]]`; the speed is in MiB without a unit.
pub(crate) fn stream(vm: &Arc<Vm>, words: &str) -> String {
    let mut words = words.split_whitespace();
    let mut args = Value::map([("device", Value::from(words.next().unwrap_or("")))]);
    if let Some(word) = words.next() {
        let speed = qapi::parse_size(word, 1 << 20).and_then(|n| i64::try_from(n).ok());
        let Some(speed) = speed else { return "block_stream: invalid size\n".into() };
        args.set("speed", Value::Int(speed));
    }
    if let Some(base) = words.next() {
        args.set("base", Value::from(base));
    }
    answer(execute(vm, "block-stream", args))
}

/// `block_job_set_speed device speed`; the speed is in MiB without a unit.
pub(crate) fn job_speed(vm: &Arc<Vm>, words: &str) -> String {
    let mut words = words.split_whitespace();
    let device = words.next().unwrap_or("");
    let speed = qapi::parse_size(words.next().unwrap_or(""), 1 << 20);
    let Some(speed) = speed.and_then(|n| i64::try_from(n).ok()) else {
        return "block_job_set_speed: invalid size\n".into();
    };
    let args = [("device", Value::from(device)), ("speed", Value::Int(speed))];
    answer(execute(vm, "block-job-set-speed", Value::map(args)))
}

/// `block_job_cancel [-f] device`.
pub(crate) fn job_cancel(vm: &Arc<Vm>, words: &str) -> String {
    let force = words.split_whitespace().any(|word| word == "-f");
    let device = words.split_whitespace().find(|word| *word != "-f").unwrap_or("");
    let args = [("device", Value::from(device)), ("force", Value::Bool(force))];
    answer(execute(vm, "block-job-cancel", Value::map(args)))
}

/// `block_job_pause`, `_resume` and `_complete` with a device.
pub(crate) fn job(vm: &Arc<Vm>, command: &str, words: &str) -> String {
    let device = words.split_whitespace().next().unwrap_or("");
    answer(execute(vm, command, Value::map([("device", Value::from(device))])))
}

/// `block_set_io_throttle device bps bps_rd bps_wr iops iops_rd iops_wr`.
pub(crate) fn limit(vm: &Arc<Vm>, words: &str) -> String {
    let mut words = words.split_whitespace();
    let mut args = Value::map([("device", Value::from(words.next().unwrap_or("")))]);
    for name in ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"] {
        let number = words.next().and_then(qapi::parse_int).and_then(|n| i64::try_from(n).ok());
        let Some(number) = number else {
            return format!("block_set_io_throttle: integer expected for {name}\n");
        };
        args.set(name, Value::Int(number));
    }
    answer(execute(vm, "block_set_io_throttle", args))
}

/// `snapshot_blkdev [-n] device [new-image-file] [format]`.
pub(crate) fn snapshot(vm: &Arc<Vm>, words: &str) -> String {
    let reuse = words.split_whitespace().any(|word| word == "-n");
    let mut rest = words.split_whitespace().filter(|word| *word != "-n");
    let device = rest.next().unwrap_or("");
    let Some(file) = rest.next() else {
        return "Error: Parameter 'snapshot-file' is missing\n".into();
    };
    let mode = if reuse { "existing" } else { "absolute-paths" };
    let mut args = Value::map([
        ("device", Value::from(device)),
        ("snapshot-file", Value::from(file)),
        ("mode", Value::from(mode)),
    ]);
    if let Some(format) = rest.next() {
        args.set("format", Value::from(format));
    }
    answer(execute(vm, "blockdev-snapshot-sync", args))
}

/// `commit device|all`.
pub(crate) fn commit(vm: &Arc<Vm>, words: &str) -> String {
    let mut words = words.split_whitespace();
    let wrong = match (words.next(), words.next()) {
        (Some(device), None) => return vmm::commands::commit_now(vm, device),
        (None, _) => "block device name expected",
        _ => "extraneous characters at the end of line",
    };
    format!("commit: {wrong}\nTry \"help commit\" for more information\n")
}

/// `qemu-io [-d] device "command"`.
pub(crate) fn io(vm: &Arc<Vm>, words: &str) -> String {
    let words = words.trim();
    let words = words.strip_prefix("-d ").unwrap_or(words).trim_start();
    let (device, line) = words.split_once(' ').unwrap_or((words, ""));
    let line = line.trim().trim_matches('"');
    match vmm::commands::io_command(vm, device, line) {
        Ok(text) => text,
        Err(error) => format!("Error: {}\n", error.desc),
    }
}

/// `snapshot_blkdev_internal device name`.
pub(crate) fn snapshot_internal(vm: &Arc<Vm>, words: &str) -> String {
    let mut words = words.split_whitespace();
    let (device, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let args = [("device", Value::from(device)), ("name", Value::from(name))];
    answer(execute(vm, "blockdev-snapshot-internal-sync", Value::map(args)))
}

/// `snapshot_delete_blkdev_internal device name [id]`.
pub(crate) fn snapshot_delete(vm: &Arc<Vm>, words: &str) -> String {
    let mut words = words.split_whitespace();
    let (device, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut args = Value::map([("device", Value::from(device)), ("name", Value::from(name))]);
    if let Some(id) = words.next() {
        args.set("id", Value::from(id));
    }
    answer(execute(vm, "blockdev-snapshot-delete-internal-sync", args))
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_shown_with_three_digits() {
        for (bytes, want) in
            [(0, "0 B"), (1 << 20, "1 MiB"), (200_704, "196 KiB"), (1_541_406_720, "1.44 GiB")]
        {
            assert_eq!(super::human(bytes), want);
        }
    }
}
