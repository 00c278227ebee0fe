//! Back ends that talk to the host, run on a real loop.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use chardev::{CharEvent, CharReceiver, Chardevs};
use device::{CharSource, Request, RunControl};
use evloop::EventLoop;
use parking_lot::Mutex;
use qapi::{Source, Value};

struct Run;
impl RunControl for Run {
    fn request(&self, _: Request) {}
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
        assert!(data.len() <= self.room());
        self.got.lock().extend(data);
    }
    fn event(&self, event: CharEvent) {
        self.events.lock().push(event);
    }
}

fn args(pairs: &[(&str, &str)]) -> Value {
    Value::Map(pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect())
}

fn turn(l: &mut EventLoop, until: impl Fn() -> bool) {
    for _ in 0..200 {
        if until() {
            return;
        }
        l.run_once(Some(Duration::from_millis(10))).unwrap();
    }
    panic!("nothing happened");
}

fn table() -> (EventLoop, Chardevs) {
    let l = EventLoop::new().unwrap();
    let t = Chardevs::new(l.handle(), Arc::new(Run));
    (l, t)
}

#[test]
fn unix_server_serves_one_client_after_another_with_flow_control() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (mut l, t) = table();
    let a = args(&[("path", path.to_str().unwrap()), ("server", "on"), ("wait", "off")]);
    t.add("c0", "socket", a, Source::KeyVal, false).unwrap();
    let port = t.port("c0").unwrap();
    assert!(t.port("c0").is_err());
    let screen = Arc::new(Screen { room: Mutex::new(3), ..Screen::default() });
    let weak = Arc::downgrade(&screen);
    port.on_receive(weak);
    for round in 0..2 {
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        turn(&mut l, || screen.got.lock().len() >= 3);
        *screen.room.lock() = 100;
        port.accept_input();
        turn(&mut l, || screen.got.lock().len() == 5);
        assert_eq!(port.send(b"back"), 4);
        let mut back = [0; 4];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"back");
        drop(client);
        turn(&mut l, || screen.events.lock().last() == Some(&CharEvent::Closed));
        screen.got.lock().clear();
        assert_eq!(screen.events.lock().len(), 2 * (round + 1));
    }
    assert!(t.list()[0].filename.starts_with("disconnected:unix:"));
}

#[test]
fn tcp_server_on_a_free_port_and_a_client_of_it() {
    let (mut l, t) = table();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let a = args(&[("host", "127.0.0.1"), ("port", &port)]);
    t.add("c0", "socket", a, Source::KeyVal, false).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let chars = t.port("c0").unwrap();
    let screen = Arc::new(Screen { room: Mutex::new(100), ..Screen::default() });
    let weak = Arc::downgrade(&screen);
    chars.on_receive(weak);
    peer.write_all(b"x").unwrap();
    turn(&mut l, || *screen.got.lock() == b"x");
}

#[test]
fn file_takes_output_and_gives_input_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (out, input) = (dir.path().join("out"), dir.path().join("in"));
    std::fs::write(&input, b"abc").unwrap();
    let (mut l, t) = table();
    let a = args(&[("path", out.to_str().unwrap()), ("input-path", input.to_str().unwrap())]);
    t.add("c0", "file", a, Source::KeyVal, false).unwrap();
    let port = t.port("c0").unwrap();
    let screen = Arc::new(Screen { room: Mutex::new(2), ..Screen::default() });
    let weak = Arc::downgrade(&screen);
    port.on_receive(weak);
    turn(&mut l, || screen.events.lock().contains(&CharEvent::Closed));
    assert_eq!(*screen.got.lock(), b"abc");
    port.send(b"text");
    assert_eq!(std::fs::read(&out).unwrap(), b"text");
}

#[test]
fn mistakes_are_named() {
    let (_l, t) = table();
    let bad = t.add("c", "file", args(&[("path", "/nonexistent/x")]), Source::KeyVal, false);
    assert_eq!(bad.unwrap_err().desc, "Unable to open '/nonexistent/x': No such file or directory");
    assert!(t.add("c", "bogus", args(&[]), Source::KeyVal, false).is_err());
    assert!(t.add("c", "socket", args(&[]), Source::KeyVal, false).is_err());
    assert!(t.add("c", "ringbuf", args(&[("size", "3")]), Source::KeyVal, false).is_err());
    t.add("c", "null", args(&[]), Source::KeyVal, true).unwrap();
    assert!(t.add("c", "null", args(&[]), Source::KeyVal, false).is_err());
    for _ in 0..4 {
        t.port("c").unwrap();
    }
    assert!(t.port("c").is_err());
    assert!(t.port("d").is_err());
}

/// Says that it is full, and a vCPU empties it before the answer has arrived.
#[derive(Default)]
struct Racing {
    port: Mutex<Option<device::CharPort>>,
    asked: Mutex<bool>,
    got: Mutex<Vec<u8>>,
}

impl CharReceiver for Racing {
    fn room(&self) -> usize {
        if std::mem::replace(&mut *self.asked.lock(), true) {
            return 16;
        }
        if let Some(port) = &*self.port.lock() {
            port.accept_input();
        }
        0
    }
    fn receive(&self, data: &[u8]) {
        self.got.lock().extend(data);
    }
    fn event(&self, _: CharEvent) {}
}

#[test]
fn room_made_while_input_is_switched_off_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    std::fs::write(&input, b"abc").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let number = listener.local_addr().unwrap().port().to_string();
    let out = dir.path().join("out");
    let file = args(&[("path", out.to_str().unwrap()), ("input-path", input.to_str().unwrap())]);
    let socket = args(&[("host", "127.0.0.1"), ("port", &number)]);
    for (kind, args) in [("file", file), ("socket", socket)] {
        let (mut l, t) = table();
        t.add("c0", kind, args, Source::KeyVal, false).unwrap();
        let front = Arc::new(Racing::default());
        let port = t.port("c0").unwrap();
        port.on_receive(Arc::downgrade(&front) as std::sync::Weak<dyn CharReceiver>);
        *front.port.lock() = Some(port);
        let peer = (kind == "socket").then(|| {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"abc").unwrap();
            peer
        });
        turn(&mut l, || *front.got.lock() == b"abc");
        drop(peer);
    }
}
