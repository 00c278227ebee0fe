//! Memory attributes of the two stages together (Arm ARM D8.6, "Memory region attributes").
//!
//! An attribute is a byte as MAIR_ELx has it: high nibble outer, low nibble inner cacheability; with a
//! high nibble of 0 Device memory, whose kind is in bits 3:2 (nGnRnE, nGnRE, nGRE, GRE).

/// Inner and outer non-cacheable.
const NON_CACHEABLE: u8 = 0x44;

/// Whether it is Device memory.
#[must_use]
pub fn is_device(attr: u8) -> bool {
    attr & 0xf0 == 0
}

/// MemAttr\[3:0\] of a stage 2 descriptor without FEAT_S2FWB as an attribute byte.
#[must_use]
pub fn of_stage2(memattr: u8) -> u8 {
    let nibble = |kind: u8| match kind {
        1 => 4,   // non-cacheable
        2 => 0xa, // write-through
        3 => 0xf, // write-back
        _ => 0,
    };
    match memattr >> 2 & 3 {
        0 => (memattr & 3) << 2,
        outer => nibble(outer) << 4 | nibble(memattr & 3),
    }
}

/// One nibble of normal memory: the weaker cacheability, the hints of stage 1.
fn weaker(one: u8, two: u8) -> u8 {
    let through = |n: u8| n & 0xc == 0 || n & 0xc == 8;
    if one == 4 || two == 4 {
        4
    } else if through(one) {
        one
    } else if two >> 2 & 3 == 2 {
        8 | one & 3
    } else {
        one
    }
}

/// Both stages, without FEAT_S2FWB.
#[must_use]
pub fn combine(one: u8, two: u8) -> u8 {
    // Tagged normal memory is write-back as long as nothing weakens it.
    let tagged = one == 0xf0;
    let base = if tagged { 0xff } else { one };
    let both = match (is_device(base), is_device(two)) {
        (true, true) => base.min(two) & 0xc,
        (true, false) => base & 0xc,
        (false, true) => two & 0xc,
        (false, false) => weaker(base >> 4, two >> 4) << 4 | weaker(base & 15, two & 15),
    };
    if tagged && both == 0xff { 0xf0 } else { both }
}

/// Both stages with FEAT_S2FWB; `memattr` is MemAttr\[3:0\] of stage 2.
#[must_use]
pub fn forced(one: u8, memattr: u8) -> u8 {
    match memattr & 7 {
        // Device: the stricter kind if stage 1 is Device too.
        kind @ 0..=3 => {
            let two = kind << 2;
            if is_device(one) { one.min(two) & 0xc } else { two }
        }
        5 => {
            if is_device(one) {
                one
            } else {
                NON_CACHEABLE
            }
        }
        // Write-back whatever stage 1 says, with its hints where it has some.
        6 => {
            let nibble = |n: u8| if n & 0xc == 0 || n == 4 { 0xf } else { 0xc | n & 3 };
            if is_device(one) || one == NON_CACHEABLE || one == 0xf0 {
                0xff
            } else {
                nibble(one >> 4) << 4 | nibble(one & 15)
            }
        }
        _ => one,
    }
}

/// Shareability of both stages: outer before inner before none.
#[must_use]
pub fn share(one: u8, two: u8) -> u8 {
    if one == 2 || two == 2 {
        2
    } else if one == 3 || two == 3 {
        3
    } else {
        0
    }
}

/// SH of PAR_EL1: what is not cacheable is outer shareable.
#[must_use]
pub fn shown_share(attr: u8, share: u8) -> u8 {
    if is_device(attr) || attr == NON_CACHEABLE { 2 } else { share }
}
