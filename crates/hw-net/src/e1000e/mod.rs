//! Intel 82574L gigabit Ethernet card (`e1000e`).
//!
//! Two receive and two transmit queues with legacy, extended and header-splitting descriptors,
//! MSI-X with moderation, MSI and the pin, checksum and segmentation offload, VLAN and multicast
//! filters, receive side scaling, the PHY, the configuration memory, counters of good frames.
//! Not modelled: the delay timers (RDTR, RADV, TIDV, TADV expire at once), time stamps of frames
//! (the clock of PTP counts), flow control, wake-up, management, the flash region (it reads as
//! erased), counters of errors, negotiation takes no time.
//! Sources: Intel 82574 GbE Controller Family data sheet; first values, masks and configuration
//! space are what QEMU 10.0's card shows.

mod interrupt;
mod phy;
mod props;
mod receive;
mod regs;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use device::{
    Access, AccessRules, BoxFuture, Build, Bus, BusFault, Clock, Device, DeviceClass, DeviceType,
    Dma, Migration, Mmio, Region, Reset, Saved, Timer,
};
use net::{Frame, Link, Mac, Netdevs, Nic, NicInfo, RxFilter};
use parking_lot::Mutex;
use pci::{Bar, Express, Function, Identity, Msix, PciBus, Role};
use qapi::Result;
use virtio::Kick;
use vmstate::{LoadError, StateReader, StateSchema, StateWriter, VmState as _};

use regs::*;

pub use props::Props;

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<E1000e>();

const REGION: u64 = 0x2_0000;
const IO: u64 = 32;
const MESSAGES: u64 = 0x4000;
const VECTORS: u16 = 5;
/// Where the pending bits are in their region.
const PENDING: u32 = 0x2000;

/// The card.
pub struct E1000e {
    props: Props,
    name: Option<String>,
    first_mac: Mac,
    link: Option<Arc<Link>>,
    netdevs: Option<Arc<Netdevs>>,
    function: Arc<Function>,
    msix: Arc<Msix>,
    dma: Dma,
    clock: Clock,
    timer: OnceLock<Timer>,
    sends: Vec<Kick>,
    receives: Kick,
    /// Whose turn it is to send from a queue: frames stay in order.
    turns: [Mutex<()>; 2],
    /// The machine stands: rings stay as they are.
    paused: AtomicBool,
    state: Mutex<State>,
}

struct IoWindow(Weak<E1000e>);
struct Flash;

impl Mmio for Flash {
    fn read(&self, _: Access) -> std::result::Result<u64, BusFault> {
        Ok(u64::MAX)
    }
    fn write(&self, _: Access, _: u64) -> std::result::Result<(), BusFault> {
        Ok(())
    }
}

/// 82574, 10.1.1.3: a register's address, then its value.
impl Mmio for IoWindow {
    fn read(&self, at: Access) -> std::result::Result<u64, BusFault> {
        let Some(card) = self.0.upgrade() else { return Ok(0) };
        let address = card.state.lock().io_address;
        Ok(match at.offset {
            0 => address.into(),
            4 => card.register(address).into(),
            _ => 0,
        })
    }
    fn write(&self, at: Access, value: u64) -> std::result::Result<(), BusFault> {
        let Some(card) = self.0.upgrade() else { return Ok(()) };
        let value = low(value);
        if at.offset == 0 {
            card.state.lock().io_address = value & 0x1_fffc;
        } else if at.offset == 4 {
            let address = card.state.lock().io_address;
            card.set_register(address, value);
        }
        Ok(())
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn function(props: &Props, role: Option<Role>, regions: [Region; 3], msix: &Arc<Msix>) -> Function {
    let identity = Identity {
        id: (0x8086, 0x10d3),
        revision: 0,
        class: (2, 0, 0),
        subsystem: (props.subsys_ven, props.subsys),
        pin: 1,
    };
    let bar = |region: Region, io| Some(Bar { region, io, wide: false, prefetch: false });
    let [registers, flash, io] = regions;
    let messages = Region::mmio("msix", MESSAGES, AccessRules::WORD32, msix);
    let bars = vec![bar(registers, false), bar(flash, false), bar(io, true), bar(messages, false)];
    let function = Function::new(&identity, &props.pci, bars, &[], None);
    function.add_msix(msix.clone(), 3, Some(0xa0));
    if let Some(role) = role {
        let express = Express {
            role,
            at: Some(0xe0),
            port: 0,
            link: None,
            flr: false,
            errors: false,
            link_control: false,
        };
        function.add_express_v1(&express);
    }
    function.add_msi_at(Some(0xd0), false);
    const POWER: u8 = 1;
    let at = function.add_capability(POWER, Some(0xc8), &[0x22, 0, 0, 0, 0, 0]);
    function.allow_writes(at + 4, &[0x03, 0x1f]);
    function
}

impl DeviceType for E1000e {
    const NAME: &'static str = "e1000e";
    const BUS: Bus = Bus::Pci;
    const SUMMARY: &'static str = "Intel 82574L GbE Controller";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> Result<Arc<Self>> {
        props.pci.check(Self::NAME)?;
        let netdevs = at.service::<Arc<Netdevs>>();
        let (link, mac) = net::card(Self::NAME, &props.netdev, &props.mac, netdevs.as_ref())?;
        let site = PciBus::of(at).site();
        let role = if site.is_root() { Role::Integrated } else { Role::Endpoint };
        let role = site.is_express().then_some(role);
        let msix = Msix::at(VECTORS, (0, PENDING));
        let handle = netdevs.as_ref().map(|table| table.context().handle.clone());
        let (memory, clock) = (at.world().memory.clone(), at.clock());
        let name = (!at.id().contains('[')).then(|| at.id().to_owned());
        let card = Arc::new_cyclic(|this: &Weak<E1000e>| {
            let registers = Region::weak_mmio("e1000e", REGION, AccessRules::WORD32, this.clone());
            let flash = Region::mmio("e1000e-flash", REGION, AccessRules::ANY, &Arc::new(Flash));
            let window = Arc::new(IoWindow(this.clone()));
            let io = Region::mmio("e1000e-io", IO, AccessRules::WORD32, &window);
            let function = function(&props, role, [registers, flash, io], &msix);
            if role.is_some() {
                function.add_errors(false, false);
                let [a, b, c, d, e, f] = mac;
                function.add_serial_number(0x140, [f, e, d, 0xff, 0xff, c, b, a]);
            }
            let kick = |f: fn(&E1000e, u32), queue: u32| {
                let weak = this.clone();
                Kick::new(handle.clone(), move || {
                    if let Some(card) = weak.upgrade() {
                        f(&card, queue);
                    }
                })
            };
            E1000e {
                name,
                first_mac: mac,
                link: link.clone(),
                netdevs: netdevs.clone(),
                dma: function.dma(&memory),
                function: Arc::new(function),
                msix: msix.clone(),
                clock,
                timer: OnceLock::new(),
                sends: (0..2).map(|queue| kick(E1000e::transmit, queue)).collect(),
                receives: kick(|card, _| card.has_room(), 0),
                turns: Default::default(),
                paused: AtomicBool::new(false),
                state: Mutex::new(State::new(mac)),
                props,
            }
        });
        let weak = Arc::downgrade(&card);
        _ = card.timer.set(at.timer(move || {
            if let Some(card) = weak.upgrade() {
                card.tell();
            }
        }));
        let weak = Arc::downgrade(&card);
        card.function.on_reset(move || {
            if let Some(card) = weak.upgrade() {
                card.restart();
            }
        });
        card.function.add_rom(&card.props.pci, Some("efi-e1000e.rom"))?;
        let nic: Arc<dyn Nic> = card.clone();
        if let (Some(id), Some(table)) = (&card.props.netdev, &netdevs) {
            table.connect((Self::NAME, "netdev"), id, Arc::downgrade(&nic))?;
        }
        if let Some(table) = &netdevs {
            table.note(Arc::downgrade(&nic), link);
        }
        if let Some(index) = card.props.bootindex {
            at.offer(device::BootEntry { index, node: "/ethernet-phy@0".into() });
        }
        at.offer::<Arc<Function>>(card.function.clone());
        at.offer::<Arc<dyn Nic>>(nic);
        Ok(card)
    }
}

impl Drop for E1000e {
    fn drop(&mut self) {
        if let Some(table) = &self.netdevs {
            table.release_mac(self.first_mac);
        }
    }
}

impl E1000e {
    fn has_room(&self) {
        if let Some(link) = &self.link {
            link.guest_has_room();
        }
    }

    /// As after power-on, but for the configuration memory.
    fn restart(&self) {
        {
            let mut state = self.state.lock();
            state.reset();
            state.phy_reset();
            if !self.props.init_vet {
                state.set(VET, 0);
            }
            let up = state.link_up;
            state.set_link(up);
            state.set(ICR, 0);
        }
        self.tell();
    }

    fn status(state: &State) -> u32 {
        let link = if state.link_up { STATUS_LINK } else { 0 };
        let master = if state.is_set(CTRL, CTRL_MASTER_OFF) { 0 } else { STATUS_MASTER };
        // Full duplex, 1000 Mb/s as it was found and as it is.
        (state.get(STATUS) & STATUS_PHYRA) | link | master | 0x281
    }

    /// The clock of PTP: 40 ns a step, as its increment says.
    fn time(&self, state: &State) -> u64 {
        let word = state.time.get(2).copied().unwrap_or(0);
        let (step, every) = (u64::from(word & 0xff_ffff), u64::from(word >> 24).max(1));
        (self.clock.now_ns() / 40 / every).wrapping_mul(step)
    }

    fn register(&self, at: u32) -> u32 {
        let at = alias(at);
        let mut state = self.state.lock();
        let value = match at {
            STATUS => Self::status(&state),
            ICR => state.read_causes(),
            ICS | IMC => 0,
            SYSTIML => low(self.time(&state)),
            SYSTIMH => low(self.time(&state) >> 32),
            0xb608..=0xb63c => state.time.get((at - SYSTIML) as usize / 4).copied().unwrap_or(0),
            SWSM => {
                // 10.2.2.15: the first one who reads has the semaphore.
                let value = state.get(SWSM);
                state.set(SWSM, value | 1);
                value
            }
            _ => state.get(at),
        };
        if State::is_counter(at) {
            state.set(at, 0);
        }
        drop(state);
        if at == ICR {
            self.tell();
        }
        value
    }

    fn set_register(&self, at: u32, value: u32) {
        let at = alias(at);
        let queue = (at / QUEUE_STEP) & 1;
        match at {
            CTRL => self.control(value),
            EECD => {
                let mut state = self.state.lock();
                let old = state.get(EECD);
                // Granted at once; present, read.
                let grant = if value & 0x40 != 0 { 0x80 } else { 0 };
                state.set(
                    EECD,
                    (value & 0xffff_840f) | (old & 0x300) | 0x300 | grant | value & 0x40,
                );
            }
            STATUS => {
                // 10.2.2.2: the reset of the PHY is noted until it is cleared.
                let mut state = self.state.lock();
                let kept = state.get(STATUS) & (value | !STATUS_PHYRA);
                state.set(STATUS, kept);
            }
            EERD => self.state.lock().nvm_read(value),
            EEWR => self.state.lock().nvm_write(value),
            MDIC => {
                self.state.lock().mdic(value);
                self.tell();
            }
            ICR | ICS | IMS | IMC => self.set_interrupts(at, value),
            PBACLR => {}
            0xb604..=0xb63c => {
                if let Some(word) = self.state.lock().time.get_mut((at - SYSTIML) as usize / 4) {
                    *word = value;
                }
            }
            0x5b00 => self.state.lock().set(at, value | 0x0680_0000),
            _ => {
                {
                    let mut state = self.state.lock();
                    let Some(mask) = writable(at) else {
                        trace::guest_error!("e1000e: write to register {at:#x}");
                        return;
                    };
                    let kept = state.get(at) & !mask;
                    state.set(at, kept | value & mask);
                }
                match at & !QUEUE_STEP {
                    TX_TAIL => self.kick(queue),
                    RX_TAIL => self.new_room(),
                    _ if at == TCTL => (0..2).for_each(|queue| self.kick(queue)),
                    _ if at == RCTL => self.new_room(),
                    _ if (EITR..EITR + 20).contains(&at) || at == ITR || at == IVAR => self.tell(),
                    _ => {}
                }
            }
        }
    }

    fn kick(&self, queue: u32) {
        if let Some(kick) = self.sends.get(queue as usize) {
            kick.kick();
        }
    }

    fn new_room(&self) {
        if self.link.as_ref().is_some_and(|link| link.wants_room()) {
            self.receives.kick();
        }
    }

    fn control(&self, value: u32) {
        if value & CTRL_RST != 0 {
            let kept = self.state.lock().get(CTRL);
            self.restart();
            _ = kept;
            return;
        }
        let mut state = self.state.lock();
        if value & CTRL_PHY_RST != 0 {
            state.phy_reset();
            let (up, status) = (state.link_up, state.get(STATUS));
            state.set(STATUS, status | STATUS_PHYRA);
            state.set_link(up);
        }
        state.set(CTRL, value & !(CTRL_RST | CTRL_PHY_RST));
        drop(state);
        self.tell();
    }

    fn set_interrupts(&self, at: u32, value: u32) {
        {
            let mut state = self.state.lock();
            match at {
                ICR => {
                    let left = state.get(ICR) & !value;
                    state.set(ICR, left);
                    if state.is_set(CTRL_EXT, EXT_IAME) {
                        let (mask, auto) = (state.get(IMS), state.get(IAM));
                        state.set(IMS, mask & !auto);
                    }
                }
                ICS => {
                    let all = state.get(ICR) | value & !ASSERTED;
                    state.set(ICR, all);
                }
                IMS => {
                    let mask = state.get(IMS) | value;
                    state.set(IMS, mask);
                    let now = state.get(ICR);
                    state.cause(now);
                }
                _ => {
                    let mask = state.get(IMS) & !value;
                    state.set(IMS, mask);
                }
            }
        }
        self.tell();
    }
}

const RX_TAIL: u32 = RX + TAIL;
const TX_TAIL: u32 = TX + TAIL;

impl Mmio for E1000e {
    fn read(&self, at: Access) -> std::result::Result<u64, BusFault> {
        Ok(self.register(low(at.offset & !3)).into())
    }

    fn write(&self, at: Access, value: u64) -> std::result::Result<(), BusFault> {
        self.set_register(low(at.offset & !3), low(value));
        Ok(())
    }
}

impl Nic for E1000e {
    fn info(&self) -> NicInfo {
        NicInfo { name: self.name.clone(), mac: self.state.lock().mac() }
    }

    fn receive(&self, frame: &Frame<'_>) -> bool {
        self.receive_frame(frame)
    }

    fn set_link(&self, up: bool) {
        {
            let mut state = self.state.lock();
            if state.link_up == up {
                return;
            }
            state.set_link(up);
        }
        self.tell();
    }

    fn rx_filter(&self) -> Option<RxFilter> {
        None
    }
}

impl Saved for E1000e {
    fn schema(&self) -> &'static StateSchema {
        State::schema()
    }
    fn save(&self, w: &mut StateWriter) {
        self.state.lock().save(w);
    }
    fn load(&self, r: &mut StateReader<'_>, version: u32) -> std::result::Result<(), LoadError> {
        let state = State::load(r, version)?;
        if !state.is_sane() {
            return Err(LoadError::Invalid("registers of another card"));
        }
        *self.state.lock() = state;
        Ok(())
    }
}

impl Device for E1000e {
    fn reset(&self, _: Reset) {
        self.restart();
        self.function.reset();
    }

    fn migration(&self) -> Migration<'_> {
        let parts: Vec<(&'static str, &dyn Saved)> =
            vec![("pci", &*self.function), ("state", self)];
        Migration::Parts(parts)
    }

    fn settle(&self) {
        self.function.settle();
        self.tell();
        (0..2).for_each(|queue| self.kick(queue));
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.paused.store(true, Ordering::SeqCst);
        // Who moves frames holds one of these locks.
        for turn in &self.turns {
            drop(turn.lock());
        }
        drop(self.state.lock());
        Box::pin(std::future::ready(()))
    }

    fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        (0..2).for_each(|queue| self.kick(queue));
        self.new_room();
    }
}
