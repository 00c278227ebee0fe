//! The DSDT's methods for memory that comes and goes: names, order and code are QEMU 10.0's.
//!
//! Registers of a slot are chosen by `MSEL`; `MSCN` is called by the event device, looks at all
//! slots, and notifies the memory devices `MPxx`. Source: QEMU's manual, "ACPI memory hotplug
//! interface"; ACPI 6.5, 9.11 (memory devices).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, Add, AddressSpace, AddressSpaceCacheable, Arg, CreateDWordField, EISAName, Else,
    Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, LessThan, Local,
    Method, MethodCall, Mutex, Name, Notify, ONE, OpRegion, OpRegionSpace, Path, Release,
    ResourceTemplate, Return, Store, Subtract, ToInteger, While, ZERO,
};

use super::dsdt::{Part, device, memory, name, raw, resources};

/// The method that the event device calls.
pub(super) const SCAN: &str = "\\_SB_.MHPC.MSCN";
const FOREVER: u16 = 0xffff;
const LOCK: &str = "MLCK";

fn path(n: &str) -> Path {
    Path::new(n)
}

fn method(n: &str, args: u8, serialized: bool, body: Vec<&dyn Aml>) -> Part {
    raw(&[&Method::new(path(n), args, serialized, body)])
}

fn set(to: &str, value: &dyn Aml) -> Part {
    let to = path(to);
    raw(&[&Store::new(&to, value)])
}

fn acquire() -> Acquire {
    Acquire::new(path(LOCK), FOREVER)
}

fn release() -> Release {
    Release::new(path(LOCK))
}

/// `MSEL = ToInteger (Arg0)`.
fn select() -> Part {
    let to = path("MSEL");
    let number = ToInteger::new(&ZERO, &Arg(0));
    raw(&[&Store::new(&to, &number)])
}

/// The registers' region and the devices of the slots.
pub(super) fn parts(registers: (u64, u64), slots: u32) -> Vec<Part> {
    let (base, len) = registers;
    let at = u32::try_from(base).unwrap_or(u32::MAX);
    let size = u8::try_from(len).unwrap_or(u8::MAX);
    let region = OpRegion::new(path("HPMR"), OpRegionSpace::SystemMemory, &at, &size as &dyn Aml);
    let crs = resources(&[&memory(base, len)]);
    let registers = [
        name("_HID", &"PNP0A06"),
        name("_UID", &"Memory hotplug resources"),
        name("_CRS", &*crs),
        raw(&[&region]),
    ];
    let mut controller =
        vec![name("_HID", &"PNP0A06"), name("_UID", &"DIMM devices"), name("MDNR", &slots)];
    controller.extend(fields());
    controller.push(status());
    controller.push(raw(&[&Mutex::new(path(LOCK), 0)]));
    controller.extend([scan(), slot_status(), slot_resources(), proximity(), ost(), eject()]);
    controller.extend((0..slots).map(module));
    controller.push(notify(slots));
    vec![device("\\_SB_.MHPD", &registers), device("\\_SB_.MHPC", &controller)]
}

fn fields() -> [Part; 3] {
    let region = || path("\\_SB_.MHPD.HPMR");
    let word = |n: &[u8; 4]| FieldEntry::Named(*n, 32);
    let bit = |n: &[u8; 4]| FieldEntry::Named(*n, 1);
    let field = |access, update, entries| {
        raw(&[&Field::new(region(), access, FieldLockRule::NoLock, update, entries)])
    };
    [
        field(
            FieldAccessType::DWord,
            FieldUpdateRule::Preserve,
            vec![word(b"MRBL"), word(b"MRBH"), word(b"MRLL"), word(b"MRLH"), word(b"MPX_")],
        ),
        field(
            FieldAccessType::Byte,
            FieldUpdateRule::WriteAsZeroes,
            vec![FieldEntry::Reserved(160), bit(b"MES_"), bit(b"MINS"), bit(b"MRMV"), bit(b"MEJ_")],
        ),
        field(
            FieldAccessType::DWord,
            FieldUpdateRule::Preserve,
            vec![word(b"MSEL"), word(b"MOEV"), word(b"MOSC")],
        ),
    ]
}

fn status() -> Part {
    let count = path("MDNR");
    let none = Return::new(&ZERO);
    let is_empty = Equal::new(&count, &ZERO);
    let if_empty = If::new(&is_empty, vec![&none]);
    method("_STA", 0, false, vec![&if_empty, &Return::new(&0x0bu8)])
}

fn scan() -> Part {
    let [count, selector, inserted, removing] = ["MDNR", "MSEL", "MINS", "MRMV"].map(Path::new);
    let none = Return::new(&ZERO);
    let is_empty = Equal::new(&count, &ZERO);
    let if_empty = If::new(&is_empty, vec![&none]);
    let (first, choose) = (Store::new(&Local(0), &ZERO), Store::new(&selector, &Local(0)));
    let tell_insert = MethodCall::new(path("MTFY"), vec![&Local(0), &ONE]);
    let tell_removal = MethodCall::new(path("MTFY"), vec![&Local(0), &3u8]);
    let (seen, heard) = (Store::new(&inserted, &ONE), Store::new(&removing, &ONE));
    let came = Equal::new(&inserted, &ONE);
    let goes = Equal::new(&removing, &ONE);
    let if_came = If::new(&came, vec![&tell_insert, &seen]);
    let if_goes = If::new(&goes, vec![&tell_removal, &heard]);
    let otherwise = Else::new(vec![&if_goes]);
    let next = Add::new(&Local(0), &Local(0), &ONE);
    let more = LessThan::new(&Local(0), &count);
    let each = While::new(&more, vec![&choose, &if_came, &otherwise, &next]);
    let body: Vec<&dyn Aml> = vec![&if_empty];
    let (lock, unlock, done) = (acquire(), release(), Return::new(&ONE));
    let body = [body, vec![&first, &lock, &each, &unlock, &done]].concat();
    method("MSCN", 0, false, body)
}

fn slot_status() -> Part {
    let enabled = path("MES_");
    let (clear, present) = (Store::new(&Local(0), &ZERO), Store::new(&Local(0), &0x0fu8));
    let is_on = Equal::new(&enabled, &ONE);
    let if_on = If::new(&is_on, vec![&present]);
    let (choose, done) = (select(), Return::new(&Local(0)));
    method("MRST", 1, false, vec![&clear, &acquire(), &*choose, &if_on, &release(), &done])
}

/// `Name (n, ResourceTemplate () { one range })`.
fn template(n: &str, range: &dyn Aml) -> Part {
    raw(&[&Name::new(path(n), &ResourceTemplate::new(vec![range]))])
}

fn part_of(template: &str, at: u8, n: &str) -> Part {
    let (template, n) = (path(template), path(n));
    raw(&[&CreateDWordField::new(&n, &template, &at)])
}

fn slot_resources() -> Part {
    let cached = AddressSpaceCacheable::Cacheable;
    let wide = AddressSpace::new_memory(cached, true, 0u64, u64::MAX - 1, None);
    let narrow = AddressSpace::new_memory(cached, true, 0u32, u32::MAX - 1, None);
    let [min_low, min_high, len_low, max_low, max_high] =
        ["MINL", "MINH", "LENL", "MAXL", "MAXH"].map(Path::new);
    let [len_high, register] = ["LENH", "MRBH"].map(Path::new);
    let mut body: Vec<Part> = vec![raw(&[&acquire()]), select(), template("MR64", &wide)];
    // Offsets of the lower and upper halves in a QWord descriptor (ACPI 6.5, 6.4.3.5.1).
    for (at, n) in
        [(14, "MINL"), (18, "MINH"), (38, "LENL"), (42, "LENH"), (22, "MAXL"), (26, "MAXH")]
    {
        body.push(part_of("MR64", at, n));
    }
    body.push(set("MINH", &register));
    for (to, from) in [("MINL", "MRBL"), ("LENH", "MRLH"), ("LENL", "MRLL")] {
        body.push(set(to, &path(from)));
    }
    body.push(raw(&[&Add::new(&max_low, &min_low, &len_low)]));
    body.push(raw(&[&Add::new(&max_high, &min_high, &len_high)]));
    let carries = LessThan::new(&max_low, &min_low);
    let carry = Add::new(&max_high, &max_high, &ONE);
    body.push(raw(&[&If::new(&carries, vec![&carry])]));
    let borrows = LessThan::new(&max_low, &ONE);
    let borrow = Subtract::new(&max_high, &max_high, &ONE);
    body.push(raw(&[&If::new(&borrows, vec![&borrow])]));
    body.push(raw(&[&Subtract::new(&max_low, &max_low, &ONE)]));
    let mut low = vec![template("MR32", &narrow)];
    // The same of a DWord descriptor (6.4.3.5.2).
    for (at, n) in [(10, "MIN_"), (14, "MAX_"), (22, "LEN_")] {
        low.push(part_of("MR32", at, n));
    }
    for (to, from) in [("MIN_", "MINL"), ("MAX_", "MAXL"), ("LEN_", "LENL")] {
        low.push(set(to, &path(from)));
    }
    let (short, long) = (path("MR32"), path("MR64"));
    low.push(raw(&[&release(), &Return::new(&short)]));
    let is_low = Equal::new(&max_high, &ZERO);
    let if_low = If::new(&is_low, low.iter().map(|p| &**p).collect());
    body.push(raw(&[&if_low, &release(), &Return::new(&long)]));
    method("MCRS", 1, true, body.iter().map(|p| &**p).collect())
}

fn proximity() -> Part {
    let register = path("MPX_");
    let read = Store::new(&Local(0), &register);
    let (choose, done) = (select(), Return::new(&Local(0)));
    method("MPXM", 1, false, vec![&acquire(), &*choose, &read, &release(), &done])
}

fn ost() -> Part {
    let (event, status) = (set("MOEV", &Arg(1)), set("MOSC", &Arg(2)));
    let choose = select();
    method("MOST", 4, false, vec![&acquire(), &*choose, &*event, &*status, &release()])
}

fn eject() -> Part {
    let (choose, go) = (select(), set("MEJ_", &ONE));
    method("MEJ0", 2, false, vec![&acquire(), &*choose, &*go, &release()])
}

fn module(slot: u32) -> Part {
    let uid = format!("0x{slot:02X}");
    let own = path("_UID");
    let asks = |n: &str, by: &str| {
        let call = MethodCall::new(path(by), vec![&own]);
        method(n, 0, false, vec![&Return::new(&call)])
    };
    let tell = MethodCall::new(path("MOST"), vec![&own, &Arg(0), &Arg(1), &Arg(2)]);
    let go = MethodCall::new(path("MEJ0"), vec![&own, &Arg(0)]);
    let parts = [
        name("_UID", &uid),
        name("_HID", &EISAName::new("PNP0C80")),
        asks("_CRS", "MCRS"),
        asks("_STA", "MRST"),
        asks("_PXM", "MPXM"),
        method("_OST", 3, false, vec![&tell]),
        method("_EJ0", 1, false, vec![&go]),
    ];
    device(&format!("MP{slot:02X}"), &parts)
}

fn notify(slots: u32) -> Part {
    let one = |slot: u32| {
        let target = path(&format!("MP{slot:02X}"));
        let tell = Notify::new(&target, &Arg(1));
        let is_it = Equal::new(&Arg(0), &slot);
        raw(&[&If::new(&is_it, vec![&tell])])
    };
    let all: Vec<Part> = (0..slots).map(one).collect();
    method("MTFY", 2, false, all.iter().map(|p| &**p).collect())
}
