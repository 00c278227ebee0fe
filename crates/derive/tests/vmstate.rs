//! The derive `VmState` as its users see it.

use std::collections::VecDeque;

use derive::VmState;
use parking_lot::Mutex;
use vmstate::{LoadError, Migration, StateReader, StateWriter, VmState as _};

#[derive(Clone, Copy, Debug, Default, PartialEq, VmState)]
enum Mode {
    #[default]
    Idle,
    Busy,
}

#[derive(Clone, Debug, PartialEq, VmState)]
struct Fifo<const N: usize> {
    data: [u8; N],
    level: u8,
}

impl<const N: usize> Default for Fifo<N> {
    fn default() -> Self {
        Self { data: [0; N], level: 0 }
    }
}

mod as_text {
    pub(crate) fn save(value: &(u8, u8)) -> String {
        format!("{}-{}", value.0, value.1)
    }
    pub(crate) fn load(text: String) -> Result<(u8, u8), vmstate::LoadError> {
        let wrong = || vmstate::LoadError::Invalid("not a pair");
        let (a, b) = text.split_once('-').ok_or_else(wrong)?;
        Ok((a.parse().map_err(|_| wrong())?, b.parse().map_err(|_| wrong())?))
    }
}

#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "toy", version = 2, validate = Regs::check)]
struct Regs {
    control: u32,
    wide: u128,
    minus: i16,
    on: bool,
    mode: Mode,
    rx: Fifo<4>,
    banks: [Fifo<1>; 2],
    #[vmstate(max = 3)]
    queue: VecDeque<u16>,
    bytes: Vec<u8>,
    timer: Option<u64>,
    #[vmstate(with = as_text)]
    pair: (u8, u8),
    #[vmstate(section(when = Regs::has_extra))]
    extra: u64,
    #[vmstate(since = 2)]
    newer: u8,
    #[vmstate(until = 1)]
    older: u8,
    #[vmstate(skip)]
    cache: u32,
}

impl Regs {
    fn check(&self) -> Result<(), LoadError> {
        if self.control == 0xdead { Err(LoadError::Invalid("control")) } else { Ok(()) }
    }
    fn has_extra(&self) -> bool {
        self.extra != 0
    }
    fn sample() -> Self {
        Self {
            control: 7,
            wide: u128::MAX - 5,
            minus: -3,
            on: true,
            mode: Mode::Busy,
            rx: Fifo { data: [1, 2, 3, 4], level: 2 },
            queue: [1, 2, 3].into(),
            bytes: vec![9; 300],
            timer: Some(5),
            pair: (3, 4),
            extra: 8,
            newer: 1,
            ..Self::default()
        }
    }
}

fn save(regs: &Mutex<Regs>) -> Vec<u8> {
    let mut w = StateWriter::new();
    Migration::Saved(regs).write(&mut w).expect("not blocked");
    w.into_bytes()
}

fn load(regs: &Mutex<Regs>, bytes: &[u8]) -> Result<(), LoadError> {
    let mut r = StateReader::new(bytes);
    Migration::Saved(regs).read(&mut r)?;
    r.finish()
}

#[test]
fn round_trip_is_identical() {
    let from = Mutex::new(Regs::sample());
    let to = Mutex::new(Regs { cache: 99, ..Regs::default() });
    load(&to, &save(&from)).expect("loads");
    assert_eq!(*to.lock(), Regs::sample());
}

#[test]
fn broken_streams_leave_the_old_state() {
    let bytes = save(&Mutex::new(Regs::sample()));
    let regs = Mutex::new(Regs { control: 1, ..Regs::default() });
    for at in 0..bytes.len() {
        let before = regs.lock().clone();
        if load(&regs, &bytes[..at]).is_err() {
            assert_eq!(*regs.lock(), before);
        }
        for bit in 0..8 {
            let mut broken = bytes.clone();
            broken[at] ^= 1 << bit;
            let before = regs.lock().clone();
            if load(&regs, &broken).is_err_and(|e| !matches!(e, LoadError::Trailing(_))) {
                assert_eq!(*regs.lock(), before);
            }
        }
    }
}

#[test]
fn bounds_versions_and_validation_are_checked() {
    let regs = Mutex::new(Regs::default());
    let too_long = Mutex::new(Regs { queue: [0; 4].into(), ..Regs::default() });
    let error = load(&regs, &save(&too_long)).expect_err("too long");
    assert_eq!(error.to_string(), "toy.queue: 4 elements where at most 3 fit");
    let wrong = Mutex::new(Regs { control: 0xdead, ..Regs::default() });
    let error = load(&regs, &save(&wrong)).expect_err("invalid");
    assert_eq!(error.to_string(), "toy: invalid state: control");
    let mut newer = save(&regs);
    newer[5] = 9;
    assert_eq!(load(&regs, &newer).expect_err("version").to_string(), "toy: unknown version 9");
}

#[test]
fn schema_is_printed() {
    let text = Regs::schema().dump();
    assert!(text.starts_with("toy version 2 (reads 1)\n  control: u32\n"), "{text}");
    assert!(text.contains("  rx: Fifo\n    Fifo version 1\n      data: [u8; 4]\n"), "{text}");
    assert!(text.contains("  newer: u8, since 2\n  older: u8, until 1\n"), "{text}");
    assert!(text.contains("  mode: enum {Idle Busy}\n"), "{text}");
    assert!(text.contains("  pair: with as_text\n"), "{text}");
}

#[test]
fn parts_are_loaded_all_or_not() {
    let (a, b) =
        (Mutex::new(Regs::sample()), Mutex::new(Regs { control: 0xdead, ..Regs::default() }));
    let mut w = StateWriter::new();
    Migration::Parts(vec![("a", &a), ("b", &b)]).write(&mut w).expect("not blocked");
    let bytes = w.into_bytes();
    let (c, d) = (Mutex::new(Regs::default()), Mutex::new(Regs::default()));
    let parts = Migration::Parts(vec![("a", &c), ("b", &d)]);
    assert!(parts.read(&mut StateReader::new(&bytes)).is_err());
    assert_eq!(*c.lock(), Regs::default());
}
