//! The virtual CPU interface: list registers and ICV registers (IHI 0069, 6).
//! GICv2 translates its own, narrower registers to these.
//!
//! EL2 fills list registers through ICH registers; EL1 sees them through the
//! ICV registers at the encodings of the ICC ones while HCR_EL2 redirects them.

use derive::VmState;

use crate::{SPURIOUS, encoding as e};

/// Number of list registers.
const LISTS: usize = 4;
/// Preemption levels kept: five bits of priority.
const PRIORITY_SHIFT: u32 = 3;
/// Smallest binary points for five bits.
const MIN_BPR0: u64 = 2;
const MIN_BPR1: u64 = 3;

const LR_PENDING: u64 = 1 << 62;
const LR_ACTIVE: u64 = 1 << 63;
const LR_HW: u64 = 1 << 61;
const LR_GROUP1: u64 = 1 << 60;
const LR_EOI: u64 = 1 << 41;

const HCR_EN: u64 = 1 << 0;
const HCR_MASK: u64 = 0xf800_7cff;
const HCR_EOI_SHIFT: u32 = 27;

const VMCR_ENG0: u64 = 1 << 0;
const VMCR_ENG1: u64 = 1 << 1;
const VMCR_FIQEN: u64 = 1 << 3;
const VMCR_CBPR: u64 = 1 << 4;
const VMCR_EOIM: u64 = 1 << 9;
const VMCR_MASK: u64 = 0xff | 0xff << 24 | 0xfc << 16 | VMCR_EOIM;

/// What the physical side must do after a virtual access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Nothing,
    /// Deactivate the physical interrupt behind a list register.
    Deactivate(u32),
}

#[derive(Clone, Default, VmState)]
#[vmstate(name = "gic-virt", version = 1)]
pub(crate) struct Virt {
    hcr: u64,
    vmcr: u64,
    apr: [u32; 2],
    lr: [u64; LISTS],
}

impl Virt {
    fn state(lr: u64) -> u64 {
        lr & (LR_PENDING | LR_ACTIVE)
    }

    fn lr_priority(lr: u64) -> u8 {
        lr.to_le_bytes()[6] & 0xf8
    }

    fn group(lr: u64) -> usize {
        usize::from(lr & LR_GROUP1 != 0)
    }

    fn vintid(lr: u64) -> u32 {
        let [a, b, c, d, ..] = lr.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn pintid(lr: u64) -> u32 {
        u32::try_from((lr >> 32) & 0x3ff).unwrap_or(SPURIOUS)
    }

    fn pmr(&self) -> u8 {
        self.vmcr.to_le_bytes()[3]
    }

    fn bpr(&self, group: usize) -> u64 {
        let bpr0 = ((self.vmcr >> 21) & 7).max(MIN_BPR0);
        if group == 0 {
            bpr0
        } else if self.vmcr & VMCR_CBPR != 0 {
            (bpr0 + 1).min(7)
        } else {
            ((self.vmcr >> 18) & 7).max(MIN_BPR1)
        }
    }

    fn group_priority(&self, priority: u8, group: usize) -> u8 {
        let point = self.bpr(group) + u64::from(group == 0);
        u8::try_from(u64::from(priority) & (0xff << point.min(8)) & 0xff).unwrap_or(0)
    }

    fn running(&self) -> u8 {
        let all = self.apr[0] | self.apr[1];
        if all == 0 {
            return 0xff;
        }
        u8::try_from(all.trailing_zeros() << PRIORITY_SHIFT).unwrap_or(0xff)
    }

    /// The list register with the most important pending interrupt of an enabled group.
    fn pending(&self) -> Option<usize> {
        if self.hcr & HCR_EN == 0 {
            return None;
        }
        let enabled = [self.vmcr & VMCR_ENG0 != 0, self.vmcr & VMCR_ENG1 != 0];
        let open = |lr: u64| Self::state(lr) == LR_PENDING && enabled[Self::group(lr)];
        let lists = self.lr.iter().enumerate().filter(|(_, lr)| open(**lr));
        lists.min_by_key(|(_, lr)| Self::lr_priority(**lr)).map(|(i, _)| i)
    }

    fn preempting(&self) -> Option<usize> {
        self.pending().filter(|i| {
            let lr = self.lr.get(*i).copied().unwrap_or(0);
            let priority = Self::lr_priority(lr);
            priority < self.pmr() && self.group_priority(priority, Self::group(lr)) < self.running()
        })
    }

    /// Levels of the virtual IRQ and FIQ.
    pub(crate) fn lines(&self) -> (bool, bool) {
        let Some(lr) = self.preempting().and_then(|i| self.lr.get(i)) else {
            return (false, false);
        };
        let fiq = Self::group(*lr) == 0 && self.vmcr & VMCR_FIQEN != 0;
        (!fiq, fiq)
    }

    fn eisr(&self) -> u64 {
        let done = |lr: u64| Self::state(lr) == 0 && lr & LR_HW == 0 && lr & LR_EOI != 0;
        self.lr.iter().enumerate().filter(|(_, lr)| done(**lr)).fold(0, |v, (i, _)| v | 1 << i)
    }

    fn elrsr(&self) -> u64 {
        let free = |lr: u64| Self::state(lr) == 0 && (lr & LR_HW != 0 || lr & LR_EOI == 0);
        self.lr.iter().enumerate().filter(|(_, lr)| free(**lr)).fold(0, |v, (i, _)| v | 1 << i)
    }

    /// ICH_MISR_EL2: why maintenance is asked for.
    fn misr(&self) -> u64 {
        let on = |bit: u32| self.hcr & (1 << bit) != 0;
        let valid = self.lr.iter().filter(|lr| Self::state(**lr) != 0).count();
        let any_pending = self.lr.iter().any(|lr| Self::state(*lr) == LR_PENDING);
        let groups = [self.vmcr & VMCR_ENG0 != 0, self.vmcr & VMCR_ENG1 != 0];
        let reasons = [
            self.eisr() != 0,
            on(1) && valid <= 1,
            on(2) && self.hcr >> HCR_EOI_SHIFT != 0,
            on(3) && !any_pending,
            on(4) && groups[0],
            on(5) && !groups[0],
            on(6) && groups[1],
            on(7) && !groups[1],
        ];
        (0..).zip(reasons).filter(|(_, r)| *r).fold(0, |v, (i, _): (u32, _)| v | 1 << i)
    }

    /// Level of the maintenance interrupt.
    pub(crate) fn maintenance(&self) -> bool {
        self.hcr & HCR_EN != 0 && self.misr() != 0
    }

    /// Reads an ICH register.
    pub(crate) fn ich_read(&self, reg: u16) -> Option<u64> {
        Some(match reg {
            e::ICH_HCR => self.hcr,
            // 5 priority and preemption bits, 16 ID bits, A3V, no direct injection.
            e::ICH_VTR => 4 << 29 | 4 << 26 | 1 << 21 | 1 << 20 | (LISTS as u64 - 1),
            e::ICH_MISR => self.misr(),
            e::ICH_EISR => self.eisr(),
            e::ICH_ELRSR => self.elrsr(),
            e::ICH_VMCR => self.vmcr,
            e::ICH_AP0R0 => self.apr[0].into(),
            e::ICH_AP1R0 => self.apr[1].into(),
            e::ICH_LR0..e::ICH_LR_END => *self.lr.get(usize::from(reg - e::ICH_LR0))?,
            _ => return None,
        })
    }

    /// Writes an ICH register.
    pub(crate) fn ich_write(&mut self, reg: u16, value: u64) -> bool {
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match reg {
            e::ICH_HCR => self.hcr = value & HCR_MASK,
            e::ICH_VMCR => self.set_vmcr(value),
            e::ICH_AP0R0 => self.apr[0] = low,
            e::ICH_AP1R0 => self.apr[1] = low,
            e::ICH_LR0..e::ICH_LR_END => {
                match self.lr.get_mut(usize::from(reg - e::ICH_LR0)) {
                    // Unimplemented priority bits read as zero.
                    Some(lr) => *lr = value & !(7 << 48),
                    None => return false,
                }
            }
            _ => return false,
        }
        true
    }

    fn set_vmcr(&mut self, value: u64) {
        let bpr0 = ((value >> 21) & 7).max(MIN_BPR0);
        let bpr1 = ((value >> 18) & 7).max(MIN_BPR1);
        self.vmcr = (value & VMCR_MASK & !(0x3f << 18) & !(7 << 24)) | bpr0 << 21 | bpr1 << 18;
    }

    /// Reads an ICV register at its ICC encoding.
    pub(crate) fn icv_read(&mut self, reg: u16) -> Option<u64> {
        let bit = |n: u32| (self.vmcr >> n) & 1;
        Some(match reg {
            e::PMR => self.pmr().into(),
            e::BPR0 => self.bpr(0),
            e::BPR1 => self.bpr(1),
            e::IGRPEN0 => bit(0),
            e::IGRPEN1 => bit(1),
            e::AP0R0 => self.apr[0].into(),
            e::AP1R0 => self.apr[1].into(),
            e::RPR => self.running().into(),
            // A3V, five priority bits, EOImode, CBPR.
            e::CTLR => 1 << 15 | 4 << 8 | bit(9) << 1 | bit(4),
            e::HPPIR0 => self.highest(0).into(),
            e::HPPIR1 => self.highest(1).into(),
            e::IAR0 => self.acknowledge(0).into(),
            e::IAR1 => self.acknowledge(1).into(),
            _ => return None,
        })
    }

    fn highest(&self, group: usize) -> u32 {
        let lr = self.pending().and_then(|i| self.lr.get(i).copied());
        lr.filter(|lr| Self::group(*lr) == group).map_or(SPURIOUS, Self::vintid)
    }

    fn acknowledge(&mut self, group: usize) -> u32 {
        let Some(index) = self.preempting() else { return SPURIOUS };
        let lr = self.lr.get(index).copied().unwrap_or(0);
        if Self::group(lr) != group {
            return SPURIOUS;
        }
        let level = self.group_priority(Self::lr_priority(lr), group) >> PRIORITY_SHIFT;
        if let Some(apr) = self.apr.get_mut(group) {
            *apr |= 1 << level;
        }
        if let Some(slot) = self.lr.get_mut(index) {
            *slot = (*slot & !LR_PENDING) | LR_ACTIVE;
        }
        Self::vintid(lr)
    }

    /// Writes an ICV register at its ICC encoding; `None` when there is none.
    pub(crate) fn icv_write(&mut self, reg: u16, value: u64) -> Option<After> {
        let low = u32::try_from(value & 0xff_ffff).unwrap_or(0);
        let field = |vmcr: u64, shift: u32, mask: u64, value: u64| {
            (vmcr & !(mask << shift)) | (value & mask) << shift
        };
        match reg {
            e::PMR => self.vmcr = field(self.vmcr, 24, 0xff, value & 0xf8),
            e::BPR0 => self.set_vmcr(field(self.vmcr, 21, 7, value)),
            e::BPR1 if self.vmcr & VMCR_CBPR == 0 => {
                self.set_vmcr(field(self.vmcr, 18, 7, value));
            }
            e::BPR1 => {}
            e::IGRPEN0 => self.vmcr = field(self.vmcr, 0, 1, value),
            e::IGRPEN1 => self.vmcr = field(self.vmcr, 1, 1, value),
            e::AP0R0 => self.apr[0] = u32::try_from(value & 0xffff_ffff).unwrap_or(0),
            e::AP1R0 => self.apr[1] = u32::try_from(value & 0xffff_ffff).unwrap_or(0),
            e::CTLR => {
                self.vmcr = field(self.vmcr, 4, 1, value);
                self.vmcr = field(self.vmcr, 9, 1, value >> 1);
            }
            e::EOIR0 => return Some(self.end(0, low)),
            e::EOIR1 => return Some(self.end(1, low)),
            e::DIR => return Some(self.deactivate(low)),
            _ => return None,
        }
        Some(After::Nothing)
    }

    /// Gives the active priorities to the group of the interrupt to be ended:
    /// GICv2 has one register for both groups.
    pub(crate) fn gather_active(&mut self, group: usize) {
        let all = self.apr[0] | self.apr[1];
        self.apr = if group == 0 { [all, 0] } else { [0, all] };
    }

    fn end(&mut self, group: usize, vintid: u32) -> After {
        if (1020..8192).contains(&vintid) {
            return After::Nothing;
        }
        match self.apr.get_mut(group) {
            Some(apr) if *apr != 0 => *apr &= *apr - 1,
            _ => return After::Nothing,
        }
        if self.vmcr & VMCR_EOIM != 0 {
            return After::Nothing;
        }
        self.deactivate(vintid)
    }

    fn deactivate(&mut self, vintid: u32) -> After {
        let found =
            self.lr.iter_mut().find(|lr| **lr & LR_ACTIVE != 0 && Self::vintid(**lr) == vintid);
        let Some(lr) = found else {
            // 6.2: nobody's; the hypervisor counts them.
            if self.hcr & HCR_EN != 0 {
                let count = (self.hcr >> HCR_EOI_SHIFT).wrapping_add(1) & 0x1f;
                self.hcr = (self.hcr & !(0x1f << HCR_EOI_SHIFT)) | count << HCR_EOI_SHIFT;
            }
            return After::Nothing;
        };
        *lr &= !LR_ACTIVE;
        if *lr & LR_HW != 0 { After::Deactivate(Self::pintid(*lr)) } else { After::Nothing }
    }
}
