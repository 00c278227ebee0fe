//! The flash banks of `virt`, and firmware in the first of them.

use std::path::Path;

use firmware::{Fdt, Prop};
use machine::Board;
use qapi::Value;

use super::{Plan, map};

const CLASS: &str = "cfi.pflash01";
const NAMES: [&str; 2] = ["virt.flash0", "virt.flash1"];
/// Bytes of an erase block: one of 128 KiB of each of two 16-bit chips.
const SECTOR: u64 = 256 << 10;

fn bank(number: u64) -> u64 {
    map::FLASH.0 + number * map::FLASH.1
}

/// Creates and maps the banks; the first one is the secure world's if there is one.
pub(super) fn create(plan: &Plan, board: &mut Board<'_>) -> qapi::Result<()> {
    if !board.knows(CLASS) {
        return Ok(());
    }
    for (number, name) in (0u64..).zip(NAMES) {
        let index = usize::try_from(number).unwrap_or(0);
        let mut props = vec![
            ("num-blocks", Value::from(map::FLASH.1 / SECTOR)),
            ("sector-length", Value::from(SECTOR)),
            ("width", Value::from(4u64)),
            ("device-width", Value::from(2u64)),
            ("id0", Value::from(0x89u64)),
            ("id1", Value::from(0x18u64)),
            ("name", Value::from(name)),
        ];
        if let Some(drive) = plan.drive(board, index) {
            props.push(("drive", Value::from(drive)));
        }
        let record = board.device(CLASS, name, Value::map(props))?;
        let Some(region) = record.regions.first().cloned() else { continue };
        let into = if number == 0 { board.secure_root() } else { &board.system };
        into.map(bank(number), &region, 0);
    }
    firmware(plan, board)
}

/// `-bios`: a file that is in the first bank after every reset.
fn firmware(plan: &Plan, board: &mut Board<'_>) -> qapi::Result<()> {
    let Some(path) = board.config.boot.firmware.clone() else { return Ok(()) };
    if plan.drive(board, 0).is_some() {
        return Err(qapi::Error::generic(
            "The contents of the first flash device may be specified with -bios or with -drive \
             if=pflash... but you cannot use both options at once",
        ));
    }
    let data = read(&path)?;
    board.load(bank(0), data);
    Ok(())
}

fn read(path: &Path) -> qapi::Result<Vec<u8>> {
    let shown = path.display();
    let len = std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len());
    let len =
        len.ok_or_else(|| qapi::Error::generic(format!("Could not find ROM image '{shown}'")))?;
    let failed = || qapi::Error::generic(format!("Could not load ROM image '{shown}'"));
    if len > map::FLASH.1 {
        return Err(failed());
    }
    std::fs::read(path).map_err(|_| failed())
}

/// The banks' nodes.
pub(super) fn nodes(t: &mut Fdt, plan: &Plan) {
    let mut node = |name: &str, reg: &[u64]| {
        t.set(name, "bank-width", Prop::cell(4));
        t.set(name, "reg", Prop::reg(reg));
        t.set(name, "compatible", Prop::str("cfi-flash"));
    };
    let len = map::FLASH.1;
    if plan.props.secure {
        node(&format!("/flash@{:x}", bank(1)), &[bank(1), len]);
        let secure = format!("/secflash@{:x}", bank(0));
        node(&secure, &[bank(0), len]);
        super::secure::mark(t, &secure);
    } else {
        node(&format!("/flash@{:x}", bank(0)), &[bank(0), len, bank(1), len]);
    }
}
