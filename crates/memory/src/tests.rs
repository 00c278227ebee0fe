//! Tests over the whole crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use guest_ram::{RamBlock, RamOptions};
use parking_lot::Mutex;

use crate::*;

#[derive(Default)]
struct Probe {
    log: Mutex<Vec<(u64, u64, Option<u64>)>>,
    space: Mutex<Option<AddressSpace>>,
}

impl Mmio for Probe {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        self.log.lock().push((at.offset, at.size.bytes(), None));
        let space = self.space.lock().clone();
        if let Some(space) = space {
            return space.read_uint(0x1000, Size::B4, at.attrs);
        }
        Ok(0x0807_0605_0403_0201)
    }
    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        self.log.lock().push((at.offset, at.size.bytes(), Some(value)));
        Ok(())
    }
}

fn ram(name: &str, len: u64) -> Region {
    Region::ram(name, RamBlock::new(name, len, RamOptions::default()).unwrap())
}

fn attrs() -> TxAttrs {
    TxAttrs::default()
}

fn probe_space(rules: AccessRules) -> (AddressSpace, Arc<Probe>) {
    let root = Region::root("system");
    let probe = Arc::new(Probe::default());
    root.map(0x1000, &Region::mmio("probe", 0x100, rules, &probe), 0);
    (AddressSpace::new("memory", &root), probe)
}

#[test]
fn narrow_access_picks_the_lane_of_the_register() {
    let (s, p) = probe_space(AccessRules::WORD32);
    assert_eq!(s.read_uint(0x1002, Size::B1, attrs()), Ok(3));
    assert_eq!(s.read_uint(0x1002, Size::B2, attrs()), Ok(0x0403));
    s.write_uint(0x1001, Size::B1, 0x1ab, attrs()).unwrap();
    assert_eq!(*p.log.lock(), [(0, 4, None), (0, 4, None), (0, 4, Some(0xab00))]);
}

#[test]
fn wide_access_is_split_and_swapped() {
    let rules = AccessRules {
        valid: (Size::B1, Size::B8),
        handled: (Size::B1, Size::B2),
        unaligned: false,
        big_endian: true,
    };
    let (s, p) = probe_space(rules);
    assert_eq!(s.read_uint(0x1000, Size::B4, attrs()), Ok(0x0102_0102));
    s.write_uint(0x1000, Size::B4, 0x1122_3344, attrs()).unwrap();
    assert_eq!(p.log.lock()[2..], [(0, 2, Some(0x4433)), (2, 2, Some(0x2211))]);
}

#[test]
fn wrong_size_alignment_and_holes_fault() {
    let (s, p) = probe_space(AccessRules::WORD32);
    assert_eq!(s.read_uint(0x1000, Size::B8, attrs()), Err(BusFault::Decode));
    assert_eq!(s.read_uint(0x1002, Size::B4, attrs()), Err(BusFault::Decode));
    assert_eq!(s.read_uint(0x2000, Size::B4, attrs()), Err(BusFault::Decode));
    assert_eq!(s.read_uint(u64::MAX, Size::B4, attrs()), Err(BusFault::Decode));
    assert!(p.log.lock().is_empty());
    assert_eq!(s.view().lookup(0x1000).unwrap().region.counters().totals(), (2, 0, 2));
}

#[test]
fn reentry_on_one_thread_is_refused() {
    let (s, p) = probe_space(AccessRules::WORD32);
    *p.space.lock() = Some(s.clone());
    assert_eq!(s.read_uint(0x1000, Size::B4, attrs()), Err(BusFault::Reentrant));
    *p.space.lock() = None;
    assert!(s.read_uint(0x1000, Size::B4, attrs()).is_ok());
}

#[test]
fn dead_device_faults() {
    let (s, p) = probe_space(AccessRules::WORD32);
    drop(p);
    assert_eq!(s.read_uint(0x1000, Size::B4, attrs()), Err(BusFault::Decode));
}

#[test]
fn priorities_cut_holes_and_later_wins_among_equals() {
    let root = Region::root("system");
    let low = ram("low", 0x4000);
    let high = ram("high", 0x1000);
    let peer = ram("peer", 0x2000);
    root.map(0x1000, &high, 1);
    root.map(0, &low, 0);
    root.map(0x3000, &peer, 0);
    let s = AddressSpace::new("memory", &root);
    let shape: Vec<_> = s
        .view()
        .ranges()
        .iter()
        .map(|r| (r.start, r.last, r.region.name().to_owned(), r.offset))
        .collect();
    assert_eq!(
        shape,
        [
            (0, 0xfff, "low".into(), 0),
            (0x1000, 0x1fff, "high".into(), 0),
            (0x2000, 0x2fff, "low".into(), 0x2000),
            (0x3000, 0x4fff, "peer".into(), 0),
        ]
    );
    high.set_enabled(false);
    assert_eq!(s.view().lookup(0x1800).unwrap().region.name(), "low");
}

#[test]
fn alias_shows_a_window_and_follows_changes() {
    let root = Region::root("system");
    let inner = Region::container("inner", 0x10_0000);
    let (a, b) = (ram("a", 0x1000), ram("b", 0x1000));
    inner.map(0x1000, &a, 0);
    root.map(0x8000, &Region::alias("window", &inner, 0x1800, 0x1000), 0);
    let s = AddressSpace::new("memory", &root);
    let mut cached = s.cached();
    let r = s.view().lookup(0x8000).cloned().unwrap();
    assert_eq!((r.start, r.last, r.offset), (0x8000, 0x87ff, 0x800));
    assert!(!cached.is_stale());
    inner.map(0x2000, &b, 0);
    assert!(cached.is_stale());
    assert_eq!(cached.get().lookup(0x8800).unwrap().region.name(), "b");
    inner.unmap(&a);
    assert!(s.view().lookup(0x8000).is_none());
    inner.move_child(&b, 0x1800);
    assert_eq!(s.view().lookup(0x8000).unwrap().region.name(), "b");
}

#[test]
fn rom_ignores_writes_but_can_be_loaded() {
    let root = Region::root("system");
    let block = RamBlock::new("rom", 0x1000, RamOptions::default()).unwrap();
    root.map(0, &Region::rom("rom", block), 0);
    let s = AddressSpace::new("memory", &root);
    s.load_rom(0, b"abcd").unwrap();
    s.write(0, b"xxxx", attrs()).unwrap();
    s.write_uint(0, Size::B4, 0, attrs()).unwrap();
    assert_eq!(s.read_uint(0, Size::B4, attrs()), Ok(u64::from(u32::from_le_bytes(*b"abcd"))));
    assert!(s.ram_at(0).unwrap().readonly);
}

#[test]
fn bytes_cross_ranges_and_values_do_too() {
    let root = Region::root("system");
    root.map(0, &ram("a", 0x1000), 0);
    root.map(0x1000, &ram("b", 0x1000), 0);
    let s = AddressSpace::new("memory", &root);
    s.write(0xffe, &[1, 2, 3, 4], attrs()).unwrap();
    assert_eq!(s.read_uint(0xffe, Size::B4, attrs()), Ok(0x0403_0201));
    assert_eq!(s.read_uint(0x1000, Size::B2, attrs()), Ok(0x0403));
    let ram = s.ram_at(0xffe).unwrap();
    assert_eq!((ram.len, ram.pa_base, ram.offset), (2, 0, 0xffe));
    assert!(s.write(0x1ffe, &[0; 4], attrs()).is_err());
}

#[test]
fn dma_needs_bus_mastering() {
    let root = Region::root("system");
    root.map(0, &ram("a", 0x1000), 0);
    let on = Arc::new(AtomicBool::new(false));
    let dma = Dma::new(AddressSpace::new("memory", &root), attrs(), on.clone());
    assert_eq!(dma.write(0, 7u32), Err(DmaFault(0)));
    on.store(true, Ordering::SeqCst);
    dma.write(4, 0x1122_3344u32).unwrap();
    assert_eq!(dma.read::<u16>(4), Ok(0x3344));
    assert_eq!(dma.read::<u64>(0x1000), Err(DmaFault(0x1000)));
}

#[derive(Default)]
struct Watcher(AtomicUsize, AtomicUsize);

impl Listener for Watcher {
    fn changed(&self, _: &Arc<FlatView>, added: &[FlatRange], removed: &[FlatRange]) {
        self.0.fetch_add(added.len(), Ordering::SeqCst);
        self.1.fetch_add(removed.len(), Ordering::SeqCst);
    }
}

#[test]
fn listener_hears_what_changed() {
    let root = Region::root("system");
    let s = AddressSpace::new("memory", &root);
    let w = Arc::new(Watcher::default());
    let dynamic: Arc<dyn Listener> = w.clone();
    s.listen(&dynamic);
    let r = ram("a", 0x1000);
    root.map(0, &r, 0);
    root.unmap(&r);
    assert_eq!((w.0.load(Ordering::SeqCst), w.1.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn mtree_has_the_known_form() {
    let root = Region::root("system");
    let window = Region::container("window", 0x10000);
    root.map(0x4000_0000, &ram("mach-virt.ram", 0x1000_0000), 0);
    root.map(0x1000, &Region::alias("low", &window, 0, 0x1000), 0);
    let s = AddressSpace::new("memory", &root);
    let c = AddressSpace::new("cpu-memory-0", &root);
    assert_eq!(
        mtree(&[s.clone(), c.clone()]),
        "address-space: cpu-memory-0\naddress-space: memory\n  \
         0000000000000000-ffffffffffffffff (prio 0, i/o): system\n    \
         0000000000001000-0000000000001fff (prio 0, i/o): alias low @window 0000000000000000-0000000000000fff\n    \
         0000000040000000-000000004fffffff (prio 0, ram): mach-virt.ram\n\n\
         memory-region: window\n  0000000000000000-000000000000ffff (prio 0, i/o): window\n\n"
    );
    assert_eq!(
        mtree_flat(&[s, c]),
        "FlatView #0\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n Root memory region: system\n  \
         0000000040000000-000000004fffffff (prio 0, ram): mach-virt.ram\n\n"
    );
}
