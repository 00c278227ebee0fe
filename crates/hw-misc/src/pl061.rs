//! Arm PrimeCell general purpose I/O (PL061), Arm DDI 0190B.
//!
//! Eight lines, each input or output, with edge and level interrupts. A line that
//! nobody drives reads as its pull resistor says. Not modelled: the hardware
//! control mode behind GPIOAFSEL (the register keeps its value), the integration
//! test registers.

use std::sync::Arc;

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, IrqOut, IrqSink,
    Migration, Mmio, Region, Reset,
};
use parking_lot::Mutex;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Pl061>();

/// Properties of `pl061`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Lines that are pulled up when nothing drives them
    #[qapi(default = 255)]
    pub pullups: u32,
    /// Lines that are pulled down when nothing drives them
    #[qapi(default = 0)]
    pub pulldowns: u32,
}

// 3.2: register offsets; GPIODATA takes the first 1 KiB, address bits 9 to 2 are its mask.
const DATA_LAST: u64 = 0x3ff;
const DIR: u64 = 0x400;
const IS: u64 = 0x404;
const IBE: u64 = 0x408;
const IEV: u64 = 0x40c;
const IE: u64 = 0x410;
const RIS: u64 = 0x414;
const MIS: u64 = 0x418;
const IC: u64 = 0x41c;
const AFSEL: u64 = 0x420;
const PERIPH_ID: u64 = 0xfe0;
/// 3.3.11 and 3.3.12: GPIOPeriphID0-3 and GPIOPCellID0-3.
const ID: [u8; 8] = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

#[derive(Clone, Copy, Default, VmState)]
#[vmstate(name = "pl061", version = 1)]
struct Regs {
    /// What the guest wants on output lines.
    out: u8,
    dir: u8,
    sense: u8,
    both: u8,
    event: u8,
    enable: u8,
    /// Edges seen and not cleared.
    latched: u8,
    afsel: u8,
    /// Levels at the pins, before the direction is applied.
    inputs: u8,
}

impl Regs {
    fn pins(&self) -> u8 {
        (self.out & self.dir) | (self.inputs & !self.dir)
    }

    /// 3.3.7: edges are latched, levels are as they are.
    fn raw(&self) -> u8 {
        let level = !(self.pins() ^ self.event) & self.sense & !self.dir;
        level | (self.latched & !self.sense)
    }

    /// Notes edges of input lines between two states of the pins.
    fn edges(&mut self, before: u8) {
        let now = self.pins();
        let changed = (before ^ now) & !self.dir & !self.sense;
        let wanted = self.both | !(now ^ self.event);
        self.latched |= changed & wanted;
    }

    fn read(&self, offset: u64) -> u8 {
        match offset {
            0..=DATA_LAST => self.pins() & data_mask(offset),
            DIR => self.dir,
            IS => self.sense,
            IBE => self.both,
            IEV => self.event,
            IE => self.enable,
            RIS => self.raw(),
            MIS => self.raw() & self.enable,
            AFSEL => self.afsel,
            PERIPH_ID..=0xfff => usize::try_from((offset - PERIPH_ID) / 4)
                .ok()
                .and_then(|i| ID.get(i))
                .copied()
                .unwrap_or(0),
            _ => {
                trace::guest_error!("pl061_read: Bad offset {offset:#x}");
                0
            }
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        match offset {
            0..=DATA_LAST => {
                let mask = data_mask(offset) & self.dir;
                self.out = (self.out & !mask) | (value & mask);
            }
            DIR => self.dir = value,
            IS => self.sense = value,
            IBE => self.both = value,
            IEV => self.event = value,
            IE => self.enable = value,
            IC => self.latched &= !value,
            AFSEL => self.afsel = value,
            _ => trace::guest_error!("pl061_write: Bad offset {offset:#x}"),
        }
    }
}

fn data_mask(offset: u64) -> u8 {
    (offset >> 2).to_le_bytes()[0]
}

/// The device.
pub struct Pl061 {
    irq: Arc<IrqOut>,
    outs: [Arc<IrqOut>; 8],
    pulled: u8,
    regs: Mutex<Regs>,
}

impl Pl061 {
    /// Drives the outputs; called with the registers locked.
    fn drive(&self, regs: &Regs) {
        for (bit, out) in self.outs.iter().enumerate() {
            let mask = 1 << bit;
            let level = if regs.dir & mask != 0 { regs.out } else { self.pulled };
            out.set(level & mask != 0);
        }
        self.irq.set(regs.raw() & regs.enable != 0);
    }
}

impl DeviceType for Pl061 {
    const NAME: &'static str = "pl061";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Arm PrimeCell GPIO (PL061)";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let byte = |name: &str, value: u32| {
            u8::try_from(value)
                .map_err(|_| qapi::Error::generic(format!("{name} must be 0 to 255")))
        };
        let ups = byte("pullups", props.pullups)?;
        let downs = byte("pulldowns", props.pulldowns)?;
        if ups & downs != 0 {
            return Err(qapi::Error::generic("no bit may be set both in pullups and pulldowns"));
        }
        let irq = at.irq_out();
        let outs = std::array::from_fn(|line| at.irq_out_named(&format!("gpio{line}")));
        let device = Arc::new(Pl061 { irq, outs, pulled: ups, regs: Mutex::default() });
        device.regs.lock().inputs = ups;
        at.mmio(Region::mmio("pl061", 0x1000, AccessRules::WORD32, &device));
        at.irq_in("gpio", 8, device.clone());
        Ok(device)
    }
}

impl Mmio for Pl061 {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let value = self.regs.lock().read(at.offset);
        trace::point!("pl061_read", "addr {:#x} value {value:#x}", at.offset);
        Ok(value.into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        trace::point!("pl061_write", "addr {:#x} value {value:#x}", at.offset);
        let mut regs = self.regs.lock();
        regs.write(at.offset, value.to_le_bytes()[0]);
        self.drive(&regs);
        Ok(())
    }
}

impl IrqSink for Pl061 {
    fn set(&self, input: u32, level: bool) {
        let Some(mask) = 1u8.checked_shl(input).filter(|_| input < 8) else { return };
        let mut regs = self.regs.lock();
        let before = regs.pins();
        regs.inputs = if level { regs.inputs | mask } else { regs.inputs & !mask };
        regs.edges(before);
        self.drive(&regs);
    }
}

impl Device for Pl061 {
    fn reset(&self, _: Reset) {
        let mut regs = self.regs.lock();
        // The levels at the pins are not the device's state.
        *regs = Regs { inputs: regs.inputs, ..Regs::default() };
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        let regs = self.regs.lock();
        self.drive(&regs);
    }
}
