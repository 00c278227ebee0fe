//! An emulator process with its console.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What a stream has given so far.
#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
}

#[derive(Default)]
struct Stream {
    seen: Mutex<Seen>,
    news: Condvar,
}

impl Stream {
    fn follow(self: &Arc<Self>, mut from: impl Read + Send + 'static) -> JoinHandle<()> {
        let this = Arc::clone(self);
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            loop {
                let n = from.read(&mut buf).unwrap_or(0);
                let mut seen = this.seen.lock().expect("reader");
                seen.bytes.extend_from_slice(&buf[..n]);
                seen.ended = n == 0;
                this.news.notify_all();
                if n == 0 {
                    return;
                }
            }
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("reader").bytes).into_owned()
    }
}

/// A machine that ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Exit status.
    pub code: Option<i32>,
    /// Standard output: the console.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A running machine; dropping it ends it.
pub struct Vm {
    child: Child,
    out: Arc<Stream>,
    err: Arc<Stream>,
    readers: Vec<JoinHandle<()>>,
    deadline: Instant,
    from: usize,
}

impl Vm {
    /// Starts the emulator under test; all waits together end after `seconds`.
    pub fn start(args: &[&str], seconds: u64) -> Self {
        Self::of(&crate::emulator(), args, seconds)
    }

    /// Starts any program.
    pub fn of(program: &Path, args: &[&str], seconds: u64) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let (out, err) = (Arc::<Stream>::default(), Arc::<Stream>::default());
        let readers = vec![
            out.follow(child.stdout.take().expect("piped")),
            err.follow(child.stderr.take().expect("piped")),
        ];
        let deadline = Instant::now() + Duration::from_secs(seconds);
        Self { child, out, err, readers, deadline, from: 0 }
    }

    /// Number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for a text on the console, after the one that was waited for last.
    pub fn wait_for(&mut self, text: &str) {
        let mut seen = self.out.seen.lock().expect("reader");
        loop {
            let new = &seen.bytes[self.from..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                self.from += at + text.len();
                return;
            }
            let (ended, left) = (seen.ended, self.left());
            if ended || left.is_zero() {
                drop(seen);
                let why = if ended { "the machine ended" } else { "deadline" };
                panic!("no {text:?}: {why}\n{}\n{}", tail(&self.out.text()), self.err.text());
            }
            seen = self.out.news.wait_timeout(seen, left).expect("reader").0;
        }
    }

    /// Types on the console.
    pub fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("the machine reads");
    }

    /// Types to a machine that may have ended already.
    pub fn send_if_it_runs(&mut self, text: &str) {
        if let Some(stdin) = self.child.stdin.as_mut() {
            _ = stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush());
        }
    }

    /// Everything on the console so far.
    pub fn console(&self) -> String {
        self.out.text()
    }

    /// Waits until the machine ends by itself.
    pub fn end(mut self) -> Ended {
        let mut seen = self.out.seen.lock().expect("reader");
        while !seen.ended {
            let left = self.left();
            if left.is_zero() {
                drop(seen);
                panic!("the machine does not end\n{}\n{}", tail(&self.out.text()), self.err.text());
            }
            seen = self.out.news.wait_timeout(seen, left).expect("reader").0;
        }
        drop(seen);
        let code = self.child.wait().expect("own child").code();
        for reader in self.readers.drain(..) {
            reader.join().expect("reader");
        }
        Ended { code, out: self.out.text(), err: self.err.text() }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Ended already, or of no more interest.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The last lines of a console.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
