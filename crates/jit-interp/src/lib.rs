//! Tier 0: runs IR blocks op by op.
//!
//! It is the reference that host back ends are compared with, and the fallback on hosts without
//! one (`-accel tcg,x-backend=interp`). Guest state is read and written through [`StateMem`];
//! memory and helpers through [`Machine`].
//!
//! Not here: block look-up and the TLB (`accel-jit`), what pure ops compute (`jit_ir::eval`).

use jit_ir::helper::StateMem;
use jit_ir::state::image;
use jit_ir::{Block, Exit, MemDesc, Op, Opcode, RmwKind, StateLayout, Ty, Val, eval, fp};

/// What blocks need besides state. `None` and `false`: a fault was taken, leave the block.
pub trait Machine {
    /// Loads, extended to 64 bits (or 16 bytes wide) as `desc` says.
    fn load(&mut self, va: u64, desc: MemDesc) -> Option<u128>;
    /// Stores.
    fn store(&mut self, va: u64, desc: MemDesc, value: u128) -> bool;
    /// Load-exclusive.
    fn load_ex(&mut self, va: u64, desc: MemDesc) -> Option<u128>;
    /// Store-exclusive: 0 stored, 1 not.
    fn store_ex(&mut self, va: u64, desc: MemDesc, value: u128) -> Option<u64>;
    /// Read-modify-write: the old value.
    fn rmw(&mut self, va: u64, desc: MemDesc, kind: RmwKind, value: u64) -> Option<u64>;
    /// Compare-and-swap: the old value.
    fn cas(&mut self, va: u64, desc: MemDesc, expected: u128, new: u128) -> Option<u128>;
    /// Helper call: result and whether the block is to be left.
    fn helper(&mut self, index: u16, args: [u64; 4]) -> (u64, bool);
    /// The instruction at this page offset is current.
    fn set_offset(&mut self, offset: u32);
    /// Clears the exclusive monitor.
    fn clear_ex(&mut self);
}

/// Where control went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To an instruction of the same page.
    Page(u32),
    /// To an address.
    Va(u64),
    /// To the run loop with PC = page + offset.
    Runtime(u32),
    /// To the run loop; PC is set (fault, exception, helper).
    RuntimePcSet,
}

struct Run<'a, M> {
    block: &'a Block,
    state: StateMem,
    layout: &'a StateLayout,
    m: &'a mut M,
    page: u64,
    vals: &'a mut Vec<u128>,
}

/// Executes one block of the code page at VA `page`. `vals` is scratch that callers keep to save allocations.
pub fn run<M: Machine>(
    block: &Block,
    state: StateMem,
    layout: &StateLayout,
    m: &mut M,
    page: u64,
    vals: &mut Vec<u128>,
) -> Next {
    vals.clear();
    vals.resize(block.ops.len(), 0);
    let mut r = Run { block, state, layout, m, page, vals };
    for (i, op) in block.ops.iter().enumerate() {
        match r.step(i, op) {
            Flow::Value(v) => r.vals[i] = v,
            Flow::Leave(next) => return next,
        }
    }
    Next::RuntimePcSet
}

enum Flow {
    Value(u128),
    Leave(Next),
}

const DONE: Flow = Flow::Value(0);
const FAULT: Flow = Flow::Leave(Next::RuntimePcSet);

fn value(v: Option<u128>) -> Flow {
    v.map_or(FAULT, Flow::Value)
}

impl<M: Machine> Run<'_, M> {
    fn v(&self, v: Val) -> u64 {
        self.vals.get(v.index()).map_or(0, |v| *v as u64)
    }

    fn wide(&self, v: Val) -> u128 {
        self.vals.get(v.index()).copied().unwrap_or(0)
    }

    fn narrow(&self, op: &Op, v: u128) -> u128 {
        if op.ty == Ty::V128 { v } else { u128::from(eval::narrow(op.ty, v as u64)) }
    }

    fn get(&self, op: &Op) -> u128 {
        let at = op.imm as usize;
        match op.ty {
            Ty::I32 => u128::from(u32::from_le_bytes(self.state.read(at))),
            Ty::V128 => u128::from_le_bytes(self.state.read(at)),
            _ => u128::from(u64::from_le_bytes(self.state.read(at))),
        }
    }

    fn set(&self, op: &Op) {
        let (at, v) = (op.imm as usize, self.wide(op.a));
        match op.ty {
            Ty::I32 => self.state.write(at, (v as u32).to_le_bytes()),
            Ty::V128 => self.state.write(at, v.to_le_bytes()),
            _ => self.state.write(at, (v as u64).to_le_bytes()),
        }
    }

    fn leave(&self, exit: i64, at: u32) -> Flow {
        let exit = usize::try_from(exit).ok().and_then(|n| self.block.exits.get(n));
        Flow::Leave(match exit {
            Some(Exit::Page(o)) => Next::Page(*o),
            Some(Exit::Rel(d)) => Next::Va(self.page.wrapping_add(*d as u64)),
            Some(Exit::Indirect(v) | Exit::Return(v)) => Next::Va(self.v(*v)),
            Some(Exit::Runtime(o)) => Next::Runtime(*o),
            Some(Exit::Helper { .. }) => Next::Runtime(at),
            Some(Exit::RuntimePcSet) | None => Next::RuntimePcSet,
        })
    }

    fn exit_if(&mut self, taken: bool, op: &Op) -> Flow {
        if !taken {
            return DONE;
        }
        if let Some(Exit::Helper { helper, imm, offset }) = self.block.exits.get(op.imm as usize) {
            self.m.set_offset(*offset);
            self.m.helper(*helper, [0, 0, 0, u64::from(*imm)]);
            return FAULT;
        }
        self.leave(op.imm, 0)
    }

    fn flags(&self, op: &Op) -> u128 {
        let def = self.block.def(op.a);
        let carry = if def.code == Opcode::AddC { self.v(def.c()) as u32 } else { 0 };
        u128::from(eval::flags_of(def, self.v(def.a), self.v(def.b), carry))
    }

    fn memory(&mut self, op: &Op) -> Flow {
        let (va, desc) = (self.v(op.a).wrapping_add(op.imm as u64), op.mem());
        match op.code {
            Opcode::Load => {
                let v = self.m.load(va, desc);
                value(v.map(|v| self.narrow(op, v)))
            }
            Opcode::Store if self.m.store(va, desc, self.wide(op.b)) => DONE,
            Opcode::LoadEx => {
                let v = self.m.load_ex(self.v(op.a), desc);
                value(v.map(|v| self.narrow(op, v)))
            }
            Opcode::StoreEx => {
                let v = self.m.store_ex(self.v(op.a), desc, self.wide(op.b));
                value(v.map(u128::from))
            }
            Opcode::Rmw => {
                let v = self.m.rmw(self.v(op.a), desc, op.rmw(), self.v(op.b));
                value(v.map(|v| self.narrow(op, u128::from(v))))
            }
            Opcode::Cas => {
                let (expected, new) = (self.wide(op.b), self.wide(op.c()));
                let v = self.m.cas(self.v(op.a), desc, expected, new);
                value(v.map(|v| self.narrow(op, v)))
            }
            _ => FAULT,
        }
    }

    fn call(&mut self, op: &Op) -> Flow {
        let args = [self.v(op.a), self.v(op.b), self.v(op.c()), u64::from(op.call_imm())];
        match self.m.helper(op.aux, args) {
            (_, true) => FAULT,
            (v, false) => Flow::Value(u128::from(v)),
        }
    }

    fn control(&mut self, op: &Op) -> Flow {
        let a = self.v(op.a);
        let taken = match op.code {
            Opcode::ExitIfCc => op.cond().holds(a as u32),
            Opcode::ExitIfNz => a != 0,
            Opcode::ExitIfZ => a == 0,
            Opcode::ExitIfBit => (a >> (op.aux & 63) & 1 != 0) == (op.aux >> 8 != 0),
            _ => true,
        };
        self.exit_if(taken, op)
    }

    fn flag_ops(&mut self, op: &Op) -> Option<u128> {
        let at = self.layout.flags as usize;
        Some(match op.code {
            Opcode::GetCc => u128::from(image::to_nzcv(u16::from_le_bytes(self.state.read(at)))),
            Opcode::SetCc => {
                let image = image::from_nzcv(self.v(op.a) as u32);
                self.state.write(at, image.to_le_bytes());
                0
            }
            Opcode::FlagsOf => self.flags(op),
            Opcode::CcFromNzcv => u128::from(self.v(op.a) >> 28 & 15),
            Opcode::NzcvOf => u128::from(self.v(op.a) << 28),
            Opcode::Ccmp => {
                let nzcv = self.v(op.c()) as u32;
                u128::from(eval::ccmp(op, self.v(op.a), self.v(op.b), nzcv))
            }
            Opcode::CondVal => u128::from(op.cond().holds(self.v(op.a) as u32)),
            Opcode::Select if op.cond().holds(self.v(op.c()) as u32) => self.wide(op.a),
            Opcode::Select => self.wide(op.b),
            Opcode::CmpSet => {
                u128::from(eval::compare(op.ty, op.cond(), self.v(op.a), self.v(op.b)))
            }
            _ => return None,
        })
    }

    fn fp(&self, op: &Op) -> u128 {
        let (r, flags) = fp::compute(op.fp(), [op.a, op.b, op.c()].map(|v| self.wide(v)));
        if let Some(control) = self.layout.fp
            && flags != 0
        {
            let at = control.flags as usize;
            let old = u32::from_le_bytes(self.state.read(at));
            self.state.write(at, (old | flags).to_le_bytes());
        }
        r
    }

    fn pure(&self, op: &Op) -> u128 {
        let (a, b) = (self.v(op.a), self.v(op.b));
        match op.code {
            Opcode::AddC => {
                let c = self.v(op.c()) >> 1 & 1;
                u128::from(eval::narrow(op.ty, a.wrapping_add(b).wrapping_add(c)))
            }
            Opcode::VFrom64 => u128::from(a) | u128::from(b) << 64,
            Opcode::VGet64 => u128::from((self.wide(op.a) >> (64 * (op.aux & 1))) as u64),
            Opcode::VDup => eval::dup(op.lane(), a),
            Opcode::Pc => u128::from(self.page.wrapping_add(op.imm as u64)),
            _ => eval::integer(op, a, b)
                .or_else(|| eval::convert(op, a))
                .map(u128::from)
                .or_else(|| eval::vector(op, self.wide(op.a), self.wide(op.b)))
                .unwrap_or(0),
        }
    }

    fn step(&mut self, _: usize, op: &Op) -> Flow {
        match op.code {
            Opcode::InsnStart => {
                self.m.set_offset(op.imm as u32);
                DONE
            }
            Opcode::Get => Flow::Value(self.get(op)),
            Opcode::Set => {
                self.set(op);
                DONE
            }
            Opcode::ClearEx => {
                self.m.clear_ex();
                DONE
            }
            Opcode::Fence => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                DONE
            }
            Opcode::PushReturn | Opcode::FpSync => DONE,
            c if c.is_fp() => Flow::Value(self.fp(op)),
            Opcode::Call => self.call(op),
            c if c.is_exit() => self.control(op),
            c if c.may_fault() => self.memory(op),
            _ => match self.flag_ops(op) {
                Some(v) => Flow::Value(v),
                None => Flow::Value(self.pure(op)),
            },
        }
    }
}
