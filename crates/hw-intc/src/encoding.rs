//! Encodings of the system registers (IHI 0069, 12.2 and 12.4).

use cpu::encoding;

pub(crate) const PMR: u16 = encoding(3, 0, 4, 6, 0);
pub(crate) const IAR0: u16 = encoding(3, 0, 12, 8, 0);
pub(crate) const EOIR0: u16 = encoding(3, 0, 12, 8, 1);
pub(crate) const HPPIR0: u16 = encoding(3, 0, 12, 8, 2);
pub(crate) const BPR0: u16 = encoding(3, 0, 12, 8, 3);
pub(crate) const AP0R0: u16 = encoding(3, 0, 12, 8, 4);
pub(crate) const AP1R0: u16 = encoding(3, 0, 12, 9, 0);
pub(crate) const DIR: u16 = encoding(3, 0, 12, 11, 1);
pub(crate) const RPR: u16 = encoding(3, 0, 12, 11, 3);
pub(crate) const SGI1R: u16 = encoding(3, 0, 12, 11, 5);
pub(crate) const ASGI1R: u16 = encoding(3, 0, 12, 11, 6);
pub(crate) const SGI0R: u16 = encoding(3, 0, 12, 11, 7);
pub(crate) const IAR1: u16 = encoding(3, 0, 12, 12, 0);
pub(crate) const EOIR1: u16 = encoding(3, 0, 12, 12, 1);
pub(crate) const HPPIR1: u16 = encoding(3, 0, 12, 12, 2);
pub(crate) const BPR1: u16 = encoding(3, 0, 12, 12, 3);
pub(crate) const CTLR: u16 = encoding(3, 0, 12, 12, 4);
pub(crate) const SRE: u16 = encoding(3, 0, 12, 12, 5);
pub(crate) const IGRPEN0: u16 = encoding(3, 0, 12, 12, 6);
pub(crate) const IGRPEN1: u16 = encoding(3, 0, 12, 12, 7);
pub(crate) const SRE_EL2: u16 = encoding(3, 4, 12, 9, 5);
pub(crate) const CTLR_EL3: u16 = encoding(3, 6, 12, 12, 4);
pub(crate) const SRE_EL3: u16 = encoding(3, 6, 12, 12, 5);
pub(crate) const IGRPEN1_EL3: u16 = encoding(3, 6, 12, 12, 7);

pub(crate) const ICH_AP0R0: u16 = encoding(3, 4, 12, 8, 0);
pub(crate) const ICH_AP1R0: u16 = encoding(3, 4, 12, 9, 0);
pub(crate) const ICH_HCR: u16 = encoding(3, 4, 12, 11, 0);
pub(crate) const ICH_VTR: u16 = encoding(3, 4, 12, 11, 1);
pub(crate) const ICH_MISR: u16 = encoding(3, 4, 12, 11, 2);
pub(crate) const ICH_EISR: u16 = encoding(3, 4, 12, 11, 3);
pub(crate) const ICH_ELRSR: u16 = encoding(3, 4, 12, 11, 5);
pub(crate) const ICH_VMCR: u16 = encoding(3, 4, 12, 11, 7);
pub(crate) const ICH_LR0: u16 = encoding(3, 4, 12, 12, 0);
/// One past the last list register's encoding (ICH_LR15_EL2).
pub(crate) const ICH_LR_END: u16 = encoding(3, 4, 12, 13, 7) + 1;
