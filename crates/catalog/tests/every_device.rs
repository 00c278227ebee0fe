//! The conformance suite: everything that is registered, against what every device must do.
//!
//! A new device gets all of this by its line in `devices.rs`.

use device::{DeviceClass, Size};
use testbench::{BANK, Bench};

/// Accesses per device.
const ACCESSES: u32 = 10_000;
/// Bit flips per device.
const FLIPS: u32 = 2_000;

/// A small random number generator (xorshift64*), seeded by the device's name.
struct Random(u64);

impl Random {
    fn of(name: &str) -> Self {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

fn each(check: fn(&'static DeviceClass)) {
    for class in catalog::DEVICES {
        eprintln!("device {}", class.name);
        check(class);
    }
}

/// Random accesses to all banks, most of them near each other and aligned; time passes between.
fn disturb(bench: &Bench, random: &mut Random, accesses: u32) {
    let banks = u64::try_from(bench.record.regions.len()).unwrap_or(0);
    if banks == 0 {
        return;
    }
    for _ in 0..accesses {
        let number = random.below(banks);
        let region = usize::try_from(number).ok().and_then(|at| bench.record.regions.get(at));
        let len = region.map_or(1, device::Region::len);
        let size = [Size::B1, Size::B2, Size::B4, Size::B4, Size::B4, Size::B8]
            [usize::try_from(random.below(6)).unwrap_or(0)];
        let reach = if random.below(4) > 0 { len.min(0x100) } else { len };
        let mut offset = random.below(reach);
        if random.below(8) > 0 {
            offset &= !(size.bytes() - 1);
        }
        let address = number * BANK + offset;
        let value = match random.below(4) {
            0 => random.below(4),
            1 => 1 << random.below(64),
            2 => u64::MAX,
            _ => random.next(),
        };
        // A fault is a fine answer; a panic is not.
        if random.below(2) == 0 {
            _ = bench.try_read(address, size);
        } else {
            _ = bench.try_write(address, size, value);
        }
        if random.below(16) == 0 {
            bench.advance(random.below(3_000_000_000));
        }
        for input in &bench.record.irq_ins {
            if random.below(8) == 0 {
                let line = u32::try_from(random.below(u64::from(input.count))).unwrap_or(0);
                input.sink.set(line, random.below(2) == 0);
            }
        }
    }
}

fn levels(bench: &Bench) -> Vec<(String, bool)> {
    bench.record.irq_outs.iter().map(|(name, out)| (name.clone(), out.level())).collect()
}

#[test]
fn names_are_unique_and_help_is_complete() {
    each(|class| {
        let same = catalog::DEVICES.iter().filter(|other| other.name == class.name).count();
        assert_eq!(same, 1, "{} is registered twice", class.name);
        assert!(!class.summary.is_empty(), "{} has no summary", class.name);
        for member in (class.props)().members() {
            assert!(!member.doc.is_empty(), "{}.{} has no documentation", class.name, member.name);
        }
        let help = qapi::member_lines(class.name, (class.props)());
        assert!(help.contains(class.name), "{help}");
    });
}

#[test]
fn every_device_is_created_with_its_defaults() {
    each(|class| {
        let bench = Bench::of(class, "");
        assert_eq!(bench.record.class.name, class.name);
        assert!(Bench::try_of(class, "no-such-property=1").is_err(), "{}", class.name);
    });
}

#[test]
fn reset_twice_is_reset() {
    each(|class| {
        let bench = Bench::of(class, "");
        disturb(&bench, &mut Random::of(class.name), ACCESSES / 10);
        bench.reset();
        let once = bench.save();
        let lines = levels(&bench);
        bench.reset();
        assert_eq!(bench.save(), once, "{}", class.name);
        assert_eq!(levels(&bench), lines, "{}", class.name);
    });
}

#[test]
fn random_accesses_never_panic() {
    each(|class| {
        let bench = Bench::of(class, "");
        disturb(&bench, &mut Random::of(class.name), ACCESSES);
    });
}

#[test]
fn saved_state_comes_back_with_its_outputs() {
    each(|class| {
        let mut random = Random::of(class.name);
        for _ in 0..20 {
            let from = Bench::of(class, "");
            disturb(&from, &mut random, ACCESSES / 50);
            let bytes = from.save();
            let to = Bench::of(class, "");
            to.advance(from.world().clock.now_ns());
            to.load(&bytes).unwrap_or_else(|error| panic!("{}: {error}", class.name));
            assert_eq!(to.save(), bytes, "{}", class.name);
            assert_eq!(levels(&to), levels(&from), "{}", class.name);
        }
    });
}

#[test]
fn broken_streams_fail_cleanly() {
    each(|class| {
        let mut random = Random::of(class.name);
        let bench = Bench::of(class, "");
        disturb(&bench, &mut random, ACCESSES / 10);
        let good = bench.save();
        if good.is_empty() {
            return;
        }
        for round in 0..FLIPS {
            let mut bytes = good.clone();
            let at = usize::try_from(random.below(good.len() as u64)).unwrap_or(0);
            if round % 10 == 0 {
                bytes.truncate(at);
            } else if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
            let before = bench.save();
            match bench.load(&bytes) {
                Err(_) => assert_eq!(bench.save(), before, "{}: half loaded", class.name),
                Ok(()) => disturb(&bench, &mut random, 4),
            }
        }
    });
}
