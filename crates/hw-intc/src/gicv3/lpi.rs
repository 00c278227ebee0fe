//! LPIs of the redistributors (IHI 0069, 5.1): tables in guest memory.
//!
//! The pending table is read when the guest enables LPIs and kept as a bitmap;
//! every change is written through. A configuration byte is read whenever it is
//! needed, so nothing of it is kept. Tables outside of RAM count as empty.

use derive::VmState;
use device::{AddressSpace, Lpis};

use super::{Candidate, CpuPart, G1NS, Gicv3};
use crate::word::bits;

/// First LPI.
pub(super) const FIRST: u32 = 8192;
/// One past the last LPI: 16 bits of number, as GICD_TYPER says.
const END: u32 = 1 << 16;
/// GICR_PROPBASER and GICR_PENDBASER: physical address; IDbits of the former.
const PROP_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PEND_ADDRESS: u64 = 0x000f_ffff_ffff_0000;
/// GICR_PENDBASER.PTZ: the pending table is all zero.
const PEND_ZERO: u64 = 1 << 62;

/// A redistributor's LPI registers, and what is kept of its tables.
#[derive(Clone, Default, VmState)]
#[vmstate(name = "gicv3-lpi", version = 1)]
pub(super) struct Lpi {
    pub(super) enabled: bool,
    pub(super) propbaser: u64,
    pub(super) pendbaser: u64,
    /// The pending table, 32 interrupts a word; empty while LPIs are off.
    #[vmstate(skip)]
    pending: Vec<u32>,
    /// The best enabled pending LPI.
    #[vmstate(skip)]
    pub(super) best: Option<Candidate>,
    #[vmstate(skip)]
    stale: bool,
}

impl Lpi {
    fn end(&self) -> u32 {
        let bits = u32::try_from(self.propbaser & 31).unwrap_or(31) + 1;
        1u32.checked_shl(bits).unwrap_or(END).min(END)
    }

    fn holds(&self, intid: u32) -> bool {
        self.enabled && (FIRST..self.end()).contains(&intid)
    }

    fn is_pending(&self, intid: u32) -> bool {
        self.pending.get(intid as usize / 32).is_some_and(|w| w & (1 << (intid % 32)) != 0)
    }
}

fn load(memory: &AddressSpace, at: u64, size: u32) -> Option<u64> {
    let ram = memory.ram_at(at).filter(|ram| ram.len >= u64::from(size))?;
    ram.block.load(ram.offset, size).ok()
}

impl Gicv3 {
    /// The interrupt as a candidate if its configuration enables it.
    fn configured(&self, lpi: &Lpi, intid: u32) -> Option<Candidate> {
        let at = (lpi.propbaser & PROP_ADDRESS).checked_add(u64::from(intid - FIRST))?;
        let byte = u8::try_from(load(&self.memory, at, 1)?).ok()?;
        let priority = byte & 0xfc;
        // LPIs are non-secure: their priorities are those of the non-secure view.
        let priority = if self.ds() { priority } else { priority >> 1 | 0x80 };
        (byte & 1 != 0).then_some(Candidate { priority, intid, group: G1NS })
    }

    /// Finds the best pending LPI again.
    fn scan(&self, lpi: &mut Lpi) {
        lpi.stale = false;
        let words = (0u32..).zip(&lpi.pending).filter(|(_, word)| **word != 0);
        let all = words.flat_map(|(i, word)| bits(*word).map(move |bit| i * 32 + bit));
        let all = all.filter(|intid| lpi.holds(*intid));
        lpi.best = all.filter_map(|intid| self.configured(lpi, intid)).min();
    }

    /// Sets or clears a pending bit, here and in guest memory; false when it was so.
    fn mark(&self, lpi: &mut Lpi, intid: u32, on: bool) -> bool {
        if !lpi.holds(intid) || lpi.is_pending(intid) == on {
            return false;
        }
        let Some(word) = lpi.pending.get_mut(intid as usize / 32) else { return false };
        *word ^= 1 << (intid % 32);
        let [byte, ..] = (*word >> (intid % 32 / 8 * 8)).to_le_bytes();
        let at = (lpi.pendbaser & PEND_ADDRESS).checked_add(u64::from(intid / 8));
        if let Some(ram) = at.and_then(|at| self.memory.ram_at(at)).filter(|ram| !ram.readonly) {
            _ = ram.block.store(ram.offset, 1, byte.into());
        }
        true
    }

    /// GICR_CTLR.EnableLPIs: reads the pending table, or forgets it.
    pub(super) fn enable_lpis(&self, lpi: &mut Lpi, on: bool) {
        if lpi.enabled != on {
            lpi.enabled = on;
            self.load_lpis(lpi);
        }
    }

    /// Reads what is kept of the tables, after enabling and after loading saved state.
    pub(super) fn load_lpis(&self, lpi: &mut Lpi) {
        lpi.pending = Vec::new();
        lpi.best = None;
        if !lpi.enabled {
            return;
        }
        let words = lpi.end() / 32;
        lpi.pending = vec![0; words as usize];
        let base = lpi.pendbaser & PEND_ADDRESS;
        for (i, word) in (0u64..).zip(&mut lpi.pending).skip(FIRST as usize / 32) {
            let found = base.checked_add(i * 4).and_then(|at| load(&self.memory, at, 4));
            *word = found.and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
        }
        self.scan(lpi);
    }

    /// As [`Gicv3::load_lpis`] for a table that the guest says is empty.
    pub(super) fn start_lpis(&self, lpi: &mut Lpi) {
        if lpi.enabled || lpi.pendbaser & PEND_ZERO == 0 {
            return self.enable_lpis(lpi, true);
        }
        lpi.enabled = true;
        lpi.pending = vec![0; lpi.end() as usize / 32];
        lpi.best = None;
    }

    /// The CPU acknowledged an LPI: it is no longer pending.
    pub(super) fn take_lpi(&self, lpi: &mut Lpi, intid: u32) {
        self.mark(lpi, intid, false);
        self.scan(lpi);
    }

    /// Looks at an LPI's configuration, or at all, again.
    pub(super) fn invalidate_lpis(&self, cpu: &CpuPart) {
        let mut regs = cpu.regs.lock();
        self.scan(&mut regs.lpi);
        self.update(cpu, &mut regs);
    }

    fn cpu_at(&self, cpu: u32) -> Option<&CpuPart> {
        self.cpus.get(usize::try_from(cpu).ok()?)
    }
}

impl Lpis for Gicv3 {
    fn cpus(&self) -> u32 {
        u32::try_from(self.cpus.len()).unwrap_or(0)
    }

    fn set(&self, cpu: u32, intid: u32, pending: bool) {
        let Some(cpu) = self.cpu_at(cpu) else { return };
        let mut regs = cpu.regs.lock();
        if !self.mark(&mut regs.lpi, intid, pending) || regs.lpi.stale {
            return;
        }
        if pending {
            let new = self.configured(&regs.lpi, intid);
            regs.lpi.best = regs.lpi.best.into_iter().chain(new).min();
        } else if regs.lpi.best.is_some_and(|best| best.intid == intid) {
            // Many may be cleared in a row: look once, afterwards.
            regs.lpi.stale = true;
            regs.lpi.best = None;
        }
        self.update(cpu, &mut regs);
    }

    fn invalidate(&self, cpu: u32) {
        if let Some(cpu) = self.cpu_at(cpu) {
            cpu.regs.lock().lpi.stale = true;
        }
    }

    fn move_one(&self, from: u32, to: u32, intid: u32) {
        let Some(source) = self.cpu_at(from).filter(|_| from != to) else { return };
        let was = source.regs.lock().lpi.is_pending(intid);
        if was {
            self.set(from, intid, false);
            self.set(to, intid, true);
        }
    }

    fn move_all(&self, from: u32, to: u32) {
        let (Some(source), Some(target)) = (self.cpu_at(from), self.cpu_at(to)) else { return };
        if from == to {
            return;
        }
        let moved: Vec<u32> = {
            let mut regs = source.regs.lock();
            let words = (0u32..).zip(regs.lpi.pending.clone());
            let all: Vec<u32> =
                words.flat_map(|(i, w)| bits(w).map(move |bit| i * 32 + bit)).collect();
            for intid in &all {
                self.mark(&mut regs.lpi, *intid, false);
            }
            regs.lpi.stale = true;
            all
        };
        let mut regs = target.regs.lock();
        for intid in moved {
            self.mark(&mut regs.lpi, intid, true);
        }
        regs.lpi.stale = true;
    }

    fn refresh(&self) {
        for cpu in &self.cpus {
            let mut regs = cpu.regs.lock();
            if regs.lpi.stale {
                self.scan(&mut regs.lpi);
                self.update(cpu, &mut regs);
            }
        }
    }
}
