//! Fields of commands: addresses and lengths of the reading and writing ones.
//!
//! Numbers are big-endian; where they are depends on the command's group (its top three bits).
//! Not here: fields of other commands, which are named where they are used.
//! Source: SPC-5, 4.2.5; SBC-4, 5.

/// A big-endian number of up to eight bytes; bytes that are not there count as zero.
pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    (at..at + len).fold(0, |n, at| n << 8 | u64::from(bytes.get(at).copied().unwrap_or(0)))
}

/// First block and number of blocks of a command that has them.
pub(crate) fn extent(cdb: &[u8; 32]) -> (u64, u64) {
    match cdb[0] >> 5 {
        0 => {
            let count = u64::from(cdb[4]);
            (number(cdb, 1, 3) & 0x1f_ffff, if count == 0 { 256 } else { count })
        }
        1 | 2 => (number(cdb, 2, 4), number(cdb, 7, 2)),
        4 => (number(cdb, 2, 8), number(cdb, 10, 4)),
        5 => (number(cdb, 2, 4), number(cdb, 6, 4)),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_of_all_groups() {
        let of = |bytes: &[u8]| {
            let mut cdb = [0; 32];
            cdb[..bytes.len()].copy_from_slice(bytes);
            extent(&cdb)
        };
        assert_eq!(of(&[0x08, 0xff, 1, 2, 0, 0]), (0x1f_0102, 256));
        assert_eq!(of(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6]), (0x0102_0304, 0x0506));
        assert_eq!(of(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8]), (0x0102_0304, 0x0506_0708));
        assert_eq!(of(&[0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]), (1 << 32, 9));
        assert_eq!(number(&[1], 0, 2), 0x100);
    }
}
