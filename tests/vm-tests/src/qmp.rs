//! A line-wise QMP client.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

/// A socket that an emulator connects its monitor to.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens under a name of the caller's own.
    pub fn new(name: &str) -> Self {
        let path = crate::scratch(name);
        _ = std::fs::remove_file(&path);
        let socket = UnixListener::bind(&path).expect("temporary folder");
        Self { socket, path }
    }

    /// The argument of `-qmp`.
    pub fn option(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Waits for the emulator and negotiates.
    pub fn accept(self, seconds: u64) -> Qmp {
        let (tell, hear) = mpsc::channel();
        let socket = self.socket;
        std::thread::spawn(move || tell.send(socket.accept()));
        let accepted = hear.recv_timeout(Duration::from_secs(seconds));
        _ = std::fs::remove_file(&self.path);
        let (stream, _) = accepted.expect("the emulator connects").expect("accepts");
        stream.set_read_timeout(Some(Duration::from_secs(seconds))).expect("timeout");
        let mut qmp = Qmp { input: BufReader::new(stream), events: Vec::new() };
        let greeting = qmp.line();
        assert!(greeting.starts_with("{\"QMP\""), "{greeting}");
        assert_eq!(qmp.run("qmp_capabilities"), "{\"return\": {}}");
        qmp
    }
}

/// A session.
pub struct Qmp {
    input: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Qmp {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.input.read_line(&mut line).expect("a reply in time");
        line.trim_end().to_owned()
    }

    /// Carries out a command without arguments; gives the reply.
    pub fn run(&mut self, command: &str) -> String {
        self.send(&format!("{{\"execute\": \"{command}\"}}"))
    }

    /// Carries out a command with arguments (members of an object); gives the reply.
    pub fn ask(&mut self, command: &str, arguments: &str) -> String {
        self.send(&format!("{{\"execute\": \"{command}\", \"arguments\": {{{arguments}}}}}"))
    }

    fn send(&mut self, line: &str) -> String {
        writeln!(self.input.get_mut(), "{line}").expect("connected");
        loop {
            let line = self.line();
            if line.starts_with("{\"return\"") || line.starts_with("{\"error\"") {
                return line;
            }
            assert!(!line.is_empty(), "the connection ended");
            self.events.push(line);
        }
    }

    /// Waits for an event, among those already seen too.
    pub fn event(&mut self, name: &str) -> String {
        let wanted = format!("\"event\": \"{name}\"");
        loop {
            if let Some(at) = self.events.iter().position(|line| line.contains(&wanted)) {
                return self.events.remove(at);
            }
            let line = self.line();
            assert!(!line.is_empty(), "no {name}: the connection ended");
            self.events.push(line);
        }
    }
}
