//! Breakpoints, watchpoints and steps of a debugger, by both back ends, on a small program.
//!
//! The program counts in X0 and stores the count; a stop is awaited, never slept for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use accel::debug::{DebugSink, DebugStop, RunAs, WatchKind, Watchpoint};
use accel::{AccelVm, Boot, CpuConfig, FirmwareCalls, GuestArch, VmConfig};
use cpu_arm::ArmCpu;
use device::{Clock, Request, RunControl};
use guest_ram::{RamBlock, RamOptions};
use memory::{AddressSpace, Region};
use parking_lot::Mutex;

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

struct Bench {
    vm: Arc<dyn AccelVm>,
    stops: Receiver<DebugStop>,
}

/// `mov x0, #0; 1: add x0, x0, #1; str x0, [x1]; ldr x2, [x1]; b 1b`, at 0x1000; X1 = 0x3000.
const PROGRAM: [u32; 5] = [0xd280_0000, 0x9100_0400, 0xf900_0020, 0xf940_0022, 0x17ff_fffd];
const LOOP: u64 = 0x1004;
const STORE: u64 = 0x1008;
const LOAD: u64 = 0x100c;

fn bench(backend: Option<&str>) -> Bench {
    let ram = RamBlock::new("ram", 0x1_0000, RamOptions::default()).expect("memory");
    for (n, word) in PROGRAM.iter().enumerate() {
        ram.store(0x1000 + 4 * n as u64, 4, u64::from(*word)).expect("inside");
    }
    let memory = AddressSpace::new("cpu", &Region::ram("ram", ram));
    let run: Arc<dyn RunControl> = Arc::new(Run);
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
        unit.handle.set_boot(Boot { pc: 0x1000, ..Boot::default() });
        let mut cpu = unit.cpu;
        cpu.reset();
        cpus.push(cpu);
    }
    let options = backend.map(|b| ("x-backend".to_owned(), b.to_owned())).into_iter().collect();
    let translator = Some(set.translator);
    let accel = catalog::ACCELS.iter().find(|a| a.name() == "tcg").expect("tcg");
    let vm = accel
        .new_vm(VmConfig {
            icount: None,
            memory,
            secure_memory: None,
            options,
            cpus,
            translator,
            run,
        })
        .expect("a VM");
    let (send, stops) = channel();
    vm.set_debug_sink(Some(Arc::new(Sink(Mutex::new(send)))));
    let bench = Bench { vm, stops };
    bench.cpu(|cpu| cpu.x[1] = 0x3000);
    bench
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

    fn go(&self, how: RunAs) -> (DebugStop, u64, u64) {
        self.vm.resume_as(&[how]);
        let stop = self.stops.recv_timeout(Duration::from_secs(60)).expect("a stop");
        self.vm.pause();
        let (pc, x0) = self.cpu(|cpu| (cpu.env.pc(), cpu.x[0]));
        (stop, pc, x0)
    }
}

fn both(f: impl Fn(&Bench)) {
    f(&bench(None));
    f(&bench(Some("interp")));
}

#[test]
fn a_breakpoint_stops_before_its_instruction_and_again() {
    both(|b| {
        let at = |addr| DebugStop::Breakpoint { addr };
        b.vm.insert_breakpoint(STORE).expect("inserted");
        assert_eq!(b.go(RunAs::Run), (at(STORE), STORE, 1));
        assert_eq!(b.go(RunAs::Run), (at(STORE), STORE, 1), "resumed on it, it stops again");
        assert_eq!(b.go(RunAs::Step), (DebugStop::Step, LOAD, 1));
        assert_eq!(b.go(RunAs::Run), (at(STORE), STORE, 2));
        b.vm.insert_breakpoint(LOOP).expect("inserted");
        assert_eq!(b.go(RunAs::Step), (DebugStop::Step, LOAD, 2));
        assert_eq!(b.go(RunAs::Run), (at(LOOP), LOOP, 2));
        b.vm.remove_breakpoint(LOOP).expect("removed");
        assert!(b.vm.remove_breakpoint(LOOP).is_err());
        assert_eq!(b.go(RunAs::Run), (at(STORE), STORE, 3));
    });
}

#[test]
fn a_breakpoint_reaches_code_that_is_translated_and_chained() {
    both(|b| {
        b.vm.resume();
        let mut count = 0;
        while count < 20 {
            b.vm.pause();
            count = b.cpu(|cpu| cpu.x[0]);
            b.vm.resume();
        }
        b.vm.pause();
        b.vm.insert_breakpoint(LOAD).expect("inserted");
        let (stop, pc, _) = b.go(RunAs::Run);
        assert_eq!((stop, pc), (DebugStop::Breakpoint { addr: LOAD }, LOAD));
        b.vm.clear_debug_points();
        b.vm.resume();
        b.vm.pause();
        assert!(b.stops.try_recv().is_err(), "nothing is left");
    });
}

#[test]
fn every_step_is_one_instruction() {
    both(|b| {
        let pcs: Vec<u64> = (0..9).map(|_| b.go(RunAs::Step).1).collect();
        let lap = [LOOP, STORE, LOAD, 0x1010];
        let expected: Vec<u64> = lap.iter().cycle().take(9).copied().collect();
        assert_eq!(pcs, expected);
    });
}

#[test]
fn a_watchpoint_stops_before_the_access() {
    both(|b| {
        let point = |kind| Watchpoint { addr: 0x3004, len: 2, kind };
        b.vm.insert_watchpoint(0x3004, 2, WatchKind::Write).expect("inserted");
        let (stop, pc, x0) = b.go(RunAs::Run);
        let write =
            DebugStop::Watchpoint { point: point(WatchKind::Write), addr: 0x3000, write: true };
        assert_eq!((stop, pc, x0), (write, STORE, 1));
        let mut stored = [0xff; 8];
        assert!(b.vm.read_virtual(0, 0x3000, &mut stored));
        assert_eq!(stored, [0; 8], "the store has not happened");
        assert_eq!(b.go(RunAs::Step), (DebugStop::Step, LOAD, 1));
        assert!(b.vm.read_virtual(0, 0x3000, &mut stored));
        assert_eq!(stored[0], 1);
        b.vm.remove_watchpoint(0x3004, 2, WatchKind::Write).expect("removed");
        b.vm.insert_watchpoint(0x3004, 2, WatchKind::Read).expect("inserted");
        let read =
            DebugStop::Watchpoint { point: point(WatchKind::Read), addr: 0x3000, write: false };
        assert_eq!(b.go(RunAs::Run), (read, LOAD, 1));
        b.vm.remove_watchpoint(0x3004, 2, WatchKind::Read).expect("removed");
        // Another part of the page is not watched.
        b.vm.insert_watchpoint(0x3008, 8, WatchKind::Access).expect("inserted");
        b.vm.insert_breakpoint(LOAD).expect("inserted");
        b.go(RunAs::Step);
        assert_eq!(b.go(RunAs::Run), (DebugStop::Breakpoint { addr: LOAD }, LOAD, 2));
        assert!(b.vm.insert_watchpoint(u64::MAX, 2, WatchKind::Read).is_err());
        assert!(b.vm.insert_watchpoint(0, 0, WatchKind::Read).is_err());
    });
}

#[test]
fn memory_is_written_through_the_debugger() {
    both(|b| {
        b.vm.insert_breakpoint(LOAD).expect("inserted");
        b.go(RunAs::Run);
        // add x0, x0, #16
        assert!(b.vm.write_virtual(0, LOOP, &0x9100_4000u32.to_le_bytes()));
        b.go(RunAs::Step);
        assert_eq!(b.go(RunAs::Run).2, 17);
        assert!(!b.vm.write_virtual(0, 0x5000_0000, &[0]), "no memory there");
    });
}
