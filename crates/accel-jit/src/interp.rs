//! The interpreter's view of a vCPU.
//!
//! UNSAFE: calls helpers with the state pointer of the CPU that it runs.

use jit_interp::Machine;
use jit_ir::helper::StateMem;
use jit_ir::{HelperDesc, JitCpu, MemDesc, MemFault, RmwKind, eval};

use crate::vcpu::Core;

pub(crate) struct InterpMachine<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) cpu: &'a mut dyn JitCpu,
    pub(crate) helpers: &'static [HelperDesc],
    pub(crate) state: StateMem,
}

impl InterpMachine<'_> {
    fn outcome<T>(&mut self, r: Result<T, MemFault>) -> Option<T> {
        r.map_err(|f| self.cpu.raise(f)).ok()
    }
}

impl Machine for InterpMachine<'_> {
    fn load(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        let r = self.core.do_load(self.cpu, va, desc);
        self.outcome(r)
    }
    fn store(&mut self, va: u64, desc: MemDesc, value: u128) -> bool {
        let r = self.core.do_store(self.cpu, va, value, desc);
        self.outcome(r).is_some()
    }
    fn load_ex(&mut self, va: u64, desc: MemDesc) -> Option<u128> {
        let r = self.core.do_load_ex(self.cpu, va, desc);
        self.outcome(r)
    }
    fn store_ex(&mut self, va: u64, desc: MemDesc, value: u128) -> Option<u64> {
        let r = self.core.do_store_ex(self.cpu, va, desc, value);
        self.outcome(r).map(|stored| u64::from(!stored))
    }
    fn rmw(&mut self, va: u64, desc: MemDesc, kind: RmwKind, value: u64) -> Option<u64> {
        let bytes = desc.bytes();
        let mut f = |old: u128| Some(u128::from(eval::rmw(kind, bytes, old as u64, value)));
        let r = self.core.do_rmw(self.cpu, va, desc, &mut f);
        self.outcome(r).map(|v| v as u64)
    }
    fn cas(&mut self, va: u64, desc: MemDesc, expected: u128, new: u128) -> Option<u128> {
        let r = self.core.do_cas(self.cpu, va, desc, expected, new);
        self.outcome(r)
    }
    fn helper(&mut self, index: u16, args: [u64; 4]) -> (u64, bool) {
        let Some(h) = self.helpers.get(usize::from(index)) else { return (0, true) };
        // SAFETY: `state` is this CPU's state pointer, its services are set (`run_interpreted`), and the
        // references held here are not used until the helper returns.
        let v = unsafe { h.call(self.state.base(), args) };
        let exit = std::mem::take(&mut self.cpu.env().helper_exit) != 0;
        (v, exit)
    }
    fn set_offset(&mut self, offset: u32) {
        self.cpu.env().offset = u64::from(offset);
    }
    fn clear_ex(&mut self) {
        self.cpu.env().clear_exclusive();
    }
}
