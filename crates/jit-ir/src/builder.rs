//! Builds blocks, folding as it goes.
//!
//! The forward pass of the optimiser lives here: constants and identities fold, a guest slot that
//! was read or written in the block is not read again. Each part can be switched off
//! ([`crate::opt::Passes`]).

use crate::block::{Block, Exit};
use crate::eval;
use crate::fp::{FpDesc, FpOp, FpRounding, FpShape};
use crate::helper::{Effects, HelperDesc};
use crate::op::{Cond, Lane, MemDesc, Op, Opcode, RmwKind, Ty, Val};
use crate::opt::Passes;
use crate::state::StateLayout;

/// Ops at which a translator should end its block, so that value ids never run out.
pub const SOFT_LIMIT: usize = 8000;

/// How many ops back a sum is looked for before it is computed again.
const SAME_SUM: usize = 48;

/// Appends ops to a block.
pub struct Builder {
    block: Block,
    layout: &'static StateLayout,
    helpers: &'static [HelperDesc],
    passes: Passes,
    known: Vec<(u32, Ty, Val)>,
    cc: Option<Val>,
    ended: bool,
}

impl Builder {
    /// A builder for one guest; re-used for many blocks.
    #[must_use]
    pub fn new(
        layout: &'static StateLayout,
        helpers: &'static [HelperDesc],
        passes: Passes,
    ) -> Self {
        let (block, known) = (Block::default(), Vec::new());
        Self { block, layout, helpers, passes, known, cc: None, ended: false }
    }

    /// Starts a new block at a page offset.
    pub fn begin(&mut self, start: u32) {
        self.block.clear();
        self.block.start = start;
        self.known.clear();
        self.cc = None;
        self.ended = false;
    }

    /// The finished block.
    #[must_use]
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The block for passes.
    pub fn block_mut(&mut self) -> &mut Block {
        &mut self.block
    }

    /// The guest's state table.
    #[must_use]
    pub fn layout(&self) -> &'static StateLayout {
        self.layout
    }

    /// Whether the final exit was emitted.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Number of exits so far.
    #[must_use]
    pub fn exit_count(&self) -> usize {
        self.block.exits.len()
    }

    /// Whether the block has grown to where it should end.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.block.ops.len() >= SOFT_LIMIT
    }

    /// Type of a value.
    #[must_use]
    pub fn ty(&self, v: Val) -> Ty {
        self.block.def(v).result_ty()
    }

    /// The value if it is a constant.
    #[must_use]
    pub fn as_const(&self, v: Val) -> Option<u64> {
        let op = self.block.def(v);
        (op.code == Opcode::Const).then_some(op.imm as u64)
    }

    /// Appends an op as it is.
    pub fn push(&mut self, op: Op) -> Val {
        debug_assert!(!self.ended, "op after the final exit");
        let id = self.block.ops.len();
        self.block.ops.push(op);
        Val(id as u16)
    }

    /// Starts a guest instruction of `len` bytes at page offset `offset`.
    pub fn insn(&mut self, offset: u32, len: u32) {
        let mut op = Op::new(Opcode::InsnStart, Ty::None);
        op.imm = i64::from(offset);
        self.push(op);
        self.block.insns += 1;
        self.block.len = offset + len - self.block.start;
    }

    /// A 64-bit constant.
    pub fn c64(&mut self, v: u64) -> Val {
        self.constant(Ty::I64, v)
    }

    /// A 32-bit constant.
    pub fn c32(&mut self, v: u32) -> Val {
        self.constant(Ty::I32, u64::from(v))
    }

    /// A constant of an integer type.
    pub fn constant(&mut self, ty: Ty, v: u64) -> Val {
        let mut op = Op::new(Opcode::Const, ty);
        op.imm = eval::narrow(ty, v) as i64;
        self.push(op)
    }

    fn forget_overlap(&mut self, offset: u32, bytes: u32) {
        self.known.retain(|(o, t, _)| o + size_of(*t) <= offset || *o >= offset + bytes);
    }

    /// Something else than `set` may have written these bytes of guest state: the next `get` reads them.
    pub fn forget(&mut self, offset: u32, bytes: u32) {
        self.forget_overlap(offset, bytes);
    }

    /// Reads guest state.
    pub fn get(&mut self, offset: u32, ty: Ty) -> Val {
        if self.passes.contains(Passes::FORWARD)
            && let Some((_, _, v)) = self.known.iter().find(|(o, t, _)| *o == offset && *t == ty)
        {
            return *v;
        }
        let mut op = Op::new(Opcode::Get, ty);
        op.imm = i64::from(offset);
        let v = self.push(op);
        self.known.push((offset, ty, v));
        v
    }

    /// Writes guest state; the type is that of `v`.
    pub fn set(&mut self, offset: u32, v: Val) {
        let ty = self.ty(v);
        let mut op = Op::new(Opcode::Set, ty);
        (op.a, op.imm) = (v, i64::from(offset));
        self.push(op);
        self.forget_overlap(offset, size_of(ty));
        self.known.push((offset, ty, v));
    }

    /// The guest's flags.
    pub fn get_cc(&mut self) -> Val {
        if self.passes.contains(Passes::FORWARD)
            && let Some(v) = self.cc
        {
            return v;
        }
        let v = self.push(Op::new(Opcode::GetCc, Ty::Cc));
        self.cc = Some(v);
        v
    }

    /// Writes the guest's flags.
    pub fn set_cc(&mut self, cc: Val) {
        let mut op = Op::new(Opcode::SetCc, Ty::Cc);
        op.a = cc;
        self.push(op);
        self.cc = Some(cc);
    }

    /// VA of the current code page plus `offset`.
    pub fn pc(&mut self, offset: i64) -> Val {
        let mut op = Op::new(Opcode::Pc, Ty::I64);
        op.imm = offset;
        self.push(op)
    }

    /// A pure integer op on one operand.
    pub fn unary(&mut self, code: Opcode, aux: u16, a: Val) -> Val {
        let mut op = Op::new(code, self.ty(a));
        (op.aux, op.a) = (aux, a);
        if self.passes.contains(Passes::FOLD)
            && let Some(x) = self.as_const(a)
            && let Some(r) = eval::integer(&op, x, 0)
        {
            return self.constant(op.ty, r);
        }
        self.push(op)
    }

    /// A pure integer op on two operands of one type.
    pub fn binary(&mut self, code: Opcode, a: Val, b: Val) -> Val {
        self.binary_aux(code, 0, a, b)
    }

    /// Like [`Self::binary`], with `aux`.
    pub fn binary_aux(&mut self, code: Opcode, aux: u16, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        debug_assert_eq!(ty, self.ty(b), "{code:?}");
        let mut op = Op::new(code, ty);
        (op.aux, op.a, op.b) = (aux, a, b);
        if self.passes.contains(Passes::FOLD) {
            let (x, y) = (self.as_const(a), self.as_const(b));
            if let (Some(x), Some(y)) = (x, y)
                && let Some(r) = eval::integer(&op, x, y)
            {
                return self.constant(ty, r);
            }
            if let Some(v) = identity(code, a, b, x, y) {
                return v;
            }
            if code == Opcode::Add && y.is_none() {
                // The address of a load and of the store to the same place.
                let recent = self.block.ops.iter().enumerate().rev().take(SAME_SUM);
                if let Some((n, _)) = recent.into_iter().find(|(_, o)| **o == op) {
                    return Val(n as u16);
                }
            }
        }
        self.push(op)
    }

    /// An arithmetic op whose flags are wanted too: never folded away.
    /// `code` is Add, Sub or And. Gives value and flags.
    pub fn with_flags(&mut self, code: Opcode, a: Val, b: Val) -> (Val, Val) {
        let mut op = Op::new(code, self.ty(a));
        (op.a, op.b) = (a, b);
        let v = self.push(op);
        (v, self.flags_of(v))
    }

    /// a + b + C, and its flags.
    pub fn add_carry(&mut self, a: Val, b: Val, cc: Val) -> (Val, Val) {
        let mut op = Op::new(Opcode::AddC, self.ty(a));
        (op.a, op.b, op.imm) = (a, b, i64::from(cc.0));
        let v = self.push(op);
        (v, self.flags_of(v))
    }

    fn flags_of(&mut self, v: Val) -> Val {
        let mut op = Op::new(Opcode::FlagsOf, Ty::Cc);
        op.a = v;
        self.push(op)
    }

    /// Conversion between widths: `Zext32`, `Sext32`, `Trunc`.
    pub fn convert(&mut self, code: Opcode, a: Val) -> Val {
        let ty = if code == Opcode::Trunc { Ty::I32 } else { Ty::I64 };
        let mut op = Op::new(code, ty);
        op.a = a;
        if self.passes.contains(Passes::FOLD) {
            if let Some(x) = self.as_const(a)
                && let Some(r) = eval::convert(&op, x)
            {
                return self.constant(ty, r);
            }
            let inner = *self.block.def(a);
            if code == Opcode::Trunc && matches!(inner.code, Opcode::Zext32 | Opcode::Sext32) {
                return inner.a;
            }
        }
        self.push(op)
    }

    /// Zero-extends I32 to I64.
    pub fn zext(&mut self, a: Val) -> Val {
        self.convert(Opcode::Zext32, a)
    }
    /// Sign-extends I32 to I64.
    pub fn sext(&mut self, a: Val) -> Val {
        self.convert(Opcode::Sext32, a)
    }
    /// Low 32 bits of an I64.
    pub fn trunc(&mut self, a: Val) -> Val {
        self.convert(Opcode::Trunc, a)
    }
    /// a + b.
    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.binary(Opcode::Add, a, b)
    }
    /// a + constant.
    pub fn add_imm(&mut self, a: Val, imm: i64) -> Val {
        let c = self.constant(self.ty(a), imm as u64);
        self.binary(Opcode::Add, a, c)
    }
    /// a - b.
    pub fn sub(&mut self, a: Val, b: Val) -> Val {
        self.binary(Opcode::Sub, a, b)
    }
    /// a & constant.
    pub fn and_imm(&mut self, a: Val, imm: u64) -> Val {
        let c = self.constant(self.ty(a), imm);
        self.binary(Opcode::And, a, c)
    }
    /// Shift by a constant: `Shl`, `Shr`, `Sar`, `Ror`.
    pub fn shift_imm(&mut self, code: Opcode, a: Val, n: u32) -> Val {
        let c = self.constant(self.ty(a), u64::from(n));
        self.binary(code, a, c)
    }
    /// Unsigned bit field.
    pub fn ubfx(&mut self, a: Val, lsb: u32, width: u32) -> Val {
        self.unary(Opcode::Ubfx, (lsb | width << 8) as u16, a)
    }
    /// Signed bit field.
    pub fn sbfx(&mut self, a: Val, lsb: u32, width: u32) -> Val {
        self.unary(Opcode::Sbfx, (lsb | width << 8) as u16, a)
    }
    /// `a` with a field replaced by the low bits of `b`.
    pub fn bfi(&mut self, a: Val, b: Val, lsb: u32, width: u32) -> Val {
        self.binary_aux(Opcode::Bfi, (lsb | width << 8) as u16, a, b)
    }

    /// Flags from an I32 with N Z C V in bits 31..28.
    pub fn cc_from_nzcv(&mut self, a: Val) -> Val {
        let mut op = Op::new(Opcode::CcFromNzcv, Ty::Cc);
        op.a = a;
        self.push(op)
    }
    /// N Z C V in bits 31..28 of an I32.
    pub fn nzcv_of(&mut self, cc: Val) -> Val {
        let mut op = Op::new(Opcode::NzcvOf, Ty::I32);
        op.a = cc;
        self.push(op)
    }
    /// Conditional compare: flags of a - b (a + b if `add`) when `cond` holds in `cc`, else `nzcv`.
    pub fn ccmp(&mut self, add: bool, a: Val, b: Val, cc: Val, cond: Cond, nzcv: u32) -> Val {
        let wide = self.ty(a) == Ty::I64;
        let mut op = Op::new(Opcode::Ccmp, Ty::Cc);
        op.aux = cond as u16 | (nzcv as u16 & 15) << 4 | u16::from(add) << 8 | u16::from(wide) << 9;
        (op.a, op.b, op.imm) = (a, b, i64::from(cc.0));
        self.push(op)
    }
    /// 1 (of type `ty`) if `cond` holds in `cc`, else 0.
    pub fn cond_val(&mut self, ty: Ty, cc: Val, cond: Cond) -> Val {
        let mut op = Op::new(Opcode::CondVal, ty);
        (op.a, op.aux) = (cc, cond as u16);
        self.push(op)
    }
    /// `cond` in `cc` ? a : b.
    pub fn select(&mut self, cc: Val, cond: Cond, a: Val, b: Val) -> Val {
        if a == b {
            return a;
        }
        let mut op = Op::new(Opcode::Select, self.ty(a));
        (op.a, op.b, op.imm, op.aux) = (a, b, i64::from(cc.0), cond as u16);
        self.push(op)
    }
    /// 1 if the integer compare holds, else 0 (I64). `cond` is one of Eq, Ne, Hs, Lo, Hi, Ls, Ge, Lt,
    /// Gt, Le.
    pub fn cmp_set(&mut self, cond: Cond, a: Val, b: Val) -> Val {
        let mut op = Op::new(Opcode::CmpSet, self.ty(a));
        (op.a, op.b, op.aux) = (a, b, cond as u16);
        self.push(op)
    }

    /// Loads a value of type `ty` from addr + offset.
    pub fn load(&mut self, ty: Ty, addr: Val, offset: i32, desc: MemDesc) -> Val {
        let mut op = Op::new(Opcode::Load, ty);
        (op.a, op.imm, op.aux) = (addr, i64::from(offset), desc.0);
        self.push(op)
    }
    /// Stores a value to addr + offset.
    pub fn store(&mut self, addr: Val, offset: i32, v: Val, desc: MemDesc) {
        let mut op = Op::new(Opcode::Store, self.ty(v));
        (op.a, op.b, op.imm, op.aux) = (addr, v, i64::from(offset), desc.0);
        self.push(op);
    }
    /// Load-exclusive.
    pub fn load_ex(&mut self, ty: Ty, addr: Val, desc: MemDesc) -> Val {
        let mut op = Op::new(Opcode::LoadEx, ty);
        (op.a, op.aux) = (addr, desc.0);
        self.push(op)
    }
    /// Store-exclusive: I32 status, 0 = stored.
    pub fn store_ex(&mut self, addr: Val, v: Val, desc: MemDesc) -> Val {
        let mut op = Op::new(Opcode::StoreEx, self.ty(v));
        (op.a, op.b, op.aux) = (addr, v, desc.0);
        self.push(op)
    }
    /// Clears the exclusive monitor.
    pub fn clear_ex(&mut self) {
        self.push(Op::new(Opcode::ClearEx, Ty::None));
    }
    /// Atomic read-modify-write; gives the old value.
    pub fn rmw(&mut self, kind: RmwKind, addr: Val, v: Val, desc: MemDesc) -> Val {
        let mut op = Op::new(Opcode::Rmw, self.ty(v));
        (op.a, op.b, op.imm, op.aux) = (addr, v, kind as i64, desc.0);
        self.push(op)
    }
    /// Atomic compare-and-swap; gives the old value.
    pub fn cas(&mut self, addr: Val, expected: Val, new: Val, desc: MemDesc) -> Val {
        let mut op = Op::new(Opcode::Cas, self.ty(new));
        (op.a, op.b, op.imm, op.aux) = (addr, expected, i64::from(new.0), desc.0);
        self.push(op)
    }
    /// Memory barrier: 1 loads, 2 stores, 3 both.
    pub fn fence(&mut self, kind: u16) {
        let mut op = Op::new(Opcode::Fence, Ty::None);
        op.aux = kind;
        self.push(op);
    }

    /// Calls a helper with up to three values (I32, I64) and an immediate; result I64.
    pub fn call(&mut self, helper: u16, args: &[Val], imm: u32) -> Val {
        self.call_typed(Ty::I64, helper, args, imm)
    }
    /// Calls a helper without result.
    pub fn call_void(&mut self, helper: u16, args: &[Val], imm: u32) {
        self.call_typed(Ty::None, helper, args, imm);
    }
    fn call_typed(&mut self, ty: Ty, helper: u16, args: &[Val], imm: u32) -> Val {
        let arg = |n: usize| args.get(n).copied().unwrap_or(Val::NONE);
        let mut op = Op::new(Opcode::Call, ty);
        (op.a, op.b, op.aux) = (arg(0), arg(1), helper);
        op.imm = i64::from(imm) << 32 | i64::from(arg(2).0);
        let v = self.push(op);
        let fx = self.helpers.get(usize::from(helper)).map_or(Effects::ALL, |h| h.effects);
        if fx.contains(Effects::WRITES_GENERAL) {
            self.known.clear();
            self.cc = None;
        } else if fx.contains(Effects::WRITES_VECTOR) {
            let (at, len) = self.layout.vectors;
            self.forget_overlap(at, len);
        }
        if fx.contains(Effects::MAY_EXIT) {
            let general = self.layout;
            self.known.retain(|(o, _, _)| general.general_at(*o).is_some());
        }
        v
    }

    /// A call follows that returns to page + offset.
    pub fn push_return(&mut self, offset: u32) {
        let mut op = Op::new(Opcode::PushReturn, Ty::None);
        op.imm = i64::from(offset);
        self.push(op);
    }

    fn exit_index(&mut self, exit: Exit) -> i64 {
        self.block.exits.push(exit);
        self.block.exits.len() as i64 - 1
    }
    /// Leaves if `cond` holds in `cc`.
    pub fn exit_cc(&mut self, cc: Val, cond: Cond, exit: Exit) {
        let mut op = Op::new(Opcode::ExitIfCc, Ty::None);
        (op.a, op.aux) = (cc, cond as u16);
        op.imm = self.exit_index(exit);
        self.push(op);
    }
    /// Leaves if `v` is not 0 (`when_zero` = false) or is 0.
    pub fn exit_if(&mut self, v: Val, when_zero: bool, exit: Exit) {
        let mut op = Op::new(if when_zero { Opcode::ExitIfZ } else { Opcode::ExitIfNz }, Ty::None);
        op.a = v;
        op.imm = self.exit_index(exit);
        self.push(op);
    }
    /// Leaves if bit `bit` of `v` equals `want`.
    pub fn exit_bit(&mut self, v: Val, bit: u32, want: bool, exit: Exit) {
        let mut op = Op::new(Opcode::ExitIfBit, Ty::None);
        (op.a, op.aux) = (v, bit as u16 & 63 | u16::from(want) << 8);
        op.imm = self.exit_index(exit);
        self.push(op);
    }
    /// Ends the block.
    pub fn exit(&mut self, exit: Exit) {
        let mut op = Op::new(Opcode::ExitTo, Ty::None);
        op.imm = self.exit_index(exit);
        self.push(op);
        self.ended = true;
    }

    /// Vector from two words.
    pub fn v_from64(&mut self, lo: Val, hi: Val) -> Val {
        let mut op = Op::new(Opcode::VFrom64, Ty::V128);
        (op.a, op.b) = (lo, hi);
        self.push(op)
    }
    /// Word 0 or 1 of a vector.
    pub fn v_get64(&mut self, v: Val, word: u16) -> Val {
        let mut op = Op::new(Opcode::VGet64, Ty::I64);
        (op.a, op.aux) = (v, word & 1);
        self.push(op)
    }
    /// The low lane bits of an I64 in every lane.
    pub fn v_dup(&mut self, lane: Lane, a: Val) -> Val {
        let mut op = Op::new(Opcode::VDup, Ty::V128);
        (op.a, op.aux) = (a, lane as u16);
        self.push(op)
    }
    /// A vector op on one or two vectors (`b` may be [`Val::NONE`]).
    pub fn vector(&mut self, code: Opcode, lane: Lane, a: Val, b: Val) -> Val {
        let mut op = Op::new(code, Ty::V128);
        (op.a, op.b) = (a, b);
        if self.passes.contains(Passes::FOLD) {
            let def = *self.block.def(a);
            let whole = match (code, def.code) {
                (Opcode::VAesMix, Opcode::VAesEnc) => Some(Opcode::VAesRound),
                (Opcode::VAesUnmix, Opcode::VAesDec) => Some(Opcode::VAesUnround),
                _ => None,
            };
            if let Some(whole) = whole {
                return self.vector(whole, lane, def.a, Val::NONE);
            }
        }
        if code.uses_aux() {
            op.aux = lane as u16;
        }
        self.push(op)
    }
    /// A vector op with a count, lane number or byte number in `aux`.
    pub fn vector_imm(&mut self, code: Opcode, lane: Lane, imm: u32, a: Val) -> Val {
        let mut op = Op::new(code, Ty::V128);
        (op.a, op.aux) = (a, lane as u16 | (imm as u16 & 0xff) << 8);
        self.push(op)
    }
    /// Polynomial product of 64-bit lane `n` of both.
    pub fn v_clmul(&mut self, a: Val, b: Val, n: u32) -> Val {
        let mut op = Op::new(Opcode::VClMul, Ty::V128);
        (op.a, op.b, op.aux) = (a, b, n as u16 & 1);
        self.push(op)
    }
    /// Lane `n`, zero-extended.
    pub fn v_lane(&mut self, lane: Lane, n: u32, a: Val) -> Val {
        let mut op = Op::new(Opcode::VLane, Ty::I64);
        (op.a, op.aux) = (a, lane as u16 | (n as u16 & 15) << 8);
        self.push(op)
    }
    /// `a` with lane `n` replaced by the low bits of `x`.
    pub fn v_set_lane(&mut self, lane: Lane, n: u32, a: Val, x: Val) -> Val {
        let mut op = Op::new(Opcode::VSetLane, Ty::V128);
        (op.a, op.b, op.aux) = (a, x, lane as u16 | (n as u16 & 15) << 8);
        self.push(op)
    }
    /// Four rounds of SHA-256; see [`Opcode::VSha256`].
    pub fn v_sha256(&mut self, abcd: Val, efgh: Val, words: Val, second: bool) -> Val {
        let mut op = Op::new(Opcode::VSha256, Ty::V128);
        (op.a, op.b, op.imm, op.aux) = (abcd, efgh, i64::from(words.0), u16::from(second));
        self.push(op)
    }
    /// A floating-point op on one to three vectors (the last may be [`Val::NONE`]); also compares.
    pub fn fp(&mut self, d: FpDesc, a: Val, b: Val, c: Val) -> Val {
        let code = match d.op() {
            FpOp::Compare | FpOp::CompareSignalling => Opcode::FpCmp,
            _ if c != Val::NONE => Opcode::Fp3,
            _ if b != Val::NONE => Opcode::Fp2,
            _ => Opcode::Fp1,
        };
        let ty = if code == Opcode::FpCmp { Ty::Cc } else { Ty::V128 };
        let mut op = Op::new(code, ty);
        (op.a, op.b, op.aux) = (a, b, d.0);
        if code == Opcode::Fp3 {
            op.imm = i64::from(c.0);
        }
        self.push(op)
    }
    /// The lowest lane as an integer of type `ty`.
    pub fn fp_to_int(&mut self, op: FpOp, double: bool, mode: FpRounding, ty: Ty, a: Val) -> Val {
        let d = FpDesc::new(op, double, FpShape::General).rounded(mode);
        let mut op = Op::new(Opcode::FpToInt, ty);
        (op.a, op.aux) = (a, d.with_wide(ty == Ty::I64).0);
        self.push(op)
    }
    /// An I32 or I64 in the lowest lane.
    pub fn fp_from_int(&mut self, op: FpOp, double: bool, a: Val) -> Val {
        let wide = self.ty(a) == Ty::I64;
        let d = FpDesc::new(op, double, FpShape::General).with_wide(wide);
        let mut op = Op::new(Opcode::FpFromInt, Ty::V128);
        (op.a, op.aux) = (a, d.0);
        self.push(op)
    }
    /// The guest's floating-point flags are about to be read or written.
    pub fn fp_sync(&mut self) {
        self.push(Op::new(Opcode::FpSync, Ty::None));
        if let Some(control) = self.layout.fp {
            self.forget_overlap(control.flags, 4);
        }
    }
    /// 16 bytes from byte `n` of `a` followed by `b`.
    pub fn v_ext(&mut self, a: Val, b: Val, n: u32) -> Val {
        let mut op = Op::new(Opcode::VExt, Ty::V128);
        (op.a, op.b, op.aux) = (a, b, n as u16 & 15);
        self.push(op)
    }
}

/// Bytes of a value in guest state.
#[must_use]
pub fn size_of(ty: Ty) -> u32 {
    match ty {
        Ty::None => 0,
        Ty::I32 => 4,
        Ty::I64 => 8,
        Ty::V128 => 16,
        Ty::Cc => 2,
    }
}

fn identity(code: Opcode, a: Val, b: Val, x: Option<u64>, y: Option<u64>) -> Option<Val> {
    match code {
        Opcode::Add | Opcode::Or | Opcode::Xor if x == Some(0) => Some(b),
        Opcode::Add | Opcode::Sub | Opcode::Or | Opcode::Xor if y == Some(0) => Some(a),
        Opcode::Shl | Opcode::Shr | Opcode::Sar | Opcode::Ror if y == Some(0) => Some(a),
        Opcode::And | Opcode::Or if a == b => Some(a),
        Opcode::And if y == Some(0) => Some(b),
        Opcode::And if x == Some(0) => Some(a),
        _ => None,
    }
}
