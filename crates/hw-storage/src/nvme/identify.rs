//! Pages of Identify and of logs that never change.
//!
//! What is not built is not announced: the peer's pages differ in those bits (formats and metadata,
//! namespace management, endurance groups, copy, doorbell buffers). Not here: who asks.
//! Sources: NVM Express Base 2.0, 5.16 and 5.17; NVM Command Set 1.0, 4.1.5; values of QEMU 10.0.

use super::Props;
use super::ns::Namespace;

const PAGE: usize = 4096;
/// Numbers of namespaces go up to this.
pub(super) const MOST_NAMESPACES: u32 = 256;

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in page.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// Text filled with spaces.
fn text(page: &mut [u8], at: usize, len: usize, words: &str) {
    let padded: Vec<u8> = words.bytes().chain(std::iter::repeat(b' ')).take(len).collect();
    put(page, at, &padded);
}

/// CNS 1.
pub(super) fn controller(props: &Props) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    let p = &mut page;
    let intel = props.use_intel_id;
    let vendor: u16 = if intel { 0x8086 } else { 0x1b36 };
    put(p, 0x00, &vendor.to_le_bytes());
    put(p, 0x02, &0x1af4u16.to_le_bytes());
    let serial = props.serial.as_deref().unwrap_or_default();
    text(p, 0x04, 20, serial);
    text(p, 0x18, 40, "QEMU NVMe Ctrl");
    text(p, 0x40, 8, "10.0.2");
    // Arbitration burst, and the maker's number in reverse.
    put(p, 0x48, &[6, if intel { 0xb3 } else { 0x00 }, if intel { 0x02 } else { 0x54 }]);
    put(p, 0x4b, &[if intel { 0x00 } else { 0x52 }]);
    put(p, 0x4d, &[props.mdts]);
    put(p, 0x50, &super::VERSION.to_le_bytes());
    // Optional events: attributes of namespaces.
    put(p, 0x5c, &0x100u32.to_le_bytes());
    // An I/O controller.
    put(p, 0x6f, &[1]);
    // Limits of aborts and event requests, one read-only firmware slot, logs of all namespaces
    // with effects and offsets.
    put(p, 0x102, &[3, props.aerl, 3, 7]);
    put(p, 0x10a, &[0x57, 1, 0x75, 1]);
    put(p, 0x200, &[0x66, 0x44]);
    put(p, 0x204, &MOST_NAMESPACES.to_le_bytes());
    // Compare, deallocate, write zeroes, select, timestamp, verify.
    put(p, 0x208, &0x00ddu16.to_le_bytes());
    // A volatile cache; flushes of all namespaces.
    put(p, 0x20d, &[7]);
    // Scatter gather lists, longer ones than the data, too.
    put(p, 0x218, &0x0004_0001u32.to_le_bytes());
    put(
        p,
        0x300,
        format!("nqn.2019-08.org.qemu:{serial}")
            .as_bytes()
            .get(..255)
            .unwrap_or(format!("nqn.2019-08.org.qemu:{serial}").as_bytes()),
    );
    put(p, 0x800, &[0xc4, 9]);
    put(p, 0x804, &[0x10, 0, 0, 0, 4]);
    page
}

/// CNS 0.
pub(super) fn namespace(n: &Namespace) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    let blocks = n.blocks().to_le_bytes();
    for at in [0, 8, 16] {
        put(&mut page, at, &blocks);
    }
    // Errors of deallocated blocks and best sizes are told.
    put(&mut page, 0x18, &[0x14]);
    // Deallocated blocks read as zeroes.
    put(&mut page, 0x21, &[1]);
    let unit = u16::try_from(n.granularity - 1).unwrap_or(u16::MAX).to_le_bytes();
    put(&mut page, 0x44, &unit);
    put(&mut page, 0x46, &unit);
    if n.read_only {
        put(&mut page, 0x63, &[1]);
    }
    if let Some(nguid) = &n.names.nguid {
        put(&mut page, 0x68, nguid);
    }
    put(&mut page, 0x78, &n.names.eui64.to_be_bytes());
    put(&mut page, 0x82, &[u8::try_from(n.shift).unwrap_or(9)]);
    page
}

/// CNS 3.
pub(super) fn names(n: &Namespace) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |kind: u8, name: &[u8]| {
        out.extend([kind, u8::try_from(name.len()).unwrap_or(0), 0, 0]);
        out.extend(name);
    };
    if let Some(uuid) = &n.names.uuid {
        add(3, uuid);
    }
    if let Some(nguid) = &n.names.nguid {
        add(2, nguid);
    }
    if n.names.eui64 != 0 {
        add(1, &n.names.eui64.to_be_bytes());
    }
    // The NVM command set.
    add(4, &[0]);
    out.resize(PAGE, 0);
    out
}

/// Numbers of namespaces.
pub(super) fn list(ids: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut out: Vec<u8> = ids.take(PAGE / 4).flat_map(u32::to_le_bytes).collect();
    out.resize(PAGE, 0);
    out
}

/// The one controller, if its number is not below the first that is asked for.
pub(super) fn controllers(first: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    put(&mut page, 0, &[u8::from(first == 0)]);
    page
}

/// CNS 6: limits of the NVM command set.
pub(super) fn command_set(props: &Props) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    put(&mut page, 0, &[props.vsl]);
    page
}

/// CNS 1c: the NVM command set alone.
pub(super) fn sets() -> Vec<u8> {
    let mut page = vec![0; PAGE];
    put(&mut page, 0, &[1]);
    page
}

/// The firmware log.
pub(super) fn firmware() -> Vec<u8> {
    let mut page = vec![0; 512];
    put(&mut page, 0, &[1]);
    text(&mut page, 8, 8, "1.0");
    page
}

/// The log of commands and their effects: what is there, and what changes blocks.
pub(super) fn effects() -> Vec<u8> {
    let mut page = vec![0; PAGE];
    for opcode in [0usize, 1, 2, 4, 5, 6, 8, 9, 10, 12] {
        put(&mut page, opcode * 4, &[1]);
    }
    for (opcode, effect) in [(0usize, 3u8), (1, 3), (2, 1), (5, 1), (8, 3), (9, 3), (12, 1)] {
        put(&mut page, 1024 + opcode * 4, &[effect]);
    }
    page
}
