//! Arm PrimeCell UART (PL011), Arm DDI 0183G.
//!
//! Not modelled: DMA, IrDA, baud rate and parity (the line is error-free and as
//! fast as the back end), the receive timeout (any received byte raises the
//! receive interrupt, as if the FIFO trigger were one byte, which is also what
//! QEMU's model shows its guests). Data written while the UART is disabled is
//! reported and sent nevertheless: early consoles rely on it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, CharEvent, CharPort, CharReceiver, Device,
    DeviceClass, DeviceType, IrqOut, Migration, Mmio, Region, Reset,
};
use parking_lot::Mutex;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Pl011>();

/// Properties of `pl011`.
#[derive(Clone, Debug, Default, Qapi)]
pub struct Props {
    /// ID of a chardev to use as a backend
    pub chardev: Option<String>,
}

/// Bytes in each FIFO.
const DEPTH: usize = 16;

// 3.2: register offsets.
const DR: u64 = 0x000;
const RSR_ECR: u64 = 0x004;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;
const PERIPH_ID: u64 = 0xfe0;
/// 3.3.15 and 3.3.16: UARTPeriphID0-3 and UARTPCellID0-3.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

// 3.3.1: error bits beside the data.
const DATA_BREAK: u16 = 1 << 10;
const DATA_ERRORS: u16 = 0xf00;

// 3.3.3: flags.
const FR_CTS: u16 = 1 << 0;
const FR_DSR: u16 = 1 << 1;
const FR_DCD: u16 = 1 << 2;
const FR_RXFE: u16 = 1 << 4;
const FR_RXFF: u16 = 1 << 6;
const FR_TXFE: u16 = 1 << 7;
const FR_RI: u16 = 1 << 8;

const LCR_FEN: u16 = 1 << 4;
const LCR_BRK: u16 = 1 << 0;
const CR_UARTEN: u16 = 1 << 0;
const CR_LBE: u16 = 1 << 7;
const CR_TXE: u16 = 1 << 8;
const CR_DTR: u16 = 1 << 10;
const CR_RTS: u16 = 1 << 11;
const CR_OUT1: u16 = 1 << 12;
const CR_OUT2: u16 = 1 << 13;

// 3.3.10: interrupts.
const INT_RI: u16 = 1 << 0;
const INT_CTS: u16 = 1 << 1;
const INT_DCD: u16 = 1 << 2;
const INT_DSR: u16 = 1 << 3;
const INT_RX: u16 = 1 << 4;
const INT_TX: u16 = 1 << 5;
const INT_RT: u16 = 1 << 6;
const INT_BE: u16 = 1 << 9;
const INT_MS: u16 = INT_RI | INT_CTS | INT_DCD | INT_DSR;
const INT_E: u16 = 0x780;
const INT_ALL: u16 = 0x7ff;

/// 2.8: the outputs: combined, receive, transmit, timeout, modem, error.
const OUTPUTS: [u16; 6] = [INT_ALL, INT_RX, INT_TX, INT_RT, INT_MS, INT_E];

#[derive(VmState)]
#[vmstate(name = "pl011", version = 1)]
struct Regs {
    rsr: u16,
    ilpr: u16,
    ibrd: u16,
    fbrd: u16,
    lcr: u16,
    cr: u16,
    ifls: u16,
    imsc: u16,
    ris: u16,
    dmacr: u16,
    /// Modem inputs looped back, as bits of FR.
    modem: u16,
    #[vmstate(max = 16)]
    rx: VecDeque<u16>,
}

impl Default for Regs {
    fn default() -> Regs {
        Regs {
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr: 0,
            cr: 0x300,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
            modem: 0,
            rx: VecDeque::new(),
        }
    }
}

impl Regs {
    fn depth(&self) -> usize {
        if self.lcr & LCR_FEN != 0 { DEPTH } else { 1 }
    }

    fn room(&self) -> usize {
        // In loopback the receiver hears only its own transmitter.
        if self.cr & CR_LBE != 0 { 0 } else { self.depth().saturating_sub(self.rx.len()) }
    }

    fn flags(&self) -> u16 {
        let empty = if self.rx.is_empty() { FR_RXFE } else { 0 };
        let full = if self.rx.len() >= self.depth() { FR_RXFF } else { 0 };
        FR_TXFE | empty | full | self.modem
    }

    fn push(&mut self, data: u16) {
        if self.rx.len() < self.depth() {
            self.rx.push_back(data);
        }
        self.ris |= INT_RX;
    }

    fn pop(&mut self) -> u16 {
        let data = self.rx.pop_front().unwrap_or(0);
        self.rsr = (data & DATA_ERRORS) >> 8;
        if self.rx.is_empty() {
            self.ris &= !INT_RX;
        }
        data
    }

    fn read(&mut self, offset: u64) -> u16 {
        match offset {
            DR => self.pop(),
            RSR_ECR => self.rsr,
            FR => self.flags(),
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.ris,
            MIS => self.ris & self.imsc,
            DMACR => self.dmacr,
            PERIPH_ID.. => usize::try_from((offset - PERIPH_ID) / 4)
                .ok()
                .and_then(|i| ID.get(i))
                .copied()
                .map_or(0, u16::from),
            _ => {
                trace::guest_error!("pl011_read: Bad offset {offset:#x}");
                0
            }
        }
    }

    /// Writes; returns a byte to send.
    fn write(&mut self, offset: u64, value: u16) -> Option<u8> {
        match offset {
            DR => return self.transmit(value.to_le_bytes()[0]),
            RSR_ECR => self.rsr = 0,
            ILPR => self.ilpr = value & 0xff,
            IBRD => self.ibrd = value,
            FBRD => self.fbrd = value & 0x3f,
            LCR_H => self.set_lcr(value & 0xff),
            CR => self.set_cr(value),
            IFLS => self.ifls = value & 0x3f,
            IMSC => self.imsc = value & INT_ALL,
            ICR => self.ris &= !value,
            DMACR => {
                self.dmacr = value & 7;
                if value & 3 != 0 {
                    trace::unimp!("pl011: DMA not implemented");
                }
            }
            _ => trace::guest_error!("pl011_write: Bad offset {offset:#x}"),
        }
        None
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        if self.cr & CR_UARTEN == 0 {
            trace::guest_error!("PL011 data written to disabled UART");
        } else if self.cr & CR_TXE == 0 {
            trace::guest_error!("PL011 data written to disabled TX UART");
        }
        // The transmit FIFO is empty again at once.
        self.ris |= INT_TX;
        if self.cr & CR_LBE != 0 {
            self.push(byte.into());
            return None;
        }
        Some(byte)
    }

    fn set_lcr(&mut self, value: u16) {
        if (self.lcr ^ value) & LCR_FEN != 0 {
            // 3.3.7: the FIFOs become one-byte holding registers, or FIFOs again.
            self.rx.clear();
        }
        if (self.lcr ^ value) & LCR_BRK != 0 && value & LCR_BRK != 0 && self.cr & CR_LBE != 0 {
            self.break_received();
        }
        self.lcr = value;
    }

    fn set_cr(&mut self, value: u16) {
        self.cr = value & 0xff87;
        let before = self.modem;
        self.modem = 0;
        if value & CR_LBE != 0 {
            // 3.3.8: modem outputs feed the modem inputs.
            let loops = [(CR_RTS, FR_CTS), (CR_DTR, FR_DSR), (CR_OUT1, FR_DCD), (CR_OUT2, FR_RI)];
            self.modem =
                loops.iter().filter(|(out, _)| value & out != 0).fold(0, |m, (_, i)| m | i);
        }
        let changed = before ^ self.modem;
        for (input, int) in
            [(FR_CTS, INT_CTS), (FR_DSR, INT_DSR), (FR_DCD, INT_DCD), (FR_RI, INT_RI)]
        {
            if changed & input != 0 {
                self.ris |= int;
            }
        }
    }

    fn break_received(&mut self) {
        self.push(DATA_BREAK);
        self.ris |= INT_BE;
    }
}

/// The device.
pub struct Pl011 {
    port: CharPort,
    irqs: [Arc<IrqOut>; 6],
    regs: Mutex<Regs>,
}

impl Pl011 {
    /// Drives the outputs; called with the registers locked.
    fn drive(&self, regs: &Regs) {
        let active = regs.ris & regs.imsc;
        for (irq, mask) in self.irqs.iter().zip(OUTPUTS) {
            irq.set(active & mask != 0);
        }
    }
}

impl DeviceType for Pl011 {
    const NAME: &'static str = "pl011";
    const BUS: Bus = Bus::System;
    const SUMMARY: &'static str = "Arm PrimeCell UART (PL011)";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        let port = match &props.chardev {
            Some(id) => at.chardev(id)?,
            None => CharPort::unconnected(),
        };
        let irqs = std::array::from_fn(|_| at.irq_out());
        let device = Arc::new(Pl011 { port, irqs, regs: Mutex::default() });
        at.mmio(Region::mmio("pl011", 0x1000, AccessRules::WORD32, &device));
        let receiver: Weak<Pl011> = Arc::downgrade(&device);
        device.port.on_receive(receiver);
        Ok(device)
    }
}

impl Mmio for Pl011 {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        let (value, freed) = {
            let mut regs = self.regs.lock();
            let before = regs.room();
            let value = regs.read(at.offset);
            self.drive(&regs);
            (value, regs.room() > before)
        };
        if freed {
            self.port.accept_input();
        }
        trace::point!("pl011_read", "addr {:#x} value {value:#x}", at.offset);
        Ok(value.into())
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        let [low, high, ..] = value.to_le_bytes();
        trace::point!("pl011_write", "addr {:#x} value {value:#x}", at.offset);
        let (sent, freed) = {
            let mut regs = self.regs.lock();
            let before = regs.room();
            let sent = regs.write(at.offset, u16::from_le_bytes([low, high]));
            self.drive(&regs);
            (sent, regs.room() > before)
        };
        if let Some(byte) = sent {
            self.port.send(&[byte]);
        }
        if freed {
            self.port.accept_input();
        }
        Ok(())
    }
}

impl CharReceiver for Pl011 {
    fn room(&self) -> usize {
        self.regs.lock().room()
    }

    fn receive(&self, data: &[u8]) {
        let mut regs = self.regs.lock();
        for &byte in data {
            regs.push(byte.into());
        }
        self.drive(&regs);
    }

    fn event(&self, event: CharEvent) {
        if event == CharEvent::Break {
            let mut regs = self.regs.lock();
            if regs.cr & CR_LBE == 0 {
                regs.break_received();
                self.drive(&regs);
            }
        }
    }
}

impl Device for Pl011 {
    fn reset(&self, _: Reset) {
        *self.regs.lock() = Regs::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.regs)
    }

    fn settle(&self) {
        let regs = self.regs.lock();
        self.drive(&regs);
        drop(regs);
        self.port.accept_input();
    }
}
