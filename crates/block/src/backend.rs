//! What a device has in hand: a slot for a disk, with its requests, counters and error policy.
//!
//! A [`Backend`] has the id of a drive (`-drive id=`) or none, and a root node or none (an empty
//! drive). Requests begin here: they are counted, and held back while the backend is drained
//! ([`Backend::drain`]), so that the graph below can change. What happens on errors (`rerror`,
//! `werror`) is decided here and carried out by the device.
//! Not here: trays, which are the device's.
//! Source: QEMU's manual (`-drive`, `-device ...,rerror=`), query-blockstats, BLOCK_IO_ERROR.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use qapi::{Error, Result};

use crate::engine::{Done, Lane, Op, Request};
use crate::io_limits::Queue;
use crate::node::{Hold, Node, Use};
use crate::timed::Interval;

/// What is done about an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// `report` for reads, `enospc` for writes.
    #[default]
    Auto,
    /// The guest is told.
    Report,
    /// As if there had been none.
    Ignore,
    /// The machine stops; the request is made again when it goes on.
    Stop,
    /// Stop when there is no space left, else report.
    Enospc,
}

impl OnError {
    /// The policy of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<OnError> {
        Some(match word {
            "auto" => OnError::Auto,
            "report" => OnError::Report,
            "ignore" => OnError::Ignore,
            "stop" => OnError::Stop,
            "enospc" => OnError::Enospc,
            _ => return None,
        })
    }

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            OnError::Auto => "auto",
            OnError::Report => "report",
            OnError::Ignore => "ignore",
            OnError::Stop => "stop",
            OnError::Enospc => "enospc",
        }
    }
}

/// ENOMEDIUM of Linux.
const NO_MEDIUM: i32 = 123;

/// What is done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Tell the guest.
    Report,
    /// Say nothing.
    Ignore,
    /// Keep the request; the machine stops.
    Stop,
}

/// Counters, as `query-blockstats` names them.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "named after query-blockstats")]
pub struct Account {
    pub bytes: AtomicU64,
    pub operations: AtomicU64,
    pub failed: AtomicU64,
    pub invalid: AtomicU64,
    pub time_ns: AtomicU64,
    /// Requests that were made together with a neighbour before them.
    pub merged: AtomicU64,
}

/// Counters by kind of request.
#[derive(Debug)]
#[expect(missing_docs, reason = "named after query-blockstats")]
pub struct Accounts {
    /// Requests that make no sense count as accesses.
    pub with_invalid: AtomicBool,
    /// Requests that failed count as accesses, and their time counts.
    pub with_failed: AtomicBool,
    /// Statistics of the last seconds.
    pub timed: Mutex<Vec<Interval>>,
    pub read: Account,
    pub write: Account,
    pub flush: Account,
    pub unmap: Account,
    /// Host time of the last request's end; 0: none yet.
    pub last_ns: AtomicU64,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts {
            with_invalid: true.into(),
            with_failed: true.into(),
            timed: Mutex::default(),
            read: Account::default(),
            write: Account::default(),
            flush: Account::default(),
            unmap: Account::default(),
            last_ns: AtomicU64::new(0),
        }
    }
}

#[derive(Default)]
struct Gate {
    in_flight: usize,
    drains: usize,
    waiting: Vec<(Arc<Lane>, Request)>,
}

/// Who has a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Its path in the object tree, for `qdev`.
    pub path: String,
    /// It writes.
    pub writes: bool,
    /// Others may write.
    pub shares_write: bool,
    /// Media can be taken out.
    pub removable: bool,
}

/// A slot for a disk.
pub struct Backend {
    name: String,
    root: Mutex<Option<Hold>>,
    user: Mutex<Option<User>>,
    gate: Mutex<Gate>,
    idle: Condvar,
    policy: Mutex<(OnError, OnError)>,
    /// Errors are the device's alone: no policy, and nobody else is told.
    quiet: AtomicBool,
    /// Writes may stay in caches until a flush (`cache.writeback`).
    pub write_cache: AtomicBool,
    /// There was an error that stopped the machine (`io-status`); 0 ok, 1 failed, 2 no space.
    pub status: AtomicU64,
    /// Counters.
    pub accounts: Accounts,
    /// Requests that failed and wait for the machine to go on.
    parked: Mutex<Vec<(Arc<Lane>, Request)>>,
    /// Nothing is parked: the device is being reset (by so many threads).
    giving_up: AtomicUsize,
    /// Commands of the device that are not answered; each has at most one request here.
    commands: Mutex<usize>,
    /// A command was answered, or waits for the machine to go on.
    quieter: Condvar,
    /// Requests that wait because of limits.
    pub(crate) queue: Arc<Queue>,
    told: Told,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.queue.end();
    }
}

/// An error of a request, for events and for stopping the machine.
#[derive(Debug)]
pub struct Trouble {
    /// The drive's id.
    pub device: String,
    /// The device's path in the object tree.
    pub path: String,
    /// The node's name.
    pub node: String,
    /// It was a write.
    pub write: bool,
    /// What is done about it.
    pub verdict: Verdict,
    /// There is no space left; `None` where no policy ever stops the machine.
    pub no_space: Option<bool>,
    /// The system's reason.
    pub reason: String,
}

/// Who is told about errors; shared by all slots of a graph.
pub(crate) type Told = Arc<Mutex<Option<Arc<dyn Fn(Trouble) + Send + Sync>>>>;

impl Backend {
    /// A slot with this id (or none) and root.
    ///
    /// # Errors
    /// The node cannot be used at all.
    pub(crate) fn new(name: &str, node: Option<&Arc<Node>>, told: Told) -> Result<Arc<Backend>> {
        let passive = Use { writes: false, shares_write: true };
        let root = node.map(|node| node.hold("a drive", passive)).transpose()?;
        Ok(Arc::new(Backend {
            name: name.to_owned(),
            root: Mutex::new(root),
            user: Mutex::default(),
            gate: Mutex::default(),
            idle: Condvar::new(),
            policy: Mutex::default(),
            quiet: AtomicBool::new(false),
            write_cache: AtomicBool::new(true),
            status: AtomicU64::new(0),
            accounts: Accounts::default(),
            parked: Mutex::default(),
            giving_up: AtomicUsize::new(0),
            commands: Mutex::default(),
            quieter: Condvar::new(),
            queue: Arc::default(),
            told,
        }))
    }

    /// The drive's id; empty for none.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node at the top.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.root.lock().as_ref().map(Hold::node)
    }

    /// Length of the disk in bytes; 0 for none.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.node().map_or(0, |node| node.len())
    }

    /// Whether there is no disk or an empty one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.node().is_none_or(|node| node.is_read_only())
    }

    /// Who has it.
    #[must_use]
    pub fn user(&self) -> Option<User> {
        self.user.lock().clone()
    }

    /// A device takes it.
    ///
    /// # Errors
    /// Another one has it, or others use the node in a way that does not go together.
    pub fn attach(&self, user: User) -> Result<()> {
        let mut place = self.user.lock();
        if place.is_some() {
            return Err(Error::generic(format!(
                "Drive '{}' is already in use by another device",
                self.name
            )));
        }
        if let Some(root) = &mut *self.root.lock() {
            let who = self.who(Some(&user), &root.node());
            *root = root.node().hold(&who, Backend::how(&user))?;
        }
        *place = Some(user);
        Ok(())
    }

    fn who(&self, user: Option<&User>, node: &Node) -> String {
        let path = user.map_or("", |user| user.path.as_str());
        let name = if self.name.is_empty() { path } else { &self.name };
        format!("block device '{name}' (uses node '{}' as 'root' child)", node.name())
    }

    fn how(user: &User) -> Use {
        Use { writes: user.writes, shares_write: user.shares_write }
    }

    /// The device lets go of it.
    pub fn detach(&self) {
        *self.user.lock() = None;
        self.quiet.store(false, Ordering::Relaxed);
        if let Some(root) = &mut *self.root.lock()
            && let Ok(hold) = root.node().hold("a drive", Use { writes: false, shares_write: true })
        {
            *root = hold;
        }
    }

    /// Puts a medium in or takes it out; nothing is under way meanwhile.
    ///
    /// # Errors
    /// The node's other users do not allow it.
    pub fn change(self: &Arc<Self>, node: Option<&Arc<Node>>) -> Result<()> {
        let _drained = self.drain();
        let how = match &*self.user.lock() {
            Some(user) => Backend::how(user),
            None => Use { writes: false, shares_write: true },
        };
        let hold = node.map(|node| {
            let how = Use { writes: how.writes && !node.is_read_only(), ..how };
            node.hold(&self.who(self.user.lock().as_ref(), node), how)
        });
        let hold = hold.transpose()?;
        *self.root.lock() = hold;
        Ok(())
    }

    /// Sets what is done about errors of reads and of writes.
    pub fn set_policy(&self, reads: OnError, writes: OnError) {
        *self.policy.lock() = (reads, writes);
    }

    /// Whether some error stops the machine (`io-status` is kept then).
    #[must_use]
    pub fn may_stop(&self) -> bool {
        let (reads, writes) = self.policy();
        let device_decides = self.quiet.load(Ordering::Relaxed) || self.user.lock().is_none();
        let full = matches!(writes, OnError::Stop | OnError::Enospc | OnError::Auto);
        !device_decides && (full || reads == OnError::Stop)
    }

    /// Makes all errors answers for the device, whatever the policy says, and tells nobody else.
    pub fn leave_errors_to_the_device(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// What is done about errors of reads and of writes.
    #[must_use]
    pub fn policy(&self) -> (OnError, OnError) {
        *self.policy.lock()
    }

    fn verdict(&self, write: bool, error: &io::Error) -> Verdict {
        let (reads, writes) = self.policy();
        let no_space = error.kind() == io::ErrorKind::StorageFull;
        match if write { writes } else { reads } {
            OnError::Ignore => Verdict::Ignore,
            OnError::Stop => Verdict::Stop,
            OnError::Enospc if no_space => Verdict::Stop,
            OnError::Auto if write && no_space => Verdict::Stop,
            _ => Verdict::Report,
        }
    }

    /// What becomes of a failed request: an answer for the device, or the request is parked.
    fn fail(
        &self,
        lane: &Arc<Lane>,
        error: io::Error,
        request: Request,
    ) -> Option<(Done, io::Result<()>)> {
        // What cannot be done at all, or not there, is the device's affair. A host that says so of a
        // transfer (EINVAL of direct I/O) is a disk that failed.
        let host_failed = error.raw_os_error().is_some()
            && matches!(request.op, Op::Read | Op::Write | Op::Flush);
        let theirs = !host_failed
            && matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported);
        if theirs || self.quiet.load(Ordering::Relaxed) {
            return Some((request.done, Err(error)));
        }
        let write = request.op != Op::Read;
        let mut verdict = self.verdict(write, &error);
        if verdict == Verdict::Stop && self.giving_up.load(Ordering::SeqCst) > 0 {
            verdict = Verdict::Report;
        }
        let no_space = error.kind() == io::ErrorKind::StorageFull;
        let status = if no_space { 2 } else { 1 };
        if verdict == Verdict::Stop {
            _ = self.status.compare_exchange(0, status, Ordering::Relaxed, Ordering::Relaxed);
            self.parked.lock().push((lane.clone(), request));
            // Who waits looks at both counts with the one lock held.
            drop(self.commands.lock());
            self.quieter.notify_all();
            self.tell(verdict, write, no_space, &error);
            return None;
        }
        self.tell(verdict, write, no_space, &error);
        let result = if verdict == Verdict::Ignore { Ok(()) } else { Err(error) };
        Some((request.done, result))
    }

    fn tell(&self, verdict: Verdict, write: bool, no_space: bool, error: &io::Error) {
        let told = self.told.lock().clone();
        if let Some(told) = told {
            let node = self.node().map(|node| node.name().to_owned()).unwrap_or_default();
            let path = self.user().map(|user| user.path).unwrap_or_default();
            let (device, reason) = (self.name.clone(), host::reason(error));
            let no_space = self.may_stop().then_some(no_space);
            told(Trouble { device, path, node, write, verdict, no_space, reason });
        }
    }

    /// Makes the requests that stopped the machine again.
    pub fn retry(self: &Arc<Self>) {
        self.status.store(0, Ordering::Relaxed);
        let parked = std::mem::take(&mut *self.parked.lock());
        for (lane, request) in parked {
            self.submit(&lane, request);
            lane.flush();
        }
    }

    /// Whether requests wait for [`Backend::retry`].
    #[must_use]
    pub fn has_parked(&self) -> bool {
        !self.parked.lock().is_empty()
    }

    /// A command of the device begins; what is given back ends it when it is dropped.
    #[must_use]
    pub fn command(self: &Arc<Self>) -> Command {
        *self.commands.lock() += 1;
        Command(self.clone())
    }

    /// Lets requests go that wait because of limits.
    fn hurry(self: &Arc<Self>) {
        for (lane, request) in self.queue.take() {
            self.pass(&lane, request);
            lane.flush();
        }
    }

    /// Waits until every command of the device was answered: parked requests fail, and until it
    /// returns none is parked. For devices that are reset; not on the thread of their lanes.
    pub fn give_up(self: &Arc<Self>) {
        self.giving_up.fetch_add(1, Ordering::SeqCst);
        self.hurry();
        let parked = std::mem::take(&mut *self.parked.lock());
        for (_, request) in parked {
            (request.done)(Err(io::ErrorKind::Interrupted.into()));
        }
        let mut commands = self.commands.lock();
        while *commands > 0 {
            self.quieter.wait(&mut commands);
        }
        self.giving_up.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until every command of the device was answered or waits for the machine to go on.
    /// For machines that stop; not on the thread of the device's lanes.
    pub fn quiesce(self: &Arc<Self>) {
        self.hurry();
        let mut commands = self.commands.lock();
        while *commands > self.parked.lock().len() {
            self.quieter.wait(&mut commands);
        }
    }

    /// A device refused a request that makes no sense.
    pub fn invalid(&self, op: Op) {
        self.account(op).invalid.fetch_add(1, Ordering::Relaxed);
        if self.accounts.with_invalid.load(Ordering::Relaxed) {
            self.accounts.last_ns.store(host::monotonic_ns(), Ordering::Relaxed);
        }
    }

    /// Counts a request that ended.
    fn count(&self, op: Op, (len, parts): (u64, u32), begun: u64, well: bool) {
        let now = host::monotonic_ns();
        let account = self.account(op);
        let add = |n: &AtomicU64, by| _ = n.fetch_add(by, Ordering::Relaxed);
        let parts = u64::from(parts.max(1));
        add(&account.merged, parts - 1);
        if well {
            add(&account.operations, parts);
            add(&account.bytes, len);
        } else {
            add(&account.failed, parts);
        }
        if !well && !self.accounts.with_failed.load(Ordering::Relaxed) {
            return;
        }
        let time = now.saturating_sub(begun);
        add(&account.time_ns, time.saturating_mul(parts));
        self.accounts.last_ns.store(now, Ordering::Relaxed);
        let kind = match op {
            Op::Read => 0,
            Op::Write | Op::WriteZeroes { .. } => 1,
            Op::Flush => 2,
            Op::Discard => return,
        };
        for interval in self.accounts.timed.lock().iter_mut() {
            interval.add(kind, time, now);
        }
    }

    fn account(&self, op: Op) -> &Account {
        match op {
            Op::Read => &self.accounts.read,
            Op::Write | Op::WriteZeroes { .. } => &self.accounts.write,
            Op::Discard => &self.accounts.unmap,
            Op::Flush => &self.accounts.flush,
        }
    }

    /// Begins a request; [`Lane::flush`] makes the kernel see it. While the backend is drained it
    /// waits.
    pub fn submit(self: &Arc<Self>, lane: &Arc<Lane>, request: Request) {
        if let Some(request) = self.queue.push(lane, request) {
            self.pass(lane, request);
        }
    }

    /// Begins a request whatever the limits are.
    pub(crate) fn pass(self: &Arc<Self>, lane: &Arc<Lane>, request: Request) {
        {
            let mut gate = self.gate.lock();
            if gate.drains > 0 {
                gate.waiting.push((lane.clone(), request));
                return;
            }
            gate.in_flight += 1;
        }
        self.start(lane, request);
    }

    fn start(self: &Arc<Self>, lane: &Arc<Lane>, request: Request) {
        let (this, way, begun) = (self.clone(), lane.clone(), host::monotonic_ns());
        let Request { op, at, len, memory, mut through, parts, done: whole } = request;
        through &= !matches!(op, Op::Read | Op::Flush);
        let kept = memory.clone();
        let done: Done = Box::new(move |result: io::Result<()>| {
            this.count(op, (len, parts), begun, result.is_ok());
            match result {
                Ok(()) => whole(Ok(())),
                Err(error) => {
                    let memory = kept;
                    let request = Request { op, at, len, memory, through, parts, done: whole };
                    if let Some((done, result)) = this.fail(&way, error, request) {
                        done(result);
                    }
                }
            }
            let mut gate = this.gate.lock();
            gate.in_flight -= 1;
            if gate.in_flight == 0 && gate.drains > 0 {
                this.idle.notify_all();
            }
        });
        match self.node() {
            Some(node) => {
                lane.start(node, Request { op, at, len, memory, through, parts, done });
            }
            None => done(Err(io::Error::from_raw_os_error(NO_MEDIUM))),
        }
    }

    /// Holds new requests back and waits until none is under way; dropping the result lets them
    /// go on. Not on the thread that completes this backend's requests.
    #[must_use]
    pub fn drain(self: &Arc<Self>) -> Drained {
        // Limits hold nothing back that was asked for before.
        self.hurry();
        let mut gate = self.gate.lock();
        gate.drains += 1;
        while gate.in_flight > 0 {
            self.idle.wait(&mut gate);
        }
        Drained(self.clone())
    }
}

/// A command of a device that is not answered yet ([`Backend::command`]).
pub struct Command(Arc<Backend>);

impl Drop for Command {
    fn drop(&mut self) {
        *self.0.commands.lock() -= 1;
        self.0.quieter.notify_all();
    }
}

/// A drained section of a backend.
pub struct Drained(Arc<Backend>);

impl Drop for Drained {
    fn drop(&mut self) {
        let waiting = {
            let mut gate = self.0.gate.lock();
            gate.drains -= 1;
            if gate.drains > 0 {
                return;
            }
            std::mem::take(&mut gate.waiting)
        };
        let mut lanes: Vec<Arc<Lane>> = Vec::new();
        for (lane, request) in waiting {
            self.0.pass(&lane, request);
            if !lanes.iter().any(|known| Arc::ptr_eq(known, &lane)) {
                lanes.push(lane);
            }
        }
        for lane in lanes {
            lane.flush();
        }
    }
}

/// A device with a slot, for monitors.
pub trait SlottedDevice: Send + Sync {
    /// The slot.
    fn backend(&self) -> &Arc<Backend>;
    /// The disk has another length now.
    fn resized(&self) {}
    /// Media can be changed, and the tray is open.
    fn tray_open(&self) -> Option<bool> {
        None
    }
    /// Media can be changed, and the guest locked the tray.
    fn is_locked(&self) -> bool {
        false
    }
    /// Opens or closes the tray, or asks the guest to; `false`: the guest must open it.
    fn move_tray(&self, open: bool, force: bool) -> bool {
        _ = (open, force);
        false
    }
}

/// How a record offers its slot.
pub type Slotted = Arc<dyn SlottedDevice>;
