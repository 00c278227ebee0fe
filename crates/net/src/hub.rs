//! Back end `hubport`: a port of a hub, which repeats every frame to all other ports.
//!
//! A port may have a card or another back end (`netdev=`) behind it.
//! Source: QEMU's manual (`-netdev hubport`) and its observable behaviour.

use std::sync::{Arc, Weak};

use derive::Qapi;
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::frame::Frame;
use crate::link::{Backend, Link, Nic, NicInfo};
use crate::table::{Context, Kind};

/// Arguments of `hubport`.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "NetdevHubPortOptions")]
pub struct HubPortArgs {
    /// Number of the hub.
    pub hubid: i32,
    /// Back end that is connected to the port, instead of a card.
    pub netdev: Option<String>,
}

/// Hubs by number.
#[derive(Default)]
pub struct Hubs {
    ports: Mutex<Vec<(i32, Weak<HubPort>)>>,
    /// Finds the back end that a port is to stand before.
    find: Mutex<Option<FindLink>>,
}

type FindLink = Arc<dyn Fn(&str) -> Option<Arc<Link>> + Send + Sync>;

impl Hubs {
    /// Says where back ends are found by id.
    pub fn set_find(&self, find: impl Fn(&str) -> Option<Arc<Link>> + Send + Sync + 'static) {
        *self.find.lock() = Some(Arc::new(find));
    }

    fn others(&self, port: &HubPort) -> Vec<Arc<HubPort>> {
        let ports = self.ports.lock();
        let all = ports.iter().filter(|(hub, _)| *hub == port.hub);
        let all = all.filter_map(|(_, other)| other.upgrade());
        all.filter(|other| !std::ptr::eq(&raw const **other, port)).collect()
    }
}

/// A port.
pub struct HubPort {
    /// Number of the hub.
    pub hub: i32,
    hubs: Arc<Hubs>,
    /// The port's own link: a card may be on it.
    link: Weak<Link>,
    /// The back end behind the port.
    behind: Option<Arc<Link>>,
    name: String,
}

impl HubPort {
    fn repeat(&self, frame: &Frame<'_>) {
        for other in self.hubs.others(self) {
            other.out(frame);
        }
    }

    /// A frame of another port.
    fn out(&self, frame: &Frame<'_>) {
        match (&self.behind, self.link.upgrade()) {
            (Some(link), _) => link.from_guest(frame),
            (None, Some(link)) => _ = link.deliver(frame),
            (None, None) => {}
        }
    }

    fn done(&self) {
        for other in self.hubs.others(self) {
            match (&other.behind, other.link.upgrade()) {
                (Some(link), _) => link.guest_done(),
                (None, Some(link)) => link.backend_done(),
                (None, None) => {}
            }
        }
    }
}

impl Backend for HubPort {
    fn send(&self, frame: &Frame<'_>) {
        self.repeat(frame);
    }
    fn flush(&self) {
        self.done();
    }
    fn describe(&self) -> String {
        format!("hubid={}", self.hub)
    }
    fn close(&self) {
        if let Some(link) = &self.behind {
            link.detach();
        }
        let this: *const HubPort = self;
        self.hubs.ports.lock().retain(|(_, port)| !std::ptr::eq(port.as_ptr(), this));
    }
}

/// For a back end behind a port, the port is the card.
impl Nic for HubPort {
    fn info(&self) -> NicInfo {
        NicInfo { name: Some(self.name.clone()), mac: [0; 6] }
    }
    fn receive(&self, frame: &Frame<'_>) -> bool {
        self.repeat(frame);
        true
    }
    fn flush(&self) {
        self.done();
    }
    fn set_link(&self, _: bool) {}
}

impl Kind for HubPortArgs {
    const NAME: &'static str = "hubport";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let find = context.hubs.find.lock().clone();
        let behind = match &self.netdev {
            None => None,
            Some(id) => {
                let found = find.and_then(|find| find(id));
                Some(found.ok_or_else(|| Error::generic(format!("netdev '{id}' not found")))?)
            }
        };
        let port = Arc::new(HubPort {
            hub: self.hubid,
            hubs: context.hubs.clone(),
            link: Arc::downgrade(link),
            behind: behind.clone(),
            name: link.id.clone(),
        });
        if let Some(behind) = behind {
            let nic: Arc<dyn Nic> = port.clone();
            if !behind.attach(Arc::downgrade(&nic)) {
                return Err(Error::generic(format!("netdev '{}' is in use", behind.id)));
            }
        }
        context.hubs.ports.lock().push((self.hubid, Arc::downgrade(&port)));
        Ok(port)
    }
}
