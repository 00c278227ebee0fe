//! The DSDT's PCI root buses: the host bridge's own and those behind expanders.
//!
//! Windows of the buses behind expanders are what firmware gave to devices there, and the host
//! bridge's own bus has what is left. Names, order and code are QEMU 10.0's.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, BufferData, CreateDWordField, Else, Equal, If,
    Method, NotEqual, ONE, Or, PackageBuilder, Path, Return, Store, Uuid, VarPackageTerm, ZERO,
};

use super::dsdt::{Part, Raw, device, level, name, raw, resources};
use super::layout::Place;
use super::roots::{Range, Root, Roots};
use super::{Plan, map};

/// Interrupt links of a bus.
const LINKS: u32 = 4;
/// Slots whose interrupts are told.
const SLOTS: u32 = 32;

/// All root buses, each behind its links.
pub(super) fn parts(plan: &Plan, roots: &Roots) -> Vec<Part> {
    let mut out = Vec::new();
    for root in &roots.others {
        out.extend((0..LINKS).map(|number| link(root.number, number)));
        out.push(expander(root));
    }
    out.extend((0..LINKS).map(|number| link(0, number)));
    out.push(pci(plan, roots));
    out
}

fn link_name(bus: u8, number: u32) -> String {
    format!("L{bus:02X}{number:X}")
}

fn link(bus: u8, number: u32) -> Part {
    let one = resources(&[&level(map::PCI_IRQ + number)]);
    let set = Method::new(Path::new("_SRS"), 1, false, vec![]);
    let parts = [
        name("_HID", &"PNP0C0F"),
        name("_UID", &number),
        name("_PRS", &*one),
        name("_CRS", &*one),
        raw(&[&set]),
    ];
    device(&link_name(bus, number), &parts)
}

/// Which link each pin of each slot uses.
fn routes(bus: u8) -> Part {
    let count = u8::try_from(SLOTS * LINKS).unwrap_or(u8::MAX);
    let mut all = Vec::new();
    count.to_aml_bytes(&mut all);
    for slot in 0..SLOTS {
        for pin in 0..LINKS {
            let to = Path::new(&link_name(bus, (slot + pin) % LINKS));
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

fn text(words: &str) -> BufferData {
    let text: Vec<u8> = words.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    BufferData::new(text)
}

fn pci(plan: &Plan, roots: &Roots) -> Part {
    let (ecam, ecam_len) = plan.ecam();
    let parts = [
        name("_HID", &"PNP0A08"),
        name("_CID", &"PNP0A03"),
        name("_SEG", &ZERO),
        name("_BBN", &ZERO),
        name("_UID", &ZERO),
        name("_STR", &text("PCIe 0 Device")),
        name("_CCA", &ONE),
        name("_PRT", &*routes(0)),
        raw(&[&Method::new(Path::new("_CBA"), 0, false, vec![&Return::new(&ecam)])]),
        name("_CRS", &*windows(plan, roots, ecam_len)),
        capabilities(),
        labels(),
        device("RES0", &[name("_HID", &"PNP0C02"), name("_CRS", &*reserved((ecam, ecam_len)))]),
    ];
    device("PCI0", &parts)
}

fn expander(root: &Root) -> Part {
    let mut crs: Vec<Part> = Vec::new();
    crs.extend(root.io.iter().map(|r| ports(*r)));
    crs.extend(root.memory.iter().map(|r| memory32(*r)));
    crs.extend(root.wide.iter().map(|r| wide(*r)));
    let bus = AddressSpace::new_bus_number(u16::from(root.number), u16::from(root.last));
    crs.push(raw(&[&bus]));
    let all: Vec<&dyn Aml> = crs.iter().map(|p| &**p).collect();
    let mut parts = vec![
        name("_HID", &"PNP0A08"),
        name("_CID", &"PNP0A03"),
        name("_BBN", &root.number),
        name("_UID", &root.number),
        name("_STR", &text("pxb Device")),
        name("_CCA", &ONE),
    ];
    parts.extend(root.node.map(|node| name("_PXM", &node)));
    parts.push(name("_PRT", &*routes(root.number)));
    parts.push(name("_CRS", &*resources(&all)));
    parts.push(capabilities());
    parts.push(labels());
    device(&format!("PC{:02X}", root.number), &parts)
}

fn low(v: u64) -> u32 {
    u32::try_from(v).unwrap_or(u32::MAX)
}

fn memory32((first, last): Range) -> Part {
    let not = AddressSpaceCacheable::NotCacheable;
    raw(&[&AddressSpace::new_memory(not, true, low(first), low(last), None)])
}

fn wide((first, last): Range) -> Part {
    let not = AddressSpaceCacheable::NotCacheable;
    raw(&[&AddressSpace::new_memory(not, true, first, last, None)])
}

fn ports((first, last): Range) -> Part {
    raw(&[&AddressSpace::new_io(low(first), low(last), Some(low(map::PCI_PIO.0)))])
}

fn memory64(place: Place) -> AddressSpace<u64> {
    let (first, last) = window(place);
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

fn reserved(ecam: Place) -> Part {
    resources(&[&memory64(ecam)])
}

fn windows(plan: &Plan, roots: &Roots, ecam_len: u64) -> Part {
    let all_buses = u16::try_from((ecam_len >> 20) - 1).unwrap_or(u16::MAX);
    let first_other = roots.others.iter().map(|root| u16::from(root.number)).min();
    let last_bus = first_other.map_or(all_buses, |bus| bus.saturating_sub(1));
    let bus = AddressSpace::new_bus_number(0u16, last_bus);
    let mut crs = vec![raw(&[&bus])];
    let free = |window: Range, of: fn(&Root) -> &[Range]| roots.free(window, of);
    crs.extend(free(window(map::PCI_MMIO), |r| &r.memory).into_iter().map(memory32));
    crs.extend(free((0, map::PCI_PIO.1 - 1), |r| &r.io).into_iter().map(ports));
    if let Some(place) = plan.high.mmio {
        crs.extend(free(window(place), |r| &r.wide).into_iter().map(wide));
    }
    let all: Vec<&dyn Aml> = crs.iter().map(|p| &**p).collect();
    resources(&all)
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
