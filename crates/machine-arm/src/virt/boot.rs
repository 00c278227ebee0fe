//! What the guest starts: a kernel directly, or firmware that finds the kernel in fw_cfg.

use std::path::Path;
use std::sync::Arc;

use accel::{Boot, FirmwareCalls};
use device::{FirmwareConfig, LateFiles, PciAddress};
use firmware::{Fdt, Kernel, arm64};
use machine::Board;

use super::layout::{Plan, has_firmware, is_bare};
use super::{map, tree};

/// Items of fw_cfg (QEMU's manual, "fw_cfg device"): length and bytes of each file.
const NB_CPUS: u16 = 0x05;
const BOOT_MENU: u16 = 0x0e;
const KERNEL: (u16, u16) = (0x08, 0x11);
const INITRD: (u16, u16) = (0x0b, 0x12);
const COMMAND_LINE: (u16, u16) = (0x14, 0x15);

fn read(what: &str, path: &Path) -> qapi::Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        qapi::Error::generic(format!("could not load {what} '{}': {e}", path.display()))
    })
}

/// Gives firmware its items and files.
pub(super) fn fill_fw_cfg(plan: &Plan, board: &Board<'_>) -> qapi::Result<()> {
    let record = board.record(map::FW_CFG.name);
    let Some(fw_cfg) = record.and_then(|r| r.ability::<Arc<dyn FirmwareConfig>>()) else {
        return Ok(());
    };
    let cpus = u16::try_from(board.config.cpus).unwrap_or(u16::MAX);
    fw_cfg.set_item(NB_CPUS, cpus.to_le_bytes().to_vec());
    for (name, data) in [("bios-geometry", vec![]), ("bootorder", vec![])] {
        fw_cfg.set_file(name, data)?;
    }
    fill_boot_options(&*fw_cfg, board)?;
    offer_smbios(plan, board, &fw_cfg)?;
    super::acpi::offer(plan, board, &fw_cfg)?;
    for (name, data) in &board.config.firmware_files {
        fw_cfg.set_file(name, data.clone())?;
    }
    if has_firmware(&plan.props, board) {
        offer_kernel(&*fw_cfg, board)?;
    }
    Ok(())
}

fn fill_boot_options(fw_cfg: &dyn FirmwareConfig, board: &Board<'_>) -> qapi::Result<()> {
    let options = &board.config.boot_options;
    fw_cfg.set_item(BOOT_MENU, u16::from(options.menu).to_le_bytes().to_vec());
    // -1: wait for ever.
    let wait = options.reboot_timeout.map_or(u32::MAX, u32::from);
    fw_cfg.set_file("etc/boot-fail-wait", wait.to_le_bytes().to_vec())?;
    if let Some(ms) = options.splash_time {
        fw_cfg.set_file("etc/boot-menu-wait", ms.to_le_bytes().to_vec())?;
    }
    match &options.splash {
        Some((name, data)) => fw_cfg.set_file(name, data.clone()),
        None => Ok(()),
    }
}

/// The files of SMBIOS; what names devices is told again when they exist.
fn offer_smbios(
    plan: &Plan,
    board: &Board<'_>,
    fw_cfg: &Arc<dyn FirmwareConfig>,
) -> qapi::Result<()> {
    let shape = board.config.topology();
    let cores = shape.clusters.saturating_mul(shape.cores);
    let cpus = (shape.sockets, cores, cores.saturating_mul(shape.threads));
    let (version, device) = (plan.version.smbios, plan.version.memory_device);
    let (uuid, ram) = (board.config.uuid, (map::RAM, board.config.ram_size));
    let (options, to) = (board.config.smbios.clone(), fw_cfg.clone());
    let names_devices = options.names_devices();
    let tell = move |pci: PciAddress<'_>| {
        // Names are the peer's, which guests look for.
        let machine = firmware::smbios::Machine {
            manufacturer: "QEMU",
            product: "QEMU Virtual Machine",
            version,
            uuid,
            cpus,
            ram,
            device,
            pci,
        };
        for (name, data) in firmware::smbios::build(&options, &machine)? {
            to.set_file(name, data)?;
        }
        Ok(())
    };
    if names_devices {
        // The files have their places now, and their contents later.
        tell(&|_| Some((0, 0)))?;
        board.world.services.add(LateFiles(Arc::new(tell)));
        return Ok(());
    }
    tell(&|_| None)
}

fn offer_kernel(fw_cfg: &dyn FirmwareConfig, board: &Board<'_>) -> qapi::Result<()> {
    let files = &board.config.boot;
    let offer = |(len, data): (u16, u16), bytes: Vec<u8>| {
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        fw_cfg.set_item(len, size.to_le_bytes().to_vec());
        fw_cfg.set_item(data, bytes);
    };
    if let Some(path) = &files.kernel {
        let shown = path.display();
        let wrong = |e| qapi::Error::generic(format!("could not load kernel '{shown}': {e}"));
        offer(KERNEL, Kernel::unpacked(read("kernel", path)?).map_err(wrong)?);
    }
    if let Some(path) = &files.initrd {
        offer(INITRD, read("initrd", path)?);
    }
    if let Some(text) = &files.append {
        let mut bytes = text.clone().into_bytes();
        bytes.push(0);
        offer(COMMAND_LINE, bytes);
    }
    Ok(())
}

fn layout(plan: &Plan, board: &Board<'_>) -> qapi::Result<arm64::Layout> {
    let files = &board.config.boot;
    let Some(path) = files.kernel.as_ref().filter(|_| !has_firmware(&plan.props, board)) else {
        return Ok(arm64::without_kernel(map::RAM));
    };
    let shown = path.display();
    let wrong = |e| qapi::Error::generic(format!("could not load kernel '{shown}': {e}"));
    let kernel = Kernel::parse(read("kernel", path)?).map_err(wrong)?;
    let initrd = files.initrd.as_deref().map(|p| read("initrd", p)).transpose()?;
    let misfit = |e| match &files.initrd {
        None => wrong(e),
        Some(initrd) => qapi::Error::generic(format!(
            "could not load kernel '{shown}' with initrd '{}': {e}",
            initrd.display()
        )),
    };
    arm64::plan(kernel, initrd, map::RAM, board.config.ram_size).map_err(misfit)
}

/// Whether a kernel is started without firmware.
pub(super) fn is_direct(plan: &Plan, board: &Board<'_>) -> bool {
    board.config.boot.kernel.is_some() && !has_firmware(&plan.props, board)
}

/// Places device tree and boot images, and says where the CPUs start.
pub(super) fn prepare(plan: &Plan, board: &mut Board<'_>) -> qapi::Result<()> {
    let layout = layout(plan, board)?;
    let files = &board.config.boot;
    let mut fdt = match &files.dtb {
        Some(path) => Fdt::parse(&read("dtb", path)?).map_err(|e| {
            qapi::Error::generic(format!("Couldn't open dtb file {}: {e}", path.display()))
        })?,
        None => tree::build(plan, board),
    };
    tree::add_boot(&mut fdt, plan, board, layout.initrd)?;
    let dtb = fdt.to_bytes();
    if dtb.len() as u64 > arm64::FDT_SIZE {
        return Err(qapi::Error::generic("the device tree is larger than 1 MiB"));
    }
    let as_kernel = is_direct(plan, board) && !is_bare(board);
    if let Some(at) = layout.fdt {
        board.load(at, dtb.clone());
    }
    for blob in layout.blobs {
        board.load(blob.address, blob.data);
    }
    board.set_dtb(dtb);
    let first = Boot { pc: layout.entry, arg: 0, as_kernel, powered_off: false };
    let others = Boot { powered_off: plan.calls != FirmwareCalls::None, ..first };
    let boot = (0..board.config.cpus).map(|i| if i == 0 { first } else { others });
    board.set_boot(boot.collect());
    Ok(())
}
