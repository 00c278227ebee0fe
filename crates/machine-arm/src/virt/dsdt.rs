//! The DSDT of `virt`: the same devices, in the same order and with the same names as QEMU 10.0's.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, BufferData, CreateDWordField, Device, Else,
    Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Interrupt,
    Local, Memory32Fixed, Method, MethodCall, Name, NotEqual, Notify, ONE, OpRegion, OpRegionSpace,
    Or, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, Uuid, VarPackageTerm, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use machine::Slot;

use super::layout::Place;
use super::{Plan, map};

/// First shared interrupt as a GSIV.
pub(super) const SPI: u32 = 32;
/// PCI interrupt links.
const LINKS: u32 = 4;
/// PCI slots whose interrupts are told.
const SLOTS: u32 = 32;

/// A part of the table.
pub(super) type Part = Box<dyn Aml>;

/// Bytes that are AML already.
struct Raw(Vec<u8>);

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

fn level(irq: u32) -> Interrupt {
    Interrupt::new(true, false, false, false, SPI + irq)
}

/// The body of the table.
pub(super) fn body(
    plan: &Plan,
    serials: &[&Slot],
    event: Option<(u64, u32)>,
    slots: u32,
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
    parts.extend((0..LINKS).map(link));
    parts.push(pci(plan));
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

fn link(number: u32) -> Part {
    let one = resources(&[&level(map::PCI_IRQ + number)]);
    let set = Method::new(Path::new("_SRS"), 1, false, vec![]);
    let parts = [
        name("_HID", &"PNP0C0F"),
        name("_UID", &number),
        name("_PRS", &*one),
        name("_CRS", &*one),
        raw(&[&set]),
    ];
    device(&format!("L{number:03X}"), &parts)
}

/// Which link each pin of each slot uses.
fn routes() -> Part {
    let count = u8::try_from(SLOTS * LINKS).unwrap_or(u8::MAX);
    let mut all = Vec::new();
    count.to_aml_bytes(&mut all);
    for slot in 0..SLOTS {
        for pin in 0..LINKS {
            let to = Path::new(&format!("L{:03X}", (slot + pin) % LINKS));
            let mut route = PackageBuilder::new();
            route.add_element(&(slot << 16 | 0xffff));
            route.add_element(&pin);
            route.add_element(&to);
            route.add_element(&ZERO);
            route.to_aml_bytes(&mut all);
        }
    }
    raw(&[&VarPackageTerm::new(&Raw(all))])
}

/// An inclusive range of addresses that are the same on both sides.
fn window((at, len): Place) -> (u64, u64) {
    (at, at + (len - 1))
}

fn pci(plan: &Plan) -> Part {
    let text: Vec<u8> = "PCIe 0 Device\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (ecam, ecam_len) = plan.ecam();
    let parts = [
        name("_HID", &"PNP0A08"),
        name("_CID", &"PNP0A03"),
        name("_SEG", &ZERO),
        name("_BBN", &ZERO),
        name("_UID", &ZERO),
        name("_STR", &BufferData::new(text)),
        name("_CCA", &ONE),
        name("_PRT", &*routes()),
        raw(&[&Method::new(Path::new("_CBA"), 0, false, vec![&Return::new(&ecam)])]),
        name("_CRS", &*windows(plan, ecam_len)),
        capabilities(),
        labels(),
        device("RES0", &[name("_HID", &"PNP0C02"), name("_CRS", &*reserved((ecam, ecam_len)))]),
    ];
    device("PCI0", &parts)
}

fn memory64(place: Place) -> AddressSpace<u64> {
    let (first, last) = window(place);
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

fn reserved(ecam: Place) -> Part {
    resources(&[&memory64(ecam)])
}

fn windows(plan: &Plan, ecam_len: u64) -> Part {
    let low = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
    let last_bus = u16::try_from((ecam_len >> 20) - 1).unwrap_or(u16::MAX);
    let (first, last) = window(map::PCI_MMIO);
    let not = AddressSpaceCacheable::NotCacheable;
    let bus = AddressSpace::new_bus_number(0u16, last_bus);
    let memory = AddressSpace::new_memory(not, true, low(first), low(last), None);
    let ports = AddressSpace::new_io(0u32, low(map::PCI_PIO.1 - 1), Some(low(map::PCI_PIO.0)));
    match plan.high.mmio {
        Some(place) => resources(&[&bus, &memory, &ports, &memory64(place)]),
        None => resources(&[&bus, &memory, &ports]),
    }
}

/// `_OSC` (ACPI 6.5, 6.2.11; PCI Firmware Specification 3.3, 4.5.1): the guest may have everything.
fn capabilities() -> Part {
    const ALL: u8 = 0x1f;
    let [cdw1, cdw2, cdw3, supp, ctrl] = ["CDW1", "CDW2", "CDW3", "SUPP", "CTRL"].map(Path::new);
    let host_bridge = Uuid::new("33DB4D5B-1FF7-401C-9657-7441C03DD766");
    let create2 = CreateDWordField::new(&cdw2, &Arg(3), &4u8);
    let create3 = CreateDWordField::new(&cdw3, &Arg(3), &8u8);
    let (note_supp, note_ctrl) = (Store::new(&supp, &cdw2), Store::new(&ctrl, &cdw3));
    let limit = And::new(&ctrl, &ctrl, &ALL);
    let unknown_revision = Or::new(&cdw1, &cdw1, &8u8);
    let other_revision = NotEqual::new(&Arg(1), &ONE);
    let if_revision = If::new(&other_revision, vec![&unknown_revision]);
    let masked = Or::new(&cdw1, &cdw1, &0x10u8);
    let differs = NotEqual::new(&cdw3, &ctrl);
    let if_masked = If::new(&differs, vec![&masked]);
    let answer = Store::new(&cdw3, &ctrl);
    let done = Return::new(&Arg(3));
    let is_bridge = Equal::new(&Arg(0), &host_bridge);
    let known = If::new(
        &is_bridge,
        vec![
            &create2,
            &create3,
            &note_supp,
            &note_ctrl,
            &limit,
            &if_revision,
            &if_masked,
            &answer,
            &done,
        ],
    );
    let unknown = Or::new(&cdw1, &cdw1, &4u8);
    let otherwise = Else::new(vec![&unknown, &done]);
    let create1 = CreateDWordField::new(&cdw1, &Arg(3), &ZERO);
    let method = Method::new(Path::new("_OSC"), 4, false, vec![&create1, &known, &otherwise]);
    raw(&[&*name("SUPP", &ZERO), &*name("CTRL", &ZERO), &method])
}

/// `_DSM` (PCI Firmware Specification 3.3, 4.6): it has functions for labels, but none is there.
fn labels() -> Part {
    let labeling = Uuid::new("E5C937D0-3553-4D7A-9117-EA4D19C3434D");
    let (none, some) = (BufferData::new(vec![0]), BufferData::new(vec![1]));
    let (answer, otherwise) = (Return::new(&some), Return::new(&none));
    let asks = Equal::new(&Arg(2), &ZERO);
    let which = If::new(&asks, vec![&answer]);
    let is_labeling = Equal::new(&Arg(0), &labeling);
    let known = If::new(&is_labeling, vec![&which]);
    raw(&[&Method::new(Path::new("_DSM"), 4, false, vec![&known, &otherwise])])
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
