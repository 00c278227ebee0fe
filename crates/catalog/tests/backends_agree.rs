//! Random programs from the decode tables: the host back end and the interpreter end in the same state.
//!
//! Data processing of all kinds, with registers full of values that matter to floating point; what is
//! undefined traps to a handler that goes on behind it. Memory and branches have their own tests.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use accel::debug::{DebugSink, DebugStop};
use accel::{Boot, CpuConfig, FirmwareCalls, GuestArch, VmConfig};
use cpu_arm::ArmCpu;
use cpu_arm::decode::{base, fpsimd};
use cpu_arm::sysreg::Reg;
use device::{Clock, Request, RunControl};
use guest_ram::{RamBlock, RamOptions};
use memory::{AddressSpace, Region};
use parking_lot::Mutex;

const START: u64 = 0x1000;
const WORDS: u64 = 600;
const END: u64 = START + 4 * WORDS;
const VECTORS: u64 = 0x8000;
/// `mrs x30, elr_el1; add x30, x30, #4; msr elr_el1, x30; eret`.
const SKIP: [u32; 4] = [0xd538_403e, 0x9100_13de, 0xd518_403e, 0xd69f_03e0];

struct Run;
impl RunControl for Run {
    fn request(&self, _: Request) {}
}

struct Sink(Mutex<Sender<DebugStop>>);
impl DebugSink for Sink {
    fn stopped(&self, _: usize, stop: DebugStop) {
        _ = self.0.lock().send(stop);
    }
}

struct Source(u64);
impl Source {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Doubles or pairs of singles near limits and near each other.
    fn lane(&mut self) -> u64 {
        let (x, kind) = (self.next(), self.next() >> 60);
        let sign = x & (1 << 63);
        match kind {
            0 => sign,
            1 => sign | 0x7ff0_0000_0000_0000 | (x & 0xff),
            2 => sign | (x & 0xffff),
            3 => sign | 0x0010_0000_0000_0000 | (x & 3),
            4 => sign | 0x7fef_ffff_ffff_fff0 | (x & 15),
            5..=8 => sign | 0x3ff0_0000_0000_0000 | (x >> 12 & 0xffff) << 36,
            9 => 0x3f80_0000_3f80_0000 | (x & 0x8070_0000_8070_0000),
            10 => 0x0080_0000_7f7f_ffff ^ (x & 0x8000_0003_8000_0003),
            _ => x,
        }
    }
}

/// A word of data processing: op0 (bits 28..25) x101 or x111, or 100x.
fn word(s: &mut Source) -> u32 {
    loop {
        let n = s.next() as usize >> 40;
        let mut rng = || s.next();
        let w = if n & 1 == 0 { base::random(&mut rng, n) } else { fpsimd::random(&mut rng, n) };
        // ADR and ADRP are the same in both; x30 is the handler's.
        if matches!(w >> 25 & 15, 5 | 7 | 8 | 9 | 13 | 15) {
            return w;
        }
    }
}

/// General registers, vectors, NZCV, FPSR.
type State = (Vec<u64>, Vec<u128>, u64, u32);

fn run(backend: Option<&str>, seed: u64) -> State {
    let mut s = Source(seed);
    let ram = RamBlock::new("ram", 0x1_0000, RamOptions::default()).expect("memory");
    let put = |at: u64, w: u32| ram.store(at, 4, u64::from(w)).expect("inside");
    (0..WORDS).for_each(|n| put(START + 4 * n, word(&mut s)));
    (0u64..).zip(SKIP).for_each(|(n, w)| put(VECTORS + 0x200 + 4 * n, w));
    let memory = AddressSpace::new("cpu", &Region::ram("ram", Arc::clone(&ram)));
    let control: Arc<dyn RunControl> = Arc::new(Run);
    let config = CpuConfig {
        model: "max".into(),
        props: Vec::new(),
        ids: vec![0],
        virtualization: false,
        secure: false,
        firmware_calls: FirmwareCalls::None,
        clock: Clock::manual(),
        run: Arc::clone(&control),
    };
    let set = cpu_arm::arch::ARCH.new_cpus(&config).expect("CPUs");
    let mut cpus = Vec::new();
    for unit in set.units {
        unit.handle.set_boot(Boot { pc: START, ..Boot::default() });
        let mut cpu = unit.cpu;
        cpu.reset();
        cpus.push(cpu);
    }
    let options = backend.map(|b| ("x-backend".to_owned(), b.to_owned())).into_iter().collect();
    let accel = catalog::ACCELS.iter().find(|a| a.name() == "tcg").expect("tcg");
    let vm = accel
        .new_vm(VmConfig {
            icount: None,
            memory,
            secure_memory: None,
            options,
            cpus,
            translator: Some(set.translator),
            run: control,
        })
        .expect("a VM");
    let (send, stops) = channel();
    vm.set_debug_sink(Some(Arc::new(Sink(Mutex::new(send)))));
    let (mut state, mut before) = (State::default(), Vec::new());
    vm.with_cpu(0, &mut |cpu| {
        let cpu = cpu.as_any().downcast_mut::<ArmCpu>().expect("an Arm CPU");
        cpu.x.iter_mut().take(31).for_each(|x| *x = s.next());
        cpu.v.iter_mut().for_each(|v| *v = u128::from(s.lane()) | u128::from(s.lane()) << 64);
        before = cpu.v.to_vec();
        cpu.fpsr = if seed & 2 != 0 { 1 << 4 } else { 0 };
        cpu.set_sys(Reg::CPACR_EL1, 3 << 20);
        cpu.set_sys(Reg::VBAR_EL1, VECTORS);
    });
    vm.insert_breakpoint(END).expect("inserted");
    vm.resume();
    let stop = stops.recv_timeout(Duration::from_secs(60)).expect("a stop");
    assert_eq!(stop, DebugStop::Breakpoint { addr: END });
    vm.pause();
    vm.with_cpu(0, &mut |cpu| {
        let cpu = cpu.as_any().downcast_mut::<ArmCpu>().expect("an Arm CPU");
        state = (cpu.x.to_vec(), cpu.v.to_vec(), cpu.spsr() >> 28, cpu.fpsr);
    });
    vm.shutdown();
    let changed = before.iter().zip(&state.1).filter(|(b, v)| b != v).count();
    assert!(changed > 16, "the program worked with vectors: {changed} changed");
    state
}

#[test]
fn random_programs_end_alike() {
    for seed in 1..40u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (host, oracle) = (run(None, seed), run(Some("interp"), seed));
        assert_eq!(host.0, oracle.0, "general registers, seed {seed:#x}");
        assert_eq!(host.1, oracle.1, "vectors, seed {seed:#x}");
        assert_eq!((host.2, host.3), (oracle.2, oracle.3), "flags, seed {seed:#x}");
    }
}
