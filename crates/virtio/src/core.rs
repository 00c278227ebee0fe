//! What all transports share: negotiation, status, queues, interrupts.

use std::sync::{Arc, Weak};

use derive::VmState;
use device::Dma;
use parking_lot::Mutex;
use vmstate::{LoadError, Saved, StateReader, StateSchema, StateWriter, VmState};

use crate::irq::{Irq, Wires};
use crate::queue::{MAX_SIZE, Queue, QueueState};
use crate::{NO_VECTOR, VirtioDevice, feature};

// 2.1: device status.
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 0x40;

/// Which interfaces a transport shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// That of before version 1.0 only: no VERSION_1.
    Legacy,
    /// Both, and the driver chooses.
    Transitional,
    /// That of version 1.0 and later only.
    Modern,
}

/// A device's way to its queues and to the driver's attention.
#[derive(Clone)]
pub struct Port {
    queues: Vec<Arc<Queue>>,
    irq: Arc<Irq>,
}

impl Port {
    /// A queue.
    #[must_use]
    pub fn queue(&self, index: usize) -> Option<&Arc<Queue>> {
        self.queues.get(index)
    }

    /// Tells the driver that the configuration changed.
    pub fn config_changed(&self) {
        self.irq.config();
    }
}

#[derive(Clone, Copy, Debug, Default, VmState)]
#[vmstate(name = "virtio-regs", version = 2, min_version = 2)]
struct Regs {
    status: u8,
    features: u64,
}

/// Everything that is saved of a core.
#[derive(VmState)]
#[vmstate(name = "virtio", version = 3, min_version = 3)]
struct Snapshot {
    regs: Regs,
    isr: u8,
    generation: u8,
    config_vector: u16,
    broken: bool,
    #[vmstate(max = 1024)]
    queues: Vec<QueueState>,
}

/// A device on a transport.
pub struct Core {
    device: Arc<dyn VirtioDevice>,
    interface: Interface,
    config_len: usize,
    irq: Arc<Irq>,
    queues: Vec<Arc<Queue>>,
    regs: Mutex<Regs>,
}

impl Core {
    /// Puts a device on a transport.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        dma: &Dma,
        interface: Interface,
        wires: Weak<dyn Wires>,
    ) -> Arc<Core> {
        let irq = Arc::new(Irq::default());
        irq.connect(wires);
        irq.set_config_vector(NO_VECTOR);
        let sizes = device.queue_sizes();
        let queues: Vec<_> =
            sizes.into_iter().map(|max| Queue::new(max, dma, irq.clone())).collect();
        let config_len = device.config().len();
        let port = Port { queues: queues.clone(), irq: irq.clone() };
        let core = Core {
            device: device.clone(),
            interface,
            config_len,
            irq,
            queues,
            regs: Mutex::default(),
        };
        device.attach(port);
        Arc::new(core)
    }

    /// Device type.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.device.id().0
    }

    /// Number of queues.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// A queue.
    #[must_use]
    pub fn queue(&self, index: u16) -> Option<&Arc<Queue>> {
        self.queues.get(usize::from(index))
    }

    /// The interfaces shown.
    #[must_use]
    pub fn interface(&self) -> Interface {
        self.interface
    }

    /// Features offered to drivers of version 1.0 and later.
    #[must_use]
    pub fn features(&self) -> u64 {
        let legacy = feature::NOTIFY_ON_EMPTY | feature::ANY_LAYOUT;
        let legacy = legacy | self.device.legacy_only();
        (self.device.features() | feature::VERSION_1) & !legacy
    }

    /// Features offered to legacy drivers.
    #[must_use]
    pub fn legacy_features(&self) -> u32 {
        u32::try_from(self.device.features() & 0xffff_ffff).unwrap_or(0)
    }

    /// A driver of version 1.0 or later accepts features, 32 at a time.
    pub fn accept(&self, high: bool, value: u32) {
        let shift = if high { 32 } else { 0 };
        self.change_features(|old| {
            let kept = old & !(0xffff_ffff << shift);
            (kept | u64::from(value) << shift) & self.features()
        });
    }

    /// A legacy driver accepts features.
    pub fn accept_legacy(&self, value: u32) {
        self.change_features(|_| u64::from(value & self.legacy_features()));
    }

    fn change_features(&self, f: impl FnOnce(u64) -> u64) {
        let mut regs = self.regs.lock();
        if regs.status & (FEATURES_OK | DRIVER_OK) != 0 {
            trace::guest_error!("virtio: features written after they were agreed on");
            return;
        }
        regs.features = f(regs.features);
    }

    /// Accepted features.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.regs.lock().features
    }

    /// Device status.
    #[must_use]
    pub fn status(&self) -> u8 {
        let regs = *self.regs.lock();
        let told = self.irq.is_broken() && regs.features & feature::VERSION_1 != 0;
        regs.status | if told { NEEDS_RESET } else { 0 }
    }

    /// The driver writes the status (2.1); zero resets.
    pub fn set_status(&self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        let started = {
            let mut regs = self.regs.lock();
            let mut value = value;
            if value & FEATURES_OK != 0 && !self.agrees(regs.features) {
                value &= !FEATURES_OK;
            }
            let start = value & !regs.status & DRIVER_OK != 0;
            regs.status = value & !NEEDS_RESET;
            start.then_some(regs.features)
        };
        if let Some(features) = started {
            self.begin(features);
        }
    }

    /// 6.1: what a driver must accept, or it may not go on.
    fn agrees(&self, features: u64) -> bool {
        let platform = self.device.features() & feature::ACCESS_PLATFORM;
        features & platform == platform
    }

    fn begin(&self, features: u64) {
        for queue in &self.queues {
            queue.change(|s| s.features = features);
        }
        self.irq.set_modern(features & feature::VERSION_1 != 0);
        self.irq.set_live(true);
        self.device.start(features);
        // Legacy drivers may have filled queues before.
        self.notify_all();
    }

    fn notify_all(&self) {
        for (index, queue) in (0u16..).zip(&self.queues) {
            if queue.state().enabled {
                self.device.notify(index);
            }
        }
        self.irq.tell_broken();
    }

    /// The driver says that there is something in a queue.
    pub fn notify(&self, index: u16) {
        if self.regs.lock().status & DRIVER_OK == 0 {
            return;
        }
        if self.queue(index).is_some() {
            self.device.notify(index);
            self.irq.tell_broken();
        }
    }

    /// Resets everything; the transport's registers are its own matter.
    pub fn reset(&self) {
        let was = std::mem::take(&mut *self.regs.lock());
        self.irq.set_live(false);
        for queue in &self.queues {
            queue.close();
        }
        if was.status != 0 {
            self.device.stop();
        }
        for queue in &self.queues {
            queue.reset();
        }
        self.irq.set_broken(false);
        self.irq.set_generation(0);
        self.irq.set_config_vector(NO_VECTOR);
        self.irq.set_isr(|_| 0);
    }

    /// Bytes of configuration space.
    #[must_use]
    pub fn config_len(&self) -> usize {
        self.config_len
    }

    /// Reads configuration space; beyond its end there are ones, as at the peer.
    #[must_use]
    pub fn config_read(&self, at: u64, size: u64) -> u64 {
        let config = self.device.config();
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(size).unwrap_or(8));
        let Some(bytes) = config.get(start..end) else { return u64::MAX };
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Writes configuration space.
    pub fn config_write(&self, at: u64, size: u64, value: u64) {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let size = usize::try_from(size).unwrap_or(8);
        if start.saturating_add(size) > self.config_len {
            return;
        }
        if let Some(bytes) = value.to_le_bytes().get(..size) {
            self.device.config_write(start, bytes);
        }
    }

    /// Interrupt status.
    #[must_use]
    pub fn isr(&self) -> u8 {
        self.irq.isr()
    }

    /// Clears bits of the interrupt status; the status before.
    pub fn acknowledge(&self, bits: u8) -> u8 {
        self.irq.set_isr(|isr| isr & !bits)
    }

    /// MSI-X vector of configuration changes.
    #[must_use]
    pub fn config_vector(&self) -> u16 {
        self.irq.config_vector()
    }

    /// Sets the MSI-X vector of configuration changes.
    pub fn set_config_vector(&self, vector: u16) {
        self.irq.set_config_vector(vector);
    }

    /// Changes a queue's settings, unless it is in use.
    pub fn set_up(&self, index: u16, f: impl FnOnce(&mut QueueState)) {
        if let Some(queue) = self.queue(index) {
            queue.change(|s| {
                if s.enabled { trace::guest_error!("virtio: queue in use") } else { f(s) }
            });
        }
    }

    /// Sets a queue's size; what is not from 1 to [`MAX_SIZE`] is ignored, as at the peer.
    pub fn set_size(&self, index: u16, size: u16) {
        if (1..=MAX_SIZE).contains(&size) {
            self.set_up(index, |s| s.size = size);
        } else {
            trace::guest_error!("virtio: queue size {size}");
        }
    }

    /// Switches a queue on.
    pub fn enable(&self, index: u16) {
        let features = self.accepted();
        let Some(queue) = self.queue(index) else { return };
        queue.change(|s| {
            s.features = features;
            if s.is_sane() {
                s.enabled = true;
            } else {
                trace::guest_error!("virtio: queue {index} has a bad size {}", s.size);
            }
        });
    }

    /// Resets one queue (2.6.1).
    pub fn reset_queue(&self, index: u16) {
        if let Some(queue) = self.queue(index) {
            queue.close();
            self.device.stop_queue(index);
            queue.reset();
        }
    }

    /// Counts changes of the configuration space (2.5.1).
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.irq.generation()
    }

    /// Stops taking chains and lets the device finish or put back those it has.
    pub async fn pause(&self) {
        for queue in &self.queues {
            queue.set_paused(true);
        }
        self.device.pause().await;
    }

    /// Undoes [`Core::pause`] and lets the device look at its queues.
    pub fn resume(&self) {
        for queue in &self.queues {
            queue.set_paused(false);
        }
        self.device.resume();
        if self.regs.lock().status & DRIVER_OK != 0 {
            for (index, queue) in (0u16..).zip(&self.queues) {
                let chains = queue.restored();
                if !chains.is_empty() {
                    self.device.restored(index, chains);
                }
            }
            self.notify_all();
        }
    }

    /// Drives the line from the state and lets the device look at its queues.
    pub fn settle(&self) {
        self.irq.settle();
        let (status, features) = {
            let regs = self.regs.lock();
            (regs.status, regs.features)
        };
        if status & DRIVER_OK != 0 {
            self.device.start(features);
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            regs: *self.regs.lock(),
            isr: self.irq.isr(),
            generation: self.irq.generation(),
            config_vector: self.irq.config_vector(),
            broken: self.irq.is_broken(),
            queues: self.queues.iter().map(|q| q.saved()).collect(),
        }
    }
}

impl Saved for Core {
    fn schema(&self) -> &'static StateSchema {
        Snapshot::schema()
    }

    fn save(&self, w: &mut StateWriter) {
        self.snapshot().save(w);
    }

    fn load(&self, r: &mut StateReader<'_>, version: u32) -> Result<(), LoadError> {
        let loaded = Snapshot::load(r, version)?;
        let Snapshot { regs, isr, generation, config_vector, broken, queues } = loaded;
        if queues.len() != self.queues.len() {
            return Err(LoadError::Invalid("the number of queues differs"));
        }
        let offered = self.features() | u64::from(self.legacy_features());
        let fits = |(q, s): (&Arc<Queue>, &QueueState)| {
            let sane = !s.enabled || (s.is_sane() && s.is_consistent());
            s.size <= MAX_SIZE.max(q.max()) && sane && s.features & !offered == 0
        };
        if !self.queues.iter().zip(&queues).all(fits) || regs.features & !offered != 0 {
            return Err(LoadError::Invalid("queues or features this device does not have"));
        }
        *self.regs.lock() = regs;
        self.irq.set_broken(broken);
        self.irq.set_live(regs.status & DRIVER_OK != 0);
        self.irq.set_modern(regs.features & feature::VERSION_1 != 0);
        self.irq.set_generation(generation);
        self.irq.set_config_vector(config_vector);
        self.irq.set_isr(|_| isr);
        for (queue, state) in self.queues.iter().zip(queues) {
            queue.replace(state);
        }
        Ok(())
    }
}
