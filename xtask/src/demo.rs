//! The demo: a Debian arm64 guest to a root shell.

use crate::{Result, guests, packages, steps};

/// `demo [-- MORE EMULATOR ARGUMENTS]`.
pub(crate) fn demo(args: &[String]) -> Result<()> {
    packages::need(&[("cc", "gcc")])?;
    let guest = guests::fetch()?;
    let emulator = steps::build_release()?;
    let mut c = std::process::Command::new(&emulator);
    c.args(["-M", "virt", "-cpu", "max", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot"])
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initrd)
        .args(["-append", "console=ttyAMA0 rdinit=/tinamou-init panic=-1"])
        .args(args.iter().filter(|a| *a != "--"));
    eprintln!("==> booting; Ctrl-A x ends the guest, Ctrl-A h lists the keys");
    steps::run("guest", &mut c)
}
