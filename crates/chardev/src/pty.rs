//! Back ends `pty` and `pipe`: a pseudo-terminal of our own, and named pipes.
//!
//! A pseudo-terminal tells when somebody opens its other end only by being asked, so
//! it is asked once a second while nobody is there. A pipe is `PATH.in` and `PATH.out`,
//! or else `PATH` for both directions. Source: QEMU's manual and observable behaviour.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharEvent, CharReceiver};
use evloop::Timer;
use parking_lot::Mutex;
use qapi::{Error, Result};

use crate::common::Common;
use crate::endpoint::Endpoint;
use crate::file::errno_text;
use crate::table::{Chardev, Context, Kind};

/// How often an unused pseudo-terminal is asked, in nanoseconds.
const ASK_EVERY: u64 = 1_000_000_000;

/// Arguments of `pty`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct PtyArgs {
    /// A symbolic link to make to the terminal.
    pub path: Option<String>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

struct Pty {
    end: Arc<Endpoint>,
    master: Arc<OwnedFd>,
    path: String,
    link: Option<String>,
    timer: Mutex<Option<Timer>>,
}

impl Pty {
    /// Takes the terminal up if somebody opened its other end; asks again later if not.
    fn ask(&self) {
        if !host::is_hung_up(&*self.master) && !self.end.is_open() && self.take_up().is_ok() {
            self.end.front.event(CharEvent::Opened);
            return;
        }
        if let Some(timer) = &*self.timer.lock() {
            timer.arm_at(timer.clock().now_ns().saturating_add(ASK_EVERY));
        }
    }

    fn take_up(&self) -> std::io::Result<()> {
        let (input, output) = (self.master.try_clone()?, self.master.try_clone()?);
        self.end.open(Arc::new(input), Arc::new(output), None)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            _ = std::fs::remove_file(link);
        }
    }
}

impl CharBackend for Pty {
    fn send(&self, data: &[u8]) -> usize {
        self.end.send(data)
    }
    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.end.front.attach(front);
        if self.is_open() {
            self.end.front.event(CharEvent::Opened);
        }
        self.accept_input();
    }
    fn accept_input(&self) {
        self.end.accept_input();
    }
    fn is_open(&self) -> bool {
        self.end.is_open()
    }
}

impl Chardev for Pty {
    fn send_break(&self) {
        self.end.front.event(CharEvent::Break);
    }
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        let state = if self.is_open() { "" } else { "disconnected:" };
        format!("{state}pty:{}", self.path)
    }
    fn pty(&self) -> Option<String> {
        Some(self.path.clone())
    }
}

impl Kind for PtyArgs {
    const NAME: &'static str = "pty";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, id: &str, context: &Context) -> Result<Arc<dyn Chardev>> {
        let fail =
            |e: std::io::Error| Error::generic(format!("Failed to open PTY: {}", errno_text(&e)));
        let (master, path) = host::open_pty().map_err(fail)?;
        if let Some(link) = &self.path {
            std::os::unix::fs::symlink(&path, link).map_err(|e| {
                Error::generic(format!("Failed to create PTY symlink: {}", errno_text(&e)))
            })?;
        }
        let pty = Arc::new_cyclic(|weak: &Weak<Pty>| {
            let ended = weak.clone();
            let end = Endpoint::new(&context.handle, move || {
                if let Some(this) = ended.upgrade() {
                    this.end.front.event(CharEvent::Closed);
                    this.ask();
                }
            });
            let asked = weak.clone();
            let timer = context.clock.timer(move || {
                if let Some(this) = asked.upgrade() {
                    this.ask();
                }
            });
            let (link, timer) = (self.path.clone(), Mutex::new(Some(timer)));
            Pty { end, master: Arc::new(master), path: path.clone(), link, timer }
        });
        trace::say(format_args!("char device redirected to {path} (label {id})\n"));
        // Linux reports the other end as gone only once it has been open.
        pty.ask();
        Ok(pty)
    }
}

/// Arguments of `pipe`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct PipeArgs {
    /// Path of the pipe, or of the pair PATH.in and PATH.out.
    pub path: Option<String>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

struct Pipe {
    end: Arc<Endpoint>,
}

impl CharBackend for Pipe {
    fn send(&self, data: &[u8]) -> usize {
        self.end.send(data)
    }
    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.end.front.attach(front);
        self.end.front.event(CharEvent::Opened);
        self.accept_input();
    }
    fn accept_input(&self) {
        self.end.accept_input();
    }
}

impl Chardev for Pipe {
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        "pipe".to_owned()
    }
}

impl Kind for PipeArgs {
    const NAME: &'static str = "pipe";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, context: &Context) -> Result<Arc<dyn Chardev>> {
        let path = self.path.as_deref();
        let path = path.ok_or_else(|| Error::generic("chardev: pipe: no device path given"))?;
        let one = |path: &str| host::open_pipe(path);
        let pair = one(&format!("{path}.in")).and_then(|i| Ok((i, one(&format!("{path}.out"))?)));
        let both = || one(path).and_then(|fd| Ok((fd.try_clone()?, fd)));
        let (input, output) = pair
            .or_else(|_| both())
            .map_err(|e| Error::generic(format!("Could not open '{path}': {}", errno_text(&e))))?;
        let pipe = Arc::new_cyclic(|weak: &Weak<Pipe>| {
            let ended = weak.clone();
            let end = Endpoint::new(&context.handle, move || {
                if let Some(this) = ended.upgrade() {
                    this.end.front.event(CharEvent::Closed);
                }
            });
            Pipe { end }
        });
        let opened = pipe.end.open(Arc::new(input), Arc::new(output), None);
        opened.map_err(|e| Error::generic(format!("cannot watch '{path}': {}", errno_text(&e))))?;
        Ok(pipe)
    }
}
