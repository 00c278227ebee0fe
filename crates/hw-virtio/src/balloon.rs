//! Virtio traditional memory balloon (virtio 1.3, section 5.5).
//!
//! The guest hands pages over and takes them back; the host's size of the balloon
//! is a number in the configuration space. Handed-over pages keep their contents
//! until RAM blocks can be punched, which the guest must not rely on either way.
//! Not modelled: free page hinting and reporting, the monitor's `balloon` command.

use std::sync::{Arc, OnceLock};

use derive::{Qapi, VmState};
use device::{Build, Bus, Device, DeviceClass, DeviceType, Migration, Reset};
use parking_lot::Mutex;
use virtio::{Common, Port, VirtioDevice, VirtioId};

/// The class for the catalog.
pub static CLASS: DeviceClass = DeviceClass::of::<VirtioBalloon>();

/// Properties of `virtio-balloon-device`.
#[derive(Clone, Debug, Qapi)]
pub struct Props {
    /// Let the guest take pages back before it runs out of memory
    #[qapi(name = "deflate-on-oom", default = false)]
    pub deflate_on_oom: bool,
    /// Offer hints about free pages; not supported yet
    #[qapi(name = "free-page-hint", default = false)]
    pub free_page_hint: bool,
    /// Offer reports of free pages; not supported yet
    #[qapi(name = "free-page-reporting", default = false)]
    pub free_page_reporting: bool,
    /// Tell the guest that it may say how it poisons pages
    #[qapi(name = "page-poison", default = true)]
    pub page_poison: bool,
    /// Keep the configuration space of old versions
    #[qapi(name = "qemu-4-0-config-size", default = false)]
    pub old_config_size: bool,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

// 5.5.3: features.
const STATS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_POISON: u64 = 1 << 4;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATS: u16 = 2;
const QUEUE_SIZE: u16 = 128;
/// Offset of `actual` and of `poison_val`.
const ACTUAL: usize = 4;
const POISON: usize = 12;

#[derive(Default, VmState)]
#[vmstate(name = "virtio-balloon", version = 1)]
struct State {
    /// Pages the host wants.
    num_pages: u32,
    /// Pages the guest says it gave.
    actual: u32,
    poison: u32,
}

/// The device.
pub struct VirtioBalloon {
    props: Props,
    port: OnceLock<Port>,
    state: Mutex<State>,
}

impl DeviceType for VirtioBalloon {
    const NAME: &'static str = "virtio-balloon-device";
    const BUS: Bus = Bus::Virtio;
    const SUMMARY: &'static str = "virtio memory balloon";
    type Props = Props;

    fn create(props: Props, at: &mut Build<'_>) -> qapi::Result<Arc<Self>> {
        for (on, name) in [
            (props.free_page_hint, "free-page-hint"),
            (props.free_page_reporting, "free-page-reporting"),
        ] {
            if on {
                return Err(qapi::Error::generic(format!("{name}=on is not supported yet")));
            }
        }
        let device =
            Arc::new(VirtioBalloon { props, port: OnceLock::new(), state: Mutex::default() });
        at.offer::<virtio::Offer>(device.clone());
        Ok(device)
    }
}

impl VirtioBalloon {
    /// Sets how many 4 KiB pages the guest should give.
    pub fn set_target(&self, pages: u32) {
        self.state.lock().num_pages = pages;
        if let Some(port) = self.port.get() {
            port.config_changed();
        }
    }

    fn drain(&self, index: u16) {
        let Some(queue) = self.port.get().and_then(|p| p.queue(index.into())) else { return };
        while let Some(chain) = queue.pop() {
            queue.push(chain, 0);
        }
        queue.signal();
    }
}

impl VirtioDevice for VirtioBalloon {
    fn id(&self) -> VirtioId {
        VirtioId(5)
    }

    fn features(&self) -> u64 {
        let oom = if self.props.deflate_on_oom { DEFLATE_ON_OOM } else { 0 };
        let poison = if self.props.page_poison { PAGE_POISON } else { 0 };
        self.props.common.features() | STATS_VQ | oom | poison
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn attach(&self, port: Port) {
        _ = self.port.set(port);
    }

    fn config(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut config: Vec<u8> = [state.num_pages, state.actual, 0, state.poison]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let len = match (self.props.old_config_size, self.props.page_poison) {
            (false, true) => 16,
            (true, _) | (_, false) => 8,
        };
        config.truncate(len);
        config
    }

    fn config_write(&self, at: usize, data: &[u8]) {
        let mut state = self.state.lock();
        let (word, skip) = match at {
            ACTUAL..8 => (&mut state.actual, at - ACTUAL),
            POISON..16 => (&mut state.poison, at - POISON),
            _ => return,
        };
        let mut bytes = word.to_le_bytes();
        for (to, from) in bytes.iter_mut().skip(skip).zip(data) {
            *to = *from;
        }
        *word = u32::from_le_bytes(bytes);
    }

    fn notify(&self, index: u16) {
        match index {
            INFLATE | DEFLATE => self.drain(index),
            // 5.5.6.3: the driver's statistics stay with us until we want new ones.
            STATS => {}
            _ => {}
        }
    }

    fn stop(&self) {
        let mut state = self.state.lock();
        state.actual = 0;
        state.poison = 0;
    }
}

impl Device for VirtioBalloon {
    fn reset(&self, _: Reset) {
        *self.state.lock() = State::default();
    }

    fn migration(&self) -> Migration<'_> {
        Migration::Saved(&self.state)
    }
}
