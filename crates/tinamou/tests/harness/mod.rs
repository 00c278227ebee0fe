//! An emulator with qtest on its standard streams and QMP on a socket, for comparisons with the peer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_tinamou");
pub(crate) const PEER: &str = "qemu-system-aarch64";

/// The emulator.
pub(crate) struct Emulator {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    qmp: BufReader<UnixStream>,
    pub(crate) events: Vec<String>,
    socket: PathBuf,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        _ = std::fs::remove_file(&self.socket);
    }
}

impl Emulator {
    pub(crate) fn start(program: &str, args: &str) -> Option<Emulator> {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(program);
        command.arg0(PEER);
        Emulator::launch(command, args)
    }

    /// Starts what `command` runs with these arguments and its own.
    pub(crate) fn launch(mut command: Command, args: &str) -> Option<Emulator> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tinamou-pci-{}-{number}", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let monitor = format!("unix:{},server=on,wait=off", socket.display());
        let mut child = command
            .args(["-M", "virt", "-nodefaults", "-S", "-display", "none"])
            .args(["-qtest", "stdio", "-qmp", &monitor, "-m", "256"])
            .args(args.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let (to, from) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        // Half a minute, then the emulator did not start.
        let mut tries = 0..6000;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(tries.next().is_some(), "{command:?}: {error}"),
            }
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{command:?} ended: {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let qmp = BufReader::new(stream);
        let mut emulator = Emulator { child, to, from, qmp, events: Vec::new(), socket };
        emulator.line();
        emulator.qmp("{\"execute\":\"qmp_capabilities\"}");
        Some(emulator)
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let n = self.qmp.read_line(&mut line).expect("a line of QMP");
        assert!(n > 0, "the emulator ended");
        line.trim().to_owned()
    }

    /// A command's reply.
    pub(crate) fn reply(&mut self, command: &str) -> String {
        writeln!(self.qmp.get_mut(), "{command}").expect("QMP takes commands");
        loop {
            let line = self.line();
            if !line.contains("\"event\"") {
                return line;
            }
            self.events.push(line);
        }
    }

    /// The words of an error, or `ok`.
    pub(crate) fn qmp(&mut self, command: &str) -> String {
        match self.reply(command).split_once("\"desc\": ") {
            Some((_, words)) => words.trim_end_matches('}').to_owned(),
            None => "ok".into(),
        }
    }

    /// Events of these names since the last time, as words in order.
    pub(crate) fn told(&mut self, names: &[&str]) -> Vec<String> {
        self.reply("{\"execute\":\"query-status\"}");
        let all = std::mem::take(&mut self.events).into_iter();
        let all = all.filter(|line| names.iter().any(|name| line.contains(name)));
        // Times are not compared, and members have no order.
        let plain = |line: String| {
            let line = line.split("\"timestamp\": {").map(|part| {
                let is_time = part.starts_with("\"seconds\"");
                if is_time { part.split_once('}').map_or("", |(_, rest)| rest) } else { part }
            });
            let line: String = line.collect();
            let mut words: Vec<_> = line.split([',', '{', '}']).map(str::trim).collect();
            words.sort_unstable();
            words.retain(|word| !word.is_empty());
            words.join(" ")
        };
        all.map(plain).collect()
    }

    pub(crate) fn device_add(&mut self, args: &str) -> String {
        self.qmp(&format!("{{\"execute\":\"device_add\",\"arguments\":{{{args}}}}}"))
    }

    pub(crate) fn device_del(&mut self, id: &str) -> String {
        let command = format!("{{\"execute\":\"device_del\",\"arguments\":{{\"id\":\"{id}\"}}}}");
        self.qmp(&command)
    }

    /// Waits for the event that this device is gone.
    pub(crate) fn gone(&mut self, id: &str) {
        let words = format!("\"device\": \"{id}\"");
        while !self.events.iter().any(|event| event.contains(&words)) {
            let line = self.line();
            self.events.push(line);
        }
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.to, "{line}").expect("the emulator reads");
        loop {
            let mut answer = String::new();
            let n = self.from.read_line(&mut answer).expect("an answer");
            assert!(n > 0, "{line}: the emulator ended");
            if let Some(rest) = answer.strip_prefix("OK") {
                return rest.trim().to_owned();
            }
            assert!(answer.starts_with("IRQ") || answer.starts_with('['), "{line}: {answer}");
        }
    }

    pub(crate) fn read32(&mut self, at: u64) -> u32 {
        let answer = self.ask(&format!("readl {at:#x}"));
        let digits = answer.strip_prefix("0x").expect("a number");
        u32::try_from(u64::from_str_radix(digits, 16).expect("a number")).expect("32 bits")
    }

    pub(crate) fn write(&mut self, at: u64, bits: u32, value: u64) {
        let letter = if bits == 16 { 'w' } else { 'l' };
        self.ask(&format!("write{letter} {at:#x} {value:#x}"));
    }

    pub(crate) fn bytes(&mut self, at: u64, len: usize) -> Vec<u8> {
        let answer = self.ask(&format!("read {at:#x} {len:#x}"));
        let digits = answer.strip_prefix("0x").expect("bytes");
        let byte = |n| u8::from_str_radix(&digits[n..n + 2], 16).expect("a byte");
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.ask(&format!("write {at:#x} {:#x} 0x{hex}", bytes.len()));
    }
}

/// What both say, if the peer is here.
pub(crate) fn both<T>(args: &str, f: impl Fn(&mut Emulator) -> T) -> Option<(T, T)> {
    let mut theirs = Emulator::start(PEER, args)?;
    let theirs = f(&mut theirs);
    let mut ours = Emulator::start(OURS, args).expect("our program");
    Some((f(&mut ours), theirs))
}
