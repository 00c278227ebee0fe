//! Checks that a block is well-formed. Run on every block in tests and debug builds.

use crate::block::{Block, Exit};
use crate::builder::size_of;
use crate::fp::{FpOp, FpShape};
use crate::helper::HelperDesc;
use crate::op::{Arg, Op, Opcode, Ty, Val};
use crate::state::StateLayout;

/// Says what is wrong with a block, naming the op.
pub fn verify(block: &Block, layout: &StateLayout, helpers: &[HelperDesc]) -> Result<(), String> {
    let Some(last) = block.ops.last() else { return Err("empty block".into()) };
    if last.code != Opcode::ExitTo {
        return Err(format!("last op is {}, not exit", last.code.text()));
    }
    for (i, op) in block.ops.iter().enumerate() {
        check(block, i, op, layout, helpers)
            .map_err(|e| format!("v{i} = {}: {e}", op.code.text()))?;
    }
    Ok(())
}

fn fits(kind: Arg, want: Ty, got: Ty) -> bool {
    match kind {
        Arg::No => true,
        Arg::Same => got == want,
        Arg::I64 => got == Ty::I64,
        Arg::I32 => got == Ty::I32,
        Arg::Int => matches!(got, Ty::I32 | Ty::I64),
        Arg::V128 => got == Ty::V128,
        Arg::Cc => got == Ty::Cc,
        Arg::Any => got != Ty::None,
    }
}

fn operand(block: &Block, i: usize, op: &Op, kind: Arg, v: Val) -> Result<(), String> {
    if kind == Arg::No || (kind == Arg::Any && v == Val::NONE && op.code == Opcode::Call) {
        return Ok(());
    }
    if v.index() >= i {
        return Err(format!("operand v{} is not defined before it", v.0));
    }
    let got = block.ops[v.index()].result_ty();
    if fits(kind, op.ty, got) { Ok(()) } else { Err(format!("operand v{} is {got:?}", v.0)) }
}

fn check(
    block: &Block,
    i: usize,
    op: &Op,
    layout: &StateLayout,
    helpers: &[HelperDesc],
) -> Result<(), String> {
    for (kind, v) in op.code.args().into_iter().zip([op.a, op.b, op.c()]) {
        operand(block, i, op, kind, v)?;
    }
    match op.code {
        Opcode::Get | Opcode::Set => {
            let end = op.imm.checked_add(i64::from(size_of(op.ty)));
            if op.imm < 0 || end.is_none_or(|e| e > i64::from(layout.size)) {
                return Err(format!("state offset {} is outside the state", op.imm));
            }
            if op.ty != Ty::I64 && layout.general_at(op.imm as u32).is_some() {
                return Err("a general slot is accessed as 64 bits only".into());
            }
        }
        Opcode::FlagsOf => {
            let def = block.def(op.a).code;
            if !matches!(def, Opcode::Add | Opcode::Sub | Opcode::AddC | Opcode::And) {
                return Err(format!("flags of {}", def.text()));
            }
        }
        c if c.is_fp() => fp(op)?,
        Opcode::Call if usize::from(op.aux) >= helpers.len() => {
            return Err(format!("helper {} does not exist", op.aux));
        }
        _ if op.code.is_exit() => {
            let Some(exit) = block.exits.get(usize::try_from(op.imm).unwrap_or(usize::MAX)) else {
                return Err(format!("exit {} does not exist", op.imm));
            };
            if let Exit::Indirect(v) | Exit::Return(v) = exit {
                operand(block, i, op, Arg::I64, *v)?;
            }
            if op.code == Opcode::ExitTo && i + 1 != block.ops.len() {
                return Err("exit in the middle".into());
            }
        }
        _ => {}
    }
    match (op.code.result(), op.ty) {
        (Arg::Same | Arg::Int, Ty::None) if op.code != Opcode::Call => Err("no type".into()),
        _ => Ok(()),
    }
}

/// Whether the encoding of a floating-point op is one that exists, and fits the opcode.
fn fp(op: &Op) -> Result<(), String> {
    if op.code == Opcode::FpSync {
        return Ok(());
    }
    let d = op.fp();
    let general = matches!(op.code, Opcode::FpToInt | Opcode::FpFromInt);
    let code = match d.op() {
        FpOp::Compare | FpOp::CompareSignalling => Opcode::FpCmp,
        FpOp::ToS | FpOp::ToU if general => Opcode::FpToInt,
        FpOp::FromS | FpOp::FromU if general => Opcode::FpFromInt,
        FpOp::MulAdd | FpOp::NegMulAdd | FpOp::MulSub | FpOp::NegMulSub => Opcode::Fp3,
        o if (o as u8) < FpOp::Sqrt as u8 => Opcode::Fp2,
        _ => Opcode::Fp1,
    };
    let shape = d.shape();
    let format = match d.op() {
        FpOp::Widen => !d.double() && shape != FpShape::Half,
        FpOp::Narrow => d.double() && shape != FpShape::Half,
        _ => !(d.double() && shape == FpShape::Half),
    };
    let scalar = op.code != Opcode::FpCmp || shape == FpShape::Scalar;
    let known = usize::from(op.aux & 31) < FpOp::ALL.len() && op.aux >> 12 == 0;
    if code == op.code && general == (shape == FpShape::General) && format && scalar && known {
        return Ok(());
    }
    Err(format!("{d:?} is not an op of this kind"))
}
