//! Random FP and Advanced SIMD words: their IR against the executor.

use std::collections::BTreeMap;
use std::sync::Arc;

use accel::{CpuConfig, FirmwareCalls, GuestArch};
use device::{Clock, Request, RunControl};
use jit_ir::JitCpu;
use jit_ir::random::Rng;

use super::machine::{Machine, Stop};
use crate::decode::fpsimd;
use crate::state::{ArmCpu, FPSR_SLOT};

struct Run;
impl RunControl for Run {
    fn request(&self, _: Request) {}
}

fn cpu() -> Box<dyn JitCpu> {
    let config = CpuConfig {
        model: "max".into(),
        props: Vec::new(),
        ids: vec![0],
        virtualization: false,
        secure: false,
        firmware_calls: FirmwareCalls::None,
        clock: Clock::manual(),
        run: Arc::new(Run),
    };
    let set = crate::arch::ARCH.new_cpus(&config).expect("CPUs");
    set.units.into_iter().next().expect("one").cpu
}

/// Random registers, the same on both sides; values of one kind, so that they meet.
fn fill(m: &mut Machine, cpu: &mut ArmCpu, rng: &mut Rng) {
    let kind = rng.below(3);
    for n in 0..32u32 {
        let [lo, hi] = match kind {
            0 => [rng.value(), rng.value()],
            kind => rng.floats(kind == 1),
        };
        let v = u128::from(hi) << 64 | u128::from(lo);
        cpu.v[n as usize] = v;
        m.set_v(n, v);
        if n < 31 {
            cpu.x[n as usize] = rng.value();
            m.set_x(n, cpu.x[n as usize]);
        }
    }
    let nzcv = rng.below(16) as u32;
    cpu.set_nzcv(nzcv);
    m.set_nzcv(nzcv);
    cpu.fpsr = 0;
    m.set_slot32(FPSR_SLOT, 0);
}

fn compare(word: u32, m: &Machine, cpu: &ArmCpu) {
    let text = crate::disassembly::disassemble(word, 0);
    for n in 0..32u32 {
        let (want, got) = (cpu.v[n as usize], m.v(n));
        assert_eq!(want, got, "v{n}: want {want:#x}, got {got:#x}: {word:08x} {text}");
    }
    for n in 0..31u32 {
        assert_eq!(cpu.x[n as usize], m.x(n), "x{n}: {word:08x} {text}");
    }
    assert_eq!(cpu.nzcv(), m.nzcv(), "flags: {word:08x} {text}");
    assert_eq!(cpu.fpsr, m.slot32(FPSR_SLOT), "FPSR: {word:08x} {text}");
}

#[test]
fn words_do_what_the_executor_does() {
    let mut holder = cpu();
    let cpu = holder.as_any().downcast_mut::<ArmCpu>().expect("an Arm CPU");
    let mut rng = Rng::new(5);
    let (mut inline, mut called) = (0, BTreeMap::<String, u32>::new());
    let mut m = Machine::new();
    m.key = m.key.with_fp_plain(true);
    let count = std::env::var("SIMD_WORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6000);
    for n in 0..count {
        let mut word = fpsimd::random(&mut || rng.next(), n);
        if word >> 25 & 7 != 7 || !crate::fpsimd::is_allocated(word, &cpu.features) {
            continue;
        }
        if rng.below(4) == 0 {
            // Operands that are the result as well.
            word = word & !0x1f | word >> 5 & 0x1f;
        }
        if !crate::fpsimd::is_allocated(word, &cpu.features) {
            continue;
        }
        for _ in 0..6 {
            fill(&mut m, cpu, &mut rng);
            m.calls.clear();
            let stop = m.run(&[word], 0x1000);
            assert_eq!(stop, Stop::Pc(0x1004), "{word:08x}");
            if !m.calls.is_empty() {
                let text = crate::disassembly::disassemble(word, 0);
                let name = text.split(' ').next().unwrap_or_default().to_owned();
                *called.entry(name).or_default() += 1;
                break;
            }
            inline += 1;
            crate::fpsimd::execute(cpu, word);
            compare(word, &m, cpu);
        }
    }
    assert!(inline > count, "{inline} cases inline; calls: {called:?}");
    if std::env::var("SIMD_WORDS").is_ok() {
        eprintln!("{inline} cases inline; calls: {called:#?}");
    }
}
