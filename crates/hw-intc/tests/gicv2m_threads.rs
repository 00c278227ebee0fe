//! Messages from several threads to a GICv2m frame: each one makes an edge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use device::{Access, IrqSink, Mmio, Size, TxAttrs};
use hw_intc::gicv2m::{CLASS, Gicv2m};
use qapi::{Source, Value};
use testbench::Bench;

#[derive(Default)]
struct Edges(AtomicU32);

impl IrqSink for Edges {
    fn set(&self, _: u32, level: bool) {
        if level {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_message_is_lost_between_threads() {
    const EACH: u32 = 1_000_000;
    let bench = Bench::of(&CLASS, "base-spi=64,num-spi=1");
    let props = Value::map([("base-spi", Value::from(64u64)), ("num-spi", Value::from(1u64))]);
    // One whose line is not the bench's.
    let record = CLASS.build("frame", props, Source::Json, bench.world()).expect("a frame");
    let edges = Arc::new(Edges::default());
    record.irq_outs[0].1.connect(edges.clone(), 0);
    let frame = record.downcast::<Gicv2m>().expect("a frame");
    let send = || {
        let at = Access { offset: 0x40, size: Size::B4, attrs: TxAttrs::default() };
        for _ in 0..EACH {
            frame.write(at, 96).expect("it is taken");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(send);
        }
    });
    assert_eq!(edges.0.load(Ordering::Relaxed), 2 * EACH);
}
