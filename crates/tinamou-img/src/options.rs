//! Options of commands: short ones that may be joined, long ones, and names of images.
//!
//! A command says which letters it knows and which of them take a value; long names stand for
//! letters. Unknown ones end the command as getopt does.

use std::sync::Arc;

use block::{Flags, Graph, Node};

use crate::Fail;

/// What was given.
#[derive(Default)]
pub(crate) struct Given {
    options: Vec<(char, String)>,
    /// Names of images.
    pub(crate) names: Vec<String>,
}

/// Long names of letters; capitals that are no option of their own stand for long-only options.
const LONG: &[(&str, char)] = &[
    ("output", 'J'),
    ("force-share", 'U'),
    ("backing-chain", 'B'),
    ("shrink", 'H'),
    ("preallocation", 'P'),
    ("size", 'z'),
    ("help", 'h'),
    ("image-opts", 'I'),
    ("quiet", 'q'),
    ("start-offset", 's'),
    ("max-length", 'L'),
    ("target-is-zero", 'T'),
];

impl Given {
    /// Reads arguments; `form` is as for getopt(3): a colon behind letters that take a value.
    pub(crate) fn of(args: &[String], form: &str) -> Result<Given, Fail> {
        let mut given = Given::default();
        let takes = |letter: char| {
            let mut rest = form.chars().skip_while(|c| *c != letter);
            rest.next().map(|_| rest.next() == Some(':'))
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                given.names.extend(args.by_ref().cloned());
            } else if let Some(long) = arg.strip_prefix("--") {
                let (name, value) =
                    long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
                let letter = LONG.iter().find(|(n, _)| *n == name).map(|(_, letter)| *letter);
                let known = letter.and_then(|letter| takes(letter).map(|value| (letter, value)));
                let (letter, wants) = known.ok_or_else(|| {
                    Fail(
                        format!("unrecognized option '{arg}'\nTry 'qemu-img --help' for more info"),
                        1,
                    )
                })?;
                let value = match (wants, value) {
                    (true, Some(value)) => value.to_owned(),
                    (true, None) => args.next().cloned().ok_or_else(|| missing(arg))?,
                    _ => String::new(),
                };
                given.options.push((letter, value));
            } else if arg.starts_with('-') && arg.len() > 1 {
                let mut letters = arg.chars().skip(1);
                while let Some(letter) = letters.next() {
                    let Some(wants) = takes(letter) else {
                        return Err(Fail(
                            format!(
                                "invalid option -- '{letter}'\nTry 'qemu-img --help' for more info"
                            ),
                            1,
                        ));
                    };
                    let mut value = String::new();
                    if wants {
                        value = letters.by_ref().collect();
                        if value.is_empty() {
                            value = args.next().cloned().ok_or_else(|| missing(arg))?;
                        }
                    }
                    given.options.push((letter, value));
                }
            } else {
                given.names.push(arg.clone());
            }
        }
        Ok(given)
    }

    /// Whether an option was given.
    pub(crate) fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(l, _)| *l == letter)
    }

    /// The last value of an option.
    pub(crate) fn value(&self, letter: char) -> Option<&str> {
        self.options.iter().rev().find(|(l, _)| *l == letter).map(|(_, value)| value.as_str())
    }

    /// All values of an option.
    pub(crate) fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |(l, _)| *l == letter).map(|(_, value)| value.as_str())
    }

    /// Whether the output is JSON.
    pub(crate) fn is_json(&self) -> Result<bool, Fail> {
        match self.value('J') {
            None | Some("human") => Ok(false),
            Some("json") => Ok(true),
            Some(_) => Err(Fail("--output must be used with human or json as argument.".into(), 1)),
        }
    }

    /// The only name.
    pub(crate) fn name(&self) -> Result<&str, Fail> {
        match self.names.as_slice() {
            [name] => Ok(name),
            _ => Err(Fail(
                "Expecting one image file name\nTry 'qemu-img --help' for more info".into(),
                1,
            )),
        }
    }
}

fn missing(arg: &str) -> Fail {
    Fail(format!("option requires an argument -- '{}'", arg.trim_start_matches('-')), 1)
}

/// `a=b,c=d` pairs of `-o`.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, Fail> {
    let value = qapi::keyval::Dialect::flat(None).parse(text)?.value;
    let members = value.as_map().unwrap_or(&[]).iter();
    Ok(members.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect())
}

/// The graph of this program.
pub(crate) fn graph() -> Arc<Graph> {
    Graph::new(catalog_block::BLOCK)
}

/// Opens an image.
pub(crate) fn open(
    graph: &Graph,
    name: &str,
    format: Option<&str>,
    flags: Flags,
) -> Result<Arc<Node>, Fail> {
    graph.open_image(name, format, flags).map_err(|error| {
        let Fail(text, _) = error.into();
        Fail(format!("Could not open '{name}': {text}"), 1)
    })
}

/// A number of bytes as people write it.
pub(crate) fn size(text: &str) -> Result<u64, Fail> {
    qapi::parse_size(text, 1).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(|| {
        Fail("Invalid image size specified! You may use k, M, G, T, P or E suffixes for \nqemu-img: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.".into(), 1)
    })
}

/// A number of bytes as the peer shows it: four figures and a unit.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let mut value = bytes as f64;
    while value >= 1000.0 && unit < 6 {
        // 1000 of a unit and more are shown in the next one.
        value /= 1024.0;
        unit += 1;
    }
    let text = if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text} {}B", UNITS.get(unit).unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_the_peer_does() {
        let cases = [
            (0, "0 B"),
            (512, "512 B"),
            (4096, "4 KiB"),
            (200_704, "196 KiB"),
            (3 << 20, "3 MiB"),
            (1 << 30, "1 GiB"),
        ];
        for (bytes, text) in &cases {
            assert_eq!(human(*bytes), *text);
        }
    }

    #[test]
    fn options_are_joined_or_long() {
        let args: Vec<String> = ["-qfraw", "--output=json", "a", "-U"].map(String::from).into();
        let given = Given::of(&args, "qf:J:U").ok().unwrap();
        assert!(given.has('q') && given.has('U') && given.is_json().ok() == Some(true));
        assert_eq!(
            (given.value('f'), given.names.as_slice()),
            (Some("raw"), &["a".to_owned()][..])
        );
        assert!(Given::of(&args, "q").is_err());
    }
}
