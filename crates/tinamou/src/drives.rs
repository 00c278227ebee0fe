//! `-blockdev`, `-drive` and its short forms: rewrites onto the block graph.
//!
//! `-blockdev` is `blockdev-add`. `-drive` makes a node from its options and gives it an id; by its
//! interface it becomes a flash bank, a virtio disk, or waits for a device (`if=none`). `-hda` and
//! `-cdrom` are drives of the machine's own interface, which here is virtio.
//! The overlay of `snapshot=on` is a file whose name is gone once it is open.
//! Not here: `copy-on-read`, throttling, `if=scsi` and other buses.
//! Source: QEMU's manual, `-drive`.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{Creation, Flags, Graph, Node, OnError};
use qapi::keyval::Dialect;
use qapi::{Error, Result, Source, Value};
use vmm::Vm;

use crate::fail::{self, At as _, Step, Stop};
use crate::settings::{Placed, Settings};

/// What became of the drives.
#[derive(Default)]
pub(crate) struct Drives {
    /// Ids of those that are flash banks.
    pub(crate) flash: [Option<String>; 2],
    /// Ids of those that are virtio disks, with the option that gave them.
    pub(crate) virtio: Vec<Placed>,
}

/// What one `-drive` says beyond the node's options.
struct Given {
    file: Option<String>,
    interface: String,
    format: Option<String>,
    id: Option<String>,
    unit: Option<usize>,
    cdrom: bool,
    snapshot: bool,
    /// Writes may stay in caches until a flush.
    writeback: bool,
    /// What is done about errors of reads and of writes.
    policy: (OnError, OnError),
    /// Limits of its requests: averages, bursts and seconds, as in [`block::Rules`].
    limits: block::Rules,
    /// Bytes that count as one request.
    op_size: u64,
    /// The group that shares the limits.
    group: Option<String>,
    /// Whether requests that make no sense, and those that failed, count as accesses.
    counts: (bool, bool),
    /// Seconds of statistics.
    intervals: Vec<u32>,
    /// Options of the node.
    node: Value,
    /// Options of the node below it.
    below: Vec<(String, Value)>,
}

fn is_on(key: &str, text: &str) -> Result<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::expects(key, "'on' or 'off'")),
    }
}

/// Options that exclude each other: one said twice under two names.
fn check_names(value: &Value) -> Result<()> {
    if value.get("driver").is_some() && value.get("format").is_some() {
        return Err(Error::generic("Cannot specify both 'driver' and 'format'"));
    }
    let both = |old: &str, name: &str| {
        Error::generic(format!("'{name}' and its alias '{old}' can't be used at the same time"))
    };
    for (old, _) in value.as_map().unwrap_or(&[]) {
        let name = match limit_name(old) {
            Some(name) => format!("throttling.{name}"),
            None if old == "readonly" => "read-only".to_owned(),
            None => continue,
        };
        if name != *old && value.get(&name).is_some() {
            return Err(both(old, &name));
        }
    }
    Ok(())
}

impl Given {
    fn of(text: &str, snapshot: bool) -> Result<Given> {
        let value = Dialect::flat(None).parse(text)?.value;
        check_names(&value)?;
        let mut given = Given {
            interface: "virtio".into(),
            snapshot,
            writeback: true,
            policy: Default::default(),
            limits: [block::Limit { average: 0.0, max: 0.0, length: 1.0 }; 6],
            op_size: 0,
            group: None,
            counts: (true, true),
            intervals: Vec::new(),
            node: Value::empty(),
            file: None,
            format: None,
            id: None,
            unit: None,
            cdrom: false,
            below: Vec::new(),
        };
        for (key, value) in value.as_map().unwrap_or(&[]) {
            given.take(key, value.as_str().unwrap_or_default())?;
        }
        if given.cdrom {
            given.node.set("read-only", Value::Bool(true));
        }
        Ok(given)
    }

    fn take(&mut self, key: &str, text: &str) -> Result<()> {
        match key {
            "file" => self.file = Some(text.to_owned()),
            "if" => self.interface = text.to_owned(),
            "format" | "driver" => self.format = Some(text.to_owned()),
            "id" => self.id = Some(text.to_owned()),
            "unit" | "index" => {
                let number = qapi::parse_int(text).and_then(|n| usize::try_from(n).ok());
                self.unit = Some(number.ok_or_else(|| Error::expects(key, "a number"))?);
            }
            "media" => match text {
                "cdrom" => self.cdrom = true,
                "disk" => {}
                other => return Err(Error::generic(format!("'{other}' invalid media"))),
            },
            "snapshot" => self.snapshot = is_on(key, text)?,
            "readonly" | "read-only" => {
                self.node.set("read-only", Value::Bool(is_on(key, text)?));
            }
            "auto-read-only" | "force-share" => self.node.set(key, Value::Bool(is_on(key, text)?)),
            "cache" => {
                // Past the page cache, no flushes, writes through.
                let (direct, no_flush, through) = match text {
                    "none" | "off" => (true, false, false),
                    "writeback" => (false, false, false),
                    "unsafe" => (false, true, false),
                    "directsync" => (true, false, true),
                    "writethrough" => (false, false, true),
                    _ => return Err(Error::generic("invalid cache option")),
                };
                self.cache("direct", direct);
                self.cache("no-flush", no_flush);
                self.writeback = !through;
            }
            "aio" if ["threads", "native", "io_uring"].contains(&text) => {
                self.below.push((key.to_owned(), Value::from(text)));
            }
            "aio" => return Err(Error::generic("invalid aio option")),
            "discard" => {
                let word = match text {
                    "on" | "unmap" => "unmap",
                    "off" | "ignore" => "ignore",
                    _ => return Err(Error::generic("Invalid discard option")),
                };
                self.node.set("discard", Value::from(word));
            }
            "detect-zeroes" | "node-name" => self.node.set(key, Value::from(text)),
            "werror" | "rerror" => {
                let kind = if key == "werror" { "write" } else { "read" };
                let policy = OnError::of(text).filter(|p| *p != OnError::Auto);
                let policy = policy.filter(|p| key == "werror" || *p != OnError::Enospc);
                let wrong = || Error::generic(format!("'{text}' invalid {kind} error action"));
                let policy = policy.ok_or_else(wrong)?;
                if key == "werror" { self.policy.1 = policy } else { self.policy.0 = policy }
            }
            "stats-account-invalid" => self.counts.0 = is_on(key, text)?,
            "stats-account-failed" => self.counts.1 = is_on(key, text)?,
            _ if key.starts_with("stats-intervals.") => {
                let wrong = || Error::generic(format!("Invalid interval length: '{text}'"));
                let seconds =
                    text.parse::<u32>().ok().filter(|n| *n > 0 && self.intervals.len() < 64);
                self.intervals.push(seconds.ok_or_else(wrong)?);
            }
            _ if limit_name(key).is_some() => self.limit(key, text)?,
            _ => match key.split_once('.') {
                Some(("file", name)) => self.below.push((name.to_owned(), Value::from(text))),
                Some(("cache", name @ ("direct" | "no-flush"))) => {
                    let on = is_on(key, text)?;
                    self.cache(name, on);
                }
                Some(("cache", "writeback")) => self.writeback = is_on(key, text)?,
                _ => self.node.set(key, Value::from(text)),
            },
        }
        Ok(())
    }

    fn limit(&mut self, key: &str, text: &str) -> Result<()> {
        let name = limit_name(key).unwrap_or_default();
        if name == "group" {
            self.group = Some(text.to_owned());
            return Ok(());
        }
        let number = qapi::parse_int(text);
        if number.is_some_and(|n| n < 0) && name != "iops-size" && !name.ends_with("-length") {
            let text = "bps/iops/max values must be within [0, 1000000000000000]";
            return Err(Error::generic(text));
        }
        let number = number.and_then(|n| u64::try_from(n).ok());
        let number = number.ok_or_else(|| Error::expects(key, "a number"))?;
        if name == "iops-size" {
            self.op_size = number;
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let number = number as f64;
        let place = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];
        for (limit, base) in self.limits.iter_mut().zip(place) {
            match name.strip_prefix(base) {
                Some("") => limit.average = number,
                Some("-max") => limit.max = number,
                Some("-max-length") => limit.length = number,
                _ => {}
            }
        }
        Ok(())
    }

    fn cache(&mut self, name: &str, on: bool) {
        let mut cache = self.node.take("cache").unwrap_or_else(Value::empty);
        cache.set(name, Value::Bool(on));
        self.node.set("cache", cache);
    }

    fn forces_share(&self) -> bool {
        self.node.get("force-share").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether nothing is said of a node.
    fn is_empty(&self) -> bool {
        let of_slots = ["read-only", "detect-zeroes"];
        let mut node = self.node.as_map().unwrap_or(&[]).iter();
        self.format.is_none()
            && self.below.is_empty()
            && node.all(|(key, _)| of_slots.contains(&key.as_str()))
    }

    /// The options of the whole node.
    fn options(&self, graph: &Graph) -> Result<Option<Value>> {
        let flags = Flags::default();
        if self.forces_share() && !is_read_only(&self.node) {
            let text = "force-share=on can only be used with read-only images";
            return Err(Error::generic(text));
        }
        let mut options = match &self.file {
            Some(file) if file.is_empty() => return Ok(None),
            Some(file) => {
                let options = graph.image_options(file, self.format.as_deref(), flags)?;
                if self.format.is_none()
                    && options.get("driver").and_then(Value::as_str) == Some("raw")
                {
                    warn_of_raw(file);
                }
                options
            }
            None if self.is_empty() => return Ok(None),
            None => self
                .format
                .as_deref()
                .map_or_else(Value::empty, |driver| Value::map([("driver", Value::from(driver))])),
        };
        if !self.below.is_empty() {
            let below = match options.take("file") {
                Some(mut file) => {
                    for (name, value) in &self.below {
                        set_below(&mut file, name, value, 0);
                    }
                    file
                }
                // All of the file is said by its options.
                None => {
                    let own = self.below.iter().filter(|(name, _)| name != "aio").cloned();
                    let mut below = graph.complete_file(Value::map(own), flags)?;
                    if let Some((name, value)) = self.below.iter().find(|(name, _)| name == "aio") {
                        set_below(&mut below, name, value, 0);
                    }
                    below
                }
            };
            options.set("file", block::tree(below));
        }
        for (name, value) in block::tree(self.node.clone()).as_map().unwrap_or(&[]) {
            options.set(name, value.clone());
        }
        let probed = options.get("driver").is_none();
        let options = graph.complete(options, flags)?;
        if probed && options.get("driver").and_then(Value::as_str) == Some("raw") {
            let file = self.below.iter().find(|(name, _)| name == "filename");
            warn_of_raw(file.and_then(|(_, file)| file.as_str()).unwrap_or(""));
        }
        Ok(Some(options))
    }
}

/// Sets an option of the file of the host below filters.
fn set_below(below: &mut Value, name: &str, value: &Value, depth: usize) {
    for role in ["image", "file"] {
        if depth < 8
            && let Some(mut next @ Value::Map(_)) = below.take(role)
        {
            set_below(&mut next, name, value, depth + 1);
            below.set(role, next);
            return;
        }
    }
    // What is no file of the host has no way of reading it.
    let driver = below.get("driver").and_then(Value::as_str).unwrap_or("file");
    if name != "aio" || ["file", "host_device", "host_cdrom"].contains(&driver) {
        below.set(name, value.clone());
    }
}

/// The name behind `throttling.` that a key of `-drive` means, in its old form as well.
fn limit_name(key: &str) -> Option<String> {
    if let Some(name) = key.strip_prefix("throttling.") {
        return (name.starts_with("bps-") || name.starts_with("iops-") || name == "group")
            .then(|| name.to_owned());
    }
    match key {
        "group" | "iops_size" => return Some(key.replace('_', "-")),
        _ => {}
    }
    let (unit, rest) = if let Some(rest) = key.strip_prefix("bps") {
        ("bps", rest)
    } else {
        ("iops", key.strip_prefix("iops")?)
    };
    let (kind, rest) = if let Some(rest) = rest.strip_prefix("_rd") {
        ("read", rest)
    } else if let Some(rest) = rest.strip_prefix("_wr") {
        ("write", rest)
    } else {
        ("total", rest)
    };
    match rest {
        "" | "_max" | "_max_length" => Some(format!("{unit}-{kind}{}", rest.replace('_', "-"))),
        _ => None,
    }
}

fn warn_of_raw(file: &str) {
    fail::say(&format!(
        "WARNING: Image format was not specified for '{file}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on \
         block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions.\n"
    ));
}

fn is_read_only(options: &Value) -> bool {
    match options.get("read-only") {
        Some(Value::Bool(on)) => *on,
        Some(other) => other.as_str() == Some("on"),
        None => false,
    }
}

/// A temporary image over the one that is named, which stays as it is.
fn overlay(graph: &Graph, mut options: Value) -> Result<Arc<Node>> {
    let only_read = is_read_only(&options);
    options.set("read-only", Value::Bool(true));
    let size = graph.open(options.clone(), Source::KeyVal, Flags::default())?.len();
    let path = temporary()?;
    let filename = path.display().to_string();
    let opened = over(graph, options, (&filename, size), only_read);
    // Nobody finds it by its name; it is there as long as it is open.
    _ = std::fs::remove_file(&path);
    opened
}

fn over(
    graph: &Graph,
    options: Value,
    (filename, size): (&str, u64),
    only_read: bool,
) -> Result<Arc<Node>> {
    let new = Creation { filename: filename.to_owned(), size, ..Creation::default() };
    let create = graph.class("qcow2")?.create;
    create.map_or_else(|| Err(Error::generic("no format for snapshots")), |create| create(&new))?;
    let below = [("driver", Value::from("file")), ("filename", Value::from(filename))];
    let node = graph.open(
        Value::map([
            ("driver", Value::from("qcow2")),
            ("file", Value::map(below)),
            ("backing", options),
            ("read-only", Value::Bool(only_read)),
            ("cache", Value::map([("no-flush", Value::Bool(true))])),
        ]),
        Source::KeyVal,
        Flags::default(),
    )?;
    Ok(node)
}

/// A new file in the folder for temporary files.
fn temporary() -> Result<PathBuf> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ab";
    let dir = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let fail = |error: std::io::Error, path: &std::path::Path| {
        let reason = host::reason(&error);
        Error::generic(format!("Could not open temporary file '{}': {reason}", path.display()))
    };
    let mut tries = 0;
    loop {
        let mut random = [0; 6];
        host::fill_random(&mut random).map_err(|error| fail(error, &dir))?;
        let letter = |byte: &u8| LETTERS.get(usize::from(byte & 63)).copied().unwrap_or(b'a');
        let name: String = random.iter().map(|byte| char::from(letter(byte))).collect();
        let path = dir.join(format!("vl.{name}"));
        let mut how = File::options();
        match how.read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && tries < 100 => {
                tries += 1;
            }
            Err(error) => return Err(fail(error, &path)),
        }
    }
}

/// Makes the graph, opens all nodes and drives.
pub(crate) fn open_all(vm: &Vm, settings: &Settings) -> Step<Drives> {
    let graph = Graph::new(catalog_block::BLOCK);
    graph.serve_machine();
    graph.set_keys(block::Keys::of(vm.objects.clone()));
    let fds = vm.fds.clone();
    graph.set_descriptors(Box::new(move |path, write| fds.open(path, write)));
    vm.services.add(graph.clone());
    vm.services.add::<Arc<dyn device::StorageSource>>(graph.clone());
    for given in &settings.blockdevs {
        let parsed = if given.value.starts_with('{') {
            qapi::json::from_str(&given.value).map(|value| (value, Source::Json))
        } else {
            let parsed = Dialect::structured(Some("driver")).parse(&given.value);
            parsed.map(|parsed| (parsed.value, Source::KeyVal))
        };
        let (value, source) = parsed.at(&given.place)?;
        graph.add(value, source).at(&given.place)?;
    }
    let mut drives = Drives::default();
    for option in &settings.drives {
        open_drive(&graph, settings, option, &mut drives)?;
    }
    Ok(drives)
}

fn open_drive(
    graph: &Arc<Graph>,
    settings: &Settings,
    option: &Placed,
    drives: &mut Drives,
) -> Step<()> {
    let fail = |text: String| Stop::at(&option.place, text);
    let given = Given::of(&option.value, settings.snapshot).at(&option.place)?;
    if given.format.as_deref().is_some_and(|word| matches!(word, "help" | "?")) {
        let mut names: Vec<&str> = graph.classes().iter().map(|class| class.name).collect();
        names.sort_unstable();
        let names = names.join(" ");
        trace::say(format_args!(
            "Supported formats: {names}\nSupported formats (read-only): {names}\n"
        ));
        return Err(Stop::Done);
    }
    let node = match given.options(graph).at(&option.place)? {
        None => None,
        // What is only read needs no other place for what is written.
        Some(options) if given.snapshot && !given.cdrom => {
            Some(overlay(graph, options).at(&option.place)?)
        }
        Some(options) => {
            Some(graph.open(options, Source::KeyVal, Flags::default()).at(&option.place)?)
        }
    };
    let taken = |id: &str| graph.drives().iter().any(|(other, _)| other == id);
    let id = match given.interface.as_str() {
        "pflash" => {
            let free = drives.flash.iter().position(Option::is_none).unwrap_or(drives.flash.len());
            let unit = given.unit.unwrap_or(free);
            let Some(bank) = drives.flash.get_mut(unit) else {
                return Err(fail(format!(
                    "machine type does not support if=pflash,bus=0,unit={unit}"
                )));
            };
            if bank.is_some() {
                return Err(fail(format!("drive with bus=0, unit={unit} (index=-1) exists")));
            }
            let id = given.id.unwrap_or_else(|| format!("pflash{unit}"));
            *bank = Some(id.clone());
            id
        }
        "virtio" | "none" => {
            let word = given.interface.as_str();
            let free = (0..).map(|n| format!("{word}{n}")).find(|id| !taken(id));
            let id = given.id.or(free).unwrap_or_default();
            if word == "virtio" {
                drives.virtio.push(Placed { place: option.place.clone(), value: id.clone() });
            }
            id
        }
        other => return Err(fail(format!("if={other} is not built yet in Tinamou"))),
    };
    let drive = graph.add_drive(&id, node).at(&option.place)?;
    drive.write_cache.store(given.writeback, Ordering::Relaxed);
    drive.set_policy(given.policy.0, given.policy.1);
    let accounts = &drive.accounts;
    accounts.with_invalid.store(given.counts.0, Ordering::Relaxed);
    accounts.with_failed.store(given.counts.1, Ordering::Relaxed);
    let now = host::monotonic_ns();
    *accounts.timed.lock() =
        given.intervals.iter().map(|seconds| block::Interval::new(*seconds, now)).collect();
    let group = given.group.unwrap_or(id);
    graph.limit(&drive, &group, &given.limits, given.op_size).at(&option.place)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(texts: &[String]) -> std::result::Result<(Arc<Graph>, Drives), String> {
        let graph = Graph::new(catalog_block::BLOCK);
        let mut drives = Drives::default();
        for text in texts {
            let option = Placed { place: "-drive".into(), value: text.clone() };
            open_drive(&graph, &Settings::default(), &option, &mut drives)
                .map_err(|stop| format!("{stop:?}"))?;
        }
        Ok((graph, drives))
    }

    #[test]
    fn files_are_found_by_id_and_written_through() {
        use device::StorageSource as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        let path = file.path().display();
        let (graph, drives) =
            opened(&[format!("if=pflash,unit=1,format=raw,file={path}")]).unwrap();
        assert_eq!(drives.flash, [None, Some("pflash1".into())]);
        let storage = graph.storage("pflash1", true).unwrap();
        assert_eq!((storage.len(), storage.is_read_only()), (512, false));
        storage.write(1, b"x").unwrap();
        let mut back = [9; 5];
        storage.read(0, &mut back).unwrap();
        assert_eq!(back, *b"axc\0\0");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"axc");
        assert!(graph.storage("other", true).is_err());
    }

    #[test]
    fn snapshots_leave_the_file_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 4096]).unwrap();
        let path = file.path().display();
        let (graph, drives) = opened(&[format!("format=raw,snapshot=on,file={path}")]).unwrap();
        assert_eq!(drives.virtio.len(), 1);
        let node = graph.backend("virtio0").unwrap();
        node.write(0, &[8; 512]).unwrap();
        let mut back = [0; 513];
        node.read(0, &mut back).unwrap();
        assert_eq!((back[0], back[512]), (8, 7));
        assert_eq!(std::fs::read(file.path()).unwrap(), [7; 4096]);
        let flash = format!("if=pflash,format=raw,snapshot=on,file={path}");
        let (graph, _) = opened(&[flash]).unwrap();
        graph.backend("pflash0").unwrap().write(0, &[9; 512]).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [7; 4096]);
        let rom = format!("if=pflash,format=raw,snapshot=on,readonly=on,file={path}");
        let (graph, _) = opened(&[rom]).unwrap();
        assert!(graph.backend("pflash0").unwrap().is_read_only());
    }

    #[test]
    fn mistakes_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let fails = |texts: &[String]| opened(texts).err().unwrap_or_default();
        let same = format!("if=pflash,unit=0,format=raw,readonly=on,file={path}");
        assert!(fails(&[same.clone(), same]).contains("unit=0 (index=-1) exists"));
        assert!(fails(&[format!("if=pflash,unit=2,file={path}")]).contains("does not support"));
        assert!(fails(&[format!("if=scsi,file={path}")]).contains("if=scsi is not built"));
        assert!(fails(&[format!("if=none,format=bogus,file={path}")]).contains("bogus"));
        assert!(fails(&["if=pflash,file=/nonexistent".into()]).contains("No such file"));
        assert!(fails(&[format!("if=none,bogus=1,file={path}")]).contains("bogus"));
        let both = format!("if=none,format=raw,file={path},bps=1000,throttling.bps-read=1");
        assert!(fails(&[both]).contains("cannot be used at the same time"));
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_the_peer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let fails = |text: String| opened(&[text]).err().unwrap_or_default();
        for (text, words) in [
            ("driver=raw,format=raw,file=F", "Cannot specify both 'driver' and 'format'"),
            (
                "file=F,iops=1,throttling.iops-total=2",
                "'throttling.iops-total' and its alias 'iops' can't be used at the same time",
            ),
            ("file=F,readonly=on,read-only=off", "'read-only' and its alias 'readonly' can't be"),
            ("file=F,bps_rd=-3", "bps/iops/max values must be within [0, 1000000000000000]"),
            ("format=raw,file=F,foo=on", "Block format 'raw' does not support the option 'foo'"),
            (
                "format=raw,file=F,file.foo=",
                "Block protocol 'file' doesn't support the option 'foo'",
            ),
            ("format=raw,file=F,backing.file.filename=F", "Driver doesn't support backing files"),
            ("file.filename=file:/x,format=raw", "Could not open 'file:/x': No such file"),
            ("driver=file", "The 'file' block driver requires a file name"),
            ("driver=file,filename=", "The 'file' block driver requires a file name"),
            ("foo=bar", "Must specify either driver or file"),
            ("file.cache.writeback=off,file=F,format=raw", "support the option 'cache.writeback'"),
            (
                "format=qcow2,file=F,backing.file.filename=F,backing.file.foo=1",
                "Could not open backing file: Block protocol 'file' doesn't support the option",
            ),
            ("file=null-co://,force-share=on", "force-share=on can only be used with read-only"),
        ] {
            let told = fails(format!("if=none,{text}").replace("=F", &format!("={path}")));
            assert!(told.contains(words), "{text}: {told}");
        }
        assert_eq!(fails("if=none,format=raw,file=null-co://,aio=threads".into()), "");
        // A format may stand where a file is expected, and drivers are found out at every depth.
        let (graph, _) = opened(&[
            format!("if=none,id=a,driver=raw,file.driver=raw,file={path}"),
            "if=none,id=b,driver=raw,file.driver=blkdebug,file.image.driver=null-co".into(),
        ])
        .unwrap();
        let below = graph.backend("a").unwrap().child("file").unwrap();
        assert_eq!(below.class().name, "raw");
        assert_eq!(graph.backend("b").unwrap().filename(), "blkdebug::null-co://");
    }

    #[test]
    fn limits_have_old_and_new_names_and_a_group() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let text = format!(
            "if=none,id=d,format=raw,file={path},bps_rd=1000,throttling.iops-write=5,\
             iops_wr_max=9,throttling.iops-write-max-length=3,iops_size=512,throttling.group=g"
        );
        let (graph, _) = opened(&[text]).unwrap();
        let group = graph.drive("d").unwrap().io_group().unwrap();
        let (rules, op_size) = group.rules();
        assert_eq!((group.name(), op_size), ("g", 512));
        let parts = rules.map(|limit| (limit.average, limit.max, limit.length));
        let none = (0.0, 0.0, 1.0);
        assert_eq!(parts, [none, (1000.0, 0.0, 1.0), none, none, none, (5.0, 9.0, 3.0)]);
    }
}
