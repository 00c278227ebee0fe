//! The distributor (IHI 0069, 12.9).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use derive::VmState;
use device::{Access, BusFault, Mmio};

use super::registers::{self, Field, View};
use super::{G0, G1NS, G1S, Gicv3};
use crate::word::Word;

/// GICD_IIDR, GICR_IIDR: implementer Arm, as the peer shows it.
pub(super) const IIDR: u32 = 0x43b;
/// 12.9.23, 12.9.24: identification of an Arm GICv3 at 0xFFD0 to 0xFFFF.
pub(super) const ID: [u8; 12] = [0x44, 0, 0, 0, 0x92, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];

const CTLR_ARE: u32 = 1 << 4;
const CTLR_ARE_NS: u32 = 1 << 5;
const CTLR_DS: u32 = 1 << 6;

#[derive(VmState)]
#[vmstate(name = "gicv3-dist", version = 1)]
pub(super) struct DistRegs {
    /// Group enables by group index.
    enable: [bool; 3],
    pub(super) ds: bool,
    /// Word 0 is unused: private interrupts are in the redistributors.
    #[vmstate(max = 32)]
    pub(super) words: Vec<Word>,
    /// GICD_IROUTER, one per interrupt.
    #[vmstate(max = 1024)]
    router: Vec<u64>,
    #[vmstate(skip)]
    pub(super) scratch: Vec<[u64; 3]>,
}

impl DistRegs {
    pub(super) fn new(words: usize) -> DistRegs {
        DistRegs {
            enable: [false; 3],
            ds: false,
            words: vec![Word::default(); words],
            router: vec![0; words * 32],
            scratch: Vec::new(),
        }
    }

    pub(super) fn reset(&mut self) {
        self.enable = [false; 3];
        self.ds = false;
        self.words.iter_mut().for_each(Word::reset);
        self.router.fill(0);
    }

    pub(super) fn groups(&self) -> u8 {
        (0u8..).zip(self.enable).filter(|(_, on)| *on).fold(0, |v, (i, _)| v | 1 << i)
    }

    /// The CPU an SPI goes to.
    pub(super) fn target(&self, intid: usize, gic: &Gicv3) -> Option<usize> {
        let route = *self.router.get(intid)?;
        let [a0, a1, a2, _, a3, ..] = route.to_le_bytes();
        let affinity = u32::from_le_bytes([a0, a1, a2, a3]);
        gic.cpus.iter().position(|c| c.affinity == affinity)
    }
}

impl Gicv3 {
    fn typer(&self, dist: &DistRegs) -> u32 {
        // No1N, A3V, 16 ID bits, SecurityExtn, ITLinesNumber.
        let lines = u32::try_from(dist.words.len().saturating_sub(1)).unwrap_or(0);
        let security = if self.ds() { 0 } else { 1 << 10 };
        let lpis = u32::from(self.has_lpi) << 17;
        1 << 25 | 1 << 24 | 0xf << 19 | lpis | security | (lines & 0x1f)
    }

    fn ctlr(&self, dist: &DistRegs, view: View) -> u32 {
        let [g0, g1s, g1ns] = dist.enable.map(u32::from);
        if self.ds() {
            return CTLR_DS | CTLR_ARE | g1ns << 1 | g0;
        }
        if view == View::NonSecure {
            // ARE_NS and EnableGrp1A sit lower in this view.
            return CTLR_ARE | g1ns << 1;
        }
        CTLR_ARE_NS | CTLR_ARE | g1s << 2 | g1ns << 1 | g0
    }

    fn set_ctlr(&self, dist: &mut DistRegs, view: View, value: u32) {
        let on = |bit: u32| value & (1 << bit) != 0;
        if let Some(slot) = dist.enable.get_mut(G1NS) {
            *slot = on(1);
        }
        if view == View::All {
            dist.enable[G0] = on(0);
            if !self.ds() {
                dist.enable[G1S] = on(2);
                if value & CTLR_DS != 0 {
                    // Writable once; only a reset takes it back.
                    dist.ds = true;
                    self.ds.store(true, Ordering::Relaxed);
                }
            }
        }
        self.groups.store(dist.groups(), Ordering::Relaxed);
        self.update_all(dist);
    }

    fn dist_read(&self, at: Access, view: View) -> u32 {
        let dist = self.dist.lock();
        match at.offset {
            0x00 => self.ctlr(&dist, view),
            0x04 => self.typer(&dist),
            0x08 => IIDR,
            0x6100..0x8000 => {
                let (intid, high) = router_index(at.offset);
                let Some(word) = dist.words.get(intid / 32) else { return 0 };
                if !view.sees(word, intid) {
                    return 0;
                }
                let route = dist.router.get(intid).copied().unwrap_or(0);
                halves(route)[usize::from(high)]
            }
            0xffd0.. => registers::id(&ID, at.offset - 0xffd0),
            _ => match Field::decode(at.offset) {
                Some((field, index, rest)) if index > 0 => {
                    let word = dist.words.get(index);
                    word.map_or(0, |w| field.read(w, rest, at.size, view, self.ds()))
                }
                _ => 0,
            },
        }
    }

    fn dist_write(&self, at: Access, view: View, value: u32) {
        let mut dist = self.dist.lock();
        match at.offset {
            0x00 => self.set_ctlr(&mut dist, view, value),
            0x6100..0x8000 => {
                let (intid, high) = router_index(at.offset);
                if !dist.words.get(intid / 32).is_some_and(|w| view.sees(w, intid)) {
                    return;
                }
                let Some(route) = dist.router.get_mut(intid) else { return };
                let mut parts = halves(*route);
                // Bit 31 of the low half (1-of-N) is not there: No1N.
                parts[usize::from(high)] = value & if high { 0xff } else { 0xff_ffff };
                *route = u64::from(parts[1]) << 32 | u64::from(parts[0]);
                self.route(&mut dist);
            }
            _ => match Field::decode(at.offset) {
                Some((field, index, rest)) if index > 0 => {
                    if let Some(word) = dist.words.get_mut(index) {
                        field.write(word, rest, at.size, view, self.ds(), value);
                        self.route(&mut dist);
                    }
                }
                _ => trace::guest_error!("gicv3_dist: write to offset {:#x} ignored", at.offset),
            },
        }
    }
}

fn router_index(offset: u64) -> (usize, bool) {
    let at = usize::try_from(offset - 0x6000).unwrap_or(0);
    (at / 8, at & 4 != 0)
}

pub(super) fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// The distributor's register frame.
pub(super) struct Frame(pub(super) Arc<Gicv3>);

impl Mmio for Frame {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let view = View::of(&self.0, at.attrs);
        Ok(self.0.dist_read(at, view).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let view = View::of(&self.0, at.attrs);
        self.0.dist_write(at, view, halves(value)[0]);
        Ok(())
    }
}
