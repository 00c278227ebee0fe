//! Back end `mux`: several front ends share one back end; Ctrl-A is the escape.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use derive::Qapi;
use device::{Cause, CharBackend, CharEvent, CharReceiver, Request, RunControl};
use parking_lot::Mutex;

use crate::common::Common;
use crate::front::Front;
use crate::table::{Chardev, Context, Kind};

/// Front ends one mux serves.
const MAX_FRONTS: usize = 4;
/// Bytes kept for a front end that has no room.
const BACKLOG: usize = 32;
/// Ctrl-A.
const ESCAPE: u8 = 1;

const HELP: &str = "\n\r\
    C-a h    print this help\n\r\
    C-a x    exit emulator\n\r\
    C-a s    save disk data back to file (if -snapshot)\n\r\
    C-a t    toggle console timestamps\n\r\
    C-a b    send break (magic sysrq)\n\r\
    C-a c    switch between console and monitor\n\r\
    C-a C-a  sends C-a\n\r";

/// Arguments of `mux`.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct MuxArgs {
    /// Id of the back end that is shared.
    pub chardev: String,
    #[qapi(flatten)]
    #[expect(missing_docs, reason = "documented as a type")]
    pub common: Common,
}

/// A multiplexer.
pub struct Mux {
    weak: Weak<Mux>,
    inner: Arc<dyn CharBackend>,
    inner_name: String,
    run: Arc<dyn RunControl>,
    clock: evloop::Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fronts: Vec<Arc<Front>>,
    focus: usize,
    escaped: bool,
    timestamps: bool,
    line_start: bool,
    backlog: Vec<u8>,
}

/// What one input byte asked for.
enum Action {
    None,
    Pass(u8),
    Print(&'static str),
    Quit,
    Break,
    Switch,
}

impl Mux {
    /// Puts a multiplexer over a back end.
    #[must_use]
    pub fn new(
        inner: Arc<dyn CharBackend>,
        inner_name: String,
        run: Arc<dyn RunControl>,
    ) -> Arc<Mux> {
        let mux = Arc::new_cyclic(|weak: &Weak<Mux>| Mux {
            weak: weak.clone(),
            inner,
            inner_name,
            run,
            clock: evloop::Clock::host(),
            state: Mutex::new(State { line_start: true, ..State::default() }),
        });
        let receiver: Weak<dyn CharReceiver> = mux.weak.clone();
        mux.inner.attach(receiver);
        mux
    }

    fn focused(&self) -> Option<Arc<Front>> {
        let state = self.state.lock();
        state.fronts.get(state.focus).cloned()
    }

    /// Gives the focus to the next front end, or to the one of this index.
    pub fn set_focus(&self, index: Option<usize>) {
        let (before, after) = {
            let mut state = self.state.lock();
            let count = state.fronts.len().max(1);
            let before = state.fronts.get(state.focus).cloned();
            state.focus = index.unwrap_or(state.focus + 1) % count;
            (before, state.fronts.get(state.focus).cloned())
        };
        if let Some(front) = before {
            front.event(CharEvent::FocusOut);
        }
        if let Some(front) = after {
            front.event(CharEvent::FocusIn);
        }
        self.flush_backlog();
    }

    fn action(&self, byte: u8) -> Action {
        let mut state = self.state.lock();
        if !state.escaped {
            if byte == ESCAPE {
                state.escaped = true;
                return Action::None;
            }
            return Action::Pass(byte);
        }
        state.escaped = false;
        match byte {
            ESCAPE => Action::Pass(byte),
            b'h' | b'?' => Action::Print(HELP),
            b'x' => Action::Quit,
            b'b' => Action::Break,
            b'c' => Action::Switch,
            b't' => {
                state.timestamps = !state.timestamps;
                state.line_start = false;
                Action::None
            }
            // C-a s commits snapshot disks; the block layer is not there yet.
            _ => Action::None,
        }
    }

    fn input(&self, byte: u8) {
        match self.action(byte) {
            Action::None => {}
            Action::Pass(byte) => self.pass(byte),
            Action::Print(text) => {
                self.inner.send(text.as_bytes());
            }
            Action::Quit => {
                self.inner.send(b"QEMU: Terminated\n\r");
                self.run.request(Request::Shutdown(Cause::HostUi));
            }
            Action::Break => {
                if let Some(front) = self.focused() {
                    front.event(CharEvent::Break);
                }
            }
            Action::Switch => self.set_focus(None),
        }
    }

    fn pass(&self, byte: u8) {
        let Some(front) = self.focused() else { return };
        if self.state.lock().backlog.is_empty() && front.room() > 0 {
            front.receive(&[byte]);
        } else {
            let mut state = self.state.lock();
            if state.backlog.len() < BACKLOG {
                state.backlog.push(byte);
            }
        }
    }

    fn flush_backlog(&self) {
        while let Some(front) = self.focused()
            && front.room() > 0
        {
            let byte = {
                let mut state = self.state.lock();
                if state.backlog.is_empty() {
                    break;
                }
                state.backlog.remove(0)
            };
            front.receive(&[byte]);
        }
    }

    /// Output with a time at the start of each line.
    fn stamped(&self, data: &[u8]) -> Vec<u8> {
        let mut state = self.state.lock();
        let mut out = Vec::with_capacity(data.len() + 16);
        for &byte in data {
            if state.line_start {
                state.line_start = false;
                let ms = self.clock.now_ns() / 1_000_000;
                let (s, ms) = (ms / 1000, ms % 1000);
                let mut stamp = String::new();
                let _ =
                    write!(stamp, "[{:02}:{:02}:{:02}.{ms:03}] ", s / 3600, s / 60 % 60, s % 60);
                out.extend(stamp.as_bytes());
            }
            out.push(byte);
            state.line_start = byte == b'\n';
        }
        out
    }

    /// A port for one more front end.
    pub fn port(&self) -> qapi::Result<Arc<dyn CharBackend>> {
        let mut state = self.state.lock();
        if state.fronts.len() >= MAX_FRONTS {
            return Err(qapi::Error::generic(format!(
                "too many uses of multiplexed chardev (maximum is {MAX_FRONTS})"
            )));
        }
        let front = Arc::new(Front::default());
        state.fronts.push(front.clone());
        let index = state.fronts.len() - 1;
        let mux = self.weak.upgrade().ok_or_else(|| qapi::Error::generic("chardev is gone"))?;
        Ok(Arc::new(MuxPort { mux, front, index }))
    }
}

impl CharReceiver for Mux {
    fn room(&self) -> usize {
        let free = BACKLOG.saturating_sub(self.state.lock().backlog.len());
        // Escapes must get through to a mux whose focused front end is full.
        free.min(self.focused().map_or(1, |f| f.room().max(1)))
    }

    fn receive(&self, data: &[u8]) {
        for &byte in data {
            self.input(byte);
        }
    }

    fn event(&self, event: CharEvent) {
        let fronts = self.state.lock().fronts.clone();
        for front in fronts {
            front.event(event);
        }
    }
}

/// One front end's port of a mux.
struct MuxPort {
    mux: Arc<Mux>,
    front: Arc<Front>,
    index: usize,
}

impl CharBackend for MuxPort {
    fn send(&self, data: &[u8]) -> usize {
        if self.mux.state.lock().timestamps {
            self.mux.inner.send(&self.mux.stamped(data));
            return data.len();
        }
        self.mux.inner.send(data)
    }

    fn attach(&self, front: Weak<dyn CharReceiver>) {
        self.front.attach(front);
        let focus = self.mux.state.lock().focus;
        self.front.event(if focus == self.index {
            CharEvent::FocusIn
        } else {
            CharEvent::FocusOut
        });
        self.accept_input();
    }

    fn accept_input(&self) {
        self.mux.flush_backlog();
        self.mux.inner.accept_input();
    }

    fn is_open(&self) -> bool {
        self.mux.inner.is_open()
    }
}

impl Chardev for Mux {
    fn backend(self: Arc<Self>) -> Arc<dyn CharBackend> {
        self.inner.clone()
    }
    fn filename(&self) -> String {
        format!("mux:{}", self.inner_name)
    }
    fn mux(self: Arc<Self>) -> Option<Arc<Mux>> {
        Some(self)
    }
}

impl Kind for MuxArgs {
    const NAME: &'static str = "mux";
    fn common(&self) -> &Common {
        &self.common
    }
    fn open(self, _: &str, context: &Context) -> qapi::Result<Arc<dyn Chardev>> {
        let lookup = context.lookup.as_ref();
        let (backend, name) = lookup.and_then(|l| l(&self.chardev)).ok_or_else(|| {
            qapi::Error::generic(format!("mux: base chardev {} not found", self.chardev))
        })?;
        Ok(Mux::new(backend, name, context.run.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Inner(Mutex<Vec<u8>>);
    impl CharBackend for Inner {
        fn send(&self, data: &[u8]) -> usize {
            self.0.lock().extend(data);
            data.len()
        }
        fn attach(&self, _: Weak<dyn CharReceiver>) {}
        fn accept_input(&self) {}
    }

    #[derive(Default)]
    struct Screen {
        got: Mutex<Vec<u8>>,
        events: Mutex<Vec<CharEvent>>,
        room: Mutex<usize>,
    }
    impl CharReceiver for Screen {
        fn room(&self) -> usize {
            *self.room.lock()
        }
        fn receive(&self, data: &[u8]) {
            self.got.lock().extend(data);
        }
        fn event(&self, event: CharEvent) {
            self.events.lock().push(event);
        }
    }

    #[derive(Default)]
    struct Run(Mutex<Vec<Request>>);
    impl RunControl for Run {
        fn request(&self, request: Request) {
            self.0.lock().push(request);
        }
    }

    struct Desk {
        inner: Arc<Inner>,
        run: Arc<Run>,
        mux: Arc<Mux>,
        screens: [Arc<Screen>; 2],
        ports: Vec<Arc<dyn CharBackend>>,
    }

    fn desk() -> Desk {
        let (inner, run) = (Arc::new(Inner::default()), Arc::new(Run::default()));
        let mux = Mux::new(inner.clone(), "test".into(), run.clone());
        let screens =
            [0, 1].map(|_| Arc::new(Screen { room: Mutex::new(100), ..Screen::default() }));
        let mut ports = Vec::new();
        for screen in &screens {
            let port = mux.port().unwrap();
            let weak: Weak<Screen> = Arc::downgrade(screen);
            port.attach(weak);
            ports.push(port);
        }
        Desk { inner, run, mux, screens, ports }
    }

    #[test]
    fn input_goes_to_the_focus_and_c_switches_it() {
        let d = desk();
        d.mux.receive(b"ab\x01c\x01\x01d\x01ce");
        assert_eq!(*d.screens[0].got.lock(), b"abe");
        assert_eq!(*d.screens[1].got.lock(), b"\x01d");
        let events = d.screens[0].events.lock().clone();
        assert_eq!(events, [CharEvent::FocusIn, CharEvent::FocusOut, CharEvent::FocusIn]);
    }

    #[test]
    fn x_asks_for_shutdown_and_b_sends_break() {
        let d = desk();
        d.mux.receive(b"\x01b\x01x");
        assert_eq!(d.screens[0].events.lock().last(), Some(&CharEvent::Break));
        assert_eq!(*d.run.0.lock(), [Request::Shutdown(Cause::HostUi)]);
        d.mux.receive(b"\x01h");
        assert!(String::from_utf8_lossy(&d.inner.0.lock()).contains("C-a x    exit emulator"));
    }

    #[test]
    fn full_front_end_keeps_a_backlog_but_escapes_work() {
        let d = desk();
        *d.screens[0].room.lock() = 0;
        d.mux.receive(b"xy");
        assert!(d.screens[0].got.lock().is_empty());
        *d.screens[0].room.lock() = 1;
        d.ports[0].accept_input();
        assert_eq!(*d.screens[0].got.lock(), b"xy");
    }

    #[test]
    fn timestamps_start_each_line() {
        let d = desk();
        d.mux.receive(b"\x01t");
        d.ports[0].send(b"a\nb");
        let text = String::from_utf8_lossy(&d.inner.0.lock()).into_owned();
        assert!(text.starts_with("a\n[00:00:0") && text.ends_with("] b"), "{text}");
    }
}
