//! Arm SMMUv3: two stages of translation for PCI devices, command and event queues.
//!
//! ID registers are QEMU 10.0's, and what they do not announce is not there: substreams, stalls, page
//! requests, translation services (ATS), messages in place of wires (MSI), secure streams, hardware
//! updates of flags. Not modelled: attributes of memory; user and privileged accesses are not told
//! apart, as in QEMU. Interrupts are edges.
//! Sources: Arm SMMU architecture v3 (IHI 0070); values of QEMU 10.0.
//!
//! Locks: `cache` and `regs` are never held together but by the command queue, which takes `regs`
//! first. Requests come with devices' locks held, so only RAM is read and written.

mod commands;
mod events;
mod stream;
mod tlb;
mod translate;
mod walk;

use std::sync::{Arc, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, AddressSpace, Build, Bus, BusFault, Device, DeviceClass, DeviceType,
    IrqOut, Migration, Mmio, Region, Reset, Size,
};
use parking_lot::Mutex;

use stream::Stages;
use tlb::Cache;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Smmu>();

/// Properties of `arm-smmuv3`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Stages of translation: 1, 2 or nested
    pub stage: Option<String>,
    /// Number of the bus in front of which it is; only 0
    #[qapi(name = "bus_num", default = 0)]
    pub bus_num: u8,
    /// The bus in front of which it is; the machine's
    #[qapi(name = "primary-bus")]
    pub primary_bus: Option<BusLink>,
}

/// The name of a bus.
#[derive(Clone, Debug)]
pub struct BusLink(String);

impl qapi::Qapi for BusLink {
    fn type_info() -> &'static qapi::TypeInfo {
        static INFO: qapi::TypeInfo =
            qapi::TypeInfo { name: "link<PCI>", doc: "", kind: qapi::Kind::Str };
        &INFO
    }
    fn from_value(value: qapi::Value, source: qapi::Source) -> qapi::Result<Self> {
        String::from_value(value, source).map(Self)
    }
    fn to_value(&self) -> qapi::Value {
        self.0.to_value()
    }
}

/// Two pages of registers; the second one shows the event queue's again.
const LEN: u64 = 0x2_0000;
const PAGE_ALIAS: u64 = 0x1_0000;

// Registers (IHI 0070, 6.1).
const IDR0: u64 = 0x00;
const IDR1: u64 = 0x04;
const IDR3: u64 = 0x0c;
const IDR5: u64 = 0x14;
const AIDR: u64 = 0x1c;
const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const CR1: u64 = 0x28;
const CR2: u64 = 0x2c;
const GBPR: u64 = 0x44;
const IRQ_CTRL: u64 = 0x50;
const IRQ_CTRLACK: u64 = 0x54;
const GERROR: u64 = 0x60;
const GERRORN: u64 = 0x64;
const GERROR_IRQ_CFG0: u64 = 0x68;
const GERROR_IRQ_CFG1: u64 = 0x70;
const GERROR_IRQ_CFG2: u64 = 0x74;
const STRTAB_BASE: u64 = 0x80;
const STRTAB_BASE_CFG: u64 = 0x88;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
const EVENTQ_PROD: u64 = 0xa8;
const EVENTQ_CONS: u64 = 0xac;
const ID_REGISTERS: u64 = 0xfd0;

/// CR0: translation, event queue, command queue.
const SMMU_ENABLE: u32 = 1;
const EVENTQ_ENABLE: u32 = 1 << 2;
const CMDQ_ENABLE: u32 = 1 << 3;
/// Bits of CR0 that are acknowledged.
const CR0_KNOWN: u32 = 0x3df;
const GBPR_UPDATE: u32 = 1 << 31;
const IRQ_GERROR: u32 = 1;
const IRQ_EVENTQ: u32 = 1 << 2;

/// Bits of GERROR.
mod gerror {
    pub(super) const CMDQ: u32 = 1;
    pub(super) const EVENTQ_ABORT: u32 = 1 << 2;
}

/// Interrupt outputs.
mod line {
    pub(super) const EVENTQ: usize = 0;
    pub(super) const SYNC: usize = 2;
    pub(super) const GERROR: usize = 3;
}

/// Peripheral and component identifiers, from `ID_REGISTERS` on.
const IDENTIFIERS: [u32; 12] = [0x04, 0, 0, 0, 0x84, 0xb4, 0xf0, 0x10, 0x0d, 0xf0, 0x05, 0xb1];

#[derive(Clone, Debug, VmState)]
#[vmstate(name = "smmuv3", version = 1)]
pub(crate) struct Regs {
    cr0: u32,
    cr1: u32,
    cr2: u32,
    gbpr: u32,
    irq_ctrl: u32,
    gerror: u32,
    gerrorn: u32,
    gerror_irq_cfg0: u64,
    gerror_irq_cfg1: u32,
    gerror_irq_cfg2: u32,
    strtab_base: u64,
    strtab_base_cfg: u32,
    cmdq_base: u64,
    cmdq_prod: u32,
    cmdq_cons: u32,
    eventq_base: u64,
    eventq_prod: u32,
    eventq_cons: u32,
}

impl Default for Regs {
    fn default() -> Regs {
        /// The sizes of the queues that IDR1 announces.
        const QUEUE: u64 = 19;
        Regs {
            cr0: 0,
            cr1: 0,
            cr2: 0,
            // Shareability as it comes in.
            gbpr: 0x1000,
            irq_ctrl: 0,
            gerror: 0,
            gerrorn: 0,
            gerror_irq_cfg0: 0,
            gerror_irq_cfg1: 0,
            gerror_irq_cfg2: 0,
            strtab_base: 0,
            strtab_base_cfg: 0,
            cmdq_base: QUEUE,
            cmdq_prod: 0,
            cmdq_cons: 0,
            eventq_base: QUEUE,
            eventq_prod: 0,
            eventq_cons: 0,
        }
    }
}

/// Interrupt outputs: events, page requests, commands, errors.
struct Lines(Vec<Arc<IrqOut>>);

impl Lines {
    fn pulse(&self, line: usize) {
        if let Some(out) = self.0.get(line) {
            out.pulse();
        }
    }
}

/// The device.
pub struct Smmu {
    stages: Stages,
    memory: AddressSpace,
    lines: Lines,
    regs: Mutex<Regs>,
    /// After `regs`.
    cache: Mutex<Cache>,
}

impl DeviceType for Smmu {
    const NAME: &'static str = "arm-smmuv3";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Arm SMMUv3";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let stages = match props.stage.as_deref() {
            Some("2") => Stages { one: false, two: true },
            Some("nested") => Stages { one: true, two: true },
            _ => Stages { one: true, two: false },
        };
        let lines = Lines((0..4).map(|_| at.irq_out()).collect());
        let smmu = Arc::new(Smmu {
            stages,
            memory: at.world().memory.clone(),
            lines,
            regs: Mutex::default(),
            cache: Mutex::default(),
        });
        let rules = AccessRules {
            valid: (Size::B4, Size::B8),
            handled: (Size::B4, Size::B8),
            ..AccessRules::ANY
        };
        let weak: Weak<Smmu> = Arc::downgrade(&smmu);
        at.mmio(Region::weak_mmio("arm-smmuv3", LEN, rules, weak));
        at.offer::<Arc<dyn pci::Iommu>>(smmu.clone());
        Ok(smmu)
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn with_low(old: u64, new: u64) -> u64 {
    old & !0xffff_ffff | new & 0xffff_ffff
}

fn with_high(old: u64, new: u64) -> u64 {
    old & 0xffff_ffff | new << 32
}

impl Smmu {
    /// A register that is 64 bits wide, by its first offset.
    fn wide(regs: &mut Regs, offset: u64) -> Option<&mut u64> {
        Some(match offset {
            GERROR_IRQ_CFG0 => &mut regs.gerror_irq_cfg0,
            STRTAB_BASE => &mut regs.strtab_base,
            CMDQ_BASE => &mut regs.cmdq_base,
            EVENTQ_BASE => &mut regs.eventq_base,
            _ => return None,
        })
    }

    fn read32(&self, regs: &mut Regs, offset: u64) -> u32 {
        if let Some(wide) = Smmu::wide(regs, offset) {
            return low(*wide);
        }
        if let Some(wide) = Smmu::wide(regs, offset.wrapping_sub(4)) {
            return low(*wide >> 32);
        }
        match offset {
            // Both stages as there are, two-level tables, 16-bit identifiers, no stalls.
            IDR0 => 0x0d44_1018 | u32::from(self.stages.one) << 1 | u32::from(self.stages.two),
            IDR1 => 0x0273_0010,
            // Range invalidation, break-before-make level 2; execute-never for stage 2.
            IDR3 => 0x1404 | u32::from(self.stages.two) << 4,
            IDR5 => 0x74,
            AIDR => 1,
            CR0 => regs.cr0,
            CR0ACK => regs.cr0 & CR0_KNOWN,
            CR1 => regs.cr1,
            CR2 => regs.cr2,
            GBPR => regs.gbpr,
            IRQ_CTRL | IRQ_CTRLACK => regs.irq_ctrl,
            GERROR => regs.gerror,
            GERRORN => regs.gerrorn,
            GERROR_IRQ_CFG1 => regs.gerror_irq_cfg1,
            GERROR_IRQ_CFG2 => regs.gerror_irq_cfg2,
            STRTAB_BASE_CFG => regs.strtab_base_cfg,
            CMDQ_PROD => regs.cmdq_prod,
            CMDQ_CONS => regs.cmdq_cons,
            EVENTQ_PROD => regs.eventq_prod,
            EVENTQ_CONS => regs.eventq_cons,
            ID_REGISTERS.. => {
                let index = usize::try_from((offset - ID_REGISTERS) / 4).unwrap_or(usize::MAX);
                IDENTIFIERS.get(index).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn write32(&self, regs: &mut Regs, offset: u64, value: u64) {
        if let Some(wide) = Smmu::wide(regs, offset) {
            *wide = with_low(*wide, value);
            return;
        }
        if let Some(wide) = Smmu::wide(regs, offset.wrapping_sub(4)) {
            *wide = with_high(*wide, value);
            return;
        }
        let value = low(value);
        match offset {
            CR0 => {
                regs.cr0 = value;
                self.consume(regs);
            }
            CR1 => regs.cr1 = value,
            CR2 => regs.cr2 = value,
            GBPR if value & GBPR_UPDATE != 0 => regs.gbpr = value & !GBPR_UPDATE,
            IRQ_CTRL => regs.irq_ctrl = value,
            GERRORN => {
                regs.gerrorn = value;
                self.consume(regs);
            }
            GERROR_IRQ_CFG1 => regs.gerror_irq_cfg1 = value,
            GERROR_IRQ_CFG2 => regs.gerror_irq_cfg2 = value,
            STRTAB_BASE_CFG => regs.strtab_base_cfg = value,
            CMDQ_PROD => {
                regs.cmdq_prod = value;
                self.consume(regs);
            }
            CMDQ_CONS => regs.cmdq_cons = value,
            EVENTQ_PROD => regs.eventq_prod = value,
            EVENTQ_CONS => regs.eventq_cons = value,
            _ => {}
        }
    }
}

impl Mmio for Smmu {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let offset = at.offset & !PAGE_ALIAS;
        let mut regs = self.regs.lock();
        if at.size == Size::B8 {
            return Ok(Smmu::wide(&mut regs, offset).map_or(0, |wide| *wide));
        }
        Ok(self.read32(&mut regs, offset).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let offset = at.offset & !PAGE_ALIAS;
        let mut regs = self.regs.lock();
        if at.size == Size::B8 {
            if let Some(wide) = Smmu::wide(&mut regs, offset) {
                *wide = value;
            }
            return Ok(());
        }
        self.write32(&mut regs, offset, value);
        Ok(())
    }
}

impl Device for Smmu {
    fn reset(&self, _: Reset) {
        *self.regs.lock() = Regs::default();
        self.cache.lock().forget_all();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        self.cache.lock().forget_all();
    }
}
