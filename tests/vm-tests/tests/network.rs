//! Debian's kernel on the network of `-netdev user`, on a tap device and on passt in namespaces of the
//! tests' own, with virtio's and Intel's card; booting from the network; two machines on one link.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use vm_tests::initrd::entry;
use vm_tests::{Vm, guest, scratch};

const LIMIT: u64 = 180;

/// What every guest does first.
const BEGIN: &str = "#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe virtio_pci; modprobe virtio_net; modprobe e1000e; modprobe ipv6
until [ -e /sys/class/net/eth0 ]; do sleep 1; done
ip link set lo up; ip link set eth0 up
cat > /lease <<'X'
#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev eth0; ip route add default via $router
echo nameserver $dns > /etc/resolv.conf
echo REPORT lease $ip $router $dns $hostname
X
chmod +x /lease
";

/// Asks for an address.
const LEASE: &str = "udhcpc -i eth0 -s /lease -q -n -t 20 2>/dev/null | grep REPORT";

/// The installer's RAM disk with a script of our own.
fn initrd(name: &str, script: &str) -> PathBuf {
    let path = scratch(name);
    let mut bytes = fs::read(guest("initrd.gz")).expect("the guest's files");
    let text = format!("{BEGIN}{script}\npoweroff -f\n");
    // Archives may follow each other; the kernel takes plain ones behind packed ones.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(entry("net-init", 0o100_755, text.as_bytes()));
    bytes.extend(entry("TRAILER!!!", 0, &[]));
    fs::write(&path, bytes).expect("a temporary file");
    path
}

fn boot(initrd: &str, args: &[&str]) -> Vm {
    let args = command(initrd, args);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Vm::start(&args, LIMIT)
}

/// The emulator's arguments.
fn command(initrd: &str, args: &[&str]) -> Vec<String> {
    let kernel = guest("linux");
    let append = "console=ttyAMA0 quiet panic=-1 rdinit=/net-init";
    let common = ["-M", "virt", "-cpu", "max", "-m", "1G", "-no-reboot", "-kernel", &kernel];
    let rest = ["-initrd", initrd, "-append", append, "-display", "none", "-serial", "stdio"];
    let all = [&common[..], &rest, &["-monitor", "none", "-nodefaults"], args].concat();
    all.into_iter().map(str::to_owned).collect()
}

/// A network namespace of the test's own, with what runs in it.
struct Space {
    name: String,
    running: Vec<Child>,
}

fn ip(line: &str) {
    let done = Command::new("ip").args(line.split(' ')).status();
    assert!(done.is_ok_and(|status| status.success()), "ip {line}");
}

impl Space {
    fn new(name: &str) -> Space {
        let name = format!("tnm-{name}-{}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        Space { name, running: Vec::new() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdin(Stdio::null());
        command
    }

    /// Starts a script of Python, which prints a line when it is ready.
    fn python(&mut self, script: &str) {
        let mut child = self.command("python3");
        let mut child =
            child.args(["-c", script]).stdout(Stdio::piped()).spawn().expect("python3 starts");
        let mut ready = [0; 3];
        child.stdout.take().expect("piped").read_exact(&mut ready).expect("it gets ready");
        self.running.push(child);
    }

    fn stop(&mut self, mut child: Child) {
        _ = child.kill();
        _ = child.wait();
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for child in std::mem::take(&mut self.running) {
            self.stop(child);
        }
        _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        _ = fs::remove_dir_all(Path::new("/etc/netns").join(&self.name));
    }
}

/// Gives everybody the same bytes, on the loopback of whoever runs it.
const SERVER: &str = "import socket
s = socket.create_server(('127.0.0.1', 8000))
print('up', flush=True)
while True:
    c, _ = s.accept()
    c.recv(4096)
    c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nfrom the server\\n')
    c.close()
";

/// Answers every question for an address with the gateway's, and others with nothing.
const NAMES: &str = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 53))
print('up', flush=True)
while True:
    q, a = s.recvfrom(512)
    end = q.index(0, 12) + 5
    one = q[end - 3] == 1
    r = q[:2] + b'\\x81\\x80\\0\\1\\0' + bytes([one]) + b'\\0\\0\\0\\0' + q[12:end]
    r += b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\x0a\\0\\2\\2' if one else b''
    s.sendto(r, a)
";

/// A server that gives everybody the same bytes.
fn serve(body: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 4096];
            _ = stream.read(&mut request);
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    port
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound").port()
}

fn sha256(bytes: &[u8]) -> String {
    let path = scratch("sum");
    fs::write(&path, bytes).expect("a temporary file");
    let out = std::process::Command::new("sha256sum").arg(&path).output().expect("sha256sum runs");
    _ = fs::remove_file(&path);
    String::from_utf8_lossy(&out.stdout).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_guest_uses_the_user_network() {
    let body: Vec<u8> =
        (0..8_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let port = serve(body.clone());
    let files = scratch("tftp");
    fs::create_dir_all(&files).expect("a temporary folder");
    fs::write(files.join("hello"), "from tftp").expect("a temporary file");
    let script = format!(
        "{LEASE}
ping -c 1 10.0.2.2 | grep -q '1 packets received' && echo REPORT ping ok
wget -q -O - http://10.0.2.2:{port}/ | sha256sum | sed 's/^/REPORT sum /'
tftp -g -r hello -l /hello 10.0.2.2 && echo REPORT tftp $(cat /hello)
until ip -6 addr show dev eth0 | grep -q 'fec0.*dynamic' && ! ip -6 addr show dev eth0 | grep -q tentative; do sleep 1; done
ping6 -c 1 fec0::2 | grep -q '1 packets received' && echo REPORT ping6 ok
(echo from the guest; cat) | nc -l -p 80 &
until grep -q ':0050 ' /proc/net/tcp /proc/net/tcp6; do sleep 1; done; echo REPORT listens
read line; echo REPORT end"
    );
    let image = initrd("user", &script);
    let forwarded = free_port();
    let netdev = format!(
        "user,id=n,hostname=gast,tftp={},hostfwd=tcp:127.0.0.1:{forwarded}-:80",
        files.display()
    );
    let args = ["-netdev", &netdev, "-device", "virtio-net-pci,netdev=n"];
    let mut vm = boot(&image.display().to_string(), &args);
    vm.wait_for("REPORT lease 10.0.2.15 10.0.2.2 10.0.2.3 gast");
    vm.wait_for("REPORT ping ok");
    vm.wait_for(&format!("REPORT sum {}", sha256(&body)));
    vm.wait_for("REPORT tftp from tftp");
    vm.wait_for("REPORT ping6 ok");
    vm.wait_for("REPORT listens");
    let mut client = TcpStream::connect(("127.0.0.1", forwarded)).expect("a forwarded port");
    let mut answer = [0; 15];
    client.read_exact(&mut answer).expect("the guest answers");
    assert_eq!(&answer, b"from the guest\n");
    drop(client);
    vm.send("\n");
    let ended = vm.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    _ = fs::remove_file(image);
    _ = fs::remove_dir_all(files);
}

#[test]
fn a_restricted_guest_reaches_nothing_of_the_host() {
    let port = serve(b"secret".to_vec());
    let script = format!(
        "ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
wget -T 5 -O - http://10.0.2.2:{port}/ 2>&1 | grep -q secret && echo REPORT leak
wget -T 5 -O - http://127.0.0.1.nip.invalid/ 2>&1 | grep -q secret && echo REPORT leak
echo REPORT done"
    );
    let image = initrd("restrict", &script);
    let args = ["-netdev", "user,id=n,restrict=on", "-device", "virtio-net-pci,netdev=n"];
    let ended = boot(&image.display().to_string(), &args).end();
    assert!(
        ended.out.contains("REPORT done") && !ended.out.contains("REPORT leak"),
        "{}",
        ended.out
    );
    _ = fs::remove_file(image);
}

#[test]
fn two_machines_meet_on_a_stream() {
    let socket = scratch("link");
    let script = |own: &str, rest: &str| format!("ip addr add {own}/24 dev eth0\n{rest}");
    let quiet = initrd("a", &script("10.9.0.1", "echo REPORT up; read line"));
    let ask =
        "until ping -c 1 10.9.0.1 | grep -q '1 packets received'; do :; done; echo REPORT met";
    let asks = initrd("b", &script("10.9.0.2", ask));
    let path = socket.display();
    let server = format!("stream,id=n,server=on,addr.type=unix,addr.path={path}");
    let client = format!("stream,id=n,addr.type=unix,addr.path={path},reconnect-ms=100");
    let card = |mac: &str| format!("virtio-net-pci,netdev=n,mac=52:54:00:00:00:{mac}");
    let first = ["-netdev", &client, "-device", &card("02")];
    let asking = boot(&asks.display().to_string(), &first);
    let second = ["-netdev", &server, "-device", &card("01")];
    let mut other = boot(&quiet.display().to_string(), &second);
    other.wait_for("REPORT up");
    let ended = asking.end();
    assert!(ended.out.contains("REPORT met"), "{}", ended.out);
    other.send("\n");
    assert_eq!(other.end().code, Some(0));
    _ = fs::remove_file(quiet);
    _ = fs::remove_file(asks);
}

#[test]
fn a_guest_uses_the_card_e1000e() {
    let body: Vec<u8> =
        (0..4_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let port = serve(body.clone());
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let upload = listener.local_addr().expect("bound").port();
    let counted = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the guest connects");
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        while total < 8 << 20 {
            match stream.read(&mut buffer) {
                Ok(n) if n > 0 => total += n,
                _ => break,
            }
        }
        total
    });
    let script = format!(
        "{LEASE}
ping -c 1 10.0.2.2 | grep -q '1 packets received' && echo REPORT ping ok
wget -q -O - http://10.0.2.2:{port}/ | sha256sum | sed 's/^/REPORT sum /'
dd if=/dev/zero bs=1048576 count=8 2>/dev/null | nc 10.0.2.2 {upload}
ip link add link eth0 name eth0.5 type vlan id 5 2>/dev/null; ip link set eth0 down; ip link set eth0 up
until grep -q 1 /sys/class/net/eth0/carrier; do sleep 1; done; echo REPORT up again
ls /sys/bus/pci/devices/*/msi_irqs | grep -c . | sed 's/^/REPORT vectors /'"
    );
    let image = initrd("e1000e", &script);
    let args = ["-netdev", "user,id=n", "-device", "e1000e,netdev=n"];
    let mut vm = boot(&image.display().to_string(), &args);
    vm.wait_for("REPORT lease 10.0.2.15 10.0.2.2 10.0.2.3");
    vm.wait_for("REPORT ping ok");
    vm.wait_for(&format!("REPORT sum {}", sha256(&body)));
    assert_eq!(counted.join().expect("the server"), 8 << 20);
    vm.wait_for("REPORT up again");
    vm.wait_for("REPORT vectors 3");
    let ended = vm.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    _ = fs::remove_file(image);
}

#[test]
fn names_are_resolved_and_a_tap_device_has_several_queues() {
    let mut space = Space::new("tap");
    let names = Path::new("/etc/netns").join(&space.name);
    fs::create_dir_all(&names).expect("a folder for the namespace");
    fs::write(names.join("resolv.conf"), "nameserver 127.0.0.1\n").expect("own file");
    space.python(SERVER);
    space.python(NAMES);
    ip(&format!("-n {} tuntap add tap0 mode tap vnet_hdr multi_queue", space.name));
    ip(&format!("-n {} addr add 10.9.0.1/24 dev tap0", space.name));
    ip(&format!("-n {} link set tap0 up", space.name));
    let script = format!(
        "{LEASE}
wget -q -O - http://files.test:8000/ | sed 's/^/REPORT got /'
ip addr add 10.9.0.2/24 dev eth1; ip link set eth1 up
ls -d /sys/class/net/eth1/queues/rx-* | grep -c . | sed 's/^/REPORT queues /'
until ping -c 1 10.9.0.1 | grep -q '1 packets received'; do :; done
ping -c 4 -s 1400 10.9.0.1 | grep -q '4 packets received' && echo REPORT pings"
    );
    let image = initrd("tap", &script);
    let args = command(
        &image.display().to_string(),
        &[
            "-smp",
            "2",
            "-netdev",
            "user,id=n",
            "-device",
            "virtio-net-pci,netdev=n",
            "-netdev",
            "tap,id=t,ifname=tap0,script=no,downscript=no,queues=2",
            "-device",
            "virtio-net-pci,netdev=t,mq=on,rss=on,hash=on,vectors=6",
        ],
    );
    let emulator = vm_tests::emulator().display().to_string();
    let mut all = vec!["netns", "exec", &space.name, &emulator];
    all.extend(args.iter().map(String::as_str));
    let mut vm = Vm::of(Path::new("ip"), &all, LIMIT);
    vm.wait_for("REPORT lease 10.0.2.15 10.0.2.2 10.0.2.3");
    vm.wait_for("REPORT got from the server");
    vm.wait_for("REPORT queues 2");
    vm.wait_for("REPORT pings");
    let ended = vm.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    _ = fs::remove_file(image);
}

#[test]
fn passt_serves_a_guest_and_comes_back() {
    // Another machine is on the network of the one that passt runs on. (Connections that come in
    // through Debian 12's passt get no further than the guest's answer, with QEMU as well.)
    let (mut space, other) = (Space::new("passt"), Space::new("other"));
    ip(&format!("-n {} link add veth0 type veth peer name veth1 netns {}", space.name, other.name));
    for (space, line) in [
        (&space, "addr add 192.0.2.2/24 dev veth0"),
        (&space, "link set veth0 up"),
        (&space, "route add default via 192.0.2.1"),
        (&other, "addr add 192.0.2.9/24 dev veth1"),
        (&other, "link set veth1 up"),
    ] {
        ip(&format!("-n {} {line}", space.name));
    }
    space.python(SERVER);
    let folder = scratch("passt-folder");
    fs::create_dir_all(&folder).expect("a temporary folder");
    // passt gives up its rights and has to write there all the same.
    let rights = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&folder, rights).expect("own folder");
    let socket = folder.join("socket").display().to_string();
    let begin = |space: &Space| {
        let mut passt = space.command("passt");
        passt.args(["-f", "-q", "-s", &socket]);
        passt.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("passt starts")
    };
    let first = begin(&space);
    let script = format!(
        "{LEASE}
wget -q -O - http://192.0.2.1:8000/ | sed 's/^/REPORT got /'
read line
until wget -q -T 2 -O - http://192.0.2.1:8000/ | sed 's/^/REPORT again /' | grep REPORT; do sleep 1; done"
    );
    let image = initrd("passt", &script);
    let netdev = format!("stream,id=n,addr.type=unix,addr.path={socket},reconnect-ms=100");
    let args = ["-netdev", &netdev, "-device", "virtio-net-pci,netdev=n"];
    let mut vm = boot(&image.display().to_string(), &args);
    vm.wait_for("REPORT lease 192.0.2.2 192.0.2.1");
    vm.wait_for("REPORT got from the server");
    space.stop(first);
    let second = begin(&space);
    space.running.push(second);
    vm.send("\n");
    vm.wait_for("REPORT again from the server");
    let ended = vm.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    _ = fs::remove_file(image);
    _ = fs::remove_dir_all(folder);
}

/// The firmware gets an address, the kernel comes by TFTP, and its own loader starts.
#[test]
fn firmware_boots_from_the_network() {
    let files = scratch("pxe");
    fs::create_dir_all(&files).expect("a temporary folder");
    fs::copy(guest("linux"), files.join("linux")).expect("the guest's kernel");
    let netdev = format!("user,id=n,tftp={},bootfile=linux", files.display());
    let args = ["-M", "virt", "-cpu", "max", "-m", "1G", "-display", "none", "-serial", "stdio"];
    let rest = ["-monitor", "none", "-nodefaults", "-bios", "/usr/share/AAVMF/AAVMF_CODE.fd"];
    let net = ["-netdev", &netdev, "-device", "virtio-net-pci,netdev=n,bootindex=1"];
    let mut vm = Vm::start(&[&args[..], &rest, &net].concat(), LIMIT);
    vm.wait_for("Start PXE over IPv4");
    vm.wait_for("EFI stub: Booting Linux Kernel");
    drop(vm);
    _ = fs::remove_dir_all(files);
}

/// A guest whose card's queues a program at the socket serves.
fn boot_with_vhost_user(image: &Path, socket: &str) -> Vm {
    let chardev = format!("socket,id=c,path={socket},server=on");
    let args = [
        "-object",
        "memory-backend-memfd,id=m,size=1G,share=on",
        "-machine",
        "memory-backend=m",
        "-chardev",
        &chardev,
        "-netdev",
        "vhost-user,id=n,chardev=c",
        "-device",
        "virtio-net-pci,netdev=n",
    ];
    boot(&image.display().to_string(), &args)
}

/// A program outside serves the queues; it is killed, and another one takes over.
#[test]
fn a_vhost_user_program_serves_a_guest_and_is_replaced() {
    let socket = scratch("vhost-socket");
    let path = socket.display().to_string();
    let script = "ip addr add 10.7.0.2/24 dev eth0
until ping -c 1 10.7.0.1 | grep -q '1 packets received'; do :; done; echo REPORT first
read line
until ping -c 1 10.7.0.1 | grep -q '1 packets received'; do :; done; echo REPORT second
cat /sys/class/net/eth0/statistics/rx_errors | sed 's/^/REPORT errors /'";
    let image = initrd("vhost", script);
    let mut vm = boot_with_vhost_user(&image, &path);
    let program = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/vhost-user.py");
        let mut python = Command::new("python3");
        python.arg(source).arg(&path).stdin(Stdio::null());
        while !socket.exists() {
            thread::yield_now();
        }
        python.spawn().expect("python3 starts")
    };
    let mut first = program();
    vm.wait_for("REPORT first");
    first.kill().expect("own child");
    first.wait().expect("own child");
    let mut second = program();
    vm.send("\n");
    vm.wait_for("REPORT second");
    vm.wait_for("REPORT errors 0");
    let ended = vm.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    _ = second.wait();
    _ = fs::remove_file(image);
}

/// DPDK's own program serves the queues and answers echoes; it is killed in the midst, another one
/// takes over, and the guest goes on.
#[test]
fn dpdk_serves_a_guest_and_is_replaced() {
    let socket = scratch("dpdk-socket");
    let path = socket.display().to_string();
    let script = "ip addr add 10.7.0.2/24 dev eth0
until ping -c 1 10.7.0.1 | grep -q '1 packets received'; do :; done
ping -c 5 -s 1400 10.7.0.1 | grep -q '5 packets received' && echo REPORT first
read line
until ping -c 1 10.7.0.1 | grep -q '1 packets received'; do :; done
ping -c 5 -s 1400 10.7.0.1 | grep -q '5 packets received' && echo REPORT second";
    let image = initrd("dpdk", script);
    let mut vm = boot_with_vhost_user(&image, &path);
    let program = |name: &str| {
        let device = format!("net_vhost0,iface={path},queues=1,client=1");
        let prefix = format!("tnm-{name}-{}", std::process::id());
        let own = ["-l", "0,1", "--no-huge", "-m", "256", "--no-pci", "--file-prefix", &prefix];
        let rest = ["--forward-mode=icmpecho", "--total-num-mbufs=4096", "--port-topology=loop"];
        let mut pmd = Command::new("dpdk-testpmd");
        pmd.args(own).args(["--vdev", &device, "--"]).args(rest).arg("--auto-start");
        pmd.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        pmd.spawn().expect("dpdk-testpmd starts")
    };
    let mut first = program("a");
    vm.wait_for("REPORT first");
    first.kill().expect("own child");
    first.wait().expect("own child");
    let mut second = program("b");
    vm.send("\n");
    vm.wait_for("REPORT second");
    let ended = vm.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    _ = second.kill();
    _ = second.wait();
    _ = fs::remove_file(image);
}
