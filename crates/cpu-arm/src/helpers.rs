//! The helper table: what translated code calls.

use jit_ir::Effects;

use crate::fpsimd::fast;
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
    Simd: VEC => fpsimd::helper;
    /// FP/SIMD instruction that also reads or writes general registers or flags.
    SimdGeneral: VEC.union(GEN) => fpsimd::helper;
    // FP with the host's arithmetic; the immediate is the instruction word.
    /// FADD (scalar, f32).
    AddS: VEC => fast::scalar::<fast::Plus, f32>, fast::arithmetic;
    /// FADD (scalar, f64).
    AddD: VEC => fast::scalar::<fast::Plus, f64>, fast::arithmetic;
    /// FADD (2S).
    Add2S: VEC => fast::vector::<fast::Plus, f32, 2>;
    /// FADD (4S).
    Add4S: VEC => fast::vector::<fast::Plus, f32, 4>;
    /// FADD (2D).
    Add2D: VEC => fast::vector::<fast::Plus, f64, 2>;
    /// FSUB (scalar, f32).
    SubS: VEC => fast::scalar::<fast::Minus, f32>, fast::arithmetic;
    /// FSUB (scalar, f64).
    SubD: VEC => fast::scalar::<fast::Minus, f64>, fast::arithmetic;
    /// FSUB (2S).
    Sub2S: VEC => fast::vector::<fast::Minus, f32, 2>;
    /// FSUB (4S).
    Sub4S: VEC => fast::vector::<fast::Minus, f32, 4>;
    /// FSUB (2D).
    Sub2D: VEC => fast::vector::<fast::Minus, f64, 2>;
    /// FMUL (scalar, f32).
    MulS: VEC => fast::scalar::<fast::Times, f32>, fast::arithmetic;
    /// FMUL (scalar, f64).
    MulD: VEC => fast::scalar::<fast::Times, f64>, fast::arithmetic;
    /// FMUL (2S).
    Mul2S: VEC => fast::vector::<fast::Times, f32, 2>;
    /// FMUL (4S).
    Mul4S: VEC => fast::vector::<fast::Times, f32, 4>;
    /// FMUL (2D).
    Mul2D: VEC => fast::vector::<fast::Times, f64, 2>;
    /// FNMUL (scalar, f32).
    NMulS: VEC => fast::scalar::<fast::NegTimes, f32>;
    /// FNMUL (scalar, f64).
    NMulD: VEC => fast::scalar::<fast::NegTimes, f64>;
    /// FDIV (scalar, f32).
    DivS: VEC => fast::scalar::<fast::Over, f32>, fast::arithmetic;
    /// FDIV (scalar, f64).
    DivD: VEC => fast::scalar::<fast::Over, f64>, fast::arithmetic;
    /// FDIV (2S).
    Div2S: VEC => fast::vector::<fast::Over, f32, 2>;
    /// FDIV (4S).
    Div4S: VEC => fast::vector::<fast::Over, f32, 4>;
    /// FDIV (2D).
    Div2D: VEC => fast::vector::<fast::Over, f64, 2>;
    /// FSQRT (scalar, f32).
    SqrtS: VEC => fast::scalar::<fast::Root, f32>, fast::arithmetic;
    /// FSQRT (scalar, f64).
    SqrtD: VEC => fast::scalar::<fast::Root, f64>, fast::arithmetic;
    /// FSQRT (2S).
    Sqrt2S: VEC => fast::vector::<fast::Root, f32, 2>;
    /// FSQRT (4S).
    Sqrt4S: VEC => fast::vector::<fast::Root, f32, 4>;
    /// FSQRT (2D).
    Sqrt2D: VEC => fast::vector::<fast::Root, f64, 2>;
    /// FMAX, FMAXNM (scalar, f32).
    MaxS: VEC => fast::scalar::<fast::Max, f32>;
    /// FMAX, FMAXNM (scalar, f64).
    MaxD: VEC => fast::scalar::<fast::Max, f64>;
    /// FMAX, FMAXNM (2S).
    Max2S: VEC => fast::vector::<fast::Max, f32, 2>;
    /// FMAX, FMAXNM (4S).
    Max4S: VEC => fast::vector::<fast::Max, f32, 4>;
    /// FMAX, FMAXNM (2D).
    Max2D: VEC => fast::vector::<fast::Max, f64, 2>;
    /// FMIN, FMINNM (scalar, f32).
    MinS: VEC => fast::scalar::<fast::Min, f32>;
    /// FMIN, FMINNM (scalar, f64).
    MinD: VEC => fast::scalar::<fast::Min, f64>;
    /// FMIN, FMINNM (2S).
    Min2S: VEC => fast::vector::<fast::Min, f32, 2>;
    /// FMIN, FMINNM (4S).
    Min4S: VEC => fast::vector::<fast::Min, f32, 4>;
    /// FMIN, FMINNM (2D).
    Min2D: VEC => fast::vector::<fast::Min, f64, 2>;
    /// FMUL by element (2S).
    MulE2S: VEC => fast::by_element::<fast::Times, f32, 2>;
    /// FMLA, FMLS (2S).
    Fused2S: VEC => fast::fused_vector::<f32, 2>;
    /// FMLA, FMLS by element (2S).
    FusedE2S: VEC => fast::fused_element::<f32, 2>;
    /// FCMEQ, FCMGE, FCMGT (2S).
    Rel2S: VEC => fast::relation::<f32, 2>;
    /// SCVTF, UCVTF (2S).
    FromInt2S: VEC => fast::from_int_lanes::<f32, 2>;
    /// FCVTZS (2S).
    ToInt2S: VEC => fast::to_int_lanes::<f32, 2>;
    /// FMUL by element (4S).
    MulE4S: VEC => fast::by_element::<fast::Times, f32, 4>;
    /// FMLA, FMLS (4S).
    Fused4S: VEC => fast::fused_vector::<f32, 4>;
    /// FMLA, FMLS by element (4S).
    FusedE4S: VEC => fast::fused_element::<f32, 4>;
    /// FCMEQ, FCMGE, FCMGT (4S).
    Rel4S: VEC => fast::relation::<f32, 4>;
    /// SCVTF, UCVTF (4S).
    FromInt4S: VEC => fast::from_int_lanes::<f32, 4>;
    /// FCVTZS (4S).
    ToInt4S: VEC => fast::to_int_lanes::<f32, 4>;
    /// FMUL by element (2D).
    MulE2D: VEC => fast::by_element::<fast::Times, f64, 2>;
    /// FMLA, FMLS (2D).
    Fused2D: VEC => fast::fused_vector::<f64, 2>;
    /// FMLA, FMLS by element (2D).
    FusedE2D: VEC => fast::fused_element::<f64, 2>;
    /// FCMEQ, FCMGE, FCMGT (2D).
    Rel2D: VEC => fast::relation::<f64, 2>;
    /// SCVTF, UCVTF (2D).
    FromInt2D: VEC => fast::from_int_lanes::<f64, 2>;
    /// FCVTZS (2D).
    ToInt2D: VEC => fast::to_int_lanes::<f64, 2>;
    /// FMADD and its like (f32).
    FusedS: VEC => fast::fused::<f32>, fast::fused_of;
    /// FCMP, FCMPE (f32): gives NZCV.
    CompareS: VEC => fast::compare::<f32>, fast::comparison;
    /// SCVTF, UCVTF to f32: a = value.
    FromIntS: VEC => fast::from_int::<f32>;
    /// FCVTxS, FCVTxU from f32: gives the value.
    ToIntS: VEC => fast::to_int::<f32>;
    /// FMADD and its like (f64).
    FusedD: VEC => fast::fused::<f64>, fast::fused_of;
    /// FCMP, FCMPE (f64): gives NZCV.
    CompareD: VEC => fast::compare::<f64>, fast::comparison;
    /// SCVTF, UCVTF to f64: a = value.
    FromIntD: VEC => fast::from_int::<f64>;
    /// FCVTxS, FCVTxU from f64: gives the value.
    ToIntD: VEC => fast::to_int::<f64>;
    /// FCVT double to single.
    CvtDS: VEC => fast::convert::<f64, f32>;
    /// FCVT single to double.
    CvtSD: VEC => fast::convert::<f32, f64>;
    /// FCCMP, FCCMPE (f32): a = the condition holds; gives NZCV.
    CompareIfS: VEC => fast::compare_if::<f32>;
    /// FRINTx (f32).
    RintS: VEC => fast::integral::<f32>;
    /// FADDP (scalar, f32).
    PairSumS: VEC => fast::pair_sum::<f32>;
    /// SCVTF, UCVTF within the vector file (f32).
    FromInt1S: VEC => fast::from_int_lanes::<f32, 1>;
    /// FCVTZS within the vector file (f32).
    ToInt1S: VEC => fast::to_int_lanes::<f32, 1>;
    /// FCCMP, FCCMPE (f64): a = the condition holds; gives NZCV.
    CompareIfD: VEC => fast::compare_if::<f64>;
    /// FRINTx (f64).
    RintD: VEC => fast::integral::<f64>;
    /// FADDP (scalar, f64).
    PairSumD: VEC => fast::pair_sum::<f64>;
    /// SCVTF, UCVTF within the vector file (f64).
    FromInt1D: VEC => fast::from_int_lanes::<f64, 1>;
    /// FCVTZS within the vector file (f64).
    ToInt1D: VEC => fast::to_int_lanes::<f64, 1>;
    /// FCVTL, FCVTL2 to double.
    CvtLong: VEC => fast::convert_long;
    /// FCVTN, FCVTN2 to single.
    CvtNarrow: VEC => fast::convert_narrow;
}
