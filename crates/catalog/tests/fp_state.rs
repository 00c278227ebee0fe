//! Cumulative floating-point flags and modes, on both back ends: what the emulator itself computes while a
//! device is accessed is not the guest's, and a write of FPCR takes effect at once.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use accel::debug::{DebugSink, DebugStop};
use accel::{Boot, CpuConfig, FirmwareCalls, GuestArch, VmConfig};
use cpu_arm::ArmCpu;
use cpu_arm::sysreg::Reg;
use device::{Clock, Request, RunControl};
use guest_ram::{RamBlock, RamOptions};
use memory::{Access, AccessRules, AddressSpace, BusFault, Mmio, Region};
use parking_lot::Mutex;

const START: u64 = 0x1000;
const DEVICE: u64 = 0x10_0000;

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

/// A device that computes.
struct Computes;
impl Mmio for Computes {
    fn read(&self, _: Access) -> Result<u64, BusFault> {
        Ok((black_box(1.0) / black_box(3.0f64)).to_bits())
    }
    fn write(&self, _: Access, value: u64) -> Result<(), BusFault> {
        black_box(black_box(value as f64 + 1.0) / black_box(0.0f64));
        Ok(())
    }
}

/// Runs a program; general registers and vectors after it. d0 = 1, d1 = 3, d7 = 2, x9 = the device.
fn run(backend: Option<&str>, program: &[u32]) -> (Vec<u64>, Vec<u128>) {
    let ram = RamBlock::new("ram", 0x1_0000, RamOptions::default()).expect("memory");
    for (n, w) in (0u64..).zip(program) {
        ram.store(START + 4 * n, 4, u64::from(*w)).expect("inside");
    }
    let end = START + 4 * program.len() as u64;
    let device = Arc::new(Computes);
    let root = Region::root("root");
    root.map(0, &Region::ram("ram", Arc::clone(&ram)), 0);
    root.map(DEVICE, &Region::mmio("device", 0x1000, AccessRules::ANY, &device), 0);
    let memory = AddressSpace::new("cpu", &root);
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
    vm.with_cpu(0, &mut |cpu| {
        let cpu = cpu.as_any().downcast_mut::<ArmCpu>().expect("an Arm CPU");
        for (n, v) in [(0, 1.0f64), (1, 3.0), (7, 2.0)] {
            cpu.v[n] = u128::from(v.to_bits());
        }
        cpu.x[9] = DEVICE;
        cpu.set_sys(Reg::CPACR_EL1, 3 << 20);
    });
    vm.insert_breakpoint(end).expect("inserted");
    vm.resume();
    let stop = stops.recv_timeout(Duration::from_secs(60)).expect("a stop");
    assert_eq!(stop, DebugStop::Breakpoint { addr: end });
    vm.pause();
    let mut state = Default::default();
    vm.with_cpu(0, &mut |cpu| {
        let cpu = cpu.as_any().downcast_mut::<ArmCpu>().expect("an Arm CPU");
        state = (cpu.x.to_vec(), cpu.v.to_vec());
    });
    vm.shutdown();
    drop(device);
    state
}

#[test]
fn devices_leave_no_flags() {
    // fdiv d2, d0, d7; ldr x1, [x9]; str x1, [x9]; mrs x2, fpsr; fdiv d3, d0, d1; str x1, [x9];
    // mrs x3, fpsr
    let program =
        [0x1e67_1802, 0xf940_0121, 0xf900_0121, 0xd53b_4422, 0x1e61_1803, 0xf900_0121, 0xd53b_4423];
    for backend in [None, Some("interp")] {
        let (x, _) = run(backend, &program);
        assert_eq!(x[1], (1.0f64 / 3.0).to_bits(), "the device was read");
        assert_eq!((x[2], x[3]), (0, 16), "{backend:?}");
    }
}

#[test]
fn a_new_rounding_mode_is_in_force_at_the_next_instruction() {
    // mov x4, #3; mov x5, #0x400000;
    // again: msr fpcr, xzr; fdiv d2, d0, d1; msr fpcr, x5; fdiv d3, d0, d1; msr fpcr, xzr;
    // fdiv d4, d0, d1; subs x4, x4, #1; b.ne again
    let program = [
        0xd280_0064,
        0xd2a0_0805,
        0xd51b_441f,
        0x1e61_1802,
        0xd51b_4405,
        0x1e61_1803,
        0xd51b_441f,
        0x1e61_1804,
        0xf100_0484,
        0x54ff_ff41,
    ];
    for backend in [None, Some("interp")] {
        let (_, v) = run(backend, &program);
        let third = u128::from((1.0f64 / 3.0).to_bits());
        assert_eq!([v[2], v[3], v[4]], [third, third + 1, third], "{backend:?}");
    }
}
