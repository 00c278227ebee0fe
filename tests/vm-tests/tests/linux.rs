//! Debian's unmodified arm64 kernel, told on by itself.

use std::path::Path;

use vm_tests::{Listener, Vm, guest, initrd};

/// Seconds for a boot with everything that a test does after it.
const LIMIT: u64 = 180;

fn linux(args: &[&str], initrd: &str, append: &str) -> Vm {
    let (kernel, initrd) = (guest("linux"), guest(initrd));
    let append = format!("console=ttyAMA0 quiet {append}");
    let common = ["-no-reboot", "-kernel", &kernel, "-initrd", &initrd, "-append", append.as_str()];
    let console: &[&str] = &["-display", "none", "-serial", "stdio", "-monitor", "none"];
    Vm::start(&[args, console, &common].concat(), LIMIT)
}

/// A value that the guest reports.
fn report<'a>(console: &'a str, what: &str) -> &'a str {
    let start = format!("REPORT {what} ");
    let line = console.lines().find_map(|line| line.trim_end().strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {what} in\n{console}"))
}

/// Boots, lets the guest report on itself and power off.
fn reports(gic: &str, cpus: u32, cpu: &str) {
    let (machine, smp) = (format!("virt,gic-version={gic}"), cpus.to_string());
    let args = ["-M", &machine, "-cpu", cpu, "-smp", &smp, "-m", "1G"];
    let vm = linux(&args, "initrd-tinamou", "rdinit=/tinamou-init tinamou.test");
    let ended = vm.end();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    let console = ended.out.as_str();
    assert_eq!(report(console, "cpus"), smp);
    let memory: u64 = report(console, "memory_kb").parse().expect("a number");
    // What the kernel keeps for itself is not in MemTotal.
    assert!((960 << 10..1 << 20).contains(&memory), "{memory} kB of 1 GiB");
    assert_eq!(report(console, "sum"), initrd::checksum(Path::new(&guest("initrd.gz"))));
    assert!(report(console, "uname").starts_with("Linux 6."), "{console}");
    assert!(console.contains("REPORT done"), "{console}");
}

// Every pair of values of the three properties meets in one of these four.
#[test]
fn gicv2_one_cortex_a57_reports_and_powers_off() {
    reports("2", 1, "cortex-a57");
}

#[test]
fn gicv2_four_max_report_and_power_off() {
    reports("2", 4, "max");
}

#[test]
fn gicv3_one_max_reports_and_powers_off() {
    reports("3", 1, "max");
}

#[test]
fn gicv3_four_cortex_a57_report_and_power_off() {
    reports("3", 4, "cortex-a57");
}

#[test]
fn the_other_models_report_and_power_off() {
    for (gic, cpus, cpu) in [
        ("2", 1, "cortex-a53"),
        ("3", 4, "cortex-a72"),
        ("3", 1, "cortex-a76"),
        ("3,virtualization=on", 4, "neoverse-n1"),
    ] {
        reports(gic, cpus, cpu);
    }
}

/// Debian's U-Boot in place of firmware comes to its prompt and knows the machine.
#[test]
fn u_boot_comes_to_its_prompt() {
    let image = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";
    let args = ["-M", "virt", "-cpu", "cortex-a57", "-m", "512", "-nographic", "-nodefaults"];
    let mut vm = Vm::start(&[&args[..], &["-serial", "stdio", "-bios", image]].concat(), LIMIT);
    vm.wait_for("Hit any key to stop autoboot");
    vm.send("\r");
    vm.wait_for("=> ");
    vm.send("setexpr a 6 * 7; echo RAM $a; bdinfo\r");
    // setexpr is hexadecimal.
    vm.wait_for("RAM 2a");
    vm.wait_for("0x0000000020000000");
}

fn installer(smp: &str) {
    let mut vm = linux(&["-M", "virt", "-cpu", "max", "-smp", smp, "-m", "1G"], "initrd.gz", "");
    vm.wait_for("Select a language");
}

#[test]
fn installer_shows_its_first_menu_on_one_cpu() {
    installer("1");
}

#[test]
fn installer_shows_its_first_menu_on_four_cpus() {
    installer("4");
}

#[test]
fn root_shell_answers_and_stops_on_command() {
    let listener = Listener::new("shell.qmp");
    let qmp = listener.option();
    let args = ["-M", "virt", "-cpu", "max", "-smp", "2", "-m", "1G", "-S", "-qmp", &qmp];
    let mut vm = linux(&args, "initrd-tinamou", "rdinit=/tinamou-init");
    let mut qmp = listener.accept(LIMIT);
    assert!(qmp.run("query-status").contains("\"prelaunch\""));
    assert_eq!(vm.console(), "", "nothing runs before cont");
    assert_eq!(qmp.run("cont"), "{\"return\": {}}");
    vm.wait_for("Welcome to Tinamou");
    vm.wait_for("guest# ");
    // The echo of the command must not pass for its output.
    vm.send("echo $((6 * 7))-$(id -u)-$(grep -c ^processor /proc/cpuinfo)\r");
    vm.wait_for("42-0-2");
    vm.wait_for("guest# ");
    assert_eq!(qmp.run("stop"), "{\"return\": {}}");
    assert!(qmp.run("query-status").contains("\"paused\""));
    assert_eq!(qmp.run("cont"), "{\"return\": {}}");
    vm.send("poweroff -f\r");
    assert!(qmp.event("SHUTDOWN").contains("\"guest-shutdown\""));
    let ended = vm.end();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
}

/// Messages of a PCI device reach Linux: through the ITS on a GICv3, through the frame of a GICv2.
#[test]
fn pci_messages_arrive_through_its_and_gicv2m() {
    for (gic, kind) in [("3", "ITS-MSI"), ("2", "MSI")] {
        let machine = format!("virt,gic-version={gic}");
        let args = ["-M", &machine, "-cpu", "cortex-a57", "-smp", "2", "-m", "512"];
        let args = [&args[..], &["-nic", "none", "-device", "virtio-rng-pci"]].concat();
        let mut vm = linux(&args, "initrd.gz", "rdinit=/bin/sh");
        vm.wait_for("~ #");
        vm.send("mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev\n");
        vm.send("modprobe virtio_pci; modprobe virtio-rng\n");
        vm.send("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c; cat /proc/interrupts\n");
        vm.send("poweroff -f\n");
        let ended = vm.end();
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
        let line = ended.out.lines().find(|line| line.contains("virtio0-input"));
        let line = line.unwrap_or_else(|| panic!("no interrupt\n{}", ended.out));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.get(3), Some(&kind), "{line}");
        let taken: u32 = words.iter().skip(1).take(2).filter_map(|n| n.parse::<u32>().ok()).sum();
        assert!(taken > 0, "{line}");
        assert!(ended.out.lines().any(|line| line.trim() == "256"), "{}", ended.out);
    }
}

/// UEFI firmware finds kernel, ACPI and SMBIOS tables in fw_cfg; Linux takes them instead of the device
/// tree, and the event device is there.
#[test]
fn uefi_starts_linux_with_acpi() {
    const FIRMWARE: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";
    let args = ["-M", "virt,gic-version=3", "-cpu", "max", "-smp", "2", "-m", "1G"];
    let args = [&args[..], &["-bios", FIRMWARE]].concat();
    let mut vm = linux(&args, "initrd.gz", "acpi=force rdinit=/bin/sh");
    vm.wait_for("~ #");
    vm.send("mount -t proc p /proc; mount -t sysfs s /sys\n");
    vm.send("ls /sys/firmware/acpi/tables | tr '\\n' ' '; cat /sys/class/dmi/id/sys_vendor\n");
    vm.send("echo $(grep -c ^processor /proc/cpuinfo) processors; cat /proc/interrupts\n");
    vm.send("dmesg | grep -e 'efi: EFI v' -e 'ACPI: Interpreter'\n");
    vm.send("poweroff -f\n");
    let ended = vm.end();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    let out = ended.out.as_str();
    for table in ["APIC", "DBG2", "DSDT", "FACP", "GTDT", "IORT", "MCFG", "PPTT", "SPCR"] {
        assert!(out.contains(&format!("{table} ")), "{table}\n{out}");
    }
    for text in ["efi: EFI v", "ACPI: Interpreter enabled", "2 processors", "ACPI:Ged", "QEMU"] {
        assert!(out.contains(text), "{text}\n{out}");
    }
}

/// Two security states: a kernel without firmware is the non-secure world's.
#[test]
fn secure_machines_start_a_kernel_in_the_nonsecure_world() {
    reports("3,secure=on,virtualization=on", 2, "cortex-a57");
    reports("2,secure=on", 2, "cortex-a57");
}
