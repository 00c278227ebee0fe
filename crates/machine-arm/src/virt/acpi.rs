//! The ACPI tables of `virt`, from the plan and what was created, and the event device they name.

use std::sync::Arc;

use accel::FirmwareCalls;
use device::{FirmwareConfig, IrqController, LateTables};
use firmware::acpi::{Oem, Tables, fixed};
use machine::{Board, Slot};
use pci::PciBus;
use qapi::Value;

use super::dsdt::SPI;
use super::layout::has_firmware;
use super::props::OnOffAuto;
use super::roots::Roots;
use super::{Gic, Plan, dsdt, map};

const EVENT_DEVICE: &str = "acpi-ged";
/// Event of the power button.
const POWER_DOWN: u64 = 2;
/// Event of the slots for memory.
const MEMORY: u64 = 1;

/// Whether the guest is given tables.
pub(super) fn is_on(plan: &Plan) -> bool {
    plan.props.acpi != OnOffAuto::Off
}

/// Whether the power button is an event of ACPI, not a key on a GPIO line: firmware that reads the
/// tables is there.
pub(super) fn has_events(plan: &Plan, board: &Board<'_>) -> bool {
    is_on(plan)
        && plan.version.events
        && has_firmware(&plan.props, board)
        && board.knows(EVENT_DEVICE)
}

/// Creates the event device.
pub(super) fn create_events(
    plan: &Plan,
    board: &mut Board<'_>,
    irqs: &dyn IrqController,
) -> qapi::Result<()> {
    if !has_events(plan, board) {
        return Ok(());
    }
    let config = board.config;
    let (base, room) = plan.plugged.unwrap_or_default();
    let most = config.max_ram.saturating_sub(config.ram_size);
    let events = POWER_DOWN | if config.ram_slots > 0 { MEMORY } else { 0 };
    let props = Value::map([
        ("ged-event", Value::from(events)),
        ("memory-slots", Value::from(u64::from(config.ram_slots))),
        ("memory-base", Value::from(base)),
        ("memory-room", Value::from(room)),
        ("memory-most", Value::from(most)),
        ("memory-nodes", Value::from(config.numa.nodes.len().max(1) as u64)),
    ]);
    let record = board.device(EVENT_DEVICE, EVENT_DEVICE, props)?;
    if let Some(out) = record.irq_out("irq0") {
        out.connect(irqs.shared(), map::EVENTS.1);
    }
    let button = record.irq_in("powerdown").cloned();
    board.map_banks(EVENT_DEVICE, &[map::EVENTS.0, map::MEMORY_SLOTS.0])?;
    if let Some(button) = button {
        board.set_powerdown(Box::new(move || button.sink.set(0, true)));
    }
    Ok(())
}

fn madt(plan: &Plan, board: &Board<'_>, pmu: bool) -> fixed::Madt {
    let v2 = plan.gic == Gic::V2;
    let len = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
    let mut redistributors = Vec::new();
    if !v2 {
        redistributors.push((map::GIC_REDIST, len(map::GIC_REDIST_SIZE)));
        let second = plan.high.redists.filter(|_| plan.redist_regions() > 1);
        redistributors.extend(second.map(|(at, n)| (at, len(n))));
    }
    let few = |v: u32| u16::try_from(v).unwrap_or(u16::MAX);
    let frame = (map::V2M, few(map::V2M_COUNT), few(SPI + map::V2M_SPI));
    fixed::Madt {
        distributor: (map::GIC_DIST, if v2 { 2 } else { 3 }),
        interfaces: if v2 { (map::GIC_CPU, map::GIC_VCPU, map::GIC_VIFACE) } else { (0, 0, 0) },
        cpus: plan.ids.clone(),
        pmu: if pmu { map::PMU } else { 0 },
        maintenance: if plan.props.virtualization { map::MAINTENANCE } else { 0 },
        redistributors,
        its: plan.has_its().then_some(map::ITS.0),
        frame: board.record("v2m").map(|_| frame),
    }
}

fn timers(plan: &Plan, board: &Board<'_>) -> [u32; 5] {
    let intid = |name: &str| map::TIMERS.iter().find(|(n, _)| *n == name).map_or(0, |(_, i)| *i);
    let extended = plan.props.virtualization
        && board.cpu_handles().first().is_some_and(|cpu| cpu.output("cnthv").is_some());
    let hyp_virt = if extended { intid("cnthv") } else { 0 };
    [intid("cntps"), intid("cntp"), intid("cntv"), intid("cnthp"), hyp_virt]
}

/// What a table's body is made of.
enum Body {
    /// Known when the machine is made.
    Fixed(Vec<u8>),
    /// The DSDT, with root buses as they are.
    Dsdt,
    /// The FADT, which knows where the DSDT is.
    Fadt,
    /// The IORT, with root buses as they are.
    Iort,
}

/// Makes the tables, and again when firmware reads them: by then it has arranged the buses.
struct Maker {
    oem: Oem,
    plan: Plan,
    serials: Vec<&'static Slot>,
    event: Option<(u64, u32)>,
    slots: u32,
    bus: Option<Arc<PciBus>>,
    tables: Vec<([u8; 4], u8, Body)>,
}

impl Maker {
    fn add(&mut self, name: &[u8; 4], revision: u8, body: Vec<u8>) {
        self.tables.push((*name, revision, Body::Fixed(body)));
    }

    fn make(&self, fw_cfg: &dyn FirmwareConfig) -> qapi::Result<()> {
        let roots = Roots::of(self.bus.as_ref());
        let mut t = Tables::new(self.oem.clone());
        let mut dsdt = 0;
        for (name, revision, body) in &self.tables {
            match body {
                Body::Fixed(bytes) => _ = t.add(*name, *revision, bytes, &[]),
                Body::Dsdt => {
                    let variable = (self.slots, &roots);
                    let bytes = dsdt::body(&self.plan, &self.serials, self.event, variable);
                    dsdt = t.add(*name, *revision, &bytes, &[]);
                }
                Body::Fadt => {
                    let psci = match self.plan.calls {
                        FirmwareCalls::None => fixed::Psci::None,
                        FirmwareCalls::Smc => fixed::Psci::Smc,
                        FirmwareCalls::Hvc => fixed::Psci::Hvc,
                    };
                    t.add(*name, *revision, &fixed::fadt(psci, dsdt), &[fixed::FADT_DSDT]);
                }
                Body::Iort => _ = t.add(*name, *revision, &iort(&self.plan, &roots), &[]),
            }
        }
        for (name, data) in t.finish() {
            fw_cfg.set_file(name, data)?;
        }
        let extra = roots.others.len() as u64;
        if extra > 0 {
            fw_cfg.set_file("etc/extra-pci-roots", extra.to_le_bytes().to_vec())?;
        }
        Ok(())
    }
}

fn iort(plan: &Plan, roots: &Roots) -> Vec<u8> {
    let smmu = plan.has_iommu().then(|| fixed::SmmuNode {
        base: map::SMMU.0,
        first_interrupt: SPI + map::SMMU.2,
        streams: roots.translated(plan.props.default_bus_bypass_iommu),
    });
    fixed::iort(smmu.as_ref())
}

/// Builds the tables and gives them to firmware.
pub(super) fn offer(
    plan: &Plan,
    board: &Board<'_>,
    fw_cfg: &Arc<dyn FirmwareConfig>,
) -> qapi::Result<()> {
    if !is_on(plan) {
        return Ok(());
    }
    let maker = Arc::new(maker(plan, board));
    maker.make(&**fw_cfg)?;
    fw_cfg.set_file("etc/tpm/log", vec![])?;
    let to = Arc::downgrade(fw_cfg);
    let again: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        if let Some(fw_cfg) = to.upgrade()
            && let Err(error) = maker.make(&*fw_cfg)
        {
            trace::warning!("ACPI tables: {}", error.desc);
        }
    });
    fw_cfg.before_reading(&["etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"], again.clone());
    board.world.services.add(LateTables(again));
    Ok(())
}

fn maker(plan: &Plan, board: &Board<'_>) -> Maker {
    let own = Oem::default();
    let oem = Oem {
        id: plan.props.x_oem_id.clone().unwrap_or(own.id),
        table: plan.props.x_oem_table_id.clone().unwrap_or(own.table),
    };
    let mut serials = vec![&map::UART];
    let second = board.record(map::UART2.name).filter(|_| !plan.props.secure);
    serials.extend(second.map(|_| &map::UART2));
    let mut m = Maker {
        oem,
        plan: plan.clone(),
        serials,
        event: has_events(plan, board).then_some(map::EVENTS),
        slots: board.config.ram_slots,
        bus: super::roots::bus(board),
        tables: vec![(*b"DSDT", 2, Body::Dsdt), (*b"FACP", 6, Body::Fadt)],
    };
    let has_pmu = board.cpu_handles().iter().any(|cpu| cpu.output("pmu").is_some());
    m.add(b"APIC", 4, fixed::madt(&madt(plan, board, plan.version.pmu && has_pmu)));
    if plan.version.topology {
        let cpus = u32::try_from(plan.ids.len()).unwrap_or(u32::MAX);
        m.add(b"PPTT", 2, fixed::pptt(shape(board), cpus));
    }
    m.add(b"GTDT", 3, fixed::gtdt(timers(plan, board), !plan.version.timer_level));
    let (ecam, len) = plan.ecam();
    let last_bus = u8::try_from((len >> 20) - 1).unwrap_or(u8::MAX);
    m.add(b"MCFG", 1, fixed::mcfg(ecam, last_bus));
    let uart = &map::UART;
    m.add(b"SPCR", 2, fixed::spcr(uart.base, SPI + uart.irq.unwrap_or(0)));
    let uart_len = u32::try_from(uart.size).unwrap_or(u32::MAX);
    m.add(b"DBG2", 0, fixed::dbg2(uart.base, uart_len, "COM0"));
    for (name, revision, body) in super::nodes::tables(plan, board) {
        m.add(name, revision, body);
    }
    if plan.has_its() || plan.gic == Gic::V2 {
        m.tables.push((*b"IORT", 3, Body::Iort));
    }
    m
}

fn shape(board: &Board<'_>) -> fixed::Shape {
    let t = board.config.topology();
    fixed::Shape {
        sockets: t.sockets,
        clusters: board.config.clusters_given.then_some(t.clusters),
        cores: t.cores,
        threads: t.threads,
    }
}
