//! A guest without instructions, for tests of back ends: 20 general registers, 8 vectors, flags.
//!
//! Its state struct has the shape of a real guest's, so pinning, spilling and vector-file aliasing
//! are exercised. Memory is identity-mapped by whoever implements [`crate::Services`] in the test.

use std::mem::offset_of;

use crate::cpu::{AccessKind, CodeMode, JitCpu, MemFault, PageMap, PhysMem, TlbTag, Wake};
use crate::env::JitEnv;
use crate::helper::{Effects, HelperCx};
use crate::op::Ty;
use crate::state::{FpControl, Slot, SlotClass, StateLayout};

/// The toy guest's state.
#[repr(C)]
#[derive(Debug, Default)]
pub struct ToyCpu {
    /// Engine state.
    pub env: JitEnv,
    /// General registers.
    pub r: [u64; 20],
    /// Vectors.
    pub v: [u128; 8],
    /// Flags image.
    pub flags: u16,
    /// Floating-point flags.
    pub fpsr: u32,
    /// Faults taken.
    pub faults: u64,
}

const NAMES: [&str; 20] = [
    "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "r16", "r17", "r18", "r19",
];

const fn slots() -> [Slot; 20] {
    let none = Slot { name: "", offset: 0, ty: Ty::I64, class: SlotClass::General, pin: None };
    let mut all = [none; 20];
    let mut n = 0;
    while n < 20 {
        all[n].name = NAMES[n];
        all[n].offset = offset_of!(ToyCpu, r) as u32 + 8 * n as u32;
        all[n].pin = if n < 12 { Some(n as u8) } else { None };
        n += 1;
    }
    all
}
static SLOTS: [Slot; 20] = slots();

/// The toy guest's layout.
pub static LAYOUT: StateLayout = StateLayout {
    size: size_of::<ToyCpu>() as u32,
    env: offset_of!(ToyCpu, env) as u32,
    flags: offset_of!(ToyCpu, flags) as u32,
    slots: &SLOTS,
    vectors: (offset_of!(ToyCpu, v) as u32, 8 * 16),
    plain: (offset_of!(ToyCpu, r) as u32, (size_of::<ToyCpu>() - offset_of!(ToyCpu, r)) as u32),
    fp: Some(FpControl { flags: offset_of!(ToyCpu, fpsr) as u32 }),
};

fn mix(_: &mut HelperCx<'_, ToyCpu>, a: [u64; 4]) -> u64 {
    a[0].rotate_left(7) ^ a[1].wrapping_mul(3) ^ a[2].wrapping_sub(a[3])
}

fn bump(cx: &mut HelperCx<'_, ToyCpu>, a: [u64; 4]) -> u64 {
    let n = (a[3] % 20) as usize;
    cx.cpu.r[n] = cx.cpu.r[n].wrapping_add(a[0]);
    cx.cpu.flags ^= 1 << 14;
    cx.cpu.r[(n + 1) % 20]
}

fn rotate_vectors(cx: &mut HelperCx<'_, ToyCpu>, _: [u64; 4]) -> u64 {
    cx.cpu.v.rotate_left(1);
    0
}

fn leave_if_odd(cx: &mut HelperCx<'_, ToyCpu>, a: [u64; 4]) -> u64 {
    if a[0] & 1 != 0 {
        cx.cpu.env.exit_after_helper();
    }
    a[0] >> 1
}

fn third(_: &mut HelperCx<'_, ToyCpu>, a: [u64; 4]) -> u64 {
    (std::hint::black_box(a[0] as f64) / std::hint::black_box(3.0)).to_bits()
}

crate::helpers! {
    ToyCpu;
    /// Helpers of the toy guest.
    pub enum ToyHelper, pub static HELPERS;
    Mix: Effects::PURE => mix;
    Bump: Effects::READS_GENERAL.union(Effects::WRITES_GENERAL) => bump;
    RotateVectors: Effects::READS_VECTOR.union(Effects::WRITES_VECTOR) => rotate_vectors;
    LeaveIfOdd: Effects::MAY_EXIT => leave_if_odd;
    Third: Effects::HOST_FP => third;
}

impl JitCpu for ToyCpu {
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
        _: AccessKind,
        _: u8,
        _: &mut dyn PhysMem,
    ) -> Result<PageMap, MemFault> {
        Ok(PageMap {
            pa: va & !0xfff,
            read: true,
            write: true,
            exec: true,
            size_log2: 12,
            global: true,
            volatile: false,
            strict_align: false,
            code_attr: 0,
            secure: false,
        })
    }
    fn save(&mut self, _: &mut vmstate::StateWriter) {}
    fn load(&mut self, _: &mut vmstate::StateReader<'_>) -> Result<(), vmstate::LoadError> {
        Ok(())
    }
    fn alignment_fault(&mut self, va: u64, kind: AccessKind) -> MemFault {
        MemFault { va, code: 1, extra: 0, kind }
    }
    fn bus_fault(&mut self, va: u64, _: u64, kind: AccessKind) -> MemFault {
        MemFault { va, code: 2, extra: 0, kind }
    }
    fn raise(&mut self, fault: MemFault) {
        self.faults = self.faults.wrapping_mul(31).wrapping_add(fault.va ^ fault.code);
    }
    fn poll(&mut self) -> Wake {
        Wake::Run
    }
    fn set_kick(&mut self, _: std::sync::Arc<dyn Fn() + Send + Sync>) {}
    fn reset(&mut self) {
        *self = Self::default();
    }
    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}
