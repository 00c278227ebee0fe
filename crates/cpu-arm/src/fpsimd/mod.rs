//! FP and Advanced SIMD data processing: not built yet, every instruction is undefined.

use jit_ir::HelperCx;

use crate::state::ArmCpu;

/// Executes one instruction word (immediate).
pub fn helper(cx: &mut HelperCx<'_, ArmCpu>, _: [u64; 4]) -> u64 {
    cx.cpu.take_undefined();
    0
}

/// Translates an FP or AdvSIMD data-processing word; false = undefined.
pub fn translate(_insn: u32, _t: &mut crate::translate::Ctx<'_>) -> bool {
    false
}
