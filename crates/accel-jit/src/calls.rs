//! The functions that generated code calls ([`RuntimeCalls`]).
//!
//! UNSAFE: the first argument is the address of the running [`JitVcpu`], which `run_native` put into
//! `env.engine` on this thread right before; nothing else refers to it while generated code runs.

use jit_ir::backend::RuntimeCalls;
use jit_ir::{AccessKind, JitCpu, MemDesc, MemFault, RmwKind, eval};

use crate::vcpu::{Core, JitVcpu};
use crate::verify::Access;

fn fault(cpu: &mut dyn JitCpu, f: MemFault) -> u64 {
    cpu.raise(f);
    cpu.env().exit_after_helper();
    0
}

/// Splits the vCPU behind the pointer.
///
/// # Safety
/// `engine` must be the `env.engine` of the vCPU that runs on this thread.
unsafe fn parts<'a>(engine: *mut JitVcpu) -> (&'a mut dyn JitCpu, &'a mut Core) {
    // SAFETY: see the head of this file.
    let v = unsafe { &mut *engine };
    (&mut *v.cpu, &mut *v.core)
}

fn wide(cpu: &mut dyn JitCpu, at: usize) -> u128 {
    let w = &cpu.env().wide;
    u128::from(w[at]) | u128::from(w[at + 1]) << 64
}

fn result(cpu: &mut dyn JitCpu, desc: MemDesc, v: u128) -> u64 {
    if desc.log2() == 4 {
        cpu.env().wide[0] = v as u64;
        cpu.env().wide[1] = (v >> 64) as u64;
    }
    v as u64
}

fn operand(cpu: &mut dyn JitCpu, desc: MemDesc, v: u64) -> u128 {
    if desc.log2() == 4 { wide(cpu, 0) } else { u128::from(v) }
}

unsafe extern "C" fn load(engine: *mut JitVcpu, va: u64, desc: u64) -> u64 {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    let desc = MemDesc(desc as u16);
    core.peer.count(&core.peer.slow);
    let r = core.do_load(cpu, va, desc);
    core.log_access(cpu, Access::Load, (va, desc), (0, 0), r);
    match r {
        Ok(v) => result(cpu, desc, v),
        Err(f) => fault(cpu, f),
    }
}

unsafe extern "C" fn store(engine: *mut JitVcpu, va: u64, desc: u64, value: u64) {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    let desc = MemDesc(desc as u16);
    core.peer.count(&core.peer.slow);
    let v = operand(cpu, desc, value);
    let r = core.do_store(cpu, va, v, desc);
    core.log_access(cpu, Access::Store, (va, desc), (v, 0), r.map(|()| 0));
    if let Err(f) = r {
        fault(cpu, f);
    }
}

unsafe extern "C" fn load_ex(engine: *mut JitVcpu, va: u64, desc: u64) -> u64 {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    let desc = MemDesc(desc as u16);
    let r = core.do_load_ex(cpu, va, desc);
    core.log_access(cpu, Access::LoadEx, (va, desc), (0, 0), r);
    match r {
        Ok(v) => result(cpu, desc, v),
        Err(f) => fault(cpu, f),
    }
}

unsafe extern "C" fn store_ex(engine: *mut JitVcpu, va: u64, desc: u64, value: u64) -> u64 {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    let desc = MemDesc(desc as u16);
    let v = operand(cpu, desc, value);
    let r = core.do_store_ex(cpu, va, desc, v);
    core.log_access(cpu, Access::StoreEx, (va, desc), (v, 0), r.map(|stored| u128::from(!stored)));
    match r {
        Ok(stored) => u64::from(!stored),
        Err(f) => fault(cpu, f),
    }
}

unsafe extern "C" fn rmw(engine: *mut JitVcpu, va: u64, desc: u64, value: u64) -> u64 {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    let kind = RmwKind::ALL[((desc >> 16) as usize).min(8)];
    let desc = MemDesc(desc as u16);
    let bytes = desc.bytes();
    let mut f = |old: u128| Some(u128::from(eval::rmw(kind, bytes, old as u64, value)));
    let r = core.do_rmw(cpu, va, desc, &mut f);
    core.log_access(cpu, Access::Rmw(kind), (va, desc), (u128::from(value), 0), r);
    match r {
        Ok(v) => v as u64,
        Err(f) => fault(cpu, f),
    }
}

unsafe extern "C" fn cas(engine: *mut JitVcpu, va: u64, desc: u64, expected: u64, new: u64) -> u64 {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    let desc = MemDesc(desc as u16);
    let expected = operand(cpu, desc, expected);
    let new = if desc.log2() == 4 { wide(cpu, 2) } else { u128::from(new) };
    let r = core.do_cas(cpu, va, desc, expected, new);
    core.log_access(cpu, Access::Cas, (va, desc), (expected, new), r);
    match r {
        Ok(v) => result(cpu, desc, v),
        Err(f) => fault(cpu, f),
    }
}

unsafe extern "C" fn lookup(engine: *mut JitVcpu) -> u64 {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    core.lookup(cpu)
}

unsafe extern "C" fn resume(engine: *mut JitVcpu) -> u64 {
    // SAFETY: see the head of this file.
    let (cpu, core) = unsafe { parts(engine) };
    core.resume(cpu)
}

/// The addresses.
pub(crate) fn table() -> RuntimeCalls {
    RuntimeCalls {
        load: load as *const () as u64,
        store: store as *const () as u64,
        load_ex: load_ex as *const () as u64,
        store_ex: store_ex as *const () as u64,
        rmw: rmw as *const () as u64,
        cas: cas as *const () as u64,
        lookup: lookup as *const () as u64,
        resume: resume as *const () as u64,
    }
}

fn mask(desc: MemDesc) -> u128 {
    if desc.log2() == 4 { u128::MAX } else { (1 << (8 * desc.bytes())) - 1 }
}

impl Core {
    /// Load-exclusive: remembers address and value.
    pub(crate) fn do_load_ex(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
    ) -> Result<u128, MemFault> {
        let bytes = u64::from(desc.bytes());
        if desc.is_within16() && bytes < 16 && (va & 15) + bytes > 16 {
            // As observed of QEMU: with FEAT_LSE2 it is reported as of a write.
            return Err(cpu.alignment_fault(va, AccessKind::Write));
        }
        let v = self.do_load(cpu, va, desc)?;
        let env = cpu.env();
        env.excl_addr = va;
        env.excl_value = [v as u64, (v >> 64) as u64];
        Ok(v)
    }

    /// Store-exclusive: whether it stored.
    pub(crate) fn do_store_ex(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
        value: u128,
    ) -> Result<bool, MemFault> {
        let env = cpu.env();
        let held = env.excl_addr == va;
        let expected = u128::from(env.excl_value[0]) | u128::from(env.excl_value[1]) << 64;
        env.clear_exclusive();
        if !held {
            return Ok(false);
        }
        let old = self.do_cas(cpu, va, desc, expected & mask(desc), value)?;
        Ok(old == expected & mask(desc))
    }

    /// Compare-and-swap: the old value.
    pub(crate) fn do_cas(
        &mut self,
        cpu: &mut dyn JitCpu,
        va: u64,
        desc: MemDesc,
        expected: u128,
        new: u128,
    ) -> Result<u128, MemFault> {
        let (expected, new) = (expected & mask(desc), new & mask(desc));
        self.do_rmw(cpu, va, desc, &mut |old| (old == expected).then_some(new))
    }
}
