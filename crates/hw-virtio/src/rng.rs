//! Virtio entropy device (virtio 1.3, section 5.4).
//!
//! Random bytes come from the host's generator or from the object that `rng=` names.
//! `max-bytes` per `period` limits how much a guest may draw: when the quota is used
//! up, requests wait for the next period; when the source has nothing, for the source.
//! Not modelled: nothing of the specification.

use std::io;
use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{Build, Bus, Device, DeviceClass, DeviceType, Entropy, Held, Migration, Reset, Timer};
use parking_lot::Mutex;
use virtio::{Common, Port, VirtioDevice, VirtioId};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioRng>();

pci::named_property!(
    /// The name of an entropy back end.
    RngLink, "link<rng-backend>"
);

/// Properties of `virtio-rng-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Most bytes in a period
    #[qapi(name = "max-bytes", default = 9223372036854775807)]
    pub max_bytes: u64,
    /// Length of a period in milliseconds
    #[qapi(default = 65536)]
    pub period: u32,
    /// ID of an entropy back end; by default the host's generator
    pub rng: Option<RngLink>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

const QUEUE_SIZE: u16 = 8;
/// Most bytes made at once for one request.
const CHUNK: usize = 4096;

#[derive(Default, VmState)]
#[vmstate(name = "virtio-rng", version = 2, min_version = 2)]
struct State {
    /// Bytes given in this period.
    given: u64,
    /// End of the period, in guest time; 0 when none began.
    ends: u64,
    /// A request waits for the end of the period or for the source.
    waits: bool,
}

/// The device.
pub struct VirtioRng {
    props: Props,
    source: Option<Held<Arc<dyn Entropy>>>,
    port: OnceLock<Port>,
    this: Weak<VirtioRng>,
    clock: device::Clock,
    timer: OnceLock<Timer>,
    state: Mutex<State>,
}

impl DeviceType for VirtioRng {
    const NAME: &'static str = "virtio-rng-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio entropy source";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        if props.period == 0 {
            return Err(qapi::Error::generic("'period' parameter expects a positive integer"));
        }
        if i64::try_from(props.max_bytes).is_err() {
            let text = "'max-bytes' parameter must be positive, and less than 2^63";
            return Err(qapi::Error::generic(text));
        }
        let source = match &props.rng {
            Some(link) => Some(at.object("rng", &link.0, "rng-backend")?),
            None => None,
        };
        let device = Arc::new_cyclic(|this| VirtioRng {
            props,
            source,
            port: OnceLock::new(),
            this: this.clone(),
            clock: at.clock(),
            timer: OnceLock::new(),
            state: Mutex::default(),
        });
        let weak: Weak<VirtioRng> = Arc::downgrade(&device);
        _ = device.timer.set(at.timer(move || {
            if let Some(rng) = weak.upgrade() {
                rng.serve();
            }
        }));
        at.offer::<virtio::Offer>(device.clone());
        Ok(device)
    }
}

impl VirtioRng {
    pub(crate) fn state(&self) -> &dyn device::Saved {
        &self.state
    }

    /// How many of `wanted` bytes may be given now; arms the timer when none may.
    fn allowance(&self, wanted: usize) -> usize {
        let mut state = self.state.lock();
        let now = self.clock.now_ns();
        if now >= state.ends {
            let period = u64::from(self.props.period).saturating_mul(1_000_000);
            *state = State { ends: now.saturating_add(period), ..State::default() };
        }
        let left = self.props.max_bytes.saturating_sub(state.given);
        let n = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        state.given = state.given.saturating_add(n as u64);
        if n == 0
            && wanted > 0
            && self.props.max_bytes > 0
            && let Some(timer) = self.timer.get()
        {
            state.waits = true;
            timer.arm_at(state.ends);
        }
        n
    }

    fn fill(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match &self.source {
            Some(source) => source.fill(bytes),
            None => host::fill_random(bytes).map(|()| bytes.len()),
        }
    }

    /// Bytes that were allowed and not given.
    fn refund(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.given = state.given.saturating_sub(bytes as u64);
    }

    /// Serves again once the source has something; a broken one gives nothing any more.
    fn wait(&self, error: &io::Error) {
        if let Some(source) = &self.source
            && error.kind() == io::ErrorKind::WouldBlock
        {
            let this = self.this.clone();
            self.state.lock().waits = true;
            source.when_ready(Box::new(move || {
                if let Some(rng) = this.upgrade() {
                    rng.serve();
                }
            }));
        }
    }

    fn serve(&self) {
        self.state.lock().waits = false;
        let Some(queue) = self.port.get().and_then(|p| p.queue(0)) else { return };
        while let Some(chain) = queue.pop() {
            let wanted = chain.writable_len().min(CHUNK);
            let n = self.allowance(wanted);
            if n == 0 && wanted > 0 {
                queue.unpop(chain);
                break;
            }
            let mut bytes = vec![0; n];
            let n = match self.fill(&mut bytes) {
                Ok(n) => n,
                Err(error) => {
                    queue.unpop(chain);
                    self.refund(bytes.len());
                    self.wait(&error);
                    break;
                }
            };
            self.refund(bytes.len() - n);
            let written = chain.write(0, bytes.get(..n).unwrap_or_default());
            queue.push(chain, written);
        }
        queue.signal();
    }
}

impl VirtioDevice for VirtioRng {
    fn id(&self) -> VirtioId {
        VirtioId(4)
    }
    fn features(&self) -> u64 {
        self.props.common.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }
    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }
    fn notify(&self, _: u16) {
        self.serve();
    }
}

impl Device for VirtioRng {
    fn reset(&self, _: Reset) {
        *self.state.lock() = State::default();
        if let Some(timer) = self.timer.get() {
            timer.cancel();
        }
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.state)
    }

    fn settle(&self) {
        let (waits, ends) = {
            let state = self.state.lock();
            (state.waits, state.ends)
        };
        if let Some(timer) = self.timer.get().filter(|_| waits) {
            timer.arm_at(ends);
        }
    }
}
