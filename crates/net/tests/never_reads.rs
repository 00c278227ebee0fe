//! A peer that never reads stalls nobody: what it does not take is dropped, within bounds.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use device::{CharPort, CharSource};
use evloop::{Clock, EventLoop};
use net::{Context, Frame, Hubs, NetdevClass, Netdevs, StreamArgs};
use qapi::{Source, Value};

struct NoChars;

impl CharSource for NoChars {
    fn port(&self, _: &str) -> qapi::Result<CharPort> {
        Err(qapi::Error::generic("none"))
    }
}

static CLASSES: &[NetdevClass] = &[NetdevClass::of::<StreamArgs>()];

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn frames_for_a_peer_that_never_reads_are_dropped() {
    let mut events = EventLoop::new().unwrap();
    let clock = Clock::host();
    events.handle().serve_clock(&clock);
    let context = Context {
        handle: events.handle(),
        clock,
        fds: None,
        chardevs: Arc::new(NoChars),
        hubs: Arc::<Hubs>::default(),
        tell: Arc::new(|_, _| {}),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s").display().to_string();
    let table = Netdevs::new(CLASSES, context);
    let address = Value::map([("type", Value::from("unix")), ("path", Value::from(&*path))]);
    let mut args = Value::map([("server", Value::from(true))]);
    args.set("addr", address);
    table.add("n", "stream", args, Source::Json).unwrap();
    let mut peer = UnixStream::connect(&path).unwrap();
    events.run_once(Some(Duration::from_secs(1))).unwrap();
    let link = table.find("n").unwrap();
    let before = resident();
    let mut frame = vec![0x5a; 1514];
    for n in 0..100_000u32 {
        frame[..4].copy_from_slice(&n.to_be_bytes());
        link.from_guest(&Frame::plain(&[&frame]));
    }
    assert!(resident() - before < 32 << 10, "150 MB were not kept");
    // What it reads at last is whole frames in order.
    let mut next = [0; 4 + 1514];
    for n in 0..100u32 {
        events.run_once(Some(Duration::ZERO)).unwrap();
        peer.read_exact(&mut next).unwrap();
        assert_eq!(next[..4], 1514u32.to_be_bytes());
        assert_eq!(next[4..8], n.to_be_bytes());
    }
}
