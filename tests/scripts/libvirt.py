"""libvirt of Debian with this emulator: everything a user of virsh does with an arm64 guest.

Starts virtlogd and libvirtd by hand unless they run, defines two domains (UEFI from a disk, direct
kernel), drives the first through its life and starts and ends the second. Environment: EMU, IMAGE,
KERNEL and INITRD. Needs root, libvirt-daemon-system, libvirt-clients, python3-pexpect.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time

import pexpect

from guest import CODE, VARS, need

VIRSH = ["virsh", "-c", "qemu:///system"]
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>1024</memory><vcpu>2</vcpu>
<os><type arch='aarch64' machine='virt'>hvm</type>{boot}</os>
<features>{features}<gic version='3'/></features>
<cpu mode='custom' match='exact'><model fallback='forbid'>cortex-a57</model></cpu>
<clock offset='utc'/><on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>
<devices><emulator>{work}/qemu-system-aarch64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='{work}/disk.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
<controller type='pci' index='0' model='pcie-root'/>
<controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
<controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
<controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
<interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
<serial type='pty'/><console type='pty'><target type='serial'/></console>
<memballoon model='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
</devices></domain>"""


def virsh(*args, wanted=None):
    done = subprocess.run(VIRSH + list(args), capture_output=True, text=True, timeout=180)
    said = (done.stdout + done.stderr).strip()
    print(f"virsh {' '.join(args)}: {said.splitlines()[0] if said else 'ok'}", flush=True)
    if done.returncode or (wanted and wanted not in said):
        raise SystemExit(f"virsh {' '.join(args)}: status {done.returncode}\n{said}")
    return said


def until(what, test, seconds=120):
    end = time.time() + seconds
    while not test():
        if time.time() > end:
            raise SystemExit(f"in vain: {what}")
        time.sleep(0.2)
    print(what, flush=True)


def daemons():
    for name in ["virtlogd", "libvirtd"]:
        if subprocess.run(["pgrep", "-x", name], capture_output=True).returncode:
            subprocess.check_call([name, "-d"])
    until("libvirtd answers", lambda: not subprocess.run(VIRSH + ["version"], capture_output=True).returncode)


def live(name, work):
    console = pexpect.spawn(VIRSH[0], VIRSH[1:] + ["console", name], timeout=300, encoding="latin1")

    def guest(line, wanted):
        console.sendline(f"{line}; echo do''ne")
        console.expect("done\r", timeout=120)
        if wanted not in console.before:
            raise SystemExit(f"{line}: no {wanted!r} in {console.before!r}")

    console.expect("login: ")
    print("console: login", flush=True)
    console.sendline("root")
    console.expect("assword")
    console.sendline("root")
    console.expect("# ")
    virsh("dominfo", name, wanted="running")
    virsh("domstats", name, wanted="block.0.rd.reqs")
    virsh("vcpuinfo", name, wanted="CPU time")
    virsh("suspend", name)
    virsh("domstate", name, wanted="paused")
    virsh("resume", name)
    virsh("domstate", name, wanted="running")
    virsh("attach-device", name, f"{work}/disk.xml")
    guest("for n in $(seq 100); do [ -b /dev/vdb ] && break; sleep .1; done; ls /dev/vd*", "/dev/vdb\r")
    virsh("detach-device", name, f"{work}/disk.xml")
    until("the disk is gone", lambda: "vdb" not in subprocess.check_output(VIRSH + ["domblklist", name], text=True))
    guest("for n in $(seq 100); do [ -b /dev/vdb ] || break; sleep .1; done; [ -b /dev/vdb ] || echo g''one", "gone")
    virsh("attach-device", name, f"{work}/nic.xml")
    guest("for n in $(seq 100); do [ $(ls /sys/class/net | wc -l) = 3 ] && break; sleep .1; done; ls /sys/class/net | wc -l", "3\r")
    virsh("detach-device", name, f"{work}/nic.xml")
    guest("for n in $(seq 200); do [ $(ls /sys/class/net | wc -l) = 2 ] && break; sleep .1; done; ls /sys/class/net | wc -l", "2\r")
    virsh("setmem", name, "800M", "--live")
    virsh("dommemstat", name, wanted="actual")
    virsh("reboot", name)
    console.expect("login: ")
    print("rebooted", flush=True)
    virsh("shutdown", name)
    off = lambda: "shut off" in subprocess.check_output(VIRSH + ["domstate", name], text=True)
    until("shut off", off)
    virsh("start", name)
    virsh("destroy", name)
    virsh("domstate", name, wanted="shut off")


def main():
    daemons()
    work = tempfile.mkdtemp(prefix="tinamou-libvirt-", dir="/var/tmp")
    os.chmod(work, 0o755)
    emulator = f"{work}/qemu-system-aarch64"
    shutil.copy(need("EMU"), emulator)
    for name in ["IMAGE", "KERNEL", "INITRD"]:
        shutil.copy(need(name), f"{work}/{name}")
        os.chmod(f"{work}/{name}", 0o644)
    subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{work}/IMAGE", "-F", "qcow2", f"{work}/disk.qcow2"])
    subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", f"{work}/extra.qcow2", "64M"])
    for file in os.listdir(work):
        shutil.chown(f"{work}/{file}", "libvirt-qemu")
    open(f"{work}/disk.xml", "w").write(
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{work}/extra.qcow2'/>"
        "<target dev='vdb' bus='virtio'/></disk>")
    open(f"{work}/nic.xml", "w").write(
        "<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>")
    uefi = f"<loader readonly='yes' type='pflash'>{CODE}</loader><nvram template='{VARS}'>{work}/vars.fd</nvram><boot dev='hd'/>"
    direct = f"<kernel>{work}/KERNEL</kernel><initrd>{work}/INITRD</initrd><cmdline>console=ttyAMA0</cmdline>"
    names = [f"tinamou-uefi-{os.getpid()}", f"tinamou-direct-{os.getpid()}"]
    try:
        virsh("domcapabilities", "--emulatorbin", emulator, "--arch", "aarch64", "--machine", "virt", wanted="virt-10.0")
        for name, boot, features in [(names[0], uefi, "<acpi/>"), (names[1], direct, "")]:
            open(f"{work}/{name}.xml", "w").write(DOMAIN.format(name=name, boot=boot, features=features, work=work))
            virsh("define", f"{work}/{name}.xml")
        virsh("start", names[0])
        live(names[0], work)
        virsh("start", names[1])
        console = pexpect.spawn(VIRSH[0], VIRSH[1:] + ["console", names[1]], timeout=300, encoding="latin1")
        console.expect("Linux version|Welcome|Select a language")
        print("direct kernel: the console speaks", flush=True)
        virsh("destroy", names[1])
    finally:
        for name in names:
            subprocess.run(VIRSH + ["destroy", name], capture_output=True)
            subprocess.run(VIRSH + ["undefine", name, "--nvram"], capture_output=True)
        shutil.rmtree(work, ignore_errors=True)
    print("2 passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
