//! `-accel tcg,verify=N` finds wrong emissions, `x-check-tlb=N` stale entries, and both nothing where there are
//! none.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use accel::{Accel as _, AccelVm, Boot, CpuConfig, FirmwareCalls, GuestArch, VmConfig};
use accel_jit::JitAccel;
use cpu_arm::ArmCpu;
use cpu_arm::sysreg::Reg;
use device::{Clock, Request, RunControl};
use guest_ram::{RamBlock, RamOptions};
use jit_ir::backend::{BlockCx, CodeBuf, CodeFull, HostBackend, Runtime, RuntimeCx};
use jit_ir::{Block, Opcode};
use jit_x64::BACKEND;
use memory::{AddressSpace, Region};
use parking_lot::Mutex;

struct Run(Mutex<Sender<Request>>);
impl RunControl for Run {
    fn request(&self, request: Request) {
        _ = self.0.lock().send(request);
    }
}

/// The host's back end, but blocks are changed by a function before they are emitted.
struct Broken(fn(&mut Block));

impl HostBackend for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }
    fn usable(&self) -> Result<(), String> {
        BACKEND.usable()
    }
    fn emit_runtime(&self, cx: &RuntimeCx, out: &mut CodeBuf<'_>) -> Result<Runtime, CodeFull> {
        BACKEND.emit_runtime(cx, out)
    }
    fn emit_block(&self, cx: &BlockCx<'_>, out: &mut CodeBuf<'_>) -> Result<(), CodeFull> {
        let mut block = cx.block.clone();
        (self.0)(&mut block);
        BACKEND.emit_block(&BlockCx { block: &block, ..*cx }, out)
    }
    fn patch(&self, site: u64, target: u64) -> u32 {
        BACKEND.patch(site, target)
    }
    fn disassemble(&self, code: &[u8], at: u64) -> String {
        BACKEND.disassemble(code, at)
    }
}

fn each(block: &mut Block, from: Opcode, f: impl Fn(&mut jit_ir::Op)) {
    block.ops.iter_mut().filter(|op| op.code == from).for_each(f);
}

static RIGHT: Broken = Broken(|_| {});
static ADDS_WRONG: Broken = Broken(|b| each(b, Opcode::Xor, |op| op.code = Opcode::Or));
static STORES_WRONG: Broken = Broken(|b| each(b, Opcode::Store, |op| op.imm += 8));
static LEAVES_WRONG: Broken = Broken(|b| {
    for exit in &mut b.exits {
        if let jit_ir::Exit::Page(at) = exit
            && *at == 0x58
        {
            *at = 0x54;
        }
    }
});

const START: u64 = 0x1000;
const HANDLER: u64 = 0x8200;
/// A loop with a load, a store, an exclusive pair, an atomic, vectors, flags, a call and, behind it, a load that
/// faults; the handler steps over it.
const PROGRAM: [u32; 23] = [
    0xd280_0000, // 00: mov x0, #0x0
    0x9100_0400, // 04: add x0, x0, #0x1
    0xca00_0021, // 08: eor x1, x1, x0
    0xf900_0061, // 0c: str x1, [x3]
    0xf940_0062, // 10: ldr x2, [x3]
    0xc85f_7c64, // 14: ldxr x4, [x3]
    0xc805_7c60, // 18: stxr w5, x0, [x3]
    0xf820_0066, // 1c: ldadd x0, x6, [x3]
    0x4e08_0c00, // 20: dup v0.2d, x0
    0x4ee0_8420, // 24: add v0.2d, v1.2d, v0.2d
    0x1e62_0000, // 28: scvtf d0, w0
    0x1e60_2801, // 2c: fadd d1, d0, d0
    0xb100_041f, // 30: cmn x0, #0x1
    0xf940_01c7, // 34: ldr x7, [x14]
    0x9400_0005, // 38: bl 4c
    0xf278_001f, // 3c: tst x0, #0x100
    0x54ff_fe20, // 40: b.eq 4
    0xd503_201f, // 44: nop
    0x17ff_ffef, // 48: b 4
    0xeb00_003f, // 4c: cmp x1, x0
    0x5400_004b, // 50: b.lt 58
    0xd503_201f, // 54: nop
    0xd65f_03c0, // 58: ret
];
/// `mrs x15, elr_el1; add x15, x15, #4; msr elr_el1, x15; eret`.
const SKIP: [u32; 4] = [0xd538_402f, 0x9100_11ef, 0xd518_402f, 0xd69f_03e0];

/// Tables of levels 1 and 2 with one entry each, for 39 bits of addresses in pages of 4 KiB.
const TABLES: [(u64, u32); 2] = [(0x4000, 0x5003), (0x5000, 0x6003)];
/// The table of level 3: the first 16 pages at their own addresses.
const PAGES: u64 = 0x6000;
/// A page: access flag, inner shareable, attributes 0.
const PAGE: u32 = 0x703;

struct Bench {
    vm: Arc<dyn AccelVm>,
    requests: Receiver<Request>,
}

fn bench(backend: &'static Broken, verify: &str) -> Bench {
    let b = machine(backend, ("verify", verify), &PROGRAM);
    b.cpu(|cpu| {
        cpu.x[3] = 0x3000;
        cpu.x[14] = 0x10_0000;
        cpu.set_sys(Reg::CPACR_EL1, 3 << 20);
        cpu.set_sys(Reg::VBAR_EL1, HANDLER - 0x200);
    });
    b
}

fn machine(backend: &'static Broken, option: (&str, &str), program: &[u32]) -> Bench {
    machine_with(backend, &[option], program)
}

fn machine_with(backend: &'static Broken, options: &[(&str, &str)], program: &[u32]) -> Bench {
    let ram = RamBlock::new("ram", 0x1_0000, RamOptions::default()).expect("memory");
    let put = |at: u64, w: u32| ram.store(at, 4, u64::from(w)).expect("inside");
    (0u64..).zip(program).for_each(|(n, w)| put(START + 4 * n, *w));
    TABLES.into_iter().for_each(|(at, entry)| put(at, entry));
    (0..16).for_each(|n| put(PAGES + 8 * n, PAGE | (n as u32) << 12));
    (0u64..).zip(SKIP).for_each(|(n, w)| put(HANDLER + 4 * n, w));
    let memory = AddressSpace::new("cpu", &Region::ram("ram", ram));
    let (send, requests) = channel();
    let run: Arc<dyn RunControl> = Arc::new(Run(Mutex::new(send)));
    let config = CpuConfig {
        model: "max".into(),
        props: Vec::new(),
        ids: vec![0],
        virtualization: false,
        secure: false,
        firmware_calls: FirmwareCalls::None,
        clock: Clock::manual(),
        run: Arc::clone(&run),
    };
    let set = cpu_arm::arch::ARCH.new_cpus(&config).expect("CPUs");
    let mut cpus = Vec::new();
    for unit in set.units {
        unit.handle.set_boot(Boot { pc: START, ..Boot::default() });
        let mut cpu = unit.cpu;
        cpu.reset();
        cpus.push(cpu);
    }
    let backends: &'static [&'static dyn HostBackend] = Box::leak(Box::new([backend as _]));
    let vm = JitAccel { backends }
        .new_vm(VmConfig {
            icount: None,
            memory,
            secure_memory: None,
            options: options.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            cpus,
            translator: Some(set.translator),
            run,
        })
        .expect("a VM");
    Bench { vm, requests }
}

impl Bench {
    fn cpu<T: Default>(&self, mut f: impl FnMut(&mut ArmCpu) -> T) -> T {
        let mut result = T::default();
        let found = self.vm.with_cpu(0, &mut |cpu| {
            let cpu = cpu.as_any().downcast_mut::<ArmCpu>().expect("an Arm CPU");
            result = f(cpu);
        });
        assert!(found);
        result
    }

    /// Whether the end of the emulator is asked for before the program was round 1000 times.
    fn finds(&self) -> bool {
        self.vm.resume();
        loop {
            match self.requests.recv_timeout(Duration::from_millis(1)) {
                Ok(request) => {
                    assert_eq!(request, Request::Exit(1));
                    return true;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the accelerator is gone"),
            }
            self.vm.pause();
            let rounds = self.cpu(|cpu| cpu.x[0]);
            if rounds > 1000 {
                // What was found on the way is told by now.
                return self.requests.try_recv() == Ok(Request::Exit(1));
            }
            self.vm.resume();
        }
    }
}

fn verified(info: &str) -> u64 {
    let line = info.lines().find(|l| l.starts_with("verified blocks")).expect("the line");
    line.split_whitespace().nth(2).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn right_code_passes() {
    // A round has more than four blocks.
    for (every, least) in [("1", 4000), ("3", 1000), ("100", 30)] {
        let b = bench(&RIGHT, every);
        assert!(!b.finds(), "every {every}");
        assert!(verified(&b.vm.info()) > least, "{}", b.vm.info());
        b.vm.shutdown();
    }
}

#[test]
fn wrong_values_are_found() {
    for every in ["1", "7"] {
        let b = bench(&ADDS_WRONG, every);
        assert!(b.finds(), "every {every}");
        b.vm.shutdown();
    }
    let b = bench(&ADDS_WRONG, "0");
    assert!(!b.finds(), "nobody looks");
    b.vm.shutdown();
}

#[test]
fn wrong_stores_are_found() {
    let b = bench(&STORES_WRONG, "1");
    assert!(b.finds());
    b.vm.shutdown();
}

#[test]
fn wrong_exits_are_found() {
    let b = bench(&LEAVES_WRONG, "1");
    assert!(b.finds());
    b.vm.shutdown();
}

/// `ldr x0, [x1]; str x5, [x6]; dsb sy; …; ldr x0, [x2]; mov x0, #2000; b .`: page X1 is used, its entry X6
/// becomes X5, another page is used.
fn remap(middle: [u32; 2]) -> [u32; 8] {
    let [a, b] = middle;
    [0xf940_0020, 0xf900_00c5, 0xd503_3f9f, a, b, 0xf940_0040, 0xd280_fa00, 0x1400_0000]
}
const NOP: u32 = 0xd503_201f;
/// `tlbi vmalle1; dsb sy`.
const MAINTENANCE: [u32; 2] = [0xd508_871f, 0xd503_3f9f];

fn remapping(middle: [u32; 2], every: &str) -> Bench {
    let b = machine(&RIGHT, ("x-check-tlb", every), &remap(middle));
    b.cpu(|cpu| {
        (cpu.x[1], cpu.x[2]) = (0x8000, 0xa000);
        (cpu.x[5], cpu.x[6]) = (u64::from(PAGE | 0x9000), PAGES + 8 * 8);
        cpu.set_sys(Reg::MAIR_EL1, 0xff);
        cpu.set_sys(Reg::TTBR0_EL1, 0x4000);
        cpu.set_sys(Reg::TCR_EL1, 25 | 1 << 23);
        let sctlr = cpu.sys(Reg::SCTLR_EL1);
        cpu.set_sys(Reg::SCTLR_EL1, sctlr | 1);
        cpu.forget_mode();
    });
    b
}

#[test]
fn a_stale_entry_is_found() {
    let b = remapping([NOP, NOP], "1");
    assert!(b.finds());
    b.vm.shutdown();
    let b = remapping([NOP, NOP], "0");
    assert!(!b.finds(), "nobody looks");
    b.vm.shutdown();
}

#[test]
fn maintenance_makes_it_right() {
    let b = remapping(MAINTENANCE, "1");
    assert!(!b.finds());
    let info = b.vm.info();
    let line = info.lines().find(|l| l.starts_with("checked TLB entries")).expect("the line");
    let number = line.split([' ', ',']).nth(3).and_then(|n| n.parse::<u64>().ok());
    assert!(number.is_some_and(|n| n > 5), "{line}");
    b.vm.shutdown();
}

#[test]
fn profilers_are_told_of_blocks_and_helpers_are_counted() {
    let options = [("x-perfmap", "on"), ("x-jitdump", "on"), ("x-count-helpers", "on")];
    let b = machine_with(&RIGHT, &options, &PROGRAM);
    b.cpu(|cpu| {
        (cpu.x[3], cpu.x[14]) = (0x3000, 0x10_0000);
        cpu.set_sys(Reg::CPACR_EL1, 3 << 20);
        cpu.set_sys(Reg::VBAR_EL1, HANDLER - 0x200);
    });
    assert!(!b.finds());
    let info = b.vm.info();
    b.vm.shutdown();
    let pid = std::process::id();
    let (map, dump) = (format!("/tmp/perf-{pid}.map"), format!("jit-{pid}.dump"));
    let text = std::fs::read_to_string(&map).expect("the map");
    let code = std::fs::read(&dump).expect("the dump");
    std::fs::remove_file(map).expect("own file");
    std::fs::remove_file(dump).expect("own file");
    assert!(text.lines().any(|l| l.ends_with(" guest-0x1000")), "{text}");
    assert_eq!(&code[..4], b"DTiJ");
    assert!(code.windows(13).any(|w| w == b"guest-0x1000\0"));
    let calls = info.lines().find(|l| l.starts_with("Eret")).expect("the helper's line");
    let calls: u64 =
        calls.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert!(calls >= 1000, "{info}");
    let number = |name: &str| {
        let line = info.lines().find(|l| l.starts_with(name)).expect(name);
        line.split([' ', ',']).find_map(|w| w.parse::<u64>().ok()).expect("a number")
    };
    assert!(number("TLB fills") > 0 && number("slow accesses") >= 1000, "{info}");
}

/// `add x0, x0, #1; eor x1, x1, x0; str x1, [x3]; cmp x0, #0x7d0; b.ne .-16; b .`: a block that loops to itself.
const LOOP: [u32; 6] =
    [0x9100_0400, 0xca00_0021, 0xf900_0061, 0xf11f_401f, 0x54ff_ff81, 0x1400_0000];

fn looping(backend: &'static Broken, store: bool) -> Bench {
    let mut program = LOOP;
    if !store {
        program[2] = NOP;
    }
    let b = machine(backend, ("verify", "1"), &program);
    b.cpu(|cpu| cpu.x[3] = 0x3000);
    b
}

#[test]
fn loops_are_verified_round_by_round() {
    for store in [false, true] {
        let b = looping(&RIGHT, store);
        assert!(!b.finds(), "store {store}");
        b.vm.shutdown();
        let b = looping(&ADDS_WRONG, store);
        assert!(b.finds(), "store {store}");
        b.vm.shutdown();
    }
}
