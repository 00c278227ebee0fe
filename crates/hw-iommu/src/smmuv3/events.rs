//! Event records and the queue they go to, and global errors.
//!
//! Source: IHI 0070, 7.2 (event queue), 7.3 (records), 7.5 (global errors), 3.5 (queues).

use super::{Regs, Smmu, gerror, line};

/// Classes of faults: what was being accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A context descriptor.
    Context = 0,
    /// A translation table.
    Table = 1,
    /// The address of the request.
    Input = 2,
}

/// A fault of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: u8,
    pub(crate) class: Class,
    pub(crate) stage2: bool,
    /// Intermediate address, of faults of stage 2.
    pub(crate) ipa: u64,
}

// Types of records.
pub(crate) const BAD_STREAM_ID: u8 = 0x02;
pub(crate) const STE_FETCH: u8 = 0x03;
pub(crate) const BAD_STE: u8 = 0x04;
pub(crate) const CD_FETCH: u8 = 0x09;
pub(crate) const BAD_CD: u8 = 0x0a;
pub(crate) const WALK_ABORT: u8 = 0x0b;
pub(crate) const TRANSLATION: u8 = 0x10;
pub(crate) const ADDRESS_SIZE: u8 = 0x11;
pub(crate) const ACCESS: u8 = 0x12;
pub(crate) const PERMISSION: u8 = 0x13;

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The configuration is bad.
    Config { kind: u8 },
    /// A structure could not be read, at this address.
    Fetch { kind: u8, at: u64 },
    /// A table could not be read, at this address.
    Walk { class: Class, stage2: bool, at: u64 },
    /// The translation failed.
    Fault(Fault),
}

impl Event {
    /// The record of a request.
    pub(crate) fn record(&self, sid: u16, addr: u64, write: bool) -> [u64; 4] {
        let head = |kind: u8| u64::from(kind) | u64::from(sid) << 32;
        // RnW, stage and class in the second double word.
        let flags = |class: Class, stage2: bool| {
            u64::from(!write) << 35 | u64::from(stage2) << 39 | (class as u64) << 40
        };
        match *self {
            Event::Config { kind } => [head(kind), 0, 0, 0],
            Event::Fetch { kind, at } => [head(kind), 0, 0, at],
            Event::Walk { class, stage2, at } => [head(WALK_ABORT), flags(class, stage2), addr, at],
            Event::Fault(fault) => {
                let ipa = fault.ipa & 0x000f_ffff_ffff_f000;
                [head(fault.kind), flags(fault.class, fault.stage2), addr, ipa]
            }
        }
    }
}

const RECORD: u64 = 32;
/// The queue's owner missed some.
const OVERFLOW: u32 = 1 << 31;

/// Index bits of a queue, with the wrap bit.
pub(crate) fn index_mask(log2: u32) -> u32 {
    (1u32 << (log2 + 1)) - 1
}

/// log2 of the entries of a queue whose base register this is.
pub(crate) fn queue_size(base: u64) -> u32 {
    /// What IDR1 announces.
    const MOST: u64 = 19;
    u32::try_from((base & 0x1f).min(MOST)).unwrap_or(0)
}

impl Smmu {
    /// Puts a record into the queue. Interrupt lines may be driven with locks held.
    pub(crate) fn record(&self, record: [u64; 4]) {
        let mut regs = self.regs.lock();
        if regs.cr0 & super::EVENTQ_ENABLE == 0 {
            return;
        }
        let log2 = queue_size(regs.eventq_base);
        let mask = index_mask(log2);
        let (prod, cons) = (regs.eventq_prod & mask, regs.eventq_cons & mask);
        if prod ^ cons == 1 << log2 {
            if (regs.eventq_prod ^ regs.eventq_cons) & OVERFLOW == 0 {
                regs.eventq_prod ^= OVERFLOW;
            }
            return;
        }
        let base = regs.eventq_base & 0x000f_ffff_ffff_ffe0 & !((RECORD << log2) - 1);
        let at = base + u64::from(prod & ((1 << log2) - 1)) * RECORD;
        let bytes: Vec<u8> = record.iter().flat_map(|word| word.to_le_bytes()).collect();
        if self.store(at, &bytes).is_none() {
            self.raise_error(&mut regs, gerror::EVENTQ_ABORT);
            return;
        }
        regs.eventq_prod = regs.eventq_prod & OVERFLOW | prod.wrapping_add(1) & mask;
        if regs.irq_ctrl & super::IRQ_EVENTQ != 0 {
            self.lines.pulse(line::EVENTQ);
        }
    }

    /// Toggles errors that are not there yet.
    pub(crate) fn raise_error(&self, regs: &mut Regs, errors: u32) {
        let active = regs.gerror ^ regs.gerrorn;
        let new = errors & !active;
        if new == 0 {
            return;
        }
        regs.gerror ^= new;
        if regs.irq_ctrl & super::IRQ_GERROR != 0 {
            self.lines.pulse(line::GERROR);
        }
    }
}
