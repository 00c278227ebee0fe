//! A QMP session.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use device::{CharEvent, CharPort, CharReceiver};
use parking_lot::Mutex;
use qapi::{Class, Error, Qapi as _, Result, Value, json};
use vmm::commands::COMMANDS;
use vmm::{Event, EventSink, Vm};

use crate::output::Output;

/// Most bytes taken from the stream at once.
const CHUNK: usize = 4096;

#[derive(Default)]
struct State {
    reader: json::Reader,
    requests: VecDeque<Result<Value>>,
    busy: bool,
    open: bool,
    negotiated: bool,
    oob: bool,
}

/// A session over one character stream.
pub struct Qmp {
    vm: Weak<Vm>,
    output: Output,
    pretty: bool,
    state: Mutex<State>,
}

/// What a request wants.
struct Call {
    name: String,
    args: Value,
    oob: bool,
}

impl Qmp {
    /// Starts a session; it lives as long as the returned handle.
    pub fn start(vm: &Arc<Vm>, port: CharPort, pretty: bool) -> Arc<Self> {
        let (vm_weak, output) = (Arc::downgrade(vm), Output::new(port));
        let session = Arc::new(Self { vm: vm_weak, output, pretty, state: Mutex::default() });
        let sink: Arc<dyn EventSink> = session.clone();
        vm.subscribe(&sink);
        let receiver: Arc<dyn CharReceiver> = session.clone();
        session.output.port().on_receive(Arc::downgrade(&receiver));
        if session.output.port().is_open() {
            session.opened();
        }
        session
    }

    fn opened(&self) {
        {
            let mut state = self.state.lock();
            if state.open {
                return;
            }
            *state = State { open: true, ..State::default() };
        }
        let version = vmm::commands::version().to_value();
        let capabilities = Value::List(vec![Value::from("oob")]);
        let greeting = Value::map([("version", version), ("capabilities", capabilities)]);
        self.send(&Value::map([("QMP", greeting)]));
    }

    fn text(&self, value: &Value) -> String {
        let mut text = if self.pretty {
            json::to_string_pretty(value).replace('\n', "\r\n")
        } else {
            json::to_string(value)
        };
        text.push_str("\r\n");
        text
    }

    fn send(&self, value: &Value) {
        self.output.send(self.text(value).as_bytes());
    }

    /// Carries out what was asked for, as long as the answers get away.
    fn work(&self) {
        let Some(vm) = self.vm.upgrade() else { return };
        if std::mem::replace(&mut self.state.lock().busy, true) {
            return;
        }
        while !self.output.is_stuck() {
            let Some(request) = self.state.lock().requests.pop_front() else { break };
            self.request(&vm, request);
        }
        self.state.lock().busy = false;
    }

    fn request(&self, vm: &Arc<Vm>, request: Result<Value>) {
        let mut request = match request {
            Ok(request) => request,
            Err(error) => return self.send(&error_reply(&error, None)),
        };
        let id = request.take("id");
        let oob = self.state.lock().oob;
        let result = parse(request, oob).and_then(|call| self.run(vm, call));
        // What the command asked the main loop for happens before its reply, as in QEMU.
        vm.process_requests();
        match result {
            Ok(value) => {
                let mut reply = Value::map([("return", value)]);
                if let Some(id) = id {
                    reply.set("id", id);
                }
                self.send(&reply);
            }
            Err(error) => self.send(&error_reply(&error, id)),
        }
    }

    fn run(&self, vm: &Vm, call: Call) -> Result<Value> {
        let negotiated = self.state.lock().negotiated;
        let negotiates = call.name == "qmp_capabilities";
        if negotiated && negotiates {
            return Err(Error::new(
                Class::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored",
            ));
        }
        if !negotiated && !negotiates {
            return Err(Error::new(
                Class::CommandNotFound,
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            ));
        }
        let enables_oob = negotiates && wants_oob(&call.args);
        let oob_allowed = COMMANDS.iter().any(|command| command.oob && command.name == call.name);
        if call.oob && !oob_allowed {
            let text = format!("The command {} does not support OOB", call.name);
            return Err(Error::generic(text));
        }
        vm.fds.set_source(Some(self.output.port().clone()));
        let reply = vmm::commands::execute(vm, &call.name, call.args);
        vm.fds.set_source(None);
        let reply = reply?;
        if negotiates {
            let mut state = self.state.lock();
            state.negotiated = true;
            state.oob = enables_oob;
        }
        Ok(reply)
    }
}

fn wants_oob(args: &Value) -> bool {
    let enable = args.get("enable").and_then(Value::as_list).unwrap_or(&[]);
    enable.iter().any(|name| name.as_str() == Some("oob"))
}

/// Checks the shape of a request.
fn parse(request: Value, oob: bool) -> Result<Call> {
    let Value::Map(members) = request else {
        return Err(Error::generic("QMP input must be a JSON object"));
    };
    let mut name = None;
    let mut args = Value::empty();
    let mut out_of_band = false;
    for (key, value) in members {
        match (key.as_str(), value) {
            ("execute", Value::Str(text)) => name = Some(text),
            ("exec-oob", Value::Str(text)) if oob => {
                name = Some(text);
                out_of_band = true;
            }
            ("execute", _) => {
                return Err(Error::generic("QMP input member 'execute' must be a string"));
            }
            ("arguments", value @ Value::Map(_)) => args = value,
            ("arguments", _) => {
                return Err(Error::generic("QMP input member 'arguments' must be an object"));
            }
            _ => return Err(Error::generic(format!("QMP input member '{key}' is unexpected"))),
        }
    }
    let name = name.ok_or_else(|| Error::generic("QMP input lacks member 'execute'"))?;
    Ok(Call { name, args, oob: out_of_band })
}

fn error_reply(error: &Error, id: Option<Value>) -> Value {
    let mut reply = Value::empty();
    if let Some(id) = id {
        reply.set("id", id);
    }
    let body = Value::map([
        ("class", Value::from(error.class.name())),
        ("desc", Value::from(error.desc.as_str())),
    ]);
    reply.set("error", body);
    reply
}

impl CharReceiver for Qmp {
    fn room(&self) -> usize {
        // Nothing new is read while answers wait for their reader.
        if self.output.is_stuck() || !self.state.lock().requests.is_empty() { 0 } else { CHUNK }
    }

    fn receive(&self, data: &[u8]) {
        {
            let State { reader, requests, .. } = &mut *self.state.lock();
            reader.feed(data, |request| requests.push_back(request));
        }
        self.work();
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => self.opened(),
            CharEvent::Closed => {
                self.output.clear();
                let mut state = self.state.lock();
                state.open = false;
                state.requests.clear();
            }
            CharEvent::Writable if self.output.writable() => {
                self.work();
                self.output.port().accept_input();
            }
            _ => {}
        }
    }
}

impl EventSink for Qmp {
    fn event(&self, event: &Event) {
        let wanted = {
            let state = self.state.lock();
            state.open && state.negotiated
        };
        if wanted {
            self.output.send_event(self.text(&event.to_value()).as_bytes());
        }
    }
}
