//! From the command line to the main loop.

use std::{path::Path, sync::Arc};

use accel::GuestArch;
use accel_qtest::{Irqs, Server, Session};
use chardev::Chardevs;
use device::{Cause, CharSource as _, Global, Globals, Request};
use evloop::{Clock, EventLoop, Handle, Readiness};
use gdbstub::Stub;
use host::{Signal, SignalWatch};
use monitor::{Hmp, Qmp};
use qapi::{Source, Value, keyval::Dialect};
use vmm::{Config, Fds, Requests, Vm};

use crate::{
    board,
    daemon::{self, PidFile},
    defaults,
    fail::{self, At as _, Step, Stop},
    help,
    listing::{listing, usable_accels},
    network, options,
    settings::{MonitorKind, Placed, Settings},
};

/// Things that work as long as they are kept.
#[derive(Default)]
struct Kept {
    qmp: Vec<Arc<Qmp>>,
    hmp: Vec<Arc<Hmp>>,
    gdb: Vec<Arc<Stub>>,
    qtest: Vec<Arc<Server>>,
    /// Monitors behind a multiplexer come last, so that the serial port has the focus first.
    late: Vec<(Placed, MonitorKind)>,
}

/// Runs the program.
pub(crate) fn start(program: &str, guest: &'static dyn GuestArch, args: &[String]) -> Step<()> {
    let given = options::read(args)?;
    let listing = listing(guest);
    let mut settings = Settings::of(&given)?;
    fail::set_timestamps(settings.timestamps);
    help::answer(program, &given, &settings, guest, &listing)?;
    daemon::detach(&settings)?;
    log(&settings)?;
    let machine = choose_machine(&settings, &listing)?;
    let accel = choose_accel(&settings, guest)?;
    defaults::add(&mut settings);
    // Before any thread starts, so that all of them block the signals.
    let signals =
        SignalWatch::new(&[Signal::Interrupt, Signal::Terminate, Signal::Hangup, Signal::Continue]);
    let signals = signals.map_err(|error| Stop::new(format!("cannot watch signals: {error}")))?;
    let mut event_loop = EventLoop::new()
        .map_err(|error| Stop::new(format!("cannot make the main loop: {error}")))?;
    let handle = event_loop.handle();
    let requests = Requests::new(handle.clone());
    let mut chardevs = Chardevs::new(handle.clone(), requests.clone());
    let fds = Arc::new(Fds::default());
    let named = fds.clone();
    chardevs.set_fds(Arc::new(move |name| named.take(name)));
    let clock = match (accel.as_str(), settings.icount.shift) {
        ("qtest", _) => Clock::manual(),
        (_, Some(_)) => Clock::counted(),
        _ => Clock::guest(),
    };
    handle.serve_clock(&clock);
    let config = Config {
        name: settings.name.clone(),
        uuid: settings.uuid,
        actions: settings.actions,
        accel,
    };
    let vm = Vm::new(config, listing, (Arc::new(chardevs), fds), clock, handle.clone(), requests);
    vm.set_human(Box::new(|vm, line| monitor::run_line(vm, line).replace('\n', "\r\n")));
    let _watch = watch_signals(program, &vm, &handle, signals)?;
    let _pid_file = PidFile::write(&settings)?;
    let globals = globals(&settings)?;
    vm.services.add(globals.clone());
    let kept = create(program, &vm, &settings, &machine)?;
    warn_of_globals(program, &vm, &globals);
    vm.set_ready();
    if let Some(tag) = &settings.loadvm {
        let disks = vmm::snapshot::Disks::all(&vm)?;
        vmm::snapshot::load(&vm, &disks, &tag.value)?;
    }
    daemon::ready(&settings)?;
    if !settings.stopped {
        vm.cont().at("-S")?;
    }
    let result = if vm.exit().is_none() { event_loop.run() } else { Ok(()) };
    vm.execution().shut_down();
    if let Some(graph) = vm.services.find::<Arc<block::Graph>>() {
        let _still = graph.drain();
        graph.flush_all();
        // What fails is told on the error stream, and changes no status, as at the peer.
        _ = graph.close_all();
    }
    drop(kept);
    result.map_err(|error| Stop::new(format!("the main loop failed: {error}")))?;
    match vm.exit().map_or(0, |exit| exit.status) {
        0 => Ok(()),
        status => Err(Stop::Ended(status)),
    }
}

fn log(settings: &Settings) -> Step<()> {
    if let Some(file) = &settings.log_file {
        trace::set_file(Some(Path::new(&file.value))).map_err(|error| {
            Stop::at(&file.place, format!("could not open '{}': {error}", file.value))
        })?;
    }
    if let Some(ranges) = &settings.log_filter {
        let parsed = trace::parse_filter(&ranges.value);
        trace::set_filter(parsed.map_err(|text| Stop::at(&ranges.place, text))?);
    }
    if let Some(items) = &settings.log_items {
        let mask = trace::parse_items(&items.value).map_err(|text| {
            Stop::at(&items.place, text).hint("Use -d help to list the log items.")
        })?;
        trace::set_mask(mask);
    }
    Ok(())
}

fn choose_machine(settings: &Settings, listing: &vmm::Listing) -> Step<String> {
    let hint = "Use -machine help to list supported machines";
    let Some(machine) = &settings.machine else {
        return Err(Stop::new("No machine specified, and there is no default").hint(hint));
    };
    let wanted = &machine.value;
    let found = listing.machine(wanted);
    let unknown = || Stop::new(format!("unsupported machine type: \"{wanted}\"")).hint(hint);
    Ok(found.ok_or_else(unknown)?.name.clone())
}

/// The first accelerator of the list that can run here.
fn choose_accel(settings: &Settings, guest: &'static dyn GuestArch) -> Step<String> {
    if settings.accels.is_empty() {
        if settings.qtest.is_some() {
            return Ok("qtest".into());
        }
        let first = usable_accels(guest).map(|accel| accel.name()).find(|name| *name != "qtest");
        return Ok(first.unwrap_or("none").into());
    }
    let mut last = Stop::new("no accelerator found");
    for wanted in &settings.accels {
        match catalog::ACCELS.iter().find(|accel| accel.name() == wanted.name) {
            None => {
                let names: Vec<_> = usable_accels(guest).map(|accel| accel.name()).collect();
                last = Stop::at(&wanted.place, format!("invalid accelerator {}", wanted.name))
                    .hint(format!("Accelerators here: {}", names.join(", ")));
            }
            Some(accel) => match accel.usable(guest) {
                Ok(()) => return Ok(wanted.name.clone()),
                Err(why) => {
                    let text = format!("accelerator {} cannot be used: {why}", wanted.name);
                    last = Stop::at(&wanted.place, text);
                }
            },
        }
    }
    Err(last)
}

/// Creates everything in QEMU's order.
fn create(program: &str, vm: &Arc<Vm>, settings: &Settings, machine: &str) -> Step<Kept> {
    let mut kept = Kept::default();
    let plan = network::Plan::of(settings)?;
    for given in &settings.fds {
        let missing = |_| Stop::at(&given.place, "fd is not valid or already in use");
        let fd = host::duplicate_number(given.number).map_err(missing)?;
        let set = (Some(given.set), given.opaque.clone());
        vm.fds.add_fd(fd, set.0, set.1).at(&given.place)?;
    }
    overcommit(settings)?;
    let objects = parse_objects(vm, settings)?;
    for object in objects.iter().filter(|object| object.early) {
        add_object(vm, object)?;
    }
    for chardev in &settings.chardevs {
        add_chardev(vm, chardev)?;
    }
    let mut serials = Vec::new();
    for (number, serial) in settings.serials.iter().enumerate() {
        serials.push(legacy_chardev(vm, &mut kept, &format!("serial{number}"), serial)?);
    }
    let networks = network::table(vm);
    plan.open(&networks)?;
    for object in objects.iter().filter(|object| !object.early) {
        add_object(vm, object)?;
    }
    let drives = crate::drives::open_all(vm, settings)?;
    // As at the peer no monitor greets before networks, objects and drives are known to be right.
    for (number, (monitor, kind)) in settings.monitors.iter().enumerate() {
        let id = format!("compat_monitor{number}");
        if let Some(id) = legacy_chardev(vm, &mut kept, &id, monitor)? {
            add_or_defer_monitor(vm, &mut kept, &id, *kind, &monitor.place)?;
        }
    }
    for mon in &settings.mons {
        let (id, kind) = mon_option(vm, mon)?;
        add_or_defer_monitor(vm, &mut kept, &id, kind, &mon.place)?;
    }
    board::create(program, vm, settings, machine, (serials, drives.flash))?;
    plan.plug(program, vm)?;
    for (late, kind) in std::mem::take(&mut kept.late) {
        add_monitor(vm, &mut kept, &late.value, kind).at(&late.place)?;
    }
    for gdb in &settings.gdb {
        start_gdb(vm, &mut kept, gdb)?;
    }
    if let Some(qtest) = &settings.qtest {
        start_qtest(vm, &mut kept, qtest)?;
    }
    for drive in &drives.virtio {
        let id = drive.value.replace(',', ",,");
        let value = format!("virtio-blk-pci,drive={id}");
        add_device(vm, &Placed { place: drive.place.clone(), value })?;
    }
    for given in &settings.devices {
        add_device(vm, given)?;
    }
    if let Some(machine) = vm.machine() {
        machine.tell_boot_order();
        machine.tell_devices()?;
    }
    network::warn(program, vm, &networks);
    Ok(kept)
}

/// `-overcommit`: locks memory; CPUs are threads that wait in any case.
fn overcommit(settings: &Settings) -> Step<()> {
    if let Some(on_fault) = settings.mem_lock {
        host::lock_memory(on_fault)
            .map_err(|e| Stop::new(format!("mlockall: {}", host::reason(&e))))?;
    }
    Ok(())
}

fn add_chardev(vm: &Vm, given: &Placed) -> Step<()> {
    let parsed = Dialect::flat(Some("backend")).parse(&given.value).at(&given.place)?;
    let mut value = parsed.value;
    let mut word = |name: &str| match value.take(name) {
        Some(Value::Str(text)) => Some(text),
        _ => None,
    };
    let kind = word("backend");
    let id = word("id");
    let mux = word("mux");
    let fail = |text: &str| Stop::at(&given.place, text);
    let kind = kind.ok_or_else(|| fail("chardev: \"\" missing backend"))?;
    let id = id.ok_or_else(|| fail("chardev: no id specified"))?;
    let place = given.place.as_str();
    if !qapi::keyval::is_identifier(&id) {
        return Err(qapi::Error::not_an_identifier()).at(place);
    }
    if vm.chardevs.find(&id).is_some() {
        return Err(qapi::Error::duplicate_id(&id, "chardev")).at(place);
    }
    let class = catalog::CHARDEVS.iter().find(|class| class.name == kind);
    let Some(class) = class else {
        let names: Vec<_> = catalog::CHARDEVS.iter().map(|class| class.name).collect();
        return Err(fail(&format!("'{kind}' is not a valid char driver name"))
            .hint(format!("Character back ends here: {}", names.join(", "))));
    };
    for (name, _) in value.as_map().unwrap_or(&[]) {
        if !(class.args)().has_member(name) {
            return Err(qapi::Error::invalid_parameter(name)).at(place);
        }
    }
    vm.chardevs.add(&id, &kind, value, Source::KeyVal, mux.as_deref() == Some("on")).at(place)
}

/// Makes a character back end from a short form; gives its id, or `None` for `none`.
fn legacy_chardev(vm: &Arc<Vm>, kept: &mut Kept, id: &str, given: &Placed) -> Step<Option<String>> {
    let place = given.place.as_str();
    if let Some(existing) = given.value.strip_prefix("chardev:") {
        if vm.chardevs.find(existing).is_none() {
            return Err(Stop::at(place, format!("chardev \"{existing}\" not found")));
        }
        return Ok(Some(existing.to_owned()));
    }
    let legacy = chardev::legacy(&given.value).at(place)?;
    let Some(kind) = legacy.kind else { return Ok(None) };
    vm.chardevs.add(id, kind, legacy.args, Source::KeyVal, legacy.mux).at(place)?;
    if legacy.monitor {
        let late = Placed { place: place.to_owned(), value: id.to_owned() };
        kept.late.push((late, MonitorKind::Human));
    }
    Ok(Some(id.to_owned()))
}

fn mon_option(vm: &Vm, given: &Placed) -> Step<(String, MonitorKind)> {
    let place = given.place.as_str();
    let value = Dialect::flat(Some("chardev")).parse(&given.value).at(place)?.value;
    let mut id = None;
    let (mut control, mut pretty) = (false, false);
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let text = value.as_str().unwrap_or_default();
        match (key.as_str(), text) {
            ("chardev", id_text) => id = Some(id_text.to_owned()),
            // The monitor's own name, which nothing refers to.
            ("id", name) if qapi::keyval::is_identifier(name) => {}
            ("id", _) => return Err(qapi::Error::expects("id", "an identifier")).at(place),
            ("mode", "readline") => control = false,
            ("mode", "control") => control = true,
            ("mode", other) => {
                let error = qapi::Error::not_accepted("mode", other, ["readline", "control"]);
                return Err(error).at(place);
            }
            ("pretty", "on") => pretty = true,
            ("pretty", "off") => pretty = false,
            ("pretty", _) => return Err(qapi::Error::expects("pretty", "'on' or 'off'")).at(place),
            _ => return Err(qapi::Error::invalid_parameter(key)).at(place),
        }
    }
    let id = id.ok_or_else(|| Stop::at(place, "chardev \"\" not found"))?;
    if vm.chardevs.find(&id).is_none() {
        return Err(Stop::at(place, format!("chardev \"{id}\" not found")));
    }
    Ok((id, if control { MonitorKind::Qmp { pretty } } else { MonitorKind::Human }))
}

fn is_mux(vm: &Vm, id: &str) -> bool {
    vm.chardevs.find(id).is_some_and(|chardev| chardev.mux().is_some())
}

fn add_or_defer_monitor(
    vm: &Arc<Vm>,
    kept: &mut Kept,
    id: &str,
    kind: MonitorKind,
    place: &str,
) -> Step<()> {
    if is_mux(vm, id) {
        kept.late.push((Placed { place: place.to_owned(), value: id.to_owned() }, kind));
        return Ok(());
    }
    add_monitor(vm, kept, id, kind).at(place)
}

fn add_monitor(vm: &Arc<Vm>, kept: &mut Kept, id: &str, kind: MonitorKind) -> qapi::Result<()> {
    let on_mux = is_mux(vm, id);
    let port = vm.chardevs.port(id)?;
    match kind {
        MonitorKind::Human => kept.hmp.push(Hmp::start(vm, port, on_mux)),
        MonitorKind::Qmp { pretty } => kept.qmp.push(Qmp::start(vm, port, pretty)),
    }
    Ok(())
}

/// `-gdb`: a server that waits for nobody, unless a character back end is named.
fn start_gdb(vm: &Arc<Vm>, kept: &mut Kept, given: &Placed) -> Step<()> {
    let place = given.place.as_str();
    if given.value == "none" {
        return Ok(());
    }
    if vm.execution().accel().is_none() {
        return Err(Stop::at(
            place,
            "gdbstub: current accelerator doesn't support guest debugging",
        ));
    }
    let mut given = given.clone();
    if given.value.starts_with("tcp:") && !given.value.contains("server") {
        given.value.push_str(",wait=off,nodelay=on,server=on");
    }
    let id = format!("gdb{}", kept.gdb.len());
    let Some(id) = legacy_chardev(vm, kept, &id, &given)? else { return Ok(()) };
    let port = vm.chardevs.port(&id).at(place)?;
    kept.gdb.push(Stub::start(vm, port));
    Ok(())
}

fn start_qtest(vm: &Arc<Vm>, kept: &mut Kept, given: &Placed) -> Step<()> {
    let Some(id) = legacy_chardev(vm, kept, "qtest", given)? else { return Ok(()) };
    let port = vm.chardevs.port(&id).at(&given.place)?;
    let space = vm.machine().and_then(|machine| machine.spaces.first().cloned());
    let space = space
        .unwrap_or_else(|| memory::AddressSpace::new("memory", &memory::Region::root("system")));
    let weak = Arc::downgrade(vm);
    let irqs: Irqs = Box::new(move |path| {
        let id = path.rsplit('/').next()?;
        let vm = weak.upgrade()?;
        let records = vm.machine()?.devices.all();
        let record = records.iter().find(|r| r.id == id || r.class.name == id)?;
        Some(record.irq_outs.iter().map(|(_, out)| out.clone()).collect())
    });
    kept.qtest.push(Server::start(port, Session::new(space, vm.clock.clone(), irqs)));
    Ok(())
}

/// `-object` as it was given.
struct GivenObject {
    place: String,
    kind: String,
    id: String,
    props: Value,
    source: Source,
    early: bool,
}

fn parse_objects(vm: &Vm, settings: &Settings) -> Step<Vec<GivenObject>> {
    let mut objects: Vec<GivenObject> = Vec::new();
    for given in &settings.objects {
        let place = given.place.as_str();
        let (mut value, source) = if given.value.starts_with('{') {
            (qapi::json::from_str(&given.value).at(place)?, Source::Json)
        } else {
            let parsed = Dialect::structured(Some("qom-type")).parse(&given.value).at(place)?;
            (parsed.value, Source::KeyVal)
        };
        let mut word = |name: &str| match value.take(name) {
            Some(Value::Str(text)) => Ok(text),
            Some(_) => Err(qapi::Error::wrong_type(name, "string")),
            None => Err(qapi::Error::missing(name)),
        };
        let kind = word("qom-type").at(place)?;
        let class = vm.listing.object(&kind);
        if class.is_none() {
            let names = vm.listing.objects.iter().map(|class| class.name);
            return Err(qapi::Error::not_accepted("qom-type", &kind, names)).at(place);
        }
        let id = word("id").at(place)?;
        if settings.mem_prealloc && kind.starts_with("memory-backend-") {
            let known = value.get("prealloc").is_some();
            if !known {
                let on = match source {
                    Source::Json => Value::from(true),
                    Source::KeyVal => Value::from("on"),
                };
                value.set("prealloc", on);
            }
        }
        if objects.iter().any(|object| object.id == id) {
            return Err(qapi::Error::duplicate_id(&id, "object")).at(place);
        }
        let early = class.is_some_and(|class| class.early);
        objects.push(GivenObject { place: place.into(), kind, id, props: value, source, early });
    }
    Ok(objects)
}

fn add_object(vm: &Vm, object: &GivenObject) -> Step<()> {
    let GivenObject { place, kind, id, props, source, .. } = object;
    vmm::commands::add_object(vm, kind, id, props.clone(), *source).at(place)
}

fn globals(settings: &Settings) -> Step<Arc<Globals>> {
    let mut globals = Globals::default();
    for given in &settings.globals {
        // `driver.property=value` has a dot before the first sign of the long form.
        let short = given.value.split_once('=').and_then(|(path, value)| {
            let (driver, property) = path.split_once('.')?;
            Some((driver.to_owned(), property.to_owned(), value.to_owned()))
        });
        let parts = match short {
            Some(parts) => parts,
            None => {
                let value = Dialect::flat(None).parse(&given.value).at(&given.place)?.value;
                let word = |name: &str| {
                    let text = value.get(name).and_then(Value::as_str).map(str::to_owned);
                    text.ok_or_else(|| qapi::Error::missing(name)).at(&given.place)
                };
                let names = ["driver", "property", "value"];
                let other = value.as_map().unwrap_or(&[]).iter();
                if let Some((key, _)) =
                    other.into_iter().find(|(k, _)| !names.contains(&k.as_str()))
                {
                    return Err(qapi::Error::invalid_parameter(key)).at(&given.place);
                }
                (word("driver")?, word("property")?, word("value")?)
            }
        };
        globals.0.push(Global::new(&parts.0, &parts.1, &parts.2));
    }
    Ok(Arc::new(globals))
}

/// Says which defaults name no type of device.
fn warn_of_globals(program: &str, vm: &Vm, globals: &Globals) {
    for global in globals.0.iter().filter(|global| !global.is_used()) {
        let driver = global.driver.as_str();
        if vm.listing.device(driver).is_none() && !driver.ends_with("-device") {
            let name = format!("{driver}.{}", global.property);
            fail::say(&format!("{program}: warning: global {name} has invalid class name\n"));
        }
    }
}

fn add_device(vm: &Vm, given: &Placed) -> Step<()> {
    let value = if given.value.starts_with('{') {
        qapi::json::from_str(&given.value)
    } else {
        Dialect::flat(Some("driver")).parse(&given.value).map(|parsed| parsed.value)
    };
    let value = value.at(&given.place)?;
    vmm::commands::execute(vm, "device_add", value).map(|_| ()).at(&given.place)
}

fn watch_signals(
    program: &str,
    vm: &Arc<Vm>,
    handle: &Handle,
    signals: SignalWatch,
) -> Step<evloop::Watch> {
    let signals = Arc::new(signals);
    let source = signals.clone();
    let vm = Arc::downgrade(vm);
    let program = program.to_owned();
    let watch = handle.watch(signals, Readiness::READ, move |_| {
        while let Some((signal, sender)) = source.next() {
            let Some(vm) = vm.upgrade() else { return };
            if signal == Signal::Continue {
                vm.chardevs.continued();
                continue;
            }
            if sender == 0 {
                fail::say(&format!("{program}: terminating on signal {}\n", signal.number()));
            } else {
                let number = signal.number();
                fail::say(&format!(
                    "{program}: terminating on signal {number} from pid {sender}\n"
                ));
            }
            vm.request(Request::Shutdown(Cause::HostSignal));
        }
    });
    watch.map_err(|error| Stop::new(format!("cannot watch signals: {error}")))
}
