//! Configuration space: its bytes, what of them can be written, and the lists of capabilities.
//!
//! Conventional functions have 256 bytes, express ones 4096 (PCI Express Base, 7.2). Bits are read
//! only, written as they are, or cleared by writing ones; a reset brings those that can change back
//! to what they were when the function was made. What belongs to no capability behind the header
//! can be written, as at the peer. Not here: what the bits do ([`crate::Function`]).
//! Sources: PCI Local Bus 3.0, chapter 6; PCI Express Base 5.0, chapter 7.

/// Bytes of a conventional function's space.
pub(crate) const CONVENTIONAL: usize = 256;
/// Bytes of an express function's space.
pub(crate) const EXPRESS: usize = 4096;

// PCI 3.0, 6.1: the header.
pub(crate) const COMMAND: usize = 0x04;
pub(crate) const STATUS: usize = 0x06;
pub(crate) const HEADER_TYPE: usize = 0x0e;
pub(crate) const BARS: usize = 0x10;
pub(crate) const SUBSYSTEM: usize = 0x2c;
pub(crate) const CAPABILITIES: usize = 0x34;
pub(crate) const INTERRUPT_PIN: usize = 0x3d;
/// 6.2.3: there are capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// The bytes and what may happen to them.
pub(crate) struct Config {
    pub(crate) bytes: Vec<u8>,
    /// Bits that are written as they are.
    pub(crate) mask: Vec<u8>,
    /// Bits that writing ones clears.
    clear: Vec<u8>,
    /// What a reset brings back.
    first: Vec<u8>,
    /// Where the next capability goes.
    free: u8,
    /// The extended capability added last.
    last_extended: Option<usize>,
    /// The pin is driven by the function.
    pub(crate) level: bool,
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

impl Config {
    pub(crate) fn new() -> Config {
        let mut config = Config {
            bytes: vec![0; CONVENTIONAL],
            mask: vec![0; CONVENTIONAL],
            clear: vec![0; CONVENTIONAL],
            first: vec![0; CONVENTIONAL],
            free: 0x40,
            last_extended: None,
            level: false,
        };
        config.mask.iter_mut().skip(0x40).for_each(|mask| *mask = 0xff);
        config
    }

    /// Makes room for extended capabilities.
    pub(crate) fn widen(&mut self) {
        self.bytes.resize(EXPRESS, 0);
        self.mask.resize(EXPRESS, 0xff);
        self.clear.resize(EXPRESS, 0);
        self.first.resize(EXPRESS, 0);
        // The empty list's head (7.6.3).
        put(&mut self.mask, 0x100, &[0; 4]);
    }

    /// Bytes as they are made, and after a reset.
    pub(crate) fn set(&mut self, at: usize, value: &[u8]) {
        put(&mut self.bytes, at, value);
        put(&mut self.first, at, value);
    }

    pub(crate) fn allow(&mut self, at: usize, mask: &[u8]) {
        put(&mut self.mask, at, mask);
    }

    pub(crate) fn allow_clear(&mut self, at: usize, mask: &[u8]) {
        put(&mut self.clear, at, mask);
    }

    pub(crate) fn get8(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.get8(at), self.get8(at + 1)])
    }

    pub(crate) fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }

    /// Two bytes as a reset makes them.
    pub(crate) fn first16(&self, at: usize) -> u16 {
        let byte = |at: usize| self.first.get(at).copied().unwrap_or(0);
        u16::from_le_bytes([byte(at), byte(at + 1)])
    }

    /// What a guest reads; all ones behind the end.
    pub(crate) fn read(&self, at: usize, size: usize) -> u32 {
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or(0xff);
        (0..size.min(4)).rev().fold(0, |value, i| value << 8 | u32::from(byte(at + i)))
    }

    /// What a guest writes.
    pub(crate) fn write(&mut self, at: usize, size: usize, value: u32) {
        let Config { bytes, mask, clear, .. } = self;
        let rules = mask.iter().zip(clear.iter());
        let cells = bytes.iter_mut().zip(rules).skip(at).take(size.min(4));
        for ((byte, (mask, clear)), new) in cells.zip(value.to_le_bytes()) {
            *byte = ((*byte & !mask) | (new & mask)) & !(new & clear);
        }
    }

    pub(crate) fn reset(&mut self) {
        let Config { bytes, mask, clear, first, .. } = self;
        let rules = mask.iter().zip(clear.iter()).zip(first.iter());
        for (byte, ((mask, clear), first)) in bytes.iter_mut().zip(rules) {
            let changes = mask | clear;
            *byte = (*byte & !changes) | (first & changes);
        }
    }

    /// Whether another state of this function's space could be this one's.
    pub(crate) fn could_be(&self, other: &[u8]) -> bool {
        let rules = self.mask.iter().zip(&self.clear);
        let cells = self.bytes.iter().zip(other).zip(rules).enumerate();
        other.len() == self.bytes.len()
            && cells.into_iter().all(|(at, ((old, new), (mask, clear)))| {
                (old ^ new) & !(mask | clear) == 0 || at == STATUS
            })
    }

    /// Adds a capability at a place or behind those that are there; it is the first of the list.
    pub(crate) fn capability(&mut self, id: u8, place: Option<u8>, body: &[u8]) -> usize {
        let at = usize::from(place.unwrap_or(self.free));
        let next = self.get8(CAPABILITIES);
        self.set(at, &[id, next]);
        self.set(at + 2, body);
        self.allow(at, &vec![0; body.len() + 2]);
        self.set(CAPABILITIES, &[u8::try_from(at).unwrap_or(0)]);
        let status = self.get8(STATUS) | STATUS_CAPABILITIES;
        self.set(STATUS, &[status]);
        if place.is_none() {
            let end = (at + 2 + body.len()).next_multiple_of(4);
            self.free = u8::try_from(end).unwrap_or(u8::MAX);
        }
        at
    }

    /// Adds an extended capability (7.6.3) behind those that are there.
    pub(crate) fn extended(&mut self, at: usize, id: u16, version: u32, body: &[u8]) -> usize {
        let head = u32::from(id) | version << 16;
        self.set(at, &head.to_le_bytes());
        self.set(at + 4, body);
        self.allow(at, &vec![0; body.len() + 4]);
        if let Some(before) = self.last_extended.replace(at) {
            let link = u32::try_from(at).unwrap_or(0) << 20;
            let head = (self.get32(before) & 0xf_ffff) | link;
            self.set(before, &head.to_le_bytes());
        }
        at
    }

    /// Where the first capability of an id is that `f` likes.
    pub(crate) fn find(&self, id: u8, f: impl Fn(&[u8]) -> bool) -> Option<usize> {
        let mut at = usize::from(self.get8(CAPABILITIES));
        for _ in 0..48 {
            let bytes = self.bytes.get(at..).filter(|_| at != 0)?;
            if bytes.first() == Some(&id) && f(bytes) {
                return Some(at);
            }
            at = usize::from(*bytes.get(1)?);
        }
        None
    }
}
