//! `virt` as a whole: what is created, where it lies, and the peer's device tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use device::{CharPort, CharSource, Clock, DeviceClass, Request, Reset, RunControl, TxAttrs};
use firmware::Fdt;
use machine::{Catalog, Host, Machine, MachineConfig, Topology};
use machine_arm::virt::CLASS;
use memory::Size;
use qapi::{Source, Value};

static DEVICES: &[&DeviceClass] = &[
    &hw_char::pl011::CLASS,
    &hw_intc::gicv2::CLASS,
    &hw_intc::gicv3::CLASS,
    &hw_intc::gicv2m::CLASS,
    &hw_misc::fw_cfg::CLASS,
    &hw_misc::gpio_key::CLASS,
    &hw_misc::pl061::CLASS,
    &hw_pcihost::gpex::CLASS,
    &hw_timer::pl031::CLASS,
    &hw_virtio::rng::CLASS,
    &virtio::mmio::CLASS,
];
static CATALOG: Catalog = Catalog {
    devices: DEVICES,
    machines: &[&CLASS, &machine::NONE],
    guests: &[&cpu_arm::arch::ARCH],
};

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
    }
}

fn create(props: &[(&str, &str)], config: MachineConfig) -> qapi::Result<Machine> {
    let props = Value::map(props.iter().map(|(k, v)| (*k, Value::from(*v))));
    CLASS.create(props, Source::KeyVal, config, host(), &CATALOG)
}

fn config(cpus: u32) -> MachineConfig {
    MachineConfig { cpus, ram_size: 512 << 20, ..MachineConfig::default() }
}

/// Nodes the peer has and we do not: the devices are not built yet.
const ABSENT: &[&str] = &["/platform-bus@c000000", "/intc@8000000/its@8080000", "/flash@0"];
/// Properties that are random.
const RANDOM: &[&str] = &["rng-seed", "kaslr-seed"];

/// Machine properties, CPUs, and whether a kernel is booted.
type Case = (&'static [(&'static str, &'static str)], u32, bool);
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
    let machine = format!("{machine},dumpdtb={}", file.display());
    let status = Command::new("qemu-system-aarch64")
        .args(["-M", &machine, "-cpu", "cortex-a57", "-m", "512"])
        .args(options)
        .output();
    status.ok()?;
    Fdt::parse(&std::fs::read(file).ok()?).ok()
}

#[test]
fn device_tree_is_the_peers_but_for_what_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, b"\x00\x00\x00\x14").unwrap();
    let kernel_text = kernel.to_str().unwrap().to_owned();
    let cases: &[Case] = &[
        (&[("gic-version", "2"), ("highmem", "off")], 1, false),
        (&[("gic-version", "3"), ("its", "off")], 1, false),
        (&[("gic-version", "2")], 1, false),
        (&[("gic-version", "2"), ("virtualization", "on")], 4, false),
        (&[("gic-version", "3")], 1, true),
        (&[("gic-version", "3"), ("virtualization", "on")], 2, false),
        (&[("gic-version", "3")], 20, false),
        (&[("gic-version", "3"), ("dtb-randomness", "off")], 2, true),
    ];
    for (props, cpus, boots) in cases {
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
        let Some(theirs) = peer_tree(&options, &format!("virt{text}"), dir.path()) else {
            println!("the peer is not installed: skipped");
            return;
        };
        let machine = create(props, c).unwrap();
        let ours = Fdt::parse(machine.dtb.as_ref().unwrap()).unwrap();
        let mut found = differences(&normalised(&ours), &normalised(&theirs));
        // Messages go to the ITS on GICv3, which is not built yet.
        found.retain(|line| !line.starts_with("/pcie@10000000:msi-map: ours None"));
        assert!(found.is_empty(), "{text} -smp {cpus}:\n{}", found.join("\n"));
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
    assert_eq!(fails(&[("gic-version", "9")], config(1)), "Invalid gic-version value '9'");
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
