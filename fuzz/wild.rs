//! A guest that does anything: random code, random page tables, random system-register writes.
//!
//! The input seeds the contents of a small RAM, made of words of the decode tables, of system-register
//! accesses and of plain noise, with page-table-like entries between. The guest is stepped and run; what it
//! does is its own business, but the process goes on and the VM still stops when told to.
//! `fuzz_targets/wild.rs` runs it under cargo-fuzz, `crates/catalog/tests/wild_guests.rs` with fixed seeds.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use accel::debug::{DebugSink, DebugStop, RunAs};
use accel::{Boot, CpuConfig, FirmwareCalls, GuestArch, Icount, VmConfig};
use cpu_arm::ArmCpu;
use cpu_arm::decode::{base, fpsimd};
use device::{Clock, Request, RunControl};
use guest_ram::{RamBlock, RamOptions};
use memory::{AddressSpace, Region};
use parking_lot::Mutex;

const RAM: u64 = 1 << 20;
const STEPS: usize = 60;
/// Instructions of the free run, and host time if the guest waits for ever.
const RUN: (u64, u64) = (30_000, 20_000_000);

struct Nobody;
impl RunControl for Nobody {
    fn request(&self, _: Request) {}
}

struct Sink(Mutex<Sender<DebugStop>>);
impl DebugSink for Sink {
    fn stopped(&self, _: usize, stop: DebugStop) {
        _ = self.0.lock().send(stop);
    }
}

/// Random numbers from the input.
struct Source(u64);
impl Source {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn word(s: &mut Source) -> u32 {
    let (kind, n) = (s.next() >> 60, s.next() as usize >> 40);
    let mut rng = || s.next();
    match kind {
        0..=5 => base::random(&mut rng, n),
        6..=8 => fpsimd::random(&mut rng, n),
        // MSR and MRS of op0 2 and 3, SYS.
        9..=12 => 0xd500_0000 | (rng() as u32 & 0x003f_ffff) | 0x0008_0000,
        // A short branch back, so that something loops.
        13 => 0x5400_0000 | (rng() as u32 & 15) | (0x7_fff0 << 5),
        _ => rng() as u32,
    }
}

fn descriptor(s: &mut Source) -> u64 {
    let x = s.next();
    (x & 0xfff0_0000_0000_0ffc) | ((s.next() % RAM) & !0xfff) | (s.next() & 3) | 1
}

fn fill(ram: &RamBlock, s: &mut Source) {
    for at in (0..RAM).step_by(8) {
        let v = match (at >> 16) & 3 {
            3 => descriptor(s),
            _ => u64::from(word(s)) | u64::from(word(s)) << 32,
        };
        ram.store(at, 8, v).expect("inside");
    }
}

/// Runs the guest that the input describes.
pub(crate) fn wild(data: &[u8]) {
    let seed = data.iter().fold(0x9e37_79b9_7f4a_7c15u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    });
    let mut s = Source(seed | 1);
    let ram = RamBlock::new("ram", RAM, RamOptions::default()).expect("memory");
    fill(&ram, &mut s);
    let memory = AddressSpace::new("cpu", &Region::ram("ram", ram));
    let run: Arc<dyn RunControl> = Arc::new(Nobody);
    let bits = s.next();
    let models = cpu_arm::arch::ARCH.models();
    let clock = Clock::counted();
    let config = CpuConfig {
        model: models[(bits as usize >> 8) % models.len()].name.to_owned(),
        props: Vec::new(),
        ids: vec![0],
        virtualization: bits & 1 != 0,
        secure: bits & 2 != 0,
        firmware_calls: FirmwareCalls::None,
        clock: clock.clone(),
        run: Arc::clone(&run),
    };
    let set = cpu_arm::arch::ARCH.new_cpus(&config).expect("CPUs");
    let mut cpus = Vec::new();
    for unit in set.units {
        unit.handle.set_boot(Boot { pc: (s.next() % RAM) & !3, ..Boot::default() });
        let mut cpu = unit.cpu;
        cpu.reset();
        if let Some(cpu) = cpu.as_any().downcast_mut::<ArmCpu>() {
            cpu.x.iter_mut().for_each(|x| *x = s.next() % (2 * RAM));
        }
        cpus.push(cpu);
    }
    let backend = (bits & 4 != 0).then(|| ("x-backend".to_owned(), "interp".to_owned()));
    let mut options: Vec<_> = backend.into_iter().collect();
    options.push(("tb-size".to_owned(), "1".to_owned()));
    let icount = Some(Icount { shift: 0, sleep: false, clock: clock.clone() });
    let accel = catalog::ACCELS.iter().find(|a| a.name() == "tcg").expect("tcg");
    let translator = Some(set.translator);
    let config = VmConfig { icount, memory, secure_memory: None, options, cpus, translator, run };
    let vm = accel.new_vm(config).expect("a VM");
    let (send, stops) = channel();
    vm.set_debug_sink(Some(Arc::new(Sink(Mutex::new(send)))));
    for _ in 0..STEPS {
        vm.resume_as(&[RunAs::Step]);
        stops.recv_timeout(Duration::from_secs(60)).expect("the step ends");
        vm.pause();
    }
    vm.resume();
    // Host time bounds a guest that only waits, whose own clock stands.
    let host = Clock::host();
    let (goal, end) = (clock.now_ns() + RUN.0, host.now_ns() + RUN.1);
    while clock.now_ns() < goal && host.now_ns() < end {
        std::thread::yield_now();
    }
    vm.pause();
    vm.shutdown();
}
