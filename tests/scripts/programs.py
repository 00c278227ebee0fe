"""Programs that nobody tuned for, in a Debian guest on ours and on an installed QEMU: `cargo xtask bench programs`.

Both machines are up, one program runs at a time, ours and QEMU's in turns. What counts is user time as the
guest measures it, the least of all rounds; of `openssl speed` it is the rate. Prints the ratios (QEMU's time by ours; above
1 = ours is faster) and their geometric mean.

Environment: EMU, IMAGE, CACHE (a folder for the image with the packages installed), ROUNDS (2), ONLY (a
part of a name), CPU (max,pauth-impdef=on).
"""
import math
import os
import re
import sys

from guest import Guest, installed, need

TEXT = "/dev/shm/text"
PREPARE = f"""
perl -e 'srand 7; for (1..200000) {{ print join(" ", map {{ int rand 100000 }} 1..5), "\\n" }}' >{TEXT}
head -c 1500000 {TEXT} >{TEXT}.small
cat >/dev/shm/work.py <<'P'
import json, re
words = open("{TEXT}").read(3000000).split()
count = {{}}
for w in words:
    count[w] = count.get(w, 0) + 1
top = sorted(count.items(), key=lambda kv: (-kv[1], kv[0]))[:5000]
assert json.loads(json.dumps(top))[0][1] == top[0][1]
print(sum(int(m) for m in re.findall(r"[0-9]+7", " ".join(words[:200000]))) % 1000003)
class Node:
    def __init__(self, left, right): self.left, self.right = left, right
    def depth(self): return 1 + (max(self.left.depth(), self.right.depth()) if self.left else 0)
def tree(n): return Node(tree(n - 1), tree(n - 1)) if n else Node(None, None)
print(tree(15).depth(), sum(i * i % 7 for i in range(1000000)))
P
cat >/dev/shm/work.sql <<'S'
create table t(a integer, b integer, c text);
insert into t with recursive n(i) as (select 1 union all select i + 1 from n where i < 150000)
  select i, i * 7919 % 100003, 'row ' || (i * 31 % 977) from n;
create index tb on t(b);
select count(*), sum(length(c)) from t where b between 100 and 50000;
select c, count(*) from t group by c order by 2 desc, 1 limit 3;
select count(*) from t x join t y on x.b = y.a where x.a < 60000;
S
cat >/dev/shm/work.c
"""
# Name, command; of a rate, what gives it.
TIMES = [
    ("gzip", f"gzip -6 -c {TEXT}"),
    ("gunzip", f"for n in 1 2 3 4 5 6 7 8; do zcat {TEXT}.gz; done"),
    ("xz", f"xz -3 -c {TEXT}.small"),
    ("sha256sum", f"for n in 1 2 3 4 5 6 7 8; do sha256sum {TEXT} {TEXT} {TEXT} {TEXT} {TEXT} {TEXT}; done"),
    ("sort", f"for n in 1 2 3 4; do sort -k2 {TEXT}; done"),
    ("mawk", "mawk '{ for (i = 1; i <= NF; i++) c[$i] += i } END { for (k in c) n += c[k]; print n }' " + TEXT),
    ("perl", "perl -ne 'for (split) { $c{$_}++; $n += length if /3.*7$/ } END { print scalar(keys %c), $n }' " + TEXT),
    ("python3", "python3 /dev/shm/work.py"),
    ("sqlite3", "sqlite3 :memory: '.read /dev/shm/work.sql'"),
    ("gcc", "gcc -O2 -pthread -c -o /dev/null /dev/shm/work.c"),
]
RATES = [
    (f"openssl speed {what}", f"openssl speed -mr -seconds 2 {more} 2>/dev/null")
    for what, more in [("sha256", "-bytes 8192 -evp sha256"), ("aes-128-gcm", "-bytes 8192 -evp aes-128-gcm"),
                       ("chacha20-poly1305", "-bytes 8192 -evp chacha20-poly1305"), ("rsa2048", "rsa2048"), ("ecdhp256", "ecdhp256")]
]


def cost(guest, name, command, rate):
    """User seconds, or time per unit of a rate; None if the program failed."""
    if rate:
        said = guest.ssh(command, timeout=900)
        # Fields of a line are a number, a name, and rates; where a time is given too, it is below a second.
        rates = [float(r) for line in said.splitlines() if re.match(r"\+F\d*:", line)
                 for r in re.findall(r":(\d+\.\d+)", line) if float(r) >= 1]
        return math.exp(-sum(map(math.log, rates)) / len(rates)) if rates else None
    said = guest.ssh(f"LC_ALL=C; export LC_ALL; TIMEFORMAT='USER %U'; time {{ {command}; }} >/dev/null && echo OK", timeout=900)
    time = re.search(r"USER ([0-9.]+)", said)
    return float(time[1]) if time and "OK" in said else None


def main():
    ours, peer = need("EMU"), os.environ.get("PEER", "qemu-system-aarch64")
    only, rounds = os.environ.get("ONLY", ""), int(os.environ.get("ROUNDS", "2"))
    source = open(os.path.join(os.path.dirname(__file__), "../guests/stress.c")).read()
    os.environ["IMAGE"] = installed(ours, 2291)
    guests = [Guest(ours, 2292, smp=1), Guest(peer, 2293, smp=1)]
    best = {}
    try:
        for guest in guests:
            at = guest.args.index("-cpu")
            guest.args[at + 1] = os.environ.get("CPU", "max,pauth-impdef=on")
            guest.start()
            guest.login(timeout=600)
            said = guest.ssh(f"set -e; {PREPARE.rstrip()} <<'C'\n{source}\nC\ngzip -6 -c {TEXT} >{TEXT}.gz; echo READY", timeout=300)
            if "READY" not in said:
                raise SystemExit("the guest is not ready:\n" + said[-2000:])
        work = [(n, c, False) for n, c in TIMES] + [(n, c, True) for n, c in RATES]
        for name, command, rate in work:
            if only not in name:
                continue
            pairs = [[cost(g, name, command, rate) for g in guests] for _ in range(rounds)]
            if any(None in pair for pair in pairs):
                print(f"{name:32s} missing or failed", flush=True)
                continue
            a, b = (min(pair[n] for pair in pairs) for n in (0, 1))
            best[name] = b / max(a, 1e-12)
            unit = "" if rate else f"ours {a:8.2f} s  QEMU {b:8.2f} s  "
            print(f"{name:32s} {unit}ratio {best[name]:6.2f}", flush=True)
    finally:
        for guest in guests:
            guest.clean()
    if not best:
        sys.exit("nothing was measured")
    mean = math.exp(sum(map(math.log, best.values())) / len(best))
    print(f"programs {len(best)}  geometric mean {mean:.2f}  lowest {min(best.values()):.2f} ({min(best, key=best.get)})")


main()
