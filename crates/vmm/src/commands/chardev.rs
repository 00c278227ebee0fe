//! Commands about character back ends.

use derive::Qapi;
use qapi::{Error, Qapi as _, Result, Source, Value};

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

/// Output into a file.
#[derive(Qapi)]
#[qapi(name = "ChardevFile")]
pub(super) struct FileArgs {
    /// Another file that input comes from.
    r#in: Option<String>,
    /// The file.
    out: String,
    /// Keep what is in the file.
    append: Option<bool>,
}

/// The terminal.
#[derive(Qapi)]
#[qapi(name = "ChardevStdio")]
pub(super) struct StdioArgs {
    /// Ctrl-C and its kin signal the emulator.
    signal: Option<bool>,
}

/// No arguments of its own.
#[derive(Qapi)]
#[qapi(name = "ChardevCommon")]
pub(super) struct NoArgs {}

/// A multiplexer.
#[derive(Qapi)]
#[qapi(name = "ChardevMux")]
pub(super) struct MuxArgs {
    /// The back end that is shared.
    chardev: String,
}

/// A ring buffer.
#[derive(Qapi)]
#[qapi(name = "ChardevRingbuf")]
pub(super) struct RingbufArgs {
    /// Bytes it keeps; a power of two.
    size: Option<i64>,
}

/// An address on the network.
#[derive(Qapi)]
#[qapi(name = "InetSocketAddress")]
pub(super) struct Inet {
    /// Host name or number.
    host: String,
    /// Port.
    port: String,
}

/// An address in the file system.
#[derive(Qapi)]
#[qapi(name = "UnixSocketAddress")]
pub(super) struct Unix {
    /// Path of the socket.
    path: String,
}

/// Where a socket is.
#[derive(Qapi)]
#[qapi(name = "SocketAddressLegacy", tag = "type", content = "data")]
pub(super) enum Address {
    /// On the network.
    Inet(Inet),
    /// In the file system.
    Unix(Unix),
}

/// A stream socket.
#[derive(Qapi)]
#[qapi(name = "ChardevSocket")]
pub(super) struct SocketArgs {
    /// Its address.
    addr: Address,
    /// Listen instead of connecting.
    server: Option<bool>,
    /// Wait for the first client.
    wait: Option<bool>,
    /// Send small packets at once.
    nodelay: Option<bool>,
}

/// A kind with its arguments.
#[derive(Qapi)]
#[qapi(tag = "type", content = "data")]
pub(super) enum ChardevBackend {
    /// Output into a file.
    File(FileArgs),
    /// A multiplexer.
    Mux(MuxArgs),
    /// Nothing.
    Null(NoArgs),
    /// A ring buffer.
    Ringbuf(RingbufArgs),
    /// A stream socket.
    Socket(SocketArgs),
    /// The terminal.
    Stdio(StdioArgs),
}

/// What came of adding a back end.
#[derive(Qapi)]
pub(super) struct ChardevReturn {
    /// Name of the pseudo-terminal, if it is one.
    pty: Option<String>,
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
    type Returns = ChardevReturn;
    fn run(self, vm: &Vm) -> Result<ChardevReturn> {
        let mut backend = self.backend.to_value();
        let kind = backend.take("type").and_then(|kind| kind.as_str().map(str::to_owned));
        let data = backend.take("data").unwrap_or(Value::empty());
        let kind = kind.unwrap_or_default();
        let args = flat_arguments(data);
        vm.chardevs.add(&self.id, &kind, args, Source::Json, false)?;
        Ok(ChardevReturn { pty: None })
    }
}

/// QMP nests a socket's address and has names of its own; back ends take the command line's form.
fn flat_arguments(mut data: Value) -> Value {
    for (qmp, flat) in [("out", "path"), ("in", "input-path")] {
        if let Some(value) = data.take(qmp) {
            data.set(flat, value);
        }
    }
    let address = data.take("addr").and_then(|mut address| address.take("data"));
    if let Some(Value::Map(members)) = address {
        // Here QMP and the command line have different defaults.
        if data.get("server").is_none() {
            data.set("server", Value::Bool(true));
        }
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
