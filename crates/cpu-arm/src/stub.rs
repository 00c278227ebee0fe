//! TEMPORARY: stands in for the sibling modules that are not written yet, so that `translate` compiles
//! and its tests run. Delete this file when `exception`, `features`, `fpsimd`, `pauth`, `sysreg` and
//! `system` exist. What `translate` needs from them is exactly what is here:
//! `sysreg::inline_slot` and `fpsimd::translate`.
//! Source: none.

#![allow(missing_docs, clippy::allow_attributes)]

use jit_ir::{
    AccessKind, CodeMode, HelperCx, JitCpu, JitEnv, MemFault, PageMap, PhysMem, Wake, cpu::TlbTag,
};

use crate::state::ArmCpu;

type Cx<'a, 'b> = &'a mut HelperCx<'b, ArmCpu>;

macro_rules! helper {
    ($($name:ident)*) => { $(pub fn $name(cx: super::Cx<'_, '_>, args: [u64; 4]) -> u64 {
        super::record(cx, stringify!($name), args)
    })* };
}

/// Helpers note their call in `system.calls` and leave the block if they are exceptions.
fn record(cx: Cx<'_, '_>, name: &'static str, args: [u64; 4]) -> u64 {
    cx.cpu.system.calls.push((name, args));
    cx.cpu.env.exit_after_helper();
    0
}

pub mod exception {
    helper! { undefined svc hvc smc brk eret fp_trap sp_alignment branch_target illegal_state step_done }
}

pub mod features {
    #[derive(Debug)]
    pub struct Features;
}

pub mod fpsimd {
    /// Hook: translates an FP or AdvSIMD data-processing word; false = undefined.
    pub fn translate(_insn: u32, _t: &mut crate::translate::Ctx<'_>) -> bool {
        false
    }
    helper! { helper }
}

pub mod pauth {
    /// Test stand-ins: adding XORs, authenticating undoes it, stripping clears the top byte.
    pub fn add(_: super::Cx<'_, '_>, a: [u64; 4]) -> u64 {
        a[0] ^ (a[1] << 52) ^ (a[3] + 1) << 48
    }
    pub fn auth(cx: super::Cx<'_, '_>, a: [u64; 4]) -> u64 {
        add(cx, a)
    }
    pub fn strip(_: super::Cx<'_, '_>, a: [u64; 4]) -> u64 {
        a[0] & 0xffff_ffff_ffff
    }
    pub fn generic(_: super::Cx<'_, '_>, a: [u64; 4]) -> u64 {
        (a[0] ^ a[1]) << 32
    }
}

pub mod sysreg {
    pub const REGS: usize = 1;
    #[derive(Clone, Copy, Debug)]
    pub enum Reg {
        TpidrEl0,
    }
    /// Hook: offset of a register that MRS (or MSR, if `write`) may access in place in this mode.
    pub fn inline_slot(enc: u32, _key: crate::state::ModeKey, _write: bool) -> Option<u32> {
        (enc == 0xde82).then_some(crate::state::sys_slot(Reg::TpidrEl0))
    }
    helper! { msr sys_insn msr_imm dc_zva }
    pub fn mrs(cx: super::Cx<'_, '_>, a: [u64; 4]) -> u64 {
        cx.cpu.system.calls.push(("mrs", a));
        a[3] << 4
    }
}

pub mod system {
    #[derive(Default, Debug)]
    pub struct System {
        pub calls: Vec<(&'static str, [u64; 4])>,
    }
    helper! { wait yield_ }
    pub fn event(_: super::Cx<'_, '_>, _: [u64; 4]) -> u64 {
        0
    }
    pub fn dsb(_: super::Cx<'_, '_>, _: [u64; 4]) -> u64 {
        0
    }
    /// Bitwise CRC of the low bytes.
    pub fn crc32(_: super::Cx<'_, '_>, a: [u64; 4]) -> u64 {
        let poly: u32 = if a[3] >> 4 & 1 != 0 { 0x82f6_3b78 } else { 0xedb8_8320 };
        let mut crc = a[0] as u32;
        for i in 0..1u32 << (a[3] & 3) {
            crc ^= (a[1] >> (8 * i)) as u8 as u32;
            for _ in 0..8 {
                crc = crc >> 1 ^ (poly & (crc & 1).wrapping_neg());
            }
        }
        u64::from(crc)
    }
}

impl JitCpu for ArmCpu {
    fn env(&mut self) -> &mut JitEnv {
        &mut self.env
    }
    fn state_ptr(&mut self) -> *mut u8 {
        std::ptr::from_mut(self).cast()
    }
    fn code_mode(&mut self, _: u8) -> CodeMode {
        CodeMode { key: 0, mmu: 0 }
    }
    fn tlb_tag(&mut self, _: u8) -> TlbTag {
        TlbTag::default()
    }
    fn translate(
        &mut self,
        va: u64,
        kind: AccessKind,
        _: u8,
        _: &mut dyn PhysMem,
    ) -> Result<PageMap, MemFault> {
        Err(MemFault { va, code: 0, extra: 0, kind })
    }
    fn alignment_fault(&mut self, va: u64, kind: AccessKind) -> MemFault {
        MemFault { va, code: 1, extra: 0, kind }
    }
    fn bus_fault(&mut self, va: u64, _: u64, kind: AccessKind) -> MemFault {
        MemFault { va, code: 2, extra: 0, kind }
    }
    fn raise(&mut self, fault: MemFault) {
        self.system.calls.push(("fault", [fault.va, fault.code, 0, 0]));
    }
    fn poll(&mut self) -> Wake {
        Wake::Run
    }
    fn set_kick(&mut self, _: std::sync::Arc<dyn Fn() + Send + Sync>) {}
    fn reset(&mut self) {}
    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}
