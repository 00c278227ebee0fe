//! Helpers: Rust functions that generated code and the interpreter call.
//!
//! UNSAFE: this file turns the raw state pointer that generated code passes back into the typed
//! guest CPU. It is the only such place, so guest crates stay safe.

use bitflags::bitflags;

use crate::cpu::{JitCpu, MemFault};
use crate::op::MemDesc;

bitflags! {
    /// What a helper may do besides computing its result; the register allocator relies on it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Effects: u32 {
        /// Reads general slots or the flags slot.
        const READS_GENERAL = 1;
        /// Writes general slots or the flags slot.
        const WRITES_GENERAL = 2;
        /// Reads the vector file.
        const READS_VECTOR = 4;
        /// Writes the vector file.
        const WRITES_VECTOR = 8;
        /// May leave the block (exception, mode change): PC and all state are exact before it,
        /// and `JitEnv::helper_exit` is tested after it.
        const MAY_EXIT = 16;
        /// Everything but the use of the host's floating point.
        const ALL = 31;
        /// Computes with the host's floating point, whose flags may be the guest's: they are saved
        /// around it. Not together with `MAY_EXIT`.
        const HOST_FP = 32;
        /// Computes from its arguments alone.
        const PURE = 0;
    }
}

/// One request to forget translations. Fields narrow it down; `None` = any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbFlush {
    /// Bit mask of regimes (as in `TlbTag::regime`).
    pub regimes: u32,
    /// VA range: start and length in bytes.
    pub va: Option<(u64, u64)>,
    /// Address space id. Global entries are kept when it is given, unless `globals`.
    pub asid: Option<u16>,
    /// With `asid`: global entries too (by-VA forms).
    pub globals: bool,
    /// Virtual machine id.
    pub vmid: Option<u16>,
    /// To every vCPU (completed at the next [`Services::sync`]).
    pub broadcast: bool,
}

/// What the engine does for helpers. Memory calls perform the translation, TLB refill, MMIO and
/// dirty tracking exactly as the inline path would.
pub trait Services {
    /// Loads up to 16 bytes, zero-extended.
    fn load(&mut self, cpu: &mut dyn JitCpu, va: u64, desc: MemDesc) -> Result<u128, MemFault>;
    /// Stores up to 16 bytes.
    fn store(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        value: u128,
        desc: MemDesc,
    ) -> Result<(), MemFault>;
    /// Atomic read-modify-write by compare-and-swap loop with `f`; gives the old value. When `f`
    /// returns `None` nothing is stored.
    fn rmw(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
        f: &mut dyn FnMut(u128) -> Option<u128>,
    ) -> Result<u128, MemFault>;
    /// Zeroes `len` bytes from `va` (DC ZVA), `len` a power of two of at most 2048, aligned.
    fn zero(&mut self, cpu: &mut dyn JitCpu, va: u64, len: u64, mmu: u8) -> Result<(), MemFault>;
    /// Reads physical memory (page walks outside [`JitCpu::translate`]), 8 bytes.
    fn phys(&mut self) -> &mut dyn crate::cpu::PhysMem;
    /// Forgets translations.
    fn tlb_flush(&mut self, cpu: &mut dyn JitCpu, what: TlbFlush);
    /// Waits until earlier broadcast requests of this vCPU are complete (Arm DSB).
    fn sync(&mut self, cpu: &mut dyn JitCpu);
    /// The regimes' tags (ASID, VMID) or the translation controls changed: inline TLBs of these
    /// mmu indices are re-read from the second level.
    fn context_changed(&mut self, cpu: &mut dyn JitCpu, mmu_mask: u16);
    /// What [`JitCpu::debug_points`] answers may have changed.
    fn debug_changed(&mut self, cpu: &mut dyn JitCpu) {
        let _ = cpu;
    }
    /// Guest code in this VA range may have changed (Arm IC IVAU). The store rule already
    /// invalidates; engines may ignore it.
    fn code_changed(&mut self, cpu: &mut dyn JitCpu, va: u64, len: u64) {
        let _ = (cpu, va, len);
    }
}

/// What a helper sees.
pub struct HelperCx<'a, S> {
    /// The guest CPU.
    pub cpu: &'a mut S,
    /// The engine.
    pub services: &'a mut dyn Services,
}

impl<S: JitCpu> HelperCx<'_, S> {
    /// See [`Services::load`].
    pub fn load(&mut self, va: u64, desc: MemDesc) -> Result<u128, MemFault> {
        self.services.load(self.cpu, va, desc)
    }
    /// See [`Services::store`].
    pub fn store(&mut self, va: u64, value: u128, desc: MemDesc) -> Result<(), MemFault> {
        self.services.store(self.cpu, va, value, desc)
    }
    /// See [`Services::rmw`].
    pub fn rmw(
        &mut self,
        va: u64,
        desc: MemDesc,
        f: &mut dyn FnMut(u128) -> Option<u128>,
    ) -> Result<u128, MemFault> {
        self.services.rmw(self.cpu, va, desc, f)
    }
    /// See [`Services::tlb_flush`].
    pub fn tlb_flush(&mut self, what: TlbFlush) {
        self.services.tlb_flush(self.cpu, what);
    }
}

/// A helper over guest CPU type `S`. `args` are operands a, b, c of the call and its immediate.
pub trait Helper<S>: 'static {
    /// Name in text form and counters.
    const NAME: &'static str;
    /// What it may do.
    const EFFECTS: Effects;
    /// The function.
    fn call(cx: &mut HelperCx<'_, S>, args: [u64; 4]) -> u64;
}

/// Entry point of a helper for generated code: state pointer, a, b, c, immediate.
pub type HelperEntry = unsafe extern "C" fn(*mut u8, u64, u64, u64, u64) -> u64;

/// A helper with its types erased.
#[derive(Clone, Copy)]
pub struct HelperDesc {
    /// Name.
    pub name: &'static str,
    /// Effects.
    pub effects: Effects,
    /// Entry for generated code.
    pub entry: HelperEntry,
}

impl std::fmt::Debug for HelperDesc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "helper {} ({:?})", self.name, self.effects)
    }
}

impl HelperDesc {
    /// Erases a helper.
    #[must_use]
    pub const fn of<S: JitCpu + 'static, H: Helper<S>>() -> Self {
        Self { name: H::NAME, effects: H::EFFECTS, entry: trampoline::<S, H> }
    }

    /// Calls the helper as generated code would.
    ///
    /// # Safety
    /// `state` must be the state pointer of a live CPU of the type that the helper was made for,
    /// with its services set, and nothing else may hold a reference into it.
    pub unsafe fn call(&self, state: *mut u8, args: [u64; 4]) -> u64 {
        // SAFETY: passed on to the caller.
        unsafe { (self.entry)(state, args[0], args[1], args[2], args[3]) }
    }
}

/// Restores the typed CPU. A panic in a helper aborts here (no unwinding through generated code).
unsafe extern "C" fn trampoline<S: JitCpu + 'static, H: Helper<S>>(
    state: *mut u8,
    a: u64,
    b: u64,
    c: u64,
    imm: u64,
) -> u64 {
    // SAFETY: `state` is what `JitCpu::state_ptr` of an `S` returned (the engine enters a CPU only
    // with blocks of its own translator, whose helper table is made for `S`), and generated code
    // holds no reference.
    let cpu = unsafe { &mut *state.cast::<S>() };
    let Some(services) = cpu.env().services() else { return 0 };
    // SAFETY: the engine set it for this thread and does not touch the object while guest code runs.
    let services = unsafe { &mut *services };
    H::call(&mut HelperCx { cpu, services }, [a, b, c, imm])
}

/// Declares a helper table and an enum of the helpers' indices.
///
/// ```ignore
/// helpers! {
///     ArmCpu;
///     /// Index of each helper.
///     pub enum HelperId, pub static HELPERS;
///     Svc: Effects::ALL => exception::svc;   // fn svc(cx: &mut HelperCx<'_, ArmCpu>, args: [u64; 4]) -> u64
/// }
/// ```
#[macro_export]
macro_rules! helpers {
    ($state:ty; $(#[$m:meta])* $v:vis enum $ids:ident, $tv:vis static $table:ident;
     $($(#[$d:meta])* $id:ident: $effects:expr => $path:path;)*) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        #[allow(missing_docs)]
        $v enum $ids { $($(#[$d])* $id,)* }
        /// The helper table, indexed by the enum above.
        $tv static $table: &[$crate::HelperDesc] = &[$({
            struct T;
            impl $crate::Helper<$state> for T {
                const NAME: &'static str = stringify!($id);
                const EFFECTS: $crate::Effects = $effects;
                fn call(cx: &mut $crate::HelperCx<'_, $state>, args: [u64; 4]) -> u64 {
                    $path(cx, args)
                }
            }
            $crate::HelperDesc::of::<$state, T>()
        },)*];
    };
}

/// Raw guest state for the interpreter, with bounds checked.
#[derive(Clone, Copy, Debug)]
pub struct StateMem {
    base: *mut u8,
    len: usize,
}

impl StateMem {
    /// Wraps a state pointer.
    ///
    /// # Safety
    /// `base..base + len` must be a live state struct that no reference covers while this is used.
    #[must_use]
    pub unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self { base, len }
    }

    /// The state pointer.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Reads `N` bytes.
    #[must_use]
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset.checked_add(N).is_some_and(|e| e <= self.len), "state offset {offset}");
        // SAFETY: in bounds by the assertion, live by the contract of `new`.
        unsafe { self.base.add(offset).cast::<[u8; N]>().read_unaligned() }
    }

    /// Copies bytes out of the state.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        assert!(
            offset.checked_add(to.len()).is_some_and(|e| e <= self.len),
            "state offset {offset}"
        );
        // SAFETY: in bounds by the assertion, live by the contract of `new`; `to` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(offset), to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes into the state, which must be a range of plain data ([`crate::StateLayout::plain`]).
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        assert!(
            offset.checked_add(from.len()).is_some_and(|e| e <= self.len),
            "state offset {offset}"
        );
        // SAFETY: as in `copy_out`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.base.add(offset), from.len()) }
    }

    /// Writes `N` bytes.
    pub fn write<const N: usize>(&self, offset: usize, value: [u8; N]) {
        assert!(offset.checked_add(N).is_some_and(|e| e <= self.len), "state offset {offset}");
        // SAFETY: as in `read`.
        unsafe { self.base.add(offset).cast::<[u8; N]>().write_unaligned(value) }
    }
}
