//! The DSDT of `virt`: the same devices, in the same order and with the same names as QEMU 10.0's.

use acpi_tables::aml::{
    And, Device, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
    Interrupt, Local, Memory32Fixed, Method, MethodCall, Name, Notify, ONE, OpRegion,
    OpRegionSpace, Path, ResourceTemplate, Scope, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use machine::Slot;

use super::roots::Roots;
use super::{Plan, map};

/// First shared interrupt as a GSIV.
pub(super) const SPI: u32 = 32;

/// A part of the table.
pub(super) type Part = Box<dyn Aml>;

/// Bytes that are AML already.
pub(super) struct Raw(pub(super) Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

pub(super) fn raw(parts: &[&dyn Aml]) -> Part {
    let mut bytes = Vec::new();
    for part in parts {
        part.to_aml_bytes(&mut bytes);
    }
    Box::new(Raw(bytes))
}

pub(super) fn name(n: &str, value: &dyn Aml) -> Part {
    raw(&[&Name::new(Path::new(n), value)])
}

pub(super) fn device(n: &str, parts: &[Part]) -> Part {
    raw(&[&Device::new(Path::new(n), parts.iter().map(|p| &**p).collect())])
}

pub(super) fn resources(parts: &[&dyn Aml]) -> Part {
    raw(&[&ResourceTemplate::new(parts.to_vec())])
}

pub(super) fn memory(base: u64, len: u64) -> Memory32Fixed {
    let low = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
    Memory32Fixed::new(true, low(base), low(len))
}

pub(super) fn level(irq: u32) -> Interrupt {
    Interrupt::new(true, false, false, false, SPI + irq)
}

/// The body of the table.
pub(super) fn body(
    plan: &Plan,
    serials: &[&Slot],
    event: Option<(u64, u32)>,
    (slots, roots): (u32, &Roots),
) -> Vec<u8> {
    let mut parts: Vec<Part> = Vec::new();
    for cpu in 0..plan.ids.len() {
        let id = [name("_HID", &"ACPI0007"), name("_UID", &cpu)];
        parts.push(device(&format!("C{cpu:03X}"), &id));
    }
    for (number, slot) in serials.iter().enumerate() {
        parts.push(uart(number, slot));
    }
    if plan.version.flash_told {
        parts.extend((0..2).map(flash));
    }
    parts.push(fw_cfg());
    parts.extend((0..map::VIRTIO_COUNT).map(virtio));
    parts.extend(super::dsdt_pci::parts(plan, roots));
    match event {
        Some((base, irq)) => {
            parts.push(ged(base, irq, slots > 0));
            if slots > 0 {
                parts.extend(super::dsdt_memory::parts(map::MEMORY_SLOTS, slots));
            }
        }
        None => parts.push(gpio()),
    }
    parts.push(device("PWRB", &[name("_HID", &"PNP0C0C"), name("_UID", &ZERO)]));
    let scope = Scope::new(Path::new("\\_SB_"), parts.iter().map(|p| &**p).collect());
    let mut bytes = Vec::new();
    scope.to_aml_bytes(&mut bytes);
    bytes
}

fn uart(number: usize, slot: &Slot) -> Part {
    let irq = level(slot.irq.unwrap_or(0));
    let crs = resources(&[&memory(slot.base, slot.size), &irq]);
    let parts = [name("_HID", &"ARMH0011"), name("_UID", &number), name("_CRS", &*crs)];
    device(&format!("COM{number}"), &parts)
}

fn flash(number: u64) -> Part {
    let (base, len) = map::FLASH;
    let crs = resources(&[&memory(base + number * len, len)]);
    let parts = [name("_HID", &"LNRO0015"), name("_UID", &number), name("_CRS", &*crs)];
    device(&format!("FLS{number}"), &parts)
}

fn fw_cfg() -> Part {
    let crs = resources(&[&memory(map::FW_CFG.base, map::FW_CFG.size)]);
    let parts =
        [name("_HID", &"QEMU0002"), name("_STA", &0x0bu8), name("_CCA", &ONE), name("_CRS", &*crs)];
    device("FWCF", &parts)
}

fn virtio(number: u32) -> Part {
    let base = map::VIRTIO + u64::from(number) * map::VIRTIO_SIZE;
    let irq = level(map::VIRTIO_IRQ + number);
    let crs = resources(&[&memory(base, map::VIRTIO_SIZE), &irq]);
    let parts =
        [name("_HID", &"LNRO0005"), name("_UID", &number), name("_CCA", &ONE), name("_CRS", &*crs)];
    device(&format!("VR{number:02}"), &parts)
}

/// An edge-triggered GPIO interrupt of a line of a controller (ACPI 6.5, 6.4.3.8.1).
fn gpio_interrupt(controller: &str, line: u16) -> Vec<u8> {
    let end = u16::try_from(25 + controller.len() + 1).unwrap_or(u16::MAX);
    // Interrupt connection, consumer; edge, active high, exclusive; pull up; no debounce.
    let mut out = vec![0x8c];
    out.extend((end - 3).to_le_bytes());
    out.extend([1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0]);
    // Offsets: pin table, resource source index, source name, vendor data, its length.
    out.extend(23u16.to_le_bytes());
    out.push(0);
    out.extend(25u16.to_le_bytes());
    out.extend(end.to_le_bytes());
    out.extend([0, 0]);
    out.extend(line.to_le_bytes());
    out.extend(controller.bytes());
    out.push(0);
    out
}

fn gpio() -> Part {
    const NAME: &str = "GPO0";
    let slot = &map::GPIO;
    let crs = resources(&[&memory(slot.base, slot.size), &level(slot.irq.unwrap_or(0))]);
    let line = u16::try_from(map::POWER_LINE).unwrap_or(0);
    let events = resources(&[&Raw(gpio_interrupt(NAME, line))]);
    let button = Path::new("PWRB");
    let press = Notify::new(&button, &0x80u8);
    let handler = Method::new(Path::new(&format!("_E{line:02X}")), 0, false, vec![&press]);
    let parts = [
        name("_HID", &"ARMH0061"),
        name("_UID", &ZERO),
        name("_CRS", &*crs),
        name("_AEI", &*events),
        raw(&[&handler]),
    ];
    device(NAME, &parts)
}

fn ged(base: u64, irq: u32, has_slots: bool) -> Part {
    const POWER_DOWN: u8 = 2;
    let crs = resources(&[&Interrupt::new(true, true, false, false, SPI + irq)]);
    let base = u32::try_from(base).unwrap_or(u32::MAX);
    let region =
        OpRegion::new(Path::new("EREG"), OpRegionSpace::SystemMemory, &base, &4u8 as &dyn Aml);
    let field = Field::new(
        Path::new("EREG"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"ESEL", 32)],
    );
    let (selector, button) = (Path::new("ESEL"), Path::new("PWRB"));
    let read = Store::new(&Local(0), &selector);
    let bit = And::new(&ZERO, &Local(0), &POWER_DOWN);
    let pressed = Equal::new(&bit, &POWER_DOWN);
    let press = Notify::new(&button, &0x80u8);
    let power = If::new(&pressed, vec![&press]);
    let bit = And::new(&ZERO, &Local(0), &ONE);
    let changed = Equal::new(&bit, &ONE);
    let scan = MethodCall::new(Path::new(super::dsdt_memory::SCAN), vec![]);
    let slots = If::new(&changed, vec![&scan]);
    let steps: Vec<&dyn Aml> =
        if has_slots { vec![&read, &slots, &power] } else { vec![&read, &power] };
    let event = Method::new(Path::new("_EVT"), 1, true, steps);
    let parts = [
        name("_HID", &"ACPI0013"),
        name("_UID", &"GED"),
        name("_CRS", &*crs),
        raw(&[&region]),
        raw(&[&field]),
        raw(&[&event]),
    ];
    raw(&[&Device::new(Path::new("\\_SB_.GED_"), parts.iter().map(|p| &**p).collect())])
}
