//! What a guest CPU and its translator give the engine.

use crate::builder::Builder;
use crate::env::JitEnv;
use crate::helper::HelperDesc;
use crate::state::StateLayout;

/// Kind of an access to translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data load.
    Read,
    /// Data store (or both, for atomics).
    Write,
    /// Instruction fetch.
    Exec,
}

/// A failed translation or access, in the guest's own encoding; handed back to
/// [`JitCpu::raise`] unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemFault {
    /// The faulting address.
    pub va: u64,
    /// Guest-defined syndrome.
    pub code: u64,
    /// Guest-defined further detail (stage-2 address).
    pub extra: u64,
    /// Kind of the access.
    pub kind: AccessKind,
}

impl MemFault {
    /// Value of `code` when a debugger outside the guest stopped the access: [`JitCpu::raise`] does
    /// nothing about such a fault, and the engine leaves with the PC at the instruction.
    pub const DEBUG_STOP: u64 = u64::MAX;
}

/// Addresses at which the guest's own debug registers may want a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugPoints {
    /// Instruction addresses: [`JitCpu::breakpoint`] is asked there.
    pub breaks: Vec<u64>,
    /// Data ranges (start, length): [`JitCpu::watchpoint`] is asked for accesses to their pages.
    pub watches: Vec<(u64, u64)>,
}

/// Which address space a translation belongs to, for the second-level TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TlbTag {
    /// Guest-defined regime number (0..32).
    pub regime: u8,
    /// Address space id.
    pub asid: u16,
    /// Virtual machine id.
    pub vmid: u16,
}

/// Result of a page walk, for one 4 KiB page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageMap {
    /// Physical address of the 4 KiB page.
    pub pa: u64,
    /// Reads allowed in this mmu index.
    pub read: bool,
    /// Writes allowed.
    pub write: bool,
    /// Execution allowed.
    pub exec: bool,
    /// log2 of the guest's page or block size (12..48).
    pub size_log2: u8,
    /// Valid for every ASID.
    pub global: bool,
    /// Not cached in any TLB (e.g. tagged or watched addresses).
    pub volatile: bool,
    /// Unaligned accesses fault (Arm Device memory).
    pub strict_align: bool,
    /// Guest-defined attribute of code on this page; becomes part of the block key
    /// (Arm: guarded page).
    pub code_attr: u8,
    /// Secure physical address space.
    pub secure: bool,
}

/// Physical memory as page walkers see it.
pub trait PhysMem {
    /// Reads a little-endian value of 4 or 8 bytes; `None` where nothing answers.
    fn read(&mut self, pa: u64, bytes: u32, secure: bool) -> Option<u64>;
    /// Compare-and-swap of 8 bytes (hardware access and dirty flags); `None` where no RAM is,
    /// else whether it stored.
    fn cas64(&mut self, pa: u64, old: u64, new: u64, secure: bool) -> Option<bool>;
}

/// How code at the current PC is to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeMode {
    /// Everything that block contents depend on besides the bytes (guest-defined).
    pub key: u64,
    /// mmu index for fetches.
    pub mmu: u8,
}

/// What the CPU wants after it looked at its pending interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Execute.
    Run,
    /// Nothing to do until a kick (wait-for-interrupt, powered off).
    Halt,
}

/// A guest CPU as the engine drives it; state struct and behaviour in one object.
pub trait JitCpu: Send {
    /// The embedded engine state.
    fn env(&mut self) -> &mut JitEnv;
    /// Address of the state struct that slots count from. Stable while the CPU lives.
    fn state_ptr(&mut self) -> *mut u8;
    /// Current mode, with the code attribute of the page that holds the PC.
    fn code_mode(&mut self, code_attr: u8) -> CodeMode;
    /// Tag of an mmu index now.
    fn tlb_tag(&mut self, mmu: u8) -> TlbTag;
    /// Walks the guest's page tables.
    fn translate(
        &mut self,
        va: u64,
        kind: AccessKind,
        mmu: u8,
        mem: &mut dyn PhysMem,
    ) -> Result<PageMap, MemFault>;
    /// The fault for an unaligned access that must be aligned.
    fn alignment_fault(&mut self, va: u64, kind: AccessKind) -> MemFault;
    /// The fault for a physical access that nothing answered.
    fn bus_fault(&mut self, va: u64, pa: u64, kind: AccessKind) -> MemFault;
    /// Takes the exception for a fault at the current PC.
    fn raise(&mut self, fault: MemFault);
    /// Takes a pending interrupt if one is enabled; says whether to run.
    fn poll(&mut self) -> Wake;
    /// Whether [`JitCpu::poll`] would do nothing but say [`Wake::Run`]: generated code may go on at the
    /// PC after an exception or a change of mode.
    fn goes_on(&mut self) -> bool {
        false
    }
    /// Registers the thread's kick so that interrupt inputs can wake the vCPU.
    fn set_kick(&mut self, kick: std::sync::Arc<dyn Fn() + Send + Sync>);
    /// The reset state.
    fn reset(&mut self);
    /// What the guest's breakpoint and watchpoint registers cover now. The engine asks after
    /// [`crate::Services::debug_changed`] and after a reset.
    fn debug_points(&mut self) -> DebugPoints {
        DebugPoints::default()
    }
    /// The PC is at one of [`DebugPoints::breaks`]: takes the guest's exception if its conditions
    /// hold, and says whether it did.
    fn breakpoint(&mut self) -> bool {
        false
    }
    /// An access of `len` bytes to a page of [`DebugPoints::watches`]: the fault to raise instead.
    fn watchpoint(&mut self, va: u64, len: u64, kind: AccessKind) -> Option<MemFault> {
        let _ = (va, len, kind);
        None
    }
    /// Whether it could execute now (a powered-off CPU cannot); asked before a debugger's step.
    fn runnable(&mut self) -> bool {
        true
    }
    /// Does now what was asked of it while it was stopped (a reset), so that its registers are true.
    fn catch_up(&mut self) {}
    /// Writes all registers as one record. It does not execute.
    fn save(&mut self, w: &mut vmstate::StateWriter);
    /// Reads what [`JitCpu::save`] wrote; on an error nothing is changed. Translations and TLBs that
    /// the registers made are void then: see `AccelVm::with_cpu`.
    ///
    /// # Errors
    /// The stream is broken or of another CPU.
    fn load(&mut self, r: &mut vmstate::StateReader<'_>) -> Result<(), vmstate::LoadError>;
    /// Registers for a debugger.
    fn debugger_registers(&mut self) -> cpu::debug::RegisterFile {
        cpu::debug::RegisterFile::default()
    }
    /// The bytes of a register by its number there, least significant first.
    fn debugger_read(&mut self, number: u32) -> Option<Vec<u8>> {
        let _ = number;
        None
    }
    /// Sets a register from the start of `bytes`; how many were taken, 0 if it cannot be set.
    fn debugger_write(&mut self, number: u32, bytes: &[u8]) -> usize {
        let _ = (number, bytes);
        0
    }
    /// Text of `info registers`.
    fn register_text(&mut self) -> String {
        String::new()
    }
    /// The text of `-d cpu`, with floating-point registers if `fpu`.
    fn log_text(&mut self, fpu: bool) -> String {
        let _ = fpu;
        self.register_text()
    }
    /// For the guest's own front end.
    fn as_any(&mut self) -> &mut dyn std::any::Any;
}

/// Input and output of one translation.
pub struct TranslateCx<'a> {
    /// Where ops go. The translator calls `insn` for each instruction and ends with an exit.
    pub b: &'a mut Builder,
    /// From [`CodeMode::key`].
    pub key: u64,
    /// The page's bytes, up to 4096; a block ends where they do.
    pub page: &'a [u8],
    /// Offset of the first instruction.
    pub start: u32,
    /// At most this many instructions.
    pub max_insns: u32,
    /// Instructions are counted: a block ends at its first conditional branch, so that all of it is
    /// executed unless something faults.
    pub count: bool,
    /// Page offsets that may only be the first instruction of a block (breakpoints).
    pub stops: &'a [u32],
}

impl TranslateCx<'_> {
    /// The little-endian word at a page offset; `None` past the page.
    #[must_use]
    pub fn word(&self, offset: u32) -> Option<u32> {
        let at = offset as usize;
        self.page.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// Turns guest code into IR; one instance per VM, made for the CPU model's features.
pub trait Translator: Send + Sync {
    /// The state struct's table.
    fn layout(&self) -> &'static StateLayout;
    /// The helper table that [`crate::Opcode::Call`] indexes.
    fn helpers(&self) -> &'static [HelperDesc];
    /// Translates one block from `cx.start`.
    fn translate(&self, cx: &mut TranslateCx<'_>);
    /// One instruction as text, for `-d in_asm` and monitors: its bytes and what it does.
    fn disassemble(&self, bytes: &[u8], pc: u64) -> String;
}
