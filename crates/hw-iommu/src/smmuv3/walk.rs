//! Translation tables of the VMSAv8-64 form, as an SMMU walks them for devices.
//!
//! One stage at a time: the caller says where tables lie and how a table's address becomes one in
//! memory (stage 2 under stage 1). Source: Arm ARM (DDI 0487), D8.3; IHI 0070, 3.4. Not modelled:
//! 52-bit addresses, hardware updates of flags, attributes of memory.

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// No mapping.
    Translation,
    /// An address beyond what the configuration allows.
    AddressSize,
    /// The access flag is clear.
    Access,
    /// The mapping does not allow the access.
    Permission,
    /// A table could not be read, at this address.
    Table(u64),
}

/// A translation granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granule(u32);

impl Granule {
    /// Of the field TG0 or S2TG.
    pub(crate) fn of_tg0(tg: u64) -> Option<Granule> {
        Some(Granule(match tg {
            0 => 12,
            1 => 16,
            2 => 14,
            _ => return None,
        }))
    }

    /// Of the field TG1 of a context descriptor.
    pub(crate) fn of_tg1(tg: u64) -> Option<Granule> {
        Some(Granule(match tg {
            1 => 14,
            2 => 12,
            3 => 16,
            _ => return None,
        }))
    }

    /// Of the field TG of a command; 0 is none.
    pub(crate) fn of_command(tg: u64) -> Option<Granule> {
        Some(Granule(match tg {
            1 => 12,
            2 => 14,
            3 => 16,
            _ => return None,
        }))
    }

    /// Address bits within a page.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Address bits that a level resolves.
    fn stride(self) -> u32 {
        self.0 - 3
    }

    /// Address bits below what a level resolves.
    fn shift(self, level: u32) -> u32 {
        self.0 + self.stride() * 3u32.saturating_sub(level)
    }

    /// The level where a walk of this many address bits starts.
    pub(crate) fn start(self, bits: u32) -> u32 {
        let above = bits.saturating_sub(self.0).max(1);
        4u32.saturating_sub(above.div_ceil(self.stride()).clamp(1, 4))
    }
}

/// Which rules descriptors follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Stage 1; `true`: tables' attributes are ignored.
    One(bool),
    /// Stage 2.
    Two,
}

/// What to walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Address of the first table.
    pub(crate) base: u64,
    /// Level of the first table.
    pub(crate) level: u32,
    /// Bits of input addresses.
    pub(crate) bits: u32,
    /// Granule.
    pub(crate) granule: Granule,
    /// Bits of output addresses.
    pub(crate) out_bits: u32,
    /// Rules.
    pub(crate) stage: Stage,
    /// A clear access flag is no fault.
    pub(crate) no_flag_fault: bool,
}

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Output address of the first byte.
    pub(crate) base: u64,
    /// log2 of its length.
    pub(crate) shift: u32,
    /// Reads are allowed.
    pub(crate) read: bool,
    /// Writes are allowed.
    pub(crate) write: bool,
    /// It belongs to all address spaces of its machine.
    pub(crate) global: bool,
}

const VALID: u64 = 1;
const TABLE: u64 = 2;
const ACCESS_FLAG: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const READ_ONLY: u64 = 1 << 7;
const TABLE_READ_ONLY: u64 = 1 << 62;

fn low_bits(value: u64, bits: u32) -> u64 {
    value & 1u64.checked_shl(bits).map_or(u64::MAX, |b| b - 1)
}

/// Walks for an input address (already without its upper bits). `load` reads a descriptor at an
/// address of the walk's output, or says why not.
pub(crate) fn walk<E: From<Why>>(
    w: &Walk,
    addr: u64,
    load: &mut dyn FnMut(u64) -> Result<u64, E>,
) -> Result<Leaf, E> {
    let g = w.granule;
    let (mut base, mut read_only) = (w.base, false);
    for level in w.level..=3 {
        let shift = g.shift(level);
        // The first table may be smaller, or several concatenated ones.
        let width = if level == w.level { w.bits.saturating_sub(shift) } else { g.stride() };
        let index = low_bits(addr >> shift, width.min(20));
        let at = base.wrapping_add(index * 8);
        let entry = load(at)?;
        let kind = entry & (VALID | TABLE);
        let next = low_bits(entry, 48) & !((1u64 << g.bits()) - 1);
        let is_leaf = match (kind, level) {
            (3, 3) => true,
            (3, _) => false,
            // Blocks: at levels 1 and 2 of 4 KiB granules, at level 2 of others.
            (1, 2) => true,
            (1, 1) if g.bits() == 12 => true,
            _ => return Err(Why::Translation.into()),
        };
        if next >> w.out_bits.min(63) != 0 {
            return Err(Why::AddressSize.into());
        }
        if !is_leaf {
            if w.stage == Stage::One(false) {
                read_only |= entry & TABLE_READ_ONLY != 0;
            }
            base = next;
            continue;
        }
        if entry & ACCESS_FLAG == 0 && !w.no_flag_fault {
            return Err(Why::Access.into());
        }
        let (read, write) = match w.stage {
            Stage::One(_) => (true, entry & READ_ONLY == 0 && !read_only),
            Stage::Two => (entry & 1 << 6 != 0, entry & 1 << 7 != 0),
        };
        let base = next & !((1u64 << shift) - 1);
        return Ok(Leaf { base, shift, read, write, global: entry & NOT_GLOBAL == 0 });
    }
    Err(Why::Translation.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn levels_follow_granule_and_size() {
        let start = |tg, bits| Granule::of_tg0(tg).unwrap().start(bits);
        assert_eq!([start(0, 48), start(0, 39), start(0, 30), start(0, 25)], [0, 1, 2, 2]);
        assert_eq!([start(1, 48), start(1, 42), start(1, 29)], [1, 2, 3]);
        assert_eq!([start(2, 48), start(2, 47), start(2, 36), start(2, 25)], [0, 1, 2, 3]);
    }

    #[test]
    fn a_page_and_a_block_are_found() {
        let mut tables = HashMap::new();
        tables.insert(0x1000 + 8, 0x2003u64);
        tables.insert(0x2000, 0x4000_0000 | ACCESS_FLAG | 1);
        tables.insert(0x2000 + 8, 0x3003);
        tables.insert(0x3000, 0x5000 | ACCESS_FLAG | READ_ONLY | NOT_GLOBAL | 3);
        let w = Walk {
            base: 0x1000,
            level: 1,
            bits: 39,
            granule: Granule::of_tg0(0).unwrap(),
            out_bits: 44,
            stage: Stage::One(false),
            no_flag_fault: false,
        };
        let mut load = |at| Ok::<u64, Why>(tables.get(&at).copied().unwrap_or(0));
        let block = walk(&w, 0x4000_1234, &mut load).unwrap();
        assert_eq!((block.base, block.shift, block.write), (0x4000_0000, 21, true));
        let page = walk(&w, 0x4020_0fff, &mut load).unwrap();
        assert_eq!((page.base, page.shift, page.write, page.global), (0x5000, 12, false, false));
        assert_eq!(walk(&w, 0, &mut load), Err(Why::Translation));
    }
}
