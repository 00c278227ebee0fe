//! Commands about character back ends.

use derive::Qapi;
use qapi::{Error, Result, Value};

use super::QmpCommand;
use crate::Vm;

/// A character back end that exists.
#[derive(Qapi)]
pub(super) struct ChardevInfo {
    /// Its id.
    label: String,
    /// What it is connected to.
    filename: String,
    /// Whether something uses it.
    frontend_open: bool,
}

/// List the character back ends that exist.
#[derive(Qapi)]
pub(super) struct QueryChardev;

impl QmpCommand for QueryChardev {
    const NAME: &'static str = "query-chardev";
    type Returns = Vec<ChardevInfo>;
    fn run(self, vm: &Vm) -> Result<Vec<ChardevInfo>> {
        let info = |chardev: chardev::ChardevInfo| ChardevInfo {
            label: chardev.label,
            filename: chardev.filename,
            frontend_open: chardev.frontend_open,
        };
        Ok(vm.chardevs.list().into_iter().map(info).collect())
    }
}

/// A kind of character back end.
#[derive(Qapi)]
pub(super) struct ChardevBackendInfo {
    /// The name.
    name: String,
}

/// List the kinds of character back ends.
#[derive(Qapi)]
pub(super) struct QueryChardevBackends;

impl QmpCommand for QueryChardevBackends {
    const NAME: &'static str = "query-chardev-backends";
    type Returns = Vec<ChardevBackendInfo>;
    fn run(self, _: &Vm) -> Result<Vec<ChardevBackendInfo>> {
        let info = |class: &chardev::ChardevClass| ChardevBackendInfo { name: class.name.into() };
        Ok(chardev::CLASSES.iter().map(info).collect())
    }
}

/// A kind with its arguments.
#[derive(Qapi)]
pub(super) struct ChardevBackend {
    /// The kind.
    r#type: String,
    /// Its arguments.
    data: Value,
}

/// Add a character back end.
#[derive(Qapi)]
pub(super) struct ChardevAdd {
    /// Its id.
    id: String,
    /// What it is.
    backend: ChardevBackend,
}

impl QmpCommand for ChardevAdd {
    const NAME: &'static str = "chardev-add";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let kind = self.backend.r#type;
        if !chardev::CLASSES.iter().any(|class| class.name == kind) {
            let names = chardev::CLASSES.iter().map(|class| class.name);
            return Err(Error::not_accepted("type", &kind, names));
        }
        let data = flat_arguments(&kind, self.backend.data);
        let source = qapi::Source::Json;
        vm.chardevs
            .add(&self.id, &kind, data, source, false)
            .map_err(|error| error.within("data").within("backend"))
    }
}

/// QMP nests a socket's address; the back end takes the command line's flat form.
fn flat_arguments(kind: &str, mut data: Value) -> Value {
    if kind == "file"
        && let Some(out) = data.take("out")
    {
        data.set("path", out);
    }
    if kind == "socket"
        && let Some(address) = data.take("addr")
        && let Some(Value::Map(members)) = address.get("data").cloned()
    {
        for (name, value) in members {
            data.set(&name, value);
        }
    }
    data
}

/// Remove a character back end that nothing uses.
#[derive(Qapi)]
pub(super) struct ChardevRemove {
    /// Its id.
    id: String,
}

impl QmpCommand for ChardevRemove {
    const NAME: &'static str = "chardev-remove";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        vm.chardevs.remove(&self.id)
    }
}

/// How ring buffer data is written.
#[derive(Clone, Copy, PartialEq, Qapi)]
pub(super) enum DataFormat {
    /// Text.
    Utf8,
}

fn ring(vm: &Vm, device: &str) -> Result<std::sync::Arc<chardev::Ringbuf>> {
    let chardev = vm.chardevs.find(device);
    let chardev = chardev.ok_or_else(|| Error::generic(format!("Device '{device}' not found")))?;
    chardev.ringbuf().ok_or_else(|| Error::generic(format!("{device} is not a ringbuf device")))
}

/// Take text out of a ring buffer.
#[derive(Qapi)]
pub(super) struct RingbufRead {
    /// Its id.
    device: String,
    /// Most bytes to take.
    size: u32,
    /// How they are written.
    format: Option<DataFormat>,
}

impl QmpCommand for RingbufRead {
    const NAME: &'static str = "ringbuf-read";
    type Returns = String;
    fn run(self, vm: &Vm) -> Result<String> {
        let bytes = ring(vm, &self.device)?.take(usize::try_from(self.size).unwrap_or(0));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Put text into a ring buffer.
#[derive(Qapi)]
pub(super) struct RingbufWrite {
    /// Its id.
    device: String,
    /// The text.
    data: String,
    /// How it is written.
    format: Option<DataFormat>,
}

impl QmpCommand for RingbufWrite {
    const NAME: &'static str = "ringbuf-write";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        ring(vm, &self.device)?.put(self.data.as_bytes());
        Ok(())
    }
}
