//! Events that go to every QMP client.

use qapi::{Qapi as _, TypeRef, Value};

/// An event with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The name.
    pub name: &'static str,
    /// The data; `None` when the event has none.
    pub data: Option<Value>,
    /// Host time, nanoseconds since 1970.
    pub at: i64,
}

impl Event {
    /// The event as it goes over the wire.
    pub fn to_value(&self) -> Value {
        let time = Value::map([
            ("seconds", Value::Int(self.at.div_euclid(1_000_000_000))),
            ("microseconds", Value::Int(self.at.rem_euclid(1_000_000_000) / 1000)),
        ]);
        let mut value = Value::map([("timestamp", time), ("event", Value::from(self.name))]);
        if let Some(data) = &self.data {
            value.set("data", data.clone());
        }
        value
    }
}

/// Takes events; called on the main loop.
pub trait EventSink: Send + Sync {
    /// An event happened.
    fn event(&self, event: &Event);
}

/// Data of `SHUTDOWN` and `RESET`.
#[derive(derive::Qapi)]
pub(crate) struct CauseData {
    /// Whether the guest asked for it.
    pub(crate) guest: bool,
    /// Why.
    pub(crate) reason: String,
}

/// Every event with the type of its data, for the schema.
pub static EVENTS: &[(&str, TypeRef)] = &[
    ("SHUTDOWN", CauseData::type_info),
    ("POWERDOWN", <()>::type_info),
    ("RESET", CauseData::type_info),
    ("STOP", <()>::type_info),
    ("RESUME", <()>::type_info),
];
