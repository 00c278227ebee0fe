//! `-readconfig`: options in a file of sections.
//!
//! ```text
//! # a comment
//! [device "net0"]
//!   driver = "virtio-net-pci"
//! [machine]
//!   type = "virt"
//! ```
//!
//! Each section becomes the option of its name, its lines the parameters, in the
//! order of the file. Source: QEMU's manual and the behaviour of QEMU 10.0.2.

use crate::{
    fail::{Step, Stop},
    options::Given,
    table::TABLE,
};

/// Longest file that is read.
const MAX_LEN: u64 = 16 << 20;

/// Sections whose option has another name.
const NAMES: &[(&str, &str)] = &[("memory", "m"), ("smp-opts", "smp"), ("boot-opts", "boot")];

struct Section {
    option: String,
    value: String,
    line: usize,
}

/// Reads the file that `given` names; gives the options in it.
pub(crate) fn read(given: &Given) -> Step<Vec<Given>> {
    let path = &given.value;
    let fail = |error: std::io::Error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default().to_owned();
        Stop::at(&given.place, format!("Could not open '{path}': {text}"))
    };
    let len = std::fs::metadata(path).map_err(fail)?.len();
    if len > MAX_LEN {
        return Err(Stop::at(&given.place, format!("'{path}' is larger than {MAX_LEN} bytes")));
    }
    let text = std::fs::read(path).map_err(fail)?;
    parse(path, &String::from_utf8_lossy(&text))
}

fn parse(path: &str, text: &str) -> Step<Vec<Given>> {
    let mut sections: Vec<Section> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let fail = |text: &str| Stop::at(&format!("{path}:{number}"), text);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            let head = head.strip_suffix(']').ok_or_else(|| fail("parse error"))?;
            let (name, id) = head.split_once(char::is_whitespace).unwrap_or((head, ""));
            let mut value = String::new();
            if !id.trim().is_empty() {
                let id = quoted(id.trim()).ok_or_else(|| fail("parse error"))?;
                add(&mut value, "id", id);
            }
            sections.push(Section { option: name.to_owned(), value, line: number });
            continue;
        }
        let pair = line.split_once('=').and_then(|(key, value)| Some((key, quoted(value.trim())?)));
        let (key, value) = pair.ok_or_else(|| fail("parse error"))?;
        let section = sections.last_mut().ok_or_else(|| fail("no group defined"))?;
        add(&mut section.value, key.trim(), value);
    }
    sections.into_iter().map(|section| option(path, section)).collect()
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

fn add(value: &mut String, key: &str, word: &str) {
    if !value.is_empty() {
        value.push(',');
    }
    value.push_str(key);
    value.push('=');
    value.push_str(&word.replace(',', ",,"));
}

fn option(path: &str, section: Section) -> Step<Given> {
    let place = format!("{path}:{}", section.line);
    let same = NAMES.iter().find(|(name, _)| *name == section.option);
    let name = same.map_or(section.option.as_str(), |(_, option)| option);
    let opt = TABLE.iter().find(|opt| opt.name == name && opt.arg);
    let opt = opt.ok_or_else(|| {
        Stop::at(&place, format!("There is no option group '{}'", section.option))
    })?;
    crate::options::usable(opt, &place)?;
    Ok(Given { opt, place, value: section.value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Vec<String>, String> {
        match parse("f", text) {
            Ok(given) => Ok(given.iter().map(|g| format!("{} {}", g.opt.name, g.value)).collect()),
            Err(Stop::Failed(failure)) => Err(failure.text("p").trim_end().to_owned()),
            Err(_) => Err("ended".into()),
        }
    }

    #[test]
    fn sections_become_options() {
        let text = "# c\n[machine]\n type = \"virt\"\n\n[device \"a\"]\ndriver=\"x,y\"\n[memory]\nsize = \"1G\"";
        let want = ["machine type=virt", "device id=a,driver=x,,y", "m size=1G"];
        assert_eq!(options(text), Ok(want.map(str::to_owned).to_vec()));
    }

    #[test]
    fn mistakes_are_named_by_line() {
        assert_eq!(options("a = \"b\""), Err("p: f:1: no group defined".into()));
        assert_eq!(options("\n[machine\n"), Err("p: f:2: parse error".into()));
        assert_eq!(options("[machine]\na = b"), Err("p: f:2: parse error".into()));
        assert_eq!(options("[nope]"), Err("p: f:1: There is no option group 'nope'".into()));
        assert_eq!(options("[device \"\u{e9}]"), Err("p: f:1: parse error".into()));
    }
}
