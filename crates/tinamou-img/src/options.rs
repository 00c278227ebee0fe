//! Options of commands: short ones that may be joined, long ones, and names of images.
//!
//! A command has a table of its options ([`Opt`]); long names may be shortened as long as they are
//! clear, and options may stand behind names, as getopt_long(3) does it. Options that all commands
//! share (`--object`, `--image-opts`, `-U`, cache modes) are read here.
//! Source: getopt_long(3); QEMU's manual, `qemu-img`, "Command Description".

use std::sync::Arc;

use block::{Flags, Graph, Keys, Node};
use qapi::{Source, Value};

use crate::Fail;

/// An option: its letter (NUL: none), its long name, and the name of its value (empty: none).
pub(crate) type Opt = (char, &'static str, &'static str);

/// Those of most commands.
pub(crate) const COMMON: &[Opt] = &[
    ('h', "help", ""),
    ('\0', "object", "OBJDEF"),
    ('\0', "image-opts", ""),
    ('U', "force-share", ""),
    ('q', "quiet", ""),
];

/// What was given.
pub(crate) struct Given {
    command: &'static str,
    options: Vec<(&'static str, String)>,
    /// Names of images.
    pub(crate) names: Vec<String>,
}

struct Reader<'a> {
    tables: [&'a [Opt]; 2],
    given: Given,
}

impl Reader<'_> {
    fn all(&self) -> impl Iterator<Item = &Opt> {
        // These only write: nobody may look on.
        let writes = ["amend", "bitmap", "commit", "create", "resize"];
        let shares = !writes.contains(&self.given.command);
        self.tables.into_iter().flatten().filter(move |opt| shares || opt.0 != 'U')
    }

    /// getopt says what is wrong itself; the hint follows.
    fn wrong(&self, text: &str) -> Fail {
        let command = self.given.command;
        eprintln!("qemu-img {command}: {text}");
        eprintln!("Try 'qemu-img {command} --help' for more info");
        Fail(String::new(), 1)
    }

    fn long(&mut self, arg: &str, rest: &mut std::slice::Iter<'_, String>) -> Result<(), Fail> {
        let text = arg.trim_start_matches('-');
        let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
        let exact = self.all().find(|opt| opt.1 == name).copied();
        let like: Vec<Opt> = self.all().filter(|opt| opt.1.starts_with(name)).copied().collect();
        let found = match (exact, like.as_slice()) {
            (Some(found), _) => found,
            (None, [found]) => *found,
            (None, [_, ..]) => {
                return Err(self.wrong(&format!("option '--{name}' is ambiguous")));
            }
            _ => return Err(self.wrong(&format!("unrecognized option '--{name}'"))),
        };
        let value = match (found.2.is_empty(), value) {
            (true, None) => String::new(),
            (true, Some(_)) => {
                let text = format!("option '--{}' doesn't allow an argument", found.1);
                return Err(self.wrong(&text));
            }
            (false, Some(value)) => value.to_owned(),
            (false, None) => match rest.next() {
                Some(value) => value.clone(),
                None => {
                    let text = format!("option '--{}' requires an argument", found.1);
                    return Err(self.wrong(&text));
                }
            },
        };
        self.given.options.push((found.1, value));
        Ok(())
    }

    fn short(&mut self, arg: &str, rest: &mut std::slice::Iter<'_, String>) -> Result<(), Fail> {
        let mut letters = arg.chars().skip(1);
        while let Some(letter) = letters.next() {
            let Some(found) = self.all().find(|opt| opt.0 == letter).copied() else {
                return Err(self.wrong(&format!("invalid option -- '{letter}'")));
            };
            let mut value = String::new();
            if !found.2.is_empty() {
                value = letters.by_ref().collect();
                if value.is_empty() {
                    value = match rest.next() {
                        Some(value) => value.clone(),
                        None => {
                            let text = format!("option requires an argument -- '{letter}'");
                            return Err(self.wrong(&text));
                        }
                    };
                }
            }
            self.given.options.push((found.1, value));
        }
        Ok(())
    }
}

impl Given {
    /// Reads arguments; `None`: help was asked for and given.
    pub(crate) fn of(
        command: &'static str,
        args: &[String],
        own: &[Opt],
    ) -> Result<Option<Given>, Fail> {
        let given = Given { command, options: Vec::new(), names: Vec::new() };
        let mut reader = Reader { tables: [own, COMMON], given };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            if arg == "--" {
                reader.given.names.extend(rest.by_ref().cloned());
            } else if arg.starts_with("--") {
                reader.long(arg, &mut rest)?;
            } else if arg.starts_with('-') && arg.len() > 1 {
                reader.short(arg, &mut rest)?;
            } else {
                reader.given.names.push(arg.clone());
            }
            if reader.given.has("help") {
                crate::say(&help_text(command, reader.tables));
                return Ok(None);
            }
        }
        Ok(Some(reader.given))
    }

    /// What is wrong with how the command was used.
    pub(crate) fn usage(&self, text: &str) -> Fail {
        Fail(format!("{text}\nTry 'qemu-img {} --help' for more info", self.command), 1)
    }

    /// Whether an option was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(n, _)| *n == name)
    }

    /// The last value of an option.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// All values of an option.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// Options and their values in the order given.
    pub(crate) fn ordered(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.options.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Whether the output is JSON.
    pub(crate) fn is_json(&self) -> Result<bool, Fail> {
        match self.value("output") {
            None | Some("human") => Ok(false),
            Some("json") => Ok(true),
            Some(other) => {
                Err(self.usage(&format!("--output expects 'human' or 'json' not '{other}'")))
            }
        }
    }

    /// The only name.
    pub(crate) fn name(&self) -> Result<&str, Fail> {
        match self.names.as_slice() {
            [name] => Ok(name),
            _ => Err(self.usage("Expecting one image file name")),
        }
    }

    /// The graph of this program, with the objects of `--object`.
    pub(crate) fn graph(&self) -> Result<Arc<Graph>, Fail> {
        let graph = Graph::new(catalog_block::BLOCK);
        let objects = Arc::new(device::Objects::default());
        for text in self.values("object") {
            add_object(&objects, text)?;
        }
        graph.set_keys(Keys::of(objects));
        Ok(graph)
    }

    /// Flags of an image that is read, or written.
    pub(crate) fn flags(&self, read_only: bool) -> Flags {
        Flags { read_only, force_share: self.has("force-share"), ..Flags::default() }
    }

    /// Opens an image by its name, or by its description where the options say so.
    pub(crate) fn open(
        &self,
        graph: &Graph,
        name: &str,
        format: Option<&str>,
        flags: Flags,
    ) -> Result<Arc<Node>, Fail> {
        if self.has("image-opts") {
            if format.is_some() {
                let text = "--image-opts and --format are mutually exclusive";
                return Err(Fail(text.into(), 1));
            }
            return open_described(graph, name, flags);
        }
        open(graph, name, format, flags)
    }
}

fn help_text(command: &str, tables: [&[Opt]; 2]) -> String {
    let mut out = format!("Usage: qemu-img {command} [OPTIONS] ARGUMENTS\n\nOptions:\n");
    for (letter, long, value) in tables.into_iter().flatten() {
        let short = if *letter == '\0' { String::new() } else { format!("-{letter}, ") };
        let space = if value.is_empty() { "" } else { " " };
        out += &format!("  {short}--{long}{space}{value}\n");
    }
    out
}

fn add_object(objects: &device::Objects, text: &str) -> Result<(), Fail> {
    let mut value = if text.starts_with('{') {
        qapi::json::from_str(text)?
    } else {
        qapi::keyval::Dialect::structured(Some("qom-type")).parse(text)?.value
    };
    let source = if text.starts_with('{') { Source::Json } else { Source::KeyVal };
    let mut word = |name: &str| match value.take(name) {
        Some(Value::Str(word)) => Ok(word),
        _ => Err(qapi::Error::missing(name)),
    };
    let (kind, id) = (word("qom-type")?, word("id")?);
    let classes = catalog_block::OBJECTS;
    let class = classes.iter().find(|class| class.name == kind).ok_or_else(|| {
        qapi::Error::generic(format!("Parameter 'qom-type' does not accept value '{kind}'"))
    })?;
    Ok(objects.add(class, &id, value, source)?)
}

/// A cache mode.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cache {
    /// Past the host's page cache.
    pub(crate) direct: bool,
    /// Flushes do nothing.
    pub(crate) no_flush: bool,
    /// Every write is on the disk when it ends.
    pub(crate) through: bool,
}

impl Cache {
    /// Flags with this mode.
    pub(crate) fn flags(self, flags: Flags) -> Flags {
        Flags { direct: self.direct, no_flush: self.no_flush, ..flags }
    }
}

/// The mode of a word.
pub(crate) fn cache(word: Option<&str>, what: &str) -> Result<Cache, Fail> {
    let mode = Cache::default();
    Ok(match word {
        Some("unsafe") => Cache { no_flush: true, ..mode },
        None | Some("writeback") => mode,
        Some("writethrough") => Cache { through: true, ..mode },
        Some("none" | "off") => Cache { direct: true, ..mode },
        Some("directsync") => Cache { direct: true, through: true, ..mode },
        Some(other) => return Err(Fail(format!("Invalid {what}cache option: {other}"), 1)),
    })
}

/// Opens an image by a description.
pub(crate) fn open_described(graph: &Graph, text: &str, flags: Flags) -> Result<Arc<Node>, Fail> {
    let named = |error: qapi::Error| {
        let Fail(why, _) = error.into();
        Fail(format!("Could not open '{text}': {why}"), 1)
    };
    let value = qapi::keyval::Dialect::flat(None).parse(text)?.value;
    let value = graph.complete(value, flags).map_err(named)?;
    if let Some(driver) = value.get("driver").and_then(Value::as_str) {
        graph.class(driver).map_err(named)?;
    }
    graph.open(value, Source::KeyVal, flags).map_err(named)
}

/// `a=b,c=d` pairs of `-o`.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, Fail> {
    let value = qapi::keyval::Dialect::flat(None).parse(text)?.value;
    let members = value.as_map().unwrap_or(&[]).iter();
    Ok(members.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect())
}

/// Opens an image; one that is written and was taken for raw is a danger to be told of.
pub(crate) fn open(
    graph: &Graph,
    name: &str,
    format: Option<&str>,
    flags: Flags,
) -> Result<Arc<Node>, Fail> {
    let node = graph.open_image(name, format, flags).map_err(|error| {
        let Fail(text, _) = error.into();
        Fail(format!("Could not open '{name}': {text}"), 1)
    })?;
    let probed = format.is_none() && !name.starts_with("json:");
    if probed && !flags.read_only && node.class().name == "raw" {
        eprintln!(
            "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         Specify the 'raw' format explicitly to remove the restrictions."
        );
    }
    Ok(node)
}

/// A number of bytes as people write it.
pub(crate) fn size(text: &str) -> Result<u64, Fail> {
    qapi::parse_size(text, 1).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(|| {
        Fail("Invalid image size specified. You may use k, M, G, T, P or E suffixes for \nqemu-img: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.".into(), 1)
    })
}

pub(crate) use block::describe::human;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_joined_or_long_or_shortened() {
        let own: &[Opt] = &[('f', "format", "FMT"), ('\0', "output", "OFMT")];
        let args: Vec<String> = ["-qfraw", "--outp=json", "a", "-U"].map(String::from).into();
        let given = Given::of("info", &args, own).ok().flatten().unwrap();
        assert!(given.has("quiet") && given.has("force-share"));
        assert!(given.is_json().ok() == Some(true));
        assert_eq!(
            (given.value("format"), given.names.as_slice()),
            (Some("raw"), &["a".to_owned()][..])
        );
        assert!(Given::of("info", &args, &[]).is_err());
    }
}
