//! The CPU interface's registers (IHI 0048B, 4.4).

use std::sync::Arc;

use device::{Access, BusFault, Mmio};

use super::{Candidate, CpuRegs, Gicv2, Regs};
use crate::SPURIOUS;

pub(super) const PRIORITY_MASK: u8 = 0xf8;
const PRIORITY_SHIFT: u32 = 3;
/// Smallest binary points for five bits.
pub(super) const MIN_BPR: [u8; 2] = [2, 3];
/// Pending, but of group 1 and not for this register.
const OTHER_GROUP: u32 = 1022;

const CTLR_ACKCTL: u32 = 1 << 2;
pub(super) const CTLR_FIQEN: u32 = 1 << 3;
const CTLR_CBPR: u32 = 1 << 4;
const CTLR_EOIMODE_S: u32 = 1 << 9;
const CTLR_EOIMODE_NS: u32 = 1 << 10;
/// GICC_IIDR: architecture version 2, implementer Arm.
pub(super) const IIDR: u32 = 0x0002_043b;

impl CpuRegs {
    fn running(&self) -> u8 {
        let all = self.apr[0] | self.apr[1];
        if all == 0 {
            return 0xff;
        }
        u8::try_from(all.trailing_zeros() << PRIORITY_SHIFT).unwrap_or(0xff)
    }

    fn group_priority(&self, c: &Candidate) -> u8 {
        let own = c.group1 && self.ctlr & CTLR_CBPR == 0;
        // 3.3.3: the binary point of group 1 counts one lower.
        let shift = if own { self.bpr[1] } else { self.bpr[0] + 1 };
        c.priority & u8::MAX.checked_shl(shift.into()).unwrap_or(0) & PRIORITY_MASK
    }

    pub(super) fn preempts(&self, c: &Candidate) -> bool {
        c.priority < self.pmr && self.group_priority(c) < self.running()
    }

    /// Takes the interrupt: GICC_IAR's value.
    fn activate(&mut self, c: &Candidate) -> u32 {
        let level = self.group_priority(c) >> PRIORITY_SHIFT;
        self.apr[usize::from(c.group1)] |= 1 << level;
        c.intid
    }

    /// 3.6.2: ends the highest active priority of either group.
    fn drop_priority(&mut self) -> bool {
        let all = self.apr[0] | self.apr[1];
        if all == 0 {
            return false;
        }
        let bit = all & all.wrapping_neg();
        self.apr = self.apr.map(|a| a & !bit);
        true
    }
}

/// What a register may see of the groups.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// Group 0, and group 1 if AckCtl says so.
    Both,
    /// Group 1 only.
    Group1,
}

impl Gicv2 {
    /// The interrupt a register shows, or the number that stands for none.
    fn visible(regs: &Regs, cpu: usize, sees: Sees) -> Result<Candidate, u32> {
        let Some(c) = regs.best(cpu) else { return Err(SPURIOUS) };
        let ackctl = regs.cpus.get(cpu).is_some_and(|r| r.ctlr & CTLR_ACKCTL != 0);
        match (sees, c.group1) {
            (Sees::Group1, true) | (Sees::Both, false) => Ok(c),
            (Sees::Group1, false) => Err(SPURIOUS),
            (Sees::Both, true) if ackctl => Ok(c),
            (Sees::Both, true) => Err(OTHER_GROUP),
        }
    }

    fn acknowledge(regs: &mut Regs, cpu: usize, sees: Sees) -> u32 {
        let c = match Gicv2::visible(regs, cpu, sees) {
            Ok(c) => c,
            Err(number) => return number,
        };
        let Some(r) = regs.cpus.get_mut(cpu) else { return SPURIOUS };
        if !r.preempts(&c) {
            return SPURIOUS;
        }
        let mut value = r.activate(&c);
        if let Some(sources) = r.sources.get_mut(c.intid as usize) {
            // An SGI: name the source, and stay pending for others.
            let source = sources.trailing_zeros().min(7);
            *sources &= !(1 << source);
            let more = *sources != 0;
            r.local.acknowledge(c.intid);
            r.local.latch |= u32::from(more) << c.intid;
            value |= source << 10;
        } else if let Some(word) = regs.word(cpu, c.intid) {
            word.acknowledge(c.intid & 31);
        }
        value
    }

    fn end(regs: &mut Regs, cpu: usize, ns: bool, value: u32) {
        let intid = value & 0x3ff;
        if intid >= 1020 {
            return;
        }
        let mode = if ns { CTLR_EOIMODE_NS } else { CTLR_EOIMODE_S };
        let Some(r) = regs.cpus.get_mut(cpu) else { return };
        if r.drop_priority() && r.ctlr & mode == 0 {
            Gicv2::deactivate(regs, cpu, intid);
        }
    }

    pub(super) fn deactivate(regs: &mut Regs, cpu: usize, intid: u32) {
        if let Some(word) = regs.word(cpu, intid) {
            word.deactivate(intid & 31);
        }
    }

    fn cpu_read(&self, at: Access) -> u32 {
        let mut regs = self.regs.lock();
        let (cpu, ns) = (self.cpu_of(at), self.is_non_secure(at));
        let own = if ns { Sees::Group1 } else { Sees::Both };
        let Some(r) = regs.cpus.get(cpu) else { return 0 };
        let shift = |p: u8| {
            if !ns {
                p
            } else if p < 0x80 {
                0
            } else {
                p << 1
            }
        };
        let value = match at.offset {
            0x00 if ns => (r.ctlr >> 1 & 1) | (r.ctlr >> 10 & 1) << 9,
            0x00 => r.ctlr,
            0x04 => shift(r.pmr).into(),
            0x08 if ns => r.bpr[1].into(),
            0x08 => r.bpr[0].into(),
            0x0c => Gicv2::acknowledge(&mut regs, cpu, own),
            0x14 if r.running() == 0xff => 0xff,
            0x14 => shift(r.running()).into(),
            0x18 => Gicv2::visible(&regs, cpu, own).map_or_else(|n| n, |c| c.intid),
            0x1c if !ns => r.bpr[1].into(),
            0x20 if !ns => Gicv2::acknowledge(&mut regs, cpu, Sees::Group1),
            0x28 if !ns => Gicv2::visible(&regs, cpu, Sees::Group1).map_or_else(|n| n, |c| c.intid),
            0xd0 if ns => r.apr[1],
            0xd0 => r.apr[0],
            0xe0 if !ns => r.apr[1],
            0xfc => IIDR,
            _ => 0,
        };
        self.update(&mut regs);
        value
    }

    fn cpu_write(&self, at: Access, value: u32) {
        let mut regs = self.regs.lock();
        let (cpu, ns) = (self.cpu_of(at), self.is_non_secure(at));
        let [byte, ..] = value.to_le_bytes();
        let Some(r) = regs.cpus.get_mut(cpu) else { return };
        match at.offset {
            0x00 if ns => {
                r.ctlr = (r.ctlr & !(2 | CTLR_EOIMODE_NS))
                    | (value & 1) << 1
                    | (value & CTLR_EOIMODE_S) << 1;
            }
            0x00 if self.security => r.ctlr = value & 0x7ff,
            0x00 => r.ctlr = value & 0x3ff,
            0x04 if ns => {
                if r.pmr >= 0x80 {
                    r.pmr = (byte >> 1 | 0x80) & PRIORITY_MASK;
                }
            }
            0x04 => r.pmr = byte & PRIORITY_MASK,
            0x08 if ns => r.bpr[1] = (byte & 7).max(MIN_BPR[1]),
            0x08 => r.bpr[0] = (byte & 7).max(MIN_BPR[0]),
            0x10 | 0x24 => Gicv2::end(&mut regs, cpu, ns, value),
            0x1c if !ns => r.bpr[1] = (byte & 7).max(MIN_BPR[1]),
            0xd0 if ns => r.apr[1] = value,
            0xd0 => r.apr[0] = value,
            0xe0 if !ns => r.apr[1] = value,
            0x1000 => Gicv2::deactivate(&mut regs, cpu, value & 0x3ff),
            _ => trace::guest_error!("gic_cpu: write to offset {:#x} ignored", at.offset),
        }
        self.update(&mut regs);
    }
}

/// The CPU interface's register frame.
pub(super) struct Frame(pub(super) Arc<Gicv2>);

impl Mmio for Frame {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        Ok(self.0.cpu_read(at).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        self.0.cpu_write(at, u32::try_from(value & 0xffff_ffff).unwrap_or(0));
        Ok(())
    }
}
