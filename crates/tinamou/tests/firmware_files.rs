//! What firmware finds in fw_cfg (ACPI, SMBIOS, boot order) against the installed peer, byte by byte.
//!
//! Both emulators run with a qtest socket on stdio and no guest; the test reads every file by DMA.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const OURS: &str = env!("CARGO_BIN_EXE_tinamou");
const PEER: &str = "qemu-system-aarch64";
const RAM: u64 = 0x4000_0000;
const DMA: u64 = 0x0902_0010;
const DIRECTORY: u16 = 0x19;

struct Qtest {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Qtest {
    fn start(program: &str, name: &str, args: &[&str]) -> Option<Qtest> {
        use std::os::unix::process::CommandExt as _;
        let mut child = Command::new(program)
            .arg0(name)
            .args(args)
            .args(["-nodefaults", "-S", "-display", "none", "-qtest", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .ok()?;
        let (to, from) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        Some(Qtest { child, to, from })
    }

    fn ask(&mut self, line: &str) -> String {
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

    /// The first bytes of an item, through the DMA interface.
    fn item(&mut self, key: u16, len: usize) -> Vec<u8> {
        let control = u32::from(key) << 16 | 8 | 2;
        let mut request = control.to_be_bytes().to_vec();
        request.extend((len as u32).to_be_bytes());
        request.extend((RAM + 0x1000).to_be_bytes());
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        self.ask(&format!("write {RAM:#x} {:#x} 0x{}", request.len(), hex(&request)));
        self.ask(&format!("writeq {DMA:#x} {:#x}", RAM.swap_bytes()));
        let mut out = Vec::new();
        while out.len() < len {
            let part = (len - out.len()).min(4096);
            let at = RAM + 0x1000 + out.len() as u64;
            let answer = self.ask(&format!("read {at:#x} {part:#x}"));
            let digits = answer.strip_prefix("0x").expect("bytes");
            let byte = |n| u8::from_str_radix(&digits[n..n + 2], 16).expect("a byte");
            out.extend((0..digits.len()).step_by(2).map(byte));
        }
        out
    }

    fn files(mut self) -> BTreeMap<String, Vec<u8>> {
        let count = u32::from_be_bytes(self.item(DIRECTORY, 4).try_into().expect("4 bytes"));
        let directory = self.item(DIRECTORY, 4 + 64 * count as usize);
        let mut out = BTreeMap::new();
        for entry in directory[4..].chunks(64) {
            let size = u32::from_be_bytes(entry[..4].try_into().expect("4 bytes"));
            let key = u16::from_be_bytes(entry[4..6].try_into().expect("2 bytes"));
            let name = entry[8..].split(|b| *b == 0).next().expect("a name");
            let name = String::from_utf8_lossy(name).into_owned();
            out.insert(name, self.item(key, size as usize));
        }
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        out
    }
}

fn differing(options: &str) -> Option<Vec<String>> {
    let args: Vec<&str> = options.split_whitespace().collect();
    let theirs = Qtest::start(PEER, PEER, &args)?.files();
    let ours = Qtest::start(OURS, PEER, &args).expect("our program").files();
    let mut names: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
    names.sort();
    names.dedup();
    let differ = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
    Some(differ.cloned().collect())
}

/// What the peer tells of an ITS that the machine has not (`its=off`, versions before 6.2) is not told
/// here: a guest that believed it would touch memory that is not there.
const OF_THE_ITS: [&str; 3] = ["etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"];

/// Command lines whose files are the peer's.
const CASES: &[&str] = &[
    "-M virt -cpu max -m 1024",
    "-M virt -cpu max -device edu,id=e,addr=5 -device pcie-root-port,id=p \
         -smbios type=41,designation=x,kind=ethernet,pcidev=e",
    "-M virt,gic-version=3 -cpu max -m 1024 -smp 4",
    "-M virt,gic-version=3 -cpu max -smp 4 FIRMWARE",
    "-M virt,gic-version=3,virtualization=on -cpu max -smp 2",
    "-M virt,gic-version=3,virtualization=on -cpu cortex-a57 -smp 2",
    "-M virt,gic-version=3,secure=on -cpu max -smp 2 FIRMWARE",
    "-M virt -cpu cortex-a57 -smp 8,sockets=2,clusters=2,cores=2",
    "-M virt,highmem=off -cpu cortex-a57",
    "-M virt,gic-version=3 -cpu cortex-a57 -smp 130",
    "-M virt,acpi=off -cpu cortex-a57",
    "-M virt,x-oem-id=ACME,x-oem-table-id=TINA -cpu cortex-a57",
    "-M virt-2.8 -cpu cortex-a57",
    "-M virt-4.1 -cpu cortex-a57 FIRMWARE",
    "-M virt -cpu max -serial null -serial null",
    "-M virt -cpu max -m 512 -smp 4 NODES -numa node,memdev=m0,cpus=0-1 \
         -numa node,memdev=m1,cpus=2-3 -numa dist,src=0,dst=1,val=20",
    "-M virt -cpu max -m 512 -smp 4,sockets=2 NODES -numa node,memdev=m0 -numa node,memdev=m1 \
         -numa node -numa cpu,node-id=2,socket-id=1 -numa cpu,node-id=0,socket-id=0",
    "-M virt,hmat=on -cpu max -m 512 -smp 4 NODES -numa node,nodeid=0,memdev=m0,cpus=0-3,initiator=0 \
         -numa node,nodeid=1,memdev=m1,initiator=0 \
         -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=5 \
         -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=10 \
         -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-bandwidth,bandwidth=200M \
         -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=100M \
         -numa hmat-cache,node-id=0,size=10K,level=1,associativity=direct,policy=write-back,line=8 \
         -numa hmat-cache,node-id=0,size=20K,level=2,associativity=complex,policy=none,line=8",
    "-M virt,hmat=on -cpu max -m 512 -smp 4 NODES -numa node,memdev=m0,cpus=0-1 \
         -numa node,memdev=m1 -numa node,cpus=2-3 \
         -numa hmat-lb,initiator=2,target=1,hierarchy=third-level,data-type=read-latency,latency=65535 \
         -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=100 \
         -numa hmat-lb,initiator=2,target=1,hierarchy=memory,data-type=access-latency,latency=2000",
    "-M virt -cpu max -m 512,slots=2,maxmem=4G FIRMWARE",
    "-M virt -cpu max -m 512,slots=17,maxmem=40G NODES -numa node,memdev=m0 -numa node,memdev=m1 \
         FIRMWARE",
    "-M virt -cpu max -m 512,slots=2,maxmem=4G",
    "-M virt -cpu max -m 512,maxmem=4G FIRMWARE",
    "-M virt,iommu=smmuv3 -cpu max -m 512",
    "-M virt-9.1,iommu=smmuv3,gic-version=3 -cpu max -m 512",
    "-M virt,iommu=smmuv3,default-bus-bypass-iommu=on -cpu max -m 512",
    "-M virt,iommu=smmuv3,default-bus-bypass-iommu=on -cpu max -device pxb-pcie,bus_nr=8",
    "-M virt,iommu=smmuv3 -cpu max -device pxb-pcie,bus_nr=8,bypass_iommu=on",
    "-M virt,iommu=smmuv3 -cpu max -device pxb-pcie,bus_nr=8 -device pxb-pcie,bus_nr=16,bus=pcie.0",
    "-M virt -cpu max -m 512 -smp 2 NODES -numa node,memdev=m0 -numa node,memdev=m1 \
         -device pxb-pcie,bus_nr=200,id=p2,numa_node=1 -device pxb-pcie,bus_nr=8,id=p1,bus=pcie.0 \
         -device pcie-root-port,bus=p1,id=r,chassis=1,slot=1 \
         -device pcie-root-port,bus=p2,id=s,chassis=1,slot=2",
    "-M virt -cpu max -uuid 11111111-2222-3333-4444-555555555555 \
         -smbios type=0,vendor=V,version=1,date=d,release=1.2,uefi=on \
         -smbios type=1,manufacturer=a,product=p,version=v,serial=s,sku=k,family=f \
         -smbios type=2,manufacturer=m2,serial=s2,asset=a2,location=l2",
    "-M virt -cpu max -smp 6,sockets=2,cores=3 -smbios type=2 \
         -smbios type=3,manufacturer=m3,version=v3,serial=s3,asset=a3,sku=k3 \
         -smbios type=4,sock_pfx=S,manufacturer=m,version=v,serial=s,asset=a,part=p,max-speed=2500 \
         -smbios type=4,current-speed=2400,processor-id=0x123456789abc \
         -smbios type=11,value=hello,value=w2",
    "-M virt-8.0 -cpu cortex-a57 -m 18G \
         -smbios type=8,internal_reference=ir,external_reference=er,connector_type=1,port_type=2 \
         -smbios type=17,loc_pfx=L,bank=B,manufacturer=m,serial=s,asset=a,part=p,speed=3200 \
         -smbios type=9,slot_designation=sd,slot_type=1,slot_data_bus_width=2,current_usage=3",
    "-M virt -cpu max -boot strict=on,splash-time=5000,reboot-timeout=7 \
         -device virtio-net-pci,bootindex=2,addr=6 -device virtio-net-device,bootindex=1 \
         -device virtio-scsi-pci -drive if=none,id=d,driver=null-co,read-zeroes=on \
         -device scsi-hd,drive=d,bootindex=5,scsi-id=2,lun=1 \
         -drive if=none,id=e,driver=null-co,read-zeroes=on -device virtio-blk-pci,drive=e,bootindex=4",
];

#[test]
fn firmware_finds_what_the_peer_gives() {
    const NODES: &str = "-object memory-backend-ram,id=m0,size=256M \
                         -object memory-backend-ram,id=m1,size=256M";
    const FIRMWARE: &str = "-bios /usr/share/AAVMF/AAVMF_CODE.fd";
    for case in CASES {
        let options = case.replace("FIRMWARE", FIRMWARE).replace("NODES", NODES);
        let Some(differing) = differing(&options) else {
            eprintln!("{PEER} is not installed: nothing compared");
            return;
        };
        assert_eq!(differing, [""; 0], "{case}");
    }
    let quirk = differing("-M virt,gic-version=3,its=off -cpu max -smp 2,clusters=1,threads=2");
    assert_eq!(quirk.expect("the peer"), OF_THE_ITS);
}

/// The device tree as text with all in order; `None` if a program is not installed.
fn device_tree(program: &str, options: &str) -> Option<String> {
    use std::os::unix::process::CommandExt as _;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (machine, rest) = options.split_once(' ').expect("a machine first");
    let machine = format!("{machine},dtb-randomness=off,dumpdtb={}", file.path().display());
    let mut command = Command::new(program);
    command.arg0(PEER).args(["-display", "none", "-M", &machine]).args(rest.split_whitespace());
    command.stderr(Stdio::null()).status().ok()?;
    let text = Command::new("dtc")
        .args(["-s", "-q", "-I", "dtb", "-O", "dts"])
        .arg(file.path())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&text.stdout).into_owned())
}

#[test]
fn device_trees_tell_of_nodes_and_iommus_as_the_peers() {
    const NODES: &str = "-object memory-backend-ram,id=m0,size=256M \
                         -object memory-backend-ram,id=m1,size=256M";
    let cases = [
        "virt -cpu max -m 512 -smp 4 NODES -numa node,memdev=m0,cpus=0-1 \
         -numa node,memdev=m1,cpus=2-3 -numa dist,src=0,dst=1,val=20",
        "virt -cpu max -m 512 -smp 4,sockets=2 NODES -numa node,memdev=m0 -numa node,memdev=m1",
        "virt -cpu max -m 512 -smp 4 NODES -numa node -numa node,memdev=m0 -numa node,memdev=m1",
        "virt-5.0 -cpu max -m 512 -smp 4,sockets=4 -numa node,mem=200M -numa node,mem=312M",
        "virt -cpu max -m 512,slots=2,maxmem=1G",
        "virt -cpu max -m 512,maxmem=1G",
        "virt,iommu=smmuv3 -cpu max -m 512",
        "virt,iommu=smmuv3,gic-version=3 -cpu max -smp 3",
        "virt,iommu=smmuv3,default-bus-bypass-iommu=on -cpu max",
        "virt-9.1,iommu=smmuv3,gic-version=3,its=off -cpu max",
    ];
    for case in cases {
        let options = case.replace("NODES", NODES);
        let Some(theirs) = device_tree(PEER, &options).filter(|text| !text.is_empty()) else {
            eprintln!("{PEER} or dtc is not installed: nothing compared");
            return;
        };
        let ours = device_tree(OURS, &options).expect("our program");
        assert!(ours == theirs, "{case}:\n{ours}\n---\n{theirs}");
    }
}
