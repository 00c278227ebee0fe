//! Stream table entries and context descriptors, checked and unpacked.
//!
//! What the ID registers do not announce (substreams, stalls, hardware updates) is an illegal
//! configuration, as in QEMU 10.0. Source: IHI 0070, 5.2 (STE) and 5.4 (CD).

use super::walk::{Granule, Stage, Walk};

/// Output bits that IDR5.OAS announces.
pub(crate) const OAS_BITS: u32 = 44;
/// Bits of stream identifiers that IDR1.SIDSIZE announces.
pub(crate) const SID_BITS: u32 = 16;

/// Stages that the machine's version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stages {
    pub(crate) one: bool,
    pub(crate) two: bool,
}

/// An illegal descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Illegal;

/// Stage 2 of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Second {
    pub(crate) walk: Walk,
    /// Faults are recorded.
    pub(crate) record: bool,
}

/// What a stream table entry asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// Requests end without a record.
    Abort,
    /// Requests go through.
    Bypass,
    /// Requests are translated; the address of the context descriptor, the machine.
    Translate { context: Option<u64>, second: Option<Second>, vmid: u16 },
}

fn field(word: u64, at: u32, bits: u32) -> u64 {
    word >> at & ((1u64 << bits) - 1)
}

fn address_bits(code: u64) -> u32 {
    match code {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        _ => OAS_BITS,
    }
    .min(OAS_BITS)
}

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Entry {
    /// Of the eight double words of an entry.
    pub(crate) fn of(ste: &[u64; 8], stages: Stages) -> Result<Entry, Illegal> {
        let [d0, d1, d2, d3, ..] = *ste;
        if d0 & 1 == 0 {
            return Err(Illegal);
        }
        let config = field(d0, 1, 3);
        if config & 4 == 0 {
            return Ok(Entry::Abort);
        }
        if config == 4 {
            return Ok(Entry::Bypass);
        }
        let (one, two) = (config & 1 != 0, config & 2 != 0);
        if one && !stages.one || two && !stages.two {
            return Err(Illegal);
        }
        let second = if two { Some(Second::of(d2, d3)?) } else { None };
        // S1CDMax: no substreams; S1STALLD: no stalls.
        if one && field(d0, 59, 5) != 0 || field(d1, 27, 1) != 0 {
            return Err(Illegal);
        }
        let context = one.then_some(d0 & 0x000f_ffff_ffff_ffc0);
        let vmid = if stages.two { u16::try_from(d2 & 0xffff).unwrap_or(0) } else { 0 };
        Ok(Entry::Translate { context, second, vmid })
    }
}

impl Second {
    fn of(d2: u64, d3: u64) -> Result<Second, Illegal> {
        let aarch64 = field(d2, 51, 1) != 0;
        let (big_endian, updates, stall) = (field(d2, 52, 1), field(d2, 55, 2), field(d2, 57, 1));
        if !aarch64 || big_endian != 0 || updates != 0 || stall != 0 {
            return Err(Illegal);
        }
        let granule = Granule::of_tg0(field(d2, 46, 2)).ok_or(Illegal)?;
        let out_bits = address_bits(field(d2, 48, 3));
        let tsz = small(field(d2, 32, 6));
        let bits = 64u32.saturating_sub(tsz);
        // SL0 counts from the last level but one: 2 with 4 KiB granules, 3 with others.
        let base_level = if granule.bits() == 12 { 2 } else { 3 };
        let level = base_level - small(field(d2, 38, 2)).min(base_level);
        // Up to 16 tables may be concatenated at the first level.
        let resolved = granule.bits() + (granule.bits() - 3) * (4 - level);
        let least = granule.bits() + (granule.bits() - 3) * (3 - level) + 1;
        let fits = (least..=resolved + 4).contains(&bits) && bits <= out_bits && tsz >= 16;
        if !fits || field(d2, 38, 2) == 3 {
            return Err(Illegal);
        }
        let base = d3 & 0x000f_ffff_ffff_fff0;
        if base >> out_bits != 0 {
            return Err(Illegal);
        }
        let walk = Walk {
            base,
            level,
            bits,
            granule,
            out_bits,
            stage: Stage::Two,
            no_flag_fault: field(d2, 53, 1) != 0,
        };
        Ok(Second { walk, record: field(d2, 58, 1) != 0 })
    }
}

/// A context: two ranges of addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Lower and upper range; `None`: walks are off.
    pub(crate) ranges: [Option<Walk>; 2],
    /// Bits of each range's size field.
    sizes: [u32; 2],
    /// The upper byte of addresses is ignored.
    ignore_top: [bool; 2],
    pub(crate) asid: u16,
    /// Faults are recorded.
    pub(crate) record: bool,
}

impl Context {
    /// Of the eight double words of a descriptor.
    pub(crate) fn of(cd: &[u64; 8]) -> Result<Context, Illegal> {
        let [d0, d1, d2, ..] = *cd;
        let (valid, aarch64) = (field(d0, 31, 1), field(d0, 41, 1));
        // A must be set (IDR0.TERM_MODEL), S must not (IDR0.STALL_MODEL), no hardware updates.
        let (updates, stall, abort) = (field(d0, 42, 2), field(d0, 44, 1), field(d0, 46, 1));
        if valid == 0 || aarch64 == 0 || updates != 0 || stall != 0 || abort == 0 {
            return Err(Illegal);
        }
        let out_bits = address_bits(field(d0, 32, 3));
        let flag = field(d0, 35, 1) != 0;
        let range = |low: u32, tables: u64| -> Result<(Option<Walk>, u32), Illegal> {
            let tsz = small(field(d0, low, 6));
            let off = field(d0, low + 14, 1) != 0;
            if off {
                return Ok((None, tsz));
            }
            let tg = field(d0, low + 6, 2);
            let granule = if low == 0 { Granule::of_tg0(tg) } else { Granule::of_tg1(tg) };
            let granule = granule.ok_or(Illegal)?;
            let big_endian = field(d0, 15, 1) != 0;
            if !(16..=39).contains(&tsz) || big_endian {
                return Err(Illegal);
            }
            let base = tables & 0x000f_ffff_ffff_fff0;
            if base >> out_bits != 0 {
                return Err(Illegal);
            }
            let bits = 64 - tsz;
            let had = tables & 2 != 0;
            let stage = Stage::One(had);
            let level = granule.start(bits);
            let walk = Walk { base, level, bits, granule, out_bits, stage, no_flag_fault: flag };
            Ok((Some(walk), tsz))
        };
        let (low, high) = (range(0, d1)?, range(16, d2)?);
        Ok(Context {
            ranges: [low.0, high.0],
            sizes: [low.1, high.1],
            ignore_top: [field(d0, 38, 1) != 0, field(d0, 39, 1) != 0],
            asid: u16::try_from(field(d0, 48, 16)).unwrap_or(0),
            record: field(d0, 45, 1) != 0,
        })
    }

    /// The walk of an address.
    pub(crate) fn range_of(&self, addr: u64) -> Option<&Walk> {
        let upper = addr >> 55 & 1 != 0;
        let at = usize::from(upper);
        let (size, ignore) = (*self.sizes.get(at)?, *self.ignore_top.get(at)?);
        // Sign extension from bit 55 stands for the byte that is ignored.
        let addr = match (ignore, upper) {
            (true, true) => addr | 0xff << 56,
            (true, false) => addr & !(0xff << 56),
            _ => addr,
        };
        let top = if size == 0 { 0 } else { addr >> 64u32.saturating_sub(size).min(63) };
        let ones = if size == 0 { 0 } else { u64::MAX >> 64u32.saturating_sub(size).min(63) };
        let belongs = if upper { top == ones } else { top == 0 };
        self.ranges.get(at)?.as_ref().filter(|_| belongs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Stages = Stages { one: true, two: true };

    #[test]
    fn entries_that_ask_for_what_is_not_there_are_illegal() {
        let entry = |d0: u64, d1: u64| Entry::of(&[d0, d1, 0, 0, 0, 0, 0, 0], BOTH);
        assert!(entry(0, 0).is_err());
        assert!(matches!(entry(1, 0), Ok(Entry::Abort)));
        assert!(matches!(entry(1 | 4 << 1, 0), Ok(Entry::Bypass)));
        let stage1 = entry(1 | 5 << 1 | 0x4000, 0).unwrap();
        assert!(matches!(stage1, Entry::Translate { context: Some(0x4000), second: None, .. }));
        assert!(entry(1 | 5 << 1 | 1 << 59, 0).is_err());
        assert!(entry(1 | 5 << 1, 1 << 27).is_err());
        assert!(entry(1 | 6 << 1, 0).is_err());
        let one = Stages { one: true, two: false };
        assert!(Entry::of(&[1 | 6 << 1, 0, 0, 0, 0, 0, 0, 0], one).is_err());
    }

    #[test]
    fn addresses_belong_to_one_range_or_none() {
        let d0 = 25 | 25 << 16 | 2 << 22 | 1 << 31 | 4 << 32 | 1 << 38 | 1 << 41 | 1 << 46;
        let context = Context::of(&[d0, 0x1000, 0x2000, 0, 0, 0, 0, 0]).unwrap();
        let base = |addr| context.range_of(addr).map(|w| w.base);
        assert_eq!(base(0), Some(0x1000));
        assert_eq!(base(1 << 38), Some(0x1000));
        assert_eq!(base(1 << 39), None);
        assert_eq!(base(0xab << 56), Some(0x1000));
        assert_eq!(base(u64::MAX), Some(0x2000));
        assert_eq!(base(0xff7f << 48), None);
    }
}
