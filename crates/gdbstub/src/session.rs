//! A session: what each packet asks for.

use std::sync::{Arc, Weak};

use accel::debug::{DebugSink, DebugStop, RunAs, WatchKind};
use accel::{AccelVm, DebugError, JitCpu};
use cpu::debug::RegisterFile;
use device::{CharEvent, CharPort, CharReceiver, TxAttrs};
use parking_lot::Mutex;
use vmm::{Event as VmEvent, EventSink, RunState, Vm};

use crate::hex;
use crate::packet::{Event, Reader, frame};

/// Most bytes of memory in a packet.
const MAX_MEMORY: u64 = 0x1f00;
/// Signal numbers of the protocol.
const SIGINT: u8 = 2;
const SIGTRAP: u8 = 5;
/// Bits of single-step modes (`qqemu.sstepbits`): step, no interrupts, no timers.
pub(crate) const STEP_BITS: u8 = 7;

/// What a session remembers.
pub(crate) struct State {
    reader: Reader,
    open: bool,
    acks: bool,
    pub(crate) multiprocess: bool,
    /// Selected thread of `H g`, CPU index.
    pub(crate) cpu: usize,
    /// Thread of `H c`; `None`: all.
    go: Option<usize>,
    pub(crate) physical: bool,
    pub(crate) step_mode: u8,
    /// The debugger waits to hear that the guest stopped.
    waiting: bool,
    /// What the last stop was, for `?`.
    last: String,
    sent: Vec<u8>,
}

/// One debugger.
pub struct Stub {
    pub(crate) vm: Weak<Vm>,
    port: CharPort,
    pub(crate) state: Mutex<State>,
    this: Weak<Stub>,
}

impl State {
    fn new(open: bool) -> State {
        State {
            reader: Reader::default(),
            open,
            acks: true,
            multiprocess: false,
            cpu: 0,
            go: None,
            physical: false,
            step_mode: STEP_BITS,
            waiting: false,
            last: String::new(),
            sent: Vec::new(),
        }
    }

    /// The name of a CPU as a thread.
    pub(crate) fn thread(&self, cpu: usize) -> String {
        if self.multiprocess { format!("p01.{:02x}", cpu + 1) } else { format!("{:02x}", cpu + 1) }
    }
}

/// A thread id: `None` for all or any.
pub(crate) fn thread_id(text: &str) -> Option<Option<usize>> {
    let text = match text.strip_prefix('p') {
        Some(rest) => rest.split_once('.').map_or("0", |(_, thread)| thread),
        None => text,
    };
    match text {
        "-1" | "0" | "00" => Some(None),
        text => {
            let number = usize::try_from(hex::number(text)?).ok()?;
            Some(Some(number.checked_sub(1)?))
        }
    }
}

impl Stub {
    /// Starts a session; it lives as long as the returned handle. The guest stops when a
    /// debugger comes.
    pub fn start(vm: &Arc<Vm>, port: CharPort) -> Arc<Stub> {
        let stub = Arc::new_cyclic(|this| Stub {
            vm: Arc::downgrade(vm),
            port,
            state: Mutex::new(State::new(false)),
            this: this.clone(),
        });
        let sink: Arc<dyn EventSink> = stub.clone();
        vm.subscribe(&sink);
        if let Some(accel) = vm.execution().accel() {
            let sink: Arc<dyn DebugSink> = Arc::new(Stops(stub.this.clone()));
            accel.set_debug_sink(Some(sink));
        }
        let receiver: Arc<dyn CharReceiver> = stub.clone();
        stub.port.on_receive(Arc::downgrade(&receiver));
        if stub.port.is_open() {
            stub.opened();
        }
        stub
    }

    fn opened(&self) {
        *self.state.lock() = State::new(true);
        if let Some(vm) = self.vm.upgrade() {
            vm.stop(RunState::Paused);
        }
    }

    fn closed(&self) {
        self.state.lock().open = false;
        if let Some(accel) = self.accel() {
            accel.clear_debug_points();
        }
    }

    pub(crate) fn accel(&self) -> Option<Arc<dyn AccelVm>> {
        self.vm.upgrade()?.execution().accel()
    }

    /// Number of CPUs.
    pub(crate) fn cpus(&self) -> usize {
        self.vm.upgrade().map_or(0, |vm| vm.execution().cpus().len())
    }

    fn send(&self, data: &[u8]) {
        let packet = frame(data);
        self.port.send(&packet);
        self.state.lock().sent = packet;
    }

    fn take(&self, event: Event) {
        let acks = self.state.lock().acks;
        match event {
            Event::Packet(data) => {
                if acks {
                    self.port.send(b"+");
                }
                if let Some(reply) = self.answer(&data) {
                    self.send(reply.as_bytes());
                }
            }
            Event::Damaged if acks => _ = self.port.send(b"-"),
            Event::Resend if acks => {
                let sent = self.state.lock().sent.clone();
                self.port.send(&sent);
            }
            Event::Interrupt => {
                if let Some(vm) = self.vm.upgrade() {
                    vm.stop(RunState::Paused);
                }
            }
            Event::Damaged | Event::Resend => {}
        }
    }

    /// The reply to a packet; `None` when it comes later.
    fn answer(&self, data: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(data);
        let (letter, rest) = (data.first().copied().unwrap_or(0), text.get(1..).unwrap_or(""));
        let wrong = || String::from("E22");
        Some(match letter {
            b'?' => self.last_stop(),
            b'g' => self.read_registers().unwrap_or_else(wrong),
            b'G' => self.write_registers(rest).unwrap_or_else(wrong),
            b'p' => self.read_register(rest).unwrap_or_else(|| "E14".into()),
            b'P' => self.write_register(rest).unwrap_or_else(|| "E14".into()),
            b'm' => self.read_memory(rest).unwrap_or_else(|| "E14".into()),
            b'M' => self.write_memory_hex(rest).unwrap_or_else(|| "E14".into()),
            b'X' => self.write_memory_raw(data).unwrap_or_else(|| "E14".into()),
            b'Z' => self.point(rest, true).unwrap_or_else(wrong),
            b'z' => self.point(rest, false).unwrap_or_else(wrong),
            b'H' => self.select(rest).unwrap_or_else(wrong),
            b'T' => match thread_id(rest) {
                Some(Some(cpu)) if cpu < self.cpus() => "OK".into(),
                _ => wrong(),
            },
            b'c' | b'C' | b's' | b'S' => return self.go(letter, rest),
            b'D' => self.detach(),
            b'k' => return self.kill(),
            b'v' => return self.verb(&text),
            b'q' | b'Q' => crate::query::answer(self, &text),
            _ => String::new(),
        })
    }

    fn last_stop(&self) -> String {
        let state = self.state.lock();
        if state.last.is_empty() {
            format!("T{SIGTRAP:02x}thread:{};", state.thread(state.cpu))
        } else {
            state.last.clone()
        }
    }

    fn with_cpu<T>(&self, f: impl FnMut(&mut dyn JitCpu) -> T) -> Option<T> {
        let cpu = self.state.lock().cpu;
        self.with(cpu, f)
    }

    pub(crate) fn with<T>(&self, cpu: usize, mut f: impl FnMut(&mut dyn JitCpu) -> T) -> Option<T> {
        let vm = self.vm.upgrade()?;
        let accel = self.accel()?;
        let mut result = None;
        vm.while_stopped(|| accel.with_cpu(cpu, &mut |cpu| result = Some(f(cpu))));
        result
    }

    /// Registers of the selected CPU.
    pub(crate) fn registers(&self) -> RegisterFile {
        self.with_cpu(|cpu| cpu.debugger_registers()).unwrap_or_default()
    }

    fn read_registers(&self) -> Option<String> {
        let count = self.registers().core();
        self.with_cpu(|cpu| {
            let all: Vec<u8> = (0..count).filter_map(|n| cpu.debugger_read(n)).flatten().collect();
            hex::encode(&all)
        })
    }

    fn write_registers(&self, text: &str) -> Option<String> {
        let bytes = hex::decode(text.as_bytes())?;
        let count = self.registers().core();
        self.with_cpu(|cpu| {
            let mut rest = bytes.as_slice();
            for n in 0..count {
                let taken = cpu.debugger_write(n, rest);
                rest = rest.get(taken..).unwrap_or_default();
            }
        })?;
        Some("OK".into())
    }

    fn read_register(&self, text: &str) -> Option<String> {
        let number = u32::try_from(hex::number(text)?).ok()?;
        self.with_cpu(|cpu| cpu.debugger_read(number))?.map(|bytes| hex::encode(&bytes))
    }

    fn write_register(&self, text: &str) -> Option<String> {
        let (number, value) = text.split_once('=')?;
        let number = u32::try_from(hex::number(number)?).ok()?;
        let bytes = hex::decode(value.as_bytes())?;
        let taken = self.with_cpu(|cpu| cpu.debugger_write(number, &bytes))?;
        (taken > 0).then(|| "OK".into())
    }

    fn read_memory(&self, text: &str) -> Option<String> {
        let (address, len) = hex::pair(text, ',')?;
        let mut bytes = vec![0; usize::try_from(len.min(MAX_MEMORY)).ok()?];
        self.access(address, &mut bytes, false).then(|| hex::encode(&bytes))
    }

    fn write_memory_hex(&self, text: &str) -> Option<String> {
        let (place, data) = text.split_once(':')?;
        let (address, len) = hex::pair(place, ',')?;
        let mut bytes = hex::decode(data.as_bytes())?;
        if bytes.len() as u64 != len {
            return None;
        }
        self.access(address, &mut bytes, true).then(|| "OK".into())
    }

    fn write_memory_raw(&self, data: &[u8]) -> Option<String> {
        let colon = data.iter().position(|byte| *byte == b':')?;
        let place = std::str::from_utf8(data.get(1..colon)?).ok()?;
        let (address, len) = hex::pair(place, ',')?;
        let mut bytes = data.get(colon + 1..)?.to_vec();
        if bytes.len() as u64 != len {
            return None;
        }
        self.access(address, &mut bytes, true).then(|| "OK".into())
    }

    fn access(&self, address: u64, bytes: &mut [u8], write: bool) -> bool {
        let (cpu, physical) = {
            let state = self.state.lock();
            (state.cpu, state.physical)
        };
        let (Some(vm), Some(accel)) = (self.vm.upgrade(), self.accel()) else { return false };
        if physical {
            let world = vm.machine().and_then(|machine| machine.world.as_ref());
            let Some(memory) = world.map(|world| &world.memory) else { return false };
            let attrs = TxAttrs::default();
            return if write {
                memory.write(address, bytes, attrs).is_ok()
            } else {
                memory.read(address, bytes, attrs).is_ok()
            };
        }
        vm.while_stopped(|| {
            if write {
                accel.write_virtual(cpu, address, bytes)
            } else {
                accel.read_virtual(cpu, address, bytes)
            }
        })
    }

    /// `Z` and `z`: type, address, length.
    fn point(&self, text: &str, insert: bool) -> Option<String> {
        let (kind, rest) = text.split_once(',')?;
        let rest = rest.split(';').next()?;
        let (address, len) = hex::pair(rest, ',')?;
        let accel = self.accel()?;
        let watch = match kind {
            "0" | "1" => None,
            "2" => Some(WatchKind::Write),
            "3" => Some(WatchKind::Read),
            "4" => Some(WatchKind::Access),
            _ => return Some(String::new()),
        };
        let vm = self.vm.upgrade()?;
        let done = vm.while_stopped(|| match (watch, insert) {
            (None, true) => accel.insert_breakpoint(address),
            (None, false) => accel.remove_breakpoint(address),
            (Some(kind), true) => accel.insert_watchpoint(address, len, kind),
            (Some(kind), false) => accel.remove_watchpoint(address, len, kind),
        });
        Some(match done {
            Ok(()) => "OK".into(),
            Err(DebugError::Unsupported) => String::new(),
            Err(_) => "E22".into(),
        })
    }

    /// `H`: which CPU the packets that follow mean.
    fn select(&self, text: &str) -> Option<String> {
        let thread = thread_id(text.get(1..)?)?;
        if thread.is_some_and(|cpu| cpu >= self.cpus()) {
            return None;
        }
        let mut state = self.state.lock();
        match text.get(..1)? {
            "g" => state.cpu = thread.unwrap_or(state.cpu),
            "c" => state.go = thread,
            _ => return None,
        }
        Some("OK".into())
    }

    /// `c`, `C`, `s`, `S` with an address or a signal, which the guest has no use for.
    fn go(&self, letter: u8, text: &str) -> Option<String> {
        let address = match letter {
            b'C' | b'S' => text.split_once(';').and_then(|(_, address)| hex::number(address)),
            _ => hex::number(text),
        };
        if let Some(address) = address {
            let number = self.registers().number("pc")?;
            self.with_cpu(|cpu| cpu.debugger_write(number, &address.to_le_bytes()));
        }
        let mut plan = vec![RunAs::Run; self.cpus()];
        if matches!(letter, b's' | b'S') {
            let cpu = {
                let state = self.state.lock();
                state.go.unwrap_or(state.cpu)
            };
            plan.fill(RunAs::Stay);
            *plan.get_mut(cpu)? = RunAs::Step;
        }
        self.resume(&plan)
    }

    fn resume(&self, plan: &[RunAs]) -> Option<String> {
        let vm = self.vm.upgrade()?;
        self.state.lock().waiting = true;
        match vm.cont_as(plan) {
            Ok(()) => None,
            Err(_) => {
                self.state.lock().waiting = false;
                Some("E22".into())
            }
        }
    }

    /// Packets that are words.
    fn verb(&self, text: &str) -> Option<String> {
        if text == "vCont?" {
            return Some("vCont;c;C;s;S".into());
        }
        if let Some(actions) = text.strip_prefix("vCont;") {
            return match self.plan(actions) {
                Some(plan) => self.resume(&plan),
                None => Some("E22".into()),
            };
        }
        if text.starts_with("vKill;") {
            self.send(b"OK");
            return self.kill();
        }
        if text.starts_with("vAttach;") {
            self.state.lock().cpu = 0;
            return Some(self.last_stop());
        }
        Some(String::new())
    }

    /// What `vCont` wants of each CPU: the first action that names it, or none.
    fn plan(&self, actions: &str) -> Option<Vec<RunAs>> {
        let mut plan = vec![None; self.cpus()];
        for action in actions.split(';') {
            let (verb, thread) = action.split_once(':').unwrap_or((action, "-1"));
            let run = match verb.as_bytes().first()? {
                b'c' | b'C' => RunAs::Run,
                b's' | b'S' => RunAs::Step,
                _ => return None,
            };
            match thread_id(thread)? {
                None => plan.iter_mut().for_each(|slot| _ = slot.get_or_insert(run)),
                Some(cpu) => _ = plan.get_mut(cpu)?.get_or_insert(run),
            }
        }
        Some(plan.into_iter().map(|slot| slot.unwrap_or(RunAs::Stay)).collect())
    }

    fn detach(&self) -> String {
        if let (Some(accel), Some(vm)) = (self.accel(), self.vm.upgrade()) {
            vm.while_stopped(|| accel.clear_debug_points());
            _ = vm.cont();
        }
        "OK".into()
    }

    fn kill(&self) -> Option<String> {
        let vm = self.vm.upgrade()?;
        vm.request(device::Request::Shutdown(device::Cause::HostSignal));
        None
    }

    /// A CPU stopped at a point or after a step.
    fn stopped(&self, cpu: usize, stop: DebugStop) {
        let Some(vm) = self.vm.upgrade() else { return };
        if vm.state() != RunState::Running {
            return;
        }
        let text = {
            let mut state = self.state.lock();
            state.cpu = cpu;
            let thread = state.thread(cpu);
            let what = match stop {
                DebugStop::Watchpoint { point, addr, .. } => {
                    let name = match point.kind {
                        WatchKind::Write => "watch",
                        WatchKind::Read => "rwatch",
                        WatchKind::Access => "awatch",
                    };
                    format!("{name}:{addr:x};")
                }
                DebugStop::Breakpoint { .. } | DebugStop::Step => String::new(),
            };
            format!("T{SIGTRAP:02x}thread:{thread};{what}")
        };
        self.tell(text);
        vm.stop(RunState::Debug);
    }

    /// Sends what stopped the guest, if the debugger waits for it.
    fn tell(&self, text: String) {
        let waiting = {
            let mut state = self.state.lock();
            state.last.clone_from(&text);
            state.open && std::mem::take(&mut state.waiting)
        };
        if waiting {
            self.send(text.as_bytes());
        }
    }

    pub(crate) fn set_acks(&self, on: bool) {
        self.state.lock().acks = on;
    }
}

/// The accelerator's way to the session: from a CPU's thread to the main loop.
struct Stops(Weak<Stub>);

impl DebugSink for Stops {
    fn stopped(&self, cpu: usize, stop: DebugStop) {
        let stub = self.0.clone();
        let Some(vm) = stub.upgrade().and_then(|stub| stub.vm.upgrade()) else { return };
        vm.handle.call(Box::new(move || {
            if let Some(stub) = stub.upgrade() {
                stub.stopped(cpu, stop);
            }
        }));
    }
}

impl EventSink for Stub {
    fn event(&self, event: &VmEvent) {
        match event.name {
            "STOP" => {
                let text = {
                    let state = self.state.lock();
                    format!("T{SIGINT:02x}thread:{};", state.thread(state.cpu))
                };
                self.tell(text);
            }
            "SHUTDOWN" if self.state.lock().open => {
                let stays = self.vm.upgrade().is_none_or(|vm| vm.exit().is_none());
                if !stays {
                    self.send(b"W00");
                }
            }
            _ => {}
        }
    }
}

impl CharReceiver for Stub {
    fn room(&self) -> usize {
        4096
    }

    fn receive(&self, data: &[u8]) {
        for byte in data {
            let event = self.state.lock().reader.feed(*byte);
            if let Some(event) = event {
                self.take(event);
            }
        }
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => self.opened(),
            CharEvent::Closed => self.closed(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_ids_name_cpus() {
        assert_eq!(thread_id("p1.2"), Some(Some(1)));
        assert_eq!(thread_id("p01.-1"), Some(None));
        assert_eq!(thread_id("3"), Some(Some(2)));
        assert_eq!(thread_id("0"), Some(None));
        assert_eq!(thread_id("x"), None);
    }
}
