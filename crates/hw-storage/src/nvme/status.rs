//! Status codes (NVM Express Base 2.0, 3.3.3.2), as they are put into an answer without the phase:
//! code, type in bits 8 to 10, and in bit 14 that a retry makes no sense.
//!
//! Which code a mistake has is the peer's choice where the standard leaves one. Not here: retry
//! delays.

/// A status.
pub(super) type Status = u16;

const NO_RETRY: u16 = 1 << 14;
pub(super) const OK: Status = 0;
pub(super) const OPCODE: Status = NO_RETRY | 0x01;
pub(super) const FIELD: Status = NO_RETRY | 0x02;
pub(super) const FUSED: Status = 0x02;
pub(super) const TRANSFER: Status = NO_RETRY | 0x04;
pub(super) const INTERNAL: Status = 0x06;
pub(super) const NAMESPACE: Status = NO_RETRY | 0x0b;
pub(super) const SGL_SEGMENT: Status = NO_RETRY | 0x0d;
pub(super) const SGL_COUNT: Status = NO_RETRY | 0x0e;
pub(super) const SGL_LENGTH: Status = NO_RETRY | 0x0f;
pub(super) const SGL_TYPE: Status = NO_RETRY | 0x0d;
pub(super) const OFFSET: Status = NO_RETRY | 0x13;
pub(super) const RANGE: Status = NO_RETRY | 0x80;
pub(super) const NO_COMPLETION: Status = NO_RETRY | 0x100;
pub(super) const QUEUE: Status = NO_RETRY | 0x101;
pub(super) const QUEUE_SIZE: Status = NO_RETRY | 0x102;
pub(super) const TOO_MANY_EVENTS: Status = 0x105;
pub(super) const VECTOR: Status = NO_RETRY | 0x108;
pub(super) const IN_USE: Status = 0x10c;
pub(super) const NOT_CHANGEABLE: Status = NO_RETRY | 0x10e;
pub(super) const READ_ONLY: Status = NO_RETRY | 0x182;
pub(super) const WRITE_FAULT: Status = 0x280;
pub(super) const READ_ERROR: Status = 0x281;
pub(super) const DIFFERS: Status = NO_RETRY | 0x285;
