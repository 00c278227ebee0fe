//! `virt` as a whole: what is created, where it lies, and the peer's device tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use device::{CharPort, CharSource, Clock, DeviceClass, Request, Reset, RunControl, TxAttrs};
use firmware::Fdt;
use machine::{Catalog, Host, Machine, MachineConfig, Topology};
use machine_arm::virt::{CLASS, CLASSES};
use memory::Size;
use qapi::{Source, Value};

static DEVICES: &[&DeviceClass] = &[
    &hw_char::pl011::CLASS,
    &hw_intc::gicv2::CLASS,
    &hw_intc::gicv3::CLASS,
    &hw_intc::gicv2m::CLASS,
    &hw_intc::its::CLASS,
    &hw_misc::fw_cfg::CLASS,
    &hw_misc::gpio_key::CLASS,
    &hw_misc::gpio_pwr::CLASS,
    &hw_misc::loader::CLASS,
    &hw_misc::pl061::CLASS,
    &hw_pcihost::gpex::CLASS,
    &hw_storage::pflash_cfi01::CLASS,
    &hw_timer::pl031::CLASS,
    &hw_virtio::rng::CLASS,
    &virtio::mmio::CLASS,
];
static CATALOG: Catalog =
    Catalog { devices: DEVICES, machines: &[&machine::NONE], guests: &[&cpu_arm::arch::ARCH] };

struct Run;
impl RunControl for Run {
    fn request(&self, _: Request) {}
}
impl CharSource for Run {
    fn port(&self, id: &str) -> qapi::Result<CharPort> {
        Err(qapi::Error::generic(format!("Chardev '{id}' not found")))
    }
}

fn host() -> Host {
    Host {
        clock: Clock::manual(),
        wall: Arc::new(|| 0),
        run: Arc::new(Run),
        chardevs: Arc::new(Run),
        objects: Arc::default(),
        services: device::Services::default(),
    }
}

fn create(props: &[(&str, &str)], config: MachineConfig) -> qapi::Result<Machine> {
    create_version("virt", props, config)
}

fn create_version(
    name: &str,
    props: &[(&str, &str)],
    config: MachineConfig,
) -> qapi::Result<Machine> {
    let props = Value::map(props.iter().map(|(k, v)| (*k, Value::from(*v))));
    let class = CLASSES.iter().find(|c| c.name == name || c.alias == Some(name)).unwrap();
    class.create(props, Source::KeyVal, config, host(), &CATALOG)
}

fn config(cpus: u32) -> MachineConfig {
    MachineConfig { cpus, ram_size: 512 << 20, ..MachineConfig::default() }
}

/// Nodes the peer has and we do not: the devices are not built yet.
const ABSENT: &[&str] = &[];
/// Properties that are random.
const RANDOM: &[&str] = &["rng-seed", "kaslr-seed"];

/// Version, machine properties, CPUs, and whether a kernel is booted.
type Case = (&'static str, &'static [(&'static str, &'static str)], u32, bool);
type Tree = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

fn normalised(fdt: &Fdt) -> Tree {
    fdt.entries()
        .into_iter()
        .filter(|(path, _)| !ABSENT.iter().any(|a| path.starts_with(a)))
        .map(|(path, properties)| {
            let kept = properties.into_iter().map(|(name, value)| {
                let value = if RANDOM.contains(&name.as_str()) { vec![] } else { value };
                (name, value)
            });
            (path, kept.collect())
        })
        .collect()
}

fn differences(ours: &Tree, theirs: &Tree) -> Vec<String> {
    let mut out = Vec::new();
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) => {
                let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
                for name in names.into_iter().filter(|n| a.get(*n) != b.get(*n)) {
                    let (a, b) = (a.get(name), b.get(name));
                    out.push(format!("{path}:{name}: ours {a:02x?}, theirs {b:02x?}"));
                }
            }
            (None, _) => out.push(format!("{path}: only theirs")),
            (_, None) => out.push(format!("{path}: only ours")),
        }
    }
    out
}

fn peer_tree(options: &[&str], machine: &str, dir: &Path) -> Option<Fdt> {
    let file = dir.join("peer.dtb");
    _ = std::fs::remove_file(&file);
    let machine = format!("{machine},dumpdtb={}", file.display());
    let status = Command::new("qemu-system-aarch64")
        .args(["-M", &machine, "-cpu", "cortex-a57", "-m", "512"])
        .args(options)
        .output();
    status.ok()?;
    Fdt::parse(&std::fs::read(file).ok()?).ok()
}

const CASES: &[Case] = &[
    ("virt", &[("gic-version", "2"), ("highmem", "off")], 1, false),
    ("virt", &[("gic-version", "3"), ("its", "off")], 1, false),
    ("virt", &[], 1, false),
    ("virt", &[], 9, false),
    ("virt", &[("gic-version", "2"), ("virtualization", "on")], 4, false),
    ("virt", &[("gic-version", "3")], 1, true),
    ("virt", &[("gic-version", "3"), ("virtualization", "on")], 2, false),
    ("virt", &[("gic-version", "max")], 20, false),
    ("virt", &[("gic-version", "3"), ("dtb-randomness", "off")], 2, true),
    ("virt", &[("gic-version", "3")], 124, false),
    ("virt", &[("gic-version", "3"), ("highmem-redists", "off")], 123, false),
    ("virt", &[("secure", "on")], 1, false),
    ("virt", &[("secure", "on")], 2, true),
    ("virt", &[("secure", "on"), ("virtualization", "on"), ("gic-version", "3")], 2, true),
    ("virt", &[("highmem-ecam", "off")], 1, false),
    ("virt", &[("highmem-ecam", "off"), ("compact-highmem", "off")], 1, false),
    ("virt", &[("highmem-mmio", "off")], 1, false),
    ("virt", &[("highmem-mmio-size", "1T")], 1, false),
    ("virt", &[("dt-compatible", "mine"), ("dtb-kaslr-seed", "off")], 1, false),
    ("virt-7.1", &[("highmem-redists", "off")], 1, false),
    ("virt-6.2", &[("gic-version", "3")], 2, false),
    ("virt-6.1", &[("gic-version", "3")], 2, false),
    ("virt-6.1", &[], 2, false),
    ("virt-6.0", &[("secure", "on")], 1, false),
    ("virt-5.2", &[("secure", "on")], 1, false),
    ("virt-3.0", &[], 1, false),
    ("virt-2.12", &[], 1, false),
    ("virt-2.9", &[], 2, false),
    ("virt-2.8", &[("gic-version", "3")], 2, false),
    ("virt-2.6", &[("gic-version", "3")], 1, false),
];

#[test]
fn device_tree_is_the_peers_but_for_what_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, b"\x00\x00\x00\x14").unwrap();
    let kernel_text = kernel.to_str().unwrap().to_owned();
    for (version, props, cpus, boots) in CASES {
        let smp = cpus.to_string();
        let mut options = vec!["-smp", &smp];
        let mut c = config(*cpus);
        if *boots {
            options.extend(["-kernel", &kernel_text, "-initrd", &kernel_text, "-append", "x y"]);
            c.boot.kernel = Some(kernel.clone());
            c.boot.initrd = Some(kernel.clone());
            c.boot.append = Some("x y".into());
        }
        let text: String = props.iter().map(|(k, v)| format!(",{k}={v}")).collect();
        let Some(theirs) = peer_tree(&options, &format!("{version}{text}"), dir.path()) else {
            println!("the peer is not installed: skipped");
            return;
        };
        let machine = create_version(version, props, c).unwrap();
        let ours = Fdt::parse(machine.dtb.as_ref().unwrap()).unwrap();
        let found = differences(&normalised(&ours), &normalised(&theirs));
        assert!(found.is_empty(), "{version}{text} -smp {cpus}:\n{}", found.join("\n"));
    }
}

#[test]
fn topology_shapes_the_cpu_map() {
    let mut c = config(4);
    c.topology = Some(Topology { sockets: 2, clusters: 1, cores: 1, threads: 2 });
    let m = create(&[("gic-version", "3")], c).unwrap();
    let t = Fdt::parse(m.dtb.as_ref().unwrap()).unwrap();
    assert!(t.has("/cpus/cpu-map/socket1/cluster0/core0/thread1"));
}

#[test]
fn memory_map_is_the_peers() {
    let m = create(&[("gic-version", "3")], config(2)).unwrap();
    let text = memory::mtree_flat(&m.spaces);
    for line in [
        "FlatView #0\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n",
        "  0000000008000000-000000000800ffff (prio 0, i/o): gicv3_dist\n",
        "  00000000080a0000-00000000080dffff (prio 0, i/o): gicv3_redist_region[0]\n",
        "  0000000009000000-0000000009000fff (prio 0, i/o): pl011\n",
        "  0000000009010000-0000000009010fff (prio 0, i/o): pl031\n",
        "  0000000009020000-0000000009020007 (prio 0, i/o): fwcfg.data\n",
        "  0000000009020008-0000000009020009 (prio 0, i/o): fwcfg.ctl\n",
        "  0000000009020010-0000000009020017 (prio 0, i/o): fwcfg.dma\n",
        "  0000000040000000-000000005fffffff (prio 0, ram): mach-virt.ram\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let m = create(&[("virtualization", "on")], config(1)).unwrap();
    let text = memory::mtree_flat(&m.spaces);
    for line in [
        "  0000000008000000-0000000008000fff (prio 0, i/o): gic_dist\n",
        "  0000000008010000-0000000008011fff (prio 0, i/o): gic_cpu\n",
        "  0000000008030000-0000000008030fff (prio 0, i/o): gic_viface\n",
        "  0000000008040000-0000000008041fff (prio 0, i/o): gic_vcpu\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn boot_images_lie_in_ram_and_come_back_at_reset() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, b"kernelkernel").unwrap();
    let mut c = config(1);
    c.boot.kernel = Some(kernel);
    let m = create(&[("gic-version", "3")], c).unwrap();
    let read = |at| m.world.memory.read_uint(at, Size::B4, TxAttrs::default()).unwrap();
    assert_eq!(read(0x4000_0000), 0x5800_00c0);
    assert_eq!(read(0x4000_0018), 0x4800_0000);
    assert_eq!(read(0x4008_0000), u64::from(u32::from_le_bytes(*b"kern")));
    assert_eq!(read(0x4800_0000), 0xedfe_0dd0);
    m.world.memory.write(0x4000_0000, &[0; 64], TxAttrs::default()).unwrap();
    m.reset.reset(Reset::Cold);
    m.reload().unwrap();
    assert_eq!(read(0x4000_0000), 0x5800_00c0);
}

#[test]
fn uart_interrupt_reaches_the_controller() {
    let m = create(&[("gic-version", "3")], config(1)).unwrap();
    let bus = &m.world.memory;
    let write = |at, v| bus.write_uint(at, Size::B4, v, TxAttrs::default()).unwrap();
    write(0x0900_0038, 0x20);
    write(0x0900_0000, 0x41);
    let pending = bus.read_uint(0x0800_0204, Size::B4, TxAttrs::default()).unwrap();
    assert_eq!(pending, 2, "SPI 1 is interrupt 33");
}

#[test]
fn mistakes_are_named() {
    let fails = |props: &[(&str, &str)], c| match create(props, c) {
        Ok(_) => panic!("created"),
        Err(e) => e.desc,
    };
    assert_eq!(fails(&[("gic-version", "9")], config(1)), "Invalid gic-version value");
    assert_eq!(
        fails(&[("gic-version", "4")], config(1)),
        "tcg does not support GICv4 emulation, is virtualization=on?"
    );
    assert_eq!(fails(&[("gic-version", "host")], config(1)), "gic-version=host requires KVM");
    assert_eq!(fails(&[("iommu", "foo")], config(1)), "Invalid iommu value");
    let text = fails(&[("gic-version", "3"), ("highmem-redists", "off")], config(124));
    assert!(text.ends_with("exceeds max CPUs supported by machine 'mach-virt' (123)"), "{text}");
    assert_eq!(
        fails(&[("highmem-mmio-size", "256G")], config(1)),
        "highmem-mmio-size cannot be set to a lower value than the default (512 GiB)"
    );
    assert_eq!(
        fails(&[("highmem-mmio-size", "3G")], config(1)),
        "highmem-mmio-size is not a power of 2"
    );
    let big = |size| MachineConfig { ram_size: size, ..config(1) };
    assert_eq!(
        fails(&[("highmem", "off")], big(4 << 30)),
        "Addressing limited to 32 bits, but memory exceeds it by 1073741824 bytes"
    );
    assert!(fails(&[], big(17 << 40)).starts_with("Addressing limited to 44 bits"));
    assert!(fails(&[("memory-backend", "m0")], config(1)).contains("'m0' not found"));
    assert!(fails(&[("pflash0", "p0")], config(1)).contains("'p0'"));
    let c = MachineConfig { max_cpus: 12, ..config(4) };
    assert!(fails(&[("gic-version", "2")], c).contains("requested (12) exceeds max CPUs"));
    let c = MachineConfig { max_ram: 1 << 20, ..config(1) };
    assert!(fails(&[], c).contains("must be at least the initial memory size"));
    let c = MachineConfig { ram_slots: 2, ..config(1) };
    assert_eq!(fails(&[], c), "slots specified but no max-size");
    assert!(fails(&[("gic-version", "2")], config(9)).contains("exceeds max CPUs"));
    assert!(fails(&[], config(513)).contains("max CPUs supported by machine"));
    assert!(fails(&[("bogus", "1")], config(1)).contains("bogus"));
    assert!(fails(&[("kernel", "/nonexistent")], config(1)).contains("/nonexistent"));
    assert!(fails(&[("append", "x")], config(1)).contains("-append only allowed"));
    let mut c = config(1);
    c.serials = vec![Some("c9".into())];
    assert!(fails(&[], c).contains("Chardev 'c9' not found"));
    let mut c = config(1);
    c.cpu_model = Some("z80".into());
    assert!(fails(&[], c).contains("z80"));
}

#[test]
fn room_for_memory_shifts_the_high_regions() {
    let dir = tempfile::tempdir().unwrap();
    let c = MachineConfig { ram_slots: 4, max_ram: 600 << 30, ..config(2) };
    let ours = create(&[], c).unwrap();
    let ours = Fdt::parse(ours.dtb.as_ref().unwrap()).unwrap();
    let options = ["-smp", "2", "-m", "512M,slots=4,maxmem=600G"];
    if let Some(theirs) = peer_tree(&options, "virt", dir.path()) {
        let found = differences(&normalised(&ours), &normalised(&theirs));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
    assert_eq!(ours.get("/pcie@10000000", "reg").unwrap()[..4], [0, 0, 0, 0x97]);
}

/// Options of the peer's machine that ours has not, or has otherwise, each with its reason.
const OPTIONS_APART: &[(&str, &str)] = &[
    ("aux-ram-share", "memory of devices is never shared"),
    ("boot", "boot order needs ACPI or fw_cfg readers of it"),
    ("confidential-guest-support", "needs KVM"),
    ("memory-encryption", "needs KVM"),
    ("memory", "-m sets it"),
    ("shim", "-shim is not built"),
    ("smp-cache", "caches are not described"),
    ("smp", "-smp sets it"),
    ("append", "every machine has it"),
    ("dtb", "every machine has it"),
    ("dumpdtb", "every machine has it"),
    ("firmware", "every machine has it"),
    ("initrd", "every machine has it"),
    ("kernel", "every machine has it"),
    ("pflash0", "the peer's help leaves it out, its object has it"),
    ("pflash1", "the peer's help leaves it out, its object has it"),
    ("memory-backend", "a name here, a link there"),
];

#[test]
fn options_are_the_peers_but_for_those_with_a_reason() {
    let Ok(help) = Command::new("qemu-system-aarch64").args(["-machine", "virt,help"]).output()
    else {
        println!("the peer is not installed: skipped");
        return;
    };
    let help = String::from_utf8(help.stdout).unwrap();
    let theirs: BTreeMap<&str, (&str, &str)> = help
        .lines()
        .skip(1)
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once("=<")?;
            let (kind, doc) = rest.split_once('>')?;
            Some((name, (kind, doc.trim().trim_start_matches("- "))))
        })
        .collect();
    assert!(theirs.len() > 30, "{help}");
    let members = (CLASS.props)().members();
    let ours: BTreeMap<&str, (&str, &str)> = members
        .iter()
        .map(|m| {
            let name = (m.ty)().name;
            (m.name, (if name == "str" { "string" } else { name }, m.doc))
        })
        .collect();
    let names: BTreeSet<&str> = ours.keys().chain(theirs.keys()).copied().collect();
    for name in names {
        let apart = OPTIONS_APART.iter().any(|(n, _)| *n == name);
        let same = ours.get(name) == theirs.get(name);
        let text = format!("{name}: ours {:?}, theirs {:?}", ours.get(name), theirs.get(name));
        assert!(same != apart, "{text}");
    }
}

#[test]
fn versions_are_the_peers() {
    let Ok(help) = Command::new("qemu-system-aarch64").args(["-machine", "help"]).output() else {
        println!("the peer is not installed: skipped");
        return;
    };
    let help = String::from_utf8(help.stdout).unwrap();
    let theirs: BTreeSet<String> = help
        .lines()
        .filter(|l| l.starts_with("virt-"))
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let ours = CLASSES.iter().map(|c| format!("{} {}", c.name, c.summary)).collect();
    assert_eq!(theirs, ours);
}

#[test]
fn secure_world_has_its_own_devices() {
    let m = create(&[("secure", "on"), ("gic-version", "3")], config(1)).unwrap();
    let secure = m.secure.as_ref().unwrap();
    let read = |space: &memory::AddressSpace, at| {
        space.read_uint(at, Size::B4, TxAttrs { secure: true, ..TxAttrs::default() })
    };
    for at in [0, 0x0904_0018, 0x0e00_0000, 0x090b_0400] {
        assert!(read(secure, at).is_ok(), "{at:#x}");
        assert!(read(&m.world.memory, at).is_err(), "{at:#x}");
    }
    // Both see the rest.
    for at in [0x0400_0000, 0x0900_0018, 0x4000_0000] {
        assert!(read(secure, at).is_ok() && read(&m.world.memory, at).is_ok(), "{at:#x}");
    }
}

#[test]
fn firmware_is_in_the_first_bank_after_every_reset() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fw");
    std::fs::write(&file, b"firmware").unwrap();
    for secure in ["off", "on"] {
        let mut c = config(1);
        c.boot.firmware = Some(file.clone());
        let m = create(&[("secure", secure)], c).unwrap();
        let space = m.secure.as_ref().unwrap_or(&m.world.memory);
        let read = || space.read_uint(0, Size::B8, TxAttrs::default()).unwrap();
        let write = |v| space.write_uint(0, Size::B4, v, TxAttrs::default()).unwrap();
        assert_eq!(read(), u64::from_le_bytes(*b"firmware"));
        write(0x0040_0040);
        write(0);
        write(0x00ff_00ff);
        assert_ne!(read(), u64::from_le_bytes(*b"firmware"));
        // Left as registers, the bank is memory again after a reset.
        write(0x0098_0098);
        m.reset.reset(Reset::Cold);
        m.reload().unwrap();
        assert_eq!(read(), u64::from_le_bytes(*b"firmware"));
    }
    let mut c = config(1);
    c.boot.firmware = Some(dir.path().join("none"));
    assert!(create(&[], c).err().unwrap().desc.starts_with("Could not find ROM image"));
}

#[test]
fn loaders_fill_memory_and_name_their_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raw");
    std::fs::write(&file, b"rawbytes").unwrap();
    let text = file.to_str().unwrap().to_owned();
    let with = |props: &[(&str, &str)]| {
        let props = Value::map(props.iter().map(|(k, v)| (*k, Value::from(*v))));
        create(&[], MachineConfig { loaders: vec![("-device loader".into(), props)], ..config(1) })
    };
    let loaded = |props: &[(&str, &str)]| {
        let m = with(props).unwrap();
        m.world.memory.read_uint(0x4100_0000, Size::B8, TxAttrs::default()).unwrap()
    };
    let at = ("addr", "0x41000000");
    assert_eq!(loaded(&[at, ("file", &text)]), u64::from_le_bytes(*b"rawbytes"));
    assert_eq!(loaded(&[at, ("data", "0x11223344"), ("data-len", "4")]), 0x1122_3344);
    let big = [at, ("data", "0x1122334455667788"), ("data-len", "8"), ("data-be", "on")];
    assert_eq!(loaded(&big), 0x8877_6655_4433_2211);
    let fails = |props: &[(&str, &str)]| with(props).err().unwrap().desc;
    for (props, want) in [
        (&[][..], "please include valid arguments"),
        (&[at], "cpu_num must be specified when setting a program counter"),
        (&[("data", "5")], "Both data and data-len must be specified"),
        (&[("data", "5"), ("data-len", "9")], "data-len cannot be greater then 8 bytes"),
        (&[at, ("cpu-num", "9")], "Specified boot CPU#9 is nonexistent"),
        (&[("file", "/nonexistent")], "Cannot load specified image /nonexistent"),
    ] {
        assert_eq!(fails(props), format!("-device loader: {want}"));
    }
}

#[test]
fn many_cpus_have_a_second_region_of_redistributors() {
    let m = create(&[("gic-version", "3")], config(200)).unwrap();
    let typer = |at| m.world.memory.read_uint(at, Size::B8, TxAttrs::default()).unwrap();
    let last_of_first = 0x080a_0000 + 122 * 0x2_0000 + 8;
    assert_eq!(typer(last_of_first) & 0xffff_ffff, 1 << 24 | 122 << 8 | 1 << 4 | 1);
    assert_eq!(typer(0x40_0000_0008) & 0xffff_ffff, 1 << 24 | 123 << 8 | 1);
    assert_eq!(typer(0x40_0000_0008 + 76 * 0x2_0000) >> 4 & 1, 1, "the last one");
}

#[test]
fn dumpdtb_writes_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.dtb");
    let m = create(&[("dumpdtb", path.to_str().unwrap())], config(1)).unwrap();
    assert!(m.dumped);
    let t = Fdt::parse(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(t.get("/chosen", "stdout-path").unwrap(), b"/pl011@9000000\0");
}

#[test]
fn user_tree_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.dtb");
    let mut t = Fdt::new();
    t.set("/", "model", firmware::Prop::str("mine"));
    std::fs::write(&path, t.to_bytes()).unwrap();
    let m = create(&[("dtb", path.to_str().unwrap())], config(1)).unwrap();
    let t = Fdt::parse(m.dtb.as_ref().unwrap()).unwrap();
    assert_eq!(t.get("/", "model").unwrap(), b"mine\0");
    assert!(t.has("/memory@40000000") && t.has("/psci") && !t.has("/timer"));
    std::fs::write(&path, b"nonsense").unwrap();
    assert!(create(&[("dtb", path.to_str().unwrap())], config(1)).is_err());
}

#[test]
fn machine_none_is_empty() {
    let m = machine::NONE
        .create(Value::empty(), Source::Json, MachineConfig::default(), host(), &CATALOG)
        .unwrap();
    assert!(m.records.is_empty() && m.cpus.is_none());
}
