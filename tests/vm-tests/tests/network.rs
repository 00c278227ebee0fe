//! Debian's kernel on the network of `-netdev user`, and two machines on one link.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use vm_tests::initrd::entry;
use vm_tests::{Vm, guest, scratch};

const LIMIT: u64 = 180;

/// What every guest does first.
const BEGIN: &str = "#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe virtio_pci; modprobe virtio_net; modprobe ipv6
until [ -e /sys/class/net/eth0 ]; do sleep 1; done
ip link set lo up; ip link set eth0 up
";

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
    let kernel = guest("linux");
    let append = "console=ttyAMA0 quiet panic=-1 rdinit=/net-init";
    let common = ["-M", "virt", "-cpu", "max", "-m", "1G", "-no-reboot", "-kernel", &kernel];
    let rest = ["-initrd", initrd, "-append", append, "-display", "none", "-serial", "stdio"];
    Vm::start(&[&common[..], &rest, &["-monitor", "none", "-nodefaults"], args].concat(), LIMIT)
}

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
        "cat > /lease <<'X'
#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev eth0; ip route add default via $router
echo REPORT lease $ip $router $dns $hostname
X
chmod +x /lease; udhcpc -i eth0 -s /lease -q -n 2>/dev/null | grep REPORT
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
