"""A Debian guest with the options of the manual's worked example, for the scripts beside this file.

Environment: EMU (the emulator), IMAGE (its disk, root's password is root; written through a
throw-away overlay), PORT (of the host's loopback, for ssh). Needs python3-pexpect, sshpass,
qemu-utils and qemu-efi-aarch64.
"""
import os
import re
import shutil
import subprocess
import tempfile
import time

import pexpect

CODE = "/usr/share/AAVMF/AAVMF_CODE.fd"
VARS = "/usr/share/AAVMF/AAVMF_VARS.fd"


def need(name):
    value = os.environ.get(name)
    if not value:
        raise SystemExit(f"{name} is not set")
    return value


class Guest:
    """One machine; its files are in a folder of its own."""

    def __init__(self, emulator, port, smp=2, memory=1024, disk="qcow2", drives=False, more=()):
        self.work = tempfile.mkdtemp(prefix="tinamou-")
        self.port = str(port)
        image = need("IMAGE")
        self.disk = f"{self.work}/hd.{disk}"
        if disk == "raw":
            subprocess.check_call(["qemu-img", "convert", "-O", "raw", image, self.disk])
        else:
            subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", self.disk])
        # Variables in qcow2, so that snapshots can hold them.
        self.vars = f"{self.work}/vars.qcow2"
        subprocess.check_call(["qemu-img", "convert", "-O", "qcow2", VARS, self.vars])
        self.console = f"{self.work}/console"
        self.emulator = emulator
        self.args = f"""-machine type=virt,virtualization=on,pflash0=rom,pflash1=efivars -m {memory}
            -cpu max,pauth-impdef=on -smp {smp} -accel tcg
            -device virtio-net-pci,netdev=unet -device virtio-scsi-pci -device scsi-hd,drive=hd
            -netdev user,id=unet,hostfwd=tcp:127.0.0.1:{port}-:22
            -blockdev driver={disk},node-name=hd,file.driver=file,file.filename={self.disk},discard=unmap
            -serial file:{self.console} -display none -monitor stdio
            -blockdev node-name=rom,driver=file,filename={CODE},read-only=true
            -blockdev driver=qcow2,node-name=efivars,file.driver=file,file.filename={self.vars}""".split() + list(more)
        if drives:
            # -snapshot is about -drive alone.
            at = [n for n, arg in enumerate(self.args) if arg == "-blockdev"]
            for n in reversed(at):
                del self.args[n:n + 2]
            machine = self.args.index("-machine") + 1
            self.args[machine] = "type=virt,virtualization=on"
            self.args += ["-drive", f"if=none,id=hd,format={disk},file={self.disk}",
                          "-drive", f"if=pflash,format=raw,readonly=on,file={CODE}",
                          "-drive", f"if=pflash,format=qcow2,file={self.vars}"]
        self.monitor = None

    def start(self):
        self.begun = time.time()
        self.monitor = pexpect.spawn(self.emulator, self.args, timeout=300, encoding="latin1", dimensions=(50, 200))
        self.monitor.expect(r"\(qemu\) ")

    def since(self):
        return time.time() - self.begun

    def hmp(self, line, timeout=300):
        """What the human monitor says to a line."""
        self.monitor.sendline(line)
        self.monitor.expect(r"\(qemu\) ", timeout=timeout)
        said = re.sub(r"\x1b\[[KD]", "", self.monitor.before).replace("\r", "")
        return said.split("\n", 1)[1].strip() if "\n" in said else ""

    def log(self):
        try:
            return open(self.console, errors="replace").read()
        except FileNotFoundError:
            return ""

    def login(self, count=1, timeout=300):
        """Waits for the prompt on the console, as often as it is to be there."""
        end = time.time() + timeout
        while self.log().count("login: ") < count:
            if time.time() > end or not self.monitor.isalive():
                raise SystemExit("no login:\n" + self.log()[-2000:])
            time.sleep(0.1)

    def ssh_args(self):
        return ["sshpass", "-p", "root", "ssh", "-p", self.port, "-o", "StrictHostKeyChecking=no", "-o",
                "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=30", "-o", "LogLevel=ERROR", "root@127.0.0.1"]

    def ssh(self, command, timeout=120):
        done = subprocess.run(self.ssh_args() + [command], capture_output=True, text=True, timeout=timeout)
        return (done.stdout + done.stderr).strip()

    def session(self):
        """A login that stays."""
        shell = pexpect.spawn("sshpass", self.ssh_args()[1:] + ["-tt"], timeout=120, encoding="latin1")
        shell.expect("# ")
        return shell

    def end(self):
        self.monitor.expect(pexpect.EOF, timeout=120)
        self.monitor.close()

    def clean(self):
        if self.monitor is not None:
            self.monitor.close(force=True)
        shutil.rmtree(self.work, ignore_errors=True)


PACKAGES = "xz-utils python3 openssl sqlite3 gcc libc6-dev"


def installed(emulator, port):
    """The image with the packages, made at the first time."""
    image = need("IMAGE")
    made = os.path.join(need("CACHE"), "programs-arm64.qcow2")
    if os.path.exists(made):
        return made
    print("installing", PACKAGES, flush=True)
    guest = Guest(emulator, port)
    try:
        guest.start()
        guest.login()
        said = guest.ssh("export DEBIAN_FRONTEND=noninteractive; apt-get update -q && apt-get install -qy "
                         f"--no-install-recommends {PACKAGES} && apt-get clean && sync && echo DONE", timeout=1200)
        if "DONE" not in said.splitlines():
            raise SystemExit("the packages were not installed:\n" + said[-2000:])
        guest.ssh("poweroff")
        guest.end()
        shutil.move(guest.disk, made)
    finally:
        guest.clean()
    print("from", image, "made", made)
    return made
