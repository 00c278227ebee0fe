//! The command queue: invalidation and synchronisation.
//!
//! Source: IHI 0070, 4 (commands) and 3.5 (queues). Commands for what the ID registers do not
//! announce are taken or refused as QEMU 10.0 does.

use super::events::{index_mask, queue_size};
use super::tlb::{Cache, Scope};
use super::walk::Granule;
use super::{CMDQ_ENABLE, Regs, Smmu, gerror, line};

const COMMAND: u64 = 16;
/// Where CMDQ_CONS says what was wrong.
const ERROR_SHIFT: u32 = 24;
const ERROR_MASK: u32 = 0x7f << ERROR_SHIFT;

/// What can be wrong with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Illegal = 1,
    Abort = 2,
}

fn field(word: u64, at: u32, bits: u32) -> u64 {
    word >> at & ((1u64 << bits) - 1)
}

fn half(value: u64) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

impl Smmu {
    /// Carries out what is in the queue.
    pub(crate) fn consume(&self, regs: &mut Regs) {
        // A guest may move the producer meanwhile only through `regs`, which is held; so there is
        // an end.
        loop {
            let failed = (regs.gerror ^ regs.gerrorn) & gerror::CMDQ != 0;
            if regs.cr0 & CMDQ_ENABLE == 0 || failed {
                return;
            }
            let log2 = queue_size(regs.cmdq_base);
            let mask = index_mask(log2);
            let cons = regs.cmdq_cons & mask;
            if cons == regs.cmdq_prod & mask {
                return;
            }
            let base = regs.cmdq_base & 0x000f_ffff_ffff_ffe0 & !((COMMAND << log2) - 1).max(0x1f);
            let at = base + u64::from(cons & ((1 << log2) - 1)) * COMMAND;
            let command = self.load(at).zip(self.load(at + 8));
            let done = match command {
                None => Err(Wrong::Abort),
                Some((d0, d1)) => self.command(d0, d1),
            };
            if let Err(wrong) = done {
                regs.cmdq_cons = regs.cmdq_cons & !ERROR_MASK | (wrong as u32) << ERROR_SHIFT;
                self.raise_error(regs, gerror::CMDQ);
                return;
            }
            regs.cmdq_cons = regs.cmdq_cons & !mask | cons.wrapping_add(1) & mask;
        }
    }

    fn command(&self, d0: u64, d1: u64) -> Result<(), Wrong> {
        let secure = field(d0, 10, 1) != 0;
        let sid = u32::try_from(d0 >> 32).unwrap_or(0);
        let mut cache = self.cache.lock();
        match d0 & 0xff {
            // Prefetches are hints.
            0x01 | 0x02 => {}
            0x03 | 0x05 | 0x06 if secure => return Err(Wrong::Illegal),
            0x03 | 0x05 | 0x06 => cache.forget_streams(sid, sid),
            0x04 if secure => return Err(Wrong::Illegal),
            0x04 => {
                // 2^(Range + 1) streams, aligned.
                let count = 1u64 << (field(d1, 0, 5) + 1);
                let first = u64::from(sid) & !(count - 1);
                let last = u32::try_from(first + count - 1).unwrap_or(u32::MAX);
                cache.forget_streams(u32::try_from(first).unwrap_or(0), last);
            }
            0x10..=0x13 if !self.stages.one => return Err(Wrong::Illegal),
            0x10..=0x13 => self.forget_stage1(&mut cache, d0, d1),
            0x30 => cache.forget(Scope::All),
            0x28 | 0x2a if !self.stages.two => return Err(Wrong::Illegal),
            0x28 => {
                let vmid = half(field(d0, 32, 16));
                cache.forget(Scope::Machine { vmid, stage1_only: false });
            }
            0x2a => {
                let (first, pages, page_bits) = range(d0, d1);
                let vmid = half(field(d0, 32, 16));
                cache.forget(Scope::Second { vmid, first, pages, page_bits });
            }
            // Other exception levels, translation services, page requests, stalls: nothing is there.
            0x18 | 0x1a | 0x20..=0x23 | 0x40 | 0x41 | 0x44 | 0x45 => {}
            0x46 => {
                // 1: an interrupt; 2: an event, which CPUs do not wait for here.
                if field(d0, 12, 2) == 1 {
                    self.lines.pulse(line::SYNC);
                }
            }
            _ => return Err(Wrong::Illegal),
        }
        Ok(())
    }

    fn forget_stage1(&self, cache: &mut Cache, d0: u64, d1: u64) {
        let vmid = if self.stages.two { half(field(d0, 32, 16)) } else { 0 };
        let asid = half(field(d0, 48, 16));
        let (first, pages, page_bits) = range(d0, d1);
        let by = |asid| Scope::Range { vmid, asid, first, pages, page_bits };
        cache.forget(match d0 & 0xff {
            0x10 => Scope::Machine { vmid, stage1_only: true },
            0x11 => Scope::Space { vmid, asid },
            0x12 => by(Some(asid)),
            _ => by(None),
        });
    }
}

/// First address, pages and bits of a page that a command is about (4.4.1.1).
fn range(d0: u64, d1: u64) -> (u64, u64, u32) {
    let addr = d1 & !0xfff;
    match Granule::of_command(field(d1, 10, 2)) {
        None => (addr, 1, 12),
        Some(granule) => {
            let pages = (field(d0, 12, 5) + 1) << field(d0, 20, 5);
            (addr, pages, granule.bits())
        }
    }
}
