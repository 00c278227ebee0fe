//! Properties that every built block has.

use jit_ir::opt::Passes;
use jit_ir::random::{Rng, Shape, block};
use jit_ir::toy::{HELPERS, LAYOUT};
use jit_ir::{Builder, text, verify};

#[test]
fn random_blocks_verify_and_survive_the_text_form() {
    for seed in 0..500 {
        let mut b = Builder::new(&LAYOUT, HELPERS, Passes::all());
        let shape =
            Shape { ops: 120, memory: Some((0x1000, 0xfff)), mmu: 0, helpers: vec![0, 1, 2, 3] };
        block(&mut b, &mut Rng::new(seed), &shape);
        verify::verify(b.block(), &LAYOUT, HELPERS).unwrap();
        let text = text::print(b.block());
        let again = text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(again == *b.block(), "seed {seed}: text form changed the block");
    }
}

#[test]
fn an_op_takes_sixteen_bytes() {
    assert_eq!(size_of::<jit_ir::Op>(), 16);
}
