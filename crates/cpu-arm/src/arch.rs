//! The `aarch64` guest architecture: models and the making of CPUs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use accel::{Boot, CpuConfig, CpuHandle, CpuModel, CpuSet, CpuUnit, GuestArch};
use cpu::SystemRegisters;
use device::{IrqOut, IrqSink};
use jit_ir::Translator;

use crate::features::Features;
use crate::pmu::Pmu;
use crate::props;
use crate::state::ArmCpu;
use crate::system::{Cluster, CpuShared, System, TIMER_NAMES, Timers};
use crate::translate::ArmTranslator;

/// The AArch64 guest.
pub struct AArch64;

/// The catalog's entry.
pub static ARCH: AArch64 = AArch64;

const fn model(name: &'static str, compatible: &'static str, summary: &'static str) -> CpuModel {
    CpuModel { name, compatible, summary }
}

const MODELS: &[CpuModel] = &[
    model("cortex-a53", "arm,cortex-a53", "Arm Cortex-A53 r0p4"),
    model("cortex-a57", "arm,cortex-a57", "Arm Cortex-A57 r1p0"),
    model("cortex-a72", "arm,cortex-a72", "Arm Cortex-A72 r0p3"),
    model("cortex-a76", "arm,cortex-a76", "Arm Cortex-A76 r4p1"),
    model("max", "arm,cortex-a57", "Everything that is built"),
    model("neoverse-n1", "arm,neoverse-n1", "Arm Neoverse N1 r4p1"),
];

struct Handle {
    shared: Arc<CpuShared>,
    timers: Arc<Timers>,
    pmu: Arc<Pmu>,
    has_pmu: bool,
    has_vhe: bool,
    id: u64,
    model: &'static CpuModel,
    pa_range: usize,
}

impl CpuHandle for Handle {
    fn input(&self) -> Arc<dyn IrqSink> {
        Arc::<CpuShared>::clone(&self.shared)
    }
    fn output(&self, name: &str) -> Option<Arc<IrqOut>> {
        if name == "pmu" {
            return self.has_pmu.then(|| Arc::clone(&self.pmu.out));
        }
        if name == "cnthv" && !self.has_vhe {
            return None;
        }
        let n = TIMER_NAMES.iter().position(|t| *t == name)?;
        self.timers.outs.get(n).cloned()
    }
    fn attach_system_registers(&self, bank: Arc<dyn SystemRegisters>) {
        // The first bank stays; machines attach one.
        let _ = self.shared.gic.set(bank);
    }
    fn set_boot(&self, boot: Boot) {
        *self.shared.boot.lock() = boot;
    }
    fn reset(&self) {
        let on = !self.shared.boot.lock().powered_off;
        *self.shared.power.lock() = crate::system::Power { on, start: None };
        self.shared.reset.store(true, Ordering::Release);
        self.shared.attention.store(true, Ordering::Release);
        self.shared.kick();
    }
    fn id(&self) -> u64 {
        self.id
    }
    fn model(&self) -> &'static CpuModel {
        self.model
    }
    fn address_bits(&self) -> u32 {
        // ID_AA64MMFR0_EL1.PARange.
        [32, 36, 40, 42, 44, 48, 52].get(self.pa_range).copied().unwrap_or(52)
    }
}

fn features_of(config: &CpuConfig) -> qapi::Result<(Features, &'static CpuModel)> {
    let unknown = || {
        let known: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        let error = qapi::Error::generic(format!("unable to find CPU model '{}'", config.model));
        error.with_hint(format!("CPU models here: {}", known.join(", ")))
    };
    let model = MODELS.iter().find(|m| m.name == config.model).ok_or_else(unknown)?;
    let mut f = Features::of_model(model.name).ok_or_else(unknown)?;
    f.el2 = config.virtualization;
    f.el3 = config.secure;
    props::apply(&mut f, &config.props)?;
    Ok((f, model))
}

impl GuestArch for AArch64 {
    fn name(&self) -> &'static str {
        "aarch64"
    }

    fn models(&self) -> &'static [CpuModel] {
        MODELS
    }

    fn expand(
        &self,
        model: &str,
        props: &[(String, String)],
    ) -> Option<qapi::Result<Vec<(&'static str, bool)>>> {
        crate::expansion::expand(model, props)
    }

    fn new_cpus(&self, config: &CpuConfig) -> qapi::Result<CpuSet> {
        let (features, model) = features_of(config)?;
        let features = Arc::new(features);
        let pa_range = (features.id.mmfr0 & 15) as usize;
        let shared: Vec<_> =
            config.ids.iter().map(|id| (*id, Arc::new(CpuShared::default()))).collect();
        let cluster = Arc::new(Cluster { cpus: shared.clone(), run: Arc::clone(&config.run) });
        let units = shared.into_iter().enumerate().map(|(index, (id, shared))| {
            let timers = Timers::new(&config.clock, features.cntfrq);
            let pmu = Pmu::new(&config.clock, features.id.dfr0 >> 8 & 15 >= 6);
            let (has_pmu, has_vhe) = (features.pmu(), features.vhe());
            let system = System {
                index,
                mpidr: id | 1 << 31,
                shared: Arc::clone(&shared),
                cluster: Arc::clone(&cluster),
                timers: Arc::clone(&timers),
                pmu: Arc::clone(&pmu),
                pmu_live: false,
                psci: config.firmware_calls,
                waiting: false,
                mode_cache: [None; 4],
                rng: 0x5eed_0000 ^ id ^ config.clock.now_ns(),
            };
            let cpu = ArmCpu::new(Arc::clone(&features), system);
            let handle = Handle { shared, timers, pmu, has_pmu, has_vhe, id, model, pa_range };
            CpuUnit { cpu, handle: Arc::new(handle) }
        });
        let units = units.collect();
        let translator: Arc<dyn Translator> = Arc::new(ArmTranslator::for_model(&features));
        Ok(CpuSet { units, translator })
    }
}
