//! What the command line asked for, before anything is created.

use qapi::{Qapi, Source, Value, keyval::Dialect, parse_size};
use vmm::{Actions, RebootAction, ShutdownAction};

use crate::{
    fail::{At as _, Step, Stop},
    icount::{self, Icount},
    options::Given,
    rtc::{self, Rtc},
};

/// A value with the option that gave it, for error messages.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// The option as typed.
    pub(crate) place: String,
    /// The value.
    pub(crate) value: String,
}

/// A name with properties (`-cpu`, `-accel`).
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// The option as typed.
    pub(crate) place: String,
    /// The name.
    pub(crate) name: String,
    /// What follows it.
    pub(crate) props: Vec<(String, String)>,
}

/// Number and arrangement of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Smp {
    /// CPUs at start.
    pub(crate) cpus: u32,
    /// Most CPUs.
    pub(crate) max: u32,
    /// Sockets.
    pub(crate) sockets: u32,
    /// Clusters in a socket.
    pub(crate) clusters: u32,
    /// Clusters were named.
    pub(crate) clusters_given: bool,
    /// Cores in a cluster.
    pub(crate) cores: u32,
    /// Threads in a core.
    pub(crate) threads: u32,
}

/// Everything the command line asked for.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) machine: Option<Placed>,
    pub(crate) machine_props: Vec<(String, String)>,
    pub(crate) cpu: Option<Named>,
    pub(crate) accels: Vec<Named>,
    pub(crate) smp: Option<Smp>,
    pub(crate) memory: MemorySize,
    pub(crate) kernel: Option<Placed>,
    pub(crate) append: Option<Placed>,
    pub(crate) initrd: Option<Placed>,
    pub(crate) dtb: Option<Placed>,
    pub(crate) bios: Option<Placed>,
    pub(crate) drives: Vec<Placed>,
    pub(crate) blockdevs: Vec<Placed>,
    pub(crate) snapshot: bool,
    pub(crate) chardevs: Vec<Placed>,
    pub(crate) serials: Vec<Placed>,
    pub(crate) monitors: Vec<(Placed, MonitorKind)>,
    pub(crate) mons: Vec<Placed>,
    pub(crate) devices: Vec<Placed>,
    /// `-device loader`: the board carries them out.
    pub(crate) loaders: Vec<(String, Value)>,
    pub(crate) qtest: Option<Placed>,
    pub(crate) log_items: Option<Placed>,
    pub(crate) log_file: Option<Placed>,
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<[u8; 16]>,
    pub(crate) nographic: bool,
    pub(crate) nodefaults: bool,
    pub(crate) stopped: bool,
    pub(crate) loadvm: Option<Placed>,
    pub(crate) actions: Actions,
    pub(crate) netdevs: Vec<Placed>,
    pub(crate) nics: Vec<Placed>,
    pub(crate) nets: Vec<Placed>,
    pub(crate) objects: Vec<Placed>,
    pub(crate) globals: Vec<Placed>,
    pub(crate) gdb: Vec<Placed>,
    pub(crate) firmware_files: Vec<(String, Vec<u8>)>,
    pub(crate) boot_options: machine::BootOptions,
    pub(crate) smbios: firmware::smbios::Options,
    pub(crate) fds: Vec<GivenFd>,
    pub(crate) pidfile: Option<Placed>,
    pub(crate) daemonize: bool,
    pub(crate) rtc: Rtc,
    pub(crate) icount: Icount,
    /// `perf` is told of generated code by a map, by a dump.
    pub(crate) perfmap: bool,
    pub(crate) jitdump: bool,
    pub(crate) log_filter: Option<Placed>,
    pub(crate) timestamps: bool,
    pub(crate) numa: Vec<Placed>,
    pub(crate) mem_path: Option<Placed>,
    pub(crate) mem_prealloc: bool,
    /// `-overcommit mem-lock`: lock all memory, or (true) what is touched.
    pub(crate) mem_lock: Option<bool>,
}

/// What kind of monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MonitorKind {
    /// For people.
    Human,
    /// For programs.
    Qmp {
        /// Replies on several lines.
        pretty: bool,
    },
}

impl Settings {
    /// Reads the values of all options.
    pub(crate) fn of(given: &[Given]) -> Step<Self> {
        let mut settings = Self::default();
        for option in given {
            settings.take(option)?;
        }
        Ok(settings)
    }

    fn take(&mut self, given: &Given) -> Step<()> {
        let place = given.place.as_str();
        let value = given.value.as_str();
        let placed = || Placed { place: place.to_owned(), value: value.to_owned() };
        match given.opt.name {
            "machine" | "M" => self.machine(placed())?,
            "cpu" => self.cpu = Some(named(placed())),
            "accel" => self.accels.push(accel(&placed())?),
            "smp" => self.smp = Some(smp(value).at(place)?),
            "m" => self.memory = memory(value).at(place)?,
            "kernel" => self.kernel = Some(placed()),
            "append" => self.append = Some(placed()),
            "initrd" => self.initrd = Some(placed()),
            "dtb" => self.dtb = Some(placed()),
            "bios" => self.bios = Some(placed()),
            "drive" => self.drives.push(placed()),
            "blockdev" => self.blockdevs.push(placed()),
            "snapshot" => self.snapshot = true,
            "pflash" | "hda" | "hdb" | "hdc" | "hdd" | "cdrom" => {
                self.short_drive(given.opt.name, &placed());
            }
            "chardev" => self.chardevs.push(placed()),
            "serial" => self.serials.push(placed()),
            "monitor" => self.monitors.push((placed(), MonitorKind::Human)),
            "qmp" => self.monitors.push((placed(), MonitorKind::Qmp { pretty: false })),
            "qmp-pretty" => self.monitors.push((placed(), MonitorKind::Qmp { pretty: true })),
            "mon" => self.mons.push(placed()),
            "device" => match loader(value) {
                Some(props) => self.loaders.push((place.to_owned(), props)),
                None => self.devices.push(placed()),
            },
            "qtest" => self.qtest = Some(placed()),
            "d" => self.log_items = Some(placed()),
            "D" => self.log_file = Some(placed()),
            "name" => self.name = name(value).at(place)?,
            "uuid" => self.uuid = Some(uuid(place, value)?),
            "display" | "vga" => only_none(place, value)?,
            "nographic" => self.nographic = true,
            "nodefaults" => self.nodefaults = true,
            "S" => self.stopped = true,
            "loadvm" => self.loadvm = Some(placed()),
            "no-reboot" => self.actions.reboot = RebootAction::Shutdown,
            "no-shutdown" => self.actions.shutdown = ShutdownAction::Pause,
            name => self.take_more(name, placed())?,
        }
        Ok(())
    }

    /// `-smbios`.
    fn smbios(&mut self, given: &Placed) -> Step<()> {
        const MOST: u64 = 64 << 10;
        let read = |path: &str| {
            let len = std::fs::metadata(path)?.len();
            if len > MOST {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            std::fs::read(path)
        };
        let option = firmware::smbios::pairs(&given.value);
        self.smbios.add(&option, &read).at(&given.place)
    }

    /// The short forms of `-drive`.
    fn short_drive(&mut self, name: &str, given: &Placed) {
        let file = given.value.replace(',', ",,");
        let value = match name {
            "pflash" => format!("if=pflash,file={file}"),
            "cdrom" => format!("media=cdrom,file={file}"),
            _ => format!("media=disk,file={file}"),
        };
        self.drives.push(Placed { place: given.place.clone(), value });
    }

    fn take_more(&mut self, name: &str, given: Placed) -> Step<()> {
        match name {
            "netdev" => self.netdevs.push(given),
            "nic" => self.nics.push(given),
            "net" => self.nets.push(given),
            "object" => self.objects.push(given),
            "global" => self.globals.push(given),
            "set" => self.set(&given)?,
            "gdb" => self.gdb.push(given),
            "s" => self.gdb.push(Placed { place: given.place, value: "tcp::1234".into() }),
            "fw_cfg" => self.firmware_files.push(firmware_file(&given)?),
            "smbios" => self.smbios(&given)?,
            "boot" => crate::boot_option::add(&mut self.boot_options, &given)?,
            "add-fd" => self.fds.push(inherited_fd(given)?),
            "pidfile" => self.pidfile = Some(given),
            "daemonize" => self.daemonize = true,
            "rtc" => self.rtc = rtc::parse(&given)?,
            "perfmap" => self.perfmap = true,
            "jitdump" => self.jitdump = true,
            "icount" => self.icount = icount::parse(&given)?,
            "action" => action(&mut self.actions, &given)?,
            "dfilter" => self.log_filter = Some(given),
            "numa" => self.numa.push(given),
            "mem-path" => self.mem_path = Some(given),
            "mem-prealloc" => self.mem_prealloc = true,
            "overcommit" => self.overcommit(&given)?,
            "audiodev" => crate::audio::check(&given)?,
            "no-acpi" => self.machine_props.push(("acpi".into(), "off".into())),
            "msg" => self.timestamps = timestamps(&given)?,
            _ => {}
        }
        Ok(())
    }

    /// `-overcommit`.
    fn overcommit(&mut self, given: &Placed) -> Step<()> {
        let value = Dialect::flat(None).parse(&given.value).at(&given.place)?.value;
        for (key, value) in value.as_map().unwrap_or(&[]) {
            let text = value.as_str().unwrap_or_default();
            match (key.as_str(), text) {
                ("mem-lock", "on") => self.mem_lock = Some(false),
                ("mem-lock", "on-fault") => self.mem_lock = Some(true),
                ("mem-lock", "off") => self.mem_lock = None,
                ("mem-lock", _) => {
                    let text = "parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'";
                    return Err(Stop::at(&given.place, text));
                }
                ("cpu-pm", "on" | "off") => {}
                ("cpu-pm", _) => {
                    let error = qapi::Error::expects("cpu-pm", "'on' or 'off'");
                    return Err(error).at(&given.place);
                }
                _ => return Err(qapi::Error::invalid_parameter(key)).at(&given.place),
            }
        }
        Ok(())
    }

    /// `-set group.id.arg=value`: adds to an earlier option, where it wins.
    fn set(&mut self, given: &Placed) -> Step<()> {
        let parts = given.value.split_once('=').and_then(|(path, value)| {
            let (group, rest) = path.split_once('.')?;
            let (id, arg) = rest.split_once('.')?;
            Some((group, id, arg, value))
        });
        let Some((group, id, arg, value)) = parts else {
            return Err(Stop::at(&given.place, "invalid format"));
        };
        let list = match group {
            "device" => &mut self.devices,
            "chardev" => &mut self.chardevs,
            "object" => &mut self.objects,
            "netdev" => &mut self.netdevs,
            "net" => &mut self.nets,
            "mon" => &mut self.mons,
            _ => {
                let text = format!("there is no option group \"{group}\" with ids");
                return Err(Stop::at(&given.place, text));
            }
        };
        let has_id = |option: &&mut Placed| {
            let flat = Dialect::flat(Some("type")).parse(&option.value);
            flat.is_ok_and(|p| p.value.get("id").and_then(Value::as_str) == Some(id))
        };
        let Some(option) = list.iter_mut().find(has_id) else {
            let text = format!("there is no {group} \"{id}\" defined");
            return Err(Stop::at(&given.place, text));
        };
        option.value.push_str(&format!(",{arg}={}", value.replace(',', ",,")));
        Ok(())
    }

    fn machine(&mut self, given: Placed) -> Step<()> {
        let parsed = Dialect::structured(Some("type")).parse(&given.value).at(&given.place)?;
        if parsed.help {
            let value = parsed.value.get("type").and_then(Value::as_str).unwrap_or("help");
            let value = if value == "help" { "help".into() } else { format!("{value},help") };
            self.machine = Some(Placed { place: given.place, value });
            return Ok(());
        }
        let Value::Map(members) = parsed.value else { return Ok(()) };
        for (key, value) in members {
            let Value::Str(value) = value else {
                return Err(Stop::at(&given.place, format!("Invalid parameter '{key}'")));
            };
            match key.as_str() {
                "type" => self.machine = Some(Placed { place: given.place.clone(), value }),
                "accel" => {
                    for name in value.split(':') {
                        let place = given.place.clone();
                        self.accels.push(Named { place, name: name.into(), props: Vec::new() });
                    }
                }
                _ => self.machine_props.push((key, value)),
            }
        }
        Ok(())
    }
}

/// The properties of a generic loader, if the device is one.
fn loader(text: &str) -> Option<Value> {
    if !text.starts_with("loader") && !text.starts_with("driver=loader") {
        return None;
    }
    let parsed = Dialect::flat(Some("driver")).parse(text).ok().filter(|p| !p.help)?;
    let mut value = parsed.value;
    let name = value.take("driver")?;
    value.take("id");
    (name.as_str() == Some("loader")).then_some(value)
}

/// `name,prop=value,prop=value`.
fn named(given: Placed) -> Named {
    let (name, rest) = given.value.split_once(',').unwrap_or((given.value.as_str(), ""));
    let pairs = rest.split(',').filter(|pair| !pair.is_empty());
    let props = pairs
        .map(|pair| match pair.split_once('=') {
            Some(pair) => pair,
            None => match (pair.strip_prefix('+'), pair.strip_prefix('-')) {
                (Some(name), _) => (name, "on"),
                (_, Some(name)) => (name, "off"),
                _ => (pair, "on"),
            },
        })
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Named { name: name.to_owned(), props, place: given.place }
}

fn accel(given: &Placed) -> Step<Named> {
    let parsed = Dialect::flat(Some("accel")).parse(&given.value).at(&given.place)?;
    let place = given.place.clone();
    if parsed.help {
        return Ok(Named { place, name: "help".into(), props: Vec::new() });
    }
    let mut value = parsed.value;
    let name = value.take("accel").and_then(|name| name.as_str().map(str::to_owned));
    let props = value.as_map().unwrap_or(&[]).iter();
    let props = props.map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect();
    Ok(Named { place, name: name.unwrap_or_default(), props })
}

fn smp(text: &str) -> qapi::Result<Smp> {
    let value = Dialect::structured(Some("cpus")).parse(text)?.value;
    let mut found = [0_u32; 6];
    let keys = ["cpus", "maxcpus", "sockets", "clusters", "cores", "threads"];
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let path = format!("smp.{key}");
        if let "drawers" | "books" | "dies" | "modules" = key.as_str() {
            // One of each is what there is; a level that machines here do not have.
            match value.as_str().and_then(qapi::parse_int) {
                Some(1) => continue,
                Some(0) => {}
                Some(_) => {
                    let text = format!("{key} > 1 not supported by this machine's CPU topology");
                    return Err(qapi::Error::generic(text));
                }
                None => return Err(qapi::Error::expects(&path, "integer")),
            }
        }
        let slot = keys.iter().position(|known| known == key).and_then(|at| found.get_mut(at));
        let slot = slot.ok_or_else(|| qapi::Error::unexpected(&path))?;
        let number = value.as_str().and_then(qapi::parse_int);
        let number = number.ok_or_else(|| qapi::Error::expects(&path, "integer"))?;
        *slot =
            u32::try_from(number).map_err(|_| qapi::Error::expects(&path, "a number of CPUs"))?;
        if *slot == 0 {
            return Err(qapi::Error::generic(
                "Invalid CPU topology: CPU topology parameters must be greater than zero",
            ));
        }
    }
    topology(found)
}

/// Fills in what was not given, as QEMU does since 6.2: cores before sockets before threads.
fn topology(found: [u32; 6]) -> qapi::Result<Smp> {
    let [mut cpus, mut max, mut sockets, clusters, mut cores, threads] = found;
    let (clusters_given, clusters) = (clusters > 0, clusters.max(1));
    let given = if max > 0 { max } else { cpus };
    let threads = threads.max(1);
    let product = |a: u32, b: u32| a.saturating_mul(b);
    if given > 0 && cores == 0 {
        sockets = sockets.max(1);
        cores = given / product(product(sockets, clusters), threads).max(1);
    } else if given > 0 && sockets == 0 {
        sockets = given / product(product(cores, clusters), threads).max(1);
    }
    (sockets, cores) = (sockets.max(1), cores.max(1));
    let total = [sockets, clusters, cores, threads].map(u64::from);
    let total = total.into_iter().fold(1, u64::saturating_mul);
    if max == 0 {
        max = if cpus > 0 { cpus } else { u32::try_from(total).unwrap_or(u32::MAX) };
    }
    if cpus == 0 {
        cpus = max;
    }
    if total != u64::from(max) {
        return Err(qapi::Error::generic(format!(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets \
             ({sockets}) * clusters ({clusters}) * cores ({cores}) * threads ({threads}) != \
             maxcpus ({max})"
        )));
    }
    if cpus > max {
        return Err(qapi::Error::generic(format!(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: maxcpus ({max}) < \
             smp_cpus ({cpus})"
        )));
    }
    Ok(Smp { cpus, max, sockets, clusters, clusters_given, cores, threads })
}

/// `-m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemorySize {
    /// Bytes at start; 0: the machine's default.
    pub(crate) size: u64,
    /// Slots for modules.
    pub(crate) slots: u32,
    /// Bytes with all modules; 0: as at start.
    pub(crate) max: u64,
}

fn memory(text: &str) -> qapi::Result<MemorySize> {
    let value = Dialect::flat(Some("size")).parse(text)?.value;
    let mut memory = MemorySize::default();
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let text = value.as_str().unwrap_or_default();
        let bytes = |unit: u64| {
            parse_size(text, unit).ok_or_else(|| {
                qapi::Error::expects(key, "a non-negative number below 2^64").with_hint(
                    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                     and exabytes, respectively.",
                )
            })
        };
        match key.as_str() {
            "size" => memory.size = bytes(1 << 20)?,
            "maxmem" => memory.max = bytes(1)?,
            "slots" => {
                let number = qapi::parse_int(text).and_then(|n| u32::try_from(n).ok());
                memory.slots = number.ok_or_else(|| qapi::Error::expects("slots", "a number"))?;
            }
            _ => return Err(qapi::Error::invalid_parameter(key)),
        }
    }
    Ok(memory)
}

/// `-fw_cfg`: a name and bytes for the guest's firmware; QEMU's warning where the name is unusual.
fn firmware_file(given: &Placed) -> Step<(String, Vec<u8>)> {
    let place = given.place.as_str();
    let value = Dialect::flat(Some("name")).parse(&given.value).at(place)?.value;
    let mut words = ["name", "file", "string", "gen_id"].map(|key| (key, None));
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let slot = words.iter_mut().find(|(name, _)| name == key);
        let slot = slot.ok_or_else(|| qapi::Error::invalid_parameter(key)).at(place)?;
        slot.1 = value.as_str().map(str::to_owned);
    }
    let [(_, name), (_, file), (_, string), (_, generator)] = words;
    let wanted = "name, plus exactly one of file, string and gen_id, are needed";
    let sources = [&file, &string, &generator].into_iter().filter(|s| s.is_some()).count();
    let name = name.filter(|name| !name.is_empty() && sources == 1);
    let name = name.ok_or_else(|| Stop::at(place, wanted))?;
    if name.len() > 55 {
        return Err(Stop::at(place, "name too long (max. 55 char)"));
    }
    let data = match (file, string) {
        (_, Some(text)) => text.into_bytes(),
        (Some(path), _) => std::fs::read(&path).map_err(|error| {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_owned();
            Stop::at(place, format!("can't load {path}: {text}"))
        })?,
        _ => return Err(Stop::at(place, "no object here generates content for fw_cfg")),
    };
    if !name.starts_with("opt/") {
        let text =
            "warning: externally provided fw_cfg item names should be prefixed with \"opt/\"";
        crate::fail::say(&format!("{place}: {text}\n"));
    }
    Ok((name, data))
}

/// `-add-fd`: a descriptor that the process inherited, for a set.
#[derive(Debug)]
pub(crate) struct GivenFd {
    pub(crate) place: String,
    pub(crate) number: i32,
    pub(crate) set: i64,
    pub(crate) opaque: Option<String>,
}

fn inherited_fd(given: Placed) -> Step<GivenFd> {
    let place = given.place;
    let value = Dialect::flat(None).parse(&given.value).at(&place)?.value;
    let (mut number, mut set, mut opaque) = (None, None, None);
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let text = value.as_str().unwrap_or_default();
        let integer = || qapi::parse_int(text).and_then(|n| i64::try_from(n).ok());
        match key.as_str() {
            "fd" => number = integer(),
            "set" => set = integer(),
            "opaque" => opaque = Some(text.to_owned()),
            _ => return Err(qapi::Error::invalid_parameter(key)).at(&place),
        }
    }
    let number = number.and_then(|n| i32::try_from(n).ok()).filter(|n| *n >= 0);
    let number =
        number.ok_or_else(|| Stop::at(&place, "fd option is required and must be non-negative"))?;
    if number <= 2 {
        return Err(Stop::at(&place, "fd cannot be a standard I/O stream"));
    }
    let set = set.filter(|set| *set >= 0);
    let set =
        set.ok_or_else(|| Stop::at(&place, "set option is required and must be non-negative"))?;
    Ok(GivenFd { place, number, set, opaque })
}

fn name(text: &str) -> qapi::Result<Option<String>> {
    let value = Dialect::flat(Some("guest")).parse(text)?.value;
    let mut found = None;
    for (key, value) in value.as_map().unwrap_or(&[]) {
        match key.as_str() {
            "guest" => found = value.as_str().map(str::to_owned),
            "process" | "debug-threads" => {}
            _ => return Err(qapi::Error::invalid_parameter(key)),
        }
    }
    Ok(found)
}

/// `-action`.
fn action(actions: &mut Actions, given: &Placed) -> Step<()> {
    let value = Dialect::flat(None).parse(&given.value).at(&given.place)?.value;
    for (key, value) in value.as_map().unwrap_or(&[]) {
        let value = value.clone();
        fn word<T: Qapi>(key: &str, value: Value) -> qapi::Result<T> {
            T::from_value(value, Source::KeyVal).map_err(|e| e.within(key))
        }
        let done = match key.as_str() {
            "reboot" => word(key, value).map(|action| actions.reboot = action),
            "shutdown" => word(key, value).map(|action| actions.shutdown = action),
            "panic" => word(key, value).map(|action| actions.panic = action),
            "watchdog" => word(key, value).map(|action| actions.watchdog = action),
            _ => Err(qapi::Error::invalid_parameter(key)),
        };
        done.at(&given.place)?;
    }
    Ok(())
}

/// `-msg`.
fn timestamps(given: &Placed) -> Step<bool> {
    let value = Dialect::flat(None).parse(&given.value).at(&given.place)?.value;
    let mut on = false;
    for (key, value) in value.as_map().unwrap_or(&[]) {
        match (key.as_str(), value.as_str().unwrap_or_default()) {
            ("timestamp", "on") => on = true,
            ("timestamp", "off") => on = false,
            ("timestamp", _) => {
                return Err(qapi::Error::expects("timestamp", "'on' or 'off'")).at(&given.place);
            }
            _ => return Err(qapi::Error::invalid_parameter(key)).at(&given.place),
        }
    }
    Ok(on)
}

fn uuid(place: &str, text: &str) -> Step<[u8; 16]> {
    vmm::parse_uuid(text).ok_or_else(|| {
        Stop::at(place, "failed to parse UUID string: wrong format").hint(
            "A UUID is written as xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx in hexadecimal digits.",
        )
    })
}

fn only_none(place: &str, text: &str) -> Step<()> {
    match text {
        "none" => Ok(()),
        "help" | "?" => {
            crate::help::say("none\n");
            Err(Stop::Done)
        }
        _ => Err(Stop::at(place, format!("'{text}' is not built yet in Tinamou; only 'none' is"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(text: &str) -> Result<(u32, u32, u32, u32), String> {
        smp(text).map(|s| (s.cpus, s.sockets, s.cores, s.threads)).map_err(|error| error.desc)
    }

    #[test]
    fn topologies_are_completed_and_checked() {
        assert_eq!(cpus("4"), Ok((4, 1, 4, 1)));
        assert_eq!(cpus("8,sockets=2"), Ok((8, 2, 4, 1)));
        assert_eq!(cpus("cores=2,threads=2"), Ok((4, 1, 2, 2)));
        assert_eq!(cpus("2,maxcpus=4"), Ok((2, 1, 4, 1)));
        assert!(cpus("3,sockets=2").is_err_and(|e| e.contains("must match maxcpus")));
        assert_eq!(cpus("abc"), Err("Parameter 'smp.cpus' expects integer".into()));
        assert_eq!(cpus("foo=9"), Err("Parameter 'smp.foo' is unexpected".into()));
        assert!(cpus("0").is_err_and(|e| e.contains("greater than zero")));
        assert!(cpus("-1").is_err_and(|e| e.contains("a number of CPUs")));
        assert!(cpus("4294967295,sockets=65536,cores=65536").is_err());
    }

    #[test]
    fn memory_has_megabytes_as_unit() {
        assert_eq!(memory("256").map(|m| m.size), Ok(256 << 20));
        assert_eq!(memory("size=1.5G").map(|m| m.size), Ok(3 << 29));
        let want = MemorySize { size: 1 << 30, slots: 2, max: 4 << 30 };
        assert_eq!(memory("1G,slots=2,maxmem=4G"), Ok(want));
        assert!(memory("1G,slots=x").is_err());
        assert!(memory("12zz").is_err_and(|e| e.desc.contains("non-negative")));
        assert!(memory("1G,foo=1").is_err_and(|e| e.desc == "Invalid parameter 'foo'"));
    }
}
