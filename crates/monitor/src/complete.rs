//! Completion of a line: what the last word could become.
//!
//! The words come from what exists: command names, subcommands of `info`, device
//! types and ids, object types and ids, character back ends, objects of the tree.

use std::sync::Arc;

use vmm::Vm;

use crate::hmp::{COMMANDS, HumanCommand};
use crate::info;

/// What came of asking.
#[derive(Debug, PartialEq)]
pub(crate) enum Completion {
    /// Nothing fits.
    Nothing,
    /// This is to be added.
    Add(String),
    /// These are the choices.
    Choices(Vec<String>),
}

/// Completes the last word of `text`.
pub(crate) fn complete(vm: &Arc<Vm>, text: &str) -> Completion {
    let start = text.rfind(' ').map_or(0, |at| at + 1);
    let (before, word) = text.split_at(start);
    let words: Vec<&str> = before.split_whitespace().collect();
    choose(candidates(vm, &words), word)
}

fn choose(candidates: Vec<String>, word: &str) -> Completion {
    let mut fits: Vec<String> = candidates.into_iter().filter(|c| c.starts_with(word)).collect();
    fits.sort();
    fits.dedup();
    let Some(first) = fits.first() else { return Completion::Nothing };
    if fits.len() == 1 {
        return Completion::Add(format!("{} ", first.get(word.len()..).unwrap_or_default()));
    }
    let same = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let common = fits.iter().map(|other| same(first, other)).min().unwrap_or(0);
    match first.get(word.len()..common) {
        Some(more) if !more.is_empty() => Completion::Add(more.to_owned()),
        _ => Completion::Choices(fits),
    }
}

fn candidates(vm: &Arc<Vm>, words: &[&str]) -> Vec<String> {
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    let commands = || COMMANDS.iter().flat_map(HumanCommand::names).collect();
    let devices = || {
        let all = vm.machine().map(|m| m.devices.all()).unwrap_or_default();
        all.iter().filter(|r| r.parent.is_some()).map(|r| r.id.clone()).collect()
    };
    match words {
        [] | ["help" | "?"] => owned(commands()),
        ["info"] | ["help", "info"] => owned(info::names()),
        ["device_add"] => {
            let pluggable = vm.listing.devices.iter();
            pluggable
                .filter(|class| class.bus != device::Bus::System)
                .map(|class| class.name.to_owned())
                .collect()
        }
        ["device_del"] => devices(),
        ["object_add"] => vm.listing.objects.iter().map(|class| class.name.to_owned()).collect(),
        ["object_del"] => vm.objects.all().iter().map(|object| object.id.clone()).collect(),
        ["chardev-add"] => chardev::CLASSES.iter().map(|class| class.name.to_owned()).collect(),
        ["chardev-remove" | "chardev-send-break" | "ringbuf_read" | "ringbuf_write"] => {
            vm.chardevs.list().into_iter().map(|chardev| chardev.label).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str], word: &str) -> Completion {
        choose(words.iter().map(|w| (*w).to_owned()).collect(), word)
    }

    #[test]
    fn one_word_is_added_several_are_shown() {
        assert_eq!(of(&["stop", "cont"], "st"), Completion::Add("op ".into()));
        assert_eq!(
            of(&["system_reset", "system_powerdown"], "s"),
            Completion::Add("ystem_".into())
        );
        let both = Completion::Choices(vec!["ab".into(), "ac".into()]);
        assert_eq!(of(&["ac", "ab"], "a"), both);
        assert_eq!(of(&["ab"], "x"), Completion::Nothing);
    }
}
