//! The virtual machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Wake};

use chardev::Chardevs;
use device::{BoxFuture, Cause, Device, Objects, Request, Reset, RunControl, Services};
use evloop::{Clock, Handle};
use parking_lot::Mutex;
use qapi::{Error, Qapi as _, Result, Value};

use crate::Fds;
use crate::{
    Actions, Event, EventSink, Execution, Listing, Machine, NoExecution, RebootAction, Requests,
    RunState, ShutdownAction, event::CauseData,
};

/// Choices that were made at start.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: Option<[u8; 16]>,
    /// `-action`, `-no-reboot` and `-no-shutdown`.
    pub actions: Actions,
    /// Name of the accelerator.
    pub accel: String,
}

/// Why the main loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The cause.
    pub cause: Cause,
    /// Status of the process.
    pub status: u8,
}

type Human = Box<dyn Fn(&Arc<Vm>, &str) -> String + Send + Sync>;

/// The virtual machine. Its methods are called on the main loop only.
pub struct Vm {
    /// Choices that were made at start.
    pub config: Config,
    /// What this program could run.
    pub listing: Listing,
    /// Character back ends.
    pub chardevs: Arc<Chardevs>,
    /// Objects that users made.
    pub objects: Arc<Objects>,
    /// Descriptors that monitors were given.
    pub fds: Arc<Fds>,
    /// Storage, networks and the like, by type.
    pub services: Services,
    /// What is known of migration.
    pub(crate) migration: crate::commands::MigrationState,
    /// The guest's clock.
    pub clock: Clock,
    /// The main loop.
    pub handle: Handle,
    requests: Arc<Requests>,
    machine: OnceLock<Machine>,
    execution: OnceLock<Arc<dyn Execution>>,
    state: Mutex<RunState>,
    sinks: Mutex<Vec<Weak<dyn EventSink>>>,
    rates: crate::event_rate::Rates,
    exit: Mutex<Option<Exit>>,
    human: OnceLock<Human>,
    ready: AtomicBool,
    actions: Mutex<Actions>,
    this: Weak<Self>,
}

impl Vm {
    /// A virtual machine without a machine yet.
    pub fn new(
        config: Config,
        listing: Listing,
        (chardevs, fds): (Arc<Chardevs>, Arc<Fds>),
        clock: Clock,
        handle: Handle,
        requests: Arc<Requests>,
    ) -> Arc<Self> {
        let services = Services::default();
        let vm = Arc::new_cyclic(|this| Self {
            listing,
            chardevs,
            objects: Arc::new(Objects::new(services.clone())),
            fds,
            services: services.clone(),
            migration: crate::commands::MigrationState::default(),
            clock,
            rates: crate::event_rate::Rates::new(&handle),
            handle,
            requests: requests.clone(),
            machine: OnceLock::new(),
            execution: OnceLock::new(),
            state: Mutex::new(RunState::Prelaunch),
            sinks: Mutex::default(),
            exit: Mutex::default(),
            human: OnceLock::new(),
            ready: AtomicBool::new(false),
            actions: Mutex::new(config.actions),
            this: this.clone(),
            config,
        });
        requests.serve(&vm);
        let events: Arc<dyn device::GuestEvents> = requests.clone();
        vm.services.add(events);
        let departure: Arc<dyn device::Departure> = requests;
        vm.services.add(departure);
        vm
    }

    /// Puts the machine in; only the first one counts.
    pub fn set_machine(&self, machine: Machine, execution: Arc<dyn Execution>) {
        _ = self.machine.set(machine);
        _ = self.execution.set(execution);
    }

    /// A device is off its bus, or the guest let it go: it ends, and with it those on its buses.
    pub(crate) fn device_left(&self, id: &str) {
        let Some(machine) = self.machine() else { return };
        let Some(record) = machine.devices.find(id) else { return };
        for gone in machine.devices.remove(&record) {
            // Nothing of a disk is under way any more when it is said to be gone.
            if let Some(slot) = gone.ability::<block::Slotted>() {
                slot.backend().give_up();
                drop(slot.backend().drain());
            }
            crate::commands::drop_drive(self, &gone);
            crate::commands::tell_deleted(self, &gone);
        }
    }

    /// The machine.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.get()
    }

    /// The CPUs.
    pub fn execution(&self) -> Arc<dyn Execution> {
        self.execution.get().cloned().unwrap_or_else(|| Arc::new(NoExecution))
    }

    /// Everything of the command line exists; from now on devices are hot-plugged.
    pub fn set_ready(&self) {
        if let Ok(balloon) = crate::commands::find_balloon(self) {
            let (vm, handle) = (self.this.clone(), self.handle.clone());
            balloon.on_change(Arc::new(move |actual| {
                let vm = vm.clone();
                handle.call(Box::new(move || {
                    let data = crate::commands::BalloonInfo { actual }.to_value();
                    if let Some(vm) = vm.upgrade() {
                        vm.emit("BALLOON_CHANGE", Some(data));
                    }
                }));
            }));
        }
        self.watch_disks();
        self.ready.store(true, Ordering::Release);
    }

    /// This machine, for calls that come later.
    pub(crate) fn weak(&self) -> Weak<Vm> {
        self.this.clone()
    }

    /// Whether everything of the command line exists.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// What happens when the guest resets, powers off and so on.
    pub fn actions(&self) -> Actions {
        *self.actions.lock()
    }

    /// Changes what happens then.
    pub fn set_actions(&self, change: impl FnOnce(&mut Actions)) {
        change(&mut self.actions.lock());
    }

    /// Who answers `human-monitor-command`.
    pub fn set_human(&self, human: Human) {
        _ = self.human.set(human);
    }

    /// Runs a line of the human monitor and gives its output.
    pub fn human(&self, line: &str) -> Result<String> {
        match (self.human.get(), self.this.upgrade()) {
            (Some(human), Some(vm)) => Ok(human(&vm, line)),
            _ => Err(Error::generic("there is no human monitor")),
        }
    }

    /// The run state.
    pub fn state(&self) -> RunState {
        *self.state.lock()
    }

    /// Adds a receiver of events.
    pub fn subscribe(&self, sink: &Arc<dyn EventSink>) {
        self.sinks.lock().push(Arc::downgrade(sink));
    }

    /// Sends an event to everyone.
    pub fn emit(&self, name: &'static str, data: Option<Value>) {
        let event = Event { name, data, at: host::realtime_ns() };
        let this = self.this.clone();
        let event = self.rates.pass(event, move |key| {
            if let Some(vm) = this.upgrade()
                && let Some(event) = vm.rates.over(key)
            {
                vm.tell(&event);
            }
        });
        if let Some(event) = event {
            self.tell(&event);
        }
    }

    fn tell(&self, event: &Event) {
        let sinks: Vec<_> = {
            let mut sinks = self.sinks.lock();
            sinks.retain(|sink| sink.strong_count() > 0);
            sinks.iter().filter_map(Weak::upgrade).collect()
        };
        for sink in sinks {
            sink.event(event);
        }
    }

    /// Runs `f` while no guest code runs.
    pub fn while_stopped<T>(&self, f: impl FnOnce() -> T) -> T {
        let execution = self.execution();
        let running = self.state() == RunState::Running;
        if running {
            execution.stop();
        }
        let result = f();
        if running {
            execution.start();
        }
        result
    }

    /// Lets the guest run.
    pub fn cont(&self) -> Result<()> {
        self.cont_as(&[])
    }

    /// Lets the guest run with each CPU doing as the plan says, by index; those beyond run.
    pub fn cont_as(&self, plan: &[accel::RunAs]) -> Result<()> {
        let state = self.state();
        if state.needs_reset() {
            return Err(Error::generic("Resetting the Virtual Machine is required"));
        }
        if state == RunState::Running {
            return Ok(());
        }
        *self.state.lock() = RunState::Running;
        if let Some(graph) = self.services.find::<Arc<block::Graph>>() {
            graph.retry();
        }
        for device in self.devices() {
            device.resume();
        }
        self.clock.start();
        self.emit("RESUME", None);
        if plan.is_empty() {
            self.execution().start();
        } else {
            self.execution().start_as(plan);
        }
        Ok(())
    }

    /// Stops the guest in the given state; a guest that does not run stays as it is.
    pub fn stop(&self, state: RunState) {
        if self.state() != RunState::Running {
            return;
        }
        self.execution().stop();
        self.clock.stop();
        *self.state.lock() = state;
        self.pause_devices();
        self.emit("STOP", None);
        // Who stops a machine may look at its disks, or copy them.
        if let Some(graph) = self.services.find::<Arc<block::Graph>>() {
            drop(graph.drain());
            graph.flush_all();
        }
    }

    fn devices(&self) -> Vec<Arc<dyn Device>> {
        self.machine().map(|machine| machine.reset.devices()).unwrap_or_default()
    }

    /// Lets devices finish or put back what they have begun: from now on nothing changes memory.
    pub(crate) fn pause_devices(&self) {
        for device in self.devices() {
            wait_for(device.pause());
        }
    }

    /// The stopped guest cannot go on as it is.
    pub(crate) fn give_up(&self, state: RunState) {
        *self.state.lock() = state;
    }

    /// Hears of errors of disks: tells them, and stops where the policy says so.
    fn watch_disks(&self) {
        let Some(graph) = self.services.find::<Arc<block::Graph>>() else { return };
        if let Some(vm) = self.this.upgrade() {
            crate::commands::serve_jobs(&vm);
        }
        let (vm, handle) = (self.this.clone(), self.handle.clone());
        graph.on_trouble(Arc::new(move |trouble| {
            let vm = vm.clone();
            handle.call(Box::new(move || {
                let Some(vm) = vm.upgrade() else { return };
                let data = crate::commands::BlockIoError::of(&trouble).to_value();
                vm.emit("BLOCK_IO_ERROR", Some(data));
                // Somebody may have let the machine go on meanwhile, and the request with it.
                let waits = vm.services.find::<Arc<block::Graph>>();
                let waits = waits.is_some_and(|graph| graph.has_parked());
                if trouble.verdict == block::Verdict::Stop && waits {
                    vm.stop(RunState::IoError);
                }
            }));
        }));
    }

    /// Where devices and CPUs put their requests.
    pub fn run_control(&self) -> Arc<dyn RunControl> {
        self.requests.clone()
    }

    /// Asks for something; carried out at the next [`Vm::process_requests`].
    pub fn request(&self, request: Request) {
        self.requests.request(request);
    }

    /// Carries out what was asked for.
    pub fn process_requests(&self) {
        for request in self.requests.take() {
            match request {
                Request::Shutdown(cause) => self.shut_down(cause),
                Request::Reset(cause)
                    if self.actions().reboot == RebootAction::Shutdown
                        && cause != Cause::SubsystemReset =>
                {
                    self.shut_down(cause);
                }
                Request::Reset(cause) => self.reset(cause),
                Request::Powerdown => self.power_down(),
                Request::Stop => self.stop(RunState::Paused),
                Request::Exit(status) => {
                    self.shut_down(Cause::GuestShutdown);
                    if let Some(exit) = &mut *self.exit.lock() {
                        exit.status = status;
                    }
                }
            }
        }
    }

    fn shut_down(&self, cause: Cause) {
        if self.exit.lock().is_some() {
            return;
        }
        self.emit("SHUTDOWN", Some(cause_data(cause)));
        let stays = self.actions().shutdown == ShutdownAction::Pause
            && !matches!(cause, Cause::HostQmpQuit | Cause::HostSignal | Cause::HostUi);
        if stays {
            self.stop(RunState::Shutdown);
            return;
        }
        *self.exit.lock() = Some(Exit { cause, status: 0 });
        self.execution().stop();
        if let Ok(jobs) = crate::commands::jobs(self) {
            jobs.cancel_all();
        }
        self.handle.quit();
    }

    fn power_down(&self) {
        self.emit("POWERDOWN", None);
        if let Some(press) = self.machine().and_then(|machine| machine.powerdown.as_ref()) {
            press();
        }
    }

    /// Resets the machine.
    pub fn reset(&self, cause: Cause) {
        let execution = self.execution();
        let running = self.state() == RunState::Running;
        if running {
            execution.stop();
        }
        self.reset_devices(Reset::Cold);
        self.emit("RESET", Some(cause_data(cause)));
        if running {
            execution.start();
        } else {
            *self.state.lock() = RunState::Prelaunch;
        }
    }

    /// Brings devices, CPUs and boot images to their reset state.
    pub fn reset_devices(&self, kind: Reset) {
        let execution = self.execution();
        if let Some(machine) = self.machine() {
            machine.tell_boot_order();
            machine.reset.reset(kind);
            if let Some(reload) = &machine.reload {
                reload();
            }
            execution.reset(kind);
            machine.reset.settle();
        }
    }

    /// Why the main loop ends, once it has to.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.lock()
    }
}

/// Wakes the thread that waits for a future.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
fn wait_for(mut future: BoxFuture<'_, ()>) {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
}

fn cause_data(cause: Cause) -> Value {
    CauseData { guest: cause.is_guest(), reason: cause.into() }.to_value()
}
