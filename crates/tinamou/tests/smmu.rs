//! The SMMU from outside: our program and the installed peer get the same registers, commands, tables
//! and requests of an NVMe controller by qtest, and give the same answers and event records.
//!
//! Where they differ on purpose is not asked: the peer translates a context's table addresses when it
//! reads the context, also of a range that nobody uses, records stage 2 faults of stage 1's tables
//! only where the context wants records, and tells the table's address and not the descriptor's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const OURS: &str = env!("CARGO_BIN_EXE_tinamou");
const PEER: &str = "qemu-system-aarch64";
const SMMU: u64 = 0x0905_0000;
const CONFIG: u64 = 0x40_1000_0000 + (2 << 15);
const NVME: u64 = 0x1000_0000;
const CMDQ: u64 = 0x4001_0000;
const EVENTQ: u64 = 0x4002_0000;
const STREAMS: u64 = 0x4003_0000;
const CONTEXT: u64 = 0x4004_0000;
/// Tables of stage 1 and 2: a level each 64 KiB.
const FIRST: u64 = 0x4010_0000;
const SECOND: u64 = 0x4020_0000;
/// Submission queue, completion queue, buffer, each in 64 KiB of its own.
const DATA: u64 = 0x4030_0000;
/// Where the device sees them by stage 1.
const SEEN: u64 = 0x12_3450_0000;
const STREAM: u64 = 2 << 3;

struct Machine {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    command: u32,
}

impl Drop for Machine {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Machine {
    fn start(program: &str, machine: &str) -> Option<Machine> {
        use std::os::unix::process::CommandExt as _;
        let mut child = Command::new(program)
            .arg0(PEER)
            .args([
                "-M",
                machine,
                "-cpu",
                "max",
                "-m",
                "256",
                "-nodefaults",
                "-S",
                "-display",
                "none",
            ])
            .args(["-drive", "if=none,id=d,driver=null-co,read-zeroes=on", "-qtest", "stdio"])
            .args(["-device", "nvme,serial=x,drive=d,addr=2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let (to, from) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        Some(Machine { child, to, from, command: 0 })
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
        }
    }

    fn get(&mut self, at: u64) -> u32 {
        let answer = self.ask(&format!("readl {at:#x}"));
        let digits = answer.strip_prefix("0x").expect("a number");
        u32::try_from(u64::from_str_radix(digits, 16).expect("a number")).expect("32 bits")
    }

    fn put(&mut self, at: u64, value: u32) {
        self.ask(&format!("writel {at:#x} {value:#x}"));
    }

    fn put64(&mut self, at: u64, value: u64) {
        self.ask(&format!("writeq {at:#x} {value:#x}"));
    }

    fn words(&mut self, at: u64, words: &[u64]) {
        let hex: String =
            words.iter().flat_map(|w| w.to_le_bytes()).map(|b| format!("{b:02x}")).collect();
        self.ask(&format!("write {at:#x} {:#x} 0x{hex}", words.len() * 8));
    }

    fn bytes(&mut self, at: u64, len: usize) -> String {
        self.ask(&format!("read {at:#x} {len:#x}"))
    }

    fn queues(&mut self) {
        self.put(CONFIG + 0x10, 0x1000_0000);
        self.put(CONFIG + 4, 6);
        self.put64(SMMU + 0x90, CMDQ | 8);
        self.put64(SMMU + 0xa0, EVENTQ | 8);
        self.put(SMMU + 0x20, 0xd);
    }

    /// Carries out a command; how the queue stands. An error is acknowledged.
    fn command(&mut self, words: [u64; 2]) -> (u32, u32) {
        self.words(CMDQ + u64::from(self.command & 0xff) * 16, &words);
        self.command = (self.command + 1) & 0x1ff;
        self.put(SMMU + 0x98, self.command);
        let state = (self.get(SMMU + 0x9c), self.get(SMMU + 0x60));
        if state.1 & 1 != self.get(SMMU + 0x64) & 1 {
            self.put(SMMU + 0x9c, self.command);
            self.put(SMMU + 0x64, state.1);
        }
        state
    }
}

fn both<T>(machine: &str, f: impl Fn(&mut Machine) -> T) -> Option<(T, T)> {
    let mut theirs = Machine::start(PEER, machine)?;
    let mut ours = Machine::start(OURS, machine).expect("our program");
    Some((f(&mut ours), f(&mut theirs)))
}

fn registers(m: &mut Machine) -> Vec<(u64, u32)> {
    let all = || (0..0x200).chain(0xfd0..0x1000).chain(0x1_0000..0x1_0100).step_by(4);
    let mut out: Vec<_> = all().map(|at| (at, m.get(SMMU + at))).collect();
    for at in (0..0x200).step_by(4).filter(|at| ![0x20, 0x64, 0x98].contains(at)) {
        m.put(SMMU + at, u32::MAX);
        out.push((at, m.get(SMMU + at)));
    }
    out
}

#[test]
fn registers_are_the_peers() {
    for machine in ["virt,iommu=smmuv3", "virt-9.1,iommu=smmuv3"] {
        let Some((ours, theirs)) = both(machine, registers) else { return };
        for (a, b) in ours.iter().zip(&theirs) {
            assert_eq!(a, b, "{machine}: offset {:#x}", a.0);
        }
    }
}

#[test]
fn commands_are_taken_and_refused_as_by_the_peer() {
    let answers = |m: &mut Machine| {
        m.queues();
        (0..256).map(|opcode| m.command([opcode, 0])).collect::<Vec<_>>()
    };
    for machine in ["virt,iommu=smmuv3", "virt-9.1,iommu=smmuv3"] {
        let Some((ours, theirs)) = both(machine, answers) else { return };
        for (opcode, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(a, b, "{machine}: command {opcode:#x}");
        }
    }
}

/// What a case changes.
#[derive(Clone, Copy, Default)]
struct Case {
    /// `Config` of the stream table entry.
    config: u64,
    /// log2 of the granule; 0: 12.
    granule: u64,
    /// Bits that are toggled: of the entry, the context, the buffer's leaf of either stage.
    ste: [u64; 3],
    cd: u64,
    leaf1: u64,
    leaf2: u64,
    /// The stream table has two levels, with this span.
    span: Option<u64>,
    /// log2 of streams; 0: 8.
    streams: u32,
}

const VALID_LEAF: u64 = 3 | 1 << 10;

/// Tables of four or three levels that map three pieces of 64 KiB; the entries of the buffer's are
/// toggled. Gives the start level.
fn tables(m: &mut Machine, base: u64, granule: u64, maps: &[(u64, u64, u64)]) -> u64 {
    let stride = granule - 3;
    let start = 4 - (40 - granule).div_ceil(stride);
    for level in 0..4 {
        for piece in 0..4 {
            m.words(base + level * 0x4_0000 + piece * 0x1_0000, &[0; 16]);
        }
    }
    for (from, to, toggle) in maps {
        for page in 0..0x1_0000u64 >> granule {
            let at = from + (page << granule);
            for level in start..4 {
                let shift = granule + stride * (3 - level);
                let index = at >> shift & ((1 << stride.min(40 - shift)) - 1);
                let entry = if level == 3 {
                    (to + (page << granule)) | VALID_LEAF ^ toggle
                } else {
                    (base + (level + 1) * 0x4_0000) | 3
                };
                m.words(base + level * 0x4_0000 + index * 8, &[entry]);
            }
        }
    }
    start
}

fn request(m: &mut Machine, case: &Case) -> (String, String) {
    m.put(NVME + 0x14, 0);
    while m.get(NVME + 0x1c) & 1 != 0 {}
    let granule = if case.granule == 0 { 12 } else { case.granule };
    let field = match granule {
        12 => 0,
        14 => 2,
        _ => 1u64,
    };
    let (one, two) = (case.config & 5 == 5, case.config & 6 == 6);
    let seen = if one { SEEN } else { DATA };
    let pieces = [0, 0x1_0000, 0x2_0000];
    let toggles = |toggle| [0, 0, toggle];
    if one {
        let maps = pieces.iter().zip(toggles(case.leaf1));
        let maps: Vec<_> = maps.map(|(at, t)| (SEEN + at, DATA + at, t ^ 1 << 6)).collect();
        tables(m, FIRST, granule, &maps);
    }
    let mut level = 1;
    if two {
        let mut maps: Vec<_> = pieces
            .iter()
            .zip(toggles(case.leaf2))
            .map(|(at, t)| (DATA + at, DATA + at, t ^ 3 << 6))
            .collect();
        // The context and the tables of stage 1.
        let own = (0..16).map(|n| FIRST + n * 0x1_0000).chain([CONTEXT]);
        maps.extend(own.map(|at| (at, at, 3 << 6)));
        level = tables(m, SECOND, granule, &maps);
    }
    let sl0 = if granule == 12 { 2 - level } else { 3 - level };
    let start = 4 - (40 - granule).div_ceil(granule - 3);
    let ste = [
        1 | case.config << 1 | CONTEXT,
        0,
        24 << 32 | sl0 << 38 | field << 46 | 4 << 48 | 1 << 51 | 1 << 58,
        SECOND + start * 0x4_0000,
    ];
    let cd = 24 | field << 6 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 5 << 48;
    m.words(CONTEXT, &[cd ^ case.cd, FIRST + start * 0x4_0000, 0, 0, 0, 0, 0, 0]);
    let mut entry = ste;
    for (word, toggle) in entry.iter_mut().zip(case.ste) {
        *word ^= toggle;
    }
    let streams = if case.streams == 0 { 8 } else { case.streams };
    m.words(STREAMS + STREAM * 64, &entry);
    m.put64(SMMU + 0x80, STREAMS);
    m.put(SMMU + 0x88, streams);
    if let Some(span) = case.span {
        m.words(STREAMS + 0x8000, &[STREAMS | span]);
        m.put64(SMMU + 0x80, STREAMS + 0x8000);
        m.put(SMMU + 0x88, streams | 8 << 6 | 1 << 16);
    }
    m.command([4, 31]);
    m.command([0x30, 0]);
    let before = m.get(SMMU + 0x1_00a8);
    m.put(SMMU + 0x1_00ac, before);
    for piece in pieces {
        m.words(DATA + piece, &[0; 16]);
    }
    // Identify, into the buffer.
    m.words(DATA, &[0x55_0006, 0, 0, seen + 0x2_0000, 0, 1, 0, 0]);
    m.put(NVME + 0x24, 0x1f_001f);
    m.put64(NVME + 0x28, seen);
    m.put64(NVME + 0x30, seen + 0x1_0000);
    m.put(NVME + 0x14, 0x46_0001);
    m.put(NVME + 0x1000, 1);
    let mut tries = 0;
    // The controller works on its own; it is done when it completed, or an event came.
    let after = loop {
        let now = m.get(SMMU + 0x1_00a8);
        let done = m.bytes(DATA + 0x1_0000, 16).contains(|c| !['0', 'x'].contains(&c));
        tries += 1;
        if now != before || done || tries > 200 {
            break now;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    let event = match after == before {
        true => String::new(),
        false => m.bytes(EVENTQ + u64::from(before & 0xff) * 32, 32),
    };
    let data = if event.is_empty() { m.bytes(DATA + 0x2_0000, 8) } else { String::new() };
    (event, data)
}

#[test]
fn requests_are_translated_and_recorded_as_by_the_peer() {
    let nested = Case { config: 7, ..Case::default() };
    let second = Case { config: 6, ..Case::default() };
    let first = Case { config: 5, ..Case::default() };
    let cases = [
        ("bypass", Case { config: 4, ..first }),
        ("abort", Case { config: 0, ..first }),
        ("invalid entry", Case { ste: [1, 0, 0], ..first }),
        ("stream out of range", Case { streams: 4, ..first }),
        ("substreams", Case { ste: [1 << 59, 0, 0], ..first }),
        ("stage 1", first),
        ("stage 1, 16 KiB", Case { granule: 14, ..first }),
        ("stage 1, 64 KiB", Case { granule: 16, ..first }),
        ("read-only", Case { leaf1: 1 << 7, ..first }),
        ("unmapped", Case { leaf1: 1, ..first }),
        ("access flag", Case { leaf1: 1 << 10, ..first }),
        ("access flag, no fault", Case { leaf1: 1 << 10, cd: 1 << 35, ..first }),
        ("no record", Case { leaf1: 1, cd: 1 << 45, ..first }),
        ("invalid context", Case { cd: 1 << 31, ..first }),
        ("32-bit context", Case { cd: 1 << 41, ..first }),
        ("stalls", Case { cd: 1 << 44, ..first }),
        ("walks off", Case { cd: 1 << 14, ..first }),
        ("address size", Case { cd: 4 << 32, leaf1: 1 << 40, ..first }),
        ("two levels", Case { span: Some(9), ..first }),
        ("two levels, no span", Case { span: Some(0), ..first }),
        ("two levels, short span", Case { span: Some(4), ..first }),
        ("stage 2", second),
        ("stage 2, 16 KiB", Case { granule: 14, ..second }),
        ("stage 2, 64 KiB", Case { granule: 16, ..second }),
        ("stage 2, read-only", Case { leaf2: 1 << 7, ..second }),
        ("stage 2, unmapped", Case { leaf2: 1, ..second }),
        ("stage 2, no record", Case { leaf2: 1, ste: [0, 0, 1 << 58], ..second }),
        ("stage 2, 32-bit", Case { ste: [0, 0, 1 << 51], ..second }),
        ("nested", nested),
        ("nested, 64 KiB", Case { granule: 16, ..nested }),
        ("nested, read-only by 1", Case { leaf1: 1 << 7, ..nested }),
        ("nested, read-only by 2", Case { leaf2: 1 << 7, ..nested }),
        ("nested, unmapped by 2", Case { leaf2: 1, ..nested }),
    ];
    let run = |m: &mut Machine| {
        m.queues();
        cases.iter().map(|(_, case)| request(m, case)).collect::<Vec<_>>()
    };
    let Some((ours, theirs)) = both("virt,iommu=smmuv3", run) else {
        eprintln!("{PEER} is not installed: nothing compared");
        return;
    };
    for ((name, _), (a, b)) in cases.iter().zip(ours.iter().zip(&theirs)) {
        assert_eq!(a, b, "{name}: event and data, ours and the peer's");
    }
    let went = |name: &str| {
        let at = cases.iter().position(|(n, _)| *n == name).expect("a case");
        ours[at].1.contains('3')
    };
    for name in ["bypass", "stage 1", "stage 2", "nested", "nested, 64 KiB", "two levels"] {
        assert!(went(name), "{name}: the request goes through");
    }
}
