//! Properties of devices and objects against those of an installed QEMU 10.0: names, types and
//! defaults are the same; where the peer has words of its own for one, so are they.
//!
//! Where the peer says nothing about a property (or only "on/off") ours says what it is.

use std::collections::BTreeMap;
use std::process::Command;

const PEER: &str = "qemu-system-aarch64";

/// Devices that are compared.
const DEVICES: &[&str] = &[
    "arm-gicv2m",
    "arm-gicv3",
    "arm-gicv3-its",
    "arm_gic",
    "cfi.pflash01",
    "fw_cfg_mem",
    "gpex-pcihost",
    "gpio-key",
    "loader",
    "pl011",
    "pl031",
    "pl061",
    "e1000e",
    "edu",
    "pci-testdev",
    "nvme",
    "nvme-ns",
    "pci-bridge",
    "pcie-pci-bridge",
    "pcie-root-port",
    "x3130-upstream",
    "xio3130-downstream",
    "virtconsole",
    "virtio-balloon-device",
    "virtio-balloon-pci",
    "virtio-balloon-pci-non-transitional",
    "virtio-balloon-pci-transitional",
    "scsi-cd",
    "scsi-hd",
    "virtio-blk-device",
    "virtio-blk-pci",
    "virtio-blk-pci-non-transitional",
    "virtio-blk-pci-transitional",
    "virtio-mmio",
    "virtio-net-device",
    "virtio-net-pci",
    "virtio-net-pci-non-transitional",
    "virtio-net-pci-transitional",
    "virtio-rng-device",
    "virtio-rng-pci",
    "virtio-rng-pci-non-transitional",
    "virtio-rng-pci-transitional",
    "virtio-scsi-device",
    "virtio-scsi-pci",
    "virtio-scsi-pci-non-transitional",
    "virtio-scsi-pci-transitional",
    "virtio-serial-device",
    "virtio-serial-pci",
    "virtio-serial-pci-non-transitional",
    "virtio-serial-pci-transitional",
    "virtserialport",
];

/// What differs, with the reason.
const DEVIATIONS: &[(&str, &str, &str)] = &[];

/// Properties of devices that only boards make: where the peer's boards say something by a property
/// that ours say otherwise (by the kind of device, by wiring), or have ways that are not built.
const OF_BOARDS: &[(&str, &[&str], &str)] = &[
    ("arm-gicv3", &["force-8-bit-prio", "has-nmi"], "not built"),
    ("arm-gicv3", &["redist-region-count"], "a list has its element's type here"),
    (
        "arm-gicv3",
        &["revision", "sysmem"],
        "the class is the revision; memory comes with the world",
    ),
    (
        "arm-gicv3",
        &["irq-reset-nonsecure", "mpidr"],
        "the peer's board pokes CPUs and reset instead",
    ),
    ("arm-gicv3-its", &["parent-gicv3"], "found through the world"),
    ("arm_gic", &["num-priority-bits", "revision"], "the class is the revision"),
    ("arm_gic", &["irq-reset-nonsecure"], "the peer's board calls a reset hook instead"),
    (
        "cfi.pflash01",
        &["big-endian", "max-device-width", "old-multiple-chip-handling"],
        "not built",
    ),
    ("cfi.pflash01", &["id2", "id3"], "the board's banks have zeros there"),
    ("fw_cfg_mem", &["acpi-mr-restore", "data_width"], "for migration; the board's is 8 wide"),
    ("gpex-pcihost", &["allow-unmapped-accesses", "bypass-iommu", "num-irqs"], "not built"),
    ("gpex-pcihost", &["gpex_root"], "a child, not a property"),
    ("gpex-pcihost", &["x-config-reg-migration-enabled"], "for migration between versions"),
    (
        "gpex-pcihost",
        &[
            "x-above-4g-mmio-base",
            "x-above-4g-mmio-size",
            "x-below-4g-mmio-base",
            "x-below-4g-mmio-size",
            "x-ecam-base",
            "x-ecam-size",
            "x-pio-base",
            "x-pio-size",
        ],
        "the board maps the windows",
    ),
    ("pl011", &["clk", "migrate-clk"], "clocks are not modelled"),
    ("pl031", &["migrate-tick-offset"], "for migration from old versions"),
];

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

/// Properties of disks and their controllers that are not built, by the start of the device's name.
const OF_DISKS: &[(&str, &[&str], &str)] = &[
    ("virtio-blk", &["cyls", "heads", "secs", "lcyls", "lheads", "lsecs"], "geometry is computed"),
    ("virtio-blk", &["x-enable-wce-if-config-wce"], "for migration between versions"),
    ("virtio-blk", &["iothread-vq-mapping"], "a list has its element's type here"),
    (
        "nvme-ns",
        &[
            "eui64-default",
            "fdp.ruhs",
            "mcl",
            "ms",
            "mset",
            "msrc",
            "mssrl",
            "pi",
            "pif",
            "pil",
            "zoned",
            "zoned.cross_read",
            "zoned.descr_ext_size",
            "zoned.max_active",
            "zoned.max_open",
            "zoned.numzrwa",
            "zoned.zone_capacity",
            "zoned.zone_size",
            "zoned.zrwafg",
            "zoned.zrwas",
        ],
        "metadata, zones, copies and placement are not built",
    ),
    ("virtio-scsi", &["iothread-vq-mapping"], "a list has its element's type here"),
    ("scsi-", &["cyls", "heads", "secs", "lcyls", "lheads", "lsecs"], "geometry is computed"),
    ("scsi-", &["migrate-emulated-scsi-request"], "for migration between versions"),
    (
        "scsi-",
        &["quirk_mode_page_truncated", "quirk_mode_page_vendor_specific_apple"],
        "for guests of other machines",
    ),
    (
        "scsi-cd",
        &["quirk_mode_page_apple_vendor", "quirk_mode_sense_rom_use_dbd"],
        "for guests of other machines",
    ),
];

fn of_boards(name: &str, property: &str) -> bool {
    let of_disk = |d: &(&str, &[&str], &str)| name.starts_with(d.0) && d.1.contains(&property);
    if OF_DISKS.iter().any(of_disk) {
        return true;
    }
    OF_BOARDS.iter().any(|(device, names, _)| *device == name && names.contains(&property))
}

fn differences(name: &str, ours: &str, theirs: &str) -> Vec<String> {
    let none = theirs.starts_with("There are no options");
    let (ours, theirs) = (parse(ours), parse(theirs));
    assert!(none || !theirs.is_empty(), "{name}: the peer lists nothing");
    let mut found = Vec::new();
    for (property, want) in &theirs {
        // Regions and pins are children in the object tree, not properties.
        if property.contains('[') || of_boards(name, property) {
            continue;
        }
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
    let own = |property: &&String| !theirs.contains_key(*property) && !of_boards(name, property);
    let extra = ours.keys().filter(own);
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
