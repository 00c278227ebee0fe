//! A node: an opened driver with a name, and who uses it how.
//!
//! Every user (a parent node, a device, a tool) has a [`Hold`]: what it does ([`Use::writes`]) and
//! what it lets others do ([`Use::shares_write`]). A hold that conflicts with one that exists is
//! refused in QEMU's words. Requests through a node are checked against its length and counted.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use qapi::{Error, Result, Value};

use crate::driver::{BlockClass, BlockDriver, Extent, Resolved, invalid};
use crate::engine::Op;
use crate::graph::Flags;

/// How a node is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Its contents are changed.
    pub writes: bool,
    /// Others may change them as well.
    pub shares_write: bool,
}

/// What is done with zeroes that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detect {
    /// Nothing.
    #[default]
    Off,
    /// They become a request for zeroes.
    On,
    /// And their space is given back.
    Unmap,
}

impl Detect {
    /// The word of `detect-zeroes`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Detect::Off => "off",
            Detect::On => "on",
            Detect::Unmap => "unmap",
        }
    }
}

/// Counters of a node.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "named after query-blockstats")]
pub struct Stats {
    pub rd_bytes: AtomicU64,
    pub rd_operations: AtomicU64,
    pub wr_bytes: AtomicU64,
    pub wr_operations: AtomicU64,
    pub flush_operations: AtomicU64,
    pub unmap_bytes: AtomicU64,
    pub unmap_operations: AtomicU64,
    pub wr_highest_offset: AtomicU64,
}

impl Stats {
    fn add(bytes: &AtomicU64, operations: &AtomicU64, n: u64) {
        bytes.fetch_add(n, Ordering::Relaxed);
        operations.fetch_add(1, Ordering::Relaxed);
    }
}

/// An opened node.
pub struct Node {
    pub(crate) name: String,
    pub(crate) born: u64,
    pub(crate) class: &'static BlockClass,
    pub(crate) driver: Arc<dyn BlockDriver>,
    pub(crate) read_only: AtomicBool,
    /// The file that it comes from, without options.
    pub(crate) path: String,
    /// The backing file's name as the image has it, and what the node is called that it led to.
    pub(crate) opened_backing: Mutex<Option<(String, String)>>,
    pub(crate) children: Mutex<Vec<(&'static str, Arc<Link>)>>,
    pub(crate) users: Mutex<Vec<Weak<Link>>>,
    pub(crate) detect: AtomicU8,
    pub(crate) unmap: AtomicBool,
    pub(crate) flags: Mutex<Flags>,
    /// Made by a job without a name of its own: lists of drives show what is below.
    pub(crate) implicit: bool,
    pub(crate) threshold: Arc<Threshold>,
    /// The options it was opened with.
    pub(crate) given: Value,
    /// Its counters.
    pub stats: Stats,
}

impl Node {
    /// Its name in the graph.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its driver's class.
    #[must_use]
    pub fn class(&self) -> &'static BlockClass {
        self.class
    }
    /// What answers its requests, unchecked and uncounted.
    #[must_use]
    pub fn driver(&self) -> &Arc<dyn BlockDriver> {
        &self.driver
    }
    /// Whether writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }
    /// What it is called for people: a file's name, or `json:` and options.
    #[must_use]
    pub fn filename(&self) -> String {
        crate::called::called(self, 0).name()
    }
    /// Stores another backing file's name and format in the image; the child stays as it is.
    ///
    /// # Errors
    /// The format has none, or the driver.
    pub fn change_backing(&self, file: Option<&str>, format: Option<&str>) -> io::Result<()> {
        self.driver.change_backing(file, format)?;
        // What the name leads to was not looked at.
        *self.opened_backing.lock() = None;
        Ok(())
    }
    /// The file it comes from, whatever its options are.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
    /// Children by role.
    #[must_use]
    pub fn children(&self) -> Vec<(&'static str, Arc<Node>)> {
        self.children.lock().iter().map(|(role, link)| (*role, link.node())).collect()
    }
    /// The child of a role.
    #[must_use]
    pub fn child(&self, role: &str) -> Option<Arc<Node>> {
        let children = self.children.lock();
        children.iter().find(|(name, _)| *name == role).map(|(_, link)| link.node())
    }
    /// Nodes that it uses: the role, the node, and how.
    #[must_use]
    pub fn uses(&self) -> Vec<(&'static str, Arc<Node>, Use)> {
        self.links().into_iter().map(|(role, link)| (role, link.node(), link.how())).collect()
    }
    /// How it was opened.
    #[must_use]
    pub fn flags(&self) -> Flags {
        *self.flags.lock()
    }
    /// Whether a job put it in without giving it a name.
    #[must_use]
    pub fn is_implicit(&self) -> bool {
        self.implicit
    }
    /// Where writes give an event.
    #[must_use]
    pub fn threshold(&self) -> &Threshold {
        &self.threshold
    }
    /// What is done with zeroes that are written.
    #[must_use]
    pub fn detect_zeroes(&self) -> Detect {
        match self.detect.load(Ordering::Relaxed) {
            0 => Detect::Off,
            1 => Detect::On,
            _ => Detect::Unmap,
        }
    }
    pub(crate) fn set_ways(&self, flags: Flags, detect: Detect) {
        *self.flags.lock() = flags;
        self.read_only.store(flags.read_only, Ordering::Relaxed);
        self.unmap.store(flags.unmap, Ordering::Relaxed);
        self.detect.store(detect as u8, Ordering::Relaxed);
    }
    fn is_unmap(&self) -> bool {
        self.unmap.load(Ordering::Relaxed)
    }
    /// Who uses it and how.
    #[must_use]
    pub fn users(&self) -> Vec<(String, Use)> {
        let users = self.users.lock();
        users.iter().filter_map(Weak::upgrade).map(|link| (link.user.clone(), link.how())).collect()
    }
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.driver.len()
    }
    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether anybody uses it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.users.lock().iter().any(|link| link.strong_count() > 0)
    }

    fn within(&self, at: u64, len: u64) -> io::Result<()> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len());
        if inside { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn writable(&self, at: u64, len: u64) -> io::Result<()> {
        if self.is_read_only() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.threshold.check(at, len);
        self.stats.wr_highest_offset.fetch_max(at.saturating_add(len), Ordering::Relaxed);
        self.within(at, len)
    }

    /// Reads within the length.
    ///
    /// # Errors
    /// The range or the driver.
    pub fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let len = into.len() as u64;
        self.within(at, len)?;
        Stats::add(&self.stats.rd_bytes, &self.stats.rd_operations, len);
        self.driver.read(at, into)
    }
    /// Writes within the length.
    ///
    /// # Errors
    /// The range, the node is read-only, or the driver.
    pub fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let len = data.len() as u64;
        self.writable(at, len)?;
        Stats::add(&self.stats.wr_bytes, &self.stats.wr_operations, len);
        let detect = self.detect_zeroes();
        if detect != Detect::Off && is_zero(data) {
            return self.driver.write_zeroes(at, len, self.is_unmap() && detect == Detect::Unmap);
        }
        self.driver.write(at, data)
    }
    /// Where a range lies in a file of the host, if a request may go there by itself.
    #[must_use]
    pub fn resolve(&self, at: u64, len: u64, write: bool) -> Option<Resolved> {
        if write && (self.is_read_only() || self.detect_zeroes() != Detect::Off) {
            return None;
        }
        self.within(at, len).ok()?;
        if write {
            self.stats.wr_highest_offset.fetch_max(at.saturating_add(len), Ordering::Relaxed);
            self.threshold.check(at, len);
        }
        self.driver.resolve(at, len, write)
    }
    /// Counts a request that went to the file by itself.
    pub(crate) fn count(&self, op: &Op, len: u64) {
        if *op == Op::Read {
            Stats::add(&self.stats.rd_bytes, &self.stats.rd_operations, len);
        } else {
            Stats::add(&self.stats.wr_bytes, &self.stats.wr_operations, len);
        }
    }
    /// Makes a range zero.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.writable(at, len)?;
        Stats::add(&self.stats.wr_bytes, &self.stats.wr_operations, len);
        self.driver.write_zeroes(at, len, unmap && self.is_unmap())
    }
    /// Gives a range up; without `discard=unmap` nothing happens.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.writable(at, len)?;
        Stats::add(&self.stats.unmap_bytes, &self.stats.unmap_operations, len);
        if self.is_unmap() { self.driver.discard(at, len) } else { Ok(()) }
    }
    /// Puts everything on the disk.
    ///
    /// # Errors
    /// The driver.
    pub fn flush(&self) -> io::Result<()> {
        self.stats.flush_operations.fetch_add(1, Ordering::Relaxed);
        if self.is_read_only() { Ok(()) } else { self.driver.flush() }
    }
    /// What a range is in this layer; never longer than asked and never empty.
    ///
    /// # Errors
    /// The range or the driver.
    pub fn extent(&self, at: u64, len: u64) -> io::Result<Extent> {
        self.within(at, len)?;
        let found = self.driver.extent(at, len)?;
        if found.len == 0 || found.len > len {
            return Err(invalid("a driver told an extent that is none"));
        }
        Ok(found)
    }
    /// What a range is, with the chain of backing nodes taken into account; beside it the layer
    /// that decides (0: this node).
    ///
    /// # Errors
    /// As [`Node::extent`].
    pub fn extent_of_chain(&self, at: u64, len: u64) -> io::Result<(Extent, usize)> {
        let (mut below, mut len, mut depth): (Option<Arc<Node>>, _, _) = (None, len, 0);
        loop {
            let node = below.as_deref().unwrap_or(self);
            if at >= node.len() {
                let zero = Extent { len, zero: true, allocated: true, ..Extent::default() };
                return Ok((zero, depth));
            }
            len = len.min(node.len() - at);
            let found = node.extent(at, len)?;
            len = found.len;
            match node.child("backing") {
                Some(next) if !found.allocated => (below, depth) = (Some(next), depth + 1),
                _ if found.allocated => return Ok((found, depth)),
                _ => return Ok((Extent { zero: true, ..found }, depth)),
            }
        }
    }

    /// Begins to use a node.
    ///
    /// # Errors
    /// It is read-only, or another user does not allow it.
    pub fn hold(self: &Arc<Self>, user: &str, how: Use) -> Result<Hold> {
        if how.writes && self.is_read_only() {
            return Err(Error::generic(format!("Block node '{}' is read-only", self.name)));
        }
        self.check_use(user, how, None)?;
        Ok(self.hold_unchecked(user, how))
    }

    /// Whether a use goes together with those of others.
    fn check_use(&self, user: &str, how: Use, own: Option<&Arc<Link>>) -> Result<()> {
        let mut users = self.users.lock();
        users.retain(|link| link.strong_count() > 0);
        let others = users.iter().filter_map(Weak::upgrade);
        for other in others.filter(|other| own.is_none_or(|own| !Arc::ptr_eq(own, other))) {
            // A format also changes the length of its file.
            let resizes = |user: &str, link: Option<&Arc<Link>>| {
                user.ends_with("'file' child)") && link.is_none_or(|l| l.through.get().is_none())
            };
            let both = resizes(user, own) && resizes(&other.user, Some(&other));
            let what = if both { "write, resize" } else { "write" };
            let conflict = |needs: &str, keeps: &str| {
                Error::generic(format!(
                    "Permission conflict on node '{}': permissions '{what}' are both required by \
                     {needs} and unshared by {keeps}.",
                    self.name
                ))
            };
            if other.how().writes && !how.shares_write {
                return Err(conflict(&other.user, user));
            }
            if how.writes && !other.how().shares_write {
                return Err(conflict(user, &other.user));
            }
        }
        drop(users);
        // What only passes requests on needs below what is needed of it.
        if self.class.passes_on() {
            for (_, link) in self.links() {
                let stored = *link.how.read();
                let how = Use {
                    writes: stored.writes && how.writes,
                    shares_write: stored.shares_write || how.shares_write,
                };
                link.node().check_use(&link.user, how, Some(&link))?;
            }
        }
        Ok(())
    }

    /// Whether a user may go on in another way.
    pub(crate) fn may_use(&self, link: &Arc<Link>, how: Use) -> Result<()> {
        self.check_use(&link.user, how, Some(link))
    }

    pub(crate) fn check_new_user(&self, user: &str, how: Use) -> Result<()> {
        self.check_use(user, how, None)
    }

    /// An option it was opened with.
    pub(crate) fn given(&self, name: &str) -> Option<Value> {
        self.given.get(name).cloned()
    }

    pub(crate) fn driver_has_backing(&self) -> bool {
        self.class.has_backing
    }

    /// Lets a user use another node.
    pub(crate) fn retarget(link: &Arc<Link>, to: &Arc<Node>) {
        let old = std::mem::replace(&mut *link.node.write(), to.clone());
        old.users.lock().retain(|user| !std::ptr::eq(user.as_ptr(), Arc::as_ptr(link)));
        to.users.lock().push(Arc::downgrade(link));
    }

    pub(crate) fn links(&self) -> Vec<(&'static str, Arc<Link>)> {
        self.children.lock().clone()
    }

    /// Begins to use a node whatever others do with it: for filters and jobs, which stand in for a
    /// user that was checked.
    #[must_use]
    pub fn hold_unchecked(self: &Arc<Self>, user: &str, how: Use) -> Hold {
        let node = RwLock::new(self.clone());
        let through = OnceLock::new();
        let link = Link { user: user.to_owned(), how: RwLock::new(how), through, node };
        let link = Arc::new(link);
        self.users.lock().push(Arc::downgrade(&link));
        Hold(link)
    }

    /// Nodes below that a request of this one may reach, this one first.
    #[must_use]
    pub fn below(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let mut all: Vec<Arc<Node>> = vec![self.clone()];
        let mut at = 0;
        while let Some(node) = all.get(at).cloned() {
            for (_, child) in node.children() {
                if !all.iter().any(|known| Arc::ptr_eq(known, &child)) {
                    all.push(child);
                }
            }
            at += 1;
        }
        all
    }

    /// The node below, if this is a filter.
    #[must_use]
    pub fn filtered(&self) -> Option<Arc<Node>> {
        let roles = ["file", "backing", "image"].iter().filter(|_| self.class.is_filter());
        roles.filter_map(|role| self.child(role)).next()
    }

    /// The node under filters, itself if it is none.
    #[must_use]
    pub fn skip_filters(self: &Arc<Self>) -> Arc<Node> {
        let mut node = self.clone();
        while node.class.is_filter() {
            let below = node.child("file").or_else(|| node.child("backing"));
            let Some(below) = below.or_else(|| node.child("image")) else { break };
            node = below;
        }
        node
    }

    /// The node under filters that jobs put in without a name.
    #[must_use]
    pub fn skip_implicit(self: &Arc<Self>) -> Arc<Node> {
        let mut node = self.clone();
        while node.implicit {
            let Some(below) = node.child("file").or_else(|| node.child("backing")) else { break };
            node = below;
        }
        node
    }

    /// Images of the chain that this node is the top of, without filters.
    #[must_use]
    pub fn chain(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let mut all = vec![self.skip_filters()];
        while let Some(below) = all.last().and_then(|node| node.child("backing")) {
            all.push(below.skip_filters());
        }
        all
    }

    /// Lets all users of this node but those in `except` use another one instead. Nothing must be
    /// under way; how the users use it is taken over unchecked.
    pub fn replace_by(self: &Arc<Self>, other: &Arc<Node>, except: &[&Arc<Node>]) {
        let keep: Vec<Arc<Link>> =
            except.iter().flat_map(|n| n.children.lock().clone()).map(|(_, link)| link).collect();
        let moved: Vec<Arc<Link>> = {
            let mut users = self.users.lock();
            let (stay, go): (Vec<_>, Vec<_>) = users
                .iter()
                .filter_map(Weak::upgrade)
                .partition(|link| keep.iter().any(|k| Arc::ptr_eq(k, link)));
            *users = stay.iter().map(Arc::downgrade).collect();
            go
        };
        for link in moved {
            *link.node.write() = other.clone();
            other.users.lock().push(Arc::downgrade(&link));
        }
    }
}

/// Writes zeroes as bytes, so that their space is taken.
///
/// # Errors
/// The driver's.
pub fn fill_zeroes(node: &Node, at: u64, len: u64) -> io::Result<()> {
    let zeroes = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(0)];
    let mut done = 0;
    while done < len {
        let n = usize::try_from(len - done).unwrap_or(usize::MAX).min(zeroes.len());
        node.driver.write(at + done, zeroes.get(..n).unwrap_or_default())?;
        done += n as u64;
    }
    Ok(())
}

/// Whether all bytes are zero.
fn is_zero(data: &[u8]) -> bool {
    let (chunks, rest) = data.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0) && rest.iter().all(|b| *b == 0)
}

type Exceeded = Box<dyn Fn(&str, u64, u64) + Send + Sync>;

/// A place in a node; a write behind it is told once.
pub struct Threshold {
    name: String,
    /// `u64::MAX`: none.
    limit: AtomicU64,
    told: Mutex<Option<Exceeded>>,
}

impl Threshold {
    pub(crate) fn of(name: &str) -> Threshold {
        let limit = AtomicU64::new(u64::MAX);
        Threshold { name: name.to_owned(), limit, told: Mutex::default() }
    }
    /// Sets it; 0 takes it away. `told` gets the node's name, by how much a write went beyond, and
    /// the place; on any thread.
    pub fn set(&self, at: u64, told: impl Fn(&str, u64, u64) + Send + Sync + 'static) {
        *self.told.lock() = Some(Box::new(told));
        self.limit.store(if at == 0 { u64::MAX } else { at }, Ordering::SeqCst);
    }
    /// The place; 0: none.
    #[must_use]
    pub fn place(&self) -> u64 {
        match self.limit.load(Ordering::Relaxed) {
            u64::MAX => 0,
            place => place,
        }
    }
    /// Looks at a write.
    pub(crate) fn check(&self, at: u64, len: u64) {
        let limit = self.limit.load(Ordering::Relaxed);
        let end = at.saturating_add(len);
        if end <= limit {
            return;
        }
        let once = self.limit.compare_exchange(limit, u64::MAX, Ordering::SeqCst, Ordering::SeqCst);
        if once.is_ok()
            && let Some(told) = &*self.told.lock()
        {
            told(&self.name, end - limit, limit);
        }
    }
}

/// A user of a node; what it uses can be another one later.
pub(crate) struct Link {
    user: String,
    how: RwLock<Use>,
    /// The user, if it only passes requests on: it needs what is needed of it.
    through: OnceLock<Weak<Node>>,
    node: RwLock<Arc<Node>>,
}

impl Link {
    pub(crate) fn how(&self) -> Use {
        let stored = *self.how.read();
        let Some(owner) = self.through.get() else { return stored };
        let users = owner.upgrade().map(|owner| owner.users()).unwrap_or_default();
        let shares = users.iter().all(|(_, how)| how.shares_write);
        Use {
            writes: stored.writes && users.iter().any(|(_, how)| how.writes),
            shares_write: stored.shares_write || shares,
        }
    }
    pub(crate) fn set_through(&self, owner: &Arc<Node>) {
        _ = self.through.set(Arc::downgrade(owner));
    }
    pub(crate) fn set_how(&self, how: Use) {
        *self.how.write() = how;
    }
    pub(crate) fn node(&self) -> Arc<Node> {
        self.node.read().clone()
    }
}

/// The use of a node; dropping it ends the use.
pub struct Hold(Arc<Link>);

impl Hold {
    /// The node.
    #[must_use]
    pub fn node(&self) -> Arc<Node> {
        self.0.node()
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        self.0.clone()
    }
}

/// A driver's hold on a child.
pub type Child = Hold;

/// A child that may be missing and can be replaced, such as a backing file.
#[derive(Default)]
pub struct Slot(RwLock<Option<Child>>);

impl Slot {
    /// A slot with this child.
    #[must_use]
    pub fn new(child: Option<Child>) -> Slot {
        Slot(RwLock::new(child))
    }
    /// The child's node.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.0.read().as_ref().map(Hold::node)
    }
    /// Whether there is a child.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.read().is_some()
    }
    /// Whether there is no child.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.is_some()
    }
    /// Puts another child in, or none.
    pub fn set(&self, child: Option<Child>) {
        let old = std::mem::replace(&mut *self.0.write(), child);
        drop(old);
    }
}
