//! The helper table: what translated code calls.

use jit_ir::Effects;

use crate::state::ArmCpu;
use crate::{exception, fpsimd, pauth, sysreg, system};

const VEC: Effects = Effects::READS_VECTOR.union(Effects::WRITES_VECTOR);
const GEN: Effects = Effects::READS_GENERAL.union(Effects::WRITES_GENERAL);

jit_ir::helpers! {
    ArmCpu;
    /// Helper indices (`Builder::call(HelperId::Svc as u16, …)`).
    pub enum HelperId, pub static HELPERS;
    /// Undefined instruction at PC (EC 0).
    Undefined: Effects::ALL => exception::undefined;
    /// SVC, immediate = imm16.
    Svc: Effects::ALL => exception::svc;
    /// HVC, immediate = imm16 (PSCI when that is the conduit).
    Hvc: Effects::ALL => exception::hvc;
    /// SMC, immediate = imm16.
    Smc: Effects::ALL => exception::smc;
    /// BRK, immediate = imm16.
    Brk: Effects::ALL => exception::brk;
    /// ERET (immediate 0), ERETAA (1), ERETAB (2). Sets PC, exits.
    Eret: Effects::ALL => exception::eret;
    /// WFI (immediate 0), WFE (1); a = timeout for WFIT/WFET (immediate 2, 3). Advances PC, exits.
    Wait: Effects::ALL => system::wait;
    /// SEV (immediate 0), SEVL (1).
    Event: Effects::PURE => system::event;
    /// YIELD: advances PC, exits.
    Yield: Effects::ALL => system::yield_;
    /// MRS: immediate = encoding (op0<<14|op1<<11|CRn<<7|CRm<<3|op2); gives the value.
    Mrs: Effects::ALL => sysreg::mrs;
    /// MSR: immediate = encoding, a = value. End the block with `Exit::Runtime(next)` after it.
    Msr: Effects::ALL => sysreg::msr;
    /// SYS (TLBI, AT, DC, IC…): immediate = encoding, a = Xt. End the block after it as for MSR.
    SysInsn: Effects::ALL => sysreg::sys_insn;
    /// MSR (immediate): immediate = op1<<7|op2<<4|CRm. End the block after it as for MSR.
    MsrImm: Effects::ALL => sysreg::msr_imm;
    /// DC ZVA: a = address.
    DcZva: Effects::MAY_EXIT => sysreg::dc_zva;
    /// DSB: waits for broadcast maintenance.
    Dsb: Effects::MAY_EXIT => system::dsb;
    /// PACIA… : a = pointer, b = modifier, immediate = 0 IA, 1 IB, 2 DA, 3 DB.
    PacAdd: Effects::MAY_EXIT => pauth::add;
    /// AUTIA… likewise.
    PacAuth: Effects::MAY_EXIT => pauth::auth;
    /// A wrong code (EC 0x1c), immediate as above.
    PacFail: Effects::ALL => pauth::fail;
    /// XPACI (immediate 0), XPACD (1): a = pointer.
    PacStrip: Effects::PURE => pauth::strip;
    /// PACGA: a, b.
    PacGa: Effects::MAY_EXIT => pauth::generic;
    /// CRC32: a = accumulator, b = data, immediate = log2(bytes) | castagnoli << 4.
    Crc32: Effects::PURE => system::crc32;
    /// FP/SIMD is disabled: traps to the exception level in the immediate.
    FpTrap: Effects::ALL => exception::fp_trap;
    /// SP is not 16-byte aligned.
    SpAlignment: Effects::ALL => exception::sp_alignment;
    /// Branch target exception (BTYPE in the state).
    BranchTarget: Effects::ALL => exception::branch_target;
    /// Illegal execution state exception.
    IllegalState: Effects::ALL => exception::illegal_state;
    /// Software step exception, PC already at the next instruction.
    StepDone: Effects::ALL => exception::step_done;
    /// FP/SIMD instruction (immediate = word) that touches vectors and FPSR only.
    Simd: VEC.union(Effects::HOST_FP) => fpsimd::helper;
    /// FP/SIMD instruction that also reads or writes general registers or flags.
    SimdGeneral: VEC.union(GEN).union(Effects::HOST_FP) => fpsimd::helper;
}
