//! Pointer authentication (Arm ARM D8.10; pseudocode AddPAC, Auth, Strip).
//!
//! Algorithms: QARMA5, QARMA3 ([`crate::qarma`]) and our own implementation-defined one, a keyed
//! 64-bit mix that is a checksum against guest bugs, not cryptography. The property `pauth-*` chooses.
//! Built are levels PAuth2 with FPAC and FPACCOMBINE: a code is XORed in, a wrong one faults.

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

fn mix(data: u64, modifier: u64, key: (u64, u64)) -> u64 {
    let fold = |a: u64, b: u64| {
        let p = u128::from(a) * u128::from(b);
        p as u64 ^ (p >> 64) as u64
    };
    let a = fold(data ^ key.0 ^ 0x9e37_79b9_7f4a_7c15, key.1 ^ modifier | 1);
    let b = fold(modifier ^ key.1 ^ a.rotate_left(29), key.0 ^ 0xd1b5_4a32_d192_ed03 | 1);
    a ^ b.rotate_left(17) ^ data.rotate_left(41)
}

fn code(pac: Pac, data: u64, modifier: u64, key: (u64, u64)) -> u64 {
    match pac {
        Pac::Impdef => mix(data, modifier, key),
        Pac::Qarma5 => qarma::qarma5(data, modifier, key),
        Pac::Qarma3 => qarma::qarma3(data, modifier, key),
    }
}

/// Where the code goes in a pointer.
struct Shape {
    tbi: bool,
    bottom: u32,
}

impl Shape {
    /// Bits of the authentication code.
    fn mask(&self) -> u64 {
        let low = (1u64 << 55) - (1u64 << self.bottom);
        if self.tbi { low } else { low | 0xff << 56 }
    }
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

    /// The pointer without code: its address bits extended by bit 55.
    fn canonical(ptr: u64, s: &Shape) -> u64 {
        let ext = if ptr >> 55 & 1 != 0 { u64::MAX } else { 0 };
        let keep = !s.mask() & !(1 << 55);
        ptr & keep | ext & (s.mask() | 1 << 55)
    }

    /// Traps of pointer authentication instructions; true if one was taken.
    fn pac_trapped(&mut self) -> bool {
        let el = self.pstate.el;
        let below = el < 2 && !(el == 0 && self.e2h_tge());
        let target = if below && self.el2_enabled() && self.hcr() >> 41 & 1 == 0 {
            2
        } else if self.features.el3 && el < 3 && self.sys(Reg::SCR_EL3) >> 17 & 1 == 0 {
            3
        } else {
            return false;
        };
        self.take_sync(target, ec::PAUTH_TRAP, 0);
        true
    }

    fn pac_enabled(&self, key: usize) -> bool {
        self.features.pauth() > 0 && self.sctlr() >> ENABLE[key & 3] & 1 != 0
    }

    fn pac_add(&self, ptr: u64, modifier: u64, key: usize) -> u64 {
        let s = self.pac_shape(ptr, key >= 2);
        let base = Self::canonical(if s.tbi { ptr } else { fix_select(ptr) }, &s);
        let pac = code(self.features.pac, base, modifier, self.key(key)) & s.mask();
        (ptr & !(1 << 55)) ^ pac | base & 1 << 55
    }

    /// `Err` when the code is wrong.
    fn pac_check(&self, ptr: u64, modifier: u64, key: usize) -> Result<u64, u64> {
        let s = self.pac_shape(ptr, key >= 2);
        let base = Self::canonical(ptr, &s);
        let pac = code(self.features.pac, base, modifier, self.key(key)) & s.mask();
        let result = ptr ^ pac;
        if result == base { Ok(result) } else { Err(result) }
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

/// XPACI (0), XPACD (1).
pub fn strip(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    let s = cx.cpu.pac_shape(args[0], args[3] & 1 != 0);
    ArmCpu::canonical(args[0], &s)
}

/// PACGA: a = value, b = modifier.
pub fn generic(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64 {
    if cx.cpu.pac_trapped() {
        return 0;
    }
    code(cx.cpu.features.pac, args[0], args[1], cx.cpu.key(4)) & 0xffff_ffff_0000_0000
}
