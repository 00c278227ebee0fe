//! A QMP session against transcripts of QEMU 10.0.2, and the human monitor.

use std::sync::Arc;

use chardev::Chardevs;
use device::CharPort;
use evloop::{Clock, EventLoop};
use monitor::{Hmp, Qmp};
use testbench::FakeChar;
use vmm::{
    Actions, Config, Listing, Machine, NoExecution, RebootAction, Requests, ShutdownAction, Vm,
};

struct Desk {
    vm: Arc<Vm>,
    char: Arc<FakeChar>,
    port: CharPort,
    _loop: EventLoop,
}

fn desk(config: Config) -> Desk {
    let event_loop = EventLoop::new().expect("a loop");
    let handle = event_loop.handle();
    let requests = Requests::new(handle.clone());
    let chardevs = Arc::new(Chardevs::new(handle.clone(), requests.clone()));
    let listing = Listing { target: "aarch64", ..Listing::default() };
    let vm = Vm::new(config, listing, (chardevs, Arc::default()), Clock::guest(), handle, requests);
    vm.set_human(Box::new(|vm, line| monitor::run_line(vm, line).replace('\n', "\r\n")));
    vm.set_machine(Machine::none(), Arc::new(NoExecution));
    let char = Arc::new(FakeChar::default());
    let port = CharPort::new(char.clone());
    Desk { vm, char, port, _loop: event_loop }
}

/// What came out since the last time, with the time of events cut out.
fn sent(char: &FakeChar) -> String {
    let text = String::from_utf8(char.sent()).expect("text");
    let mut out = String::new();
    for line in text.split_inclusive("\r\n") {
        match line.split_once("}, \"event\"") {
            Some((_, rest)) if line.starts_with("{\"timestamp\"") => {
                out.push_str("{\"event\"");
                out.push_str(rest);
            }
            _ => out.push_str(line),
        }
    }
    out
}

fn error(desc: &str) -> String {
    format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{desc}\"}}}}\r\n")
}

fn not_found(desc: &str) -> String {
    error(desc).replace("GenericError", "CommandNotFound")
}

const STATUS: &str = "{\"return\": {\"status\": \"prelaunch\", \"running\": false}}\r\n";

#[test]
fn session_answers_as_qemu_does() {
    let desk = desk(Config::default());
    let _session = Qmp::start(&desk.vm, desk.port.clone(), false);
    assert!(sent(&desk.char).starts_with("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, "));
    let ok = "{\"return\": {}}\r\n".to_owned();
    for (line, want) in [
        (
            "{\"execute\":\"query-status\"}",
            not_found("Expecting capabilities negotiation with 'qmp_capabilities'"),
        ),
        ("{\"execute\":\"qmp_capabilities\"}\r", ok.clone()),
        (
            "{\"execute\":\"qmp_capabilities\"}",
            not_found("Capabilities negotiation is already complete, command ignored"),
        ),
        ("{'execute':'query-status'}", STATUS.into()),
        ("{\"execute\":\"query-name\",\"id\":\"x\"}", "{\"return\": {}, \"id\": \"x\"}\r\n".into()),
        ("{\"foo\":1}", error("QMP input member 'foo' is unexpected")),
        ("[1]", error("QMP input must be a JSON object")),
        ("{}", error("QMP input lacks member 'execute'")),
        (
            "{\"execute\":\"query-status\",\"arguments\":{\"zz\":1}}",
            error("Parameter 'zz' is unexpected"),
        ),
        (
            "{\"execute\":\"query-status\",\"arguments\":3}",
            error("QMP input member 'arguments' must be an object"),
        ),
        ("{\"execute\":\"nope\"}", not_found("The command nope has not been found")),
        ("{\"exec-oob\":\"query-status\"}", error("QMP input member 'exec-oob' is unexpected")),
        (
            "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"foo\"}}",
            "{\"return\": \"unknown command: 'foo'\\r\\n\"}\r\n".into(),
        ),
        ("{\"execute\":\"cont\"}", format!("{{\"event\": \"RESUME\"}}\r\n{ok}")),
        ("{\"execute\":\"cont\"}", ok.clone()),
        ("{\"execute\":\"stop\"}", format!("{{\"event\": \"STOP\"}}\r\n{ok}")),
        (
            "{\"execute\":\"system_reset\"}",
            format!(
                "{{\"event\": \"RESET\", \"data\": {{\"guest\": false, \"reason\": \
                 \"host-qmp-system-reset\"}}}}\r\n{ok}"
            ),
        ),
        ("{\"execute\":\"query-status\"}", STATUS.into()),
        ("{\"execute\":\"system_powerdown\"}", format!("{{\"event\": \"POWERDOWN\"}}\r\n{ok}")),
        (
            "{\"execute\":\"quit\"}",
            format!(
                "{{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": false, \"reason\": \
                 \"host-qmp-quit\"}}}}\r\n{ok}"
            ),
        ),
    ] {
        desk.char.type_in(format!("{line}\n").as_bytes());
        let got = sent(&desk.char);
        assert_eq!(got, want, "{line}");
    }
    assert!(desk.vm.exit().is_some());
}

#[test]
fn every_listed_command_describes_itself() {
    let desk = desk(Config::default());
    let commands = vmm::commands::execute(&desk.vm, "query-commands", qapi::Value::empty());
    let commands = commands.expect("works");
    let schema = vmm::commands::execute(&desk.vm, "query-qmp-schema", qapi::Value::empty());
    let schema = schema.expect("works");
    let names: Vec<_> =
        schema.as_list().unwrap_or(&[]).iter().filter_map(|e| e.get("name")).collect();
    for command in commands.as_list().unwrap_or(&[]) {
        assert!(names.contains(&command.get("name").expect("a name")), "{command:?}");
    }
    for (at, name) in names.iter().enumerate() {
        assert!(!names[..at].contains(name), "{name:?} is there twice");
    }
}

#[test]
fn no_shutdown_stops_and_wants_a_reset() {
    let desk = desk(Config {
        actions: Actions { shutdown: ShutdownAction::Pause, ..Actions::default() },
        ..Config::default()
    });
    desk.vm.cont().expect("starts");
    desk.vm.request(device::Request::Shutdown(device::Cause::GuestShutdown));
    desk.vm.process_requests();
    assert_eq!(desk.vm.state(), vmm::RunState::Shutdown);
    assert!(desk.vm.exit().is_none());
    let error = desk.vm.cont().expect_err("needs a reset");
    assert_eq!(error.desc, "Resetting the Virtual Machine is required");
    desk.vm.reset(device::Cause::HostQmpSystemReset);
    assert!(desk.vm.cont().is_ok());
}

#[test]
fn no_reboot_makes_a_reset_the_end() {
    let desk = desk(Config {
        actions: Actions { reboot: RebootAction::Shutdown, ..Actions::default() },
        ..Config::default()
    });
    desk.vm.request(device::Request::Reset(device::Cause::GuestReset));
    desk.vm.process_requests();
    assert_eq!(desk.vm.exit().map(|exit| exit.cause), Some(device::Cause::GuestReset));
}

#[test]
fn human_monitor_greets_echoes_and_answers() {
    let desk = desk(Config { name: Some("foo".into()), ..Config::default() });
    let _session = Hmp::start(&desk.vm, desk.port.clone(), false);
    // The prompt comes with the main loop, or before the first letter.
    assert!(sent(&desk.char).ends_with("type 'help' for more information\r\n"));
    desk.char.type_in(b"info name\r");
    assert_eq!(sent(&desk.char), "(qemu) info name\r\nfoo\r\n(qemu) ");
    desk.char.type_in(b"info status x\r");
    assert!(sent(&desk.char).contains("extraneous characters at the end of line\r\n"));
    desk.char.type_in(b"chardev-add null\r");
    assert!(sent(&desk.char).contains("Error: chardev: no id specified\r\n"));
    desk.char.type_in(b"q\r");
    assert_eq!(sent(&desk.char), "q\r\n");
    assert!(desk.vm.exit().is_some());
}

#[test]
fn every_human_command_is_in_the_help() {
    let desk = desk(Config::default());
    let help = monitor::run_line(&desk.vm, "help");
    for command in monitor::COMMANDS {
        assert!(help.contains(command.help), "{}", command.name);
        let first = command.name.split('|').next().unwrap_or_default();
        assert!(monitor::run_line(&desk.vm, &format!("help {first}")).contains("--"), "{first}");
    }
}
