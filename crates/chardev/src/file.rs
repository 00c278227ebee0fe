//! Back end `file`: output into a file, optionally input from another.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{CharBackend, CharEvent, CharReceiver};
use evloop::{Handle, Readiness, Watch};
use parking_lot::Mutex;

use crate::common::Common;
use crate::front::Front;
use crate::table::{Chardev, Context, Kind};

/// Arguments of `file`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct FileArgs {
    /// File that output is written to.
    pub path: String,
    /// File that input is read from.
    pub input_path: Option<String>,
    /// Append instead of truncating.
    pub append: Option<bool>,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

struct FileChardev {
    out: File,
    path: String,
    handle: Handle,
    front: Front,
    input: Option<Arc<File>>,
    watch: Mutex<Option<Watch>>,
}

impl FileChardev {
    fn readable(&self) {
        let mut buffer = [0; 4096];
        let room = self.front.room().min(buffer.len());
        let Some(mut input) = self.input.as_deref() else { return };
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
        match input.read(part) {
            Ok(n) if n > 0 => self.front.receive(part.get(..n).unwrap_or_default()),
            _ => {
                self.front.event(CharEvent::Closed);
                let watch = self.watch.lock().take();
                drop(watch);
            }
        }
    }
}

impl CharBackend for FileChardev {
    fn send(&self, data: &[u8]) -> usize {
        if (&self.out).write_all(data).is_err() {
            trace::unimp!("chardev file {}: output lost", self.path);
        }
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
        self.handle.wake();
    }
}

impl Chardev for FileChardev {
    fn send_break(&self) {
        self.front.event(CharEvent::Break);
    }
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self
    }
    fn filename(&self) -> String {
        "file".to_owned()
    }
}

impl Kind for FileArgs {
    const NAME: &'static str = "file";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, context: &Context) -> qapi::Result<Arc<dyn Chardev>> {
        let fail = |path: &str, e: &std::io::Error| {
            qapi::Error::generic(format!("Unable to open '{path}': {}", errno_text(e)))
        };
        let append = self.append == Some(true);
        let out = OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(&self.path)
            .map_err(|e| fail(&self.path, &e))?;
        let input = match &self.input_path {
            None => None,
            Some(path) => Some(Arc::new(File::open(path).map_err(|e| fail(path, &e))?)),
        };
        let this = Arc::new(FileChardev {
            out,
            path: self.path,
            handle: context.handle.clone(),
            front: Front::default(),
            input: input.clone(),
            watch: Mutex::new(None),
        });
        if let Some(input) = input {
            let weak = Arc::downgrade(&this);
            let watch = context.handle.watch(input, Readiness::NONE, move |_| {
                if let Some(this) = weak.upgrade() {
                    this.readable();
                }
            });
            *this.watch.lock() = watch.ok();
        }
        Ok(this)
    }
}

/// The system's words for an error, without Rust's "(os error N)".
pub(crate) fn errno_text(e: &std::io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}
