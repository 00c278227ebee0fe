//! Requests of devices and CPUs to the main loop.

use std::sync::{Arc, OnceLock, Weak};

use device::{Departure, GuestEvents, Request, RunControl};
use evloop::Handle;
use parking_lot::Mutex;
use qapi::Value;

use crate::Vm;

/// Collects requests from any thread; the main loop carries them out.
pub struct Requests {
    queue: Mutex<Vec<Request>>,
    handle: Handle,
    vm: OnceLock<Weak<Vm>>,
}

impl Requests {
    /// An empty collection for the loop of `handle`.
    pub fn new(handle: Handle) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), handle, vm: OnceLock::new() })
    }

    pub(crate) fn serve(&self, vm: &Arc<Vm>) {
        _ = self.vm.set(Arc::downgrade(vm));
        self.wake();
    }

    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.queue.lock())
    }

    fn wake(&self) {
        if let Some(vm) = self.vm.get().cloned() {
            self.handle.call(Box::new(move || {
                if let Some(vm) = vm.upgrade() {
                    vm.process_requests();
                }
            }));
        }
    }
}

impl RunControl for Requests {
    fn request(&self, request: Request) {
        let mut queue = self.queue.lock();
        // A guest may ask a million times; one of each kind says it all.
        if !queue.contains(&request) {
            queue.push(request);
            drop(queue);
            self.wake();
        }
    }
}

impl GuestEvents for Requests {
    fn event(&self, name: &'static str, data: Value) {
        let Some(vm) = self.vm.get().cloned() else { return };
        self.handle.call(Box::new(move || {
            if let Some(vm) = vm.upgrade() {
                vm.emit(name, Some(data));
            }
        }));
    }
}

impl Departure for Requests {
    fn leave(&self, id: &str) {
        let (Some(vm), id) = (self.vm.get().cloned(), id.to_owned()) else { return };
        self.handle.call(Box::new(move || {
            if let Some(vm) = vm.upgrade() {
                vm.device_left(&id);
            }
        }));
    }
}
