//! Replies and events of storage commands, compared with those of an installed QEMU.
//!
//! The commands are `tests/files/qmp/block-commands.txt`. Each machine runs in a folder of its own
//! with images that the peer's tool made. What depends on time or place is taken out before the
//! comparison. Without a peer nothing is compared, and that is said.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use qapi::Value;

const COMMANDS: &str = include_str!("../../../tests/files/qmp/block-commands.txt");

struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Events since the last one that was waited for.
    events: Vec<Value>,
    /// The last state of a job that was told.
    state: String,
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    let mut now = value;
    for name in path {
        let Some(next) = now.get(name) else { return "" };
        now = next;
    }
    now.as_str().unwrap_or("")
}

/// Takes out what depends on time and place, and sorts members.
fn plain(value: &Value) -> Value {
    match value {
        Value::Str(text) => {
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some((head, tail)) = rest.split_once("#block") {
                out.push_str(head);
                out.push_str("#node");
                rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
            }
            out.push_str(rest);
            Value::from(out.as_str())
        }
        Value::List(all) => Value::List(all.iter().map(plain).collect()),
        Value::Map(members) => {
            const OUT: &[&str] = &[
                "timestamp",
                "actual-size",
                "busy",
                "date-sec",
                "date-nsec",
                "vm-clock-sec",
                "vm-clock-nsec",
                "icount",
                "dirty-bitmaps",
            ];
            let mut kept: Vec<(String, Value)> = members
                .iter()
                .filter(|(name, _)| !OUT.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), plain(value)))
                .collect();
            kept.sort_by(|a, b| a.0.cmp(&b.0));
            Value::map(kept)
        }
        other => other.clone(),
    }
}

impl Session {
    fn start(program: &Path, first: &[&str], args: &str, dir: &Path) -> Session {
        let mut command = Command::new(program);
        command.args(first).args(["-M", "none", "-nodefaults", "-display", "none"]);
        command.args(["-qmp", "stdio"]).args(args.split_whitespace()).current_dir(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut session =
            Session { child, input, output, events: Vec::new(), state: String::new() };
        assert!(session.read().get("QMP").is_some());
        session.run("qmp_capabilities", "{}");
        session
    }

    /// The next message; other lines are what is told of new images.
    fn read(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let got = self.output.read_line(&mut line).expect("readable");
            assert!(got > 0, "it ended");
            if let Ok(value) = qapi::json::from_str(line.trim_end()) {
                return value;
            }
        }
    }

    fn event(&mut self, value: &Value) {
        if text(value, &["event"]) == "JOB_STATUS_CHANGE" {
            self.state = text(value, &["data", "status"]).to_owned();
        }
        // Drained sections pause jobs at the peer.
        if !["paused", "running", "standby"].contains(&text(value, &["data", "status"])) {
            self.events.push(plain(value));
        }
    }

    fn run(&mut self, command: &str, args: &str) -> Value {
        writeln!(self.input, r#"{{"execute": "{command}", "arguments": {args}}}"#)
            .expect("listens");
        loop {
            let value = self.read();
            if value.get("event").is_none() {
                return plain(&value);
            }
            self.event(&value);
        }
    }

    /// Waits for an event (and state), and gives all since the last that was waited for.
    fn wait(&mut self, name: &str, state: &str, job: &str) -> Vec<Value> {
        let is = |value: &Value| {
            text(value, &["event"]) == name
                && (state.is_empty() || text(value, &["data", "status"]) == state)
                && (job.is_empty() || text(value, &["data", "id"]) == job)
        };
        // States of pauses are not kept, but the job must have come to it: else it could go on
        // without having stopped.
        if ["paused", "standby"].contains(&state) {
            while self.state != state {
                let value = self.read();
                self.event(&value);
            }
            return Vec::new();
        }
        while !self.events.iter().any(is) {
            let value = self.read();
            self.event(&value);
        }
        let end = self.events.iter().position(is).unwrap_or(0);
        self.events.drain(..=end).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The peer's emulator and image tool.
fn peer() -> Option<(PathBuf, PathBuf)> {
    let emulator = on_path("qemu-system-aarch64")?;
    let version = Command::new(&emulator).arg("--version").output().ok()?.stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    if !version.contains("version 10.0") || version.contains("Tinamou") {
        return None;
    }
    Some((emulator, on_path("qemu-img")?))
}

/// A folder with the images.
fn images(tool: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("data"), vec![7; 1 << 20]).expect("space");
    for args in [
        "convert -f raw -O qcow2 data base",
        "create -q -f qcow2 -b base -F qcow2 mid",
        "create -q -f qcow2 -b mid -F qcow2 top",
        "create -q -f qcow2 other 4M",
        "create -q -f raw raw 4M",
    ] {
        let status = Command::new(tool).args(args.split(' ')).current_dir(dir.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "{args}");
    }
    dir
}

#[test]
fn storage_commands_are_answered_in_the_words_of_the_peer() {
    let Some((emulator, tool)) = peer() else {
        println!("NOT RUN: there is no QEMU 10.0 with its image tool");
        return;
    };
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_tinamou"));
    let mut both: Option<(Session, Session, tempfile::TempDir, tempfile::TempDir)> = None;
    let (mut differs, mut count, mut wrong) = (false, 0, Vec::new());
    for line in COMMANDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(args) = line.strip_prefix('[') {
            let dirs = (images(&tool), images(&tool));
            let one = Session::start(&emulator, &[], args, dirs.0.path());
            let two = Session::start(&ours, &["system", "aarch64"], args, dirs.1.path());
            both = Some((one, two, dirs.0, dirs.1));
            continue;
        }
        let (theirs, ours, ..) = both.as_mut().expect("a machine comes first");
        if line.starts_with('~') {
            differs = true;
            continue;
        }
        count += 1;
        let (want, got) = if let Some(wait) = line.strip_prefix("! ") {
            let mut words = wait.split(' ');
            let mut word = || words.next().unwrap_or("");
            let (name, state, job) = (word(), word(), word());
            (Value::List(theirs.wait(name, state, job)), Value::List(ours.wait(name, state, job)))
        } else {
            let (command, args) = line.split_once(' ').unwrap_or((line, "{}"));
            (theirs.run(command, args), ours.run(command, args))
        };
        if (want != got) != differs {
            let json = qapi::json::to_string;
            wrong.push(format!("{line}\n  peer: {}\n  ours: {}", json(&want), json(&got)));
        }
        differs = false;
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
