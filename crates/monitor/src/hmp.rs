//! The human monitor: its commands and its session.

use std::sync::{Arc, Weak};

use device::{CharEvent, CharPort, CharReceiver};
use parking_lot::Mutex;
use qapi::{Value, keyval::Dialect};
use vmm::{Vm, commands::execute};

use crate::complete::{Completion, complete};
use crate::output::Output;
use crate::{
    dump,
    editor::{Edit, Editor},
    info, network, objects,
};

const PROMPT: &str = "(qemu) ";

/// A command of the human monitor.
pub struct HumanCommand {
    /// Name, and other names behind `|`.
    pub name: &'static str,
    /// Arguments as the help shows them; empty: takes none.
    pub args: &'static str,
    /// One line.
    pub help: &'static str,
    /// Carries it out on what follows the name.
    pub run: fn(&Arc<Vm>, &str) -> String,
}

impl HumanCommand {
    /// Whether a word names this command.
    pub fn is(&self, word: &str) -> bool {
        self.name.split('|').any(|name| name == word)
    }

    /// All its names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.name.split('|')
    }

    fn help_line(&self) -> String {
        format!("{} {} -- {}\n", self.name, self.args, self.help)
    }
}

macro_rules! command {
    ($name:literal, $args:literal, $help:literal, $run:expr) => {
        HumanCommand { name: $name, args: $args, help: $help, run: $run }
    };
}

/// All commands, sorted.
pub static COMMANDS: &[HumanCommand] = &[
    command!(
        "announce_self",
        "[interfaces] [id]",
        "Trigger GARP/RARP announcements",
        network::announce
    ),
    command!(
        "balloon",
        "target",
        "request VM to change its memory allocation (in MB)",
        objects::balloon
    ),
    command!(
        "block_job_cancel",
        "[-f] device",
        "stop an active background block operation (use -f\n\t\t\t if you want to abort the operation immediately\n\t\t\t instead of keep running until data is in sync)",
        crate::block::job_cancel
    ),
    command!(
        "block_job_complete",
        "device",
        "stop an active background block operation",
        |vm, words| crate::block::job(vm, "block-job-complete", words)
    ),
    command!(
        "block_job_pause",
        "device",
        "pause an active background block operation",
        |vm, words| crate::block::job(vm, "block-job-pause", words)
    ),
    command!(
        "block_job_resume",
        "device",
        "resume a paused background block operation",
        |vm, words| crate::block::job(vm, "block-job-resume", words)
    ),
    command!(
        "block_job_set_speed",
        "device speed",
        "set maximum speed for a background block operation",
        crate::block::job_speed
    ),
    command!("block_resize", "device size", "resize a block image", crate::block::resize),
    command!(
        "block_set_io_throttle",
        "device bps bps_rd bps_wr iops iops_rd iops_wr",
        "change I/O throttle limits for a block drive",
        crate::block::limit
    ),
    command!(
        "block_stream",
        "device [speed [base]]",
        "copy data from a backing file into a block device",
        crate::block::stream
    ),
    command!(
        "change",
        "device [-f] filename [format]",
        "change a removable medium, optional format",
        crate::block::change
    ),
    command!("chardev-add", "args", "add chardev", chardev_add),
    command!("chardev-remove", "id", "remove chardev", |vm, id| {
        one(vm, "chardev-remove", "id", id)
    }),
    command!("chardev-send-break", "id", "send a break on chardev", |vm, id| {
        one(vm, "chardev-send-break", "id", id)
    }),
    command!(
        "closefd",
        "name",
        "close a file descriptor previously passed via SCM rights",
        |vm, n| { one(vm, "closefd", "fdname", n) }
    ),
    command!(
        "commit",
        "device|all",
        "commit changes to the disk images (if -snapshot is used) or backing files",
        crate::block::commit
    ),
    command!("cont|c", "", "resume emulation", |vm, _| plain(vm, "cont")),
    command!("delvm", "tag", "delete a VM snapshot from its tag", crate::snapshots::delete),
    command!(
        "device_add",
        "driver[,prop=value][,...]",
        "add device, like -device on the command line",
        device_add
    ),
    command!("device_del", "device", "remove device", |vm, id| one(vm, "device_del", "id", id)),
    command!("dumpdtb", "filename", "dump the FDT in dtb format to 'filename'", |vm, name| {
        one(vm, "dumpdtb", "filename", name)
    }),
    command!(
        "eject",
        "[-f] device",
        "eject a removable medium (use -f to force it)",
        crate::block::eject
    ),
    command!(
        "getfd",
        "getfd name",
        "receive a file descriptor via SCM rights and assign it a name",
        |vm, name| one(vm, "getfd", "fdname", name)
    ),
    command!("help|?", "[cmd]", "show the help", |_, topic| help(topic)),
    command!(
        "hostfwd_add",
        "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
        "redirect TCP or UDP connections from host to guest (requires -net user)",
        network::add_forward
    ),
    command!(
        "hostfwd_remove",
        "[netdev_id] [tcp|udp]:[hostaddr]:hostport",
        "remove host-to-guest TCP or UDP redirection",
        network::remove_forward
    ),
    command!("info", "[subcommand]", "show various information about the system state", info::run),
    command!("loadvm", "tag", "restore a VM snapshot from its tag", crate::snapshots::load),
    command!("log", "item1[,...]", "activate logging of the specified items", objects::log),
    command!("logfile", "filename", "output logs to 'filename'", objects::logfile),
    command!(
        "memsave",
        "addr size file",
        "save to disk virtual memory dump starting at 'addr' of size 'size'",
        |vm, text| objects::save_memory(vm, "memsave", text)
    ),
    command!(
        "netdev_add",
        "type,id=str[,prop=value][,...]",
        "add host network device",
        network::add
    ),
    command!("netdev_del", "id", "remove host network device", |vm, id| {
        one(vm, "netdev_del", "id", id)
    }),
    command!("nmi", "", "inject an NMI", |vm, _| plain(vm, "inject-nmi")),
    command!(
        "object_add",
        "[qom-type=]type,id=str[,prop=value][,...]",
        "create QOM object",
        objects::object_add
    ),
    command!("object_del", "id", "destroy QOM object", |vm, id| one(vm, "object-del", "id", id)),
    command!(
        "pmemsave",
        "addr size file",
        "save to disk physical memory dump starting at 'addr' of size 'size'",
        |vm, text| objects::save_memory(vm, "pmemsave", text)
    ),
    command!("print|p", "/fmt expr", "print expression value (no registers)", objects::print),
    command!(
        "qemu-io",
        "[-d] [device] \"[command]\"",
        "run a qemu-io command on a block device\n\t\t\t-d: [device] is a device ID rather than a drive ID or node name",
        crate::block::io
    ),
    command!("qom-get", "path property", "print QOM property", objects::qom_get),
    command!("qom-list", "[path]", "list QOM properties", objects::qom_list),
    command!("qom-set", "path property value", "set QOM property", objects::qom_set),
    command!("quit|q", "", "quit the emulator", |vm, _| plain(vm, "quit")),
    command!(
        "ringbuf_read",
        "device size",
        "Read from a ring buffer character device",
        objects::ringbuf_read
    ),
    command!(
        "ringbuf_write",
        "device data",
        "Write to a ring buffer character device",
        objects::ringbuf_write
    ),
    command!(
        "savevm",
        "[tag]",
        "save a VM snapshot. If no tag is provided, a new snapshot is created",
        crate::snapshots::save
    ),
    command!(
        "set_link",
        "name on|off",
        "change the link status of a network adapter",
        network::set_link
    ),
    command!(
        "snapshot_blkdev",
        "[-n] device [new-image-file] [format]",
        "initiates a live snapshot\n\t\t\tof device. If a new image file is specified, the\n\t\t\tnew image file will become the new root image.\n\t\t\tIf format is specified, the snapshot file will\n\t\t\tbe created in that format.\n\t\t\tThe default format is qcow2.  The -n flag requests QEMU\n\t\t\tto reuse the image found in new-image-file, instead of\n\t\t\trecreating it from scratch.",
        crate::block::snapshot
    ),
    command!(
        "snapshot_blkdev_internal",
        "device name",
        "take an internal snapshot of device.\n\t\t\tThe format of the image used by device must\n\t\t\tsupport it, such as qcow2.\n\t\t\t",
        crate::block::snapshot_internal
    ),
    command!(
        "snapshot_delete_blkdev_internal",
        "device name [id]",
        "delete an internal snapshot of device.\n\t\t\tIf id is specified, qemu will try delete\n\t\t\tthe snapshot matching both id and name.\n\t\t\tThe format of the image used by device must\n\t\t\tsupport it, such as qcow2.\n\t\t\t",
        crate::block::snapshot_delete
    ),
    command!("stop|s", "", "stop emulation", |vm, _| plain(vm, "stop")),
    command!("sum", "addr size", "compute the checksum of a memory region", objects::sum),
    command!("system_powerdown", "", "send system power down event", |vm, _| {
        plain(vm, "system_powerdown")
    }),
    command!("system_reset", "", "reset the system", |vm, _| plain(vm, "system_reset")),
    command!("system_wakeup", "", "wakeup guest from suspend", |vm, _| plain(vm, "system_wakeup")),
    command!(
        "watchdog_action",
        "[reset|shutdown|poweroff|pause|debug|none|inject-nmi]",
        "change watchdog action",
        |vm, action| one(vm, "watchdog-set-action", "action", action)
    ),
    command!("x", "/fmt addr", "virtual memory dump starting at 'addr'", |vm, text| {
        dump::dump(vm, text, dump::Space::Virtual)
    }),
    command!("xp", "/fmt addr", "physical memory dump starting at 'addr'", |vm, text| {
        dump::dump(vm, text, dump::Space::Physical)
    }),
];

fn plain(vm: &Arc<Vm>, command: &str) -> String {
    outcome(execute(vm, command, Value::empty()))
}

fn one(vm: &Arc<Vm>, command: &str, name: &str, value: &str) -> String {
    outcome(execute(vm, command, Value::map([(name, Value::from(value))])))
}

pub(crate) fn outcome(result: qapi::Result<Value>) -> String {
    match result {
        Ok(_) => String::new(),
        Err(error) => {
            let hint = error.hint.map(|hint| format!("{hint}\n")).unwrap_or_default();
            format!("Error: {}\n{hint}", error.desc)
        }
    }
}

fn device_add(vm: &Arc<Vm>, text: &str) -> String {
    match Dialect::flat(Some("driver")).parse(text) {
        Ok(parsed) => outcome(execute(vm, "device_add", parsed.value)),
        Err(error) => outcome(Err(error)),
    }
}

fn chardev_add(vm: &Arc<Vm>, text: &str) -> String {
    let added = Dialect::flat(Some("backend")).parse(text).and_then(|mut parsed| {
        let word = |value: Option<Value>| match value {
            Some(Value::Str(text)) => Some(text),
            _ => None,
        };
        let kind = word(parsed.value.take("backend"));
        let id = word(parsed.value.take("id"));
        let kind = kind.ok_or_else(|| qapi::Error::missing("backend"))?;
        let id = id.ok_or_else(|| qapi::Error::generic("chardev: no id specified"))?;
        vm.chardevs.add(&id, &kind, parsed.value, qapi::Source::KeyVal, false)
    });
    outcome(added.map(|()| Value::Null))
}

fn help(topic: &str) -> String {
    let (word, rest) = split_line(topic);
    match word {
        "" => COMMANDS.iter().map(HumanCommand::help_line).collect(),
        "info" if !rest.is_empty() => info::help(rest),
        "info" => info::help_all(),
        word => match COMMANDS.iter().find(|command| command.is(word)) {
            Some(command) => command.help_line(),
            None => format!("unknown command: '{topic}'\n"),
        },
    }
}

/// The first word of a line and what follows it.
pub fn split_line(line: &str) -> (&str, &str) {
    let line = line.trim();
    match line.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (line, ""),
    }
}

/// The command's name, which ends at a format too (`x/4i`), and what follows it.
fn command_of(line: &str) -> (&str, &str) {
    let (word, rest) = split_line(line);
    match word.find('/').filter(|at| *at > 0) {
        Some(at) => {
            let (name, format) = line.trim().split_at(at);
            (name, format)
        }
        None => (word, rest),
    }
}

/// Runs a line and gives its output, with `\n` at the end of each line.
pub fn run_line(vm: &Arc<Vm>, line: &str) -> String {
    let (word, rest) = command_of(line);
    if word.is_empty() || word.starts_with('#') {
        return String::new();
    }
    let Some(command) = COMMANDS.iter().find(|command| command.is(word)) else {
        return format!("unknown command: '{word}'\n");
    };
    let first = command.name.split('|').next().unwrap_or_default();
    let hint = format!("Try \"help {first}\" for more information\n");
    if command.args.is_empty() && !rest.is_empty() {
        return format!("{}: extraneous characters at the end of line\n{hint}", command.name);
    }
    if !command.args.is_empty() && !command.args.starts_with('[') && rest.is_empty() {
        return format!("{}: string expected\n{hint}", command.name);
    }
    let output = (command.run)(vm, rest);
    vm.process_requests();
    output
}

struct State {
    editor: Editor,
    greeted: bool,
    muted: bool,
    /// The prompt of the greeting waits for the main loop.
    prompt_due: bool,
}

/// A session of the human monitor.
pub struct Hmp {
    vm: Weak<Vm>,
    output: Output,
    state: Mutex<State>,
    me: Weak<Hmp>,
}

impl Hmp {
    /// Starts a session. On a multiplexer it is silent until it gets the focus.
    pub fn start(vm: &Arc<Vm>, port: CharPort, on_mux: bool) -> Arc<Self> {
        let editor = Editor::default();
        let state = State { editor, greeted: false, muted: on_mux, prompt_due: false };
        let session = Arc::new_cyclic(|me| Self {
            vm: Arc::downgrade(vm),
            output: Output::new(port),
            state: Mutex::new(state),
            me: me.clone(),
        });
        let receiver: Arc<dyn CharReceiver> = session.clone();
        session.output.port().on_receive(Arc::downgrade(&receiver));
        if !on_mux && session.output.port().is_open() {
            session.opened();
        }
        session
    }

    fn opened(&self) {
        let text = {
            let mut state = self.state.lock();
            if state.muted {
                return;
            }
            let first = !std::mem::replace(&mut state.greeted, true);
            if first {
                state.prompt_due = true;
                "QEMU 10.0.2 monitor - type 'help' for more information\n".to_owned()
            } else {
                format!("\n{PROMPT}{}", state.editor.pending())
            }
        };
        self.print(&text);
        // What a start that fails has to say comes before the prompt.
        if let Some(vm) = self.vm.upgrade() {
            let me = self.me.clone();
            vm.handle.call(Box::new(move || {
                if let Some(session) = me.upgrade() {
                    session.first_prompt();
                }
            }));
        }
    }

    fn first_prompt(&self) {
        if std::mem::take(&mut self.state.lock().prompt_due) {
            self.print(PROMPT);
        }
    }

    fn complete(&self, vm: &Arc<Vm>, text: &str) {
        match complete(vm, text) {
            Completion::Nothing => {}
            Completion::Add(more) => {
                let edit = self.state.lock().editor.insert(&more);
                if let Edit::Echo(text) = edit {
                    self.print(&text);
                }
            }
            Completion::Choices(words) => {
                let pending = self.state.lock().editor.pending();
                self.print(&format!("\n{}\n{PROMPT}{pending}", words.join(" ")));
            }
        }
    }

    fn print(&self, text: &str) {
        self.output.send(text.replace('\n', "\r\n").as_bytes());
    }
}

impl CharReceiver for Hmp {
    fn room(&self) -> usize {
        if self.output.is_stuck() { 0 } else { 256 }
    }

    fn receive(&self, data: &[u8]) {
        let Some(vm) = self.vm.upgrade() else { return };
        self.first_prompt();
        for byte in data {
            let edit = self.state.lock().editor.feed(*byte);
            match edit {
                Edit::None => {}
                Edit::Echo(text) => self.print(&text),
                Edit::Complete(text) => self.complete(&vm, &text),
                Edit::Line(line) if line.trim() == "info history" => {
                    let history: Vec<String> = self.state.lock().editor.history().collect();
                    let line = |(at, line): (usize, &String)| format!("{at}: '{line}'\n");
                    let text: String = history.iter().enumerate().map(line).collect();
                    self.print(&format!("\n{text}{PROMPT}"));
                }
                Edit::Line(line) => {
                    self.print("\n");
                    let output = run_line(&vm, &line);
                    self.print(&output);
                    if vm.exit().is_none() {
                        self.print(PROMPT);
                    }
                }
            }
        }
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => {
                self.state.lock().greeted = false;
                self.opened();
            }
            CharEvent::FocusIn => {
                self.state.lock().muted = false;
                self.opened();
            }
            CharEvent::FocusOut => self.state.lock().muted = true,
            CharEvent::Closed => self.output.clear(),
            CharEvent::Writable if self.output.writable() => self.output.port().accept_input(),
            CharEvent::Writable | CharEvent::Break => {}
        }
    }
}
