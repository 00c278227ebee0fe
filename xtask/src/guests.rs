//! Guests from Debian's packages, cached in `guests/`.
//!
//! The package `debian-installer-12-netboot-arm64` holds an unmodified Debian 12 kernel and the
//! installer's initrd. It is unpacked, not installed. A second, small archive with an init script is
//! made beside it: Linux unpacks concatenated archives one over the other, so the installer's own
//! initrd stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, packages, root, steps};

const PACKAGE: &str = "debian-installer-12-netboot-arm64";
const IMAGES: &str = "usr/lib/debian-installer/images/12/arm64/text/debian-installer/arm64";

/// Files of the arm64 guest.
pub(crate) struct Guest {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// Kernel image.
    pub(crate) kernel: PathBuf,
    /// Installer's initrd with our init script appended.
    pub(crate) initrd: PathBuf,
}

/// What the guest runs instead of the installer: with `tinamou.test` on the command line it reports
/// on itself and powers off, else it gives a root shell.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/ TERM=${TERM:-vt100} PS1='guest# '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
if grep -q tinamou.test /proc/cmdline; then
  echo "REPORT cpus $(grep -c ^processor /proc/cpuinfo)"
  echo "REPORT memory_kb $(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)"
  echo "REPORT sum $(cat $(find /bin /sbin /lib /usr /etc -xdev -type f | grep -v /lib/modules/ | sort) | sha256sum | cut -d' ' -f1)"
  echo "REPORT uname $(uname -srm)"
  echo "REPORT done"
  poweroff -f
fi
echo
echo "Welcome to Tinamou: $(uname -srm), $(grep -c ^processor /proc/cpuinfo) CPU(s)."
echo "This is a root shell in a Debian 12 arm64 guest; 'poweroff -f' or Ctrl-A x ends it."
while true; do sh </dev/ttyAMA0 >/dev/ttyAMA0 2>&1; done
"#;

fn say(e: impl std::fmt::Display, path: &Path) -> String {
    format!("{}: {e}", path.display())
}

/// One entry of a cpio archive in the "newc" form that Linux takes.
fn cpio_entry(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let header = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        1,
        0,
        0,
        1,
        0,
        data.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0
    );
    out.extend(header.bytes());
    out.extend(name.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Compiles `tests/guests/SOURCE` for the guest and puts it alone, as init, into the initrd `initrd-NAME`
/// with these folders.
pub(crate) fn program(
    guest: &Guest,
    (name, source): (&str, &str),
    options: &[&str],
    dirs: &[&str],
) -> Result<PathBuf> {
    let (program, initrd) = (guest.dir.join(name), guest.dir.join(format!("initrd-{name}")));
    let mut compiler = Command::new("aarch64-linux-gnu-gcc");
    compiler.args(["-O2", "-static", "-o"]).arg(&program);
    compiler.arg(Path::new("tests/guests").join(source)).args(options);
    steps::run("compiling the guest's program", &mut compiler)?;
    let bytes = fs::read(&program).map_err(|e| format!("{}: {e}", program.display()))?;
    let archive = archive(dirs, &[("init", 0o100_755, &bytes)]);
    fs::write(&initrd, archive).map_err(|e| format!("{}: {e}", initrd.display()))?;
    Ok(initrd)
}

/// An archive of folders and files (name, mode, content), with a console.
pub(crate) fn archive(dirs: &[&str], files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for dir in dirs {
        cpio_entry(&mut out, dir, 0o40_755, b"");
    }
    for (name, mode, data) in files {
        cpio_entry(&mut out, name, *mode, data);
    }
    cpio_entry(&mut out, "TRAILER!!!", 0, b"");
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn overlay() -> Vec<u8> {
    let mut out = Vec::new();
    cpio_entry(&mut out, "tinamou-init", 0o100_755, INIT.as_bytes());
    cpio_entry(&mut out, "TRAILER!!!", 0, b"");
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn unpack(dir: &Path) -> Result<()> {
    let system = Path::new("/").join(IMAGES);
    if system.join("linux").exists() {
        eprintln!("==> taking kernel and initrd of the installed package {PACKAGE}");
        for f in ["linux", "initrd.gz"] {
            fs::copy(system.join(f), dir.join(f)).map_err(|e| say(e, &system))?;
        }
        return Ok(());
    }
    eprintln!("==> downloading Debian's package {PACKAGE} (about 75 MB)");
    let tmp = dir.join("tmp");
    let _ = fs::remove_dir_all(&tmp);
    fs::create_dir_all(&tmp).map_err(|e| say(e, &tmp))?;
    let download =
        || Command::new("apt-get").args(["-q", "download", PACKAGE]).current_dir(&tmp).status();
    if !download().is_ok_and(|s| s.success()) {
        packages::apt(&["update"])?;
        if !download().is_ok_and(|s| s.success()) {
            return Err(format!("apt-get download {PACKAGE} failed"));
        }
    }
    let deb = fs::read_dir(&tmp)
        .map_err(|e| say(e, &tmp))?
        .filter_map(std::result::Result::ok)
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .ok_or("no package arrived")?;
    let ok = Command::new("dpkg").arg("-x").arg(&deb).arg(&tmp).status();
    if !ok.is_ok_and(|s| s.success()) {
        return Err(format!("dpkg -x {} failed", deb.display()));
    }
    for f in ["linux", "initrd.gz"] {
        let from = tmp.join(IMAGES).join(f);
        fs::copy(&from, dir.join(f)).map_err(|e| say(e, &from))?;
    }
    fs::remove_dir_all(&tmp).map_err(|e| say(e, &tmp))
}

/// Kernel modules for disks, in the order of loading; the installer's initrd lacks some of them.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "crypto/crct10dif_common",
    "lib/crc-t10dif",
    "lib/crc64",
    "lib/crc64-rocksoft",
    "block/t10-pi",
    "drivers/scsi/scsi_common",
    "drivers/scsi/scsi_mod",
    "drivers/scsi/sd_mod",
    "drivers/cdrom/cdrom",
    "drivers/scsi/sr_mod",
    "drivers/scsi/virtio_scsi",
    "drivers/block/virtio_blk",
    "drivers/nvme/host/nvme-core",
    "drivers/nvme/host/nvme",
];

/// The version of a kernel image.
fn version(kernel: &[u8]) -> Option<String> {
    let start = b"Linux version ";
    let at = kernel.windows(start.len()).position(|w| w == start)? + start.len();
    let text = kernel.get(at..at + 64)?.split(|b| *b == b' ').next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Makes `storage-modules`, an archive of [`MODULES`] as `storage/NN-NAME.ko`, from Debian's
/// package of the same kernel.
fn modules(guest: &Guest) -> Result<()> {
    let kernel = fs::read(&guest.kernel).map_err(|e| say(e, &guest.kernel))?;
    let version = version(&kernel).ok_or("the kernel does not tell its version")?;
    let (made, mark) = (guest.dir.join("storage-modules"), guest.dir.join("storage-version"));
    if made.exists() && fs::read_to_string(&mark).is_ok_and(|text| text == version) {
        return Ok(());
    }
    let tmp = guest.dir.join("tmp");
    let _ = fs::remove_dir_all(&tmp);
    fs::create_dir_all(&tmp).map_err(|e| say(e, &tmp))?;
    let package = format!("linux-image-{version}");
    eprintln!("==> downloading Debian's package {package} for modules (about 60 MB)");
    packages::download_foreign(&tmp, "arm64", &package)?;
    let found = fs::read_dir(&tmp).map_err(|e| say(e, &tmp))?.flatten().map(|e| e.path());
    let deb = { found }.find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.ok_or("no package arrived")?;
    let unpacked = Command::new("dpkg").arg("-x").arg(&deb).arg(&tmp).status();
    if !unpacked.is_ok_and(|status| status.success()) {
        return Err(format!("dpkg -x {} failed", deb.display()));
    }
    let mut files = Vec::new();
    for (n, name) in MODULES.iter().enumerate() {
        let path = tmp.join(format!("lib/modules/{version}/kernel/{name}.ko"));
        let short = name.rsplit('/').next().unwrap_or(name);
        let code = fs::read(&path).map_err(|e| say(e, &path))?;
        files.push((format!("storage/{n:02}-{short}.ko"), code));
    }
    let entries: Vec<(&str, u32, &[u8])> =
        files.iter().map(|(name, code)| (name.as_str(), 0o100_644, code.as_slice())).collect();
    fs::write(&made, archive(&["storage"], &entries)).map_err(|e| say(e, &made))?;
    fs::remove_dir_all(&tmp).map_err(|e| say(e, &tmp))?;
    fs::write(&mark, version).map_err(|e| say(e, &mark))
}

/// Makes the guests available, with modules for disks.
pub(crate) fn fetch_all() -> Result<Guest> {
    let guest = fetch()?;
    modules(&guest)?;
    Ok(guest)
}

/// Makes the guests available.
pub(crate) fn fetch() -> Result<Guest> {
    let dir = root().join("guests/arm64");
    fs::create_dir_all(&dir).map_err(|e| say(e, &dir))?;
    let guest =
        Guest { kernel: dir.join("linux"), initrd: dir.join("initrd-tinamou"), dir: dir.clone() };
    let plain = dir.join("initrd.gz");
    if !guest.kernel.exists() || !plain.exists() {
        unpack(&dir)?;
    }
    let mut all = fs::read(&plain).map_err(|e| say(e, &plain))?;
    all.resize(all.len().next_multiple_of(4), 0);
    all.extend(overlay());
    if fs::read(&guest.initrd).ok().as_ref() != Some(&all) {
        fs::write(&guest.initrd, &all).map_err(|e| say(e, &guest.initrd))?;
    }
    eprintln!("==> guest ready in {}", guest.dir.strip_prefix(root()).unwrap_or(&dir).display());
    Ok(guest)
}
