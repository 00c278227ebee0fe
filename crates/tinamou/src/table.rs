//! The option table: name, argument, help.
//!
//! Options of QEMU that are not built are listed too, so that they are refused by name.

/// Whether an option can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionState {
    /// It works.
    Built,
    /// QEMU has it, Tinamou does not yet.
    NotBuilt,
    /// QEMU has it for other guests.
    NotHere,
}

/// An option.
#[derive(Debug)]
pub(crate) struct Opt {
    /// Name without dash.
    pub(crate) name: &'static str,
    /// Takes an argument.
    pub(crate) arg: bool,
    /// Argument as the help shows it.
    pub(crate) form: &'static str,
    /// One line.
    pub(crate) help: &'static str,
    /// Heading in the help.
    pub(crate) group: &'static str,
    /// Whether it can be used.
    pub(crate) state: OptionState,
}

const fn built(
    group: &'static str,
    name: &'static str,
    form: &'static str,
    help: &'static str,
) -> Opt {
    Opt { name, arg: !form.is_empty(), form, help, group, state: OptionState::Built }
}

const fn absent(name: &'static str, arg: bool) -> Opt {
    Opt { name, arg, form: "", help: "", group: "", state: OptionState::NotBuilt }
}

const fn elsewhere(name: &'static str) -> Opt {
    Opt { name, arg: false, form: "", help: "", group: "", state: OptionState::NotHere }
}

const STANDARD: &str = "Standard options";
const DISPLAY: &str = "Display options";
const NETWORK: &str = "Network options";
const CHARACTER: &str = "Character device options";
const BLOCK: &str = "Block device options";
const BOOT: &str = "Boot image options";
const DEBUG: &str = "Debug and expert options";

/// All options.
pub(crate) static TABLE: &[Opt] = &[
    built(STANDARD, "h", "", "display this help and exit"),
    built(STANDARD, "help", "", "display this help and exit"),
    built(STANDARD, "version", "", "display version information and exit"),
    built(
        STANDARD,
        "machine",
        "[type=]name[,prop[=value][,...]]",
        "selects the machine ('-machine help' for a list)",
    ),
    built(STANDARD, "M", "[type=]name[,prop[=value][,...]]", "as -machine"),
    built(
        STANDARD,
        "cpu",
        "cpu[,prop=value][,...]",
        "selects the CPU model ('-cpu help' for a list)",
    ),
    built(
        STANDARD,
        "accel",
        "[accel=]name[,prop=value][,...]",
        "selects the accelerator ('-accel help' for a list)",
    ),
    built(
        STANDARD,
        "smp",
        "[[cpus=]n][,maxcpus=n][,sockets=n][,clusters=n][,cores=n][,threads=n]",
        "sets the number and topology of CPUs (default: 1)",
    ),
    built(STANDARD, "m", "[size=]megs", "sets the size of memory; suffix M or G (default: 128M)"),
    built(
        STANDARD,
        "device",
        "driver[,prop=value][,...]",
        "adds a device ('-device help', '-device driver,help')",
    ),
    built(
        STANDARD,
        "boot",
        "[order=]drives[,menu=on|off][,strict=on|off][,reboot-timeout=ms][,splash=file][,splash-time=ms]",
        "tells firmware about booting",
    ),
    built(
        STANDARD,
        "smbios",
        "type=n[,field=value][,...] or file=binary",
        "sets fields of SMBIOS structures, or adds one",
    ),
    built(STANDARD, "name", "[guest=]name", "sets the name of the guest"),
    built(STANDARD, "uuid", "%08x-%04x-%04x-%04x-%012x", "sets the UUID of the machine"),
    built(DISPLAY, "display", "none", "selects the display; only 'none'"),
    built(DISPLAY, "vga", "none", "selects the video card; only 'none'"),
    built(
        DISPLAY,
        "nographic",
        "",
        "disables the display and puts serial port and monitor on the terminal",
    ),
    built(
        NETWORK,
        "netdev",
        "type,id=str[,prop=value][,...]",
        "adds a network back end ('-netdev help' for a list)",
    ),
    built(
        NETWORK,
        "nic",
        "none|type[,mac=addr][,model=name][,prop=value][,...]",
        "adds a network card with a back end",
    ),
    built(
        NETWORK,
        "net",
        "none|nic[,macaddr=addr][,model=name]|type[,prop=value][,...]",
        "adds a network card or a back end to hub 0",
    ),
    built(
        CHARACTER,
        "chardev",
        "backend,id=id[,prop=value][,...]",
        "adds a character back end ('-chardev help' for a list)",
    ),
    built(BOOT, "kernel", "file", "boots this kernel image directly"),
    built(BOOT, "append", "cmdline", "is the command line of the kernel"),
    built(BOOT, "initrd", "file", "is the initial RAM disk of the kernel"),
    built(BOOT, "bios", "file", "firmware in the first flash bank"),
    built(
        BLOCK,
        "blockdev",
        "[driver=]driver[,node-name=name][,option=value][,...]",
        "adds a block node",
    ),
    built(
        BLOCK,
        "drive",
        "[file=file][,if=none|virtio|pflash][,format=f][,id=id][,option=value][,...]",
        "adds a drive",
    ),
    built(BLOCK, "hda", "file", "use 'file' as disk 0"),
    built(BLOCK, "hdb", "file", "use 'file' as disk 1"),
    built(BLOCK, "hdc", "file", "use 'file' as disk 2"),
    built(BLOCK, "hdd", "file", "use 'file' as disk 3"),
    built(BLOCK, "cdrom", "file", "use 'file' as a read-only disk"),
    built(BLOCK, "snapshot", "", "write to temporary files instead of disk image files"),
    built(BOOT, "pflash", "file", "use 'file' as a parallel flash image"),
    built(BOOT, "dtb", "file", "is the device tree image for the kernel"),
    built(DEBUG, "serial", "dev", "connects a serial port to a character back end"),
    built(DEBUG, "monitor", "dev", "connects a human monitor to a character back end"),
    built(DEBUG, "qmp", "dev", "connects a QMP session to a character back end"),
    built(DEBUG, "qmp-pretty", "dev", "as -qmp, with replies on several lines"),
    built(
        DEBUG,
        "mon",
        "[chardev=]name[,mode=readline|control][,pretty=on|off]",
        "connects a monitor to an existing character back end",
    ),
    built(DEBUG, "S", "", "does not start the guest ('cont' in a monitor does)"),
    built(DEBUG, "d", "item1,...", "logs these items ('-d help' for a list)"),
    built(DEBUG, "D", "file", "writes the log to this file"),
    built(DEBUG, "loadvm", "tag|id", "starts right away with a saved state (loadvm in monitor)"),
    built(DEBUG, "no-reboot", "", "exits instead of rebooting"),
    built(DEBUG, "no-shutdown", "", "stops before shutting down"),
    built(DEBUG, "nodefaults", "", "creates no default devices"),
    built(DEBUG, "no-user-config", "", "accepted; no configuration files are read"),
    built(
        DEBUG,
        "qtest",
        "dev",
        "lets a test program drive the machine through a character back end",
    ),
    built(
        DEBUG,
        "object",
        "TYPENAME[,PROP1=VALUE1,...]",
        "makes an object ('-object help' for a list)",
    ),
    built(DEBUG, "readconfig", "file", "reads options from a configuration file"),
    built(DEBUG, "set", "group.id.arg=value", "sets a parameter of an earlier option"),
    built(
        DEBUG,
        "global",
        "driver.prop=value",
        "sets the default of a property for all devices of a type",
    ),
    built(DEBUG, "pidfile", "file", "writes the number of the process to a file"),
    built(DEBUG, "daemonize", "", "runs in the background once everything is set up"),
    built(
        DEBUG,
        "icount",
        "[shift=N][,align=off][,sleep=on|off]",
        "makes an instruction take 2^N nanoseconds of the guest's time",
    ),
    built(DEBUG, "perfmap", "", "writes the map of generated code to /tmp/perf-PID.map, for perf"),
    built(
        DEBUG,
        "jitdump",
        "",
        "writes generated code to jit-PID.dump in the current folder, for perf",
    ),
    built(
        DEBUG,
        "rtc",
        "[base=utc|localtime|date][,clock=host|rt|vm]",
        "sets the wall clock that the guest is shown",
    ),
    built(
        DEBUG,
        "action",
        "reboot=reset|shutdown,shutdown=poweroff|pause,panic=pause|shutdown|exit-failure|none,watchdog=...",
        "says what happens when the guest does one of these",
    ),
    built(
        DEBUG,
        "dfilter",
        "range,...",
        "limits '-d' to guest addresses (start+len, start-len, start..end)",
    ),
    built(DEBUG, "msg", "timestamp[=on|off]", "puts the time in front of messages"),
    built(DEBUG, "gdb", "dev", "waits for gdb on a character back end ('none' for none)"),
    built(DEBUG, "s", "", "as -gdb tcp::1234"),
    built(
        DEBUG,
        "fw_cfg",
        "[name=]name,file=file|string=text",
        "gives the guest's firmware a file",
    ),
    built(
        STANDARD,
        "add-fd",
        "fd=fd,set=set[,opaque=opaque]",
        "puts an inherited file descriptor into a set",
    ),
    built(
        STANDARD,
        "numa",
        "node|dist|cpu|hmat-lb|hmat-cache[,prop=value][,...]",
        "puts memory and CPUs into nodes",
    ),
    built(STANDARD, "mem-path", "path", "takes the memory of a file, or of a new one in a folder"),
    built(STANDARD, "mem-prealloc", "", "touches all memory at the start"),
    built(STANDARD, "audiodev", "[driver=]none,id=id", "names a back end for sound"),
    built(STANDARD, "no-acpi", "", "as -machine acpi=off, for managers that know older versions"),
    built(
        DEBUG,
        "overcommit",
        "[mem-lock=on|off|on-fault][,cpu-pm=on|off]",
        "locks the memory of the process",
    ),
    absent("k", true),
    absent("audio", true),
    absent("fda", true),
    absent("fdb", true),
    absent("mtdblock", true),
    absent("sd", true),
    absent("fsdev", true),
    absent("virtfs", true),
    absent("iscsi", true),
    absent("usb", false),
    absent("usbdevice", true),
    absent("spice", true),
    absent("full-screen", false),
    elsewhere("g"),
    absent("vnc", true),
    elsewhere("win2k-hack"),
    elsewhere("no-fd-bootchk"),
    elsewhere("acpitable"),
    absent("tpmdev", true),
    absent("shim", true),
    absent("compat", true),
    absent("parallel", true),
    absent("debugcon", true),
    absent("preconfig", false),
    absent("seed", true),
    absent("L", true),
    absent("enable-kvm", false),
    absent("xen-domid", true),
    absent("xen-attach", false),
    absent("xen-domid-restrict", false),
    absent("option-rom", true),
    absent("watchdog-action", true),
    absent("echr", true),
    absent("incoming", true),
    absent("only-migratable", false),
    elsewhere("prom-env"),
    absent("semihosting", false),
    absent("semihosting-config", true),
    absent("old-param", false),
    absent("sandbox", true),
    absent("trace", true),
    absent("plugin", true),
    absent("qtest-log", true),
    absent("run-with", true),
    absent("dump-vmstate", true),
    absent("enable-sync-profile", false),
];
