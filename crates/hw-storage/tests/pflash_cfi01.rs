//! The flash bank of `virt` on the bench. Expected values are what QEMU 10.0 answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Size, Storage, StorageSource};
use hw_storage::pflash_cfi01::CLASS;
use parking_lot::Mutex;
use testbench::Bench;

/// Four sectors of 4 KiB, two 16-bit chips.
const SHAPE: &str =
    "name=f,width=4,device-width=2,sector-length=4096,num-blocks=4,id0=0x89,id1=0x18";
const LEN: usize = 4 * 4096;

fn bare() -> Bench {
    Bench::of(&CLASS, SHAPE)
}

#[derive(Default)]
struct Disk {
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
    broken: AtomicBool,
}

impl Storage for Disk {
    fn len(&self) -> u64 {
        self.bytes.lock().len() as u64
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        into.copy_from_slice(&self.bytes.lock()[at..at + into.len()]);
        Ok(())
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        let at = usize::try_from(at).unwrap();
        self.bytes.lock()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

struct Source(Arc<Disk>);
impl StorageSource for Source {
    fn storage(&self, _: &str, _: bool) -> qapi::Result<Arc<dyn Storage>> {
        Ok(self.0.clone())
    }
}

fn with_disk(read_only: bool) -> (Bench, Arc<Disk>) {
    let bytes = Mutex::new((0..LEN).map(|i| u8::try_from(i & 0xff).unwrap()).collect());
    let disk = Arc::new(Disk { bytes, read_only, broken: AtomicBool::default() });
    let source: Arc<dyn StorageSource> = Arc::new(Source(disk.clone()));
    let services = device::Services::default();
    services.add(source);
    let b = Bench::with_services(&CLASS, &format!("{SHAPE},drive=d"), services).unwrap();
    (b, disk)
}

#[test]
fn query_and_identification_are_the_peers() {
    let b = bare();
    assert_eq!(b.read32(0), 0);
    b.write32(0x55 * 4, 0x0098_0098);
    let text: Vec<u32> = (0x10..0x13).map(|i| b.read32(4 * i)).collect();
    assert_eq!(text, [0x0051_0051, 0x0052_0052, 0x0059_0059]);
    assert_eq!(b.read8(0x40), 0x51);
    assert_eq!(b.read16(0x42), 0x51);
    assert_eq!(b.read64(0x40), 0x0052_0052_0051_0051);
    b.write32(0, 0x0090_0090);
    assert_eq!([b.read32(0), b.read32(4), b.read32(8)], [0x0089_0089, 0x0018_0018, 0]);
    b.write32(0, 0x00ff_00ff);
    assert_eq!(b.read32(0), 0);
}

#[test]
fn words_are_programmed_and_sectors_erased() {
    let b = bare();
    b.write32(0x100, 0x0040_0040);
    assert_eq!(b.read32(0), 0x0080_0080, "status");
    b.write32(0x100, 0x1234_5678);
    assert_eq!(b.read32(0x100), 0x0080_0080);
    b.write32(0, 0x00ff_00ff);
    assert_eq!(b.read32(0x100), 0x1234_5678);
    // Bytes are replaced, not only cleared.
    b.write32(0x100, 0x0010_0010);
    b.write32(0x100, 0xffff_0000);
    b.write32(0, 0x00ff_00ff);
    assert_eq!(b.read32(0x100), 0xffff_0000);
    b.write32(0x1010, 0x0020_0020);
    b.write32(0x1010, 0x00d0_00d0);
    assert_eq!(b.read32(0), 0x0080_0080);
    b.write32(0, 0x00ff_00ff);
    assert_eq!([b.read32(0xffc), b.read32(0x1000), b.read32(0x1ffc)], [0, u32::MAX, u32::MAX]);
    assert_eq!(b.read32(0x2000), 0);
    // Another second cycle ends an erase.
    b.write32(0x100, 0x0020_0020);
    b.write32(0x100, 0x00ff_00ff);
    assert_eq!(b.read32(0x100), 0xffff_0000);
}

#[test]
fn buffers_are_programmed_at_the_confirmation() {
    let b = bare();
    b.write32(0x200, 0x00e8_00e8);
    assert_eq!(b.read32(0x200), 0x0080_0080);
    b.write32(0x200, 0x0001_0001);
    b.write32(0x200, 0x1111_1111);
    b.write32(0x204, 0x2222_2222);
    b.write32(0x200, 0x00d0_00d0);
    b.write32(0, 0x00ff_00ff);
    assert_eq!([b.read32(0x200), b.read32(0x204), b.read32(0x208)], [0x1111_1111, 0x2222_2222, 0]);
    // Not confirmed: nothing happens.
    for value in [0x00e8_00e8, 0, 0x55aa_55aa, 0x00ff_00ff] {
        b.write32(0x300, value);
    }
    assert_eq!(b.read32(0x300), 0);
    // More than the buffer has: an error, and the next write is a command again.
    b.write32(0x300, 0x00e8_00e8);
    b.write32(0x300, u32::MAX);
    assert_eq!(b.read32(0x300), 0x0090_0090);
    b.write32(0x300, 0x0050_0050);
    assert_eq!(b.read32(0x300), 0);
}

#[test]
fn what_is_ready_is_in_the_storage() {
    let (b, disk) = with_disk(false);
    assert_eq!(b.read32(0x100), 0x0302_0100);
    b.write32(0x100, 0x0040_0040);
    b.write32(0x100, 0xddcc_bbaa);
    assert_eq!(disk.bytes.lock()[0x100..0x104], [0xaa, 0xbb, 0xcc, 0xdd]);
    b.write32(0x1000, 0x0020_0020);
    b.write32(0x1000, 0x00d0_00d0);
    assert!(disk.bytes.lock()[0x1000..0x2000].iter().all(|v| *v == 0xff));
}

#[test]
fn failing_storage_is_an_error_in_the_status() {
    let (b, disk) = with_disk(false);
    disk.broken.store(true, Ordering::Relaxed);
    b.write32(0x100, 0x0040_0040);
    b.write32(0x100, 0xddcc_bbaa);
    assert_eq!(b.read32(0), 0x0090_0090, "program error");
    b.write32(0x1000, 0x0020_0020);
    b.write32(0x1000, 0x00d0_00d0);
    assert_eq!(b.read32(0), 0x00b0_00b0, "and erase error");
    b.write32(0, 0x0050_0050);
    assert_eq!([b.read32(0x100), b.read32(0x1000)], [0x0302_0100, 0x0302_0100]);
    let (b, _) = with_disk(true);
    b.write32(0x100, 0x0040_0040);
    b.write32(0x100, 0);
    assert_eq!(b.read32(0), 0x0090_0090);
}

#[test]
fn secure_banks_ignore_others_writes() {
    let mut b = Bench::of(&CLASS, &format!("{SHAPE},secure=on"));
    b.write32(0, 0x0098_0098);
    assert_eq!(b.read32(0x40), 0);
    b.set_attrs(device::TxAttrs { secure: true, ..device::TxAttrs::default() });
    b.write32(0, 0x0098_0098);
    assert_eq!(b.read32(0x40), 0x0051_0051);
}

#[test]
fn impossible_shapes_and_storages_are_named() {
    let fails =
        |props: &str| Bench::try_of(&CLASS, props).err().map(|e| e.desc).unwrap_or_default();
    assert!(fails("name=f,width=3").contains("width"));
    assert!(fails("name=f,sector-length=100,num-blocks=3,width=4").contains("whole pages"));
    assert!(fails("name=f,sector-length=1073741824,num-blocks=4000,width=4").contains("1 GiB"));
    assert!(fails(&format!("{SHAPE},drive=none")).contains("none"));
    let disk = Arc::new(Disk { bytes: Mutex::new(vec![0; 512]), ..Disk::default() });
    let source: Arc<dyn StorageSource> = Arc::new(Source(disk));
    let services = device::Services::default();
    services.add(source);
    let e = Bench::with_services(&CLASS, &format!("{SHAPE},drive=d"), services).err().unwrap();
    assert_eq!(
        e.desc,
        "cfi.pflash01 device '/machine/f' requires 16384 bytes, d block backend provides 512 bytes"
    );
}

#[test]
fn reading_the_array_is_reading_memory() {
    let b = bare();
    assert!(b.world().memory.ram_at(0).is_some_and(|ram| ram.readonly));
    b.write32(0, 0x0070_0070);
    assert!(b.world().memory.ram_at(0).is_none());
    b.reset();
    assert!(b.world().memory.ram_at(0).is_some());
    assert!(b.try_read(0x4002, Size::B4).is_err());
}
