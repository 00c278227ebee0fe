//! The firmware configuration device (fw_cfg), MMIO form with DMA.
//!
//! Gives firmware and kernels numbered items and named files. Source: the
//! interface's specification (QEMU manual, "fw_cfg device"). Not modelled: writes
//! through the data register (removed from the interface) and writable items:
//! DMA writes report an error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, Dma,
    FirmwareConfig, Migration, Mmio, Region, Reset, Size,
};
use parking_lot::Mutex;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<FwCfg>();

/// Properties of `fw_cfg_mem`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Offer the DMA interface
    #[qapi(name = "dma_enabled", default = "on")]
    pub dma_enabled: bool,
    /// Most named files
    #[qapi(name = "x-file-slots", default = "32")]
    pub file_slots: u16,
}

const SIGNATURE: u16 = 0x00;
const ID: u16 = 0x01;
const FILE_DIR: u16 = 0x19;
const FILE_FIRST: u16 = 0x20;
const NAME_LEN: usize = 56;

const ID_TRADITIONAL: u32 = 1;
const ID_DMA: u32 = 2;
/// What reading the DMA register shows: "QEMU CFG".
const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;

const CTL_ERROR: u32 = 1;
const CTL_READ: u32 = 2;
const CTL_SKIP: u32 = 4;
const CTL_SELECT: u32 = 8;
const CTL_WRITE: u32 = 16;

/// Bytes moved at a time.
const CHUNK: usize = 4096;

#[derive(Default, VmState)]
#[vmstate(name = "fw_cfg", version = 1)]
struct Regs {
    key: u16,
    offset: u32,
    dma_address: u64,
}

#[derive(Default)]
struct Items {
    items: BTreeMap<u16, Arc<[u8]>>,
    /// Names in order of their keys, sorted.
    files: BTreeMap<String, Arc<[u8]>>,
}

impl Items {
    /// The bytes of a key; files are numbered in the order of their names.
    fn get(&self, key: u16) -> Arc<[u8]> {
        // Bit 15: architecture-specific, bit 14: write; neither adds items here.
        match key {
            FILE_DIR => self.directory().into(),
            FILE_FIRST.. => {
                let nth = usize::from(key - FILE_FIRST);
                self.files.values().nth(nth).cloned().unwrap_or_default()
            }
            _ => self.items.get(&key).cloned().unwrap_or_default(),
        }
    }

    /// The name of a file by its key.
    fn name(&self, key: u16) -> Option<&str> {
        let nth = usize::from(key.checked_sub(FILE_FIRST)?);
        self.files.keys().nth(nth).map(String::as_str)
    }

    fn directory(&self) -> Vec<u8> {
        let count = u32::try_from(self.files.len()).unwrap_or(0);
        let mut out = count.to_be_bytes().to_vec();
        for (key, (name, data)) in (FILE_FIRST..).zip(&self.files) {
            out.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend(key.to_be_bytes());
            out.extend([0; 2]);
            let mut field = [0; NAME_LEN];
            field.iter_mut().zip(name.bytes()).for_each(|(f, b)| *f = b);
            out.extend(field);
        }
        out
    }
}

/// The device.
pub struct FwCfg {
    regs: Mutex<Regs>,
    items: Mutex<Items>,
    slots: usize,
    dma: Option<Dma>,
    late: OnceLock<Late>,
    /// The files of `late` were made since the last reset.
    made: AtomicBool,
}

/// Files that are made when they are read.
struct Late {
    names: &'static [&'static str],
    make: Arc<dyn Fn() + Send + Sync>,
}

impl FwCfg {
    fn select(&self, key: u16) {
        if let Some(late) = self.late.get() {
            let chosen = self.items.lock().name(key).is_some_and(|n| late.names.contains(&n));
            if chosen && !self.made.swap(true, Ordering::AcqRel) {
                (late.make)();
            }
        }
        let mut regs = self.regs.lock();
        regs.key = key;
        regs.offset = 0;
    }

    /// The selected item and the position in it.
    fn selected(&self) -> (Arc<[u8]>, u32) {
        let (key, offset) = {
            let regs = self.regs.lock();
            (regs.key, regs.offset)
        };
        (self.items.lock().get(key), offset)
    }

    /// The next bytes; zeroes behind the end.
    fn next(&self, out: &mut [u8]) {
        let (item, offset) = self.selected();
        let rest = item.get(offset as usize..).unwrap_or_default();
        out.fill(0);
        out.iter_mut().zip(rest).for_each(|(o, b)| *o = *b);
        let step = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let mut regs = self.regs.lock();
        regs.offset = offset.saturating_add(step);
    }

    /// Runs the transfer described in guest memory. No lock is held meanwhile:
    /// the address may lie in another device.
    fn transfer(&self, dma: &Dma, address: u64) {
        let mut raw = [0; 16];
        if dma.read_bytes(address, &mut raw).is_err() {
            trace::guest_error!("fw_cfg: DMA descriptor at {address:#x} cannot be read");
            let _ = dma.write_bytes(address, &CTL_ERROR.to_be_bytes());
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, a @ ..] = raw;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if control & CTL_SELECT != 0 {
            self.select(u16::from_be_bytes([c0, c1]));
        }
        let good = if control & CTL_READ != 0 {
            self.copy_out(dma, u64::from_be_bytes(a), length)
        } else if control & CTL_WRITE != 0 {
            trace::guest_error!("fw_cfg: DMA write to an item that is read-only");
            false
        } else {
            if control & CTL_SKIP != 0 {
                let mut regs = self.regs.lock();
                regs.offset = regs.offset.saturating_add(length);
            }
            true
        };
        let status = if good { 0 } else { CTL_ERROR };
        let _ = dma.write_bytes(address, &status.to_be_bytes());
    }

    fn copy_out(&self, dma: &Dma, address: u64, length: u32) -> bool {
        let mut chunk = [0; CHUNK];
        let (mut at, mut left) = (address, length as usize);
        while left > 0 {
            let n = left.min(CHUNK);
            let Some(part) = chunk.get_mut(..n) else { return false };
            self.next(part);
            if dma.write_bytes(at, part).is_err() {
                return false;
            }
            at = at.wrapping_add(n as u64);
            left -= n;
        }
        true
    }

    fn kick(&self, address: u64) {
        if let Some(dma) = &self.dma {
            self.transfer(dma, address);
        }
    }
}

impl FirmwareConfig for FwCfg {
    fn before_reading(&self, names: &'static [&'static str], make: Arc<dyn Fn() + Send + Sync>) {
        _ = self.late.set(Late { names, make });
    }

    fn set_item(&self, key: u16, data: Vec<u8>) {
        self.items.lock().items.insert(key, data.into());
    }

    fn set_file(&self, name: &str, data: Vec<u8>) -> qapi::Result<()> {
        if name.is_empty() || name.len() >= NAME_LEN || name.contains('\0') {
            return Err(qapi::Error::generic(format!(
                "fw_cfg file name '{name}' must have 1 to {} characters",
                NAME_LEN - 1
            )));
        }
        if u32::try_from(data.len()).is_err() {
            return Err(qapi::Error::generic(format!("fw_cfg file '{name}' is too big")));
        }
        let files = &mut self.items.lock().files;
        if files.len() >= self.slots && !files.contains_key(name) {
            return Err(qapi::Error::generic(format!(
                "fw_cfg has no slot left for file '{name}' (x-file-slots={})",
                self.slots
            )));
        }
        files.insert(name.to_owned(), data.into());
        Ok(())
    }
}

/// The selector register.
struct Selector(Arc<FwCfg>);
/// The data register.
struct Data(Arc<FwCfg>);
/// The DMA address register.
struct DmaAddress(Arc<FwCfg>);

impl Mmio for Selector {
    fn read(&self, _: Access) -> Result<u64, BusFault> {
        Ok(0) // write-only
    }
    fn write(&self, _: Access, value: u64) -> Result<(), BusFault> {
        self.0.select(u16::try_from(value & 0xffff).unwrap_or(0));
        Ok(())
    }
}

impl Mmio for Data {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let mut bytes = [0; 8];
        if let Some(part) = bytes.get_mut(..at.size as usize) {
            self.0.next(part);
        }
        Ok(u64::from_le_bytes(bytes))
    }
    fn write(&self, _: Access, _: u64) -> Result<(), BusFault> {
        trace::guest_error!("fw_cfg: write to the data register ignored");
        Ok(())
    }
}

impl Mmio for DmaAddress {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        Ok(match (at.size, at.offset) {
            (Size::B8, _) => DMA_SIGNATURE,
            (_, 0) => DMA_SIGNATURE >> 32,
            _ => DMA_SIGNATURE & 0xffff_ffff,
        })
    }
    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let ready = {
            let mut regs = self.0.regs.lock();
            match (at.size, at.offset) {
                (Size::B8, _) => Some(value),
                (_, 0) => {
                    regs.dma_address = value << 32;
                    None
                }
                _ => Some(std::mem::take(&mut regs.dma_address) | value),
            }
        };
        if let Some(address) = ready {
            self.0.kick(address);
        }
        Ok(())
    }
}

impl DeviceType for FwCfg {
    const NAME: &'static str = "fw_cfg_mem";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Firmware configuration device";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if props.file_slots < 16 {
            return Err(qapi::Error::generic("\"file_slots\" must be at least 0x10"));
        }
        let dma = props.dma_enabled.then(|| at.dma());
        let features = ID_TRADITIONAL | if dma.is_some() { ID_DMA } else { 0 };
        let has_dma = dma.is_some();
        let device = Arc::new(FwCfg {
            regs: Mutex::default(),
            items: Mutex::default(),
            slots: usize::from(props.file_slots),
            dma,
            late: OnceLock::new(),
            made: AtomicBool::new(false),
        });
        device.set_item(SIGNATURE, b"QEMU".to_vec());
        device.set_item(ID, features.to_le_bytes().to_vec());
        let rules = |low, high, big_endian| AccessRules {
            valid: (low, high),
            handled: (low, high),
            unaligned: false,
            big_endian,
        };
        let banks = (
            Arc::new(Selector(device.clone())),
            Arc::new(Data(device.clone())),
            Arc::new(DmaAddress(device.clone())),
        );
        at.mmio(Region::mmio("fwcfg.ctl", 2, rules(Size::B2, Size::B2, true), &banks.0));
        at.mmio(Region::mmio("fwcfg.data", 8, rules(Size::B1, Size::B8, false), &banks.1));
        if has_dma {
            at.mmio(Region::mmio("fwcfg.dma", 8, rules(Size::B4, Size::B8, true), &banks.2));
        }
        // Regions keep only weak references; the banks live as long as the record.
        at.offer(banks);
        at.offer::<Arc<dyn FirmwareConfig>>(device.clone());
        Ok(device)
    }
}

impl Device for FwCfg {
    fn reset(&self, _: Reset) {
        self.made.store(false, Ordering::Release);
        *self.regs.lock() = Regs::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }
}
