//! Monitors from outside: many at once, one that does not read, descriptors, and the transcript of
//! the peer's wire behaviour in `tests/files/qmp/wire.txt`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

struct Program {
    child: Child,
    dir: tempfile::TempDir,
}

impl Program {
    /// Starts with `count` QMP sockets `m0`, `m1`, … and waits until all listen.
    fn start(count: usize, args: &[&str]) -> Program {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinamou"));
        command.args(["system", "aarch64", "-nodefaults", "-display", "none"]).args(args);
        for number in 0..count {
            let path = dir.path().join(format!("m{number}"));
            command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", path.display()));
        }
        let child = command.stdin(Stdio::null()).spawn().expect("starts");
        Program { child, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Connects to a socket as soon as it listens.
    fn connect(&mut self, name: &str) -> UnixStream {
        let path = self.path(name);
        loop {
            if let Ok(stream) = UnixStream::connect(&path) {
                stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
                return stream;
            }
            assert!(self.child.try_wait().expect("asked").is_none(), "it ended");
            std::thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A negotiated session.
struct Session {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Session {
    fn open(program: &mut Program, name: &str) -> Session {
        let stream = program.connect(name);
        let lines = BufReader::new(stream.try_clone().expect("cloned"));
        let mut session = Session { stream, lines };
        assert!(session.line().starts_with("{\"QMP\""));
        assert_eq!(session.ask("{'execute':'qmp_capabilities'}"), "{\"return\": {}}");
        session
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// The reply to a command; events before it are passed over.
    fn ask(&mut self, command: &str) -> String {
        self.stream.write_all(command.as_bytes()).expect("written");
        loop {
            let line = self.line();
            if !line.contains("\"event\"") {
                return line;
            }
        }
    }
}

#[test]
fn a_hundred_monitors_at_once() {
    let mut program = Program::start(100, &["-M", "none", "-S"]);
    let mut sessions: Vec<_> =
        (0..100).map(|n| Session::open(&mut program, &format!("m{n}"))).collect();
    for session in &mut sessions {
        let reply = session.ask("{'execute':'query-status'}");
        assert_eq!(reply, "{\"return\": {\"status\": \"prelaunch\", \"running\": false}}");
    }
    // Everyone hears an event.
    sessions[0].ask("{'execute':'cont'}");
    for session in &mut sessions[1..] {
        assert!(session.line().contains("\"event\": \"RESUME\""));
    }
}

#[test]
fn a_client_that_stops_reading_harms_nobody() {
    let mut program = Program::start(2, &["-M", "none"]);
    let mut deaf = Session::open(&mut program, "m0");
    // Each reply is tens of thousands of bytes long; all of them are not read.
    deaf.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut asked = 0;
    while asked < 2000 && deaf.stream.write_all(b"{'execute':'query-qmp-schema'}\n").is_ok() {
        asked += 1;
    }
    let mut other = Session::open(&mut program, "m1");
    for _ in 0..10 {
        other.ask("{'execute':'stop'}");
        other.ask("{'execute':'cont'}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.child.id()));
    let status = status.expect("read");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 128 << 10, "{kib} KiB");
    // Once it reads again, it gets everything it asked for, in order.
    let reader = deaf.lines.get_mut();
    reader.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    for _ in 0..asked.min(50) {
        let line = deaf.line();
        assert!(line.starts_with("{\"return\": [{\"name\"") || line.contains("event"), "{line}");
    }
}

#[test]
fn objects_serve_the_machine_and_its_devices() {
    let args = [
        "-M",
        "virt,memory-backend=m",
        "-m",
        "256M",
        "-S",
        "-serial",
        "null",
        "-object",
        "memory-backend-ram,id=m,size=256M",
        "-object",
        "rng-random,filename=/dev/urandom,id=r",
        "-device",
        "virtio-rng-pci,rng=r,id=d",
    ];
    let mut program = Program::start(1, &args);
    let mut session = Session::open(&mut program, "m0");
    let del = |id: &str| format!("{{'execute':'object-del','arguments':{{'id':'{id}'}}}}");
    for id in ["m", "r"] {
        let reply = session.ask(&del(id));
        assert!(reply.contains("is in use, can not be deleted"), "{reply}");
    }
    let add = "{'execute':'object-add','arguments':{'qom-type':'iothread','id':'io'}}";
    assert_eq!(session.ask(add), "{\"return\": {}}");
    let threads = session.ask("{'execute':'query-iothreads'}");
    assert!(threads.contains("\"id\": \"io\""), "{threads}");
    assert_eq!(session.ask(&del("io")), "{\"return\": {}}");
    assert_eq!(session.ask("{'execute':'query-iothreads'}"), "{\"return\": []}");
}

#[test]
fn descriptors_come_over_the_monitor() {
    let mut program = Program::start(1, &["-M", "none"]);
    let mut session = Session::open(&mut program, "m0");
    let reply = session.ask("{'execute':'getfd','arguments':{'fdname':'a'}}");
    assert!(reply.contains("No file descriptor supplied via SCM_RIGHTS"), "{reply}");
    let path = program.path("serial");
    let listener = UnixListener::bind(&path).expect("listens");
    send_with_fd(&session.stream, b"{'execute':'getfd','arguments':{'fdname':'a'}}", &listener);
    assert_eq!(session.line(), "{\"return\": {}}");
    let backend = "{'type':'socket','data':{'addr':{'type':'fd','data':{'str':'a'}},'wait':false}}";
    let add = format!("{{'execute':'chardev-add','arguments':{{'id':'c','backend':{backend}}}}}");
    assert_eq!(session.ask(&add), "{\"return\": {}}");
    drop(listener);
    _ = UnixStream::connect(&path).expect("somebody listens");
    send_with_fd(&session.stream, b"{'execute':'add-fd','arguments':{'opaque':'x'}}", &path_file());
    assert!(session.line().contains("\"fdset-id\": 0"));
    let sets = session.ask("{'execute':'query-fdsets'}");
    assert!(sets.contains("\"opaque\": \"x\""), "{sets}");
    session.ask("{'execute':'remove-fd','arguments':{'fdset-id':0}}");
    assert_eq!(session.ask("{'execute':'query-fdsets'}"), "{\"return\": []}");
}

fn path_file() -> std::fs::File {
    std::fs::File::open("/dev/null").expect("opened")
}

fn send_with_fd(stream: &UnixStream, data: &[u8], fd: &impl std::os::fd::AsFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let fds = [fd.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let parts = [std::io::IoSlice::new(data)];
    sendmsg(stream.as_fd(), &parts, &mut control, SendFlags::empty()).expect("sent");
}

/// Time and version differ from run to run.
fn normal(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive("\r\n") {
        let line = match (line.find("{\"timestamp\""), line.find("\"event\"")) {
            (Some(0), Some(at)) => format!("{{{}", &line[at..]),
            _ => line.to_owned(),
        };
        match (line.find("\"package\": \""), line.find("\"}, \"capabilities\"")) {
            (Some(from), Some(to)) => out.push_str(&[&line[..from], &line[to + 1..]].concat()),
            _ => out.push_str(&line),
        }
    }
    out
}

#[test]
fn wire_behaviour_is_the_peers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/files/qmp/wire.txt");
    let transcript = std::fs::read_to_string(root).expect("the transcript");
    let mut program = Program::start(1, &["-M", "virt", "-S", "-serial", "null"]);
    let mut stream = program.connect("m0");
    let mut differences = Vec::new();
    let mut asked = "";
    for line in transcript.lines() {
        let unescape = |text: &str| text.replace("<CRLF>", "\r\n").replace("<LF>", "\n");
        if let Some(text) = line.strip_prefix("C: ") {
            asked = text;
            stream.write_all(unescape(text).as_bytes()).expect("written");
        } else if let Some(text) = line.strip_prefix("S: ") {
            let want = unescape(text);
            let mut got = String::new();
            while normal(&got).len() < want.len() && !got.ends_with(&want) {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => got.push_str(&String::from_utf8_lossy(&buffer[..n])),
                    _ => break,
                }
            }
            if normal(&got) != want {
                differences.push(format!("{asked}\n  want {want}  got  {}", normal(&got)));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(program.child.wait().expect("ends").code(), Some(0));
}
