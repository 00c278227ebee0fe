//! Memory modules from outside: our program and the installed peer get the same commands by QMP and
//! the same accesses by qtest, and give the same answers.

#[expect(dead_code, reason = "this test uses a part")]
mod harness;

use harness::{Emulator, both};

/// The registers of slots, the event selector, and where modules go.
const SLOTS: u64 = 0x0907_0000;
const EVENTS: u64 = 0x0908_0000;
const MODULES: u64 = 0x8000_0000;

const MACHINE: &str = "-cpu max -bios /usr/share/AAVMF/AAVMF_CODE.fd -smp 2 -m 512,slots=3,maxmem=2G \
    -object memory-backend-ram,id=a,size=256M -object memory-backend-ram,id=b,size=256M \
    -numa node,memdev=a,cpus=0 -numa node,memdev=b,cpus=1 \
    -object memory-backend-ram,id=m,size=128M -object memory-backend-ram,id=n,size=64M \
    -object memory-backend-ram,id=odd,size=5000K -object memory-backend-ram,id=huge,size=2G \
    -device pc-dimm,memdev=m,id=first,node=1";

/// All registers of all slots and of one that is not there.
fn slots(e: &mut Emulator) -> String {
    let mut out = String::new();
    for slot in 0..4 {
        e.write(SLOTS, 32, slot);
        let words: Vec<_> = (0..6).map(|n| format!("{:08x}", e.read32(SLOTS + 4 * n))).collect();
        out.push_str(&format!("{slot}: {}\n", words.join(" ")));
    }
    out
}

fn come_and_go(e: &mut Emulator) -> Vec<String> {
    let mut out = vec![slots(e), format!("events {:x}", e.read32(EVENTS))];
    for args in [
        "\"driver\":\"pc-dimm\",\"memdev\":\"n\",\"id\":\"second\"",
        "\"driver\":\"pc-dimm\",\"memdev\":\"n\",\"id\":\"again\"",
        "\"driver\":\"pc-dimm\",\"memdev\":\"odd\"",
        "\"driver\":\"pc-dimm\",\"memdev\":\"huge\"",
        "\"driver\":\"pc-dimm\",\"memdev\":\"none\"",
        "\"driver\":\"pc-dimm\"",
        "\"driver\":\"pc-dimm\",\"memdev\":\"odd\",\"slot\":7",
        "\"driver\":\"pc-dimm\",\"memdev\":\"odd\",\"slot\":0",
    ] {
        out.push(e.device_add(args));
    }
    out.push(slots(e));
    out.push(format!("events {:x} {:x}", e.read32(EVENTS), e.read32(EVENTS)));
    // It is memory.
    e.write(MODULES + (128 << 20), 32, 0x1234_5678);
    out.push(format!("{:x}", e.read32(MODULES + (128 << 20))));
    // The guest has seen it, and says how it went.
    e.write(SLOTS, 32, 1);
    e.write(SLOTS + 4, 32, 1);
    e.write(SLOTS + 8, 32, 0);
    e.write(SLOTS + 20, 32, 2);
    out.push(slots(e));
    out.push(e.device_del("second"));
    out.push(e.device_del("second"));
    out.push(slots(e));
    out.push(format!("events {:x}", e.read32(EVENTS)));
    e.write(SLOTS, 32, 1);
    e.write(SLOTS + 20, 32, 4);
    out.push(slots(e));
    e.write(SLOTS, 32, 1);
    e.write(SLOTS + 20, 32, 8);
    e.gone("second");
    out.push(slots(e));
    out.push(e.qmp("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"n\"}}"));
    out.push(e.qmp("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"m\"}}"));
    out
}

#[test]
fn modules_come_and_go_as_at_the_peer() {
    let Some((ours, theirs)) = both(MACHINE, come_and_go) else { return };
    for (a, b) in ours.iter().zip(&theirs) {
        assert_eq!(a, b);
    }
}
