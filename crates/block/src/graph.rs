//! The nodes of a program, by name, and how they are opened.
//!
//! Options are one [`Value`]: `driver`, `node-name`, the options that every node has, and the
//! driver's own; children are nested values or names of nodes. A node that the user named lives
//! until it is deleted; others live as long as something uses them. Devices find nodes by name or
//! by the id of a drive ([`Graph::attach`]). Options that are unknown are errors.
//! Source: QEMU's manual, `-blockdev` and `blockdev-add`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use evloop::Handle;
use parking_lot::Mutex;
use qapi::{Error, Result, Source, Value};

use crate::backend::{Backend, Drained, Told, Trouble, User};
use crate::driver::{BlockClass, BlockDriver, Keys};
use crate::engine::Lane;
use crate::node::{Child, Detect, Hold, Link, Node, Stats, Threshold, Use};
use crate::opening::{Opening, used_by};
use crate::options::{flag, take, word};
use crate::pool::Pool;
use crate::steps::{Held, Steps};

/// Most nodes above one another, so that images that name each other end.
const DEPTH: usize = 200;
/// Bytes that a probe looks at.
const PROBE: usize = 2048;

/// What children inherit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// No writes.
    pub read_only: bool,
    /// No writes when the file does not let itself be written.
    pub auto_read_only: bool,
    /// Let others write.
    pub force_share: bool,
    /// Open no backing files.
    pub no_backing: bool,
    /// Past the host's page cache.
    pub direct: bool,
    /// Flushes do nothing.
    pub no_flush: bool,
    /// Discards are passed on.
    pub unmap: bool,
    /// Open for looking and mending only: damage is no reason to refuse.
    pub check: bool,
    /// Open for looking at headers only: no secrets are needed.
    pub header_only: bool,
    /// The options have a schema, in whose words unknown ones are refused.
    pub schema: bool,
}

/// What a node is made of.
struct Made {
    name: String,
    born: u64,
    class: &'static BlockClass,
    driver: Arc<dyn BlockDriver>,
    path: String,
    opened_backing: Option<(String, String)>,
    children: Vec<(&'static str, Arc<Link>)>,
    implicit: bool,
    threshold: Arc<Threshold>,
    given: Value,
}

/// Everything stands still while it lives.
pub struct Still {
    _backends: Vec<Drained>,
    _steps: Held,
}

/// A loop in a thread of its own.
struct OwnLoop(Option<Handle>);

impl OwnLoop {
    fn start() -> OwnLoop {
        let Ok(mut events) = evloop::EventLoop::new() else { return OwnLoop(None) };
        let handle = events.handle();
        let started = evloop::spawn("block-io", move || _ = events.run());
        OwnLoop(started.is_ok().then_some(handle))
    }
}

impl Drop for OwnLoop {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.quit();
        }
    }
}

type Descriptors = Box<dyn Fn(&str, bool) -> Option<io::Result<OwnedFd>> + Send + Sync>;

/// Nodes by name.
pub struct Graph {
    classes: &'static [&'static BlockClass],
    pub(crate) named: Mutex<Vec<Arc<Node>>>,
    unnamed: Mutex<Vec<Weak<Node>>>,
    drives: Mutex<Vec<Arc<Backend>>>,
    /// Those of devices that name a node.
    anonymous: Mutex<Vec<Weak<Backend>>>,
    lanes: Mutex<Vec<(String, Weak<Lane>)>>,
    /// A loop for devices that have none of their own.
    own_loop: OnceLock<OwnLoop>,
    told: Told,
    pub(crate) io_groups: Mutex<Vec<Weak<crate::IoGroup>>>,
    /// Steps of jobs, which a drained section holds back.
    pub steps: Steps,
    /// Nodes that may not be changed, and why.
    pub(crate) blockers: Mutex<Vec<(Weak<Node>, Weak<str>)>>,
    pub(crate) descriptors: Mutex<Option<Descriptors>>,
    next: std::sync::atomic::AtomicU64,
    /// A machine uses the images: some are for tools only.
    pub(crate) for_machine: std::sync::atomic::AtomicBool,
    /// Where options such as `key-secret` and `throttle-group` find their objects.
    keys: Mutex<Keys>,
    /// Threads for devices.
    pub pool: Arc<Pool>,
}

/// A backing file's name as seen from the image that names it.
#[must_use]
pub fn relative_to(image: &str, file: &str) -> String {
    // `blkdebug:RULES:FILE` lies where its file does.
    let below = image.strip_prefix("blkdebug:").and_then(|rest| rest.split_once(':'));
    let image = below.map_or(image, |(_, file)| file);
    let has_protocol = file.find(':').is_some_and(|at| !file.get(..at).unwrap_or("").contains('/'));
    match image.rfind('/') {
        Some(end) if !file.starts_with('/') && !has_protocol => {
            format!("{}{file}", image.get(..=end).unwrap_or(""))
        }
        _ => file.to_owned(),
    }
}

/// The options of the protocol node for a file name as people write it.
///
/// # Errors
/// It names a protocol that is not here, or its JSON is wrong.
pub fn filename_options(filename: &str) -> Result<Value> {
    if let Some(json) = filename.strip_prefix("json:") {
        return qapi::json::from_str(json)
            .map_err(|e| e.prefixed("Could not parse the JSON options: "));
    }
    if let Some(found) = crate::names::nbd(filename) {
        return found;
    }
    let driver = |name: &str| Value::map([("driver", Value::from(name))]);
    if let Some((protocol, rest)) = filename.split_once(':')
        && !protocol.contains('/')
        && !protocol.is_empty()
    {
        return match protocol {
            "file" => Ok(file_options(rest)),
            "blkdebug" => {
                let (config, image) = rest.split_once(':').ok_or_else(|| {
                    Error::generic("blkdebug requires both config file and image path")
                })?;
                Ok(Value::map([
                    ("driver", Value::from("blkdebug")),
                    ("config", Value::from(config)),
                    ("image", filename_options(image)?),
                ]))
            }
            "host_device" => {
                let name =
                    [("driver", Value::from("host_device")), ("filename", Value::from(rest))];
                Ok(Value::map(name))
            }
            "null-co" | "null-aio" => Ok(driver(protocol)),
            _ if std::path::Path::new(filename).exists() => Ok(file_options(filename)),
            _ => Err(Error::generic(format!("Unknown protocol '{protocol}'"))),
        };
    }
    Ok(file_options(filename))
}

pub(crate) fn file_options(path: &str) -> Value {
    let is_device = std::fs::metadata(path).is_ok_and(|m| {
        use std::os::unix::fs::FileTypeExt as _;
        m.file_type().is_block_device()
    });
    let driver = if is_device { "host_device" } else { "file" };
    Value::map([("driver", Value::from(driver)), ("filename", Value::from(path))])
}

impl Graph {
    /// An empty graph that knows these drivers.
    #[must_use]
    pub fn new(classes: &'static [&'static BlockClass]) -> Arc<Graph> {
        Arc::new(Graph {
            classes,
            named: Mutex::default(),
            unnamed: Mutex::default(),
            drives: Mutex::default(),
            anonymous: Mutex::default(),
            lanes: Mutex::default(),
            own_loop: OnceLock::new(),
            told: Told::default(),
            io_groups: Mutex::default(),
            steps: Steps::default(),
            blockers: Mutex::default(),
            descriptors: Mutex::default(),
            next: std::sync::atomic::AtomicU64::new(0),
            for_machine: false.into(),
            keys: Mutex::default(),
            pool: Arc::default(),
        })
    }

    /// How `/dev/fdset/N` is opened.
    pub fn set_descriptors(&self, find: Descriptors) {
        *self.descriptors.lock() = Some(find);
    }

    /// Images are for a machine from now on: those that only tools may use are refused.
    pub fn serve_machine(&self) {
        self.for_machine.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Where options find objects by id.
    pub fn set_keys(&self, keys: Keys) {
        *self.keys.lock() = keys;
    }

    /// The objects that options name.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys.lock().clone()
    }

    /// The drivers.
    #[must_use]
    pub fn classes(&self) -> &'static [&'static BlockClass] {
        self.classes
    }

    /// The driver of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn class(&self, name: &str) -> Result<&'static BlockClass> {
        let found = self.classes.iter().copied().find(|class| class.name == name);
        found.ok_or_else(|| Error::generic(format!("Unknown driver '{name}'")))
    }

    /// The node of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Node>> {
        let named = self.named.lock().iter().find(|node| node.name == name).cloned();
        named.or_else(|| {
            let all = self.unnamed.lock();
            all.iter().filter_map(Weak::upgrade).find(|node| node.name == name)
        })
    }

    /// All nodes in the order of their making.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let mut all: Vec<_> = self.named.lock().clone();
        self.unnamed.lock().retain(|node| node.strong_count() > 0);
        all.extend(self.unnamed.lock().iter().filter_map(Weak::upgrade));
        all.sort_by_key(|node| node.born);
        all
    }

    /// Adds a node that lives until it is deleted (`blockdev-add`).
    ///
    /// # Errors
    /// The options or the files are wrong.
    pub fn add(&self, options: Value, source: Source) -> Result<Arc<Node>> {
        let Some(name) = options.get("node-name").and_then(Value::as_str).map(str::to_owned) else {
            return Err(Error::generic("'node-name' must be specified for the root node"));
        };
        let flags = Flags { schema: true, ..Flags::default() };
        let node = self.open_at(options, source, flags, 0)?;
        self.unnamed.lock().retain(|other| other.upgrade().is_some_and(|o| o.name != name));
        self.named.lock().push(node.clone());
        Ok(node)
    }

    /// Deletes a node that was added.
    ///
    /// # Errors
    /// There is none, or it is in use.
    pub fn delete(&self, name: &str) -> Result<()> {
        if let Some(node) = self.find(name) {
            crate::redirect::check_free(self, &node)?;
        }
        let mut named = self.named.lock();
        let Some(at) = named.iter().position(|node| node.name == name) else {
            let text =
                if self.unnamed.lock().iter().filter_map(Weak::upgrade).any(|n| n.name == name) {
                    format!("Node {name} is not owned by the monitor")
                } else {
                    format!("Failed to find node with node-name='{name}'")
                };
            return Err(Error::generic(text));
        };
        let users = named.get(at).map(|node| node.users()).unwrap_or_default();
        if users.iter().any(|(user, _)| user.starts_with("block device '")) {
            return Err(Error::generic(format!("Node {name} is in use")));
        }
        if !users.is_empty() {
            return Err(Error::generic(format!("Block device {name} is in use")));
        }
        let gone = named.remove(at);
        drop(named);
        gone.flush().map_err(|e| Error::generic(host::reason(&e)))
    }

    /// Options for an image by its name; without a format, its first bytes say it.
    ///
    /// # Errors
    /// It cannot be opened, or the format is unknown.
    pub fn image_options(
        &self,
        filename: &str,
        format: Option<&str>,
        flags: Flags,
    ) -> Result<Value> {
        let mut file = filename_options(filename)?;
        if filename.starts_with("json:") {
            file = self.complete(file, flags)?;
            // Options with a format already: `json:{"driver": "qcow2", ...}`.
            let driver = file.get("driver").and_then(Value::as_str);
            if driver.is_some_and(|d| self.class(d).is_ok_and(|c| !c.protocol)) {
                return Ok(file);
            }
        }
        let format = match format {
            Some(name) => self.class(name)?.name,
            None => {
                let flags = Flags { read_only: true, force_share: true, ..flags };
                let node = self.open_at(file.clone(), Source::Json, flags, 0)?;
                self.probe_node(&node)?.name
            }
        };
        if self.class(format)?.protocol {
            file.set("driver", Value::from(format));
            return Ok(file);
        }
        Ok(Value::map([("driver", Value::from(format)), ("file", file)]))
    }

    /// The format of a node's contents.
    pub(crate) fn probe_node(&self, node: &Node) -> Result<&'static BlockClass> {
        let mut head = vec![0; usize::try_from(node.len()).unwrap_or(PROBE).min(PROBE)];
        node.driver.read(0, &mut head).map_err(|e| {
            let why = host::reason(&e);
            Error::generic(format!("Could not read image for determining its format: {why}"))
        })?;
        Ok(self.probe(&head))
    }

    /// The format whose probe is surest.
    #[must_use]
    pub fn probe(&self, head: &[u8]) -> &'static BlockClass {
        let best =
            self.classes.iter().filter(|c| !c.protocol).max_by_key(|class| (class.probe)(head));
        best.copied().unwrap_or(&crate::RAW)
    }

    /// Opens an image as tools do; the node lives as long as the caller keeps it.
    ///
    /// # Errors
    /// The options or the files are wrong.
    pub fn open_image(&self, name: &str, format: Option<&str>, flags: Flags) -> Result<Arc<Node>> {
        let options = self.image_options(name, format, flags)?;
        self.open_at(options, Source::Json, flags, 0)
    }

    /// Opens a node from options.
    ///
    /// # Errors
    /// The options or the files are wrong.
    pub fn open(&self, options: Value, source: Source, flags: Flags) -> Result<Arc<Node>> {
        self.open_at(options, source, flags, 0)
    }

    fn name(&self, options: &mut Value, source: Source) -> Result<String> {
        let Some(name) = take::<String>(options, "node-name", source)? else {
            let n = self.number();
            return Ok(format!("#block{n:03}"));
        };
        if !qapi::keyval::is_identifier(&name) {
            return Err(Error::generic("Invalid node-name: '%'".replace('%', &name)));
        }
        if name.len() > 31 {
            return Err(Error::generic("Node name too long"));
        }
        if self.has_drive(&name) {
            let text = format!("node-name={name} is conflicting with a device id");
            return Err(Error::generic(text));
        }
        if self.find(&name).is_some() {
            return Err(Error::generic(format!("Duplicate nodes with node-name='{name}'")));
        }
        Ok(name)
    }

    pub(crate) fn open_at(
        &self,
        mut options: Value,
        source: Source,
        flags: Flags,
        depth: usize,
    ) -> Result<Arc<Node>> {
        if depth > DEPTH {
            return Err(Error::generic("the chain of images is too long or never ends"));
        }
        let driver = take::<String>(&mut options, "driver", source)?;
        let driver = driver.ok_or_else(|| Error::missing("driver"))?;
        let known = self.classes.iter().copied().find(|class| class.name == driver);
        let class = known.ok_or_else(|| {
            Error::not_accepted("driver", &driver, self.classes.iter().map(|class| class.name))
        })?;
        let name = self.name(&mut options, source)?;
        let given = options.clone();
        let (flags, detect) = common(&mut options, source, flags)?;
        let mut at = Opening {
            graph: self,
            class,
            options,
            source,
            filename: String::new(),
            opened_backing: None,
            flags,
            depth,
            read_only: flags.read_only,
            auto_read_only: flags.auto_read_only,
            force_share: flags.force_share,
            no_flush: flags.no_flush,
            direct: flags.direct,
            children: Vec::new(),
            threshold: Arc::new(Threshold::of(&name)),
            name,
            born: None,
        };
        let driver: Arc<dyn BlockDriver> = (class.open)(&mut at)?;
        if let Some((key, value)) = at.options.as_map().and_then(|members| members.first()) {
            return Err(unknown(key, value, class, flags));
        }
        let Opening { children, filename: path, read_only, threshold, name, born, .. } = at;
        let opened_backing = at.opened_backing;
        let flags = Flags { read_only, ..flags };
        let born = born.unwrap_or_else(|| self.number());
        let made = Made {
            name,
            born,
            class,
            driver,
            path,
            opened_backing,
            children,
            implicit: false,
            threshold,
            given,
        };
        Ok(self.put(made, flags, detect))
    }

    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Makes the node of an opened driver.
    fn put(&self, made: Made, flags: Flags, detect: Detect) -> Arc<Node> {
        let Made { name, born, class, driver, path, children, implicit, threshold, given, .. } =
            made;
        let node = Arc::new(Node {
            name,
            born,
            class,
            driver,
            read_only: false.into(),
            path,
            opened_backing: Mutex::new(made.opened_backing),
            children: Mutex::new(children),
            users: Mutex::default(),
            detect: 0.into(),
            unmap: false.into(),
            flags: Mutex::new(flags),
            implicit,
            threshold,
            given,
            stats: Stats::default(),
        });
        node.set_ways(flags, detect);
        if class.passes_on() {
            node.links().iter().for_each(|(_, link)| link.set_through(&node));
        }
        let mut unnamed = self.unnamed.lock();
        unnamed.retain(|node| node.strong_count() > 0);
        unnamed.push(Arc::downgrade(&node));
        node
    }

    /// Makes a filter for a job over `below`, which it uses in the role of its class; it takes
    /// nobody's place yet. Without a name it is left out where drives are listed.
    ///
    /// # Errors
    /// The name is taken or none.
    pub fn filter(
        &self,
        class: &'static BlockClass,
        name: Option<&str>,
        (role, below): (&'static str, &Arc<Node>),
        driver: impl FnOnce(Child) -> Arc<dyn BlockDriver>,
    ) -> Result<Arc<Node>> {
        let mut options = Value::empty();
        if let Some(name) = name {
            options.set("node-name", Value::from(name));
        }
        let unnamed = name.is_none();
        let name = self.name(&mut options, Source::Json)?;
        let how = Use { writes: !below.is_read_only(), shares_write: true };
        let child = below.hold_unchecked(&used_by(&name, below, role), how);
        let children = vec![(role, child.link())];
        let (path, flags) = (below.path().to_owned(), below.flags());
        let threshold = Arc::new(Threshold::of(&name));
        let (driver, born) = (driver(child), self.number());
        let made = Made {
            name,
            born,
            class,
            driver,
            path,
            opened_backing: None,
            children,
            implicit: unnamed,
            threshold,
            given: Value::empty(),
        };
        // Discards are the business of the node below.
        Ok(self.put(made, Flags { unmap: true, ..flags }, Detect::Off))
    }

    fn has_drive(&self, id: &str) -> bool {
        self.drives.lock().iter().any(|drive| drive.name() == id)
    }

    /// Adds a drive: an id for a node, or for an empty slot.
    ///
    /// # Errors
    /// The id is taken, by a drive or by a node: commands look for both under one name.
    pub fn add_drive(&self, id: &str, node: Option<Arc<Node>>) -> Result<Arc<Backend>> {
        if self.has_drive(id) {
            return Err(Error::duplicate_id(id, "drive"));
        }
        if self.find(id).is_some() {
            let text = format!("Device name '{id}' conflicts with an existing node name");
            return Err(Error::generic(text));
        }
        let drive = Backend::new(id, node.as_ref(), self.told.clone())?;
        self.drives.lock().push(drive.clone());
        Ok(drive)
    }

    /// Forgets a drive; its node goes when nothing else uses it.
    pub fn remove_drive(&self, id: &str) {
        self.drives.lock().retain(|drive| drive.name() != id);
    }

    /// Drives and their nodes.
    #[must_use]
    pub fn drives(&self) -> Vec<(String, Option<Arc<Node>>)> {
        let drives = self.drives.lock();
        drives.iter().map(|drive| (drive.name().to_owned(), drive.node())).collect()
    }

    /// All slots: those of drives, and those that devices made.
    #[must_use]
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        let mut all = self.drives.lock().clone();
        let mut anonymous = self.anonymous.lock();
        anonymous.retain(|backend| backend.strong_count() > 0);
        all.extend(anonymous.iter().filter_map(Weak::upgrade));
        all
    }

    /// Who is told about errors of requests, on any thread.
    pub fn on_trouble(&self, told: Arc<dyn Fn(Trouble) + Send + Sync>) {
        *self.told.lock() = Some(told);
    }

    /// Holds all requests of devices and steps of jobs back and waits until none is under way.
    #[must_use]
    pub fn drain(&self) -> Still {
        let steps = self.steps.hold();
        Still { _backends: self.backends().iter().map(Backend::drain).collect(), _steps: steps }
    }

    /// Whether requests wait for [`Graph::retry`].
    #[must_use]
    pub fn has_parked(&self) -> bool {
        self.backends().iter().any(|backend| backend.has_parked())
    }

    /// Makes the requests again that stopped the machine.
    pub fn retry(&self) {
        for backend in self.backends() {
            backend.retry();
        }
    }

    /// The slot of a drive, for a device.
    #[must_use]
    pub fn drive(&self, id: &str) -> Option<Arc<Backend>> {
        self.drives.lock().iter().find(|drive| drive.name() == id).cloned()
    }

    /// Gives a device the drive or node that it names; `None` is an empty slot.
    ///
    /// # Errors
    /// Another device has it, or its other users do not allow it. `Ok(None)`: there is none.
    pub fn claim(&self, id: Option<&str>, user: User) -> Result<Option<Arc<Backend>>> {
        let found = id.and_then(|id| self.drive(id));
        let backend = match (found, id) {
            (Some(backend), _) => backend,
            (None, None) => Backend::new("", None, self.told.clone())?,
            (None, Some(id)) => match self.find(id) {
                Some(node) => Backend::new("", Some(&node), self.told.clone())?,
                None => return Ok(None),
            },
        };
        backend.attach(user)?;
        if backend.name().is_empty() {
            self.anonymous.lock().push(Arc::downgrade(&backend));
        }
        Ok(Some(backend))
    }

    /// The lane of an I/O thread, or of the block layer's own loop.
    #[must_use]
    pub fn lane(&self, thread: Option<(&str, &Handle)>) -> Arc<Lane> {
        let name = thread.map_or("", |(name, _)| name);
        let mut lanes = self.lanes.lock();
        lanes.retain(|(_, lane)| lane.strong_count() > 0);
        let found = lanes.iter().find(|(other, _)| other == name);
        if let Some(lane) = found.and_then(|(_, lane)| lane.upgrade()) {
            return lane;
        }
        let own = || self.own_loop.get_or_init(OwnLoop::start).0.clone();
        let lane = match thread.map(|(_, handle)| handle.clone()).or_else(own) {
            Some(handle) => Lane::new(&handle, self.pool.clone()),
            None => Lane::without_ring(self.pool.clone()),
        };
        lanes.push((name.to_owned(), Arc::downgrade(&lane)));
        lane
    }

    /// The node that a device means with the id of a drive or the name of a node.
    #[must_use]
    pub fn backend(&self, id: &str) -> Option<Arc<Node>> {
        self.drive(id).and_then(|drive| drive.node()).or_else(|| self.find(id))
    }

    /// A device's use of a drive or node.
    ///
    /// # Errors
    /// There is none, or its other users do not allow it.
    pub fn attach(&self, id: &str, user: &str, how: Use) -> Result<Hold> {
        let node =
            self.backend(id).ok_or_else(|| Error::generic(format!("can't find value '{id}'")))?;
        node.hold(user, how)
    }

    /// Stores what waits for the end of images, those above others first; what fails was told to
    /// the user. Nothing may be under way.
    ///
    /// # Errors
    /// Something is lost.
    pub fn close_all(&self) -> io::Result<()> {
        let mut done = Ok(());
        for node in self.nodes().iter().rev().filter(|node| !node.is_read_only()) {
            done = done.and(node.driver.close());
        }
        done
    }

    /// Puts everything of all nodes on their disks.
    pub fn flush_all(&self) {
        for node in self.nodes() {
            _ = node.flush();
        }
    }
}

/// An option that nobody took.
fn unknown(key: &str, value: &Value, class: &BlockClass, flags: Flags) -> Error {
    let name = class.name;
    if key == "backing" && value.as_map().is_some() && !flags.schema && !flags.no_backing {
        return Error::generic("Driver doesn't support backing files");
    }
    if flags.schema {
        return Error::unexpected(key);
    }
    let mut keys = Vec::new();
    crate::called::flat(key, value, &mut keys);
    let key = keys.first().map_or(key, |(key, _)| key.as_str());
    Error::generic(if class.protocol {
        format!("Block protocol '{name}' doesn't support the option '{key}'")
    } else {
        format!("Block format '{name}' does not support the option '{key}'")
    })
}

/// Takes the options that every node has.
pub(crate) fn common(
    options: &mut Value,
    source: Source,
    inherited: Flags,
) -> Result<(Flags, Detect)> {
    let mut flags = inherited;
    flags.read_only = flag(options, "read-only", source, inherited.read_only)?;
    flags.auto_read_only = flag(options, "auto-read-only", source, inherited.auto_read_only)?;
    flags.force_share = flag(options, "force-share", source, inherited.force_share)?;
    if flags.force_share && !flags.read_only {
        return Err(Error::generic("force-share=on can only be used with read-only images"));
    }
    if let Some(word) = word(options, "discard", &["ignore", "unmap"])? {
        flags.unmap = word == "unmap";
    }
    let detect = match word(options, "detect-zeroes", &["off", "on", "unmap"])?.as_deref() {
        Some("on") => Detect::On,
        Some("unmap") => Detect::Unmap,
        _ => Detect::Off,
    };
    if detect == Detect::Unmap && !flags.unmap {
        let text = "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
        return Err(Error::generic(text));
    }
    if let Some(mut cache) = options.take("cache") {
        let within = |e: Error| e.within("cache");
        flags.direct = flag(&mut cache, "direct", source, flags.direct).map_err(within)?;
        flags.no_flush = flag(&mut cache, "no-flush", source, flags.no_flush).map_err(within)?;
        if let Some((key, value)) = cache.as_map().and_then(|members| members.first()) {
            if flags.schema {
                return Err(Error::unexpected(key).within("cache"));
            }
            options.set(&format!("cache.{key}"), value.clone());
        }
    }
    Ok((flags, detect))
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
