//! Classes of back ends, and the table of those that exist.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device::CharSource;
use evloop::{Clock, Handle};
use parking_lot::Mutex;
use qapi::{Error, Qapi, Result, Source, TypeRef, Value};

use crate::hub::Hubs;
use crate::link::{Backend, Link, Nic};

/// Takes a descriptor by name out of those that a monitor was given.
pub type FindFd = Arc<dyn Fn(&str) -> Option<OwnedFd> + Send + Sync>;

/// Tells of something that happened: the name of a QMP event and its data.
pub type Tell = Arc<dyn Fn(&'static str, Value) + Send + Sync>;

/// What opening a back end needs.
#[derive(Clone)]
pub struct Context {
    /// The loop it runs on.
    pub handle: Handle,
    /// The host's time, served by that loop.
    pub clock: Clock,
    /// Finds a descriptor that a monitor was given.
    pub fds: Option<FindFd>,
    /// Character back ends.
    pub chardevs: Arc<dyn CharSource>,
    /// Hubs.
    pub hubs: Arc<Hubs>,
    /// Where events go.
    pub tell: Tell,
}

/// Arguments of a kind of back end; they open it.
pub trait Kind: Qapi {
    /// The name (`type`).
    const NAME: &'static str;
    /// Opens one on a link.
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>>;
}

/// Opens a back end: arguments, where they come from, its link, context.
pub type Open = fn(Value, Source, &Arc<Link>, &Context) -> Result<Arc<dyn Backend>>;

/// A kind of back end as catalogs list it.
pub struct NetdevClass {
    /// Name on the command line.
    pub name: &'static str,
    /// Type of the arguments.
    pub args: TypeRef,
    /// Opens one.
    pub open: Open,
}

impl NetdevClass {
    /// The class of a kind.
    #[must_use]
    pub const fn of<K: Kind>() -> NetdevClass {
        NetdevClass {
            name: K::NAME,
            args: K::type_info,
            open: |value, source, link, context| K::from_value(value, source)?.open(link, context),
        }
    }
}

/// A card with its link, if it has one.
pub type Connected = (Arc<dyn Nic>, Option<Arc<Link>>);

type Noted = (std::sync::Weak<dyn Nic>, Option<Arc<Link>>);

/// The networks of a machine. As a service of devices: `Arc<Netdevs>`.
pub struct Netdevs {
    classes: &'static [NetdevClass],
    context: Context,
    links: Mutex<Vec<Arc<Link>>>,
    nics: Mutex<Vec<Noted>>,
    macs: Mutex<Vec<crate::link::Mac>>,
    /// The announcement under way.
    announcing: Mutex<Option<Arc<dyn std::any::Any + Send + Sync>>>,
}

impl Netdevs {
    /// An empty table of these kinds.
    #[must_use]
    pub fn new(classes: &'static [NetdevClass], context: Context) -> Netdevs {
        Netdevs {
            classes,
            context,
            links: Mutex::default(),
            nics: Mutex::default(),
            macs: Mutex::default(),
            announcing: Mutex::default(),
        }
    }

    /// The kinds that exist.
    #[must_use]
    pub fn classes(&self) -> &'static [NetdevClass] {
        self.classes
    }

    /// What back ends are opened with.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Opens a back end under an id.
    ///
    /// # Errors
    /// The id is in use; the kind does not exist; what the kind says.
    pub fn add(&self, id: &str, kind: &str, args: Value, source: Source) -> Result<()> {
        if !qapi::keyval::is_identifier(id) && !id.starts_with('#') {
            return Err(Error::not_an_identifier());
        }
        if self.find(id).is_some() {
            return Err(Error::duplicate_id(id, "netdev"));
        }
        let class = self.classes.iter().find(|class| class.name == kind).ok_or_else(|| {
            Error::not_accepted("type", kind, self.classes.iter().map(|class| class.name))
        })?;
        let link = Link::new(id, class.name, self.context.handle.clone());
        let backend = (class.open)(args, source, &link, &self.context)?;
        link.connect(backend);
        self.links.lock().push(link);
        Ok(())
    }

    /// Removes a back end; a card stays without it.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn remove(&self, id: &str) -> Result<()> {
        let link = {
            let mut links = self.links.lock();
            let at = links.iter().position(|link| link.id == id);
            let at = at.ok_or_else(|| Error::device_not_found(id))?;
            links.remove(at)
        };
        link.close();
        Ok(())
    }

    /// The back end of an id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Link>> {
        self.links.lock().iter().find(|link| link.id == id).cloned()
    }

    /// All back ends.
    #[must_use]
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().clone()
    }

    /// Calls `f` with the id and the saved state of each back end that has one: what is saved with
    /// a machine, beside its devices. [`Netdevs::settle`] follows when all of it was loaded.
    pub fn each_saved(&self, mut f: impl FnMut(&str, &dyn device::Saved)) {
        for link in self.links() {
            if let Some(saved) = link.backend().and_then(|backend| backend.saved()) {
                f(&link.id, saved);
            }
        }
    }

    /// A state was loaded into cards and back ends.
    pub fn settle(&self) {
        for link in self.links() {
            link.settle();
        }
    }

    /// Connects a card to the back end of an id.
    ///
    /// # Errors
    /// There is none of that id, or it has a card.
    pub fn connect(
        &self,
        (driver, property): (&str, &str),
        id: &str,
        nic: std::sync::Weak<dyn Nic>,
    ) -> Result<Arc<Link>> {
        let missing =
            || Error::generic(format!("Property '{driver}.{property}' can't find value '{id}'"));
        let link = self.find(id).ok_or_else(missing)?;
        if !link.attach(nic) {
            let text =
                format!("Property '{driver}.{property}' can't take value '{id}', it's in use");
            return Err(Error::generic(text));
        }
        Ok(link)
    }

    /// Lists a card, with its link if it has one.
    pub fn note(&self, nic: std::sync::Weak<dyn Nic>, link: Option<Arc<Link>>) {
        let mut nics = self.nics.lock();
        nics.retain(|(old, _)| old.strong_count() > 0);
        nics.push((nic, link));
    }

    /// All cards with their links.
    #[must_use]
    pub fn nics(&self) -> Vec<Connected> {
        let nics = self.nics.lock();
        nics.iter().filter_map(|(nic, link)| Some((nic.upgrade()?, link.clone()))).collect()
    }

    /// The address for a card: the given one, or the next of 52:54:00:12:34:56 and so on.
    #[must_use]
    pub fn assign_mac(&self, given: Option<crate::link::Mac>) -> crate::link::Mac {
        let mut macs = self.macs.lock();
        let free = |macs: &Vec<crate::link::Mac>| {
            (0x56..=0xffu8)
                .map(|last| [0x52, 0x54, 0, 0x12, 0x34, last])
                .find(|m| !macs.contains(m))
        };
        let mac = given.or_else(|| free(&macs)).unwrap_or([0x52, 0x54, 0, 0x12, 0x34, 0xff]);
        macs.push(mac);
        mac
    }

    /// Keeps an announcement alive, in place of one before.
    pub(crate) fn keep_announcing(&self, run: Arc<dyn std::any::Any + Send + Sync>) {
        *self.announcing.lock() = Some(run);
    }

    /// A card with this address is gone.
    pub fn release_mac(&self, mac: crate::link::Mac) {
        let mut macs = self.macs.lock();
        if let Some(at) = macs.iter().position(|known| *known == mac) {
            macs.remove(at);
        }
    }
}

/// The link and the address of a card, from its properties `netdev` and `mac`.
///
/// # Errors
/// There is no such back end; the address makes no sense.
pub fn card(
    class: &str,
    netdev: &Option<String>,
    mac: &Option<String>,
    table: Option<&Arc<Netdevs>>,
) -> Result<(Option<Arc<Link>>, crate::link::Mac)> {
    let given = match mac {
        Some(text) => Some(crate::link::parse_mac(text).ok_or_else(|| {
            Error::generic(format!("Property '{class}.mac' doesn't take value '{text}'"))
        })?),
        None => None,
    };
    let given = given.filter(|mac| *mac != [0; 6]);
    let link = match netdev {
        Some(id) => {
            let found = table.and_then(|table| table.find(id));
            Some(found.ok_or_else(|| {
                Error::generic(format!("Property '{class}.netdev' can't find value '{id}'"))
            })?)
        }
        None => None,
    };
    let mac = match table {
        Some(table) => table.assign_mac(given),
        None => given.unwrap_or([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
    };
    Ok((link, mac))
}
