//! Stage 2 of the EL1&0 regime, and what both stages give together (Arm ARM D8.2.6, D8.4, D8.6).
//!
//! Not modelled: what the stage 1 module lists, and Realm or Secure stage 2.

use jit_ir::{MemFault, PhysMem};

use super::{
    Mapped, Request, STAGE2, Step, Walk, available, bits, fault_at, granule0, permits, size_limits,
    status,
};
use crate::attributes;
use crate::state::ArmCpu;
use crate::sysreg::Reg;

impl ArmCpu {
    pub(super) fn go_on(
        &mut self,
        req: &Request,
        m: Mapped,
        stage2: bool,
        mem: &mut dyn PhysMem,
    ) -> Result<Mapped, MemFault> {
        if !stage2 || req.stage1_only {
            return Ok(m);
        }
        let s2 = self.stage2(req, m.pa, mem)?;
        let forced = self.hcr() >> 46 & 1 != 0;
        let attr = if forced {
            attributes::forced(m.attr, s2.attr)
        } else {
            attributes::combine(m.attr, s2.attr)
        };
        Ok(Mapped {
            pa: s2.pa,
            read: m.read && s2.read,
            write: m.write && s2.write,
            exec: m.exec && s2.exec,
            size_log2: m.size_log2.min(s2.size_log2),
            attr,
            share: attributes::share(m.share, s2.share),
            ..m
        })
    }

    pub(super) fn stage2(
        &mut self,
        req: &Request,
        ipa: u64,
        mem: &mut dyn PhysMem,
    ) -> Result<Mapped, MemFault> {
        let vtcr = self.sys(Reg::VTCR_EL2);
        let granule = available(&self.features, granule0(vtcr >> 14));
        let size = size_limits(bits(vtcr, 0, 6), granule, self.features.ttst());
        let sl0 = bits(vtcr, 6, 2) as u32;
        let level = match (granule, sl0) {
            // FEAT_TTST: SL0 = 3 starts at level 3.
            (12, 3) if self.features.ttst() => Some(3),
            (12, _) => 2u32.checked_sub(sl0),
            _ => 3u32.checked_sub(sl0),
        };
        let fail = |code: u64| Self::fault(req, code | STAGE2, ipa);
        let stride = granule - 3;
        let sl0_ok = sl0 < 3 || (granule == 12 && self.features.ttst());
        let Some(level) = level.filter(|_| sl0_ok && size > granule) else {
            return Err(fail(status::TRANSLATION));
        };
        let shift = granule + stride * (3 - level);
        // At most 16 concatenated tables at the start.
        if ipa >> size != 0 || size > shift + stride + 4 {
            return Err(fail(status::TRANSLATION));
        }
        let table_bits = size.saturating_sub(shift) + 3;
        let base = self.sys(Reg::VTTBR_EL2) & 0x0000_ffff_ffff_fffe & !((1u64 << table_bits) - 1);
        let pa_bits = self.output_bits(bits(vtcr, 16, 3));
        for _ in 0..4 {
            let w = Walk { level, granule, base, size, input: ipa, pa_bits };
            let leaf = match self.descend(req, w, false, true, mem)? {
                Step::Leaf(l) => l,
                Step::Fault(code) => return Err(fail(code)),
            };
            let (ha, hd) = (
                self.features.hw_af() && vtcr >> 21 & 1 != 0,
                self.features.hw_dbm() && vtcr >> 22 & 1 != 0,
            );
            let never = if self.features.xnx() {
                bits(leaf.desc, 53, 2)
            } else {
                bits(leaf.desc, 54, 1) << 1
            };
            let exec = match never {
                0 => true,
                1 => req.user,
                3 => !req.user,
                _ => false,
            };
            let read = leaf.desc >> 6 & 1 != 0;
            let dirty = hd && leaf.desc >> 51 & 1 != 0;
            let allowed = (read, dirty || leaf.desc >> 7 & 1 != 0, exec);
            if leaf.marked(ha) && !permits(req.kind, allowed) {
                return Err(fail(fault_at(status::PERMISSION, leaf.level)));
            }
            let desc = self.update_flags(&leaf, req.kind, (ha, hd), 0, mem).map_err(fail)?;
            if desc == 0 {
                continue;
            }
            let write = desc >> 7 & 1 != 0;
            let fwb = self.hcr() >> 46 & 1 != 0;
            let memattr = bits(desc, 2, 4) as u8;
            return Ok(Mapped {
                pa: leaf.pa,
                read,
                write,
                exec,
                size_log2: leaf.size_log2,
                level: leaf.level,
                global: true,
                attr: if fwb { memattr } else { attributes::of_stage2(memattr) },
                share: bits(desc, 8, 2) as u8,
                guarded: false,
                secure: false,
            });
        }
        Err(fail(fault_at(status::TRANSLATION, 3)))
    }
}
