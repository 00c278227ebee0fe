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

/// What every back end can do.
#[derive(Qapi)]
#[qapi(name = "ChardevCommon")]
pub(super) struct CommonArgs {
    /// File that keeps a copy of the output.
    logfile: Option<String>,
    /// Keep what is in that file.
    logappend: Option<bool>,
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
    #[qapi(flatten)]
    common: CommonArgs,
}

/// The terminal.
#[derive(Qapi)]
#[qapi(name = "ChardevStdio")]
pub(super) struct StdioArgs {
    /// Ctrl-C and its kin signal the emulator.
    signal: Option<bool>,
    #[qapi(flatten)]
    common: CommonArgs,
}

/// A named pipe, or a pair of them.
#[derive(Qapi)]
#[qapi(name = "ChardevHostdev")]
pub(super) struct HostdevArgs {
    /// Its path.
    device: String,
    #[qapi(flatten)]
    common: CommonArgs,
}

/// A pseudo-terminal.
#[derive(Qapi)]
#[qapi(name = "ChardevPty")]
pub(super) struct PtyArgs {
    /// A symbolic link to make to it.
    path: Option<String>,
    #[qapi(flatten)]
    common: CommonArgs,
}

/// A multiplexer.
#[derive(Qapi)]
#[qapi(name = "ChardevMux")]
pub(super) struct MuxArgs {
    /// The back end that is shared.
    chardev: String,
    #[qapi(flatten)]
    common: CommonArgs,
}

/// A ring buffer.
#[derive(Qapi)]
#[qapi(name = "ChardevRingbuf")]
pub(super) struct RingbufArgs {
    /// Bytes it keeps; a power of two.
    size: Option<i64>,
    #[qapi(flatten)]
    common: CommonArgs,
}

/// An address on the network.
#[derive(Qapi)]
#[qapi(name = "InetSocketAddress")]
pub(super) struct Inet {
    /// Host name or number.
    host: String,
    /// Port.
    port: String,
    /// Last port that a server may try.
    to: Option<u16>,
    /// Use IPv4.
    ipv4: Option<bool>,
    /// Use IPv6.
    ipv6: Option<bool>,
}

/// An address in the file system.
#[derive(Qapi)]
#[qapi(name = "UnixSocketAddress")]
pub(super) struct Unix {
    /// Path of the socket.
    path: String,
    /// It is a name that is in no file system.
    r#abstract: Option<bool>,
    /// An abstract name is not filled up with zeros.
    tight: Option<bool>,
}

/// A descriptor that a monitor was given.
#[derive(Qapi)]
#[qapi(name = "FdSocketAddress")]
pub(super) struct FdName {
    /// Its name, or its number.
    str: String,
}

/// Where a socket is.
#[derive(Qapi)]
#[qapi(name = "SocketAddressLegacy", tag = "type", content = "data")]
pub(super) enum Address {
    /// On the network.
    Inet(Inet),
    /// In the file system.
    Unix(Unix),
    /// Open already.
    Fd(FdName),
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
    /// Speak telnet.
    telnet: Option<bool>,
    /// As a client, try again after so many seconds.
    reconnect: Option<u32>,
    /// As a client, try again after so many milliseconds.
    reconnect_ms: Option<u32>,
    #[qapi(flatten)]
    common: CommonArgs,
}

/// Datagrams.
#[derive(Qapi)]
#[qapi(name = "ChardevUdp")]
pub(super) struct UdpArgs {
    /// Where output goes.
    remote: Address,
    /// Where input comes to.
    local: Option<Address>,
    #[qapi(flatten)]
    common: CommonArgs,
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
    Null(CommonArgs),
    /// A named pipe.
    Pipe(HostdevArgs),
    /// A pseudo-terminal.
    Pty(PtyArgs),
    /// A ring buffer.
    Ringbuf(RingbufArgs),
    /// A stream socket.
    Socket(SocketArgs),
    /// The terminal.
    Stdio(StdioArgs),
    /// Ends the emulator for a test program.
    Testdev(CommonArgs),
    /// Datagrams.
    Udp(UdpArgs),
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
        if !qapi::keyval::is_identifier(&self.id) {
            return Err(Error::generic(format!("chardev: invalid id '{}'", self.id)));
        }
        vm.chardevs.add(&self.id, &kind, args, Source::Json, false)?;
        Ok(ChardevReturn { pty: vm.chardevs.find(&self.id).and_then(|c| c.pty()) })
    }
}

/// QMP nests addresses and has names of its own; back ends take the command line's form.
fn flat_arguments(mut data: Value) -> Value {
    for (qmp, flat) in [("out", "path"), ("in", "input-path"), ("device", "path")] {
        if let Some(value) = data.take(qmp) {
            data.set(flat, value);
        }
    }
    let inner = |value: Option<Value>| value.and_then(|mut address| address.take("data"));
    let socket = data.get("addr").is_some();
    if socket && data.get("server").is_none() {
        // Here QMP and the command line have different defaults.
        data.set("server", Value::Bool(true));
    }
    for address in [data.take("addr"), data.take("remote")] {
        for (name, value) in inner(address).as_ref().and_then(Value::as_map).unwrap_or(&[]) {
            data.set(if name == "str" { "fd" } else { name }, value.clone());
        }
    }
    let local = inner(data.take("local"));
    for (name, value) in local.as_ref().and_then(Value::as_map).unwrap_or(&[]) {
        if let "host" | "port" = name.as_str() {
            let name = if name == "host" { "localaddr" } else { "localport" };
            data.set(name, value.clone());
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

/// Send a break condition to what uses a back end.
#[derive(Qapi)]
pub(super) struct ChardevSendBreak {
    /// Its id.
    id: String,
}

impl QmpCommand for ChardevSendBreak {
    const NAME: &'static str = "chardev-send-break";
    type Returns = ();
    fn run(self, vm: &Vm) -> Result<()> {
        let missing = || Error::generic(format!("Chardev '{}' not found", self.id));
        vm.chardevs.find(&self.id).ok_or_else(missing)?.send_break();
        Ok(())
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
