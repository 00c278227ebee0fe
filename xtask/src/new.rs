//! `new device CRATE/NAME`: a device with its bench test and its registration line.

use std::fs;

use crate::{Result, root};

const DEVICE: &str = r#"//! @name@: what it models, from which document. Not modelled: (say what).

use std::sync::Arc;

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, IrqOut, Migration,
    Mmio, Region, Reset,
};
use parking_lot::Mutex;

/// Properties.
#[derive(Debug, Qapi)]
pub struct Props {}

/// Registers; reset is `Default`.
#[derive(Debug, Default, VmState)]
#[vmstate(name = "@name@", version = 1)]
struct Regs {
    control: u32,
}

/// The device.
pub struct @type@ {
    irq: Arc<IrqOut>,
    regs: Mutex<Regs>,
}

/// Its class.
pub static CLASS: DeviceClass = DeviceClass::of::<@type@>();

impl DeviceType for @type@ {
    const NAME: &'static str = "@name@";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "@name@";
    type Props = Props;

    fn create(_: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let dev = Arc::new(Self { irq: at.irq_out(), regs: Mutex::default() });
        at.mmio(Region::mmio("@name@", 0x1000, AccessRules::WORD32, &dev));
        Ok(dev)
    }
}

impl Mmio for @type@ {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let regs = self.regs.lock();
        Ok(match at.offset {
            0 => regs.control.into(),
            _ => 0,
        })
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let mut regs = self.regs.lock();
        if at.offset == 0 {
            regs.control = value as u32;
        }
        self.irq.set(regs.control & 1 != 0);
        Ok(())
    }
}

impl Device for @type@ {
    fn reset(&self, _: Reset) {
        *self.regs.lock() = Regs::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        let regs = self.regs.lock();
        self.irq.set(regs.control & 1 != 0);
    }
}
"#;

const TEST: &str = r#"//! @name@ on the bench.

use testbench::Bench;

#[test]
fn control_drives_the_interrupt() {
    let b = Bench::of(&@crate@::@name@::CLASS, "");
    b.write32(0, 1);
    assert_eq!(b.read32(0), 1);
    assert!(b.irq(0));
}
"#;

fn type_name(name: &str) -> String {
    let mut up = true;
    name.chars()
        .filter_map(|c| {
            if c == '_' || c == '-' {
                up = true;
                return None;
            }
            let c = if up { c.to_ascii_uppercase() } else { c };
            up = false;
            Some(c)
        })
        .collect()
}

fn append(path: &std::path::Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    fs::write(path, old + text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The device's row in the feature table, which a test compares with the catalog.
fn add_status_row(name: &str) -> Result<()> {
    let page = root().join("docs/status.md");
    let say = |e: std::io::Error| format!("{}: {e}", page.display());
    let old = fs::read_to_string(&page).map_err(say)?;
    let found = old.find("\n## Devices\n").and_then(|at| {
        let rest = old.get(at + 1..)?;
        rest.find("\n\n## ").map(|end| at + 1 + end)
    });
    let (before, after) = old.split_at(found.ok_or("no table of devices in docs/status.md")?);
    fs::write(&page, format!("{before}\n| `{name}` | |{after}")).map_err(say)
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let usage = "usage: cargo xtask new device CRATE/NAME (for example hw-char/foo)";
    let [kind, place] = args else { return Err(usage.into()) };
    let Some((krate, name)) = place.split_once('/').filter(|_| kind == "device") else {
        return Err(usage.into());
    };
    let ok = |s: &str| s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !ok(name) || name.is_empty() {
        return Err(format!("'{name}': a device file name has lower-case letters, digits and _"));
    }
    let dir = root().join("crates").join(krate);
    let file = dir.join(format!("src/{name}.rs"));
    if !dir.join("src/lib.rs").exists() {
        return Err(format!("there is no crate '{krate}'"));
    }
    if file.exists() {
        return Err(format!("{} exists", file.display()));
    }
    let fill = |t: &str| {
        t.replace("@crate@", &krate.replace('-', "_"))
            .replace("@type@", &type_name(name))
            .replace("@name@", name)
    };
    fs::write(&file, fill(DEVICE)).map_err(|e| format!("{}: {e}", file.display()))?;
    let test = dir.join(format!("tests/{name}.rs"));
    fs::create_dir_all(dir.join("tests")).map_err(|e| e.to_string())?;
    fs::write(&test, fill(TEST)).map_err(|e| format!("{}: {e}", test.display()))?;
    append(&dir.join("src/lib.rs"), &format!("pub mod {name};\n"))?;
    let table = root().join("crates/catalog/src/devices.rs");
    let old = fs::read_to_string(&table).map_err(|e| format!("{}: {e}", table.display()))?;
    let line = format!("    &{}::{name}::CLASS,\n];", krate.replace('-', "_"));
    let Some(at) = old.rfind("];") else { return Err("no table in catalog/src/devices.rs".into()) };
    let new = format!("{}{}{}", &old[..at], line, &old[at + 2..]);
    fs::write(&table, new).map_err(|e| format!("{}: {e}", table.display()))?;
    add_status_row(name)?;
    eprintln!(
        "wrote {}, {}, registered in catalog/src/devices.rs, row in docs/status.md",
        file.display(),
        test.display()
    );
    Ok(())
}
