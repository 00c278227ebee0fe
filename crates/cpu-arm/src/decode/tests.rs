//! Known words, agreement of the tree with the table, and robustness.
//!
//! The words were made with the GNU assembler from the text beside them.
//! `Namer` is the generated `Trans` that remembers which method ran.
//! Not here: what instructions do (`translate`'s tests).
//! Source: Arm ARM (DDI 0487) chapter C4; binutils as assembler.

use super::base::{self, Namer};

/// Pattern, word, assembler text.
const KNOWN: &[(&str, u32, &str)] = &[
    ("ADR", 0x10000041, "adr x1, .+8"),
    ("ADRP", 0x90000003, "adrp x3, ."),
    ("ADD_i", 0x910043e0, "add x0, sp, #16"),
    ("ADDS_i", 0x3140047f, "cmn w3, #1, lsl #12"),
    ("SUB_i", 0xd10103ff, "sub sp, sp, #0x40"),
    ("SUBS_i", 0xf1001cbf, "cmp x5, #7"),
    ("AND_i", 0x92401c41, "and x1, x2, #0xff"),
    ("ORR_i", 0x320007e1, "orr w1, wzr, #0x3"),
    ("EOR_i", 0xd200f041, "eor x1, x2, #0x5555555555555555"),
    ("ANDS_i", 0x7200007f, "tst w3, #1"),
    ("MOVN", 0x92800000, "mov x0, #-1"),
    ("MOVZ", 0x52a24681, "movz w1, #0x1234, lsl #16"),
    ("MOVK", 0xf2e000a1, "movk x1, #5, lsl #48"),
    ("SBFM", 0x9343fc41, "asr x1, x2, #3"),
    ("BFM", 0x331c1041, "bfi w1, w2, #4, #5"),
    ("UBFM", 0xd374cc41, "lsl x1, x2, #12"),
    ("EXTR", 0x13821c41, "ror w1, w2, #7"),
    ("B", 0x17ffffff, "b .-4"),
    ("BL", 0x94000100, "bl .+1024"),
    ("CBZ", 0xb5000043, "cbnz x3, .+8"),
    ("TBZ", 0xb6680084, "tbz x4, #45, .+16"),
    ("B_cond", 0x54ffffc1, "b.ne .-8"),
    ("BR", 0xd61f0220, "br x17"),
    ("BLR", 0xd63f0060, "blr x3"),
    ("RET", 0xd65f03c0, "ret"),
    ("BRAZ", 0xd61f083f, "braaz x1"),
    ("BLRAZ", 0xd63f0c5f, "blrabz x2"),
    ("RETA", 0xd65f0bff, "retaa"),
    ("BRA", 0xd71f0822, "braa x1, x2"),
    ("BLRA", 0xd73f0c3f, "blrab x1, sp"),
    ("ERET", 0xd69f03e0, "eret"),
    ("ERETA", 0xd69f0fff, "eretab"),
    ("DRPS", 0xd6bf03e0, "drps"),
    ("SVC", 0xd4000001, "svc #0"),
    ("HVC", 0xd4000022, "hvc #1"),
    ("SMC", 0xd4000003, "smc #0"),
    ("BRK", 0xd4210000, "brk #0x800"),
    ("HLT", 0xd45e0000, "hlt #0xf000"),
    ("DCPS2", 0xd4a00002, "dcps2"),
    ("UDF", 0x00000007, "udf #7"),
    ("YIELD", 0xd503203f, "yield"),
    ("WFE", 0xd503205f, "wfe"),
    ("WFI", 0xd503207f, "wfi"),
    ("SEV", 0xd503209f, "sev"),
    ("DGH", 0xd50320df, "dgh"),
    ("XPACLRI", 0xd50320ff, "xpaclri"),
    ("PAC1716", 0xd503215f, "pacib1716"),
    ("AUT1716", 0xd503219f, "autia1716"),
    ("ESB", 0xd503221f, "esb"),
    ("PSB", 0xd503223f, "psb csync"),
    ("CSDB", 0xd503229f, "csdb"),
    ("PACZ", 0xd503231f, "paciaz"),
    ("PACSP", 0xd503233f, "paciasp"),
    ("AUTZ", 0xd50323df, "autibz"),
    ("AUTSP", 0xd50323bf, "autiasp"),
    ("BTI", 0xd503245f, "bti c"),
    ("NOP", 0xd503201f, "nop"),
    ("NOP", 0xd5032a1f, "hint #0x50"),
    ("WFET", 0xd5031003, "wfet x3"),
    ("WFIT", 0xd5031024, "wfit x4"),
    ("CLREX", 0xd5033f5f, "clrex"),
    ("DSB", 0xd5033b9f, "dsb ish"),
    ("DSB_nXS", 0xd5033e3f, "dsb synxs"),
    ("DMB", 0xd50339bf, "dmb ishld"),
    ("ISB", 0xd5033fdf, "isb"),
    ("SB", 0xd50330ff, "sb"),
    ("CFINV", 0xd500401f, "cfinv"),
    ("XAFLAG", 0xd500403f, "xaflag"),
    ("AXFLAG", 0xd500405f, "axflag"),
    ("MSR_UAO", 0xd500417f, "msr uao, #1"),
    ("MSR_PAN", 0xd500409f, "msr pan, #0"),
    ("MSR_SPSel", 0xd50041bf, "msr spsel, #1"),
    ("MSR_SSBS", 0xd503413f, "msr ssbs, #1"),
    ("MSR_DIT", 0xd503415f, "msr dit, #1"),
    ("MSR_TCO", 0xd503419f, "msr tco, #1"),
    ("MSR_DAIFSet", 0xd5034fdf, "msr daifset, #15"),
    ("MSR_DAIFClr", 0xd50342ff, "msr daifclr, #2"),
    ("SYS", 0xd50b7423, "dc zva, x3"),
    ("SYS", 0xd508831f, "tlbi vmalle1is"),
    ("SYSL", 0xd52b7421, "sysl x1, #3, c7, c4, #1"),
    ("MSR", 0xd51bd042, "msr tpidr_el0, x2"),
    ("MRS", 0xd5381003, "mrs x3, sctlr_el1"),
    ("RMIF", 0xba01842f, "rmif x1, #3, #15"),
    ("SETF8", 0x3a00084d, "setf8 w2"),
    ("SETF16", 0x3a00486d, "setf16 w3"),
    ("UDIV", 0x9ac30841, "udiv x1, x2, x3"),
    ("SDIV", 0x1ac30c41, "sdiv w1, w2, w3"),
    ("LSLV", 0x9ac32041, "lsl x1, x2, x3"),
    ("RORV", 0x1ac32c41, "ror w1, w2, w3"),
    ("PACGA", 0x9ac33041, "pacga x1, x2, x3"),
    ("CRC32", 0x9ac34c41, "crc32x w1, w2, x3"),
    ("CRC32C", 0x1ac35041, "crc32cb w1, w2, w3"),
    ("RBIT", 0xdac00041, "rbit x1, x2"),
    ("REV16", 0x5ac00441, "rev16 w1, w2"),
    ("REV32", 0x5ac00841, "rev w1, w2"),
    ("REV64", 0xdac00c41, "rev x1, x2"),
    ("CLZ", 0xdac01041, "clz x1, x2"),
    ("CLS", 0x5ac01441, "cls w1, w2"),
    ("PACIA", 0xdac103e1, "pacia x1, sp"),
    ("PACDB", 0xdac12fe3, "pacdzb x3"),
    ("AUTIB", 0xdac11441, "autib x1, x2"),
    ("XPACI", 0xdac143e3, "xpaci x3"),
    ("MADD", 0x9b037c41, "mul x1, x2, x3"),
    ("MSUB", 0x1b039041, "msub w1, w2, w3, w4"),
    ("SMADDL", 0x9b237c41, "smull x1, w2, w3"),
    ("UMSUBL", 0x9ba39041, "umsubl x1, w2, w3, x4"),
    ("SMULH", 0x9b437c41, "smulh x1, x2, x3"),
    ("UMULH", 0x9bc37c41, "umulh x1, x2, x3"),
    ("AND_r", 0x8a431041, "and x1, x2, x3, lsr #4"),
    ("BIC_r", 0x0a230041, "bic w1, w2, w3"),
    ("ORR_r", 0xaa0203e1, "mov x1, x2"),
    ("ORN_r", 0x2a2203e1, "mvn w1, w2"),
    ("EON_r", 0xcae3f041, "eon x1, x2, x3, ror #60"),
    ("ANDS_r", 0xea02003f, "tst x1, x2"),
    ("ADD_r", 0x8b030041, "add x1, x2, x3"),
    ("SUBS_r", 0x6b820c3f, "cmp w1, w2, asr #3"),
    ("SUB_r", 0xcb0203e1, "neg x1, x2"),
    ("ADD_x", 0x8b23485f, "add sp, x2, w3, uxtw #2"),
    ("SUBS_x", 0xeb2363ff, "cmp sp, x3"),
    ("ADC", 0x9a030041, "adc x1, x2, x3"),
    ("SBCS", 0x7a0203e1, "ngcs w1, w2"),
    ("CCMP_i", 0xfa431824, "ccmp x1, #3, #4, ne"),
    ("CCMN_r", 0x3a42b020, "ccmn w1, w2, #0, lt"),
    ("CSEL", 0x9a830041, "csel x1, x2, x3, eq"),
    ("CSINC", 0x1a9f97e1, "cset w1, hi"),
    ("CSINV", 0xda9f03e1, "csetm x1, ne"),
    ("CSNEG", 0xda82a441, "cneg x1, x2, lt"),
    ("STXR", 0xc8017c62, "stxr w1, x2, [x3]"),
    ("STXR", 0x0801fc62, "stlxrb w1, w2, [x3]"),
    ("LDXR", 0x885fffe2, "ldaxr w2, [sp]"),
    ("LDXP", 0xc87f0861, "ldxp x1, x2, [x3]"),
    ("STXP", 0x88218c82, "stlxp w1, w2, w3, [x4]"),
    ("STLR", 0x489ffc41, "stlrh w1, [x2]"),
    ("STLR", 0xc89f7c41, "stllr x1, [x2]"),
    ("LDAR", 0xc8dffc41, "ldar x1, [x2]"),
    ("CAS", 0xc8e1fc62, "casal x1, x2, [x3]"),
    ("CASP", 0x08627cc4, "caspa w2, w3, w4, w5, [x6]"),
    ("LDADD", 0xf8e10062, "ldaddal x1, x2, [x3]"),
    ("LDCLR", 0x3861107f, "stclrlb w1, [x3]"),
    ("LDUMIN", 0xb8217062, "ldumin w1, w2, [x3]"),
    ("SWP", 0x78a18062, "swpah w1, w2, [x3]"),
    ("LDAPR", 0xf8bfc041, "ldapr x1, [x2]"),
    ("STR_i", 0xf81f0fe1, "str x1, [sp, #-16]!"),
    ("STR_i", 0x381fd041, "sturb w1, [x2, #-3]"),
    ("STR_i", 0xf8008841, "sttr x1, [x2, #8]"),
    ("LDR_i", 0xf8408441, "ldr x1, [x2], #8"),
    ("LDR_i", 0x795ffc41, "ldrh w1, [x2, #4094]"),
    ("LDRS_i", 0xb9800441, "ldrsw x1, [x2, #4]"),
    ("LDRS_i", 0x38dff041, "ldursb w1, [x2, #-1]"),
    ("STR_r", 0xb823d841, "str w1, [x2, w3, sxtw #2]"),
    ("LDR_r", 0xf8637841, "ldr x1, [x2, x3, lsl #3]"),
    ("LDRS_r", 0x78a36841, "ldrsh x1, [x2, x3]"),
    ("PRFM", 0xf9800420, "prfm pldl1keep, [x1, #8]"),
    ("PRFM", 0xf89fd020, "prfum pldl1keep, [x1, #-3]"),
    ("PRFM", 0xf8a26831, "prfm pstl1strm, [x1, x2]"),
    ("LDR_lit", 0x98000081, "ldrsw x1, .+16"),
    ("LDR_lit_v", 0x9c000101, "ldr q1, .+32"),
    ("STP", 0xa9be7bfd, "stp x29, x30, [sp, #-32]!"),
    ("STP", 0x28000861, "stnp w1, w2, [x3]"),
    ("LDP", 0x68c10861, "ldpsw x1, x2, [x3], #8"),
    ("STP_v", 0xad0127e8, "stp q8, q9, [sp, #32]"),
    ("LDP_v", 0x6cc127e8, "ldp d8, d9, [sp], #16"),
    ("LDRA", 0xf8fffc41, "ldrab x1, [x2, #-8]!"),
    ("STLUR", 0xd9100041, "stlur x1, [x2, #-256]"),
    ("LDAPUR", 0x19c01041, "ldapursb w1, [x2, #1]"),
    ("STR_v", 0x3d000441, "str b1, [x2, #1]"),
    ("STR_v", 0x3c9f0041, "stur q1, [x2, #-16]"),
    ("LDR_v", 0x7c402441, "ldr h1, [x2], #2"),
    ("LDR_v", 0x3dc3fc41, "ldr q1, [x2, #4080]"),
    ("LDR_r_v", 0x3ce37841, "ldr q1, [x2, x3, lsl #4]"),
    ("STR_r_v", 0xbc234841, "str s1, [x2, w3, uxtw]"),
    ("LD_mult", 0x4cdf2020, "ld1 {v0.16b-v3.16b}, [x1], #64"),
    ("LD_mult", 0x4c404820, "ld3 {v0.4s-v2.4s}, [x1]"),
    ("ST_mult", 0x4c820c20, "st4 {v0.2d-v3.2d}, [x1], x2"),
    ("ST_mult", 0x0c007c20, "st1 {v0.1d}, [x1]"),
    ("LD_one", 0x4d400420, "ld1 {v0.b}[9], [x1]"),
    ("LD_one", 0x4de26820, "ld4 {v0.h-v3.h}[5], [x1], x2"),
    ("ST_one", 0x4dbf9021, "st2 {v1.s,v2.s}[3], [x1], #8"),
    ("ST_one", 0x4d00a421, "st3 {v1.d-v3.d}[1], [x1]"),
    ("LD_rep", 0x4d40c041, "ld1r {v1.16b}, [x2]"),
    ("LD_rep", 0x4ddfec41, "ld3r {v1.2d-v3.2d}, [x2], #24"),
];

fn decode(insn: u32) -> Option<Namer> {
    let mut namer = Namer { accept: true, ..Namer::default() };
    base::decode(insn, &mut namer).then_some(namer)
}

#[test]
fn known_words() {
    for (name, word, text) in KNOWN {
        assert_eq!(base::name_of(*word), Some(*name), "{word:#010x} {text}");
        assert_eq!(decode(*word).map(|n| n.name), Some(*name), "{word:#010x} {text}");
    }
}

#[test]
fn arguments() {
    let show = |w| base::print(w).unwrap_or_default();
    assert_eq!(show(0xa9be_7bfd), "STP sz=3 sext=0 rt2=30 rn=31 rt=29 imm=-32 mode=3");
    assert_eq!(show(0x1000_0041), "ADR imm=8 rd=1");
    assert_eq!(show(0x17ff_ffff), "B imm=-4");
    assert_eq!(show(0xd503_201f), "NOP");
}

fn rng() -> impl FnMut() -> u64 {
    let mut s = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s
    }
}

/// The tree and the list agree, on any word, also when every method refuses.
#[test]
fn random_words() {
    let mut next = rng();
    let mut refuse = Namer::default();
    for _ in 0..1 << 20 {
        let word = (next() >> 16) as u32;
        let printed = base::print(word);
        let found = decode(word);
        assert_eq!(found.as_ref().map(|n| n.name), base::name_of(word), "{word:#010x}");
        assert_eq!(found.map(|n| format!("{}{}", n.name, n.args)), printed, "{word:#010x}");
        assert!(!base::decode(word, &mut refuse));
    }
}

#[test]
fn random_instructions_match_their_pattern() {
    let mut next = rng();
    for (i, p) in base::PATTERNS.iter().enumerate() {
        for _ in 0..16 {
            let word = base::random(&mut next, i);
            assert_eq!(word & p.mask, p.value);
            assert!(base::name_of(word).is_some());
        }
    }
}

#[test]
fn words_outside_the_table() {
    // ADDG (memory tagging), SETP (MOPS), FADD, LD64B, LDRSW with size 3, CASP with rt2 != 31.
    for word in [0x9180_0000, 0x19c1_0440, 0x1e61_2800, 0xf83f_d000, 0xf9c0_0000u32, 0x0820_7800] {
        assert_eq!(base::name_of(word), None, "{word:#010x}");
        assert!(decode(word).is_none());
    }
}
