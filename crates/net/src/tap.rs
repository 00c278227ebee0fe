//! Back ends `tap` and `bridge`: a network interface of the host.
//!
//! Frames carry the header for checksums and segmentation where the system can do that. Several
//! queues are as many descriptors of one interface: what comes from one goes to the card's queue of
//! the same number, and back. Scripts run as the peer runs them: with the interface's name, after
//! opening and after closing. A helper opens the device for those who may not, and sends the
//! descriptor. Not here: vhost, which is refused as at the peer on a host without it.
//! Sources: tun(4), QEMU's manual ("network options", qemu-bridge-helper) and its observable
//! behaviour.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};

use derive::Qapi;
use evloop::{Readiness, Watch};
use host::socket::Stream;
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::frame::{Bytes, Frame, Offload};
use crate::link::{Backend, Datagrams, Link, MAX_FRAME, Takes};
use crate::stream::descriptor;
use crate::table::{Context, Kind};

/// Arguments of `tap`.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "NetdevTapOptions")]
pub struct TapArgs {
    /// Name of the interface.
    pub ifname: Option<String>,
    /// Descriptor of an open tap device.
    pub fd: Option<String>,
    /// Program that sets the interface up, or `no` (default: /etc/qemu-ifup).
    pub script: Option<String>,
    /// Program that takes it down, or `no` (default: /etc/qemu-ifdown).
    pub downscript: Option<String>,
    /// Use the header for checksums and segmentation (default: where it works).
    pub vnet_hdr: Option<bool>,
    /// Number of queues (default: 1).
    pub queues: Option<u32>,
    /// Descriptors of an open tap device's queues, with colons between.
    pub fds: Option<String>,
    /// Program that opens the device and sends its descriptor.
    pub helper: Option<String>,
    /// Bridge that the helper is told.
    pub br: Option<String>,
    /// Most bytes that wait in the device.
    pub sndbuf: Option<qapi::Size>,
    /// Let the kernel serve the card; not built.
    pub vhost: Option<bool>,
    /// The same for cards without MSI-X.
    pub vhostforce: Option<bool>,
    /// Descriptor of the kernel's server.
    pub vhostfd: Option<String>,
    /// Descriptors of it for all queues.
    pub vhostfds: Option<String>,
    /// How long the kernel's server polls; without effect.
    pub poll_us: Option<u32>,
}

/// Arguments of `bridge`.
#[derive(Clone, Debug, Qapi)]
#[qapi(name = "NetdevBridgeOptions")]
pub struct BridgeArgs {
    /// Name of the bridge (default: br0).
    pub br: Option<String>,
    /// Program that opens a device on it and sends its descriptor.
    pub helper: Option<String>,
}

const UP: &str = "/etc/qemu-ifup";
const DOWN: &str = "/etc/qemu-ifdown";
const HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";
const BRIDGE: &str = "br0";
/// Most queues that an interface can have.
const MAX_QUEUES: usize = 1024;
const BATCH: usize = 128;
const HEADER: usize = host::TAP_HEADER;

struct Input {
    buffer: Vec<u8>,
    /// Length of a frame that the card had no room for.
    kept: Option<usize>,
}

/// A queue of the interface.
struct TapQueue {
    fd: Arc<OwnedFd>,
    watch: Mutex<Option<Watch>>,
    input: Mutex<Input>,
}

/// An interface.
struct Tap {
    link: Weak<Link>,
    queues: Vec<TapQueue>,
    name: String,
    header: bool,
    datagrams: Datagrams,
    text: String,
    down: Option<String>,
}

fn run(script: &str, name: &str) -> Result<()> {
    if script == "no" || script.is_empty() {
        return Ok(());
    }
    let status = Command::new(script).arg(name).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let code = status.code().unwrap_or(1);
            Err(Error::generic(format!("network script {script} failed with status {code}")))
        }
        Err(error) => {
            let why = host::reason(&error);
            Err(Error::generic(format!("could not launch network script {script}: {why}")))
        }
    }
}

/// Starts a helper; it gets a socket and sends a descriptor through it.
fn help(helper: &str, bridge: &str) -> Result<OwnedFd> {
    let failed = || Error::generic("bridge helper failed");
    let (ours, theirs) = UnixStream::pair().map_err(|_| failed())?;
    let bridge = if helper.contains("--br=") { String::new() } else { format!(" --br={bridge}") };
    // The socket is the helper's standard input.
    let command = format!("exec {helper} --use-vnet --fd=0{bridge}");
    let theirs: OwnedFd = theirs.into();
    let mut shell = Command::new("/bin/sh");
    let mut child =
        shell.args(["-c", &command]).stdin(Stdio::from(theirs)).spawn().map_err(|_| failed())?;
    // The command's own end of the socket must go, or nobody would see that the helper ended.
    drop(shell);
    let got = Stream::Unix(ours).receive(&mut [0; 8]);
    let ended = child.wait().is_ok_and(|status| status.success());
    let fd = got.ok().and_then(|(_, fds)| fds.into_iter().next());
    fd.filter(|_| ended).ok_or_else(failed)
}

impl Tap {
    fn read(&self, pair: u16) {
        let Some(link) = self.link.upgrade() else { return };
        let Some(queue) = self.queues.get(usize::from(pair)) else { return };
        let skip = if self.header { HEADER } else { 0 };
        let mut input = queue.input.lock();
        for _ in 0..BATCH {
            let n = match input.kept.take() {
                Some(n) => n,
                None => match rustix::io::read(&*queue.fd, &mut input.buffer) {
                    Ok(n) if n > skip => n,
                    Ok(_) => continue,
                    Err(_) => break,
                },
            };
            let (head, data) = input.buffer.split_at(skip);
            let offload = match head.first_chunk::<{ Offload::LEN }>() {
                Some(head) => Offload::from_bytes(*head),
                None => Offload::default(),
            };
            let data = data.get(..n - skip).unwrap_or_default();
            if !link.offer_on(pair, &Frame { offload, bytes: Bytes::Host(&[data]) }) {
                input.kept = Some(n);
                if let Some(watch) = &*queue.watch.lock() {
                    watch.set_interest(Readiness::NONE);
                }
                break;
            }
        }
        drop(input);
        link.backend_done();
    }

    fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        0..u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }
}

impl Backend for Tap {
    fn offloads(&self) -> bool {
        self.header
    }

    fn datagram_offloads(&self) -> Datagrams {
        self.datagrams
    }

    fn queues(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    fn send(&self, frame: &Frame<'_>) {
        self.send_on(0, frame);
    }

    fn send_on(&self, pair: u16, frame: &Frame<'_>) {
        let index = usize::from(pair).checked_rem(self.queues.len()).unwrap_or(0);
        let Some(queue) = self.queues.get(index) else { return };
        let mut bytes = Vec::with_capacity(HEADER + frame.len());
        if self.header {
            bytes.extend(frame.offload.to_bytes());
            bytes.resize(HEADER, 0);
        }
        bytes.extend(frame.to_vec(MAX_FRAME));
        // What the interface does not take is lost, as on a wire.
        _ = host::write_fd(queue.fd.as_fd(), &bytes);
    }

    fn room(&self) {
        for (pair, queue) in self.numbers().zip(&self.queues) {
            if let Some(watch) = &*queue.watch.lock() {
                watch.set_interest(Readiness::READ);
            }
            self.read(pair);
        }
    }

    fn takes_changed(&self, takes: Takes) {
        if !self.header {
            return;
        }
        let Takes { csum, tso4, tso6, ecn, ufo, uso4, uso6 } = takes;
        // The device knows both kinds of several datagrams only together.
        let (uso, all) = (uso4 && uso6, [csum, tso4, tso6, ecn, ufo]);
        let [a, b, c, d, e] = all;
        for queue in &self.queues {
            _ = host::set_tap_offloads(queue.fd.as_fd(), [a, b, c, d, e, uso, uso]);
        }
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn close(&self) {
        for queue in &self.queues {
            *queue.watch.lock() = None;
        }
        if let Some(script) = &self.down
            && let Err(error) = run(script, &self.name)
        {
            trace::guest_error!("tap: {}", error.desc);
        }
    }
}

fn explain(what: &str) -> impl Fn(io::Error) -> Error {
    move |error| Error::generic(format!("{what}: {}", host::reason(&error)))
}

/// Descriptors of an interface, and what is known of it.
struct Opened {
    fds: Vec<OwnedFd>,
    name: String,
    header: bool,
    text: String,
    down: Option<String>,
}

impl Opened {
    /// Descriptors that somebody else opened.
    fn given(fds: Vec<OwnedFd>, names: &[&str], text: String) -> Result<Opened> {
        let mut found = None;
        for (index, fd) in fds.iter().enumerate() {
            let number = names.get(index).map_or(fd.as_raw_fd().to_string(), |n| (*n).to_owned());
            let bad = format!("Unable to query TUNGETIFF on FD {number}");
            host::set_nonblocking(fd, true).map_err(explain("Unable to set non-blocking"))?;
            let (name, header) = host::tap_name(fd).map_err(explain(&bad))?;
            match &found {
                Some((_, first)) if *first != header => {
                    return Err(Error::generic("vnet_hdr not consistent across given tap fds"));
                }
                Some(_) => {}
                None => found = Some((name, header)),
            }
        }
        let (name, header) = found.unwrap_or_default();
        Ok(Opened { fds, name, header, text, down: None })
    }

    fn helped(helper: &str, bridge: &str, text: String) -> Result<Opened> {
        Opened::given(vec![help(helper, bridge)?], &[], text)
    }
}

impl TapArgs {
    /// Whether options that do not go with another one were given.
    fn has_names(&self) -> bool {
        let texts = [&self.ifname, &self.script, &self.downscript];
        texts.iter().any(|text| text.is_some()) || self.vnet_hdr.is_some() || self.queues.is_some()
    }

    fn refuse(&self, names: bool, words: &str, with: &str) -> Result<()> {
        if names {
            return Err(Error::generic(format!("{words} are invalid with {with}=")));
        }
        Ok(())
    }

    fn open_by(&self, id: &str, context: &Context) -> Result<Opened> {
        const NAMES: &str = "ifname=, script=, downscript=, vnet_hdr=, ";
        let named = self.has_names();
        let of_link = |error: Error| Error::generic(format!("{id}: {}", error.desc));
        if let Some(given) = &self.fd {
            let others = self.helper.is_some() || self.fds.is_some() || self.vhostfds.is_some();
            let words = format!("{NAMES}helper=, queues=, fds=, and vhostfds=");
            self.refuse(named || others, &words, "fd")?;
            let fd = descriptor(given, context).map_err(of_link)?;
            return Opened::given(vec![fd], &[given], format!("fd={given}"));
        }
        if let Some(given) = &self.fds {
            let others = self.helper.is_some() || self.vhostfd.is_some();
            let words = format!("{NAMES}helper=, queues=, and vhostfd=");
            self.refuse(named || others, &words, "fds")?;
            let names: Vec<&str> = given.split(':').take(MAX_QUEUES).collect();
            if self.vhostfds.as_ref().is_some_and(|fds| fds.split(':').count() != names.len()) {
                let text = "The number of fds passed does not match the number of vhostfds passed";
                return Err(Error::generic(text));
            }
            let fds: Result<Vec<_>> =
                names.iter().map(|name| descriptor(name, context).map_err(of_link)).collect();
            let text = format!("fd={}", names.first().unwrap_or(&""));
            return Opened::given(fds?, &names, text);
        }
        if let Some(helper) = &self.helper {
            let words = format!("{NAMES}queues=, and vhostfds=");
            self.refuse(named || self.vhostfds.is_some(), &words, "helper")?;
            let bridge = self.br.as_deref().unwrap_or(BRIDGE);
            return Opened::helped(helper, bridge, format!("helper={helper}"));
        }
        if self.vhostfds.is_some() {
            return Err(Error::generic("vhostfds= is invalid if fds= wasn't specified"));
        }
        self.open_named()
    }

    fn open_named(&self) -> Result<Opened> {
        let wanted = self.vnet_hdr.unwrap_or(true);
        let count = usize::try_from(self.queues.unwrap_or(1)).unwrap_or(MAX_QUEUES);
        let script = self.script.as_deref().unwrap_or(UP);
        let down = self.downscript.as_deref().unwrap_or(DOWN);
        let mut shown = self.ifname.clone();
        let (mut fds, mut header) = (Vec::new(), false);
        if !(1..=MAX_QUEUES).contains(&count) {
            return Err(Error::generic(format!(
                "queues={count} is not between 1 and {MAX_QUEUES}"
            )));
        }
        for index in 0..count {
            let text = shown.as_deref().unwrap_or("tap%d");
            let what = format!("could not configure /dev/net/tun ({text})");
            let opened = host::open_tap(shown.as_deref(), wanted, count > 1);
            let (fd, name, with_header) = opened.map_err(explain(&what))?;
            if index == 0 {
                run(script, &name)?;
            }
            (shown, header) = (Some(name), with_header);
            fds.push(fd);
        }
        let name = shown.unwrap_or_default();
        let text = format!("ifname={name},script={script},downscript={down}");
        Ok(Opened { fds, name, header, text, down: Some(down.to_owned()) })
    }

    /// There is no server in the kernel, or it is not used.
    fn check_vhost(&self) -> Result<()> {
        let given = self.vhostfd.is_some() || self.vhostfds.is_some();
        if self.vhost == Some(false) && given {
            return Err(Error::generic("vhostfd(s)= is not valid without vhost"));
        }
        if given {
            return Err(Error::generic("vhost-net requested but could not be initialized"));
        }
        if self.vhost == Some(true) || self.vhostforce == Some(true) {
            let options = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
            let opened = rustix::fs::open("/dev/vhost-net", options, rustix::fs::Mode::empty());
            return Err(match opened {
                Err(error) => explain("tap: open vhost char device failed")(error.into()),
                Ok(_) => Error::generic("vhost-net requested but could not be initialized"),
            });
        }
        Ok(())
    }
}

impl Kind for TapArgs {
    const NAME: &'static str = "tap";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let opened = self.open_by(&link.id, context)?;
        if let Some(bytes) = self.sndbuf.filter(|size| size.0 > 0) {
            for fd in &opened.fds {
                let what = explain("TUNSETSNDBUF ioctl failed");
                host::set_tap_buffer(fd, bytes.0).map_err(what)?;
            }
        }
        self.check_vhost()?;
        start(opened, link, context)
    }
}

impl Kind for BridgeArgs {
    const NAME: &'static str = "bridge";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        let helper = self.helper.as_deref().unwrap_or(HELPER);
        let bridge = self.br.as_deref().unwrap_or(BRIDGE);
        let opened = Opened::helped(helper, bridge, format!("helper={helper},br={bridge}"))?;
        start(opened, link, context)
    }
}

fn start(opened: Opened, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
    let Opened { fds, name, header, text, down } = opened;
    let can =
        |takes| header && fds.first().is_some_and(|fd| host::set_tap_offloads(fd, takes).is_ok());
    let datagrams = Datagrams {
        ufo: can([true, false, false, false, true, false, false]),
        uso: can([true, false, false, false, false, true, true]),
    };
    let queue = |fd| TapQueue {
        fd: Arc::new(fd),
        watch: Mutex::default(),
        input: Mutex::new(Input { buffer: vec![0; MAX_FRAME + HEADER], kept: None }),
    };
    let queues = fds.into_iter().map(queue).collect();
    let link = Arc::downgrade(link);
    let tap = Arc::new(Tap { link, queues, name, header, datagrams, text, down });
    tap.takes_changed(Takes::default());
    for (pair, queue) in tap.numbers().zip(&tap.queues) {
        let weak = Arc::downgrade(&tap);
        let watch = context.handle.watch(queue.fd.clone(), Readiness::READ, move |_| {
            if let Some(tap) = weak.upgrade() {
                tap.read(pair);
            }
        });
        *queue.watch.lock() = Some(watch.map_err(explain("cannot watch the interface"))?);
    }
    Ok(tap)
}
