"""The manual's worked example, paired: firmware, GRUB, systemd, login, ssh, power-off from the monitor.

Runs EMU and PEER in turns, ROUNDS times, and prints seconds and ratios (peer / ours). SMP: CPUs (4);
DISK: qcow2 or raw. Without PEER only ours runs.
"""
import os
import sys

from guest import Guest, need

MARKS = ["login", "ssh", "power-off"]


def once(emulator, port):
    guest = Guest(emulator, port, smp=int(os.environ.get("SMP", "4")), memory=4096, disk=os.environ.get("DISK", "qcow2"))
    times = []
    try:
        guest.start()
        guest.login()
        times.append(guest.since())
        said = guest.ssh("uname -m; systemctl is-system-running --wait; echo SSH''OK")
        if "SSHOK" not in said or "aarch64" not in said:
            raise SystemExit(f"ssh: {said}")
        times.append(guest.since())
        if "running" not in guest.hmp("info status"):
            raise SystemExit("the machine does not run")
        guest.monitor.sendline("system_powerdown")
        guest.end()
        times.append(guest.since())
    finally:
        guest.clean()
    return times


def main():
    ours, peer = need("EMU"), os.environ.get("PEER")
    rounds = int(os.environ.get("ROUNDS", "1"))
    best = {}
    for _ in range(rounds):
        for name, emulator in [("ours", ours), ("peer", peer)]:
            if emulator:
                times = once(emulator, os.environ.get("PORT", "2224"))
                print(name, " ".join(f"{mark} {t:.1f} s" for mark, t in zip(MARKS, times)), flush=True)
                best[name] = [min(pair) for pair in zip(best.get(name, times), times)]
    if peer:
        for mark, a, b in zip(MARKS, best["ours"], best["peer"]):
            print(f"{mark}: ours {a:.1f} s, peer {b:.1f} s, ratio {b / a:.2f}, share {a / b:.2f}")
    print(f"{rounds} passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
