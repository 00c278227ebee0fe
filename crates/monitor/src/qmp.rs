//! A QMP session.

use std::sync::{Arc, Weak};

use device::{CharEvent, CharPort, CharReceiver};
use parking_lot::Mutex;
use qapi::{Class, Error, Qapi as _, Result, Value, json};
use vmm::{Event, EventSink, Vm};

/// Most bytes taken from the stream at once.
const CHUNK: usize = 4096;

struct State {
    reader: json::Reader,
    open: bool,
    negotiated: bool,
}

/// A session over one character stream.
pub struct Qmp {
    vm: Weak<Vm>,
    port: CharPort,
    pretty: bool,
    state: Mutex<State>,
}

/// What a request wants.
struct Call {
    name: String,
    args: Value,
}

impl Qmp {
    /// Starts a session; it lives as long as the returned handle.
    pub fn start(vm: &Arc<Vm>, port: CharPort, pretty: bool) -> Arc<Self> {
        let state = State { reader: json::Reader::new(), open: false, negotiated: false };
        let session =
            Arc::new(Self { vm: Arc::downgrade(vm), port, pretty, state: Mutex::new(state) });
        let sink: Arc<dyn EventSink> = session.clone();
        vm.subscribe(&sink);
        let receiver: Arc<dyn CharReceiver> = session.clone();
        session.port.on_receive(Arc::downgrade(&receiver));
        if session.port.is_open() {
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
            *state = State { reader: json::Reader::new(), open: true, negotiated: false };
        }
        let version = vmm::commands::version().to_value();
        let greeting =
            Value::map([("version", version), ("capabilities", Value::List(Vec::new()))]);
        self.send(&Value::map([("QMP", greeting)]));
    }

    fn send(&self, value: &Value) {
        let mut text = if self.pretty {
            json::to_string_pretty(value).replace('\n', "\r\n")
        } else {
            json::to_string(value)
        };
        text.push_str("\r\n");
        self.port.send(text.as_bytes());
    }

    fn request(&self, vm: &Arc<Vm>, request: Result<Value>) {
        let mut request = match request {
            Ok(request) => request,
            Err(error) => return self.send(&error_reply(&error, None)),
        };
        let id = request.take("id");
        let result = parse(request).and_then(|call| self.run(vm, call));
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
        let reply = vmm::commands::execute(vm, &call.name, call.args)?;
        if negotiates {
            self.state.lock().negotiated = true;
        }
        Ok(reply)
    }
}

/// Checks the shape of a request.
fn parse(request: Value) -> Result<Call> {
    let Value::Map(members) = request else {
        return Err(Error::generic("QMP input must be a JSON object"));
    };
    let mut name = None;
    let mut args = Value::empty();
    for (key, value) in members {
        match (key.as_str(), value) {
            ("execute", Value::Str(text)) => name = Some(text),
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
    Ok(Call { name, args })
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
        CHUNK
    }

    fn receive(&self, data: &[u8]) {
        let mut requests = Vec::new();
        self.state.lock().reader.feed(data, |request| requests.push(request));
        let Some(vm) = self.vm.upgrade() else { return };
        for request in requests {
            self.request(&vm, request);
        }
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => self.opened(),
            CharEvent::Closed => self.state.lock().open = false,
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
            self.send(&event.to_value());
        }
    }
}
