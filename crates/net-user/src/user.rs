//! The back end: everything behind one lock, on the link's loop.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use device::Saved;
use evloop::{Clock, Handle, Readiness, Timer};
use net::link::Datagrams;
use net::{Backend, Context, Frame, Kind, Link, UserNet};
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::config::{Config, UserArgs};
use crate::flows::Owner;
use crate::forward::{HostSide, Rule};
use crate::saved::StackState;
use crate::stack::Stack;

/// Time between looks at what has expired, in nanoseconds.
const TICK: u64 = 250_000_000;

/// What parts of the stack need of their surroundings.
pub(crate) struct Reach {
    pub(crate) config: Config,
    pub(crate) handle: Handle,
    pub(crate) user: Weak<User>,
}

/// User-mode networking.
pub struct User {
    clock: Clock,
    link: Weak<Link>,
    timer: OnceLock<Timer>,
    /// Tells this network from those of other processes.
    instance: u64,
    pub(crate) reach: Reach,
    stack: Mutex<Stack>,
    /// Sockets that are ready and were not looked at yet.
    ready: Mutex<Vec<(u64, Readiness)>>,
}

impl Kind for UserArgs {
    const NAME: &'static str = "user";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let user = User::open(&self, link, context)?;
        Ok(user)
    }
}

impl User {
    /// Opens one on a link.
    ///
    /// # Errors
    /// What is wrong with the arguments.
    pub fn open(args: &UserArgs, link: &Arc<Link>, context: &Context) -> Result<Arc<User>> {
        let config = Config::new(args)?;
        let (handle, clock) = (context.handle.clone(), context.clock.clone());
        let mut instance = [0; 8];
        _ = host::fill_random(&mut instance);
        let user = Arc::new_cyclic(|this| User {
            instance: u64::from_le_bytes(instance),
            clock: clock.clone(),
            link: Arc::downgrade(link),
            timer: OnceLock::new(),
            reach: Reach { config, handle, user: this.clone() },
            stack: Mutex::new(Stack::new(link)),
            ready: Mutex::default(),
        });
        let weak = Arc::downgrade(&user);
        let timer = clock.timer(move || {
            if let Some(user) = weak.upgrade() {
                user.tick();
            }
        });
        _ = user.timer.set(timer);
        for text in args.hostfwd.iter().flatten() {
            user.add_forward(&text.str)?;
        }
        for text in args.guestfwd.iter().flatten() {
            user.stack.lock().add_guest_forward(&user.reach, &text.str, context)?;
        }
        Ok(user)
    }

    /// Does something with the stack as one batch.
    pub(crate) fn batch<T>(&self, f: impl FnOnce(&mut Stack, &Reach, u64) -> T) -> T {
        let now = self.clock.now_ns();
        let mut stack = self.stack.lock();
        stack.begin();
        let result = f(&mut stack, &self.reach, now);
        stack.end(now);
        let busy = stack.is_busy();
        drop(stack);
        self.arm(busy, now);
        result
    }

    fn arm(&self, busy: bool, now: u64) {
        if let Some(timer) = self.timer.get()
            && busy
            && timer.deadline().is_none()
        {
            timer.arm_at(now.saturating_add(TICK));
        }
    }

    fn tick(&self) {
        self.batch(|stack, _, now| stack.tick(now));
    }

    /// A socket of a flow has something.
    pub(crate) fn datagrams(&self, owner: Owner, failed: bool) {
        self.batch(|stack, reach, now| stack.datagrams(reach, (owner, failed), now));
    }

    /// A socket of a connection is ready. All that are in one round of the loop become one batch:
    /// one lock, one look at the card, one interrupt.
    pub(crate) fn stream_ready(&self, token: u64, ready: Readiness) {
        let mut waiting = self.ready.lock();
        waiting.push((token, ready));
        if waiting.len() == 1
            && let Some(user) = self.reach.user.upgrade()
        {
            self.reach.handle.call(Box::new(move || user.streams_ready()));
        }
    }

    fn streams_ready(&self) {
        let mut all = std::mem::take(&mut *self.ready.lock());
        self.batch(|stack, reach, now| {
            for (token, ready) in all.drain(..) {
                stack.stream_ready(reach, token, ready, now);
            }
        });
        let mut waiting = self.ready.lock();
        if waiting.is_empty() {
            // The memory serves again.
            *waiting = all;
        }
    }

    /// Somebody wants to be connected to the guest.
    pub(crate) fn accept(&self, host: SocketAddr) {
        self.batch(|stack, reach, now| stack.accept(reach, host, now));
    }

    /// What is saved.
    pub(crate) fn state(&self) -> StackState {
        self.stack.lock().state(self.instance)
    }

    /// Goes back to a state.
    pub(crate) fn restore(&self, state: StackState) {
        let now = self.clock.now_ns();
        self.stack.lock().restore(state, self.instance, now);
    }

    /// Memory of the buffers of all connections, and their number.
    #[cfg(test)]
    pub(crate) fn connections(&self) -> (usize, usize) {
        self.stack.lock().memory()
    }
}

impl Backend for User {
    fn offloads(&self) -> bool {
        true
    }

    fn datagram_offloads(&self) -> Datagrams {
        Datagrams { ufo: false, uso: true }
    }

    fn send(&self, frame: &Frame<'_>) {
        let now = self.clock.now_ns();
        let mut stack = self.stack.lock();
        stack.begin_once();
        stack.frame(&self.reach, frame, now);
    }

    fn flush(&self) {
        self.batch(|_, _, _| {});
    }

    fn is_busy(&self) -> bool {
        self.stack.is_locked()
    }

    fn room(&self) {
        self.batch(|stack, _, now| stack.room(now));
    }

    fn describe(&self) -> String {
        let net = self.reach.config.v4.unwrap_or_default().net;
        let restrict = if self.reach.config.restrict { "on" } else { "off" };
        format!("net={net},restrict={restrict}")
    }

    fn close(&self) {
        if let Some(timer) = self.timer.get() {
            timer.cancel();
        }
        if let Some(link) = self.link.upgrade() {
            *self.stack.lock() = Stack::new(&link);
        }
    }

    fn user(&self) -> Option<&dyn UserNet> {
        Some(self)
    }

    fn saved(&self) -> Option<&dyn Saved> {
        Some(self)
    }

    fn settle(&self) {
        self.batch(|stack, _, _| stack.settle());
    }
}

impl UserNet for User {
    fn add_forward(&self, text: &str) -> Result<()> {
        let rule = Rule::parse(text)?;
        let now = self.clock.now_ns();
        self.stack.lock().add_forward(&self.reach, rule, now).map_err(|error| {
            trace::guest_error!("hostfwd {text}: {error}");
            Error::generic(format!("Could not set up host forwarding rule '{text}'"))
        })
    }

    fn remove_forward(&self, text: &str) -> Option<bool> {
        let side = HostSide::parse(text)?;
        Some(self.stack.lock().remove_forward(&self.reach, side))
    }

    fn table(&self) -> String {
        let now = self.clock.now_ns();
        self.stack.lock().table(&self.reach, now)
    }
}
