//! Virtio traditional memory balloon (virtio 1.3, section 5.5).
//!
//! Pages that the guest hands over, or reports as free, are given back to the host and read as
//! zeroes from then on. The monitor reaches it as `device::Balloon`. A machine has one at most.
//! Not modelled: hints about free pages are never asked for, since only migration does that; the
//! queue for them exists and is emptied. Names of statistics are QMP's.

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{
    Balloon, BalloonStats, BoxFuture, Build, Bus, Device, DeviceClass, DeviceType, Dma, Held,
    Migration, Reset, Timer, WallClock,
};
use evloop::Handle;
use parking_lot::Mutex;
use qapi::{Error, Result};
use virtio::{Chain, Common, Kick, Port, VirtioDevice, VirtioId};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioBalloon>();

pci::named_property!(
    /// The name of an I/O thread.
    IothreadLink, "link<iothread>"
);
pci::named_property!(
    /// What the guest says about its memory; read with `qom-get`.
    GuestStats, "guest statistics"
);

/// Properties of `virtio-balloon-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Let the guest take pages back before it runs out of memory
    #[qapi(name = "deflate-on-oom", default = false)]
    pub deflate_on_oom: bool,
    /// Offer hints about free pages, which only migration asks for
    #[qapi(name = "free-page-hint", default = false)]
    pub free_page_hint: bool,
    /// Take reports of free pages and give them back to the host
    #[qapi(name = "free-page-reporting", default = false)]
    pub free_page_reporting: bool,
    /// What the guest says about its memory; cannot be set
    #[qapi(name = "guest-stats")]
    pub guest_stats: Option<GuestStats>,
    /// Seconds between questions about the guest's memory
    #[qapi(name = "guest-stats-polling-interval")]
    pub interval: Option<i64>,
    /// I/O thread for hints about free pages
    pub iothread: Option<IothreadLink>,
    /// Tell the guest that it may say how it poisons pages
    #[qapi(name = "page-poison", default = true)]
    pub page_poison: bool,
    /// Show the whole configuration space whatever is offered
    #[qapi(name = "qemu-4-0-config-size", default = false)]
    pub whole_config: bool,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

// 5.5.3: features.
const STATS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const FREE_PAGE_HINT: u64 = 1 << 3;
const PAGE_POISON: u64 = 1 << 4;
const REPORTING: u64 = 1 << 5;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATS: u16 = 2;
const QUEUE_SIZE: u16 = 128;
const HINT_SIZE: u16 = 1024;
const REPORT_SIZE: u16 = 32;
/// Offset of `actual`, of the hint command and of `poison_val`.
const ACTUAL: usize = 4;
const HINT: usize = 8;
const POISON: usize = 12;
const CONFIG_LEN: usize = 16;
/// 5.5.6: pages are 4 KiB whatever the guest's are.
const SHIFT: u32 = 12;
const PAGE: u64 = 1 << SHIFT;
/// Page numbers taken from one chain at a time.
const BATCH: usize = 4096;
const SECOND: u64 = 1_000_000_000;

/// 5.5.6.3: statistics by tag, in QMP's words.
const NAMES: [&str; 16] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
];

#[derive(Clone, VmState)]
#[vmstate(name = "virtio-balloon", version = 2, min_version = 2)]
struct State {
    /// Pages the host wants.
    num_pages: u32,
    /// Pages the guest says it gave.
    actual: u32,
    poison: u32,
    features: u64,
    /// When statistics came last, in seconds since 1970.
    updated: i64,
    stats: [u64; NAMES.len()],
    /// Seconds between questions; 0: none are asked.
    interval: i64,
    /// When the next question is due, in guest time; 0: never.
    due: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            num_pages: 0,
            actual: 0,
            poison: 0,
            features: 0,
            updated: 0,
            stats: [u64::MAX; NAMES.len()],
            interval: 0,
            due: 0,
        }
    }
}

type OnChange = Arc<dyn Fn(u64) + Send + Sync>;

/// The device.
pub struct VirtioBalloon {
    props: Props,
    port: OnceLock<Port>,
    dma: Dma,
    ram_size: u64,
    wall: WallClock,
    timer: OnceLock<Timer>,
    state: Mutex<State>,
    /// 5.5.6.3: the driver's buffer of statistics stays with us until new ones are wanted.
    held: Mutex<Option<Chain>>,
    on_change: Mutex<Option<OnChange>>,
    hints: Kick,
    _iothread: Option<Held<Handle>>,
}

impl DeviceType for VirtioBalloon {
    const NAME: &'static str = "virtio-balloon-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio memory balloon";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> Result<Arc<Self>> {
        if props.guest_stats.is_some() {
            let text = format!("Property '{}.guest-stats' is not writable", Self::NAME);
            return Err(Error::generic(text));
        }
        let services = at.world().services.clone();
        if services.find::<Weak<dyn Balloon>>().is_some_and(|b| b.strong_count() > 0) {
            return Err(Error::generic("Only one balloon device is supported"));
        }
        let iothread: Option<Held<Handle>> = match &props.iothread {
            Some(link) => Some(at.object("iothread", &link.0, "iothread")?),
            None if props.free_page_hint => {
                return Err(Error::generic("'free-page-hint' requires 'iothread' to be set"));
            }
            None => None,
        };
        let interval = props.interval.unwrap_or(0);
        check_interval(interval)?;
        let ram_size = at.service::<device::RamSize>().map_or(0, |size| size.0);
        let (dma, wall) = (at.dma(), at.wall());
        let device = Arc::new_cyclic(|this: &Weak<VirtioBalloon>| {
            let weak = this.clone();
            let hints = Kick::new(iothread.as_deref().cloned(), move || {
                if let Some(balloon) = weak.upgrade() {
                    balloon.drain_hints();
                }
            });
            VirtioBalloon {
                props,
                port: OnceLock::new(),
                dma,
                ram_size,
                wall,
                timer: OnceLock::new(),
                state: Mutex::new(State { interval, ..State::default() }),
                held: Mutex::default(),
                on_change: Mutex::default(),
                hints,
                _iothread: iothread,
            }
        });
        let weak: Weak<VirtioBalloon> = Arc::downgrade(&device);
        _ = device.timer.set(at.timer(move || {
            if let Some(balloon) = weak.upgrade() {
                balloon.ask();
            }
        }));
        let ability: Arc<dyn Balloon> = device.clone();
        services.add::<Weak<dyn Balloon>>(Arc::downgrade(&ability));
        at.offer::<Arc<dyn Balloon>>(ability);
        at.offer::<virtio::Offer>(device.clone());
        Ok(device)
    }
}

fn check_interval(seconds: i64) -> Result<()> {
    match seconds {
        ..0 => Err(Error::generic("timer value must be greater than zero")),
        0..=0xffff_ffff => Ok(()),
        _ => Err(Error::generic("timer value is too big")),
    }
}

impl VirtioBalloon {
    pub(crate) fn state(&self) -> &dyn device::Saved {
        &self.state
    }

    fn queue(&self, index: u16) -> Option<&Arc<virtio::Queue>> {
        self.port.get()?.queue(index.into())
    }

    fn reporting_queue(&self) -> Option<u16> {
        let hint = u16::from(self.props.free_page_hint);
        self.props.free_page_reporting.then_some(STATS + 1 + hint)
    }

    /// Takes page numbers and gives the pages back to the host.
    fn inflate(&self) {
        let Some(queue) = self.queue(INFLATE) else { return };
        while let Some(chain) = queue.pop() {
            let mut skip = 0;
            let mut bytes = vec![0; 4 * BATCH];
            loop {
                let n = chain.read(skip, &mut bytes) / 4 * 4;
                let (words, _) = bytes.get(..n).unwrap_or_default().as_chunks::<4>();
                self.discard(words.iter().map(|word| u32::from_le_bytes(*word)));
                skip += n;
                if n < bytes.len() {
                    break;
                }
            }
            queue.push(chain, 0);
        }
        queue.signal();
    }

    /// Gives pages back, runs of them at once.
    fn discard(&self, pages: impl Iterator<Item = u32>) {
        let mut run: Option<(u64, u64)> = None;
        for page in pages {
            let at = u64::from(page) << SHIFT;
            run = match run {
                Some((start, end)) if at == end => Some((start, end + PAGE)),
                // Linux hands pages over from the top down.
                Some((start, end)) if at + PAGE == start => Some((at, end)),
                other => {
                    self.discard_run(other);
                    Some((at, at + PAGE))
                }
            };
        }
        self.discard_run(run);
    }

    fn discard_run(&self, run: Option<(u64, u64)>) {
        let Some((mut at, end)) = run else { return };
        while at < end {
            let ram = self.dma.ram_at(at).filter(|r| !r.readonly);
            let Some(ram) = ram.filter(|r| r.len >= PAGE && r.offset.is_multiple_of(PAGE)) else {
                trace::guest_error!("virtio-balloon: page at {at:#x} is not RAM");
                at += PAGE;
                continue;
            };
            let n = ram.len.min(end - at) / PAGE * PAGE;
            if let Err(error) = ram.block.discard(ram.offset, n) {
                trace::guest_error!("virtio-balloon: {} bytes at {at:#x} stay: {error}", n);
            }
            at += n;
        }
    }

    /// 5.5.6.7: buffers that are free pages.
    fn take_reports(&self, index: u16) {
        let Some(queue) = self.queue(index) else { return };
        let poisoned = {
            let state = self.state.lock();
            state.features & PAGE_POISON != 0 && state.poison != 0
        };
        while let Some(chain) = queue.pop() {
            // Poisoned pages must keep their poison: they are left as they are.
            for piece in chain.writable().iter().filter(|_| !poisoned) {
                let (offset, len) = (piece.offset(), piece.len() as u64);
                if offset.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) {
                    _ = piece.block().discard(offset, len);
                }
            }
            queue.push(chain, 0);
        }
        queue.signal();
    }

    fn give_back(&self, index: u16) {
        let Some(queue) = self.queue(index) else { return };
        while let Some(chain) = queue.pop() {
            queue.push(chain, 0);
        }
        queue.signal();
    }

    fn drain_hints(&self) {
        self.give_back(STATS + 1);
    }

    /// The driver's statistics: tags of 16 bits with values of 64.
    fn take_stats(&self) {
        let Some(queue) = self.queue(STATS) else { return };
        let mut held = self.held.lock();
        while let Some(chain) = queue.pop() {
            let bytes = chain.read_up_to(10 * 64);
            let mut state = self.state.lock();
            state.stats = [u64::MAX; NAMES.len()];
            for entry in bytes.as_chunks::<10>().0 {
                let [t0, t1, value @ ..] = *entry;
                let tag = usize::from(u16::from_le_bytes([t0, t1]));
                if let Some(stat) = state.stats.get_mut(tag) {
                    *stat = u64::from_le_bytes(value);
                }
            }
            state.updated = (self.wall)() / 1_000_000_000;
            drop(state);
            // A driver has one buffer; what it gives beyond that comes back at once.
            if let Some(old) = held.replace(chain) {
                queue.push(old, 0);
            }
        }
        drop(held);
        queue.signal();
        self.arm();
    }

    /// Wants new statistics by giving the buffer back.
    fn ask(&self) {
        let chain = self.held.lock().take();
        match (chain, self.queue(STATS)) {
            (Some(chain), Some(queue)) => {
                queue.push(chain, 0);
                queue.signal();
            }
            // The guest has not answered yet: look again later.
            _ => self.arm(),
        }
    }

    fn arm(&self) {
        let Some(timer) = self.timer.get() else { return };
        let mut state = self.state.lock();
        if state.interval == 0 {
            state.due = 0;
            timer.cancel();
            return;
        }
        let wait = u64::try_from(state.interval).unwrap_or(0).saturating_mul(SECOND);
        state.due = timer.clock().now_ns().saturating_add(wait);
        timer.arm_at(state.due);
    }

    fn offers_stats(&self) -> bool {
        self.state.lock().features & STATS_VQ != 0
    }

    fn hold_back(&self) {
        let chain = self.held.lock().take();
        if let (Some(chain), Some(queue)) = (chain, self.queue(STATS)) {
            queue.unpop(chain);
        }
    }
}

impl Balloon for VirtioBalloon {
    fn set_target(&self, bytes: u64) {
        if bytes == 0 {
            return; // the peer does nothing either
        }
        let pages = self.ram_size.saturating_sub(bytes) >> SHIFT;
        self.state.lock().num_pages = u32::try_from(pages).unwrap_or(u32::MAX);
        if let Some(port) = self.port.get() {
            port.config_changed();
        }
    }

    fn actual(&self) -> u64 {
        let pages = u64::from(self.state.lock().actual);
        self.ram_size.saturating_sub(pages << SHIFT)
    }

    fn stats(&self) -> BalloonStats {
        let state = self.state.lock();
        let stats = NAMES.into_iter().zip(state.stats).collect();
        BalloonStats { last_update: state.updated, stats }
    }

    fn polling_interval(&self) -> i64 {
        self.state.lock().interval
    }

    fn set_polling_interval(&self, seconds: i64) -> Result<()> {
        check_interval(seconds)?;
        self.state.lock().interval = seconds;
        if seconds > 0 && self.offers_stats() {
            self.ask();
        }
        self.arm();
        Ok(())
    }

    fn on_change(&self, f: OnChange) {
        *self.on_change.lock() = Some(f);
    }
}

impl VirtioDevice for VirtioBalloon {
    fn id(&self) -> VirtioId {
        VirtioId(5)
    }

    fn features(&self) -> u64 {
        let p = &self.props;
        [
            (true, STATS_VQ),
            (p.deflate_on_oom, DEFLATE_ON_OOM),
            (p.free_page_hint, FREE_PAGE_HINT),
            (p.page_poison, PAGE_POISON),
            (p.free_page_reporting, REPORTING),
        ]
        .into_iter()
        .fold(p.common.features(), |all, (on, bit)| if on { all | bit } else { all })
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 3];
        sizes.extend(self.props.free_page_hint.then_some(HINT_SIZE));
        sizes.extend(self.props.free_page_reporting.then_some(REPORT_SIZE));
        sizes
    }

    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }

    fn config(&self) -> Vec<u8> {
        let state = self.state.lock();
        // The hint command is 0, "stop": none is ever asked for.
        let words = [state.num_pages, state.actual, 0, state.poison];
        let mut config: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        config.truncate(match &self.props {
            Props { whole_config: true, .. } | Props { page_poison: true, .. } => CONFIG_LEN,
            Props { free_page_hint: true, .. } => POISON,
            _ => HINT,
        });
        config
    }

    fn config_write(&self, at: usize, data: &[u8]) {
        let changed = {
            let mut state = self.state.lock();
            let before = state.actual;
            let (word, skip) = match at {
                ACTUAL..HINT => (&mut state.actual, at - ACTUAL),
                POISON..CONFIG_LEN => (&mut state.poison, at - POISON),
                _ => return,
            };
            let mut bytes = word.to_le_bytes();
            for (to, from) in bytes.iter_mut().skip(skip).zip(data) {
                *to = *from;
            }
            *word = u32::from_le_bytes(bytes);
            state.actual != before
        };
        let listener = self.on_change.lock().clone();
        if let Some(f) = listener.filter(|_| changed) {
            f(self.actual());
        }
    }

    fn notify(&self, index: u16) {
        match index {
            INFLATE => self.inflate(),
            // Pages come back by being touched.
            DEFLATE => self.give_back(index),
            STATS => self.take_stats(),
            _ if Some(index) == self.reporting_queue() => self.take_reports(index),
            _ => self.hints.kick(),
        }
    }

    fn start(&self, negotiated: u64) {
        self.state.lock().features = negotiated;
    }

    fn stop(&self) {
        drop(self.held.lock().take());
        let mut state = self.state.lock();
        state.poison = 0;
        state.features = 0;
        state.stats = [u64::MAX; NAMES.len()];
    }

    fn stop_queue(&self, index: u16) {
        if index == STATS {
            drop(self.held.lock().take());
        }
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.hold_back();
        Box::pin(std::future::ready(()))
    }
}

impl Device for VirtioBalloon {
    fn reset(&self, _: Reset) {
        let interval = {
            let mut state = self.state.lock();
            // What the host wants outlives a reset, as at the peer.
            let kept = (state.num_pages, state.interval);
            *state = State { num_pages: kept.0, interval: kept.1, ..State::default() };
            kept.1
        };
        if let Some(timer) = self.timer.get().filter(|_| interval == 0) {
            timer.cancel();
        }
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.state)
    }

    fn settle(&self) {
        let due = self.state.lock().due;
        if let Some(timer) = self.timer.get().filter(|_| due > 0) {
            timer.arm_at(due);
        }
    }
}
