//! `create` and `resize`.

use block::{BlockClass, Creation, Flags, Graph, Preallocation};

use crate::options::{Given, graph, open, pairs, size};
use crate::{Done, Fail, fail, say};

/// Checks options against what the format knows.
pub(crate) fn checked(class: &BlockClass, options: &[(String, String)]) -> Result<(), Fail> {
    match options.iter().find(|(name, _)| !class.create_options.iter().any(|o| o.name == name)) {
        Some((name, _)) => Err(Fail(format!("Invalid parameter '{name}'"), 1)),
        None => Ok(()),
    }
}

/// `-o help`.
pub(crate) fn help(class: &BlockClass) -> String {
    let mut out = String::from("Supported options:\n");
    for option in class.create_options {
        let form = format!("{}=<{}>", option.name, option.kind);
        out += &format!("  {form:<22} - {}\n", option.help);
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

pub(crate) fn run(args: &[String]) -> Done {
    let given = Given::of(args, "F:b:f:ho:qu")?;
    let graph = graph();
    let format = given.value('f').unwrap_or("raw");
    if given.values('o').any(|o| matches!(o, "help" | "?")) {
        say(&help(class(&graph, format)?));
        return Ok(0);
    }
    let (name, length) = match given.names.as_slice() {
        [name] => (name, None),
        [name, length] => (name, Some(size(length)?)),
        _ => {
            return Err(Fail(
                "Expecting image file name\nTry 'qemu-img --help' for more info".into(),
                1,
            ));
        }
    };
    let named = |Fail(text, status): Fail| Fail(format!("{name}: {text}"), status);
    let class = class(&graph, format).map_err(named)?;
    let mut options = Vec::new();
    for text in given.values('o') {
        options.extend(pairs(text)?);
    }
    for (letter, key) in [('b', "backing_file"), ('F', "backing_fmt")] {
        if let Some(value) = given.value(letter) {
            options.push((key.into(), value.into()));
        }
    }
    checked(class, &options).map_err(named)?;
    let mut new = Creation { filename: name.clone(), size: 0, options, ..Creation::default() };
    let mut length = match (length, new.option("size").map(str::to_owned)) {
        (None, Some(text)) => Some(size(&text)?),
        (length, _) => length,
    };
    if let Some(backing) = new.option("backing_file").map(str::to_owned) {
        if new.option("backing_fmt").is_none() {
            return Err(named(Fail("Backing file specified without backing format".into(), 1)));
        }
        if !given.has('u') {
            let folder = name.rfind('/').map_or("", |at| name.get(..=at).unwrap_or(""));
            let path = if backing.starts_with('/') || backing.contains(':') {
                backing
            } else {
                format!("{folder}{backing}")
            };
            let flags = Flags { read_only: true, ..Flags::default() };
            let node = graph.open_image(&path, new.option("backing_fmt"), flags);
            let node = node.map_err(|e| {
                named(Fail(format!("{}\nCould not open backing image.", e.desc), 1))
            })?;
            length = length.or(Some(node.len()));
        }
    }
    new.size =
        length.ok_or_else(|| named(Fail("Image creation needs a size parameter".into(), 1)))?;
    new.options.retain(|(key, _)| key != "size");
    if !given.has('q') {
        say(&format!("Formatting '{name}', fmt={format}{}\n", (class.describe)(&new)));
    }
    make(class, &new)?;
    Ok(0)
}

pub(crate) fn resize(args: &[String]) -> Done {
    // A length may begin with a minus sign, so it is taken first.
    let Some((length, rest)) = args.split_last() else {
        return Err(Fail("Not enough arguments\nTry 'qemu-img --help' for more info".into(), 1));
    };
    let given = Given::of(rest, "f:qhHP:")?;
    let name = given.name()?;
    let how = match given.value('P') {
        None | Some("off") => Preallocation::Off,
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        Some(other) => return Err(Fail(format!("Invalid preallocation mode '{other}'"), 1)),
    };
    let node = open(&graph(), name, given.value('f'), Flags::default())?;
    let old = node.len();
    let new = match (length.strip_prefix('+'), length.strip_prefix('-')) {
        (Some(by), _) => old.checked_add(size(by)?),
        (_, Some(by)) => old.checked_sub(size(by)?),
        _ => Some(size(length)?),
    };
    let new = new
        .filter(|new| *new > 0)
        .ok_or_else(|| Fail("New image size must be positive".into(), 1))?;
    let new = new.next_multiple_of(512);
    if new < old && !given.has('H') {
        return Err(Fail("Use the --shrink option to perform a shrink operation.\nqemu-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.".into(), 1));
    }
    if let Err(error) = node.driver().truncate(new, how).and_then(|()| node.flush()) {
        return fail("Failed to resize", &error);
    }
    if !given.has('q') {
        say("Image resized.\n");
    }
    Ok(0)
}
