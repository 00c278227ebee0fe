//! Classes of back ends and the table of those that exist.

use std::sync::Arc;

use std::fs::File;
use std::os::fd::OwnedFd;

use device::{CharBackend, CharPort, CharSource, RunControl};
use evloop::{Clock, Handle};
use parking_lot::Mutex;
use qapi::{Qapi, Source, TypeRef, Value};

use crate::common::{Common, Logged};
use crate::mux::Mux;
use crate::ringbuf::Ringbuf;

type Lookup = Arc<dyn Fn(&str) -> Option<(Arc<dyn CharBackend>, String)> + Send + Sync>;

/// Takes a descriptor by name out of those that a monitor was given.
pub type FindFd = Arc<dyn Fn(&str) -> Option<OwnedFd> + Send + Sync>;

/// What opening a back end needs.
#[derive(Clone)]
pub struct Context {
    /// The loop that input runs on.
    pub handle: Handle,
    /// The host's time, served by that loop.
    pub clock: Clock,
    /// Takes the quit key.
    pub run: Arc<dyn RunControl>,
    /// Finds a descriptor that a monitor was given, by name.
    pub fds: Option<FindFd>,
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
    /// Breaks the connection with a peer that hangs.
    fn hang_up(&self) {}
    /// Gives what uses it a break condition.
    fn send_break(&self) {}
    /// The path of the terminal, if it is a pseudo-terminal.
    fn pty(&self) -> Option<String> {
        None
    }
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
    fn common(&self) -> &Common;
    fn open(self, id: &str, context: &Context) -> qapi::Result<Arc<dyn Chardev>>;
}

type Log = Option<Arc<File>>;

/// Opens a back end and its log: arguments, where they come from, id, context.
pub type Open = fn(Value, Source, &str, &Context) -> qapi::Result<(Arc<dyn Chardev>, Log)>;

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
            open: |value, source, id, context| {
                let args = K::from_value(value, source)?;
                let log = args.common().open_log()?;
                Ok((args.open(id, context)?, log))
            },
        }
    }
}

/// All kinds of back ends.
pub static CLASSES: &[ChardevClass] = &[
    ChardevClass::of::<crate::FileArgs>(),
    ChardevClass::of::<crate::MuxArgs>(),
    ChardevClass::of::<crate::NullArgs>(),
    ChardevClass::of::<crate::PipeArgs>(),
    ChardevClass::of::<crate::PtyArgs>(),
    ChardevClass::of::<crate::RingbufArgs>(),
    ChardevClass::of::<crate::SocketArgs>(),
    ChardevClass::of::<crate::StdioArgs>(),
    ChardevClass::of::<crate::TestdevArgs>(),
    ChardevClass::of::<crate::UdpArgs>(),
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
    log: Log,
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
            Some((logged(entry.chardev.clone().backend(), &entry.log), entry.chardev.filename()))
        });
        let clock = Clock::host();
        handle.serve_clock(&clock);
        let context = Context { handle, clock, run, fds: None, lookup: Some(lookup) };
        Chardevs { context, entries }
    }

    /// Says where descriptors that monitors were given are found.
    pub fn set_fds(&mut self, fds: FindFd) {
        self.context.fds = Some(fds);
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
        let (mut chardev, mut log) = (class.open)(args, source, id, &self.context)?;
        let mut kind = class.name;
        if mux {
            kind = "mux";
            let name = chardev.filename();
            let inner = logged(chardev.backend(), &log.take());
            chardev = Mux::new(inner, name, self.context.run.clone());
        }
        self.entries.lock().push(Entry { id: id.to_owned(), kind, chardev, log, used: false });
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

fn logged(inner: Arc<dyn CharBackend>, log: &Log) -> Arc<dyn CharBackend> {
    match log {
        Some(log) => Arc::new(Logged { inner, log: log.clone() }),
        None => inner,
    }
}

impl CharSource for Chardevs {
    fn port(&self, id: &str) -> qapi::Result<CharPort> {
        let (chardev, log) = {
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
            (entry.chardev.clone(), entry.log.clone())
        };
        match chardev.clone().mux() {
            Some(mux) => Ok(CharPort::new(mux.port()?)),
            None => Ok(CharPort::new(logged(chardev.backend(), &log))),
        }
    }
}
