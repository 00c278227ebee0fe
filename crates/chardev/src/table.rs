//! Classes of back ends and the table of those that exist.

use std::sync::Arc;

use device::{CharBackend, CharPort, CharSource, RunControl};
use evloop::Handle;
use parking_lot::Mutex;
use qapi::{Qapi, Source, TypeRef, Value};

use crate::mux::Mux;
use crate::ringbuf::Ringbuf;

type Lookup = Arc<dyn Fn(&str) -> Option<(Arc<dyn CharBackend>, String)> + Send + Sync>;

/// What opening a back end needs.
#[derive(Clone)]
pub struct Context {
    /// The loop that input runs on.
    pub handle: Handle,
    /// Takes the quit key.
    pub run: Arc<dyn RunControl>,
    /// Finds another back end by id (for `mux`); filled in by [`Chardevs`].
    pub lookup: Option<Lookup>,
}

/// An open back end.
pub trait Chardev: Send + Sync {
    /// The stream itself.
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend>;
    /// What `query-chardev` calls `filename`.
    fn filename(&self) -> String;
    /// The process was continued after a stop: set terminal modes again.
    fn continued(&self) {}
    /// The multiplexer, if it is one.
    fn mux(self: Arc<Self>) -> Option<Arc<Mux>> {
        None
    }
    /// The ring buffer, if it is one.
    fn ringbuf(self: Arc<Self>) -> Option<Arc<Ringbuf>> {
        None
    }
}

/// Arguments of a kind of back end; they open it.
pub(crate) trait Kind: Qapi {
    const NAME: &'static str;
    fn open(self, id: &str, context: &Context) -> qapi::Result<Arc<dyn Chardev>>;
}

/// Opens a back end: arguments, where they come from, id, context.
pub type Open = fn(Value, Source, &str, &Context) -> qapi::Result<Arc<dyn Chardev>>;

/// A kind of back end as catalogs list it.
pub struct ChardevClass {
    /// Name on the command line.
    pub name: &'static str,
    /// Type of the arguments.
    pub args: TypeRef,
    /// Opens one.
    pub open: Open,
}

impl ChardevClass {
    const fn of<K: Kind>() -> ChardevClass {
        ChardevClass {
            name: K::NAME,
            args: K::type_info,
            open: |value, source, id, context| K::from_value(value, source)?.open(id, context),
        }
    }
}

/// All kinds of back ends.
pub static CLASSES: &[ChardevClass] = &[
    ChardevClass::of::<crate::FileArgs>(),
    ChardevClass::of::<crate::MuxArgs>(),
    ChardevClass::of::<crate::NullArgs>(),
    ChardevClass::of::<crate::RingbufArgs>(),
    ChardevClass::of::<crate::SocketArgs>(),
    ChardevClass::of::<crate::StdioArgs>(),
];

/// What `query-chardev` says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChardevInfo {
    /// The id.
    pub label: String,
    /// What it is.
    pub filename: String,
    /// Whether a front end uses it.
    pub frontend_open: bool,
}

struct Entry {
    id: String,
    kind: &'static str,
    chardev: Arc<dyn Chardev>,
    used: bool,
}

/// The back ends that exist, by id.
pub struct Chardevs {
    context: Context,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Chardevs {
    /// An empty table.
    #[must_use]
    pub fn new(handle: Handle, run: Arc<dyn RunControl>) -> Chardevs {
        let entries: Arc<Mutex<Vec<Entry>>> = Arc::default();
        let weak = Arc::downgrade(&entries);
        let lookup: Lookup = Arc::new(move |id: &str| {
            let entries = weak.upgrade()?;
            let mut entries = entries.lock();
            let entry = entries.iter_mut().find(|e| e.id == id)?;
            entry.used = true;
            Some((entry.chardev.clone().backend(), entry.chardev.filename()))
        });
        Chardevs { context: Context { handle, run, lookup: Some(lookup) }, entries }
    }

    /// Opens a back end under an id. With `mux`, it is put under a multiplexer.
    pub fn add(
        &self,
        id: &str,
        kind: &str,
        args: Value,
        source: Source,
        mux: bool,
    ) -> qapi::Result<()> {
        if self.find(id).is_some() {
            return Err(qapi::Error::generic(format!("Chardev with id '{id}' already exists")));
        }
        let class = CLASSES.iter().find(|c| c.name == kind).ok_or_else(|| {
            qapi::Error::generic(format!("'{kind}' is not a valid char driver name"))
        })?;
        let mut chardev = (class.open)(args, source, id, &self.context)?;
        let mut kind = class.name;
        if mux {
            kind = "mux";
            let name = chardev.filename();
            chardev = Mux::new(chardev.backend(), name, self.context.run.clone());
        }
        self.entries.lock().push(Entry { id: id.to_owned(), kind, chardev, used: false });
        Ok(())
    }

    /// Closes a back end that no front end uses.
    pub fn remove(&self, id: &str) -> qapi::Result<()> {
        let mut entries = self.entries.lock();
        let Some(at) = entries.iter().position(|e| e.id == id) else {
            return Err(qapi::Error::generic(format!("Chardev '{id}' not found")));
        };
        if entries.get(at).is_some_and(|e| e.used) {
            return Err(qapi::Error::generic(format!("Chardev '{id}' is busy")));
        }
        let gone = entries.remove(at);
        drop(entries);
        drop(gone);
        Ok(())
    }

    /// The back end of an id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<dyn Chardev>> {
        self.entries.lock().iter().find(|e| e.id == id).map(|e| e.chardev.clone())
    }

    /// The kind of the back end of an id.
    #[must_use]
    pub fn kind(&self, id: &str) -> Option<&'static str> {
        self.entries.lock().iter().find(|e| e.id == id).map(|e| e.kind)
    }

    /// All back ends, for `query-chardev`.
    #[must_use]
    pub fn list(&self) -> Vec<ChardevInfo> {
        let list: Vec<_> =
            self.entries.lock().iter().map(|e| (e.id.clone(), e.chardev.clone(), e.used)).collect();
        list.into_iter()
            .map(|(label, chardev, frontend_open)| ChardevInfo {
                label,
                filename: chardev.filename(),
                frontend_open,
            })
            .collect()
    }

    /// Sets terminal modes again after the process was stopped and continued.
    pub fn continued(&self) {
        let all: Vec<_> = self.entries.lock().iter().map(|e| e.chardev.clone()).collect();
        all.iter().for_each(|c| c.continued());
    }
}

impl CharSource for Chardevs {
    fn port(&self, id: &str) -> qapi::Result<CharPort> {
        let chardev = {
            let mut entries = self.entries.lock();
            let entry = entries
                .iter_mut()
                .find(|e| e.id == id)
                .ok_or_else(|| qapi::Error::generic(format!("Chardev '{id}' not found")))?;
            let is_mux = entry.chardev.clone().mux().is_some();
            if entry.used && !is_mux {
                return Err(qapi::Error::generic(format!("Chardev '{id}' is already in use")));
            }
            entry.used = true;
            entry.chardev.clone()
        };
        match chardev.clone().mux() {
            Some(mux) => Ok(CharPort::new(mux.port()?)),
            None => Ok(CharPort::new(chardev.backend())),
        }
    }
}
