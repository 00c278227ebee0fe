//! The virtualization extensions: GICH and GICV (IHI 0048B, 5.3 and 5.5).
//!
//! Registers are translated to the ones of the shared virtual interface. The
//! source CPU of a virtual SGI rides in bits 15 to 13 of its number there, which
//! keeps it apart from the special numbers 1020 to 1023.

use std::sync::Arc;

use device::{Access, BusFault, Mmio};

use super::{Gicv2, cpuif};
use crate::encoding as e;
use crate::virt::{After, Virt};

/// Where the source CPU is in the shared interface's numbers; bit 10 here.
const SOURCE_SHIFT: u32 = 13;

/// An interrupt number with its source as the shared interface has it.
fn number_in(value: u32) -> u64 {
    u64::from(value & 0x3ff | (value >> 10 & 7) << SOURCE_SHIFT)
}

/// The reverse of [`number_in`].
fn number_out(number: u32) -> u32 {
    number & 0x3ff | (number >> SOURCE_SHIFT & 7) << 10
}

/// A 32-bit list register as the shared interface's 64-bit one.
fn widen(lr: u32) -> u64 {
    let lr = u64::from(lr);
    let hardware = lr >> 31 & 1;
    let (physical, source) =
        if hardware != 0 { (lr >> 10 & 0x3ff, 0) } else { (lr >> 19 << 9 & 0x200, lr >> 10 & 7) };
    (lr & 0x3ff)
        | source << SOURCE_SHIFT
        | physical << 32
        | (lr >> 23 & 0x1f) << 51
        | (lr >> 28 & 3) << 62
        | (lr >> 30 & 1) << 60
        | hardware << 61
}

/// The reverse of [`widen`].
fn narrow(lr: u64) -> u32 {
    let hardware = lr >> 61 & 1;
    let middle = if hardware != 0 {
        (lr >> 32 & 0x3ff) << 10
    } else {
        (lr >> 41 & 1) << 19 | (lr >> SOURCE_SHIFT & 7) << 10
    };
    let value = (lr & 0x3ff)
        | middle
        | (lr >> 51 & 0x1f) << 23
        | (lr >> 62 & 3) << 28
        | (lr >> 60 & 1) << 30
        | hardware << 31;
    u32::try_from(value).unwrap_or(0)
}

fn low(value: Option<u64>) -> u32 {
    u32::try_from(value.unwrap_or(0) & 0xffff_ffff).unwrap_or(0)
}

fn list(offset: u64) -> u16 {
    e::ICH_LR0 + u16::try_from((offset - 0x100) / 4).unwrap_or(u16::MAX - e::ICH_LR0)
}

fn control_read(v: &Virt, offset: u64) -> u32 {
    match offset {
        0x00 => low(v.ich_read(e::ICH_HCR)),
        // Five priority and preemption bits; four list registers.
        0x04 => 4 << 29 | 4 << 26 | 3,
        0x08 => low(v.ich_read(e::ICH_VMCR)),
        0x10 => low(v.ich_read(e::ICH_MISR)),
        0x20 => low(v.ich_read(e::ICH_EISR)),
        0x30 => low(v.ich_read(e::ICH_ELRSR)),
        0xf0 => low(v.ich_read(e::ICH_AP0R0)) | low(v.ich_read(e::ICH_AP1R0)),
        0x100..0x140 => v.ich_read(list(offset)).map_or(0, narrow),
        _ => 0,
    }
}

fn control_write(v: &mut Virt, offset: u64, value: u32) {
    let wide = u64::from(value);
    match offset {
        0x00 => v.ich_write(e::ICH_HCR, wide),
        0x08 => v.ich_write(e::ICH_VMCR, wide),
        0xf0 => v.ich_write(e::ICH_AP0R0, wide) && v.ich_write(e::ICH_AP1R0, 0),
        0x100..0x140 => v.ich_write(list(offset), widen(value)),
        _ => true,
    };
}

/// GICV_IAR and GICV_AIAR: which group's register of the shared interface.
fn interrupt(v: &mut Virt, regs: [u16; 2], group1_only: bool) -> u32 {
    const ACKCTL: u32 = 1 << 2;
    let pending1 = low(v.icv_read(e::HPPIR1)) != crate::SPURIOUS;
    let ackctl = low(v.ich_read(e::ICH_VMCR)) & ACKCTL != 0;
    match (group1_only, pending1) {
        (true, _) => number_out(low(v.icv_read(regs[1]))),
        (false, false) => number_out(low(v.icv_read(regs[0]))),
        (false, true) if ackctl => number_out(low(v.icv_read(regs[1]))),
        (false, true) => 1022,
    }
}

fn vcpu_read(v: &mut Virt, offset: u64) -> u32 {
    match offset {
        0x00 => low(v.ich_read(e::ICH_VMCR)) & 0x21f,
        0x04 => low(v.icv_read(e::PMR)),
        0x08 => low(v.icv_read(e::BPR0)),
        0x0c => interrupt(v, [e::IAR0, e::IAR1], false),
        0x14 => low(v.icv_read(e::RPR)),
        0x18 => interrupt(v, [e::HPPIR0, e::HPPIR1], false),
        0x1c => low(v.icv_read(e::BPR1)),
        0x20 => interrupt(v, [e::IAR0, e::IAR1], true),
        0x28 => interrupt(v, [e::HPPIR0, e::HPPIR1], true),
        0xfc => cpuif::IIDR,
        _ => 0,
    }
}

fn vcpu_write(v: &mut Virt, offset: u64, value: u32) -> Option<After> {
    let wide = u64::from(value);
    match offset {
        0x00 => {
            let rest = low(v.ich_read(e::ICH_VMCR)) & !0x21f;
            v.ich_write(e::ICH_VMCR, u64::from(rest | (value & 0x21f)));
            None
        }
        0x04 => v.icv_write(e::PMR, wide),
        0x08 => v.icv_write(e::BPR0, wide),
        0x1c => v.icv_write(e::BPR1, wide),
        0x10 | 0x24 => {
            v.gather_active(0);
            v.icv_write(e::EOIR0, number_in(value))
        }
        0x1000 => v.icv_write(e::DIR, number_in(value)),
        _ => None,
    }
}

impl Gicv2 {
    /// Carries out what a virtual access asks of the physical side.
    fn after(regs: &mut super::Regs, cpu: usize, after: Option<After>) {
        if let Some(After::Deactivate(intid)) = after {
            Gicv2::deactivate(regs, cpu, intid);
        }
    }
}

/// GICH: the hypervisor's control of its own CPU's list registers.
pub(super) struct Control(pub(super) Arc<Gicv2>);

impl Mmio for Control {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let regs = self.0.regs.lock();
        let cpu = regs.cpus.get(self.0.cpu_of(at));
        Ok(cpu.map_or(0, |c| control_read(&c.virt, at.offset)).into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let mut regs = self.0.regs.lock();
        if let Some(cpu) = regs.cpus.get_mut(self.0.cpu_of(at)) {
            control_write(&mut cpu.virt, at.offset, low(Some(value)));
        }
        self.0.update(&mut regs);
        Ok(())
    }
}

/// GICV: what the virtual machine sees as its CPU interface.
pub(super) struct Frame(pub(super) Arc<Gicv2>);

impl Mmio for Frame {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let mut regs = self.0.regs.lock();
        let cpu = regs.cpus.get_mut(self.0.cpu_of(at));
        let value = cpu.map_or(0, |c| vcpu_read(&mut c.virt, at.offset));
        self.0.update(&mut regs);
        Ok(value.into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let mut regs = self.0.regs.lock();
        let index = self.0.cpu_of(at);
        let after = match regs.cpus.get_mut(index) {
            Some(cpu) => vcpu_write(&mut cpu.virt, at.offset, low(Some(value))),
            None => None,
        };
        Gicv2::after(&mut regs, index, after);
        self.0.update(&mut regs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_registers_survive_widening() {
        for lr in [0x9a00_8c21u32, 0x1a08_1405, 0xf800_0000, 0x3000_03ff] {
            assert_eq!(narrow(widen(lr)), lr, "{lr:#x}");
        }
    }
}
