//! Arm PrimeCell real time clock (PL031), Arm DDI 0224C.
//!
//! Counts seconds of the wall clock the machine is given, moved by what the guest
//! loads. Not modelled: the 1 Hz input's divider; the clock cannot be stopped
//! (as 3.3.4 says, only a reset clears the enable bit, and it starts enabled).

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, IrqOut, Migration,
    Mmio, Region, Reset, Timer, WallClock,
};
use parking_lot::Mutex;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Pl031>();

/// Properties of `pl031`.
#[derive(Clone, Debug, Default, Qapi)]
pub struct Props {}

// 3.2: register offsets.
const DR: u64 = 0x00;
const MR: u64 = 0x04;
const LR: u64 = 0x08;
const CR: u64 = 0x0c;
const IMSC: u64 = 0x10;
const RIS: u64 = 0x14;
const MIS: u64 = 0x18;
const ICR: u64 = 0x1c;
const PERIPH_ID: u64 = 0xfe0;
/// RTCPeriphID0-3 and RTCPCellID0-3; ID2 as the peer shows it.
const ID: [u8; 8] = [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

const SECOND: u64 = 1_000_000_000;

#[derive(Default, VmState)]
#[vmstate(name = "pl031", version = 1)]
struct Regs {
    /// Counter minus wall clock, in seconds, wrapping.
    offset: u32,
    mr: u32,
    lr: u32,
    imsc: u32,
    ris: u32,
    /// The match lies ahead: it fires when the counter gets there.
    armed: bool,
}

/// The device.
pub struct Pl031 {
    regs: Mutex<Regs>,
    irq: Arc<IrqOut>,
    wall: WallClock,
    timer: OnceLock<Timer>,
}

impl Pl031 {
    fn wall_seconds(&self) -> u32 {
        let seconds = (self.wall)().div_euclid(1_000_000_000);
        let [a, b, c, d, ..] = seconds.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn count(&self, regs: &Regs) -> u32 {
        self.wall_seconds().wrapping_add(regs.offset)
    }

    fn drive(&self, regs: &Regs) {
        self.irq.set(regs.ris & regs.imsc != 0);
    }

    /// When the timer has to look again; `None`: not at all.
    fn delay(&self, regs: &mut Regs) -> Option<u64> {
        if !regs.armed {
            return None;
        }
        let left = regs.mr.wrapping_sub(self.count(regs));
        if left == 0 {
            regs.armed = false;
            regs.ris = 1;
            return None;
        }
        let part = u64::try_from((self.wall)().rem_euclid(1_000_000_000)).unwrap_or(0);
        Some((u64::from(left) * SECOND).saturating_sub(part))
    }

    /// Looks whether the match is reached and sets the timer for the next look.
    fn look(&self, arm: bool) {
        let delay = {
            let mut regs = self.regs.lock();
            regs.armed |= arm;
            let delay = self.delay(&mut regs);
            self.drive(&regs);
            delay
        };
        let Some(timer) = self.timer.get() else { return };
        match delay {
            Some(ns) => timer.arm_at(timer.clock().now_ns().saturating_add(ns)),
            None => timer.cancel(),
        }
    }
}

impl DeviceType for Pl031 {
    const NAME: &'static str = "pl031";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Arm PrimeCell real time clock (PL031)";
    type Props = Props;

    fn create(_: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let device = Arc::new(Pl031 {
            regs: Mutex::default(),
            irq: at.irq_out(),
            wall: at.wall(),
            timer: OnceLock::new(),
        });
        let weak: Weak<Pl031> = Arc::downgrade(&device);
        let timer = at.timer(move || {
            if let Some(device) = weak.upgrade() {
                device.look(false);
            }
        });
        let _ = device.timer.set(timer);
        at.mmio(Region::mmio("pl031", 0x1000, AccessRules::WORD32, &device));
        Ok(device)
    }
}

impl Mmio for Pl031 {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let regs = self.regs.lock();
        let value = match at.offset {
            DR => self.count(&regs),
            MR => regs.mr,
            LR => regs.lr,
            CR => 1,
            IMSC => regs.imsc,
            RIS => regs.ris,
            MIS => regs.ris & regs.imsc,
            PERIPH_ID.. => usize::try_from((at.offset - PERIPH_ID) / 4)
                .ok()
                .and_then(|i| ID.get(i))
                .copied()
                .map_or(0, u32::from),
            _ => {
                trace::guest_error!("pl031_read: Bad offset {:#x}", at.offset);
                0
            }
        };
        Ok(value.into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let [a, b, c, d, ..] = value.to_le_bytes();
        let value = u32::from_le_bytes([a, b, c, d]);
        let mut regs = self.regs.lock();
        match at.offset {
            MR => {
                regs.mr = value;
                drop(regs);
                self.look(true);
            }
            LR => {
                regs.lr = value;
                regs.offset = value.wrapping_sub(self.wall_seconds());
                drop(regs);
                self.look(true);
            }
            CR => {} // 3.3.4: writing 1 starts a clock that runs already
            IMSC => {
                regs.imsc = value & 1;
                self.drive(&regs);
            }
            ICR => {
                regs.ris &= !value;
                self.drive(&regs);
            }
            _ => trace::guest_error!("pl031_write: Bad offset {:#x}", at.offset),
        }
        Ok(())
    }
}

impl Device for Pl031 {
    fn reset(&self, _: Reset) {
        // 2.2: the counter itself is not affected by the bus reset.
        let mut regs = self.regs.lock();
        let offset = regs.offset;
        *regs = Regs { offset, ..Regs::default() };
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        self.look(false);
    }
}
