//! `cargo xtask guests image arm64`: a bootable Debian 12 disk from Debian's packages alone.
//!
//! `debootstrap` fetches and unpacks for the other architecture; the packages are then set up where
//! they belong, in an arm64 machine: this emulator boots Debian's kernel with the new disk and runs
//! the second stage. So nothing of the host runs foreign code, and the recipe is a test of its own.
//! The result is `guests/image-arm64/debian-arm64.qcow2`: GPT with an EFI partition and ext4, GRUB,
//! systemd, ssh with root's password root. Packages are kept in `guests/image-arm64/debs`; a disk
//! that is there and newer than its recipe is not made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Result, guests, packages, root, steps};

/// What the host needs.
const NEEDED: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("sgdisk", "gdisk"),
    ("mkfs.vfat", "dosfstools"),
    ("mkfs.ext4", "e2fsprogs"),
];
const SUITE: &str = "bookworm";
/// Packages beside the minimal system.
const INCLUDE: &str = "linux-image-arm64,grub-efi-arm64-bin,grub-common,initramfs-tools,systemd-sysv,udev,dbus,\
                       openssh-server,iproute2,iputils-ping,curl,iperf3,pciutils,ethtool,kmod,less,procps,socat,\
                       dmidecode,e2fsprogs,zstd";
/// Modules that the second stage needs, in the order of loading; those that the kernel has built in
/// are passed over.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "drivers/char/hw_random/virtio-rng",
    "crypto/crc32c_generic",
    "lib/crc16",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
    "fs/fat/fat",
    "fs/fat/vfat",
    "fs/nls/nls_cp437",
    "fs/nls/nls_ascii",
];
const ROOT_MIB: u64 = 1900;
const ESP_MIB: u64 = 64;

/// The first program of the second stage.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2>/dev/null
for m in /modules/*.ko; do insmod $m || echo "no $m"; done
mkdir -p /disk
mount -t ext4 /dev/vda2 /disk && mkdir -p /disk/boot/efi && mount -t vfat /dev/vda1 /disk/boot/efi || { echo IMAGE FAILED; poweroff -f; }
mount -o bind /dev /disk/dev; mount -t proc proc /disk/proc; mount -t sysfs sysfs /disk/sys
chroot /disk /bin/sh /root/second-stage && echo IMAGE DONE || { tail -20 /disk/debootstrap/debootstrap.log; echo IMAGE FAILED; }
for m in boot/efi proc sys dev; do umount /disk/$m 2>/dev/null; done; umount /disk; sync
poweroff -f
"#;

/// What it runs inside the new system.
const SECOND: &str = r#"set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LANG=C
/debootstrap/debootstrap --second-stage
echo root:root | chpasswd
systemctl enable systemd-networkd ssh
systemctl mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
ssh-keygen -A
: > /etc/machine-id
mkdir -p /boot/efi/EFI/BOOT
printf 'search --no-floppy --label root --set=root\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n' > /tmp/early.cfg
grub-mkimage -O arm64-efi -p /boot/grub -c /tmp/early.cfg -o /boot/efi/EFI/BOOT/BOOTAA64.EFI part_gpt fat ext2 normal linux echo search search_label configfile test ls cat halt reboot terminal sleep gzio help
rm -rf /tmp/early.cfg /var/cache/apt/archives/*.deb /usr/share/doc/* /usr/share/man /root/second-stage
"#;

/// Files of the new system: name, text.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "debian-arm64\n"),
    (
        "etc/fstab",
        "LABEL=root / ext4 errors=remount-ro 0 1\nLABEL=ESP /boot/efi vfat defaults,nofail 0 2\n",
    ),
    (
        "etc/ssh/sshd_config.d/guest.conf",
        "PermitRootLogin yes\nPasswordAuthentication yes\nUseDNS no\n",
    ),
    ("etc/systemd/network/10-dhcp.network", "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"),
    ("etc/resolv.conf", "nameserver 10.0.2.3\n"),
    ("etc/initramfs-tools/conf.d/modules.conf", "MODULES=list\nCOMPRESS=gzip\n"),
    (
        "etc/initramfs-tools/modules",
        "virtio_pci\nvirtio_mmio\nvirtio_blk\nvirtio_scsi\nvirtio_net\nvirtio_rng\nsd_mod\nsr_mod\next4\nvfat\nnls_cp437\nnls_ascii\nnvme\ne1000e\n",
    ),
    (
        "boot/grub/grub.cfg",
        "set timeout=1\nset default=0\nterminal_input console\nterminal_output console\nmenuentry 'Debian arm64' {\n  search --no-floppy --label root --set=root\n  linux /vmlinuz root=LABEL=root ro console=ttyAMA0\n  initrd /initrd.img\n}\n",
    ),
    ("root/second-stage", SECOND),
];

fn say(e: impl std::fmt::Display, path: &Path) -> String {
    format!("{}: {e}", path.display())
}

/// Where Debian's packages come from on this machine.
fn mirror() -> Result<String> {
    for file in ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let is_source = words.next().is_some_and(|w| w == "URIs:" || w == "deb");
            words.find(|w| w.contains("://")).filter(|_| is_source)
        });
        if let Some(uri) = found {
            return Ok(uri.to_owned());
        }
    }
    Err("apt's sources name no mirror".into())
}

/// The kernel's package among those that were fetched, unpacked.
fn kernel(debs: &Path, into: &Path) -> Result<PathBuf> {
    let names = fs::read_dir(debs).map_err(|e| say(e, debs))?.flatten().map(|entry| entry.path());
    let deb = { names }
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name.starts_with("linux-image-6") && name.ends_with("_arm64.deb")
        })
        .max()
        .ok_or("debootstrap fetched no kernel")?;
    _ = fs::remove_dir_all(into);
    fs::create_dir_all(into).map_err(|e| say(e, into))?;
    steps::run("unpacking the kernel", Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
    let boot = into.join("boot");
    let files = fs::read_dir(&boot).map_err(|e| say(e, &boot))?.flatten().map(|e| e.path());
    let image = { files }.find(|p| p.to_string_lossy().contains("vmlinuz-"));
    image.ok_or_else(|| "the kernel's package has no kernel".into())
}

/// The installer's userland with the modules and the script of the second stage.
fn initrd(kernel: &Path, unpacked: &Path, at: &Path) -> Result<()> {
    let name = kernel.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let version = name.trim_start_matches("vmlinuz-");
    let mut files = vec![("image-init".to_owned(), 0o100_755, INIT.as_bytes().to_vec())];
    for (n, module) in MODULES.iter().enumerate() {
        let path = unpacked.join(format!("lib/modules/{version}/kernel/{module}.ko"));
        let short = module.rsplit('/').next().unwrap_or(module);
        if let Ok(code) = fs::read(&path) {
            files.push((format!("modules/{n:02}-{short}.ko"), 0o100_644, code));
        }
    }
    let entries: Vec<(&str, u32, &[u8])> =
        files.iter().map(|(name, mode, data)| (name.as_str(), *mode, data.as_slice())).collect();
    let plain = guests::fetch()?.dir.join("initrd.gz");
    let mut all = fs::read(&plain).map_err(|e| say(e, &plain))?;
    all.resize(all.len().next_multiple_of(4), 0);
    all.extend(guests::archive(&["modules"], &entries));
    fs::write(at, all).map_err(|e| say(e, at))
}

/// A disk with the unpacked system on it, before its second stage.
fn disk(dir: &Path, tree: &Path) -> Result<PathBuf> {
    let (raw, esp, fs_image) = (dir.join("disk.raw"), dir.join("esp"), dir.join("rootfs"));
    for (file, size) in [(&raw, ROOT_MIB + ESP_MIB + 4), (&esp, ESP_MIB), (&fs_image, ROOT_MIB)] {
        _ = fs::remove_file(file);
        let made = fs::File::create(file).and_then(|f| f.set_len(size << 20));
        made.map_err(|e| say(e, file))?;
    }
    let partitions = format!("-n1:2048:+{ESP_MIB}M -t1:EF00 -n2:0:+{ROOT_MIB}M -t2:8300");
    steps::run(
        "partitioning",
        Command::new("sgdisk").args(partitions.split(' ')).arg(&raw).stdout(Stdio::null()),
    )?;
    let vfat = &mut Command::new("mkfs.vfat");
    steps::run("an EFI partition", vfat.args(["-n", "ESP"]).arg(&esp).stdout(Stdio::null()))?;
    let ext4 = &mut Command::new("mkfs.ext4");
    ext4.args(["-q", "-F", "-L", "root", "-d"]).arg(tree).arg(&fs_image);
    steps::run("a file system with the packages", ext4)?;
    for (file, sector) in [(&esp, 2048), (&fs_image, 2048 + ESP_MIB * 2048)] {
        let dd = &mut Command::new("dd");
        dd.arg(format!("if={}", file.display())).arg(format!("of={}", raw.display()));
        dd.args(["bs=1M", "conv=notrunc,sparse", "oflag=seek_bytes", "status=none"]);
        steps::run("copying it to the disk", dd.arg(format!("seek={}", sector * 512)))?;
        fs::remove_file(file).map_err(|e| say(e, file))?;
    }
    Ok(raw)
}

/// Sets the packages up inside an arm64 machine.
fn second_stage(emulator: &Path, kernel: &Path, initrd: &Path, raw: &Path) -> Result<()> {
    eprintln!("==> setting the packages up inside the machine (several minutes)");
    let drive =
        format!("if=none,id=d,file={},format=raw,cache=unsafe,discard=unmap", raw.display());
    let out = Command::new(emulator)
        .args(["-M", "virt,gic-version=3", "-cpu", "max", "-smp", "2", "-m", "2G", "-nographic"])
        .args(["-no-reboot", "-nic", "none", "-drive", &drive, "-device", "virtio-blk-pci,drive=d"])
        .args(["-device", "virtio-rng-pci", "-append"])
        .arg("console=ttyAMA0 quiet rdinit=/image-init")
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = out.map_err(|e| say(e, emulator))?;
    let mut done = false;
    if let Some(out) = child.stdout.take() {
        use std::io::BufRead as _;
        for line in std::io::BufReader::new(out).split(b'\n').map_while(std::result::Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            eprintln!("    {line}");
            done |= line == "IMAGE DONE";
        }
    }
    _ = child.wait();
    if done { Ok(()) } else { Err("the second stage failed; its last lines say why".into()) }
}

/// Makes the disk, or finds it.
pub(crate) fn make() -> Result<PathBuf> {
    let dir = root().join("guests/image-arm64");
    let image = dir.join("debian-arm64.qcow2");
    let recipe = root().join("xtask/src/image.rs");
    let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if age(&image).zip(age(&recipe)).is_some_and(|(image, recipe)| image > recipe) {
        eprintln!("==> {} is there", image.display());
        return Ok(image);
    }
    packages::need(NEEDED)?;
    let (debs, tree) = (dir.join("debs"), dir.join("tree"));
    _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&debs).map_err(|e| say(e, &debs))?;
    let fetch = &mut Command::new("debootstrap");
    fetch.args(["--foreign", "--arch=arm64", "--variant=minbase"]);
    fetch.arg(format!("--include={INCLUDE}")).arg(format!("--cache-dir={}", debs.display()));
    fetch.arg(SUITE).arg(&tree).arg(mirror()?).stdout(Stdio::null());
    steps::run("fetching Debian 12 for arm64 (about 200 packages, kept for the next time)", fetch)?;
    for (name, text) in FILES {
        let path = tree.join(name);
        let folder = path.parent().map_or(tree.clone(), Path::to_path_buf);
        fs::create_dir_all(&folder).map_err(|e| say(e, &folder))?;
        fs::write(&path, text).map_err(|e| say(e, &path))?;
    }
    let unpacked = dir.join("kernel");
    let kernel = kernel(&debs, &unpacked)?;
    let archive = dir.join("initrd");
    initrd(&kernel, &unpacked, &archive)?;
    let raw = disk(&dir, &tree)?;
    fs::remove_dir_all(&tree).map_err(|e| say(e, &tree))?;
    let emulator = match std::env::var_os("TINAMOU") {
        Some(path) => path.into(),
        None => steps::build_release()?,
    };
    second_stage(&emulator, &kernel, &archive, &raw)?;
    let tool = emulator.with_file_name("tinamou-img");
    let pack = &mut Command::new(tool);
    pack.args(["convert", "-c", "-o", "compression_type=zstd", "-f", "raw", "-O", "qcow2"]);
    steps::run("packing the disk", pack.arg(&raw).arg(&image))?;
    for path in [&raw, &archive] {
        fs::remove_file(path).map_err(|e| say(e, path))?;
    }
    fs::remove_dir_all(&unpacked).map_err(|e| say(e, &unpacked))?;
    eprintln!("==> {} is ready; root's password is root", image.display());
    Ok(image)
}
