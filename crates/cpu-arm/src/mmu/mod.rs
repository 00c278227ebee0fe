//! VMSAv8-64 address translation (Arm ARM D8): stage 1 of every regime, stage 2, all granules.
//!
//! Not modelled: 52-bit addresses (LPA, LPA2, LVA), Secure EL2, MPAM, MTE tags, HCR_EL2.DC and FWB,
//! contiguous-bit checks.

use jit_ir::cpu::TlbTag;
use jit_ir::{AccessKind, MemFault, PageMap, PhysMem};

use crate::features::Features;
use crate::state::{ArmCpu, mmu_index};
use crate::sysreg::Reg;

/// Translation regimes; the numbers are those of [`TlbTag::regime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// EL1&0.
    El10,
    /// EL2.
    El2,
    /// EL2&0 (VHE).
    El20,
    /// EL3.
    El3,
}

mod stage2;

/// One translation to make.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Virtual address.
    pub va: u64,
    /// Access.
    pub kind: AccessKind,
    /// Regime.
    pub regime: Regime,
    /// Unprivileged.
    pub user: bool,
    /// PAN applies.
    pub pan: bool,
    /// Go on to stage 2 where it is enabled.
    pub stage2_enabled: bool,
    /// Stage 2 is for the walk alone, the result is an intermediate address.
    pub stage1_only: bool,
}

/// Result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Physical address of `va`.
    pub pa: u64,
    /// Permissions of the requester.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Execute.
    pub exec: bool,
    /// log2 of the block size.
    pub size_log2: u8,
    /// Level of the descriptor.
    pub level: u32,
    /// Not bound to an ASID.
    pub global: bool,
    /// MAIR attribute byte.
    pub attr: u8,
    /// Shareability as descriptors have it: 0 none, 2 outer, 3 inner.
    pub share: u8,
    /// Guarded page.
    pub guarded: bool,
    /// Secure physical address space.
    pub secure: bool,
}

/// Fault status codes (DFSC) without level.
mod status {
    pub(super) const SIZE: u64 = 0x00;
    pub(super) const TRANSLATION: u64 = 0x04;
    pub(super) const ACCESS_FLAG: u64 = 0x08;
    pub(super) const PERMISSION: u64 = 0x0c;
    pub(super) const EXTERNAL: u64 = 0x10;
    pub(super) const EXTERNAL_WALK: u64 = 0x14;
    pub(super) const ALIGNMENT: u64 = 0x21;
}
/// In `MemFault::code`: fault on a stage 1 table walk's own translation.
const S1PTW: u64 = 1 << 7;
/// In `MemFault::code`: reported by stage 2, so taken to EL2.
const STAGE2: u64 = 1 << 8;
/// In `MemFault::code`: from here on the instruction syndrome.
const SYNDROME: u32 = 32;
/// In `MemFault::code`: of an address translation instruction (ISS.CM).
const MAINTENANCE: u64 = 1 << 9;

/// What a TCR half says.
#[derive(Clone, Copy, Debug)]
struct Half {
    size: u32,
    granule: u32,
    tbi: bool,
    tbid: bool,
    disabled: bool,
    hpd: bool,
    ha: bool,
    hd: bool,
    e0pd: bool,
    base: u64,
    pa_bits: u32,
}

fn granule0(v: u64) -> u32 {
    match v & 3 {
        1 => 16,
        2 => 14,
        _ => 12,
    }
}

fn granule1(v: u64) -> u32 {
    match v & 3 {
        1 => 14,
        3 => 16,
        _ => 12,
    }
}

/// A granule of the ID register's choice where the CPU has not the wanted one (Arm ARM, TCR_EL1.TG0).
fn available(f: &Features, wanted: u32) -> u32 {
    let mmfr0 = f.id.mmfr0;
    let has = |granule: u32| match granule {
        12 => bits(mmfr0, 28, 4) != 15,
        14 => bits(mmfr0, 20, 4) != 0,
        _ => bits(mmfr0, 24, 4) != 15,
    };
    [wanted, 12, 16].into_iter().find(|granule| has(*granule)).unwrap_or(14)
}

fn bits(v: u64, at: u32, n: u32) -> u64 {
    v >> at & ((1 << n) - 1)
}

/// Address bits of a TxSZ: 48 at most, as no model has FEAT_LVA or FEAT_LPA2; with FEAT_TTST down
/// to 16, or 17 with 64 KiB pages.
fn size_limits(txsz: u64, granule: u32, ttst: bool) -> u32 {
    let smallest = match (ttst, granule) {
        (false, _) => 39,
        (true, 16) => 47,
        (true, _) => 48,
    };
    64 - txsz.clamp(16, smallest) as u32
}

fn permits(kind: AccessKind, (read, write, exec): (bool, bool, bool)) -> bool {
    match kind {
        AccessKind::Read => read,
        AccessKind::Write => write,
        AccessKind::Exec => exec,
    }
}

/// A descriptor walk in progress.
struct Walk {
    level: u32,
    granule: u32,
    base: u64,
    size: u32,
    input: u64,
    pa_bits: u32,
}

/// A leaf.
struct Leaf {
    desc: u64,
    at: u64,
    level: u32,
    pa: u64,
    size_log2: u8,
    table_attrs: u64,
}

impl Leaf {
    /// The access flag is set, or the walk may set it.
    fn marked(&self, ha: bool) -> bool {
        ha || self.desc >> 10 & 1 != 0
    }
}

enum Step {
    Leaf(Leaf),
    Fault(u64),
}

fn fault_at(kind: u64, level: u32) -> u64 {
    kind + u64::from(level & 3)
}

impl ArmCpu {
    fn regime_regs(&self, r: Regime) -> (u64, u64) {
        match r {
            Regime::El10 => (self.sys(Reg::SCTLR_EL1), self.sys(Reg::TCR_EL1)),
            Regime::El2 | Regime::El20 => (self.sys(Reg::SCTLR_EL2), self.sys(Reg::TCR_EL2)),
            Regime::El3 => (self.sys(Reg::SCTLR_EL3), self.sys(Reg::TCR_EL3)),
        }
    }

    fn half(&self, r: Regime, high: bool) -> Half {
        let (_, tcr) = self.regime_regs(r);
        let bit = |n: u32| tcr >> n & 1 != 0;
        let f = &self.features;
        if matches!(r, Regime::El2 | Regime::El3) {
            let base = if r == Regime::El2 { Reg::TTBR0_EL2 } else { Reg::TTBR0_EL3 };
            let granule = available(f, granule0(tcr >> 14));
            return Half {
                size: size_limits(bits(tcr, 0, 6), granule, f.ttst()),
                granule,
                tbi: bit(20),
                tbid: bit(29),
                disabled: high,
                hpd: f.hpd() && bit(24),
                ha: f.hw_af() && bit(21),
                hd: f.hw_dbm() && bit(22),
                e0pd: false,
                base: self.sys(base),
                pa_bits: self.output_bits(bits(tcr, 16, 3)),
            };
        }
        let (t0, t1) = if r == Regime::El10 {
            (Reg::TTBR0_EL1, Reg::TTBR1_EL1)
        } else {
            (Reg::TTBR0_EL2, Reg::TTBR1_EL2)
        };
        let granule = if high { granule1(tcr >> 30) } else { granule0(tcr >> 14) };
        let granule = available(f, granule);
        let n = u32::from(high);
        Half {
            size: size_limits(bits(tcr, 16 * n, 6), granule, f.ttst()),
            granule,
            tbi: bit(37 + n),
            tbid: bit(51 + n) && f.pauth() > 0,
            disabled: bit(7 + 16 * n),
            hpd: f.hpd() && bit(41 + n),
            ha: f.hw_af() && bit(39),
            hd: f.hw_dbm() && bit(40),
            e0pd: f.e0pd() && bit(55 + n),
            base: self.sys(if high { t1 } else { t0 }),
            pa_bits: self.output_bits(bits(tcr, 32, 3)),
        }
    }

    fn output_bits(&self, ps: u64) -> u32 {
        let wanted = [32, 36, 40, 42, 44, 48, 48, 48][(ps & 7) as usize];
        wanted.min(self.features.pa_bits())
    }

    /// Regime, privilege and PAN of an mmu index.
    #[must_use]
    pub fn index_meaning(mmu: u8) -> (Regime, bool, bool) {
        match mmu {
            mmu_index::E10_0 => (Regime::El10, true, false),
            mmu_index::E10_1 => (Regime::El10, false, false),
            mmu_index::E10_1_PAN => (Regime::El10, false, true),
            mmu_index::E2 => (Regime::El2, false, false),
            mmu_index::E20_0 => (Regime::El20, true, false),
            mmu_index::E20_2 => (Regime::El20, false, false),
            mmu_index::E20_2_PAN => (Regime::El20, false, true),
            _ => (Regime::El3, false, false),
        }
    }

    /// mmu index of ordinary data accesses now.
    #[must_use]
    pub fn data_mmu(&self) -> u8 {
        let pan = self.pstate.pan;
        match self.pstate.el {
            0 if self.e2h_tge() => mmu_index::E20_0,
            0 => mmu_index::E10_0,
            1 if pan => mmu_index::E10_1_PAN,
            1 => mmu_index::E10_1,
            2 if self.e2h() && pan => mmu_index::E20_2_PAN,
            2 if self.e2h() => mmu_index::E20_2,
            2 => mmu_index::E2,
            _ => mmu_index::E3,
        }
    }

    /// mmu index of LDTR and STTR now.
    #[must_use]
    pub fn unprivileged_mmu(&self) -> u8 {
        match self.pstate.el {
            _ if self.pstate.uao => self.data_mmu(),
            1 => mmu_index::E10_0,
            2 if self.e2h_tge() => mmu_index::E20_0,
            _ => self.data_mmu(),
        }
    }

    /// Top-byte-ignore and address size for a pointer in the regime of the current level.
    #[must_use]
    pub fn pointer_shape(&self, high: bool, data: bool) -> (bool, u32) {
        let (tcr, single) = self.current_tcr();
        let n = u32::from(high && !single);
        let granule = if n == 1 { granule1(tcr >> 30) } else { granule0(tcr >> 14) };
        let granule = available(&self.features, granule);
        let size = size_limits(bits(tcr, 16 * n, 6), granule, self.features.ttst());
        (self.top_byte_ignored(tcr, single, n, data), size)
    }

    /// TCR of the current level's regime, and whether it has one address range.
    fn current_tcr(&self) -> (u64, bool) {
        let (regime, _, _) = Self::index_meaning(self.data_mmu());
        (self.regime_regs(regime).1, matches!(regime, Regime::El2 | Regime::El3))
    }

    /// TBI, and for instructions not TBID, of range `n`.
    fn top_byte_ignored(&self, tcr: u64, single: bool, n: u32, data: bool) -> bool {
        let (tbi, tbid) = if single { (20, 29) } else { (37 + n, 51 + n) };
        let but = !data && tcr >> tbid & 1 != 0 && self.features.pauth() > 0;
        tcr >> tbi & 1 != 0 && !but
    }

    /// Whether tags of low and high branch targets are ignored.
    #[must_use]
    pub fn branch_tbi(&self) -> (bool, bool) {
        let (tcr, single) = self.current_tcr();
        let of = |n: u32| self.top_byte_ignored(tcr, single, n, false);
        if single { (of(0), of(0)) } else { (of(0), of(1)) }
    }

    /// VMID in use.
    #[must_use]
    pub fn vmid(&self) -> u16 {
        if self.el2_enabled() { (self.sys(Reg::VTTBR_EL2) >> 48) as u16 } else { 0 }
    }

    /// TLB tag of an mmu index.
    #[must_use]
    pub fn tag_of(&self, mmu: u8) -> TlbTag {
        let (regime, _, _) = Self::index_meaning(mmu);
        let (_, tcr) = self.regime_regs(regime);
        let a1 = tcr >> 22 & 1 != 0;
        let asid = match regime {
            Regime::El10 if a1 => self.sys(Reg::TTBR1_EL1) >> 48,
            Regime::El10 => self.sys(Reg::TTBR0_EL1) >> 48,
            Regime::El20 if a1 => self.sys(Reg::TTBR1_EL2) >> 48,
            Regime::El20 => self.sys(Reg::TTBR0_EL2) >> 48,
            _ => 0,
        };
        // By SCR_EL3.NS alone, so that the tag is the same seen from EL3.
        let secure_state = self.features.el3 && self.sys(Reg::SCR_EL3) & 1 == 0;
        let secure = u8::from(secure_state && regime == Regime::El10) << 2;
        let vmid = if regime == Regime::El10 { self.vmid() } else { 0 };
        let flat = u8::from(self.regime_regs(regime).0 & 1 == 0) << 3;
        let nested = u8::from(regime == Regime::El10 && self.hcr() & 1 != 0) << 4;
        TlbTag { regime: regime as u8 | secure | flat | nested, asid: asid as u16, vmid }
    }

    fn fault(req: &Request, code: u64, extra: u64) -> MemFault {
        MemFault { va: req.va, code, extra, kind: req.kind }
    }

    /// Reads one stage 1 or 2 descriptor at a physical or (stage 1 under stage 2) intermediate
    /// address.
    fn read_desc(
        &mut self,
        req: &Request,
        at: u64,
        level: u32,
        nested: bool,
        mem: &mut dyn PhysMem,
    ) -> Result<(u64, u64), MemFault> {
        let mut pa = at;
        if nested {
            let inner = Request { kind: AccessKind::Read, ..*req };
            let m = self.stage2(&inner, at, mem).map_err(|f| MemFault {
                code: f.code | S1PTW,
                kind: req.kind,
                ..f
            })?;
            // HCR_EL2.PTW: a walk must not touch what stage 2 calls Device memory.
            let device =
                if self.hcr() >> 46 & 1 != 0 { m.attr & 4 == 0 } else { m.attr & 0xf0 == 0 };
            if device && self.hcr() >> 2 & 1 != 0 {
                let code = fault_at(status::PERMISSION, m.level) | STAGE2 | S1PTW;
                return Err(Self::fault(req, code, at));
            }
            pa = m.pa;
        }
        let secure = self.is_secure();
        let desc = mem
            .read(pa, 8, secure)
            .ok_or_else(|| Self::fault(req, fault_at(status::EXTERNAL_WALK, level), 0))?;
        Ok((desc, pa))
    }

    fn descend(
        &mut self,
        req: &Request,
        mut w: Walk,
        nested: bool,
        hpd: bool,
        mem: &mut dyn PhysMem,
    ) -> Result<Step, MemFault> {
        let stride = w.granule - 3;
        let mut table_attrs = 0u64;
        let mut top = w.size;
        loop {
            let shift = w.granule + stride * (3 - w.level);
            let index = w.input >> shift & ((1u64 << top.saturating_sub(shift)) - 1);
            let at = w.base + index * 8;
            let (desc, at) = self.read_desc(req, at, w.level, nested, mem)?;
            let addr = desc & 0x0000_ffff_ffff_f000 & !((1u64 << w.granule) - 1);
            if desc & 1 == 0 {
                return Ok(Step::Fault(fault_at(status::TRANSLATION, w.level)));
            }
            let table = desc & 2 != 0 && w.level < 3;
            let block_ok = w.level == 2 || (w.level == 1 && w.granule == 12);
            if !table && ((w.level == 3 && desc & 2 == 0) || (w.level < 3 && !block_ok)) {
                return Ok(Step::Fault(fault_at(status::TRANSLATION, w.level)));
            }
            if addr >> w.pa_bits != 0 {
                return Ok(Step::Fault(fault_at(status::SIZE, w.level)));
            }
            if table {
                if !hpd {
                    table_attrs |= desc;
                }
                (w.base, w.level, top) = (addr, w.level + 1, shift);
                continue;
            }
            let pa = addr & !((1u64 << shift) - 1) | w.input & ((1u64 << shift) - 1);
            let size_log2 = shift as u8;
            return Ok(Step::Leaf(Leaf { desc, at, level: w.level, pa, size_log2, table_attrs }));
        }
    }

    /// Access flag and dirty state; gives the descriptor to use.
    fn update_flags(
        &mut self,
        leaf: &Leaf,
        kind: AccessKind,
        (ha, hd): (bool, bool),
        read_only_bit: u64,
        mem: &mut dyn PhysMem,
    ) -> Result<u64, u64> {
        let mut new = leaf.desc;
        if new >> 10 & 1 == 0 {
            if !ha {
                return Err(fault_at(status::ACCESS_FLAG, leaf.level));
            }
            new |= 1 << 10;
        }
        if hd && new >> 51 & 1 != 0 && kind == AccessKind::Write {
            new = if read_only_bit == 1 << 7 { new & !(1 << 7) } else { new | 1 << 7 };
        }
        if new != leaf.desc {
            let secure = self.is_secure();
            match mem.cas64(leaf.at, leaf.desc, new, secure) {
                Some(true) => {}
                Some(false) => return Ok(0), // changed under us: walk again
                None => return Err(fault_at(status::EXTERNAL_WALK, leaf.level)),
            }
        }
        Ok(new)
    }

    fn flat(&self, req: &Request, tbi: bool) -> Result<Mapped, MemFault> {
        let pa = if tbi { ((req.va << 8) as i64 >> 8) as u64 & !(0xff << 56) } else { req.va };
        if pa >> self.features.pa_bits() != 0 {
            return Err(Self::fault(req, status::SIZE, 0));
        }
        Ok(Mapped {
            pa,
            read: true,
            write: true,
            exec: true,
            size_log2: 12,
            level: 0,
            global: true,
            attr: if req.kind == AccessKind::Exec { 0xff } else { 0 },
            share: 2,
            guarded: false,
            secure: self.is_secure(),
        })
    }

    /// Translates completely. Faults are not taken, only described.
    pub fn walk(&mut self, req: &Request, mem: &mut dyn PhysMem) -> Result<Mapped, MemFault> {
        let (sctlr, _) = self.regime_regs(req.regime);
        let stage2 = req.stage2_enabled && req.regime == Regime::El10 && self.hcr() & 1 != 0;
        let single = matches!(req.regime, Regime::El2 | Regime::El3);
        let high = req.va >> 55 & 1 != 0;
        let half = self.half(req.regime, high && !single);
        let tbi = half.tbi && !(req.kind == AccessKind::Exec && half.tbid);
        if sctlr & 1 == 0 || (req.regime == Regime::El10 && self.hcr() >> 27 & 1 != 0) {
            let m = self.flat(req, tbi)?;
            return self.go_on(req, m, stage2, mem);
        }
        self.stage1(req, &half, tbi, stage2, mem)
    }

    fn stage1(
        &mut self,
        req: &Request,
        half: &Half,
        tbi: bool,
        stage2: bool,
        mem: &mut dyn PhysMem,
    ) -> Result<Mapped, MemFault> {
        let high = req.va >> 55 & 1 != 0;
        let single = matches!(req.regime, Regime::El2 | Regime::El3);
        let sign = if high && !single { u64::MAX } else { 0 };
        let keep = if tbi { u64::MAX >> 8 } else { u64::MAX };
        let beyond = (req.va ^ sign) & keep & !((1u64 << half.size) - 1);
        if beyond != 0 || half.disabled || (half.e0pd && req.user) {
            return Err(Self::fault(req, status::TRANSLATION, 0));
        }
        let stride = half.granule - 3;
        let level = 4 - (half.size - half.granule).div_ceil(stride);
        let table_bits = half.size - (half.granule + stride * (3 - level)) + 3;
        let base = half.base & 0x0000_ffff_ffff_fffe & !((1u64 << table_bits.max(6)) - 1);
        if base >> half.pa_bits != 0 {
            return Err(Self::fault(req, status::SIZE, 0));
        }
        for _ in 0..4 {
            let w = Walk {
                level,
                granule: half.granule,
                base,
                size: half.size,
                input: req.va & ((1u64 << half.size) - 1),
                pa_bits: half.pa_bits,
            };
            let leaf = match self.descend(req, w, stage2, half.hpd, mem)? {
                Step::Leaf(l) => l,
                Step::Fault(code) => return Err(Self::fault(req, code, 0)),
            };
            let denied = || Self::fault(req, fault_at(status::PERMISSION, leaf.level), 0);
            let allowed = self.stage1_permissions(req, &leaf, leaf.desc, half.hd);
            // An access that is refused leaves no mark, but a missing mark refuses it first.
            if leaf.marked(half.ha) && !permits(req.kind, allowed) {
                return Err(denied());
            }
            let desc = self
                .update_flags(&leaf, req.kind, (half.ha, half.hd), 1 << 7, mem)
                .map_err(|code| Self::fault(req, code, 0))?;
            if desc == 0 {
                continue;
            }
            let (read, write, exec) = self.stage1_permissions(req, &leaf, desc, false);
            let m = self.stage1_result(req, &leaf, desc, (read, write, exec));
            if !permits(req.kind, (read, write, exec)) {
                return Err(denied());
            }
            return self.go_on(req, m, stage2, mem);
        }
        Err(Self::fault(req, fault_at(status::TRANSLATION, 3), 0))
    }

    fn stage1_result(&self, req: &Request, l: &Leaf, desc: u64, p: (bool, bool, bool)) -> Mapped {
        let mair = match req.regime {
            Regime::El10 => self.sys(Reg::MAIR_EL1),
            Regime::El2 | Regime::El20 => self.sys(Reg::MAIR_EL2),
            Regime::El3 => self.sys(Reg::MAIR_EL3),
        };
        let two_ranges = matches!(req.regime, Regime::El10 | Regime::El20);
        let ns = desc >> 5 & 1 != 0 || l.table_attrs >> 63 != 0;
        Mapped {
            pa: l.pa,
            read: p.0,
            write: p.1,
            exec: p.2,
            size_log2: l.size_log2,
            level: l.level,
            global: !two_ranges || desc >> 11 & 1 == 0,
            attr: (mair >> (8 * (desc >> 2 & 7))) as u8,
            share: bits(desc, 8, 2) as u8,
            guarded: desc >> 50 & 1 != 0,
            secure: self.is_secure() && !ns,
        }
    }

    /// Read, write, execute of the requester. `dirty_ok`: a clean writable page counts as writable.
    fn stage1_permissions(
        &self,
        req: &Request,
        leaf: &Leaf,
        desc: u64,
        dirty_ok: bool,
    ) -> (bool, bool, bool) {
        let (sctlr, _) = self.regime_regs(req.regime);
        let t = leaf.table_attrs;
        let clean_writable = dirty_ok && desc >> 51 & 1 != 0;
        let read_only = (desc >> 7 & 1 != 0 && !clean_writable) || t >> 62 & 1 != 0;
        let wxn = sctlr >> 19 & 1 != 0;
        let forbidden = |writable: bool| wxn && writable;
        let xn_high = desc >> 54 & 1 != 0 || t >> 60 & 1 != 0;
        if matches!(req.regime, Regime::El2 | Regime::El3) {
            let exec = !(xn_high || forbidden(!read_only));
            return (true, !read_only, exec);
        }
        let user_ok = desc >> 6 & 1 != 0 && t >> 61 & 1 == 0;
        let pxn = desc >> 53 & 1 != 0 || t >> 59 & 1 != 0;
        let user_write = user_ok && !read_only;
        let user_exec = !(xn_high || forbidden(user_write));
        if req.user {
            return (user_ok, user_write, user_exec);
        }
        let exec = !(pxn || user_write || forbidden(!read_only));
        let epan = self.features.pan3() && sctlr >> 57 & 1 != 0;
        if req.pan && (user_ok || (epan && user_exec)) {
            return (false, false, exec);
        }
        (true, !read_only, exec)
    }

    /// Page map for the engine's TLB.
    pub fn translate_page(
        &mut self,
        va: u64,
        kind: AccessKind,
        mmu: u8,
        mem: &mut dyn PhysMem,
    ) -> Result<PageMap, MemFault> {
        let (regime, user, pan) = Self::index_meaning(mmu);
        let req = Request { va, kind, regime, user, pan, stage2_enabled: true, stage1_only: false };
        let m = match self.walk(&req, mem) {
            Ok(m) => m,
            Err(f) if f.code & (STAGE2 | S1PTW) == STAGE2 && kind != AccessKind::Exec => {
                let code = f.code | self.access_syndrome(mem) << SYNDROME;
                return Err(MemFault { code, ..f });
            }
            Err(f) => return Err(f),
        };
        Ok(PageMap {
            pa: m.pa & !0xfff,
            read: m.read,
            write: m.write,
            exec: m.exec,
            size_log2: m.size_log2,
            global: m.global,
            volatile: false,
            strict_align: m.attr & 0xf0 == 0,
            code_attr: u8::from(m.guarded && self.features.bti()),
            secure: m.secure,
        })
    }

    /// Physical address of an instruction, if it is mapped.
    pub(crate) fn code_address(&mut self, pc: u64, mem: &mut dyn PhysMem) -> Option<u64> {
        let (regime, user, pan) = Self::index_meaning(self.data_mmu());
        let (kind, stage1_only) = (AccessKind::Exec, false);
        let req = Request { va: pc, kind, regime, user, pan, stage2_enabled: true, stage1_only };
        self.walk(&req, mem).ok().map(|m| m.pa)
    }

    /// Whether a fault of an AT instruction is EL2's affair: stage 2 refused the walk of EL1. Then it
    /// is taken (Arm ARM, "AT S1E1R", synchronous faults).
    pub fn take_at_abort(&mut self, f: MemFault) -> bool {
        let taken = f.code & STAGE2 != 0 && self.pstate.el == 1;
        if taken {
            self.take_abort(MemFault { code: f.code | MAINTENANCE, kind: AccessKind::Write, ..f });
        }
        taken
    }

    /// Takes the exception for a fault at PC.
    pub fn take_abort(&mut self, f: MemFault) {
        if f.code & crate::debug::WATCHPOINT != 0 {
            self.take_watchpoint(f);
            return;
        }
        let stage2 = f.code & STAGE2 != 0;
        let tge_el0 = self.pstate.el == 0 && self.hcr() >> 27 & 1 != 0;
        let target = if stage2 || tge_el0 { 2 } else { self.sync_target() };
        let mut iss = f.code & 0x3f | f.code & S1PTW;
        if f.code & MAINTENANCE != 0 {
            iss |= 1 << 8;
        }
        if stage2 && f.kind != AccessKind::Exec {
            iss |= f.code >> SYNDROME;
        }
        if f.kind == AccessKind::Write {
            iss |= 1 << 6;
        }
        let class = match f.kind {
            AccessKind::Exec => crate::exception::ec::IABT_LOWER,
            _ => crate::exception::ec::DABT_LOWER,
        };
        let same = u64::from(target == self.pstate.el);
        self.set_far(target, f.va);
        if stage2 {
            self.set_sys(Reg::HPFAR_EL2, f.extra >> 12 << 4);
        }
        self.take_sync(target, class + same, iss);
    }

    /// Alignment fault description.
    #[must_use]
    pub fn alignment(va: u64, kind: AccessKind) -> MemFault {
        MemFault { va, code: status::ALIGNMENT, extra: 0, kind }
    }

    /// External abort description.
    #[must_use]
    pub fn external(va: u64, kind: AccessKind) -> MemFault {
        MemFault { va, code: status::EXTERNAL, extra: 0, kind }
    }
}
