//! The query table of a flash chip (JEDEC JESD68.01, "Common Flash Interface").
//!
//! Values are those that QEMU 10.0 shows for the banks of `virt`; sizes follow the
//! bank's geometry. Not here: the vendor's table beyond its header and the two
//! bytes that a driver needs (no optional features). Addresses are in units of the
//! chip's width.

/// Bytes of the table.
const TABLE: usize = 0x52;

/// Shape of one chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chip {
    /// Bytes of the chip; a power of two.
    pub(crate) len: u64,
    /// Erase blocks.
    pub(crate) blocks: u32,
    /// Bytes of an erase block.
    pub(crate) block_len: u64,
    /// Bytes of the write buffer; a power of two.
    pub(crate) buffer: u64,
}

fn log2(value: u64) -> u8 {
    u8::try_from(value.checked_ilog2().unwrap_or(0)).unwrap_or(0)
}

/// The table from address 0 on.
pub(crate) fn table(chip: &Chip) -> Vec<u8> {
    let mut t = vec![0; TABLE];
    let mut put = |at: usize, bytes: &[u8]| {
        t.iter_mut().skip(at).zip(bytes).for_each(|(slot, byte)| *slot = *byte);
    };
    put(0x10, b"QRY");
    // Command set 1 (Intel), its table at 0x31; no alternative.
    put(0x13, &[1, 0, 0x31, 0]);
    // Vcc 4.5 to 5.5 V; no Vpp pin.
    put(0x1b, &[0x45, 0x55, 0, 0]);
    // Typical times as powers of two: word and buffer in us, block erase in ms.
    put(0x1f, &[7, 7, 10, 0]);
    // Longest times as multiples of these, as powers of two.
    put(0x23, &[4, 4, 4, 0]);
    // Length, interface of x8 and x16 chips, write buffer.
    put(0x27, &[log2(chip.len), 2, 0, log2(chip.buffer), 0]);
    let last = chip.blocks.wrapping_sub(1).to_le_bytes();
    let units = (chip.block_len >> 8).to_le_bytes();
    put(0x2c, &[1, last[0], last[1], units[0], units[1]]);
    put(0x31, b"PRI10");
    put(0x3f, &[1]);
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_is_told() {
        let t = table(&Chip { len: 32 << 20, blocks: 256, block_len: 128 << 10, buffer: 2048 });
        assert_eq!(t[0x10..0x17], *b"QRY\x01\x00\x31\x00");
        assert_eq!(t[0x27..0x31], [25, 2, 0, 11, 0, 1, 0xff, 0, 0, 2]);
        assert_eq!(t[0x31..0x36], *b"PRI10");
    }
}
