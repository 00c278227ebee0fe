//! The bodies of all fuzz targets: one function per parser of untrusted input.
//!
//! `fuzz_targets/` runs them under cargo-fuzz; `crates/catalog/tests/fuzz_bodies.rs` runs them on
//! a few thousand random inputs in every CI run.

use std::sync::{Arc, OnceLock};

use derive::{Qapi, VmState};
use parking_lot::Mutex;
use qapi::{Qapi as _, Source, json, keyval::Dialect};
use vmstate::{Migration, StateReader, StateWriter};

/// A type with one of each kind of member.
#[derive(Qapi)]
pub struct Everything {
    /// A switch.
    pub flag: Option<bool>,
    /// A number.
    pub small: Option<u8>,
    /// A size.
    pub size: Option<qapi::Size>,
    /// A list.
    pub list: Option<Vec<i32>>,
    /// An object inside.
    pub inner: Option<Box<Everything>>,
}

/// JSON text: every value is written, read again and written the same.
pub fn json(data: &[u8]) {
    let mut reader = json::Reader::new();
    let check = |result: qapi::Result<qapi::Value>| {
        let Ok(value) = result else { return };
        let text = json::to_string(&value);
        if let Ok(again) = json::from_str(&text) {
            assert_eq!(json::to_string(&again), text);
        }
        _ = Everything::from_value(value, Source::Json);
    };
    reader.feed(data, check);
    reader.finish(check);
}

/// key=value text in both dialects.
pub fn keyval(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for dialect in [Dialect::structured(Some("type")), Dialect::flat(Some("type"))] {
        if let Ok(parsed) = dialect.parse(&text) {
            _ = Everything::from_value(parsed.value, Source::KeyVal);
        }
    }
    _ = (qapi::parse_size(&text, 1 << 20), qapi::parse_int(&text));
}

/// A register struct with one of each kind of field.
#[derive(Default, Debug, PartialEq, VmState)]
pub struct Regs {
    word: u32,
    flag: bool,
    #[vmstate(max = 8)]
    list: Vec<u16>,
    bytes: Vec<u8>,
    part: Option<Part>,
    parts: [Part; 2],
}

/// A record inside.
#[derive(Default, Debug, PartialEq, VmState)]
pub struct Part {
    wide: u128,
    name: String,
}

/// A saved-state stream: what loads is saved and loads again.
pub fn vmstate(data: &[u8]) {
    let regs = Mutex::new(Regs::default());
    if Migration::Saved(&regs).read(&mut StateReader::new(data)).is_ok() {
        let mut w = StateWriter::new();
        assert!(Migration::Saved(&regs).write(&mut w).is_ok());
        let bytes = w.into_bytes();
        let again = Mutex::new(Regs::default());
        assert!(Migration::Saved(&again).read(&mut StateReader::new(&bytes)).is_ok());
        assert_eq!(*again.lock(), *regs.lock());
    }
}

/// A good stream, as a seed.
pub fn vmstate_seed() -> Vec<u8> {
    let part = Part { wide: 5, name: "x".into() };
    let regs = Regs { list: vec![1, 2], bytes: vec![3], part: Some(part), ..Regs::default() };
    let mut w = StateWriter::new();
    _ = Migration::Saved(&Mutex::new(regs)).write(&mut w);
    w.into_bytes()
}

/// Lines of the qtest protocol against an empty memory.
pub fn qtest(data: &[u8]) {
    static SPACE: OnceLock<memory::AddressSpace> = OnceLock::new();
    let root = || memory::AddressSpace::new("memory", &memory::Region::root("system"));
    let space = SPACE.get_or_init(root).clone();
    let irqs = Box::new(|_: &str| Some(Vec::new()));
    let mut session = accel_qtest::Session::new(space, device::Clock::manual(), irqs);
    for line in String::from_utf8_lossy(data).lines() {
        let length = accel_qtest::Line::new(line).nth_number(2);
        if length.is_some_and(|length| length > 1 << 16) {
            continue; // right, but slow
        }
        let reply = session.execute(line);
        assert!(reply.lines().last().is_some_and(|l| l.starts_with("OK") || l.starts_with("FAIL")));
    }
}

/// Bytes typed into the human monitor's line editor.
pub fn monitor(data: &[u8]) {
    let mut editor = monitor::Editor::default();
    for byte in data {
        if let monitor::Edit::Line(line) = editor.feed(*byte) {
            let (word, rest) = monitor::split_line(&line);
            assert!(!word.contains(char::is_whitespace));
            _ = Arc::new(rest.len());
        }
    }
}
