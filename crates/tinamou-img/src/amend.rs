//! `amend`: changes options of an image that exists.
//!
//! What a format lets be changed is its own affair ([`block::BlockDriver::amend_options`]); others
//! are refused by name. `--force` allows what may make an encrypted image unreadable.
//! Source: QEMU's manual, `qemu-img amend`.

use block::Creation;

use crate::create::option_lines;
use crate::options::{Given, Opt, cache, pairs};
use crate::progress::Progress;
use crate::{Done, Fail, fail, say};

const OPTIONS: &[Opt] = &[
    ('f', "format", "FMT"),
    ('t', "cache", "CACHE"),
    ('o', "options", "OPTIONS"),
    ('p', "progress", ""),
    ('\0', "force", ""),
];

pub(crate) fn run(args: &[String]) -> Done {
    let Some(given) = Given::of("amend", args, OPTIONS)? else { return Ok(0) };
    if !given.has("options") {
        return Err(given.usage("Must specify options (-o)"));
    }
    let graph = given.graph()?;
    let wants_help = given.values("options").any(crate::create::asks_for_help);
    let name = given.name()?;
    let mode = cache(given.value("cache"), "")?;
    let flags = mode.flags(given.flags(false));
    let node = given.open(&graph, name, given.value("format"), flags)?;
    let class = node.class();
    let known = node.driver().amend_options();
    if known.is_empty() {
        let text = format!("Format driver '{}' does not support option amendment", class.name);
        return Err(Fail(text, 1));
    }
    if wants_help {
        say(&format!("Amend options for '{}':\n{}", class.name, option_lines(known)));
        return Ok(0);
    }
    let mut options = Vec::new();
    for text in given.values("options") {
        options.extend(pairs(text)?);
    }
    for (key, _) in &options {
        if !known.iter().any(|option| option.name == key) {
            let text = if class.create_options.iter().any(|option| option.name == key) {
                format!(
                    "Invalid parameter '{key}'\nThis option is only supported for image creation"
                )
            } else {
                format!("Invalid parameter '{key}'")
            };
            return Err(Fail(text, 1));
        }
    }
    let progress = Progress::new(given.has("progress") && !given.has("quiet"), 1);
    let change = Creation { filename: name.to_owned(), size: 0, options, keys: graph.keys() };
    node.driver().amend(&change, given.has("force"), &|done, all| progress.at(done, all))?;
    progress.add(1);
    match node.flush() {
        Ok(()) => Ok(0),
        Err(error) => fail("Failed to flush the image", &error),
    }
}
