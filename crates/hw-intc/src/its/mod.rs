//! GICv3 Interrupt Translation Service (Arm IHI 0069H, chapter 5 and section 12.19).
//!
//! A device's message is a write of an event number to GITS_TRANSLATER; the device
//! is the requester that came with the write. Device, event and collection tables
//! are in guest memory, where the guest gave room for them; commands come from a
//! ring in guest memory and are carried out when GITS_CWRITER is written. Sizes are
//! those QEMU 10.0 announces: 16 bits of device, event and collection numbers,
//! entries of 8 (devices, collections) and 12 bytes (events). Not modelled: GICv4's
//! virtual commands, direct stalls on command errors (a wrong command is logged and
//! skipped). Everything in guest memory may change at any time: each entry is
//! checked when it is used, and a ring has at most 32768 commands.
//!
//! Locks: this device, then the controller's CPUs.

mod command;
mod table;

use std::sync::{Arc, OnceLock};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, AddressSpace, Build, Bus, BusFault, Device, DeviceClass, DeviceType,
    LpiSource, Lpis, Migration, Mmio, Region, Reset, Size,
};
use parking_lot::Mutex;

pub use command::COMMAND_LEN;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Its>();

/// Properties of `arm-gicv3-its`.
#[derive(Clone, Debug, Default, Qapi)]
pub struct Props {}

const CTLR: u64 = 0x00;
const IIDR: u64 = 0x04;
const TYPER: u64 = 0x08;
const CBASER: u64 = 0x80;
const CWRITER: u64 = 0x88;
const CREADR: u64 = 0x90;
const BASERS: u64 = 0x100;
const BASERS_END: u64 = 0x140;
const PIDR: u64 = 0xffd0;
/// In the second frame.
const TRANSLATER: u64 = 0x40;

const CTLR_ENABLED: u32 = 1 << 0;
const CTLR_QUIESCENT: u32 = 1 << 31;
const IIDR_VALUE: u32 = 0x43b;
/// CIL and CIDbits, no PTA, device, event bits (all 16), 12 bytes per event, physical LPIs.
const TYPER_VALUE: u64 = 1 << 36 | 15 << 32 | 15 << 13 | 15 << 8 | 11 << 4 | 1;
const VALID: u64 = 1 << 63;
/// GITS_CREADR.Stalled, GITS_CWRITER.Retry.
const STALLED: u64 = 1;
/// Offsets in the ring.
const RING_OFFSET: u64 = 0x000f_ffe0;
/// Type and entry size of GITS_BASER are fixed.
const BASER_FIXED: u64 = 7 << 56 | 0x1f << 48;
const BASER_DEVICES: u64 = 1 << 56 | 7 << 48 | 0x200;
const BASER_COLLECTIONS: u64 = 4 << 56 | 7 << 48 | 0x200;
/// Bytes of the smallest page.
const PAGE: u64 = 4096;
/// 12.19: identification as the peer shows it.
const ID: [u8; 12] = [0x44, 0, 0, 0, 0x94, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];

#[derive(Clone, Debug, VmState)]
#[vmstate(name = "arm-gicv3-its", version = 1)]
struct Regs {
    enabled: bool,
    cbaser: u64,
    cwriter: u64,
    creadr: u64,
    /// The device table's, and the collection table's.
    baser: [u64; 2],
}

impl Default for Regs {
    fn default() -> Regs {
        let baser = [BASER_DEVICES, BASER_COLLECTIONS];
        Regs { enabled: false, cbaser: 0, cwriter: 0, creadr: 0, baser }
    }
}

/// The service.
pub struct Its {
    regs: Mutex<Regs>,
    /// Only its RAM is used.
    memory: AddressSpace,
    lpis: OnceLock<Arc<dyn Lpis>>,
}

impl LpiSource for Its {
    fn connect(&self, lpis: Arc<dyn Lpis>) {
        _ = self.lpis.set(lpis);
    }
}

fn half(value: u64, high: bool) -> u64 {
    if high { value >> 32 } else { value & 0xffff_ffff }
}

/// Replaces a register, or a half of it.
fn merge(register: u64, at: Access, value: u64) -> u64 {
    match (at.size, at.offset & 4 != 0) {
        (Size::B8, _) => value,
        (_, false) => (register & !0xffff_ffff) | value & 0xffff_ffff,
        (_, true) => (register & 0xffff_ffff) | value << 32,
    }
}

impl Its {
    fn register(&self, regs: &Regs, offset: u64) -> Option<u64> {
        Some(match offset {
            TYPER => TYPER_VALUE,
            CBASER => regs.cbaser,
            CWRITER => regs.cwriter,
            CREADR => regs.creadr,
            BASERS..BASERS_END => {
                let index = usize::try_from((offset - BASERS) / 8).ok()?;
                regs.baser.get(index).copied().unwrap_or(0)
            }
            _ => return None,
        })
    }

    fn write_register(&self, regs: &mut Regs, at: Access, value: u64) {
        let offset = at.offset & !7;
        match offset {
            CBASER if !regs.enabled => {
                regs.cbaser = merge(regs.cbaser, at, value);
                regs.creadr = 0;
            }
            CWRITER => {
                regs.cwriter = merge(regs.cwriter, at, value) & (RING_OFFSET | STALLED);
                if regs.cwriter & STALLED != 0 {
                    // Retry.
                    regs.creadr &= !STALLED;
                    regs.cwriter &= !STALLED;
                }
                self.run(regs);
            }
            BASERS..BASERS_END if !regs.enabled => {
                let index = usize::try_from((offset - BASERS) / 8).unwrap_or(usize::MAX);
                if let Some(baser) = regs.baser.get_mut(index) {
                    let new = merge(*baser, at, value);
                    *baser = *baser & BASER_FIXED | new & !BASER_FIXED;
                }
            }
            _ => trace::guest_error!("gicv3_its: write to {:#x} ignored", at.offset),
        }
    }

    /// A message of a device.
    fn message(&self, device: u16, event: u32) {
        let regs = self.regs.lock();
        if !regs.enabled {
            return;
        }
        let Some(lpis) = self.lpis.get() else { return };
        match self.translate(&regs, device.into(), event) {
            Some((cpu, intid)) => lpis.set(cpu, intid, true),
            None => {
                trace::guest_error!("gicv3_its: device {device:#x} has no event {event:#x}");
            }
        }
    }
}

/// The control frame.
struct Control(Arc<Its>);
/// The frame of the doorbell.
struct Doorbell(Arc<Its>);

impl Mmio for Control {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let regs = self.0.regs.lock();
        let high = at.offset & 4 != 0;
        Ok(match at.offset {
            CTLR => (CTLR_QUIESCENT | u32::from(regs.enabled)).into(),
            IIDR => IIDR_VALUE.into(),
            PIDR.. => {
                let index = usize::try_from((at.offset - PIDR) / 4).unwrap_or(usize::MAX);
                ID.get(index).copied().unwrap_or(0).into()
            }
            offset => {
                let value = self.0.register(&regs, offset & !7).unwrap_or(0);
                if at.size == Size::B8 { value } else { half(value, high) }
            }
        })
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let mut regs = self.0.regs.lock();
        if at.offset == CTLR {
            regs.enabled = value & u64::from(CTLR_ENABLED) != 0;
            self.0.run(&mut regs);
        } else {
            self.0.write_register(&mut regs, at, value);
        }
        Ok(())
    }
}

impl Mmio for Doorbell {
    fn read(&self, _: Access) -> Result<u64, BusFault> {
        Ok(0)
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        if at.offset == TRANSLATER {
            let event = u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX);
            self.0.message(at.attrs.requester, event);
        }
        Ok(())
    }
}

impl DeviceType for Its {
    const NAME: &'static str = "arm-gicv3-its";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "GICv3 Interrupt Translation Service";
    type Props = Props;

    fn create(_: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let its = Arc::new(Its {
            regs: Mutex::default(),
            memory: at.world().memory.clone(),
            lpis: OnceLock::new(),
        });
        let rules = |low, high| AccessRules {
            valid: (low, high),
            handled: (low, high),
            unaligned: false,
            big_endian: false,
        };
        let frames = (Arc::new(Control(its.clone())), Arc::new(Doorbell(its.clone())));
        let (words, short) = (rules(Size::B4, Size::B8), rules(Size::B2, Size::B4));
        at.mmio(Region::mmio("control", 0x1_0000, words, &frames.0));
        at.mmio(Region::mmio("translation", 0x1_0000, short, &frames.1));
        // Regions keep only weak references; the frames live as long as the record.
        at.offer(frames);
        at.offer::<Arc<dyn LpiSource>>(its.clone());
        Ok(its)
    }
}

impl Device for Its {
    fn reset(&self, _: Reset) {
        *self.regs.lock() = Regs::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }
}
