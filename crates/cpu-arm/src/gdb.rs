//! Registers for a debugger: gdb's AArch64 features and our own for system registers.
//!
//! Numbers and names are those of QEMU's stub: x0 to x30, sp, pc, cpsr; v0 to v31,
//! fpsr, fpcr; then the system registers that this CPU has, which can be read only.
//! Models with pointer authentication have gdb's four masks as well. Sources: the gdb
//! manual, "AArch64 Features"; Arm ARM D24 for the registers.

use std::fmt::Write as _;

use cpu::debug::{RegisterFile, RegisterGroup};

use crate::state::{ArmCpu, Pstate};
use crate::sysreg::{PLAIN, Reg, exists};

const HEADER: &str = "<?xml version=\"1.0\"?>\n<!DOCTYPE feature SYSTEM \"gdb-target.dtd\">\n";

/// First number of each kind.
const SP: u32 = 31;
const PC: u32 = 32;
const CPSR: u32 = 33;
const V0: u32 = 34;
const FPSR: u32 = 66;
const FPCR: u32 = 67;
const EXTRA: u32 = 68;
/// gdb's masks of pointer authentication.
const MASKS: [&str; 4] = ["pauth_dmask", "pauth_cmask", "pauth_dmask_high", "pauth_cmask_high"];

const VECTOR_TYPES: &str = r#"  <vector id="v2d" type="ieee_double" count="2"/>
  <vector id="v2u" type="uint64" count="2"/>
  <vector id="v2i" type="int64" count="2"/>
  <vector id="v4f" type="ieee_single" count="4"/>
  <vector id="v4u" type="uint32" count="4"/>
  <vector id="v4i" type="int32" count="4"/>
  <vector id="v8u" type="uint16" count="8"/>
  <vector id="v8i" type="int16" count="8"/>
  <vector id="v16u" type="uint8" count="16"/>
  <vector id="v16i" type="int8" count="16"/>
  <vector id="v1u" type="uint128" count="1"/>
  <vector id="v1i" type="int128" count="1"/>
  <union id="vnd">
    <field name="f" type="v2d"/><field name="u" type="v2u"/><field name="s" type="v2i"/>
  </union>
  <union id="vns">
    <field name="f" type="v4f"/><field name="u" type="v4u"/><field name="s" type="v4i"/>
  </union>
  <union id="vnh"><field name="u" type="v8u"/><field name="s" type="v8i"/></union>
  <union id="vnb"><field name="u" type="v16u"/><field name="s" type="v16i"/></union>
  <union id="vnq"><field name="u" type="v1u"/><field name="s" type="v1i"/></union>
  <union id="aarch64v">
    <field name="d" type="vnd"/><field name="s" type="vns"/><field name="h" type="vnh"/>
    <field name="b" type="vnb"/><field name="q" type="vnq"/>
  </union>
"#;

struct Writer {
    xml: String,
    registers: Vec<(String, usize)>,
}

impl Writer {
    fn new(feature: &str) -> Writer {
        Writer { xml: format!("{HEADER}<feature name=\"{feature}\">\n"), registers: Vec::new() }
    }

    fn reg(&mut self, name: &str, bits: usize, kind: &str, group: &str) {
        let group = if group.is_empty() { String::new() } else { format!(" group=\"{group}\"") };
        _ = writeln!(
            self.xml,
            "  <reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"{group}/>"
        );
        self.registers.push((name.to_owned(), bits / 8));
    }

    fn finish(mut self, file: &'static str) -> RegisterGroup {
        self.xml.push_str("</feature>\n");
        RegisterGroup { file, xml: self.xml, registers: self.registers }
    }
}

fn core() -> RegisterGroup {
    let mut w = Writer::new("org.gnu.gdb.aarch64.core");
    for n in 0..31 {
        w.reg(&format!("x{n}"), 64, "int", "");
    }
    w.reg("sp", 64, "data_ptr", "");
    w.reg("pc", 64, "code_ptr", "");
    w.reg("cpsr", 32, "int", "");
    w.finish("aarch64-core.xml")
}

fn fpu() -> RegisterGroup {
    let mut w = Writer::new("org.gnu.gdb.aarch64.fpu");
    w.xml.push_str(VECTOR_TYPES);
    for n in 0..32 {
        w.reg(&format!("v{n}"), 128, "aarch64v", "");
    }
    w.reg("fpsr", 32, "int", "");
    w.reg("fpcr", 32, "int", "");
    w.finish("aarch64-fpu.xml")
}

fn pauth() -> RegisterGroup {
    let mut w = Writer::new("org.gnu.gdb.aarch64.pauth_v2");
    for name in MASKS {
        w.reg(name, 64, "int", "");
    }
    w.finish("aarch64-pauth.xml")
}

impl ArmCpu {
    fn shown_system_registers(&self) -> Vec<Reg> {
        PLAIN.iter().filter(|p| exists(p, &self.features)).map(|p| p.reg).collect()
    }

    fn has_masks(&self) -> bool {
        self.features.pauth() != 0
    }

    /// All registers for a debugger.
    pub(crate) fn debugger_registers(&self) -> RegisterFile {
        let mut groups = vec![core(), fpu()];
        if self.has_masks() {
            groups.push(pauth());
        }
        let mut w = Writer::new("org.qemu.gdb.arm.sys.regs");
        for reg in self.shown_system_registers() {
            w.reg(reg.name(), 64, "int", "cp_regs");
        }
        groups.push(w.finish("system-registers.xml"));
        RegisterFile { architecture: "aarch64", groups }
    }

    /// A register's bytes, least significant first.
    pub(crate) fn debugger_read(&self, n: u32) -> Option<Vec<u8>> {
        let at = |first: u32| usize::try_from(n - first).ok();
        Some(match n {
            0..=SP => self.x.get(at(0)?)?.to_le_bytes().to_vec(),
            PC => self.env.pc().to_le_bytes().to_vec(),
            CPSR => u32::try_from(self.spsr()).unwrap_or(0).to_le_bytes().to_vec(),
            V0..FPSR => self.v.get(at(V0)?)?.to_le_bytes().to_vec(),
            FPSR => self.fpsr.to_le_bytes().to_vec(),
            FPCR => self.fpcr.to_le_bytes().to_vec(),
            _ => {
                let mut at = at(EXTRA)?;
                if self.has_masks() {
                    if at < MASKS.len() {
                        return Some(
                            self.pointer_mask(at >= 2, at % 2 == 0).to_le_bytes().to_vec(),
                        );
                    }
                    at -= MASKS.len();
                }
                let reg = *self.shown_system_registers().get(at)?;
                self.sys(reg).to_le_bytes().to_vec()
            }
        })
    }

    /// Sets a register from the start of `bytes`; how many were taken, 0 if it cannot be set.
    pub(crate) fn debugger_write(&mut self, n: u32, bytes: &[u8]) -> usize {
        let word = |len: usize| -> Option<u128> {
            let mut all = [0; 16];
            all.get_mut(..len)?.copy_from_slice(bytes.get(..len)?);
            Some(u128::from_le_bytes(all))
        };
        let len = match n {
            0..=PC => 8,
            CPSR | FPSR | FPCR => 4,
            V0..FPSR => 16,
            _ => return 0,
        };
        let Some(value) = word(len) else { return 0 };
        let low = u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
        let low32 = u32::try_from(low & 0xffff_ffff).unwrap_or(0);
        match n {
            PC => self.env.set_pc(low),
            CPSR => self.set_cpsr(low),
            FPSR => self.fpsr = low32 & 0x0800_009f,
            FPCR => {
                self.fpcr = low32 & 0x07f7_9f00;
                self.forget_mode();
            }
            0..=SP => {
                if let Some(x) = usize::try_from(n).ok().and_then(|n| self.x.get_mut(n)) {
                    *x = low;
                }
            }
            _ => {
                let at = usize::try_from(n - V0).ok();
                if let Some(v) = at.and_then(|at| self.v.get_mut(at)) {
                    *v = value;
                }
            }
        }
        len
    }

    /// Sets flags and masks; the exception level too if the CPU has it.
    fn set_cpsr(&mut self, v: u64) {
        self.set_nzcv(u32::try_from(v >> 28 & 15).unwrap_or(0));
        let el = u8::try_from(v >> 2 & 3).unwrap_or(0);
        let exists = match el {
            3 => self.features.el3,
            2 => self.features.el2,
            _ => true,
        };
        if v & 0x12 == 0 && exists && !(el == 0 && v & 1 != 0) {
            self.switch_sp(el, v & 1 != 0);
        }
        let Pstate { daif, ss, il, .. } = &mut self.pstate;
        *daif = u8::try_from(v >> 6 & 15).unwrap_or(0);
        *ss = v >> 21 & 1 != 0;
        *il = v >> 20 & 1 != 0;
        self.forget_mode();
    }

    /// Bits of a pointer that its code occupies, for data or instruction addresses.
    fn pointer_mask(&self, high: bool, data: bool) -> u64 {
        let el2 = self.pstate.el == 2;
        let tcr = self.sys(if el2 { Reg::TCR_EL2 } else { Reg::TCR_EL1 });
        let split = !el2 || self.e2h();
        let (size_at, tbi_at, tbid_at) = match (split, high) {
            (true, false) => (0, 37, 51),
            (true, true) => (16, 38, 52),
            (false, _) => (0, 20, 29),
        };
        let size = (tcr >> size_at & 63).clamp(16, 48);
        let tbi = tcr >> tbi_at & 1 != 0 && (data || tcr >> tbid_at & 1 == 0);
        let top = if tbi { 56 } else { 64 };
        let below = |bit: u64| if bit >= 64 { u64::MAX } else { (1 << bit) - 1 };
        below(top) & !below(64 - size)
    }

    /// `info registers`: the layout is QEMU's.
    pub(crate) fn register_text(&self) -> String {
        let mut text = format!(" PC={:016x} ", self.env.pc());
        for (n, x) in self.x.iter().enumerate() {
            let name = if n == 31 { " SP".to_owned() } else { format!("X{n:02}") };
            let end = if n % 3 == 1 || n == 31 { "\n" } else { " " };
            _ = write!(text, "{name}={x:016x}{end}");
        }
        let p = self.spsr();
        let flag = |bit: u32, letter: char| if p >> bit & 1 != 0 { letter } else { '-' };
        let (n, z, c, v) = (flag(31, 'N'), flag(30, 'Z'), flag(29, 'C'), flag(28, 'V'));
        let stack = if self.pstate.sp_sel { 'h' } else { 't' };
        let world = match (self.features.el3, self.is_secure()) {
            (false, _) => "",
            (true, true) => "S ",
            (true, false) => "NS ",
        };
        _ = write!(text, "PSTATE={p:08x} {n}{z}{c}{v} {world}EL{}{stack}", self.pstate.el);
        if self.features.bti() {
            _ = write!(text, "  BTYPE={}", self.btype & 3);
        }
        if self.fp_disabled() {
            text.push_str("    FPU disabled\n");
            return text;
        }
        _ = writeln!(text, "     FPCR={:08x} FPSR={:08x}", self.fpcr, self.fpsr);
        for (n, v) in self.v.iter().enumerate() {
            let (high, low) = (v >> 64, v & u128::from(u64::MAX));
            let end = if n % 2 == 1 { "\n" } else { " " };
            _ = write!(text, "Q{n:02}={high:016x}:{low:016x}{end}");
        }
        text
    }

    /// Whether an FP instruction would trap now.
    fn fp_disabled(&self) -> bool {
        let cpacr = self.sys(Reg::CPACR_EL1) >> 20 & 3;
        match self.pstate.el {
            0 => cpacr != 3,
            1 => cpacr & 1 == 0,
            _ => false,
        }
    }
}
