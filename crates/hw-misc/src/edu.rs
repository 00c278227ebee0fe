//! QEMU's educational PCI device (QEMU's documentation, "EDU device").
//!
//! Registers of identification, liveness, factorials, interrupts and DMA with a buffer of 4 KiB.
//! A factorial is computed a while after it was asked for, on the guest's clock; a transfer takes
//! 100 ms. Interrupts go by MSI where the guest switched it on, else by the pin.
//! Not modelled: nothing of the documentation. A transfer outside of the buffer ends the peer's
//! process; here it is logged and not done.

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Access, AccessRules, Build, Bus, BusFault, Device, DeviceClass, DeviceType, Dma, Migration,
    Mmio, Region, Reset, Saved, Size, Timer,
};
use parking_lot::Mutex;
use pci::{Bar, Function, Identity};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<Edu>();

/// Properties of `edu`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Address bits of DMA; by default 28
    #[qapi(name = "dma_mask")]
    pub dma_mask: Option<u64>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub pci: pci::Common,
}

// Registers.
const IDENT: u64 = 0x00;
const LIVE: u64 = 0x04;
const FACT: u64 = 0x08;
const STATUS: u64 = 0x20;
const IRQ_STATUS: u64 = 0x24;
const IRQ_RAISE: u64 = 0x60;
const IRQ_ACK: u64 = 0x64;
const DMA_SRC: u64 = 0x80;
const DMA_DST: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
/// From here on registers may be read and written with 64 bits.
const WIDE: u64 = 0x80;

/// Version 1.0 and the signature.
const IDENTITY: u64 = 0x0100_00ed;
const COMPUTING: u32 = 0x01;
const FACT_IRQ: u32 = 0x80;
// Bits of the DMA command.
const START: u64 = 1;
const FROM_DEVICE: u64 = 2;
const DMA_IRQ: u64 = 4;
// Bits of the interrupt status.
const IRQ_OF_FACT: u32 = 0x001;
const IRQ_OF_DMA: u32 = 0x100;

/// Where the buffer is for DMA, and its length.
const BUFFER: u64 = 0x4_0000;
const BUFFER_LEN: usize = 4096;
const DMA_NS: u64 = 100_000_000;
const FACT_NS: u64 = 1_000_000;
const DEFAULT_MASK: u64 = (1 << 28) - 1;

#[derive(Clone, Debug, Default, VmState)]
#[vmstate(name = "edu", version = 1, validate = State::check)]
struct State {
    addr4: u32,
    fact: u32,
    status: u32,
    irq_status: u32,
    src: u64,
    dst: u64,
    count: u64,
    command: u64,
    /// When the factorial is done, and when the transfer; 0: none is under way.
    fact_due: u64,
    dma_due: u64,
    #[vmstate(max = 4096)]
    buffer: Vec<u8>,
}

impl State {
    fn reset() -> State {
        State { buffer: vec![0; BUFFER_LEN], ..State::default() }
    }

    fn check(&self) -> Result<(), vmstate::LoadError> {
        if self.buffer.len() == BUFFER_LEN {
            return Ok(());
        }
        Err(vmstate::LoadError::Invalid("the buffer's length is wrong"))
    }
}

/// The device.
pub struct Edu {
    function: Arc<Function>,
    dma: Dma,
    mask: u64,
    fact: OnceLock<Timer>,
    transfer: OnceLock<Timer>,
    state: Mutex<State>,
}

impl DeviceType for Edu {
    const NAME: &'static str = "edu";
    const BUS: Bus = Bus::Pci;
    const SUMMARY: &'static str = "educational PCI device";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        props.pci.check(Self::NAME)?;
        let memory = at.world().memory.clone();
        let rules = AccessRules {
            valid: (Size::B4, Size::B8),
            handled: (Size::B4, Size::B8),
            ..AccessRules::ANY
        };
        let edu = Arc::new_cyclic(|this: &Weak<Edu>| {
            let region = Region::weak_mmio("edu-mmio", 1 << 20, rules, this.clone());
            let bar = Bar { region, io: false, wide: false, prefetch: false };
            let identity = Identity {
                id: (0x1234, 0x11e8),
                revision: 0x10,
                class: (0, 0xff, 0),
                subsystem: (0x1af4, 0x1100),
                pin: 1,
            };
            let mut bars: Vec<Option<Bar>> = vec![Some(bar)];
            bars.extend((1..6).map(|_| None));
            let function = Function::new(&identity, &props.pci, bars, &[], None);
            function.add_msi();
            let dma = function.dma(&memory);
            Edu {
                function: Arc::new(function),
                dma,
                mask: props.dma_mask.unwrap_or(DEFAULT_MASK),
                fact: OnceLock::new(),
                transfer: OnceLock::new(),
                state: Mutex::new(State::reset()),
            }
        });
        let on = |f: fn(&Edu)| {
            let weak = Arc::downgrade(&edu);
            at.timer(move || {
                if let Some(edu) = weak.upgrade() {
                    f(&edu);
                }
            })
        };
        _ = edu.fact.set(on(Edu::compute));
        _ = edu.transfer.set(on(Edu::transfer));
        edu.function.add_rom(&props.pci, None)?;
        at.offer::<Arc<Function>>(edu.function.clone());
        Ok(edu)
    }
}

impl Edu {
    fn now(&self) -> u64 {
        self.fact.get().map_or(0, |timer| timer.clock().now_ns())
    }

    /// Sets bits of the interrupt status.
    fn raise(&self, bits: u32) {
        let status = {
            let mut state = self.state.lock();
            state.irq_status |= bits;
            state.irq_status
        };
        if status == 0 {
            return;
        }
        if self.function.is_msi_enabled() {
            self.function.send_msi();
        } else {
            self.function.set_pin(true);
        }
    }

    fn lower(&self, bits: u32) {
        let status = {
            let mut state = self.state.lock();
            state.irq_status &= !bits;
            state.irq_status
        };
        if status == 0 && !self.function.is_msi_enabled() {
            self.function.set_pin(false);
        }
    }

    fn compute(&self) {
        let interrupt = {
            let mut state = self.state.lock();
            state.fact_due = 0;
            // From 34 on the product has 32 factors of two.
            state.fact = (1..=state.fact.min(34)).fold(1u32, u32::wrapping_mul);
            state.status &= !COMPUTING;
            state.status & FACT_IRQ != 0
        };
        if interrupt {
            self.raise(IRQ_OF_FACT);
        }
    }

    /// Where in the buffer a transfer of `count` bytes is.
    fn place(at: u64, count: u64) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(at.checked_sub(BUFFER)?).ok()?;
        let end = start.checked_add(usize::try_from(count).ok()?)?;
        (end <= BUFFER_LEN).then_some(start..end)
    }

    /// An address as far as the device can drive it.
    fn clamp(&self, at: u64) -> u64 {
        let clamped = at & self.mask;
        if clamped != at {
            trace::guest_error!("edu: clamping DMA {at:#x} to {clamped:#x}");
        }
        clamped
    }

    fn transfer(&self) {
        let mut state = self.state.lock();
        state.dma_due = 0;
        if state.command & START == 0 {
            return;
        }
        let from = state.command & FROM_DEVICE != 0;
        let (inner, outer) = if from { (state.src, state.dst) } else { (state.dst, state.src) };
        match Edu::place(inner, state.count) {
            None => trace::guest_error!("edu: DMA outside of the buffer at {inner:#x}"),
            Some(range) => {
                let at = self.clamp(outer);
                let mut bytes = state.buffer.get(range.clone()).unwrap_or_default().to_vec();
                // Without the lock: the address may be any device's, also ours.
                drop(state);
                let done = if from {
                    self.dma.write_bytes(at, &bytes)
                } else {
                    self.dma.read_bytes(at, &mut bytes)
                };
                state = self.state.lock();
                match done {
                    Err(fault) => trace::guest_error!("edu: {fault}"),
                    Ok(()) if !from => {
                        if let Some(part) = state.buffer.get_mut(range) {
                            part.copy_from_slice(&bytes);
                        }
                    }
                    Ok(()) => {}
                }
            }
        }
        state.command &= !START;
        let interrupt = state.command & DMA_IRQ != 0;
        drop(state);
        if interrupt {
            self.raise(IRQ_OF_DMA);
        }
    }

    fn ask_factorial(&self, value: u32) {
        let mut state = self.state.lock();
        if state.status & COMPUTING != 0 {
            return;
        }
        state.fact = value;
        state.status |= COMPUTING;
        state.fact_due = self.now().saturating_add(FACT_NS);
        if let Some(timer) = self.fact.get() {
            timer.arm_at(state.fact_due);
        }
    }

    fn command(&self, value: u64) {
        let mut state = self.state.lock();
        if state.command & START != 0 || value & START == 0 {
            return;
        }
        state.command = value;
        state.dma_due = self.now().saturating_add(DMA_NS);
        if let Some(timer) = self.transfer.get() {
            timer.arm_at(state.dma_due);
        }
    }
}

impl Mmio for Edu {
    fn read(&self, at: Access) -> Result<u64, BusFault> {
        if at.size != Size::B4 && at.offset < WIDE {
            return Ok(u64::MAX);
        }
        let state = self.state.lock();
        Ok(match at.offset {
            IDENT => IDENTITY,
            LIVE => state.addr4.into(),
            FACT => state.fact.into(),
            STATUS => state.status.into(),
            IRQ_STATUS => state.irq_status.into(),
            DMA_SRC => state.src,
            DMA_DST => state.dst,
            DMA_COUNT => state.count,
            DMA_COMMAND => state.command,
            _ => u64::MAX,
        })
    }

    fn write(&self, at: Access, value: u64) -> Result<(), BusFault> {
        if at.size != Size::B4 && at.offset < WIDE {
            return Ok(());
        }
        let word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        // While a transfer is under way its registers stay.
        let set = |f: fn(&mut State) -> &mut u64| {
            let mut state = self.state.lock();
            if state.command & START == 0 {
                *f(&mut state) = value;
            }
        };
        match at.offset {
            LIVE => self.state.lock().addr4 = !word,
            FACT => self.ask_factorial(word),
            STATUS => {
                let mut state = self.state.lock();
                state.status = (state.status & !FACT_IRQ) | (word & FACT_IRQ);
            }
            IRQ_RAISE => self.raise(word),
            IRQ_ACK => self.lower(word),
            DMA_SRC => set(|s| &mut s.src),
            DMA_DST => set(|s| &mut s.dst),
            DMA_COUNT => set(|s| &mut s.count),
            DMA_COMMAND => self.command(value),
            _ => {}
        }
        Ok(())
    }
}

impl Device for Edu {
    fn reset(&self, _: Reset) {
        self.function.reset();
        for timer in [&self.fact, &self.transfer].into_iter().filter_map(OnceLock::get) {
            timer.cancel();
        }
        *self.state.lock() = State::reset();
    }

    fn migration(&self) -> Migration<'_> {
        let parts: Vec<(&'static str, &dyn Saved)> =
            vec![("pci", &*self.function), ("state", &self.state)];
        Migration::Parts(parts)
    }

    fn settle(&self) {
        self.function.settle();
        let (fact, dma) = {
            let state = self.state.lock();
            (state.fact_due, state.dma_due)
        };
        for (timer, due) in [(&self.fact, fact), (&self.transfer, dma)] {
            match timer.get() {
                Some(timer) if due > 0 => timer.arm_at(due),
                Some(timer) => timer.cancel(),
                None => {}
            }
        }
    }
}
