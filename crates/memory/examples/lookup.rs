//! How long a device access through an address space takes when several threads make them at once:
//! nanoseconds per read for 1, 2, 4 and 8 threads, each on its own device, with one more thread that
//! changes the map now and then. `cargo xtask bench lookup` runs it.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time with threads of its own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memory::{Access, AccessRules, AddressSpace, BusFault, Mmio, Region, Size, TxAttrs};

struct Echo;
impl Mmio for Echo {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        Ok(at.offset)
    }
    fn write(&self, _: Access, _: u64) -> Result<(), BusFault> {
        Ok(())
    }
}

fn main() {
    let root = Region::root("system");
    let devices: Vec<Arc<Echo>> = (0..64).map(|_| Arc::new(Echo)).collect();
    for (n, device) in (0u64..).zip(&devices) {
        root.map(n << 16, &Region::mmio("device", 0x1000, AccessRules::ANY, device), 0);
    }
    let space = AddressSpace::new("memory", &root);
    for threads in [1u64, 2, 4, 8] {
        let stop = AtomicBool::new(false);
        let total = AtomicU64::new(0);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for n in 0..threads {
                let (space, stop, total) = (&space, &stop, &total);
                scope.spawn(move || {
                    let mut view = space.cached();
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        for _ in 0..1000 {
                            let at = n << 16 | 8;
                            let read = view.get().read(at, Size::B4, TxAttrs::default());
                            assert_eq!(read.ok(), Some(8));
                        }
                        count += 1000;
                    }
                    total.fetch_add(count, Ordering::Relaxed);
                });
            }
            let extra = Region::mmio("extra", 0x1000, AccessRules::ANY, &devices[0]);
            while began.elapsed() < Duration::from_millis(800) {
                root.map(1 << 32, &extra, 0);
                root.unmap(&extra);
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let reads = total.load(Ordering::Relaxed).max(1);
        let cpus = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(usize::try_from(threads).unwrap_or(1));
        let ns = began.elapsed().as_nanos() as f64 * cpus as f64 / reads as f64;
        println!("{threads} threads on {cpus} host CPUs: {ns:.1} ns of a CPU per read");
    }
}
