//! `create` and `resize`.
//!
//! A new image's options are checked against what its format knows before anything is made. With a
//! backing file the length is that file's unless one is given. `resize` takes a length or how much
//! longer (`+`) or shorter (`-`, with `--shrink`) the disk is to be.
//! Source: QEMU's manual, `qemu-img create`, `qemu-img resize`.

use std::sync::Arc;

use block::{BlockClass, CreateOption, Creation, Flags, Graph, Node, Preallocation};
use qapi::Value;

use crate::options::{Given, Opt, open, pairs, size};
use crate::{Done, Fail, fail, say};

const CREATE: &[Opt] = &[
    ('f', "format", "FMT"),
    ('o', "options", "FMT_OPTS"),
    ('b', "backing", "BACKING_FILENAME"),
    ('F', "backing-format", "BACKING_FMT"),
    ('u', "backing-unsafe", ""),
];

const RESIZE: &[Opt] =
    &[('f', "format", "FMT"), ('\0', "shrink", ""), ('\0', "preallocation", "PREALLOC")];

/// Whether a text of `-o` asks for help.
pub(crate) fn asks_for_help(text: &str) -> bool {
    text.split(',').any(|word| matches!(word, "help" | "?"))
}

/// Checks options against what the format knows.
pub(crate) fn checked(class: &BlockClass, options: &[(String, String)]) -> Result<(), Fail> {
    let known = |name: &str| {
        class.create_options.iter().any(|o| o.name == name)
            // Options of the file below.
            || matches!(name, "extent_size_hint" | "nocow")
    };
    match options.iter().find(|(name, _)| !known(name)) {
        Some((name, _)) => Err(Fail(format!("Invalid parameter '{name}'"), 1)),
        None => Ok(()),
    }
}

/// A line for each option.
pub(crate) fn option_lines(options: &[CreateOption]) -> String {
    let mut out = String::new();
    for option in options {
        let form = format!("{}=<{}>", option.name, option.kind);
        out += &format!("  {form:<22} - {}\n", option.help);
    }
    out
}

/// `-o help`.
pub(crate) fn help(class: &BlockClass) -> String {
    let mut out = format!("Supported {} options:\n", class.name);
    out += &option_lines(class.create_options);
    if !class.protocol {
        out += "\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n";
    }
    out
}

/// The class of a format that can be made.
pub(crate) fn class(graph: &Graph, name: &str) -> Result<&'static BlockClass, Fail> {
    let found = graph.class(name).map_err(|_| Fail(format!("Unknown file format '{name}'"), 1))?;
    if found.create.is_none() {
        return Err(Fail(format!("Format driver '{name}' does not support image creation"), 1));
    }
    Ok(found)
}

/// Makes an image.
pub(crate) fn make(class: &BlockClass, new: &Creation) -> Result<(), Fail> {
    let Some(create) = class.create else { return Err(Fail("cannot be made".into(), 1)) };
    create(new).map_err(|error| {
        let Fail(text, status) = error.into();
        Fail(format!("{}: {text}", new.filename), status)
    })
}

/// Opens an image that was just made, with the secret it was made with.
pub(crate) fn open_new(
    graph: &Graph,
    new: &Creation,
    format: &str,
    secret: Option<&str>,
    flags: Flags,
) -> Result<Arc<Node>, Fail> {
    let flags = Flags { no_backing: new.option("backing_file").is_none(), ..flags };
    let Some(secret) = secret else { return open(graph, &new.filename, Some(format), flags) };
    let mut options = graph.image_options(&new.filename, Some(format), flags)?;
    if format == "qcow2" {
        let old = new.option("encryption").is_some();
        let kind = new.option("encrypt.format").unwrap_or(if old { "aes" } else { "luks" });
        let members = [("format", Value::from(kind)), ("key-secret", Value::from(secret))];
        options.set("encrypt", Value::map(members));
    } else {
        options.set("key-secret", Value::from(secret));
    }
    Ok(graph.open(options, qapi::Source::Json, flags)?)
}

/// The length of a disk that is made on a backing file.
fn backing_len(
    given: &Given,
    graph: &Graph,
    new: &Creation,
    backing: &str,
) -> Result<Option<u64>, Fail> {
    if given.has("backing-unsafe") {
        return Ok(None);
    }
    if new.option("backing_fmt").is_none() {
        let path = block::relative_to(&new.filename, backing);
        let flags =
            Flags { read_only: true, no_backing: true, header_only: true, ..Flags::default() };
        let text = "Backing file specified without backing format";
        let hint = match graph.open_image(&path, None, flags) {
            Ok(node) => format!("\nDetected format of {}.", node.class().name),
            Err(error) => {
                let Fail(why, _) = error.into();
                return Err(Fail(format!("{why}\nCould not open backing image."), 1));
            }
        };
        return Err(Fail(format!("{text}{hint}"), 1));
    }
    let path = block::relative_to(&new.filename, backing);
    let flags = Flags { read_only: true, header_only: true, ..Flags::default() };
    match graph.open_image(&path, new.option("backing_fmt"), flags) {
        Ok(node) => Ok(Some(node.len())),
        Err(error) => {
            let Fail(why, _) = error.into();
            Err(Fail(format!("{why}\nCould not open backing image."), 1))
        }
    }
}

/// The options of a new image, and its length where one was given.
fn described(
    given: &Given,
    graph: &Graph,
    name: &str,
    length: Option<u64>,
) -> Result<(Creation, Option<u64>), Fail> {
    let format = given.value("format").unwrap_or("raw");
    let class = class(graph, format)?;
    let mut options = Vec::new();
    for text in given.values("options") {
        options.extend(pairs(text)?);
    }
    checked(class, &options)?;
    for (option, key, what) in
        [("backing", "backing_file", "file"), ("backing-format", "backing_fmt", "format")]
    {
        if let Some(value) = given.value(option) {
            if !class.has_backing {
                let text = format!("Backing {what} not supported for file format '{format}'");
                return Err(Fail(text, 1));
            }
            options.push((key.into(), value.into()));
        }
    }
    let new = Creation { filename: name.to_owned(), size: 0, options, keys: graph.keys() };
    if let (Some(format), true) = (new.option("backing_fmt"), new.option("backing_file").is_some())
        && graph.class(format).is_err()
    {
        return Err(Fail(format!("Unknown backing file format '{format}'"), 1));
    }
    let length = match (length, new.option("size")) {
        (None, Some(text)) => {
            let parsed = qapi::parse_size(text, 1);
            Some(parsed.ok_or_else(|| Fail(
                "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.".into(),
                1,
            ))?)
        }
        (length, _) => length,
    };
    Ok((new, length))
}

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("create", args, CREATE)? else { return Ok(0) };
    let graph = given.graph()?;
    let format = given.value("format").unwrap_or("raw");
    if given.values("options").any(asks_for_help) {
        say(&help(class(&graph, format)?));
        return Ok(0);
    }
    let (name, length) = match given.names.as_slice() {
        [] => return Err(given.usage("Expecting image file name")),
        [name] => (name, None),
        [name, length] => (name, Some(size(length)?)),
        [_, _, other, ..] => return Err(given.usage(&format!("Unexpected argument: {other}"))),
    };
    let named = |Fail(text, status): Fail| Fail(format!("{name}: {text}"), status);
    let class = class(&graph, format).map_err(named)?;
    let (mut new, mut length) = described(&given, &graph, name, length).map_err(named)?;
    if let Some(backing) = new.option("backing_file").map(str::to_owned) {
        if backing == *name {
            return Err(named(Fail(
                "Error: Trying to create an image with the same filename as the backing file"
                    .into(),
                1,
            )));
        }
        let below = backing_len(&given, &graph, &new, &backing).map_err(named)?;
        length = length.or(below);
    }
    new.size =
        length.ok_or_else(|| named(Fail("Image creation needs a size parameter".into(), 1)))?;
    new.options.retain(|(key, _)| key != "size");
    if !given.has("quiet") {
        say(&format!("Formatting '{name}', fmt={format}{}\n", (class.describe)(&new)));
    }
    make(class, &new)?;
    Ok(0)
}

/// The length that a text means for a disk of some length.
fn new_length(old: u64, text: &str) -> Result<Option<u64>, Fail> {
    let amount = |text: &str| {
        qapi::parse_size(text, 1).ok_or_else(|| Fail(
            "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.".into(),
            1,
        ))
    };
    Ok(match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(by), _) => old.checked_add(amount(by)?),
        (_, Some(by)) => old.checked_sub(amount(by)?),
        _ => Some(amount(text)?),
    })
}

pub(crate) fn resize(args: &[String]) -> Done {
    // A length may begin with a minus sign, so the last argument is taken first.
    let (length, rest) = match args.split_last() {
        Some((length, rest)) if !length.starts_with("--") && length != "-h" => (Some(length), rest),
        _ => (None, args),
    };
    let Some(given) = Given::of("resize", rest, RESIZE)? else { return Ok(0) };
    let ([name], Some(length)) = (given.names.as_slice(), length) else {
        return Err(given.usage("Expecting image file name and size"));
    };
    let how = match given.value("preallocation") {
        None | Some("off") => Preallocation::Off,
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        Some(other) => return Err(Fail(format!("Invalid preallocation mode '{other}'"), 1)),
    };
    new_length(0, length)?;
    let node = given.open(&*given.graph()?, name, given.value("format"), given.flags(false))?;
    resize_node(&given, &node, length, how)
}

fn resize_node(given: &Given, node: &Node, length: &str, how: Preallocation) -> Done {
    let old = node.len();
    let new = new_length(old, length)?.filter(|new| *new > 0);
    let new = new.ok_or_else(|| Fail("New image size must be positive".into(), 1))?;
    let new = new.checked_next_multiple_of(512).unwrap_or(new);
    if new <= old && how != Preallocation::Off {
        return Err(Fail("Preallocation can only be used for growing images".into(), 1));
    }
    if new < old && !given.has("shrink") {
        return Err(Fail("Use the --shrink option to perform a shrink operation.\nqemu-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.".into(), 1));
    }
    if let Err(error) = node.driver().truncate(new, how).and_then(|()| node.flush()) {
        let why = host::reason(&error);
        // Formats say it in words of their own.
        let is_own = error.raw_os_error().is_none() && error.get_ref().is_some();
        return if is_own {
            Err(Fail(why, 1))
        } else {
            fail("Failed to resize underlying file", &error)
        };
    }
    if !given.has("quiet") {
        say("Image resized.\n");
    }
    Ok(0)
}
