//! Memory: nodes as Debian's kernel sees them, and what a large guest costs.

use vm_tests::{Vm, guest};

/// Seconds for a boot with everything after it.
const LIMIT: u64 = 180;

fn start(more: &[&str]) -> Vm {
    let (kernel, initrd) = (guest("linux"), guest("initrd-tinamou"));
    let mut args = vec!["-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio"];
    args.extend(["-no-reboot", "-kernel", &kernel, "-initrd", &initrd]);
    args.extend(["-append", "console=ttyAMA0 quiet rdinit=/tinamou-init"]);
    args.extend(more);
    Vm::start(&args, LIMIT)
}

#[test]
fn nodes_are_seen_with_their_cpus_memory_and_distances() {
    let mut vm = start(&[
        "-M",
        "virt",
        "-smp",
        "4,sockets=2",
        "-m",
        "768",
        "-object",
        "memory-backend-ram,id=m0,size=512M",
        "-object",
        "memory-backend-memfd,id=m1,size=256M",
        "-numa",
        "node,memdev=m0,cpus=0-1",
        "-numa",
        "node,memdev=m1,cpus=2-3",
        "-numa",
        "dist,src=0,dst=1,val=25",
    ]);
    vm.wait_for("guest# ");
    vm.send("cd /sys/devices/system/node; echo NODES$((1 + 1)) $(cat */cpulist) =\r");
    vm.wait_for("NODES2 0-1 2-3 =");
    vm.send("echo DISTANCES$((1 + 1)) $(cat */distance) =\r");
    vm.wait_for("DISTANCES2 10 25 25 10 =");
    vm.send("M=$(sed -n 's/Node 1 MemTotal: *\\([0-9]*\\) kB/\\1/p' node1/meminfo)\r");
    vm.send("echo SMALL$((M > 200000 && M < 263000))=\r");
    vm.wait_for("SMALL1=");
    vm.send("poweroff -f\r");
    assert_eq!(vm.end().code, Some(0));
}

/// 64 GiB are promised; the guest touches some hundred megabytes, most of it for its own tables.
#[test]
fn a_large_guest_costs_what_it_touches() {
    let mut vm = start(&["-M", "virt", "-m", "64G"]);
    vm.wait_for("guest# ");
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("kB");
    assert!(kilobytes < 3 << 20, "{line}");
    vm.send("sed -n 's/MemTotal: *\\([0-9]*\\) kB/TOTAL \\1/p' /proc/meminfo\r");
    vm.wait_for("TOTAL 6");
    vm.send("poweroff -f\r");
    assert_eq!(vm.end().code, Some(0));
}
