//! What ESR_EL2 says of an access that stage 2 refused (Arm ARM, ISS encoding for an exception from a
//! Data Abort): a hypervisor that emulates devices works from it.
//!
//! Instruction syndromes exist for loads and stores of one general-purpose register without writeback;
//! others have ISV = 0 and the hypervisor looks at the instruction itself.

use jit_ir::PhysMem;

use crate::state::ArmCpu;

/// ISV, SAS, SSE, SRT, SF and AR of an instruction; 0 where there is no syndrome.
#[must_use]
pub fn of_access(insn: u32) -> u64 {
    let field = |at: u32, n: u32| insn >> at & ((1 << n) - 1);
    let (size, opc, rt) = (field(30, 2), field(22, 2), field(0, 5));
    // Size, sign extension, 64-bit register, acquire or release.
    let plain = |ordered: bool| {
        let (signed, wide) = match opc {
            0 | 1 => (false, size == 3),
            2 => (true, true),
            _ => (true, false),
        };
        Some((size, signed, wide, ordered))
    };
    let found = match field(24, 6) {
        0b11_1001 => plain(false),
        0b11_1000 if field(21, 1) == 0 && matches!(field(10, 2), 0 | 2) => plain(false),
        0b11_1000 if field(21, 1) == 1 && field(10, 2) == 2 => plain(false),
        // LDAPR
        0b11_1000 if insn & 0x3fff_fc00 == 0x38bf_c000 => Some((size, false, size == 3, true)),
        // LDAPUR, STLUR and their like
        0b01_1001 if field(21, 1) == 0 && field(10, 2) == 0 => plain(true),
        // LDAR, STLR, LDLAR, STLLR
        0b00_1000 if field(23, 1) == 1 && field(21, 1) == 0 => Some((size, false, size == 3, true)),
        // LDR (literal), LDRSW (literal)
        0b01_1000 => match size {
            0 => Some((2, false, false, false)),
            1 => Some((3, false, true, false)),
            2 => Some((2, true, true, false)),
            _ => None,
        },
        _ => None,
    };
    found.map_or(0, |(size, signed, wide, ordered)| {
        1 << 24
            | u64::from(size) << 22
            | u64::from(signed) << 21
            | u64::from(rt) << 16
            | u64::from(wide) << 15
            | u64::from(ordered) << 14
    })
}

impl ArmCpu {
    /// The syndrome of the instruction at PC, which is being executed: its page is mapped.
    pub(crate) fn access_syndrome(&mut self, mem: &mut dyn PhysMem) -> u64 {
        let pc = self.env.pc();
        let insn = self.code_address(pc, mem).and_then(|pa| mem.read(pa, 4, self.is_secure()));
        insn.map_or(0, |word| of_access(word as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::of_access;

    #[test]
    fn single_registers_have_a_syndrome_and_others_none() {
        for (insn, iss) in [
            (0xf940_02d8, 0x1d8_8000_u64), // ldr x24, [x22]
            (0xf900_02d8, 0x1d8_8000),     // str x24, [x22]
            (0x3940_0041, 0x101_0000),     // ldrb w1, [x2]
            (0x7980_0041, 0x161_8000),     // ldrsh x1, [x2]
            (0x79c0_0041, 0x161_0000),     // ldrsh w1, [x2]
            (0xb880_1041, 0x1a1_8000),     // ldursw x1, [x2, #1]
            (0xb840_0841, 0x181_0000),     // ldtr w1, [x2]
            (0xf863_6841, 0x1c1_8000),     // ldr x1, [x2, x3]
            (0xc8df_fc41, 0x1c1_c000),     // ldar x1, [x2]
            (0x889f_fc41, 0x181_4000),     // stlr w1, [x2]
            (0x5800_0001, 0x1c1_8000),     // ldr x1, literal
            (0xf840_8441, 0),              // ldr x1, [x2], #8
            (0xa940_0c41, 0),              // ldp
            (0x3dc0_0041, 0),              // ldr q1
            (0xc85f_7c41, 0),              // ldxr
            (0xf820_0041, 0),              // ldadd
        ] {
            assert_eq!(of_access(insn), iss, "{insn:#x}");
        }
    }
}
