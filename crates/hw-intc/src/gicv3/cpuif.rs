//! The CPU interface: ICC registers (IHI 0069, 4.8 and 12.2).

use cpu::{SysRegCx, SystemRegisters};
use derive::VmState;

use super::lpi::{self, Lpi};
use super::{Candidate, CpuPart, G0, G1NS, G1S, Gicv3};
use crate::virt::{After, Virt};
use crate::word::Word;
use crate::{SPURIOUS, encoding as e};

/// Implemented priority bits: five.
const PRIORITY_MASK: u8 = 0xf8;
const PRIORITY_SHIFT: u32 = 3;
/// Smallest binary points for five bits, by group.
const MIN_BPR: [u8; 3] = [2, 2, 3];
/// ICC_CTLR: A3V, PRIbits.
const CTLR_FIXED: u64 = 1 << 15 | 4 << 8;
const CTLR_CBPR: u8 = 1 << 0;
const CTLR_EOIMODE: u8 = 1 << 1;
const HCR_FMO: u64 = 1 << 3;
const HCR_IMO: u64 = 1 << 4;

/// A CPU's redistributor and CPU interface.
#[derive(Clone, VmState)]
#[vmstate(name = "gicv3-cpu", version = 1)]
pub(crate) struct CpuRegs {
    /// GICR_WAKER.
    pub(super) waker: u32,
    /// SGIs and PPIs.
    pub(super) local: Word,
    pmr: u8,
    /// Binary points, active priorities and enables by group.
    bpr: [u8; 3],
    apr: [u32; 3],
    enable: [bool; 3],
    /// CBPR and EOImode of the secure and the non-secure ICC_CTLR.
    ctlr: [u8; 2],
    pub(super) virt: Virt,
    pub(super) lpi: Lpi,
    /// The CPU's state when it last accessed the interface.
    pub(super) secure: bool,
    pub(super) el3: bool,
}

impl Default for CpuRegs {
    fn default() -> CpuRegs {
        CpuRegs {
            waker: 6,
            local: Word { edge: 0xffff, ..Word::default() },
            pmr: 0,
            bpr: MIN_BPR,
            apr: [0; 3],
            enable: [false; 3],
            ctlr: [0; 2],
            virt: Virt::default(),
            lpi: Lpi::default(),
            secure: false,
            el3: false,
        }
    }
}

impl CpuRegs {
    pub(super) fn reset(&mut self) {
        let level = self.local.level;
        *self = CpuRegs::default();
        self.local.level = level;
    }

    pub(super) fn group_enabled(&self, group: usize) -> bool {
        self.enable.get(group).copied().unwrap_or(false)
    }

    /// The running priority; 0xff when idle.
    fn running(&self) -> u8 {
        let all = self.apr.iter().fold(0, |v, a| v | a);
        if all == 0 {
            return 0xff;
        }
        u8::try_from(all.trailing_zeros() << PRIORITY_SHIFT).unwrap_or(0xff)
    }

    fn group_priority(&self, priority: u8, group: usize, ds: bool) -> u8 {
        let common = self.ctlr[usize::from(group == G1NS && !ds)] & CTLR_CBPR != 0;
        let from = if common { G0 } else { group };
        let bpr = self.bpr.get(from).copied().unwrap_or(0);
        // 4.8.2: the binary point counts one lower for non-secure group 1.
        let shift = if from == G1NS { bpr } else { bpr + 1 };
        priority & u8::MAX.checked_shl(shift.into()).unwrap_or(0) & PRIORITY_MASK
    }

    /// Whether the interrupt gets past the mask and what is running.
    pub(super) fn preempts(&self, c: &Candidate, ds: bool) -> bool {
        c.priority < self.pmr && self.group_priority(c.priority, c.group, ds) < self.running()
    }

    fn activate(&mut self, c: &Candidate, ds: bool) {
        let level = self.group_priority(c.priority, c.group, ds) >> PRIORITY_SHIFT;
        if let Some(apr) = self.apr.get_mut(c.group) {
            *apr |= 1 << level;
        }
    }

    /// Priority drop; false when no interrupt of the group is active.
    fn drop_priority(&mut self, group: usize) -> bool {
        match self.apr.get_mut(group) {
            Some(apr) if *apr != 0 => {
                *apr &= *apr - 1;
                true
            }
            _ => false,
        }
    }
}

/// The group that an access to a group 1 register is about.
fn group1(gic: &Gicv3, cx: &SysRegCx) -> usize {
    if gic.ds() || !is_secure(cx) { G1NS } else { G1S }
}

fn is_secure(cx: &SysRegCx) -> bool {
    cx.secure || (cx.el == 3 && cx.scr_el3 & 1 == 0)
}

/// Whether priorities are shown in the shifted, non-secure way.
fn shifted(gic: &Gicv3, cx: &SysRegCx) -> bool {
    !gic.ds() && !is_secure(cx) && cx.el < 3 && cx.scr_el3 & (1 << 2) != 0
}

/// Whether an access at EL1 goes to the virtual interface.
fn redirected(cx: &SysRegCx, reg: u16) -> bool {
    if cx.el != 1 || !cx.has_el2 {
        return false;
    }
    let (fmo, imo) = (cx.hcr_el2 & HCR_FMO != 0, cx.hcr_el2 & HCR_IMO != 0);
    match reg {
        e::IAR0 | e::EOIR0 | e::HPPIR0 | e::BPR0 | e::AP0R0 | e::IGRPEN0 => fmo,
        e::IAR1 | e::EOIR1 | e::HPPIR1 | e::BPR1 | e::AP1R0 | e::IGRPEN1 => imo,
        e::PMR | e::RPR | e::CTLR | e::DIR => fmo || imo,
        _ => false,
    }
}

impl Gicv3 {
    fn acknowledge(&self, cpu: &CpuPart, group: usize) -> u32 {
        let ds = self.ds();
        {
            let mut regs = cpu.regs.lock();
            match self.pending(cpu, &regs).filter(|c| regs.preempts(c, ds) && c.group == group) {
                None => return SPURIOUS,
                Some(c) if c.is_local() => return self.take_private(cpu, &mut regs, &c),
                Some(_) => {}
            }
        }
        // An SPI: again, with the distributor locked first.
        let mut dist = self.dist.lock();
        let intid = {
            let mut regs = cpu.regs.lock();
            let found = self.pending(cpu, &regs);
            match found.filter(|c| regs.preempts(c, ds) && c.group == group) {
                None => return SPURIOUS,
                Some(c) if c.is_local() => return self.take_private(cpu, &mut regs, &c),
                Some(c) => {
                    regs.activate(&c, ds);
                    c.intid
                }
            }
        };
        if let Some(word) = dist.words.get_mut(intid as usize / 32) {
            word.acknowledge(intid & 31);
        }
        self.route(&mut dist);
        self.update(cpu, &mut cpu.regs.lock());
        intid
    }

    fn take_private(&self, cpu: &CpuPart, regs: &mut CpuRegs, c: &Candidate) -> u32 {
        regs.activate(c, self.ds());
        if c.intid < 32 {
            regs.local.acknowledge(c.intid);
        } else {
            self.take_lpi(&mut regs.lpi, c.intid);
        }
        self.update(cpu, regs);
        c.intid
    }

    fn highest(&self, cpu: &CpuPart, group: usize) -> u32 {
        let regs = cpu.regs.lock();
        self.pending(cpu, &regs).filter(|c| c.group == group).map_or(SPURIOUS, |c| c.intid)
    }

    fn end(&self, cpu: &CpuPart, group: usize, intid: u32, cx: &SysRegCx) {
        if (1020..lpi::FIRST).contains(&intid) {
            return;
        }
        {
            let mut regs = cpu.regs.lock();
            let dropped = regs.drop_priority(group);
            self.update(cpu, &mut regs);
            let mode = regs.ctlr[usize::from(!self.ds() && !is_secure(cx))];
            if !dropped || mode & CTLR_EOIMODE != 0 {
                return;
            }
        }
        self.deactivate(cpu, intid);
    }

    fn deactivate(&self, cpu: &CpuPart, intid: u32) {
        if intid < 32 {
            let mut regs = cpu.regs.lock();
            regs.local.deactivate(intid);
            self.update(cpu, &mut regs);
            return;
        }
        let mut dist = self.dist.lock();
        if let Some(word) = dist.words.get_mut(intid as usize / 32) {
            word.deactivate(intid & 31);
            self.route(&mut dist);
        }
    }

    /// 12.2.16 to 12.2.18: software-generated interrupts.
    fn generate(&self, from: &SysRegCx, value: u64, group: usize) {
        let [t0, t1, aff1, id_rs, aff2, irm_rs, aff3, _] = value.to_le_bytes();
        let intid = u32::from(id_rs & 15);
        let range = u32::from(irm_rs >> 4) * 16;
        let all_but_self = irm_rs & 1 != 0;
        let list = u32::from(u16::from_le_bytes([t0, t1]));
        let cluster = u32::from_le_bytes([0, aff1, aff2, aff3]);
        for (index, cpu) in self.cpus.iter().enumerate() {
            let aff0 = cpu.affinity & 0xff;
            let listed = cpu.affinity & !0xff == cluster
                && aff0 >= range
                && aff0 < range + 16
                && list & (1 << (aff0 - range)) != 0;
            let hit = if all_but_self { index != from.cpu } else { listed };
            if !hit {
                continue;
            }
            let mut regs = cpu.regs.lock();
            if self.group_of(&regs.local, intid) == group {
                regs.local.latch |= 1 << intid;
                self.update(cpu, &mut regs);
            }
        }
    }

    fn read_plain(&self, cpu: &CpuPart, cx: &SysRegCx, reg: u16) -> Option<u64> {
        let regs = cpu.regs.lock();
        let g1 = group1(self, cx);
        let bank = usize::from(!self.ds() && !is_secure(cx));
        let shift = |p: u8| {
            if !shifted(self, cx) {
                p
            } else if p < 0x80 {
                0
            } else {
                p << 1
            }
        };
        let ctlr = |bank: usize| CTLR_FIXED | regs.ctlr.get(bank).map_or(0, |c| u64::from(*c));
        Some(match reg {
            e::PMR => shift(regs.pmr).into(),
            e::BPR0 => regs.bpr[G0].into(),
            e::BPR1 if regs.ctlr[bank] & CTLR_CBPR != 0 => {
                let extra = u8::from(g1 == G1NS);
                (regs.bpr[G0] + extra).min(7).into()
            }
            e::BPR1 => regs.bpr.get(g1).map_or(0, |b| u64::from(*b)),
            e::AP0R0 => regs.apr[G0].into(),
            e::AP1R0 => regs.apr.get(g1).map_or(0, |a| u64::from(*a)),
            e::RPR => {
                let running = regs.running();
                if running == 0xff { 0xff } else { shift(running).into() }
            }
            e::CTLR => ctlr(bank),
            e::SRE | e::SRE_EL2 | e::SRE_EL3 => {
                // System registers only; EL2 and EL3 let lower levels use them.
                if reg == e::SRE { 7 } else { 0xf }
            }
            e::IGRPEN0 => regs.enable[G0].into(),
            e::IGRPEN1 => regs.group_enabled(g1).into(),
            e::CTLR_EL3 => {
                let (s, ns) = (u64::from(regs.ctlr[0]), u64::from(regs.ctlr[1]));
                CTLR_FIXED | (s & 1) | (ns & 1) << 1 | (s >> 1 & 1) << 3 | (ns >> 1 & 1) << 4
            }
            e::IGRPEN1_EL3 => u64::from(regs.enable[G1NS]) | u64::from(regs.enable[G1S]) << 1,
            _ => return None,
        })
    }

    fn write_plain(&self, cpu: &CpuPart, cx: &SysRegCx, reg: u16, value: u64) -> bool {
        let mut regs = cpu.regs.lock();
        let g1 = group1(self, cx);
        let [byte, ..] = value.to_le_bytes();
        let word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let bank = usize::from(!self.ds() && !is_secure(cx));
        match reg {
            e::PMR if shifted(self, cx) => {
                if regs.pmr >= 0x80 {
                    regs.pmr = (byte >> 1 | 0x80) & PRIORITY_MASK;
                }
            }
            e::PMR => regs.pmr = byte & PRIORITY_MASK,
            e::BPR0 => regs.bpr[G0] = (byte & 7).max(MIN_BPR[G0]),
            e::BPR1 => {
                if regs.ctlr[bank] & CTLR_CBPR == 0
                    && let Some((slot, min)) = regs.bpr.get_mut(g1).zip(MIN_BPR.get(g1))
                {
                    *slot = (byte & 7).max(*min);
                }
            }
            e::AP0R0 => regs.apr[G0] = word,
            e::AP1R0 => {
                if let Some(slot) = regs.apr.get_mut(g1) {
                    *slot = word;
                }
            }
            e::CTLR => regs.ctlr[bank] = byte & (CTLR_CBPR | CTLR_EOIMODE),
            e::SRE | e::SRE_EL2 | e::SRE_EL3 => {} // all bits are fixed
            e::IGRPEN0 => regs.enable[G0] = byte & 1 != 0,
            e::IGRPEN1 => {
                if let Some(slot) = regs.enable.get_mut(g1) {
                    *slot = byte & 1 != 0;
                }
            }
            e::CTLR_EL3 => {
                regs.ctlr[0] = (byte & 1) | (byte >> 3 & 1) << 1;
                regs.ctlr[1] = (byte >> 1 & 1) | (byte >> 4 & 1) << 1;
            }
            e::IGRPEN1_EL3 => {
                regs.enable[G1NS] = byte & 1 != 0;
                regs.enable[G1S] = byte & 2 != 0;
            }
            _ => return false,
        }
        self.update(cpu, &mut regs);
        true
    }

    /// Notes the security state, which decides between IRQ and FIQ.
    fn note(cpu: &CpuPart, cx: &SysRegCx) {
        let mut regs = cpu.regs.lock();
        regs.secure = is_secure(cx);
        regs.el3 = cx.el == 3;
    }

    fn allowed(cx: &SysRegCx, reg: u16) -> bool {
        // op1 of the encoding: 0 for EL1, 4 for EL2, 6 for EL3.
        match reg >> 11 & 7 {
            4 => cx.has_el2 && cx.el >= 2,
            6 => cx.has_el3 && cx.el == 3,
            _ => cx.el >= 1,
        }
    }
}

impl SystemRegisters for Gicv3 {
    fn level_changed(&self, cx: &SysRegCx) {
        if self.ds() {
            return;
        }
        if let Some(cpu) = self.cpus.get(cx.cpu) {
            Gicv3::note(cpu, cx);
            self.update(cpu, &mut cpu.regs.lock());
        }
    }

    fn read(&self, cx: &SysRegCx, reg: u16) -> Option<u64> {
        let cpu = self.cpus.get(cx.cpu)?;
        if !Gicv3::allowed(cx, reg) {
            return None;
        }
        if !self.ds() {
            Gicv3::note(cpu, cx);
        }
        if redirected(cx, reg) {
            let mut regs = cpu.regs.lock();
            let value = regs.virt.icv_read(reg);
            self.update(cpu, &mut regs);
            return value;
        }
        match reg {
            e::IAR0 => Some(self.acknowledge(cpu, G0).into()),
            e::IAR1 => Some(self.acknowledge(cpu, group1(self, cx)).into()),
            e::HPPIR0 => Some(self.highest(cpu, G0).into()),
            e::HPPIR1 => Some(self.highest(cpu, group1(self, cx)).into()),
            _ => {
                let plain = self.read_plain(cpu, cx, reg);
                plain.or_else(|| cpu.regs.lock().virt.ich_read(reg))
            }
        }
    }

    fn write(&self, cx: &SysRegCx, reg: u16, value: u64) -> bool {
        let Some(cpu) = self.cpus.get(cx.cpu) else { return false };
        if !Gicv3::allowed(cx, reg) {
            return false;
        }
        if !self.ds() {
            Gicv3::note(cpu, cx);
        }
        let intid = u32::try_from(value & 0xff_ffff).unwrap_or(SPURIOUS);
        if redirected(cx, reg) {
            let mut regs = cpu.regs.lock();
            let after = regs.virt.icv_write(reg, value);
            self.update(cpu, &mut regs);
            drop(regs);
            if let Some(After::Deactivate(intid)) = after {
                self.deactivate(cpu, intid);
            }
            return after.is_some();
        }
        match reg {
            e::EOIR0 => self.end(cpu, G0, intid, cx),
            e::EOIR1 => self.end(cpu, group1(self, cx), intid, cx),
            e::DIR => self.deactivate(cpu, intid),
            e::SGI0R => self.generate(cx, value, G0),
            e::SGI1R => self.generate(cx, value, group1(self, cx)),
            e::ASGI1R => {
                let other = if self.ds() || is_secure(cx) { G1NS } else { G1S };
                self.generate(cx, value, other);
            }
            _ => {
                if self.write_plain(cpu, cx, reg, value) {
                    return true;
                }
                let mut regs = cpu.regs.lock();
                let known = regs.virt.ich_write(reg, value);
                self.update(cpu, &mut regs);
                return known;
            }
        }
        true
    }
}
