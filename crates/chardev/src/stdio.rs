//! Back end `stdio`: the terminal the emulator was started on.

use std::io::{Read, Write, stdin, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharEvent, CharReceiver};
use evloop::{Readiness, Watch};
use host::RawMode;
use parking_lot::Mutex;

use crate::common::Common;
use crate::front::Front;
use crate::table::{Chardev, Context, Kind};

/// Arguments of `stdio`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct StdioArgs {
    /// Whether Ctrl-C and friends signal the emulator (default) or go to the guest.
    pub signal: Option<bool>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

/// Standard input and output can serve one back end only.
static IN_USE: AtomicBool = AtomicBool::new(false);

struct Stdio {
    front: Front,
    watch: Mutex<Option<Watch>>,
    raw: Option<RawMode>,
}

impl Stdio {
    fn readable(&self) {
        let mut buffer = [0; 1024];
        let room = self.front.room().min(buffer.len());
        let Some(part) = buffer.get_mut(..room) else { return };
        if room == 0 {
            if let Some(watch) = &*self.watch.lock() {
                watch.set_interest(Readiness::NONE);
            }
            // A vCPU may have made room, and said so, between the two.
            if self.front.room() > 0 {
                self.accept_input();
            }
            return;
        }
        match Fd0.read(part) {
            Ok(n) if n > 0 => self.front.receive(part.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            _ => {
                self.front.event(CharEvent::Closed);
                let watch = self.watch.lock().take();
                drop(watch);
            }
        }
    }
}

/// Standard input without the buffer of `std::io::Stdin`, which would hide
/// bytes from the poller.
struct Fd0;

impl Read for Fd0 {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        host::read_fd(stdin(), out)
    }
}

impl CharBackend for Stdio {
    fn send(&self, data: &[u8]) -> usize {
        let mut out = stdout().lock();
        let mut rest = data;
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if !host::wait_writable(stdout(), 1000) {
                        break;
                    }
                }
                _ => break,
            }
        }
        let _ = out.flush();
        data.len()
    }

    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.front.attach(front);
        self.accept_input();
    }

    fn accept_input(&self) {
        if let Some(watch) = &*self.watch.lock() {
            watch.set_interest(Readiness::READ);
        }
    }
}

impl Chardev for Stdio {
    fn send_break(&self) {
        self.front.event(CharEvent::Break);
    }
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        "stdio".to_owned()
    }
    fn continued(&self) {
        if let Some(raw) = &self.raw {
            raw.again();
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        IN_USE.store(false, Ordering::SeqCst);
    }
}

impl Kind for StdioArgs {
    const NAME: &'static str = "stdio";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, context: &Context) -> qapi::Result<Arc<dyn Chardev>> {
        if IN_USE.swap(true, Ordering::SeqCst) {
            return Err(qapi::Error::generic("cannot use stdio by multiple character devices"));
        }
        let raw = if host::is_terminal(stdin()) {
            RawMode::enter(stdin(), self.signal != Some(false)).ok()
        } else {
            None
        };
        let this = Arc::new(Stdio { front: Front::default(), watch: Mutex::new(None), raw });
        let weak = Arc::downgrade(&this);
        let watch = context.handle.watch(Arc::new(stdin()), Readiness::NONE, move |_| {
            if let Some(this) = weak.upgrade() {
                this.readable();
            }
        });
        *this.watch.lock() = watch.ok();
        Ok(this)
    }
}
