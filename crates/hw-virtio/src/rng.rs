//! Virtio entropy device (virtio 1.3, section 5.4).
//!
//! Random bytes come from the host's generator. `max-bytes` per `period` limits
//! how much a guest may draw: when the quota is used up, requests wait for the
//! next period. Not modelled: other back ends (`rng=` names none yet).

use std::sync::{Arc, OnceLock, Weak};

use derive::{Qapi, VmState};
use device::{Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset, Timer};
use parking_lot::Mutex;
use virtio::{Common, Port, VirtioDevice, VirtioId};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioRng>();

/// Properties of `virtio-rng-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Most bytes in a period
    #[qapi(name = "max-bytes", default = 9223372036854775807)]
    pub max_bytes: u64,
    /// Length of a period in milliseconds
    #[qapi(default = 65536)]
    pub period: u32,
    /// ID of an entropy back end
    pub rng: Option<String>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

const QUEUE_SIZE: u16 = 8;
/// Most bytes made at once for one request.
const CHUNK: usize = 4096;

#[derive(Default, VmState)]
#[vmstate(name = "virtio-rng", version = 1)]
struct State {
    /// Bytes given in this period.
    given: u64,
    /// End of the period, in guest time; 0 when none began.
    ends: u64,
}

/// The device.
pub struct VirtioRng {
    props: Props,
    port: OnceLock<Port>,
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
        if let Some(id) = &props.rng {
            return Err(qapi::Error::device_not_found(id));
        }
        if props.period == 0 {
            return Err(qapi::Error::expects("period", "a positive number"));
        }
        if i64::try_from(props.max_bytes).is_err() {
            return Err(qapi::Error::expects("max-bytes", "a non-negative integer below 2^63"));
        }
        let device = Arc::new(VirtioRng {
            props,
            port: OnceLock::new(),
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
            *state = State { given: 0, ends: now.saturating_add(period) };
        }
        let left = self.props.max_bytes.saturating_sub(state.given);
        let n = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        state.given = state.given.saturating_add(n as u64);
        if n == 0
            && wanted > 0
            && self.props.max_bytes > 0
            && let Some(timer) = self.timer.get()
        {
            timer.arm_at(state.ends);
        }
        n
    }

    fn serve(&self) {
        let Some(queue) = self.port.get().and_then(|p| p.queue(0)) else { return };
        while let Some(chain) = queue.pop() {
            let wanted = chain.writable_len().min(CHUNK);
            let n = self.allowance(wanted);
            if n == 0 && wanted > 0 {
                queue.unpop(chain);
                break;
            }
            let mut bytes = vec![0; n];
            if host::fill_random(&mut bytes).is_err() {
                queue.unpop(chain);
                break;
            }
            let written = chain.write(0, &bytes);
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
        self.serve();
    }
}
