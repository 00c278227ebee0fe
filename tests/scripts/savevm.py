"""savevm and loadvm of a Debian guest under load of CPU, disk and network; ROUNDS times.

Each round saves, changes files in RAM and on disk, loads, and looks whether everything is as it
was: marks, checksums of 30 MB on disk and in RAM, and an ssh session that was open all the time.
A second round loads what an earlier one saved. At the end qemu-img checks the images.
"""
import os
import subprocess
import sys
import time

from guest import Guest, need

ROUNDS = int(os.environ.get("ROUNDS", "50"))
LOAD = r"""
mkdir -p /dev/shm/m
head -c 30M /dev/urandom > /root/ref; sha256sum /root/ref > /root/ref.sum
head -c 30M /dev/urandom > /dev/shm/m/ref; sha256sum /dev/shm/m/ref > /dev/shm/m/sum
sync
(while :; do dd if=/dev/urandom of=/root/w bs=64k count=64 conv=fsync 2>/dev/null; sha256sum /root/w >/dev/null; done) &
(while :; do sha256sum /dev/shm/m/ref >/dev/null; done) &
"""
CHECK = ("sha256sum -c /root/ref.sum; sha256sum -c /dev/shm/m/sum; "
         "dmesg | grep -E 'Oops|BUG:|rcu_sched|soft lockup|I/O error|hung_task' | head -3")


def traffic(guest):
    """Bytes through the forwarded port, again and again; a load breaks what is under way."""
    line = " ".join(f"'{arg}'" for arg in guest.ssh_args())
    loop = f"while :; do {line} 'head -c 20M /dev/zero' >/dev/null 2>&1 || sleep 0.2; done"
    return subprocess.Popen(["bash", "-c", loop], start_new_session=True)


def main():
    guest = Guest(need("EMU"), os.environ.get("PORT", "2223"))
    load = None
    try:
        guest.start()
        guest.login()
        print(f"login after {guest.since():.1f} s", flush=True)
        guest.ssh(f"cat > /root/load.sh <<'E'\n{LOAD}E\nbash /root/load.sh >/dev/null 2>&1 </dev/null")
        shell = guest.session()
        load = traffic(guest)
        for n in range(ROUNDS):
            guest.ssh(f"echo {n} > /root/mark; echo {n} > /dev/shm/mark; sync")
            begun = time.time()
            said = guest.hmp(f"savevm s{n % 2}")
            saved = time.time()
            guest.ssh("echo x > /root/mark; echo x > /dev/shm/mark; sync; rm -f /root/ref /dev/shm/m/ref")
            changed = time.time()
            said += guest.hmp(f"loadvm s{n % 2}")
            loaded = time.time()
            shell.sendline(f'echo al""ive{n}')
            shell.expect(f"alive{n}\r", timeout=60)
            marks = guest.ssh("cat /root/mark /dev/shm/mark").split()
            state = guest.ssh(CHECK, 300)
            print(f"round {n + 1}: saved in {saved - begun:.2f} s, loaded in {loaded - changed:.2f} s, session alive", flush=True)
            if said or marks != [str(n), str(n)] or state != "/root/ref: OK\n/dev/shm/m/ref: OK":
                raise SystemExit(f"round {n + 1} is wrong: {said!r} {marks} {state!r}")
        print(guest.hmp("info snapshots"))
        guest.hmp("delvm s0")
        guest.monitor.sendline("quit")
        guest.end()
        for image in [guest.disk, guest.vars]:
            print(subprocess.check_output(["qemu-img", "check", image], text=True).splitlines()[0])
    finally:
        if load is not None:
            os.killpg(load.pid, 9)
        guest.clean()
    print(f"{ROUNDS} passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
