//! Tests of the table language: good input, every kind of broken input, overlaps.
//!
//! Generated code is compiled and run by `cpu-arm`'s tests; here only its text is looked at.
//! Error tests give the table and a part of the message that must appear with its line.
//! Source: the language as `lib.rs` describes it.

use crate::{Error, generate};

fn errors(text: &str) -> Vec<Error> {
    generate(text).expect_err("must fail")
}

#[track_caller]
fn fails(text: &str, line: usize, part: &str) {
    let found = errors(text);
    assert!(found.iter().any(|e| e.line == line && e.message.contains(part)), "{found:?}");
}

const BITS30: &str = "000000000000000000000000000000";

#[test]
fn fields_of_every_kind() {
    let code = generate(
        "%off 5:s19 29:2 !function=times4\n%n 10:2 !function=plus1\n&ri rd imm:s k:s\n\
         @f 0 .. ----- ................... rd:5 &ri imm=%off\nA . .. ..... ................... ..... @f k=-3 # c\n\
         B 1 .. ----- ................... rd:5 &ri imm=%off \\\n  k=1\n",
    )
    .expect("good table");
    assert!(
        code.contains(
            "imm: (((((insn << 8) as i32 >> 13) as i64) << 2) | (i64::from(insn >> 29 & 0x3))) << 2"
        ),
        "{code}"
    );
    assert!(code.contains("k: -3"));
    assert!(code.contains("fn trans_a(&mut self, a: &ArgRi) -> bool;"));
    assert!(code.contains("pub imm: i64") && code.contains("pub rd: u32"));
}

#[test]
fn inferred_argument_sets() {
    let code = generate(&format!("A {BITS30} r:2\nB 1 {BITS30} 0\nC 01 q:s30\n")).expect("good");
    assert!(
        code.contains("pub struct ArgR {")
            && code.contains("pub struct ArgEmpty {")
            && code.contains("pub struct ArgQS {")
    );
}

#[test]
fn overlap_is_an_error_with_both_lines() {
    let text = "A 0 x:31\n\nB 00 x:30\n";
    let found = errors(text);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].line, 3);
    assert!(found[0].message.contains("`B` (line 3)") && found[0].message.contains("`A` (line 1)"));
}

#[test]
fn overlap_groups() {
    assert!(generate("{\nB 00 x:30\nA 0 x:31\n}\nC 1 x:31\n").is_ok());
    fails("{\nB 00 x:30\nA 0 x:31\n}\nC 01 x:30\n", 5, "`A` (line 3)");
    fails("{\nA 0 x:31\n[\nB 00 x:30\nC 001 x:29\n]\n}\n", 5, "overlaps");
    assert!(generate("{\n[\nB 00 x:30\nC 01 x:30\n]\nA 0 x:31\n}\n").is_ok());
}

#[test]
fn order_in_an_overlap_group() {
    let code = generate("{\nB 00 x:30\nA 0 x:31\n}\n").expect("good");
    let b = code.find("t.trans_b").expect("b");
    assert!(b < code.find("t.trans_a").expect("a"));
}

#[test]
fn broken_bits() {
    fails("A 0101\n", 1, "4 bits written, not 32");
    fails("A 0 x:32\n", 1, "more than 32");
    fails(&format!("A {BITS30} 0.\n"), 1, "bits 0x00000001");
    fails(&format!("A {BITS30} 0x\n"), 1, "not understood");
    fails("A x=1\n", 1, "has no bits");
}

#[test]
fn broken_fields() {
    fails("%f\n", 1, "no segment");
    fails("%f 5\n", 1, "position:length");
    fails("%f 30:3\n", 1, "past bit 31");
    fails("%f 0:1 1:s2\n", 1, "first segment");
    fails("%f 0:0\n", 1, "width");
    fails("%f 0:32 0:1\n", 1, "wider");
    fails("%f x:1\n", 1, "bit position");
    fails("%f 0:1 !function=frob\n", 1, "unknown function");
    fails("%f 0:1\n%f 0:1\n", 2, "twice");
    fails("%4 0:1\n", 1, "not a name");
}

#[test]
fn broken_references() {
    fails(&format!("A {BITS30} .. x=%nope\n"), 1, "unknown field");
    fails(&format!("A {BITS30} .. @nope\n"), 1, "unknown format");
    fails(&format!("A {BITS30} .. &nope\n"), 1, "unknown argument set");
    fails(&format!("&a x\nA {BITS30} y:2 &a\n"), 2, "not a member");
    fails(&format!("&a x y\nA {BITS30} y:2 &a\n"), 2, "gets no value");
    fails(&format!("&a x\nA {BITS30} x:1 x:1 &a\n"), 2, "given twice");
    fails(&format!("&a x\nA {BITS30} x:s2 &a\n"), 2, "marked `:s`");
    fails(&format!("&a x\n&b y\nA {BITS30} x:2 &a &b\n"), 3, "two argument sets");
    fails(&format!("&a x\n&a y\nA {BITS30} x:2 &a\n"), 2, "twice");
    fails(&format!("A {BITS30} x:2\nA 1 {BITS30} y:1\n"), 2, "another argument set");
    fails(&format!("@f 1 {BITS30} .\nA {BITS30} x:2 @f\n"), 2, "contradict");
    fails(&format!("A {BITS30} -- x=1y\n"), 1, "not a number");
}

#[test]
fn broken_groups() {
    fails("{\n", 1, "never closed");
    fails("}\n", 1, "no group");
    fails("{\nA 0 x:31\n]\n", 3, "other kind");
    fails("{\n}\n", 2, "empty");
    fails("{ A\n", 1, "alone");
    fails("{{\n", 1, "alone");
}

#[test]
fn odd_input_never_panics() {
    let bytes: Vec<char> = "01.-%&@{}[]=:s!#\\ \nAé9x".chars().collect();
    let mut seed = 1u64;
    for _ in 0..2000 {
        let mut text = String::new();
        for _ in 0..60 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push(bytes[(seed >> 33) as usize % bytes.len()]);
        }
        let _ = generate(&text);
    }
}
