//! NVMe controller (`nvme`) with namespaces (`nvme-ns`).
//!
//! Registers, queues, admin and I/O commands of the NVM command set, on the block lanes: commands
//! are taken on the thread that rings a doorbell and end in any order. Interrupts go by MSI-X or the
//! pin. Data is found by physical region pages and scatter gather lists. Not modelled: zones,
//! formatting and metadata, namespace management, subsystems, SR-IOV, controller memory buffers,
//! persistent memory, doorbell buffers (`dbcs`), copies, SPDM; what of that is asked for by
//! properties is refused, but for what only tunes it.
//! Sources: NVM Express Base 2.0, PCIe Transport 1.0, NVM Command Set 1.0; values of QEMU 10.0.

mod admin;
mod data;
mod identify;
mod io;
mod ns;
mod props;
mod state;
mod status;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use block::{Graph, Lane};
use device::{
    Access, AccessRules, BoxFuture, Build, Bus, BusFault, Clock, Device, DeviceClass, DeviceType,
    DmaView, Migration, Mmio, PlugBus, Record, Region, Reset, Saved, Size, Unplug,
};
use guest_ram::RamSlice;
use parking_lot::{Condvar, Mutex};
use pci::{Bar, Express, Function, Identity, Msix, PciBus, Role};
use qapi::{Error, Result};

use admin::Outcome;
use ns::{Names, Namespace};
use state::{Answer, Completion, State, Submission};
use status::Status;

pub use ns::CLASS as NS;
pub use props::Props;

/// The class of controllers.
pub static CLASS: DeviceClass = DeviceClass::of::<Nvme>();

/// Version 1.4.
const VERSION: u32 = 0x0001_0400;
// 3.1.3: registers.
const CAP: u64 = 0x00;
const VS: u64 = 0x08;
const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;
/// Contiguous queues, 7.5 s to get ready, the NVM command set, pages of up to 64 KiB.
const ABILITIES: u64 = 0x0040_0020_0f01_0000;
const ENABLE: u32 = 1;
const SHUTDOWN: u32 = 3 << 14;
const READY: u32 = 1;
const FATAL: u32 = 2;
const SHUT_DOWN: u32 = 2 << 2;
/// Sizes of entries that there are: 16 and 64 bytes.
const ENTRY_SIZES: u32 = 0x46;
const PAGE_SIZES: u32 = 4;

/// A command as it was taken.
#[derive(Clone, Debug)]
struct Command {
    queue: u16,
    opcode: u8,
    flags: u8,
    id: u16,
    nsid: u32,
    prp1: u64,
    prp2: u64,
    /// Words 10 to 15.
    dw: [u32; 6],
}

impl Command {
    fn of(queue: u16, bytes: &[u8]) -> Command {
        let word = |at: usize| {
            let part = bytes.get(at..).and_then(|b| b.first_chunk());
            part.map_or(0, |b| u32::from_le_bytes(*b))
        };
        let wide = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let [opcode, flags, low, high] = word(0).to_le_bytes();
        Command {
            queue,
            opcode,
            flags,
            id: u16::from_le_bytes([low, high]),
            nsid: word(4),
            prp1: wide(24),
            prp2: wide(32),
            dw: [40, 44, 48, 52, 56, 60].map(word),
        }
    }
}

/// The pieces of a transfer.
type Data = std::result::Result<Vec<RamSlice>, Status>;

/// What a namespace device offers to the controller's bus.
#[derive(Clone)]
struct Plugged {
    namespace: Arc<Namespace>,
    nsid: u32,
}

/// The device.
pub struct Nvme {
    props: Props,
    name: String,
    /// I/O queues of each kind.
    queues: u32,
    function: Arc<Function>,
    msix: Arc<Msix>,
    _place: Region,
    lane: Option<Arc<Lane>>,
    clock: Clock,
    /// Taken after the state.
    view: Mutex<DmaView>,
    state: Mutex<State>,
    namespaces: Mutex<BTreeMap<u32, Arc<Namespace>>>,
    changed: AtomicBool,
    working: Mutex<usize>,
    idle: Condvar,
    this: Weak<Nvme>,
}

fn function(props: &Props, express: Option<Role>, bar: Region, msix: &Arc<Msix>) -> Function {
    let identity = Identity {
        id: if props.use_intel_id { (0x8086, 0x5845) } else { (0x1b36, 0x0010) },
        revision: 2,
        class: (1, 8, 2),
        subsystem: (0x1af4, 0x1100),
        pin: 1,
    };
    let bars = vec![Some(Bar { region: bar, io: false, wide: true, prefetch: false }), None];
    let function = Function::new(&identity, &props.pci, bars, &[], None);
    if let Some(role) = express {
        const POWER: u8 = 1;
        let at = function.add_capability(POWER, Some(0x60), &[3, 0, 8, 0, 0, 0]);
        function.allow_writes(at + 4, &[3]);
        let express = Express {
            role,
            at: Some(0x80),
            port: 0,
            link: None,
            flr: true,
            errors: true,
            link_control: false,
        };
        function.add_express(&express, None);
    }
    function.add_msix(msix.clone(), 0, Some(0x40));
    function
}

impl DeviceType for Nvme {
    const NAME: &'static str = "nvme";
    const BUS: Bus = Bus::Pci;
    const SUMMARY: &'static str = "Non-Volatile Memory Express";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> Result<Arc<Self>> {
        props.check()?;
        let queues = props.queues();
        let own = match &props.disk.drive {
            Some(_) => Some(Namespace::create(&props.disk, ("nvme", Names::default()), at)?),
            None => None,
        };
        let graph = at.service::<Arc<Graph>>();
        let bell_end = DOORBELLS + 8 * (u64::from(queues) + 1);
        let table = bell_end.next_multiple_of(4096);
        let vectors = props.vectors;
        let table_len = (u64::from(vectors) * 16).next_multiple_of(4096);
        let low = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let msix = Msix::at(vectors, (low(table), low(table_len)));
        let bits = (u64::from(vectors).div_ceil(64) * 8).next_multiple_of(4096);
        let len = (table + table_len + bits).next_power_of_two();
        let site = PciBus::of(at).site();
        let role = if site.is_root() { Role::Integrated } else { Role::Endpoint };
        let express = site.is_express().then_some(role);
        let name = if at.id().contains('[') { at.bus_name("nvme-bus") } else { at.id().into() };
        let (memory, clock) = (at.world().memory.clone(), at.clock());
        let nvme = Arc::new_cyclic(|this: &Weak<Nvme>| {
            let bar = Region::container("nvme-bar0", len);
            let rules = AccessRules {
                valid: (Size::B1, Size::B8),
                handled: (Size::B4, Size::B4),
                ..AccessRules::ANY
            };
            bar.map(0, &Region::weak_mmio("nvme", table, rules, this.clone()), 0);
            let messages = Region::mmio("msix", table_len + bits, AccessRules::WORD32, &msix);
            bar.map(table, &messages, 0);
            let function = function(&props, express, bar.clone(), &msix);
            let view = Mutex::new(function.dma(&memory).view());
            Nvme {
                props,
                name,
                queues,
                function: Arc::new(function),
                msix,
                _place: bar,
                lane: graph.map(|graph| graph.lane(None)),
                clock,
                view,
                state: Mutex::default(),
                namespaces: Mutex::default(),
                changed: AtomicBool::new(false),
                working: Mutex::default(),
                idle: Condvar::new(),
                this: this.clone(),
            }
        });
        if let Some(own) = own {
            own.belongs_to(nvme.this.clone());
            nvme.namespaces.lock().insert(1, own);
        }
        nvme.function.add_rom(&nvme.props.pci, None)?;
        let this = nvme.this.clone();
        nvme.function.on_reset(move || {
            if let Some(this) = this.upgrade() {
                // As at the peer, configuration space stays.
                this.stop();
            }
        });
        at.offer::<Arc<Function>>(nvme.function.clone());
        at.bus(nvme.clone());
        Ok(nvme)
    }
}

impl PlugBus for Nvme {
    fn name(&self) -> &str {
        &self.name
    }
    fn kind(&self) -> Bus {
        Bus::Nvme
    }
    fn is_hotpluggable(&self) -> bool {
        false
    }
    fn plug(&self, record: &Record) -> Result<()> {
        let plugged: Option<Plugged> = record.ability();
        let plugged = plugged.ok_or_else(|| Error::generic("this is no namespace"))?;
        let mut all = self.namespaces.lock();
        let nsid = match plugged.nsid {
            0 => (1..=identify::MOST_NAMESPACES).find(|id| !all.contains_key(id)),
            id => Some(id),
        };
        let nsid = nsid.ok_or_else(|| Error::generic("no free namespace id"))?;
        if nsid > identify::MOST_NAMESPACES {
            return Err(Error::generic(format!(
                "invalid namespace id (must be between 0 and {})",
                identify::MOST_NAMESPACES
            )));
        }
        if all.contains_key(&nsid) {
            return Err(Error::generic(format!("namespace id '{nsid}' already allocated")));
        }
        plugged.namespace.belongs_to(self.this.clone());
        all.insert(nsid, plugged.namespace);
        Ok(())
    }
    fn unplug(&self, _: &Record) -> Result<Unplug> {
        Err(Error::generic(format!("Bus '{}' does not support hotplugging", self.name)))
    }
    fn removed(&self, record: &Record) {
        if let Some(plugged) = record.ability::<Plugged>() {
            self.namespaces.lock().retain(|_, known| !Arc::ptr_eq(known, &plugged.namespace));
        }
    }
}

impl Nvme {
    fn namespace(&self, id: u32) -> Option<Arc<Namespace>> {
        self.namespaces.lock().get(&id).cloned()
    }

    fn ids(&self) -> Vec<u32> {
        self.namespaces.lock().keys().copied().collect()
    }

    fn spaces(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.lock().values().cloned().collect()
    }

    fn page(&self, cc: u32) -> u64 {
        4096 << (cc >> 7 & 15).min(PAGE_SIZES)
    }

    fn most_entries(&self) -> u32 {
        u32::from(self.props.mqes) + 1
    }

    fn most_vector(&self) -> u16 {
        self.msix.vectors() - 1
    }

    /// Whether writes may stay in a cache.
    fn is_cached(&self, state: &State) -> bool {
        let spaces = self.namespaces.lock();
        let cached = spaces.values().any(|n| n.backend.write_cache.load(Ordering::Relaxed));
        cached && !state.volatile_off
    }

    fn pieces(&self, c: &Command, len: u64, write: bool) -> Data {
        let page = self.page(self.state.lock().cc);
        data::pieces(&mut self.view.lock(), c, (len, page, write))
    }

    /// A namespace has another length.
    fn namespace_changed(&self) {
        const NAMESPACE_ATTRIBUTES: u32 = 1 << 8;
        self.changed.store(true, Ordering::Release);
        let wanted = self.state.lock().event_config & NAMESPACE_ATTRIBUTES != 0;
        if wanted {
            // A notice, of the log of changed namespaces.
            self.state.lock().event(2, 0, 4);
            self.tell_events();
        }
    }

    fn changed_list(&self) -> Vec<u8> {
        let changed = self.changed.swap(false, Ordering::AcqRel);
        identify::list(self.ids().into_iter().filter(|_| changed))
    }

    /// The log of health: temperature, and what was moved in thousands of 512 bytes.
    fn health(&self, temperature: u16) -> Vec<u8> {
        let mut page = vec![self.props.warning.unwrap_or(0)];
        page.extend(temperature.to_le_bytes());
        page.resize(32, 0);
        let (mut moved, mut count) = ([0u64; 2], [0u64; 2]);
        for space in self.spaces() {
            let accounts = &space.backend.accounts;
            for (index, account) in [&accounts.read, &accounts.write].into_iter().enumerate() {
                if let (Some(moved), Some(count)) = (moved.get_mut(index), count.get_mut(index)) {
                    *moved += account.bytes.load(Ordering::Relaxed);
                    *count += account.operations.load(Ordering::Relaxed);
                }
            }
        }
        for number in moved.map(|bytes| (bytes / 512).div_ceil(1000)).into_iter().chain(count) {
            page.extend(u128::from(number).to_le_bytes());
        }
        page.resize(512, 0);
        page
    }

    /// Takes commands from a queue as long as there are some.
    fn process(&self, id: u16) {
        loop {
            let taken = {
                let mut state = self.state.lock();
                state.take(id, &mut self.view.lock())
            };
            let Some(bytes) = taken else { break };
            let command = Command::of(id, &bytes);
            if id == 0 {
                if let Some(outcome) = self.admin(&command) {
                    self.finish(&command, outcome);
                }
            } else {
                self.io(command);
            }
        }
        if let Some(lane) = &self.lane {
            lane.flush();
        }
    }

    /// An I/O command is done.
    fn end(&self, command: &Command, outcome: Outcome) {
        self.finish(command, outcome);
        let mut working = self.working.lock();
        *working = working.saturating_sub(1);
        if *working == 0 {
            self.idle.notify_all();
        }
    }

    fn answer(&self, answer: Answer) {
        let queue = answer.queue;
        let (vector, completion) = {
            let mut state = self.state.lock();
            let vector = state.answer(answer, &mut self.view.lock());
            (vector, state.submission(queue).map(|q| q.completion))
        };
        self.interrupt(vector);
        if let Some(completion) = completion {
            self.go_on(completion);
        }
    }

    /// Queues that waited for answers take commands again.
    fn go_on(&self, completion: u16) {
        let ready = self.state.lock().ready(completion);
        for id in ready {
            self.ring(id);
        }
    }

    fn ring(&self, id: u16) {
        {
            let mut state = self.state.lock();
            let Some(queue) = state.submission(id).filter(|q| !q.busy) else { return };
            queue.busy = true;
        }
        self.process(id);
    }

    fn interrupt(&self, vector: Option<u16>) {
        let Some(vector) = vector else { return };
        if self.msix.is_enabled() {
            self.msix.send(vector);
        } else {
            self.drive_pin();
        }
    }

    fn drive_pin(&self) {
        let level = self.state.lock().pin() && !self.msix.is_enabled();
        self.function.set_pin(level);
    }

    fn wait(&self) {
        for space in self.spaces() {
            space.backend.give_up();
        }
        let mut working = self.working.lock();
        while *working > 0 {
            self.idle.wait(&mut working);
        }
    }

    /// The controller as after power-on.
    fn stop(&self) {
        self.wait();
        *self.state.lock() = State::default();
        self.drive_pin();
    }

    fn start(&self, state: &mut State) {
        let sizes = (state.aqa & 0xfff, state.aqa >> 16 & 0xfff);
        let page = self.page(state.cc);
        let fits = state.cc >> 16 & 0xff == ENTRY_SIZES
            && state.cc >> 7 & 15 <= PAGE_SIZES
            && sizes.0 > 0
            && sizes.1 > 0
            && state.asq.is_multiple_of(page)
            && state.acq.is_multiple_of(page);
        if !fits {
            trace::guest_error!("nvme: the controller cannot be enabled: {:#x}", state.cc);
            state.csts = FATAL;
            return;
        }
        state.submissions =
            vec![Submission { base: state.asq, entries: sizes.0 + 1, ..Submission::default() }];
        state.completions = vec![Completion {
            base: state.acq,
            entries: sizes.1 + 1,
            phase: true,
            interrupts: true,
            ..Completion::default()
        }];
        state.csts = READY;
    }

    fn configure(&self, value: u32) {
        let before = self.state.lock().cc;
        if before & ENABLE != 0 && value & ENABLE == 0 {
            self.wait();
            let mut state = self.state.lock();
            *state = State { aqa: state.aqa, asq: state.asq, acq: state.acq, ..State::default() };
            state.cc = value;
            drop(state);
            return self.drive_pin();
        }
        {
            let mut state = self.state.lock();
            state.cc = value;
            if before & ENABLE == 0 && value & ENABLE != 0 {
                self.start(&mut state);
            }
        }
        if before & SHUTDOWN == 0 && value & SHUTDOWN != 0 {
            self.wait();
            for space in self.spaces() {
                if let Some(node) = space.backend.node() {
                    _ = node.flush();
                }
            }
            self.state.lock().csts |= SHUT_DOWN;
        } else if before & SHUTDOWN != 0 && value & SHUTDOWN == 0 {
            self.state.lock().csts &= !SHUT_DOWN;
        }
    }

    fn doorbell(&self, offset: u64, value: u32) {
        let number = (offset - DOORBELLS) / 4;
        let id = u16::try_from(number / 2).unwrap_or(u16::MAX);
        let mut state = self.state.lock();
        if state.csts & READY == 0 {
            trace::guest_error!("nvme: a doorbell of a controller that is not ready");
            return;
        }
        // Errors: a register of no queue, and a value that is not in the queue.
        let (unknown, wrong) = (0, 1);
        if number.is_multiple_of(2) {
            let known = state.submission(id).map(|q| {
                let fits = value < q.entries;
                if fits {
                    q.tail = value;
                }
                fits
            });
            match known {
                Some(true) => {
                    drop(state);
                    return self.ring(id);
                }
                Some(false) => state.event(0, wrong, 1),
                None => state.event(0, unknown, 1),
            }
        } else {
            let known = state.completion(id).map(|q| {
                let fits = value < q.entries;
                if fits {
                    q.head = value;
                }
                fits
            });
            match known {
                Some(true) => {
                    let vector = state.deliver(id, &mut self.view.lock());
                    drop(state);
                    self.interrupt(vector);
                    self.drive_pin();
                    return self.go_on(id);
                }
                Some(false) => state.event(0, wrong, 1),
                None => state.event(0, unknown, 1),
            }
        }
        drop(state);
        self.tell_events();
    }
}

fn half(value: u64, high: bool) -> u64 {
    if high { value >> 32 } else { value & 0xffff_ffff }
}

fn set_half(value: &mut u64, high: bool, new: u32, mask: u64) {
    let new = u64::from(new);
    *value = if high { (*value & 0xffff_ffff) | new << 32 } else { (*value & !0xffff_ffff) | new };
    *value &= mask;
}

impl Mmio for Nvme {
    fn read(&self, at: Access) -> std::result::Result<u64, BusFault> {
        let state = self.state.lock();
        let place = at.offset & !3;
        Ok(match place {
            CAP | 4 => half(ABILITIES | u64::from(self.props.mqes), place == 4),
            VS => VERSION.into(),
            INTMS | INTMC => state.masked.into(),
            CC => state.cc.into(),
            CSTS => state.csts.into(),
            AQA => state.aqa.into(),
            ASQ | 0x2c => half(state.asq, place != ASQ),
            ACQ | 0x34 => half(state.acq, place != ACQ),
            _ => 0,
        })
    }

    fn write(&self, at: Access, value: u64) -> std::result::Result<(), BusFault> {
        let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let place = at.offset & !3;
        match place {
            INTMS | INTMC => {
                {
                    let mut state = self.state.lock();
                    if place == INTMS { state.masked |= value } else { state.masked &= !value }
                }
                self.drive_pin();
            }
            CC => self.configure(value),
            AQA => self.state.lock().aqa = value & 0x0fff_0fff,
            ASQ | 0x2c => set_half(&mut self.state.lock().asq, place != ASQ, value, !0xfff),
            ACQ | 0x34 => set_half(&mut self.state.lock().acq, place != ACQ, value, !0xfff),
            DOORBELLS.. => self.doorbell(place, value),
            _ => trace::guest_error!("nvme: write to register {place:#x}"),
        }
        Ok(())
    }
}

impl Device for Nvme {
    fn reset(&self, _: Reset) {
        self.stop();
        self.function.reset();
    }

    fn migration(&self) -> Migration<'_> {
        let parts: Vec<(&'static str, &dyn Saved)> =
            vec![("pci", &*self.function), ("state", &self.state)];
        Migration::Parts(parts)
    }

    fn settle(&self) {
        self.function.settle();
        self.drive_pin();
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.wait();
            for space in self.spaces() {
                if let Some(node) = space.backend.node() {
                    _ = node.flush();
                }
            }
        })
    }
}
