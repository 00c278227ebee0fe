//! Properties of devices and objects against those of an installed QEMU 10.0: names, types and
//! defaults are the same; where the peer has words of its own for one, so are they.
//!
//! Where the peer says nothing about a property (or only "on/off") ours says what it is.

use std::collections::BTreeMap;
use std::process::Command;

const PEER: &str = "qemu-system-aarch64";

/// Devices that are compared; the rest are made by boards.
const DEVICES: &[&str] = &[
    "edu",
    "pci-testdev",
    "virtconsole",
    "virtio-balloon-device",
    "virtio-balloon-pci",
    "virtio-balloon-pci-non-transitional",
    "virtio-balloon-pci-transitional",
    "virtio-mmio",
    "virtio-rng-device",
    "virtio-rng-pci",
    "virtio-rng-pci-non-transitional",
    "virtio-rng-pci-transitional",
    "virtio-serial-device",
    "virtio-serial-pci",
    "virtio-serial-pci-non-transitional",
    "virtio-serial-pci-transitional",
    "virtserialport",
];

/// What differs, with the reason.
const DEVIATIONS: &[(&str, &str, &str)] = &[];

/// Type, default and description.
#[derive(Debug, PartialEq, Eq)]
struct Property {
    kind: String,
    default: Option<String>,
    text: String,
}

/// The lines `  name=<type>   - text (default: value)`.
fn parse(help: &str) -> BTreeMap<String, Property> {
    let mut all = BTreeMap::new();
    for line in help.lines().filter(|line| line.starts_with("  ")) {
        let (name, rest) = line.trim_start().split_once("=<").unwrap();
        // Types may have brackets themselves.
        let (kind, rest) = rest.split_once(" - ").unwrap_or((rest, ""));
        let kind = kind.trim_end().strip_suffix('>').unwrap().to_owned();
        let (text, default) = match rest.rsplit_once("(default: ") {
            Some((text, value)) => (text, Some(value.trim_end_matches(')').to_owned())),
            None => (rest, None),
        };
        all.insert(name.to_owned(), Property { kind, default, text: text.trim().to_owned() });
    }
    all
}

fn run(args: &[&str]) -> Option<String> {
    let output = Command::new(PEER).args(args).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_installed() -> bool {
    let version = run(&["--version"]);
    let found = version.is_some_and(|text| text.starts_with("QEMU emulator version 10.0"));
    if !found {
        eprintln!("no QEMU 10.0 here: nothing is compared");
    }
    found
}

fn differences(name: &str, ours: &str, theirs: &str) -> Vec<String> {
    let (ours, theirs) = (parse(ours), parse(theirs));
    assert!(!theirs.is_empty(), "{name}: the peer lists nothing");
    let mut found = Vec::new();
    for (property, want) in &theirs {
        let known = DEVIATIONS.iter().any(|d| (d.0, d.1) == (name, property.as_str()));
        let Some(got) = ours.get(property) else {
            found.push(format!("{name}.{property} is missing"));
            continue;
        };
        let silent = ["", "on/off", "on/off/auto"].contains(&want.text.as_str());
        let same = got.kind == want.kind
            && got.default == want.default
            && (silent || got.text == want.text);
        if same == known {
            found.push(format!("{name}.{property}: {got:?}, the peer {want:?}"));
        }
    }
    let extra = ours.keys().filter(|property| !theirs.contains_key(*property));
    found.extend(extra.map(|property| format!("{name}.{property}: the peer has none")));
    found
}

#[test]
fn devices_have_the_peers_properties() {
    if !is_installed() {
        return;
    }
    let mut found = Vec::new();
    for name in DEVICES {
        let class = catalog::DEVICES.iter().find(|class| class.name == *name).unwrap();
        let ours = qapi::member_lines(name, (class.props)());
        let theirs = run(&["-device", &format!("{name},help")]).unwrap();
        found.extend(differences(name, &ours, &theirs));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn objects_have_the_peers_properties() {
    if !is_installed() {
        return;
    }
    for class in catalog::OBJECTS {
        let theirs = run(&["-object", &format!("{},help", class.name)]).unwrap();
        // The whole text, to the letter.
        let ours = objects::help(class);
        for (ours, theirs) in ours.lines().zip(theirs.lines()) {
            assert_eq!(ours, theirs, "{}", class.name);
        }
        assert_eq!(ours.lines().count(), theirs.lines().count(), "{}", class.name);
    }
}

#[test]
fn help_lines_are_understood() {
    let text = "x options:\n  a=<bool>               - on/off (default: on)\n  \
                b=<link<rng-backend>>\n  c=<str>                - Words (of two) (default: -1)\n";
    let all = parse(text);
    assert_eq!(all["a"].default.as_deref(), Some("on"));
    assert_eq!((all["b"].kind.as_str(), all["b"].default.as_deref()), ("link<rng-backend>", None));
    assert_eq!(
        (all["c"].text.as_str(), all["c"].default.as_deref()),
        ("Words (of two)", Some("-1"))
    );
}
