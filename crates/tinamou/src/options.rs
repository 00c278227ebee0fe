//! Reads the command line against the option table.

use crate::{
    fail::{Step, Stop},
    table::{Opt, OptionState, TABLE},
};

/// An option as it was given.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// Its entry.
    pub(crate) opt: &'static Opt,
    /// As typed, with its value: the place in error messages.
    pub(crate) place: String,
    /// The value; empty for an option that takes none.
    pub(crate) value: String,
}

/// Reads all options; the first mistake ends it.
pub(crate) fn read(args: &[String]) -> Step<Vec<Given>> {
    let mut given = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(name) = arg.strip_prefix('-').filter(|name| !name.is_empty()) else {
            // An image without an option is the first disk.
            let Some(opt) = TABLE.iter().find(|opt| opt.name == "hda") else {
                return Err(Stop::at(arg, "invalid option"));
            };
            given.push(Given { opt, place: arg.clone(), value: arg.clone() });
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let Some(opt) = TABLE.iter().find(|opt| opt.name == name) else {
            return Err(Stop::at(arg, "invalid option"));
        };
        if opt.state == OptionState::NotBuilt && opt.arg {
            let value = args.next().map_or("", String::as_str);
            usable(opt, format!("{arg} {value}").trim_end())?;
        }
        usable(opt, arg)?;
        let mut place = arg.clone();
        let mut value = String::new();
        if opt.arg {
            let Some(word) = args.next() else {
                return Err(Stop::at(arg, "requires an argument"));
            };
            value.clone_from(word);
            place = format!("{arg} {word}");
        }
        let option = Given { opt, place, value };
        if opt.name == "readconfig" {
            given.extend(crate::config_file::read(&option)?);
        } else {
            given.push(option);
        }
    }
    Ok(given)
}

/// Refuses an option that cannot be used.
pub(crate) fn usable(opt: &Opt, place: &str) -> Step<()> {
    match opt.state {
        OptionState::Built => Ok(()),
        OptionState::NotHere => Err(Stop::at(place, "Option not supported for this target")),
        OptionState::NotBuilt => {
            Err(Stop::at(place, "this option of QEMU is not built yet in Tinamou"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        match read(&args) {
            Err(Stop::Failed(failure)) => failure.text("p").trim_end().to_owned(),
            _ => "no error".into(),
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(error(&["-foo"]), "p: -foo: invalid option");
        assert_eq!(error(&["--M"]), "p: --M: requires an argument");
        assert_eq!(
            error(&["-mtdblock", "x"]),
            "p: -mtdblock x: this option of QEMU is not built yet in Tinamou"
        );
        assert_eq!(error(&["-vnc"]), "p: -vnc: this option of QEMU is not built yet in Tinamou");
        assert_eq!(error(&["-win2k-hack"]), "p: -win2k-hack: Option not supported for this target");
        assert_eq!(error(&["-S", "--nographic", "-m", "1"]), "no error");
    }

    #[test]
    fn an_image_without_an_option_is_the_first_disk() {
        let args = ["-S", "a,b.img", "-m", "1"].map(str::to_owned);
        let Ok(given) = read(&args) else { panic!("it is an option") };
        let disk = given.iter().find(|given| given.opt.name == "hda").expect("a disk");
        assert_eq!((disk.place.as_str(), disk.value.as_str()), ("a,b.img", "a,b.img"));
        assert_eq!(given.len(), 3);
    }

    #[test]
    fn names_are_unique() {
        for (at, opt) in TABLE.iter().enumerate() {
            assert!(!TABLE[..at].iter().any(|other| other.name == opt.name), "{}", opt.name);
        }
    }
}
