//! The fuzz bodies on a few thousand random inputs each, made from words that the parsers know.

#[path = "../../../fuzz/bodies.rs"]
#[expect(unreachable_pub, reason = "shared with the fuzz targets")]
mod bodies;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn at(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % limit.max(1)
    }
}

/// Inputs of random words and random bytes.
fn run(words: &[&[u8]], body: fn(&[u8])) {
    run_long(words, body, 24);
}

fn run_long(words: &[&[u8]], body: fn(&[u8]), most: usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..4000 {
        let mut input = Vec::new();
        for _ in 0..random.at(most) {
            if random.at(6) == 0 {
                input.push(u8::try_from(random.at(256)).unwrap_or(0));
            } else if let Some(word) = words.get(random.at(words.len())) {
                input.extend(*word);
            }
        }
        body(&input);
    }
}

#[test]
fn json() {
    let words: [&[u8]; 20] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"flag\"",
        b"'small'",
        b"\"list\"",
        b"\"inner\"",
        b"true",
        b"null",
        b"1",
        b"-2.5e3",
        b"\"\\u00e9\"",
        b"\"\\ud83d\\ude00\"",
        b" ",
        b"\n",
        b"\"\xc3\xa9\"",
        b"99999999999999999999",
    ];
    run(&words, bodies::json);
}

#[test]
fn keyval() {
    let words: [&[u8]; 14] = [
        b"flag", b"small", b"size", b"list", b"inner", b".", b"0", b"1", b"=", b",", b",,", b"on",
        b"help", b"1.5G",
    ];
    run(&words, bodies::keyval);
}

#[test]
fn net_user() {
    // Ethernet, ARP, IPv4 with UDP to DHCP, TFTP and DNS, TCP, ICMP, IPv6 with its messages.
    let ethernet = b"\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56";
    let words: [&[u8]; 22] = [
        b"\x00\x2a",
        b"\x00\x3e",
        b"\x01\x60",
        ethernet,
        b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01",
        b"\x08\x00\x45\x00\x00\x30\x00\x00\x00\x00\x40\x06\x00\x00",
        b"\x08\x00\x45\x00\x01\x40\x00\x00\x00\x00\x40\x11\x00\x00",
        b"\x08\x00\x45\x00\x00\x30\x00\x00\x20\x00\x40\x11\x00\x00",
        b"\x08\x00\x45\x00\x00\x30\x00\x00\x00\x00\x40\x01\x00\x00",
        b"\x86\xdd\x60\x00\x00\x00\x00\x20\x3a\xff",
        b"\x0a\x00\x02\x0f\x0a\x00\x02\x02",
        b"\x0a\x00\x02\x0f\xff\xff\xff\xff",
        b"\x00\x44\x00\x43\x01\x2c\x00\x00",
        b"\x10\x00\x00\x45\x00\x1c\x00\x00\x00\x01f\x00octet\x00",
        b"\x01\x01\x06\x00\x01\x02\x03\x04",
        b"\x63\x82\x53\x63\x35\x01\x03\x32\x04\xff",
        b"\x00\x07\x00\x50\x00\x00\x00\x00\x00\x00\x00\x00\x70\x02\x20\x00",
        b"\x02\x04\x05\xb4\x03\x03\x07\x00",
        b"\x08\x00\x00\x00\x00\x01",
        b"\x85\x00\x00\x00",
        b"\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02",
        b"\xfe\xc0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02",
    ];
    run(&words, bodies::net_user);
}

#[test]
fn net_option() {
    let words: [&[u8]; 14] = [
        b"user,",
        b"type=stream",
        b"id=n",
        b"hostfwd=",
        b"tcp:",
        b"udp:",
        b"127.0.0.1:",
        b"-",
        b":",
        b"22",
        b",,",
        b",",
        b"restrict=on",
        b"52:54:00:12:34:56",
    ];
    run(&words, bodies::net_option);
}

#[test]
fn net_stream() {
    run(&[b"\0\0\0\x04", b"\0\x01\0\x40", b"\0", b"\xff", b"abcd"], bodies::net_stream);
}

#[test]
fn net_control() {
    let words: [&[u8]; 11] = [
        b"\0\0",
        b"\x01\0",
        b"\x01\x01",
        b"\x02\0",
        b"\x04\0",
        b"\x05\0",
        b"\x02\0\0\0",
        b"\xff",
        b"\x04\x01\xff\x01\0\0\x01\0\0\0",
        b"\x04\x02\xff\x01\0\0\0\0\0\0\0\0\0\0",
        b"\x01\0\x02\xaa\xbb",
    ];
    run(&words, bodies::net_control);
}

#[test]
fn net_segment() {
    let words: [&[u8]; 9] = [
        b"\x01\x01\x36\x00\x64\x00\x22\x00\x10\x00",
        b"\x01\x05\x36\x00\x01\x00\x22\x00\x06\x00",
        b"\x01\x03\x36\x00\xc8\x05\x22\x00\x06\x00",
        b"\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56",
        b"\x81\x00\x00\x05",
        b"\x08\x00\x45\x00\x00\x30\x00\x00\x00\x00\x40\x06\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02",
        b"\x86\xdd\x60\x00\x00\x00\x00\x20\x06\xff",
        b"\x00\x07\x00\x50\x00\x00\x00\x00\x00\x00\x00\x00\x50\x02\x20\x00\x00\x00\x00\x00",
        &[7; 300],
    ];
    run(&words, bodies::net_segment);
}

#[test]
fn e1000e() {
    let words: [&[u8]; 10] = [
        b"\x00\x10\x00\x00",
        b"\x02\x10\x00\x00",
        b"\x03\x10\x00\x00",
        b"\x06\xda\x84\x00",
        b"\x07\x00\x80\x00",
        b"\x08\x02\x04\x04",
        b"\x00\x00\x00\x00\x00\x00\x40\x00\x3c\x00\x10\x2b\x00\x03\x00\x00",
        b"\x0e\x18\x21\x00\x22\x32\x00\x00\x00\x04\x00\x27\x00\x36\x64\x00",
        b"\x00\x00\x00\x00\x00\x00\x40\x00\x00\x08\x00\x09\x00\x00\x00\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    run_long(&words, bodies::e1000e, 60);
}

#[test]
fn saved_machine() {
    let words: [&[u8]; 8] = [
        b"\x04\x03ram\x08\0\0\0\0\0\x01\0\0\0\0\0",
        b"\x02\x01a\x04\0\0\0abcd",
        b"\x02\x01a\xff\xff\xff\x03",
        b"\x05\0\0\0\0\0",
        b"\0\0\0\0\0\0\0\0\x01\0\0\0",
        b"\x0f\0\0\0\0\0\0\0\x02\0\0\0",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        &[7; 4096],
    ];
    run(&words, bodies::saved_machine);
}

#[test]
fn vmstate() {
    run(&[b"R\x04Regs", b"M\x04word", b"I\x04", b"\0\0\0\0", b"L", b"N", b"O"], bodies::vmstate);
    let seed = bodies::vmstate_seed();
    let mut random = Random(77);
    for _ in 0..4000 {
        let mut input = seed.clone();
        for _ in 0..=random.at(3) {
            let at = random.at(input.len());
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.at(8);
            }
        }
        bodies::vmstate(&input);
    }
}

#[test]
fn qtest() {
    let words: [&[u8]; 16] = [
        b"readl ",
        b"writeq ",
        b"read ",
        b"write ",
        b"b64write ",
        b"memset ",
        b"clock_step ",
        b"irq_intercept_out ",
        b"0x",
        b"10 ",
        b"-1 ",
        b"Zm9v ",
        b"\n",
        b"\n",
        b"07 ",
        b"+5 ",
    ];
    run(&words, bodies::qtest);
}

#[test]
fn monitor() {
    let words: [&[u8]; 9] =
        [b"info ", b"\r", b"\n", b"\x1b[A", b"\x1b[B", b"\x7f", b"\x15", b"\x17", b"help"];
    run(&words, bodies::monitor);
}

#[test]
fn its() {
    let mut random = Random(5);
    for _ in 0..200 {
        let mut input = vec![u8::try_from(random.at(256)).unwrap_or(0)];
        for _ in 0..128 {
            // Commands that may mean something: known numbers, small ids, tables that exist.
            let mut words = [random.next() % 18, random.next() & 0xf_0000_001f, 0, 0];
            words[0] |= (random.next() & 3) << 32;
            words[2] = (random.next() & 1) << 63 | 1 << 40 | 0x6_0000 | random.next() & 0x1_0003;
            words[3] = (random.next() & 3) << 16;
            input.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        for _ in 0..random.at(600) {
            input.push(u8::try_from(random.at(256)).unwrap_or(0));
        }
        bodies::its(&input);
    }
}

#[test]
fn fw_cfg() {
    let mut random = Random(7);
    for _ in 0..100 {
        let input: Vec<u8> = (0..600).map(|_| u8::try_from(random.at(256)).unwrap_or(0)).collect();
        bodies::fw_cfg(&input);
    }
}

#[test]
fn pflash() {
    let mut random = Random(6);
    for _ in 0..50 {
        let input: Vec<u8> = (0..600).map(|_| u8::try_from(random.at(256)).unwrap_or(0)).collect();
        bodies::pflash(&input);
    }
}

#[test]
fn nvme() {
    let mut random = Random(9);
    for _ in 0..200 {
        let mut input = Vec::new();
        for _ in 0..40 {
            // Commands that may mean something: known opcodes, one namespace, addresses in RAM.
            let mut words = [0u64; 8];
            words[0] = (random.next() % 14) | ((random.next() & 3) << 14) | (1 << 32);
            let ram = testbench::RAM_BASE;
            words[3] = ram + (random.next() & 0x1f_ffff);
            words[4] = (ram + (random.next() & 0x1f_f000)) | ((random.next() & 3) << 60);
            let (low, flags, more) = (random.next() & 0xff, random.next() & 7, random.next() & 3);
            words[5] = low | (flags << 16) | (more << 32);
            words[6] = random.next() & 0x7f;
            input.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        for _ in 0..random.at(600) {
            let at = random.at(input.len());
            input[at] = u8::try_from(random.at(256)).unwrap_or(0);
        }
        bodies::nvme(&input);
    }
}

#[test]
fn smmu() {
    let mut random = Random(11);
    for _ in 0..2000 {
        let mut words: Vec<u64> = (0..200).map(|_| random.next()).collect();
        // Entries that are mostly legal: configuration, sizes and granules that go together.
        words[1] = (words[1] & 0xf00) | (random.next() & 7) << 1;
        words[2] &= 7;
        words[3] =
            (words[3] & 3) | 24 << 32 | 1 << 38 | 4 << 48 | 1 << 51 | (random.next() & 1) << 58;
        words[5] = 25 | 25 << 16 | 2 << 22 | 4 << 32 | (random.next() & 1) << 45;
        for _ in 0..random.at(6) {
            let at = random.at(8);
            words[at] ^= 1 << random.at(64);
        }
        // Commands.
        for word in words[40..72].iter_mut().step_by(2) {
            *word = (*word & !0xff) | (random.next() % 0x48);
        }
        let input: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bodies::smmu(&input);
    }
}

/// Pieces of rings: addresses in RAM, lengths, flags and small indices.
const RINGS: [&[u8]; 12] = [
    b"\0\0\0\0\0\x01\0\0",
    b"\0\x10\0\0\0\x01\0\0",
    b"\0\x02\0\0\0\x01\0\0\x20\0\0\0\x04\0\0\0",
    b"\0\x02\0\0\0\x01\0\0\x10\0\0\0\x02\0\0\0",
    b"\0\x02\0\0\0\x01\0\0\x10\0\0\0\x01\0\x01\0",
    b"\0\x02\0\0\0\x01\0\0\x10\0\0\0\x05\0\x80\0",
    b"\0\x02\0\0\0\x01\0\0\x10\0\0\0\x05\0\x81\0",
    b"\x10\0\0\0",
    b"\xff\xff",
    b"\0\0",
    b"\x01\0",
    b"\x02\0",
];

#[test]
fn virtqueue_split() {
    run_long(&RINGS, bodies::virtqueue_split, 80);
}

#[test]
fn virtqueue_packed() {
    run_long(&RINGS, bodies::virtqueue_packed, 80);
}

#[test]
fn secret() {
    run(&[b"YWJj", b"=", b"MDEyMzQ1Njc4OWFiY2RlZg==", b"*", b"\n"], bodies::secret);
}
