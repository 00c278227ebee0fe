"""Compiling, forking, mapping and signalling in a Debian guest on all CPUs: `cargo xtask stress compile`.

Each CPU compiles the same file over and over and compares the object with the first one; beside it the stress
program runs, compiled in the guest. Fails on another result, a complaint of the kernel, or an emulator that ended.

Environment: EMU, IMAGE, CACHE (see programs.py), MINUTES, CPUS, ACCEL (of -accel).
"""
import os
import sys
import time

from guest import Guest, installed, need

BAD = ["Oops", "BUG:", "WARNING:", "Kernel panic", "rcu_sched", "soft lockup", "segfault"]
LOAD = """
cd /dev/shm && gcc -O2 -pthread -c -o first.o work.c || exit 1
want=$(sha256sum <first.o)
job() {
    while [ ! -e stop ]; do
        gcc -O2 -pthread -c -o "$1.o" work.c && [ "$(sha256sum <"$1.o")" = "$want" ] || { echo "WRONG $1" >>wrong; return; }
        kill -USR1 $$ && echo x >>done
        perl -e 'for (1..40) { if (fork == 0) { $x = "y" x 1e6; exit 7 } wait; die if $? != 7 << 8 }' || echo "WRONG fork" >>wrong
    done
}
trap : USR1
for n in $(seq $(nproc)); do job $n & done
# Signals end a wait.
until [ -e stop ]; do wait; done
"""


def main():
    emulator, minutes = need("EMU"), float(need("MINUTES"))
    os.environ["IMAGE"] = installed(emulator, 2296)
    guest = Guest(emulator, 2297, smp=int(need("CPUS")))
    guest.args[guest.args.index("-accel") + 1] = need("ACCEL")
    source = open(os.path.join(os.path.dirname(__file__), "../guests/stress.c")).read()
    try:
        guest.start()
        guest.login(timeout=900)
        guest.ssh(f"cat >/dev/shm/work.c <<'C'\n{source}\nC\ncat >/dev/shm/load <<'L'\n{LOAD}\nL\n"
                  "setsid bash /dev/shm/load >/dev/shm/said 2>&1 </dev/null & sleep 1")
        end = time.time() + 60 * minutes
        while time.time() < end:
            time.sleep(min(10, max(1, end - time.time())))
            if not guest.monitor.isalive():
                raise SystemExit("the emulator ended:\n" + guest.monitor.read()[-20000:])
            wrong = guest.ssh("cat /dev/shm/wrong /dev/shm/said 2>/dev/null")
            complaints = [line for line in guest.ssh("dmesg -l emerg,alert,crit,err,warn", timeout=300).splitlines()
                          if any(bad in line for bad in BAD)]
            if wrong or complaints:
                raise SystemExit("\n".join([wrong] + complaints))
        done = guest.ssh("touch /dev/shm/stop; wc -l </dev/shm/done")
        print(f"{done} compilations alike in {minutes:g} minutes")
        print("\n".join(l for l in guest.hmp("info jit").splitlines() if "verified" in l or "checked" in l))
        if not done.isdigit() or int(done) == 0:
            sys.exit("nothing was compiled")
    finally:
        guest.clean()


main()
