//! The redistributors (IHI 0069, 12.10): two 64 KiB frames per CPU.

use std::sync::Arc;

use device::{Access, BusFault, Mmio};

use super::dist::{ID, IIDR, halves};
use super::registers::{self, Field, View};
use super::{CpuPart, Gicv3};

/// Bytes per CPU: the RD and the SGI frame.
pub(super) const STRIDE: u64 = 0x2_0000;
/// Start of the SGI and PPI frame.
const SGI_FRAME: u64 = 0x1_0000;

// 12.11: registers of LPIs, by halves.
const PROPBASER: u64 = 0x70;
const PROPBASER_HIGH: u64 = 0x74;
const PENDBASER: u64 = 0x78;
const PENDBASER_HIGH: u64 = 0x7c;
const INVLPIR: u64 = 0xa0;
const INVLPIR_HIGH: u64 = 0xa4;
const INVALLR: u64 = 0xb0;
const INVALLR_HIGH: u64 = 0xb4;

const WAKER_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN: u32 = 1 << 2;
/// The peripheral identification differs from the distributor's in its part number.
const PART: u8 = 0x93;

impl Gicv3 {
    fn redist_read(&self, index: usize, cpu: &CpuPart, at: Access, offset: u64) -> u32 {
        let view = View::of(self, at.attrs);
        let regs = cpu.regs.lock();
        match offset {
            // CES, EnableLPIs.
            0x00 => u32::from(self.has_lpi) << 1 | u32::from(regs.lpi.enabled),
            0x04 => IIDR,
            0x08 => {
                // CommonLPIAff, processor number, Last, PLPIS.
                let last = u32::from(self.lasts.contains(&index));
                let lpis = u32::from(self.has_lpi);
                lpis << 24 | u32::try_from(index).unwrap_or(0) << 8 | last << 4 | lpis
            }
            PROPBASER | PROPBASER_HIGH if self.has_lpi => {
                halves(regs.lpi.propbaser)[usize::from(offset == PROPBASER_HIGH)]
            }
            PENDBASER | PENDBASER_HIGH if self.has_lpi => {
                halves(regs.lpi.pendbaser)[usize::from(offset == PENDBASER_HIGH)]
            }
            0x0c => cpu.affinity,
            0x14 if view == View::All => regs.waker,
            0xffd0..0x1_0000 => {
                let mut id = ID;
                id[4] = PART;
                registers::id(&id, offset - 0xffd0)
            }
            SGI_FRAME.. => match Field::decode(offset - SGI_FRAME) {
                Some((field, 0, rest)) => field.read(&regs.local, rest, at.size, view, self.ds()),
                _ => 0,
            },
            _ => 0,
        }
    }

    fn redist_write(&self, cpu: &CpuPart, at: Access, offset: u64, value: u32) {
        let view = View::of(self, at.attrs);
        let mut regs = cpu.regs.lock();
        match offset {
            0x14 if view == View::All => {
                // Waking and sleeping are immediate: ChildrenAsleep follows.
                let sleep = value & WAKER_SLEEP;
                regs.waker = if sleep != 0 { sleep | WAKER_CHILDREN } else { 0 };
            }
            SGI_FRAME.. => match Field::decode(offset - SGI_FRAME) {
                Some((Field::Config, 0, 0..=3)) => {} // SGIs are always edge-triggered
                Some((field, 0, rest)) => {
                    let ds = self.ds();
                    field.write(&mut regs.local, rest, at.size, view, ds, value);
                    self.update(cpu, &mut regs);
                }
                _ => trace::guest_error!("gicv3_redist: write to {offset:#x} ignored"),
            },
            0x00 if self.has_lpi => {
                if value & 1 != 0 {
                    self.start_lpis(&mut regs.lpi);
                } else {
                    self.enable_lpis(&mut regs.lpi, false);
                }
                self.update(cpu, &mut regs);
            }
            0x00 => {} // nothing writable without LPIs
            PROPBASER | PROPBASER_HIGH if self.has_lpi => {
                let enabled = regs.lpi.enabled;
                put_half(&mut regs.lpi.propbaser, offset == PROPBASER_HIGH, value, enabled);
            }
            PENDBASER | PENDBASER_HIGH if self.has_lpi => {
                let enabled = regs.lpi.enabled;
                put_half(&mut regs.lpi.pendbaser, offset == PENDBASER_HIGH, value, enabled);
            }
            // The other halves hold virtual processors and padding.
            INVLPIR | INVALLR if self.has_lpi => {
                drop(regs);
                self.invalidate_lpis(cpu);
            }
            INVLPIR_HIGH | INVALLR_HIGH if self.has_lpi => {}
            _ => trace::guest_error!("gicv3_redist: write to {offset:#x} ignored"),
        }
    }
}

/// Writes half of a base register, which is fixed while LPIs are on.
fn put_half(register: &mut u64, high: bool, value: u32, fixed: bool) {
    if fixed {
        trace::guest_error!("gicv3_redist: a table of LPIs was moved while they are enabled");
        return;
    }
    let mut parts = halves(*register);
    parts[usize::from(high)] = value;
    *register = u64::from(parts[1]) << 32 | u64::from(parts[0]);
}

/// The register frames of a region's redistributors, from this CPU on.
pub(super) struct Frame(Arc<Gicv3>, usize);

impl Frame {
    pub(super) fn new(gic: &Arc<Gicv3>, first: usize) -> Frame {
        Frame(gic.clone(), first)
    }

    fn cpu(&self, at: Access) -> Option<(usize, &CpuPart)> {
        let index = usize::try_from(at.offset / STRIDE).ok()?.checked_add(self.1)?;
        Some((index, self.0.cpus.get(index)?))
    }
}

impl Mmio for Frame {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let (index, cpu) = self.cpu(at).ok_or(BusFault::Decode)?;
        Ok(self.0.redist_read(index, cpu, at, at.offset % STRIDE).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let (_, cpu) = self.cpu(at).ok_or(BusFault::Decode)?;
        let [a, b, c, d, ..] = value.to_le_bytes();
        self.0.redist_write(cpu, at, at.offset % STRIDE, u32::from_le_bytes([a, b, c, d]));
        Ok(())
    }
}
