//! Queues that another program serves (`-netdev vhost-user`): handing them over and taking them
//! back. The control queue stays here; what it says of filters has no effect on the program.

use std::sync::Arc;

use device::AddressSpace;
use evloop::{Readiness, Watch};
use host::EventFd;
use net::vhost::{Vhost, VhostQueue, VhostRegion, VhostRun};

use super::VirtioNet;
use super::feature as f;

/// Features that the program must have, or they are not offered.
pub(super) const OF_PROGRAM: u64 = f::CSUM
    | f::GUEST_CSUM
    | f::GUEST_TSO4
    | f::GUEST_TSO6
    | f::GUEST_ECN
    | f::GUEST_UFO
    | f::GUEST_USO4
    | f::GUEST_USO6
    | f::HOST_TSO4
    | f::HOST_TSO6
    | f::HOST_ECN
    | f::HOST_UFO
    | f::HOST_USO
    | f::MRG_RXBUF
    | virtio::feature::INDIRECT_DESC
    | virtio::feature::EVENT_IDX
    | virtio::feature::RING_PACKED
    | virtio::feature::IN_ORDER;
/// What is not offered with a program.
pub(super) const NEVER: u64 = f::RSS
    | f::HASH_REPORT
    | f::CTRL_GUEST_OFFLOADS
    | virtio::feature::RING_RESET
    | virtio::feature::RING_PACKED;

/// Queues that are with the program.
#[derive(Default)]
pub(super) struct Away {
    /// Kicks by the queue's number.
    kicks: Vec<Option<Arc<EventFd>>>,
    _watches: Vec<Watch>,
}

/// The RAM that the program is to map.
fn regions(memory: &AddressSpace) -> Vec<VhostRegion> {
    let view = memory.view();
    let shared = |range: &memory::FlatRange| {
        let (block, offset) = range.writable_block()?;
        let (fd, start) = block.shared_fd()?;
        let fd = fd.try_clone_to_owned().ok()?;
        let len = range.len_from(range.start);
        Some(VhostRegion { guest: range.start, len, fd, offset: start + offset })
    };
    view.ranges().iter().filter_map(shared).collect()
}

impl VirtioNet {
    pub(super) fn vhost(&self) -> Option<&dyn Vhost> {
        self.link.as_ref()?.vhost()
    }

    /// Hands the queues over, when there is a program.
    pub(super) fn go_away(&self, features: u64) {
        let Some(vhost) = self.vhost() else { return };
        let Some(handle) = self.link.as_ref().map(|link| link.handle().clone()) else { return };
        let mut away = Away::default();
        let mut queues = Vec::new();
        for number in 0..2 * self.pairs {
            let queue = self.queue(number).filter(|queue| queue.state().enabled);
            let (Some(queue), Ok(kick), Ok(call)) = (queue, EventFd::new(), EventFd::new()) else {
                away.kicks.push(None);
                continue;
            };
            let (kick, call) = (Arc::new(kick), Arc::new(call));
            let (event, served) = (call.clone(), queue.clone());
            let watch = handle.watch(call.clone(), Readiness::READ, move |_| {
                if event.clear() {
                    served.interrupt();
                }
            });
            away._watches.extend(watch.ok());
            away.kicks.push(Some(kick.clone()));
            let (state, other) = (queue.state(), queue.clone());
            queues.push((
                u32::from(number),
                VhostQueue {
                    size: state.size,
                    areas: [state.desc, state.driver, state.device],
                    position: queue.position(),
                    lost: Arc::new(move || other.finished()),
                    kick,
                    call,
                },
            ));
        }
        *self.away.lock() = Some(away);
        vhost.start(VhostRun { features, memory: regions(&self.memory), queues });
    }

    /// Takes the queues back.
    pub(super) fn come_back(&self) {
        let Some(vhost) = self.vhost() else { return };
        if self.away.lock().take().is_none() {
            return;
        }
        for (number, position) in vhost.stop() {
            if let Some(queue) = u16::try_from(number).ok().and_then(|number| self.queue(number)) {
                queue.set_position(position.unwrap_or_else(|| queue.finished()));
            }
        }
    }

    /// Tells the program of a notification; `false`: the queue is here.
    pub(super) fn kick_away(&self, number: u16) -> bool {
        let away = self.away.lock();
        let Some(away) = &*away else { return self.vhost().is_some() };
        if let Some(kick) = away.kicks.get(usize::from(number)).and_then(Option::as_ref) {
            kick.signal();
        }
        true
    }
}
