//! Pointer authentication (Arm ARM D8.10; pseudocode AddPAC, Auth, Strip).
//!
//! Algorithms: QARMA5, QARMA3 ([`crate::qarma`]) and our own implementation-defined one, a keyed
//! 64-bit mix that is a checksum against guest bugs, not cryptography. The property `pauth-*` chooses.
//! Built are levels PAuth2 with FPAC and FPACCOMBINE: a code is XORed in, a wrong one faults.
//!
//! With the implementation-defined one translated code computes the codes of instruction keys itself
//! (`crate::translate`, of the same formulas); the mode key says when ([`ArmCpu::inline_pac`]).

use jit_ir::HelperCx;

use crate::exception::ec;
use crate::features::Pac;
use crate::qarma;
use crate::state::ArmCpu;
use crate::sysreg::Reg;

const KEYS: [(Reg, Reg); 5] = [
    (Reg::APIAKEYLO_EL1, Reg::APIAKEYHI_EL1),
    (Reg::APIBKEYLO_EL1, Reg::APIBKEYHI_EL1),
    (Reg::APDAKEYLO_EL1, Reg::APDAKEYHI_EL1),
    (Reg::APDBKEYLO_EL1, Reg::APDBKEYHI_EL1),
    (Reg::APGAKEYLO_EL1, Reg::APGAKEYHI_EL1),
];
/// SCTLR_ELx.EnIA, EnIB, EnDA, EnDB.
const ENABLE: [u32; 4] = [31, 30, 27, 13];

/// Added to pointer and modifier: small ones spread over the product too.
pub(crate) const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
/// How far the modifier is rotated into the code: its lowest bits come to where codes are.
pub(crate) const TURN: u32 = 16;

fn mix(data: u64, modifier: u64, key: (u64, u64)) -> u64 {
    let p = u128::from(data ^ key.0 ^ MIX[0]) * u128::from(modifier ^ key.1 ^ MIX[1] | 1);
    p as u64 ^ (p >> 64) as u64 ^ modifier.rotate_right(TURN)
}

fn code(pac: Pac, data: u64, modifier: u64, key: (u64, u64)) -> u64 {
    match pac {
        Pac::Impdef => mix(data, modifier, key),
        Pac::Qarma5 => qarma::qarma5(data, modifier, key),
        Pac::Qarma3 => qarma::qarma3(data, modifier, key),
    }
}

/// What translated code does for an instruction key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InlinePac {
    /// Calls the helper.
    Ask,
    /// Computes.
    Compute,
    /// Nothing: the key is not enabled (SCTLR_ELx.EnIA, EnIB).
    Off,
}

/// Where the code goes in a pointer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) tbi: bool,
    pub(crate) bottom: u32,
}

impl Shape {
    /// Bits of the authentication code.
    fn mask(&self) -> u64 {
        let low = (1u64 << 55) - (1u64 << self.bottom);
        if self.tbi { low } else { low | 0xff << 56 }
    }

    /// The pointer without code: its address bits extended by bit 55.
    fn canonical(&self, ptr: u64) -> u64 {
        let ext = if ptr >> 55 & 1 != 0 { u64::MAX } else { 0 };
        let keep = !self.mask() & !(1 << 55);
        ptr & keep | ext & (self.mask() | 1 << 55)
    }
}

/// AddPAC.
pub(crate) fn sign(pac: Pac, s: &Shape, ptr: u64, modifier: u64, key: (u64, u64)) -> u64 {
    let base = s.canonical(if s.tbi { ptr } else { fix_select(ptr) });
    let pac = code(pac, base, modifier, key) & s.mask();
    (ptr & !(1 << 55)) ^ pac | base & 1 << 55
}

/// Auth: the pointer without code; `Err` when the code is wrong.
pub(crate) fn check(
    pac: Pac,
    s: &Shape,
    ptr: u64,
    modifier: u64,
    key: (u64, u64),
) -> Result<u64, u64> {
    let base = s.canonical(ptr);
    let result = ptr ^ code(pac, base, modifier, key) & s.mask();
    if result == base { Ok(result) } else { Err(result) }
}

impl ArmCpu {
    fn pac_shape(&self, ptr: u64, data: bool) -> Shape {
        let (tbi, size) = self.pointer_shape(ptr >> 55 & 1 != 0, data);
        Shape { tbi, bottom: size.clamp(16, 52) }
    }

    fn key(&self, n: usize) -> (u64, u64) {
        let (lo, hi) = KEYS[n.min(4)];
        (self.sys(lo), self.sys(hi))
    }

    /// Where pointer authentication instructions trap, if they do: HCR_EL2.API, SCR_EL3.API.
    fn pac_trap(&self) -> Option<u8> {
        let el = self.pstate.el;
        let below = el < 2 && !(el == 0 && self.e2h_tge());
        if below && self.el2_enabled() && self.hcr() >> 41 & 1 == 0 {
            return Some(2);
        }
        (self.features.el3 && el < 3 && self.sys(Reg::SCR_EL3) >> 17 & 1 == 0).then_some(3)
    }

    /// Traps of pointer authentication instructions; true if one was taken.
    fn pac_trapped(&mut self) -> bool {
        let target = self.pac_trap();
        if let Some(target) = target {
            self.take_sync(target, ec::PAUTH_TRAP, 0);
        }
        target.is_some()
    }

    /// What translated code may do about the instruction keys IA and IB itself, and the lowest bit of
    /// their codes (0 = both ranges differ in that, so helpers do it).
    #[must_use]
    pub fn inline_pac(&self) -> ([InlinePac; 2], u8) {
        let pac = [0, 1].map(|key| match (self.pac_enabled(key), self.pac_trap()) {
            (false, _) => InlinePac::Off,
            (true, None) if self.features.pac == Pac::Impdef => InlinePac::Compute,
            _ => InlinePac::Ask,
        });
        let [low, high] = [0, 1 << 55].map(|p| self.pac_shape(p, false).bottom);
        if low == high { (pac, low as u8) } else { (pac, 0) }
    }

    fn pac_enabled(&self, key: usize) -> bool {
        self.features.pauth() > 0 && self.sctlr() >> ENABLE[key & 3] & 1 != 0
    }

    fn pac_add(&self, ptr: u64, modifier: u64, key: usize) -> u64 {
        let s = self.pac_shape(ptr, key >= 2);
        sign(self.features.pac, &s, ptr, modifier, self.key(key))
    }

    /// `Err` when the code is wrong.
    fn pac_check(&self, ptr: u64, modifier: u64, key: usize) -> Result<u64, u64> {
        let s = self.pac_shape(ptr, key >= 2);
        check(self.features.pac, &s, ptr, modifier, self.key(key))
    }

    fn pac_fail(&mut self, key: usize) {
        let target = self.sync_target();
        self.take_sync(target, ec::PAC_FAIL, key as u64 & 3);
    }

    /// ERETAA, ERETAB: the authenticated address, `None` if an exception was taken.
    pub fn authenticate_return(&mut self, pc: u64, b: bool) -> Option<u64> {
        let key = usize::from(b);
        if !self.pac_enabled(key) {
            return Some(pc);
        }
        if self.pac_trapped() {
            return None;
        }
        let r = self.pac_check(pc, self.x[31], key);
        if r.is_err() {
            self.pac_fail(key);
        }
        r.ok()
    }
}

/// Without TBI the select bit of a pointer is bit 63.
fn fix_select(ptr: u64) -> u64 {
    ptr & !(1 << 55) | (ptr >> 63) << 55
}

/// PACIA, PACIB, PACDA, PACDB: a = pointer, b = modifier, immediate = key.
pub fn add(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let key = args[3] as usize & 3;
    if !cx.cpu.pac_enabled(key) || cx.cpu.pac_trapped() {
        return args[0];
    }
    cx.cpu.pac_add(args[0], args[1], key)
}

/// AUTIA, AUTIB, AUTDA, AUTDB. A wrong code faults (FEAT_FPAC).
pub fn auth(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let key = args[3] as usize & 3;
    if !cx.cpu.pac_enabled(key) || cx.cpu.pac_trapped() {
        return args[0];
    }
    match cx.cpu.pac_check(args[0], args[1], key) {
        Ok(p) => p,
        Err(p) => {
            cx.cpu.pac_fail(key);
            p
        }
    }
}

/// A code that translated code found wrong; the immediate is the key.
pub fn fail(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    cx.cpu.pac_fail(args[3] as usize & 3);
    0
}

/// XPACI (0), XPACD (1).
pub fn strip(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let s = cx.cpu.pac_shape(args[0], args[3] & 1 != 0);
    s.canonical(args[0])
}

/// PACGA: a = value, b = modifier.
pub fn generic(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    if cx.cpu.pac_trapped() {
        return 0;
    }
    code(cx.cpu.features.pac, args[0], args[1], cx.cpu.key(4)) & 0xffff_ffff_0000_0000
}
