//! Back end `tap`: a network interface of the host.
//!
//! Frames carry the header for checksums and segmentation where the system can do that. Scripts
//! run as the peer runs them: with the interface's name, after opening and after closing.
//! Not here: several queues, vhost, helpers that open the device.
//! Sources: tun(4), QEMU's manual ("network options") and its observable behaviour.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Weak};

use derive::Qapi;
use evloop::{Readiness, Watch};
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::frame::{Bytes, Frame, Offload};
use crate::link::{Backend, Link, MAX_FRAME, Takes};
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
    /// Let the kernel serve the card; not built.
    pub vhost: Option<bool>,
}

const UP: &str = "/etc/qemu-ifup";
const DOWN: &str = "/etc/qemu-ifdown";
const BATCH: usize = 128;
const HEADER: usize = host::TAP_HEADER;

struct Input {
    buffer: Vec<u8>,
    /// Length of a frame that the card had no room for.
    kept: Option<usize>,
}

/// An interface.
struct Tap {
    link: Weak<Link>,
    fd: Arc<OwnedFd>,
    name: String,
    header: bool,
    text: String,
    down: Option<String>,
    watch: Mutex<Option<Watch>>,
    input: Mutex<Input>,
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

impl Tap {
    fn read(&self) {
        let Some(link) = self.link.upgrade() else { return };
        let skip = if self.header { HEADER } else { 0 };
        let mut input = self.input.lock();
        for _ in 0..BATCH {
            let n = match input.kept.take() {
                Some(n) => n,
                None => match rustix::io::read(&*self.fd, &mut input.buffer) {
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
            if !link.offer(&Frame { offload, bytes: Bytes::Host(&[data]) }) {
                input.kept = Some(n);
                if let Some(watch) = &*self.watch.lock() {
                    watch.set_interest(Readiness::NONE);
                }
                break;
            }
        }
        drop(input);
        link.backend_done();
    }
}

impl Backend for Tap {
    fn offloads(&self) -> bool {
        self.header
    }

    fn send(&self, frame: &Frame<'_>) {
        let mut bytes = Vec::with_capacity(HEADER + frame.len());
        if self.header {
            bytes.extend(frame.offload.to_bytes());
            bytes.resize(HEADER, 0);
        }
        bytes.extend(frame.to_vec(MAX_FRAME));
        // What the interface does not take is lost, as on a wire.
        _ = host::write_fd(self.fd.as_fd(), &bytes);
    }

    fn room(&self) {
        if let Some(watch) = &*self.watch.lock() {
            watch.set_interest(Readiness::READ);
        }
        self.read();
    }

    fn takes_changed(&self, takes: Takes) {
        if self.header {
            let offloads = [takes.csum, takes.tso4, takes.tso6, takes.ecn];
            _ = host::set_tap_offloads(self.fd.as_fd(), offloads);
        }
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn close(&self) {
        *self.watch.lock() = None;
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

impl Kind for TapArgs {
    const NAME: &'static str = "tap";
    fn open(self, link: &Arc<Link>, context: &Context) -> Result<Arc<dyn Backend>> {
        if self.vhost == Some(true) {
            return Err(Error::generic("'vhost' is not built yet in Tinamou"));
        }
        let wanted = self.vnet_hdr.unwrap_or(true);
        let (fd, name, header, text, down) = match &self.fd {
            Some(given) => {
                let others = [&self.ifname, &self.script, &self.downscript];
                if others.iter().any(|other| other.is_some()) || self.vnet_hdr.is_some() {
                    return Err(Error::generic(
                        "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and \
                         vhostfds= are invalid with fd=",
                    ));
                }
                let fd = descriptor(given, context)
                    .map_err(|error| Error::generic(format!("{}: {}", link.id, error.desc)))?;
                let bad = explain("Unable to query TUNGETIFF on FD");
                host::set_nonblocking(&fd, true).map_err(explain("Unable to set non-blocking"))?;
                let (name, header) = host::tap_name(&fd).map_err(bad)?;
                (fd, name, header, format!("fd={given}"), None)
            }
            None => {
                let shown = self.ifname.as_deref().unwrap_or("tap%d");
                let what = format!("could not configure /dev/net/tun ({shown})");
                let opened = host::open_tap(self.ifname.as_deref(), wanted);
                let (fd, name, header) = opened.map_err(explain(&what))?;
                let script = self.script.as_deref().unwrap_or(UP);
                let down = self.downscript.as_deref().unwrap_or(DOWN);
                run(script, &name)?;
                let text = format!("ifname={name},script={script},downscript={down}");
                (fd, name, header, text, Some(down.to_owned()))
            }
        };
        let tap = Arc::new(Tap {
            link: Arc::downgrade(link),
            fd: Arc::new(fd),
            name,
            header,
            text,
            down,
            watch: Mutex::default(),
            input: Mutex::new(Input { buffer: vec![0; MAX_FRAME + HEADER], kept: None }),
        });
        tap.takes_changed(Takes::default());
        let weak = Arc::downgrade(&tap);
        let watch = context.handle.watch(tap.fd.clone(), Readiness::READ, move |_| {
            if let Some(tap) = weak.upgrade() {
                tap.read();
            }
        });
        *tap.watch.lock() = Some(watch.map_err(explain("cannot watch the interface"))?);
        Ok(tap)
    }
}
