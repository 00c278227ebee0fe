"""The worked example's machine through its life: CPUs and disks, reboot from inside, EFI variables,
-S, -snapshot.

For 1, 2, 4 and 8 CPUs, on qcow2 and raw in turns: the guest sees its CPUs, writes an EFI variable,
reboots from inside, finds the variable, is powered off by the monitor, and the next boot finds the
variable that this one wrote. Environment: EMU, IMAGE.
"""
import hashlib
import os
import sys

import pexpect

from guest import Guest, need

NAME = "/sys/firmware/efi/efivars/Tinamou-d5a6c1b2-3f44-4f0a-9a65-6f1d5b2c7e10"
WRITE = f"printf '\\007\\000\\000\\000{{}}' > {NAME}; sync; cat {NAME} | tail -c +5"


def power_off(guest):
    guest.monitor.sendline("system_powerdown")
    guest.end()


def check(what, said, wanted):
    if said != wanted:
        raise SystemExit(f"{what}: {said!r} instead of {wanted!r}")


def life(cpus, disk):
    guest = Guest(need("EMU"), os.environ.get("PORT", "2225"), smp=cpus, disk=disk)
    try:
        guest.start()
        guest.login()
        check("nproc", guest.ssh("nproc"), str(cpus))
        check("variable", guest.ssh(WRITE.format(f"one{cpus}")), f"one{cpus}")
        guest.ssh("systemctl reboot")
        guest.login(count=2)
        check("variable after a reboot", guest.ssh(f"cat {NAME} | tail -c +5"), f"one{cpus}")
        power_off(guest)
        os.remove(guest.console)
        guest.start()
        guest.login()
        check("variable in the next boot", guest.ssh(f"cat {NAME} | tail -c +5; dmesg | grep -c 'Oops\\|BUG:'"), f"one{cpus}0")
        power_off(guest)
    finally:
        guest.clean()
    print(f"{cpus} CPUs, {disk}: reboot and next boot find the EFI variable", flush=True)


def stopped_and_thrown_away():
    guest = Guest(need("EMU"), os.environ.get("PORT", "2225"), drives=True, more=["-S", "-snapshot"])
    digest = lambda: [hashlib.sha256(open(file, "rb").read()).hexdigest() for file in (guest.disk, guest.vars)]
    try:
        before = digest()
        guest.start()
        check("-S", guest.hmp("info status"), "VM status: paused (prelaunch)")
        check("the console is silent", guest.log(), "")
        guest.hmp("cont")
        guest.login()
        check("a file", guest.ssh("echo gone > /root/gone; sync; cat /root/gone"), "gone")
        power_off(guest)
        check("-snapshot", digest(), before)
    except pexpect.TIMEOUT:
        raise SystemExit("no answer")
    finally:
        guest.clean()
    print("-S waits for cont; -snapshot leaves the images as they were", flush=True)


def main():
    stopped_and_thrown_away()
    cases = [(1, "qcow2"), (2, "raw"), (4, "qcow2"), (8, "raw")]
    for cpus, disk in cases:
        life(cpus, disk)
    print(f"{len(cases) + 1} passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
