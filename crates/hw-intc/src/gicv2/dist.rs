//! The distributor's registers (IHI 0048B, 4.3).

use std::sync::Arc;

use device::{Access, BusFault, Mmio};

use super::{Gicv2, Regs};
use crate::word::Word;

/// 4.3.17: identification at 0xFD0 to 0xFFF, architecture version 2.
const ID: [u8; 12] = [0x04, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// Where an access falls: a word of interrupts and the byte lane in its registers.
struct Spot {
    index: usize,
    lane: u32,
}

/// Registers with one bit per interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bits {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

impl Bits {
    fn decode(offset: u32) -> Option<(Bits, Spot)> {
        let kinds = [
            Bits::Group,
            Bits::SetEnable,
            Bits::ClearEnable,
            Bits::SetPending,
            Bits::ClearPending,
            Bits::SetActive,
            Bits::ClearActive,
        ];
        let at = offset.checked_sub(0x80)?;
        let kind = kinds.get((at / 0x80) as usize)?;
        Some((*kind, Spot { index: (at % 0x80 / 4) as usize, lane: at & 3 }))
    }

    fn read(self, w: &Word) -> u32 {
        match self {
            Bits::Group => w.group,
            Bits::SetEnable | Bits::ClearEnable => w.enabled,
            Bits::SetPending | Bits::ClearPending => w.pending(),
            Bits::SetActive | Bits::ClearActive => w.active,
        }
    }

    fn write(self, w: &mut Word, value: u32, mask: u32) {
        match self {
            Bits::Group => w.group = (w.group & !mask) | (value & mask),
            Bits::SetEnable => w.enabled |= value & mask,
            Bits::ClearEnable => w.enabled &= !(value & mask),
            Bits::SetPending => w.latch |= value & mask,
            Bits::ClearPending => w.latch &= !(value & mask),
            Bits::SetActive => w.active |= value & mask,
            Bits::ClearActive => w.active &= !(value & mask),
        }
    }
}

/// All bits of the bytes an access covers.
fn lanes(at: Access, lane: u32) -> u32 {
    let bytes = u32::try_from(at.size.mask() & 0xffff_ffff).unwrap_or(u32::MAX);
    bytes << (8 * lane)
}

impl Gicv2 {
    fn word_of(regs: &Regs, cpu: usize, index: usize) -> Option<&Word> {
        if index == 0 { regs.cpus.get(cpu).map(|c| &c.local) } else { regs.words.get(index) }
    }

    /// One byte of a byte-wide register array.
    fn byte_read(&self, regs: &Regs, cpu: usize, offset: u32, ns: bool) -> u8 {
        let intid = (offset & 0x3ff) as usize;
        let Some(word) = Gicv2::word_of(regs, cpu, intid / 32) else { return 0 };
        let group1 = word.group & (1 << (intid % 32)) != 0;
        if ns && !group1 {
            return 0;
        }
        if offset < 0x800 {
            let priority = word.priority(u32::try_from(intid % 32).unwrap_or(0));
            return if ns { priority << 1 } else { priority };
        }
        match intid {
            _ if self.outputs.len() == 1 => 0,
            0..32 => 1 << cpu,
            _ => regs.targets.get(intid).copied().unwrap_or(0),
        }
    }

    fn byte_write(&self, regs: &mut Regs, cpu: usize, offset: u32, ns: bool, value: u8) {
        let intid = offset & 0x3ff;
        let Some(word) = regs.word(cpu, intid) else { return };
        if ns && word.group & (1 << (intid % 32)) == 0 {
            return;
        }
        if offset < 0x800 {
            if let Some(slot) = word.priority.get_mut((intid % 32) as usize) {
                *slot = super::cpuif::PRIORITY_MASK & if ns { value >> 1 | 0x80 } else { value };
            }
        } else if intid >= 32 && self.outputs.len() > 1 {
            let all = u8::try_from((1u32 << self.outputs.len()) - 1).unwrap_or(0xff);
            if let Some(slot) = regs.targets.get_mut(intid as usize) {
                *slot = value & all;
            }
        }
    }

    fn typer(&self, regs: &Regs) -> u32 {
        let cpus = u32::try_from(self.outputs.len()).unwrap_or(1);
        let lines = u32::try_from(regs.words.len().saturating_sub(1)).unwrap_or(0);
        u32::from(self.security) << 10 | (cpus - 1) << 5 | (lines & 0x1f)
    }

    fn dist_read(&self, at: Access, offset: u32) -> u32 {
        let regs = self.regs.lock();
        let (cpu, ns) = (self.cpu_of(at), self.is_non_secure(at));
        match offset {
            0x000 if ns => regs.ctlr >> 1 & 1,
            0x000 => regs.ctlr,
            0x004..0x008 => self.typer(&regs) >> (8 * (offset & 3)),
            0x008 => 0,
            0x080..0x400 => {
                let Some((bits, spot)) = Bits::decode(offset) else { return 0 };
                let Some(word) = Gicv2::word_of(&regs, cpu, spot.index) else { return 0 };
                let seen = if ns { word.group } else { u32::MAX };
                let seen = if ns && bits == Bits::Group { 0 } else { seen };
                (bits.read(word) & seen) >> (8 * spot.lane)
            }
            0x400..0xc00 => (0..at.size as u32).fold(0, |value, i| {
                value | u32::from(self.byte_read(&regs, cpu, offset + i, ns)) << (8 * i)
            }),
            0xc00..0xd00 => {
                let index = ((offset - 0xc00) / 8) as usize;
                let word = Gicv2::word_of(&regs, cpu, index);
                word.map_or(0, |w| w.config((offset / 4) & 1) >> (8 * (offset & 3)))
            }
            0xf10..0xf30 => {
                let sgi = (offset & 15) as usize;
                let sources = regs.cpus.get(cpu).map_or([0; 16], |c| c.sources);
                let bytes = sources.iter().skip(sgi).take(at.size as usize);
                (0u32..).zip(bytes).fold(0, |v, (i, s)| v | u32::from(*s) << (8 * i))
            }
            0xfd0.. => ID.get(((offset - 0xfd0) / 4) as usize).copied().map_or(0, u32::from),
            _ => 0,
        }
    }

    fn dist_write(&self, at: Access, offset: u32, value: u32) {
        let mut regs = self.regs.lock();
        let (cpu, ns) = (self.cpu_of(at), self.is_non_secure(at));
        match offset {
            0x000 if ns => regs.ctlr = (regs.ctlr & 1) | (value & 1) << 1,
            0x000 => regs.ctlr = value & 3,
            0x080..0x400 => {
                let Some((bits, spot)) = Bits::decode(offset) else { return };
                let intid = u32::try_from(spot.index * 32).unwrap_or(u32::MAX);
                let Some(word) = regs.word(cpu, intid) else { return };
                let mut mask = lanes(at, spot.lane) & if ns { word.group } else { u32::MAX };
                if ns && bits == Bits::Group {
                    return;
                }
                if spot.index == 0 && matches!(bits, Bits::SetPending | Bits::ClearPending) {
                    mask &= !0xffff; // 4.3.7: SGIs have registers of their own
                }
                if spot.index == 0 && bits == Bits::ClearEnable {
                    mask &= !0xffff; // SGIs are always enabled, as in the GIC-400
                }
                bits.write(word, value << (8 * spot.lane), mask);
            }
            0x400..0xc00 => {
                for (i, byte) in (0..at.size as u32).zip(value.to_le_bytes()) {
                    self.byte_write(&mut regs, cpu, offset + i, ns, byte);
                }
            }
            0xc08..0xd00 if offset & 3 == 0 => {
                let intid = (offset - 0xc00) / 8 * 32;
                if let Some(word) = regs.word(cpu, intid) {
                    let mask = if ns { word.group } else { u32::MAX };
                    word.set_config((offset / 4) & 1, value, mask);
                }
            }
            0xc00..0xc08 => {} // SGIs and PPIs are fixed
            0xf00 => self.software_interrupt(&mut regs, cpu, ns, value),
            0xf10..0xf30 => {
                for (i, byte) in (0..at.size as u32).zip(value.to_le_bytes()) {
                    let sgi = ((offset + i) & 15) as usize;
                    let Some(c) = regs.cpus.get_mut(cpu) else { continue };
                    let Some(sources) = c.sources.get_mut(sgi) else { continue };
                    *sources = if offset >= 0xf20 { *sources | byte } else { *sources & !byte };
                    let bit = 1u32 << sgi;
                    c.local.latch =
                        if *sources != 0 { c.local.latch | bit } else { c.local.latch & !bit };
                }
            }
            _ => trace::guest_error!("gic_dist: write to offset {offset:#x} ignored"),
        }
        self.update(&mut regs);
    }

    /// 4.3.15: GICD_SGIR.
    fn software_interrupt(&self, regs: &mut Regs, from: usize, ns: bool, value: u32) {
        let sgi = value & 15;
        let all = (1u32 << self.outputs.len()) - 1;
        let targets = match value >> 24 & 3 {
            0 => value >> 16 & 0xff,
            1 => all & !(1 << from),
            2 => 1 << from,
            _ => return,
        };
        let want_group1 = value & 1 << 15 != 0;
        for (index, cpu) in regs.cpus.iter_mut().enumerate() {
            let group1 = cpu.local.group & (1 << sgi) != 0;
            // NSATT: a secure sender names the group, a non-secure one has group 1.
            let allowed = !self.security || group1 == (ns || want_group1);
            if targets >> index & 1 != 0 && allowed {
                if let Some(sources) = cpu.sources.get_mut(sgi as usize) {
                    *sources |= 1 << from;
                }
                cpu.local.latch |= 1 << sgi;
            }
        }
    }
}

/// The distributor's register frame.
pub(super) struct Frame(pub(super) Arc<Gicv2>);

impl Mmio for Frame {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let offset = u32::try_from(at.offset).map_err(|_| BusFault::Decode)?;
        Ok(self.0.dist_read(at, offset).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let offset = u32::try_from(at.offset).map_err(|_| BusFault::Decode)?;
        self.0.dist_write(at, offset, u32::try_from(value & 0xffff_ffff).unwrap_or(0));
        Ok(())
    }
}
